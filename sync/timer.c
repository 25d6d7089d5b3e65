/*
 * timer.c: timers that tick (whorl/timer.h).
 *
 * A tick is taken by the first that waits, or stays pending. While one is pending nothing is armed:
 * a ticker that nobody looks at costs nothing, and the worker may sleep. Taking it arms the next,
 * which is the first multiple of the period that is still to come, so nothing drifts.
 *
 * The alarm is in the wheel of the worker that made the timer, and only that one touches it. What
 * any coroutine does to the timer it does under the lock, to `next_ns`; the alarm follows: it is
 * armed anew at once if this is its worker, else that one is posted to (once: `posted`). An alarm
 * that fires too early, or for a timer that was stopped meanwhile, looks at next_ns and is armed
 * anew or not. So stopping from elsewhere needs no post.
 *
 * Memory: freed by its worker, when the timer has been destroyed, no post is under way and no
 * waiter is left that was interrupted and has not run since.
 */
#include "sync/sync.h"

#include <errno.h>

#define PERIOD_MIN_NS (1 * WH_MICROSECOND)

/* ---- The alarm: on the timer's worker, under its lock if shared ---- */

static void alarm_follow(struct worker *w, wh_timer *timer)
{
    if (timer->next_ns == WH_NEVER || timer->pending)
        return;
    alarm_cancel(w, &timer->alarm);
    /* What is due would be rounded up to the wheel's next tick; in the past it is due at once. */
    alarm_arm(w, &timer->alarm, timer->next_ns <= w->now_ns ? 0 : timer->next_ns);
}

/* Gives the lock, and frees the timer if nobody has anything to do with it any more. */
static void unlock_or_free(struct worker *w, wh_timer *timer, bool shared)
{
    bool last = timer->destroyed && !timer->waiting && !timer->posted;
    object_unlock(shared, &timer->lock);
    if (last) {
        alarm_cancel(w, &timer->alarm);
        worker_free(w, timer);
    }
}

/* The timer has changed: its worker is to see to it. Gives the lock. */
static void changed(struct worker *w, wh_timer *timer, bool shared)
{
    if (w == timer->worker) {
        alarm_follow(w, timer);
        unlock_or_free(w, timer, shared);
        return;
    }
    bool post = !timer->posted;
    timer->posted = true;
    object_unlock(shared, &timer->lock);
    if (post)
        worker_post(timer->worker, &timer->post);
}

static void posted(struct post *post, struct worker *w)
{
    wh_timer *timer = container_of(post, wh_timer, post);
    bool shared = w->shared;
    object_lock(shared, &timer->lock);
    timer->posted = false;
    changed(w, timer, shared);
}

/* ---- Ticks ---- */

/* The next tick is the first that is still to come. */
static void next_tick(wh_timer *timer, int64_t now_ns)
{
    int64_t late_ns = now_ns - timer->next_ns;
    int64_t skipped = late_ns > 0 && timer->period_ns ? late_ns / timer->period_ns : 0;
    int64_t step_ns;
    if (!timer->period_ns || __builtin_mul_overflow(skipped + 1, timer->period_ns, &step_ns) ||
        __builtin_add_overflow(timer->next_ns, step_ns, &timer->next_ns))
        timer->next_ns = WH_NEVER; /* none, or after the end of time */
}

static void tick(struct alarm *alarm)
{
    wh_timer *timer = container_of(alarm, wh_timer, alarm);
    struct worker *w = timer->worker;
    bool shared = w->shared;
    struct waiter *waiter = NULL;
    object_lock(shared, &timer->lock);
    if (!timer->pending && !timer->destroyed && timer->next_ns <= w->now_ns) {
        waiter = queue_take(&timer->waiters, shared);
        if (waiter) {
            timer->waiting--;
            next_tick(timer, w->now_ns);
        } else {
            timer->pending = true;
        }
    }
    if (!timer->destroyed)
        alarm_follow(w, timer);
    object_unlock(shared, &timer->lock);
    if (waiter)
        waiter_wake(waiter, 1, shared);
}

bool timer_is_pending(wh_timer *timer, bool shared)
{
    object_lock(shared, &timer->lock);
    bool pending = timer->pending;
    object_unlock(shared, &timer->lock);
    return pending;
}

