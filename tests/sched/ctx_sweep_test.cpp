/*
 * ctx_sweep_test.cpp: functions for after a context's end; cancelling trees that are large, or that
 * change meanwhile.
 */
#include "tests/base/child.hpp"
#include "tests/sched/in_run.hpp"
#include "tests/sched/race.hpp"

#include <catch2/catch_test_macros.hpp>

#include <memory>
#include <vector>

namespace
{

wh_ctx *made(wh_ctx *ctx)
{
    CHECK(ctx != nullptr);
    return ctx;
}

int ran;

void note(int number)
{
    ran = ran * 10 + number;
}

/* Lets a cancel come to its end: the last of its contexts may have nobody who waits. */
void settle()
{
    int64_t limit = wh_now() + 20 * WH_SECOND;
    while (!list_empty(&worker_tls->sweeps) && wh_now() < limit)
        wh_yield();
    CHECK(list_empty(&worker_tls->sweeps));
}

uint64_t coros_live()
{
    wh_stats stats;
    wh_stats_get(&stats);
    return stats.coros_live;
}

} // namespace

/* ---- Functions for afterwards ---- */

TEST_CASE("after: the function is started when the context ends, in order, and not before")
{
    ran = 0;
    in_run([] {
        wh_ctx *ctx = made(wh_ctx_create(nullptr));
        wh_ctx *child = made(wh_ctx_create(ctx));
        wh_after *afters[3] = {};
        CHECK(wh_ctx_after(ctx, &afters[0], note, 1) == 0);
        CHECK(wh_ctx_after(ctx, &afters[1], note, 2) == 0);
        CHECK(wh_ctx_after(child, &afters[2], note, 3) == 0);
        wh_yield();
        CHECK(ran == 0);
        wh_ctx_cancel(ctx, -EIO);
        CHECK(ran == 0); /* as with wh_go() */
        wh_yield();
        CHECK(ran == 123);
        for (wh_after *after : afters)
            CHECK(!wh_ctx_after_stop(after));
        wh_ctx_destroy(child);
        wh_ctx_destroy(ctx);
        CHECK(coros_live() == 1);
    });
}

TEST_CASE("after: of a context that has ended it is started now")
{
    ran = 0;
    in_run([] {
        wh_ctx *cancelled = made(wh_ctx_create(nullptr));
        wh_ctx_cancel(cancelled, 0);
        wh_ctx *passed = made(wh_ctx_create_timeout(nullptr, 0));
        wh_after *after = nullptr;
        for (wh_ctx *ctx : {cancelled, passed}) {
            CHECK(wh_ctx_after(ctx, &after, note, 4) == 0);
            CHECK(!wh_ctx_after_stop(after));
            wh_ctx_destroy(ctx);
        }
        wh_yield();
        CHECK(ran == 44);
    });
}

TEST_CASE("after: stopped before the end it is kept from being started, and stop says so")
{
    ran = 0;
    in_run([] {
        wh_ctx *ctx = made(wh_ctx_create_timeout(nullptr, WH_HOUR));
        wh_after *first = nullptr, *second = nullptr;
        CHECK(wh_ctx_after(ctx, &first, note, 1) == 0);
        CHECK(wh_ctx_after(ctx, &second, note, 2) == 0);
        CHECK(wh_ctx_after_stop(first));
        wh_ctx_destroy(ctx);
        wh_yield();
        CHECK(ran == 2);
        CHECK(!wh_ctx_after_stop(second));
        wh_stats stats;
        wh_stats_get(&stats);
        CHECK(stats.timers_armed == 0);
        CHECK(stats.coros_live == 1);
    });
}

TEST_CASE("after: stopped between the end and the function's turn it says that it is too late")
{
    ran = 0;
    in_run([] {
        wh_ctx *ctx = made(wh_ctx_create(nullptr));
        wh_after *after = nullptr;
        CHECK(wh_ctx_after(ctx, &after, note, 1) == 0);
        wh_ctx_cancel(ctx, 0);
        CHECK(!wh_ctx_after_stop(after));
        wh_ctx_destroy(ctx);
        wh_yield();
        CHECK(ran == 1);
    });
}

