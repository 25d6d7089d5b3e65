/*
 * spin.h: whether a worker that has nothing to do looks for work for a while before it sleeps.
 */
#ifndef SCHED_SPIN_H
#define SCHED_SPIN_H

#include "base/base.h"

struct spin {
    int64_t limit_ns; /* how long it looks at most; 0: never */
    int64_t idle_ns;  /* moving average of how long it had nothing to do */
    bool pays;        /* as far as is known */
    uint8_t phase;
    uint32_t left;     /* idle times in this phase */
    uint32_t rest;     /* those in the next REST */
    uint32_t trials;   /* since `pays` changed last */
    int64_t cpu_ns;    /* of the thread, when measuring began */
    uint64_t switches; /* the same */
    /* Moving averages, without and with. */
    int64_t cost_ns[2]; /* processor time a switch */
    int64_t work[2];    /* switches, times WORK_ONE, between two idle times */
};

void spin_init(struct spin *spin, int64_t limit_ns);

/* How long an idle time was that has ended. */
void spin_learn(struct spin *spin, int64_t idle_ns);

/* An idle time begins after so many switches in all: whether to look before sleeping. `possible`:
 * something may come. On the worker's thread. */
bool spin_now(struct spin *spin, bool possible, uint64_t switches);

#endif
