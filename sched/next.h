/*
 * next.h: choosing what runs next, for the two places that leave a coroutine: parking and ending.
 */
#ifndef SCHED_NEXT_H
#define SCHED_NEXT_H

#include "sched/sched.h"

/* What runs next: the head of the queue, or the loop when that is empty or it is the loop's turn.
 */
static inline wh_coro *take_next(struct worker *w)
{
    wh_coro *next = w->ready_first;
    if (unlikely(--w->budget <= 0 || !next))
        return &w->loop;
    w->ready_first = next->next;
    return next;
}

__attribute__((always_inline)) static inline void arm_to_run(struct worker *w, wh_coro *next)
{
    if (unlikely(next->state != CORO_READY))
        coro_attach_stack(w, next);
    next->state = CORO_RUNNING;
    next->run_mark = w->epoch;
    w->current = next;
}

#endif