TEST_CASE("after: a deadline that passes starts it, once, and not before")
{
    static int64_t started;
    static int times_run;
    times_run = 0;
    in_run([] {
        int64_t deadline = wh_now() + 2 * WH_MILLISECOND;
        wh_ctx *ctx = made(wh_ctx_create_deadline(nullptr, deadline));
        wh_after *after = nullptr;
        int rc = wh_ctx_after(ctx, &after, [] {
            started = wh_now();
            times_run++;
        });
        CHECK(rc == 0);
        while (!times_run)
            (void)wh_sleep(100 * WH_MICROSECOND);
        CHECK(started >= deadline);
        wh_ctx_cancel(ctx, 0);
        wh_yield();
        wh_yield();
        CHECK(times_run == 1);
        CHECK(!wh_ctx_after_stop(after));
        wh_ctx_destroy(ctx);
    });
}

TEST_CASE("after: its wait for a deadline is no deadlock, and wakes the run that has nothing else")
{
    static wh_event event;
    event = {};
    int rc = in_run([] {
        wh_ctx *ctx = made(wh_ctx_create_timeout(nullptr, WH_MILLISECOND));
        wh_after *after = nullptr;
        int started = wh_ctx_after(ctx, &after, [] { wh_event_set(&event); });
        CHECK(started == 0);
        int waited = wh_event_wait(&event);
        CHECK(waited == 0);
        wh_ctx_after_stop(after);
        wh_ctx_destroy(ctx);
        return 5;
    });
    CHECK(rc == 5);
}

TEST_CASE("after: the function runs in the background, whatever the caller's context")
{
    static int slept;
    slept = 1;
    in_run([] {
        wh_after *after = nullptr;
        WH_WITH_TIMEOUT(0)
        WH_WITH_CANCEL(ctx)
        {
            wh_ctx *own = made(wh_ctx_create(wh_ctx_background()));
            int rc = wh_ctx_after(own, &after, [] { slept = wh_sleep(1); });
            CHECK(rc == 0);
            wh_ctx_cancel(ctx, 0);
            wh_ctx_destroy(own);
        }
        while (slept > 0)
            (void)wh_sleep(WH_MICROSECOND);
        wh_ctx_after_stop(after);
        CHECK(slept == 0);
    });
}

TEST_CASE("after: of the background it is never started, and is stopped as others are")
{
    ran = 0;
    in_run([] {
        wh_after *after = nullptr;
        CHECK(wh_ctx_after(wh_ctx_background(), &after, note, 1) == 0);
        wh_ctx_cancel(wh_ctx_background(), 0);
        wh_yield();
        CHECK(wh_ctx_after_stop(after));
    });
    CHECK(ran == 0);
}

TEST_CASE("after: what still waits when the run ends is dropped, and stop says that it kept it")
{
    ran = 0;
    static bool kept;
    static int late;
    kept = false;
    late = 1;
    in_run([] {
        start([] {
            wh_ctx *ctx = made(wh_ctx_create(wh_ctx_background()));
            wh_after *after = nullptr, *dropped = nullptr;
            CHECK(wh_ctx_after(ctx, &after, note, 1) == 0);
            CHECK(wh_ctx_after(ctx, &dropped, note, 2) == 0);
            (void)wh_sleep(WH_HOUR); /* the run ends */
            kept = wh_ctx_after_stop(after);
            wh_ctx_cancel(ctx, 0);
            late = wh_ctx_after(ctx, &after, note, 3);
            wh_ctx_after_stop(after);
            wh_ctx_after_stop(dropped);
            wh_ctx_destroy(ctx);
            WH_SHIELD
            {
                (void)wh_sleep(WH_MILLISECOND);
            }
        });
        wh_yield();
    });
    CHECK(kept);
    CHECK(late == 0);
    CHECK(ran == 0);
}

TEST_CASE("after: what its start needs is set aside: without it -ENOMEM now, and never later")
{
    ran = 0;
    const wh_options few = {0, 3, 0, 0, 0};
    in_run(
        [] {
            wh_ctx *ctx = made(wh_ctx_create(nullptr));
            wh_after *afters[2] = {}, *none = nullptr;
            CHECK(wh_ctx_after(ctx, &afters[0], note, 1) == 0);
            CHECK(wh_ctx_after(ctx, &afters[1], note, 2) == 0);
            CHECK(wh_ctx_after(ctx, &none, note, 3) == -ENOMEM);
            CHECK(none == nullptr);
            CHECK(wh_go(note, 4) == -ENOMEM);
            wh_ctx_cancel(ctx, 0);
            wh_yield();
            CHECK(ran == 12);
            for (wh_after *after : afters)
                wh_ctx_after_stop(after);
            CHECK(wh_go(note, 5) == 0);
            wh_yield();
            CHECK(ran == 125);
            wh_ctx_destroy(ctx);
        },
        &few);
}

