/*
 * whorl/chan.h: channels: passing elements between coroutines, as in Go.
 *
 *     WH_CHAN(int) numbers = wh_chan_create(int, 10);
 *     wh_go(squares, numbers);
 *
 *     static void squares(WH_CHAN(int) out) {           while (wh_chan_recv(numbers, &x) > 0)
 *         for (int i = 0; i < 100; i++)                     printf("%d\n", x);
 *             if (wh_chan_send(out, i * i) < 0)
 *                 break;
 *         wh_chan_close(out);
 *     }
 *
 * WH_CHAN(T) is the type of a channel of elements of type T, for variables, parameters and members.
 * The compiler checks elements against it: sending a value is checked as assigning it to a T would
 * be, receiving as storing through a T *. T is any type of fixed size but an array (put that into a
 * struct). An element is copied by its bytes: once, directly from the sender's memory to the
 * receiver's, when a receiver or the sender waits; into and out of the channel's buffer otherwise.
 *
 * A channel of capacity 0 is unbuffered: a send and a receive meet, and the send returns when the
 * element has been taken. One with a capacity holds that many elements, and a send waits only while
 * it is full. Elements arrive in the order of sending; senders, and receivers, are served in the
 * order in which they began to wait. A NULL channel is Go's nil channel: sending to it and
 * receiving from it wait until the context ends, and in a select it is never ready.
 *
 * What holds when a send or receive and something else happen at once:
 *   - A send that returned 0: the element is in the channel or has been taken. Any other result: it
 *     is not and will not be.
 *   - A receive that returned 1 has taken exactly one element. -ETIMEDOUT, -ECANCELED: none.
 *   - Once a peer has met a waiting call, or a close has come, that is its result, whatever comes
 *     before its coroutine runs again.
 *   - A call made in a context that has ended does nothing and fails (whorl/ctx.h).
 *   - Elements that were in the buffer at the close are still received, then 0.
 *
 * Programmer's errors, which abort with the coroutine's name: sending on a closed channel (a send
 * that waits when it is closed, too), closing one twice, closing NULL.
 *
 * A channel belongs to the run whose coroutines use it.
 */
#ifndef WHORL_CHAN_H
#define WHORL_CHAN_H

#include <whorl/types.h>

WH_BEGIN_DECLS

/* A pointer nobody follows: no two T give compatible types, and (***ch) has the type T. */
#define WH_CHAN(T) __typeof__(__typeof__(T) *(*)[WH_CHAN_TAG_])

/*
 * wh_chan_create(T, capacity): a channel for capacity elements, which is an unsigned number. Its
 * holder gives it back with wh_chan_unref(). Does not park. Returns NULL without memory (or when
 * capacity elements are more than memory can be): check, because a NULL channel waits for ever.
 */
#define wh_chan_create(T, capacity) ((WH_CHAN(T))wh_chan_create_(sizeof(T), (capacity)))

/*
 * wh_chan_ref(ch): one holder more; returns ch. wh_chan_unref(ch): one holder less; the last one
 * frees the channel and what is in its buffer, and nobody may wait on it then. For channels whose
 * last user is not known beforehand: each coroutine that is given one holds it. NULL does nothing.
 * Neither parks. A start can fail, and its hold is then still the starter's:
 *
 *     if (wh_go(consume, wh_chan_ref(ch)) < 0)
 *         wh_chan_unref(ch);
 */
#define wh_chan_ref(ch)   ((__typeof__(ch))wh_chan_ref_(WH_CHAN_OF_(ch)))
#define wh_chan_unref(ch) wh_chan_unref_(WH_CHAN_OF_(ch))

/*
 * wh_chan_send(ch, value): sends a value. wh_chan_send_from(ch, &value): the same from memory,
 * which is read until the call returns: for large elements, which are then copied once. May park.
 * Returns 0, or -ETIMEDOUT, -ECANCELED as above.
 */
#define wh_chan_send(ch, ...)                                     \
    __extension__({                                               \
        WH_CHAN_ELEM_(ch) wh_elem_ = __VA_ARGS__;                 \
        wh_chan_send_(WH_CHAN_OF_(ch), WH_CHAN_SENT_(&wh_elem_)); \
    })
#define wh_chan_send_from(ch, elem) wh_chan_send_(WH_CHAN_OF_(ch), WH_CHAN_FROM_(ch, elem))

/*
 * wh_chan_recv(ch, &elem): receives into elem, which may be NULL to drop the element. May park.
 * Returns 1; 0 when the channel is closed and empty, and elem is then all zero bytes; or
 * -ETIMEDOUT, -ECANCELED, and elem is untouched. So `> 0` is Go's `ok`, and a loop
 * `while (wh_chan_recv(ch, &x) > 0)` is its range.
 */
