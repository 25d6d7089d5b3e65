/*
 * select.c: waiting for the first of several things (whorl/select.h).
 *
 * A select first looks at all cases. If some are ready it draws one of them, each as likely, and
 * that is all: nothing was queued. Descriptors are asked about with one poll(2) for all.
 *
 * Otherwise it queues one waiter a case, all naming this coroutine, and parks. The first that
 * claims it wins; that case has then happened completely, element and all. Once it runs again it
 * takes the other waiters off their queues:
 *
 *      RUNNING: look -- ready ---------------------------> case
 *         |
 *      queue waiters, start polls; PARKED ----- won -----> unqueue; end polls --> case
 *                                     `-- interrupted ---> unqueue; end polls --> -errno
 *
 * With several workers all channels are locked while it looks and queues, in the order of their
 * addresses, so that none changes between the look and the queueing, and two selects that meet on
 * two channels cannot each half serve the other. The other objects have one side only: each is
 * locked alone, looked at again, and queued at. If one is ready by then, the select claims itself,
 * as a waker would, and begins anew; if it cannot, it has been claimed already and parks.
 *
 * Times need no waiter: the earliest of them becomes the coroutine's deadline while it is parked,
 * as in a sleep, and what comes back as -ETIMEDOUT by then is that case.
 *
 * Polls are operations: their memory, which is on this stack, is the kernel's until they have
 * completed. A losing one is cancelled and its completion waited for; nobody can interrupt that.
 *
 * The memory for waiters and polls is on the stack for up to 16 cases, from the heap for more.
 */
#include "sync/sync.h"

#include <whorl/select.h>

#include <alloca.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>

enum { ON_STACK_CASES = 16, CASES_MAX = 65535, SORT_FEW = 32 };

struct select {
    wh_coro *self;
    const wh_case *cases;
    int count;
    int fd_cases;
    struct waiter *waiters;  /* one a case */
    struct poll_wait *polls; /* one an fd case, in their order; started ones are not OP_IDLE */
    struct pollfd *fds;      /* the same */
    wh_chan **chans;         /* those of the cases, without repeats, by address; if shared */
    int chans_count;
    bool shared;
    int64_t time_ns; /* the earliest time among the cases */
};

/* ---- Looking ---- */

static inline bool time_has_come(const wh_coro *self, int64_t time_ns)
{
    struct worker *w = self->worker;
    if (time_ns <= w->now_ns)
        return true;
    return time_ns != WH_NEVER && time_ns <= clock_read(&w->clock) &&
           time_ns <= clock_sync(&w->clock);
}

/* Under its lock: who sees that it has ended may have it freed. */
static bool is_dead(wh_coro *coro, bool shared)
{
    object_lock(shared, &coro->lock);
    bool dead = state_of(coro) == CORO_DEAD;
    object_unlock(shared, &coro->lock);
    return dead;
}

/* Whether a case other than of a descriptor could happen now. Of a channel: its lock is held. */
static inline bool ready(const wh_coro *self, const wh_case *c)
{
    if (likely(c->kind == WH_CASE_RECV_))
        return c->object && chan_can_recv(c->object);
    switch (c->kind) {
    case WH_CASE_SEND_: return c->object && chan_can_send(c->object);
    case WH_CASE_AFTER_: return c->ns <= 0;
    case WH_CASE_AT_: return time_has_come(self, c->ns);
    case WH_CASE_TICK_: return c->object && timer_is_pending(c->object, self->worker->shared);
    case WH_CASE_EVENT_: return c->object && event_is_set(c->object, self->worker->shared);
    case WH_CASE_DONE_: return c->object && ctx_ended(c->object);
    case WH_CASE_JOINABLE_: return c->object && is_dead(c->object, self->worker->shared);
    default: return false;
    }
}

/* Makes a case happen that is ready, and returns whether it did: with several workers a tick may
 * have been taken meanwhile, and a peer that waited may have been claimed by its deadline. Who is
 * to be woken with CHAN_DONE when the locks have been given is in *ret_woken. */
