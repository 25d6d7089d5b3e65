/*
 * await.c: waiting for an operation of the engine.
 *
 * The operation is in the coroutine's descriptor, not on its stack: a stack that is parked for long
 * is touched by nobody.
 *
 * Those that wait for an operation on a descriptor are in that descriptor's list (worker->fds). A
 * close finds there what it has to end first, by operation and not by file: the number may have
 * been given a new file meanwhile by someone who knows nothing of us, and a duplicate of the
 * descriptor is not closed. While it waits for them (fd->closer), none begins: one that did would
 * keep the file open after the close, and nobody would ever end it.
 *
 * A select waits for descriptors by polls of its own, several at a time; they are in the list too.
 * Whatever wakes the select, it waits for the completion of them all before it returns.
 *
 * The kernel can miss an operation that it is asked to cancel: one that is between two of its hands
 * (a poll that has fired and its retry, or the way to a worker thread). So asking is repeated, ever
 * more slowly, until the operation has ended.
 */
#include "sched/sched.h"

#include <errno.h>
#include <sys/socket.h>

/* After this time without a completion a cancel is asked for again; it doubles, this often. */
#define ASK_AGAIN_NS (1 * WH_MILLISECOND)
enum { ASKS_DOUBLED_MAX = 7 };

static bool op_withdraw(wh_coro *coro)
{
    struct worker *w = coro->worker;
    engine_cancel(w->engine, &coro->op);
    if (timer_armed(&coro->timer))
        wheel_cancel(&w->wheel, &coro->timer);
    wheel_arm(&w->wheel, &coro->timer, w->now_ns + (ASK_AGAIN_NS << coro->op.asks));
    if (coro->op.asks < ASKS_DOUBLED_MAX)
        coro->op.asks++;
    return false; /* its completion wakes the coroutine */
}

const struct wait_kind wait_op = {.withdraw = op_withdraw};

static const struct wait_kind wait_op_shielded = {.reason = NULL};

/* The list of the descriptor that the operation is on; NULL when it is on none. */
static inline struct fd_waiters *waiters_of(const struct worker *w, const struct op *op)
{
    bool listed = op_table[op->code].takes_fd && (uint32_t)op->fd < w->fds_count;
    return listed ? &w->fds[op->fd] : NULL;
}

/* A closer is woken behind those that leave, and until it has run nobody can begin anew. */
static inline void waiters_left(struct fd_waiters *fd)
{
    wh_assert(fd->leaving > 0);
    fd->leaving--;
    if (unlikely(fd->closer && !fd->leaving && !fd->first && !fd->polls))
        wake(fd->closer, 0);
}

void op_completed(struct op *op)
{
    wh_coro *coro = container_of(op, wh_coro, op);
    wh_assert(coro->state == CORO_PARKED);
    struct fd_waiters *fd = waiters_of(coro->worker, op);
    if (fd) {
        /* Now, because the run queue wants the link. */
        wh_coro **at = &fd->first;
        while (*at != coro)
            at = &(*at)->next;
        *at = coro->next;
        fd->leaving++;
    }
    wake(coro, coro->wake); /* keeps why it was interrupted, if it was */
}

static int32_t submit_and_park(wh_coro *self, const struct wait_kind *kind)
{
    struct worker *w = self->worker;
    struct fd_waiters *fd = waiters_of(w, &self->op);
    if (fd) {
        if (unlikely(fd->closer))
            return -EBADF;
        self->next = fd->first;
        fd->first = self;
    }
    w->ops_in_flight++;
    engine_submit(w->engine, &self->op);
    int why = park(self, kind);
    w->ops_in_flight--;
    if (fd)
        waiters_left(fd);

    wh_assert(self->op.state == OP_DONE);
    self->op.state = OP_IDLE;
    int32_t res = self->op.res;
    /* What runs in a thread of the kernel is interrupted by a cancel. */
    if (unlikely(why && (res == -ECANCELED || res == -EINTR)))
        return why;
    return res;
}

