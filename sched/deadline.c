/*
 * deadline.c: deadlines of blocks, and sleeping, which is waiting for a deadline and nothing else.
 */
#include "sched/sched.h"

#include <errno.h>

int64_t wh_now(void)
{
    return clock_now();
}

int64_t wh_deadline(void)
{
    return self_or_panic("wh_deadline")->deadline_ns;
}

static struct wh_scope scope_enter(wh_coro *self, int64_t deadline_ns)
{
    struct wh_scope scope = {self, self->deadline_ns};
    if (deadline_ns < self->deadline_ns)
        self->deadline_ns = deadline_ns;
    return scope;
}

struct wh_scope wh_scope_timeout_(int64_t duration_ns)
{
    wh_coro *self = self_or_panic("WH_WITH_TIMEOUT");
    return scope_enter(self, deadline_after(self, duration_ns));
}

struct wh_scope wh_scope_deadline_(int64_t time_ns)
{
    return scope_enter(self_or_panic("WH_WITH_DEADLINE"), time_ns);
}

void wh_scope_leave_(struct wh_scope *scope)
{
    wh_assert(state_of(scope->coro) == CORO_RUNNING);
    scope->coro->deadline_ns = scope->outer_ns;
}

static const struct wait_kind wait_sleep = {.reason = "sleep", .withdraw = queue_withdraw};

static int sleep_until(wh_coro *self, int64_t time_ns)
{
    int rc = ended(self);
    if (rc < 0)
        return refuse(self, rc);

    int64_t outer_ns = self->deadline_ns;
    if (time_ns < outer_ns)
        self->deadline_ns = time_ns;
    deadline_arm(self);
    rc = park(self, &wait_sleep);
    self->deadline_ns = outer_ns;
    return rc == -ETIMEDOUT && time_ns <= outer_ns ? 0 : rc;
}

/* For a time that has come already. */
static int sleep_not(wh_coro *self)
{
    yield(self);
    return ended(self);
}

int wh_sleep_until(int64_t time_ns)
{
    wh_coro *self = enter("wh_sleep_until");
    return leave(self, time_ns <= clock_now() ? sleep_not(self) : sleep_until(self, time_ns));
}

int wh_sleep(int64_t duration_ns)
{
    wh_coro *self = enter("wh_sleep");
    return leave(self, duration_ns <= 0 ? sleep_not(self)
                                        : sleep_until(self, deadline_after(self, duration_ns)));
}
