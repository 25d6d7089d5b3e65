/*
 * stacks.h: the memory of coroutines.
 *
 * A pool hands out stacks of five classes. The stacks of a class stand in arenas, large mappings
 * cut into slots as wide as the class, each with a guard at its low end:
 *
 *      low                                                              high
 *      | guard | reserved, touched page by page as the stack grows  | top |
 *              ^ bottom                                   stack pointer -> top (less a colour)
 *      |<------------------------- a slot's bytes ----------------------->|
 *
 * The spacing of slots is what page tables cost (512 bytes a stack at 256 KiB), so the guard is cut
 * from the class and not added to it (but for the smallest, whose slots are twice its size). The
 * top is lowered by 0 to 15 cache lines, slot by slot: equally aligned stacks would all compete for
 * the same cache sets.
 *
 * A slot's life:
 *
 *      FRESH --prepare (guard)--> COLD <--give back memory-- WARM
 *                                   \                         ^
 *                                    `--take--> TAKEN --give--'    take prefers WARM, newest first
 *
 * Reserving and taking are two steps: a coroutine reserves a stack when it is started, which is
 * where running out of memory is an error, and takes one when it first runs, which cannot fail. So
 * a thousand started coroutines that run one after the other share one warm stack.
 *
 *      invariant, each class:   promised <= warm_count + cold_count
 *
 * A pool belongs to one thread, its owner. Two things others may do, without waiting: give back a
 * stack of it, on which a coroutine came over to them (stack_return()), and say that a reservation
 * is not needed any more, because they have made one for the same coroutine in their own pool
 * (stack_reserve_from()). The owner takes note of both in stack_pool_collect().
 *
 *      others: returned  -- push (release) -->  [s]->[s]->    owner: exchange (acquire), give
 *              unreserved[class] += 1 (relaxed)               owner: exchange, promised -= it
 *
 * Guards use MADV_GUARD_INSTALL (Linux 6.13) when the kernel has it:
 * then a million stacks are one mapping; else mprotect(2), which costs two mappings a stack and
 * ends at vm.max_map_count.
 */
#ifndef STACKS_STACKS_H
#define STACKS_STACKS_H

#include "base/list.h"

enum { STACK_CLASSES = 5 };

/* Memory that a free warm stack may keep below its top. */
#define STACK_WARM_KEEP_BYTES ((size_t)16 << 10)

enum stack_state {
    STACK_FRESH, /* of the arena: never used, no guard yet */
    STACK_COLD,  /* of the pool: guarded, holds no memory */
    STACK_WARM,  /* of the pool: guarded, holds memory of its last use */
    STACK_TAKEN, /* of the coroutine in `owner` */
};

struct stack {
    union {
        struct list link; /* WARM, COLD: in the pool's list */
        struct {
            void *extra;        /* TAKEN: the owner's, at first as it was */
            struct stack *next; /* in the pool's list of returned ones */
        };
    };
    char *top;   /* one past the highest usable byte, 16-byte aligned */
    void *owner; /* TAKEN: whose; for fault reports */
    uint8_t size_class;
    uint8_t state;
    bool was_cold;     /* taken without memory of an earlier use: its depth can be measured */
    uint8_t scan_mark; /* for the owner's use: when stack_scan_next() last looked */
    uint8_t home;      /* the pool's number */
};

struct stack_arena {
    struct stack_arena *next;
    char *base;
    size_t slots;    /* in all */
    size_t prepared; /* slots below this are not FRESH */
    uint8_t size_class;
    struct stack slot[]; /* in a mapping of its own, touched as it is used */
};

struct stack_class {
    size_t bytes; /* of a slot */
    size_t guard_bytes;
    struct stack_arena *arena; /* the newest, the only one with FRESH slots */
    struct list warm;          /* newest first */
    struct list cold;
    size_t warm_count;
    size_t cold_count;
    size_t warm_low; /* least warm_count since the last stack_pool_tidy() */
    size_t surplus;  /* of the warm ones: to be given back */
    size_t promised;
    size_t taken;
    size_t slots; /* in all arenas */
};

