/*
 * rwlock.c: many readers or one writer, in the order of coming (whorl/sync.h).
 *
 *      held by readers r r r     queue: [W] [r] [r] [W] [r]
 *      the last reader leaves -> W alone; W leaves -> r r together, up to the next W
 *
 * A waiter's count is 1 if it wants to write. Whatever changes who holds the lock or who waits
 * first ends with admit(), an interrupted waiter too: those behind it may be able to enter.
 */
#include "sync/sync.h"

#include <errno.h>

enum { READS, WRITES };

static const struct wait_kind wait_read = {.reason = "rwlock read lock",
                                           .withdraw = queue_withdraw};
static const struct wait_kind wait_write = {.reason = "rwlock write lock",
                                            .withdraw = queue_withdraw};

/* Lets in who can go in. */
static void admit(wh_rwlock *lock)
{
    struct list *queue = queue_of(&lock->waiters);
    struct waiter *first;
    while (!lock->writer && (first = queue_first(queue))) {
        if (first->count == WRITES) {
            if (lock->readers)
                return;
            lock->writer = first->coro;
        } else {
            lock->readers++;
        }
        list_remove(&first->link);
        waiter_wake(first, 0);
    }
}

__attribute__((noinline)) static int lock_wait(wh_coro *self, wh_rwlock *lock, int what)
{
    if (unlikely(lock->writer == self))
        coro_misuse(self, what == WRITES ? "wh_rwlock_write_lock" : "wh_rwlock_read_lock",
                    "locks a rwlock that it holds for writing");
    int rc = ended(self);
    if (unlikely(rc < 0))
        return refuse(self, rc);
    self->waiter.count = (uint64_t)what;
    rc = queue_park(self, queue_of(&lock->waiters), what == WRITES ? &wait_write : &wait_read);
    if (unlikely(rc < 0))
        admit(lock);
    return rc;
}

static inline bool can_read(const wh_rwlock *lock)
{
    return !lock->writer && queue_empty(&lock->waiters);
}

static inline bool can_write(const wh_rwlock *lock)
{
    return !lock->readers && can_read(lock);
}

int wh_rwlock_read_lock(wh_rwlock *lock)
{
    wh_coro *self = self_or_panic("wh_rwlock_read_lock");
    if (unlikely(!can_read(lock)))
        return lock_wait(self, lock, READS);
    wh_assert(lock->readers < UINT32_MAX);
    lock->readers++;
    return 0;
}

int wh_rwlock_try_read_lock(wh_rwlock *lock)
{
    if (!can_read(lock))
        return -EBUSY;
    wh_assert(lock->readers < UINT32_MAX);
    lock->readers++;
    return 0;
}

int wh_rwlock_write_lock(wh_rwlock *lock)
{
    wh_coro *self = self_or_panic("wh_rwlock_write_lock");
    if (unlikely(!can_write(lock)))
        return lock_wait(self, lock, WRITES);
    lock->writer = self;
    return 0;
}

int wh_rwlock_try_write_lock(wh_rwlock *lock)
{
    wh_coro *self = self_or_panic("wh_rwlock_try_write_lock");
    if (!can_write(lock))
        return -EBUSY;
    lock->writer = self;
    return 0;
}

void wh_rwlock_read_unlock(wh_rwlock *lock)
{
    wh_coro *self = self_or_panic("wh_rwlock_read_unlock");
    if (unlikely(!lock->readers))
        coro_misuse(self, "wh_rwlock_read_unlock", "unlocks a rwlock that nobody reads");
    lock->readers--;
    if (!lock->readers && !queue_empty(&lock->waiters))
        admit(lock);
}

void wh_rwlock_write_unlock(wh_rwlock *lock)
{
    wh_coro *self = self_or_panic("wh_rwlock_write_unlock");
    if (unlikely(lock->writer != self))
        coro_misuse(self, "wh_rwlock_write_unlock", "unlocks a rwlock that it does not write");
    lock->writer = NULL;
    if (!queue_empty(&lock->waiters))
        admit(lock);
}
