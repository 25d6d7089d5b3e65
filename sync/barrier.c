/*
 * barrier.c: a place where coroutines wait for each other (whorl/sync.h).
 *
 * `arrived` is the number of those in the queue. One that is interrupted is taken off both at once
 * and not when it runs: the last to come in between would count it.
 */
#include "sync/sync.h"

#include <errno.h>

static bool barrier_withdraw(wh_coro *coro)
{
    wh_barrier *barrier = coro->waiter.data;
    wh_assert(barrier->arrived > 0);
    barrier->arrived--;
    return queue_withdraw(coro);
}

static const struct wait_kind wait_barrier = {.reason = "barrier", .withdraw = barrier_withdraw};

int wh_barrier_wait(wh_barrier *barrier, uint32_t parties)
{
    wh_coro *self = self_or_panic("wh_barrier_wait");
    if (unlikely(!parties || (barrier->arrived && barrier->parties != parties)))
        coro_misuse(self, "wh_barrier_wait", "names another number of parties than the others");
    int rc = ended(self);
    if (unlikely(rc < 0))
        return refuse(self, rc);
    if (barrier->arrived + 1 == parties) {
        barrier->arrived = 0;
        queue_wake_all(queue_of(&barrier->waiters), 0);
        return 1;
    }
    barrier->parties = parties;
    barrier->arrived++;
    self->waiter.data = barrier;
    return queue_park(self, queue_of(&barrier->waiters), &wait_barrier);
}
