/*
 * What threads that are no workers do with a run: start coroutines, wait for them, use the run's
 * objects, come too late.
 */
#include "on_workers.hpp"
#include "tests/base/child.hpp"

#include <catch2/catch_test_macros.hpp>

#include <atomic>
#include <pthread.h>
#include <semaphore.h>
#include <thread>
#include <vector>

namespace
{

/* Lets a thread run beside the run's coroutines, and waits for it without blocking a worker. */
class Beside
{
  public:
    template <typename F> explicit Beside(F body)
    {
        thread_ = std::thread([this, body] {
            body();
            ended_ = true;
        });
    }
    Beside(const Beside &) = delete;
    Beside &operator=(const Beside &) = delete;
    ~Beside()
    {
        thread_.join();
    }
    void wait() const
    {
        while (!ended_)
            wh_sleep(WH_MILLISECOND / 10);
    }

  private:
    std::atomic<bool> ended_{false};
    std::thread thread_;
};

int add(int a, int b)
{
    wh_yield();
    return a + b;
}

void count(std::atomic<int> *counter)
{
    wh_sleep(10 * WH_MICROSECOND);
    ++*counter;
}

} // namespace

TEST_CASE("runtime: a thread starts coroutines and waits for their results")
{
    in_run([] {
        wh_runtime *runtime = wh_runtime_hold();
        std::atomic<int> counter{0};
        intptr_t sum = 0;
        int rc = 0, gone = 0;
        {
            Beside thread([&] {
                rc = wh_runtime_call(runtime, &sum, add, 40, 2);
                for (int i = 0; i < 100; i++)
                    gone += wh_runtime_go(runtime, count, &counter) == 0;
            });
            thread.wait();
        }
        CHECK(rc == 0);
        CHECK(sum == 42);
        CHECK(gone == 100);
        until([&] { return counter == 100; });
        wh_runtime_release(runtime);
    });
}

TEST_CASE("runtime: many threads at once, and every coroutine runs once")
{
    enum { THREADS = 4, STARTS = 300 };
    in_run([] {
        wh_runtime *runtime = wh_runtime_hold();
        std::atomic<int> counter{0}, failed{0}, ended{0};
        std::vector<std::thread> threads;
        for (int t = 0; t < THREADS; t++)
            threads.emplace_back([&] {
                for (int i = 0; i < STARTS; i++) {
                    intptr_t sum = 0;
                    if (i % 3)
                        failed += wh_runtime_go(runtime, count, &counter) != 0;
                    else
                        failed += wh_runtime_call(runtime, &sum, add, i, 1) != 0 || sum != i + 1;
                }
                ended++;
            });
        while (ended < THREADS)
            wh_sleep(WH_MILLISECOND);
        for (std::thread &thread : threads)
            thread.join();
        CHECK(failed == 0);
        until([&] { return counter == THREADS * STARTS * 2 / 3; });
        wh_runtime_release(runtime);
        wh_stats stats;
        wh_stats_get(&stats);
        CHECK(stats.coros_live == 1);
    });
}

TEST_CASE("runtime: threads send, unlock, release, set, close, and cancel")
{
    in_run([] {
        wh_runtime *runtime = wh_runtime_hold();
        WH_CHAN(int) ch = wh_chan_create(int, 4);
        wh_mutex mutex = {};
        wh_event event = {};
        wh_sem sem = WH_SEM(0);
        wh_ctx *ctx = wh_ctx_create(NULL);
        wh_coro *sleeper = spawn([] { return wh_sleep(WH_HOUR); });
        wh_coro *under = spawn([&] {
            int rc = 0;
            WH_WITH_CTX(ctx)
            {
                rc = wh_sleep(WH_HOUR);
            }
            return rc;
        });
        int rc = wh_mutex_lock(&mutex);
        CHECK(rc == 0);
        int sent = 0, called = -1;
        Beside thread([&] {
            for (int i = 1; i <= 3; i++)
                sent += wh_chan_try_send(ch, i) == 0;
            wh_chan_close(ch);
            wh_event_set(&event);
            wh_sem_release(&sem, 2);
            wh_mutex_unlock(&mutex);
            wh_cancel(sleeper);
            called = wh_runtime_call(runtime, NULL, wh_ctx_cancel, ctx, -EPIPE);
        });
        int sum = 0, item;
        while (wh_chan_recv(ch, &item) > 0)
            sum += item;
        CHECK(sum == 6);
        rc = wh_event_wait(&event);
        CHECK(rc == 0);
        rc = wh_sem_acquire(&sem, 2);
        CHECK(rc == 0);
        rc = wh_mutex_lock(&mutex);
        CHECK(rc == 0);
        wh_mutex_unlock(&mutex);
        CHECK(join(sleeper) == -ECANCELED);
        CHECK(join(under) == -ECANCELED);
        thread.wait();
        CHECK(sent == 3);
        CHECK(called == 0);
        CHECK(wh_ctx_cause(ctx) == -EPIPE);
        wh_ctx_destroy(ctx);
        wh_chan_unref(ch);
        wh_runtime_release(runtime);
    });
}

