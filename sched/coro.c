/*
 * coro.c: the life of a coroutine: started, run, joined.
 *
 * Descriptors come from a slab: chunks cut into descriptors, last-in first-out. The first chunks
 * are small, later ones huge pages, because a million descriptors in small pages miss the TLB at
 * every wake. A chunk stays until the run ends, so that all descriptors can be visited without a
 * list through them.
 *
 * A descriptor goes back to the slab that it came from: an own list if it ended on its home worker,
 * else by a push to `freed`, which the home worker takes as a whole when its own list is empty. So
 * who starts and who ends coroutines may be different workers for ever, and no memory piles up.
 *
 * What can be asked of a coroutine from elsewhere (join, detach, cancel) and its end are ordered by
 * its lock. A cancel asked for is in the inbox of the coroutine's worker, linked through the
 * descriptor; the coroutine does not end before it has been delivered, and where it has been taken
 * by another worker meanwhile the request is passed on to that one.
 *
 *      ask:    lock; dead or asked already: unlock, done. asked = 1; push to coro->worker; unlock
 *      asked:  lock; other worker: push there; unlock.  Else asked = 0; unlock; do it
 *      end:    lock; asked: unlock, take own inbox, again.  Else DEAD; take the joiner; unlock
 *      move:   lock; coro->worker = thief; unlock
 *
 * Checked as a model: tests/models/cancel.pml.
 *
 * A started coroutine has a stack reserved but not taken (stacks.h): it takes the warmest one when
 * it first runs, and when it ends its stack is at once the next one's to take, while it is still
 * running on it for the last few instructions. That is safe because taking writes nothing to the
 * stack, and the next coroutine begins at the top after the switch, which the ended one never comes
 * back from.
 */
#include "sched/next.h"

#include <whorl/stats.h>

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define CHUNK_SMALL_BYTES ((size_t)64 * 1024)
#define CHUNK_HUGE_BYTES  ((size_t)2 * 1024 * 1024)

/* This many coroutines and more are in huge pages. */
enum { HUGE_FROM_COROS = 10000 };

struct slab_chunk {
    struct slab_chunk *next;
    size_t coros;
    wh_coro coro[];
};

/* ---- Descriptors ---- */

COLD static bool slab_grow(struct slab *slab, uint8_t home, bool huge)
{
    size_t bytes = huge ? CHUNK_HUGE_BYTES : CHUNK_SMALL_BYTES;
    struct slab_chunk *chunk = mem_alloc_aligned(bytes, huge ? CHUNK_HUGE_BYTES : 64);
    if (!chunk)
        return false;
    if (huge)
        (void)madvise(chunk, bytes, MADV_HUGEPAGE); /* a wish */
    chunk->coros = (bytes - sizeof *chunk) / sizeof(wh_coro);
    for (size_t i = chunk->coros; i-- > 0;) {
        chunk->coro[i].state = CORO_FREE;
        chunk->coro[i].lock = 0;
        chunk->coro[i].handle = 0;
        chunk->coro[i].home = home;
        chunk->coro[i].next = slab->free;
        slab->free = &chunk->coro[i];
    }
    chunk->next = slab->chunks;
    /* release: pairs with the acquire in slab_visit(), maybe on another thread */
    __atomic_store_n(&slab->chunks, chunk, __ATOMIC_RELEASE);
    return true;
}

/* Takes what others have freed; more memory if that is nothing. */
COLD static bool slab_refill(struct slab *slab, uint8_t home, bool huge)
{
    /* acquire: pairs with the release in slab_give() */
    slab->free = __atomic_exchange_n(&slab->freed, NULL, __ATOMIC_ACQUIRE);
    return slab->free || slab_grow(slab, home, huge);
}

static inline wh_coro *slab_take(struct worker *w)
{
    if (unlikely(!w->slab.free) &&
        !slab_refill(&w->slab, w->index, (int64_t)(w->started - w->ended) >= HUGE_FROM_COROS))
        return NULL;
    wh_coro *coro = w->slab.free;
    wh_assert(state_of(coro) == CORO_FREE);
    w->slab.free = coro->next;
    return coro;
}

COLD static void slab_give_home(struct run *run, wh_coro *coro)
{
    struct slab *home = coro->home == HOME_OUTSIDE ? &run->slab : &run->worker[coro->home]->slab;
    coro->next = __atomic_load_n(&home->freed, __ATOMIC_RELAXED);
    /* release: pairs with the acquire in slab_refill() */
    while (!__atomic_compare_exchange_n(&home->freed, &coro->next, coro, true, __ATOMIC_RELEASE,
                                        __ATOMIC_RELAXED))
        ;
}

