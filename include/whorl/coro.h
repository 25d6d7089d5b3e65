/*
 * whorl/coro.h: starting coroutines, waiting for them, and what each carries.
 *
 *     wh_go(serve, fd);                   // start and forget
 *
 *     wh_coro *c;                         // start, and wait for the result
 *     if (wh_spawn(&c, NULL, work, a, b) == 0)
 *         wh_join(c, &value);
 *
 * The call is checked by the compiler as the plain call serve(fd) would be; the arguments are
 * evaluated and copied now, so a loop variable can be passed as it is. The function may take up to
 * six arguments, each an integer or a pointer, and return void, an integer or a pointer. In C a
 * parameter must be at least as wide as int (the words are passed in registers as they are, and no
 * narrowing to char, short or bool is made on the way); passing a floating-point or struct argument
 * does not compile, and a floating-point parameter must not be used: pass a pointer. In C++ (17 or
 * newer) each argument is converted to the parameter's type first, every misuse is a compile error,
 * a lambda without captures is a function too, and a null pointer is passed as nullptr (NULL and 0
 * are numbers by then).
 *
 * With one worker a coroutine that was started runs when its starter parks, yields or ends, in the
 * order of starting. With more, any worker that has nothing else to do takes it, maybe at once.
 */
#ifndef WHORL_CORO_H
#define WHORL_CORO_H

#include <whorl/types.h>

#ifdef __cplusplus
#include <type_traits>
#endif

WH_BEGIN_DECLS

/*
 * A place in the source that starts coroutines; one static object a wh_go() or wh_spawn(). The
 * first group is constant, the second is kept by the runtime and may be read by anyone who prints
 * it.
 */
struct wh_site {
    const char *file;
    const char *function; /* the text of the first argument: "serve" */
    unsigned line;
    unsigned char args;     /* 0 to 6 */
    unsigned char ret_size; /* size of the result in bytes, 0 for void */

    unsigned char listed;
    uint64_t started;
    size_t stack_depth_max; /* deepest stack seen of what was started here, in bytes; 0: not seen
                               yet */
    uint64_t hogs;          /* times one that was started here kept its worker (whorl/run.h) */
    struct wh_site *next;
};

/* What wh_spawn() may be told. Zero in a field means its default. */
typedef struct wh_spawn_options {
    const char *name;   /* copied, at most 31 bytes kept; default: the function's name */
    size_t stack_bytes; /* rounded up to a class; default: the run's */
    /* Runs it on this worker, 1 to the run's number of them, and nowhere else: for one listener on
     * each. Default: any, and then where it first ran. */
    unsigned worker;
    /* Lets it move to another worker whenever a call that may park returns; so does what it starts.
     * Compilers take it for granted that a function stays on its thread: what the coroutine keeps
     * across such a call must not be the address of a thread-local variable (errno is one), a lock
     * that belongs to a thread (pthread_mutex_lock(3)), or anything else that is a thread's. */
    bool migrate;
} wh_spawn_options;

/*
 * wh_go(fn, args...): starts fn(args...) as a coroutine that nobody waits for. It inherits the
 * ambient deadline of its starter. Does not park. Returns 0, or
 *   -ENOMEM   no stack or descriptor is to be had (memory, wh_options.stacks_max, or without guard
 *             regions vm.max_map_count); nothing was started
 *   -ECANCELED  the run is ending: nothing new starts
 */
#define wh_go(...) WH_START_(wh_start_, NULL, NULL, __VA_ARGS__)

/*
 * wh_spawn(&coro, options, fn, args...): the same, and stores a handle that must be given to
 * wh_join() or wh_detach() exactly once, by a coroutine of the same run and before the run ends.
 * options may be NULL. Does not park. Returns as wh_go(), and
 *   -EINVAL   stack_bytes is larger than the largest class (8 MiB), or there is no such worker
 * On failure the handle is left untouched.
 */
#define wh_spawn(ret_coro, options, ...) WH_START_(wh_start_, (ret_coro), (options), __VA_ARGS__)

