/*
 * sched.h: coroutines, the worker they run on, parking and waking.
 *
 * A worker is a thread in wh_run(): a run queue, an engine (ring), a timer wheel, a pool of stacks
 * and a loop. Everything in this header belongs to that one thread; nothing here is atomic.
 *
 * A coroutine's life, and who owns it in each state:
 *
 *      NEW ----------> RUNNING <------- READY            NEW     of the run queue; has no stack yet
 *       ^  (gets a      |  | ^            ^ |            READY   of the run queue
 *       |   stack)      |  | `------------|-'            RUNNING of itself: worker->current
 *     start             |  `---- yield ---'              PARKED  of what it waits for: `wait` says
 *                       |                 |                      how to withdraw it from there
 *                       +---- park --> PARKED -- wake    DEAD    of the holder of its handle; its
 *                       |                                        stack is gone already
 *                       `---- end ---> DEAD              FREE    of the slab
 *
 * A coroutine is on one list at a time: the run queue (NEW, READY) or that of what it waits for.
 *
 * The one waiting mechanism: park(self, kind). Exactly one of these ends it:
 *   - what it waits for calls wake(coro, result): the peer of a join, the completion of an
 * operation;
 *   - its deadline passes or it is cancelled: interrupt(coro, why) asks the kind to withdraw. A
 * kind that can, takes it off its list, and it is woken with `why`. An operation cannot (the kernel
 * has its memory): it asks the engine to cancel and only notes `why`; the completion wakes.
 *
 * Switching is direct: who parks takes the next off the run queue and switches to it. The loop (a
 * context like the others, on the thread's own stack) is switched to when the queue is empty or the
 * budget of switches is used up, so that neither the queue starves the ring nor the ring the queue.
 *
 * Deadlines are lazy. A coroutine has one timer. It is armed when the coroutine parks with a
 * deadline and stays armed when it wakes in time: the next park finds it armed no later than it
 * needs and leaves it. When it fires before the deadline of that moment it is armed anew. So a
 * receive with a 30 s deadline each, a million times, arms the wheel once in 30 s.
 */
#ifndef SCHED_SCHED_H
#define SCHED_SCHED_H

#include "base/clock.h"
#include "stacks/sanitizer.h"
#include "stacks/stacks.h"
#include "stacks/switch.h"
#include "timers/wheel.h"
#include "uring/engine.h"

#include <whorl/coro.h>
#include <whorl/run.h>
#include <whorl/time.h>

#include <errno.h>

enum coro_state { CORO_FREE, CORO_NEW, CORO_READY, CORO_RUNNING, CORO_PARKED, CORO_DEAD };

enum coro_flag {
    CORO_CANCELLED = 1 << 0, /* wh_cancel() was called: every wait from here on fails */
    CORO_DETACHED = 1 << 1,  /* nobody holds a handle: the descriptor is freed at the end */
    CORO_JOINED = 1 << 2,    /* DEAD, and its joiner has been woken: the handle is that one's */
};

/* Where a coroutine can park; one static object each. */
struct wait_kind {
    const char *reason; /* "join" */
    /* Takes a parked coroutine off what it waits for and returns true, so that it can be woken; or
     * asks for its wait to end soon and returns false. NULL: it cannot be interrupted. */
    bool (*withdraw)(wh_coro *coro);
};

/* What a coroutine has only if it asked for it. */
struct coro_extra {
    char name[32];
    void *local[WH_KEYS_MAX];
};

struct wh_coro {
    /* The line that a switch touches. */
    struct context context; /* first: context_main() gets its address */
    wh_coro *next;          /* NEW, READY: in the run queue; FREE: in the slab */
    struct worker *worker;
    const struct wait_kind *wait; /* PARKED */
    int32_t wake; /* what wake() said; during an operation: why it was interrupted */
    uint8_t state;
    uint8_t flags;
    uint8_t run_mark; /* worker->epoch when it last ran */
    uint8_t stack_class;
    uint32_t id;

    /* Waiting. */
    int64_t deadline_ns; /* ambient */
    struct timer timer;
    union {
        struct {
            struct op op;     /* in flight while parked for it */
            wh_coro *fd_next; /* in the list of its descriptor */
        };
        wh_coro *joining; /* while parked in a join */
        struct {
            void (*fn)(void);
            uintptr_t words[6];
        } start; /* NEW */
    };

