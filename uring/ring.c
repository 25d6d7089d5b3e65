/*
 * ring.c: the io_uring engine.
 *
 * One ring for the thread that created it, SINGLE_ISSUER and DEFER_TASKRUN: the kernel posts
 * completions only while we are in io_uring_enter(2), in batches, and tells by a flag in shared
 * memory (TASKRUN_FLAG) that it would have some to post.
 *
 *      submit: fills an entry of the submission queue              no system call
 *      wait:   one io_uring_enter: submits all, waits, posts       one, or none (or two: fairness)
 *              then takes the completions                          no system call
 *
 * The entry's user_data is the operation's address; 0 marks a cancel, whose own completion tells
 * nothing that the operation's does not. A cancel that is still in the queue when its operation
 * completes may find a newer operation at the same address: it cannot hit it, because the newer
 * one's entry stands behind the cancel in the queue, and a cancel looks only at what was issued
 * before it.
 *
 * When the submission queue is full it is flushed on the spot, and completions are taken at the
 * same time so that the completion queue has room. When the kernel has no memory for more requests
 * (EAGAIN), or wants its completions taken first (EBUSY), we take them and try again, in steps of a
 * millisecond: the operations in flight are what gives memory back.
 *
 * Fairness. An enter takes all operations that can be done at once, and of those that had to wait
 * for their socket and now need not some twenty or forty (since Linux 6.13). Under load the former
 * bring the next of their kind, and the latter are overtaken time and again: so when an enter has
 * brought many, and there are more of the latter, another one takes as many of these, up to a
 * limit.
 *
 * Waking. Another thread posts an empty completion (user_data 0, as a cancel's) into the ring by a
 * message that needs no ring of its own, where the kernel has that. Elsewhere it writes to an
 * eventfd, which the ring polls with one multishot operation (user_data 1). The eventfd is never
 * read: each write is an edge, and its count has room for ever.
 *
 * Submission polling (SQPOLL). A thread of the kernel's looks at the submission queue, so
 * submitting is publishing its tail, and completions are posted as they come: a worker that is
 * busy, or spins, makes no system call. The thread sleeps when nothing came for a while, and says
 * so in a flag; who has published looks at that, and wakes it:
 *
 *      we        tail = n; fence; is NEED_WAKEUP set? then enter
 *      thread    NEED_WAKEUP = 1; fence; is the tail beyond what I took? then on; else sleep
 *
 * It excludes DEFER_TASKRUN. Rings of one run share the thread.
 *
 * All system calls go through io_uring_enter2(), which tests wrap to inject faults.
 */
#include "uring/ring.h"

#include "base/clock.h"

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

/* Newer than some headers that we build with. */
#ifndef IORING_FEAT_NO_IOWAIT
#define IORING_FEAT_NO_IOWAIT (1U << 17)
#endif
#define ENTER_ABS_TIMER        (1U << 5)
#define ENTER_NO_IOWAIT        (1U << 7)
#define REGISTER_CLOCK         29
#define REGISTER_SEND_MSG_RING 31

_Static_assert(OP_HAS_BUFFER == IORING_CQE_F_BUFFER && OP_BUFFER_SHIFT == IORING_CQE_BUFFER_SHIFT,
               "res_flags are those of a completion entry");

/* user_data that is no operation's address. */
enum { DATA_NOTHING = 0, DATA_WAKE = 1 };

enum {
    ENTRIES_MIN = 8,
    ENTRIES_MAX = 32768,
    CQ_FACTOR = 4,
    /* The kernel's inner codes for "interrupted" (ERESTARTSYS...) begin here. An opening that is
     * cancelled on a thread of the ring's lets them out. */
    RESTART_FIRST = 512,
    STARVED_TRIES_MAX = 5000, /* milliseconds without memory before it is said aloud */
    /* A second enter takes what the first has left: when there are so many completions, up to so
     * many more, and only while no more operations are in flight, idle ones included: measured, see
     * docs/DECISIONS.md. */
    EVEN_MIN = 64,
    EVEN_MAX = 128,
    EVEN_IN_FLIGHT_MAX = 5000,
};

