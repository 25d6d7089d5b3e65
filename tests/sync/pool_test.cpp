/*
 * pool_test.cpp: a bounded queue of calls, and the coroutines that make them.
 */
#include "tests/sync/steps.hpp"
#include "tests/sync/sync.hpp"

#include <atomic>

using steps::CANCEL;
using steps::CTX;
using steps::DEADLINE;
using steps::SERVE;
using steps::TIMER;
using steps::Who;

namespace
{

void push(Ints *to, int value)
{
    to->push_back(value);
}

void wait_for(wh_event *event)
{
    while (wh_event_wait(event) < 0)
        ;
}

void add(int64_t *sum, int a, int b, int c, int d)
{
    *sum += a + 10 * b + 100 * c + 1000 * d;
}

/*
 * One worker, busy, and a queue of one, full: a submit waits. Serve 0 lets the worker go on, which
 * makes room; serve 1 destroys the pool, which refuses who waits at once. The worker runs after the
 * other events of its turn.
 */
struct PoolFixture : steps::Fixture {
    wh_pool *pool = nullptr;
    wh_event busy = {}, idle = {};
    Ints made;
    Ints expected;
    int results[3] = {};
    bool going = false, destroyed = false, destroying = false;

    PoolFixture() : pool(wh_pool_create(1, 1))
    {
        int rc = wh_pool_submit(pool, wait_for, &busy);
        rc += wh_pool_submit(pool, push, &made, 100);
        CHECK(rc == 0);
        wh_yield();
        rc = wh_pool_try_submit(pool, push, &made, 102);
        CHECK(rc == -EAGAIN);
        expected = {100};
    }
    int call(int who) override
    {
        return wh_pool_submit(pool, push, &made, who);
    }
    bool next_fails() const override
    {
        return !destroyed;
    }
    void serve(int which) override
    {
        if (which == 0)
            wh_event_set(&busy);
        else
            destroy();
    }
    void unserved(int which) override
    {
        serve(which);
    }
    void destroy()
    {
        destroyed = true;
        wh_pool_destroy(pool);
    }
    Who serve_model(int which) override
    {
        if (which == 0) {
            going = true;
            return {};
        }
        destroying = true;
        for (int who : waiting)
            results[who] = -EPIPE;
        return std::exchange(waiting, {});
    }
    Who admit_model() override
    {
        if (!going)
            return {};
        for (int who : waiting)
            expected.push_back(who);
        return std::exchange(waiting, {});
    }
    int served_result(int who) const override
    {
        return results[who];
    }
    std::string wrong() override
    {
        if (!going)
            return made.empty() ? "" : "a call was made before its turn";
        return made == expected ? "" : "calls made: " + std::to_string(made.size());
    }
    std::string wrong_at_end() override
    {
        return made == expected ? "" : "calls made at the end: " + std::to_string(made.size());
    }
};

} // namespace

TEST_CASE("pool: room in the queue, its end, deadline and cancel of a submit, in every order")
{
    steps::all<PoolFixture>(1, {{SERVE, 0}, {SERVE, 1}, {CANCEL, 0}, {TIMER, 0}, {DEADLINE, 0}});
    steps::all<PoolFixture>(2, {{SERVE, 0}, {SERVE, 1}, {CANCEL, 0}, {DEADLINE, 1}});
    steps::all<PoolFixture>(2, {{SERVE, 0}, {SERVE, 1}, {CTX, 0}, {TIMER, 1}});
}

TEST_CASE("pool: it makes the calls that were queued, with their arguments, in order by one worker")
{
    in_run([] {
        wh_pool *pool = wh_pool_create(1, 4);
        Ints made;
        int64_t sum = 0;
        int failed = 0;
        for (int i = 0; i < 20; i++)
            failed += wh_pool_submit(pool, push, &made, i) != 0;
        failed += wh_pool_submit(pool, add, &sum, 1, 2, 3, 4) != 0;
        auto set = [](int64_t *to, int64_t a, int64_t b, int64_t c, int64_t d, int64_t e) {
            *to += a + b + c + d + e;
        };
        failed += wh_pool_submit(pool, set, &sum, -1, -2, INT64_C(10000000000), 0, 0) != 0;
        wh_pool_destroy(pool);
        CHECK(failed == 0);
        CHECK(made.size() == 20);
        CHECK(std::is_sorted(made.begin(), made.end()));
        CHECK(sum == 4321 - 3 + INT64_C(10000000000));
    });
}

TEST_CASE("pool: as many calls are under way as it has workers, and the queue holds its number")
{
    in_run([] {
        wh_pool *pool = wh_pool_create(3, 2);
        wh_event go = {};
        static int under_way, most;
        under_way = most = 0;
        auto call = [](wh_event *event) {
            most = std::max(most, ++under_way);
            wait_for(event);
            under_way--;
        };
        wh_yield();
        int accepted = 0, full = 0;
        for (int i = 0; i < 5; i++) {
            accepted += wh_pool_try_submit(pool, call, &go) == 0;
            wh_yield();
        }
        for (int i = 0; i < 3; i++)
            full += wh_pool_try_submit(pool, call, &go) == -EAGAIN;
        CHECK(accepted == 5);
        CHECK(full == 3);
        CHECK(under_way == 3);
        wh_event_set(&go);
        wh_pool_destroy(pool);
        CHECK(most == 3);
        CHECK(under_way == 0);
    });
}

