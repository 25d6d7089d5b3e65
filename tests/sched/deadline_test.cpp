/*
 * deadline_test.cpp: sleeping, and deadlines of blocks.
 *
 * How late something is depends on the machine and its load, so bounds on that are wide: they are
 * there to find what is wrong by orders of magnitude. That nothing is early is exact.
 */
#include "tests/sched/in_run.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <random>
#include <stdexcept>
#include <thread>
#include <vector>

extern "C" {
#include "sched/sched.h"
}

namespace
{

/* Later than this no timer may be on any machine that these tests make sense on. */
constexpr int64_t LATE_NS = 5 * WH_SECOND;

/* Each costs ThreadSanitizer a mapping of several MB, made when it first runs: that of many takes
 * seconds, in which no timer is looked at. */
#if defined(__SANITIZE_THREAD__)
constexpr int SLEEPERS = 200;
#else
constexpr int SLEEPERS = 2000;
#endif

constexpr int64_t FAR_NS = INT64_C(1) << 60;

size_t timers_armed()
{
    return worker_tls->wheel.armed;
}

} // namespace

/* ---- Blocks ---- */

TEST_CASE("deadline: there is none at first, and a block's ends with the block")
{
    in_run([] {
        CHECK(wh_deadline() == WH_NEVER);
        int64_t before_ns = wh_now();
        WH_WITH_TIMEOUT(WH_HOUR)
        {
            int64_t deadline_ns = wh_deadline();
            CHECK(deadline_ns >= before_ns + WH_HOUR);
            CHECK(deadline_ns <= wh_now() + WH_HOUR + WH_MILLISECOND);
        }
        CHECK(wh_deadline() == WH_NEVER);
        WH_WITH_DEADLINE(FAR_NS)
        {
            CHECK(wh_deadline() == FAR_NS);
        }
        CHECK(wh_deadline() == WH_NEVER);
    });
}

TEST_CASE("deadline: blocks nest and the earliest counts")
{
    in_run([] {
        WH_WITH_DEADLINE(FAR_NS)
        {
            WH_WITH_DEADLINE(FAR_NS + 1)
            {
                CHECK(wh_deadline() == FAR_NS);
                WH_WITH_DEADLINE(FAR_NS - 1)
                {
                    CHECK(wh_deadline() == FAR_NS - 1);
                    WH_WITH_DEADLINE(WH_NEVER)
                    {
                        CHECK(wh_deadline() == FAR_NS - 1);
                    }
                }
                CHECK(wh_deadline() == FAR_NS);
            }
            CHECK(wh_deadline() == FAR_NS);
        }
        CHECK(wh_deadline() == WH_NEVER);
    });
}

namespace
{

int leave_by_return()
{
    WH_WITH_DEADLINE(FAR_NS)
    {
        WH_WITH_DEADLINE(FAR_NS - 1)
        {
            return 5;
        }
    }
    return 6;
}

int leave_by_goto()
{
    int rounds = 0;
again:
    WH_WITH_DEADLINE(FAR_NS - rounds)
    {
        WH_WITH_DEADLINE(FAR_NS - 10)
        {
            if (++rounds < 3)
                goto again;
            goto out;
        }
    }
out:
    return rounds;
}

} // namespace

TEST_CASE("deadline: a block ends however it is left")
{
    in_run([] {
        bool after_break = false;
        WH_WITH_DEADLINE(FAR_NS)
        {
            WH_WITH_DEADLINE(FAR_NS - 1)
            {
                if (wh_deadline() == FAR_NS - 1)
                    break;
                after_break = true;
            }
            CHECK(wh_deadline() == FAR_NS);
        }
        CHECK_FALSE(after_break);
        CHECK(wh_deadline() == WH_NEVER);

        int rounds = 0;
        for (int i = 0; i < 3; i++) {
            WH_WITH_DEADLINE(FAR_NS)
            {
                rounds++;
                if (i == 1)
                    continue;
            }
            CHECK(wh_deadline() == WH_NEVER);
        }
        CHECK(rounds == 3); /* continue leaves the block, not the loop around it */

        int value = leave_by_return();
        CHECK(value == 5);
        CHECK(wh_deadline() == WH_NEVER);
        value = leave_by_goto();
        CHECK(value == 3);
        CHECK(wh_deadline() == WH_NEVER);

        try {
            WH_WITH_DEADLINE(FAR_NS)
            {
                throw std::runtime_error("out");
            }
        } catch (const std::runtime_error &) {
            rounds++;
        }
        CHECK(rounds == 4);
        CHECK(wh_deadline() == WH_NEVER);
    });
}