/*
 * Waits until the coroutine has ended and gives its handle back. ret_value, unless NULL, receives
 * what its function returned, widened (signed) to a word; 0 for a void function. May park. Returns
 * 0; or, with the handle still owned by the caller and the coroutine still running,
 *   -ETIMEDOUT, -ECANCELED   the caller's deadline passed, or the caller was cancelled; a coroutine
 *                            that was lent the caller's own memory is joined in a WH_SHIELD
 *                            (whorl/ctx.h), or belongs in a group (whorl/group.h)
 *   -EDEADLK                 the coroutine is the caller itself
 *   -EBUSY                   another coroutine is joining it already
 */
WH_API int wh_join(wh_coro *coro, intptr_t *ret_value);

/* Gives the handle back without waiting; the coroutine runs on. Its result is dropped. Never fails.
 */
WH_API void wh_detach(wh_coro *coro);

/*
 * Asks a coroutine to end: the parking call it is in, and every later one, returns -ECANCELED. What
 * such a call has already achieved is returned instead (data that arrived, an accepted connection):
 * the call after it is the one that fails. Only asks: to know that it ended, join it. What runs in
 * a WH_SHIELD (whorl/ctx.h) goes on to the shield's end first. Reaches that coroutine alone: to
 * cancel what it started as well, use a context or a group. Cancelling twice, or what has ended,
 * does nothing. The handle is borrowed. Does not park; any thread may call it (one that
 * is no worker while it holds the run, whorl/runtime.h, or in a run of several workers). A
 * coroutine of another worker learns of it in the next turn of that worker's loop.
 */
WH_API void wh_cancel(wh_coro *coro);

/* Lets the other runnable coroutines run first. Parks only in that sense: it never fails. */
WH_API void wh_yield(void);

/* Not 0: the watchdog wants a coroutine to let others run. wh_checkpoint()'s own. */
WH_API extern unsigned wh_checkpoint_wanted_;
WH_API int wh_checkpoint_(void);

/*
 * For loops that compute for long: lets others run when the calling coroutine has kept its worker
 * for about wh_options.hog_ns, and else costs a load and a branch. Parks as wh_yield() does.
 * Returns 0, or, when it has let others run, as a waiting call would have
 *   -ECANCELED, -ETIMEDOUT   the coroutine was cancelled, or its deadline has passed
 * so that a loop can end with `if (wh_checkpoint() < 0) break;`. Does nothing outside of a run, and
 * without a watchdog (hog_ns -1).
 */
static inline int wh_checkpoint(void)
{
    if (__builtin_expect(__atomic_load_n(&wh_checkpoint_wanted_, __ATOMIC_RELAXED) != 0, 0))
        return wh_checkpoint_();
    return 0;
}

/* The number of the worker that runs this, 1 and up; 0 outside of a run. It may be another one
 * after the next call that may park, if the coroutine has leave to migrate, and then, beside hogs
 * (whorl/run.h), a spare one: above wh_workers(), at most 62. */
WH_API unsigned wh_worker(void);

/* How many workers the run has. Does not park. */
WH_API unsigned wh_workers(void);

/* The running coroutine, borrowed; NULL outside of one. */
WH_API wh_coro *wh_self(void);

/* A number no other coroutine of this run has had, from 1 (the root). Wraps after 2^32. */
WH_API uint32_t wh_id(const wh_coro *coro);

/* The coroutine's name: what wh_name_set() or the spawn options said, else its function's. Valid
 * until the coroutine ends or is renamed. */
WH_API const char *wh_name(const wh_coro *coro);

/* Names the running coroutine; at most 31 bytes are kept. Returns 0 or -ENOMEM. */
WH_API int wh_name_set(const char *name);

/*
 * Coroutine-local storage, as pthread_key_create(3): a key is made once in the process (at most
 * WH_KEYS_MAX of them) and holds a pointer a coroutine, NULL at first. destroy, unless NULL, is
 * called with each non-NULL pointer when its coroutine ends, on that coroutine, where it may park.
 * wh_key_create returns 0 or -EAGAIN when all keys are used; wh_local_set 0 or -ENOMEM.
 */
#define WH_KEYS_MAX 32
typedef unsigned wh_key;
WH_API int wh_key_create(wh_key *ret_key, void (*destroy)(void *value));
WH_API int wh_local_set(wh_key key, void *value);
WH_API void *wh_local_get(wh_key key);

