/*
 * stack_pool.c: arenas and the life of a slot (drawn in stacks.h).
 *
 * Arenas of a class double from 16 slots to 64 GiB of address space: a small program reserves
 * little, a million stacks of 256 KiB are some twenty mappings. A slot is prepared (guarded) one at
 * a time, when a reservation needs it: guarding a whole arena at once would cost page tables for
 * slots that are never used.
 *
 * Tried and left: guarding sixteen slots at a time saved nothing; the cost is the page table that
 * the kernel allocates every eighth slot.
 */
#include "stacks/sanitizer.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef WHORL_VALGRIND
#include <valgrind/valgrind.h>
#endif

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

#define KIB(n)          ((size_t)(n) << 10)
#define PAGE            ((size_t)4096)
#define ARENA_SLOTS_MIN 16
#define ARENA_BYTES_MAX ((size_t)64 << 30)
#define COLOURS         16
#define COLOUR_BYTES    64

/* Pages looked at by one mincore(2). */
#define MINCORE_PAGES 2048

static const struct {
    size_t bytes;
    size_t slot_bytes;
    size_t guard_bytes;
} classes[STACK_CLASSES] = {
    /* Too small to cut a guard from that an ordinary frame does not jump: it stands beside. */
    {KIB(16), KIB(32), KIB(16)},     {KIB(64), KIB(64), KIB(16)},     {KIB(256), KIB(256), KIB(16)},
    {KIB(1024), KIB(1024), KIB(16)}, {KIB(8192), KIB(8192), KIB(64)},
};

int stack_class_of(size_t bytes)
{
    for (int size_class = 0; size_class < STACK_CLASSES; size_class++)
        if (bytes <= classes[size_class].bytes)
            return size_class;
    return -EINVAL;
}

size_t stack_class_bytes(int size_class)
{
    return classes[size_class].bytes;
}

bool stack_guard_probe(void)
{
    void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return false;
    bool has = madvise(page, PAGE, MADV_GUARD_INSTALL) == 0;
    munmap(page, PAGE);
    return has;
}

void stack_pool_init(struct stack_pool *pool, uint8_t number, size_t stacks_max, size_t *total,
                     bool guard_by_madvise)
{
    memset(pool, 0, sizeof *pool);
    pool->number = number;
    pool->stacks_max = stacks_max;
    pool->total = total;
    pool->guard_by_madvise = guard_by_madvise;
    for (int i = 0; i < STACK_CLASSES; i++) {
        pool->classes[i].bytes = classes[i].slot_bytes;
        pool->classes[i].guard_bytes = classes[i].guard_bytes;
        list_init(&pool->classes[i].warm);
        list_init(&pool->classes[i].cold);
    }
}

static size_t arena_table_bytes(size_t slots)
{
    return sizeof(struct stack_arena) + slots * sizeof(struct stack);
}

static void arena_unmap(struct stack_arena *arena)
{
    size_t bytes = arena->slots * classes[arena->size_class].slot_bytes;
#ifdef WHORL_ASAN
    /* Abandoned frames left poison, and the address space may be given to anyone next. */
    ASAN_UNPOISON_MEMORY_REGION(arena->base,
                                arena->prepared * classes[arena->size_class].slot_bytes);
#endif
    munmap(arena->base, bytes);
    munmap(arena, arena_table_bytes(arena->slots));
}

void stack_pool_finish(struct stack_pool *pool)
{
    while (pool->arenas) {
        struct stack_arena *arena = pool->arenas;
        pool->arenas = arena->next;
        arena_unmap(arena);
    }
}

static struct stack_arena *arena_map(int size_class, size_t slots)
{
    size_t bytes = slots * classes[size_class].slot_bytes;
    char *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED)
        return NULL;

    struct stack_arena *arena = mmap(NULL, arena_table_bytes(slots), PROT_READ | PROT_WRITE,
                                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (arena == MAP_FAILED) {
        munmap(base, bytes);
        return NULL;
    }
    /* A huge page would fill a stack's whole reservation at its first touch. Where the kernel has
     * no huge pages it says EINVAL, which is as good. */
    (void)madvise(base, bytes, MADV_NOHUGEPAGE);
    arena->base = base;
    arena->slots = slots;
    arena->size_class = (uint8_t)size_class;
    return arena;
}