struct ring {
    struct engine engine;
    struct io_uring uring;
    unsigned enter_flags;
    struct caps caps;
    struct op_list done;                   /* taken early, to be handed out by the next wait */
    int wake_fd;                           /* an eventfd, or -1: by message */
    bool wake_armed;                       /* wake_fd is being polled */
    bool sqpoll;                           /* a thread of the kernel's submits */
    struct io_uring_buf_ring *buffer_ring; /* or NULL */
    char *buffers;
    unsigned buffers_count;
    size_t buffer_bytes;
    struct engine_stats stats;
};

static struct ring *ring_of(struct engine *engine)
{
    return container_of(engine, struct ring, engine);
}

/* Moves what the completion queue holds to r->done. */
static void reap(struct ring *r)
{
    struct io_uring_cq *cq = &r->uring.cq;
    unsigned head = *cq->khead;
    /* acquire: pairs with the kernel's release of the tail after it wrote the entries */
    unsigned tail = __atomic_load_n(cq->ktail, __ATOMIC_ACQUIRE);
    if (head == tail)
        return;

    unsigned completed = 0;
    for (; head != tail; head++) {
        const struct io_uring_cqe *cqe = &cq->cqes[head & cq->ring_mask];
        if (unlikely(cqe->user_data <= DATA_WAKE)) {
            if (cqe->user_data == DATA_WAKE && !(cqe->flags & IORING_CQE_F_MORE))
                r->wake_armed = false;
            continue;
        }
        struct op *op = (struct op *)(uintptr_t)cqe->user_data;
        wh_assert(op->state == OP_IN_FLIGHT || op->state == OP_CANCELLING);
        wh_assert(!(cqe->flags & IORING_CQE_F_MORE));
        op->res = likely(cqe->res > -RESTART_FIRST) ? cqe->res : -EINTR;
        op->res_flags = cqe->flags;
        op->state = OP_DONE;
        op_list_push(&r->done, op);
        completed++;
    }
    r->stats.completions += completed;
    r->stats.in_flight -= completed;
    /* release: pairs with the kernel's acquire of the head before it reuses the entries */
    __atomic_store_n(cq->khead, head, __ATOMIC_RELEASE);
}

static unsigned kernel_flags(const struct ring *r)
{
    return __atomic_load_n(r->uring.sq.kflags, __ATOMIC_RELAXED);
}

/* Whether the thread that polls the queue is to be woken, after the tail has been published. */
static bool polling_sleeps(const struct ring *r)
{
    /* seq_cst: behind the store of the tail; pairs with the thread's fence between setting the flag
     * and a last look at the tail */
    return __atomic_load_n(r->uring.sq.kflags, __ATOMIC_SEQ_CST) & IORING_SQ_NEED_WAKEUP;
}

/* Lets the kernel see what has been put into the submission queue. */
static inline void tail_publish(struct ring *r)
{
    struct io_uring_sq *sq = &r->uring.sq;
    if (unlikely(r->sqpoll)) {
        /* seq_cst: pairs with the kernel's acquire as below, and before polling_sleeps() looks */
        __atomic_store_n(sq->ktail, sq->sqe_tail, __ATOMIC_SEQ_CST);
        return;
    }
    /* release: pairs with the kernel's acquire of the tail before it reads the entries */
    __atomic_store_n(sq->ktail, sq->sqe_tail, __ATOMIC_RELEASE);
}

/* ThreadSanitizer keeps a signal back until its thread makes a call that it knows, and io_uring's
 * are none. */
static inline void signals_deliver(void)
{
#ifdef __SANITIZE_THREAD__
    (void)usleep(0);
#endif
}

/* So one that comes between such a call and the sleep would wait for the end of that. */
static inline int64_t sleep_limit(int64_t until_ns)
{
#ifdef __SANITIZE_THREAD__
    int64_t soon_ns = clock_now() + 50 * INT64_C(1000000);
    return until_ns < soon_ns ? until_ns : soon_ns;
#else
    return until_ns;
#endif
}

