/*
 * loop_test.cpp: the loop gives everyone a turn: coroutines, completions and timers; it sleeps when
 * there is nothing to do, and it notices when nothing can ever happen again.
 *
 * What "soon" means is counted in switches and turns, which do not depend on the machine's load.
 */
#include "tests/base/child.hpp"
#include "tests/sched/in_run.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <thread>
#include <vector>

extern "C" {
#include "sched/sched.h"
}

namespace
{

/* The largest budget is 1024 switches between two looks at the ring (loop.c). Data may arrive just
 * after a look, and may need two: one posts a poll's readiness, the next the receive. */
constexpr uint64_t SOON_SWITCHES = 3 * 1024;

uint64_t switches()
{
    wh_stats stats;
    wh_stats_get(&stats);
    return stats.switches;
}

uint64_t sleeps()
{
    return worker_tls->sleeps;
}

} // namespace

TEST_CASE("loop: a pair that yields to each other for ever does not starve a receive")
{
    std::vector<uint64_t> waited;
    in_run([&] {
        FdPair pair = socket_pair();
        bool stop = false;
        uint64_t sent_at = 0;
        for (int i = 0; i < 2; i++)
            start([&] {
                while (!stop)
                    wh_yield();
            });
        wh_coro *receiver = spawn([&] {
            char byte;
            while (wh_recv(pair.a, &byte, 1, 0) == 1) {
                waited.push_back(switches() - sent_at);
                sent_at = 0;
            }
        });
        int64_t limit_ns = wh_now() + 100 * WH_MILLISECOND;
        while (wh_now() < limit_ns) {
            if (!sent_at && receiver->state == CORO_PARKED) {
                sent_at = switches();
                send(pair.b, "x", 1, 0);
            }
            wh_yield();
        }
        while (sent_at)
            wh_yield();
        stop = true;
        shutdown(pair.b, SHUT_WR);
        join(receiver);
    });
    REQUIRE(waited.size() > 10);
    uint64_t most = *std::max_element(waited.begin(), waited.end());
    INFO(waited.size() << " messages, at most " << most << " switches each");
    CHECK(most <= SOON_SWITCHES);
}

TEST_CASE("loop: a pair that yields to each other for ever does not starve timers")
{
    in_run([] {
        bool stop = false;
        wh_coro *pair[2];
        for (wh_coro *&one : pair)
            one = spawn([&] {
                while (!stop)
                    wh_yield();
            });
        int early = 0;
        int64_t late_most_ns = 0;
        for (int i = 0; i < 50; i++) {
            int64_t time_ns = wh_now() + WH_MILLISECOND;
            wh_sleep_until(time_ns);
            int64_t late_ns = wh_now() - time_ns;
            early += late_ns < 0;
            late_most_ns = std::max(late_most_ns, late_ns);
        }
        stop = true;
        for (wh_coro *one : pair)
            join(one);
        CHECK(early == 0);
        CHECK(late_most_ns < 5 * WH_SECOND);
    });
}

TEST_CASE("loop: many coroutines with data always ready do not starve one that yields")
{
    constexpr int PAIRS = 100;
    in_run([] {
        uint64_t messages = 0, yields = 0;
        bool stop = false;
        std::vector<wh_coro *> busy;
        std::vector<FdPair> pairs;
        for (int i = 0; i < PAIRS; i++)
            pairs.push_back(socket_pair());
        for (FdPair &pair : pairs)
            busy.push_back(spawn([&] {
                char byte = 0;
                while (!stop) {
                    wh_send(pair.b, "x", 1, 0);
                    wh_recv(pair.a, &byte, 1, 0);
                    messages++;
                }
            }));
        int64_t limit_ns = wh_now() + 50 * WH_MILLISECOND;
        while (wh_now() < limit_ns) {
            wh_yield();
            yields++;
        }
        stop = true;
        for (wh_coro *coro : busy)
            join(coro);
        INFO(messages << " messages, " << yields << " yields");
        CHECK(messages > 0);
        /* One yield may wait for each of the others to run once, and no more. */
        CHECK(yields * PAIRS * 4 >= messages);
    });
}

TEST_CASE(
    "loop: a coroutine that computes for long at a time does not make the others wait a whole "
    "budget of it")
{
    in_run([] {
        FdPair pair = socket_pair();
        bool stop = false;
        wh_coro *slow[4];
        for (wh_coro *&one : slow)
            one = spawn([&] {
                while (!stop) {
                    busy_until(wh_now() + 200 * WH_MICROSECOND);
                    wh_yield();
                }
            });
        /* The loop learns first how slow these are. */
        for (int i = 0; i < 400; i++)
            wh_yield();
        uint64_t most = 0;
        for (int i = 0; i < 10; i++) {
            char byte;
            send(pair.b, "x", 1, 0);
            uint64_t before = switches();
            wh_recv(pair.a, &byte, 1, 0);
            most = std::max(most, switches() - before);
        }
        stop = true;
        for (wh_coro *one : slow)
            join(one);
        INFO("at most " << most << " switches");
        CHECK(most <= 100);
    });
}