/* Adds an arena as large as all that the class has, or, where address space is limited, smaller. */
static int arena_add(struct stack_pool *pool, int size_class)
{
    struct stack_class *c = &pool->classes[size_class];
    size_t slots = c->slots < ARENA_SLOTS_MIN ? ARENA_SLOTS_MIN : c->slots;
    if (slots > ARENA_BYTES_MAX / c->bytes)
        slots = ARENA_BYTES_MAX / c->bytes;

    struct stack_arena *arena = arena_map(size_class, slots);
    while (!arena && slots > 1)
        arena = arena_map(size_class, slots /= 2);
    if (!arena)
        return -ENOMEM;

    arena->next = pool->arenas;
    /* release: pairs with the acquire in arenas_of() */
    __atomic_store_n(&pool->arenas, arena, __ATOMIC_RELEASE);
    c->arena = arena;
    c->slots += slots;
    pool->reserved_bytes += slots * c->bytes;
    return 0;
}

COLD static int complain(struct stack_pool *pool, const char *cause, const char *cure)
{
    if (!pool->complained)
        report("no more coroutine stacks after %zu: %s; %s", pool->stacks, cause, cure);
    pool->complained = true;
    return -ENOMEM;
}

static int guard_install(const struct stack_pool *pool, char *low, size_t bytes)
{
    int rc;
    do
        rc = pool->guard_by_madvise ? madvise(low, bytes, MADV_GUARD_INSTALL)
                                    : mprotect(low, bytes, PROT_NONE);
    while (rc < 0 && errno == EINTR);
    return rc < 0 ? -errno : 0;
}

/* Turns the next FRESH slot into a COLD one. */
COLD static int slot_prepare(struct stack_pool *pool, int size_class)
{
    struct stack_class *c = &pool->classes[size_class];
    if (!c->arena || c->arena->prepared == c->arena->slots) {
        if (arena_add(pool, size_class) < 0)
            return complain(
                pool, "no address space, memory or mappings",
                "start fewer coroutines, use a smaller stack class, or raise the "
                "limit (ulimit -v, cgroup memory, vm.overcommit_memory, vm.max_map_count)");
    }

    struct stack_arena *arena = c->arena;
    size_t index = arena->prepared;
    char *low = arena->base + index * c->bytes;
    if (guard_install(pool, low, c->guard_bytes) < 0)
        return pool->guard_by_madvise
                   ? complain(pool, "the kernel has no memory for a guard",
                              "start fewer coroutines")
                   : complain(pool, "each guard is a mapping and vm.max_map_count is reached",
                              "raise that sysctl, or use Linux 6.13 or newer");

    struct stack *stack = &arena->slot[index];
    stack->top = low + c->bytes - index % COLOURS * COLOUR_BYTES;
    stack->size_class = (uint8_t)size_class;
    stack->state = STACK_COLD;
    stack->home = pool->number;
#ifdef WHORL_VALGRIND
    (void)VALGRIND_STACK_REGISTER(low + c->guard_bytes, stack->top);
#endif
    list_push_front(&c->cold, &stack->link);
    c->cold_count++;
    /* release: pairs with the acquire in prepared_of() */
    __atomic_store_n(&arena->prepared, index + 1, __ATOMIC_RELEASE);
    return 0;
}

/* Sees to it that there is one more than are promised. */
static int room_for_one(struct stack_pool *pool, int size_class)
{
    struct stack_class *c = &pool->classes[size_class];
    if (c->promised == c->warm_count + c->cold_count)
        stack_pool_collect(pool);
    return c->promised < c->warm_count + c->cold_count ? 0 : slot_prepare(pool, size_class);
}

int stack_reserve_more(struct stack_pool *pool, int size_class)
{
    if (!stack_total_more(pool))
        return complain(pool, "wh_options.stacks_max is reached", "raise it");
    int rc = room_for_one(pool, size_class);
    if (rc < 0)
        stack_total_less(pool);
    return rc;
}

/* ---- From other threads ---- */

int stack_reserve_from(struct stack_pool *pool, struct stack_pool *from, int size_class)
{
    int rc = room_for_one(pool, size_class);
    if (rc < 0)
        return rc;
    pool->classes[size_class].promised++;
    pool->stacks++;
    if (from) {
        /* seq_cst: pairs with the loads in stack_pool_pending() */
        __atomic_fetch_add(&from->unreserved[size_class], 1, __ATOMIC_SEQ_CST);
    }
    return 0;
}