/* w: the calling worker. */
static inline void slab_give(struct worker *w, wh_coro *coro)
{
    state_set(coro, CORO_FREE);
    if (unlikely(coro->home != w->index)) {
        slab_give_home(w->run, coro);
        return;
    }
    coro->next = w->slab.free;
    w->slab.free = coro;
}

void slab_finish(struct slab *slab)
{
    while (slab->chunks) {
        struct slab_chunk *chunk = slab->chunks;
        slab->chunks = chunk->next;
        for (size_t i = 0; i < chunk->coros; i++) {
            wh_coro *coro = &chunk->coro[i];
            if (state_of(coro) == CORO_FREE || state_of(coro) == CORO_DEAD)
                continue;
            coro_extra_free(coro_extra_of(coro));
            if (state_of(coro) == CORO_READY || state_of(coro) == CORO_PARKED)
                sanitizer_finish(&coro->sanitizer);
        }
        mem_free(chunk);
    }
}

void slab_visit(const struct slab *slab, void (*visit)(wh_coro *coro, void *arg), void *arg)
{
    /* acquire: pairs with the release in slab_grow() */
    for (struct slab_chunk *chunk = __atomic_load_n(&slab->chunks, __ATOMIC_ACQUIRE); chunk;
         chunk = chunk->next)
        for (size_t i = 0; i < chunk->coros; i++) {
            wh_coro *coro = &chunk->coro[i];
            uint8_t state = state_of(coro);
            if (state != CORO_FREE && state != CORO_DEAD)
                visit(coro, arg);
        }
}

void coro_visit(const struct run *run, void (*visit)(wh_coro *coro, void *arg), void *arg)
{
    for (uint32_t i = 0; i < run->workers; i++)
        slab_visit(&run->worker[i]->slab, visit, arg);
    slab_visit(&run->slab, visit, arg);
}

struct coro_extra *coro_extra_of(const wh_coro *coro)
{
    return state_of(coro) == CORO_NEW ? coro->start.extra : coro->stack ? coro->stack->extra : NULL;
}

/* ---- Sites ---- */

static struct wh_site *sites; /* any thread, atomic: pushed to, never popped */

COLD static void site_list(struct wh_site *site)
{
    if (__atomic_exchange_n(&site->listed, 1, __ATOMIC_RELAXED))
        return;
    site->next = __atomic_load_n(&sites, __ATOMIC_RELAXED);
    /* release: pairs with the acquire in wh_sites_visit() */
    while (!__atomic_compare_exchange_n(&sites, &site->next, site, true, __ATOMIC_RELEASE,
                                        __ATOMIC_RELAXED))
        ;
}

/* Runs on several threads may share a site: a count may then be lost, never torn. */
static inline void site_started(struct wh_site *site)
{
    if (unlikely(!__atomic_load_n(&site->listed, __ATOMIC_RELAXED)))
        site_list(site);
    uint64_t started = __atomic_load_n(&site->started, __ATOMIC_RELAXED);
    __atomic_store_n(&site->started, started + 1, __ATOMIC_RELAXED);
}

static void site_depth(struct wh_site *site, size_t bytes)
{
    if (bytes > __atomic_load_n(&site->stack_depth_max, __ATOMIC_RELAXED))
        __atomic_store_n(&site->stack_depth_max, bytes, __ATOMIC_RELAXED);
}

void wh_sites_visit(void (*visit)(const struct wh_site *site, void *arg), void *arg)
{
    /* acquire: pairs with the release in site_list() */
    const struct wh_site *site = __atomic_load_n(&sites, __ATOMIC_ACQUIRE);
    for (; site; site = site->next)
        visit(site, arg);
}

/* ---- Start ---- */

/* A descriptor with a stack reserved, or NULL. */
static inline wh_coro *create(struct worker *w, int size_class)
{
    if (unlikely(stack_reserve(&w->stacks, size_class) < 0))
        return NULL;
    wh_coro *coro = slab_take(w);
    if (unlikely(!coro)) {
        stack_unreserve(&w->stacks, size_class);
        return NULL;
    }
    coro->start.stack_class = (uint8_t)size_class;
    coro->start.extra = NULL;
    coro->start.bound = false;
    coro->start.outside = false;
    return coro;
}