TEST_CASE("deadline: what is started in a block inherits the deadline as it stands then")
{
    in_run([] {
        int64_t inherited_ns = 0, later_ns = 0, outside_ns = 0;
        wh_coro *coro = nullptr, *outside = nullptr;
        WH_WITH_DEADLINE(FAR_NS)
        {
            coro = spawn([&] {
                inherited_ns = wh_deadline();
                wh_yield();
                later_ns = wh_deadline();
            });
        }
        outside = spawn([&] { outside_ns = wh_deadline(); });
        join(coro);
        join(outside);
        CHECK(inherited_ns == FAR_NS);
        CHECK(later_ns == FAR_NS);
        CHECK(outside_ns == WH_NEVER);

        int rc = 0;
        WH_WITH_TIMEOUT(WH_MILLISECOND)
        {
            coro = spawn([&] { rc = wh_sleep(WH_HOUR); });
        }
        join(coro);
        CHECK(rc == -ETIMEDOUT);
    });
}

TEST_CASE("deadline: a duration of 0 or less has passed already: calls fail at once")
{
    in_run([] {
        FdPair pair = socket_pair();
        ssize_t n = send(pair.b, "x", 1, 0);
        CHECK(n == 1);
        wh_coro *child = spawn([] { wh_sleep(WH_MILLISECOND); });
        for (int64_t duration_ns : {INT64_C(0), INT64_C(-1), INT64_MIN}) {
            wh_stats before, after;
            wh_stats_get(&before);
            WH_WITH_TIMEOUT(duration_ns)
            {
                char byte;
                n = wh_recv(pair.a, &byte, 1, 0);
                CHECK(n == -ETIMEDOUT);
                n = wh_send(pair.a, "x", 1, 0);
                CHECK(n == -ETIMEDOUT);
                n = wh_poll(pair.a, POLLIN);
                CHECK(n == -ETIMEDOUT);
                n = wh_sleep(WH_HOUR);
                CHECK(n == -ETIMEDOUT);
                n = wh_sleep(0);
                CHECK(n == -ETIMEDOUT);
                n = wh_join(child, nullptr);
                CHECK(n == -ETIMEDOUT);
            }
            wh_stats_get(&after);
            CHECK(after.ring_submissions == before.ring_submissions);
        }
        char byte;
        n = recv(pair.b, &byte, 1, MSG_DONTWAIT);
        CHECK(n == -1); /* nothing was sent */
        n = recv(pair.a, &byte, 1, MSG_DONTWAIT);
        CHECK(n == 1); /* nor taken */
        join(child);
    });
}

TEST_CASE("deadline: one that passed while the coroutine computed fails the next call at once")
{
    in_run([] {
        FdPair pair = socket_pair();
        ssize_t n = 0;
        WH_WITH_TIMEOUT(WH_MILLISECOND)
        {
            busy_until(wh_deadline() + WH_MILLISECOND);
            n = wh_send(pair.a, "x", 1, 0);
        }
        CHECK(n == -ETIMEDOUT);
        char byte;
        n = recv(pair.b, &byte, 1, MSG_DONTWAIT);
        CHECK(n == -1);

        WH_WITH_DEADLINE(wh_now())
        {
            n = wh_send(pair.a, "x", 1, 0);
        }
        CHECK(n == -ETIMEDOUT);
        n = recv(pair.b, &byte, 1, MSG_DONTWAIT);
        CHECK(n == -1);
    });
}