bool timer_take(struct worker *w, wh_timer *timer, bool shared)
{
    object_lock(shared, &timer->lock);
    bool taken = timer->pending;
    if (taken) {
        timer->pending = false;
        /* The turn's time is old when coroutines have computed since: ticks that came meanwhile
         * would not be dropped. */
        next_tick(timer, clock_sync(&w->clock));
    }
    if (taken && timer->next_ns != WH_NEVER)
        changed(w, timer, shared);
    else
        object_unlock(shared, &timer->lock);
    return taken;
}

void timer_leave(struct worker *w, wh_timer *timer, struct waiter *waiter, bool shared)
{
    object_lock(shared, &timer->lock);
    list_remove(&waiter->link);
    wh_assert(timer->waiting > 0);
    timer->waiting--;
    if (unlikely(timer->destroyed))
        changed(w, timer, shared);
    else
        object_unlock(shared, &timer->lock);
}

/* ---- The calls ---- */

/* Under lock, if shared, which is given. */
static void start(wh_coro *self, wh_timer *timer, int64_t delay_ns, int64_t period_ns, bool shared)
{
    timer->pending = false;
    timer->period_ns = period_ns;
    timer->next_ns = delay_ns <= 0 ? self->worker->now_ns : deadline_after(self, delay_ns);
    changed(self->worker, timer, shared);
}

static bool period_ok(int64_t period_ns)
{
    return !period_ns || period_ns >= PERIOD_MIN_NS;
}

wh_timer *wh_timer_create(int64_t delay_ns, int64_t period_ns)
{
    INSIDE(self, "wh_timer_create");
    if (!period_ok(period_ns))
        return NULL;
    wh_timer *timer = mem_zalloc(sizeof *timer);
    if (!timer)
        return NULL;
    timer_init(&timer->alarm.timer);
    timer->alarm.fired = tick;
    timer->post.deliver = posted;
    timer->worker = self->worker;
    list_init(&timer->waiters);
    start(self, timer, delay_ns, period_ns, false);
    return timer;
}

void wh_timer_destroy(wh_timer *timer)
{
    if (!timer)
        return;
    INSIDE(self, "wh_timer_destroy");
    bool shared = self->worker->shared;
    object_lock(shared, &timer->lock);
    if (unlikely(queue_first(&timer->waiters)))
        coro_misuse(self, "wh_timer_destroy", "destroys a timer for which others wait");
    timer->destroyed = true;
    timer->next_ns = WH_NEVER;
    changed(self->worker, timer, shared);
}

bool wh_timer_stop(wh_timer *timer)
{
    INSIDE(self, "wh_timer_stop");
    bool shared = self->worker->shared;
    object_lock(shared, &timer->lock);
    bool was = timer->pending || timer->next_ns != WH_NEVER;
    timer->pending = false;
    timer->next_ns = WH_NEVER;
    if (timer->worker == self->worker)
        alarm_cancel(self->worker, &timer->alarm);
    object_unlock(shared, &timer->lock);
    return was;
}

int wh_timer_reset(wh_timer *timer, int64_t delay_ns, int64_t period_ns)
{
    INSIDE(self, "wh_timer_reset");
    if (!period_ok(period_ns))
        return -EINVAL;
    bool shared = self->worker->shared;
    object_lock(shared, &timer->lock);
    start(self, timer, delay_ns, period_ns, shared);
    return 0;
}

static const struct wait_kind wait_timer = {.reason = "timer", .withdraw = queue_withdraw};

int wh_timer_wait(wh_timer *timer)
{
    wh_coro *self = enter("wh_timer_wait");
    int rc = ended(self);
    if (unlikely(rc < 0))
        return leave(self, refuse(self, rc));
    bool shared = self->worker->shared;
    if (timer_take(self->worker, timer, shared))
        return leave(self, 0);
    object_lock(shared, &timer->lock);
    while (unlikely(timer->pending)) {
        object_unlock(shared, &timer->lock);
        if (timer_take(self->worker, timer, shared))
            return leave(self, 0);
        object_lock(shared, &timer->lock);
    }
    timer->waiting++;
    rc = queue_park(self, &timer->waiters, &timer->lock, shared, &wait_timer);
    if (unlikely(rc < 0))
        timer_leave(self->worker, timer, &self->waiter, self->worker->shared);
    return leave(self, rc < 0 ? rc : 0);
}
