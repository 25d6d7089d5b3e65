/*
 * sem.c: counting semaphores (whorl/sync.h). Strictly in order: a waiter that wants more than there
 * is holds up those behind it, so that many small ones cannot starve it.
 */
#include "sync/sync.h"

#include <errno.h>

static const struct wait_kind wait_sem = {.reason = "semaphore", .withdraw = queue_withdraw};

/* Serves those who wait, from the first, while there is enough. */
static void admit(wh_sem *sem)
{
    struct list *queue = queue_of(&sem->waiters);
    struct waiter *first;
    while ((first = queue_first(queue)) && first->count <= sem->units) {
        sem->units -= first->count;
        list_remove(&first->link);
        waiter_wake(first, 0);
    }
}

static inline bool take(wh_sem *sem, uint64_t count)
{
    if (sem->units < count || !queue_empty(&sem->waiters))
        return false;
    sem->units -= count;
    return true;
}

static inline void check(wh_coro *self, const char *call, uint64_t count)
{
    if (unlikely(count > INT64_MAX))
        coro_misuse(self, call, "asks for more units than a semaphore can have");
}

int wh_sem_acquire(wh_sem *sem, uint64_t count)
{
    wh_coro *self = self_or_panic("wh_sem_acquire");
    check(self, "wh_sem_acquire", count);
    int rc = ended_by_turn(self);
    if (unlikely(rc < 0))
        return refuse(self, rc);
    if (likely(take(sem, count)))
        return served(self, 0);
    self->waiter.count = count;
    rc = queue_park(self, queue_of(&sem->waiters), &wait_sem);
    if (unlikely(rc < 0))
        admit(sem); /* those behind may want less */
    return rc;
}

int wh_sem_try_acquire(wh_sem *sem, uint64_t count)
{
    check(self_or_panic("wh_sem_try_acquire"), "wh_sem_try_acquire", count);
    return take(sem, count) ? 0 : -EAGAIN;
}

void wh_sem_release(wh_sem *sem, uint64_t count)
{
    wh_coro *self = self_or_panic("wh_sem_release");
    if (unlikely(count > INT64_MAX || sem->units > INT64_MAX - count))
        coro_misuse(self, "wh_sem_release", "releases more units than a semaphore can have");
    sem->units += count;
    if (!queue_empty(&sem->waiters))
        admit(sem);
}
