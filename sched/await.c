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
 * Other workers may have operations on it, too. For each descriptor the run keeps which workers
 * have had any since it was last closed (run->fd_users): a bit is set by the first operation of a
 * worker on it and stays. Who closes sets FD_CLOSING, which makes operations fail everywhere from
 * then on, and asks each of the workers whose bits are set, one after the other, by a post; each
 * wakes the closer when it has none left. Then the descriptor is closed, with FD_LAST set as well:
 * an operation that comes now may mean the old file or the next one that gets the number, which can
 * be at work elsewhere before we learn that the close is done. It waits for that, and the kernel
 * decides. The word is cleared by who completes the close: the closer may not run soon. A run that
 * is alone sets the same marks, because it may be shared before the close is done; there an
 * operation that comes during the close stands behind it in the ring, and does not wait.
 *
 * The operation that sets its worker's bit and the closer that sets FD_CLOSING do so in one atomic
 * step each, so either the operation sees the closing, or the closer sees the bit. When a worker is
 * asked, what it had begun before is in its list, and what begins after sees FD_CLOSING.
 *
 * A direct descriptor is its worker's alone (fd_owner()): elsewhere it is -EXDEV. Its list and its
 * word are in that worker's own table (worker->direct).
 *
 * A select waits for descriptors by polls of its own, several at a time; they are in the list too.
 * Whatever wakes the select, it waits for the completion of them all before it returns.
 *
 * The kernel can miss an operation that it is asked to cancel: one that is between two of its hands
 * (a poll that has fired and its retry, or the way to a worker thread). So asking is repeated, ever
 * more slowly, until the operation has ended.
 */
#include "sched/next.h"
#include "sched/recv_buffer.h"

#include <errno.h>
#include <linux/time_types.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>

#define FD_CLOSING (UINT64_C(1) << 63)
#define FD_LAST    (UINT64_C(1) << 62)

static_assert(WORKERS_MAX <= 62, "a bit each, and the two above");

/* After this time without a completion a cancel is asked for again; it doubles, this often. */
#define ASK_AGAIN_NS (1 * WH_MILLISECOND)
enum { ASKS_DOUBLED_MAX = 7 };

/* Of a parked stack, from its pointer up: to the caller of wh_recv(). */
enum { FRAME_LINES = 4 };

/* Between two tries of what is not ready though a poll returns at once. */
#define PAUSE_NS (5 * WH_MILLISECOND)