/* Makes it a coroutine that will call fn in the ambient context of `from`. */
__attribute__((always_inline)) static inline void
describe_start(struct worker *w, wh_coro *coro, struct wh_site *site, uint32_t id, unsigned flags,
               unsigned handle, const wh_coro *from, void (*fn)(void), const uintptr_t *words)
{
    __atomic_store_n(&coro->worker, w, __ATOMIC_RELAXED);
    coro->flags = (uint8_t)(flags | (from->flags & (CORO_CTX_ENDED | CORO_MIGRATES)));
    coro->handle = (uint8_t)handle;
    __atomic_store_n(&coro->id, id, __ATOMIC_RELAXED);
    coro->deadline_ns = from->deadline_ns;
    coro->stack = NULL;
    __atomic_store_n(&coro->site, site, __ATOMIC_RELAXED);
    coro->joiner = NULL;
    coro->start.fn = fn;
    unsigned args = site_args(site);
    for (unsigned i = 0; i < args; i++)
        coro->start.words[i] = words[i];
    coro->wait = 0; /* none yet: it may be looked at, by may_move() */
    coro->ctx = NULL;
    state_set(coro, CORO_NEW);
    site_started(site);
}

/* The same by a worker, in whose pool a stack is reserved. */
__attribute__((always_inline)) static inline void prepare(struct worker *w, wh_coro *coro,
                                                          struct wh_site *site, unsigned flags,
                                                          unsigned handle, const wh_coro *from,
                                                          void (*fn)(void), const uintptr_t *words)
{
    /* Unique in the run: each worker numbers its own. */
    uint32_t id = (uint32_t)w->started * w->id_step + w->id_first;
    describe_start(w, coro, site, id, flags, handle, from, fn, words);
    if (unlikely(from->ctx))
        ctx_adopt(coro, from->ctx);
    bump(&w->started);
}

/* create() for one with options. */
COLD static wh_coro *create_with(struct worker *w, const wh_spawn_options *options, int size_class)
{
    wh_coro *coro = create(w, size_class);
    if (!coro || !options->name)
        return coro;
    coro->start.extra = mem_zalloc(sizeof *coro->start.extra);
    if (!coro->start.extra) {
        slab_give(w, coro);
        stack_unreserve(&w->stacks, size_class);
        return NULL;
    }
    snprintf(coro->start.extra->name, sizeof coro->start.extra->name, "%s", options->name);
    return coro;
}

int coro_start_root(struct worker *w, struct wh_site *site, void (*fn)(void),
                    const uintptr_t *words)
{
    wh_coro *coro = create(w, w->stack_class);
    if (!coro)
        return -ENOMEM;
    prepare(w, coro, site, CORO_ROOT, HANDLE_DETACHED, &w->loop, fn, words);
    ready_push(w, coro);
    return 0;
}

/* Queues a NEW one on the worker that it is for. */
COLD static void send(struct worker *w, wh_coro *coro, struct worker *to)
{
    if (to == w) {
        ready_push(w, coro);
        return;
    }
    INBOX_PUSH(&to->inbox.woken, coro, next);
    worker_notify(to);
}

/* Queues a NEW one where others may take it; in a run with one worker only what has leave to
 * migrate, and what has not starts on that worker, whoever starts it. */
COLD static void queue_new_shared(struct worker *w, wh_coro *coro)
{
    if (likely(w->run->workers_asked > 1) || coro->flags & CORO_MIGRATES)
        ready_push_any(w, coro);
    else
        send(w, coro, w->run->worker[0]);
}

/* Queues a NEW one. */
static inline void queue_new(struct worker *w, wh_coro *coro)
{
    if (unlikely(w->shared))
        queue_new_shared(w, coro);
    else
        ready_push(w, coro);
}

static int start_with(wh_coro *self, struct wh_site *site, wh_coro **ret_coro,
                      const wh_spawn_options *options, void (*fn)(void), const uintptr_t *words)
{
    struct worker *w = self->worker;
    int size_class = options->stack_bytes ? stack_class_of(options->stack_bytes) : w->stack_class;
    if (size_class < 0)
        return size_class;
    if (options->worker > w->run->workers_asked)
        return -EINVAL;
    wh_coro *coro = create_with(w, options, size_class);
    if (!coro)
        return -ENOMEM;
    prepare(w, coro, site, 0, ret_coro ? 0 : HANDLE_DETACHED, self, fn, words);
    if (options->migrate) {
        coro->flags |= CORO_MIGRATES;
        __atomic_store_n(&w->migrants, true, __ATOMIC_RELAXED);
    }
    if (options->worker) {
        coro->flags &= (uint8_t)~CORO_MIGRATES;
        coro->start.bound = true;
    }
    if (ret_coro)
        *ret_coro = coro;
    if (options->worker)
        send(w, coro, w->run->worker[options->worker - 1]);
    else
        queue_new(w, coro);
    return 0;
}

