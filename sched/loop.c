/*
 * loop.c: a worker's loop: timers, ring, coroutines, and sleep.
 *
 *      turn:  read the clock -> expired timers wake their coroutines
 *             -> one engine_wait: submit, sleep if nothing is runnable, take completions
 *             -> completions wake their coroutines; the inbox is emptied
 *             -> run coroutines until none is runnable or the budget is used up
 *
 * Budget. Runnable coroutines run BUDGET_MIN to BUDGET_MAX switches before the ring is looked at
 * again. The number adapts so that this takes about a fifth of a millisecond: many for coroutines
 * that do little, few for those that compute.
 *
 * Spinning. Waking a sleeping core costs more than many waits last. Before it sleeps the worker
 * looks at the ring for up to spin_ns, but only while a moving average of how long it has been idle
 * says that work usually comes in that time, and while that costs no more than sleeping (spin.c).
 *
 * Housekeeping. In rounds that begin four times a second, while anything runs: surplus warm stacks
 * are given back, and stacks that grew deep and are now free, or parked since two rounds, are
 * trimmed. A round is done in slices of a tenth of a millisecond, one in 4 ms, and while the worker
 * is idle one after the other. After rounds that found nothing to do a quiet worker sleeps without
 * limit.
 */
#include "sched/sched.h"

#include <errno.h>
#include <sched.h>

enum {
    BUDGET_MIN = 16,
    BUDGET_MAX = 1024,
    TURN_SHORT_NS = 100000,
    TURN_LONG_NS = 400000,
    SPIN_LOOKS = 32, /* at the ring, between looks at the clock */
    SPIN_ALONE_ROUNDS = 4,
    TIDY_PERIOD_NS = 250000000,
    TIDY_SLICE_PERIOD_NS = 4000000, /* while busy */
    TIDY_SLICE = 64,                /* stacks dealt with at once */
    TIDY_PARKED_ROUNDS = 2,
    EXPIRED_SLICE = 512,
    DEADLOCK_NAMED_MAX = 20,
    INJECTED_TURNS = 8,
    DRIVEN_SLICES = 16, /* of expired timers, and of a cancel, in the watchdog's signal handler */
};

/* ---- Housekeeping ---- */

/* Trims a stack that is deeper than it needs to be. Returns whether it was. */
static bool tidy_stack(struct worker *w, struct stack *stack)
{
    if (stack->state == STACK_WARM)
        return stack_trim(&w->stacks, stack, stack->top - STACK_WARM_KEEP_BYTES);
    if (stack->state != STACK_TAKEN)
        return false;

    /* One that has moved to another worker may run at any time. One that is ours and parked, while
     * nobody can move it, stays so until this worker gets to it. */
    wh_coro *coro = stack->owner;
    object_lock(w->shared, &coro->lock);
    bool parked = worker_of(coro) == w && state_of(coro) == CORO_PARKED;
    object_unlock(w->shared, &coro->lock);
    if (!parked)
        return false;
    bool long_parked = (uint8_t)(w->epoch - coro->run_mark) >= TIDY_PARKED_ROUNDS;
    if (!long_parked || stack->scan_mark == coro->run_mark)
        return false;
    stack->scan_mark = coro->run_mark;
    /* It may be on another one, borrowed: then we know nothing of this. */
    const char *sp = coro->context.sp;
    if (sp > stack->top || sp < stack_bottom(&w->stacks, stack))
        return false;
    /* All below the red zone of a parked coroutine is dead. One that has been claimed by another
     * worker is resumed by this one, which is here. */
    return stack_trim(&w->stacks, stack, (char *)coro->context.sp - 128);
}

/* A slice of the round that is under way, about a tenth of a millisecond. Returns whether the round
 * is over. */
static bool tidy_slice(struct worker *w)
{
    if (stack_pool_give_back(&w->stacks, TIDY_SLICE))
        return false;
    for (int i = 0; i < TIDY_SLICE; i++) {
        struct stack *stack = stack_scan_next(&w->stacks);
        if (!stack)
            return true;
        if (tidy_stack(w, stack))
            w->tidy_found = true;
    }
    return false;
}

/* Four times a second a round begins, if the last one is over. */
static void tidy_begin(struct worker *w)
{
    bool ran = w->switches != w->tidy_switches;
    w->tidy_switches = w->switches;
    w->epoch++;
    w->tidy_at_ns = w->now_ns + TIDY_PERIOD_NS;
    if (w->tidy_under_way)
        return;
    bool collected = stack_pool_collect(&w->stacks);
    stack_pool_tidy(&w->stacks);
    w->tidy_round = ran || collected || w->tidy_found ? 0 : w->tidy_round + 1;
    w->tidy_found = false;
    w->tidy_under_way = true;
}

