/*
 * whorl/timer.h: timers that tick once or again and again, to be waited for in a select.
 *
 *     wh_timer *every = wh_timer_create(WH_SECOND, WH_SECOND);
 *     for (;;)
 *         switch (wh_select(WH_TICK(every), WH_RECV(jobs, &job))) {
 *         case 0: look_around(); break;
 *         case 1: run(job); break;
 *         default: return;                   // the context has ended
 *         }
 *
 * For a wait that is to end at some time WH_WITH_TIMEOUT or WH_AFTER suffice; a timer is for what
 * others stop or reset, and for ticking without drift. A tick that nobody takes waits for the next
 * taker; further ones are dropped until then, as with a Go ticker. Ticks come at start + n * period
 * in absolute time.
 */
#ifndef WHORL_TIMER_H
#define WHORL_TIMER_H

#include <whorl/types.h>

WH_BEGIN_DECLS

/* A timer. Opaque. */
typedef struct wh_timer wh_timer;

/*
 * A timer whose first tick comes after delay_ns (0 or less: at the loop's next turn), and then one
 * every period_ns (0: no more; otherwise at least 1 microsecond, or -EINVAL from wh_timer_reset and
 * NULL from here). The caller's. Does not park. Returns NULL without memory.
 */
WH_API wh_timer *wh_timer_create(int64_t delay_ns, int64_t period_ns) WH_MUST_CHECK;

/* Stops it and gives it back; nobody may wait for it. NULL does nothing. Does not park. */
WH_API void wh_timer_destroy(wh_timer *timer);

/* No more ticks until it is reset; one that was not taken is dropped. Who waits goes on waiting.
 * Returns whether a tick was to come or to be taken. Does not park. */
WH_API bool wh_timer_stop(wh_timer *timer);

/* Starts anew, as if just created. Returns 0 or -EINVAL. Does not park. */
WH_API int wh_timer_reset(wh_timer *timer, int64_t delay_ns, int64_t period_ns);

/* Waits for a tick and takes it; several that wait are served in their order. May park. Returns 0,
 * -ETIMEDOUT or -ECANCELED; then no tick was taken. */
WH_API int wh_timer_wait(wh_timer *timer);

WH_END_DECLS

#endif