/* How many entries the kernel has not taken. */
static unsigned unsubmitted(const struct ring *r)
{
    const struct io_uring_sq *sq = &r->uring.sq;
    /* acquire: pairs with the polling thread's release after it has read an entry */
    return sq->sqe_tail - __atomic_load_n(sq->khead, __ATOMIC_ACQUIRE);
}

/* One io_uring_enter(2): submits everything, and sleeps until so many completions are there or
 * until_ns has come; 0: does not sleep. */
static int enter(struct ring *r, unsigned completions, int64_t until_ns)
{
    bool sleep = completions > 0;
    unsigned to_submit = unsubmitted(r);
    tail_publish(r);

    unsigned flags = r->enter_flags | IORING_ENTER_GETEVENTS;
    if (unlikely(r->sqpoll) && polling_sleeps(r))
        flags |= IORING_ENTER_SQ_WAKEUP;
    struct __kernel_timespec ts;
    struct io_uring_getevents_arg arg = {.ts = 0};
    void *extra = NULL;
    size_t extra_bytes = _NSIG / 8;

    if (sleep)
        until_ns = sleep_limit(until_ns);
    if (sleep && until_ns != INT64_MAX) {
        if (r->caps.abs_timer) {
            flags |= ENTER_ABS_TIMER;
        } else {
            until_ns -= clock_now();
            if (until_ns < 0)
                until_ns = 0;
        }
        ts.tv_sec = until_ns / 1000000000;
        ts.tv_nsec = until_ns % 1000000000;
        arg.ts = (uint64_t)(uintptr_t)&ts;
        extra = &arg;
        extra_bytes = sizeof arg;
        flags |= IORING_ENTER_EXT_ARG;
    }
    if (kernel_flags(r) & IORING_SQ_CQ_OVERFLOW)
        r->stats.overflows++;
    r->stats.enters++;
    if (sleep)
        signals_deliver();
    int rc = io_uring_enter2((unsigned)r->uring.enter_ring_fd, to_submit, completions, flags, extra,
                             extra_bytes);
    if (rc == -EINTR)
        signals_deliver();
    if (rc < 0 && rc != -ETIME && rc != -EINTR && rc != -EAGAIN && rc != -EBUSY)
        panic("io_uring_enter failed: %s; the ring cannot go on%s", strerror(-rc),
              rc == -EINVAL ? " (a child of fork(2) must not call whorl)" : "");
    return rc;
}

/* Empties the submission queue. It may take a while when the kernel is out of memory. */
COLD static void flush(struct ring *r)
{
    r->stats.full++;
    for (unsigned tries = 0; unsubmitted(r); tries++) {
        int rc = enter(r, 0, 0);
        reap(r);
        if (r->sqpoll) {
            if (unsubmitted(r))
                sched_yield(); /* the thread is at it */
            continue;
        }
        if (rc != -EAGAIN && rc != -EBUSY)
            continue;
        if (tries == STARVED_TRIES_MAX)
            report("the kernel has had no memory for ring requests for %d s; operations wait. "
                   "Raise the memory limit, or keep fewer operations in flight (%llu now)",
                   STARVED_TRIES_MAX / 1000, (unsigned long long)r->stats.in_flight);
        unsigned tail = r->uring.sq.sqe_tail;
        r->uring.sq.sqe_tail = *r->uring.sq.khead; /* submit nothing: only wait */
        enter(r, 1, clock_now() + 1000000);
        r->uring.sq.sqe_tail = tail;
        reap(r);
    }
}

/* The next free entry, which holds anything. */
static inline struct io_uring_sqe *sqe_take(struct ring *r)
{
    struct io_uring_sq *sq = &r->uring.sq;
    if (unlikely(unsubmitted(r) >= sq->ring_entries)) {
        flush(r);
        wh_assert(unsubmitted(r) < sq->ring_entries);
    }
    return &sq->sqes[sq->sqe_tail++ & sq->ring_mask];
}

