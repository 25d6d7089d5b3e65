/*
 * deque.h: a worker's stealable queue: coroutines that any worker may run.
 *
 * A ring of slots. The owner pushes at the tail; owner and thieves alike take from the head, a
 * batch at a time, with one compare-and-swap.
 *
 *      slots   [ . . a b c d . . ]        head: a, tail: behind d; both only ever grow
 *                    ^ taken   ^ pushed
 *
 *      push (owner)   slot[tail] = x; tail + 1 (release)
 *      take (any)     head and tail (acquire) -> copy some slots from head on
 *                     -> head += that many (compare-and-swap, acq_rel); if head had moved, again
 *
 * What was copied counts only if the head had not moved: a slot is written again only after the
 * head has passed it, so the copies of a successful taker are what was pushed. The owner's push
 * reads the head (acquire) so that it does not write to a slot that is still being copied by one
 * whose compare-and-swap will succeed.
 *
 * First in, first out for all, so that coroutines run about in the order of starting and the oldest
 * work is what is stolen. Rejected: Chase and Lev's deque, whose owner takes from its tail without
 * a compare-and-swap. It runs the newest first, which starves the oldest under load, its thieves
 * take one at a time, and the owner's cost is here shared by the batch it takes.
 *
 * Checked as a model: tests/models/deque.pml.
 */
#ifndef SCHED_DEQUE_H
#define SCHED_DEQUE_H

#include "base/base.h"

#include <whorl/types.h>

enum { DEQUE_SLOTS = 256 };

struct deque {
    uint32_t head __attribute__((aligned(64))); /* any thread, atomic */
    uint32_t tail __attribute__((aligned(64))); /* written by the owner; atomic */
    wh_coro *slot[DEQUE_SLOTS];                 /* atomic */
};

/* How many it holds, as seen from anywhere. */
static inline uint32_t deque_len(const struct deque *deque)
{
    /* acquire: pairs with the compare-and-swap in deque_take() and the release in deque_push(); the
     * head first, so that the difference is never negative */
    uint32_t head = __atomic_load_n(&deque->head, __ATOMIC_ACQUIRE);
    uint32_t tail = __atomic_load_n(&deque->tail, __ATOMIC_ACQUIRE);
    return tail - head;
}

/* Owner only. Returns whether there was room. */
static inline bool deque_push(struct deque *deque, wh_coro *coro)
{
    uint32_t tail = deque->tail;
    /* acquire: pairs with the compare-and-swap in deque_take() */
    uint32_t head = __atomic_load_n(&deque->head, __ATOMIC_ACQUIRE);
    if (unlikely(tail - head == DEQUE_SLOTS))
        return false;
    __atomic_store_n(&deque->slot[tail % DEQUE_SLOTS], coro, __ATOMIC_RELAXED);
    /* release: pairs with the acquire in deque_take() */
    __atomic_store_n(&deque->tail, tail + 1, __ATOMIC_RELEASE);
    return true;
}

/* For the owner and for thieves: takes the older half, rounded up, and at most `most`, into
 * `taken`. Returns how many. */
static inline uint32_t deque_take(struct deque *deque, wh_coro **taken, uint32_t most)
{
    for (;;) {
        /* acquire: pairs with the compare-and-swap below; tail not before head */
        uint32_t head = __atomic_load_n(&deque->head, __ATOMIC_ACQUIRE);
        /* acquire: pairs with the release in deque_push() */
        uint32_t len = __atomic_load_n(&deque->tail, __ATOMIC_ACQUIRE) - head;
        uint32_t count = len - len / 2;
        if (!count)
            return 0;
        if (count > most)
            count = most;
        for (uint32_t i = 0; i < count; i++)
            taken[i] = __atomic_load_n(&deque->slot[(head + i) % DEQUE_SLOTS], __ATOMIC_RELAXED);
        /* acq_rel: pairs with the acquire in deque_push(), which writes to the slots after they
         * were read, and with the release there for what its worker has done to the coroutines */
        if (__atomic_compare_exchange_n(&deque->head, &head, head + count, false, __ATOMIC_ACQ_REL,
                                        __ATOMIC_RELAXED))
            return count;
    }
}

#endif
