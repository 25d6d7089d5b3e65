/*
 * copy.c: moving bytes between streams (whorl/copy.h).
 *
 *      fill from's buffer --send--> to                  by rounds: small pieces, all streams
 *
 *      poll from --> splice --> pipe --> splice --> to  large ones, between two descriptors
 *                                 |      |
 *                                 |      `-- takes no more: poll to, the pipe kept
 *                                 `-- the copy ends first: read back into from's buffer
 *
 * A round begins with a wait in the ring, so every round obeys deadline and cancel and lets the
 * others run, also between streams that are always ready. Waiting holds neither buffer (conn.c) nor
 * pipe: a pipe is taken when there is something to move, is empty at the end of the round, and is
 * the worker's again. Only a stream that is stopped by a slow reader holds one.
 *
 * A copy begins with the buffer. A fill that takes all that a buffer of the worker's holds makes it
 * go on by splices, and SMALL_ROUNDS splices of less make it go back. Sockets are non-blocking only
 * in between: the ring's receive costs twice as much of one that is.
 *
 * Files and terminals are copied through the buffer: a splice from them may block the thread.
 *
 * Rejected: the ring's own splice, which goes to a thread of the kernel's, there and back
 * (splice.c). Looking for more before a poll says that there is some: gains nothing.
 */
#include "net/conn.h"
#include "net/splice.h"

#include "sched/recv_buffer.h"
#include "sched/sched.h"

#include <whorl/copy.h>
#include <whorl/coro.h>
#include <whorl/ctx.h>
#include <whorl/io.h>
#include <whorl/time.h>

#include <errno.h>
#include <poll.h>

enum {
    ROOM_BYTES = 64 << 10,         /* of a buffer, once a small one was filled */
    ROOM_WRAPPED_BYTES = 16 << 10, /* where it is held while the stream waits */
    SMALL_BYTES = RECV_BUFFER_BYTES,
    SMALL_ROUNDS = 4,
    SPLICED_MIN_BYTES = 16 << 10, /* less to come is not worth making descriptors non-blocking */
};

#define IDLE_NS_MAX (WH_NEVER / 2) /* beyond it is for ever */

/* Two directions. Each is copied by a coroutine of its own. A third one watches whether anything
 * moves if one of the streams is wrapped: what is written to it cannot be given a deadline and then
 * be written again. */
struct both {
    int64_t idle_ns;
    bool watched;
    wh_ctx *ctx;
    int64_t moved_ns; /* when something last did; atomic */
    int error;        /* the first; atomic */
};

struct copy {
    wh_conn *to, *from;
    int64_t max, moved;
    size_t room;       /* for the next fill */
    ssize_t piece;     /* what the last round received */
    unsigned small;    /* how many in a row were small */
    bool spliced;      /* by these: */
    bool unspliceable; /* found out */
    struct splicer reads, writes;
    struct run_hook hook; /* while it is spliced */
    struct pipe pipe;
    bool piped;        /* `pipe` is this copy's */
    struct both *both; /* or NULL: one direction alone */
};

/* ---- Waiting ---- */

enum step { READABLE, WRITABLE, FILL, SEND, FLUSH };

static size_t sendable(const struct copy *c)
{
    size_t there = wh_conn_buffered(c->from);
    return (int64_t)there < c->max - c->moved ? there : (size_t)(c->max - c->moved);
}

static ssize_t step_now(struct copy *c, enum step step)
{
    switch (step) {
    case READABLE: return wh_poll(wh_conn_fd(c->from), POLLIN);
    case WRITABLE: return wh_poll(wh_conn_fd(c->to), POLLOUT);
    case FILL: return conn_fill(c->from, c->room);
    case FLUSH: return conn_send_buffered(c->to);
    default: return conn_send(c->to, conn_buffered_at(c->from), sendable(c));
    }
}

static int64_t idle_until(const struct both *both)
{
    return __atomic_load_n(&both->moved_ns, __ATOMIC_RELAXED) + both->idle_ns;
}

