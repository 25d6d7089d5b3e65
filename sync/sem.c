/*
 * sem.c: counting semaphores (whorl/sync.h). Strictly in order: a waiter that wants more than there
 * is holds up those behind it, so that many small ones cannot starve it.
 */
#include "sync/sync.h"

#include <errno.h>

static const struct wait_kind wait_sem = {.reason = "semaphore", .withdraw = queue_withdraw};

/* Serves those who wait, from the first, while there is enough, and gives the object's lock. */
static void admit(wh_sem *sem, bool shared)
{
    struct list *queue = queue_of(&sem->waiters), woken;
    struct waiter *first;
    list_init(&woken);
    while ((first = queue_first(queue)) && first->count <= sem->units) {
        list_remove(&first->link);
        if (!claim(first->coro, shared))
            continue;
        sem->units -= first->count;
        list_push_back(&woken, &first->link);
    }
    object_unlock(shared, &sem->lock);
    wake_all(&woken, 0, shared);
}

static inline bool take(wh_sem *sem, uint64_t count)
{
    if (sem->units < count ||
        (unlikely(!queue_empty(&sem->waiters)) && queue_first(queue_of(&sem->waiters))))
        return false;
    sem->units -= count;
    return true;
}

static inline void check(const wh_coro *self, const char *call, uint64_t count)
{
    if (unlikely(count > INT64_MAX))
        coro_misuse(self, call, "asks for more units than a semaphore can have");
}

int wh_sem_acquire(wh_sem *sem, uint64_t count)
{
    wh_coro *self = enter("wh_sem_acquire");
    check(self, "wh_sem_acquire", count);
    int rc = ended_by_turn(self);
    if (unlikely(rc < 0))
        return leave(self, refuse(self, rc));
    bool shared = self->worker->shared;
    object_lock(shared, &sem->lock);
    if (likely(take(sem, count))) {
        object_unlock(shared, &sem->lock);
        return leave(self, served(self, 0));
    }
    self->waiter.count = count;
    rc = queue_park(self, queue_of(&sem->waiters), &sem->lock, shared, &wait_sem);
    if (unlikely(rc < 0))
        admit(sem, queue_leave(self, &sem->lock)); /* those behind may want less */
    return leave(self, rc);
}

int wh_sem_try_acquire(wh_sem *sem, uint64_t count)
{
    INSIDE_ANYWHERE(self, "wh_sem_try_acquire");
    check(self, "wh_sem_try_acquire", count);
    bool shared = shared_here();
    object_lock(shared, &sem->lock);
    bool taken = take(sem, count);
    object_unlock(shared, &sem->lock);
    return taken ? 0 : -EAGAIN;
}

void wh_sem_release(wh_sem *sem, uint64_t count)
{
    INSIDE_ANYWHERE(self, "wh_sem_release");
    bool shared = shared_here();
    object_lock(shared, &sem->lock);
    if (unlikely(count > INT64_MAX || sem->units > INT64_MAX - count))
        coro_misuse(self, "wh_sem_release", "releases more units than a semaphore can have");
    sem->units += count;
    if (!queue_empty(&sem->waiters))
        admit(sem, shared);
    else
        object_unlock(shared, &sem->lock);
}
