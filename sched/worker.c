/*
 * worker.c: what the workers of a run do for each other: the inbox, work for any of them, sleeping
 * and waking.
 *
 * Where runnable coroutines are:
 *
 *      run queue   of one worker, nobody else touches it: those that stay
 *      deque       of one worker, others steal from it: those that any worker may run
 *      injected    of the run, under its lock: the same, from threads that are no workers, from a
 *                  worker that a coroutine hogs, and what found no room in a deque or no stack
 *
 * A worker runs from its run queue. When that is empty, and in each turn of its loop, it moves some
 * of the older half of its deque there; when that is empty, too, it takes from the injected ones,
 * and then from the deques of others, the older half of the first that has any. Of what it has
 * stolen it keeps one in the run queue and pushes the rest to its own deque, where others find it.
 *
 * Sleeping. A worker that has nothing sleeps in its ring. Two things must not happen: that
 * something is there for it, or for anyone, while it sleeps and nobody wakes it; and that all are
 * woken for one thing.
 *
 *      a worker falls asleep                     who has something for worker w
 *        search_end: searching - 1     (A)         push to w's inbox               (1, seq_cst)
 *        asleep + 1; sleep = ASLEEP    (B)         w->sleep ASLEEP?                (2, seq_cst)
 *        looks at its inbox, and at all            then AWAKE by compare-and-swap; the one who
 *          that it could take          (C)         succeeds wakes its ring
 *        nothing: sleeps in the ring
 *
 * B is an exchange, 1 a compare-and-swap, both sequentially consistent. Either B comes first, and
 * then 2 sees ASLEEP, or 1 comes first, and then C sees what was pushed. So (inbox) nothing is
 * missed, and a sleep is ended by one waker.
 *
 *      who has work for anyone
 *        push to the own deque, or inject                                          (3)
 *        asleep + 0; is it more than 0, and nobody searches?                       (4, seq_cst)
 *        then wakes one, which searches: searching + 1 on its behalf
 *
 * Who searches has not done A yet, and looks at everything after A (C): so 4 may rely on it. If
 * nobody searches and somebody sleeps, one is woken. A searcher that finds something and is the
 * last one wakes another (search_end), since there may be more: so workers are woken one by one as
 * long as there is work, and not all at once for one piece of it. In between the work waits where
 * it is, and its own worker, which is awake, gets to it if nobody else does.
 *
 * Rules that the models have shown to be needed:
 *   - A searcher that finds anything in C, a post for itself too, searches again: others have
 * relied on it since A.
 *   - Who is woken to search learns so from the word (CALLED), not from the message: it may have
 * got up by itself meanwhile.
 *   - `searching` may be too low for a moment, even below 0, never too high: it is raised after a
 *     sleeper was claimed. `asleep` may be too high, never too low: it is raised before the word is
 *     set and lowered after it was claimed.
 *   - A search ends before anything that was found runs.
 *
 * 4 writes to `asleep` (it adds nothing) so that it is ordered with the addition in B: in x86
 * terms, it is the barrier between 3 and the look. It is made once in a turn of the loop and where
 * work is injected; a start looks without (work_hint()): what it misses, the turn finds.
 *
 * At most half of the workers that are awake search at a time: more would only get in each other's
 * way.
 *
 * Nothing can go on (deadlock) when all sleep, none of them with a timer or an operation that could
 * wake it (ASLEEP_BARREN), there is no injected work, and nobody from outside could bring some. The
 * worker that falls asleep last sees that: those that are barren say so, look, and judge under the
 * run's lock.
 *
 * Checked as a model: tests/models/sleep.pml.
 */
#include "sched/next.h"

enum { INJECTED_MAX = 256 };

/* ---- Inbox ---- */

/* It is no longer asleep, as it was in this state. */
static inline void asleep_less(const struct worker *w, uint8_t state)
{
    if (likely(!(state & ASLEEP_SPARE)))
        __atomic_fetch_sub(&w->run->asleep, 1, __ATOMIC_RELAXED);
}

/* Wakes it if it sleeps: AWAKE, or CALLED to search. */
static bool worker_wake(struct worker *w, uint8_t to)
{
    uint8_t seen = __atomic_load_n(&w->sleep, __ATOMIC_RELAXED);
    do {
        if (seen < ASLEEP)
            return false;
        /* seq_cst: pairs with the exchange in worker_may_sleep() */
    } while (!__atomic_compare_exchange_n(&w->sleep, &seen, to, true, __ATOMIC_SEQ_CST,
                                          __ATOMIC_RELAXED));
    asleep_less(w, seen);
    if (to == CALLED) {
        /* seq_cst: pairs with the load in work_announce() */
        __atomic_fetch_add(&w->run->searching, 1, __ATOMIC_SEQ_CST);
    }
    w->engine->type->wake(w->engine);
    return true;
}

