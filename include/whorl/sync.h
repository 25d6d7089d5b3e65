/*
 * whorl/sync.h: locks and meeting points for coroutines.
 *
 * All of them: zeroed memory is ready for use, nothing is to be given back, and the object must
 * stay where it is from its first use on. They belong to the coroutines of one run. Waiters are
 * served in the order in which they began to wait, so nobody starves.
 *
 * A call that may park obeys the ambient context: when it returns -ETIMEDOUT or -ECANCELED, nothing
 * has been acquired and its place in the order is gone. Once it has been handed what it waits for,
 * that is its result, whatever comes before its coroutine runs again. In a context that has ended
 * it fails even if it would not have had to wait; locking a mutex or rwlock that is free succeeds
 * always, so that clean-up code can lock. Misuse aborts with the coroutine's name.
 *
 * A lock of threads (pthread_mutex_t, mtx_t, std::mutex) must not be held across a call that may
 * park: the next coroutine of that worker that wants it blocks the thread which alone can run its
 * holder on. The watchdog names it (whorl/run.h); nothing else does.
 */
#ifndef WHORL_SYNC_H
#define WHORL_SYNC_H

#include <whorl/coro.h>
#include <whorl/types.h>

WH_BEGIN_DECLS

/* Who waits; part of the objects below. Zeroed it is an empty queue. */
struct wh_queue {
    void *next;
    void *prev;
};

/*
 * Mutual exclusion. The lock is handed on by its holder to the one that has waited longest. It is
 * not recursive, and only the holder may unlock: both are programmer's errors and abort.
 */
typedef struct wh_mutex {
    wh_coro *holder;
    uint32_t holder_id; /* descriptors are used again */
    uint8_t lock;       /* of the object, for a few instructions; the same in all of them */
    struct wh_queue waiters;
} wh_mutex;

/* Locks. May park. Returns 0; -ETIMEDOUT or -ECANCELED, and it is not held: the context ended while
 * another had it. A free one is locked whatever the context says. */
WH_API int wh_mutex_lock(wh_mutex *mutex) WH_MUST_CHECK;

/* Locks if it is free: 0, or -EBUSY. Does not park. */
WH_API int wh_mutex_try_lock(wh_mutex *mutex) WH_MUST_CHECK;

/* Unlocks: hands it to the first that waits. Does not park, cannot fail. */
WH_API void wh_mutex_unlock(wh_mutex *mutex);

/* WH_LOCKED(&mutex) { ... } locks for the block, however it is left. May park on entering; that
 * wait does not obey the context, because there would be nobody to tell. */
#define WH_LOCKED(mutex) WH_LOCKED_(mutex, __COUNTER__)

/*
 * Many readers or one writer. Whoever comes while a writer waits, waits behind it; when a writer
 * leaves, all readers that wait up to the next writer enter together. A reader must not read-lock
 * again (a writer that waits in between stops both for ever).
 */
typedef struct wh_rwlock {
    wh_coro *writer;
    uint32_t readers;
    uint8_t lock;
    struct wh_queue waiters;
} wh_rwlock;

/* Lock for reading, for writing. May park. Return as wh_mutex_lock(). */
WH_API int wh_rwlock_read_lock(wh_rwlock *lock) WH_MUST_CHECK;
WH_API int wh_rwlock_write_lock(wh_rwlock *lock) WH_MUST_CHECK;

/* Lock if that is possible at once, and nobody waits: 0, or -EBUSY. Do not park. */
WH_API int wh_rwlock_try_read_lock(wh_rwlock *lock) WH_MUST_CHECK;
WH_API int wh_rwlock_try_write_lock(wh_rwlock *lock) WH_MUST_CHECK;

/* Unlock. Unlocking what is not locked so aborts (a reader is not known by name, a writer is). Do
 * not park, cannot fail. */
WH_API void wh_rwlock_read_unlock(wh_rwlock *lock);
WH_API void wh_rwlock_write_unlock(wh_rwlock *lock);

/* A condition variable, for something that is protected by a mutex. */
typedef struct wh_cond {
    uint8_t lock;
    struct wh_queue waiters;
} wh_cond;

/*
 * Unlocks the mutex, which the caller holds, waits for a signal, and locks the mutex again before
 * it returns, whatever it returns: that last wait obeys no context. In a context that has ended it
 * fails without unlocking, so a loop around it must end then. May park. Returns 0 when
 * signalled; -ETIMEDOUT, -ECANCELED when not. Test the condition in a loop: between the signal and
 * the return others may have changed it.
 */
WH_API int wh_cond_wait(wh_cond *cond, wh_mutex *mutex);

/* Wake the one that has waited longest; all. Without waiters they do nothing. Do not park. The
 * mutex need not be held. */
WH_API void wh_cond_signal(wh_cond *cond);
WH_API void wh_cond_broadcast(wh_cond *cond);

/* A counting semaphore. Zeroed it has no units; `wh_sem s = WH_SEM(3)` has three. */
typedef struct wh_sem {
    uint64_t units;
    uint8_t lock;
    struct wh_queue waiters;
} wh_sem;

#define WH_SEM(count)  \
    {                  \
        (count), 0,    \
        {              \
            NULL, NULL \
        }              \
    }

/*
 * Takes count units (0 to INT64_MAX) at once, or waits until they are there. Who wants many holds
 * up those behind that want few, so that everybody gets a turn. May park. Returns 0; -ETIMEDOUT,
 * -ECANCELED, and nothing was taken.
 */
WH_API int wh_sem_acquire(wh_sem *sem, uint64_t count) WH_MUST_CHECK;