/* Ends with -ETIMEDOUT when nothing has moved in the other direction either. Before its time that
 * is what the kernel says of a connection, once. */
static ssize_t step_unless_idle(struct copy *c, enum step step)
{
    if (!c->both || c->both->idle_ns == WH_NEVER || c->both->watched)
        return step_now(c, step);
    for (;;) {
        int64_t until_ns = idle_until(c->both);
        ssize_t n = 0;
        WH_WITH_DEADLINE(until_ns)
        {
            n = step_now(c, step);
        }
        if (n != -ETIMEDOUT || wh_now() < until_ns || idle_until(c->both) <= until_ns ||
            wh_ctx_err(NULL) < 0)
            return n;
    }
}

static ssize_t step_in_time(struct copy *c, enum step step)
{
    int64_t ns = step == READABLE || step == FILL ? conn_read_ns(c->from) : conn_write_ns(c->to);
    if (ns == WH_NEVER)
        return step_unless_idle(c, step);
    ssize_t n = 0;
    WH_WITH_TIMEOUT(ns)
    {
        n = step_unless_idle(c, step);
    }
    return n;
}

static void moved(struct copy *c, ssize_t n)
{
    c->moved += n;
    if (c->both && c->both->idle_ns != WH_NEVER)
        __atomic_store_n(&c->both->moved_ns, wh_now(), __ATOMIC_RELAXED);
}

/* ---- Through the buffer: each returns 1 to go on, 0 at the end, or -errno ---- */

/* What was written to `to` before the copy. */
static int send_first(struct copy *c)
{
    ssize_t n;
    while ((n = step_in_time(c, FLUSH)) > 0)
        moved(c, 0); /* not by the copy, but the streams are not idle */
    return n < 0 ? (int)n : 1;
}

static int send_buffered(struct copy *c)
{
    while (sendable(c)) {
        ssize_t n = step_in_time(c, SEND);
        if (n < 0)
            return (int)n;
        wh_conn_consume(c->from, (size_t)n);
        moved(c, n);
    }
    return 1;
}

static int buffer_round(struct copy *c)
{
    bool wrapped = wh_conn_fd(c->from) < 0;
    if (wrapped) {
        wh_yield(); /* it may never park */
        int rc = wh_ctx_err(NULL);
        if (rc < 0)
            return rc;
    }
    ssize_t n = step_in_time(c, FILL);
    if (n <= 0)
        return (int)n;
    c->piece = n;
    c->room = n < SMALL_BYTES ? SMALL_BYTES : wrapped ? ROOM_WRAPPED_BYTES : ROOM_BYTES;
    return send_buffered(c);
}

/* ---- Through a pipe: the same ---- */

/* Where what is in the pipe came from, to be read again. Returns 1 or -ENOMEM. */
COLD static int put_back(struct copy *c, size_t len)
{
    char *bytes = mem_alloc(len);
    c->piped = false;
    if (!bytes || !pipe_read(&c->pipe, bytes, len)) {
        mem_free(bytes);
        pipe_drop(&c->pipe);
        conn_lost(c->from, -ENOMEM);
        return -ENOMEM;
    }
    pipe_give(&c->pipe);
    conn_put_back(c->from, bytes, len);
    return 1;
}

/* The pipe has `len` bytes; it is given back. -EINVAL: `to` cannot be spliced to, or not waited for
 * by a poll, which reports what is in its error queue for ever. */
static int empty_pipe(struct copy *c, size_t len)
{
    int rc = POLLOUT;
    c->piped = true;
    while (len && rc > 0) {
        ssize_t n = splice_out(&c->pipe, &c->writes, len);
        if (likely(n > 0)) {
            conn_sent(c->to, n);
            moved(c, n);
            len -= (size_t)n;
            rc = POLLOUT;
        } else if (n == -EAGAIN) {
            rc = rc & POLLOUT ? (int)step_in_time(c, WRITABLE) : -EINVAL;
        } else {
            rc = n < 0 ? (int)n : -EIO;
            if (rc != -EINVAL)
                conn_sent(c->to, rc);
        }
    }
    if (likely(!len)) {
        c->piped = false;
        pipe_give(&c->pipe);
        return 1;
    }
    return put_back(c, len) < 0 && rc == -EINVAL ? -ENOMEM : rc;
}