    /* The rest. */
    struct stack *stack; /* RUNNING, READY, PARKED */
    struct wh_site *site;
    union {
        wh_coro *joiner; /* until DEAD */
        intptr_t value;  /* DEAD */
    };
    struct coro_extra *extra;
    struct sanitizer sanitizer;
} __attribute__((aligned(64)));

static_assert(offsetof(wh_coro, context) == 0, "context_entry passes the coroutine's address");
#ifndef WHORL_ASAN
static_assert(sizeof(wh_coro) == 192, "three cache lines: a parked million counts every byte");
#endif

/* The two words of the C++ runtime that a catch block under way keeps per thread (C++ ABI, 2.2.2).
 */
struct exception_globals {
    void *caught;
    unsigned uncaught;
};

/* Who has an operation in flight on a descriptor. */
struct fd_waiters {
    wh_coro *first;  /* linked by fd_next */
    wh_coro *closer; /* waits for them to leave */
};

struct worker {
    /* The lines that a switch touches. */
    wh_coro *current;
    wh_coro *ready_first;
    wh_coro *ready_last;
    int32_t budget; /* switches until the loop runs */
    uint8_t epoch;  /* counts housekeeping rounds, modulo 256 */
    bool ending;    /* the root has returned, or nothing can go on */
    struct exception_globals *exceptions;
    struct exception_globals exceptions_outer; /* the thread's, from before the run */
    wh_coro loop;                              /* the loop's own context */
    struct context discarded;                  /* where a dead coroutine's registers go */

    struct engine *engine;
    struct clock clock;
    int64_t now_ns;         /* exact, of the last turn of the loop */
    struct fd_waiters *fds; /* by descriptor */
    size_t fds_count;
    uint64_t ops_in_flight;
    wh_coro *slab_free;
    struct slab_chunk *slab_chunks;
    uint64_t started;
    uint64_t ended;
    int stack_class; /* of who asks for none */
    struct stack_pool stacks;
    struct wheel wheel;

    /* The loop's own. */
    int32_t budget_full;  /* adapted: about a fifth of a millisecond of switches */
    int32_t budget_given; /* at the last turn */
    int64_t spin_ns;      /* longest spin; 0: never */
    int32_t idle_batch;   /* moving average of how many completions ended an idle time */
    int64_t idle_ns;      /* moving average of how long it was idle */
    int64_t tidy_at_ns;
    unsigned tidy_round;   /* of housekeeping, since a coroutine ran or one found something to do */
    int64_t tidy_slice_ns; /* the next slice, if busy */
    bool tidy_under_way;
    bool tidy_found;
    uint64_t tidy_switches;
    uint64_t switches;
    uint64_t turns;
    uint64_t spins;
    uint64_t spins_paid;
    uint64_t sleeps;

    /* The end of the run. */
    wh_coro *root; /* until it returns */
    bool grace_begun;
    int64_t grace_ns;
    int64_t grace_end_ns;
    int result;
};

extern __thread struct worker *worker_tls __attribute__((tls_model("initial-exec")));

/* The running coroutine, for the call named `call`; panics outside of one. */
COLD void called_outside(const char *call) __attribute__((noreturn));

static inline wh_coro *self_or_panic(const char *call)
{
    struct worker *w = worker_tls;
    if (unlikely(!w || w->current == &w->loop))
        called_outside(call);
    return w->current;
}

/* How many coroutines have been started and have not ended. */
static inline uint64_t live(const struct worker *w)
{
    return w->started - w->ended;
}

/* ---- Run queue ---- */

static inline void ready_push(struct worker *w, wh_coro *coro)
{
    coro->next = NULL;
    if (w->ready_first)
        w->ready_last->next = coro;
    else
        w->ready_first = coro;
    w->ready_last = coro;
}

/* ---- Parking (park.c) ---- */

/* Parks the running coroutine until wake(); returns what wake() said. */
int park(wh_coro *self, const struct wait_kind *kind);

/* Makes a parked coroutine runnable. */
static inline void wake(wh_coro *coro, int result)
{
    wh_assert(coro->state == CORO_PARKED);
    __builtin_prefetch(coro->context.sp); /* it runs soon */
    coro->wake = result;
    coro->state = CORO_READY;
    ready_push(coro->worker, coro);
}

