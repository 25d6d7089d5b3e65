/*
 * event_barrier_test.cpp: a flag to wait for; a place where coroutines wait for each other.
 */
#include "tests/sync/steps.hpp"
#include "tests/sync/sync.hpp"

using steps::CANCEL;
using steps::CTX;
using steps::DEADLINE;
using steps::SERVE;
using steps::TIMER;
using steps::Who;

namespace
{

/* Serve 0 sets it and serve 1 resets it. */
struct EventFixture : steps::Fixture {
    wh_event event = {};
    bool set = false;

    int call(int) override
    {
        return wh_event_wait(&event);
    }
    void serve(int which) override
    {
        if (which == 0)
            wh_event_set(&event);
        else
            wh_event_reset(&event);
    }
    Who serve_model(int which) override
    {
        set = which == 0;
        return set ? std::exchange(waiting, {}) : Who{};
    }
    std::string wrong() override
    {
        return wh_event_is_set(&event) == set ? "" : "the flag is wrong";
    }
};

/* The event's coroutine is the last party, if the others are still there. */
struct BarrierFixture : steps::Fixture {
    wh_barrier barrier = {};
    uint32_t parties;
    uint32_t arrived;
    int last_result = INT32_MIN;

    explicit BarrierFixture(uint32_t waiters) : parties(waiters + 1), arrived(waiters)
    {
    }
    int call(int) override
    {
        return wh_barrier_wait(&barrier, parties);
    }
    void serve(int) override
    {
        last_result = wh_barrier_wait(&barrier, parties);
    }
    Who serve_model(int) override
    {
        if (++arrived < parties)
            return {}; /* some have gone: the serve waits like them */
        arrived = 0;
        return std::exchange(waiting, {});
    }
    void leave_model(int) override
    {
        arrived--;
    }
    std::string wrong() override
    {
        if (barrier.arrived != arrived)
            return "arrived: " + std::to_string(barrier.arrived);
        bool round_over = last_result != INT32_MIN;
        return !round_over || last_result == 1 ? "" : "the last one got another result";
    }
};

} // namespace

/* ---- Event ---- */

TEST_CASE("event: set, reset, deadline and cancel in every order: one outcome each")
{
    steps::all<EventFixture>(1, {{SERVE, 0}, {CANCEL, 0}, {TIMER, 0}, {DEADLINE, 0}, {CTX, 0}});
    steps::all<EventFixture>(2, {{SERVE, 0}, {SERVE, 1}, {CANCEL, 0}, {TIMER, 1}});
    steps::all<EventFixture>(2, {{SERVE, 0}, {SERVE, 1}, {DEADLINE, 0}, {CTX, 0}});
}

TEST_CASE("event: setting wakes all in order, and nobody waits until it is reset")
{
    in_run([] {
        wh_event event;
        memset(&event, 0, sizeof event);
        CHECK(!wh_event_is_set(&event));
        Ints order;
        for (int i = 0; i < 4; i++)
            start([&, i] {
                if (wh_event_wait(&event) == 0)
                    order.push_back(i);
            });
        wh_yield();
        CHECK(order.empty());
        wh_event_set(&event);
        CHECK(wh_event_is_set(&event));
        wh_yield();
        CHECK(order == Ints{0, 1, 2, 3});
        wh_event_set(&event);
        int rc = wh_event_wait(&event);
        CHECK(rc == 0);
        wh_event_reset(&event);
        wh_event_reset(&event);
        CHECK(!wh_event_is_set(&event));
        wh_coro *waiter = spawn([&] { return wh_event_wait(&event); });
        wh_yield();
        CHECK(is_parked(waiter));
        wh_event_set(&event);
        CHECK(join(waiter) == 0);
    });
}

TEST_CASE("event: a wait returns 0 also when it has been reset since")
{
    in_run([] {
        wh_event event = {};
        wh_coro *waiter = spawn([&] { return wh_event_wait(&event); });
        wh_yield();
        wh_event_set(&event);
        wh_event_reset(&event);
        intptr_t rc = join(waiter);
        CHECK(rc == 0);
        CHECK(!wh_event_is_set(&event));
    });
}

TEST_CASE("event: in a context that has ended a wait fails, set or not")
{
    in_run([] {
        wh_event event = {};
        bool failed = fails_when_ended([&] { return wh_event_wait(&event); });
        CHECK(failed);
        wh_event_set(&event);
        failed = fails_when_ended([&] { return wh_event_wait(&event); });
        CHECK(failed);
    });
}

/* ---- Barrier ---- */