static inline bool happen(const wh_coro *self, const wh_case *c, bool shared,
                          struct waiter **ret_woken)
{
    *ret_woken = NULL;
    if (likely(c->kind == WH_CASE_RECV_)) {
        int rc = chan_recv_now(c->object, c->data, shared, ret_woken);
        if (unlikely(rc < 0))
            return false;
        if (c->ok)
            *c->ok = rc == CHAN_DONE;
    } else if (c->kind == WH_CASE_SEND_) {
        if (unlikely(((wh_chan *)c->object)->closed))
            chan_misuse("wh_select", "sends on a closed channel");
        return chan_send_now(c->object, c->data, shared, ret_woken);
    } else if (c->kind == WH_CASE_TICK_) {
        return timer_take(self->worker, c->object, shared);
    }
    return true;
}

/* The number of the nth case that is ready. */
static int nth_ready(const wh_coro *self, const wh_case *cases, unsigned nth)
{
    for (int i = 0;; i++)
        if (ready(self, &cases[i]) && !nth--)
            return i;
}

/* ---- Descriptors ---- */

/* Asks the kernel about all of them; returns how many are ready. */
static unsigned poll_now(struct select *s)
{
    int at = 0;
    for (int i = 0; i < s->count; i++)
        if (s->cases[i].kind == WH_CASE_FD_)
            s->fds[at++] =
                (struct pollfd){.fd = s->cases[i].fd, .events = (short)s->cases[i].events};
    /* A negative number is ignored there, and is here what a call would fail for. */
    unsigned ready_fds = 0;
    bool one_by_one = poll(s->fds, (nfds_t)at, 0) < 0; /* more than RLIMIT_NOFILE of them */
    for (int i = 0; i < at; i++) {
        if (unlikely(one_by_one))
            (void)poll(&s->fds[i], 1, 0);
        if (s->fds[i].fd < 0)
            s->fds[i].revents = POLLNVAL;
        ready_fds += s->fds[i].revents != 0;
    }
    return ready_fds;
}

/* The number of the case of the nth descriptor that poll_now() found ready. */
static int nth_ready_fd(const struct select *s, unsigned nth)
{
    int at = 0;
    for (int i = 0;; i++)
        if (s->cases[i].kind == WH_CASE_FD_ && s->fds[at++].revents && !nth--)
            return i;
}

/* Ends the polls that were started and waits for them. */
static void polls_end(struct select *s)
{
    for (struct poll_wait *poll = s->self->polls; poll; poll = poll->next)
        poll_cancel(poll);
    polls_await(s->self);
    for (int i = 0; i < s->fd_cases; i++)
        if (s->polls[i].op.state != OP_IDLE)
            poll_finish(&s->polls[i]);
}

/* ---- Locking ---- */

static inline bool is_chan(const wh_case *c)
{
    return (c->kind == WH_CASE_RECV_ || c->kind == WH_CASE_SEND_) && c->object;
}

static int by_address(const void *a, const void *b)
{
    uintptr_t x = (uintptr_t)*(wh_chan *const *)a, y = (uintptr_t)*(wh_chan *const *)b;
    return (x > y) - (x < y);
}

/* Collects the channels of the cases into s->chans, sorted, each once. */
static void chans_sort(struct select *s)
{
    int count = 0, kept = 0;
    for (int i = 0; i < s->count; i++)
        if (is_chan(&s->cases[i]))
            s->chans[count++] = s->cases[i].object;
    if (count > SORT_FEW) {
        qsort((void *)s->chans, (size_t)count, sizeof(wh_chan *), by_address);
    } else {
        for (int i = 1; i < count; i++)
            for (int j = i; j && s->chans[j - 1] > s->chans[j]; j--) {
                wh_chan *swapped = s->chans[j];
                s->chans[j] = s->chans[j - 1];
                s->chans[j - 1] = swapped;
            }
    }
    for (int i = 0; i < count; i++)
        if (!kept || s->chans[kept - 1] != s->chans[i])
            s->chans[kept++] = s->chans[i];
    s->chans_count = kept;
}

static inline void chans_lock(struct select *s)
{
    for (int i = 0; i < s->chans_count; i++)
        lock_take(&s->chans[i]->lock);
}

static inline void chans_unlock(struct select *s)
{
    for (int i = 0; i < s->chans_count; i++)
        lock_give(&s->chans[i]->lock);
}

/* ---- Queueing ---- */