int wh_start_(struct wh_site *site, wh_coro **ret_coro, const wh_spawn_options *options,
              void (*fn)(void), const uintptr_t *words)
{
    wh_coro *self = enter(ret_coro ? "wh_spawn" : "wh_go");
    struct worker *w = self->worker;
    if (unlikely(starts_no_more(w)))
        return leave(self, -ECANCELED);
    if (unlikely(options))
        return leave(self, start_with(self, site, ret_coro, options, fn, words));

    wh_coro *coro = create(w, w->stack_class);
    if (unlikely(!coro))
        return leave(self, -ENOMEM);
    prepare(w, coro, site, 0, ret_coro ? 0 : HANDLE_DETACHED, self, fn, words);
    if (ret_coro)
        *ret_coro = coro;
    queue_new(w, coro);
    return leave(self, 0);
}

wh_coro *coro_reserve(struct worker *w)
{
    return create(w, w->stack_class);
}

void coro_unreserve(wh_coro *coro)
{
    struct worker *w = worker_tls;
    wh_assert(coro->home == w->index);
    stack_unreserve(&w->stacks, coro->start.stack_class);
    slab_give(w, coro);
}

void coro_start(wh_coro *coro, struct wh_site *site, void (*fn)(void), const uintptr_t *words)
{
    struct worker *w = worker_tls;
    wh_assert(coro->home == w->index);
    prepare(w, coro, site, 0, HANDLE_DETACHED, &w->loop, fn, words);
    queue_new(w, coro);
}

int coro_start_hooked(wh_coro *self, struct wh_site *site, void (*fn)(void), const uintptr_t *words,
                      struct end_hook *hook)
{
    struct worker *w = self->worker;
    if (unlikely(starts_no_more(w)))
        return -ECANCELED;
    wh_coro *coro = create(w, w->stack_class);
    if (unlikely(!coro))
        return -ENOMEM;
    prepare(w, coro, site, CORO_HOOKED, HANDLE_DETACHED, self, fn, words);
    coro->hook = hook;
    queue_new(w, coro);
    return 0;
}

/* Takes a descriptor of the run's own. */
static wh_coro *slab_take_outside(struct run *run)
{
    if (!run->slab.free && !slab_refill(&run->slab, HOME_OUTSIDE, false))
        return NULL;
    wh_coro *coro = run->slab.free;
    run->slab.free = coro->next;
    return coro;
}

int coro_start_outside(struct run *run, struct wh_site *site, void (*fn)(void),
                       const uintptr_t *words, struct end_hook *hook)
{
    struct worker *first = run->worker[0];
    if (!stack_total_more(&first->stacks))
        return -ENOMEM;
    wh_coro *coro = slab_take_outside(run);
    if (!coro) {
        stack_total_less(&first->stacks);
        return -ENOMEM;
    }
    lock_take(&coro->lock); /* it can be visited, and asked to end, once it is NEW */
    coro->start.stack_class = (uint8_t)first->stack_class;
    coro->start.extra = NULL;
    coro->start.bound = false;
    coro->start.outside = true;
    /* Its id is from the top: the workers number from 1. */
    uint32_t id = UINT32_MAX - (uint32_t)run->started_outside;
    describe_start(first, coro, site, id, hook ? CORO_HOOKED : 0, HANDLE_DETACHED, &first->loop, fn,
                   words);
    if (hook)
        coro->hook = hook;
    lock_give(&coro->lock);
    if (work_from_outside(run, coro))
        return 0;
    /* Whoever ends all of the run's may have asked this one, too, to end: then it stays in that
     * one's list, NEW for ever. */
    lock_take(&coro->lock);
    bool asked = coro->handle & HANDLE_ASKED;
    if (!asked)
        state_set(coro, CORO_FREE);
    lock_give(&coro->lock);
    if (!asked) {
        coro->next = run->slab.free;
        run->slab.free = coro;
    }
    stack_total_less(&first->stacks);
    return -ECANCELED;
}