/* ---- Large trees ---- */

namespace
{

struct Counts {
    int waiting = 0;
    int ended = 0;
    int wrong = 0;
};

void wait_and_count(Counts *counts)
{
    counts->waiting++;
    int rc = wh_sleep(WH_HOUR);
    counts->waiting--;
    counts->ended++;
    counts->wrong += rc != -ECANCELED;
}

/* A tree of contexts, each with waits: a hundred a context, ten children a context. */
struct Tree {
    std::vector<wh_ctx *> ctxs;
    Counts counts;

    explicit Tree(int waits)
    {
        const wh_spawn_options small = {nullptr, 16384};
        for (int i = 0; i < waits / 100; i++) {
            size_t parent = ctxs.empty() ? 0 : (ctxs.size() - 1) / 10;
            ctxs.push_back(wh_ctx_create(ctxs.empty() ? wh_ctx_background() : ctxs[parent]));
            WH_WITH_CTX(ctxs.back())
            for (int n = 0; n < 100; n++) {
                wh_coro *coro = nullptr;
                if (wh_spawn(&coro, &small, wait_and_count, &counts) < 0) {
                    fprintf(stderr, "no coroutine for a wait\n");
                    abort();
                }
                wh_detach(coro);
            }
            wh_yield();
        }
        while (counts.waiting < waits)
            wh_yield();
    }
    ~Tree()
    {
        for (wh_ctx *ctx : ctxs)
            wh_ctx_destroy(ctx);
    }
};

struct Cost {
    int64_t total_ns = 0;
    int64_t longest_gap_ns = 0;
    int most_at_once = 0; /* waits that ended between two turns of a coroutine that yields */
    uint64_t turns = 0;
    int ended_by_call = 0;
};

Cost cost_of_cancel(int waits)
{
    Cost cost;
    in_run([&] {
        Tree tree(waits);
        wh_stats before, after;
        wh_stats_get(&before);
        int64_t begin = wh_now(), last = begin;
        int ended = 0;
        wh_ctx_cancel(tree.ctxs[0], -EIO);
        while (tree.counts.ended < waits) {
            wh_yield();
            int64_t now = wh_now();
            cost.longest_gap_ns = std::max(cost.longest_gap_ns, now - last);
            cost.most_at_once = std::max(cost.most_at_once, tree.counts.ended - ended);
            last = now;
            ended = tree.counts.ended;
        }
        cost.total_ns = last - begin;
        wh_stats_get(&after);
        cost.turns = after.loop_turns - before.loop_turns;
        CHECK(tree.counts.wrong == 0);
        settle();
    });
    return cost;
}

} // namespace

TEST_CASE("ctx: cancelling a tree of 100,000 waits is linear, and others run between its slices")
{
    /* Without guard regions each stack is two mappings, and vm.max_map_count ends at 65530. */
    const int most = at_once(WITH_ASAN || !has_cap("guard") ? 20000 : 100000, 4000) / 400 * 400;
    Cost least[3];
    for (int size = 0; size < 3; size++) {
        const int waits = most / (size == 0 ? 4 : size == 1 ? 2 : 1);
        for (int round = 0; round < 3; round++) {
            Cost cost = cost_of_cancel(waits);
            if (round > 0) {
                cost.longest_gap_ns = std::min(cost.longest_gap_ns, least[size].longest_gap_ns);
                cost.total_ns = std::min(cost.total_ns, least[size].total_ns);
            }
            least[size] = cost;
        }
        const Cost &cost = least[size];
        printf("cancelling %d waits: %.1f ms, longest gap %.0f us, %d at once, %llu turns\n", waits,
               static_cast<double>(cost.total_ns) / 1e6,
               static_cast<double>(cost.longest_gap_ns) / 1e3, cost.most_at_once,
               static_cast<unsigned long long>(cost.turns));
        /* By counting, and roughly, because the machine has other work: a slice is a few hundred,
         * and the fewer coroutines run in a turn the longer they take. */
        CHECK(cost.most_at_once <= waits / 2);
        CHECK(cost.turns >= static_cast<uint64_t>(waits / 1024));
        CHECK(cost.turns <= static_cast<uint64_t>(waits / 8 + 1000));
    }
    /* There the time is that of taking down the sanitizer's own picture of each coroutine. */
    CHECK((WITH_TSAN || least[2].total_ns < 4 * 4 * least[0].total_ns));
}