enum queued { QUEUED, READY_AFTER_ALL };

static inline void queue_at(struct select *s, int i, struct list *queue, void *data)
{
    struct waiter *waiter = &s->waiters[i];
    waiter->data = data;
    list_push_back(queue, &waiter->link);
}

/* Kept with the waiter: the context that it is of may be gone when the time has come. */
static inline void at_time(struct select *s, int i, int64_t time_ns)
{
    s->waiters[i].count = (uint64_t)time_ns;
    if (time_ns < s->time_ns)
        s->time_ns = time_ns;
}

/* A channel, which is locked if shared. */
static inline void queue_chan(struct select *s, int i)
{
    const wh_case *c = &s->cases[i];
    wh_chan *ch = c->object;
    ch->waiting++;
    queue_at(s, i, c->kind == WH_CASE_RECV_ ? &ch->receivers : &ch->senders, c->data);
}

static int queue_done(struct select *s, int i, wh_ctx *ctx)
{
    struct list *queue = ctx_waiters(ctx);
    at_time(s, i, ctx_deadline(ctx));
    if (!queue)
        return QUEUED;
    ctx_ref(ctx);
    object_lock(s->shared, ctx_lock(ctx));
    struct waiter *waiter = &s->waiters[i];
    list_push_back(queue, &waiter->link);
    object_unlock(s->shared, ctx_lock(ctx));
    return ctx_ended(ctx) ? READY_AFTER_ALL : QUEUED;
}

static int queue_tick(struct select *s, int i, wh_timer *timer)
{
    object_lock(s->shared, &timer->lock);
    timer->waiting++;
    queue_at(s, i, &timer->waiters, NULL);
    bool ready = timer->pending;
    object_unlock(s->shared, &timer->lock);
    return ready ? READY_AFTER_ALL : QUEUED;
}

static int queue_event(struct select *s, int i, wh_event *event)
{
    object_lock(s->shared, &event->lock);
    queue_at(s, i, queue_of(&event->waiters), NULL);
    bool ready = event->set;
    object_unlock(s->shared, &event->lock);
    return ready ? READY_AFTER_ALL : QUEUED;
}

static int queue_join(struct select *s, int i, wh_coro *coro)
{
    if (unlikely(coro == s->self))
        return -EDEADLK;
    int rc = QUEUED;
    object_lock(s->shared, &coro->lock);
    uint8_t state = state_of(coro);
    if (unlikely(state == CORO_FREE || coro->handle & HANDLE_DETACHED))
        coro_misuse(s->self, "wh_select", "waits for a coroutine that has no handle");
    if (state == CORO_DEAD)
        rc = READY_AFTER_ALL;
    else if (coro->joiner && coro->joiner->coro != s->self && waiter_waits(coro->joiner))
        rc = -EBUSY;
    else /* of several cases for the same one the last counts */
        coro->joiner = &s->waiters[i];
    object_unlock(s->shared, &coro->lock);
    return rc;
}

/* Queues a case that is not ready. Returns QUEUED; READY_AFTER_ALL; -EBUSY, -EDEADLK, and for a
 * descriptor that is being closed, -EBADF. */
static int queue_case(struct select *s, int i, struct poll_wait *poll)
{
    const wh_case *c = &s->cases[i];
    switch (c->kind) {
    case WH_CASE_AFTER_: at_time(s, i, deadline_after(s->self, c->ns)); return QUEUED;
    case WH_CASE_AT_: at_time(s, i, c->ns); return QUEUED;
    case WH_CASE_FD_: return poll_start(s->self, poll, c->fd, (short)c->events);
    default: break;
    }
    if (!c->object)
        return QUEUED;
    switch (c->kind) {
    case WH_CASE_TICK_: return queue_tick(s, i, c->object);
    case WH_CASE_EVENT_: return queue_event(s, i, c->object);
    case WH_CASE_DONE_: return queue_done(s, i, c->object);
    case WH_CASE_JOINABLE_: return queue_join(s, i, c->object);
    default: return QUEUED; /* channels were queued at once */
    }
}

static void unqueue_join(wh_coro *coro, const struct waiter *waiter, bool shared)
{
    object_lock(shared, &coro->lock);
    if (state_of(coro) != CORO_DEAD && coro->joiner == waiter)
        coro->joiner = NULL;
    object_unlock(shared, &coro->lock);
}