void worker_notify(struct worker *w)
{
    /* seq_cst: pairs with the exchange in worker_may_sleep() */
    if (unlikely(__atomic_load_n(&w->sleep, __ATOMIC_SEQ_CST) >= ASLEEP) && worker_wake(w, AWAKE) &&
        worker_tls)
        bump(&worker_tls->wakes);
}

void worker_post(struct worker *w, struct post *post)
{
    INBOX_PUSH(&w->inbox.posts, post, next);
    worker_notify(w);
}

/* Whether it may run on any worker. Not while it has polls in the ring of this one. */
static inline bool may_move(const wh_coro *coro)
{
    return unlikely(coro->flags & CORO_MIGRATES) && !(wait_kind_of(coro)->has_polls && coro->polls);
}

void make_ready_shared(wh_coro *coro)
{
    struct worker *w = coro->worker;
    if (w != worker_tls) {
        INBOX_PUSH(&w->inbox.woken, coro, next);
        worker_notify(w);
    } else if (may_move(coro)) {
        ready_push_any(w, coro);
    } else {
        __builtin_prefetch(coro->context.sp); /* it runs soon */
        ready_push(w, coro);
    }
}

/* Whether one of the run queue may run on any worker. With one worker in the run, only what has
 * leave to migrate: the others count on running one at a time. */
static bool may_go(const struct worker *w, const wh_coro *coro)
{
    if (state_of(coro) != CORO_NEW)
        return may_move(coro);
    return !coro->start.bound && (w->run->workers_asked > 1 || coro->flags & CORO_MIGRATES);
}

/* One that was sent here: woken elsewhere, or NEW and to be run here. */
static void receive(struct worker *w, wh_coro *coro)
{
    wh_assert(state_of(coro) == CORO_READY || state_of(coro) == CORO_NEW);
    if (unlikely(coro_is_foreign(w, coro)) && (in_handler(w) || !coro_adopt(w, coro)))
        INBOX_PUSH(&w->inbox.woken, coro, next); /* until there is a stack for it */
    else if (state_of(coro) == CORO_READY && may_move(coro))
        ready_push_any(w, coro);
    else
        ready_push(w, coro);
}

void inbox_take(struct worker *w)
{
    wh_coro *coro = INBOX_TAKE(&w->inbox.woken, next);
    while (coro) {
        wh_coro *next = coro->next;
        receive(w, coro);
        coro = next;
    }
    coro = INBOX_TAKE(&w->inbox.asked, asked);
    while (coro) {
        wh_coro *next = coro->asked;
        coro_asked(w, coro);
        coro = next;
    }
    struct post *post = INBOX_TAKE(&w->inbox.posts, next);
    while (post) {
        struct post *next = post->next;
        post->deliver(post, w);
        post = next;
    }
}

/* ---- Work for any worker ---- */

static void inject_locked(struct run *run, wh_coro *coro)
{
    coro->next = NULL;
    if (run->injected_first)
        run->injected_last->next = coro;
    else
        run->injected_first = coro;
    run->injected_last = coro;
    /* Under the lock; relaxed: who looks without it looks again. */
    __atomic_store_n(&run->injected, run->injected + 1, __ATOMIC_RELAXED);
}

static void inject(struct run *run, wh_coro *coro)
{
    assert_inside();
    lock_take(&run->lock);
    inject_locked(run, coro);
    lock_give(&run->lock);
}

/* Work has been pushed to a deque. May miss that somebody has just fallen asleep. */
static inline void work_hint(struct run *run)
{
    if (unlikely(__atomic_load_n(&run->asleep, __ATOMIC_RELAXED)) &&
        !__atomic_load_n(&run->searching, __ATOMIC_RELAXED))
        work_announce(run);
}

void ready_push_any(struct worker *w, wh_coro *coro)
{
    /* Its timer, left armed from earlier, is in this worker's wheel. */
    if (state_of(coro) != CORO_NEW && timer_armed(&coro->timer))
        wheel_cancel(&w->wheel, &coro->timer);
    if (unlikely(!deque_push(&w->deque, coro)))
        inject(w->run, coro);
    work_hint(w->run);
}

