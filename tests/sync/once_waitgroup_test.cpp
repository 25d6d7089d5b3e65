/*
 * once_waitgroup_test.cpp: doing something once; waiting for a number of things to be done.
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

/* Each serve is a done; all that wait are served by the last. */
struct WaitgroupFixture : steps::Fixture {
    wh_waitgroup group = {};
    int count;

    explicit WaitgroupFixture(int things) : count(things)
    {
        group.count = things;
    }
    int call(int) override
    {
        return wh_waitgroup_wait(&group);
    }
    void serve(int) override
    {
        wh_waitgroup_done(&group);
    }
    Who serve_model(int) override
    {
        return --count ? Who{} : std::exchange(waiting, {});
    }
    std::string wrong() override
    {
        return group.count != count ? "count: " + std::to_string(group.count)
               : group.leaving      ? "some have not left"
                                    : "";
    }
};

/* The function of the first call runs until the serve. */
struct OnceFixture : steps::Fixture {
    wh_once once = {};
    wh_event finish = {};
    int calls = 0;

    static void run(void *arg)
    {
        auto *self = static_cast<OnceFixture *>(arg);
        self->calls++;
        while (wh_event_wait(&self->finish) < 0)
            ;
    }
    static void again(void *arg)
    {
        static_cast<OnceFixture *>(arg)->calls += 1000;
    }
    void prepare(int) override
    {
        start([this] { wh_once_do(&once, run, this); });
    }
    int call(int) override
    {
        return wh_once_do(&once, again, this);
    }
    bool next_fails() const override
    {
        return once.runner;
    }
    void serve(int) override
    {
        wh_event_set(&finish);
        wh_yield(); /* the runner has returned from its call then */
    }
    void unserved(int) override
    {
        serve(0);
    }
    Who serve_model(int) override
    {
        return std::exchange(waiting, {});
    }
    std::string wrong() override
    {
        return calls == 1 ? "" : "calls: " + std::to_string(calls);
    }
    std::string wrong_at_end() override
    {
        return once.done && !once.runner ? wrong() : "it is not done";
    }
};

void count_up(void *arg)
{
    ++*static_cast<int *>(arg);
}

} // namespace

/* ---- Once ---- */

TEST_CASE("once: the end of the function, deadline and cancel in every order, each with a pause")
{
    /* A serve takes two coroutines' turns, so only orders in which it stands alone are exact. */
    steps::all<OnceFixture>(1, {{SERVE, 0}});
    for (steps::Kind kind : {CANCEL, TIMER, DEADLINE, CTX})
        in_run([&] {
            Turns turn;
            const std::vector<steps::Event> events = {{SERVE, 0}, {kind, 0}};
            for (const steps::Order &order :
                 {steps::Order{{0, 1}, 1}, steps::Order{{1, 0}, 1}, steps::Order{{1}, 0}}) {
                OnceFixture fixture;
                std::string what = steps::Drive(fixture, 2, events, order, turn).run();
                INFO(steps::text(order, events));
                CHECK(what.empty());
            }
        });
}

TEST_CASE("once: the first call calls the function, those that come meanwhile wait for it")
{
    in_run([] {
        wh_once once;
        memset(&once, 0, sizeof once);
        static int calls, returned;
        calls = returned = 0;
        auto slow = [](void *) {
            calls++;
            for (int i = 0; i < 3; i++)
                wh_yield();
        };
        std::vector<wh_coro *> coros;
        int failed = 0;
        for (int i = 0; i < 4; i++)
            coros.push_back(spawn([&] {
                failed += wh_once_do(&once, slow, nullptr) != 0;
                returned++;
            }));
        wh_yield();
        CHECK(calls == 1);
        CHECK(returned == 0);
        CHECK(is_parked(coros[1]));
        for (wh_coro *coro : coros)
            join(coro);
        int rc = wh_once_do(&once, slow, nullptr);
        CHECK(rc == 0);
        CHECK(calls == 1);
        CHECK(returned == 4);
        CHECK(failed == 0);
    });
}

TEST_CASE("once: it returns 0 when the function has returned, whatever the context says")
{
    in_run([] {
        wh_once once = {};
        int count = 0, rc = -1;
        WH_WITH_CANCEL(ctx)
        {
            wh_ctx_cancel(ctx, 0);
            rc = wh_once_do(&once, count_up, &count);
        }
        CHECK(rc == 0);
        CHECK(count == 1);
        WH_WITH_TIMEOUT(0)
        {
            rc = wh_once_do(&once, count_up, &count);
        }
        CHECK(rc == 0);
        CHECK(count == 1);
    });
}

TEST_CASE("once: in a context that has ended another's call is not waited for")
{
    in_run([] {
        wh_once once = {};
        wh_event finish = {};
        auto wait = [](void *arg) { wh_event_wait(static_cast<wh_event *>(arg)); };
        wh_coro *runner = spawn([&] { wh_once_do(&once, wait, &finish); });
        wh_yield();
        bool failed = fails_when_ended([&] { return wh_once_do(&once, wait, &finish); });
        CHECK(failed);
        wh_event_set(&finish);
        join(runner);
        CHECK(once.done);
    });
}