static inline void unqueue_event(wh_event *event, struct waiter *waiter, bool shared)
{
    object_lock(shared, &event->lock);
    list_remove(&waiter->link);
    object_unlock(shared, &event->lock);
}

static void unqueue_done(struct select *s, wh_ctx *ctx, struct waiter *waiter, bool shared)
{
    if (!ctx_waiters(ctx))
        return;
    object_lock(shared, ctx_lock(ctx));
    list_remove(&waiter->link);
    object_unlock(shared, ctx_lock(ctx));
    ctx_unref(s->self->worker, ctx);
}

/* Takes the waiters of the first `queued` cases, and of all channels, off their queues. `won`: the
 * case that was served, or -1. */
static void unqueue(struct select *s, int queued, int won)
{
    bool shared = s->self->worker->shared; /* anew: it may have become so while parked */
    for (int i = 0; i < s->count; i++) {
        const wh_case *c = &s->cases[i];
        struct waiter *waiter = &s->waiters[i];
        if (is_chan(c)) {
            if (i != won)
                chan_leave(c->object, waiter, shared);
            continue;
        }
        if (i >= queued || !c->object)
            continue;
        switch (c->kind) {
        case WH_CASE_TICK_:
            if (i != won)
                timer_leave(s->self->worker, c->object, waiter, shared);
            break;
        case WH_CASE_EVENT_:
            if (i != won)
                unqueue_event(c->object, waiter, shared);
            break;
        case WH_CASE_DONE_: unqueue_done(s, c->object, waiter, shared); break;
        case WH_CASE_JOINABLE_: unqueue_join(c->object, waiter, shared); break;
        default: break;
        }
    }
}

/* ---- Waiting ---- */

static const struct wait_kind wait_select = {
    .reason = "select", .withdraw = queue_withdraw, .has_polls = true};

/* The case whose time it was that ended the wait; of several, one at random. */
static int timed_case(const struct select *s)
{
    int chosen = -1;
    uint32_t found = 0;
    for (int i = 0; i < s->count; i++) {
        const wh_case *c = &s->cases[i];
        bool timed = c->kind == WH_CASE_AT_ || c->kind == WH_CASE_AFTER_ ||
                     (c->kind == WH_CASE_DONE_ && c->object);
        bool due = timed && s->waiters[i].count <= (uint64_t)s->time_ns;
        if (due && random_below(s->self->worker, ++found) == 0)
            chosen = i;
    }
    wh_assert(chosen >= 0);
    return chosen;
}

/* The case of the waiter that woke us. */
static int won_case(const struct select *s)
{
    const struct waiter *won = s->self->won;
    if (won >= s->waiters && won < s->waiters + s->count)
        return (int)(won - s->waiters);
    const struct poll_wait *poll = container_of(won, struct poll_wait, waiter);
    int nth = (int)(poll - s->polls), i = 0;
    wh_assert(nth >= 0 && nth < s->fd_cases);
    while (s->cases[i].kind != WH_CASE_FD_ || nth--)
        i++;
    return i;
}

/* What became of the case that woke us with `how`. */
static inline void note(const wh_case *c, int how)
{
    if (c->kind == WH_CASE_RECV_) {
        if (c->ok)
            *c->ok = how == CHAN_DONE;
    } else if (c->kind == WH_CASE_SEND_ && unlikely(how == CHAN_CLOSED)) {
        chan_misuse("wh_select", "sends on a closed channel");
    }
}

enum { SELECT_AGAIN = -4096 }; /* no errno */

/* It could be claimed since park_begin(): takes that back. Returns whether it was not claimed. */
static bool unpark(wh_coro *self, bool shared)
{
    if (!claim(self, shared))
        return false;
    state_set(self, CORO_RUNNING);
    return true;
}

/* All that could be queued is: parks, if nobody has claimed it yet. */
static int park_for_first(struct select *s)
{
    wh_coro *self = s->self;
    int64_t outer_ns = self->deadline_ns;
    if (s->time_ns < outer_ns)
        self->deadline_ns = s->time_ns;
    deadline_arm(self);
    int rc = park_end(self);
    wait_kind_set(self, &wait_op); /* from here on `polls` may be something else */
    self->deadline_ns = outer_ns;
    return rc;
}

