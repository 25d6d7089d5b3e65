/*
 * ctx_test.cpp: contexts: what ends with what, and why; blocks, shields, values.
 * (ctx_sweep_test.cpp: functions for afterwards, and cancelling large trees.)
 */
#include "tests/sched/in_run.hpp"
#include "tests/sched/race.hpp"

#include <catch2/catch_test_macros.hpp>

#include <vector>

namespace
{

bool is_parked(const wh_coro *coro)
{
    return coro->state == CORO_PARKED;
}

/* What the next call says. */
int next_call()
{
    return wh_sleep(1);
}

wh_ctx *made(wh_ctx *ctx)
{
    CHECK(ctx != nullptr);
    return ctx;
}

char key_a, key_b;
int value_1, value_2;

} // namespace

/* ---- The tree ---- */

TEST_CASE("ctx: cancelling one ends it and all below it, and nothing above or beside")
{
    in_run([] {
        wh_ctx *root = made(wh_ctx_create(wh_ctx_background()));
        wh_ctx *left = made(wh_ctx_create(root));
        wh_ctx *right = made(wh_ctx_create(root));
        wh_ctx *leaf = made(wh_ctx_create(left));
        CHECK(wh_ctx_err(leaf) == 0);
        CHECK(wh_ctx_cause(leaf) == 0);
        wh_ctx_cancel(left, -EDQUOT);
        CHECK(wh_ctx_err(left) == -ECANCELED);
        CHECK(wh_ctx_err(leaf) == -ECANCELED);
        CHECK(wh_ctx_cause(leaf) == -EDQUOT);
        CHECK(wh_ctx_err(root) == 0);
        CHECK(wh_ctx_err(right) == 0);
        wh_ctx_cancel(root, -EIO);
        CHECK(wh_ctx_cause(root) == -EIO);
        CHECK(wh_ctx_cause(right) == -EIO);
        CHECK(wh_ctx_cause(left) == -EDQUOT); /* the nearest that was cancelled; the first stays */
        CHECK(wh_ctx_cause(leaf) == -EDQUOT);
        wh_ctx_cancel(left, -EPERM);
        CHECK(wh_ctx_cause(left) == -EDQUOT);
        for (wh_ctx *ctx : {root, left, right, leaf})
            wh_ctx_destroy(ctx);
    });
}

TEST_CASE("ctx: a child of one that has ended has ended, with the same cause")
{
    in_run([] {
        wh_ctx *root = made(wh_ctx_create(wh_ctx_background()));
        wh_ctx_cancel(root, -EDQUOT);
        wh_ctx *child = made(wh_ctx_create(root));
        CHECK(wh_ctx_err(child) == -ECANCELED);
        CHECK(wh_ctx_cause(child) == -EDQUOT);
        WH_WITH_CTX(child)
        {
            CHECK(wh_ctx_err(nullptr) == -ECANCELED);
            CHECK(wh_ctx_cause(nullptr) == -EDQUOT);
        }
        wh_ctx_destroy(child);
        wh_ctx_destroy(root);
    });
}

TEST_CASE("ctx: a cause that is no error is -ECANCELED")
{
    in_run([] {
        for (int cause : {0, 1, EDQUOT}) {
            wh_ctx *ctx = made(wh_ctx_create(nullptr));
            wh_ctx_cancel(ctx, cause);
            CHECK(wh_ctx_cause(ctx) == -ECANCELED);
            wh_ctx_destroy(ctx);
        }
    });
}

