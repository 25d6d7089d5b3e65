/*
 * workers_end_test.cpp: runs with several workers as a whole: how they end, what they leave behind,
 * deadlocks, coroutines that migrate, options, figures.
 */
#include "tests/base/child.hpp"
#include "tests/sched/on_workers.hpp"

#include <catch2/catch_test_macros.hpp>

#include <chrono>
#include <thread>

#include <sched.h>

namespace
{

int threads_now()
{
    int count = 0;
    DIR *dir = opendir("/proc/self/task");
    while (dir && readdir(dir))
        count++;
    if (dir)
        closedir(dir);
    return count;
}

/* A joined thread is listed until the kernel has buried it, a moment later, of which nobody is
 * told: it is time itself that is waited for. */
bool threads_become(int count)
{
    for (int i = 0; i < 5000 && threads_now() != count; i++)
        std::this_thread::sleep_for(std::chrono::milliseconds(1)); /* time itself */
    return threads_now() == count;
}

/* What a run returns that has nothing to do, and what it says. */
struct Outcome {
    int rc;
    std::string said;
};

Outcome outcome_of(const wh_options &options)
{
    StderrKept kept;
    int rc = in_run([] { return 7; }, &options);
    return {rc, kept.text()};
}

} // namespace

/* ---- The end ---- */

TEST_CASE("workers: what sleeps on any of them when the root returns is cancelled")
{
    std::atomic<unsigned> cancelled = 0;
    unsigned started = 0;
    StderrKept kept;
    int rc = in_run([&] {
        started = 20 * wh_workers();
        std::vector<wh_coro *> coros;
        for (unsigned i = 0; i < started; i++)
            coros.push_back(on(worker_for(i), [&] {
                if (wh_sleep(WH_HOUR) == -ECANCELED)
                    cancelled++;
            }));
        for (wh_coro *coro : coros) {
            until_parked(coro);
            wh_detach(coro);
        }
        return 9;
    });
    CHECK(rc == 9);
    CHECK(cancelled == started);
    CHECK(kept.text().empty());
}

TEST_CASE(
    "workers: what was started just before the root returns runs, cancelled, and is waited for")
{
    for (int k = 0; k < times(100); k++) {
        std::atomic<int> ended = 0, late = 0, awake = 0;
        int rc = in_run([&] {
            for (unsigned i = 0; i < 3 * wh_workers(); i++) {
                wh_detach(on(worker_for(i), [&] {
                    awake += wh_sleep(WH_HOUR) != -ECANCELED;
                    for (int n = 0; n < 10; n++)
                        wh_yield();
                    late += start([] {}) == 0;
                    ended++;
                }));
            }
            return static_cast<int>(3 * wh_workers());
        });
        INFO("run " << k);
        if (rc != ended || awake || late) {
            CHECK(ended == rc);
            CHECK(awake == 0);
            CHECK(late == 0); /* nothing new starts once a call has said -ECANCELED */
        }
    }
}

TEST_CASE("workers: those that do not end within the grace time are named, of all workers")
{
    ChildEnd end = in_child([] {
        wh_options options = {};
        options.grace_ns = 400 * WH_MILLISECOND;
        return in_run(
            [] {
                std::atomic<unsigned> under_way = 0;
                for (unsigned i = 0; i < wh_workers(); i++)
                    wh_detach(on(
                        worker_for(i),
                        [&under_way] {
                            under_way++;
                            for (;;)
                                wh_yield();
                        },
                        "stubborn"));
                wh_detach(on(wh_workers(), [] { wh_sleep(WH_HOUR); }, "willing"));
                until([&] { return under_way == wh_workers(); });
                return 5;
            },
            &options);
    });
    INFO(end.how());
    CHECK(end.exited(5));
    const std::string many = workers_here() == 1 ? " coroutine" : " coroutines";
    const std::string count = std::to_string(workers_here()) + many;
    CHECK(end.said.find(count + " did not end within 400 ms") != std::string::npos);
    CHECK(count_of(end.said, "stubborn #") == workers_here());
    CHECK(end.said.find("willing") == std::string::npos);
}

TEST_CASE("workers: without any grace the run ends at once, with receives in flight everywhere")
{
    ChildEnd end = in_child([] {
        FdPair pair = socket_pair();
        wh_options options = {};
        options.grace_ns = -1;
        return in_run(
            [&] {
                for (unsigned i = 0; i < wh_workers(); i++) {
                    wh_coro *coro = on(worker_for(i), [&] {
                        char byte;
                        wh_recv(pair.a, &byte, 1, 0);
                    });
                    until_parked(coro);
                    wh_detach(coro);
                }
                return 6;
            },
            &options);
    });
    INFO(end.how());
    CHECK(end.exited(6));
}