/* Queues the channels' cases, from here on it can be claimed; then gives the channels' locks. */
static void queue_chans(struct select *s)
{
    wh_coro *self = s->self;
    self->polls = NULL;
    s->time_ns = WH_NEVER;
    for (int i = 0; i < s->count; i++) {
        s->waiters[i].coro = self;
        list_init(&s->waiters[i].link);
    }
    park_begin(self, &wait_select);
    for (int i = 0; i < s->count; i++)
        if (is_chan(&s->cases[i]))
            queue_chan(s, i);
    chans_unlock(s);
}

/* None is ready: queues, parks, tidies up. The channels are locked, if shared. SELECT_AGAIN: one is
 * ready after all. */
static int wait_for_first(struct select *s)
{
    wh_coro *self = s->self;
    int64_t outer_ns = self->deadline_ns;
    int queued = 0, at = 0, rc = QUEUED, result;
    queue_chans(s);
    while (queued < s->count && rc == QUEUED) {
        rc = queue_case(s, queued, &s->polls[at]);
        at += s->cases[queued].kind == WH_CASE_FD_;
        queued++;
    }
    if (unlikely(rc != QUEUED) && unpark(self, s->shared)) {
        wait_kind_set(self, &wait_op);
        unqueue(s, queued, -1);
        if (rc == -EBADF)
            result = queued - 1; /* the descriptor is being closed: a call on it would say so */
        else
            result = rc == READY_AFTER_ALL || rc == -EAGAIN ? SELECT_AGAIN : rc;
    } else {
        rc = park_for_first(s);
        result = rc >= 0 ? won_case(s) : -1;
        unqueue(s, queued, result);
        if (likely(rc >= 0))
            note(&s->cases[result], rc);
        else if (rc == -ETIMEDOUT && s->time_ns <= outer_ns)
            result = timed_case(s);
        else
            result = rc;
    }
    if (s->fd_cases)
        polls_end(s);
    return result;
}

/* ---- The call ---- */

/* Makes the chosen case happen; alone, so there is nothing to lock, and nobody could be before us.
 */
static inline int happen_alone(wh_coro *self, const wh_case *cases, int chosen)
{
    struct waiter *woken;
    bool happened = happen(self, &cases[chosen], false, &woken);
    wh_assert(happened);
    if (woken)
        waiter_wake(woken, CHAN_DONE, false);
    return served(self, chosen);
}

/* Draws one of those that are ready; fds are so many of them. */
static int draw(struct select *s, unsigned others, unsigned fds)
{
    unsigned nth = random_below(s->self->worker, others + fds);
    if (nth >= others)
        return served(s->self, nth_ready_fd(s, nth - others));
    return happen_alone(s->self, s->cases, nth_ready(s->self, s->cases, nth));
}

static void polls_reset(struct select *s)
{
    for (int i = 0; i < s->fd_cases; i++)
        s->polls[i].op.state = OP_IDLE;
}

static unsigned count_ready(const struct select *s)
{
    unsigned found = 0;
    for (int i = 0; i < s->count; i++)
        found += ready(s->self, &s->cases[i]);
    return found;
}

/* One of the cases that are ready, each as likely; -1: none is. The channels are locked. */
static int choose(const struct select *s, int *ret_otherwise)
{
    uint32_t found = 0;
    int chosen = -1, at = 0;
    for (int i = 0; i < s->count; i++) {
        const wh_case *c = &s->cases[i];
        bool is_ready = false;
        if (c->kind < WH_CASE_FD_)
            is_ready = ready(s->self, c);
        else if (c->kind == WH_CASE_FD_)
            is_ready = s->fds[at++].revents;
        else
            *ret_otherwise = i;
        if (is_ready && random_below(s->self->worker, ++found) == 0)
            chosen = i;
    }
    return chosen;
}