TEST_CASE("ctx: the background never ends and is not counted; NULL is the ambient one")
{
    in_run([] {
        wh_ctx *background = wh_ctx_background();
        wh_ctx_cancel(background, -EIO);
        wh_ctx_cancel(nullptr, -EIO); /* the ambient one is the background here */
        CHECK(wh_ctx_err(background) == 0);
        CHECK(wh_ctx_cause(background) == 0);
        CHECK(wh_ctx_deadline(background) == WH_NEVER);
        CHECK(wh_ctx_value(background, &key_a) == nullptr);
        CHECK(wh_ctx_ref(background) == background);
        for (int i = 0; i < 3; i++)
            wh_ctx_unref(background);
        wh_ctx_destroy(background);
        wh_ctx_destroy(nullptr);
        wh_ctx_unref(nullptr);
        CHECK(wh_ctx_err(nullptr) == 0);
        int rc = next_call();
        CHECK(rc == 0);

        WH_WITH_CANCEL(ctx)
        {
            wh_ctx_cancel(nullptr, -EIO);
            CHECK(wh_ctx_cause(ctx) == -EIO);
            wh_ctx *free_one = made(wh_ctx_create(background));
            CHECK(wh_ctx_err(free_one) == 0);
            wh_ctx_destroy(free_one);
        }
        WH_WITH_CTX(background)
        WH_WITH_CTX(nullptr)
        {
            rc = next_call();
            CHECK(rc == 0);
        }
    });
}

TEST_CASE("ctx: of the ambient one err and cause say what the next call would, wh_cancel included")
{
    in_run([] {
        WH_WITH_TIMEOUT(0)
        {
            CHECK(wh_ctx_err(nullptr) == -ETIMEDOUT);
            CHECK(wh_ctx_cause(nullptr) == -ETIMEDOUT);
            WH_WITH_CANCEL(ctx)
            {
                CHECK(wh_ctx_err(ctx) == -ETIMEDOUT);
                CHECK(wh_ctx_deadline(ctx) <= wh_now());
            }
        }
        CHECK(wh_ctx_err(nullptr) == 0);
        wh_coro *coro = spawn([] {
            wh_cancel(wh_self());
            CHECK(wh_ctx_err(nullptr) == -ECANCELED);
            CHECK(wh_ctx_cause(nullptr) == -ECANCELED);
            WH_WITH_TIMEOUT(0)
            {
                CHECK(wh_ctx_err(nullptr) == -ECANCELED); /* both have come */
            }
            WH_WITH_CANCEL(ctx)
            {
                CHECK(wh_ctx_err(ctx) == -ECANCELED);
            }
        });
        join(coro);
    });
}

TEST_CASE("ctx: a handle given back does not cancel, destroying does; blocks hold for themselves")
{
    in_run([] {
        wh_ctx *ctx = made(wh_ctx_create(nullptr));
        wh_ctx *child = made(wh_ctx_create(ctx));
        CHECK(wh_ctx_ref(ctx) == ctx);
        wh_ctx_unref(ctx);
        wh_ctx_unref(ctx); /* the last handle; the child holds it */
        CHECK(wh_ctx_err(child) == 0);
        wh_ctx_ref(child);
        int rc = 1;
        wh_coro *coro = nullptr;
        WH_WITH_CTX(child)
        {
            coro = spawn([&] { rc = wh_sleep(WH_HOUR); });
        }
        wh_yield();
        CHECK(is_parked(coro));
        wh_ctx_destroy(child);
        CHECK(wh_ctx_err(child) == -ECANCELED); /* one handle is left */
        wh_ctx_unref(child);
        join(coro);
        CHECK(rc == -ECANCELED);

        WH_WITH_CTX(ctx = made(wh_ctx_create(nullptr)))
        {
            wh_ctx_unref(ctx);
            wh_ctx_cancel(nullptr, -EIO);
            CHECK(wh_ctx_cause(nullptr) == -EIO);
        }
    });
}

/* ---- Deadlines ---- */