TEST_CASE("deadline: the end of time is no deadline, and near it nothing overflows")
{
    in_run([] {
        WH_WITH_TIMEOUT(WH_NEVER)
        {
            CHECK(wh_deadline() == WH_NEVER);
        }
        WH_WITH_TIMEOUT(WH_NEVER - 1)
        {
            CHECK(wh_deadline() == WH_NEVER);
        }
        WH_WITH_TIMEOUT(WH_NEVER / 2)
        {
            CHECK(wh_deadline() > WH_NEVER / 2);
            CHECK(wh_deadline() < WH_NEVER);
        }
        for (int64_t far_ns : {WH_NEVER, WH_NEVER - 1, WH_NEVER - WH_HOUR, FAR_NS}) {
            WH_WITH_DEADLINE(far_ns)
            {
                int rc = wh_sleep(WH_MILLISECOND);
                CHECK(rc == 0);
                wh_coro *sleeper = spawn([] { wh_sleep(WH_NEVER); });
                wh_yield();
                wheel_validate(&worker_tls->wheel);
                wh_cancel(sleeper);
                join(sleeper);
            }
        }
        int rc = 0;
        for (int64_t past_ns : {INT64_MIN, INT64_C(-1), INT64_C(0), INT64_C(1)}) {
            WH_WITH_DEADLINE(past_ns)
            {
                rc = wh_sleep(WH_HOUR);
            }
            CHECK(rc == -ETIMEDOUT);
        }
        for (int64_t sleep_ns : {WH_NEVER, WH_NEVER - 1, FAR_NS}) {
            wh_coro *sleeper = spawn([&] { rc = wh_sleep(sleep_ns); });
            wh_coro *until = spawn([&] { rc = wh_sleep_until(sleep_ns); });
            wh_sleep(WH_MICROSECOND);
            wh_cancel(sleeper);
            wh_cancel(until);
            join(sleeper);
            join(until);
            CHECK(rc == -ECANCELED);
        }
    });
}

TEST_CASE("deadline: blocks cost no operation of the ring and no timer")
{
    in_run([] {
        wh_stats before, after;
        wh_stats_get(&before);
        for (int i = 0; i < 100000; i++)
            WH_WITH_TIMEOUT(WH_SECOND + i)
        WH_WITH_TIMEOUT(WH_SECOND);
        wh_stats_get(&after);
        CHECK(after.ring_submissions == before.ring_submissions);
        CHECK(after.ring_enters == before.ring_enters);
        CHECK(after.timers_armed == before.timers_armed);
    });
}

/* ---- Passing ---- */

TEST_CASE("deadline: a call ends with -ETIMEDOUT, never before the deadline and soon after it")
{
    in_run([] {
        FdPair pair = socket_pair();
        for (int64_t timeout_ns : {INT64_C(1), WH_MICROSECOND, INT64_C(16384), INT64_C(16385),
                                   50 * WH_MICROSECOND, WH_MILLISECOND, 7 * WH_MILLISECOND}) {
            for (int i = 0; i < 20; i++) {
                char byte;
                ssize_t n = 0;
                int64_t deadline_ns = 0, ended_ns = 0;
                WH_WITH_TIMEOUT(timeout_ns)
                {
                    deadline_ns = wh_deadline();
                    n = wh_recv(pair.a, &byte, 1, 0);
                    ended_ns = wh_now();
                }
                CHECK(n == -ETIMEDOUT);
                CHECK(ended_ns >= deadline_ns);
                CHECK(ended_ns < deadline_ns + LATE_NS);
            }
        }
    });
}

