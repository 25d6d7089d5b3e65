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
 *   - what it waits for calls wake(coro, result): a peer on a channel, a lock's holder, the end of
 * a joined coroutine, the completion of an operation;
 *   - its deadline passes or it is cancelled: interrupt(coro, why) asks the kind to withdraw. A
 * kind that can, takes it off its list, and it is woken with `why`. An operation cannot (the kernel
 * has its memory): it asks the engine to cancel and only notes `why`; the completion wakes.
 *
 * Objects that coroutines wait for keep them in queues of waiters. A waiter is one reason to be
 * woken. A plain wait has one, in the coroutine's descriptor; a select has one a case, all naming
 * the same coroutine. Who wants to wake from a queue claims: queue_take() skips waiters whose
 * coroutine is PARKED no more, because something else has woken it and it has not run yet to take
 * its other waiters off their queues, which it does before anything else.
 *
 *      channel a: [w0]--[w1]          w1 and w3 are cases of one select: the first queue_take()
 *      channel b: [w2]--[w3]--[w4]    that meets one of them claims the coroutine, the other is
 *                                     skipped from then on
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
#include <whorl/ctx.h>
#include <whorl/run.h>
#include <whorl/time.h>

#include <errno.h>

/* Calls that are served at once before others are let run: some tens of microseconds. */
enum { CALLS_A_TURN = 4096 };

enum coro_state { CORO_FREE, CORO_NEW, CORO_READY, CORO_RUNNING, CORO_PARKED, CORO_DEAD };

enum coro_flag {
    CORO_CANCELLED = 1 << 0,    /* wh_cancel() was called: every wait from here on fails */
    CORO_CTX_ENDED = 1 << 1,    /* its context was cancelled: the same */
    CORO_SHIELDED = 1 << 2,     /* in WH_SHIELD: wh_cancel() is only noted... */
    CORO_CANCEL_NOTED = 1 << 3, /* ...here, and becomes CANCELLED when the shield is left */
    CORO_DETACHED = 1 << 4,     /* nobody holds a handle: the descriptor is freed at the end */
    CORO_JOINED = 1 << 5,       /* DEAD, and its joiner has been woken: the handle is that one's */
    CORO_HOOKED = 1 << 6,       /* DETACHED, and somebody is told of the end: `hook` */
};

/* Where a coroutine can park; one static object each. */
struct wait_kind {
    const char *reason; /* "join"; NULL: the operation's name */
    /* Takes a parked coroutine off what it waits for and returns true, so that it can be woken; or
     * asks for its wait to end soon and returns false. NULL: it cannot be interrupted. */
    bool (*withdraw)(wh_coro *coro);
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

/* Told of the end of the run if it is still listed then (worker->run_hooks): no coroutine runs any
 * more, those that were to take something down have been abandoned. */
struct run_hook {
    struct list link;
    void (*over)(struct run_hook *hook);
};

/* What a coroutine has only if it asked for it. */
struct coro_extra {
    char name[32];
    void *local[WH_KEYS_MAX];
};

struct wh_coro {
    /* The line that a switch touches. */
    struct context context; /* first: context_main() gets its address */
    wh_coro *next;          /* NEW, READY: in the run queue; PARKED for an operation: in the list of
                               its descriptor; FREE: in the slab */
    struct worker *worker;
    wh_ctx *ctx;  /* ambient; NULL: the background. Holds a reference */
    int32_t wait; /* PARKED: the kind, see wait_kind_of() */
    int32_t wake; /* what wake() said; during an operation: why it was interrupted */
    uint8_t state;
    uint8_t flags;
    uint8_t run_mark; /* worker->epoch when it last ran */
    uint8_t stack_class;
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
        } start; /* NEW */
    };

    /* The rest. */
    struct stack *stack; /* RUNNING, READY, PARKED */
    struct wh_site *site;
    union {
        struct waiter *joiner; /* until DEAD */
        struct end_hook *hook; /* until DEAD, if HOOKED */
        intptr_t value;        /* DEAD */
    };
    struct coro_extra *extra;
    struct list ctx_link; /* among the members of ctx */
    struct sanitizer sanitizer;
} __attribute__((aligned(64)));