TEST_CASE("ctx: a child's deadline is never later than its parent's")
{
    in_run([] {
        const int64_t now = wh_now();
        wh_ctx *parent = made(wh_ctx_create_deadline(wh_ctx_background(), now + WH_HOUR));
        CHECK(wh_ctx_deadline(parent) == now + WH_HOUR);
        wh_ctx *later = made(wh_ctx_create_deadline(parent, now + 2 * WH_HOUR));
        wh_ctx *sooner = made(wh_ctx_create_deadline(parent, now + WH_MINUTE));
        wh_ctx *plain = made(wh_ctx_create(sooner));
        wh_ctx *with_value = made(wh_ctx_create_value(sooner, &key_a, &value_1));
        wh_ctx *timeout = made(wh_ctx_create_timeout(parent, WH_SECOND));
        CHECK(wh_ctx_deadline(later) == now + WH_HOUR);
        CHECK(wh_ctx_deadline(sooner) == now + WH_MINUTE);
        CHECK(wh_ctx_deadline(plain) == now + WH_MINUTE);
        CHECK(wh_ctx_deadline(with_value) == now + WH_MINUTE);
        CHECK(wh_ctx_deadline(timeout) >= now + WH_SECOND);
        CHECK(wh_ctx_deadline(timeout) < now + WH_MINUTE);
        wh_ctx *passed = made(wh_ctx_create_timeout(parent, 0));
        CHECK(wh_ctx_err(passed) == -ETIMEDOUT);
        CHECK(wh_ctx_cause(passed) == -ETIMEDOUT);
        wh_ctx_cancel(passed, -EIO); /* has ended: does nothing */
        CHECK(wh_ctx_err(passed) == -ETIMEDOUT);
        wh_ctx *below = made(wh_ctx_create(passed));
        CHECK(wh_ctx_err(below) == -ETIMEDOUT);
        WH_WITH_DEADLINE(now + WH_HOUR)
        {
            wh_ctx *ambient = made(wh_ctx_create(nullptr));
            CHECK(wh_ctx_deadline(ambient) == now + WH_HOUR);
            wh_ctx *from_background = made(wh_ctx_create(wh_ctx_background()));
            CHECK(wh_ctx_deadline(from_background) == WH_NEVER);
            CHECK(wh_ctx_deadline(nullptr) == now + WH_HOUR);
            WH_WITH_CTX(sooner)
            {
                CHECK(wh_deadline() == now + WH_MINUTE);
                CHECK(wh_ctx_deadline(nullptr) == now + WH_MINUTE);
                WH_WITH_CTX(parent)
                {
                    CHECK(wh_deadline() == now + WH_MINUTE); /* blocks around still count */
                }
            }
            CHECK(wh_deadline() == now + WH_HOUR);
            wh_ctx_destroy(ambient);
            wh_ctx_destroy(from_background);
        }
        for (wh_ctx *ctx : {parent, later, sooner, plain, with_value, timeout, passed, below})
            wh_ctx_destroy(ctx);
    });
}

TEST_CASE("ctx: a wait ends with -ETIMEDOUT when its context's deadline passes, never before")
{
    in_run([] {
        int64_t deadline = wh_now() + 3 * WH_MILLISECOND, woke = 0;
        wh_ctx *ctx = made(wh_ctx_create_deadline(nullptr, deadline));
        int rc = 1, err = 1;
        WH_WITH_CTX(ctx)
        {
            rc = wh_sleep(WH_HOUR);
            woke = wh_now();
            err = wh_ctx_err(nullptr);
        }
        CHECK(rc == -ETIMEDOUT);
        CHECK(err == -ETIMEDOUT);
        CHECK(woke >= deadline);
        CHECK(wh_ctx_err(ctx) == -ETIMEDOUT);
        wh_ctx_destroy(ctx);
    });
}