/* ---- What the macros above stand on; not for direct use. ----
 *
 * WH_START_(starter, a, b, fn, args...) checks the call and makes it
 * starter(site, a, b, fn, words). */

WH_API int wh_start_(struct wh_site *site, wh_coro **ret_coro, const wh_spawn_options *options,
                     void (*fn)(void), const uintptr_t *words);

WH_END_DECLS

#define WH_FIRST_(fn, ...)                                              fn
#define WH_COUNT_(_1, _2, _3, _4, _5, _6, _7, _8, _9, _10, _11, n, ...) n
/* The number of arguments; of more than six, a name that is nowhere declared and says so. */
#define WH_MANY_ wh_go_takes_at_most_six_arguments
#define WH_ARGS_(...) \
    WH_COUNT_(__VA_ARGS__, WH_MANY_, WH_MANY_, WH_MANY_, WH_MANY_, 6, 5, 4, 3, 2, 1, 0, 0)
#define WH_GLUE_(a, b)    a##b
#define WH_PICK_(name, n) WH_GLUE_(name, n)
#define WH_TEXT_(x)       #x
#define WH_NAME_OF_(x)    WH_TEXT_(x)

#ifdef __cplusplus

namespace whorl
{

/* One argument, converted as the plain call would and widened to a word. */
template <typename P> inline uintptr_t word(P value)
{
    static_assert(std::is_integral<P>::value || std::is_enum<P>::value ||
                      std::is_pointer<P>::value || std::is_null_pointer<P>::value,
                  "wh_go: a parameter must be an integer, an enum or a pointer");
    static_assert(sizeof(P) <= sizeof(uintptr_t), "wh_go: a parameter must fit a word");
    if constexpr (std::is_pointer<P>::value || std::is_null_pointer<P>::value)
        return reinterpret_cast<uintptr_t>(value);
    else
        return static_cast<uintptr_t>(value);
}

template <typename R> constexpr unsigned char ret_size()
{
    static_assert(std::is_void<R>::value || std::is_integral<R>::value || std::is_enum<R>::value ||
                      std::is_pointer<R>::value,
                  "wh_go: the function must return void, an integer or a pointer");
    if constexpr (std::is_void<R>::value)
        return 0;
    else
        return sizeof(R);
}

template <typename S, typename R, typename... P, typename... A>
inline int start(const S &starter, wh_site *site, R (*fn)(P...), A &&...args)
{
    static_assert(sizeof...(P) <= 6, "wh_go: at most six arguments");
    static_assert(sizeof...(P) == sizeof...(A), "wh_go: wrong number of arguments");
    const uintptr_t words[7] = {word<P>(static_cast<A &&>(args))..., 0};
    /* Threads may start here at once, and store the same. */
    __atomic_store_n(&site->args, static_cast<unsigned char>(sizeof...(P)), __ATOMIC_RELAXED);
    __atomic_store_n(&site->ret_size, ret_size<R>(), __ATOMIC_RELAXED);
    return starter(site, reinterpret_cast<void (*)(void)>(fn), words);
}

/* A lambda that captures nothing is a function; one that captures has no + and does not compile. */
template <typename S, typename F, typename... A, std::enable_if_t<std::is_class<F>::value, int> = 0>
inline int start(const S &starter, wh_site *site, const F &fn, A &&...args)
{
    return start(starter, site, +fn, static_cast<A &&>(args)...);
}

} // namespace whorl

#define WH_START_(starter, a, b, ...)                                                              \
    __extension__({                                                                                \
        static struct wh_site wh_site_ = {__FILE__, WH_NAME_OF_(WH_FIRST_(__VA_ARGS__, 0)),        \
                                          __LINE__, 0,                                             \
                                          0,        0,                                             \
                                          0,        0,                                             \
                                          0,        nullptr};                                      \
        ::whorl::start([&](wh_site *wh_s_, void (*wh_f_)(void),                                    \
                           const uintptr_t *wh_w_) { return starter(wh_s_, a, b, wh_f_, wh_w_); }, \
                       &wh_site_, __VA_ARGS__);                                                    \
    })

