/*
 * park.c: leaving one coroutine and continuing with the next.
 */
#include "sched/next.h"

#include <errno.h>

/* Calls that fail because a coroutine may not wait any more, of which it is told: some
 * milliseconds. */
enum { REFUSALS_MANY = 100000 };

__thread struct worker *worker_tls;

void called_outside(const char *call)
{
    panic("%s was called outside of a coroutine; call it from a function that wh_run, wh_go or "
          "wh_spawn started, not from one that wh_blocking or another thread runs",
          call);
}

/* Parking inside a C++ catch block (or a destructor that runs for a throw): the per-thread words
 * that describe it go with the coroutine, and the others find none of their own. */
COLD static struct exception_globals catch_leave(struct worker *w)
{
    struct exception_globals saved = *w->exceptions;
    *w->exceptions = (struct exception_globals){0};
    return saved;
}

int switch_in_catch(wh_coro *self)
{
    struct worker *w = self->worker;
    struct exception_globals saved = catch_leave(w);
    switch_to(w, self, take_next(w));
    *self->worker->exceptions = saved; /* it may be another thread's now */
    return self->wake;
}

int park(wh_coro *self, const struct wait_kind *kind)
{
    return park_here(self, kind);
}

COLD static void yield_in_catch(wh_coro *self)
{
    struct exception_globals saved = catch_leave(self->worker);
    yield(self);
    *self->worker->exceptions = saved;
}

/* The queue is empty, or it is the loop's turn. */
COLD static void yield_to_loop(struct worker *w, wh_coro *self)
{
    if (w->shared && !w->ready_first && w->budget > 0)
        deque_refill(w);
    bool others = w->ready_first;
    if (!others && w->budget > 0 && w->calls_left > 0 && inbox_empty(&w->inbox))
        return;
    state_set(self, CORO_READY);
    ready_push(w, self);
    wh_coro *next = &w->loop;
    if (others && w->budget > 0) {
        next = w->ready_first;
        w->ready_first = next->next;
    }
    switch_to(w, self, next);
}

__attribute__((always_inline)) static inline void yield_here(struct worker *w, wh_coro *self)
{
    if (unlikely(in_catch(w))) {
        yield_in_catch(self);
        return;
    }
    wh_coro *next = w->ready_first;
    if (unlikely(budget_use(w) <= 0 || !next)) {
        yield_to_loop(w, self);
        return;
    }
    /* Popped before pushed: what is stored into the queue is then not loaded again at once. */
    wh_coro *second = next->next;
    state_set(self, CORO_READY);
    self->next = NULL;
    if (second) {
        w->ready_first = second;
        w->ready_last->next = self;
    } else {
        w->ready_first = self;
    }
    w->ready_last = self;
    switch_to(w, self, next);
}

void yield(wh_coro *self)
{
    yield_here(self->worker, self);
}

void wh_yield(void)
{
    /* Not by way of the coroutine, which would be one load more to wait for, and not before the
     * store: 7.9 ns a yield became 5.4. */
    struct worker *w = worker_or_panic("wh_yield");
    where_set(w, IN_RUNTIME);
    wh_coro *self = w->current;
    yield_here(w, self);
    leave(self, 0);
}

int ended_exactly(wh_coro *self)
{
    return ended(self);
}

int let_others(wh_coro *self, int rc)
{
    yield(self);
    self->worker->calls_left = CALLS_A_TURN;
    return rc;
}

/* Counts one more of that coroutine's, and returns how many there were at least: with a few
 * counters, of which one that counts another is taken when it is at 0, and all go down by one when
 * none is (Misra and Gries, Finding repeated elements, 1982). Only who is refused more often than
 * all but a few others together gets far. */
static uint32_t refusal_count(struct refusals *refusals, uint32_t id)
{
    for (size_t i = 0; i < array_count(refusals->of); i++)
        if (refusals->of[i].count && refusals->of[i].id == id)
            return ++refusals->of[i].count;
    for (size_t i = 0; i < array_count(refusals->of); i++) {
        if (!refusals->of[i].count) {
            refusals->of[i].id = id;
            return refusals->of[i].count = 1;
        }
    }
    for (size_t i = 0; i < array_count(refusals->of); i++)
        refusals->of[i].count--;
    return 0;
}

/* A loop that ignores that its context has ended is quick, yields, and does nothing: it is told of,
 * once a worker. Who asks with a deadline in the past (0) may mean it. */
static void refusal_note(wh_coro *self, int rc)
{
    struct refusals *refusals = &self->worker->refusals;
    bool ended = rc == -ECANCELED || (rc == -ETIMEDOUT && self->deadline_ns > 0);
    if (!ended || refusals->told || refusal_count(refusals, self->id) < REFUSALS_MANY)
        return;
    char who[256];
    coro_describe(self, who, sizeof who);
    report("%s goes on calling though its %s (%d calls have failed): a loop must end when a call "
           "fails",
           who, rc == -ECANCELED ? "context was cancelled" : "deadline has passed", REFUSALS_MANY);
    refusals->told = true;
}

int refuse(wh_coro *self, int rc)
{
    refusal_note(self, rc);
    if (budget_use(self->worker) <= 0)
        yield(self);
    return rc;
}

void run_ready(struct worker *w)
{
    wh_coro *next = w->ready_first;
    wh_assert(next);
    wh_assert(w->current == &w->loop);
    w->ready_first = next->next;
    state_set(&w->loop, CORO_READY);
    w->budget_given = w->budget_full;
    w->budget_dropped = 0;
    budget_set(w, w->budget_full);
    /* After the budget, so that a turn never shows what the one before has left of its own.
     * release: pairs with the acquire in worker_progress() */
    __atomic_store_n(&w->turns, w->turns + 1, __ATOMIC_RELEASE);
    w->calls_left = CALLS_A_TURN;
    w->turn_ns = list_empty(&w->sweeps) ? w->now_ns : INT64_MAX;
    switch_to(w, &w->loop, next);
}

void interrupt(wh_coro *coro, int why)
{
    if (state_of(coro) != CORO_PARKED)
        return;
    bool (*withdraw)(wh_coro *coro, int why) = wait_kind_of(coro)->withdraw;
    if (withdraw && withdraw(coro, why))
        make_ready(coro, why, coro->worker->shared);
}

bool queue_withdraw(wh_coro *coro, int why)
{
    (void)why;
    return claim(coro, coro->worker->shared);
}

int park_forever(wh_coro *self, const struct wait_kind *kind)
{
    deadline_arm(self);
    return park(self, kind);
}

void deadline_fired(wh_coro *coro)
{
    if (state_of(coro) != CORO_PARKED)
        return; /* what it waits for next will arm it again if it has a deadline */
    if (op_asked(coro))
        interrupt(coro, coro->wake); /* it was asked to end and has not yet: asks again */
    else if (coro->deadline_ns == WH_NEVER)
        return;
    else if (coro->deadline_ns > coro->worker->now_ns)
        wheel_arm(&coro->worker->wheel, &coro->timer, coro->deadline_ns);
    else
        interrupt(coro, -ETIMEDOUT);
}
