/*
 * coro.c: the life of a coroutine: started, run, joined.
 *
 * Descriptors come from a slab: chunks cut into descriptors, last-in first-out. The first chunks
 * are small, later ones huge pages, because a million descriptors in small pages miss the TLB at
 * every wake. A chunk stays until the run ends, so that all descriptors can be visited without a
 * list through them.
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

COLD static bool slab_grow(struct worker *w)
{
    bool huge = live(w) >= HUGE_FROM_COROS;
    size_t bytes = huge ? CHUNK_HUGE_BYTES : CHUNK_SMALL_BYTES;
    struct slab_chunk *chunk = mem_alloc_aligned(bytes, huge ? CHUNK_HUGE_BYTES : 64);
    if (!chunk)
        return false;
    if (huge)
        (void)madvise(chunk, bytes, MADV_HUGEPAGE); /* a wish */
    chunk->coros = (bytes - sizeof *chunk) / sizeof(wh_coro);
    chunk->next = w->slab_chunks;
    w->slab_chunks = chunk;
    for (size_t i = chunk->coros; i-- > 0;) {
        chunk->coro[i].state = CORO_FREE;
        chunk->coro[i].next = w->slab_free;
        w->slab_free = &chunk->coro[i];
    }
    return true;
}

static inline wh_coro *slab_take(struct worker *w)
{
    if (unlikely(!w->slab_free) && !slab_grow(w))
        return NULL;
    wh_coro *coro = w->slab_free;
    wh_assert(coro->state == CORO_FREE);
    w->slab_free = coro->next;
    return coro;
}

static inline void slab_give(struct worker *w, wh_coro *coro)
{
    coro->state = CORO_FREE;
    coro->next = w->slab_free;
    w->slab_free = coro;
}

void coro_slab_finish(struct worker *w)
{
    while (w->slab_chunks) {
        struct slab_chunk *chunk = w->slab_chunks;
        w->slab_chunks = chunk->next;
        for (size_t i = 0; i < chunk->coros; i++) {
            wh_coro *coro = &chunk->coro[i];
            if (coro->state == CORO_FREE)
                continue;
            mem_free(coro->extra);
            if (coro->state == CORO_READY || coro->state == CORO_PARKED)
                sanitizer_finish(&coro->sanitizer);
        }
        mem_free(chunk);
    }
}

void coro_visit(struct worker *w, void (*visit)(wh_coro *coro, void *arg), void *arg)
{
    for (struct slab_chunk *chunk = w->slab_chunks; chunk; chunk = chunk->next)
        for (size_t i = 0; i < chunk->coros; i++) {
            wh_coro *coro = &chunk->coro[i];
            if (coro->state != CORO_FREE && coro->state != CORO_DEAD)
                visit(coro, arg);
        }
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
    coro->stack_class = (uint8_t)size_class;
    coro->extra = NULL;
    return coro;
}

/* Makes it a coroutine that will call fn in the ambient context of `from`, and queues it. */
static inline void start(struct worker *w, wh_coro *coro, struct wh_site *site, unsigned flags,
                         const wh_coro *from, void (*fn)(void), const uintptr_t *words)
{
    coro->worker = w;
    coro->state = CORO_NEW;
    coro->flags = (uint8_t)(flags | (from->flags & CORO_CTX_ENDED));
    coro->id = (uint32_t)++w->started;
    coro->deadline_ns = from->deadline_ns;
    coro->ctx = NULL;
    if (unlikely(from->ctx))
        ctx_adopt(coro, from->ctx);
    coro->stack = NULL;
    coro->site = site;
    coro->joiner = NULL;
    coro->start.fn = fn;
    unsigned args = site_args(site);
    for (unsigned i = 0; i < args; i++)
        coro->start.words[i] = words[i];
    site_started(site);
    ready_push(w, coro);
}

/* create() for one with options. */
COLD static wh_coro *create_with(struct worker *w, const wh_spawn_options *options, int size_class)
{
    wh_coro *coro = create(w, size_class);
    if (!coro || !options->name)
        return coro;
    if (!coro_extra_get(coro)) {
        slab_give(w, coro);
        stack_unreserve(&w->stacks, size_class);
        return NULL;
    }
    snprintf(coro->extra->name, sizeof coro->extra->name, "%s", options->name);
    return coro;
}

int coro_start_root(struct worker *w, struct wh_site *site, void (*fn)(void),
                    const uintptr_t *words)
{
    wh_coro *coro = create(w, w->stack_class);
    if (!coro)
        return -ENOMEM;
    start(w, coro, site, CORO_DETACHED, &w->loop, fn, words);
    w->root = coro;
    return 0;
}