#else

/* Whether x is an integer or a pointer that fits a word: the classes 1 to 4 are of integers (which
 * compilers tell apart in ways of their own), 5 is that of pointers. An array has that, too, and
 * its own size. */
#define WH_IS_A_WORD_(x)                                                                           \
    (sizeof(__typeof__(((void)0, (x)))) <= sizeof(uintptr_t) && __builtin_classify_type(x) >= 1 && \
     __builtin_classify_type(x) <= 5)
/* Nothing, and does not compile unless it is. */
#define WH_MUST_BE_A_WORD_(x)                                                             \
    (0 * sizeof(struct {                                                                  \
         _Static_assert(                                                                  \
             WH_IS_A_WORD_(x),                                                            \
             "each argument, and the result, must be an integer or a pointer that is no " \
             "wider than a pointer");                                                     \
         int none;                                                                        \
     }))

#define WH_WORD_(x) ((uintptr_t)(x) + WH_MUST_BE_A_WORD_(x))

#define WH_CALL_0_(fn)                   (fn)()
#define WH_CALL_1_(fn, a)                (fn)(a)
#define WH_CALL_2_(fn, a, b)             (fn)(a, b)
#define WH_CALL_3_(fn, a, b, c)          (fn)(a, b, c)
#define WH_CALL_4_(fn, a, b, c, d)       (fn)(a, b, c, d)
#define WH_CALL_5_(fn, a, b, c, d, e)    (fn)(a, b, c, d, e)
#define WH_CALL_6_(fn, a, b, c, d, e, f) (fn)(a, b, c, d, e, f)

#define WH_WORDS_0_(fn)                   0
#define WH_WORDS_1_(fn, a)                WH_WORD_(a)
#define WH_WORDS_2_(fn, a, b)             WH_WORDS_1_(fn, a), WH_WORD_(b)
#define WH_WORDS_3_(fn, a, b, c)          WH_WORDS_2_(fn, a, b), WH_WORD_(c)
#define WH_WORDS_4_(fn, a, b, c, d)       WH_WORDS_3_(fn, a, b, c), WH_WORD_(d)
#define WH_WORDS_5_(fn, a, b, c, d, e)    WH_WORDS_4_(fn, a, b, c, d), WH_WORD_(e)
#define WH_WORDS_6_(fn, a, b, c, d, e, f) WH_WORDS_5_(fn, a, b, c, d, e), WH_WORD_(f)

/* Of the type that the call results in, so that a wrong argument is complained of once. */
#define WH_IS_VOID_(type)                 __builtin_types_compatible_p(type, void)
#define WH_VALUE_OF_(type) \
    (*__builtin_choose_expr(WH_IS_VOID_(type), (int *)NULL, (__typeof__(type) *)NULL))
#define WH_RET_SIZE_(type) \
    ((WH_IS_VOID_(type) ? 0 : sizeof(type)) + WH_MUST_BE_A_WORD_(WH_VALUE_OF_(type)))

#define WH_START_(starter, a, b, ...) WH_START_N_(WH_ARGS_(__VA_ARGS__), starter, a, b, __VA_ARGS__)
#define WH_START_N_(n, ...)           WH_START_M_(n, __VA_ARGS__)
#define WH_START_M_(n, starter, a, b, ...)                                        \
    __extension__({                                                               \
        typedef __typeof__(WH_CALL_##n##_(__VA_ARGS__)) wh_result_;               \
        static struct wh_site wh_site_ = {__FILE__,                               \
                                          WH_NAME_OF_(WH_FIRST_(__VA_ARGS__, 0)), \
                                          __LINE__,                               \
                                          n,                                      \
                                          WH_RET_SIZE_(wh_result_),               \
                                          0,                                      \
                                          0,                                      \
                                          0,                                      \
                                          0,                                      \
                                          NULL};                                  \
        starter(&wh_site_, a, b, (void (*)(void))(WH_FIRST_(__VA_ARGS__, 0)),     \
                (const uintptr_t[7]){WH_WORDS_##n##_(__VA_ARGS__)});              \
    })

#endif

#endif
