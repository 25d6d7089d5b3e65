/*
 * coro.h: what a coroutine is, and what it waits with. The rules are at the head of sched.h.
 */
#ifndef SCHED_CORO_H
#define SCHED_CORO_H

#include "base/clock.h"
#include "base/list.h"
#include "stacks/sanitizer.h"
#include "stacks/stacks.h"
#include "stacks/switch.h"
#include "timers/wheel.h"
#include "uring/engine.h"

#include <whorl/coro.h>
#include <whorl/ctx.h>

/* Calls that are served at once before others are let run: some tens of microseconds. */
enum { CALLS_A_TURN = 4096 };

enum coro_state { CORO_FREE, CORO_NEW, CORO_READY, CORO_RUNNING, CORO_PARKED, CORO_DEAD };

enum coro_flag {
    CORO_CANCELLED = 1 << 0,    /* wh_cancel() was called: every wait from here on fails */
    CORO_CTX_ENDED = 1 << 1,    /* its context was cancelled: the same */
    CORO_SHIELDED = 1 << 2,     /* in WH_SHIELD: wh_cancel() is only noted... */
    CORO_CANCEL_NOTED = 1 << 3, /* ...here, and becomes CANCELLED when the shield is left */
    CORO_CTX_LOOK = 1 << 4,     /* its context may be cancelled elsewhere before it is told */
    CORO_MIGRATES = 1 << 5,     /* may move to another worker whenever it is READY */
    CORO_HOOKED = 1 << 6,       /* somebody is told of the end: `hook` */
    CORO_ROOT = 1 << 7,         /* its end is that of the run */
};

/* Under the coroutine's lock. */
enum coro_handle {
    HANDLE_DETACHED = 1 << 0, /* nobody holds one: the descriptor is freed at the end */
    HANDLE_JOINED = 1 << 1,   /* DEAD, and its joiner has been woken: the handle is that one's */
    HANDLE_ASKED_CANCEL = 1 << 2, /* is in an inbox (`asked`) because of wh_cancel() */
    HANDLE_ASKED_CTX = 1 << 3,    /* the same because of its context */
    HANDLE_ASKED = HANDLE_ASKED_CANCEL | HANDLE_ASKED_CTX,
};

enum where {
    IN_USER,
    IN_SLEEP, /* in the ring, for want of anything to do */
    IN_RUNTIME,
    IN_HANDLER, /* in the user's code, and interrupted by the watchdog's signal */
};

enum sleep_state {
    AWAKE,
    CALLED,           /* the same, by somebody who has counted it as searching */
    ASLEEP,           /* or about to be */
    ASLEEP_BARREN,    /* nothing of its own can wake it: no timer, no operation */
    ASLEEP_SPARE = 4, /* added to these two: takes no work, and is not counted in run->asleep */
};

enum {
    WORKERS_MAX = 62,
    HOME_OUTSIDE = 255, /* a descriptor made by a thread that is no worker */
    STEAL_MAX = 64,
};

/* Where a coroutine can park; one static object each. */
struct wait_kind {
    const char *reason; /* "join"; NULL: the operation's name */
    /* On the coroutine's worker: claims a parked coroutine and returns true, so that it can be
     * woken; or returns false: it asks for its wait to end soon, or somebody else has claimed it.
     * NULL: it cannot be interrupted. */
    bool (*withdraw)(wh_coro *coro, int why);
    bool has_polls; /* coro->polls holds */
};

/* One reason for which a coroutine may be woken, in the queue of what it waits for. */
struct waiter {
    struct list link; /* linked, or pointing at itself */
    wh_coro *coro;
    union {
        void *data;     /* a channel: the element that is sent, or where it goes */
        uint64_t count; /* a semaphore: how many */
    };
};

/* Told of a coroutine's end, on that coroutine, when its stack is about to go. Must not park. */
struct end_hook {
    void (*ended)(struct end_hook *hook, wh_coro *coro, intptr_t value);
};

