/*
 * mutex_test.cpp: mutual exclusion, and condition variables.
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

/* The event's coroutine holds the lock, and unlocks. */
struct MutexFixture : steps::Fixture {
    wh_mutex mutex = {};
    int holder = -1; /* the model's */
    std::vector<wh_coro *> self = std::vector<wh_coro *>(3);

    int call(int who) override
    {
        self[static_cast<size_t>(who)] = wh_self();
        return wh_mutex_lock(&mutex);
    }
    void give_back(int) override
    {
        wh_mutex_unlock(&mutex);
    }
    bool next_fails() const override
    {
        return mutex.holder;
    }
    void prepare(int) override
    {
        CHECK(wh_mutex_try_lock(&mutex) == 0);
    }
    void serve(int) override
    {
        wh_mutex_unlock(&mutex);
    }
    void unserved(int) override
    {
        wh_mutex_unlock(&mutex);
    }
    Who serve_model(int) override
    {
        if (waiting.empty())
            return {};
        holder = steps::take_first(waiting);
        return {holder};
    }
    std::string wrong() override
    {
        if (holder >= 0)
            return mutex.holder == self[static_cast<size_t>(holder)] ? "" : "another has the lock";
        for (wh_coro *coro : self)
            if (coro && mutex.holder == coro)
                return "one that was not served has the lock";
        return "";
    }
    std::string wrong_at_end() override
    {
        return mutex.holder ? "it is still locked" : "";
    }
};

/* A wait in a condition variable: the mutex is held again whatever came. */
struct CondFixture : steps::Fixture {
    wh_mutex mutex = {};
    wh_cond cond = {};
    bool all;
    int held = 0; /* calls that returned with the mutex held */
    int returned = 0;

    explicit CondFixture(bool broadcast) : all(broadcast)
    {
    }
    int call(int) override
    {
        WH_LOCKED(&mutex)
        {
            int rc = wh_cond_wait(&cond, &mutex);
            returned++;
            held += mutex.holder == wh_self();
            return rc;
        }
        return -EBADMSG;
    }
    void serve(int) override
    {
        if (all)
            wh_cond_broadcast(&cond);
        else
            wh_cond_signal(&cond);
    }
    Who serve_model(int) override
    {
        Who woken;
        while (!waiting.empty() && (all || woken.empty()))
            woken.push_back(steps::take_first(waiting));
        return woken;
    }
    std::string wrong() override
    {
        return held != returned ? "a wait returned without the mutex" : "";
    }
    std::string wrong_at_end() override
    {
        return mutex.holder ? "the mutex is still locked" : wrong();
    }
};

} // namespace

TEST_CASE("mutex: unlock, deadline and cancel in every order: one outcome, and it holds")
{
    steps::all<MutexFixture>(1, {{SERVE, 0}, {CANCEL, 0}, {TIMER, 0}, {DEADLINE, 0}, {CTX, 0}});
}

TEST_CASE("mutex: unlock while two wait: the first that still waits gets it, in every order")
{
    steps::all<MutexFixture>(2, {{SERVE, 0}, {CANCEL, 0}, {TIMER, 1}, {DEADLINE, 0}});
    steps::all<MutexFixture>(3, {{SERVE, 0}, {TIMER, 0}, {CANCEL, 1}, {DEADLINE, 2}});
    steps::all<MutexFixture>(3, {{SERVE, 0}, {CTX, 0}, {CANCEL, 1}, {DEADLINE, 0}});
}

TEST_CASE("mutex: zeroed memory is a free mutex; what is locked is busy for the others")
{
    in_run([] {
        wh_mutex mutex;
        memset(&mutex, 0, sizeof mutex);
        CHECK(wh_mutex_lock(&mutex) == 0);
        int rc = static_cast<int>(join(spawn([&] { return wh_mutex_try_lock(&mutex); })));
        CHECK(rc == -EBUSY);
        CHECK(wh_mutex_try_lock(&mutex) == -EBUSY); /* not recursive either */
        wh_mutex_unlock(&mutex);
        rc = static_cast<int>(join(spawn([&] {
            int got = wh_mutex_try_lock(&mutex);
            wh_mutex_unlock(&mutex);
            return got;
        })));
        CHECK(rc == 0);
        CHECK(!mutex.holder);
    });
}

