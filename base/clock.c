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

void clock_init(struct clock *clock)
{
    memset(clock, 0, sizeof *clock);
    clock->counter_trusted = counter_is_trusted();
    clock->anchor_ns = clock_now();
    clock->anchor_cycles = clock_cycles();
    clock->base_ns = clock->anchor_ns;
    clock->base_cycles = clock->anchor_cycles;
}

int64_t clock_sync(struct clock *clock)
{
    uint64_t cycles = clock_cycles();
    int64_t now_ns = clock_now();
    clock->base_ns = now_ns;
    clock->base_cycles = cycles;

    int64_t span_ns = now_ns - clock->anchor_ns;
    if (clock->counter_trusted && span_ns >= RATE_SPAN_NS) {
        double rate = (double)span_ns / (double)(cycles - clock->anchor_cycles);
        clock->ns_per_cycle = (uint64_t)(rate * FAST * 4294967296.0);
        clock->fresh_cycles = (uint64_t)(FRESH_NS / rate);
    }
    return now_ns;
}