struct stack_pool {
    struct stack_class classes[STACK_CLASSES];
    struct stack_arena *arenas; /* all, newest first */
    size_t stacks_max;          /* most promised and taken in all classes and pools of `total` */
    size_t *total;              /* how many they are, atomic; NULL: there is no limit */
    size_t stacks;              /* of this pool */
    size_t reserved_bytes;
    uint64_t trimmed;
    bool guard_by_madvise;
    bool complained;
    uint8_t number;
    struct stack_arena *scan_arena; /* where stack_scan_next() goes on */
    size_t scan_slot;
    /* any thread, atomic */
    struct stack *returned __attribute__((aligned(64)));
    uint32_t unreserved[STACK_CLASSES];
};

/* guard_by_madvise: what stack_guard_probe() said, or false to do without. With a `total` there are
 * at most stacks_max stacks in all pools that share it; NULL: no limit. */
void stack_pool_init(struct stack_pool *pool, uint8_t number, size_t stacks_max, size_t *total,
                     bool guard_by_madvise);

/* Unmaps everything; no stack may be in use. */
void stack_pool_finish(struct stack_pool *pool);

/* Whether the kernel has MADV_GUARD_INSTALL. */
bool stack_guard_probe(void);

/* The smallest class of at least `bytes`, or -EINVAL when that is above the largest. */
int stack_class_of(size_t bytes);
size_t stack_class_bytes(int size_class);

/* Makes room for one more reservation, or fails as stack_reserve() does: its slow part. */
COLD int stack_reserve_more(struct stack_pool *pool, int size_class);

/* Makes sure that a later stack_take() of the class succeeds. Returns 0 or -ENOMEM, which is
 * reported once with its cause. */
static inline int stack_reserve(struct stack_pool *pool, int size_class)
{
    struct stack_class *c = &pool->classes[size_class];
    if (unlikely(c->promised == c->warm_count + c->cold_count || pool->total)) {
        int rc = stack_reserve_more(pool, size_class);
        if (rc < 0)
            return rc;
    }
    c->promised++;
    pool->stacks++;
    return 0;
}

/* One more of all that the limit is for. Returns false if there are as many as may be. From any
 * thread, and so the next. */
static inline bool stack_total_more(const struct stack_pool *pool)
{
    if (likely(!pool->total) ||
        __atomic_fetch_add(pool->total, 1, __ATOMIC_RELAXED) < pool->stacks_max)
        return true;
    __atomic_fetch_sub(pool->total, 1, __ATOMIC_RELAXED);
    return false;
}

/* One less of all that the limit is for. */
static inline void stack_total_less(const struct stack_pool *pool)
{
    if (unlikely(pool->total))
        __atomic_fetch_sub(pool->total, 1, __ATOMIC_RELAXED);
}

static inline void stack_unreserve(struct stack_pool *pool, int size_class)
{
    wh_assert(pool->classes[size_class].promised > 0);
    pool->classes[size_class].promised--;
    pool->stacks--;
    stack_total_less(pool);
}

/* A reservation moves from one pool to another, whose owner calls this; or from none (NULL), where
 * it was only counted in the total. Returns as stack_reserve(); the limit is not touched. */
int stack_reserve_from(struct stack_pool *pool, struct stack_pool *from, int size_class);

/* Takes a stack that was reserved. */
static inline struct stack *stack_take(struct stack_pool *pool, int size_class, void *owner)
{
    struct stack_class *c = &pool->classes[size_class];
    wh_assert(c->promised > 0);
    struct stack *stack;
    if (likely(c->warm_count)) {
        stack = container_of(list_pop_front(&c->warm), struct stack, link);
        if (--c->warm_count < c->warm_low)
            c->warm_low = c->warm_count;
        stack->was_cold = false;
    } else {
        stack = container_of(list_pop_front(&c->cold), struct stack, link);
        c->cold_count--;
        stack->was_cold = true;
    }
    c->promised--;
    c->taken++;
    stack->state = STACK_TAKEN;
    stack->owner = owner;
    return stack;
}

