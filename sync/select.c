/*
 * select.c: waiting for the first of several things (whorl/select.h).
 *
 * A select first looks at all cases. If some are ready it draws one of them, each as likely, and
 * that is all: nothing was queued. Descriptors are asked about with one poll(2) for all.
 *
 * Otherwise it queues one waiter a case, all naming this coroutine, and parks. The first that finds
 * it parked wins (queue_take() claims it); its case has then happened completely, element and all.
 * Once it runs again it takes the other waiters off their queues, before anything else can run:
 *
 *      RUNNING: look -- ready ---------------------------> case
 *         |
 *      queue waiters, start polls; PARKED ----- won -----> unqueue; end polls --> case
 *                                     `-- interrupted ---> unqueue; end polls --> -errno
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

enum { ON_STACK_CASES = 16, CASES_MAX = 65535 };

struct select {
    wh_coro *self;
    const wh_case *cases;
    int count;
    int fd_cases;
    struct waiter *waiters;  /* one a case */
    struct poll_wait *polls; /* one an fd case, in their order; started ones are not OP_IDLE */
    struct pollfd *fds;      /* the same */
    int64_t time_ns;         /* the earliest time among the cases */
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

/* Whether a case other than of a descriptor could happen now. */
static inline bool ready(const wh_coro *self, const wh_case *c)
{
    if (likely(c->kind == WH_CASE_RECV_))
        return c->object && chan_can_recv(c->object);
    switch (c->kind) {
    case WH_CASE_SEND_: return c->object && chan_can_send(c->object);
    case WH_CASE_AFTER_: return c->ns <= 0;
    case WH_CASE_AT_: return time_has_come(self, c->ns);
    case WH_CASE_TICK_: return c->object && ((wh_timer *)c->object)->pending;
    case WH_CASE_EVENT_: return c->object && ((wh_event *)c->object)->set;
    case WH_CASE_DONE_: return c->object && ctx_ended(c->object);
    case WH_CASE_JOINABLE_: return c->object && ((wh_coro *)c->object)->state == CORO_DEAD;
    default: return false;
    }
}