static bool op_withdraw(wh_coro *coro, int why)
{
    struct worker *w = coro->worker;
    if (!coro->wake)
        coro->wake = (int16_t)why;
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

bool op_asked(const wh_coro *coro)
{
    return wait_kind_of(coro) == &wait_op && coro->wake;
}

/* Whether it is a direct descriptor that this worker cannot use: -EXDEV, -EBADF, or 0. */
static inline int direct_refused(const struct worker *w, int fd)
{
    if (likely(!fd_is_direct(fd)))
        return 0;
    if (fd_owner(fd) != w->index)
        return fd_owner(fd) < w->run->workers ? -EXDEV : -EBADF;
    return fd_slot(fd) < w->direct_count ? 0 : -EBADF;
}

/* The list of a descriptor; NULL when there is none for that number. A direct one is this worker's.
 */
static inline struct fd_waiters *waiters_at(const struct worker *w, int fd)
{
    if (likely((uint32_t)fd < w->fds_count))
        return &w->fds[fd];
    return fd_is_direct(fd) ? &w->direct[fd_slot(fd)].waiters : NULL;
}

/* That of the operation; NULL when it is on none. */
static inline struct fd_waiters *waiters_of(const struct worker *w, const struct op *op)
{
    return op_table[op->code].takes_fd ? waiters_at(w, op->fd) : NULL;
}

/* Of a descriptor with a list: which workers have used it, and whether it is being closed. */
static inline uint64_t *users_at(const struct worker *w, int fd)
{
    return likely(!fd_is_direct(fd)) ? &w->run->fd_users[fd] : &w->direct[fd_slot(fd)].users;
}

/* Those workers have had operations on the descriptor. */
static inline uint64_t user_bit(const struct worker *w)
{
    return UINT64_C(1) << w->index;
}

/* Whether the worker may begin an operation on the descriptor: 0; -EBADF: somebody is closing it;
 * -EAGAIN: to be asked again when others have run. */
static inline int may_begin(struct worker *w, int number)
{
    uint64_t *users = users_at(w, number);
    uint64_t seen = __atomic_load_n(users, __ATOMIC_RELAXED);
    if (unlikely(w->shared && !(seen & user_bit(w)))) {
        /* acq_rel: pairs with the one in fd_end_operations() */
        seen = __atomic_fetch_or(users, user_bit(w), __ATOMIC_ACQ_REL);
    }
    if (likely(!(seen & FD_CLOSING)))
        return 0;
    if (!(seen & FD_LAST))
        return -EBADF;
    return w->shared ? -EAGAIN : 0; /* alone, it comes behind the close in the ring */
}

static inline void closer_wake(struct worker *w, struct fd_waiters *fd)
{
    wh_coro *closer = fd->closer;
    fd->closer = NULL; /* maybe another worker's; FD_CLOSING keeps the others away */
    wake(closer, 0, w->shared);
}

static inline bool none_left(const struct fd_waiters *fd)
{
    return !fd->leaving && !fd->first && !fd->polls;
}

/* A closer is woken behind those that leave, and until it has run nobody can begin anew. */
static inline void waiters_left(struct worker *w, struct fd_waiters *fd)
{
    wh_assert(fd->leaving > 0);
    fd->leaving--;
    if (unlikely(fd->closer && none_left(fd)))
        closer_wake(w, fd);
}

/* What op_completed() and the next operation on the descriptor will touch, which the kernel's work
 * for a thousand connections has pushed out of the caches. */
void op_prefetch(const struct worker *w, const struct op *op)
{
    __builtin_prefetch(container_of(op, const wh_coro, op), 1);
    if (likely((uint32_t)op->fd < w->fds_count)) {
        __builtin_prefetch(&w->fds[op->fd], 1);
        __builtin_prefetch(&w->run->fd_users[op->fd]);
    }
}

/* The frames that the coroutine returns through: wake() fetches the line at its stack pointer. */
static inline void frames_prefetch(const wh_coro *coro)
{
    const char *sp = coro->context.sp;
    for (int line = 1; line < FRAME_LINES; line++)
        __builtin_prefetch(sp + line * 64);
}

void op_completed(struct op *op)
{
    wh_coro *coro = container_of(op, wh_coro, op);
    wh_assert(state_of(coro) == CORO_PARKED);
    struct worker *w = coro->worker;
    struct fd_waiters *fd = waiters_of(w, op);
    w->ops_in_flight--;
    if (unlikely(op->code >= OP_NOTED)) {
        if (op->code == OP_CLOSE)
            fd_closed(w, op->fd); /* now: its coroutine may not run soon */
        else if (op->code == OP_RECV_BUFFER)
            recv_buffer_completed(w, op);
        else if (op->res >= 0)
            op->res |= FD_DIRECT | w->index << FD_OWNER_SHIFT;
    }
    if (fd) {
        /* Now, because the run queue wants the link. */
        wh_coro **at = &fd->first;
        while (*at != coro)
            at = &(*at)->next;
        *at = coro->next;
        fd->leaving++;
        /* One that may run on another worker cannot leave when it runs. */
        if (unlikely(coro->flags & CORO_MIGRATES))
            waiters_left(w, fd);
    }
    frames_prefetch(coro);
    wake(coro, coro->wake, w->shared); /* keeps why it was interrupted, if it was */
}

/* Inlined, and the switch in it: each frame between the switch and the user's is a line of a cold
 * stack. */
__attribute__((always_inline)) static inline int32_t submit_and_park(wh_coro *self,
                                                                     const struct wait_kind *kind)
{
    struct worker *w = self->worker;
    int rc = direct_refused(w, self->op.fd);
    if (unlikely(rc < 0))
        return rc;
    struct fd_waiters *fd = waiters_of(w, &self->op);
    if (fd) {
        while (unlikely((rc = may_begin(w, self->op.fd)) < 0)) {
            if (rc != -EAGAIN)
                return rc;
            yield(self);
            rc = kind == &wait_op ? ended(self) : 0; /* it may have been cancelled meanwhile */
            if (rc < 0)
                return rc;
            if (kind == &wait_op)
                deadline_arm(self); /* who has come to another worker has left the timer behind */
            w = self->worker;
            rc = direct_refused(w, self->op.fd);
            if (rc < 0)
                return rc;
            fd = waiters_at(w, self->op.fd);
        }
        self->next = fd->first;
        fd->first = self;
    }
    w->ops_in_flight++;
    engine_submit(w->engine, &self->op);
    int why = park_here(self, kind);
    if (fd && likely(!(self->flags & CORO_MIGRATES)))
        waiters_left(w, fd);

    wh_assert(self->op.state == OP_DONE);
    self->op.state = OP_IDLE;
    int32_t res = self->op.res;
    /* What runs in a thread of the kernel is interrupted by a cancel. */
    if (unlikely(why && (res == -ECANCELED || res == -EINTR)))
        return why;
    if (unlikely(why == -EBADF && res == -EAGAIN))
        return why; /* closed: no second try */
    return res;
}

/* Waits for another operation on the descriptor in place of the coroutine's. */
COLD static int32_t await_instead(wh_coro *self, const struct op *op)
{
    self->op = *op;
    deadline_arm(self);
    return submit_and_park(self, &wait_op);
}

/* The kernel says "not ready" of a descriptor that is non-blocking: waits until it is. A poll also
 * returns for what is in a socket's error queue, which is the program's to take out: then there is
 * a pause before the next one, in the list of those that a close finds. */
COLD static int32_t retry_when_ready(wh_coro *self)
{
    static const struct __kernel_timespec pause = {.tv_nsec = PAUSE_NS};
    const struct op wanted = self->op;
    const int events = op_table[wanted.code].poll_events;
    const struct op polls = {.code = OP_POLL, .fd = wanted.fd, .flags = (uint32_t)events};
    const struct op pauses = {
        .code = OP_PAUSE, .fd = wanted.fd, .addr = (uint64_t)(uintptr_t)&pause, .len = 1};
    int32_t res;
    do {
        res = ended(self);
        int32_t seen = res < 0 ? res : await_instead(self, &polls);
        if (seen < 0)
            return seen;
        res = await_instead(self, &wanted);
        if (res == -EAGAIN && !(seen & events)) {
            res = await_instead(self, &pauses);
            if (res == -ETIME)
                res = -EAGAIN;
        }
    } while (res == -EAGAIN);
    return res;
}

int32_t op_await(wh_coro *self, int flags)
{
    int32_t res = ended(self);
    if (unlikely(res < 0))
        return leave(self, refuse(self, res));
    deadline_arm(self);
    res = submit_and_park(self, &wait_op);
    if (unlikely(res == -EAGAIN) && op_table[self->op.code].poll_events && !(flags & MSG_DONTWAIT))
        res = retry_when_ready(self);
    return leave(self, res);
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
    int rc = direct_refused(w, fd);
    if (unlikely(rc < 0))
        return rc;
    struct fd_waiters *waiters = waiters_of(w, &poll->op);
    if (waiters) {
        rc = may_begin(w, fd);
        if (rc < 0)
            return rc;
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

static const struct wait_kind wait_polls = {.reason = "select", .has_polls = true};

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
    if (unlikely(poll->waiter.coro->flags & CORO_MIGRATES))
        waiters_left(poll->waiter.coro->worker, fd); /* it may run on another worker */
}

void poll_completed(struct op *op)
{
    struct poll_wait *poll = container_of(op, struct poll_wait, op);
    wh_coro *coro = poll->waiter.coro;
    struct worker *w = coro->worker;
    poll_leave(poll);
    w->ops_in_flight--;
    /* The first wakes the select; while that awaits the others, the last does. */
    if (!waiter_waits(&poll->waiter))
        return;
    if (wait_kind_of(coro) == &wait_polls) {
        if (!coro->polls)
            wake(coro, 0, w->shared);
    } else if (claim(coro, w->shared)) {
        waiter_wake(&poll->waiter, 1, w->shared);
    }
}

void poll_finish(struct poll_wait *poll)
{
    wh_assert(poll->op.state == OP_DONE);
    poll->op.state = OP_IDLE;
    const wh_coro *coro = poll->waiter.coro;
    struct fd_waiters *fd = waiters_of(coro->worker, &poll->op);
    if (fd && likely(!(coro->flags & CORO_MIGRATES)))
        waiters_left(coro->worker, fd);
}

/* ---- Closing ---- */

static const struct wait_kind wait_close = {.reason = "close"};

/* Asks all operations of this worker on the descriptor to end. */
static void end_local(struct fd_waiters *fd)
{
    for (wh_coro *coro = fd->first; coro; coro = coro->next)
        interrupt(coro, -EBADF);
    for (struct poll_wait *poll = fd->polls; poll; poll = poll->fd_next)
        poll_cancel(poll);
}

/* A closer asks another worker. */
struct close_post {
    struct post post;
    wh_coro *closer;
    int fd;
};

static void close_asked(struct post *post, struct worker *w)
{
    const struct close_post *asked = container_of(post, struct close_post, post);
    struct fd_waiters *fd = waiters_at(w, asked->fd);
    wh_assert(!fd->closer);
    fd->closer = asked->closer; /* the post is on its stack */
    end_local(fd);
    if (none_left(fd))
        closer_wake(w, fd);
}

/* Has all workers but one end theirs. */
COLD static void end_elsewhere(wh_coro *self, int number, uint64_t users, const struct worker *but)
{
    struct run *run = self->worker->run;
    /* acquire: pairs with the release in worker_add() */
    uint32_t workers = __atomic_load_n(&run->workers, __ATOMIC_ACQUIRE);
    for (uint32_t i = 0; i < workers; i++) {
        struct worker *w = run->worker[i];
        if (w == but || !(users & user_bit(w)))
            continue;
        struct close_post asked = {.post.deliver = close_asked, .closer = self, .fd = number};
        park_begin(self, &wait_close);
        worker_post(w, &asked.post);
        park_end(self);
    }
}

/* Sets FD_CLOSING. Returns what there was before. Alone, nobody else does. */
static uint64_t begin_closing(const struct worker *w, uint64_t *users)
{
    if (unlikely(w->shared)) {
        /* acq_rel: pairs with the one in may_begin() */
        return __atomic_fetch_or(users, FD_CLOSING, __ATOMIC_ACQ_REL);
    }
    uint64_t seen = __atomic_load_n(users, __ATOMIC_RELAXED);
    __atomic_store_n(users, seen | FD_CLOSING, __ATOMIC_RELAXED);
    return seen;
}

int fd_end_operations(wh_coro *self, int number)
{
    struct worker *w = self->worker;
    int rc = direct_refused(w, number);
    if (unlikely(rc < 0) || !waiters_at(w, number))
        return rc;
    uint64_t *users = users_at(w, number), seen;
    while (unlikely((seen = begin_closing(self->worker, users)) & FD_CLOSING)) {
        if (!(seen & FD_LAST))
            return -EBADF;
        yield(self); /* the number may have a new file already, which is meant */
        rc = direct_refused(self->worker, number);
        if (rc < 0)
            return rc;
    }
    w = self->worker;
    struct fd_waiters *fd = waiters_at(w, number);
    if (w->run->was_alone && !fd_is_direct(number))
        seen |= 1; /* what worker 0 had begun before then is not noted */
    if (unlikely(!none_left(fd))) {
        fd->closer = self;
        end_local(fd);
        park(self, &wait_close);
    }
    if (unlikely(seen & ~user_bit(w)))
        end_elsewhere(self, number, seen & ~FD_CLOSING, w);
    rc = direct_refused(self->worker, number);
    if (unlikely(rc < 0)) {
        /* It was woken on another worker, from which a direct descriptor cannot be closed. release:
         * pairs with the acquire in may_begin() */
        __atomic_store_n(users, 0, __ATOMIC_RELEASE);
        return rc;
    }
    /* release: pairs with the acquire in may_begin(), with which a worker has set its bit since: it
     * is lost, and no operation was begun */
    __atomic_store_n(users, FD_CLOSING | FD_LAST, __ATOMIC_RELEASE);
    return 0;
}

void fd_closed(const struct worker *w, int number)
{
    if (!waiters_at(w, number))
        return;
    /* release: pairs with the acquire in may_begin() */
    __atomic_store_n(users_at(w, number), 0, __ATOMIC_RELEASE);
}

/* ---- Direct descriptors ---- */

/* As many as the process may have of its own: the kernel allows a table no more. */
static uint32_t direct_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur > FD_SLOTS_MAX)
        return FD_SLOTS_MAX;
    return (uint32_t)limit.rlim_cur;
}

/* The table, of which untouched pages cost nothing. */
COLD static int direct_make(struct worker *w)
{
    uint32_t count = direct_limit();
    void *table = mmap(NULL, count * sizeof *w->direct, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (table == MAP_FAILED)
        return -ENOMEM;
    int rc = w->engine->type->direct_create(w->engine, count);
    if (rc < 0) {
        munmap(table, count * sizeof *w->direct);
        return rc == -EINVAL ? -EOPNOTSUPP : rc; /* a kernel that knows none */
    }
    w->direct = table;
    w->direct_count = count;
    return 0;
}

int direct_have(struct worker *w)
{
    if (likely(w->direct))
        return 0;
    int rc = w->no_direct ? -EOPNOTSUPP : direct_make(w);
    w->no_direct = rc == -EOPNOTSUPP; /* for good; memory may be had next time */
    return rc;
}

void direct_finish(struct worker *w)
{
    if (w->direct)
        munmap(w->direct, w->direct_count * sizeof *w->direct);
    w->direct = NULL;
}