/* Whether an idle worker may sleep without limit: rounds were made since anything ran, enough of
 * them for those that parked last to count as long parked, and found nothing. */
static bool tidy_quiet(const struct worker *w)
{
    return !w->tidy_under_way && w->tidy_round > TIDY_PARKED_ROUNDS;
}

static void tidy(struct worker *w)
{
    if (w->now_ns >= w->tidy_at_ns || unlikely(tidy_quiet(w) && stack_pool_pending(&w->stacks)))
        tidy_begin(w);
    if (!w->tidy_under_way || (w->ready_first && w->now_ns < w->tidy_slice_ns))
        return;
    w->tidy_slice_ns = w->now_ns + TIDY_SLICE_PERIOD_NS;
    size_t warm = w->stacks.classes[w->stack_class].warm_count;
    if (tidy_slice(w))
        w->tidy_under_way = false;
    w->spin.spoiled = true; /* what is being measured is not this */
    if (w->stacks.classes[w->stack_class].warm_count != warm)
        w->tidy_found = true;
}

/* ---- Waking ---- */

void alarm_arm(struct worker *w, struct alarm *alarm, int64_t deadline_ns)
{
    wheel_arm(&w->alarms, &alarm->timer, deadline_ns);
}

void alarm_cancel(struct worker *w, struct alarm *alarm)
{
    if (timer_armed(&alarm->timer))
        wheel_cancel(&w->alarms, &alarm->timer);
}

static void ring_alarms(struct worker *w)
{
    struct list expired;
    list_init(&expired);
    wheel_advance(&w->alarms, w->now_ns, &expired);
    while (!list_empty(&expired)) {
        struct timer *timer = wheel_pop_expired(&expired);
        struct alarm *alarm = container_of(timer, struct alarm, timer);
        alarm->fired(alarm);
    }
}

/* Wakes, or interrupts, whose time has come: a slice of them, so that a hundred thousand at once do
 * not keep the others waiting. */
static void expire_timers(struct worker *w)
{
    if (wheel_next(&w->alarms) <= w->now_ns)
        ring_alarms(w);
    if (wheel_next(&w->wheel) <= w->now_ns)
        wheel_advance(&w->wheel, w->now_ns, &w->expired);
    for (int i = 0; i < EXPIRED_SLICE && !list_empty(&w->expired); i++)
        deadline_fired(container_of(wheel_pop_expired(&w->expired), wh_coro, timer));
}

/* Whether there is more to do before the worker may sleep. */
static inline bool more_to_do(const struct worker *w)
{
    return w->ready_first || !list_empty(&w->expired) || !list_empty(&w->sweeps);
}

static void wake_completed(const struct worker *w, struct op_list *done)
{
    struct op *op;
    if (done->first != done->last)
        for (op = done->first; op; op = op->next)
            if (likely(!op->shared))
                op_prefetch(w, op);
    while ((op = op_list_pop(done))) {
        if (likely(!op->shared))
            op_completed(op);
        else
            poll_completed(op);
    }
}

/* ---- Sleeping ---- */

static int64_t next_event_ns(const struct worker *w)
{
    int64_t next = wheel_next(&w->wheel);
    int64_t alarm = wheel_next(&w->alarms);
    if (alarm < next)
        next = alarm;
    if (w->ending && w->grace_end_ns < next)
        next = w->grace_end_ns;
    if (w->tidy_under_way)
        next = 0;
    else if (!tidy_quiet(w) && w->tidy_at_ns < next)
        next = w->tidy_at_ns;
    return next;
}

/* Looks at the ring, and at what others have, until something is there or until limit_ns. */
static bool spin(struct worker *w, int64_t limit_ns)
{
    for (int round = 0; round == 0 || clock_read(&w->clock) < limit_ns; round++) {
        for (int i = 0; i < SPIN_LOOKS; i++) {
            if (w->engine->type->ready(w->engine) || !inbox_empty(&w->inbox))
                return true;
            cpu_relax();
        }
        if (w->searches && work_is_there(w))
            return true;
        /* What is waited for may have to come from a worker that shares this core. */
        if (w->shared && round >= SPIN_ALONE_ROUNDS)
            sched_yield();
    }
    return false;
}

static bool looks_first(struct worker *w)
{
    bool possible = w->ops_in_flight || w->shared;
    if (w->run->options.sqpoll_ns) /* which spins anyway, and gathers nothing */
        return possible && w->spin.idle_ns < w->spin.limit_ns;
    return spin_now(&w->spin, possible, w->switches);
}

COLD static void deadlock(struct worker *w);

/* Whether anything of its own can end its sleep. */
static bool barren(const struct worker *w)
{
    return !w->ops_in_flight && !w->wheel.armed && !w->alarms.armed && !w->ending;
}

