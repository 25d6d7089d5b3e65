/*
 * sched.h: coroutines, the workers they run on, parking and waking.
 *
 * A run has one worker or several. A worker is a thread: a run queue, an engine (ring), a timer
 * wheel, a pool of stacks and a loop. A coroutine belongs to one worker at a time, coro->worker,
 * and only that one runs it, arms its timer and touches its operations. What others want of it goes
 * through the worker's inbox (inbox.h).
 *
 * A coroutine's life, and who owns it in each state:
 *
 *      NEW ----------> RUNNING <------- READY            NEW     of the run queue; has no stack yet
 *       ^  (gets a      |  | ^            ^ |            READY   of the run queue, or on its way
 *       |   stack)      |  | `------------|-'            RUNNING of itself: worker->current
 *     start             |  `---- yield ---'              PARKED  of what it waits for: `wait` says
 *                       |                 |                      how to withdraw it from there
 *                       +---- park --> PARKED -- claim   DEAD    of the holder of its handle; its
 *                       |                                        stack is gone already
 *                       `---- end ---> DEAD              FREE    of the slab
 *
 * A coroutine is on one list at a time: the run queue (NEW, READY), the worker's deque (the same,
 * when any worker may run it), the inbox (READY), or that of what it waits for.
 *
 * The one waiting mechanism: park(self, kind). Exactly one of these ends it:
 *   - what it waits for wakes it: a peer on a channel, a lock's holder, the end of a joined
 * coroutine, the completion of an operation;
 *   - its deadline passes or it is cancelled: its worker calls interrupt(coro, why), which asks the
 * kind to withdraw. A kind that can, claims the coroutine, and it is woken with `why`. An operation
 * cannot (the kernel has its memory): it asks the engine to cancel and only notes `why`; the
 * completion wakes.
 *
 * Claiming. Several may want to wake a coroutine at the same time, on different threads. Whoever
 * changes its state from PARKED to READY (a compare-and-swap, acq_rel) has claimed it, writes the
 * result into it (coro->wake, won, and the transferred element), and makes it ready: pushes it to
 * its worker's run queue, or from another thread to its worker's inbox. Everybody else leaves it
 * alone. Who waits says so before it can be found:
 *
 *      waiter, on its own worker               waker, anywhere
 *        take the object's lock                  take the object's lock
 *        not served at once:                     take waiters off its queue, until a claim succeeds
 *          wake = 0; state = PARKED              transfer (element, lock, units)
 *          push the waiter on its queue          give the lock
 *        give the lock (release)                 make it ready
 *        switch away
 *
 * A coroutine that is claimed before it has switched away is no danger: only its own worker resumes
 * it, from its inbox, which it looks into between coroutines. So nothing is to be published after
 * the switch, and a switch costs the same with many workers as with one.
 *
 * Objects that coroutines wait for keep them in queues of waiters, under the object's lock. A
 * waiter is one reason to be woken. A plain wait has one, in the coroutine's descriptor; a select
 * has one a case, all naming the same coroutine. Waiters of a coroutine that something else has
 * claimed are stale: queue_take() drops them, and the coroutine, once it runs, takes those that are
 * left off their queues, under the objects' locks, before its call returns.
 *
 *      channel a: [w0]--[w1]          w1 and w3 are cases of one select: the first queue_take()
 *      channel b: [w2]--[w3]--[w4]    that meets one of them claims the coroutine, the other is
 *                                     stale from then on
 *
 * An object is not used after a waiter that it served was made ready: its memory may be gone then.
 *
 * Alone. While nobody else can touch the objects of a run (one worker, and no other thread has been
 * let in), worker->shared is false and no lock is taken and no compare-and-swap made: the same
 * code, without. It changes to true once and for all, on the worker's thread, at a moment when no
 * call into the runtime is under way on it: no lock would be held then. A call that parks while
 * alone may return when it is not any more, so it asks anew after parking.
 *
 * Moving. A NEW coroutine, and a READY one with leave to migrate, may be put into the worker's
 * deque and taken by another worker, which then becomes its worker: written under the coroutine's
 * lock, so that who asks something of a coroutine finds its worker or is forwarded.
 *
 * Where a worker is: `where` says whether its thread is in the runtime or in the user's code, for
 * the watchdog, which may interrupt the latter (watchdog.c). Each call into the runtime says so
 * when it enters and when it leaves, by a plain store.
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

#include "sched/worker.h"

#include <whorl/time.h>

#include <errno.h>

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

/* The worker of the running coroutine. */
static inline struct worker *worker_or_panic(const char *call)
{
    struct worker *w = worker_tls;
    if (unlikely(!w || w->current == &w->loop))
        called_outside(call);
    return w;
}