TEST_CASE("workers: a thousand runs leave no thread and no descriptor")
{
    auto one = [] {
        return in_run([] {
            FdPair pair = socket_pair();
            for (unsigned i = 0; i < wh_workers(); i++)
                wh_detach(on(worker_for(i), [fd = static_cast<int>(pair.a)] {
                    char byte;
                    wh_recv(fd, &byte, 1, 0);
                }));
            return static_cast<int>(join(on(wh_workers(), [] { return 3; })));
        });
    };
    int right = 0;
    for (int i = 0; i < 5; i++)
        one();
    int fds = fds_open(), threads = threads_now();
    constexpr int RUNS = times(1000);
    for (int i = 0; i < RUNS; i++)
        right += one() == 3;
    CHECK(right == RUNS);
    CHECK(fds_open() == fds);
    CHECK(threads_become(threads));
}

TEST_CASE("workers: two runs at once on two threads do not meet")
{
    /* A ring that one run unmaps and another maps at the same address looks like a race there. */
    if (WITH_TSAN)
        SKIP("ThreadSanitizer does not see how rings are mapped");
    std::atomic<int> right = 0;
    auto one = [&](int64_t salt) {
        for (int k = 0; k < times(20); k++) {
            int64_t sum = 0;
            int rc = in_run([&] {
                WH_CHAN(int64_t) ch = wh_chan_create(int64_t, 4);
                std::vector<wh_coro *> senders;
                for (unsigned i = 0; i < 40; i++)
                    senders.push_back(
                        on(worker_for(i), [ch, salt, i] { wh_chan_send(ch, salt + i); }));
                for (int i = 0; i < 40; i++) {
                    int64_t elem = 0;
                    wh_chan_recv(ch, &elem);
                    sum += elem;
                }
                for (wh_coro *sender : senders)
                    join(sender);
                wh_chan_unref(ch);
                return wh_workers() == workers_here() ? 8 : 0;
            });
            right += rc == 8 && sum == 40 * salt + 780;
        }
    };
    std::thread a(one, 1000), b(one, 1000000);
    a.join();
    b.join();
    CHECK(right == 2 * times(20));
}

/* ---- Deadlock ---- */

TEST_CASE("workers: when all of all workers wait for each other it is a deadlock, and is noticed")
{
    for (int k = 0; k < times(50); k++) {
        std::atomic<unsigned> cancelled = 0;
        std::string said;
        int rc = 0;
        {
            StderrKept kept;
            rc = in_run([&] {
                for (unsigned i = 0; i < 2 * wh_workers(); i++)
                    wh_detach(on(worker_for(i), [&] {
                        if (wh_sleep(WH_NEVER) == -ECANCELED)
                            cancelled++;
                    }));
                return wh_sleep(WH_NEVER);
            });
            said = kept.text();
        }
        INFO(said);
        CHECK(rc == -EDEADLK);
        CHECK(cancelled == 2 * workers_here());
        CHECK(said.find("deadlock: " + std::to_string(2 * workers_here() + 1) + " coroutines") !=
              std::string::npos);
    }
}

TEST_CASE("workers: while one sleeps, runs or waits for the kernel, it is no deadlock")
{
    StderrKept kept;
    for (int what = 0; what < 3; what++) {
        int rc = in_run([what] {
            int sum = 0;
            for (unsigned worker = 1; worker <= wh_workers(); worker++) {
                wh_event event = {};
                FdPair pair = pipe_pair();
                std::thread outside;
                wh_coro *coro = on(worker, [&] {
                    if (what == 0)
                        wh_sleep(3 * WH_MILLISECOND);
                    else if (what == 1)
                        busy_until(wh_now() + 3 * WH_MILLISECOND);
                    else
                        wh_poll(pair.a, POLLIN);
                    wh_event_set(&event);
                });
                if (what == 2)
                    outside = std::thread([&] {
                        /* time itself: all workers are to fall asleep */
                        std::this_thread::sleep_for(std::chrono::milliseconds(3));
                        if (write(pair.b, "x", 1) < 0)
                            abort();
                    });
                sum += wh_event_wait(&event);
                join(coro);
                if (outside.joinable())
                    outside.join();
            }
            return sum;
        });
        CHECK(rc == 0);
    }
    CHECK(kept.text().empty());
}

