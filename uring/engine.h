/*
 * engine.h: operations, and the narrow interface to what carries them out.
 *
 * An operation is asked for once, may be asked to be cancelled, and is completed exactly once. Its
 * storage is the caller's and the engine's from submit to completion:
 *
 *      IDLE --submit--> IN_FLIGHT --cancel--> CANCELLING
 *        ^                  |                     |
 *        `---- taken ---- DONE <---- completion --'
 *
 * Cancelling only asks, and may be repeated: a kernel can miss an operation that is just on its way
 * from one of its hands to the other. Whichever way it ends, the memory that the operation names is
 * the kernel's until the operation comes out of engine_wait() (invariant 1 of the design), and its
 * result is whatever truly happened (invariant 2): a cancel that came too late changes nothing.
 *
 * There is to be more than one engine (io_uring; a simulated one; epoll), so nothing here names a
 * ring. An engine belongs to the thread that created it; others may only wake it. It has never
 * heard of coroutines.
 */
#ifndef URING_ENGINE_H
#define URING_ENGINE_H

#include "base/base.h"

/*
 * A direct descriptor is a slot in a table of the engine's own, and none of the process's: it does
 * not count against that one's limit, and nobody but the engine knows it. In an operation its
 * number is FD_DIRECT plus the slot; the bits between are the owner's.
 *
 *      30         24                       0
 *      1  owner's  slot
 */
#define FD_DIRECT (1 << 30)
enum { FD_OWNER_SHIFT = 24, FD_SLOTS_MAX = 1 << 20 };

static inline bool fd_is_direct(int fd)
{
    return fd >= FD_DIRECT;
}

static inline uint32_t fd_slot(int fd)
{
    return (uint32_t)fd & ((1u << FD_OWNER_SHIFT) - 1);
}

static inline unsigned fd_owner(int fd)
{
    return ((unsigned)fd & ~(unsigned)FD_DIRECT) >> FD_OWNER_SHIFT;
}

/* One row each in op_table (op.c). */
enum op_code {
    OP_READ,
    OP_WRITE,
    OP_READV,
    OP_WRITEV,
    OP_RECV,
    OP_SEND,
    OP_RECVMSG,
    OP_SENDMSG,
    OP_ACCEPT,
    OP_CONNECT,
    OP_SHUTDOWN,
    OP_OPENAT,
    OP_FSYNC,
    OP_FDATASYNC,
    OP_STATX,
    OP_UNLINKAT,
    OP_MKDIRAT,
    OP_RENAMEAT,
    OP_LINKAT,
    OP_SYMLINKAT,
    OP_FTRUNCATE,
    OP_FALLOCATE,
    OP_FADVISE,
    OP_OPENAT2,
    OP_SYNC_RANGE,
    OP_FGETXATTR,
    OP_FSETXATTR,
    OP_POLL,
    OP_PAUSE,
    OP_WAITID,
    OP_NOTED, /* from here on the owner notes something when they complete */
    OP_CLOSE = OP_NOTED,
    OP_RECV_BUFFER,
    OP_ACCEPT_DIRECT,
    OP_CODES,
};

/* In res_flags of a completed OP_RECV_BUFFER: whether it was given a buffer, and the number of
 * that; the bits from OP_WORKER_SHIFT to there are the owner's. */
enum { OP_HAS_BUFFER = 1, OP_WORKER_SHIFT = 8, OP_BUFFER_SHIFT = 16 };

enum op_state { OP_IDLE, OP_IN_FLIGHT, OP_CANCELLING, OP_DONE };

struct op {
    struct op *next; /* the engine's, and in the list that engine_wait() returns */
    int32_t res;     /* once DONE: >= 0, or -errno; -ECANCELED when a cancel ended it */
    uint32_t res_flags;
    uint8_t code;
    uint8_t state;
    uint8_t asks; /* for the owner's use: how often it has asked for a cancel */
    bool shared;  /* for the owner's use: it has several in flight */
    int32_t fd;
    uint64_t addr; /* these four mean what the row of op_table says */
    uint64_t off;
    uint32_t len;
    uint32_t flags;
};