TEST_CASE("runtime: while one is held a run that waits is no deadlock, and after it is")
{
    wh_runtime *runtime = nullptr;
    std::atomic<bool> held{false};
    std::thread thread([&] {
        while (!held)
            std::this_thread::yield();
        (void)wh_runtime_call(runtime, NULL, add, 1, 1);
        wh_runtime_release(runtime);
    });
    int rc = in_run([&] {
        runtime = wh_runtime_hold();
        held = true;
        wh_event event = {};
        return wh_event_wait(&event); /* which nobody sets */
    });
    thread.join();
    CHECK(rc == -EDEADLK);
}

TEST_CASE("runtime: when the run has ended, and while it does, nothing starts any more")
{
    wh_runtime *runtime = nullptr;
    std::atomic<int> counter{0};
    in_run([&] { runtime = wh_runtime_hold(); });
    CHECK(wh_runtime_go(runtime, count, &counter) == -ECANCELED);
    intptr_t value = 7;
    CHECK(wh_runtime_call(runtime, &value, add, 1, 1) == -ECANCELED);
    CHECK(value == 7);
    CHECK(counter == 0);
    wh_runtime_release(runtime);
}

TEST_CASE("runtime: threads that start all the time while runs end")
{
    /* They start faster than workers run: the limit holds them back. */
    wh_options options = {};
    options.stacks_max = 200;
    for (int round = 0; round < 20; round++) {
        std::atomic<wh_runtime *> held{nullptr};
        std::atomic<int> counter{0}, started{0}, called{0}, wrong{0};
        std::vector<std::thread> threads;
        for (int t = 0; t < 3; t++)
            threads.emplace_back([&, t] {
                wh_runtime *runtime;
                while (!(runtime = held))
                    std::this_thread::yield();
                for (int rc = 0; rc == 0 || rc == -ENOMEM;) {
                    intptr_t sum = 0;
                    if (t == 2) {
                        rc = wh_runtime_call(runtime, &sum, add, 2, 3);
                        wrong += rc == 0 && sum != 5;
                        called += rc == 0;
                    } else {
                        rc = wh_runtime_go(runtime, count, &counter);
                        started += rc == 0;
                    }
                    wrong += rc != 0 && rc != -ECANCELED && rc != -ENOMEM;
                }
            });
        in_run(
            [&] {
                wh_runtime *runtime = wh_runtime_hold();
                held = runtime;
                until([&] { return counter > 5 && called > 2; });
            },
            &options);
        for (std::thread &thread : threads)
            thread.join();
        wh_runtime_release(held);
        CHECK(wrong == 0);
        CHECK(counter <= started);
    }
}

namespace
{
/* Does not end when asked to. */
void stay(std::atomic<bool> *begun)
{
    *begun = true;
    WH_SHIELD
    {
        wh_sleep(WH_HOUR);
    }
}
} // namespace

TEST_CASE("runtime: who waits for a coroutine that the run abandons is told")
{
    wh_options options = {};
    options.grace_ns = WH_MILLISECOND;
    int rc = 0;
    std::thread thread;
    std::atomic<bool> begun{false};
    in_run(
        [&] {
            wh_runtime *runtime = wh_runtime_hold();
            thread = std::thread([&rc, &begun, runtime] {
                rc = wh_runtime_call(runtime, NULL, stay, &begun);
                wh_runtime_release(runtime);
            });
            until([&] { return begun.load(); });
        },
        &options);
    thread.join();
    CHECK(rc == -ECANCELED);
}