#define wh_chan_recv(ch, elem) wh_chan_recv_(WH_CHAN_OF_(ch), WH_CHAN_INTO_(ch, elem))

/* The same without waiting: they return -EAGAIN when they would have to. They do not park and do
 * not look at the context. On a NULL channel always -EAGAIN. */
#define wh_chan_try_send(ch, ...)                                     \
    __extension__({                                                   \
        WH_CHAN_ELEM_(ch) wh_elem_ = __VA_ARGS__;                     \
        wh_chan_try_send_(WH_CHAN_OF_(ch), WH_CHAN_SENT_(&wh_elem_)); \
    })
#define wh_chan_try_recv(ch, elem) wh_chan_try_recv_(WH_CHAN_OF_(ch), WH_CHAN_INTO_(ch, elem))

/* Closes it: receivers that wait return 0, and so does every receive once the buffer is empty. Does
 * not park. */
#define wh_chan_close(ch) wh_chan_close_(WH_CHAN_OF_(ch))

/* How many elements are in the buffer, and how many fit; 0 for NULL. Do not park. */
#define wh_chan_len(ch) wh_chan_len_(WH_CHAN_OF_(ch))
#define wh_chan_cap(ch) wh_chan_cap_(WH_CHAN_OF_(ch))

/* ---- What the macros above stand on; not for direct use. ---- */

typedef struct wh_chan wh_chan;

#define WH_CHAN_TAG_ 0x7768

WH_API wh_chan *wh_chan_create_(size_t elem_bytes, size_t capacity) WH_MUST_CHECK;
WH_API wh_chan *wh_chan_ref_(wh_chan *ch);
WH_API void wh_chan_unref_(wh_chan *ch);
WH_API int wh_chan_send_(wh_chan *ch, const void *elem);
WH_API int wh_chan_recv_(wh_chan *ch, void *elem);
WH_API int wh_chan_try_send_(wh_chan *ch, const void *elem);
WH_API int wh_chan_try_recv_(wh_chan *ch, void *elem);
WH_API void wh_chan_close_(wh_chan *ch);
WH_API size_t wh_chan_len_(const wh_chan *ch);
WH_API size_t wh_chan_cap_(const wh_chan *ch);

WH_END_DECLS

#ifdef __cplusplus

#include <type_traits>

namespace whorl
{

/* No channel, no type. */
template <typename C> struct chan_elem {
    static_assert(sizeof(C) == 0, "this is not a channel: declare it with WH_CHAN(T)");
};
template <typename T> struct chan_elem<T *(*)[WH_CHAN_TAG_]> {
    typedef T type;
};

template <typename T> inline wh_chan *chan_of(T *(*ch)[WH_CHAN_TAG_])
{
    return reinterpret_cast<wh_chan *>(ch);
}

/* For a channel of type C: NULL drops the element, a pointer must be to its T. */
template <typename C>
inline typename chan_elem<C>::type *chan_into(typename chan_elem<C>::type *elem)
{
    return elem;
}
template <typename C>
inline const typename chan_elem<C>::type *chan_from(const typename chan_elem<C>::type *elem)
{
    return elem;
}

} // namespace whorl

/* Each evaluates a channel once or not at all. */
#define WH_CHAN_OF_(ch)         (::whorl::chan_of(ch))
#define WH_CHAN_TYPE_(ch)       typename std::decay<decltype(ch)>::type
#define WH_CHAN_ELEM_(ch)       typename ::whorl::chan_elem<WH_CHAN_TYPE_(ch)>::type
#define WH_CHAN_INTO_(ch, elem) (::whorl::chan_into<WH_CHAN_TYPE_(ch)>(elem))
#define WH_CHAN_FROM_(ch, elem) (::whorl::chan_from<WH_CHAN_TYPE_(ch)>(elem))
#define WH_CHAN_SENT_(elem)     (static_cast<const void *>(elem))

#else

#define WH_CHAN_ELEM_(ch) __typeof__(***(ch))
/* Does not compile unless ch is a channel. */
#define WH_CHAN_OF_(ch) \
    ((wh_chan *)(1 ? (ch) : (__typeof__(WH_CHAN_ELEM_(ch) * (*)[WH_CHAN_TAG_]))0))
#define WH_CHAN_POINTER_(type, p) \
    WH_POINTER_(type, p, "this is no pointer to what the channel carries: is an & missing?")
#define WH_CHAN_INTO_(ch, elem) ((void *)WH_CHAN_POINTER_(WH_CHAN_ELEM_(ch), elem))
#define WH_CHAN_FROM_(ch, elem) ((const void *)WH_CHAN_POINTER_(const WH_CHAN_ELEM_(ch), elem))
#define WH_CHAN_SENT_(elem)     ((const void *)(elem))

#endif

#endif