void stack_return(struct stack_pool *pool, struct stack *stack)
{
    wh_assert(stack->state == STACK_TAKEN && stack->home == pool->number);
    stack_total_less(pool);
    stack->next = __atomic_load_n(&pool->returned, __ATOMIC_RELAXED);
    /* seq_cst: pairs with the acquire in stack_pool_collect() and the load in stack_pool_pending()
     */
    while (!__atomic_compare_exchange_n(&pool->returned, &stack->next, stack, true,
                                        __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
        ;
}

bool stack_pool_collect(struct stack_pool *pool)
{
    bool any = false;
    for (int i = 0; i < STACK_CLASSES; i++) {
        if (!__atomic_load_n(&pool->unreserved[i], __ATOMIC_RELAXED))
            continue;
        uint32_t count = __atomic_exchange_n(&pool->unreserved[i], 0, __ATOMIC_RELAXED);
        wh_assert(pool->classes[i].promised >= count);
        pool->classes[i].promised -= count;
        pool->stacks -= count;
        any = true;
    }
    if (!__atomic_load_n(&pool->returned, __ATOMIC_RELAXED))
        return any;
    /* acquire: pairs with the release in stack_return() */
    struct stack *stack = __atomic_exchange_n(&pool->returned, NULL, __ATOMIC_ACQUIRE);
    while (stack) {
        struct stack *next = stack->next;
        stack_put(pool, stack); /* it was counted off when it was returned */
        stack = next;
    }
    return true;
}

/* For whoever looks from another thread: arenas are only ever added. */
static struct stack_arena *arenas_of(const struct stack_pool *pool)
{
    /* acquire: pairs with the release in arena_add() */
    return __atomic_load_n(&pool->arenas, __ATOMIC_ACQUIRE);
}

static size_t prepared_of(const struct stack_arena *arena)
{
    /* acquire: pairs with the release in slot_prepare() */
    return __atomic_load_n(&arena->prepared, __ATOMIC_ACQUIRE);
}

/* The low end of the slot, where its guard begins. */
static char *slot_low(const struct stack *stack)
{
    size_t bytes = classes[stack->size_class].slot_bytes;
    /* The arena is page-aligned only, so the slot is found by its top, which is less than a page
     * below the slot's end. */
    char *end = (char *)(((uintptr_t)stack->top + PAGE - 1) & ~(uintptr_t)(PAGE - 1));
    return end - bytes;
}

char *stack_bottom(const struct stack_pool *pool, const struct stack *stack)
{
    return slot_low(stack) + pool->classes[stack->size_class].guard_bytes;
}

/* The lowest resident page in [low, high), or high. */
static char *lowest_resident(char *low, char *high)
{
    unsigned char present[MINCORE_PAGES];
    while (low < high) {
        size_t pages = (size_t)(high - low) / PAGE;
        if (pages > MINCORE_PAGES)
            pages = MINCORE_PAGES;
        if (mincore(low, pages * PAGE, present) < 0)
            return high; /* no memory to tell with: nothing is trimmed then */
        for (size_t i = 0; i < pages; i++)
            if (present[i] & 1)
                return low + i * PAGE;
        low += pages * PAGE;
    }
    return high;
}

size_t stack_depth(const struct stack_pool *pool, const struct stack *stack)
{
    char *bottom = stack_bottom(pool, stack);
    char *end = slot_low(stack) + pool->classes[stack->size_class].bytes;
    return (size_t)(end - lowest_resident(bottom, end));
}

bool stack_trim(struct stack_pool *pool, struct stack *stack, char *floor)
{
    char *bottom = stack_bottom(pool, stack);
    floor = (char *)((uintptr_t)floor & ~(uintptr_t)(PAGE - 1));
    if (floor <= bottom)
        return false;
    char *low = lowest_resident(bottom, floor);
    if (low == floor)
        return false;
    if (madvise(low, (size_t)(floor - low), MADV_DONTNEED) < 0)
        return false;
    pool->trimmed++;
    return true;
}

static void make_cold(struct stack_pool *pool, struct stack *stack)
{
    struct stack_class *c = &pool->classes[stack->size_class];
    char *bottom = stack_bottom(pool, stack);
    size_t bytes = (size_t)(slot_low(stack) + c->bytes - bottom);
    list_unlink(&stack->link);
    if (madvise(bottom, bytes, MADV_DONTNEED) < 0) {
        list_push_front(&c->warm, &stack->link); /* it keeps its memory: then as the warmest */
        return;
    }
    list_push_front(&c->cold, &stack->link);
    stack->state = STACK_COLD;
    if (--c->warm_count < c->warm_low)
        c->warm_low = c->warm_count;
    c->cold_count++;
}

void stack_pool_tidy(struct stack_pool *pool)
{
    for (int i = 0; i < STACK_CLASSES; i++) {
        struct stack_class *c = &pool->classes[i];
        c->surplus = (c->warm_low + 1) / 2;
        c->warm_low = c->warm_count;
    }
}

bool stack_pool_give_back(struct stack_pool *pool, unsigned stacks_max)
{
    for (int i = 0; i < STACK_CLASSES; i++) {
        struct stack_class *c = &pool->classes[i];
        for (; c->surplus && c->warm_count; c->surplus--) {
            if (!stacks_max--)
                return true;
            make_cold(pool, container_of(c->warm.prev, struct stack, link));
        }
        c->surplus = 0;
    }
    return false;
}

struct stack *stack_scan_next(struct stack_pool *pool)
{
    if (!pool->scan_arena) {
        pool->scan_arena = pool->arenas;
        pool->scan_slot = 0;
    }
    while (pool->scan_arena && pool->scan_slot >= pool->scan_arena->prepared) {
        pool->scan_arena = pool->scan_arena->next;
        pool->scan_slot = 0;
    }
    return pool->scan_arena ? &pool->scan_arena->slot[pool->scan_slot++] : NULL;
}

struct stack *stack_of_guard(const struct stack_pool *pool, const void *address)
{
    uintptr_t at = (uintptr_t)address;
    for (struct stack_arena *arena = arenas_of(pool); arena; arena = arena->next) {
        const struct stack_class *c = &pool->classes[arena->size_class];
        uintptr_t base = (uintptr_t)arena->base;
        if (at < base || at >= base + arena->slots * c->bytes)
            continue;
        size_t index = (at - base) / c->bytes;
        bool in_guard = (at - base) % c->bytes < c->guard_bytes;
        return in_guard && index < prepared_of(arena) ? &arena->slot[index] : NULL;
    }
    return NULL;
}

size_t stack_pool_resident_bytes(const struct stack_pool *pool)
{
    unsigned char present[MINCORE_PAGES];
    size_t resident = 0;
    for (struct stack_arena *arena = arenas_of(pool); arena; arena = arena->next) {
        size_t pages = prepared_of(arena) * pool->classes[arena->size_class].bytes / PAGE;
        for (size_t done = 0; done < pages;) {
            size_t n = pages - done < MINCORE_PAGES ? pages - done : MINCORE_PAGES;
            if (mincore(arena->base + done * PAGE, n * PAGE, present) < 0)
                return resident * PAGE;
            for (size_t i = 0; i < n; i++)
                resident += present[i] & 1;
            done += n;
        }
    }
    return resident * PAGE;
}

void stack_pool_validate(const struct stack_pool *pool)
{
    size_t stacks = 0;
    for (int i = 0; i < STACK_CLASSES; i++) {
        const struct stack_class *c = &pool->classes[i];
        size_t warm = 0, cold = 0, taken = 0;
        list_for_each (node, &c->warm)
            warm++;
        list_for_each (node, &c->cold)
            cold++;
        for (struct stack_arena *a = pool->arenas; a; a = a->next)
            for (size_t s = 0; a->size_class == i && s < a->prepared; s++)
                taken += a->slot[s].state == STACK_TAKEN;
        wh_assert(warm == c->warm_count);
        wh_assert(cold == c->cold_count);
        wh_assert(taken == c->taken);
        wh_assert(c->promised <= warm + cold);
        wh_assert(c->warm_low <= c->warm_count);
        stacks += c->taken + c->promised;
    }
    wh_assert(stacks == pool->stacks);
    wh_assert(!pool->total || __atomic_load_n(pool->total, __ATOMIC_RELAXED) <= pool->stacks_max);
}
