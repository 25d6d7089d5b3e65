/*
 * await.c: waiting for an operation of the engine.
 *
 * The operation is in the coroutine's descriptor, not on its stack: a stack that is parked for long
 * is touched by nobody.
 *
 * fd_ops counts, for each descriptor, the operations in flight on it. A close looks there to see
 * whether something has to be ended first. While it does that, FD_CLOSING is set and none begins:
 * one that did would keep the file open after the close, and nobody would ever end it.
 *
 * The kernel can miss an operation that it is asked to cancel: one that is between two of its hands
 * (a poll that has fired and its retry, or the way to a worker thread). So asking is repeated until
 * the operation has ended.
 */
#include "sched/sched.h"

#include <errno.h>
#include <sys/socket.h>

/* After this time without a completion a cancel is asked for again. */
#define ASK_AGAIN_NS (1 * WH_MILLISECOND)

static bool op_withdraw(wh_coro *coro)
{
    struct worker *w = coro->worker;
    engine_cancel(w->engine, &coro->op);
    if (timer_armed(&coro->timer))
        wheel_cancel(&w->wheel, &coro->timer);
    wheel_arm(&w->wheel, &coro->timer, w->now_ns + ASK_AGAIN_NS);
    return false; /* its completion wakes the coroutine */
}

const struct wait_kind wait_op = {"operation", op_withdraw};

static const struct wait_kind wait_op_shielded = {"operation", NULL};

static int32_t submit_and_park(wh_coro *self, const struct wait_kind *kind)
{
    struct worker *w = self->worker;
    uint32_t *count = NULL;
    if (op_table[self->op.code].takes_fd && (uint32_t)self->op.fd < w->fd_ops_count)
        count = &w->fd_ops[self->op.fd];

    if (count) {
        if (unlikely(*count & FD_CLOSING))
            return -EBADF;
        ++*count;
    }
    w->ops_in_flight++;
    engine_submit(w->engine, &self->op);
    int why = park(self, kind);
    w->ops_in_flight--;
    if (count)
        --*count;

    wh_assert(self->op.state == OP_DONE);
    self->op.state = OP_IDLE;
    int32_t res = self->op.res;
    /* What runs in a thread of the kernel is interrupted by a cancel. */
    if (unlikely(res == -EINTR && (why || (count && *count & FD_CLOSING))))
        res = -ECANCELED;
    if (unlikely(res == -ECANCELED))
        return why ? why : -EBADF; /* nobody here asked: a close did */
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
        return res;
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

static void cancel_fd(wh_coro *self, int fd)
{
    self->op = (struct op){.code = OP_CANCEL_FD, .fd = fd};
    op_await_shielded(self);
}

int fd_end_operations(wh_coro *self, int fd)
{
    struct worker *w = self->worker;
    if ((uint32_t)fd >= w->fd_ops_count) {
        cancel_fd(self, fd); /* whether anything is in flight is not known */
        return 0;
    }
    uint32_t *count = &w->fd_ops[fd];
    if (likely(!*count))
        return 0;
    if (*count & FD_CLOSING)
        return -EBADF;

    *count |= FD_CLOSING;
    for (;;) {
        cancel_fd(self, fd);
        wh_yield(); /* those whose operation has ended run, and leave the count */
        if (*count == FD_CLOSING)
            break;
        sleep_shielded(self, ASK_AGAIN_NS / 16);
    }
    *count = 0;
    return 0;
}