int wh_start_(struct wh_site *site, wh_coro **ret_coro, const wh_spawn_options *options,
              void (*fn)(void), const uintptr_t *words)
{
    wh_coro *self = self_or_panic(ret_coro ? "wh_spawn" : "wh_go");
    struct worker *w = self->worker;
    if (unlikely(w->ending))
        return -ECANCELED;

    wh_coro *coro;
    if (likely(!options)) {
        coro = create(w, w->stack_class);
    } else {
        int size_class =
            options->stack_bytes ? stack_class_of(options->stack_bytes) : w->stack_class;
        if (size_class < 0)
            return size_class;
        coro = create_with(w, options, size_class);
    }
    if (unlikely(!coro))
        return -ENOMEM;
    start(w, coro, site, ret_coro ? 0 : CORO_DETACHED, self, fn, words);
    if (ret_coro)
        *ret_coro = coro;
    return 0;
}

wh_coro *coro_reserve(struct worker *w)
{
    return create(w, w->stack_class);
}

void coro_unreserve(wh_coro *coro)
{
    struct worker *w = worker_tls;
    stack_unreserve(&w->stacks, coro->stack_class);
    slab_give(w, coro);
}

void coro_start(wh_coro *coro, struct wh_site *site, void (*fn)(void), const uintptr_t *words)
{
    struct worker *w = worker_tls;
    start(w, coro, site, CORO_DETACHED, &w->loop, fn, words);
}

int coro_start_hooked(wh_coro *self, struct wh_site *site, void (*fn)(void), const uintptr_t *words,
                      struct end_hook *hook)
{
    struct worker *w = self->worker;
    if (unlikely(w->ending))
        return -ECANCELED;
    wh_coro *coro = create(w, w->stack_class);
    if (unlikely(!coro))
        return -ENOMEM;
    start(w, coro, site, CORO_DETACHED | CORO_HOOKED, self, fn, words);
    coro->hook = hook;
    return 0;
}

/* Makes a NEW coroutine that has been given its stack ready to start. */
static inline void begin_on_stack(struct worker *w, wh_coro *coro, struct stack *stack)
{
    coro->stack = stack;
    stack->scan_mark = (uint8_t)(w->epoch - 1); /* not looked at since this one runs on it */
    context_init(&coro->context, stack->top);
    sanitizer_stack_set(&coro->sanitizer, &w->stacks, stack);
}

void coro_attach_stack(struct worker *w, wh_coro *coro)
{
    wh_assert(coro->state == CORO_NEW);
    begin_on_stack(w, coro, stack_take(&w->stacks, coro->stack_class, coro));
}

/* ---- Run and end ---- */

typedef uintptr_t (*entry_fn)(uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t);

/* What the function returned, widened: it left only the low bytes of the register defined. */
static intptr_t widen(uintptr_t raw, unsigned size)
{
    switch (size) {
    case 0: return 0;
    case 1: return (int8_t)raw;
    case 2: return (int16_t)raw;
    case 4: return (int32_t)raw;
    default: return (intptr_t)raw;
    }
}

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
    if (next->state == CORO_NEW && next->stack_class == stack->size_class) {
        stack_pass(&w->stacks, stack, next);
        begin_on_stack(w, next, stack);
        next->state = CORO_READY;
    } else {
        stack_give(&w->stacks, stack);
    }
}

/*
 * Passes the stack on and never returns. Inlined, as all of the end is: a call that does not return
 * leaves its return address with the processor, which then predicts the next return wrongly.
 */
__attribute__((always_inline, noreturn)) static inline void leave(wh_coro *self,
                                                                  struct stack *stack)
{
    struct worker *w = self->worker;
    wh_coro *next = take_next(w);
    pass_stack(w, stack, next);
    arm_to_run(w, next);
    /* `next` may have our stack now: it begins at its top, and we do not come back to ours. The
     * descriptor may be free already. */
    sanitizer_leave(&self->sanitizer, &next->sanitizer, true);
    context_switch(&w->discarded, &next->context);
    __builtin_unreachable();
}

__attribute__((always_inline, noreturn)) static inline void finish(wh_coro *self, intptr_t value)
{
    struct worker *w = self->worker;
    wh_assert(self->state == CORO_RUNNING);
    wh_assert(w->current == self);
    if (timer_armed(&self->timer))
        wheel_cancel(&w->wheel, &self->timer);
    if (unlikely(self->ctx))
        ctx_abandon(self);
    if (unlikely(self->extra)) {
        mem_free(self->extra);
        self->extra = NULL;
    }
    if (unlikely(self->stack->was_cold))
        measure_depth(w, self);
    struct stack *stack = self->stack;
    self->stack = NULL;
    w->ended++;
    if (unlikely(self == w->root)) {
        w->result = (int)value;
        w->root = NULL;
        w->ending = true;
        w->budget = 0; /* the loop is next: it ends the rest */
    }

    struct waiter *joiner = self->joiner;
    if (unlikely(self->flags & CORO_HOOKED))
        self->hook->ended(self->hook, self, value);
    self->state = CORO_DEAD;
    self->value = value;
    if (self->flags & CORO_DETACHED)
        slab_give(w, self);
    else if (joiner && waiter_waits(joiner)) {
        /* A join has the handle from here on; a select only learns of the end. */
        if (joiner == &joiner->coro->waiter)
            self->flags |= CORO_JOINED;
        waiter_wake(joiner, 1);
    }
    leave(self, stack);
}

