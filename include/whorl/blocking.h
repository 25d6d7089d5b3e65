/*
 * whorl/blocking.h: calls that would block a worker, made on threads of their own; and calls that
 * need a larger stack.
 *
 *     intptr_t rc;
 *     if (wh_blocking(&rc, getaddrinfo_into, name, &result) == 0)
 *         ...                             // rc is what the function returned
 *
 * For libraries that wait on their own, and for long computations: while a thread makes the call
 * the coroutine parks and its worker runs others. The threads are the process's, shared by all its
 * runs: one is started when none is free, up to 64 (WHORL_BLOCKING_MAX in the environment, 1 to
 * 4096), and one that has had nothing to do for five seconds ends. More calls wait in their order.
 * A thread has a stack of 8 MiB.
 */
#ifndef WHORL_BLOCKING_H
#define WHORL_BLOCKING_H

#include <whorl/coro.h>
#include <whorl/types.h>

WH_BEGIN_DECLS

/*
 * wh_blocking(&value, fn, args...): makes the call fn(args...), checked as wh_go() does, on another
 * thread, and waits until it has returned. value, an intptr_t * or NULL, receives its result,
 * widened as by wh_join(). May park. Returns 0; or
 *   -ETIMEDOUT, -ECANCELED   the context ended. A call that has not begun is not made; one that has
 *                            begun goes on without the caller, and its result is dropped
 *   -ENOMEM                  no memory; the call is not made
 *   -EAGAIN                  no thread could be started and there is none (pthread_create(3))
 *
 * What the function is given must therefore live until it has returned, and not only as long as
 * this call: lend it memory of the caller's stack only in a WH_SHIELD (whorl/ctx.h). On its thread
 * there is no coroutine: calls of whorl abort there, but for those that say that any thread may
 * make them; it needs a hold on the run for that (whorl/runtime.h).
 */
#define wh_blocking(ret_value, ...) WH_START_(wh_blocking_, (ret_value), NULL, __VA_ARGS__)

/*
 * wh_on_big_stack(&value, fn, args...): makes the call fn(args...), checked as wh_go() does, on a
 * stack of 8 MiB that the calling coroutine borrows for it from its worker: for libraries that need
 * more than the coroutine's own has, called from time to time. It is an ordinary call in all other
 * respects, by the same coroutine, on the same thread: fn blocks the worker if it blocks, and may
 * make any call of whorl. value is as above. Does not park by itself. Returns 0, or
 *   -ENOMEM   no such stack is to be had; the call is not made
 *
 * What the function has touched of the stack is given back some time after it has returned. An
 * exception must not leave it (std::terminate), nor may longjmp(3).
 */
#define wh_on_big_stack(ret_value, ...) WH_START_(wh_on_big_stack_, (ret_value), NULL, __VA_ARGS__)

/* ---- What the macros above stands on; not for direct use. ---- */

WH_API int wh_blocking_(struct wh_site *site, intptr_t *ret_value, const void *none,
                        void (*fn)(void), const uintptr_t *words);
WH_API int wh_on_big_stack_(struct wh_site *site, intptr_t *ret_value, const void *none,
                            void (*fn)(void), const uintptr_t *words);

WH_END_DECLS

#endif