COLD static void address_direct(struct io_uring_sqe *sqe, const struct op *op)
{
    if (op->code == OP_CLOSE) {
        sqe->fd = 0;
        sqe->file_index = fd_slot(op->fd) + 1;
    } else {
        sqe->fd = (int)fd_slot(op->fd);
        sqe->flags |= IOSQE_FIXED_FILE;
    }
}

static void ring_submit(struct engine *engine, struct op *op)
{
    struct ring *r = ring_of(engine);
    struct io_uring_sqe *sqe = sqe_take(r);
    memset(sqe, 0, sizeof *sqe);
    const struct op_row *row = &op_table[op->code];
    sqe->opcode = row->opcode;
    sqe->fd = op->fd;
    sqe->off = op->off;
    sqe->addr = op->addr;
    sqe->len = op->len;
    sqe->rw_flags = (int)(op->flags | row->flags);
    sqe->file_index = row->options;
    sqe->flags = row->entry; /* the group of buffers is 0 */
    sqe->user_data = (uint64_t)(uintptr_t)op;
    if (unlikely(fd_is_direct(op->fd)))
        address_direct(sqe, op);
    op->state = OP_IN_FLIGHT;
    r->stats.submissions++;
    r->stats.in_flight++;
}

static void ring_cancel(struct engine *engine, struct op *op)
{
    struct ring *r = ring_of(engine);
    struct io_uring_sqe *sqe = sqe_take(r);
    if (op->state != OP_IN_FLIGHT && op->state != OP_CANCELLING) {
        /* It completed while the queue was flushed: leave an entry that does nothing. */
        memset(sqe, 0, sizeof *sqe);
        sqe->opcode = IORING_OP_NOP;
        return;
    }
    memset(sqe, 0, sizeof *sqe);
    sqe->opcode = IORING_OP_ASYNC_CANCEL;
    sqe->addr = (uint64_t)(uintptr_t)op;
    if (r->caps.cqe_skip)
        sqe->flags = IOSQE_CQE_SKIP_SUCCESS;
    op->state = OP_CANCELLING;
    r->stats.cancels++;
}

static bool ring_ready(const struct engine *engine)
{
    const struct ring *r = container_of(engine, struct ring, engine);
    return r->done.first || io_uring_cq_ready(&r->uring) ||
           (kernel_flags(r) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW));
}

/* Polls the eventfd by which we are woken. */
COLD static void wake_arm(struct ring *r)
{
    struct io_uring_sqe *sqe = sqe_take(r);
    memset(sqe, 0, sizeof *sqe);
    sqe->opcode = IORING_OP_POLL_ADD;
    sqe->fd = r->wake_fd;
    sqe->poll32_events = POLLIN;
    sqe->len = IORING_POLL_ADD_MULTI;
    sqe->user_data = DATA_WAKE;
    r->wake_armed = true;
}

static void ring_wake(struct engine *engine)
{
    const struct ring *r = ring_of(engine);
    if (r->wake_fd >= 0) {
        const uint64_t one = 1;
        if (write(r->wake_fd, &one, sizeof one) < 0)
            return; /* the count is full: it has been woken often enough */
        return;
    }
    struct io_uring_sqe sqe = {.opcode = IORING_OP_MSG_RING, .fd = r->uring.ring_fd};
    int rc;
    do /* -EAGAIN, -ENOMEM: the kernel has no memory for the message now */
        rc = io_uring_register(-1u, REGISTER_SEND_MSG_RING, &sqe, 1);
    while (rc == -EINTR || rc == -EAGAIN || rc == -ENOMEM);
    wh_assert(rc >= 0 || rc == -EOVERFLOW); /* full: it has much to wake up for */
}

/* Publishes what was submitted. Returns whether the kernel must be entered for it. */
static bool publish(struct ring *r)
{
    if (likely(!r->sqpoll))
        return io_uring_sq_ready(&r->uring);
    struct io_uring_sq *sq = &r->uring.sq;
    if (*sq->ktail == sq->sqe_tail)
        return false; /* whoever published it has looked */
    tail_publish(r);
    return polling_sleeps(r);
}