TEST_CASE("barrier: the last to come, deadline and cancel in every order: one outcome each")
{
    /* A serve that finds too few would wait: only orders in which all who leave do so after it, or
     * in which nothing but the end of the round is left to decide. */
    in_run([] {
        Turns turn;
        const std::vector<steps::Event> events = {
            {SERVE, 0}, {CANCEL, 0}, {TIMER, 1}, {DEADLINE, 0}, {CTX, 0}};
        int tried = 0;
        for (const steps::Order &order : steps::orders(events.size())) {
            bool serve_first = order.events[0] == 0;
            bool none =
                std::find(order.events.begin(), order.events.end(), 0u) == order.events.end();
            bool by_deadline = order.events.size() == 2 && order.events[0] == 3 &&
                               order.events[1] == 0 && !order.pauses;
            if (!serve_first && !none && !by_deadline)
                continue;
            BarrierFixture fixture(2);
            std::string what = steps::Drive(fixture, 2, events, order, turn).run();
            tried++;
            INFO(steps::text(order, events));
            CHECK(what.empty());
        }
        CHECK(tried > sampled(900));
    });
}

TEST_CASE("barrier: all go when the last has come, which gets 1, round after round")
{
    in_run([] {
        wh_barrier barrier;
        memset(&barrier, 0, sizeof barrier);
        constexpr int PARTIES = 4, ROUNDS = 5;
        int ones[ROUNDS] = {}, zeroes[ROUNDS] = {}, behind = 0;
        int round_of[PARTIES] = {};
        std::vector<wh_coro *> coros;
        for (int i = 0; i < PARTIES; i++)
            coros.push_back(spawn([&, i] {
                for (int round = 0; round < ROUNDS; round++) {
                    round_of[i] = round;
                    for (int n = 0; n < (i * 7 + round) % 5; n++)
                        wh_yield();
                    int rc = wh_barrier_wait(&barrier, PARTIES);
                    ones[round] += rc == 1;
                    zeroes[round] += rc == 0;
                    for (int other : round_of)
                        behind += other < round;
                }
            }));
        for (wh_coro *coro : coros)
            join(coro);
        for (int round = 0; round < ROUNDS; round++) {
            CHECK(ones[round] == 1);
            CHECK(zeroes[round] == PARTIES - 1);
        }
        CHECK(behind == 0);
        CHECK(barrier.arrived == 0);
        int rc = wh_barrier_wait(&barrier, 1);
        CHECK(rc == 1);
    });
}

TEST_CASE("barrier: one that was interrupted does not count as having come, even before it runs")
{
    in_run([] {
        for (int how = 0; how < 2; how++) {
            wh_barrier barrier = {};
            wh_coro *gives_up = spawn([&] { return wh_barrier_wait(&barrier, 2); });
            wh_yield();
            CHECK(barrier.arrived == 1);
            wh_cancel(gives_up);
            CHECK(barrier.arrived == 0);
            wh_coro *second = spawn([&] { return wh_barrier_wait(&barrier, 2); });
            if (how == 0) { /* it comes before the other has run */
                wh_yield();
                CHECK(is_parked(second));
            }
            intptr_t rc = join(gives_up);
            CHECK(rc == -ECANCELED);
            int last = wh_barrier_wait(&barrier, 2);
            CHECK(last == 1);
            rc = join(second);
            CHECK(rc == 0);
        }
    });
}

TEST_CASE("barrier: in a context that has ended nobody comes, not even the last")
{
    in_run([] {
        wh_barrier barrier = {};
        wh_coro *first = spawn([&] { return wh_barrier_wait(&barrier, 2); });
        wh_yield();
        bool failed = fails_when_ended([&] { return wh_barrier_wait(&barrier, 2); });
        CHECK(failed);
        CHECK(is_parked(first));
        CHECK(barrier.arrived == 1);
        failed = fails_when_ended([&] {
            wh_barrier alone = {};
            return wh_barrier_wait(&alone, 1);
        });
        CHECK(failed);
        int rc = wh_barrier_wait(&barrier, 2);
        CHECK(rc == 1);
        intptr_t other = join(first);
        CHECK(other == 0);
    });
}

TEST_CASE("barrier: the number of parties may change between rounds, within one it aborts")
{
    in_run([] {
        wh_barrier barrier = {};
        for (uint32_t parties : {2u, 3u, 1u, 2u}) {
            for (uint32_t i = 1; i < parties; i++)
                start([&, parties] { wh_barrier_wait(&barrier, parties); });
            wh_yield();
            int rc = wh_barrier_wait(&barrier, parties);
            CHECK(rc == 1);
            wh_yield();
        }
    });
    CHECK(aborts(
        [] {
            wh_barrier barrier = {};
            start([&] { wh_barrier_wait(&barrier, 2); });
            wh_yield();
            wh_barrier_wait(&barrier, 3);
        },
        "wh_barrier_wait: a coroutine names another number of parties"));
    CHECK(aborts(
        [] {
            wh_barrier barrier = {};
            wh_barrier_wait(&barrier, 0);
        },
        "wh_barrier_wait"));
}
