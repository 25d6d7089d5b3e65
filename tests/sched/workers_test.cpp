/*
 * workers_test.cpp: several workers: where coroutines run, and what they do to those of others:
 * waking, joining, cancelling, closing what they wait for, timers, signals.
 */
#include "tests/sched/on_workers.hpp"

#include <catch2/catch_test_macros.hpp>

#include <csignal>

/* ---- Where ---- */

TEST_CASE("workers: a run has as many as were asked for, numbered from 1")
{
    CHECK(wh_worker() == 0);
    unsigned workers = 0, worker = 0;
    in_run([&] {
        workers = wh_workers();
        worker = wh_worker();
    });
    CHECK(workers == workers_here());
    CHECK(worker >= 1);
    CHECK(worker <= workers);
    CHECK(wh_worker() == 0);
}

TEST_CASE("workers: a coroutine that is bound to one runs there, whatever it waits for")
{
    in_run([] {
        std::atomic<unsigned> strayed = 0;
        on_all(4 * wh_workers(), [&](unsigned i) {
            auto look = [&] { strayed += wh_worker() != worker_for(i); };
            Turns turn;
            for (int k = 0; k < times(50); k++) {
                look();
                wh_yield();
                look();
                wh_sleep(20 * WH_MICROSECOND);
                look();
                turn();
                look();
                join(on(worker_for(i + 1), [] { wh_yield(); }));
                look();
            }
            return 0;
        });
        CHECK(strayed == 0);
    });
}

TEST_CASE("workers: one without leave to migrate stays where it first ran")
{
    in_run([] {
        std::atomic<unsigned> strayed = 0;
        std::vector<wh_coro *> coros;
        for (int i = 0; i < 100; i++)
            coros.push_back(spawn([&] {
                unsigned first = wh_worker();
                for (int k = 0; k < times(50); k++) {
                    wh_yield();
                    strayed += wh_worker() != first;
                    wh_sleep(10 * WH_MICROSECOND);
                    strayed += wh_worker() != first;
                }
            }));
        for (wh_coro *coro : coros)
            join(coro);
        CHECK(strayed == 0);
    });
}

TEST_CASE("workers: a worker that is not there is -EINVAL, and nothing is started")
{
    in_run([] {
        wh_stats before, after;
        wh_stats_get(&before);
        for (unsigned worker : {wh_workers() + 1, 61U, 64U, 255U, 256U, UINT32_MAX}) {
            wh_spawn_options options = {};
            options.worker = worker;
            auto *none = reinterpret_cast<wh_coro *>(16), *coro = none;
            int rc = wh_spawn(&coro, &options, wh_yield);
            CHECK(rc == -EINVAL);
            CHECK(coro == none);
        }
        wh_stats_get(&after);
        CHECK(after.coros_started == before.coros_started);
    });
}

TEST_CASE("workers: idle ones take what a busy one has started")
{
    if (workers_here() == 1)
        return;
    in_run([] {
        std::atomic<unsigned> ran = 0;
        unsigned mine = wh_worker();
        std::atomic<unsigned> here = 0;
        for (int i = 0; i < 20; i++)
            start([&, mine] {
                here += wh_worker() == mine;
                ran++;
            });
        while (ran < 20) /* never parks: nothing runs on this worker meanwhile */
            ;
        CHECK(here == 0);
        wh_stats stats;
        wh_stats_get(&stats);
        CHECK(stats.coros_stolen >= 20); /* each once, or again from who had stolen it */
    });
}

TEST_CASE("workers: one that is bound to a busy worker waits for it, and the others go on")
{
    if (workers_here() == 1)
        return;
    in_run([] {
        unsigned mine = wh_worker();
        std::atomic<bool> ran = false;
        wh_coro *waits = on(mine, [&] { ran = true; });
        wh_coro *other = on(1 + mine % wh_workers(), [] { return 7; });
        std::atomic<int> count = 0;
        for (int i = 0; i < 10; i++)
            start([&] { count++; });
        while (count < 10)
            ;
        bool early = ran;
        CHECK_FALSE(early);
        intptr_t value = join(other);
        CHECK(value == 7);
        join(waits);
        CHECK(ran);
    });
}

/* ---- Meeting ---- */

