/*
 * lock.h: a lock of one byte, for a few instructions at a time, or system calls that are as short
 * (fcntl).
 *
 *      0 free <-- lock_give (release) -- 1 held
 *             -- lock_take (acquire) -->
 *
 * Zeroed memory is a free lock. Taking a free one is one exchange and giving it back a plain store,
 * so an object whose every call is "take, change, give" costs as little as one that is changed by a
 * single compare-and-swap, and is simpler. Who holds one neither parks nor sleeps nor allocates.
 *
 * Who finds it held looks again for about a microsecond, and then lets the operating system run
 * others between looks: with more threads than cores the holder may not be running.
 *
 * Tried and left: a lock that sleeps (futex). Giving it back must then exchange, too, to learn of
 * sleepers: 5 ns more at each call, for a wait that is this short.
 */
#ifndef BASE_LOCK_H
#define BASE_LOCK_H

#include "base/base.h"

/* Waits until it looks free. (base.c) */
COLD void lock_await(const uint8_t *lock);

static inline bool lock_try(uint8_t *lock)
{
    /* acquire: pairs with the release in lock_give() */
    return !__atomic_exchange_n(lock, 1, __ATOMIC_ACQUIRE);
}

static inline void lock_take(uint8_t *lock)
{
    while (unlikely(!lock_try(lock)))
        lock_await(lock);
}

static inline void lock_give(uint8_t *lock)
{
    wh_assert_slow(__atomic_load_n(lock, __ATOMIC_RELAXED));
    /* release: pairs with the acquire in lock_try() */
    __atomic_store_n(lock, 0, __ATOMIC_RELEASE);
}

static inline void cpu_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    __asm__ volatile("yield");
#endif
}

#endif