static int splice_round(struct copy *c)
{
    int ready = (int)step_in_time(c, READABLE);
    if (ready < 0)
        return ready;
    if (unlikely(!pipe_take(&c->pipe))) {
        c->room = ROOM_BYTES;
        return buffer_round(c);
    }
    int64_t left = c->max - c->moved;
    ssize_t n = splice_in(&c->reads, &c->pipe, left < PIPE_BYTES ? (size_t)left : PIPE_BYTES);
    if (unlikely(n <= 0)) {
        pipe_give(&c->pipe);
        if (n == -EAGAIN && !(ready & POLLIN))
            return -EINVAL; /* as in empty_pipe() */
        /* The end; or a byte sent with MSG_OOB, at which a splice stops as if that were one, and
         * which a receive passes over. */
        if (n == 0 || n == -EAGAIN)
            return buffer_round(c);
        if (n != -EINVAL)
            conn_received(c->from, n);
        return (int)n;
    }
    conn_received(c->from, n);
    c->piece = n;
    return empty_pipe(c, (size_t)n);
}

/* Sockets block again as before, and there is no pipe any more: also of one that has been
 * abandoned, by the time the run is over. */
static void undo_splices(struct copy *c)
{
    splice_end(&c->reads);
    splice_end(&c->writes);
    if (unlikely(c->piped))
        pipe_drop(&c->pipe);
}

static void abandoned(struct run_hook *hook)
{
    undo_splices(container_of(hook, struct copy, hook));
}

/* Both can be, or none is. */
static void begin_splices(struct copy *c)
{
    if (c->unspliceable || c->max - c->moved < SPLICED_MIN_BYTES)
        return;
    c->unspliceable = splice_masked() || !splice_begin(&c->reads, wh_conn_fd(c->from));
    if (c->unspliceable)
        return;
    c->spliced = splice_begin(&c->writes, wh_conn_fd(c->to));
    if (!c->spliced) {
        splice_end(&c->reads);
        c->unspliceable = true;
        return;
    }
    INSIDE(self, "wh_copy");
    c->hook = (struct run_hook){.over = abandoned};
    run_hook_add(self->worker->run, &c->hook);
}

static void end_splices(struct copy *c)
{
    if (!c->spliced)
        return;
    INSIDE(self, "wh_copy");
    (void)self;
    run_hook_remove(&c->hook);
    undo_splices(c);
    c->spliced = false;
}

/* ---- One direction ---- */

/* What the next round is to be. */
static void choose(struct copy *c)
{
    c->small = c->piece < SMALL_BYTES ? c->small + 1 : 0;
    if (!c->spliced && !c->small)
        begin_splices(c);
    else if (c->small >= SMALL_ROUNDS)
        end_splices(c);
}

/* Returns 0 at the end or the limit, or -errno. */
static int copy_all(struct copy *c)
{
    int rc = send_first(c);
    if (rc > 0)
        rc = send_buffered(c);
    while (rc > 0 && c->moved < c->max) {
        rc = c->spliced ? splice_round(c) : buffer_round(c);
        if (likely(rc > 0)) {
            choose(c);
        } else if (rc == -EINVAL && c->spliced) { /* refused: and nothing has been lost by it */
            end_splices(c);
            c->unspliceable = true;
            rc = send_buffered(c);
        }
    }
    end_splices(c);
    return rc < 0 ? rc : 0;
}

static int copy(struct copy *c, const char *call)
{
    c->room = SMALL_BYTES;
    conn_take_reading(c->from, call);
    conn_take_writing(c->to, call);
    int rc = copy_all(c);
    conn_leave_writing(c->to);
    conn_leave_reading(c->from);
    return rc;
}