/* Whether threads outside may push to its inbox. */
static bool posted_to(const struct worker *w)
{
    return __atomic_load_n(&w->run->outside, __ATOMIC_RELAXED);
}

/* Whether the worker of several may sleep now. */
static bool fall_asleep(struct worker *w)
{
    enum may_sleep may = worker_may_sleep(w, barren(w), tidy_quiet(w));
    if (unlikely(may == SLEEP_NEVER_ENDS))
        deadlock(w);
    return may == SLEEP_MAY;
}

/* Sleeps in the ring, and the watchdog, too, if nobody else has anything to do. */
static void sleep_until(struct worker *w, int64_t until_ns, struct op_list *done)
{
    bump(&w->sleeps);
    where_set(w, IN_SLEEP);
    engine_wait(w->engine, until_ns, done);
    /* seq_cst: pairs with the load in watchdog_sleep() */
    __atomic_exchange_n(&w->where, IN_RUNTIME, __ATOMIC_SEQ_CST);
    watchdog_notice(w->run);
}

/* Nothing is runnable: spins if that pays, then sleeps until something happens. */
static void idle(struct worker *w, struct op_list *done)
{
    int64_t until_ns = next_event_ns(w);
    int64_t began_ns = clock_read(&w->clock);
    if (until_ns > began_ns && looks_first(w)) {
        engine_wait(w->engine, 0, done); /* submits */
        if (done->first)
            return;
        w->spins++;
        int64_t limit_ns = began_ns + w->spin.limit_ns;
        if (spin(w, limit_ns < until_ns ? limit_ns : until_ns)) {
            w->spins_paid++;
            int64_t idle_ns = clock_read(&w->clock) - began_ns;
            engine_wait(w->engine, 0, done);
            spin_found(&w->spin, idle_ns);
            return;
        }
    }
    bool watched = w->shared || posted_to(w);
    if (until_ns > 0 && unlikely(watched) && !fall_asleep(w)) {
        engine_wait(w->engine, 0, done);
        return;
    }
    if (until_ns > 0)
        sleep_until(w, until_ns, done);
    else
        engine_wait(w->engine, 0, done);
    if (until_ns > 0 && unlikely(watched))
        worker_awake(w);
    if (until_ns > 0 && (done->first || !w->ops_in_flight))
        spin_learn(&w->spin, clock_read(&w->clock) - began_ns);
}

/* ---- Deadlock and the end ---- */

struct naming {
    const char *what;
    unsigned left;
};

static void name_one(wh_coro *coro, void *arg)
{
    struct naming *naming = arg;
    char who[256];
    if (!naming->left)
        return;
    naming->left--;
    coro_describe(coro, who, sizeof who);
    if (state_of(coro) == CORO_PARKED)
        report("%s: %s, waits in %s", naming->what, who, coro_waits_for(coro));
    else
        report("%s: %s, runnable", naming->what, who);
}

/* All other workers sleep, and so do all coroutines: named first, before anything is cancelled. */
COLD static void deadlock(struct worker *w)
{
    struct naming naming = {"deadlocked", DEADLOCK_NAMED_MAX};
    unsigned long long count = live(w->run);
    if (count == 1)
        report("deadlock: the last coroutine waits, and nothing else is under way");
    else
        report("deadlock: %llu coroutines wait for each other and nothing else is under way",
               count);
    coro_visit(w->run, name_one, &naming);
    (void)run_end(w->run, -EDEADLK);
}

COLD static void begin_end(struct worker *w)
{
    int64_t grace_ns = w->run->grace_ns;
    w->ending = true;
    if (grace_ns < 0)
        w->grace_end_ns = 0;
    else if (__builtin_add_overflow(clock_now(), grace_ns,
                                    &w->grace_end_ns)) /* the turn was long */
        w->grace_end_ns = INT64_MAX;
    cancel_all(w);
}

/* Whether the run is over. */
static bool over(struct worker *w)
{
    struct run *run = w->run;
    /* acquire: pairs with the store in run_end(); what was started before is seen by cancel_all()
     */
    if (likely(!__atomic_load_n(&run->ending, __ATOMIC_ACQUIRE)))
        return false;
    if (!w->ending)
        begin_end(w);
    if (__atomic_load_n(&run->over, __ATOMIC_RELAXED))
        return true;
    bool none = !live(run);
    if (!none && w->now_ns < w->grace_end_ns)
        return false;
    run_over(run);
    return true;
}

