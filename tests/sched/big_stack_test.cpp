/*
 * Calls on a borrowed stack: deep ones, ones that park, move, throw inside, and are never returned
 * from.
 */
#include "on_workers.hpp"

#include <catch2/catch_test_macros.hpp>

#include <cstring>
#include <stdexcept>

namespace
{

constexpr size_t DEEP_BYTES = size_t{6} << 20;

/* Fills a frame that no coroutine's own stack has room for, and adds it up. */
__attribute__((noinline)) int sum_deep(int each, void (*in_between)())
{
    volatile unsigned char frame[DEEP_BYTES];
    for (size_t i = 0; i < DEEP_BYTES; i += 512)
        frame[i] = static_cast<unsigned char>(each);
    if (in_between)
        in_between();
    int sum = 0;
    for (size_t i = 0; i < DEEP_BYTES; i += 512)
        sum += frame[i];
    return sum;
}

constexpr int SUM_OF_ONES = DEEP_BYTES / 512;

wh_options small_stacks()
{
    wh_options options = {};
    options.stack_bytes = 16 << 10;
    return options;
}

uint64_t stacks_in_use()
{
    wh_stats stats;
    wh_stats_get(&stats);
    return stats.stacks_in_use;
}

} // namespace

TEST_CASE("big stack: a call that needs megabytes, from a coroutine with a small stack")
{
    wh_options options = small_stacks();
    in_run(
        [] {
            uint64_t before = stacks_in_use();
            for (int i = 1; i <= 3; i++) {
                intptr_t sum = 0;
                int rc = wh_on_big_stack(&sum, sum_deep, i, nullptr);
                CHECK(rc == 0);
                CHECK(sum == i * SUM_OF_ONES);
            }
            int rc = wh_on_big_stack(NULL, sum_deep, 1, nullptr);
            CHECK(rc == 0);
            if (wh_workers() == 1) /* others take note of what was returned to them when they may */
                CHECK(stacks_in_use() == before);
        },
        &options);
}

namespace
{
int nine(int a, int b, int c, int d, int e, int f)
{
    return a * 100000 + b * 10000 + c * 1000 + d * 100 + e * 10 + f;
}
signed char minus_one()
{
    return -1;
}
void nothing()
{
}
} // namespace

TEST_CASE("big stack: arguments and results are as of any start")
{
    in_run([] {
        intptr_t value = 0;
        int rc = wh_on_big_stack(&value, nine, 1, 2, 3, 4, 5, 6);
        CHECK(rc == 0);
        CHECK(value == 123456);
        rc = wh_on_big_stack(&value, minus_one);
        CHECK(rc == 0);
        CHECK(value == -1);
        rc = wh_on_big_stack(&value, nothing);
        CHECK(rc == 0);
        CHECK(value == 0);
    });
}

namespace
{
wh_coro *seen;
wh_key key;
void look_around()
{
    seen = wh_self();
    CHECK(wh_local_get(key) == &seen);
    CHECK(wh_deadline() != WH_NEVER);
}
} // namespace

TEST_CASE("big stack: it is the same coroutine there")
{
    in_run([] {
        CHECK(wh_key_create(&key, NULL) == 0);
        wh_local_set(key, &seen);
        WH_WITH_TIMEOUT(WH_HOUR)
        {
            int rc = wh_on_big_stack(NULL, look_around);
            CHECK(rc == 0);
        }
        CHECK(seen == wh_self());
    });
}

namespace
{
void sleep_and_nest()
{
    wh_sleep(5 * WH_MILLISECOND);
    intptr_t inner = 0;
    int rc = wh_on_big_stack(&inner, sum_deep, 1, wh_yield);
    if (rc < 0 || inner != SUM_OF_ONES)
        abort();
}
} // namespace