TEST_CASE("loop: with nothing to do the worker sleeps, and uses no processor time")
{
    in_run([] {
        Fd never(eventfd(0, EFD_CLOEXEC));
        wh_coro *reader = spawn([&] {
            uint64_t count;
            wh_read(never, &count, sizeof count);
        });
        struct timespec before, after;
        wh_sleep(WH_MILLISECOND);
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before);
        uint64_t sleeps_before = sleeps();
        wh_sleep(300 * WH_MILLISECOND);
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after);
        int64_t used_ns =
            (after.tv_sec - before.tv_sec) * WH_SECOND + after.tv_nsec - before.tv_nsec;
        CHECK(sleeps() > sleeps_before);
        CHECK(sleeps() < sleeps_before + 100);
        CHECK(used_ns < 100 * WH_MILLISECOND);
        wh_cancel(reader);
        join(reader);
    });
}

TEST_CASE("loop: it never spins when it is told not to, and spins only as long as it is told")
{
    wh_options options = {};
    options.spin_ns = -1;
    auto ping_pong = [] {
        FdPair pair = socket_pair();
        std::thread peer([&] {
            char byte;
            while (recv(pair.b, &byte, 1, 0) == 1 && send(pair.b, &byte, 1, 0) == 1)
                ;
        });
        wh_stats stats;
        char byte = 'x';
        for (int i = 0; i < 300; i++) {
            wh_send(pair.a, &byte, 1, 0);
            wh_recv(pair.a, &byte, 1, 0);
        }
        wh_stats_get(&stats);
        wh_shutdown(pair.a, SHUT_RDWR);
        peer.join();
        CHECK(stats.sleeps > 0);
        return static_cast<int>(stats.spins);
    };
    int spins = in_run(ping_pong, &options);
    CHECK(spins == 0);
}

/* ---- Deadlock ---- */

TEST_CASE("deadlock: coroutines that wait for each other end the run with -EDEADLK, by name")
{
    int rc = 0;
    std::string said;
    {
        StderrKept kept;
        rc = in_run([] {
            wh_spawn_options left_options = {"left hand", 0}, right_options = {"right hand", 0};
            wh_coro *left = nullptr, *right = nullptr;
            left = spawn([&] { return wh_join(right, nullptr); }, &left_options);
            right = spawn([&] { return wh_join(left, nullptr); }, &right_options);
            wh_coro *third = spawn([] { return wh_sleep(WH_NEVER); });
            wh_sleep(WH_MILLISECOND);
            return wh_join(third, nullptr); /* the root waits too */
        });
        said = kept.text();
    }
    INFO(said);
    CHECK(rc == -EDEADLK);
    CHECK(said.find("deadlock: 4 coroutines") != std::string::npos);
    CHECK(said.find("left hand #2") != std::string::npos);
    CHECK(said.find("right hand #3") != std::string::npos);
    CHECK(count_of(said, "waits in join") == 3);
    CHECK(count_of(said, "waits in sleep") == 1);
    CHECK(count_of(said, "coro_test") + count_of(said, "in_run.hpp") >= 2);
}

TEST_CASE("deadlock: a thousand coroutines are not all named")
{
    int rc = 0;
    std::string said;
    {
        StderrKept kept;
        rc = in_run([] {
            for (int i = 0; i < 1000; i++)
                start([] { wh_sleep(WH_NEVER); });
            return wh_sleep(WH_NEVER);
        });
        said = kept.text();
    }
    CHECK(rc == -EDEADLK);
    CHECK(said.find("1001 coroutines") != std::string::npos);
    CHECK(lines_of(said) < 40);
}

TEST_CASE("deadlock: waits that time can end, or the kernel, are none")
{
    std::string said;
    int rc = 0;
    {
        StderrKept kept;
        rc = in_run([] {
            FdPair pair = socket_pair();
            char byte;
            wh_coro *reader = spawn([&] { return wh_recv(pair.a, &byte, 1, 0); });
            int join_rc = 0;
            WH_WITH_TIMEOUT(50 * WH_MILLISECOND)
            {
                join_rc = wh_join(reader, nullptr);
            }
            CHECK(join_rc == -ETIMEDOUT);
            /* Only the descriptor is waited for, and someone outside of the run feeds it. */
            std::thread other([&] {
                struct pollfd none = {-1, 0, 0};
                poll(&none, 1, 50);
                send(pair.b, "x", 1, 0);
            });
            intptr_t value = join(reader);
            other.join();
            return static_cast<int>(value);
        });
        said = kept.text();
    }
    CHECK(rc == 1);
    CHECK(said.empty());
}

TEST_CASE("deadlock: what is left over when it is found is cancelled, and the run ends in order")
{
    int cancelled = 0;
    int rc = 0;
    {
        StderrKept kept;
        rc = in_run([&] {
            for (int i = 0; i < 10; i++)
                start([&] {
                    if (wh_sleep(WH_NEVER) == -ECANCELED)
                        cancelled++;
                });
            if (wh_sleep(WH_NEVER) == -ECANCELED)
                cancelled++;
            return 77; /* too late: the run has its result */
        });
    }
    CHECK(rc == -EDEADLK);
    CHECK(cancelled == 11);
}
