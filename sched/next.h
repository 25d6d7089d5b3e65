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

/* Whether a C++ catch block (or a destructor that runs for a throw) is under way. */
static inline bool in_catch(const struct worker *w)
{
    return w->exceptions->caught || w->exceptions->uncaught;
}

__attribute__((always_inline)) static inline void switch_to(struct worker *w, wh_coro *self,
                                                            wh_coro *next)
{
    arm_to_run(w, next);
    sanitizer_leave(&self->sanitizer, &next->sanitizer, false);
    context_switch(&self->context, &next->context);
    sanitizer_arrive(&self->sanitizer);
}

/* park(), inlined into the function that waits: what the processor has predicted of returns belongs
 * to the coroutine before, so each return between the switch and the user's code can cost a
 * misprediction. */
__attribute__((always_inline)) static inline int park_here(wh_coro *self,
                                                           const struct wait_kind *kind)
{
    struct worker *w = self->worker;
    wh_assert(self->state == CORO_RUNNING);
    wh_assert(w->current == self);
    if (unlikely(in_catch(w)))
        return park_in_catch(self, kind);

    wait_kind_set(self, kind);
    self->wake = 0;
    self->state = CORO_PARKED;
    switch_to(w, self, take_next(w));
    return self->wake;
}

/* Parks the running coroutine at the tail of the queue, under its ambient context. self->waiter's
 * data or count is the caller's to set before. Returns what the waker said, or -ETIMEDOUT or
 * -ECANCELED, and then it is off the queue. */
__attribute__((always_inline)) static inline int queue_park(wh_coro *self, struct list *queue,
                                                            const struct wait_kind *kind)
{
    self->waiter.coro = self;
    list_push_back(queue, &self->waiter.link);
    deadline_arm(self);
    return park_here(self, kind);
}

#endif