TEST_CASE("deadline: all calls in a block together have that long")
{
    in_run([] {
        int slept = 0;
        int rc = 0;
        int64_t began_ns = wh_now();
        WH_WITH_TIMEOUT(20 * WH_MILLISECOND)
        {
            while ((rc = wh_sleep(3 * WH_MILLISECOND)) == 0)
                slept++;
        }
        CHECK(rc == -ETIMEDOUT);
        CHECK(slept <= 6);
        CHECK(wh_now() - began_ns >= 20 * WH_MILLISECOND);
        rc = wh_sleep(1);
        CHECK(rc == 0);
    });
}

TEST_CASE("deadline: a shorter block in a longer one ends first, and the longer one still ends")
{
    in_run([] {
        FdPair pair = socket_pair();
        char byte;
        ssize_t inner = 0, outer = 0;
        int64_t inner_ns = 0, outer_ns = 0, deadline_ns = 0;
        WH_WITH_TIMEOUT(30 * WH_MILLISECOND)
        {
            deadline_ns = wh_deadline();
            WH_WITH_TIMEOUT(WH_MILLISECOND)
            {
                inner = wh_recv(pair.a, &byte, 1, 0);
                inner_ns = wh_now();
            }
            outer = wh_recv(pair.a, &byte, 1, 0);
            outer_ns = wh_now();
        }
        CHECK(inner == -ETIMEDOUT);
        CHECK(outer == -ETIMEDOUT);
        CHECK(inner_ns < outer_ns);
        CHECK(outer_ns >= deadline_ns);
    });
}

TEST_CASE("deadline: the timer of an earlier, shorter block does not end a later wait")
{
    in_run([] {
        FdPair pair = socket_pair();
        char byte;
        ssize_t n = send(pair.b, "x", 1, 0);
        CHECK(n == 1);
        WH_WITH_TIMEOUT(2 * WH_MILLISECOND)
        {
            n = wh_recv(pair.a, &byte, 1, 0);
        }
        CHECK(n == 1);
        CHECK(timers_armed() == 1);

        start([&] {
            wh_sleep(10 * WH_MILLISECOND);
            send(pair.b, "y", 1, 0);
        });
        WH_WITH_TIMEOUT(WH_MINUTE)
        {
            n = wh_recv(pair.a, &byte, 1, 0);
        }
        CHECK(n == 1);

        WH_WITH_TIMEOUT(2 * WH_MILLISECOND)
        {
            n = wh_send(pair.a, "z", 1, 0);
        }
        CHECK(n == 1);
        start([&] {
            wh_sleep(10 * WH_MILLISECOND);
            send(pair.b, "y", 1, 0);
        });
        n = wh_recv(pair.a, &byte, 1, 0); /* without any deadline */
        CHECK(n == 1);
    });
}

TEST_CASE("deadline: data that arrived beats a deadline that has passed meanwhile")
{
    for (int flags : {0, static_cast<int>(SOCK_NONBLOCK)})
        in_run([flags] {
            FdPair pair = socket_pair(flags);
            char byte = 0;
            ssize_t n = 0;
            wh_coro *coro = spawn([&] {
                WH_WITH_TIMEOUT(WH_MILLISECOND)
                {
                    n = wh_recv(pair.a, &byte, 1, 0);
                }
            });
            Turns turn;
            turn(3);
            busy_until(wh_now() + 3 * WH_MILLISECOND); /* nobody looks at the wheel meanwhile */
            ssize_t sent = send(pair.b, "d", 1, 0);
            CHECK(sent == 1);
            join(coro);
            CHECK(n == 1);
            CHECK(byte == 'd');
        });
}

/* ---- Timers ---- */

