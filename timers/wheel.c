/*
 * wheel.c: placing, cancelling and expiring (wheel.h draws the wheel and says why it is right).
 */
#include "timers/wheel.h"

#include <string.h>

#define SLOT_MASK ((uint64_t)WHEEL_SLOTS - 1)
#define TICK_MAX  ((UINT64_C(1) << (WHEEL_LEVELS * WHEEL_LEVEL_SHIFT)) - 1)

static uint64_t tick_floor(int64_t ns)
{
    return (uint64_t)ns >> WHEEL_TICK_SHIFT;
}

static uint64_t tick_ceil(int64_t ns)
{
    return ((uint64_t)ns + WHEEL_TICK_NS - 1) >> WHEEL_TICK_SHIFT;
}

void wheel_init(struct wheel *wheel, int64_t now_ns)
{
    wh_assert(now_ns >= 0);
    memset(wheel, 0, sizeof *wheel);
    wheel->tick = tick_floor(now_ns);
    for (int level = 0; level < WHEEL_LEVELS; level++)
        for (unsigned s = 0; s < WHEEL_SLOTS; s++)
            list_init(&wheel->slot[level][s]);
}

static unsigned digit(uint64_t tick, unsigned level)
{
    return (unsigned)(tick >> (level * WHEEL_LEVEL_SHIFT)) & SLOT_MASK;
}

/* Links the timer where its tick belongs. One that is due goes into the current slot of level 0. */
static void place(struct wheel *wheel, struct timer *timer)
{
    uint64_t tick = tick_ceil(timer->deadline_ns);
    if (tick < wheel->tick)
        tick = wheel->tick;
    wh_assert(tick <= TICK_MAX);

    uint64_t differing = (tick ^ wheel->tick) | 1;
    unsigned level = (63u - (unsigned)__builtin_clzll(differing)) / WHEEL_LEVEL_SHIFT;
    unsigned s = digit(tick, level);
    list_push_back(&wheel->slot[level][s], &timer->link);
    wheel->occupied[level] |= UINT64_C(1) << s;
    wheel->levels |= UINT64_C(1) << level;
}

void wheel_arm(struct wheel *wheel, struct timer *timer, int64_t deadline_ns)
{
    wh_assert(!timer_armed(timer));
    wh_assert(deadline_ns != WHEEL_NEVER);
    timer->deadline_ns = deadline_ns < 0 ? 0 : deadline_ns;
    place(wheel, timer);
    wheel->armed++;
}

/* Notes that a slot's list has become empty. */
static void slot_emptied(struct wheel *wheel, size_t index)
{
    unsigned level = (unsigned)(index / WHEEL_SLOTS);
    wheel->occupied[level] &= ~(UINT64_C(1) << (index & SLOT_MASK));
    if (!wheel->occupied[level])
        wheel->levels &= ~(UINT64_C(1) << level);
}

void wheel_cancel(struct wheel *wheel, struct timer *timer)
{
    wh_assert(timer_armed(timer));
    struct list *next = timer->link.next;
    list_unlink(&timer->link);
    timer->link.next = NULL;
    if (unlikely(timer->deadline_ns < 0)) /* in a list of expired ones */
        return;
    wheel->armed--;
    /* Only a slot's head can be left alone in its list. */
    if (next->next == next)
        slot_emptied(wheel, (size_t)(next - &wheel->slot[0][0]));
}

void wheel_advance(struct wheel *wheel, int64_t now_ns, struct list *expired)
{
    wh_assert(now_ns >= 0);
    uint64_t now = tick_floor(now_ns);

    while (wheel->levels) {
        unsigned level = (unsigned)__builtin_ctzll(wheel->levels);
        unsigned s = (unsigned)__builtin_ctzll(wheel->occupied[level]);
        unsigned shift = level * WHEEL_LEVEL_SHIFT;
        uint64_t start = ((wheel->tick >> shift & ~SLOT_MASK) | s) << shift;
        if (start > now)
            break;

        struct list due;
        list_init(&due);
        list_splice_back(&due, &wheel->slot[level][s]);
        slot_emptied(wheel, level * WHEEL_SLOTS + s);
        wheel->tick = start;
        while (!list_empty(&due)) {
            struct timer *timer = container_of(list_pop_front(&due), struct timer, link);
            __builtin_prefetch(due.next->next); /* far timers are cold */
            if (tick_ceil(timer->deadline_ns) <= start) {
                list_push_back(expired, &timer->link);
                timer->deadline_ns = ~timer->deadline_ns;
                wheel->armed--;
            } else {
                place(wheel, timer);
            }
        }
    }
    if (now > wheel->tick)
        wheel->tick = now;
}

int64_t wheel_next(const struct wheel *wheel)
{
    if (!wheel->levels)
        return WHEEL_NEVER;
    unsigned level = (unsigned)__builtin_ctzll(wheel->levels);
    unsigned s = (unsigned)__builtin_ctzll(wheel->occupied[level]);
    unsigned shift = level * WHEEL_LEVEL_SHIFT;
    uint64_t start = ((wheel->tick >> shift & ~SLOT_MASK) | s) << shift;
    /* The last tick that a deadline can be rounded up to begins just after the end of time. */
    uint64_t next_ns = start << WHEEL_TICK_SHIFT;
    return next_ns < WHEEL_NEVER ? (int64_t)next_ns : WHEEL_NEVER - 1;
}

void wheel_validate(const struct wheel *wheel)
{
    size_t armed = 0;
    for (unsigned level = 0; level < WHEEL_LEVELS; level++) {
        wh_assert(!!wheel->occupied[level] == (wheel->levels >> level & 1));
        for (unsigned s = 0; s < WHEEL_SLOTS; s++) {
            const struct list *head = &wheel->slot[level][s];
            wh_assert(!list_empty(head) == (wheel->occupied[level] >> s & 1));
            list_for_each (node, head) {
                const struct timer *timer = container_of(node, struct timer, link);
                uint64_t tick = tick_ceil(timer->deadline_ns);
                wh_assert(node->next->prev == node);
                wh_assert(tick <= wheel->tick || digit(tick, level) == s);
                wh_assert(level == 0 || s > digit(wheel->tick, level));
                armed++;
            }
        }
    }
    wh_assert(armed == wheel->armed);
}