/* ---- Moving ---- */

/* A worker whose housekeeping has come to rest may sleep for ever: it is told of what is its own
 * again, and begins anew. */
static void has_again(struct worker *owner)
{
    /* seq_cst: pairs with the store in worker_may_sleep(); what it has is there before */
    if (unlikely(__atomic_load_n(&owner->quiet, __ATOMIC_SEQ_CST)))
        worker_notify(owner);
}

bool coro_adopt(struct worker *w, wh_coro *coro)
{
    if (state_of(coro) == CORO_NEW) {
        struct stack_pool *from = coro->start.outside ? NULL : &coro->worker->stacks;
        if (stack_reserve_from(&w->stacks, from, coro->start.stack_class) < 0)
            return false;
        coro->start.outside = false;
    }
    struct worker *before = coro->worker;
    lock_take(&coro->lock);
    __atomic_store_n(&coro->worker, w, __ATOMIC_RELAXED);
    lock_give(&coro->lock);
    has_again(before);
    return true;
}

/* Makes a NEW coroutine that has been given its stack ready to start. */
static inline void begin_on_stack(struct worker *w, wh_coro *coro, struct stack *stack)
{
    coro->stack = stack;
    stack->extra = coro->start.extra;
    stack->scan_mark = (uint8_t)(w->epoch - 1); /* not looked at since this one runs on it */
    context_init(&coro->context, stack->top);
    sanitizer_stack_set(&coro->sanitizer, &w->stacks, stack);
}

void coro_attach_stack(struct worker *w, wh_coro *coro)
{
    wh_assert(state_of(coro) == CORO_NEW);
    begin_on_stack(w, coro, stack_take(&w->stacks, coro->start.stack_class, coro));
}

/* ---- Run and end ---- */

typedef uintptr_t (*entry_fn)(uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t);

/* A site's first run on a stack without an earlier one's memory shows how deep it goes; then a few
 * such runs, because looking costs a system call. */
static void measure_depth(struct worker *w, const wh_coro *self)
{
    if (__atomic_load_n(&self->site->stack_depth_max, __ATOMIC_RELAXED) && w->ended % 256)
        return;
    site_depth(self->site, stack_depth(&w->stacks, self->stack));
}

/* Gives an ended coroutine's stack to the next one if that is NEW and wants its like, else back. */
static inline void pass_stack(struct worker *w, struct stack *stack, wh_coro *next)
{
    if (state_of(next) == CORO_NEW && next->start.stack_class == stack->size_class) {
        stack_pass(&w->stacks, stack, next);
        begin_on_stack(w, next, stack);
        state_set(next, CORO_READY);
    } else {
        stack_give(&w->stacks, stack);
    }
}

/*
 * Passes the stack on and never returns. Inlined, as all of the end is: a call that does not return
 * leaves its return address with the processor, which then predicts the next return wrongly.
 */
__attribute__((always_inline, noreturn)) static inline void
go(struct worker *w, struct stack *stack, struct sanitizer *sanitizer)
{
    wh_coro *next;
    if (unlikely(stack->home != w->index)) {
        w->leaving = stack; /* its owner must not have it before we have left it */
        next = &w->loop;
    } else {
        next = take_next(w);
        pass_stack(w, stack, next);
    }
    arm_to_run(w, next);
    /* `next` may have our stack now: it begins at its top, and we do not come back to ours. The
     * descriptor may be another coroutine's already. */
    sanitizer_leave(sanitizer, &next->sanitizer, true);
    context_switch(&w->discarded, &next->context);
    __builtin_unreachable();
}

void stack_give_home(struct worker *w, struct stack *stack)
{
    struct worker *owner = w->run->worker[stack->home];
    stack_return(&owner->stacks, stack);
    has_again(owner);
}

void coro_return_stack(struct worker *w)
{
    struct stack *stack = w->leaving;
    w->leaving = NULL;
    stack_give_home(w, stack);
}

/* What is asked of it may be in the inbox of another worker, from which it has come, and which may
 * be slow to look: lets others run until it has arrived. */
COLD static void await_asked(wh_coro *self)
{
    while (__atomic_load_n(&self->handle, __ATOMIC_RELAXED) & HANDLE_ASKED) {
        budget_drop(self->worker); /* the loop takes the inbox */
        yield(self);
    }
}