TEST_CASE("deadline: a timer is armed once for many waits and gone with its coroutine")
{
    in_run([] {
        Fd event(eventfd(0, EFD_CLOEXEC));
        const size_t none = timers_armed();
        wh_coro *coro = spawn([&] {
            int64_t armed_for_ns = 0;
            for (int i = 0; i < 1000; i++) {
                uint64_t one = 1;
                WH_WITH_TIMEOUT(30 * WH_SECOND)
                {
                    wh_write(event, &one, sizeof one);
                    wh_read(event, &one, sizeof one);
                }
                CHECK(timers_armed() == none + 1);
                if (i == 0)
                    armed_for_ns = wh_self()->timer.deadline_ns;
                else
                    CHECK(wh_self()->timer.deadline_ns == armed_for_ns);
            }
            /* An earlier deadline moves it; a later one does not move it back. */
            WH_WITH_TIMEOUT(10 * WH_SECOND)
            {
                wh_read(AT_FDCWD, nullptr, 0);
            }
            CHECK(wh_self()->timer.deadline_ns < armed_for_ns);
            CHECK(timers_armed() == none + 1);
        });
        join(coro);
        CHECK(timers_armed() == none);
    });
}

TEST_CASE("deadline: a timer that fires too early for its deadline is armed anew")
{
    in_run([] {
        FdPair pair = socket_pair();
        char byte;
        ssize_t n = 0;
        int64_t deadline_ns = 0, ended_ns = 0;
        wh_coro *coro = spawn([&] {
            wh_sleep(WH_MILLISECOND / 2);
            WH_WITH_TIMEOUT(3 * WH_MILLISECOND)
            {
                wh_send(pair.a, "x", 1, 0);
            }
            WH_WITH_TIMEOUT(12 * WH_MILLISECOND)
            {
                deadline_ns = wh_deadline();
                n = wh_recv(pair.a, &byte, 1, 0);
                ended_ns = wh_now();
            }
        });
        join(coro);
        CHECK(n == -ETIMEDOUT);
        CHECK(ended_ns >= deadline_ns);
    });
}

/* ---- Sleeping ---- */

TEST_CASE("sleep: no sleep of many at the same time ends early")
{
    constexpr int SLEEPS = 8;
    int early = 0, failed = 0, done = 0;
    int64_t late_most_ns = 0;
    in_run([&] {
        std::mt19937_64 random(20);
        std::vector<wh_coro *> sleepers;
        for (int i = 0; i < SLEEPERS; i++)
            sleepers.push_back(spawn([&, seed = random()] {
                std::mt19937_64 mine(seed);
                for (int k = 0; k < SLEEPS; k++) {
                    /* From a microsecond to 30 ms, as many of each magnitude. */
                    int64_t duration_ns =
                        static_cast<int64_t>(WH_MICROSECOND << (mine() % 15) | (mine() & 0x3ff));
                    duration_ns = std::min(duration_ns, 30 * WH_MILLISECOND);
                    int64_t time_ns = wh_now() + duration_ns;
                    int rc = k % 2 ? wh_sleep(duration_ns) : wh_sleep_until(time_ns);
                    int64_t late_ns = wh_now() - time_ns;
                    failed += rc != 0;
                    early += late_ns < 0;
                    late_most_ns = std::max(late_most_ns, late_ns);
                    done++;
                }
            }));
        for (wh_coro *sleeper : sleepers)
            join(sleeper);
        CHECK(timers_armed() == 0);
    });
    CHECK(done == SLEEPERS * SLEEPS);
    CHECK(failed == 0);
    CHECK(early == 0);
    CHECK(late_most_ns < LATE_NS);
}

TEST_CASE("sleep: sleepers wake in the order of their times")
{
    constexpr int ORDERED = 300;
    std::vector<int64_t> woken;
    in_run([&] {
        std::mt19937_64 random(21);
        bool all_slept = false;
        /* On a machine so busy that the first time comes before the last one sleeps: again. */
        for (int64_t lead_ns = 5 * WH_MILLISECOND; !all_slept; lead_ns *= 2) {
            woken.clear();
            std::vector<wh_coro *> sleepers;
            const int64_t base_ns = wh_now() + lead_ns;
            for (int i = 0; i < ORDERED; i++) {
                int64_t time_ns = base_ns + static_cast<int64_t>(random() % (20 * WH_MILLISECOND));
                sleepers.push_back(spawn([&woken, time_ns] {
                    wh_sleep_until(time_ns);
                    woken.push_back(time_ns);
                }));
            }
            wh_yield();
            all_slept = wh_now() < base_ns;
            for (wh_coro *sleeper : sleepers)
                join(sleeper);
        }
    });
    REQUIRE(woken.size() == ORDERED);
    int disordered = 0;
    for (size_t i = 1; i < woken.size(); i++)
        disordered += (woken[i] + WHEEL_TICK_NS) < woken[i - 1];
    CHECK(disordered == 0);
}

