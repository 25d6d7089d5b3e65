/*
 * barrier.c: a place where coroutines wait for each other (whorl/sync.h).
 *
 * `arrived` is the number of those in the queue, all of whom wait. One that is interrupted is taken
 * off both at once, when it is claimed and not when it runs: the last to come in between would
 * count it. So here alone a waiter is claimed under the object's lock only.
 */
#include "sync/sync.h"

#include <errno.h>

static bool barrier_withdraw(wh_coro *coro, int why)
{
    (void)why;
    wh_barrier *barrier = coro->waiter.data;
    bool shared = coro->worker->shared;
    object_lock(shared, &barrier->lock);
    bool claimed = claim(coro, shared);
    if (claimed) {
        wh_assert(barrier->arrived > 0);
        barrier->arrived--;
        list_remove(&coro->waiter.link);
    }
    object_unlock(shared, &barrier->lock);
    return claimed;
}

static const struct wait_kind wait_barrier = {.reason = "barrier", .withdraw = barrier_withdraw};

int wh_barrier_wait(wh_barrier *barrier, uint32_t parties)
{
    wh_coro *self = enter("wh_barrier_wait");
    int rc = ended(self);
    bool shared = self->worker->shared;
    object_lock(shared, &barrier->lock);
    if (unlikely(!parties || (barrier->arrived && barrier->parties != parties)))
        coro_misuse(self, "wh_barrier_wait", "names another number of parties than the others");
    if (unlikely(rc < 0)) {
        object_unlock(shared, &barrier->lock);
        return leave(self, refuse(self, rc));
    }
    if (barrier->arrived + 1 == parties) {
        struct list woken;
        list_init(&woken);
        barrier->arrived = 0;
        queue_take_all(queue_of(&barrier->waiters), &woken, shared);
        object_unlock(shared, &barrier->lock);
        wake_all(&woken, 0, shared);
        return leave(self, 1);
    }
    barrier->parties = parties;
    barrier->arrived++;
    self->waiter.data = barrier;
    return leave(
        self, queue_park(self, queue_of(&barrier->waiters), &barrier->lock, shared, &wait_barrier));
}