TEST_CASE("ctx: contexts with deadlines around operations that finish in time cost no operation of "
          "the ring and no timer")
{
    in_run([] {
        wh_event event = {};
        wh_event_set(&event);
        wh_stats before, after;
        int failed = 0;
        wh_stats_get(&before);
        for (int i = 0; i < 1000; i++) {
            wh_ctx *ctx = wh_ctx_create_timeout(nullptr, WH_SECOND);
            WH_WITH_CTX(ctx)
            WH_WITH_TIMEOUT(WH_MILLISECOND * 500)
            {
                failed += wh_event_wait(&event) != 0;
            }
            wh_ctx_destroy(ctx);
        }
        wh_stats_get(&after);
        CHECK(failed == 0);
        CHECK(after.ring_submissions == before.ring_submissions);
        CHECK(after.ring_enters == before.ring_enters);
        CHECK(after.timers_armed == before.timers_armed);

        FdPair pair = socket_pair();
        wh_stats_get(&before);
        for (int i = 0; i < 100; i++) {
            char byte = 'x';
            WH_WITH_TIMEOUT(WH_SECOND)
            {
                failed += wh_send(pair.a, &byte, 1, 0) != 1;
                failed += wh_recv(pair.b, &byte, 1, 0) != 1;
            }
        }
        wh_stats_get(&after);
        uint64_t with = after.ring_submissions - before.ring_submissions;
        wh_stats_get(&before);
        for (int i = 0; i < 100; i++) {
            char byte = 'x';
            failed += wh_send(pair.a, &byte, 1, 0) != 1;
            failed += wh_recv(pair.b, &byte, 1, 0) != 1;
        }
        wh_stats_get(&after);
        CHECK(failed == 0);
        CHECK(with == after.ring_submissions - before.ring_submissions);
        CHECK(after.ring_cancels == 0);
    });
}

/* ---- Members ---- */

TEST_CASE("ctx: what is started in a block is in its context, and stays when the block has ended")
{
    in_run([] {
        wh_ctx *ctx = made(wh_ctx_create(nullptr));
        std::vector<int> rcs;
        auto wait = [&] { rcs.push_back(wh_sleep(WH_HOUR)); };
        wh_coro *in_block = nullptr, *in_child = nullptr;
        wh_coro *outside = spawn(wait);
        WH_WITH_CTX(ctx)
        {
            in_block = spawn([&] {
                in_child = spawn(wait);
                wait();
            });
            wh_yield();
        }
        wh_yield();
        CHECK(is_parked(in_block));
        CHECK(is_parked(in_child));
        wh_ctx_cancel(ctx, 0);
        join(in_block);
        join(in_child);
        CHECK(rcs == std::vector<int>{-ECANCELED, -ECANCELED});
        CHECK(is_parked(outside));
        wh_cancel(outside);
        join(outside);
        wh_ctx_destroy(ctx);
    });
}

TEST_CASE("ctx: cancelling ends a wait of each kind, one that has not run and one that is runnable")
{
    in_run([] {
        Turns turn;
        wh_ctx *ctx = made(wh_ctx_create(nullptr));
        FdPair pair = socket_pair();
        wh_event event = {};
        int rcs[6] = {};
        std::vector<wh_coro *> coros;
        WH_WITH_CTX(ctx)
        {
            coros.push_back(spawn([&] { rcs[0] = wh_sleep(WH_HOUR); }));
            coros.push_back(spawn([&] { rcs[1] = wh_event_wait(&event); }));
            coros.push_back(spawn([&] {
                char byte;
                rcs[2] = static_cast<int>(wh_recv(pair.a, &byte, 1, 0));
            }));
            coros.push_back(spawn([&] { rcs[3] = wh_join(coros[0], nullptr); }));
            turn(2);
            coros.push_back(spawn([&] {
                wh_yield();
                rcs[4] = wh_sleep(WH_HOUR);
            }));
            wh_yield(); /* outside of the context all this would be too late */
            coros.push_back(spawn([&] { rcs[5] = wh_sleep(WH_HOUR); }));
        }
        wh_ctx_cancel(ctx, 0);
        for (size_t i = 1; i < coros.size(); i++)
            join(coros[i]);
        join(coros[0]);
        for (int rc : rcs)
            CHECK(rc == -ECANCELED);
        wh_ctx_destroy(ctx);
    });
}

