/*
 * sem_test.cpp: counting semaphores, strictly in order.
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

/* Waiter i wants wants[i] units; serve j releases gives[j]. */
struct SemFixture : steps::Fixture {
    wh_sem sem = {};
    std::vector<uint64_t> wants, gives;
    uint64_t units = 0; /* the model's */

    SemFixture(uint64_t has, std::vector<uint64_t> wanted, std::vector<uint64_t> given)
        : wants(std::move(wanted)), gives(std::move(given)), units(has)
    {
        sem.units = has;
    }
    int call(int who) override
    {
        return wh_sem_acquire(&sem, wants[static_cast<size_t>(who)]);
    }
    void serve(int which) override
    {
        wh_sem_release(&sem, gives[static_cast<size_t>(which)]);
    }
    Who admit_model() override
    {
        Who in;
        while (!waiting.empty() && wants[static_cast<size_t>(waiting.front())] <= units) {
            in.push_back(steps::take_first(waiting));
            units -= wants[static_cast<size_t>(in.back())];
        }
        return in;
    }
    Who serve_model(int which) override
    {
        units += gives[static_cast<size_t>(which)];
        return admit_model();
    }
    std::string wrong() override
    {
        return sem.units == units ? "" : "units: " + std::to_string(sem.units);
    }
};

using Units = std::vector<uint64_t>;

} // namespace

TEST_CASE("sem: release, deadline and cancel of one that waits, in every order")
{
    steps::all<SemFixture>(1, {{SERVE, 0}, {CANCEL, 0}, {TIMER, 0}, {DEADLINE, 0}, {CTX, 0}},
                           uint64_t{0}, Units{1}, Units{1});
    steps::all<SemFixture>(1, {{SERVE, 0}, {SERVE, 1}, {CANCEL, 0}, {DEADLINE, 0}}, uint64_t{1},
                           Units{3}, Units{1, 1});
}

TEST_CASE("sem: a first waiter that is interrupted lets in those that want less, in every order")
{
    steps::all<SemFixture>(3, {{SERVE, 0}, {CANCEL, 0}, {TIMER, 1}, {DEADLINE, 0}}, uint64_t{2},
                           Units{3, 1, 1}, Units{1});
    steps::all<SemFixture>(3, {{SERVE, 0}, {SERVE, 1}, {TIMER, 0}, {DEADLINE, 1}}, uint64_t{1},
                           Units{4, 2, 1}, Units{1, 2});
    steps::all<SemFixture>(3, {{SERVE, 0}, {CTX, 0}, {CANCEL, 1}, {DEADLINE, 0}}, uint64_t{2},
                           Units{3, 1, 1}, Units{1});
}

TEST_CASE("sem: zeroed it has no units, WH_SEM(3) has three")
{
    in_run([] {
        wh_sem none;
        memset(&none, 0, sizeof none);
        CHECK(wh_sem_try_acquire(&none, 1) == -EAGAIN);
        CHECK(wh_sem_try_acquire(&none, 0) == 0);
        wh_sem three = WH_SEM(3);
        int rc = wh_sem_acquire(&three, 1);
        CHECK(rc == 0);
        CHECK(wh_sem_try_acquire(&three, 3) == -EAGAIN);
        CHECK(wh_sem_try_acquire(&three, 2) == 0);
        CHECK(wh_sem_try_acquire(&three, 1) == -EAGAIN);
        wh_sem_release(&three, 0);
        CHECK(wh_sem_try_acquire(&three, 1) == -EAGAIN);
        wh_sem_release(&three, 7); /* new ones too */
        CHECK(wh_sem_try_acquire(&three, 7) == 0);
    });
}

TEST_CASE("sem: who wants many holds up those behind that want few, and gets its turn")
{
    in_run([] {
        wh_sem sem = WH_SEM(1);
        Ints order;
        std::vector<wh_coro *> coros;
        for (uint64_t count : {3, 1, 0, 2})
            coros.push_back(spawn([&, count] {
                if (wh_sem_acquire(&sem, count) == 0)
                    order.push_back(static_cast<int>(count));
            }));
        wh_yield();
        CHECK(order.empty());
        CHECK(wh_sem_try_acquire(&sem, 1) == -EAGAIN); /* it is there, but others wait */
        CHECK(wh_sem_try_acquire(&sem, 0) == -EAGAIN);
        CHECK(sem.units == 1);
        wh_sem_release(&sem, 1);
        wh_yield();
        CHECK(order.empty());
        wh_sem_release(&sem, 1);
        wh_yield();
        CHECK(order == Ints{3});
        wh_sem_release(&sem, 1);
        wh_yield();
        CHECK(order == Ints{3, 1, 0});
        wh_sem_release(&sem, 5);
        wh_yield();
        CHECK(order == Ints{3, 1, 0, 2});
        CHECK(sem.units == 3);
        for (wh_coro *coro : coros)
            join(coro);
    });
}

TEST_CASE("sem: a release is the waiter's at once: nobody takes the units before it runs")
{
    in_run([] {
        wh_sem sem = {};
        int got = -1;
        wh_coro *waiter = spawn([&] { got = wh_sem_acquire(&sem, 1); });
        wh_yield();
        wh_sem_release(&sem, 1);
        CHECK(sem.units == 0);
        CHECK(wh_sem_try_acquire(&sem, 1) == -EAGAIN);
        wh_cancel(waiter); /* too late */
        join(waiter);
        CHECK(got == 0);
    });
}

TEST_CASE("sem: in a context that has ended units that are there are not taken")
{
    in_run([] {
        wh_sem sem = WH_SEM(5);
        bool failed = fails_when_ended([&] { return wh_sem_acquire(&sem, 1); });
        CHECK(failed);
        failed = fails_when_ended([&] { return wh_sem_acquire(&sem, 0); });
        CHECK(failed);
        CHECK(sem.units == 5);
        WH_WITH_TIMEOUT(0)
        {
            int rc = wh_sem_try_acquire(&sem, 1); /* never parks, so it does not look */
            CHECK(rc == 0);
        }
        CHECK(sem.units == 4);
    });
}

TEST_CASE("sem: as many units as there can be, and not one more")
{
    in_run([] {
        wh_sem sem = {};
        wh_sem_release(&sem, INT64_MAX);
        CHECK(wh_sem_try_acquire(&sem, INT64_MAX) == 0);
        CHECK(sem.units == 0);
    });
    CHECK(aborts(
        [] {
            wh_sem sem = WH_SEM(1);
            wh_sem_release(&sem, INT64_MAX);
        },
        "wh_sem_release: a coroutine releases more units than a semaphore can have"));
    CHECK(aborts(
        [] {
            wh_sem sem = {};
            wh_sem_release(&sem, UINT64_MAX);
        },
        "more units"));
    CHECK(aborts(
        [] {
            wh_sem sem = {};
            (void)!wh_sem_try_acquire(&sem, uint64_t{1} << 63);
        },
        "wh_sem_try_acquire: a coroutine asks for more units"));
    CHECK(aborts(
        [] {
            wh_sem sem = {};
            (void)!wh_sem_acquire(&sem, uint64_t{1} << 63);
        },
        "wh_sem_acquire: a coroutine asks for more units"));
}