static inline wh_coro *self_or_panic(const char *call)
{
    return worker_or_panic(call)->current;
}

/* ---- In the runtime, in the user's code ---- */

static inline uint8_t where_of(const struct worker *w)
{
    return __atomic_load_n(&w->where, __ATOMIC_RELAXED);
}

/* Nothing that comes after is done before, as a signal handler on this thread sees it. */
static inline void where_set(struct worker *w, uint8_t where)
{
    /* seq_cst: pairs with the load of `where` in the watchdog's handler: for the compiler only */
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    __atomic_store_n(&w->where, where, __ATOMIC_RELAXED);
    /* seq_cst: pairs with the same */
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
}

/* The running coroutine, which enters the runtime by the call named. */
static inline wh_coro *enter(const char *call)
{
    wh_coro *self = self_or_panic(call);
    where_set(self->worker, IN_RUNTIME);
    return self;
}

/* It leaves with this result. */
static inline int leave(const wh_coro *self, int result)
{
    where_set(self->worker, IN_USER);
    return result;
}

/* The same for calls that others in the runtime make, too: to the end of the block that INSIDE()
 * stands in, and then where it was before. */
struct inside {
    wh_coro *self;
    uint8_t before;
};

static inline struct inside inside_begin(const char *call)
{
    wh_coro *self = self_or_panic(call);
    struct inside inside = {self, where_of(self->worker)};
    where_set(self->worker, IN_RUNTIME);
    return inside;
}

/* Threads that are no workers and are in such a call; any thread, atomic. What one of them wakes
 * may end its run before the call is through, so the end of a run waits until there are none. */
extern uint32_t visitors;

enum { IS_VISITOR = 255 };

/* For calls that threads may make which are no workers: self is NULL then. They do not wait. */
static inline struct inside inside_begin_anywhere(const char *call)
{
    const struct worker *w = worker_tls;
    if (unlikely(!w)) {
        /* seq_cst: pairs with the load in visitors_await() */
        __atomic_fetch_add(&visitors, 1, __ATOMIC_SEQ_CST);
        return (struct inside){NULL, IS_VISITOR};
    }
    if (unlikely(w->current == &w->loop))
        return (struct inside){NULL, 0};
    return inside_begin(call);
}

static inline void inside_end(const struct inside *inside)
{
    if (likely(inside->self)) {
        where_set(inside->self->worker, inside->before);
    } else if (inside->before == IS_VISITOR) {
        /* release: pairs with the load in visitors_await() */
        __atomic_fetch_sub(&visitors, 1, __ATOMIC_RELEASE);
    }
}

#define INSIDE(self, call)                                                           \
    struct inside inside_ __attribute__((cleanup(inside_end))) = inside_begin(call); \
    wh_coro *self = inside_.self

#define INSIDE_ANYWHERE(self, call)                                                           \
    struct inside inside_ __attribute__((cleanup(inside_end))) = inside_begin_anywhere(call); \
    wh_coro *self = inside_.self

/* Whether the run ends. Its worker may not have got to that: but who was cancelled because of it,
 * on whichever worker, sees it here. */
static inline bool run_ends(const wh_coro *self)
{
    return __atomic_load_n(&self->worker->run->ending, __ATOMIC_RELAXED);
}

