/*
 * clock_test.cpp: the cheap clock against the exact one.
 *
 * The promise (clock.h): never early, and late by no more than a few microseconds. A cheap reading
 * is taken between two exact ones, so it must lie between the first, and the second plus that
 * bound.
 */
#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <random>
#include <vector>

#include <signal.h>
#include <sys/time.h>
#include <time.h>

extern "C" {
#include "base/clock.h"
}

namespace
{

constexpr int64_t LATE_MAX_NS = 5000;
constexpr int64_t SECOND_NS = 1000000000;

/* What came of many readings. */
struct Seen {
    int64_t early_max_ns = 0;
    int64_t late_max_ns = INT64_MIN;
    size_t readings = 0;

    void look(struct clock *clock)
    {
        int64_t before_ns = clock_now();
        int64_t read_ns = clock_read(clock);
        int64_t after_ns = clock_now();
        early_max_ns = std::max(early_max_ns, before_ns - read_ns);
        late_max_ns = std::max(late_max_ns, read_ns - after_ns);
        readings++;
    }
};

void busy(int64_t duration_ns)
{
    int64_t until_ns = clock_now() + duration_ns;
    while (clock_now() < until_ns)
        ;
}

/* What is waited for is time itself: the clock's readings are to grow old. */
void pause_for(int64_t duration_ns)
{
    struct timespec ts = {0, duration_ns};
    clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, nullptr);
}

} // namespace

TEST_CASE("clock: clock_now is CLOCK_MONOTONIC in nanoseconds")
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    int64_t before_ns = ts.tv_sec * SECOND_NS + ts.tv_nsec;
    int64_t now_ns = clock_now();
    clock_gettime(CLOCK_MONOTONIC, &ts);
    CHECK(before_ns <= now_ns);
    CHECK(now_ns <= ts.tv_sec * SECOND_NS + ts.tv_nsec);
}

TEST_CASE("clock: clock_sync is exact")
{
    struct clock clock;
    clock_init(&clock);
    for (int i = 0; i < 1000; i++) {
        int64_t before_ns = clock_now();
        int64_t sync_ns = clock_sync(&clock);
        int64_t after_ns = clock_now();
        REQUIRE(before_ns <= sync_ns);
        REQUIRE(sync_ns <= after_ns);
    }
}

TEST_CASE("clock: a cheap reading is never early, and late by microseconds at most")
{
    std::mt19937_64 random(7);
    Seen seen;
    /* Several clocks: each measures its rate anew, from its first millisecond on. */
    for (int round = 0; round < 8; round++) {
        struct clock clock;
        clock_init(&clock);
        int64_t until_ns = clock_now() + SECOND_NS / 4;
        while (clock_now() < until_ns) {
            for (int i = 0; i < 50; i++)
                seen.look(&clock);
            switch (random() % 6) {
            case 0: busy(static_cast<int64_t>(random() % 100000)); break;
            case 1: pause_for(static_cast<int64_t>(random() % 3000000)); break;
            case 2: pause_for(static_cast<int64_t>(random() % 20000000)); break; /* over 8 ms */
            case 3: clock_sync(&clock); break;
            default: busy(static_cast<int64_t>(random() % 2000)); break;
            }
        }
    }
    INFO("readings " << seen.readings << ", early by " << seen.early_max_ns << " ns, late by "
                     << seen.late_max_ns << " ns at most");
    CHECK(seen.early_max_ns <= 0);
    CHECK(seen.late_max_ns <= LATE_MAX_NS);
}

namespace
{

void interrupt_for_a_while(int)
{
    busy(300000);
}

} // namespace

TEST_CASE("clock: being interrupted in the middle of a reading does not make it late")
{
    /* A signal every millisecond that takes 0.3 ms stands for the scheduler taking the core away:
     * some of them fall between the two instructions that take a reading. */
    struct sigaction action = {}, before;
    action.sa_handler = interrupt_for_a_while;
    action.sa_flags = SA_RESTART;
    sigaction(SIGALRM, &action, &before);
    const struct itimerval every = {{0, 1000}, {0, 1000}}, never = {};
    setitimer(ITIMER_REAL, &every, nullptr);

    std::vector<int64_t> late_ns;
    int64_t until_ns = clock_now() + SECOND_NS;
    while (clock_now() < until_ns) {
        struct clock clock;
        clock_init(&clock);
        busy(1100000);
        for (int i = 0; i < 2000; i++) {
            clock_sync(&clock);
            int64_t read_ns = clock_read(&clock);
            late_ns.push_back(read_ns - clock_now());
        }
    }
    setitimer(ITIMER_REAL, &never, nullptr);
    sigaction(SIGALRM, &before, nullptr);
    int64_t late_max_ns = *std::max_element(late_ns.begin(), late_ns.end());
    INFO("readings " << late_ns.size() << ", late by " << late_max_ns << " ns at most");
    CHECK(late_max_ns <= LATE_MAX_NS);
}

TEST_CASE("clock: a reading left alone for long is taken anew, not stretched")
{
    struct clock clock;
    clock_init(&clock);
    pause_for(2000000);
    clock_sync(&clock);
    for (int i = 0; i < 5; i++) {
        pause_for(30000000);
        Seen seen;
        seen.look(&clock);
        CHECK(seen.early_max_ns <= 0);
        CHECK(seen.late_max_ns <= 0); /* it asked: exact */
    }
}

TEST_CASE("clock: the rate is taken too fast, by more than the kernel ever slews its own")
{
    struct clock clock;
    clock_init(&clock);
    if (!clock.counter_trusted) {
        WARN("the kernel does not trust the counter here: not used");
        return;
    }
    pause_for(50000000);
    clock_sync(&clock);
    double rate = static_cast<double>(clock.base_ns - clock.anchor_ns) /
                  static_cast<double>(clock.base_cycles - clock.anchor_cycles);
    double taken = static_cast<double>(clock.ns_per_cycle) / 4294967296.0;
    CHECK(taken / rate > 1.00049);
    CHECK(taken / rate < 1.00051);
}

TEST_CASE("clock: without a trusted counter every reading is exact")
{
    struct clock clock;
    clock_init(&clock);
    clock.counter_trusted = false;
    for (int i = 0; i < 20000; i++) {
        int64_t before_ns = clock_now();
        int64_t read_ns = clock_read(&clock);
        int64_t after_ns = clock_now();
        REQUIRE(before_ns <= read_ns);
        REQUIRE(read_ns <= after_ns);
    }
    CHECK(clock.fresh_cycles == 0);
}
