/*
 * spin.h: whether a worker that has nothing to do looks for work for a while before it sleeps.
 */
#ifndef SCHED_SPIN_H
#define SCHED_SPIN_H

#include "base/base.h"

/* A turn of the loop that takes longer says more of the work than of the way. Its budget lets it
 * have as much. */
#define SPIN_TURN_MAX_NS 400000

/* What has been measured, of which older is worth less. */
struct spin_sum {
    int64_t cpu_ns, switches, idle_times;
};

struct spin {
    int64_t limit_ns; /* how long it looks at most; 0: never */
    int64_t idle_ns;  /* moving average of how long it had nothing to do */
    bool pays;        /* as far as is known */
    bool spoiled;     /* what is being measured */
    bool found;       /* something, in a PROBE */
    uint8_t phase;
    uint8_t windows;        /* of those to be measured: over */
    uint8_t windows_kept;   /* of those: that say something */
    uint32_t left;          /* idle times in this phase, or window */
    uint32_t rest;          /* those in the next REST, or CLOSED */
    uint32_t trials;        /* since `pays` changed last */
    int64_t cpu_ns;         /* of the thread, when measuring began */
    uint64_t switches;      /* the same */
    struct spin_sum sum[2]; /* without and with */
};

void spin_init(struct spin *spin, int64_t limit_ns);

/* How long an idle time was that has ended, in sleep or by looking. */
void spin_learn(struct spin *spin, int64_t idle_ns);
void spin_found(struct spin *spin, int64_t idle_ns);

/* How long a turn of the loop has run coroutines. */
static inline void spin_turn(struct spin *spin, int64_t took_ns)
{
    if (took_ns > SPIN_TURN_MAX_NS)
        spin->spoiled = true;
}

/* An idle time begins after so many switches in all: whether to look before sleeping. `possible`:
 * something may come. On the worker's thread. */
bool spin_now(struct spin *spin, bool possible, uint64_t switches);

#endif
