/*
 * Calls on threads of their own: results, cancelling, the bounds of the pool, the end of the run.
 */
#include "tests/base/child.hpp"
#include "tests/sched/on_workers.hpp"

#include <catch2/catch_test_macros.hpp>

#include <whorl.h>

#include <atomic>
#include <pthread.h>
#include <semaphore.h>
#include <unistd.h>

namespace
{

/* A place where a call waits until the test lets it go. */
struct Gate {
    sem_t sem;
    std::atomic<int> begun{0};
    std::atomic<int> ended{0};

    Gate()
    {
        sem_init(&sem, 0, 0);
    }
    Gate(const Gate &) = delete;
    Gate &operator=(const Gate &) = delete;
    ~Gate()
    {
        sem_destroy(&sem);
    }
    void open(int count = 1)
    {
        while (count-- > 0)
            sem_post(&sem);
    }
    void await_begun(int count)
    {
        while (begun < count)
            wh_sleep(WH_MILLISECOND / 10);
    }
    void await_ended(int count)
    {
        while (ended < count)
            usleep(100); /* time itself: outside of a run, on another thread's doing */
    }
};

int pass(Gate *gate)
{
    gate->begun++;
    while (sem_wait(&gate->sem) < 0)
        ;
    gate->ended++;
    return 42;
}

int add(int a, int b)
{
    return a + b;
}

long thread_of_call()
{
    return gettid();
}

void count(std::atomic<int> *counter)
{
    (*counter)++;
}

void pass_shielded(Gate *gate)
{
    WH_SHIELD(void) wh_blocking(nullptr, pass, gate);
}

int count_elsewhere(std::atomic<int> *counter)
{
    return wh_blocking(nullptr, count, counter);
}

} // namespace

TEST_CASE("blocking: the call is made on another thread, and its result comes back widened")
{
    in_run([] {
        intptr_t value = 0;
        REQUIRE(wh_blocking(&value, add, -3, 1) == 0);
        CHECK(value == -2);
        REQUIRE(wh_blocking(&value, thread_of_call) == 0);
        CHECK(value != gettid());
        std::atomic<int> counter{0};
        REQUIRE(wh_blocking(nullptr, count, &counter) == 0);
        CHECK(counter == 1);
    });
}

namespace
{
void write_shielded(Gate *gate, std::atomic<int> *wrote)
{
    WH_SHIELD
    {
        (void)wh_blocking(nullptr, +[](Gate *, std::atomic<int> *to) { ++*to; }, gate, wrote);
    }
}
} // namespace

TEST_CASE("blocking: what no thread has begun when the run ends is not done")
{
    setenv("WHORL_BLOCKING_MAX", "1", 1);
    static Gate gate;
    std::atomic<int> wrote{0};
    wh_options hasty = {};
    hasty.grace_ns = -1;
    in_run(
        [&] {
            (void)wh_go(pass_shielded, &gate);
            gate.await_begun(1);
            (void)wh_go(write_shielded, &gate, &wrote);
            wh_yield();
            wh_yield();
        },
        &hasty);
    gate.open();
    gate.await_ended(1);
    in_run([] { /* what had been queued before this would have been done before this */
                intptr_t value = 0;
                const int rc = wh_blocking(&value, add, 1, 2);
                CHECK(rc == 0);
    });
    CHECK(wrote == 0);
    unsetenv("WHORL_BLOCKING_MAX");
}

/* ThreadSanitizer allows no threads in a child of a process that has some. */
#ifndef __SANITIZE_THREAD__
TEST_CASE("blocking: a child of fork(2) has threads of its own")
{
    auto call = [] {
        intptr_t value = 0;
        const int rc = wh_blocking(&value, add, 1, 2);
        return rc == 0 && value == 3 ? 0 : -1;
    };
    CHECK(in_run(call) == 0); /* its thread stays for a while */
    const ChildEnd end = in_child([&call] { return in_run(call); });
    INFO(end.how());
    CHECK(end.exited(0));
}
#endif

TEST_CASE("blocking: others run while a call is made, and it is no deadlock that nothing else does")
{
    Gate gate;
    int rc = in_run([&] {
        wh_coro *caller = spawn([&] {
            intptr_t value = 0;
            int result = wh_blocking(&value, pass, &gate);
            return result < 0 ? result : static_cast<int>(value);
        });
        gate.await_begun(1);
        gate.open();
        CHECK(join(caller) == 42);
        return 0;
    });
    CHECK(rc == 0);
    CHECK(in_run([] {
              intptr_t value;
              return wh_blocking(&value, usleep,
                                 20000u); /* time itself: nothing else is under way */
          }) == 0);
}

TEST_CASE("blocking: a caller that is cancelled or late leaves at once, and the result is dropped")
{
    static Gate gate; /* outlives the calls that nobody waits for */
    in_run([] {
        static intptr_t value = 7;
        wh_coro *caller = spawn([] { return wh_blocking(&value, pass, &gate); });
        gate.await_begun(1);
        wh_cancel(caller);
        CHECK(join(caller) == -ECANCELED);
        WH_WITH_TIMEOUT(WH_MILLISECOND)
        {
            int rc = wh_blocking(&value, pass, &gate);
            CHECK(rc == -ETIMEDOUT);
            CHECK(wh_blocking(&value, pass, &gate) == -ETIMEDOUT);
        }
        CHECK(value == 7);
    });
    gate.open(3);
}

TEST_CASE("blocking: many calls at once are all made, by no more threads than there may be")
{
    constexpr int CALLS = 300;
    std::atomic<int> counter{0};
    in_run([&] {
        int failed = 0;
        WH_WITH_GROUP(group, nullptr)
        for (int i = 0; i < CALLS; i++)
            failed += wh_group_go(group, count_elsewhere, &counter) < 0;
        CHECK(failed == 0);
    });
    CHECK(counter == CALLS);
}

TEST_CASE("blocking: a call that has not begun when its caller leaves is never made")
{
    EnvSet one("WHORL_BLOCKING_MAX", "1");
    Gate gate;
    std::atomic<int> counter{0};
    in_run([&] {
        /* Threads that are there already serve, too: as many calls as there can be hold them all.
         */
        constexpr int HOLD = 64;
        wh_coro *holders[HOLD];
        for (auto &holder : holders)
            holder = spawn([&] { return wh_blocking(nullptr, pass, &gate); });
        gate.await_begun(1);
        for (auto *holder : holders)
            until_parked(holder); /* its call is under way, or queued before the late one */
        wh_coro *late = spawn([&] { return wh_blocking(nullptr, count, &counter); });
        until_parked(late);
        wh_cancel(late);
        intptr_t left = join(late);
        gate.open(HOLD);
        for (auto *holder : holders)
            CHECK(join(holder) == 0);
        CHECK(left == -ECANCELED);
        CHECK(wh_blocking(nullptr, count, &counter) == 0); /* behind whatever was queued */
    });
    CHECK(counter == 1);
}

TEST_CASE("blocking: the end of the run does not wait for a call that is under way")
{
    Gate gate;
    in_run([&] {
        REQUIRE(start([&] { (void)wh_blocking(nullptr, pass, &gate); }) == 0);
        gate.await_begun(1);
    });
    CHECK(gate.ended == 0);
    gate.open();
    gate.await_ended(1);

    /* Nor does one that gives its coroutines no time to leave. */
    wh_options hasty = {};
    hasty.grace_ns = -1;
    in_run(
        [&] {
            REQUIRE(wh_go(pass_shielded, &gate) == 0);
            gate.await_begun(2);
        },
        &hasty);
    gate.open();
    gate.await_ended(2);
}