/* Takes as many again of the operations that had to wait, when the enter before has brought many
 * and there are more of those. It asks for no more completions than are there, so it does not
 * sleep, and for no more than the queue has room for. */
static void take_left_over(struct ring *r)
{
    unsigned there = io_uring_cq_ready(&r->uring);
    unsigned room = r->uring.cq.ring_entries - there;
    unsigned more = there < EVEN_MAX ? there : EVEN_MAX;
    if (there < EVEN_MIN || room < more || r->stats.in_flight > EVEN_IN_FLIGHT_MAX)
        return;
    enter(r, more, 0);
}

static void ring_wait(struct engine *engine, int64_t until_ns, struct op_list *done)
{
    struct ring *r = ring_of(engine);
    reap(r);
    if (unlikely(r->wake_fd >= 0 && !r->wake_armed))
        wake_arm(r);

    /* Without the flag only entering tells whether there is work. */
    bool work = publish(r) || (!r->caps.taskrun_flag && !r->sqpoll) ||
                (kernel_flags(r) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW));
    bool sleep = !r->done.first && until_ns > 0;
    if (work || sleep) {
        int rc = enter(r, sleep, until_ns);
        if (kernel_flags(r) & IORING_SQ_TASKRUN)
            take_left_over(r);
        reap(r);
        /* No memory for requests and nothing came: let some come before the next try. */
        if ((rc == -EAGAIN || rc == -EBUSY) && !r->done.first)
            flush(r);
    }

    if (!r->done.first)
        return;
    if (done->first)
        done->last->next = r->done.first;
    else
        done->first = r->done.first;
    done->last = r->done.last;
    r->done.first = NULL;
}

static void ring_stats(const struct engine *engine, struct engine_stats *ret_stats)
{
    *ret_stats = container_of(engine, struct ring, engine)->stats;
}

/* ---- Buffers ---- */

static char *ring_buffer(const struct engine *engine, unsigned number)
{
    const struct ring *r = container_of(engine, struct ring, engine);
    wh_assert(number < r->buffers_count);
    return r->buffers + number * r->buffer_bytes;
}

static void buffer_offer(struct ring *r, unsigned number, int offset)
{
    io_uring_buf_ring_add(r->buffer_ring, r->buffers + number * r->buffer_bytes,
                          (unsigned)r->buffer_bytes, (unsigned short)number,
                          io_uring_buf_ring_mask(r->buffers_count), offset);
}

static void ring_buffer_return(struct engine *engine, unsigned number)
{
    struct ring *r = ring_of(engine);
    wh_assert(number < r->buffers_count);
    buffer_offer(r, number, 0);
    io_uring_buf_ring_advance(r->buffer_ring, 1);
}

