/*
 * lifetimes_test.cpp: what ends, is given back or is used again while somebody waits for it, or
 * just does not any more; and loops of calls that never have to wait.
 */
#include "tests/base/child.hpp"
#include "tests/sync/select_tools.hpp"
#include "tests/sync/sync.hpp"

extern "C" {
#include "sync/sync.h"
}

namespace
{

using Channel = WH_CHAN(int);

void nothing()
{
}

void set_when_run(bool *ran)
{
    *ran = true;
}

} // namespace

/* ---- Contexts ---- */

TEST_CASE("lifetimes: a context whose deadline has just passed may be given back while selected on")
{
    in_run([] {
        bool parked = false;
        /* On a machine so busy that the time comes before the waiter waits: again. */
        for (int64_t lead_ns = WH_MILLISECOND; !parked; lead_ns *= 2) {
            int64_t deadline = wh_now() + lead_ns;
            wh_ctx *ctx = wh_ctx_create_deadline(wh_ctx_background(), deadline);
            wh_coro *waiter = spawn([&] { return wh_select(WH_DONE(ctx)); });
            wh_yield();
            parked = is_parked(waiter);
            if (parked) /* the loop has seen the time, the timer has not fired */
                wh_self()->worker->now_ns = deadline;
            wh_ctx_destroy(ctx);
            CHECK(join(waiter) == 0);
        }
    });
}

TEST_CASE("lifetimes: a select on a deadline needs the context no more once the time has come")
{
    in_run([] {
        for (int i = 0; i < 20; i++) {
            int64_t deadline = wh_now() + WH_MILLISECOND;
            wh_ctx *ctx = wh_ctx_create_deadline(wh_ctx_background(), deadline);
            wh_ctx *other = nullptr;
            wh_coro *owner = spawn([&] {
                (void)wh_sleep_until(deadline);
                wh_ctx_destroy(ctx);
                other = wh_ctx_create(wh_ctx_background()); /* in the same memory */
            });
            wh_coro *waiter = spawn([&] { return wh_select(WH_DONE(ctx), WH_DONE(nullptr)); });
            join(owner);
            CHECK(join(waiter) == 0);
            wh_ctx_destroy(other);
        }
    });
}

TEST_CASE("lifetimes: coroutines that start each other under two contexts make no chain of them")
{
    in_run([] {
        static wh_ctx *ctx[2];
        static int left;
        static void (*next)(int which);
        ctx[0] = wh_ctx_create(nullptr);
        ctx[1] = wh_ctx_create(nullptr);
        left = times(50000);
        next = [](int which) {
            if (left-- > 0)
                WH_WITH_CTX(ctx[which]) wh_go(next, 1 - which);
        };
        next(0);
        while (left >= 0)
            wh_yield();
        size_t chunks = 0;
        struct list *chunk = reinterpret_cast<struct list *>(wh_self()->worker->ctx_chunks);
        for (; chunk; chunk = chunk->next)
            chunks++;
        CHECK(chunks <= 2);
        wh_ctx_destroy(ctx[0]);
        wh_ctx_destroy(ctx[1]);
    });
}

TEST_CASE("lifetimes: a reference to a context that is given back twice aborts")
{
    ChildEnd end = in_child([] {
        return in_run([] {
            wh_ctx *ctx = wh_ctx_create(nullptr);
            wh_ctx_unref(ctx);
            wh_ctx_unref(ctx);
        });
    });
    INFO(end.how());
    CHECK(end.killed_by(SIGABRT));
}

TEST_CASE("lifetimes: the end of a value's block cancels nothing that was started in it")
{
    in_run([] {
        static const char key = 0;
        int value = 7;
        bool seen = false;
        int rc = 1;
        wh_coro *started = nullptr;
        WH_WITH_VALUE(&key, &value)
        {
            started = spawn([&] {
                seen = wh_ctx_value(nullptr, &key) == &value;
                rc = wh_sleep(WH_MICROSECOND);
            });
        }
        join(started);
        CHECK(seen);
        CHECK(rc == 0);
    });
}

TEST_CASE("lifetimes: under another context in a shield the values around are seen")
{
    in_run([] {
        static const char key = 0;
        int value = 7;
        wh_ctx *other = wh_ctx_create(wh_ctx_background());
        WH_WITH_VALUE(&key, &value)
        WH_SHIELD
        WH_WITH_CTX(other)
        {
            CHECK(wh_ctx_value(nullptr, &key) == &value);
            wh_ctx_cancel(other, 0);
            CHECK(wh_ctx_err(nullptr) == -ECANCELED);
        }
        wh_ctx_destroy(other);
        wh_ctx *background = wh_ctx_ref(nullptr);
        CHECK(background == wh_ctx_background());
    });
}

/* ---- Coroutines ---- */

TEST_CASE("lifetimes: a select for oneself is -EDEADLK, for one without a handle it aborts")
{
    in_run([] {
        int rc = wh_select(WH_JOINABLE(wh_self()));
        CHECK(rc == -EDEADLK);
    });
    CHECK(aborts(
        [] {
            static wh_coro *member;
            wh_go(+[] {
                member = wh_self();
                wh_yield();
            });
            wh_yield();
            (void)wh_select(WH_JOINABLE(member));
        },
        "has no handle"));
}