bool work_from_outside(struct run *run, wh_coro *coro)
{
    bool any = run->workers_asked > 1 || coro->flags & CORO_MIGRATES;
    lock_take(&run->lock);
    bool taken = !run->ending;
    if (taken) {
        /* Under the lock: counted before the run begins to end, or not at all. */
        bump(&run->started_outside);
        if (any)
            inject_locked(run, coro);
    }
    lock_give(&run->lock);
    if (!taken)
        return false;
    if (any) {
        work_announce(run);
    } else {
        INBOX_PUSH(&run->worker[0]->inbox.woken, coro, next);
        worker_notify(run->worker[0]);
    }
    return true;
}

COLD void deque_refill(struct worker *w)
{
    wh_coro *taken[STEAL_MAX];
    uint32_t count = deque_take(&w->deque, taken, STEAL_MAX);
    for (uint32_t i = 0; i < count; i++)
        ready_push(w, taken[i]);
}

/* Makes it this worker's. The rest of what has been stolen stays to be stolen. */
static void keep(struct worker *w, wh_coro *coro)
{
    if (coro_is_foreign(w, coro) && !coro_adopt(w, coro))
        inject(w->run, coro); /* no stack for it here */
    else if (w->ready_first)
        (void)(deque_push(&w->deque, coro) || (ready_push(w, coro), true));
    else
        ready_push(w, coro);
}

bool work_injected_take(struct worker *w)
{
    struct run *run = w->run;
    if (!__atomic_load_n(&run->injected, __ATOMIC_RELAXED))
        return false;
    wh_coro *first = NULL;
    lock_take(&run->lock);
    uint32_t share = run->injected / workers_working(run) + 1;
    if (share > INJECTED_MAX)
        share = INJECTED_MAX; /* at once: the loop has other things to do */
    for (; share && run->injected_first; share--) {
        wh_coro *coro = run->injected_first;
        run->injected_first = coro->next;
        coro->next = first;
        first = coro;
        __atomic_store_n(&run->injected, run->injected - 1, __ATOMIC_RELAXED);
    }
    lock_give(&run->lock);
    while (first) {
        wh_coro *next = first->next;
        keep(w, first);
        first = next;
    }
    return w->ready_first;
}

static bool steal_from(struct worker *w, struct worker *victim)
{
    wh_coro *taken[STEAL_MAX];
    uint32_t count = deque_take(&victim->deque, taken, STEAL_MAX);
    if (!count)
        return false;
    for (uint32_t i = 0; i < count; i++)
        keep(w, taken[i]);
    bump(&w->steals);
    __atomic_store_n(&w->stolen, w->stolen + count, __ATOMIC_RELAXED);
    return w->ready_first;
}

bool work_find(struct worker *w)
{
    deque_refill(w);
    if (w->ready_first || work_injected_take(w))
        return true;
    struct run *run = w->run;
    /* acquire: pairs with the release in worker_add() */
    uint32_t workers = __atomic_load_n(&run->workers, __ATOMIC_ACQUIRE);
    uint32_t at = random_below(w, workers);
    for (uint32_t i = 0; i < workers; i++, at = at + 1 == workers ? 0 : at + 1)
        if (run->worker[at] != w && steal_from(w, run->worker[at]))
            return true;
    return false;
}

bool work_is_there(const struct worker *w)
{
    const struct run *run = w->run;
    if (unlikely(!worker_works(w)))
        return deque_len(&w->deque);
    if (__atomic_load_n(&run->injected, __ATOMIC_RELAXED))
        return true;
    /* acquire: pairs with the release in worker_add() */
    uint32_t workers = __atomic_load_n(&run->workers, __ATOMIC_ACQUIRE);
    for (uint32_t i = 0; i < workers; i++)
        if (deque_len(&run->worker[i]->deque))
            return true;
    return false;
}

void work_announce(struct run *run)
{
    /* A read that counts as a write: it stands before or after the one in worker_may_sleep(), and
     * in the first case that one's worker sees what was pushed before. seq_cst: pairs with it */
    if (!__atomic_fetch_add(&run->asleep, 0, __ATOMIC_SEQ_CST))
        return;
    /* seq_cst: pairs with the subtraction in search_end() */
    if (__atomic_load_n(&run->searching, __ATOMIC_SEQ_CST) > 0)
        return;
    /* acquire: pairs with the release in worker_add() */
    uint32_t workers = __atomic_load_n(&run->workers, __ATOMIC_ACQUIRE);
    for (uint32_t i = 0; i < workers; i++)
        if (worker_works(run->worker[i]) && worker_wake(run->worker[i], CALLED))
            return;
}