TEST_CASE("sleep: a time that has passed, or no duration, is a yield")
{
    in_run([] {
        for (int64_t duration_ns : {INT64_C(0), INT64_C(-1), INT64_MIN}) {
            bool other_ran = false;
            start([&] { other_ran = true; });
            int rc = wh_sleep(duration_ns);
            CHECK(rc == 0);
            CHECK(other_ran);
        }
        for (int64_t time_ns : {wh_now(), INT64_C(0), INT64_MIN}) {
            bool other_ran = false;
            start([&] { other_ran = true; });
            int rc = wh_sleep_until(time_ns);
            CHECK(rc == 0);
            CHECK(other_ran);
        }
        CHECK(timers_armed() == 0);
    });
}

TEST_CASE(
    "sleep: the ambient deadline ends a longer sleep, and not one that ends before or with it")
{
    in_run([] {
        int rc = 0;
        int64_t time_ns = wh_now() + 2 * WH_MILLISECOND;
        WH_WITH_DEADLINE(time_ns)
        {
            rc = wh_sleep_until(time_ns + 1);
        }
        CHECK(rc == -ETIMEDOUT);
        CHECK(wh_now() >= time_ns);

        time_ns = wh_now() + 2 * WH_MILLISECOND;
        WH_WITH_DEADLINE(time_ns)
        {
            rc = wh_sleep_until(time_ns);
        }
        CHECK(rc == 0);

        time_ns = wh_now() + 20 * WH_MILLISECOND;
        WH_WITH_DEADLINE(time_ns)
        {
            rc = wh_sleep(WH_MICROSECOND);
            CHECK(wh_deadline() == time_ns); /* a sleep leaves it as it was */
        }
        CHECK(rc == 0);
    });
}

TEST_CASE("sleep: a cancel ends it at once")
{
    in_run([] {
        int64_t began_ns = wh_now();
        int rc = 0;
        wh_coro *sleeper = spawn([&] { rc = wh_sleep(WH_HOUR); });
        wh_yield();
        wh_cancel(sleeper);
        join(sleeper);
        CHECK(rc == -ECANCELED);
        CHECK(wh_now() - began_ns < WH_MINUTE);
    });
}

TEST_CASE("sleep: a long chain of short sleeps does not drift early or late")
{
    in_run([] {
        constexpr int SLEEPS = 200;
        int64_t began_ns = wh_now();
        int early = 0;
        for (int i = 1; i <= SLEEPS; i++) {
            int64_t time_ns = began_ns + i * 100 * WH_MICROSECOND;
            wh_sleep_until(time_ns);
            early += wh_now() < time_ns;
        }
        CHECK(early == 0);
        CHECK(wh_now() - began_ns < SLEEPS * 100 * WH_MICROSECOND + LATE_NS);
    });
}

TEST_CASE("time: wh_now is CLOCK_MONOTONIC, on any thread")
{
    auto is_monotonic = [] {
        struct timespec ts;
        int64_t before_ns = wh_now();
        clock_gettime(CLOCK_MONOTONIC, &ts);
        int64_t there_ns = ts.tv_sec * WH_SECOND + ts.tv_nsec;
        int64_t after_ns = wh_now();
        return before_ns <= there_ns && there_ns <= after_ns;
    };
    CHECK(is_monotonic());
    bool elsewhere = false;
    std::thread([&] { elsewhere = is_monotonic(); }).join();
    CHECK(elsewhere);
    in_run([&] { CHECK(is_monotonic()); });
}