TEST_CASE("pool: with a queue of 0 a call is handed to a worker directly")
{
    in_run([] {
        Turns turn;
        wh_pool *pool = wh_pool_create(1, 0);
        Ints made;
        wh_event go = {};
        CHECK(wh_pool_try_submit(pool, wait_for, &go) == -EAGAIN); /* no worker waits yet */
        turn(1);
        CHECK(wh_pool_try_submit(pool, wait_for, &go) == 0);
        CHECK(wh_pool_try_submit(pool, push, &made, 1) == -EAGAIN);
        turn(1);
        CHECK(wh_pool_try_submit(pool, push, &made, 1) == -EAGAIN); /* it is busy */
        bool done = false;
        wh_coro *submitter = spawn([&] {
            int rc = wh_pool_submit(pool, push, &made, 2);
            done = true;
            return rc;
        });
        turn(1);
        CHECK(!done);
        wh_event_set(&go);
        intptr_t rc = join(submitter);
        CHECK(rc == 0);
        wh_pool_destroy(pool);
        CHECK(made == Ints{2});
    });
}

TEST_CASE("pool: a call runs in the background and not in the context of its creator or submitter")
{
    in_run([] {
        static int slept;
        static int64_t deadline;
        slept = 1;
        wh_pool *pool = nullptr;
        wh_ctx *ended = nullptr;
        int rc = 1;
        WH_WITH_CANCEL(ctx)
        WH_WITH_TIMEOUT(WH_HOUR)
        {
            pool = wh_pool_create(1, 1);
            rc = wh_pool_submit(pool, [] {
                deadline = wh_deadline();
                slept = wh_sleep(1);
            });
            ended = wh_ctx_ref(ctx);
        }
        CHECK(wh_ctx_err(ended) == -ECANCELED);
        wh_ctx_unref(ended);
        CHECK(rc == 0);
        wh_pool_destroy(pool);
        CHECK(slept == 0);
        CHECK(deadline == WH_NEVER);
    });
}

TEST_CASE("pool: in a context that has ended nothing is queued; a try does not look")
{
    in_run([] {
        wh_pool *pool = wh_pool_create(1, 4);
        Ints made;
        bool failed = fails_when_ended([&] { return wh_pool_submit(pool, push, &made, 1); });
        CHECK(failed);
        WH_WITH_TIMEOUT(0)
        {
            int rc = wh_pool_try_submit(pool, push, &made, 2);
            CHECK(rc == 0);
        }
        wh_pool_destroy(pool);
        CHECK(made == Ints{2});
    });
}

TEST_CASE("pool: destroying lets the queued calls finish and obeys neither deadline nor cancel")
{
    in_run([] {
        wh_pool *pool = wh_pool_create(2, 8);
        static int ended;
        ended = 0;
        auto slow = [] {
            for (int i = 0; i < 3; i++)
                wh_yield();
            (void)wh_sleep(WH_MICROSECOND);
            ended++;
        };
        int failed = 0, at_end = 0, refused = 0;
        for (int i = 0; i < 8; i++)
            failed += wh_pool_submit(pool, slow) != 0;
        wh_coro *destroyer = spawn([&] {
            wh_cancel(wh_self());
            WH_WITH_TIMEOUT(0)
            {
                wh_pool_destroy(pool);
            }
            at_end = ended;
        });
        wh_yield();
        refused = wh_pool_submit(pool, slow);
        CHECK(refused == -EPIPE);
        CHECK(wh_pool_try_submit(pool, slow) == -EPIPE);
        join(destroyer);
        CHECK(failed == 0);
        CHECK(at_end == 8);
        wh_pool_destroy(nullptr);
        wh_stats stats;
        wh_stats_get(&stats);
        CHECK(stats.coros_live == 1);
    });
}

TEST_CASE("pool: destroying one that never had a call, at once and when its workers wait")
{
    in_run([] {
        wh_pool_destroy(wh_pool_create(3, 0));
        wh_pool *pool = wh_pool_create(3, 5);
        wh_yield();
        wh_pool_destroy(pool);
        wh_stats stats;
        wh_stats_get(&stats);
        CHECK(stats.coros_live == 1);
    });
}

TEST_CASE("pool: a call may submit calls")
{
    in_run([] {
        static wh_pool *pool;
        static int made;
        made = 0;
        pool = wh_pool_create(2, 4);
        struct Again {
            static void call(int left)
            {
                made++;
                if (left > 0)
                    (void)!wh_pool_try_submit(pool, call, left - 1);
            }
        };
        int rc = wh_pool_submit(pool, Again::call, 9);
        CHECK(rc == 0);
        for (int i = 0; i < 40; i++)
            wh_yield();
        CHECK(made == 10);
        wh_pool_destroy(pool);
    });
}

TEST_CASE("pool: locals that calls have left are destroyed in the user's code, as any")
{
    static std::atomic<int> where;
    where = -1;
    in_run([] {
        wh_key key;
        CHECK(wh_key_create(&key, +[](void *) { where = where_of(worker_tls); }) == 0);
        wh_pool *pool = wh_pool_create(1, 1);
        const int rc = wh_pool_submit(pool, +[](wh_key k) { (void)wh_local_set(k, &where); }, key);
        CHECK(rc == 0);
        wh_pool_destroy(pool);
        while (where < 0)
            wh_yield();
    });
    CHECK(where == IN_USER);
}

TEST_CASE("pool: one without workers, and destroying one twice, abort with the coroutine's name")
{
    CHECK(aborts([] { wh_pool_destroy(wh_pool_create(0, 1)); }, "wh_pool_create: a coroutine"));
    CHECK(aborts(
        [] {
            static wh_event never;
            wh_pool *pool = wh_pool_create(1, 1);
            (void)!wh_pool_submit(pool, wait_for, &never);
            start([pool] { wh_pool_destroy(pool); });
            wh_yield();
            wh_yield();
            wh_pool_destroy(pool);
        },
        "wh_pool_destroy: a coroutine destroys a pool that is being destroyed"));
}