static_assert(offsetof(wh_coro, context) == 0, "context_entry passes the coroutine's address");
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
    wh_coro *closer;         /* waits for all of them to leave */
    uint32_t leaving;        /* completed, and their coroutines have not run since */
};

/* A timer that belongs to no coroutine. */
struct alarm {
    struct timer timer;
    void (*fired)(struct alarm *alarm); /* on the loop */
};

struct worker {
    /* The lines that a switch touches. */
    wh_coro *current;
    wh_coro *ready_first;
    wh_coro *ready_last;
    int32_t budget;     /* switches until the loop runs */
    int32_t calls_left; /* calls that are served at once until others are let run */
    uint8_t epoch;      /* counts housekeeping rounds, modulo 256 */
    bool ending;        /* the root has returned, or nothing can go on */
    struct exception_globals *exceptions;
    struct exception_globals exceptions_outer; /* the thread's, from before the run */
    wh_coro loop;                              /* the loop's own context */
    struct context discarded;                  /* where a dead coroutine's registers go */

    struct engine *engine;
    struct clock clock;
    int64_t now_ns;         /* exact, of the last turn of the loop */
    int64_t turn_ns;        /* the same; INT64_MAX while contexts are being cancelled, so that
                               everybody looks exactly */
    struct fd_waiters *fds; /* by descriptor */
    size_t fds_count;
    uint64_t ops_in_flight;
    wh_coro *slab_free;
    struct slab_chunk *slab_chunks;
    uint64_t started;
    uint64_t ended;
    int stack_class; /* of who asks for none */
    struct stack_pool stacks;
    struct wheel wheel; /* of coroutines' timers */
    struct wheel alarms;
    struct list expired; /* coroutines' timers, when many came at once */
    struct list sweeps;  /* contexts being cancelled (ctx.c) */
    bool sweeping;
    struct ctx_chunk *ctx_chunks;
    wh_ctx *ctx_free;
    uint64_t random;
    struct signals *signals; /* of this run (sync/signal.c), or NULL */
    struct list run_hooks;

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

/* The kind a coroutine is parked for is kept as its distance from this one: kinds are static
 * objects of one library, and a descriptor has no eight bytes to spare. */
extern const struct wait_kind wait_op;

static inline const struct wait_kind *wait_kind_of(const wh_coro *coro)
{
    return (const struct wait_kind *)((intptr_t)&wait_op + coro->wait);
}

static inline void wait_kind_set(wh_coro *coro, const struct wait_kind *kind)
{
    coro->wait = (int32_t)((intptr_t)kind - (intptr_t)&wait_op);
}

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
COLD int park_in_catch(wh_coro *self, const struct wait_kind *kind);

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

/* now + duration, or NEVER when that is beyond the end of time; 0 (past) for what is not positive.
 */
static inline int64_t deadline_after(const wh_coro *self, int64_t duration_ns)
{
    int64_t deadline_ns;
    if (duration_ns <= 0)
        return 0;
    if (__builtin_add_overflow(clock_read(&self->worker->clock), duration_ns, &deadline_ns))
        return WH_NEVER;
    return deadline_ns;
}

/* Whether the running coroutine's context is below one that is being cancelled: the sweep may not
 * have come to it yet. (ctx.c) */
COLD bool ctx_unswept(wh_coro *self);

static inline bool cancelled(wh_coro *self)
{
    return unlikely(self->flags & (CORO_CANCELLED | CORO_CTX_ENDED)) ||
           (unlikely(!list_empty(&self->worker->sweeps)) && ctx_unswept(self));
}

/* Why the running coroutine may not wait any more: -ECANCELED, -ETIMEDOUT, or 0. */
static inline int ended(wh_coro *self)
{
    if (unlikely(cancelled(self)))
        return -ECANCELED;
    if (self->deadline_ns != WH_NEVER && unlikely(deadline_passed(self)))
        return -ETIMEDOUT;
    return 0;
}

/* ended(), out of line. (park.c) */
COLD int ended_exactly(wh_coro *self);

/* The same as of the loop's last turn, without a look at the clock: for calls that cost less than
 * the look. */
static inline int ended_by_turn(wh_coro *self)
{
    if (likely(!(self->flags & (CORO_CANCELLED | CORO_CTX_ENDED)) &&
               self->deadline_ns > self->worker->turn_ns))
        return 0;
    return ended_exactly(self);
}

/* Lets the others run, or the loop; returns rc. (park.c) */
COLD int let_others(wh_coro *self, int rc);

/* Returns rc, the result of a call that was served at once. Who makes only such calls would never
 * see a turn of the loop, nor would the others run: after many it lets them. */
static inline int served(wh_coro *self, int rc)
{
    if (likely(--self->worker->calls_left > 0))
        return rc;
    return let_others(self, rc);
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

/* ---- Queues of waiters ---- */

/* Whether the waiter's coroutine is still waiting for it: see the head of this file. */
static inline bool waiter_waits(const struct waiter *waiter)
{
    return waiter->coro->state == CORO_PARKED;
}

/* Takes the first that waits off the queue; NULL when there is none. The caller wakes it before
 * anything else runs. */
static inline struct waiter *queue_take(struct list *queue)
{
    while (!list_empty(queue)) {
        struct waiter *waiter = container_of(queue->next, struct waiter, link);
        list_remove(&waiter->link);
        if (likely(waiter_waits(waiter)))
            return waiter;
    }
    return NULL;
}

/* The first that waits, left where it is; NULL when there is none. */
static inline struct waiter *queue_first(struct list *queue)
{
    while (!list_empty(queue)) {
        struct waiter *waiter = container_of(queue->next, struct waiter, link);
        if (likely(waiter_waits(waiter)))
            return waiter;
        list_remove(&waiter->link);
    }
    return NULL;
}

static inline void waiter_wake(struct waiter *waiter, int result)
{
    waiter->coro->won = waiter;
    wake(waiter->coro, result);
}

/* Wakes all that wait in the queue. */
static inline void queue_wake_all(struct list *queue, int result)
{
    struct waiter *waiter;
    while ((waiter = queue_take(queue)))
        waiter_wake(waiter, result);
}

/* For kinds that wait in a queue: takes the coroutine's own waiter off. */
bool queue_withdraw(wh_coro *coro);

/* Parks for good, until its deadline or a cancel: what a nil channel does. */
int park_forever(wh_coro *self, const struct wait_kind *kind);

/* A coroutine's timer has fired. */
void deadline_fired(wh_coro *coro);

/* The loop's part: runs coroutines until the queue is empty or the budget is used up. */
void run_ready(struct worker *w);

/* ---- Operations (await.c) ---- */

/*
 * Submits the operation prepared in self->op and parks until it is completed. Returns its result;
 * -ETIMEDOUT or -ECANCELED when one of these ended it, or had come before (then nothing is
 * submitted); -EBADF when the descriptor was closed meanwhile. `flags` are the call's, for
 * MSG_DONTWAIT.
 */
int32_t op_await(wh_coro *self, int flags);

/* The same without regard to deadline and cancel. */
int32_t op_await_shielded(wh_coro *self);

/* Starts a poll of the coroutine's select: the coroutine is about to park. Returns 0 or -EBADF. */
int poll_start(wh_coro *self, struct poll_wait *poll, int fd, short events);

/* Asks for a poll that is in flight to end. */
void poll_cancel(struct poll_wait *poll);

/* Parks until all the coroutine's polls are completed, whatever else happens. */
void polls_await(wh_coro *self);

/* The coroutine has taken note of a completed poll. */
void poll_finish(struct poll_wait *poll);

/* The engine has completed an operation of a coroutine's own, or one of a select. */
void op_completed(struct op *op);
void poll_completed(struct op *op);

/* Ends all operations in flight on the descriptor (-EBADF) and returns when their coroutines have
 * taken note; the caller then submits the close without parking in between. Returns 0, or -EBADF
 * when another coroutine is closing it. */
int fd_end_operations(wh_coro *self, int fd);

/* ---- Coroutines (coro.c) ---- */

/* A descriptor with a stack reserved, for coro_start(); NULL without memory. */
wh_coro *coro_reserve(struct worker *w);
void coro_unreserve(wh_coro *coro);

/* Starts fn on a reserved descriptor, detached, in the background. */
void coro_start(wh_coro *coro, struct wh_site *site, void (*fn)(void), const uintptr_t *words);

/* Starts fn as wh_go() does, and tells the hook of its end. */
int coro_start_hooked(wh_coro *self, struct wh_site *site, void (*fn)(void), const uintptr_t *words,
                      struct end_hook *hook);

/* Starts the root. Returns 0 or -ENOMEM. */
int coro_start_root(struct worker *w, struct wh_site *site, void (*fn)(void),
                    const uintptr_t *words);

/* Gives a NEW coroutine the stack that was reserved for it. */
void coro_attach_stack(struct worker *w, wh_coro *coro);

/* Calls visit with every coroutine of the worker that has not ended. */
void coro_visit(struct worker *w, void (*visit)(wh_coro *coro, void *arg), void *arg);

/* What a call takes and returns. In C++ each start stores them anew, the same. */
static inline unsigned site_args(const struct wh_site *site)
{
    return __atomic_load_n(&site->args, __ATOMIC_RELAXED);
}

static inline unsigned site_ret_size(const struct wh_site *site)
{
    return __atomic_load_n(&site->ret_size, __ATOMIC_RELAXED);
}

/* Writes "name #id, started at file:line" into buf; as snprintf(3). */
int coro_describe(const wh_coro *coro, char *buf, size_t size);

/* For a programmer's error: prints what the coroutine did in the call and who it is, and aborts. */
COLD void coro_misuse(const wh_coro *coro, const char *call, const char *what)
    __attribute__((noreturn));

/* What a parked coroutine waits for: "recv", "join". */
const char *coro_waits_for(const wh_coro *coro);

void coro_slab_finish(struct worker *w);

/* The storage of locals and name, made when first needed; NULL without memory. (local.c) */
struct coro_extra *coro_extra_get(wh_coro *self);

/* Runs the destructors of a coroutine's locals, on it. */
void locals_destroy(wh_coro *self);

/* ---- Contexts (ctx.c) ---- */

/* Makes the coroutine, which is NEW, a member of the context; NULL: of none. */
void ctx_adopt(wh_coro *coro, wh_ctx *ctx);

/* The coroutine ends: leaves its context. */
COLD void ctx_abandon(wh_coro *coro);

/* A slice of what is left to cancel. */
void ctx_sweep(struct worker *w);

/* wh_ctx_cancel(), from the loop too. cause < 0. */
void ctx_end(struct worker *w, wh_ctx *ctx, int cause);

/* Whether ctx ends whenever `above` does. */
bool ctx_within(const wh_ctx *ctx, const wh_ctx *above);

/* For select and whoever waits for the end of a context. */
int64_t ctx_deadline(const wh_ctx *ctx);
int ctx_ended(const wh_ctx *ctx);
struct list *ctx_waiters(wh_ctx *ctx);

void ctx_finish(struct worker *w);

/* ---- The loop (loop.c) ---- */

void alarm_arm(struct worker *w, struct alarm *alarm, int64_t deadline_ns);
void alarm_cancel(struct worker *w, struct alarm *alarm);

/* A number from 0 to below - 1, each as likely. */
static inline uint32_t random_below(struct worker *w, uint32_t below)
{
    /* xorshift64* (Vigna 2016); the high half, scaled. */
    uint64_t x = w->random;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    w->random = x;
    return (uint32_t)(((x * UINT64_C(2685821657736338717) >> 32) * below) >> 32);
}

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