TEST_CASE("ctx: a result that is there beats the cancel, and the next call fails")
{
    in_run([] {
        wh_ctx *ctx = made(wh_ctx_create(nullptr));
        wh_event event = {};
        int first = 1, second = 1;
        wh_coro *coro = nullptr;
        WH_WITH_CTX(ctx)
        {
            coro = spawn([&] {
                first = wh_event_wait(&event);
                second = wh_event_wait(&event); /* it is set, but the context has ended */
            });
        }
        wh_yield();
        wh_event_set(&event);
        wh_ctx_cancel(ctx, 0);
        join(coro);
        CHECK(first == 0);
        CHECK(second == -ECANCELED);
        wh_ctx_destroy(ctx);
    });
}

TEST_CASE("ctx: wh_cancel and wh_ctx_cancel of the same wait in any order: one outcome, once")
{
    in_run([] {
        for (int how = 0; how < 4; how++) {
            wh_ctx *ctx = made(wh_ctx_create(nullptr));
            wh_coro *coro = nullptr;
            int rc = 1, next = 1;
            WH_WITH_CTX(ctx)
            {
                coro = spawn([&] {
                    rc = wh_sleep(WH_HOUR);
                    next = wh_sleep(WH_HOUR);
                });
            }
            wh_yield();
            if (how & 1)
                wh_cancel(coro);
            wh_ctx_cancel(ctx, -EIO);
            if (!(how & 1))
                wh_cancel(coro);
            if (how & 2)
                wh_ctx_destroy(ctx); /* before the waiter has run */
            join(coro);
            CHECK(rc == -ECANCELED);
            CHECK(next == -ECANCELED);
            if (!(how & 2))
                wh_ctx_destroy(ctx);
        }
    });
}

/* ---- Blocks ---- */

TEST_CASE("ctx: the end of WH_WITH_CANCEL cancels what it started, however it is left")
{
    in_run([] {
        int ended = 0;
        auto wait = [&ended] { ended += wh_sleep(WH_HOUR) == -ECANCELED; };
        auto by_return = [&] {
            WH_WITH_CANCEL(ctx)
            {
                start(wait);
                wh_yield();
                if (ctx)
                    return;
            }
        };
        WH_WITH_CANCEL(ctx)
        {
            CHECK(wh_ctx_err(ctx) == 0);
            start(wait);
            wh_yield();
        }
        wh_yield();
        CHECK(ended == 1);
        for (int i = 0; i < 2; i++)
            WH_WITH_CANCEL(ctx)
            {
                start(wait);
                wh_yield();
                if (ctx)
                    break;
            }
        by_return();
        wh_yield();
        CHECK(ended == 4);
        WH_WITH_CANCEL(ctx)
        {
            start(wait);
            wh_yield();
            if (ctx)
                goto out;
        }
    out:
        wh_yield();
        CHECK(ended == 5);
        CHECK(wh_ctx_err(nullptr) == 0);
        CHECK(wh_self()->ctx == nullptr);
    });
}

TEST_CASE("ctx: in WH_WITH_CTX the blocks around it count, too, whichever ends")
{
    in_run([] {
        for (int which = 0; which < 3; which++) {
            wh_ctx *foreign = made(wh_ctx_create(wh_ctx_background()));
            wh_ctx *around = nullptr;
            int own = 1, inherited = 1, after = 1, cause = 0;
            wh_coro *inner = nullptr;
            wh_coro *coro = spawn([&] {
                WH_WITH_CANCEL(ctx)
                {
                    around = ctx;
                    WH_WITH_CTX(foreign)
                    {
                        inner = spawn([&] { inherited = wh_sleep(WH_HOUR); });
                        own = wh_sleep(WH_HOUR);
                        cause = wh_ctx_cause(nullptr);
                    }
                    after = wh_sleep(1);
                }
            });
            wh_yield();
            wh_yield();
            if (which == 0)
                wh_ctx_cancel(foreign, -EDQUOT);
            else if (which == 1)
                wh_ctx_cancel(around, -EIO);
            else {
                wh_ctx_cancel(around, -EIO);
                wh_ctx_cancel(foreign, -EDQUOT);
            }
            join(coro);
            join(inner);
            CHECK(own == -ECANCELED);
            CHECK(inherited == -ECANCELED);
            CHECK(cause == (which == 0 ? -EDQUOT : -EIO));
            CHECK(after == (which == 0 ? 0 : -ECANCELED));
            wh_ctx_destroy(foreign);
        }
    });
}

