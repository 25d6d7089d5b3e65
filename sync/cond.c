/*
 * cond.c: condition variables (whorl/sync.h). On one worker nothing can come between the unlocking
 * and the parking, so no signal is missed there.
 */
#include "sync/sync.h"

#include <errno.h>

static const struct wait_kind wait_cond = {.reason = "condition", .withdraw = queue_withdraw};

int wh_cond_wait(wh_cond *cond, wh_mutex *mutex)
{
    wh_coro *self = self_or_panic("wh_cond_wait");
    if (unlikely(mutex->holder != self || mutex->holder_id != self->id))
        coro_misuse(self, "wh_cond_wait", "waits with a mutex that it does not hold");
    int rc = ended(self);
    if (unlikely(rc < 0))
        return refuse(self, rc);
    wh_mutex_unlock(mutex);
    rc = queue_park(self, queue_of(&cond->waiters), &wait_cond);
    wh_mutex_enter_(mutex);
    return rc;
}

void wh_cond_signal(wh_cond *cond)
{
    struct waiter *waiter = queue_take(queue_of(&cond->waiters));
    if (waiter)
        waiter_wake(waiter, 0);
}

void wh_cond_broadcast(wh_cond *cond)
{
    queue_wake_all(queue_of(&cond->waiters), 0);
}