TEST_CASE("workers: channels between workers lose nothing and keep each sender's order")
{
    for (unsigned capacity : {0U, 1U, 16U}) {
        in_run([capacity] {
            constexpr unsigned SENDERS = 8, EACH = times(2000);
            WH_CHAN(uint64_t) ch = wh_chan_create(uint64_t, capacity);
            std::atomic<uint64_t> sum = 0, count = 0, disorder = 0;
            std::vector<wh_coro *> takers;
            for (unsigned i = 0; i < 8; i++)
                takers.push_back(on(worker_for(i + 1), [&] {
                    uint64_t elem, next[SENDERS] = {};
                    while (wh_chan_recv(ch, &elem) > 0) {
                        disorder += elem % EACH < next[elem / EACH];
                        next[elem / EACH] = elem % EACH + 1;
                        sum += elem;
                        count++;
                    }
                }));
            intptr_t failed = on_all(SENDERS, [&](unsigned i) {
                int wrong = 0;
                for (uint64_t k = 0; k < EACH; k++)
                    wrong += wh_chan_send(ch, i * EACH + k) != 0;
                return wrong;
            });
            wh_chan_close(ch);
            for (wh_coro *taker : takers)
                join(taker);
            constexpr uint64_t ALL = uint64_t{SENDERS} * EACH;
            CHECK(failed == 0);
            CHECK(disorder == 0);
            CHECK(count == ALL);
            CHECK(sum == ALL * (ALL - 1) / 2);
            wh_chan_unref(ch);
        });
    }
}

TEST_CASE("workers: a mutex lets one in, and a condition is waited for across workers")
{
    in_run([] {
        constexpr unsigned COROS = 12, ROUNDS = times(1000);
        wh_mutex mutex = {};
        wh_cond cond = {};
        unsigned turn = 0, count = 0; /* the mutex protects them */
        on_all(COROS, [&](unsigned i) {
            (void)i;
            for (unsigned k = 0; k < ROUNDS; k++)
                WH_LOCKED(&mutex) count++;
            return 0;
        });
        CHECK(count == COROS * ROUNDS);
        on_all(COROS, [&](unsigned i) {
            for (unsigned k = 0; k < ROUNDS / 50; k++)
                WH_LOCKED(&mutex)
                {
                    while (turn % COROS != i)
                        if (wh_cond_wait(&cond, &mutex) < 0)
                            return 0;
                    turn++;
                    wh_cond_broadcast(&cond);
                }
            return 0;
        });
        CHECK(turn == COROS * (ROUNDS / 50));
    });
}

TEST_CASE("workers: waitgroup, event, semaphore and barrier hold across workers")
{
    in_run([] {
        constexpr unsigned COROS = 8;
        wh_waitgroup group = {};
        wh_event event = {};
        wh_sem sem = WH_SEM(3);
        wh_barrier barrier = {};
        std::atomic<int> inside = 0, most = 0, before = 0, apart = 0, last = 0;
        std::atomic<unsigned> arrived = 0;
        wh_waitgroup_add(&group, COROS);
        std::vector<wh_coro *> coros;
        for (unsigned i = 0; i < COROS; i++)
            coros.push_back(on(worker_for(i), [&] {
                wh_waitgroup_done(&group);
                int rc = wh_event_wait(&event);
                before += rc != 0 || !wh_event_is_set(&event);
                for (unsigned k = 1; k <= times(200); k++) {
                    if (wh_sem_acquire(&sem, 1) == 0) {
                        int now = ++inside, seen = most;
                        while (now > seen && !most.compare_exchange_weak(seen, now))
                            ;
                        wh_yield();
                        inside--;
                        wh_sem_release(&sem, 1);
                    }
                    arrived++;
                    last += wh_barrier_wait(&barrier, COROS);
                    apart += arrived < k * COROS;
                    last += 1000000 * (wh_barrier_wait(&barrier, COROS) < 0);
                }
            }));
        int rc = wh_waitgroup_wait(&group);
        CHECK(rc == 0);
        wh_event_set(&event);
        for (wh_coro *coro : coros)
            join(coro);
        CHECK(before == 0);
        CHECK(most <= 3);
        CHECK(apart == 0);
        CHECK(last == times(200));
        CHECK(sem.units == 3);
    });
}

/* ---- Joining, detaching, cancelling ---- */

TEST_CASE("workers: a coroutine of another worker is joined, running, parked or ended")
{
    in_run([] {
        for (int k = 0; k < times(200); k++) {
            unsigned worker = worker_for(static_cast<unsigned>(k));
            wh_coro *ended = on(worker, [] { return 1; });
            wh_coro *parked = on(worker, [] { return 2 + wh_sleep(100 * WH_MICROSECOND); });
            wh_coro *running = on(worker, [] {
                busy_until(wh_now() + 20 * WH_MICROSECOND);
                return 4;
            });
            intptr_t sum = join(running) + join(parked);
            until_ended(ended);
            sum += join(ended);
            if (sum != 7)
                CHECK(sum == 7);
        }
    });
}

TEST_CASE("workers: a coroutine of another worker is detached while it ends")
{
    in_run([] {
        std::atomic<int> ended = 0;
        constexpr int ROUNDS = times(1000);
        for (int k = 0; k < ROUNDS; k++)
            wh_detach(on(worker_for(static_cast<unsigned>(k)), [&] { ended++; }));
        until([&] { return ended == ROUNDS; });
        CHECK(ended == ROUNDS);
    });
}