/* Locks the coroutine, when nothing is asked of it any more. */
COLD static void lock_unasked(struct worker *w, wh_coro *self)
{
    lock_take(&self->lock);
    while (self->handle & HANDLE_ASKED) {
        lock_give(&self->lock);
        /* The request may be on its way from another worker's inbox: that one needs the lock. */
        while (__atomic_load_n(&self->handle, __ATOMIC_RELAXED) & HANDLE_ASKED) {
            inbox_take(w);
            sched_yield();
        }
        lock_take(&self->lock);
    }
}

/* The coroutine is DEAD from here on, and if nobody has its handle, free. */
__attribute__((always_inline)) static inline void die(struct worker *w, wh_coro *self,
                                                      intptr_t value)
{
    bool shared = w->shared;
    if (unlikely(shared))
        lock_unasked(w, self);
    struct waiter *joiner = self->flags & CORO_HOOKED ? NULL : self->joiner;
    unsigned handle = self->handle;
    self->value = value;
    state_set(self, CORO_DEAD);
    if (handle & HANDLE_DETACHED) {
        object_unlock(shared, &self->lock);
        slab_give(w, self);
        return;
    }
    wh_coro *claimed = joiner && claim(joiner->coro, shared) ? joiner->coro : NULL;
    /* A join has the handle from here on; a select only learns of the end. */
    if (claimed && joiner == &claimed->waiter)
        self->handle = (uint8_t)(handle | HANDLE_JOINED);
    object_unlock(shared, &self->lock);
    if (claimed)
        waiter_wake(joiner, 1, shared);
}

__attribute__((always_inline, noreturn)) static inline void finish(wh_coro *self, intptr_t value)
{
    struct worker *w = self->worker;
    wh_assert(state_of(self) == CORO_RUNNING);
    wh_assert(w->current == self);
    if (unlikely(__atomic_load_n(&self->handle, __ATOMIC_RELAXED) & HANDLE_ASKED)) {
        await_asked(self);
        w = self->worker;
    }
    if (timer_armed(&self->timer))
        wheel_cancel(&w->wheel, &self->timer);
    if (unlikely(self->ctx))
        ctx_abandon(self);
    struct stack *stack = self->stack;
    if (unlikely(stack->extra)) {
        coro_extra_free(stack->extra);
        stack->extra = NULL;
    }
    if (unlikely(stack->was_cold) && stack->home == w->index)
        measure_depth(w, self);
    struct sanitizer sanitizer = self->sanitizer;
    if (unlikely(self->flags & (CORO_HOOKED | CORO_ROOT))) {
        if (self->flags & CORO_HOOKED)
            self->hook->ended(self->hook, self, value);
        if (self->flags & CORO_ROOT)
            run_end(w->run, (int)value);
    }
    self->stack = NULL;
    die(w, self, value);
    /* The last step that anyone sees. release: pairs with the acquire in live() */
    __atomic_store_n(&w->ended, w->ended + 1, __ATOMIC_RELEASE);
    go(w, stack, &sanitizer);
}

SANITIZER_UNWATCHED void context_main(struct context *context)
{
    wh_coro *self = container_of(context, wh_coro, context);
    sanitizer_arrive(&self->sanitizer);
    wh_assert(state_of(self) == CORO_RUNNING);
    uintptr_t a[6];
    memcpy(a, self->start.words, sizeof a);
    entry_fn fn = (entry_fn)self->start.fn;
    timer_init(&self->timer); /* where the words were */
    where_set(self->worker, IN_USER);
    uintptr_t raw = fn(a[0], a[1], a[2], a[3], a[4], a[5]);
    if (unlikely(self->stack->extra))
        locals_destroy(self);
    where_set(self->worker, IN_RUNTIME);
    finish(self, value_widen(raw, site_ret_size(self->site)));
}

/* ---- Handles ---- */

static const struct wait_kind wait_join = {.reason = "join", .withdraw = queue_withdraw};

/* The joiner has been interrupted: it is no longer the one. */
static void join_leave(wh_coro *self, wh_coro *coro)
{
    bool shared = self->worker->shared;
    object_lock(shared, &coro->lock);
    if (state_of(coro) != CORO_DEAD && coro->joiner == &self->waiter)
        coro->joiner = NULL;
    object_unlock(shared, &coro->lock);
}

