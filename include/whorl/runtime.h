/*
 * whorl/runtime.h: a run, for threads that are not its workers.
 *
 *     in a coroutine                          in any thread
 *       wh_runtime *rt = wh_runtime_hold();     wh_runtime_go(rt, handle, event);
 *       pthread_create(..., rt);                intptr_t answer;
 *                                               int rc = wh_runtime_call(rt, &answer, ask, 42);
 *                                               wh_runtime_release(rt);
 *
 * For libraries with threads of their own that call back, and for programs of which whorl is only a
 * part. What else such a thread may do with the run's objects, its handle held, are the calls that
 * do not park: wh_chan_try_send(), wh_chan_try_recv(), wh_chan_close(), wh_mutex_unlock(),
 * wh_sem_release(), wh_event_set(), wh_waitgroup_done(), wh_cond_signal(), wh_cancel() and those
 * that say so. For all others it starts a coroutine: wh_runtime_call(rt, NULL, wh_ctx_cancel, ctx,
 * 0) cancels a context.
 *
 * A coroutine of another run is no such thread: it may start coroutines here (wh_runtime_go()), and
 * these use the objects. Using them itself aborts, where that is noticed.
 */
#ifndef WHORL_RUNTIME_H
#define WHORL_RUNTIME_H

#include <whorl/coro.h>
#include <whorl/types.h>

WH_BEGIN_DECLS

/* A hold on a run. */
typedef struct wh_runtime wh_runtime;

/*
 * Takes hold of the calling coroutine's run, for threads. The handle may be used by any number of
 * them, and after the end of the run, too: calls then return -ECANCELED. It keeps the run from
 * ending with -EDEADLK, but not from ending when its root returns. In a run with one worker calls
 * cost from here on what they cost with several. To be given back by wh_runtime_release(), once for
 * each hold. Does not park. Returns NULL without memory, and when the run is
 * over and the caller about to be abandoned.
 */
WH_API wh_runtime *wh_runtime_hold(void);

/* Gives a handle back; NULL is nothing. From any thread and any coroutine. Does not park. */
WH_API void wh_runtime_release(wh_runtime *runtime);

/*
 * wh_runtime_go(runtime, fn, args...): starts fn(args...), checked as wh_go() does, as a coroutine
 * of that run that nobody waits for, in the background context, on any of its workers. From any
 * thread and any coroutine, of other runs, too. Does not park. Returns 0, or
 *   -ENOMEM     no memory for it, or as many stacks as wh_options.stacks_max are in use
 *   -ECANCELED  the run is ending, or has ended
 */
#define wh_runtime_go(runtime, ...) WH_START_(wh_runtime_go_, (runtime), NULL, __VA_ARGS__)

/*
 * wh_runtime_call(runtime, &value, fn, args...): the same, and blocks the thread until the
 * coroutine has ended. value, an intptr_t * or NULL, receives its result as by wh_join(). Not from
 * a coroutine, where it aborts: it would block a worker. Returns 0, or as above; -ECANCELED also
 * when the run ended and the coroutine did not within the grace time: nothing uses what it was lent
 * any more, but for the case in which the run says on standard error that operations do not end.
 */
#define wh_runtime_call(runtime, ret_value, ...) \
    WH_START_(wh_runtime_call_, (runtime), (ret_value), __VA_ARGS__)

/* ---- What the macros above stand on; not for direct use. ---- */

WH_API int wh_runtime_go_(struct wh_site *site, wh_runtime *runtime, const void *none,
                          void (*fn)(void), const uintptr_t *words);
WH_API int wh_runtime_call_(struct wh_site *site, wh_runtime *runtime, intptr_t *ret_value,
                            void (*fn)(void), const uintptr_t *words);

WH_END_DECLS

#endif