TEST_CASE("workers: a wait on another worker ends by wh_cancel, whatever it is for")
{
    in_run([] {
        for (unsigned worker = 1; worker <= wh_workers(); worker++) {
            FdPair pair = socket_pair();
            WH_CHAN(int) ch = wh_chan_create(int, 0);
            wh_coro *coros[] = {
                on(worker,
                   [&] {
                       char byte;
                       return wh_recv(pair.a, &byte, 1, 0);
                   }),
                on(worker, [] { return wh_sleep(WH_HOUR); }),
                on(worker, [&] { return wh_chan_recv(ch, nullptr); }),
                on(worker, [&] { return wh_chan_send(ch, 1) < 0 ? wh_sleep(WH_HOUR) : -1; }),
            };
            /* The send and the receive meet; only their coroutines' later waits are cancelled. */
            intptr_t met = join(coros[2]);
            CHECK(met == 1);
            wh_coro *lone = on(worker, [&] { return wh_chan_recv(ch, nullptr); });
            for (wh_coro *coro : {coros[0], coros[1], lone}) {
                until_parked(coro);
                wh_cancel(coro);
                wh_cancel(coro);
                intptr_t value = join(coro);
                CHECK(value == -ECANCELED);
            }
            intptr_t sent = join(coros[3]);
            CHECK(sent == -1);
            wh_chan_unref(ch);
        }
    });
}

TEST_CASE("workers: one that runs, or has ended, on another worker is cancelled")
{
    in_run([] {
        for (unsigned worker = 1; worker <= wh_workers(); worker++) {
            std::atomic<bool> goes_on = worker == wh_worker();
            wh_coro *coro = on(worker, [&] {
                while (!goes_on)
                    ;
                return wh_sleep(WH_HOUR);
            });
            wh_cancel(coro);
            goes_on = true;
            intptr_t value = join(coro);
            CHECK(value == -ECANCELED);
            coro = on(worker, [] { return 3; });
            until_ended(coro);
            wh_cancel(coro);
            value = join(coro);
            CHECK(value == 3);
        }
    });
}

TEST_CASE("workers: cancel and wake race, and exactly one of them is the result")
{
    in_run([] {
        WH_CHAN(int) ch = wh_chan_create(int, 0);
        int wrong = 0;
        for (int k = 0; k < times(2000); k++) {
            unsigned worker = worker_for(static_cast<unsigned>(k));
            wh_coro *taker = on(worker, [&] { return wh_chan_recv(ch, nullptr); });
            wh_coro *canceller = on(worker_for(worker), [taker] { wh_cancel(taker); });
            int sent = wh_chan_try_send(ch, k);
            join(canceller);
            intptr_t got = join(taker);
            wrong += sent == 0 ? got != 1 : got != -ECANCELED;
        }
        CHECK(wrong == 0);
        wh_chan_unref(ch);
    });
}

/* ---- Contexts and groups ---- */

TEST_CASE("workers: cancelling a context reaches its members on all workers")
{
    in_run([] {
        constexpr unsigned COROS = at_once(600);
        std::atomic<unsigned> cancelled = 0, other = 0;
        std::vector<wh_coro *> coros;
        WH_WITH_CANCEL(ctx)
        {
            for (unsigned i = 0; i < COROS; i++)
                coros.push_back(on(worker_for(i), [&] {
                    (wh_sleep(WH_HOUR) == -ECANCELED ? cancelled : other)++;
                }));
            for (wh_coro *coro : coros)
                until_parked(coro);
            wh_ctx_cancel(ctx, -EDQUOT);
        }
        for (wh_coro *coro : coros)
            join(coro);
        CHECK(cancelled == COROS);
        CHECK(other == 0);
    });
}

TEST_CASE("workers: a context is cancelled from another worker, and its deadline counts on all")
{
    in_run([] {
        for (bool by_time : {false, true}) {
            wh_ctx *ctx = by_time ? wh_ctx_create_timeout(nullptr, 5 * WH_MILLISECOND)
                                  : wh_ctx_create(nullptr);
            std::vector<wh_coro *> coros;
            WH_WITH_CTX(ctx)
            {
                for (unsigned i = 0; i < 24; i++)
                    coros.push_back(on(worker_for(i), [] { return wh_sleep(WH_HOUR); }));
            }
            if (!by_time)
                join(on(wh_workers(), [ctx] { wh_ctx_cancel(ctx, 0); }));
            intptr_t sum = 0;
            for (wh_coro *coro : coros)
                sum += join(coro);
            CHECK(sum == 24 * (by_time ? -ETIMEDOUT : -ECANCELED));
            wh_ctx_destroy(ctx);
        }
    });
}