TEST_CASE("ctx: the first few hundred waits are ended before the cancel returns")
{
    in_run([] {
        Counts counts;
        WH_WITH_CANCEL(ctx)
        {
            for (int i = 0; i < 200; i++)
                wh_go(wait_and_count, &counts);
            wh_yield();
            wh_ctx_cancel(ctx, 0);
            CHECK(list_empty(&worker_tls->sweeps));
            wh_yield();
            CHECK(counts.ended == 200);
        }
    });
}

TEST_CASE(
    "ctx: while a large tree is being cancelled err and cause tell the truth everywhere in it")
{
    in_run([] {
        Tree tree(2000);
        wh_ctx_cancel(tree.ctxs[0], -EDQUOT);
        CHECK(!list_empty(&worker_tls->sweeps)); /* there is something left to do */
        for (wh_ctx *ctx : tree.ctxs) {
            CHECK(wh_ctx_err(ctx) == -ECANCELED);
            CHECK(wh_ctx_cause(ctx) == -EDQUOT);
        }
        wh_ctx *last = tree.ctxs.back();
        wh_ctx_cancel(last, -EIO); /* has ended: does nothing */
        CHECK(wh_ctx_cause(last) == -EDQUOT);
        wh_ctx *child = made(wh_ctx_create(last));
        CHECK(wh_ctx_cause(child) == -EDQUOT);
        int rc = 1, started = 1;
        WH_WITH_CTX(last)
        {
            wh_coro *coro = spawn([&] { started = wh_sleep(WH_HOUR); });
            rc = wh_sleep(WH_HOUR);
            WH_SHIELD
            {
                join(coro);
            }
        }
        CHECK(rc == -ECANCELED);
        CHECK(started == -ECANCELED);
        wh_after *after = nullptr;
        ran = 0;
        CHECK(wh_ctx_after(child, &after, note, 1) == 0);
        while (tree.counts.ended < 2000 || !ran)
            wh_yield();
        CHECK(ran == 1);
        CHECK(!wh_ctx_after_stop(after));
        CHECK(wh_ctx_cause(last) == -EDQUOT);
        wh_ctx_destroy(child);
        CHECK(tree.counts.wrong == 0);
        int next = wh_sleep(1);
        CHECK(next == 0);
    });
}

TEST_CASE("ctx: a tree may change while it is being cancelled: members end, blocks are left and "
          "entered, contexts come and go")
{
    in_run([] {
        Turns turn;
        wh_ctx *root = made(wh_ctx_create(wh_ctx_background()));
        wh_ctx *other = made(wh_ctx_create(wh_ctx_background()));
        Counts counts;
        int busy_ended = 0, waits = 0;
        bool go_on = true;
        WH_WITH_CTX(root)
        {
            /* These change the tree all the time, and see to it that every wait of theirs fails
             * once they have seen one fail. */
            for (int i = 0; i < 50; i++)
                start([&, i] {
                    bool failed = false;
                    for (int n = 0; go_on || n < 20; n++) {
                        WH_WITH_CANCEL(inner)
                        {
                            wh_ctx *child = wh_ctx_create(inner);
                            WH_WITH_CTX(i % 3 ? child : other)
                            {
                                if (wh_go(wait_and_count, &counts) == 0)
                                    waits++;
                                int rc = wh_sleep((n + i) % 4 ? 0 : 1);
                                counts.wrong += failed && rc == 0;
                                failed = rc < 0;
                            }
                            if (n % 2)
                                wh_ctx_destroy(child);
                            else
                                wh_ctx_unref(child);
                        }
                    }
                    busy_ended++;
                });
            for (int i = 0; i < 3000; i++) {
                wh_go(wait_and_count, &counts);
                waits++;
            }
        }
        turn(5);
        CHECK(busy_ended == 0);
        wh_ctx_cancel(root, -EIO);
        wh_ctx_unref(root); /* the last handle, during the sweep */
        for (int i = 0; i < 20; i++) {
            wh_yield();
            wh_ctx *more = made(wh_ctx_create(other));
            wh_ctx_destroy(more);
        }
        go_on = false;
        int64_t limit = wh_now() + 20 * WH_SECOND;
        while ((busy_ended < 50 || counts.ended < waits) && wh_now() < limit)
            turn(1);
        CHECK(busy_ended == 50);
        CHECK(counts.ended == waits);
        CHECK(counts.wrong == 0);
        wh_ctx_destroy(other);
        CHECK(coros_live() == 1);
        settle();
    });
}