TEST_CASE("lifetimes: a mutex whose holder has ended is not the next coroutine's")
{
    CHECK(aborts(
        [] {
            static wh_mutex mutex;
            mutex = {};
            join(spawn([] { return wh_mutex_lock(&mutex); }));
            /* Gets the descriptor that the holder had, which is the culprit's to unlock. */
            wh_coro *next = spawn([] {
                wh_name_set("culprit #1");
                wh_mutex_unlock(&mutex);
            });
            CHECK(mutex.holder == next);
            join(next);
        },
        "does not hold"));
}

/* ---- Pools ---- */

TEST_CASE("lifetimes: a cancel of a pool's call ends that call and not its worker")
{
    in_run([] {
        static wh_coro *worker;
        static int rc, made;
        rc = made = 0;
        wh_pool *pool = wh_pool_create(1, 4);
        wh_pool_submit(
            pool, +[] {
                worker = wh_self();
                rc = wh_sleep(WH_HOUR);
            });
        for (int i = 0; i < 3; i++)
            wh_pool_submit(pool, +[] { made += wh_sleep(WH_MICROSECOND) == 0; });
        while (!worker || !is_parked(worker))
            wh_yield();
        wh_cancel(worker);
        wh_pool_destroy(pool);
        CHECK(rc == -ECANCELED);
        CHECK(made == 3);
    });
}

TEST_CASE("lifetimes: what is queued in a pool when the run ends is called, and its waits fail")
{
    static int made, failed;
    made = failed = 0;
    int rc = in_run([] {
        wh_pool *pool = wh_pool_create(1, 8);
        for (int i = 0; i < 5; i++)
            wh_pool_submit(
                pool, +[] {
                    made++;
                    failed += wh_sleep(WH_HOUR) == -ECANCELED;
                });
        spawn([pool] {
            (void)wh_sleep(WH_HOUR);
            wh_pool *late = wh_pool_create(1, 1);
            CHECK(late == nullptr);
            wh_pool_destroy(pool);
        });
        wh_yield();
    });
    CHECK(rc == 0);
    CHECK(made == 5);
    CHECK(failed == 5);
}

/* ---- The run's end ---- */

TEST_CASE("lifetimes: a run without grace time takes back the polls of its selects")
{
    const wh_options no_grace = {0, 0, 0, 0, -1};
    const int fds = fds_open();
    for (bool woken : {false, true}) {
        ChildEnd end = in_child([&] {
            return in_run(
                [&] {
                    static Channel ch;
                    ch = wh_chan_create(int, 1);
                    Fd event(eventfd(0, EFD_CLOEXEC));
                    int fd = event.release();
                    spawn([fd] { (void)wh_select(WH_READABLE(fd), WH_RECV(ch, nullptr)); });
                    wh_yield();
                    if (woken)
                        (void)wh_chan_try_send(ch, 1);
                },
                &no_grace);
        });
        INFO(end.how());
        CHECK(end.exited(0));
        CHECK(count_of(end.said, "do not end") == 0);
    }
    CHECK(fds_open() == fds);
}

/* ---- Calls that never wait ---- */

TEST_CASE("lifetimes: a loop of calls that are served at once sees its deadline, and others run")
{
    in_run([] {
        wh_sem sem = WH_SEM(1);
        wh_event event = {};
        wh_event_set(&event);
        wh_waitgroup group = {};
        Channel ch = wh_chan_create(int, 3);
        wh_timer *ticker = wh_timer_create(WH_MICROSECOND, WH_MICROSECOND);
        int x = 1;
        auto each = [&](auto &&call) {
            bool ran = false;
            wh_go(set_when_run, &ran);
            int rc = 0;
            WH_WITH_TIMEOUT(WH_MILLISECOND)
            {
                while ((rc = call()) >= 0)
                    ;
            }
            return rc == -ETIMEDOUT && ran;
        };
        CHECK(each([&] {
            int rc = wh_sem_acquire(&sem, 1);
            if (rc == 0)
                wh_sem_release(&sem, 1);
            return rc;
        }));
        CHECK(each([&] { return wh_event_wait(&event); }));
        CHECK(each([&] { return wh_waitgroup_wait(&group); }));
        CHECK(each([&] {
            int rc = wh_chan_send(ch, x);
            if (rc == 0)
                rc = wh_chan_try_recv(ch, &x);
            return rc;
        }));
        CHECK(each([&] {
            (void)wh_chan_try_send(ch, x);
            return wh_chan_recv(ch, &x);
        }));
        CHECK(each([&] {
            int rc = wh_select(WH_SEND(ch, &x), WH_EVENT_SET(&event));
            if (rc == 0)
                (void)wh_chan_try_recv(ch, nullptr);
            return rc;
        }));
        CHECK(each([&] { return wh_select(WH_TICK(ticker), WH_AFTER(0)); }));
        CHECK(each([&] { return wh_select(WH_TICK(ticker), WH_DEFAULT); }));
        wh_chan_close(ch);
        while (wh_chan_try_recv(ch, nullptr) > 0)
            ;
        CHECK(each([&] { return wh_chan_recv(ch, nullptr); }));
        wh_timer_destroy(ticker);
        wh_chan_unref(ch);
        wh_go(nothing);
    });
}
