/*
 * wheel.h: a hierarchical timing wheel (Varghese and Lauck, SOSP 1987).
 *
 * Time is counted in ticks of 2^14 ns (16.4 us). Nine levels of 64 slots each: a slot of level L is
 * 64^L ticks wide, and the wheel spans every int64_t of nanoseconds, 292 years.
 *
 * A timer stands at the level of the highest base-64 digit in which its tick differs from the
 * wheel's current tick, in the slot that this digit names:
 *
 *      current  ... 0 3 17 40        digits, base 64
 *      timer    ... 0 3 21  5        differ first at level 1: level 1, slot 21
 *
 * From this follows all that the wheel needs:
 *   - every timer of level L expires before every timer of level L + 1, so the next slot to look at
 * is the lowest bit of the lowest non-empty level: O(1);
 *   - slots never wrap around: a level's occupied slots are all later than the current digit;
 *   - moving the current tick forward without passing an occupied slot moves no timer.
 * When the current tick reaches a slot of a higher level, its timers are placed anew, lower: each
 * moves at most eight times in its life, each time nearer.
 *
 * A deadline is rounded up to a tick and compared with a current tick rounded down: never early,
 * and late by no more than a tick and the caller's own delay. Ticks are derived from absolute
 * times, so nothing drifts.
 *
 * The wheel belongs to one thread, reads no clock, takes no lock and calls nothing: expired timers
 * come back as a list.
 */
#ifndef TIMERS_WHEEL_H
#define TIMERS_WHEEL_H

#include "base/list.h"

enum { WHEEL_TICK_SHIFT = 14, WHEEL_LEVEL_SHIFT = 6, WHEEL_LEVELS = 9 };

#define WHEEL_SLOTS   (1u << WHEEL_LEVEL_SHIFT)
#define WHEEL_TICK_NS (INT64_C(1) << WHEEL_TICK_SHIFT)

/* Never: what wheel_next() says of an empty wheel. A deadline of this value cannot be armed. */
#define WHEEL_NEVER INT64_MAX

/*
 * Embedded in what it times. link.next is NULL while it is not armed. One that is in a list of
 * expired timers still counts as armed, and cancelling it takes it off that list: its deadline is
 * then stored inverted, which makes it negative.
 */
struct timer {
    struct list link;
    int64_t deadline_ns;
};

struct wheel {
    uint64_t tick;                   /* the current one */
    uint64_t levels;                 /* bit L: level L has timers */
    uint64_t occupied[WHEEL_LEVELS]; /* bit S: slot S of the level has timers */
    size_t armed;
    struct list slot[WHEEL_LEVELS][WHEEL_SLOTS];
};

void wheel_init(struct wheel *wheel, int64_t now_ns);

static inline void timer_init(struct timer *timer)
{
    timer->link.next = NULL;
}

static inline bool timer_armed(const struct timer *timer)
{
    return timer->link.next != NULL;
}

/* Arms a timer that is not armed. A deadline that has passed expires at the next wheel_advance().
 */
void wheel_arm(struct wheel *wheel, struct timer *timer, int64_t deadline_ns);

/* Disarms an armed timer. */
void wheel_cancel(struct wheel *wheel, struct timer *timer);

/*
 * Moves the current tick to now_ns (going back does nothing) and appends every timer whose deadline
 * has come to `expired`, in the order of their slots: take each with wheel_pop_expired(), now or
 * later.
 */
void wheel_advance(struct wheel *wheel, int64_t now_ns, struct list *expired);

static inline struct timer *wheel_pop_expired(struct list *expired)
{
    struct timer *timer = container_of(list_pop_front(expired), struct timer, link);
    timer->link.next = NULL;
    timer->deadline_ns = ~timer->deadline_ns;
    return timer;
}

/*
 * When wheel_advance() should be called next: no timer expires before it. For timers within 64
 * ticks that is their time; for later ones the time at which their slot is to be placed anew.
 */
int64_t wheel_next(const struct wheel *wheel);

void wheel_validate(const struct wheel *wheel);

#endif
