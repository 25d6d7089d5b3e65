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

/* Who waits for a mutex whose holder is the waiter itself would do so for ever; the descriptor in
 * `holder` is the caller's. */
static inline void check_not_own(const wh_mutex *mutex, const wh_coro *self)
{
    if (unlikely(mutex->holder == self))
        coro_misuse(self, "wh_mutex_lock",
                    holds(mutex, self) ? "locks a mutex that it holds already"
                                       : "locks a mutex whose holder has ended");
}

/* The object's lock is held, if shared, and given here. */
__attribute__((noinline)) static int lock_wait(wh_coro *self, wh_mutex *mutex, bool shared)
{
    check_not_own(mutex, self);
    int rc = ended(self);
    if (unlikely(rc < 0)) {
        object_unlock(shared, &mutex->lock);
        return leave(self, refuse(self, rc));
    }
    return leave(self,
                 queue_wait(self, queue_of(&mutex->waiters), &mutex->lock, shared, &wait_mutex));
}

__attribute__((always_inline)) static inline int lock(wh_coro *self, wh_mutex *mutex, bool shared)
{
    object_lock(shared, &mutex->lock);
    if (unlikely(mutex->holder))
        return lock_wait(self, mutex, shared);
    hold(mutex, self);
    object_unlock(shared, &mutex->lock);
    return leave(self, 0);
}

__attribute__((noinline)) static int lock_shared(wh_coro *self, wh_mutex *mutex)
{
    return lock(self, mutex, true);
}

int wh_mutex_lock(wh_mutex *mutex)
{
    wh_coro *self = enter("wh_mutex_lock");
    if (unlikely(self->worker->shared))
        return lock_shared(self, mutex);
    return lock(self, mutex, false);
}

int wh_mutex_try_lock(wh_mutex *mutex)
{
    wh_coro *self = enter("wh_mutex_try_lock");
    bool shared = self->worker->shared;
    object_lock(shared, &mutex->lock);
    int rc = mutex->holder ? -EBUSY : 0;
    if (rc == 0)
        hold(mutex, self);
    object_unlock(shared, &mutex->lock);
    return leave(self, rc);
}

__attribute__((noinline)) static void hand_on(wh_mutex *mutex, bool shared)
{
    struct waiter *next = queue_take(queue_of(&mutex->waiters), shared);
    if (next)
        hold(mutex, next->coro);
    else
        mutex->holder = NULL;
    object_unlock(shared, &mutex->lock);
    if (next)
        waiter_wake(next, 0, shared);
}

void mutex_unlock(wh_mutex *mutex, bool shared)
{
    if (likely(queue_empty(&mutex->waiters))) {
        mutex->holder = NULL;
        object_unlock(shared, &mutex->lock);
    } else {
        hand_on(mutex, shared);
    }
}

static const char not_held[] = "unlocks a mutex that it does not hold";

__attribute__((noinline)) static void unlock_anywhere(wh_mutex *mutex)
{
    INSIDE_ANYWHERE(self, "wh_mutex_unlock");
    bool shared = shared_here();
    object_lock(shared, &mutex->lock);
    /* A thread that is no worker unlocks for a coroutine. */
    if (unlikely(self ? !holds(mutex, self) : !mutex->holder))
        coro_misuse(self, "wh_mutex_unlock", not_held);
    mutex_unlock(mutex, shared);
}

void wh_mutex_unlock(wh_mutex *mutex)
{
    struct worker *w = worker_tls;
    if (unlikely(!w)) {
        unlock_anywhere(mutex);
        return;
    }
    where_set(w, IN_RUNTIME);
    if (unlikely(w->shared || !queue_empty(&mutex->waiters))) {
        unlock_anywhere(mutex);
        where_set(w, IN_USER);
        return;
    }
    if (unlikely(!holds(mutex, w->current)))
        coro_misuse(wh_self(), "wh_mutex_unlock", not_held);
    mutex->holder = NULL;
    where_set(w, IN_USER);
}

/* Locks whatever the context says. Not the deadline either: it is not armed. */
void mutex_enter(wh_coro *self, wh_mutex *mutex)
{
    bool shared = self->worker->shared;
    object_lock(shared, &mutex->lock);
    if (likely(!mutex->holder)) {
        hold(mutex, self);
        object_unlock(shared, &mutex->lock);
        return;
    }
    check_not_own(mutex, self);
    self->waiter.coro = self;
    park_begin(self, &wait_mutex_shielded);
    list_push_back(queue_of(&mutex->waiters), &self->waiter.link);
    object_unlock(shared, &mutex->lock);
    park_end(self);
    wh_assert(mutex->holder == self);
}

wh_mutex *wh_mutex_enter_(wh_mutex *mutex)
{
    INSIDE(self, "WH_LOCKED");
    mutex_enter(self, mutex);
    return mutex;
}

void wh_mutex_leave_(wh_mutex **mutex)
{
    wh_mutex_unlock(*mutex);
}