TEST_CASE("ctx: WH_WITH_CTX under blocks that have ended, of one that has, and of one above")
{
    in_run([] {
        wh_ctx *dead = made(wh_ctx_create(nullptr));
        wh_ctx *alive = made(wh_ctx_create(nullptr));
        wh_ctx_cancel(dead, -EDQUOT);
        WH_WITH_CTX(dead)
        {
            CHECK(wh_ctx_err(nullptr) == -ECANCELED);
            WH_WITH_CTX(alive)
            {
                CHECK(wh_ctx_err(nullptr) == -ECANCELED);
                CHECK(wh_ctx_cause(nullptr) == -EDQUOT);
                WH_WITH_CTX(wh_ctx_background())
                {
                    CHECK(wh_ctx_err(nullptr) == -ECANCELED);
                }
            }
        }
        CHECK(wh_ctx_err(nullptr) == 0);
        WH_WITH_CTX(alive)
        WH_WITH_CANCEL(below)
        {
            wh_ctx_cancel(below, -EIO);
            WH_WITH_CTX(alive) /* above: it does not bring us out of the one below */
            {
                CHECK(wh_ctx_err(nullptr) == -ECANCELED);
            }
            CHECK(wh_ctx_err(alive) == 0);
        }
        wh_ctx_destroy(dead);
        wh_ctx_destroy(alive);
    });
}

/* ---- Values ---- */

TEST_CASE("ctx: a value is found by its key's address, the nearest first, and through a shield")
{
    in_run([] {
        CHECK(wh_ctx_value(nullptr, &key_a) == nullptr);
        wh_ctx *outer = made(wh_ctx_create_value(nullptr, &key_a, &value_1));
        wh_ctx *plain = made(wh_ctx_create(outer));
        wh_ctx *inner = made(wh_ctx_create_value(plain, &key_a, &value_2));
        CHECK(wh_ctx_value(outer, &key_a) == &value_1);
        CHECK(wh_ctx_value(plain, &key_a) == &value_1);
        CHECK(wh_ctx_value(inner, &key_a) == &value_2);
        CHECK(wh_ctx_value(inner, &key_b) == nullptr);
        intptr_t seen = 0;
        WH_WITH_VALUE(&key_b, &value_2)
        {
            CHECK(wh_ctx_value(nullptr, &key_b) == &value_2);
            WH_WITH_CTX(plain)
            {
                CHECK(wh_ctx_value(nullptr, &key_a) == &value_1);
                CHECK(wh_ctx_value(nullptr, &key_b) == &value_2); /* of the block around */
            }
            WH_SHIELD
            {
                CHECK(wh_ctx_value(nullptr, &key_b) == &value_2);
                seen = join(spawn([] { return wh_ctx_value(nullptr, &key_b) == &value_2; }));
            }
        }
        CHECK(seen);
        CHECK(wh_ctx_value(nullptr, &key_b) == nullptr);
        for (wh_ctx *ctx : {outer, plain, inner})
            wh_ctx_destroy(ctx);
    });
}

/* ---- Shields ---- */

