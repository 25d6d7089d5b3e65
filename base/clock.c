/*
 * clock.c: how a struct clock learns its rate (clock.h says what it is for).
 *
 * The rate is measured from the first reading on, so it gets better the longer a run lasts, and is
 * not used before a millisecond has passed.
 */
#include "base/clock.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

/* The rate is measured over at least this long before it is used. */
#define RATE_SPAN_NS 1000000

/* How old a reading may be. The product since * ns_per_cycle must not overflow either: 8 ms are at
 * most 2^26 cycles of 8 GHz, and ns_per_cycle of the slowest counter (1 MHz) is 2^42. */
#define FRESH_NS 8000000

/* Rather late than early. */
#define FAST 1.0005

/* Tries at a reading that nothing interrupts. */
#define READINGS 8

static bool counter_is_trusted(void)
{
    char name[32];
    int fd = open("/sys/devices/system/clocksource/clocksource0/current_clocksource",
                  O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, name, sizeof name - 1);
    close(fd);
    if (n <= 0)
        return false;
    name[n] = 0;
    return !strcmp(name, "tsc\n") || !strcmp(name, "arch_sys_counter\n");
}

/* Both clocks at once, as nearly as can be: the counter stands before the exact time. */
struct reading {
    int64_t ns;
    uint64_t cycles;
    uint64_t gap_cycles; /* how long it took: more when something came between */
};

static inline struct reading read_both(void)
{
    struct reading r = {.cycles = clock_cycles()};
    r.ns = clock_now();
    r.gap_cycles = clock_cycles() - r.cycles;
    return r;
}

/* The closest of several. */
COLD static struct reading read_closest(void)
{
    struct reading closest = read_both();
    for (int i = 1; i < READINGS; i++) {
        struct reading r = read_both();
        if (r.gap_cycles < closest.gap_cycles)
            closest = r;
    }
    return closest;
}

void clock_init(struct clock *clock)
{
    memset(clock, 0, sizeof *clock);
    clock->counter_trusted = counter_is_trusted();
    struct reading anchor = read_closest();
    clock->anchor_ns = anchor.ns;
    clock->anchor_cycles = anchor.cycles;
    clock->base_ns = anchor.ns;
    clock->base_cycles = anchor.cycles;
    clock->gap_max_cycles = 4 * anchor.gap_cycles + 16;
}

int64_t clock_sync(struct clock *clock)
{
    struct reading now = read_both();
    if (unlikely(now.gap_cycles > clock->gap_max_cycles) && clock->counter_trusted)
        now = read_closest();
    clock->base_ns = now.ns;
    clock->base_cycles = now.cycles;

    if (now.cycles < clock->anchor_cycles) { /* the machine slept, and its counter began anew */
        clock->anchor_ns = now.ns;
        clock->anchor_cycles = now.cycles;
        clock->fresh_cycles = 0;
    }
    int64_t span_ns = now.ns - clock->anchor_ns;
    if (clock->counter_trusted && span_ns >= RATE_SPAN_NS) {
        double rate = (double)span_ns / (double)(now.cycles - clock->anchor_cycles);
        clock->ns_per_cycle = (uint64_t)(rate * FAST * 4294967296.0);
        clock->fresh_cycles = (uint64_t)(FRESH_NS / rate);
    }
    return now.ns;
}