/* Told of the end of the run if it is still listed then (run->run_hooks): no coroutine runs any
 * more, those that were to take something down have been abandoned. */
struct run_hook {
    struct list link; /* under the run's lock */
    struct run *run;
    bool late; /* told when the kernel has let go of what abandoned coroutines were lent, too */
    void (*over)(struct run_hook *hook);
};

/* What a coroutine has only if it asked for it. */
struct coro_extra {
    char name[32];
    void **local; /* WH_KEYS_MAX of them, or NULL */
};

struct wh_coro {
    /* The line that a switch touches. */
    struct context context; /* first: context_main() gets its address */
    wh_coro *next;         /* NEW, READY: in the run queue or the inbox; PARKED for an operation: in
                              the list of its descriptor; FREE: in the slab */
    struct worker *worker; /* written under lock, or before anybody knows it; atomic */
    wh_ctx *ctx;           /* ambient; NULL: the background. Holds a reference */
    int32_t wait;          /* PARKED: the kind, see wait_kind_of() */
    int16_t wake;          /* what the waker said; during an operation: why it was interrupted */
    uint8_t home;          /* the number of the worker whose slab the descriptor is of */
    uint8_t lock;
    uint8_t state;    /* atomic */
    uint8_t flags;    /* its worker's */
    uint8_t handle;   /* under lock */
    uint8_t run_mark; /* worker->epoch when it last ran */
    uint32_t id;

    /* Waiting. */
    int64_t deadline_ns; /* ambient */
    union {
        struct {
            struct timer timer;
            union {
                struct op op; /* in flight while parked for it */
                struct {
                    struct waiter waiter;     /* while parked in a queue */
                    const struct waiter *won; /* which of its waiters woke it */
                    struct poll_wait *polls;  /* of a select: those in flight */
                };
            };
        };
        struct {
            void (*fn)(void);
            uintptr_t words[6];
            struct coro_extra *extra;
            uint8_t stack_class;
            bool bound;   /* to its worker */
            bool outside; /* of no worker's pool is a stack reserved for it */
        } start;          /* NEW */
        intptr_t value;   /* DEAD */
    };

    /* The rest. */
    struct stack *stack; /* RUNNING, READY, PARKED; its `extra` is a struct coro_extra or NULL */
    struct wh_site *site;
    union {
        struct waiter *joiner; /* under lock, until DEAD */
        struct end_hook *hook; /* until DEAD, if HOOKED */
    };
    wh_coro *asked;       /* in the list of its worker's inbox */
    struct list ctx_link; /* among the members of ctx; under that one's lock */
    struct sanitizer sanitizer;
} __attribute__((aligned(64)));

static_assert(offsetof(wh_coro, context) == 0, "context_entry passes the coroutine's address");
static_assert(offsetof(wh_coro, deadline_ns) == 64, "the line that a switch touches");
#if !defined(WHORL_ASAN) && !defined(WHORL_TSAN)
static_assert(sizeof(wh_coro) == 192, "three cache lines: a parked million counts every byte");
#endif

/* The two words of the C++ runtime that a catch block under way keeps per thread (C++ ABI, 2.2.2).
 */
struct exception_globals {
    void *caught;
    unsigned uncaught;
};

/* An operation of a select, which has several: a poll, whose memory nobody has. */
struct poll_wait {
    struct op op;
    struct waiter waiter;      /* in no queue: names the coroutine */
    struct poll_wait *next;    /* of the same coroutine */
    struct poll_wait *fd_next; /* on the same descriptor */
};

/* Who has an operation on a descriptor. */
struct fd_waiters {
    wh_coro *first;          /* in flight; linked by next */
    struct poll_wait *polls; /* the same, of selects */
    wh_coro *closer;         /* waits for all of them to leave; maybe another worker's */
    uint32_t leaving;        /* completed, and their coroutines have not run since */
};

/* A direct descriptor: its worker's alone. */
struct direct_fd {
    struct fd_waiters waiters;
    uint64_t users; /* as run->fd_users has for others */
};

#endif