TEST_CASE("mutex: the lock goes to the one that waited longest")
{
    in_run([] {
        wh_mutex mutex = {};
        Ints order;
        std::vector<wh_coro *> coros;
        int rc = wh_mutex_lock(&mutex);
        CHECK(rc == 0);
        for (int i = 0; i < 50; i++)
            coros.push_back(spawn([&, i] {
                if (wh_mutex_lock(&mutex) == 0) {
                    order.push_back(i);
                    wh_yield();
                    wh_mutex_unlock(&mutex);
                }
            }));
        wh_yield();
        wh_mutex_unlock(&mutex);
        for (wh_coro *coro : coros)
            join(coro);
        CHECK(order.size() == 50);
        CHECK(std::is_sorted(order.begin(), order.end()));
        CHECK(!mutex.holder);
    });
}

TEST_CASE("mutex: the unlocker cannot take it again past one that waits: nobody starves")
{
    in_run([] {
        wh_mutex mutex = {};
        int greedy_turns = 0, turns_when_got = -1;
        bool stop = false;
        wh_coro *greedy = spawn([&] {
            while (!stop) {
                if (wh_mutex_lock(&mutex) != 0)
                    break;
                greedy_turns++;
                wh_yield();
                wh_mutex_unlock(&mutex); /* and at once again */
            }
        });
        wh_yield();
        wh_coro *other = spawn([&] {
            int before = greedy_turns;
            if (wh_mutex_lock(&mutex) == 0) {
                turns_when_got = greedy_turns - before;
                wh_mutex_unlock(&mutex);
            }
            stop = true;
        });
        join(other);
        join(greedy);
        CHECK(turns_when_got >= 0);
        CHECK(turns_when_got <= 1);
    });
}

TEST_CASE("mutex: a try between the hand-off and the new holder's turn finds it locked")
{
    in_run([] {
        wh_mutex mutex = {};
        int got = -1;
        CHECK(wh_mutex_try_lock(&mutex) == 0);
        wh_coro *waiter = spawn([&] {
            got = wh_mutex_lock(&mutex);
            wh_mutex_unlock(&mutex);
        });
        wh_yield();
        wh_mutex_unlock(&mutex);
        CHECK(mutex.holder == waiter);
        CHECK(wh_mutex_try_lock(&mutex) == -EBUSY);
        join(waiter);
        CHECK(got == 0);
        CHECK(wh_mutex_try_lock(&mutex) == 0);
    });
}

TEST_CASE("mutex: a free one is locked in a context that has ended, a held one is not")
{
    in_run([] {
        wh_mutex mutex = {};
        bool failed = true;
        failed = fails_when_ended([&] {
            int rc = wh_mutex_lock(&mutex);
            if (rc == 0)
                wh_mutex_unlock(&mutex);
            return rc;
        });
        CHECK(!failed);
        WH_WITH_TIMEOUT(0)
        {
            int rc = wh_mutex_lock(&mutex);
            CHECK(rc == 0);
        }
        CHECK(mutex.holder == wh_self());
        failed = join(spawn([&] {
            bool all = fails_when_ended([&] { return wh_mutex_lock(&mutex); });
            wh_cancel(wh_self());
            return all && wh_mutex_lock(&mutex) == -ECANCELED;
        }));
        CHECK(failed);
        CHECK(mutex.holder == wh_self());
        wh_mutex_unlock(&mutex);
        CHECK(!mutex.holder);
    });
}

TEST_CASE("mutex: misuse aborts with the coroutine's name")
{
    CHECK(aborts(
        [] {
            wh_mutex mutex = {};
            (void)!wh_mutex_lock(&mutex);
            (void)!wh_mutex_lock(&mutex);
        },
        "wh_mutex_lock: a coroutine locks a mutex that it holds already"));
    CHECK(aborts(
        [] {
            wh_mutex mutex = {};
            WH_LOCKED(&mutex)
            WH_LOCKED(&mutex)
            {
            }
        },
        "holds already"));
    CHECK(aborts(
        [] {
            wh_mutex mutex = {};
            wh_mutex_unlock(&mutex);
        },
        "wh_mutex_unlock: a coroutine unlocks a mutex that it does not hold"));
    CHECK(aborts(
        [] {
            wh_mutex mutex = {};
            start([&] { (void)!wh_mutex_lock(&mutex); });
            wh_yield();
            wh_mutex_unlock(&mutex);
        },
        "does not hold"));
    CHECK(aborts(
        [] {
            wh_mutex mutex = {};
            wh_cond cond = {};
            wh_cond_wait(&cond, &mutex);
        },
        "wh_cond_wait: a coroutine waits with a mutex that it does not hold"));
}