/* It has not ended, and the lock is held: is given here. */
static int join_wait(wh_coro *self, wh_coro *coro, bool shared)
{
    self->waiter.coro = self;
    park_begin(self, &wait_join);
    coro->joiner = &self->waiter;
    object_unlock(shared, &coro->lock);
    deadline_arm(self);
    int rc = park_end(self);
    if (unlikely(rc < 0))
        join_leave(self, coro);
    return rc;
}

/* The handle is the caller's alone. */
static inline int join_end(wh_coro *self, wh_coro *coro, intptr_t *ret_value)
{
    if (ret_value)
        *ret_value = coro->value;
    slab_give(self->worker, coro);
    return leave(self, 0);
}

__attribute__((noinline)) static int join(wh_coro *self, wh_coro *coro, intptr_t *ret_value)
{
    if (coro == self)
        return leave(self, -EDEADLK);
    bool shared = self->worker->shared;
    int refused = state_of(coro) == CORO_DEAD ? 0 : ended(self); /* takes a lock: not under ours */
    int rc = 0;
    object_lock(shared, &coro->lock);
    if (unlikely(state_of(coro) == CORO_FREE || coro->handle & HANDLE_DETACHED))
        coro_misuse(self, "wh_join", "joins a coroutine that was joined or detached already");
    if (state_of(coro) == CORO_DEAD) {
        rc = coro->handle & HANDLE_JOINED ? -EBUSY : 0;
        object_unlock(shared, &coro->lock);
    } else if (coro->joiner && waiter_waits(coro->joiner)) {
        rc = -EBUSY;
        object_unlock(shared, &coro->lock);
    } else if (unlikely(refused < 0)) {
        object_unlock(shared, &coro->lock);
        rc = refuse(self, refused);
    } else {
        rc = join_wait(self, coro, shared);
    }
    if (unlikely(rc < 0))
        return leave(self, rc);
    wh_assert(state_of(coro) == CORO_DEAD);
    return join_end(self, coro, ret_value);
}

int wh_join(wh_coro *coro, intptr_t *ret_value)
{
    wh_coro *self = enter("wh_join");
    if (likely(!self->worker->shared && state_of(coro) == CORO_DEAD && !coro->handle))
        return join_end(self, coro, ret_value);
    return join(self, coro, ret_value);
}

void wh_detach(wh_coro *coro)
{
    INSIDE(self, "wh_detach");
    bool shared = self->worker->shared;
    object_lock(shared, &coro->lock);
    wh_assert(state_of(coro) != CORO_FREE && !(coro->handle & (HANDLE_DETACHED | HANDLE_JOINED)));
    bool dead = state_of(coro) == CORO_DEAD;
    wh_assert(dead || !coro->joiner || !waiter_waits(coro->joiner));
    if (!dead) /* atomic: its coroutine looks without the lock, see await_asked() */
        __atomic_store_n(&coro->handle, (uint8_t)(coro->handle | HANDLE_DETACHED),
                         __ATOMIC_RELAXED);
    object_unlock(shared, &coro->lock);
    if (dead)
        slab_give(self->worker, coro);
}

/* ---- Who ---- */

wh_coro *wh_self(void)
{
    struct worker *w = worker_tls;
    return w && w->current != &w->loop ? w->current : NULL;
}

uint32_t wh_id(const wh_coro *coro)
{
    return coro->id;
}

const char *wh_name(const wh_coro *coro)
{
    const struct coro_extra *extra = coro_extra_of(coro);
    return extra && extra->name[0] ? extra->name : coro->site->function;
}

int site_describe(const struct wh_site *site, const char *name, uint32_t id, char *buf, size_t size)
{
    if (!site->line) /* by the call that it names */
        return snprintf(buf, size, "%s #%u, started by %s", name, id, site->file);
    return snprintf(buf, size, "%s #%u, started at %s:%u", name, id, site->file, site->line);
}

int coro_describe(const wh_coro *coro, char *buf, size_t size)
{
    return site_describe(coro->site, wh_name(coro), coro->id, buf, size);
}

void coro_misuse(const wh_coro *coro, const char *call, const char *what)
{
    char who[256];
    if (!coro)
        panic("%s: a thread that is no worker %s", call, what);
    coro_describe(coro, who, sizeof who);
    panic("%s: a coroutine %s (%s)", call, what, who);
}

const char *coro_waits_for(const wh_coro *coro)
{
    const char *reason = wait_kind_of(coro)->reason;
    return reason ? reason : op_table[coro->op.code].name;
}
