/*
 * cond.c: condition variables (whorl/sync.h). The waiter is on the condition's queue, and can be
 * found by a signal, before it unlocks the mutex: so no signal that comes after the unlocking is
 * missed.
 */
#include "sync/sync.h"

#include <errno.h>

static const struct wait_kind wait_cond = {.reason = "condition", .withdraw = queue_withdraw};

int wh_cond_wait(wh_cond *cond, wh_mutex *mutex)
{
    INSIDE(self, "wh_cond_wait");
    bool shared = self->worker->shared;
    if (unlikely(mutex->holder != self || mutex->holder_id != self->id))
        coro_misuse(self, "wh_cond_wait", "waits with a mutex that it does not hold");
    int rc = ended(self);
    if (unlikely(rc < 0))
        return refuse(self, rc);

    object_lock(shared, &cond->lock);
    self->waiter.coro = self;
    park_begin(self, &wait_cond);
    list_push_back(queue_of(&cond->waiters), &self->waiter.link);
    object_unlock(shared, &cond->lock);
    object_lock(shared, &mutex->lock);
    mutex_unlock(mutex, shared);
    deadline_arm(self);
    rc = park_end(self);
    if (unlikely(rc < 0))
        object_unlock(queue_leave(self, &cond->lock), &cond->lock);
    mutex_enter(self, mutex);
    return rc;
}

void wh_cond_signal(wh_cond *cond)
{
    INSIDE_ANYWHERE(self, "wh_cond_signal");
    (void)self;
    bool shared = shared_here();
    object_lock(shared, &cond->lock);
    struct waiter *waiter = queue_take(queue_of(&cond->waiters), shared);
    object_unlock(shared, &cond->lock);
    if (waiter)
        waiter_wake(waiter, 0, shared);
}

void wh_cond_broadcast(wh_cond *cond)
{
    INSIDE_ANYWHERE(self, "wh_cond_broadcast");
    (void)self;
    bool shared = shared_here();
    struct list woken;
    list_init(&woken);
    object_lock(shared, &cond->lock);
    queue_take_all(queue_of(&cond->waiters), &woken, shared);
    object_unlock(shared, &cond->lock);
    wake_all(&woken, 0, shared);
}
