/*
 * mutex.c: mutual exclusion (whorl/sync.h).
 *
 * Hand-off: unlocking gives the lock to the first that waits, so nobody can starve, and a waiter
 * that has been woken holds it. What that costs, a switch at each unlock while others wait, is
 * small where a switch is.
 */
#include "sync/sync.h"

#include <errno.h>

static const struct wait_kind wait_mutex = {.reason = "mutex lock", .withdraw = queue_withdraw};
static const struct wait_kind wait_mutex_shielded = {.reason = "mutex lock"};

static inline void hold(wh_mutex *mutex, wh_coro *coro)
{
    mutex->holder = coro;
    mutex->holder_id = coro->id;
}

static inline bool holds(const wh_mutex *mutex, const wh_coro *self)
{
    return mutex->holder == self && mutex->holder_id == self->id;
}

/* The descriptor in `holder` is the caller's. */
COLD static void lock_again(const wh_mutex *mutex, const wh_coro *self)
{
    coro_misuse(self, "wh_mutex_lock",
                holds(mutex, self) ? "locks a mutex that it holds already"
                                   : "locks a mutex whose holder has ended");
}

__attribute__((noinline)) static int lock_wait(wh_coro *self, wh_mutex *mutex)
{
    if (unlikely(mutex->holder == self))
        lock_again(mutex, self);
    int rc = ended(self);
    if (unlikely(rc < 0))
        return refuse(self, rc);
    return queue_park(self, queue_of(&mutex->waiters), &wait_mutex);
}

int wh_mutex_lock(wh_mutex *mutex)
{
    wh_coro *self = self_or_panic("wh_mutex_lock");
    if (likely(!mutex->holder)) {
        hold(mutex, self);
        return 0;
    }
    return lock_wait(self, mutex);
}

int wh_mutex_try_lock(wh_mutex *mutex)
{
    wh_coro *self = self_or_panic("wh_mutex_try_lock");
    if (mutex->holder)
        return -EBUSY;
    hold(mutex, self);
    return 0;
}

void wh_mutex_unlock(wh_mutex *mutex)
{
    wh_coro *self = self_or_panic("wh_mutex_unlock");
    if (unlikely(!holds(mutex, self)))
        coro_misuse(self, "wh_mutex_unlock", "unlocks a mutex that it does not hold");
    if (likely(queue_empty(&mutex->waiters))) {
        mutex->holder = NULL;
        return;
    }
    struct waiter *next = queue_take(queue_of(&mutex->waiters));
    hold(mutex, next->coro);
    waiter_wake(next, 0);
}

/* Locks whatever the context says. Not the deadline either: it is not armed. */
wh_mutex *wh_mutex_enter_(wh_mutex *mutex)
{
    wh_coro *self = self_or_panic("WH_LOCKED");
    if (likely(!mutex->holder)) {
        hold(mutex, self);
        return mutex;
    }
    if (unlikely(mutex->holder == self))
        lock_again(mutex, self);
    self->waiter.coro = self;
    list_push_back(queue_of(&mutex->waiters), &self->waiter.link);
    park(self, &wait_mutex_shielded);
    wh_assert(mutex->holder == self);
    return mutex;
}

void wh_mutex_leave_(wh_mutex **mutex)
{
    wh_mutex_unlock(*mutex);
}
