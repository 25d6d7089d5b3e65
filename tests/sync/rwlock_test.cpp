/*
 * rwlock_test.cpp: many readers or one writer, in the order of coming.
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

/* Each serve is an unlock by one that holds the lock as `holders` says, 'r' or 'w'; `kinds` says
 * how the waiters want it. */
struct RwlockFixture : steps::Fixture {
    wh_rwlock lock = {};
    std::string holders, kinds;
    int writers = 0, readers = 0; /* the model's */

    RwlockFixture(const char *held, const char *wanted) : holders(held), kinds(wanted)
    {
    }
    bool writes(int who) const
    {
        return kinds[static_cast<size_t>(who)] == 'w';
    }
    bool holder_writes(int which) const
    {
        return holders[static_cast<size_t>(which)] == 'w';
    }
    void unlock(bool write)
    {
        if (write)
            wh_rwlock_write_unlock(&lock);
        else
            wh_rwlock_read_unlock(&lock);
    }
    int call(int who) override
    {
        return writes(who) ? wh_rwlock_write_lock(&lock) : wh_rwlock_read_lock(&lock);
    }
    void give_back(int who) override
    {
        unlock(writes(who));
    }
    bool next_fails() const override
    {
        return lock.writer;
    }
    void prepare(int which) override
    {
        int rc =
            holder_writes(which) ? wh_rwlock_try_write_lock(&lock) : wh_rwlock_try_read_lock(&lock);
        CHECK(rc == 0);
        (holder_writes(which) ? writers : readers)++;
    }
    void serve(int which) override
    {
        unlock(holder_writes(which));
    }
    void unserved(int which) override
    {
        unlock(holder_writes(which));
    }
    Who admit_model() override
    {
        Who in;
        while (!waiting.empty() && !writers && (!writes(waiting.front()) || !readers)) {
            in.push_back(steps::take_first(waiting));
            (writes(in.back()) ? writers : readers)++;
        }
        return in;
    }
    Who serve_model(int which) override
    {
        (holder_writes(which) ? writers : readers)--;
        return readers ? Who{} : admit_model(); /* what changes nothing lets nobody in */
    }
    std::string wrong() override
    {
        if (static_cast<int>(lock.readers) != readers)
            return "readers: " + std::to_string(lock.readers);
        return !lock.writer == !writers ? "" : "the writer is not as it should be";
    }
    std::string wrong_at_end() override
    {
        return lock.writer || lock.readers ? "it is still locked" : "";
    }
};

/* Coroutines that lock it, and what they did in which order. */
struct Several {
    wh_rwlock lock = {};
    std::string log; /* "r0 " when 0 has got it for reading, "-0 " when it let go */
    std::vector<wh_coro *> coros;
    std::vector<std::unique_ptr<wh_event>> go;

    void come(char kind)
    {
        int who = static_cast<int>(coros.size());
        go.push_back(std::make_unique<wh_event>());
        coros.push_back(spawn([this, kind, who] {
            const std::string name = std::to_string(who) + " ";
            int rc = kind == 'w' ? wh_rwlock_write_lock(&lock) : wh_rwlock_read_lock(&lock);
            if (rc < 0) {
                log += "!" + name;
                return;
            }
            log += kind + name;
            wh_event_wait(go[static_cast<size_t>(who)].get());
            log += "-" + name;
            if (kind == 'w')
                wh_rwlock_write_unlock(&lock);
            else
                wh_rwlock_read_unlock(&lock);
        }));
        wh_yield();
    }
    void leave(size_t who)
    {
        wh_event_set(go[who].get());
        for (int i = 0; i < 4; i++)
            wh_yield();
    }
    std::string said()
    {
        return std::exchange(log, "");
    }
    void end()
    {
        for (size_t i = 0; i < coros.size(); i++)
            wh_event_set(go[i].get());
        for (wh_coro *coro : coros)
            join(coro);
        CHECK(!lock.writer);
        CHECK(lock.readers == 0);
    }
};

} // namespace