/* What an operation is, for the engines and for whoever prints it. */
struct op_row {
    const char *name;  /* "recv" */
    uint8_t opcode;    /* IORING_OP_* */
    bool takes_fd;     /* fd is one, and not a directory to start from */
    short poll_events; /* what to wait for when it says -EAGAIN; 0: nothing */
    uint32_t flags;    /* set in every operation of the row */
    uint32_t options;  /* the same, where waitid(2) has a word of options beside */
    uint8_t entry;     /* IOSQE_* */
};

extern const struct op_row op_table[OP_CODES];

/* A queue of operations, linked by next. */
struct op_list {
    struct op *first;
    struct op *last;
};

static inline void op_list_push(struct op_list *list, struct op *op)
{
    op->next = NULL;
    if (list->first)
        list->last->next = op;
    else
        list->first = op;
    list->last = op;
}

static inline struct op *op_list_pop(struct op_list *list)
{
    struct op *op = list->first;
    if (op)
        list->first = op->next;
    return op;
}

struct engine_stats {
    uint64_t enters;
    uint64_t submissions;
    uint64_t completions;
    uint64_t cancels;
    uint64_t full;
    uint64_t overflows;
    uint64_t in_flight;
};

struct engine;

/* What an engine is. All but `wait` return at once. */
struct engine_type {
    const char *name;
    void (*destroy)(struct engine *engine);
    /* Takes an IDLE operation. Cannot fail: what goes wrong is the operation's result. */
    void (*submit)(struct engine *engine, struct op *op);
    /* Asks for an IN_FLIGHT operation to end. */
    void (*cancel)(struct engine *engine, struct op *op);
    /* Whether completions, or work that the kernel does on entering, are there to be taken. */
    bool (*ready)(const struct engine *engine);
    /*
     * Hands what was submitted to the kernel, sleeps until a completion is there or until_ns
     * (absolute; in the past: does not sleep; INT64_MAX: without limit) has come, and appends the
     * completed operations to `done`. Returns early on a signal. A system call or two, none if
     * there is nothing to do.
     */
    void (*wait)(struct engine *engine, int64_t until_ns, struct op_list *done);
    /* Ends the sleep in `wait`, or that of the next one, perhaps with no completion. For any
     * thread; async-signal-safe. One system call. */
    void (*wake)(struct engine *engine);
    void (*stats)(const struct engine *engine, struct engine_stats *ret_stats);
    /* Makes buffers for OP_RECV_BUFFER, `count` (a power of two) of `bytes` each: once. Returns 0,
     * or -errno, and OP_RECV_BUFFER is -ENOBUFS. */
    int (*buffers_create)(struct engine *engine, unsigned count, size_t bytes);
    /* Where the buffer with that number is. For any thread. */
    char *(*buffer)(const struct engine *engine, unsigned number);
    /* A buffer that an operation was given is the engine's again. */
    void (*buffer_return)(struct engine *engine, unsigned number);
    /* Makes the table of direct descriptors, with so many slots (at most FD_SLOTS_MAX): once.
     * Returns 0, or -errno, and there are none. */
    int (*direct_create)(struct engine *engine, unsigned slots);
};

struct engine {
    const struct engine_type *type;
};

static inline void engine_submit(struct engine *engine, struct op *op)
{
    wh_assert(op->state == OP_IDLE);
    engine->type->submit(engine, op);
}

static inline void engine_cancel(struct engine *engine, struct op *op)
{
    if (op->state == OP_IN_FLIGHT || op->state == OP_CANCELLING)
        engine->type->cancel(engine, op);
}

static inline void engine_wait(struct engine *engine, int64_t until_ns, struct op_list *done)
{
    engine->type->wait(engine, until_ns, done);
}

struct ring_options {
    unsigned entries; /* of the submission queue: a power of two, 8 to 32768 */
    /* A thread of the kernel's takes the submissions and works on them, and sleeps when there were
     * none for so long, at least a millisecond; 0: there is none. */
    int64_t sqpoll_ns;
    int sqpoll_core;             /* where it runs; -1: anywhere */
    const struct engine *beside; /* takes that one's thread; it must live now; or NULL */
};

/* The io_uring engine (ring.c), for the calling thread. Returns 0, or -errno and one line on
 * standard error that says why and what helps. */
int ring_create(const struct ring_options *options, struct engine **ret_engine);

#endif