void run_name_left(const struct run *run)
{
    unsigned long long count = live(run);
    if (!count)
        return;
    struct naming naming = {"still not ended", DEADLOCK_NAMED_MAX};
    report("%llu coroutine%s did not end within %lld ms of being cancelled: abandoned%s", count,
           count == 1 ? "" : "s", (long long)(run->grace_ns < 0 ? 0 : run->grace_ns / 1000000),
           run->grace_ns < 0 ? ""
                             : " (a loop that ignores -ECANCELED, or a WH_SHIELD without a "
                               "deadline?)");
    coro_visit(run, name_one, &naming);
}

/* ---- The loop ---- */

static void budget_adapt(struct worker *w, int64_t took_ns)
{
    spin_turn(&w->spin, took_ns);
    int32_t used = budget_used(w);
    __atomic_store_n(&w->switches, w->switches + (uint64_t)used, __ATOMIC_RELAXED);
    if (took_ns > TURN_LONG_NS && w->budget_full > BUDGET_MIN)
        w->budget_full /= 2;
    else if (took_ns < TURN_SHORT_NS && used >= w->budget_given && w->budget_full < BUDGET_MAX)
        w->budget_full *= 2;
    w->budget_given = w->budget; /* counted */
    w->budget_dropped = 0;
}

/* The turn's part that only workers of several have: what others want of this one, and work that
 * any may do. Returns whether there is something to run. */
static void share_work(struct worker *w)
{
    inbox_take(w);
    if (unlikely(!worker_works(w))) {
        work_give_away(w);
        search_end(w, true);
    } else if (w->ready_first) {
        deque_refill(w); /* those that may move must not wait behind those that stay for ever */
        if (w->turns % INJECTED_TURNS == 0)
            work_injected_take(w); /* nor those that found no place in a deque */
        search_end(w, true);
        if (deque_len(&w->deque))
            work_announce(w->run);
    } else {
        bool found = work_find(w);
        if (!found && search_begin(w))
            found = work_find(w);
        if (found)
            search_end(w, true);
        if (found && deque_len(&w->deque))
            work_announce(w->run); /* it may have been taken by one who does not count */
    }
    worker_publish(w);
}

/* What came up for freeing in a signal handler. */
COLD static void free_later(struct worker *w)
{
    while (w->freed_later) {
        void *memory = w->freed_later;
        w->freed_later = *(void **)memory;
        mem_free(memory);
    }
}

void loop_drive(struct worker *w)
{
    struct op_list done = {NULL, NULL};
    wh_assert(in_handler(w));
    /* acquire: pairs with the store in run_end() */
    if (__atomic_load_n(&w->run->ending, __ATOMIC_ACQUIRE) && !w->ending)
        begin_end(w); /* what was started here may be parked elsewhere, and is to be told */
    engine_wait(w->engine, 0, &done);
    w->now_ns = clock_now(); /* not by w->clock: the user's code may be reading it */
    wake_completed(w, &done);
    inbox_take(w);
    for (int i = 0; i < DRIVEN_SLICES; i++) {
        expire_timers(w);
        if (!list_empty(&w->sweeps))
            ctx_sweep(w);
    }
    worker_publish(w);
}

void loop_run(struct worker *w)
{
    w->budget_full = BUDGET_MAX / 4;
    w->now_ns = clock_sync(&w->clock);
    w->tidy_at_ns = w->now_ns + TIDY_PERIOD_NS;
    while (!over(w)) {
        struct op_list done = {NULL, NULL};
        if (unlikely(w->shared))
            share_work(w);
        else if (unlikely(!inbox_empty(&w->inbox)))
            inbox_take(w);
        if (more_to_do(w))
            engine_wait(w->engine, 0, &done);
        else if (likely(!barren(w)) || w->shared || posted_to(w))
            idle(w, &done);
        else
            deadlock(w);
        w->now_ns = clock_sync(&w->clock);
        wake_completed(w, &done);
        if (unlikely(!inbox_empty(&w->inbox)))
            inbox_take(w);
        expire_timers(w);
        if (unlikely(!list_empty(&w->sweeps)))
            ctx_sweep(w);
        if (unlikely(w->freed_later))
            free_later(w);
        tidy(w);
        if (w->ready_first) {
            search_end(w, true);
            run_ready(w);
            if (unlikely(w->leaving))
                coro_return_stack(w);
            budget_adapt(w, clock_read(&w->clock) - w->now_ns);
        }
    }
    search_end(w, true);
    free_later(w);
}

void worker_validate(struct worker *w)
{
    stack_pool_validate(&w->stacks);
    wheel_validate(&w->wheel);
    wheel_validate(&w->alarms);
    size_t ready = 0;
    for (wh_coro *coro = w->ready_first; coro; coro = coro->next) {
        wh_assert(state_of(coro) == CORO_NEW || state_of(coro) == CORO_READY);
        wh_assert(coro->next || coro == w->ready_last);
        wh_assert(coro->worker == w);
        ready++;
    }
    wh_assert(ready <= live(w->run));
}