TEST_CASE("big stack: calls there may park, many at a time, and nest")
{
    wh_options options = small_stacks();
    in_run(
        [] {
            uint64_t before = stacks_in_use();
            std::vector<wh_coro *> coros;
            for (int i = 1; i <= 5; i++)
                coros.push_back(spawn([i] {
                    intptr_t sum = 0;
                    int rc = wh_on_big_stack(&sum, sum_deep, i, sleep_and_nest);
                    return rc == 0 ? sum : rc;
                }));
            for (int i = 1; i <= 5; i++)
                CHECK(join(coros[static_cast<size_t>(i) - 1]) == i * SUM_OF_ONES);
            if (wh_workers() == 1) /* others take note of what was returned to them when they may */
                CHECK(stacks_in_use() == before);
        },
        &options);
}

namespace
{

/* Parked for long, deep in both stacks, they keep what they hold: housekeeping trims what is below
 * the stack pointer, and only in the stack that it points to. */
__attribute__((noinline)) int keep_both()
{
    volatile char own[100 * 1024];
    for (size_t i = 0; i < sizeof own; i += 64)
        own[i] = static_cast<char>(i / 64);
    intptr_t sum = 0;
    int rc = wh_on_big_stack(&sum, sum_deep, 1, +[] { wh_sleep(1500 * WH_MILLISECOND); });
    int wrong = rc != 0 || sum != SUM_OF_ONES;
    for (size_t i = 0; i < sizeof own; i += 64)
        wrong += own[i] != static_cast<char>(i / 64);
    return wrong;
}

} // namespace

TEST_CASE("big stack: what is parked for long on one keeps what it has on both")
{
    in_run([] {
        wh_coro *coro = spawn([] { return keep_both(); });
        wh_coro *busy = spawn([] { return static_cast<int>(wh_sleep(1400 * WH_MILLISECOND)); });
        CHECK(join(busy) == 0);
        CHECK(join(coro) == 0);
    });
}

TEST_CASE("big stack: an exception that is caught there is as any")
{
    in_run([] {
        intptr_t value = 0;
        int rc = wh_on_big_stack(
            &value, +[]() -> int {
                try {
                    wh_yield();
                    throw std::runtime_error("there");
                } catch (const std::runtime_error &error) {
                    wh_yield();
                    return static_cast<int>(strlen(error.what()));
                }
            });
        CHECK(rc == 0);
        CHECK(value == 5);
    });
}

TEST_CASE("big stack: without one the call is not made")
{
    wh_options options = {};
    options.stacks_max = 1;
    in_run(
        [] {
            intptr_t value = 7;
            int rc = wh_on_big_stack(&value, nothing);
            CHECK(rc == -ENOMEM);
            CHECK(value == 7);
        },
        &options);
}

namespace
{
void sleep_for_ever()
{
    for (;;)
        wh_sleep(WH_HOUR);
}
void never_return()
{
    (void)wh_on_big_stack(NULL, sleep_for_ever);
}
} // namespace

TEST_CASE("big stack: the run ends beside one that does not return")
{
    wh_options options = {};
    options.grace_ns = -1;
    int rc = in_run(
        [] {
            if (wh_go(never_return) < 0)
                return -1;
            wh_sleep(WH_MILLISECOND);
            return 3;
        },
        &options);
    CHECK(rc == 3);
}

TEST_CASE("big stack: it is given back where it came from, wherever the call returns")
{
    wh_options options = {};
    options.migrate = true;
    in_run(
        [] {
            std::vector<wh_coro *> coros;
            for (int i = 0; i < 16; i++)
                coros.push_back(spawn([] {
                    int wrong = 0;
                    for (int k = 0; k < 20; k++) {
                        intptr_t value = 0;
                        int rc = wh_on_big_stack(
                            &value,
                            +[](int n) {
                                wh_sleep(100 * WH_MICROSECOND);
                                wh_yield();
                                return n + 1;
                            },
                            k);
                        wrong += rc != 0 || value != k + 1;
                    }
                    return wrong;
                }));
            for (wh_coro *coro : coros)
                CHECK(join(coro) == 0);
        },
        &options);
}