size_t work_spread(struct worker *w, wh_coro **walked)
{
    size_t stay = 0;
    wh_coro *last = *walked;
    wh_coro *coro = last ? last->next : w->ready_first;
    while (coro) {
        wh_coro *next = coro->next;
        if (may_go(w, coro)) {
            if (last)
                last->next = next;
            else
                w->ready_first = next;
            if (!next)
                w->ready_last = last;
            ready_push_any(w, coro);
        } else {
            last = coro;
            stay++;
        }
        coro = next;
    }
    *walked = last;
    return stay;
}

void work_give_away(struct worker *w)
{
    wh_coro *walked = NULL, *taken[STEAL_MAX];
    bool gave = false;
    (void)work_spread(w, &walked);
    for (uint32_t count; (count = deque_take(&w->deque, taken, STEAL_MAX)); gave = true)
        for (uint32_t i = 0; i < count; i++)
            inject(w->run, taken[i]);
    if (gave)
        work_announce(w->run);
}

/* ---- Searching and sleeping ---- */

bool search_begin(struct worker *w)
{
    struct run *run = w->run;
    if (w->searches)
        return true;
    uint32_t awake = workers_working(run) - __atomic_load_n(&run->asleep, __ATOMIC_RELAXED);
    if (2 * __atomic_load_n(&run->searching, __ATOMIC_RELAXED) >= (int32_t)awake)
        return false;
    /* seq_cst: pairs with the load in work_announce() */
    __atomic_fetch_add(&run->searching, 1, __ATOMIC_SEQ_CST);
    w->searches = true;
    return true;
}

void search_end(struct worker *w, bool found)
{
    if (!w->searches)
        return;
    w->searches = false;
    /* seq_cst: pairs with the load in work_announce() */
    if (__atomic_fetch_sub(&w->run->searching, 1, __ATOMIC_SEQ_CST) <= 1 && found)
        work_announce(w->run);
}

static bool others_barren(const struct worker *w)
{
    const struct run *run = w->run;
    /* seq_cst: pairs with the subtraction in wh_runtime_release() */
    if (__atomic_load_n(&run->outside, __ATOMIC_SEQ_CST) || run->injected)
        return false;
    /* acquire: pairs with the release in worker_add() */
    uint32_t workers = __atomic_load_n(&run->workers, __ATOMIC_ACQUIRE);
    for (uint32_t i = 0; i < workers; i++) {
        const struct worker *other = run->worker[i];
        /* seq_cst: pairs with the exchange in worker_may_sleep() */
        if (other != w &&
            (__atomic_load_n(&other->sleep, __ATOMIC_SEQ_CST) & ~ASLEEP_SPARE) != ASLEEP_BARREN)
            return false;
    }
    return true;
}

/* Whether something has come for the worker. */
static bool called_for(const struct worker *w)
{
    const struct run *run = w->run;
    return !inbox_empty_after(&w->inbox) || work_is_there(w) ||
           (w->quiet && stack_pool_pending(&w->stacks)) ||
           (__atomic_load_n(&run->ending, __ATOMIC_RELAXED) && !w->ending) ||
           __atomic_load_n(&run->over, __ATOMIC_RELAXED);
}

/* Says that it sleeps, and looks for the last time. Returns whether nothing has come; if something
 * has, it is awake again. */
static bool lie_down(struct worker *w, bool barren)
{
    bool searched = w->searches;
    search_end(w, false);
    uint8_t state = barren ? ASLEEP_BARREN : ASLEEP;
    bool works = worker_works(w);
    if (unlikely(!works)) {
        state |= ASLEEP_SPARE;
    } else {
        /* seq_cst: pairs with the addition in work_announce() */
        __atomic_fetch_add(&w->run->asleep, 1, __ATOMIC_SEQ_CST);
    }
    /* seq_cst: pairs with the load in worker_notify() */
    __atomic_exchange_n(&w->sleep, state, __ATOMIC_SEQ_CST);
    /* A spare one may have come to take work since it was asked, and would not be counted. */
    if (!called_for(w) && likely(worker_works(w) == works))
        return true;
    worker_awake(w);
    /* Others have relied on the search that was given up, and there may be more than this. */
    if (searched && !w->searches) {
        /* seq_cst: pairs with the load in work_announce() */
        __atomic_fetch_add(&w->run->searching, 1, __ATOMIC_SEQ_CST);
        w->searches = true;
    }
    return false;
}

enum may_sleep worker_may_sleep(struct worker *w, bool barren, bool quiet)
{
    /* seq_cst: pairs with the load in has_again() */
    __atomic_store_n(&w->quiet, quiet, __ATOMIC_SEQ_CST);
    if (!barren)
        return lie_down(w, false) ? SLEEP_MAY : SLEEP_NOT;
    /* Under the lock from the word to the verdict: no two that are barren lie down at the same
     * time, so the last one sees all others in their final sleep, nothing left in any inbox. */
    lock_take(&w->run->lock);
    bool sleeps = lie_down(w, true);
    bool stuck = sleeps && others_barren(w);
    if (stuck)
        worker_awake(w);
    lock_give(&w->run->lock);
    return stuck ? SLEEP_NEVER_ENDS : sleeps ? SLEEP_MAY : SLEEP_NOT;
}