TEST_CASE("workers: passing a token round and round is never taken for a deadlock")
{
    StderrKept kept;
    int rc = in_run([] {
        constexpr unsigned COROS = 8;
        constexpr int ROUNDS = times(1000);
        WH_CHAN(int) ring[COROS];
        for (auto &ch : ring)
            ch = wh_chan_create(int, 0);
        std::vector<wh_coro *> coros;
        for (unsigned i = 0; i < COROS; i++)
            coros.push_back(on(worker_for(i), [&ring, i] {
                int token = 0, moved = 0;
                while (wh_chan_recv(ring[i], &token) > 0 && token < ROUNDS) {
                    if (wh_chan_send(ring[(i + 1) % COROS], token + 1) < 0)
                        return -1;
                    moved++;
                }
                if (token == ROUNDS)
                    for (auto &ch : ring)
                        wh_chan_close(ch);
                return moved;
            }));
        wh_chan_send(ring[0], 0);
        int sum = 0;
        for (wh_coro *coro : coros)
            sum += static_cast<int>(join(coro));
        for (auto &ch : ring)
            wh_chan_unref(ch);
        return sum == ROUNDS ? 4 : sum;
    });
    CHECK(rc == 4);
    CHECK(kept.text().empty());
}

/* ---- Migrating ---- */

TEST_CASE("workers: coroutines with leave to migrate stay right, and bound ones where they are")
{
    wh_options options = {};
    options.migrate = true;
    in_run(
        [] {
            constexpr unsigned COROS = 64, ROUNDS = times(500);
            wh_mutex mutex = {};
            uint64_t count = 0;
            std::atomic<unsigned> strange = 0;
            std::vector<wh_coro *> coros;
            for (unsigned i = 0; i < COROS; i++)
                coros.push_back(spawn([&] {
                    for (unsigned k = 0; k < ROUNDS; k++) {
                        WH_LOCKED(&mutex) count++;
                        wh_yield();
                        strange += wh_worker() < 1 || wh_worker() > wh_workers();
                        if (k % 50 == 0)
                            strange += wh_sleep(10 * WH_MICROSECOND) != 0;
                    }
                }));
            coros.push_back(on(wh_workers(), [&] {
                for (unsigned k = 0; k < ROUNDS; k++) {
                    wh_yield();
                    strange += wh_worker() != wh_workers();
                }
            }));
            for (wh_coro *coro : coros)
                join(coro);
            CHECK(count == uint64_t{COROS} * ROUNDS);
            CHECK(strange == 0);
        },
        &options);
}

TEST_CASE("workers: one with leave to migrate leaves a worker that another one hogs")
{
    if (workers_here() == 1)
        return;
    in_run([] {
        wh_spawn_options options = {};
        options.migrate = true;
        /* It yields; sooner or later it is taken by a worker that is not this one. */
        std::atomic<unsigned> at = 0;
        std::atomic<bool> enough = false;
        wh_coro *nomad = spawn(
            [&] {
                while (!enough) {
                    at = wh_worker();
                    wh_yield();
                }
            },
            &options);
        std::atomic<bool> moved = false;
        unsigned mine = wh_worker();
        while (!moved) /* never parks */
            moved = at != 0 && at != mine;
        enough = true;
        join(nomad);
        CHECK(moved);
    });
}

/* ---- Options ---- */

TEST_CASE("workers: more than there can be are refused with one line")
{
    for (unsigned workers : {61U, 64U, 1000U, UINT32_MAX}) {
        const char *env = getenv("WHORL_WORKERS");
        std::string before = env ? env : "";
        unsetenv("WHORL_WORKERS"); /* it would count more */
        wh_options options = {};
        options.workers = workers;
        Outcome refused = outcome_of(options);
        setenv("WHORL_WORKERS", before.c_str(), 1);
        CHECK(refused.rc == -EINVAL);
        CHECK(lines_of(refused.said) == 1);
        CHECK(refused.said.find("workers") != std::string::npos);
    }
    for (const char *text : {"61", "-1", "256", "257", "4294967296", "4294967297",
                             "9223372036854775807", "-9223372036854775808"}) {
        EnvSet env("WHORL_WORKERS", text);
        INFO(text);
        Outcome refused = outcome_of(wh_options());
        CHECK(refused.rc == -EINVAL);
        CHECK(lines_of(refused.said) == 1);
    }
}

