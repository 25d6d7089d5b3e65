/*
 * clock.h: nanoseconds of CLOCK_MONOTONIC, exactly or cheaply.
 *
 * clock_now() asks the vDSO (25 ns where this was written). A `struct clock` answers from the
 * processor's cycle counter (10 ns): it remembers one exact reading, adds the counted cycles since,
 * and asks anew when the reading is older than 8 ms. The rate, which it measures itself, is taken
 * 500 ppm too fast on purpose, more than the kernel ever slews its clock: so the answer is up to 4
 * us late and never early, and neither is a deadline made from it. The counter is used only where
 * the kernel itself trusts it as its clock source; elsewhere clock_read() is clock_now().
 *
 * A struct clock belongs to one thread. Its answers may step back by those microseconds at a new
 * reading; nothing orders events by them: the timer wheel is advanced by exact readings only.
 */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include "base/base.h"

#include <time.h>

struct clock {
    int64_t base_ns;       /* the exact reading... */
    uint64_t base_cycles;  /* ...and the counter at it */
    uint64_t fresh_cycles; /* a reading older than this is taken anew; 0: never use the counter */
    uint64_t ns_per_cycle; /* 32.32 fixed point */
    int64_t anchor_ns;     /* the first reading, from which the rate is measured */
    uint64_t anchor_cycles;
    uint64_t gap_max_cycles; /* a reading that took longer was interrupted: it is taken again */
    bool counter_trusted;
};

static inline int64_t clock_now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static inline uint64_t clock_cycles(void)
{
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
    uint64_t cycles;
    __asm__ volatile("mrs %0, cntvct_el0" : "=r"(cycles));
    return cycles;
#else
#error "whorl knows x86-64 and aarch64"
#endif
}

void clock_init(struct clock *clock);

/* An exact reading, which also makes the cheap ones fresh. */
int64_t clock_sync(struct clock *clock);

static inline int64_t clock_read(struct clock *clock)
{
    uint64_t since = clock_cycles() - clock->base_cycles;
    if (unlikely(since >= clock->fresh_cycles))
        return clock_sync(clock);
    return clock->base_ns + (int64_t)((since * clock->ns_per_cycle) >> 32);
}

#endif