TEST_CASE("rwlock: unlock, deadline and cancel of one that waits, in every order")
{
    for (const char *held : {"r", "w"})
        for (const char *wanted : {"w", "r"})
            if (held[0] == 'w' || wanted[0] == 'w')
                steps::all<RwlockFixture>(
                    1, {{SERVE, 0}, {CANCEL, 0}, {TIMER, 0}, {DEADLINE, 0}, {CTX, 0}}, held,
                    wanted);
}

TEST_CASE("rwlock: a first waiter that is interrupted lets in those behind it, in every order")
{
    for (const char *wanted : {"wrr", "wrw", "wwr"}) {
        steps::all<RwlockFixture>(3, {{SERVE, 0}, {CANCEL, 0}, {TIMER, 1}, {DEADLINE, 0}}, "r",
                                  wanted);
        steps::all<RwlockFixture>(3, {{SERVE, 0}, {SERVE, 1}, {TIMER, 0}, {CANCEL, 2}}, "rr",
                                  wanted);
    }
    for (const char *wanted : {"rwr", "wrr", "rrw"})
        steps::all<RwlockFixture>(3, {{SERVE, 0}, {CANCEL, 0}, {DEADLINE, 1}, {TIMER, 2}}, "w",
                                  wanted);
    steps::all<RwlockFixture>(3, {{SERVE, 0}, {CTX, 0}, {CANCEL, 1}, {DEADLINE, 0}}, "r", "wrr");
}

TEST_CASE("rwlock: readers share it, a writer has it alone")
{
    in_run([] {
        Several several;
        several.come('r');
        several.come('r');
        several.come('r');
        CHECK(several.said() == "r0 r1 r2 ");
        several.come('w');
        CHECK(several.said().empty());
        several.leave(1);
        several.leave(0);
        CHECK(several.said() == "-1 -0 ");
        several.leave(2);
        CHECK(several.said() == "-2 w3 ");
        CHECK(several.lock.writer == several.coros[3]);
        several.come('r');
        several.come('w');
        CHECK(several.said().empty());
        several.end();
    });
}

TEST_CASE("rwlock: who comes while a writer waits, waits behind it: readers cannot starve it")
{
    in_run([] {
        Several several;
        several.come('r');
        several.come('w');
        several.come('r');
        CHECK(several.said() == "r0 ");
        CHECK(wh_rwlock_try_read_lock(&several.lock) == -EBUSY);
        several.leave(0);
        CHECK(several.said() == "-0 w1 ");
        several.leave(1);
        CHECK(several.said() == "-1 r2 ");
        several.end();
    });
}

TEST_CASE("rwlock: when a writer leaves, the readers up to the next writer enter together")
{
    in_run([] {
        Several several;
        several.come('w');
        several.come('r');
        several.come('r');
        several.come('w');
        several.come('r');
        several.come('w');
        CHECK(several.said() == "w0 ");
        several.leave(0);
        CHECK(several.said() == "-0 r1 r2 ");
        several.leave(2);
        CHECK(several.said() == "-2 ");
        several.leave(1);
        CHECK(several.said() == "-1 w3 ");
        several.leave(3);
        CHECK(several.said() == "-3 r4 ");
        several.leave(4);
        CHECK(several.said() == "-4 w5 ");
        several.end();
    });
}

TEST_CASE("rwlock: a writer that gives up lets in the readers behind it, while others read")
{
    in_run([] {
        Several several;
        several.come('r');
        several.come('w');
        several.come('r');
        several.come('r');
        several.come('w');
        CHECK(several.said() == "r0 ");
        wh_cancel(several.coros[1]);
        wh_yield();
        wh_yield();
        CHECK(several.said() == "!1 r2 r3 ");
        CHECK(several.lock.readers == 3);
        several.end();
    });
}