/* Makes a case happen that is ready. */
static inline void happen(const wh_case *c)
{
    if (likely(c->kind == WH_CASE_RECV_)) {
        int rc = chan_recv_now(c->object, c->data);
        wh_assert(rc >= 0);
        if (c->ok)
            *c->ok = rc == CHAN_DONE;
    } else if (c->kind == WH_CASE_SEND_) {
        if (unlikely(((wh_chan *)c->object)->closed))
            chan_misuse("wh_select", "sends on a closed channel");
        bool sent = chan_send_now(c->object, c->data);
        wh_assert(sent);
    } else if (c->kind == WH_CASE_TICK_) {
        timer_take(c->object);
    }
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

/* ---- Queueing ---- */

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

static void queue_done(struct select *s, int i, wh_ctx *ctx)
{
    struct list *queue = ctx_waiters(ctx);
    if (queue)
        queue_at(s, i, queue, NULL);
    at_time(s, i, ctx_deadline(ctx));
}

static int queue_join(struct select *s, int i, wh_coro *coro)
{
    if (unlikely(coro == s->self))
        return -EDEADLK;
    if (unlikely(coro->state == CORO_FREE || coro->flags & CORO_DETACHED))
        coro_misuse(s->self, "wh_select", "waits for a coroutine that has no handle");
    if (coro->joiner && waiter_waits(coro->joiner))
        return -EBUSY;
    coro->joiner = &s->waiters[i];
    return 0;
}

/* Queues a case that is not ready. Returns 0; 1: it is, after all; -EBUSY, -EDEADLK. */
static int queue_case(struct select *s, int i, struct poll_wait *poll)
{
    const wh_case *c = &s->cases[i];
    s->waiters[i].coro = s->self;
    list_init(&s->waiters[i].link);
    switch (c->kind) {
    case WH_CASE_AFTER_: at_time(s, i, deadline_after(s->self, c->ns)); return 0;
    case WH_CASE_AT_: at_time(s, i, c->ns); return 0;
    case WH_CASE_FD_: return poll_start(s->self, poll, c->fd, (short)c->events) < 0;
    default: break;
    }
    if (!c->object)
        return 0;
    switch (c->kind) {
    case WH_CASE_RECV_: queue_at(s, i, &((wh_chan *)c->object)->receivers, c->data); break;
    case WH_CASE_SEND_: queue_at(s, i, &((wh_chan *)c->object)->senders, c->data); break;
    case WH_CASE_TICK_: queue_at(s, i, &((wh_timer *)c->object)->waiters, NULL); break;
    case WH_CASE_EVENT_: queue_at(s, i, queue_of(&((wh_event *)c->object)->waiters), NULL); break;
    case WH_CASE_DONE_: queue_done(s, i, c->object); break;
    case WH_CASE_JOINABLE_: return queue_join(s, i, c->object);
    default: break;
    }
    return 0;
}

static void unqueue(struct select *s, int queued)
{
    for (int i = 0; i < queued; i++) {
        list_unlink(&s->waiters[i].link);
        if (likely(s->cases[i].kind != WH_CASE_JOINABLE_))
            continue;
        wh_coro *coro = s->cases[i].object;
        if (coro && coro->state != CORO_DEAD && coro->joiner == &s->waiters[i])
            coro->joiner = NULL;
    }
}

/* ---- Waiting ---- */

static bool select_withdraw(wh_coro *coro)
{
    (void)coro;
    return true; /* its waiters are stale from now on, and are taken off when it runs */
}

static const struct wait_kind wait_select = {
    .reason = "select", .withdraw = select_withdraw, .has_polls = true};

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

static int park_for_first(struct select *s)
{
    wh_coro *self = s->self;
    int64_t outer_ns = self->deadline_ns;
    if (s->time_ns < outer_ns)
        self->deadline_ns = s->time_ns;
    deadline_arm(self);
    int rc = park(self, &wait_select);
    wait_kind_set(self, &wait_op); /* from here on `polls` may be something else */
    self->deadline_ns = outer_ns;
    return rc;
}

/* None is ready: queues, parks, tidies up. */
static int wait_for_first(struct select *s)
{
    wh_coro *self = s->self;
    self->polls = NULL;
    s->time_ns = WH_NEVER;
    int64_t outer_ns = self->deadline_ns;
    int queued = 0, at = 0, rc = 0;
    while (queued < s->count && rc == 0) {
        rc = queue_case(s, queued, &s->polls[at]);
        at += s->cases[queued].kind == WH_CASE_FD_;
        queued++;
    }
    int result;
    if (likely(rc == 0)) {
        rc = park_for_first(s);
        unqueue(s, queued);
        if (likely(rc >= 0)) {
            result = won_case(s);
            note(&s->cases[result], rc);
        } else if (rc == -ETIMEDOUT && s->time_ns <= outer_ns) {
            result = timed_case(s);
        } else {
            result = rc;
        }
    } else {
        unqueue(s, queued);
        result = rc < 0 ? rc : queued - 1;
    }
    if (s->fd_cases)
        polls_end(s);
    return result;
}

/* ---- The call ---- */

/* Draws one of those that are ready; fds are so many of them. */
static int draw(struct select *s, unsigned others, unsigned fds)
{
    unsigned nth = random_below(s->self->worker, others + fds);
    if (nth >= others)
        return served(s->self, nth_ready_fd(s, nth - others));
    int chosen = nth_ready(s->self, s->cases, nth);
    happen(&s->cases[chosen]);
    return served(s->self, chosen);
}

/* With memory for waiters and polls. */
static int select_in(struct select *s, void *memory, unsigned others, int otherwise)
{
    s->waiters = memory;
    s->polls = (struct poll_wait *)(s->waiters + s->count);
    s->fds = (struct pollfd *)(s->polls + s->fd_cases);
    if (s->fd_cases) {
        for (int i = 0; i < s->fd_cases; i++)
            s->polls[i].op.state = OP_IDLE;
        unsigned fds = poll_now(s);
        if (others + fds)
            return draw(s, others, fds);
        if (otherwise >= 0)
            return refuse(s->self, otherwise);
    }
    return wait_for_first(s);
}

__attribute__((noinline)) static int select_slow(wh_coro *self, const wh_case *cases, int count,
                                                 int fd_cases, unsigned others, int otherwise)
{
    struct select s = {.self = self, .cases = cases, .count = count, .fd_cases = fd_cases};
    size_t bytes = (size_t)(count + 1) * sizeof *s.waiters +
                   (size_t)fd_cases * (sizeof *s.polls + sizeof *s.fds);
    if (likely(count <= ON_STACK_CASES))
        return select_in(&s, alloca(bytes), others, otherwise);
    void *memory = mem_alloc(bytes);
    if (!memory)
        return -ENOMEM;
    int result = select_in(&s, memory, others, otherwise);
    mem_free(memory);
    return result;
}

int wh_select_n(const wh_case *cases, int count)
{
    wh_coro *self = self_or_panic("wh_select");
    wh_assert(count >= 0 && count <= CASES_MAX);
    int rc = ended_by_turn(self);
    if (unlikely(rc < 0))
        return refuse(self, rc);

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
        happen(&cases[last]);
        return served(self, last);
    }
    if (otherwise >= 0 && !fd_cases)
        return refuse(self, otherwise);
    return select_slow(self, cases, count, fd_cases, found, otherwise);
}