namespace
{
/* Waits for bytes and does not end when asked to. */
void receive_shielded(int fd, char *buf, std::atomic<bool> *begun)
{
    *begun = true;
    WH_SHIELD
    {
        (void)wh_recv(fd, buf, 1, 0);
    }
}
} // namespace

TEST_CASE("runtime: what a thread has lent an abandoned coroutine is the thread's again")
{
    wh_options options = {};
    options.grace_ns = WH_MILLISECOND;
    static char others[2000]; /* so many more keep the kernel busy when the run ends */
    for (int round = 0; round < 5; round++) {
        int rc = 0, fds[2], silent[2];
        ssize_t wrote = 0;
        REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
        REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, silent) == 0);
        StderrKept err;
        std::thread thread;
        std::atomic<bool> begun{false}, one_begun{false};
        char buf = 'a';
        in_run(
            [&] {
                for (char &other : others)
                    (void)wh_go(receive_shielded, silent[0], &other, &one_begun);
                wh_runtime *runtime = wh_runtime_hold();
                thread = std::thread([&, runtime] {
                    rc = wh_runtime_call(runtime, NULL, receive_shielded, fds[0], &buf, &begun);
                    /* A receive that were still in flight would take it. */
                    wrote = write(fds[1], "b", 1);
                    wh_runtime_release(runtime);
                });
                until([&] { return begun.load(); });
                wh_yield();
            },
            &options);
        thread.join();
        CHECK(rc == -ECANCELED);
        CHECK(wrote == 1);
        CHECK(buf == 'a');
        char left = 0;
        CHECK(recv(fds[0], &left, 1, MSG_DONTWAIT) == 1);
        CHECK(left == 'b');
        for (int fd : {fds[0], fds[1], silent[0], silent[1]})
            close(fd);
    }
}

TEST_CASE("runtime: no more coroutines than there may be stacks")
{
    wh_options options = {};
    options.stacks_max = 3;
    in_run(
        [] {
            wh_runtime *runtime = wh_runtime_hold();
            wh_event event = {};
            std::atomic<int> ended{0};
            auto wait_for = +[](wh_event *e, std::atomic<int> *count) {
                (void)wh_event_wait(e);
                ++*count;
            };
            int rc[3] = {};
            Beside thread([&] {
                for (int &one : rc)
                    one = wh_runtime_go(runtime, wait_for, &event, &ended);
            });
            thread.wait();
            CHECK(rc[0] == 0);
            CHECK(rc[1] == 0);
            CHECK(rc[2] == -ENOMEM);
            wh_event_set(&event);
            /* Stacks that end return to the count. */
            intptr_t sum = 0;
            int called = -ENOMEM;
            Beside again([&] {
                while (called == -ENOMEM)
                    called = wh_runtime_call(runtime, &sum, add, 1, 2);
            });
            again.wait();
            CHECK(called == 0);
            CHECK(sum == 3);
            until([&] { return ended == 2; }); /* one may not have begun yet */
            wh_runtime_release(runtime);
        },
        &options);
}

TEST_CASE("runtime: a run's coroutine starts one in another run")
{
    wh_runtime *other = nullptr;
    std::atomic<bool> up{false}, over{false};
    std::thread thread([&] {
        in_run([&] {
            other = wh_runtime_hold();
            up = true;
            while (!over)
                wh_sleep(WH_MILLISECOND / 10);
        });
    });
    in_run([&] {
        while (!up)
            wh_sleep(WH_MILLISECOND / 10);
        std::atomic<int> counter{0};
        int rc = wh_runtime_go(other, count, &counter);
        CHECK(rc == 0);
        while (counter < 1)
            wh_sleep(WH_MILLISECOND / 10);
        wh_runtime_release(other);
        over = true;
    });
    thread.join();
}

TEST_CASE("runtime: what a thread wakes may end the run before the thread's call is through")
{
    for (int i = 0; i < times(300); i++) {
        wh_event event = {};
        std::thread thread;
        wh_runtime *runtime = nullptr;
        in_run([&] {
            runtime = wh_runtime_hold();
            thread = std::thread([&event] { wh_event_set(&event); });
            wh_event_wait(&event);
        });
        thread.join();
        wh_runtime_release(runtime); /* not before: its lock would order what is tested */
    }
}
