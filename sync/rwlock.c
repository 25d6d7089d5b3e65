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

/* Whether the lock can be had for this now, not counting who waits. */
static inline bool is_free(const wh_rwlock *lock, uint64_t what)
{
    return !lock->writer && (what == READS || !lock->readers);
}

static inline void take(wh_rwlock *lock, wh_coro *coro, uint64_t what)
{
    if (what == WRITES) {
        lock->writer = coro;
    } else {
        wh_assert(lock->readers < UINT32_MAX);
        lock->readers++;
    }
}

/* Lets in who can go in, and gives the object's lock. */
static void admit(wh_rwlock *lock, bool shared)
{
    struct list *queue = queue_of(&lock->waiters), woken;
    struct waiter *first;
    list_init(&woken);
    while ((first = queue_first(queue)) && is_free(lock, first->count)) {
        list_remove(&first->link);
        if (!claim(first->coro, shared))
            continue;
        take(lock, first->coro, first->count);
        list_push_back(&woken, &first->link);
    }
    object_unlock(shared, &lock->lock);
    wake_all(&woken, 0, shared);
}

static inline bool can_take(wh_rwlock *lock, uint64_t what)
{
    return is_free(lock, what) &&
           (queue_empty(&lock->waiters) || !queue_first(queue_of(&lock->waiters)));
}

/* The object's lock is held, if shared, and given here. */
__attribute__((noinline)) static int lock_wait(wh_coro *self, wh_rwlock *lock, uint64_t what,
                                               bool shared)
{
    if (unlikely(lock->writer == self))
        coro_misuse(self, what == WRITES ? "wh_rwlock_write_lock" : "wh_rwlock_read_lock",
                    "locks a rwlock that it holds for writing");
    int rc = ended(self);
    if (unlikely(rc < 0)) {
        object_unlock(shared, &lock->lock);
        return refuse(self, rc);
    }
    self->waiter.count = what;
    rc = queue_park(self, queue_of(&lock->waiters), &lock->lock, shared,
                    what == WRITES ? &wait_write : &wait_read);
    if (unlikely(rc < 0))
        admit(lock, queue_leave(self, &lock->lock));
    return rc;
}

static inline int lock_for(wh_coro *self, wh_rwlock *lock, uint64_t what)
{
    bool shared = self->worker->shared;
    object_lock(shared, &lock->lock);
    if (unlikely(!can_take(lock, what)))
        return leave(self, lock_wait(self, lock, what, shared));
    take(lock, self, what);
    object_unlock(shared, &lock->lock);
    return leave(self, 0);
}

static inline int try_lock_for(wh_coro *self, wh_rwlock *lock, uint64_t what)
{
    bool shared = self->worker->shared;
    object_lock(shared, &lock->lock);
    int rc = can_take(lock, what) ? 0 : -EBUSY;
    if (rc == 0)
        take(lock, self, what);
    object_unlock(shared, &lock->lock);
    return leave(self, rc);
}

int wh_rwlock_read_lock(wh_rwlock *lock)
{
    return lock_for(enter("wh_rwlock_read_lock"), lock, READS);
}

int wh_rwlock_try_read_lock(wh_rwlock *lock)
{
    return try_lock_for(enter("wh_rwlock_try_read_lock"), lock, READS);
}

int wh_rwlock_write_lock(wh_rwlock *lock)
{
    return lock_for(enter("wh_rwlock_write_lock"), lock, WRITES);
}

int wh_rwlock_try_write_lock(wh_rwlock *lock)
{
    return try_lock_for(enter("wh_rwlock_try_write_lock"), lock, WRITES);
}

void wh_rwlock_read_unlock(wh_rwlock *lock)
{
    INSIDE_ANYWHERE(self, "wh_rwlock_read_unlock");
    bool shared = shared_here();
    object_lock(shared, &lock->lock);
    if (unlikely(!lock->readers))
        coro_misuse(self, "wh_rwlock_read_unlock", "unlocks a rwlock that nobody reads");
    lock->readers--;
    if (!lock->readers && !queue_empty(&lock->waiters))
        admit(lock, shared);
    else
        object_unlock(shared, &lock->lock);
}

void wh_rwlock_write_unlock(wh_rwlock *lock)
{
    INSIDE_ANYWHERE(self, "wh_rwlock_write_unlock");
    bool shared = shared_here();
    object_lock(shared, &lock->lock);
    if (unlikely(self ? lock->writer != self : !lock->writer))
        coro_misuse(self, "wh_rwlock_write_unlock", "unlocks a rwlock that it does not write");
    lock->writer = NULL;
    if (!queue_empty(&lock->waiters))
        admit(lock, shared);
    else
        object_unlock(shared, &lock->lock);
}