static int ring_buffers_create(struct engine *engine, unsigned count, size_t bytes)
{
    struct ring *r = ring_of(engine);
    wh_assert(!r->buffer_ring);
    if (!r->caps.buffer_ring)
        return -ENOSYS;
    void *memory =
        mmap(NULL, count * bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return -ENOMEM;
    int rc;
    r->buffer_ring = io_uring_setup_buf_ring(&r->uring, count, 0, 0, &rc);
    if (!r->buffer_ring) {
        munmap(memory, count * bytes);
        return rc;
    }
    r->buffers = memory;
    r->buffers_count = count;
    r->buffer_bytes = bytes;
    for (unsigned i = 0; i < count; i++)
        buffer_offer(r, i, (int)i);
    io_uring_buf_ring_advance(r->buffer_ring, (int)count);
    return 0;
}

static int ring_direct_create(struct engine *engine, unsigned slots)
{
    struct ring *r = ring_of(engine);
    wh_assert(slots <= FD_SLOTS_MAX);
    return r->caps.direct ? io_uring_register_files_sparse(&r->uring, slots) : -EOPNOTSUPP;
}

static void ring_destroy(struct engine *engine)
{
    struct ring *r = ring_of(engine);
    wh_assert(r->stats.in_flight == 0);
    if (r->buffer_ring) {
        io_uring_free_buf_ring(&r->uring, r->buffer_ring, r->buffers_count, 0);
        munmap(r->buffers, r->buffers_count * r->buffer_bytes);
    }
    io_uring_queue_exit(&r->uring);
    if (r->wake_fd >= 0)
        close(r->wake_fd);
    mem_free(r);
}

static const struct engine_type ring_type = {
    .name = "io_uring",
    .destroy = ring_destroy,
    .submit = ring_submit,
    .cancel = ring_cancel,
    .ready = ring_ready,
    .wait = ring_wait,
    .wake = ring_wake,
    .stats = ring_stats,
    .buffers_create = ring_buffers_create,
    .buffer = ring_buffer,
    .buffer_return = ring_buffer_return,
    .direct_create = ring_direct_create,
};

static const char *setup_cure(int error)
{
    switch (error) {
    case -ENOSYS: return "this kernel has none: Linux 6.1 or newer is needed, with CONFIG_IO_URING";
    case -EINVAL: return "this kernel's is too old: Linux 6.1 or newer is needed";
    case -EPERM:
    case -EACCES:
        return "it is forbidden here: see the sysctl kernel.io_uring_disabled, and the container's "
               "seccomp profile";
    case -ENOMEM:
        return "no memory: lower WHORL_RING_ENTRIES, or raise ulimit -l and the memory limit";
    case -EMFILE:
    case -ENFILE: return "no descriptor is free: raise ulimit -n";
    default: return "unexpected";
    }
}

static void sqpoll_set(struct io_uring_params *params, const struct ring_options *o)
{
    params->flags |= IORING_SETUP_SQPOLL;
    params->sq_thread_idle = (uint32_t)(o->sqpoll_ns / 1000000);
    if (o->sqpoll_core >= 0) {
        params->flags |= IORING_SETUP_SQ_AFF;
        params->sq_thread_cpu = (uint32_t)o->sqpoll_core;
    }
    if (o->beside) {
        params->flags |= IORING_SETUP_ATTACH_WQ;
        params->wq_fd = (uint32_t)container_of(o->beside, const struct ring, engine)->uring.ring_fd;
    }
}

/* Sets the ring up with every flag there is, without those that are masked or unknown here. */
static int setup(struct ring *r, const struct ring_options *o)
{
    unsigned entries = o->entries;
    struct caps *caps = &r->caps;
    caps->single_issuer = !caps_masked("single_issuer");
    caps->defer_taskrun = !r->sqpoll && caps->single_issuer && !caps_masked("defer_taskrun");
    caps->taskrun_flag = !r->sqpoll && !caps_masked("taskrun_flag");
    caps->no_sqarray = !caps_masked("no_sqarray");

    for (;;) {
        struct io_uring_params params = {.cq_entries = entries * CQ_FACTOR};
        params.flags = IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP | IORING_SETUP_SUBMIT_ALL;
        if (caps->single_issuer)
            params.flags |= IORING_SETUP_SINGLE_ISSUER;
        if (r->sqpoll)
            sqpoll_set(&params, o);
        else
            params.flags |=
                caps->defer_taskrun ? IORING_SETUP_DEFER_TASKRUN : IORING_SETUP_COOP_TASKRUN;
        if (caps->taskrun_flag)
            params.flags |= IORING_SETUP_TASKRUN_FLAG;
        if (caps->no_sqarray)
            params.flags |= IORING_SETUP_NO_SQARRAY;

        int rc = io_uring_queue_init_params(entries, &r->uring, &params);
        if (rc == -EINVAL && caps->no_sqarray) {
            caps->no_sqarray = false; /* the one flag above that is newer than the floor */
            continue;
        }
        return rc;
    }
}

/* Whether the kernel knows the operation. */
static bool knows(struct io_uring *uring, unsigned opcode)
{
    /* struct io_uring_probe ends in an array of these. */
    union {
        struct io_uring_probe head;
        char bytes[sizeof(struct io_uring_probe) +
                   IORING_OP_LAST * sizeof(struct io_uring_probe_op)];
    } probe = {.bytes = {0}};
    return io_uring_register_probe(uring, &probe.head, IORING_OP_LAST) == 0 &&
           io_uring_opcode_supported(&probe.head, (int)opcode);
}

static void probe_features(struct ring *r)
{
    struct caps *caps = &r->caps;
    struct io_uring *uring = &r->uring;
    caps->ext_arg = uring->features & IORING_FEAT_EXT_ARG;
    caps->cqe_skip = (uring->features & IORING_FEAT_CQE_SKIP) && !caps_masked("cqe_skip");
    caps->no_iowait = (uring->features & IORING_FEAT_NO_IOWAIT) && !caps_masked("no_iowait");
    caps->buffer_ring = !caps_masked("buffer_ring"); /* whether it works shows when it is tried */
    caps->direct = !caps_masked("direct");           /* the same */
    caps->waitid = !caps_masked("waitid") && knows(uring, IORING_OP_WAITID);
    caps->ftruncate = !caps_masked("ftruncate") && knows(uring, IORING_OP_FTRUNCATE);
    caps_probe_others(caps);
    caps->ring_fd = !caps_masked("ring_fd") && io_uring_register_ring_fd(uring) == 1;

    /* Choosing the clock and absolute timeouts came together. struct io_uring_clock_register is the
     * clock's number and three reserved words. */
    uint32_t clock[4] = {CLOCK_MONOTONIC};
    caps->abs_timer = !caps_masked("abs_timer") &&
                      io_uring_register((unsigned)uring->ring_fd, REGISTER_CLOCK, clock, 0) == 0;

    /* A message that asks for nothing to a ring that is none: -EBADF where messages are known. */
    struct io_uring_sqe message = {.opcode = IORING_OP_MSG_RING, .fd = -1};
    caps->msg_sync = !caps_masked("msg_sync") &&
                     io_uring_register(-1u, REGISTER_SEND_MSG_RING, &message, 1) == -EBADF;

    if (caps->ring_fd)
        r->enter_flags |= IORING_ENTER_REGISTERED_RING;
    if (caps->no_iowait)
        r->enter_flags |= ENTER_NO_IOWAIT;
}

int ring_create(const struct ring_options *options, struct engine **ret_engine)
{
    unsigned entries = options->entries;
    if (entries < ENTRIES_MIN || entries > ENTRIES_MAX || (entries & (entries - 1))) {
        report("ring_entries is %u; it must be a power of two from %d to %d", entries, ENTRIES_MIN,
               ENTRIES_MAX);
        return -EINVAL;
    }
    struct ring *r = mem_zalloc(sizeof *r);
    if (!r) {
        report("no memory for a ring");
        return -ENOMEM;
    }
    r->engine.type = &ring_type;
    r->sqpoll = options->sqpoll_ns > 0;

    int rc = setup(r, options);
    if (rc < 0) {
        bool core = rc == -EINVAL && options->sqpoll_core >= 0 && r->sqpoll;
        report("cannot set up io_uring (%s): %s", strerror(-rc),
               core ? "is there such a core as sqpoll_core?" : setup_cure(rc));
        mem_free(r);
        if (rc == -EACCES)
            return -EPERM;
        return rc == -EINVAL && !core ? -ENOSYS : rc;
    }
    probe_features(r);
    r->wake_fd = -1;
    if (!r->caps.msg_sync) {
        r->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (r->wake_fd < 0) {
            rc = -errno;
            report("cannot make an eventfd to wake a worker with (%s): %s", strerror(-rc),
                   setup_cure(rc));
            io_uring_queue_exit(&r->uring);
            mem_free(r);
            return rc;
        }
    }
    wh_assert(r->caps.ext_arg); /* older than the floor, which setup has checked */
    *ret_engine = &r->engine;
    return 0;
}

void ring_caps(const struct engine *engine, struct caps *ret_caps)
{
    wh_assert(engine->type == &ring_type);
    *ret_caps = container_of(engine, struct ring, engine)->caps;
}
