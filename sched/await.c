/*
 * await.c: waiting for an operation of the engine.
 *
 * The operation is in the coroutine's descriptor, not on its stack: a stack that is parked for long
 * is touched by nobody.
 *
 * fd_ops counts, for each descriptor, the operations in flight on it: wh_close() looks there to see
 * whether something has to be ended first.
 */
#include "sched/sched.h"

#include <errno.h>
#include <sys/socket.h>

static bool op_withdraw(wh_coro *coro)
{
    engine_cancel(coro->worker->engine, &coro->op);
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

    if (count)
        ++*count;
    w->ops_in_flight++;
    engine_submit(w->engine, &self->op);
    int why = park(self, kind);
    w->ops_in_flight--;
    if (count)
        --*count;

    wh_assert(self->op.state == OP_DONE);
    self->op.state = OP_IDLE;
    int32_t res = self->op.res;
    if (unlikely(res == -ECANCELED || (res == -EINTR && why)))
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