/* ---- Shared or alone ---- */

/* Whether locks are to be taken by the calling thread, which may be no worker. */
static inline bool shared_here(void)
{
    const struct worker *w = worker_tls;
    return !w || w->shared;
}

/* The watchdog's signal must not find a worker in the user's code while it is here. */
static inline void assert_inside(void)
{
    wh_assert_slow(!worker_tls || where_of(worker_tls) >= IN_RUNTIME);
}

/* Takes, gives an object's lock if `shared`. Who gives does so with what shared_here() was when it
 * took, or has not parked since. */
static inline void object_lock(bool shared, uint8_t *lock)
{
    assert_inside();
    if (unlikely(shared))
        lock_take(lock);
}

static inline void object_unlock(bool shared, uint8_t *lock)
{
    if (unlikely(shared))
        lock_give(lock);
}

static inline uint8_t state_of(const wh_coro *coro)
{
    return __atomic_load_n(&coro->state, __ATOMIC_RELAXED);
}

static inline void state_set(wh_coro *coro, uint8_t state)
{
    __atomic_store_n(&coro->state, state, __ATOMIC_RELAXED);
}

static inline struct worker *worker_of(const wh_coro *coro)
{
    return __atomic_load_n(&coro->worker, __ATOMIC_RELAXED);
}

/* One more switch. Returns how many are left. */
static inline int32_t budget_use(struct worker *w)
{
    int32_t left = w->budget - 1;
    __atomic_store_n(&w->budget, left, __ATOMIC_RELAXED);
    return left;
}

static inline void budget_set(struct worker *w, int32_t switches)
{
    __atomic_store_n(&w->budget, switches, __ATOMIC_RELAXED);
}

/* Switches since the budget was given, or since they were counted. */
static inline int32_t budget_used(const struct worker *w)
{
    return w->budget_given - w->budget - w->budget_dropped;
}

/* The loop is next: what is left is not used. */
static inline void budget_drop(struct worker *w)
{
    if (w->budget > 0) {
        w->budget_dropped += w->budget;
        budget_set(w, 0);
    }
}

/* Another one after each switch. For any thread. */
static inline uint64_t worker_progress(const struct worker *w)
{
    /* acquire: pairs with the release in run_ready(): the budget is this turn's, or a later one's
     */
    uint64_t turns = __atomic_load_n(&w->turns, __ATOMIC_ACQUIRE);
    return turns << 32 | (uint32_t)__atomic_load_n(&w->budget, __ATOMIC_RELAXED);
}

/* Whether this is in the watchdog's signal handler: the user's code may be anywhere, in malloc()
 * too. */
static inline bool in_handler(const struct worker *w)
{
    return where_of(w) == IN_HANDLER;
}

/* Whether the run is ending: nothing new starts. Another worker may know first. */
static inline bool starts_no_more(const struct worker *w)
{
    return w->ending || (unlikely(w->shared) && __atomic_load_n(&w->run->ending, __ATOMIC_RELAXED));
}

/* Counts what other threads may read. */
static inline void bump(uint64_t *counter)
{
    __atomic_store_n(counter, *counter + 1, __ATOMIC_RELAXED);
}

/* How many coroutines have been started and have not ended, in the whole run. (worker.c) */
uint64_t live(const struct run *run);

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

/* Parks the running coroutine until it is woken; returns what the waker said. */
int park(wh_coro *self, const struct wait_kind *kind);
COLD int switch_in_catch(wh_coro *self);

/* Lets the other runnable coroutines run first, or the loop. */
void yield(wh_coro *self);