/* ---- WH_LOCKED ---- */

namespace
{

int return_from_locked(wh_mutex *mutex)
{
    WH_LOCKED(mutex)
    {
        if (mutex->holder == wh_self())
            return 1;
    }
    return 0;
}

int goto_from_locked(wh_mutex *mutex)
{
    int rounds = 0;
again:
    WH_LOCKED(mutex)
    {
        if (++rounds < 3)
            goto again;
    }
    return rounds;
}

} // namespace

TEST_CASE("mutex: WH_LOCKED holds it for the block and unlocks however the block is left")
{
    in_run([] {
        wh_mutex mutex = {};
        int ran = 0;
        WH_LOCKED(&mutex)
        {
            ran++;
            CHECK(mutex.holder == wh_self());
        }
        CHECK(ran == 1);
        CHECK(!mutex.holder);
        for (int i = 0; i < 2; i++)
            WH_LOCKED(&mutex)
            {
                ran++;
                break; /* leaves the block, not the loop */
            }
        CHECK(ran == 3);
        CHECK(!mutex.holder);
        WH_LOCKED(&mutex)
        {
            ran++;
            continue;
        }
        CHECK(ran == 4);
        CHECK(!mutex.holder);
        CHECK(return_from_locked(&mutex) == 1);
        CHECK(!mutex.holder);
        CHECK(goto_from_locked(&mutex) == 3);
        CHECK(!mutex.holder);
        try {
            WH_LOCKED(&mutex)
            {
                throw 7;
            }
        } catch (int) {
            ran++;
        }
        CHECK(ran == 5);
        CHECK(!mutex.holder);
    });
}

TEST_CASE("mutex: WH_LOCKED waits in its turn, whatever deadline and cancel say")
{
    in_run([] {
        Turns turn;
        wh_mutex mutex = {};
        Ints order;
        int rc = wh_mutex_lock(&mutex);
        CHECK(rc == 0);
        wh_coro *first = spawn([&] {
            WH_WITH_TIMEOUT(WH_HOUR)
            {
                (void)wh_sleep(1); /* so that the timer is armed */
                WH_LOCKED(&mutex)
                {
                    order.push_back(1);
                    CHECK(mutex.holder == wh_self());
                }
                int next = wh_sleep(WH_HOUR);
                CHECK(next == -ECANCELED);
            }
        });
        while (!is_parked(first) || coro_waits_for(first) != std::string("mutex lock"))
            turn(1);
        wh_coro *second = spawn([&] {
            WH_LOCKED(&mutex)
            {
                order.push_back(2);
            }
        });
        turn(1);
        race::pass_deadline(first);
        turn(3);
        wh_cancel(first);
        turn(3);
        CHECK(is_parked(first));
        CHECK(order.empty());
        wh_mutex_unlock(&mutex);
        join(first);
        join(second);
        CHECK(order == Ints{1, 2});
    });
}

/* ---- Conditions ---- */

TEST_CASE("cond: signal, broadcast, deadline and cancel in every order: one outcome each")
{
    for (bool broadcast : {false, true}) {
        steps::all<CondFixture>(1, {{SERVE, 0}, {CANCEL, 0}, {TIMER, 0}, {DEADLINE, 0}, {CTX, 0}},
                                broadcast);
        steps::all<CondFixture>(3, {{SERVE, 0}, {SERVE, 1}, {CANCEL, 0}, {TIMER, 1}}, broadcast);
        steps::all<CondFixture>(2, {{SERVE, 0}, {DEADLINE, 0}, {CTX, 0}, {CANCEL, 1}}, broadcast);
    }
}

TEST_CASE("cond: without waiters a signal does nothing, and is not kept")
{
    in_run([] {
        Turns turn;
        wh_mutex mutex = {};
        wh_cond cond = {};
        wh_cond_signal(&cond);
        wh_cond_broadcast(&cond);
        int rc = 1;
        wh_coro *waiter = spawn([&] {
            WH_LOCKED(&mutex)
            {
                rc = wh_cond_wait(&cond, &mutex);
            }
        });
        turn(2);
        CHECK(is_parked(waiter));
        CHECK(!mutex.holder); /* it has been unlocked for the wait */
        wh_cond_signal(&cond);
        join(waiter);
        CHECK(rc == 0);
    });
}