/* Ends a parked coroutine's wait early, with -ETIMEDOUT or -ECANCELED. */
void interrupt(wh_coro *coro, int why);

/* Whether the running coroutine's deadline has passed. The turn's time is old when coroutines have
 * computed since, and the cheap clock may be ahead: it only says when to ask the exact one. */
static inline bool deadline_passed(const wh_coro *self)
{
    struct worker *w = self->worker;
    return self->deadline_ns <= w->now_ns || (self->deadline_ns <= clock_read(&w->clock) &&
                                              self->deadline_ns <= clock_sync(&w->clock));
}

/* Why the running coroutine may not wait any more: -ECANCELED, -ETIMEDOUT, or 0. */
static inline int ended(const wh_coro *self)
{
    if (unlikely(self->flags & CORO_CANCELLED))
        return -ECANCELED;
    if (self->deadline_ns != WH_NEVER && unlikely(deadline_passed(self)))
        return -ETIMEDOUT;
    return 0;
}

/* Returns rc, which is why a call is refused; every so often after the loop has run: a coroutine
 * that goes on calling must not keep the worker to itself. */
COLD int refuse(wh_coro *self, int rc);

/* Sees to it that the timer fires no later than the deadline. */
static inline void deadline_arm(wh_coro *self)
{
    if (self->deadline_ns == WH_NEVER)
        return;
    if (timer_armed(&self->timer)) {
        if (likely(self->timer.deadline_ns <= self->deadline_ns))
            return;
        wheel_cancel(&self->worker->wheel, &self->timer);
    }
    wheel_arm(&self->worker->wheel, &self->timer, self->deadline_ns);
}

/* A coroutine's timer has fired. */
void deadline_fired(wh_coro *coro);

/* The loop's part: runs coroutines until the queue is empty or the budget is used up. */
void run_ready(struct worker *w);

/* ---- Operations (await.c) ---- */

extern const struct wait_kind wait_op;

/*
 * Submits the operation prepared in self->op and parks until it is completed. Returns its result;
 * -ETIMEDOUT or -ECANCELED when one of these ended it, or had come before (then nothing is
 * submitted); -EBADF when the descriptor was closed meanwhile. `flags` are the call's, for
 * MSG_DONTWAIT.
 */
int32_t op_await(wh_coro *self, int flags);

/* The same without regard to deadline and cancel. */
int32_t op_await_shielded(wh_coro *self);

/* Ends all operations in flight on the descriptor (-EBADF) and returns when their coroutines have
 * taken note; the caller then submits the close without parking in between. Returns 0, or -EBADF
 * when another coroutine is closing it. */
int fd_end_operations(wh_coro *self, int fd);

/* ---- Coroutines (coro.c) ---- */

/* Starts the root. Returns 0 or -ENOMEM. */
int coro_start_root(struct worker *w, struct wh_site *site, void (*fn)(void),
                    const uintptr_t *words);

/* Gives a NEW coroutine the stack that was reserved for it. */
void coro_attach_stack(struct worker *w, wh_coro *coro);

/* Calls visit with every coroutine of the worker that has not ended. */
void coro_visit(struct worker *w, void (*visit)(wh_coro *coro, void *arg), void *arg);

/* Writes "name #id, started at file:line" into buf; as snprintf(3). */
int coro_describe(const wh_coro *coro, char *buf, size_t size);

/* What a parked coroutine waits for: "recv", "join". */
const char *coro_waits_for(const wh_coro *coro);

void coro_slab_finish(struct worker *w);

/* The storage of locals and name, made when first needed; NULL without memory. (local.c) */
struct coro_extra *coro_extra_get(wh_coro *self);

/* Runs the destructors of a coroutine's locals, on it. */
void locals_destroy(wh_coro *self);

/* ---- The loop (loop.c) ---- */

void loop_run(struct worker *w);

/* Asks everything that lives to end. */
void cancel_all(struct worker *w);

/* ---- Faults (fault.c) ---- */

/* Installs the handler that explains a stack overflow, for the process, and the calling thread's
 * alternate stack. Returns 0 or -errno. */
int fault_enter(void);
void fault_leave(void);

void worker_validate(struct worker *w);

#endif