/* Takes them if they are there and nobody waits: 0, or -EAGAIN. Does not park. */
WH_API int wh_sem_try_acquire(wh_sem *sem, uint64_t count) WH_MUST_CHECK;

/* Gives count units back, or new ones in. More than INT64_MAX in all abort. Does not park. */
WH_API void wh_sem_release(wh_sem *sem, uint64_t count);

/* Something that is to be done once. */
typedef struct wh_once {
    wh_coro *runner;
    bool done;
    uint8_t lock;
    struct wh_queue waiters;
} wh_once;

/*
 * The first call calls fn(arg), which may park; calls that come meanwhile wait until it has
 * returned, and later ones do nothing. Calling it for the same object from fn aborts. May park.
 * Returns 0 when fn has returned, whatever the context says; -ETIMEDOUT, -ECANCELED when the wait
 * for another's call ended early.
 */
WH_API int wh_once_do(wh_once *once, void (*fn)(void *arg), void *arg);

/* Waits for a number of things to be done. */
typedef struct wh_waitgroup {
    int64_t count;
    uint64_t leaving; /* woken and not yet returned */
    uint8_t lock;
    struct wh_queue waiters;
} wh_waitgroup;

/* Changes how many things are still to come, by a positive or negative number; wh_waitgroup_done
 * takes one off. Below zero aborts, and so does adding to one that has come to zero while somebody
 * who waited for that has not returned yet: it would wait for one round and see the next. Do not
 * park. */
WH_API void wh_waitgroup_add(wh_waitgroup *group, int64_t count);
WH_API void wh_waitgroup_done(wh_waitgroup *group);

/* Waits for zero. May park. Returns 0; -ETIMEDOUT, -ECANCELED, and then those counted may still use
 * it: it must not be on a stack that ends (a group, whorl/group.h, waits for them whatever
 * happens). It may be used again afterwards. */
WH_API int wh_waitgroup_wait(wh_waitgroup *group) WH_MUST_CHECK;

/* A flag to wait for. */
typedef struct wh_event {
    bool set;
    uint8_t lock;
    struct wh_queue waiters;
} wh_event;

/* Sets it: wakes all that wait, and nobody waits until it is reset. Do not park. */
WH_API void wh_event_set(wh_event *event);
WH_API void wh_event_reset(wh_event *event);
WH_API bool wh_event_is_set(const wh_event *event);

/* Waits until it is set. May park. Returns 0, also when it has been reset since it woke this one;
 * -ETIMEDOUT, -ECANCELED. */
WH_API int wh_event_wait(wh_event *event);

/* A place where a number of coroutines wait for each other, again and again. */
typedef struct wh_barrier {
    uint32_t arrived;
    uint32_t parties; /* of the round under way */
    uint8_t lock;
    struct wh_queue waiters;
} wh_barrier;

/*
 * Waits until `parties` coroutines have come; the last lets all go, and the next round begins.
 * parties must be the same, and at least 1, in all calls of a round, or it aborts. May park.
 * Returns 1 to the last one, 0 to the others; -ETIMEDOUT, -ECANCELED, and then the caller does not
 * count as having come.
 */
WH_API int wh_barrier_wait(wh_barrier *barrier, uint32_t parties);

/* A bounded queue of calls, and coroutines that make them. */
typedef struct wh_pool wh_pool;

/* A queue for up to `queue` calls (0: a call is handed to a worker directly) and `workers`
 * coroutines, at least 1, that are started now, in the background context. The caller's, to be
 * given back before the run ends. Does not park. Returns NULL without memory, or when the run is
 * ending. */
WH_API wh_pool *wh_pool_create(unsigned workers, size_t queue) WH_MUST_CHECK;

/*
 * wh_pool_submit(pool, fn, args...): queues fn(args...), checked as wh_go() does; waits while the
 * queue is full: may park. wh_pool_try_submit never parks. The call runs in the worker's context,
 * not in that of who submitted it, and its result is dropped. They return 0; or, and then it will
 * not be called,
 *   -ETIMEDOUT, -ECANCELED   the context ended (wh_pool_submit)
 *   -ECANCELED               the run is ending, and the workers have gone
 *   -EAGAIN                  the queue is full (wh_pool_try_submit)
 *   -EPIPE                   the pool is being destroyed
 */
#define wh_pool_submit(pool, ...)     WH_START_(wh_pool_submit_, (pool), true, __VA_ARGS__)
#define wh_pool_try_submit(pool, ...) WH_START_(wh_pool_submit_, (pool), false, __VA_ARGS__)

/* Lets the queued calls finish, then ends the workers and gives the pool back; who waits in
 * wh_pool_submit is refused. Not to be called from one of its calls. NULL does nothing. May park,
 * and obeys neither deadline nor cancel. */
WH_API void wh_pool_destroy(wh_pool *pool);

/* ---- What the macros above stand on; not for direct use. ---- */

WH_API int wh_pool_submit_(struct wh_site *site, wh_pool *pool, bool may_park, void (*fn)(void),
                           const uintptr_t *words);
WH_API wh_mutex *wh_mutex_enter_(wh_mutex *mutex);
WH_API void wh_mutex_leave_(wh_mutex **mutex);

#define WH_LOCKED_(mutex, n) WH_LOCKED_N_(mutex, n)
#define WH_LOCKED_N_(mutex, n)                                                   \
    for (wh_mutex * wh_lock_##n                                                  \
             __attribute__((cleanup(wh_mutex_leave_))) = wh_mutex_enter_(mutex), \
             *wh_once_##n = wh_lock_##n;                                         \
         wh_once_##n; wh_once_##n = NULL)

WH_END_DECLS

#endif