TEST_CASE("cond: a signal wakes the one that has waited longest, a broadcast all in order")
{
    in_run([] {
        Turns turn;
        wh_mutex mutex = {};
        wh_cond cond = {};
        Ints order;
        std::vector<wh_coro *> coros;
        for (int i = 0; i < 6; i++)
            coros.push_back(spawn([&, i] {
                WH_LOCKED(&mutex)
                {
                    wh_cond_wait(&cond, &mutex);
                    order.push_back(i);
                }
            }));
        turn(1);
        wh_cond_signal(&cond);
        turn(1);
        CHECK(order == Ints{0});
        wh_cond_signal(&cond);
        wh_cond_signal(&cond);
        turn(1);
        CHECK(order == Ints{0, 1, 2});
        wh_cond_broadcast(&cond);
        turn(1);
        CHECK(order == Ints{0, 1, 2, 3, 4, 5});
        for (wh_coro *coro : coros)
            join(coro);
    });
}

TEST_CASE("cond: the mutex is held again after a signal, a deadline and a cancel, however long "
          "another has it")
{
    in_run([] {
        Turns turn;
        for (int how = 0; how < 3; how++) {
            wh_mutex mutex = {};
            wh_cond cond = {};
            int rc = 1;
            bool held = false;
            wh_coro *waiter = spawn([&] {
                WH_WITH_TIMEOUT(WH_HOUR)
                WH_LOCKED(&mutex)
                {
                    rc = wh_cond_wait(&cond, &mutex);
                    held = mutex.holder == wh_self();
                }
            });
            turn(1);
            int locked = wh_mutex_lock(&mutex);
            CHECK(locked == 0);
            if (how == 0)
                wh_cond_signal(&cond);
            else if (how == 1)
                race::pass_deadline(waiter);
            else
                wh_cancel(waiter);
            turn(3);
            CHECK(is_parked(waiter)); /* for the mutex now */
            CHECK(mutex.holder == wh_self());
            /* Nothing ends that wait, and what comes now does not change the result. */
            race::pass_deadline(waiter);
            wh_cancel(waiter);
            turn(3);
            CHECK(is_parked(waiter));
            wh_mutex_unlock(&mutex);
            join(waiter);
            CHECK(held);
            CHECK(rc == (how == 0 ? 0 : how == 1 ? -ETIMEDOUT : -ECANCELED));
        }
    });
}

TEST_CASE("cond: in a context that has ended the wait fails and the mutex is not let go")
{
    in_run([] {
        wh_mutex mutex = {};
        wh_cond cond = {};
        bool got = false, failed = false;
        WH_LOCKED(&mutex)
        {
            wh_coro *other = spawn([&] {
                WH_LOCKED(&mutex)
                {
                    got = true;
                }
            });
            wh_yield();
            failed = fails_when_ended([&] { return wh_cond_wait(&cond, &mutex); });
            CHECK(mutex.holder == wh_self());
            CHECK(!got);
            wh_detach(other);
        }
        CHECK(failed);
        wh_yield();
        CHECK(got);
    });
}

TEST_CASE("cond: a queue of one slot between several producers and consumers loses nothing")
{
    in_run([] {
        wh_mutex mutex = {};
        wh_cond changed = {};
        int slot = 0, taken = 0, sum = 0;
        std::vector<wh_coro *> coros;
        for (int p = 0; p < 4; p++)
            coros.push_back(spawn([&] {
                for (int i = 1; i <= 50; i++)
                    WH_LOCKED(&mutex)
                    {
                        while (slot)
                            wh_cond_wait(&changed, &mutex);
                        slot = i;
                        wh_cond_broadcast(&changed);
                    }
            }));
        for (int c = 0; c < 2; c++)
            coros.push_back(spawn([&] {
                for (int i = 0; i < 100; i++)
                    WH_LOCKED(&mutex)
                    {
                        while (!slot)
                            wh_cond_wait(&changed, &mutex);
                        sum += slot;
                        taken++;
                        slot = 0;
                        wh_cond_broadcast(&changed);
                    }
            }));
        for (wh_coro *coro : coros)
            join(coro);
        CHECK(taken == 200);
        CHECK(sum == 4 * 50 * 51 / 2);
    });
}