TEST_CASE("ctx: two large trees cancelled at once, and one inside of the other, all end once")
{
    in_run([] {
        Tree one(1500), two(1500);
        wh_ctx_cancel(one.ctxs[3], -EPERM); /* a part first, then the whole */
        wh_ctx_cancel(two.ctxs[0], -EIO);
        wh_ctx_cancel(one.ctxs[0], -EDQUOT);
        CHECK(wh_ctx_cause(one.ctxs[3]) == -EPERM);
        CHECK(wh_ctx_cause(one.ctxs[2]) == -EDQUOT);
        CHECK(wh_ctx_cause(two.ctxs[7]) == -EIO);
        while (one.counts.ended + two.counts.ended < 3000)
            wh_yield();
        CHECK(one.counts.wrong + two.counts.wrong == 0);
        CHECK(coros_live() == 1);
    });
}

TEST_CASE("ctx: a chain of 20,000 contexts is cancelled and given back without a deep recursion")
{
    in_run([] {
        Counts counts;
        wh_ctx *root = made(wh_ctx_create(wh_ctx_background()));
        wh_ctx *last = wh_ctx_ref(root);
        for (int i = 0; i < 20000; i++) {
            wh_ctx *next = wh_ctx_create(last);
            wh_ctx_unref(last); /* the child holds it */
            last = next;
        }
        WH_WITH_CTX(last)
        {
            wh_go(wait_and_count, &counts);
        }
        wh_yield();
        wh_ctx_cancel(root, -EIO);
        CHECK(wh_ctx_cause(last) == -EIO);
        wh_ctx_unref(last);
        while (!counts.ended)
            wh_yield();
        wh_ctx_destroy(root);
        CHECK(counts.wrong == 0);
        settle();
    });
}

TEST_CASE("ctx: a run that ends in the middle of a cancel ends")
{
    static Counts counts;
    counts = {};
    int rc = in_run([] {
        wh_ctx *ctx = made(wh_ctx_create(wh_ctx_background()));
        WH_WITH_CTX(ctx)
        for (int i = 0; i < 2000; i++)
            wh_go(wait_and_count, &counts);
        wh_yield();
        while (counts.waiting < 2000)
            wh_yield();
        wh_ctx_destroy(ctx);
        return 5;
    });
    CHECK(rc == 5);
    CHECK(counts.ended == 2000);
    CHECK(counts.wrong == 0);
}
TEST_CASE("ctx: no call succeeds any more in a tree that is being cancelled, reached or not")
{
    in_run([] {
        wh_ctx *ctx = made(wh_ctx_create(wh_ctx_background()));
        Counts counts;
        wh_event set = {};
        wh_event_set(&set);
        int succeeded = 0, failed = 0;
        bool cancelled = false;
        WH_WITH_CTX(ctx)
        {
            for (int i = 0; i < 3000; i++)
                wh_go(wait_and_count, &counts);
            start([&] {
                while (!failed) {
                    int rc = wh_event_wait(&set);
                    failed += rc == -ECANCELED;
                    succeeded += cancelled && rc == 0;
                    wh_yield();
                }
            });
        }
        while (counts.waiting < 3000)
            wh_yield();
        cancelled = true;
        wh_ctx_cancel(ctx, 0);
        while (counts.ended < 3000 || !failed)
            wh_yield();
        CHECK(succeeded == 0);
        wh_ctx_destroy(ctx);
    });
}