TEST_CASE("shield: in it nothing around counts, at its end all that came does")
{
    in_run([] {
        for (int how = 0; how < 6; how++) {
            int before = 1, in = 1, started_in = 1, after = 1;
            wh_coro *child = nullptr;
            wh_ctx *around = nullptr;
            wh_event come = {};
            wh_coro *coro = spawn([&] {
                WH_WITH_TIMEOUT(how == 2 || how == 5 ? 0 : WH_HOUR)
                WH_WITH_CANCEL(ctx)
                {
                    around = ctx;
                    if (how == 3)
                        wh_ctx_cancel(ctx, 0);
                    if (how == 4 || how == 5)
                        wh_cancel(wh_self());
                    before = wh_ctx_err(nullptr);
                    WH_SHIELD
                    {
                        CHECK(wh_ctx_err(nullptr) == 0);
                        CHECK(wh_deadline() == WH_NEVER);
                        child = spawn([&] { started_in = wh_event_wait(&come); });
                        in = wh_event_wait(&come);
                    }
                    after = wh_sleep(1);
                }
            });
            wh_yield();
            wh_yield();
            if (how == 0)
                wh_cancel(coro);
            if (how == 1)
                wh_ctx_cancel(around, -EIO);
            wh_yield();
            CHECK(is_parked(coro));
            wh_event_set(&come);
            join(coro);
            join(child);
            CHECK(before == (how < 2 ? 0 : how == 2 ? -ETIMEDOUT : -ECANCELED));
            CHECK(in == 0);
            CHECK(started_in == 0);
            CHECK(after == (how == 2 ? -ETIMEDOUT : -ECANCELED));
        }
    });
}

TEST_CASE("shield: shields nest: the end of an inner one does not let in what the outer keeps out")
{
    in_run([] {
        int rcs[4] = {1, 1, 1, 1};
        wh_coro *coro = spawn([&] {
            WH_SHIELD
            {
                wh_cancel(wh_self());
                WH_SHIELD
                {
                    rcs[0] = wh_sleep(1);
                }
                rcs[1] = wh_sleep(1);
                WH_SHIELD
                {
                    wh_cancel(wh_self());
                }
                rcs[2] = wh_sleep(1);
            }
            rcs[3] = wh_sleep(1);
        });
        join(coro);
        CHECK(rcs[0] == 0);
        CHECK(rcs[1] == 0);
        CHECK(rcs[2] == 0);
        CHECK(rcs[3] == -ECANCELED);
    });
}

TEST_CASE("shield: its own deadline and contexts inside it count, and a shield in those does not "
          "see them")
{
    in_run([] {
        int own = 1, cancelled = 1, inner = 1, back = 1, after = 1;
        WH_WITH_CANCEL(outer)
        {
            wh_ctx_cancel(outer, 0);
            WH_SHIELD
            {
                WH_WITH_TIMEOUT(WH_MILLISECOND)
                {
                    own = wh_sleep(WH_HOUR);
                }
                WH_WITH_CANCEL(ctx)
                {
                    wh_ctx_cancel(ctx, -EIO);
                    cancelled = wh_sleep(1);
                    WH_SHIELD
                    {
                        inner = wh_sleep(1);
                    }
                    back = wh_sleep(1);
                }
                after = wh_sleep(1);
            }
        }
        CHECK(own == -ETIMEDOUT);
        CHECK(cancelled == -ECANCELED);
        CHECK(inner == 0);
        CHECK(back == -ECANCELED);
        CHECK(after == 0);
    });
}

TEST_CASE("shield: it is left by break and return as other blocks are")
{
    in_run([] {
        int rc = 1;
        auto by_return = [] {
            WH_SHIELD
            {
                if (wh_sleep(1) == 0)
                    return 5;
            }
            return 0;
        };
        wh_coro *coro = spawn([&] {
            wh_cancel(wh_self());
            int got = by_return();
            CHECK(got == 5);
            WH_SHIELD
            {
                break;
            }
            rc = wh_sleep(1);
        });
        join(coro);
        CHECK(rc == -ECANCELED);
    });
}

TEST_CASE("shield: when the run ends it goes on to its end, within the grace time")
{
    static int in, after;
    in = after = 1;
    in_run([] {
        start([] {
            WH_SHIELD
            {
                in = wh_sleep(WH_MILLISECOND);
            }
            after = wh_sleep(1);
        });
        wh_yield();
    });
    CHECK(in == 0);
    CHECK(after == -ECANCELED);
}