void worker_awake(struct worker *w)
{
    /* seq_cst: pairs with the compare-and-swap in worker_wake() */
    uint8_t was = __atomic_exchange_n(&w->sleep, AWAKE, __ATOMIC_SEQ_CST);
    __atomic_store_n(&w->quiet, false, __ATOMIC_RELAXED);
    if (was == CALLED)
        w->searches = true; /* it has been counted */
    else if (was >= ASLEEP)
        asleep_less(w, was);
}

static void workers_wake(struct run *run)
{
    /* acquire: pairs with the release in worker_add() */
    uint32_t workers = __atomic_load_n(&run->workers, __ATOMIC_ACQUIRE);
    for (uint32_t i = 0; i < workers; i++)
        worker_wake(run->worker[i], AWAKE);
}

/* ---- The run ---- */

uint64_t live(const struct run *run)
{
    /* acquire: pairs with the release in worker_add() */
    uint32_t workers = __atomic_load_n(&run->workers, __ATOMIC_ACQUIRE);
    uint64_t started = 0, ended = 0;
    /* Those that have ended first: what is equal then, was equal when the last was read. */
    for (uint32_t i = 0; i < workers; i++) {
        /* acquire: pairs with the release in finish() */
        ended += __atomic_load_n(&run->worker[i]->ended, __ATOMIC_ACQUIRE);
    }
    /* acquire: pairs with the release in worker_add(): what was started on a worker that has been
     * added meanwhile may have ended on one of those above */
    workers = __atomic_load_n(&run->workers, __ATOMIC_ACQUIRE);
    for (uint32_t i = 0; i < workers; i++)
        started += __atomic_load_n(&run->worker[i]->started, __ATOMIC_RELAXED);
    started += __atomic_load_n(&run->started_outside, __ATOMIC_RELAXED);
    return started - ended;
}

/* A member of a context asks, from here on, whether that has been cancelled elsewhere. */
static void look_from_now_on(wh_coro *coro, void *none)
{
    (void)none;
    if (coro->ctx)
        coro->flags |= CORO_CTX_LOOK;
}

void run_share(struct worker *w)
{
    if (w->shared)
        return;
    w->run->was_alone = true;
    slab_visit(&w->slab, look_from_now_on, NULL);
    list_for_each (link, &w->sweeps)
        w->run->sweeps++;
    __atomic_store_n(&w->shared, true, __ATOMIC_RELAXED);
}

bool run_end(struct run *run, int result)
{
    lock_take(&run->lock);
    bool first = !run->ending;
    if (first) {
        run->result = result;
        /* seq_cst: pairs with the look in worker_may_sleep() */
        __atomic_store_n(&run->ending, true, __ATOMIC_SEQ_CST);
    }
    lock_give(&run->lock);
    if (worker_tls)
        budget_drop(worker_tls); /* the loop ends the rest */
    workers_wake(run);
    return first;
}

void run_over(struct run *run)
{
    /* seq_cst: pairs with the look in worker_may_sleep() */
    __atomic_store_n(&run->over, true, __ATOMIC_SEQ_CST);
    workers_wake(run);
}

void worker_free(struct worker *w, void *memory)
{
    if (likely(!in_handler(w))) {
        mem_free(memory);
        return;
    }
    *(void **)memory = w->freed_later;
    w->freed_later = memory;
}

void run_hook_add(struct run *run, struct run_hook *hook)
{
    assert_inside();
    hook->run = run;
    lock_take(&run->lock);
    list_push_back(&run->run_hooks, &hook->link);
    lock_give(&run->lock);
}

void run_hook_remove(struct run_hook *hook)
{
    assert_inside();
    lock_take(&hook->run->lock);
    list_remove(&hook->link);
    lock_give(&hook->run->lock);
}

void run_meet(struct run *run)
{
    pthread_mutex_lock(&run->end_mutex);
    unsigned phase = run->end_phase;
    if (++run->end_arrived == run->end_threads) {
        run->end_arrived = 0;
        run->end_phase++;
        pthread_cond_broadcast(&run->end_changed);
    }
    while (run->end_phase == phase)
        pthread_cond_wait(&run->end_changed, &run->end_mutex);
    pthread_mutex_unlock(&run->end_mutex);
}
