/*
 * next.h: choosing what runs next, for the two places that leave a coroutine: parking and ending.
 */
#ifndef SCHED_NEXT_H
#define SCHED_NEXT_H

#include "sched/sched.h"

static inline void current_set(struct worker *w, wh_coro *coro)
{
    /* release: pairs with the acquire in name_unanswered() */
    __atomic_store_n(&w->current, coro, __ATOMIC_RELEASE);
}

/* What runs next: the head of the queue, or the loop when that is empty or it is the loop's turn.
 */
static inline wh_coro *take_next(struct worker *w)
{
    if (unlikely(!w->ready_first && w->shared))
        deque_refill(w);
    wh_coro *next = w->ready_first;
    if (unlikely(budget_use(w) <= 0 || !next))
        return &w->loop;
    w->ready_first = next->next;
    return next;
}

__attribute__((always_inline)) static inline void arm_to_run(struct worker *w, wh_coro *next)
{
    if (unlikely(state_of(next) != CORO_READY))
        coro_attach_stack(w, next);
    state_set(next, CORO_RUNNING);
    next->run_mark = w->epoch;
    current_set(w, next);
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

/* From here on the coroutine can be found by others and claimed: what it waits for is set. */
__attribute__((always_inline)) static inline void park_begin(wh_coro *self,
                                                             const struct wait_kind *kind)
{
    wh_assert(state_of(self) == CORO_RUNNING);
    wh_assert(self->worker->current == self);
    assert_inside();
    wait_kind_set(self, kind);
    self->wake = 0;
    state_set(self, CORO_PARKED);
}

/* Leaves the coroutine, for which park_begin() was called, and returns what its waker said. Inlined
 * into the function that waits: what the processor has predicted of returns belongs to the
 * coroutine before, so each return between the switch and the user's code can cost a
 * misprediction. */
__attribute__((always_inline)) static inline int park_end(wh_coro *self)
{
    struct worker *w = self->worker;
    if (unlikely(in_catch(w)))
        return switch_in_catch(self);
    switch_to(w, self, take_next(w));
    return self->wake;
}

__attribute__((always_inline)) static inline int park_here(wh_coro *self,
                                                           const struct wait_kind *kind)
{
    park_begin(self, kind);
    return park_end(self);
}

/* Parks the running coroutine at the tail of an object's queue, under its ambient context.
 * self->waiter's data or count is the caller's to set before. The object's lock is held if
 * `shared`, and is given here. Returns what the waker said, or -ETIMEDOUT or -ECANCELED, and then
 * the waiter may still be on the queue: queue_leave(). */
__attribute__((always_inline)) static inline int queue_park(wh_coro *self, struct list *queue,
                                                            uint8_t *lock, bool shared,
                                                            const struct wait_kind *kind)
{
    self->waiter.coro = self;
    park_begin(self, kind);
    list_push_back(queue, &self->waiter.link);
    object_unlock(shared, lock);
    deadline_arm(self);
    return park_end(self);
}

/* For a coroutine whose wait has been interrupted: takes the waiter off the queue, if it still is
 * on it, and keeps the object's lock if the run is shared. Returns whether it is. */
static inline bool queue_leave(wh_coro *self, uint8_t *lock)
{
    bool shared = self->worker->shared;
    object_lock(shared, lock);
    list_remove(&self->waiter.link);
    return shared;
}

/* queue_park() for objects to whom it makes no difference that somebody has left the queue. */
__attribute__((always_inline)) static inline int queue_wait(wh_coro *self, struct list *queue,
                                                            uint8_t *lock, bool shared,
                                                            const struct wait_kind *kind)
{
    int rc = queue_park(self, queue, lock, shared, kind);
    if (unlikely(rc < 0))
        object_unlock(queue_leave(self, lock), lock);
    return rc;
}

#endif