TEST_CASE("workers: as many as there can be work")
{
    EnvSet env("WHORL_WORKERS", "60");
    int rc = in_run([] {
        intptr_t sum = on_all(wh_workers(), [](unsigned i) { return wh_worker() == i + 1; });
        return static_cast<int>(sum);
    });
    CHECK(rc == 60);
}

TEST_CASE("workers: binding them to cores leaves the caller's affinity as it was")
{
    cpu_set_t before, after;
    CPU_ZERO(&before);
    CPU_ZERO(&after);
    REQUIRE(sched_getaffinity(0, sizeof before, &before) == 0);
    wh_options options = {};
    options.pin = true;
    std::atomic<int> one_core = 0;
    int rc = in_run(
        [&] {
            on_all(wh_workers(), [&](unsigned i) {
                (void)i;
                cpu_set_t set;
                CPU_ZERO(&set);
                one_core += sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) == 1;
                return 0;
            });
            return static_cast<int>(wh_workers());
        },
        &options);
    CHECK(rc == one_core);
    REQUIRE(sched_getaffinity(0, sizeof after, &after) == 0);
    CHECK(CPU_EQUAL(&before, &after));
}

/* ---- Stacks ---- */

TEST_CASE("workers: one that sleeps without limit is told of the stacks that others return to it")
{
    if (workers_here() == 1)
        SKIP("there are no others");
    in_run([] {
        struct run *run = worker_tls->run;
        wh_event leave = {};
        const auto is_quiet = [run](uint32_t i) {
            /* seq_cst: pairs with the store in worker_may_sleep() */
            return __atomic_load_n(&run->worker[i]->quiet, __ATOMIC_SEQ_CST);
        };
        std::atomic<bool> moved{false};
        std::atomic<unsigned> home{1};
        wh_spawn_options migrates = {};
        migrates.migrate = true;
        wh_coro *mover = nullptr;
        /* One that begins on another worker, whose its stack is... */
        for (int round = 0; home == 1 && round < 1000; round++) {
            if (mover) {
                wh_cancel(mover);
                join(mover);
            }
            join(on(2, [&] {
                mover = spawn(
                    [&] {
                        home = wh_worker();
                        if (wh_event_wait(&leave) < 0)
                            return;
                        moved = true;
                        while (!is_quiet(home - 1)) /* ...and ends elsewhere, while that sleeps */
                            ;
                    },
                    &migrates);
                until_parked(mover);
            }));
        }
        CHECK(home != 1);
        if (home == 1)
            return;
        /* It is woken there, by one that keeps that worker busy until somebody has taken it. */
        wh_coro *holder = on(home, [&] {
            wh_event_set(&leave);
            while (!moved)
                ;
        });
        while (!moved)
            wh_sleep(50 * WH_MICROSECOND); /* between two of them this worker looks for work */
        join(holder);
        join(mover);
        wh_stats stats;
        const int64_t since_ns = wh_now();
        until([&] { /* without a sleep: one who gets up might look for work, and wake others */
                    wh_stats_get(&stats);
                    return stats.stacks_in_use == 1 || wh_now() - since_ns > 20 * WH_SECOND;
        });
        CHECK(stats.stacks_in_use == 1);
    });
}

/* ---- Figures ---- */

TEST_CASE("workers: the figures are sums over all workers when all is quiet")
{
    in_run([] {
        wh_stats before, after;
        wh_stats_get(&before);
        CHECK(before.workers == wh_workers());
        CHECK(before.coros_live == 1);
        constexpr unsigned COROS = 200;
        std::vector<wh_coro *> sleepers;
        for (unsigned i = 0; i < COROS; i++)
            sleepers.push_back(on(worker_for(i), [] { wh_sleep(WH_HOUR); }));
        for (wh_coro *sleeper : sleepers)
            until_parked(sleeper);
        /* Those of other workers are as of their last turn. */
        until([&] {
            wh_stats_get(&after);
            return after.stacks_in_use == COROS + 1;
        });
        CHECK(after.coros_started == before.coros_started + COROS);
        CHECK(after.coros_live == COROS + 1);
        for (wh_coro *sleeper : sleepers) {
            wh_cancel(sleeper);
            join(sleeper);
        }
        until([&] {
            wh_stats_get(&after);
            return after.stacks_in_use == 1 && after.coros_ended == before.coros_ended + COROS;
        });
        CHECK(after.coros_started == before.coros_started + COROS);
        CHECK(after.coros_live == 1);
        CHECK(after.coros_started == after.coros_ended + after.coros_live);
        CHECK(after.ops_in_flight == 0);
    });
}