/* The kernel says "not ready" of a descriptor that is non-blocking: waits until it is. */
COLD static int32_t retry_when_ready(wh_coro *self)
{
    struct op wanted = self->op;
    int32_t res;
    do {
        res = ended(self);
        if (res < 0)
            break;
        self->op = (struct op){.code = OP_POLL, .fd = wanted.fd};
        self->op.flags = (uint32_t)op_table[wanted.code].poll_events;
        deadline_arm(self);
        res = submit_and_park(self, &wait_op);
        if (res < 0)
            break;
        self->op = wanted;
        deadline_arm(self);
        res = submit_and_park(self, &wait_op);
    } while (res == -EAGAIN);
    return res;
}

int32_t op_await(wh_coro *self, int flags)
{
    int32_t res = ended(self);
    if (unlikely(res < 0))
        return refuse(self, res);
    deadline_arm(self);
    res = submit_and_park(self, &wait_op);
    if (unlikely(res == -EAGAIN) && op_table[self->op.code].poll_events && !(flags & MSG_DONTWAIT))
        return retry_when_ready(self);
    return res;
}

int32_t op_await_shielded(wh_coro *self)
{
    return submit_and_park(self, &wait_op_shielded);
}

/* ---- The polls of a select ---- */

int poll_start(wh_coro *self, struct poll_wait *poll, int fd, short events)
{
    struct worker *w = self->worker;
    poll->op = (struct op){.code = OP_POLL, .fd = fd, .flags = (uint32_t)events, .shared = true};
    poll->waiter.coro = self;
    struct fd_waiters *waiters = waiters_of(w, &poll->op);
    if (waiters) {
        if (waiters->closer)
            return -EBADF;
        poll->fd_next = waiters->polls;
        waiters->polls = poll;
    }
    poll->next = self->polls;
    self->polls = poll;
    w->ops_in_flight++;
    engine_submit(w->engine, &poll->op);
    return 0;
}

void poll_cancel(struct poll_wait *poll)
{
    engine_cancel(poll->waiter.coro->worker->engine, &poll->op);
}

static bool polls_withdraw(wh_coro *coro)
{
    (void)coro;
    return false;
}

static const struct wait_kind wait_polls = {
    .reason = "select", .withdraw = polls_withdraw, .has_polls = true};

void polls_await(wh_coro *self)
{
    while (self->polls)
        park(self, &wait_polls);
    wait_kind_set(self, &wait_op);
}

/* Off the coroutine's list and its descriptor's. */
static void poll_leave(struct poll_wait *poll)
{
    struct poll_wait **at = &poll->waiter.coro->polls;
    while (*at != poll)
        at = &(*at)->next;
    *at = poll->next;

    struct fd_waiters *fd = waiters_of(poll->waiter.coro->worker, &poll->op);
    if (!fd)
        return;
    for (at = &fd->polls; *at != poll; at = &(*at)->fd_next)
        ;
    *at = poll->fd_next;
    fd->leaving++;
}

void poll_completed(struct op *op)
{
    struct poll_wait *poll = container_of(op, struct poll_wait, op);
    wh_coro *coro = poll->waiter.coro;
    poll_leave(poll);
    coro->worker->ops_in_flight--;
    /* The first wakes the select; while that awaits the others, the last does. */
    if (!waiter_waits(&poll->waiter))
        return;
    if (wait_kind_of(coro) != &wait_polls)
        waiter_wake(&poll->waiter, 1);
    else if (!coro->polls)
        wake(coro, 0);
}

void poll_finish(struct poll_wait *poll)
{
    wh_assert(poll->op.state == OP_DONE);
    poll->op.state = OP_IDLE;
    struct fd_waiters *fd = waiters_of(poll->waiter.coro->worker, &poll->op);
    if (fd)
        waiters_left(fd);
}

/* ---- Closing ---- */

static const struct wait_kind wait_close = {.reason = "close"};

int fd_end_operations(wh_coro *self, int number)
{
    struct worker *w = self->worker;
    if ((uint32_t)number >= w->fds_count)
        return 0;
    struct fd_waiters *fd = &w->fds[number];
    if (unlikely(fd->closer))
        return -EBADF;
    if (likely(!fd->first && !fd->polls && !fd->leaving))
        return 0;

    for (wh_coro *coro = fd->first; coro; coro = coro->next)
        interrupt(coro, -EBADF);
    for (struct poll_wait *poll = fd->polls; poll; poll = poll->fd_next)
        poll_cancel(poll);
    fd->closer = self;
    park(self, &wait_close); /* until the last has left */
    fd->closer = NULL;
    return 0;
}