TEST_CASE("rwlock: the try forms do not wait, and do not overtake")
{
    in_run([] {
        wh_rwlock lock;
        memset(&lock, 0, sizeof lock);
        CHECK(wh_rwlock_try_read_lock(&lock) == 0);
        CHECK(wh_rwlock_try_read_lock(&lock) == 0);
        CHECK(wh_rwlock_try_write_lock(&lock) == -EBUSY);
        CHECK(lock.readers == 2);
        wh_rwlock_read_unlock(&lock);
        wh_rwlock_read_unlock(&lock);
        CHECK(wh_rwlock_try_write_lock(&lock) == 0);
        CHECK(wh_rwlock_try_write_lock(&lock) == -EBUSY);
        CHECK(wh_rwlock_try_read_lock(&lock) == -EBUSY);
        CHECK(lock.writer == wh_self());
        wh_rwlock_write_unlock(&lock);
        CHECK(!lock.writer);
    });
}

TEST_CASE("rwlock: a free one is locked in a context that has ended, a held one is not")
{
    in_run([] {
        wh_rwlock lock = {};
        int got = 0;
        WH_WITH_TIMEOUT(0)
        {
            int rc = wh_rwlock_read_lock(&lock);
            got += rc == 0;
            rc = wh_rwlock_read_lock(&lock); /* a reader does not hold up a reader */
            got += rc == 0;
            wh_rwlock_read_unlock(&lock);
            wh_rwlock_read_unlock(&lock);
            rc = wh_rwlock_write_lock(&lock);
            got += rc == 0;
        }
        CHECK(got == 3);
        intptr_t failed = join(spawn([&] {
            return fails_when_ended([&] { return wh_rwlock_read_lock(&lock); }) &&
                   fails_when_ended([&] { return wh_rwlock_write_lock(&lock); });
        }));
        CHECK(failed);
        CHECK(lock.readers == 0);
        wh_rwlock_write_unlock(&lock);
        got = wh_rwlock_try_read_lock(&lock);
        CHECK(got == 0);
        failed = join(
            spawn([&] { return fails_when_ended([&] { return wh_rwlock_write_lock(&lock); }); }));
        CHECK(failed);
        wh_rwlock_read_unlock(&lock);
        CHECK(!lock.writer);
    });
}

TEST_CASE("rwlock: misuse aborts with the coroutine's name")
{
    CHECK(aborts(
        [] {
            wh_rwlock lock = {};
            wh_rwlock_read_unlock(&lock);
        },
        "wh_rwlock_read_unlock: a coroutine unlocks a rwlock that nobody reads"));
    CHECK(aborts(
        [] {
            wh_rwlock lock = {};
            wh_rwlock_write_unlock(&lock);
        },
        "wh_rwlock_write_unlock: a coroutine unlocks a rwlock that it does not write"));
    CHECK(aborts(
        [] {
            wh_rwlock lock = {};
            (void)!wh_rwlock_try_write_lock(&lock);
            wh_rwlock_read_unlock(&lock);
        },
        "nobody reads"));
    CHECK(aborts(
        [] {
            wh_rwlock lock = {};
            (void)!wh_rwlock_try_read_lock(&lock);
            wh_rwlock_write_unlock(&lock);
        },
        "does not write"));
    CHECK(aborts(
        [] {
            wh_rwlock lock = {};
            start([&] { (void)!wh_rwlock_try_write_lock(&lock); });
            wh_yield();
            wh_rwlock_write_unlock(&lock);
        },
        "does not write"));
    CHECK(aborts(
        [] {
            wh_rwlock lock = {};
            (void)!wh_rwlock_write_lock(&lock);
            (void)!wh_rwlock_write_lock(&lock);
        },
        "wh_rwlock_write_lock: a coroutine locks a rwlock that it holds for writing"));
    CHECK(aborts(
        [] {
            wh_rwlock lock = {};
            (void)!wh_rwlock_write_lock(&lock);
            (void)!wh_rwlock_read_lock(&lock);
        },
        "wh_rwlock_read_lock: a coroutine locks a rwlock that it holds for writing"));
}
