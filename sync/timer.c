/*
 * timer.c: timers that tick (whorl/timer.h).
 *
 * A tick is taken by the first that waits, or stays pending. While one is pending nothing is armed:
 * a ticker that nobody looks at costs nothing, and the worker may sleep. Taking it arms the next,
 * which is the first multiple of the period that is still to come, so nothing drifts.
 */
#include "sync/sync.h"

#include <errno.h>

#define PERIOD_MIN_NS (1 * WH_MICROSECOND)

static void arm_next(struct worker *w, wh_timer *timer, int64_t now_ns)
{
    if (!timer->period_ns)
        return;
    int64_t late_ns = now_ns - timer->next_ns;
    int64_t skipped = late_ns > 0 ? late_ns / timer->period_ns : 0;
    int64_t step_ns;
    if (__builtin_mul_overflow(skipped + 1, timer->period_ns, &step_ns) ||
        __builtin_add_overflow(timer->next_ns, step_ns, &timer->next_ns))
        return; /* after the end of time */
    if (timer->next_ns != WH_NEVER)
        alarm_arm(w, &timer->alarm, timer->next_ns);
}

static void tick(struct alarm *alarm)
{
    wh_timer *timer = container_of(alarm, wh_timer, alarm);
    wh_assert(!timer->pending);
    struct waiter *waiter = queue_take(&timer->waiters);
    if (!waiter) {
        timer->pending = true;
        return;
    }
    struct worker *w = worker_tls;
    arm_next(w, timer, w->now_ns);
    waiter_wake(waiter, 1);
}

void timer_take(wh_timer *timer)
{
    wh_assert(timer->pending);
    timer->pending = false;
    if (!timer->period_ns)
        return;
    /* The turn's time is old when coroutines have computed since: ticks that came meanwhile would
     * not be dropped. */
    struct worker *w = worker_tls;
    arm_next(w, timer, clock_sync(&w->clock));
}

static void start(wh_coro *self, wh_timer *timer, int64_t delay_ns, int64_t period_ns)
{
    timer->pending = false;
    timer->period_ns = period_ns;
    timer->next_ns = delay_ns <= 0 ? clock_now() : deadline_after(self, delay_ns);
    /* Now is rounded up to the wheel's next tick; the past is due at the next turn. */
    if (timer->next_ns != WH_NEVER)
        alarm_arm(self->worker, &timer->alarm, delay_ns <= 0 ? 0 : timer->next_ns);
}

static bool period_ok(int64_t period_ns)
{
    return !period_ns || period_ns >= PERIOD_MIN_NS;
}

wh_timer *wh_timer_create(int64_t delay_ns, int64_t period_ns)
{
    wh_coro *self = self_or_panic("wh_timer_create");
    if (!period_ok(period_ns))
        return NULL;
    wh_timer *timer = mem_alloc(sizeof *timer);
    if (!timer)
        return NULL;
    timer_init(&timer->alarm.timer);
    timer->alarm.fired = tick;
    list_init(&timer->waiters);
    start(self, timer, delay_ns, period_ns);
    return timer;
}

void wh_timer_destroy(wh_timer *timer)
{
    if (!timer)
        return;
    wh_coro *self = self_or_panic("wh_timer_destroy");
    if (unlikely(queue_first(&timer->waiters)))
        coro_misuse(self, "wh_timer_destroy", "destroys a timer for which others wait");
    alarm_cancel(self->worker, &timer->alarm);
    mem_free(timer);
}

bool wh_timer_stop(wh_timer *timer)
{
    struct worker *w = self_or_panic("wh_timer_stop")->worker;
    bool was = timer->pending || timer_armed(&timer->alarm.timer);
    alarm_cancel(w, &timer->alarm);
    timer->pending = false;
    return was;
}

int wh_timer_reset(wh_timer *timer, int64_t delay_ns, int64_t period_ns)
{
    wh_coro *self = self_or_panic("wh_timer_reset");
    if (!period_ok(period_ns))
        return -EINVAL;
    alarm_cancel(self->worker, &timer->alarm);
    start(self, timer, delay_ns, period_ns);
    return 0;
}

static const struct wait_kind wait_timer = {.reason = "timer", .withdraw = queue_withdraw};

int wh_timer_wait(wh_timer *timer)
{
    wh_coro *self = self_or_panic("wh_timer_wait");
    int rc = ended(self);
    if (unlikely(rc < 0))
        return refuse(self, rc);
    if (timer->pending) {
        timer_take(timer);
        return 0;
    }
    rc = queue_park(self, &timer->waiters, &wait_timer);
    return rc < 0 ? rc : 0;
}