int64_t wh_copy(wh_conn *to, wh_conn *from, int64_t max, uint64_t *ret_moved)
{
    struct copy c = {.to = to, .from = from, .max = max};
    int rc = max < 0 ? -EINVAL : copy(&c, "wh_copy");
    if (ret_moved)
        *ret_moved = (uint64_t)c.moved;
    return rc < 0 ? rc : c.moved;
}

/* ---- Both ---- */

/* The first error ends the other direction, too. */
static void fail(struct both *both, int error)
{
    int none = 0;
    if (__atomic_compare_exchange_n(&both->error, &none, error, false, __ATOMIC_RELAXED,
                                    __ATOMIC_RELAXED))
        wh_ctx_cancel(both->ctx, error);
}

static void copy_one_way(struct copy *c)
{
    int rc = copy(c, "wh_copy_both");
    if (rc == 0) {
        rc = wh_conn_shutdown(c->to);
        /* A peer that has gone altogether: what comes from there says how. */
        if (rc == -EOPNOTSUPP || rc == -ENOTCONN)
            rc = 0;
    }
    if (rc < 0)
        fail(c->both, rc);
}

/* Waits for the other direction; the end of the caller's context reaches it by itself, a cancel of
 * the caller alone is passed on. */
static void join_other(struct both *both, wh_coro *other)
{
    int rc = wh_join(other, NULL);
    if (likely(rc == 0))
        return;
    fail(both, rc);
    WH_SHIELD
    {
        (void)wh_join(other, NULL);
    }
}

static void end_watch(wh_coro *watcher)
{
    wh_cancel(watcher);
    WH_SHIELD
    {
        (void)wh_join(watcher, NULL);
    }
}

/* Ends both directions when nothing has moved for too long. */
static void watch_idle(struct both *both)
{
    int rc = 0;
    int64_t until_ns;
    while (rc == 0 && (until_ns = idle_until(both)) > wh_now())
        rc = wh_sleep_until(until_ns);
    if (rc == 0)
        fail(both, -ETIMEDOUT);
}

static int copy_both(struct copy *one, struct copy *other, struct both *both)
{
    const unsigned worker = wh_worker() <= wh_workers() ? wh_worker() : 0;
    const wh_spawn_options copies = {.name = "copy", .worker = worker};
    const wh_spawn_options watches = {.name = "copy idle", .worker = worker};
    wh_coro *coro = NULL, *watcher = NULL;
    WH_WITH_CANCEL(ctx)
    {
        both->ctx = ctx;
        int rc = !ctx ? -ENOMEM : 0;
        if (rc == 0 && both->watched)
            rc = wh_spawn(&watcher, &watches, watch_idle, both);
        if (rc == 0)
            rc = wh_spawn(&coro, &copies, copy_one_way, other);
        if (rc == 0) {
            copy_one_way(one);
            join_other(both, coro);
        } else {
            both->error = rc;
        }
        if (watcher)
            end_watch(watcher);
    }
    return both->error;
}

int wh_copy_both(wh_conn *a, wh_conn *b, int64_t idle_ns, wh_copied *ret_copied)
{
    if (idle_ns < 0)
        return -EINVAL;
    if (idle_ns > IDLE_NS_MAX)
        idle_ns = 0;
    struct both both = {.idle_ns = idle_ns ? idle_ns : WH_NEVER, .moved_ns = wh_now()};
    both.watched = idle_ns && (wh_conn_fd(a) < 0 || wh_conn_fd(b) < 0);
    struct copy there = {.to = b, .from = a, .max = WH_COPY_ALL, .both = &both};
    struct copy back = {.to = a, .from = b, .max = WH_COPY_ALL, .both = &both};
    int rc = copy_both(&there, &back, &both);
    if (ret_copied)
        *ret_copied = (wh_copied){(uint64_t)there.moved, (uint64_t)back.moved};
    return rc;
}