SANITIZER_UNWATCHED void context_main(struct context *context)
{
    wh_coro *self = container_of(context, wh_coro, context);
    sanitizer_arrive(&self->sanitizer);
    wh_assert(self->state == CORO_RUNNING);
    uintptr_t a[6];
    memcpy(a, self->start.words, sizeof a);
    entry_fn fn = (entry_fn)self->start.fn;
    timer_init(&self->timer); /* where the words were */
    uintptr_t raw = fn(a[0], a[1], a[2], a[3], a[4], a[5]);
    if (unlikely(self->extra))
        locals_destroy(self);
    finish(self, widen(raw, site_ret_size(self->site)));
}

/* ---- Handles ---- */

static bool join_withdraw(wh_coro *coro)
{
    wh_coro *joined = coro->waiter.data;
    wh_assert(joined->joiner == &coro->waiter);
    joined->joiner = NULL;
    return true;
}

static const struct wait_kind wait_join = {.reason = "join", .withdraw = join_withdraw};

int wh_join(wh_coro *coro, intptr_t *ret_value)
{
    wh_coro *self = self_or_panic("wh_join");
    wh_assert(coro->state != CORO_FREE && !(coro->flags & CORO_DETACHED));
    if (coro == self)
        return -EDEADLK;
    if (coro->state != CORO_DEAD) {
        if (coro->joiner && waiter_waits(coro->joiner))
            return -EBUSY;
        int rc = ended(self);
        if (rc < 0)
            return refuse(self, rc);
        deadline_arm(self);
        self->waiter.coro = self;
        self->waiter.data = coro;
        coro->joiner = &self->waiter;
        rc = park(self, &wait_join);
        if (rc < 0)
            return rc;
    } else if (coro->flags & CORO_JOINED) {
        return -EBUSY;
    }
    wh_assert(coro->state == CORO_DEAD);
    if (ret_value)
        *ret_value = coro->value;
    slab_give(self->worker, coro);
    return 0;
}

void wh_detach(wh_coro *coro)
{
    wh_coro *self = self_or_panic("wh_detach");
    wh_assert(coro->state != CORO_FREE && !(coro->flags & (CORO_DETACHED | CORO_JOINED)));
    wh_assert(coro->state == CORO_DEAD || !coro->joiner || !waiter_waits(coro->joiner));
    if (coro->state == CORO_DEAD)
        slab_give(self->worker, coro);
    else
        coro->flags |= CORO_DETACHED;
}

void wh_cancel(wh_coro *coro)
{
    wh_assert(coro->state != CORO_FREE);
    if (coro->state == CORO_DEAD || (coro->flags & CORO_CANCELLED))
        return;
    if (coro->flags & CORO_SHIELDED) {
        coro->flags |= CORO_CANCEL_NOTED;
        return;
    }
    coro->flags |= CORO_CANCELLED;
    if (coro->state == CORO_PARKED)
        interrupt(coro, -ECANCELED);
}

static void cancel_one(wh_coro *coro, void *arg)
{
    (void)arg;
    wh_cancel(coro);
}

void cancel_all(struct worker *w)
{
    coro_visit(w, cancel_one, NULL);
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
    return coro->extra && coro->extra->name[0] ? coro->extra->name : coro->site->function;
}

int wh_name_set(const char *name)
{
    struct coro_extra *extra = coro_extra_get(self_or_panic("wh_name_set"));
    if (!extra)
        return -ENOMEM;
    snprintf(extra->name, sizeof extra->name, "%s", name);
    return 0;
}

int coro_describe(const wh_coro *coro, char *buf, size_t size)
{
    return snprintf(buf, size, "%s #%u, started at %s:%u", wh_name(coro), coro->id,
                    coro->site->file, coro->site->line);
}

void coro_misuse(const wh_coro *coro, const char *call, const char *what)
{
    char who[256];
    coro_describe(coro, who, sizeof who);
    panic("%s: a coroutine %s (%s)", call, what, who);
}

const char *coro_waits_for(const wh_coro *coro)
{
    const char *reason = wait_kind_of(coro)->reason;
    return reason ? reason : op_table[coro->op.code].name;
}
