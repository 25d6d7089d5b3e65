/*
 * cancel_test.cpp: asking a coroutine to end, in each state that it can be in.
 */
#include "tests/sched/in_run.hpp"

#include <catch2/catch_test_macros.hpp>

#include <vector>

extern "C" {
#include "sched/sched.h"
}

namespace
{

bool is_parked(const wh_coro *coro)
{
    return coro->state == CORO_PARKED;
}

} // namespace

TEST_CASE("cancel: cancelling one that has not run yet makes its first wait fail")
{
    in_run([] {
        int rc = 0;
        bool ran = false;
        wh_coro *coro = spawn([&] {
            ran = true;
            rc = wh_sleep(WH_HOUR);
        });
        CHECK(coro->state == CORO_NEW);
        wh_cancel(coro);
        join(coro);
        CHECK(ran);
        CHECK(rc == -ECANCELED);
    });
}

TEST_CASE("cancel: cancelling one that is runnable lets the wait it came from succeed")
{
    in_run([] {
        int first = -1, second = -1;
        wh_coro *child = spawn([] {});
        wh_coro *coro = spawn([&] {
            first = wh_join(child, nullptr);
            second = wh_sleep(WH_HOUR);
        });
        /* Runs behind both: the join is over, its caller has not seen it yet. */
        bool was_ready = false;
        wh_coro *third = spawn([&] {
            was_ready = coro->state == CORO_READY || coro->state == CORO_PARKED;
            wh_cancel(coro);
        });
        join(third);
        join(coro);
        CHECK(was_ready);
        CHECK(first == 0);
        CHECK(second == -ECANCELED);
    });
}

TEST_CASE("cancel: cancelling one that is parked ends its wait")
{
    in_run([] {
        FdPair pair = socket_pair();
        Fd event(eventfd(0, EFD_CLOEXEC));
        char byte;
        uint64_t count;
        wh_coro *never = spawn([] { wh_sleep(WH_HOUR); });
        const std::vector<std::function<ssize_t()>> waits = {
            [&] { return wh_sleep(WH_HOUR); },
            [&] { return wh_recv(pair.a, &byte, 1, 0); },
            [&] { return wh_read(event, &count, sizeof count); },
            [&] { return wh_poll(pair.a, POLLIN); },
            [&] { return wh_join(never, nullptr); },
        };
        for (const auto &wait : waits) {
            ssize_t rc = 0;
            wh_coro *coro = spawn([&] { rc = wait(); });
            wh_yield();
            CHECK(is_parked(coro));
            wh_cancel(coro);
            join(coro);
            CHECK(rc == -ECANCELED);
        }
        wh_cancel(never);
        join(never);
    });
}

TEST_CASE("cancel: cancelling oneself makes the next wait fail")
{
    int rc = in_run([] {
        wh_cancel(wh_self());
        return wh_sleep(WH_HOUR);
    });
    CHECK(rc == -ECANCELED);
}

TEST_CASE("cancel: cancelling twice, or what has ended, does nothing")
{
    in_run([] {
        wh_coro *coro = spawn([] { return 5; });
        wh_yield();
        CHECK(coro->state == CORO_DEAD);
        wh_cancel(coro);
        intptr_t value = join(coro);
        CHECK(value == 5);

        int waits_failed = 0;
        coro = spawn([&] {
            while (waits_failed < 3)
                if (wh_sleep(WH_HOUR) == -ECANCELED)
                    waits_failed++;
        });
        wh_yield();
        wh_cancel(coro);
        wh_cancel(coro);
        join(coro);
        CHECK(waits_failed == 3);
    });
}

TEST_CASE(
    "cancel: a cancel lasts: every later wait fails and touches nothing, but close and yield work")
{
    in_run([] {
        FdPair pair = socket_pair();
        FdPair other = socket_pair();
        int fd = other.a.release();
        bool ran_between = false;
        wh_coro *coro = spawn([&] {
            char byte = 0;
            wh_cancel(wh_self());
            ssize_t n = wh_send(pair.a, "x", 1, 0);
            CHECK(n == -ECANCELED);
            n = wh_write(pair.a, "x", 1);
            CHECK(n == -ECANCELED);
            n = wh_recv(pair.a, &byte, 1, 0);
            CHECK(n == -ECANCELED);
            n = wh_poll(pair.a, POLLOUT);
            CHECK(n == -ECANCELED);
            n = wh_openat(AT_FDCWD, "/", O_RDONLY, 0);
            CHECK(n == -ECANCELED);
            n = wh_sleep(0);
            CHECK(n == -ECANCELED);
            n = wh_sleep_until(0);
            CHECK(n == -ECANCELED);
            start([&] { ran_between = true; });
            wh_yield();
            CHECK(ran_between);
            n = wh_close(fd);
            CHECK(n == 0);
        });
        join(coro);
        char byte;
        ssize_t n = recv(pair.b, &byte, 1, MSG_DONTWAIT);
        CHECK((n == -1 && errno == EAGAIN));
        n = recv(other.b, &byte, 1, MSG_DONTWAIT);
        CHECK(n == 0);
    });
}

TEST_CASE("cancel: a cancelled coroutine can still take the result of one that has ended")
{
    in_run([] {
        wh_coro *child = spawn([] { return 11; });
        wh_yield();
        int rc = -1;
        intptr_t value = 0;
        wh_coro *coro = spawn([&] {
            wh_cancel(wh_self());
            rc = wh_join(child, &value);
        });
        join(coro);
        CHECK(rc == 0);
        CHECK(value == 11);
    });
}

TEST_CASE("cancel: a cancel is for one coroutine and not for those that it started")
{
    in_run([] {
        int rc = -1;
        wh_coro *inner = nullptr;
        wh_coro *outer = spawn([&] {
            inner = spawn([&] { rc = wh_sleep(WH_MILLISECOND); });
            wh_sleep(WH_HOUR);
        });
        wh_yield();
        wh_cancel(outer);
        join(outer);
        join(inner);
        CHECK(rc == 0);
    });
}