/* Claims a coroutine that is parked: the caller makes it ready. */
static inline bool claim(wh_coro *coro, bool shared)
{
    uint8_t parked = CORO_PARKED;
    if (unlikely(shared)) {
        /* acq_rel: pairs with itself: claims are one after the other. What the waiter wrote before
         * it could be found is ordered by the lock under which it was */
        return __atomic_compare_exchange_n(&coro->state, &parked, CORO_READY, false,
                                           __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
    }
    if (state_of(coro) != CORO_PARKED)
        return false;
    state_set(coro, CORO_READY);
    return true;
}

/* make_ready() when others may be concerned: the coroutine is another worker's, or may run on any.
 * (worker.c) */
void make_ready_shared(wh_coro *coro);

/* Queues a coroutine that has been claimed. The object that it waited for may be gone next. */
static inline void make_ready(wh_coro *coro, int result, bool shared)
{
    wh_assert_slow(state_of(coro) == CORO_READY);
    coro->wake = (int16_t)result;
    if (unlikely(shared)) {
        make_ready_shared(coro);
        return;
    }
    wh_assert_slow(coro->worker == worker_tls); /* or it is another run's, which is not allowed */
    __builtin_prefetch(coro->context.sp);       /* it runs soon */
    ready_push(coro->worker, coro);
}

/* Wakes a parked coroutine that nobody else can claim. */
static inline void wake(wh_coro *coro, int result, bool shared)
{
    bool claimed = claim(coro, shared);
    wh_assert(claimed);
    make_ready(coro, result, shared);
}

/* Ends the wait of a coroutine of this worker early, with -ETIMEDOUT, -ECANCELED or -EBADF, if it
 * is parked. */
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

/* Whether the context of a coroutine of this worker, or one above, has been cancelled and it does
 * not know yet: now it does. (ctx.c) */
COLD bool ctx_unswept(wh_coro *coro);

static inline bool cancelled(wh_coro *self)
{
    if (unlikely(self->flags & (CORO_CANCELLED | CORO_CTX_ENDED)))
        return true;
    return unlikely(self->flags & CORO_CTX_LOOK || !list_empty(&self->worker->sweeps)) &&
           ctx_unswept(self);
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
    if (likely(!(self->flags & (CORO_CANCELLED | CORO_CTX_ENDED | CORO_CTX_LOOK)) &&
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

/* Whether the waiter's coroutine is still waiting for it: see the head of this file. Another worker
 * may claim it next. */
static inline bool waiter_waits(const struct waiter *waiter)
{
    return state_of(waiter->coro) == CORO_PARKED;
}

/* Takes the first that waits off the queue, claimed; NULL when there is none. The caller makes it
 * ready. */
static inline struct waiter *queue_take(struct list *queue, bool shared)
{
    while (!list_empty(queue)) {
        struct waiter *waiter = container_of(queue->next, struct waiter, link);
        list_remove(&waiter->link);
        if (likely(claim(waiter->coro, shared)))
            return waiter;
    }
    return NULL;
}

/* The first that waits, left where it is; NULL when there is none. With many workers it may be
 * claimed by another before the caller does. */
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

/* Makes the coroutine of a waiter from queue_take() ready. */
static inline void waiter_wake(struct waiter *waiter, int result, bool shared)
{
    wh_coro *coro = waiter->coro;
    coro->won = waiter;
    make_ready(coro, result, shared);
}

/* Claims all that wait in the queue and moves them to `woken`, for wake_all() when the object's
 * lock has been given. */
static inline void queue_take_all(struct list *queue, struct list *woken, bool shared)
{
    struct waiter *waiter;
    while ((waiter = queue_take(queue, shared)))
        list_push_back(woken, &waiter->link);
}

static inline void wake_all(struct list *woken, int result, bool shared)
{
    while (!list_empty(woken)) {
        struct waiter *waiter = container_of(woken->next, struct waiter, link);
        list_remove(&waiter->link);
        waiter_wake(waiter, result, shared);
    }
}

/* For kinds that wait in a queue. The waiter is stale then, until the coroutine runs. */
bool queue_withdraw(wh_coro *coro, int why);

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
 * MSG_DONTWAIT. Leaves the runtime, so that the public call can end with it.
 */
int32_t op_await(wh_coro *self, int flags);

/* The same without regard to deadline and cancel. */
int32_t op_await_shielded(wh_coro *self);

/* Whether the parked coroutine waits for an operation that has been asked to end. */
bool op_asked(const wh_coro *coro);

/* Starts a poll of the coroutine's select: the coroutine is about to park. Returns 0, -EBADF, or
 * -EAGAIN: to be tried again when others have run. */
int poll_start(wh_coro *self, struct poll_wait *poll, int fd, short events);

/* Asks for a poll that is in flight to end. */
void poll_cancel(struct poll_wait *poll);

/* Parks until all the coroutine's polls are completed, whatever else happens. */
void polls_await(wh_coro *self);

/* The coroutine has taken note of a completed poll. */
void poll_finish(struct poll_wait *poll);

/* Fetches what completing an operation of a coroutine's own will touch, soon. */
void op_prefetch(const struct worker *w, const struct op *op);

/* The engine has completed an operation of a coroutine's own, or one of a select. */
void op_completed(struct op *op);
void poll_completed(struct op *op);

/* Ends all operations in flight on the descriptor (-EBADF) and returns when their coroutines have
 * taken note; the caller then submits the close without parking in between. Returns 0, or -EBADF
 * when another coroutine is closing it. After a 0 the close must follow, and fd_closed(). */
int fd_end_operations(wh_coro *self, int fd);

/* The close that followed is done: said by who completes it. */
void fd_closed(const struct worker *w, int fd);

/* Makes the worker's table of direct descriptors if it has none. Returns 0, or -errno: there will
 * be none. */
int direct_have(struct worker *w);

/* Frees it, at the end of the run. */
void direct_finish(struct worker *w);

/* ---- Coroutines (coro.c) ---- */

/* A descriptor with a stack reserved, for coro_start(); NULL without memory. */
wh_coro *coro_reserve(struct worker *w);
void coro_unreserve(wh_coro *coro);

/* Starts fn on a descriptor reserved on this worker, detached, in the background. */
void coro_start(wh_coro *coro, struct wh_site *site, void (*fn)(void), const uintptr_t *words);

/* Starts fn as wh_go() does, and tells the hook of its end. */
int coro_start_hooked(wh_coro *self, struct wh_site *site, void (*fn)(void), const uintptr_t *words,
                      struct end_hook *hook);

/* Starts fn on any worker, from a thread that is none of the run's; under the runtime's mutex. The
 * hook, which may be NULL, is told of its end. Returns 0, -ENOMEM, or -ECANCELED: the run is
 * ending.
 */
int coro_start_outside(struct run *run, struct wh_site *site, void (*fn)(void),
                       const uintptr_t *words, struct end_hook *hook);

/* Starts the root. Returns 0 or -ENOMEM. */
int coro_start_root(struct worker *w, struct wh_site *site, void (*fn)(void),
                    const uintptr_t *words);

/* Gives a NEW coroutine the stack that was reserved for it. */
void coro_attach_stack(struct worker *w, wh_coro *coro);

/* Calls visit with every coroutine whose descriptor is of the slab and which has not ended. What
 * other workers do to them goes on meanwhile. */
void slab_visit(const struct slab *slab, void (*visit)(wh_coro *coro, void *arg), void *arg);

/* The same for all slabs of the run. */
void coro_visit(const struct run *run, void (*visit)(wh_coro *coro, void *arg), void *arg);

/* Asks the coroutine's worker to cancel it (HANDLE_ASKED_CANCEL), or to see that its context has
 * been cancelled (HANDLE_ASKED_CTX). From any thread. */
void coro_ask(wh_coro *coro, unsigned what);

/* Its worker does what was asked. */
void coro_asked(struct worker *w, wh_coro *coro);

/* Whether the worker has to adopt the coroutine, which it was sent or has taken, before it runs. */
static inline bool coro_is_foreign(const struct worker *w, const wh_coro *coro)
{
    return coro->worker != w || (state_of(coro) == CORO_NEW && coro->start.outside);
}

/* The coroutine was taken from another worker, or started by a thread: it is this one's from now
 * on. Returns false when this one has no stack for it: then nothing has changed. */
bool coro_adopt(struct worker *w, wh_coro *coro);

/* Returns a stack to the pool of another worker. */
void stack_give_home(struct worker *w, struct stack *stack);

/* Its stack was returned by another worker: a coroutine's last step when it ends away from home. */
void coro_return_stack(struct worker *w);

/* What a call takes and returns. In C++ each start stores them anew, the same. */
static inline unsigned site_args(const struct wh_site *site)
{
    return __atomic_load_n(&site->args, __ATOMIC_RELAXED);
}

static inline unsigned site_ret_size(const struct wh_site *site)
{
    return __atomic_load_n(&site->ret_size, __ATOMIC_RELAXED);
}

/* What a function returned, widened: it left only the low bytes of the register defined. */
static inline intptr_t value_widen(uintptr_t raw, unsigned size)
{
    switch (size) {
    case 0: return 0;
    case 1: return (int8_t)raw;
    case 2: return (int16_t)raw;
    case 4: return (int32_t)raw;
    default: return (intptr_t)raw;
    }
}

/* Calls fn with six words, of which it takes as many as it has parameters, and returns what it did,
 * widened; ret_size is that of its result. */
static inline intptr_t call_with_words(void (*fn)(void), const uintptr_t *a, unsigned ret_size)
{
    uintptr_t raw = ((uintptr_t (*)(uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t,
                                    uintptr_t))fn)(a[0], a[1], a[2], a[3], a[4], a[5]);
    return value_widen(raw, ret_size);
}

/* Writes "name #id, started at file:line", or "by wh_call", into buf; as snprintf(3). */
int coro_describe(const wh_coro *coro, char *buf, size_t size);
int site_describe(const struct wh_site *site, const char *name, uint32_t id, char *buf,
                  size_t size);

/* For a programmer's error: prints what the coroutine did in the call and who it is, and aborts. */
COLD void coro_misuse(const wh_coro *coro, const char *call, const char *what)
    __attribute__((noreturn));

/* What a parked coroutine waits for: "recv", "join". */
const char *coro_waits_for(const wh_coro *coro);

void slab_finish(struct slab *slab);

/* What it has asked for, or NULL. */
struct coro_extra *coro_extra_of(const wh_coro *coro);

/* Frees it; NULL is nothing. (local.c) */
void coro_extra_free(struct coro_extra *extra);

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

/* The public calls of the same names, for others in the runtime. */
wh_ctx *ctx_ref(wh_ctx *ctx);
void ctx_unref(struct worker *w, wh_ctx *ctx);
struct wh_ctx_scope ctx_enter(wh_coro *self, wh_ctx *ctx);
struct wh_ctx_scope ctx_enter_owned(wh_coro *self, wh_ctx *ctx);
void ctx_leave(struct wh_ctx_scope *scope);

/* Whether ctx ends whenever `above` does. */
bool ctx_within(const wh_ctx *ctx, const wh_ctx *above);

/* For select and whoever waits for the end of a context. */
int64_t ctx_deadline(const wh_ctx *ctx);
int ctx_ended(const wh_ctx *ctx);

/* Its queue of selects, and the lock for it and for asking whether it has ended; NULL: it is one
 * that never ends. */
struct list *ctx_waiters(wh_ctx *ctx);
uint8_t *ctx_lock(wh_ctx *ctx);

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

/* What a turn does for the others, while a coroutine keeps the worker from its loop: what has come
 * is made ready, and goes where other workers find it as far as it may. In a signal handler, on the
 * worker's thread, when that is in the user's code. */
void loop_drive(struct worker *w);

/* Asks everything whose descriptor is of this worker to end. */
void cancel_all(struct worker *w);

/* ---- Faults (fault.c) ---- */

/* Installs the handler that explains a stack overflow, for the process, and the calling thread's
 * alternate stack. Returns 0 or -errno. */
int fault_enter(void);
void fault_leave(void);

void worker_validate(struct worker *w);

#endif
