/*
 * whorl/select.h: waiting for the first of several things.
 *
 *     switch (wh_select(WH_RECV(jobs, &job),
 *                       WH_SEND(results, &result),
 *                       WH_DONE(ctx),
 *                       WH_AFTER(2 * WH_SECOND))) {
 *     case 0: run(job); break;                 // the number of the case, in the order above
 *     case 1: result = next(); break;
 *     case 2: return;
 *     case 3: puts("nobody came"); break;
 *     default: return;                         // negative: the ambient context has ended
 *     }
 *
 * In a loop the `default` is not to be left out: a select in a context that has ended returns at
 * once, for ever.
 *
 * Exactly one case happens; the others leave nothing behind: no element sent or taken, no timer, no
 * operation in flight. Of several that are ready each is as likely as the others. When none is, the
 * coroutine waits; the first that becomes ready is the one. Elements are sent from memory and
 * received into memory that must stay valid until the call returns.
 *
 * The macros below make a case; they are evaluated in the order they are written in, whether their
 * case happens or not. A case on a NULL channel (or NULL context, coroutine, timer, event) is never
 * ready.
 */
#ifndef WHORL_SELECT_H
#define WHORL_SELECT_H

#include <whorl/chan.h>
#include <whorl/coro.h>
#include <whorl/ctx.h>
#include <whorl/sync.h>
#include <whorl/time.h>
#include <whorl/types.h>

WH_BEGIN_DECLS

/* One case. Made by the macros only. */
typedef struct wh_case {
    void *object;
    union {
        void *data;
        const void *from;
    };
    union {
        bool *ok;
        int64_t ns;
        int fd;
    };
    int kind;
    int events;
} wh_case;

/* Receives into *elem (NULL: drops the element). Of a channel that is closed and empty it happens
 * at once, with zeroes; WH_RECV_OK stores into *ok whether there was an element. */
#define WH_RECV(ch, elem)        wh_case_recv_(WH_CHAN_OF_(ch), WH_CHAN_INTO_(ch, elem), NULL)
#define WH_RECV_OK(ch, elem, ok) wh_case_recv_(WH_CHAN_OF_(ch), WH_CHAN_INTO_(ch, elem), (ok))

/* Sends *elem. On a closed channel it aborts, as the send would. */
#define WH_SEND(ch, elem) wh_case_send_(WH_CHAN_OF_(ch), WH_CHAN_FROM_(ch, elem))

/* The time has come: a duration from the call on (0 or less: at once), or an absolute time
 * (WH_NEVER: never). */
#define WH_AFTER(duration_ns) wh_case_time_(WH_CASE_AFTER_, (duration_ns))
#define WH_AT(time_ns)        wh_case_time_(WH_CASE_AT_, (time_ns))

/* A tick of the timer (whorl/timer.h), which the case takes. */
#define WH_TICK(timer) wh_case_object_(WH_CASE_TICK_, WH_A_(wh_timer, timer))

/* The event is set (whorl/sync.h). */
#define WH_EVENT_SET(event) wh_case_object_(WH_CASE_EVENT_, WH_A_(wh_event, event))

/* The context has ended (whorl/ctx.h). */
#define WH_DONE(ctx) wh_case_object_(WH_CASE_DONE_, WH_A_(wh_ctx, ctx))

/* The coroutine has ended. The handle stays the caller's: a join returns at once then. Not ready
 * while another coroutine waits for the same one: -EBUSY is what wh_select() returns then. */
#define WH_JOINABLE(coro) wh_case_object_(WH_CASE_JOINABLE_, WH_A_(wh_coro, coro))

/* The descriptor is readable or writable, or has an error or hang-up that a call would report; or
 * another coroutine closed it meanwhile. */
#define WH_READABLE(fd) wh_case_fd_((fd), 0x001)
#define WH_WRITABLE(fd) wh_case_fd_((fd), 0x004)

/* Ready when nothing else is: the select does not wait. It may still let others run first, so that
 * a loop around it does not keep the worker to itself. */
#define WH_DEFAULT wh_case_object_(WH_CASE_DEFAULT_, NULL)

/*
 * Waits for the first of the cases. May park. Returns its number, from 0, or
 *   -ETIMEDOUT, -ECANCELED   the ambient context ended before any case happened (or before the
 *                            call; with WH_DEFAULT too): none did
 *   -EBUSY    see WH_JOINABLE
 *   -EDEADLK  a case waits for the end of the calling coroutine itself
 *   -ENOMEM   more than 16 cases, and no memory for them
 * wh_select_n takes them from an array of 0 to 65535; without any it waits for the context to end.
 * Up to 16 cases nothing is allocated.
 */
#define wh_select(...)                                                         \
    __extension__({                                                            \
        const wh_case wh_cases_[] = {__VA_ARGS__};                             \
        wh_select_n(wh_cases_, (int)(sizeof wh_cases_ / sizeof wh_cases_[0])); \
    })
WH_API int wh_select_n(const wh_case *cases, int count);

/* ---- What the macros above stand on; not for direct use. ---- */

enum {
    WH_CASE_RECV_,
    WH_CASE_SEND_,
    WH_CASE_AFTER_,
    WH_CASE_AT_,
    WH_CASE_TICK_,
    WH_CASE_EVENT_,
    WH_CASE_DONE_,
    WH_CASE_JOINABLE_,
    WH_CASE_FD_,
    WH_CASE_DEFAULT_,
};

/* x, checked to be a pointer to the type. */
#ifdef __cplusplus
#define WH_A_(type, x) (static_cast<type *>(x))
#else
#define WH_A_(type, x) WH_POINTER_(type, x, "this select case wants a pointer to a " #type)
#endif

static inline wh_case wh_case_make_(int kind, void *object, void *data)
{
    wh_case c;
    c.object = object;
    c.data = data;
    c.ok = NULL;
    c.kind = kind;
    c.events = 0;
    return c;
}

static inline wh_case wh_case_recv_(wh_chan *ch, void *elem, bool *ok)
{
    wh_case c = wh_case_make_(WH_CASE_RECV_, ch, elem);
    c.ok = ok;
    return c;
}

static inline wh_case wh_case_send_(wh_chan *ch, const void *elem)
{
    wh_case c = wh_case_make_(WH_CASE_SEND_, ch, NULL);
    c.from = elem;
    return c;
}

static inline wh_case wh_case_time_(int kind, int64_t ns)
{
    wh_case c = wh_case_make_(kind, NULL, NULL);
    c.ns = ns;
    return c;
}

static inline wh_case wh_case_object_(int kind, void *object)
{
    return wh_case_make_(kind, object, NULL);
}

static inline wh_case wh_case_fd_(wh_fd fd, int events)
{
    wh_case c = wh_case_make_(WH_CASE_FD_, NULL, NULL);
    c.ns = 0;
    c.fd = fd;
    c.events = events;
    return c;
}

WH_END_DECLS

#endif