static int select_shared(struct select *s)
{
    wh_coro *self = s->self;
    chans_sort(s);
    for (;;) {
        int otherwise = -1;
        if (s->fd_cases) {
            polls_reset(s);
            poll_now(s);
        }
        chans_lock(s);
        int chosen = choose(s, &otherwise);
        if (chosen < 0 && otherwise < 0) {
            int result = wait_for_first(s);
            if (result != SELECT_AGAIN)
                return result;
            yield(self); /* a close may have to come to its end */
            result = ended(self);
            if (result < 0)
                return result;
            continue;
        }
        struct waiter *woken = NULL;
        bool happened = chosen >= 0 && happen(self, &s->cases[chosen], true, &woken);
        chans_unlock(s);
        if (woken)
            waiter_wake(woken, CHAN_DONE, true);
        if (happened)
            return served(self, chosen);
        if (chosen < 0)
            return refuse(self, otherwise);
    }
}

static int select_alone(struct select *s, unsigned others, int otherwise)
{
    int result;
    do {
        if (s->fd_cases) {
            polls_reset(s);
            unsigned fds = poll_now(s);
            if (others + fds)
                return draw(s, others, fds);
            if (otherwise >= 0)
                return refuse(s->self, otherwise);
        }
        result = wait_for_first(s);
        if (likely(result != SELECT_AGAIN))
            break;
        if (unlikely(s->self->worker->shared)) {
            s->shared = true; /* since it has waited for its polls to end */
            return select_shared(s);
        }
        /* The time of a case has come while the others were queued. */
        others = count_ready(s);
    } while (s->fd_cases || !others);
    return likely(result != SELECT_AGAIN) ? result : draw(s, others, 0);
}

/* With memory for waiters and polls. */
static int select_in(struct select *s, void *memory, unsigned others, int otherwise)
{
    s->waiters = memory;
    s->polls = (struct poll_wait *)(s->waiters + s->count);
    s->fds = (struct pollfd *)(s->polls + s->fd_cases);
    s->chans = (wh_chan **)(s->fds + s->fd_cases);
    if (likely(!s->shared))
        return select_alone(s, others, otherwise);
    return select_shared(s);
}

__attribute__((noinline)) static int select_slow(wh_coro *self, const wh_case *cases, int count,
                                                 int fd_cases, unsigned others, int otherwise)
{
    struct select s = {.self = self, .cases = cases, .count = count, .fd_cases = fd_cases};
    s.shared = self->worker->shared;
    size_t bytes = (size_t)(count + 1) * sizeof *s.waiters +
                   (size_t)fd_cases * (sizeof *s.polls + sizeof *s.fds) +
                   (size_t)count * sizeof *s.chans;
    int result = -ENOMEM;
    if (likely(count <= ON_STACK_CASES)) {
        result = select_in(&s, alloca(bytes), others, otherwise);
    } else {
        void *memory = mem_alloc(bytes);
        if (memory)
            result = select_in(&s, memory, others, otherwise);
        mem_free(memory);
    }
    return leave(self, result);
}

__attribute__((noinline)) static int select_any(wh_coro *self, const wh_case *cases, int count)
{
    int fd_cases = 0;
    for (int i = 0; i < count; i++)
        fd_cases += cases[i].kind == WH_CASE_FD_;
    return select_slow(self, cases, count, fd_cases, 0, -1);
}

int wh_select_n(const wh_case *cases, int count)
{
    wh_coro *self = enter("wh_select");
    wh_assert(count >= 0 && count <= CASES_MAX);
    int rc = ended_by_turn(self);
    if (unlikely(rc < 0))
        return leave(self, refuse(self, rc));
    if (unlikely(self->worker->shared))
        return select_any(self, cases, count);

    int last = -1, otherwise = -1, fd_cases = 0;
    unsigned found = 0;
    for (int i = 0; i < count; i++) {
        if (ready(self, &cases[i])) {
            found++;
            last = i;
        } else if (unlikely(cases[i].kind >= WH_CASE_FD_)) {
            if (cases[i].kind == WH_CASE_FD_)
                fd_cases++;
            else
                otherwise = i;
        }
    }
    if (likely(found && !fd_cases)) {
        if (found > 1)
            last = nth_ready(self, cases, random_below(self->worker, found));
        return leave(self, happen_alone(self, cases, last));
    }
    if (otherwise >= 0 && !fd_cases)
        return leave(self, refuse(self, otherwise));
    return select_slow(self, cases, count, fd_cases, found, otherwise);
}