TEST_CASE("once: calling it from its own function aborts")
{
    CHECK(aborts(
        [] {
            static wh_once once;
            auto again = [](void *) { wh_once_do(&once, count_up, nullptr); };
            wh_once_do(&once, again, nullptr);
        },
        "wh_once_do: a coroutine is called for the same object from its function"));
}

/* ---- Waitgroup ---- */

TEST_CASE("waitgroup: the last done, deadline and cancel in every order: one outcome")
{
    steps::all<WaitgroupFixture>(1, {{SERVE, 0}, {CANCEL, 0}, {TIMER, 0}, {DEADLINE, 0}, {CTX, 0}},
                                 1);
    steps::all<WaitgroupFixture>(3, {{SERVE, 0}, {SERVE, 1}, {CANCEL, 0}, {TIMER, 2}}, 2);
    steps::all<WaitgroupFixture>(2, {{SERVE, 0}, {SERVE, 1}, {DEADLINE, 0}, {CTX, 0}}, 2);
}

TEST_CASE("waitgroup: at zero nobody waits; it counts up and down and may be used again")
{
    in_run([] {
        wh_waitgroup group;
        memset(&group, 0, sizeof group);
        int rc = wh_waitgroup_wait(&group);
        CHECK(rc == 0);
        for (int round = 0; round < 3; round++) {
            int done = 0;
            wh_waitgroup_add(&group, 5);
            for (int i = 0; i < 3; i++)
                start([&] {
                    wh_yield();
                    done++;
                    wh_waitgroup_done(&group);
                });
            wh_waitgroup_add(&group, -2);
            wh_waitgroup_add(&group, 0);
            rc = wh_waitgroup_wait(&group);
            CHECK(rc == 0);
            CHECK(done == 3);
        }
        wh_waitgroup_add(&group, 0);
        CHECK(group.count == 0);
    });
}

TEST_CASE("waitgroup: all that wait are woken in the order in which they came")
{
    in_run([] {
        wh_waitgroup group = {};
        Ints order;
        wh_waitgroup_add(&group, 2);
        for (int i = 0; i < 5; i++)
            start([&, i] {
                if (wh_waitgroup_wait(&group) == 0)
                    order.push_back(i);
            });
        wh_yield();
        wh_waitgroup_done(&group);
        wh_yield();
        CHECK(order.empty());
        wh_waitgroup_done(&group);
        wh_yield();
        CHECK(order == Ints{0, 1, 2, 3, 4});
    });
}

TEST_CASE("waitgroup: in a context that has ended even zero is not waited for")
{
    in_run([] {
        wh_waitgroup group = {};
        bool failed = fails_when_ended([&] { return wh_waitgroup_wait(&group); });
        CHECK(failed);
        wh_waitgroup_add(&group, 1);
        failed = fails_when_ended([&] { return wh_waitgroup_wait(&group); });
        CHECK(failed);
        CHECK(group.count == 1);
        wh_waitgroup_done(&group);
        wh_waitgroup_add(&group, 1); /* nobody is leaving */
    });
}

TEST_CASE("waitgroup: misuse aborts with the coroutine's name")
{
    CHECK(aborts(
        [] {
            wh_waitgroup group = {};
            wh_waitgroup_done(&group);
        },
        "wh_waitgroup_done: a coroutine makes a waitgroup's count negative"));
    CHECK(aborts(
        [] {
            wh_waitgroup group = {};
            wh_waitgroup_add(&group, 3);
            wh_waitgroup_add(&group, -4);
        },
        "wh_waitgroup_add: a coroutine makes a waitgroup's count negative"));
    CHECK(aborts(
        [] {
            wh_waitgroup group = {};
            wh_waitgroup_add(&group, INT64_MAX);
            wh_waitgroup_add(&group, 1);
        },
        "wh_waitgroup_add"));
    CHECK(aborts(
        [] {
            wh_waitgroup group = {};
            wh_waitgroup_add(&group, 1);
            start([&] { (void)!wh_waitgroup_wait(&group); });
            wh_yield();
            wh_waitgroup_done(&group);
            wh_waitgroup_add(&group, 1); /* the one that waited has not run */
        },
        "wh_waitgroup_add: a coroutine adds to a waitgroup before all have returned"));
}

TEST_CASE("waitgroup: once all have returned the next round may begin, also after a wait that "
          "ended early")
{
    in_run([] {
        wh_waitgroup group = {};
        int rc = 1, early = 1;
        wh_waitgroup_add(&group, 1);
        wh_coro *gives_up = spawn([&] { early = wh_waitgroup_wait(&group); });
        wh_coro *stays = spawn([&] { rc = wh_waitgroup_wait(&group); });
        wh_yield();
        wh_cancel(gives_up);
        wh_waitgroup_done(&group);
        join(stays);
        wh_waitgroup_add(&group, 1);
        join(gives_up);
        CHECK(rc == 0);
        CHECK(early == -ECANCELED);
        wh_waitgroup_done(&group);
        rc = wh_waitgroup_wait(&group);
        CHECK(rc == 0);
    });
}