/* Among the free ones of the pool, which no longer counts it in the total. */
static inline void stack_put(struct stack_pool *pool, struct stack *stack)
{
    struct stack_class *c = &pool->classes[stack->size_class];
    wh_assert(stack->state == STACK_TAKEN);
    stack->state = STACK_WARM;
    stack->owner = NULL;
    list_push_front(&c->warm, &stack->link);
    c->warm_count++;
    c->taken--;
    pool->stacks--;
}

/* Gives it back. The caller may still be running on it: nothing touches its memory before the next
 * stack_pool_tidy() or stack_take(). */
static inline void stack_give(struct stack_pool *pool, struct stack *stack)
{
    stack_put(pool, stack);
    stack_total_less(pool);
}

/* stack_give() by a thread that is not the owner. The caller may still be running on the stack if
 * the owner cannot take it before it has left. */
void stack_return(struct stack_pool *pool, struct stack *stack);

/* The owner takes note of what others have returned and need not have reserved any more. Returns
 * whether there was any. */
bool stack_pool_collect(struct stack_pool *pool);

/* Whether there is something to take note of. */
static inline bool stack_pool_pending(const struct stack_pool *pool)
{
    /* seq_cst: pairs with the push in stack_return() and the addition in stack_reserve_from(), each
     * followed by a look whether the owner sleeps */
    bool pending = __atomic_load_n(&pool->returned, __ATOMIC_SEQ_CST);
    for (int i = 0; i < STACK_CLASSES && !pending; i++) {
        /* seq_cst: pairs with the same */
        pending = __atomic_load_n(&pool->unreserved[i], __ATOMIC_SEQ_CST);
    }
    return pending;
}

/* Gives it to one who has reserved a stack of the same class: as giving it back and taking it. */
static inline void stack_pass(struct stack_pool *pool, struct stack *stack, void *owner)
{
    wh_assert(stack->state == STACK_TAKEN);
    wh_assert(pool->classes[stack->size_class].promised > 0);
    pool->classes[stack->size_class].promised--;
    pool->stacks--;
    stack_total_less(pool);
    stack->was_cold = false;
    stack->owner = owner;
}

/* The lowest usable address. */
char *stack_bottom(const struct stack_pool *pool, const struct stack *stack);

/* How deep the stack's memory reaches below its top, in bytes: a count of pages, by mincore(2). */
size_t stack_depth(const struct stack_pool *pool, const struct stack *stack);

/* Gives back the memory between the bottom and `floor`, if the stack has grown below it. Returns
 * whether it had. */
bool stack_trim(struct stack_pool *pool, struct stack *stack, char *floor);

/*
 * Housekeeping, in two steps off the hot path and not on a pooled stack. stack_pool_tidy() sees
 * which warm stacks were not needed since its last call (warm_low) and makes half of them surplus;
 * stack_pool_give_back() gives the memory of up to stacks_max surplus ones back, the coldest first
 * (1.2 us each), and returns whether there are more.
 */
void stack_pool_tidy(struct stack_pool *pool);
bool stack_pool_give_back(struct stack_pool *pool, unsigned stacks_max);

/* The next prepared slot of the pool, around and around; NULL at the end of each round. */
struct stack *stack_scan_next(struct stack_pool *pool);

/* The stack whose guard holds the address, or NULL. Async-signal-safe, and for any thread. */
struct stack *stack_of_guard(const struct stack_pool *pool, const void *address);

/* For any thread. */
size_t stack_pool_resident_bytes(const struct stack_pool *pool);

void stack_pool_validate(const struct stack_pool *pool);

#endif
