/*
 * whorl/time.h: the clock, sleeping, and deadlines that every call in a block obeys.
 *
 *     WH_WITH_TIMEOUT(2 * WH_SECOND) {
 *         n = wh_recv(fd, buf, sizeof buf, 0);   // -ETIMEDOUT when the two seconds have passed
 *     }
 *
 * A deadline belongs to the block, not to one call: all calls in the block together have that long.
 * Blocks nest; the earliest deadline counts. A coroutine started in the block inherits the deadline
 * as it stands. A result that arrived beats a deadline that passed: data is never dropped.
 *
 * Deadlines are rounded up to the timer wheel's tick (16.4 us) and never fire early.
 */
#ifndef WHORL_TIME_H
#define WHORL_TIME_H

#include <whorl/types.h>

WH_BEGIN_DECLS

/* Nanoseconds of CLOCK_MONOTONIC, now. Callable from any thread. */
WH_API int64_t wh_now(void);

/*
 * Sleeps for a duration (0 or less: yields), or until an absolute time. May park. Returns 0 when
 * the time has come, -ETIMEDOUT when the ambient deadline came before it, -ECANCELED when
 * cancelled.
 */
WH_API int wh_sleep(int64_t duration_ns);
WH_API int wh_sleep_until(int64_t time_ns);

/* The ambient deadline of the running coroutine: absolute, or WH_NEVER. */
WH_API int64_t wh_deadline(void);

/*
 * WH_WITH_TIMEOUT(duration_ns) { ... }    WH_WITH_DEADLINE(time_ns) { ... }
 *
 * The block with a deadline. It ends however it is left: off its end, by `break` (which leaves this
 * block), `continue` (the same), `return` or `goto`. Costs no system call and no ring operation.
 * A duration of 0 or less is a deadline that has passed already: parking calls then fail at once.
 */
#define WH_WITH_TIMEOUT(duration_ns) WH_WITH_SCOPE_(wh_scope_timeout_(duration_ns), __COUNTER__)
#define WH_WITH_DEADLINE(time_ns)    WH_WITH_SCOPE_(wh_scope_deadline_(time_ns), __COUNTER__)

/* ---- What the macros above stand on; not for direct use. ---- */

struct wh_scope {
    wh_coro *coro;
    int64_t outer_ns; /* the deadline to go back to */
};

WH_API struct wh_scope wh_scope_timeout_(int64_t duration_ns);
WH_API struct wh_scope wh_scope_deadline_(int64_t time_ns);
WH_API void wh_scope_leave_(struct wh_scope *scope);

#define WH_WITH_SCOPE_(enter, n) WH_WITH_SCOPE_N_(enter, n)
#define WH_WITH_SCOPE_N_(enter, n)                                                         \
    for (struct wh_scope wh_scope_##n __attribute__((cleanup(wh_scope_leave_))) = (enter), \
                                      *wh_once_##n = &wh_scope_##n;                        \
         wh_once_##n; wh_once_##n = NULL)

WH_END_DECLS

#endif