TEST_CASE("workers: what waits for a context's end is started, whoever ends it")
{
    in_run([] {
        static std::atomic<int> started;
        started = 0;
        for (unsigned worker = 1; worker <= wh_workers(); worker++) {
            wh_ctx *ctx = wh_ctx_create(nullptr);
            wh_after *after = nullptr;
            int rc = wh_ctx_after(ctx, &after, [] { started++; });
            CHECK(rc == 0);
            bool kept = true;
            join(on(worker, [&] {
                wh_ctx_cancel(ctx, 0);
                kept = wh_ctx_after_stop(after);
            }));
            CHECK_FALSE(kept);
            until([&] { return started == static_cast<int>(worker); });
            wh_ctx_destroy(ctx);

            wh_ctx *never = wh_ctx_create(nullptr);
            rc = wh_ctx_after(never, &after, [] { started += 1000; });
            CHECK(rc == 0);
            join(on(worker, [&] { kept = wh_ctx_after_stop(after); }));
            CHECK(kept);
            wh_ctx_destroy(never);
        }
        CHECK(started == static_cast<int>(wh_workers()));
    });
}

TEST_CASE("workers: a group whose members run on all workers fails as one")
{
    in_run([] {
        constexpr int MEMBERS = 60;
        static std::atomic<int> came, cancelled;
        static std::atomic<uint64_t> seen;
        came = cancelled = 0;
        seen = 0;
        int rc = 0;
        WH_WITH_GROUP(group, nullptr)
        {
            for (int i = 0; i < MEMBERS; i++)
                wh_group_go(
                    group,
                    [](int number) -> int {
                        seen |= uint64_t{1} << wh_worker();
                        came++;
                        if (number == MEMBERS / 2) {
                            until([] { return came == MEMBERS; });
                            return -EPROTO;
                        }
                        cancelled += wh_sleep(WH_HOUR) == -ECANCELED;
                        return -EIO;
                    },
                    i);
            rc = wh_group_wait(group);
        }
        CHECK(rc == -EPROTO);
        CHECK(cancelled == MEMBERS - 1);
        CHECK(seen != 0);
    });
}

/* ---- Descriptors, timers, signals ---- */

TEST_CASE("workers: closing a descriptor on which another worker waits ends the wait with -EBADF")
{
    in_run([] {
        for (unsigned worker = 1; worker <= wh_workers(); worker++) {
            FdPair pair = socket_pair();
            std::vector<wh_coro *> readers;
            for (unsigned i = 0; i < 3; i++)
                readers.push_back(on(worker_for(worker + i), [&] {
                    char byte;
                    return wh_recv(pair.a, &byte, 1, 0);
                }));
            for (wh_coro *reader : readers)
                until_parked(reader);
            intptr_t closed = join(on(worker, [&] { return wh_close(pair.a); }));
            pair.a.release();
            CHECK(closed == 0);
            for (wh_coro *reader : readers) {
                intptr_t value = join(reader);
                CHECK(value == -EBADF);
            }
            char byte;
            ssize_t n = wh_recv(pair.b, &byte, 1, 0);
            CHECK(n == 0); /* the peer sees the end */
        }
    });
}

TEST_CASE("workers: a timer is waited for, stopped and given back where it was not made")
{
    in_run([] {
        for (unsigned worker = 1; worker <= wh_workers(); worker++) {
            wh_timer *timer = wh_timer_create(100 * WH_MICROSECOND, 100 * WH_MICROSECOND);
            wh_coro *coro = on(worker, [timer] {
                int ticks = 0;
                for (int i = 0; i < 10; i++)
                    ticks += wh_timer_wait(timer) == 0;
                wh_timer_stop(timer);
                ticks += wh_timer_reset(timer, 0, 0) == 0;
                ticks += wh_timer_wait(timer) == 0;
                ticks += !wh_timer_stop(timer);
                wh_timer_destroy(timer);
                return ticks;
            });
            intptr_t ticks = join(coro);
            CHECK(ticks == 13);
        }
    });
}

TEST_CASE("workers: signals are asked for, and arrive, on any worker")
{
    in_run([] {
        intptr_t got = on_all(wh_workers(), [](unsigned i) {
            WH_CHAN(int) ch = wh_chan_create(int, 1);
            int number = 0, wanted = SIGRTMIN + 1 + static_cast<int>(i % 8);
            int right = wh_signal_notify(ch, wanted) == 0;
            kill(getpid(), wanted);
            right &= wh_chan_recv(ch, &number) == 1 && number == wanted;
            wh_signal_stop(ch);
            wh_chan_unref(ch);
            return right;
        });
        CHECK(got == static_cast<intptr_t>(wh_workers()));
    });
}
