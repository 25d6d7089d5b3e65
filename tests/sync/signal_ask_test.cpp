/*
 * signal_ask_test.cpp: what happens while signals are asked for and read. The calls of the library
 * for that go through this test.
 */
#include "tests/sched/in_run.hpp"

#include <catch2/catch_test_macros.hpp>

#include <atomic>
#include <csignal>

extern "C" {
#include "sched/sched.h"
}

namespace
{

using Ints = WH_CHAN(int);

/* Raised as soon as a handler for it has been installed; 0: none is. */
std::atomic<int> raised_at_once{0};
std::atomic<int> installed{0};

/* What the next reads fail with, one after the other. */
std::vector<int> failures;

} // namespace

extern "C" {
int __real_sigaction(int number, const struct sigaction *action, struct sigaction *before);

int __wrap_sigaction(int number, const struct sigaction *action, struct sigaction *before)
{
    const int rc = __real_sigaction(number, action, before);
    if (rc == 0 && action) {
        installed++;
        if (number == raised_at_once) {
            raised_at_once = 0;
            raise(number);
        }
    }
    return rc;
}

ssize_t __real_wh_read(int fd, void *buf, size_t size);

ssize_t __wrap_wh_read(int fd, void *buf, size_t size)
{
    if (failures.empty())
        return __real_wh_read(fd, buf, size);
    const int error = failures.back();
    failures.pop_back();
    return error;
}
}

TEST_CASE("signal: one that comes while several are asked for is sent on")
{
    for (int number : {SIGINT, SIGTERM}) {
        in_run([number] {
            Ints ch = wh_chan_create(int, 4);
            raised_at_once = number;
            int rc = wh_signal_notify(ch, SIGINT, SIGTERM);
            CHECK(rc == 0);
            CHECK(raised_at_once == 0); /* it has come */
            int got = 0;
            WH_WITH_TIMEOUT(10 * WH_SECOND)
            {
                rc = wh_chan_recv(ch, &got);
            }
            CHECK(rc == 1);
            CHECK(got == number);
            wh_chan_unref(ch);
        });
    }
}

TEST_CASE("signal: when one cannot be had no handler is installed for the others")
{
    in_run([] {
        Ints ch = wh_chan_create(int, 4);
        installed = 0;
        CHECK(wh_signal_notify(ch, SIGINT, 33) == -EINVAL); /* the C library's own */
        CHECK(installed == 0);
        wh_chan_unref(ch);
    });
}

TEST_CASE("signal: that reading fails for a while is not the end of it")
{
    for (int error : {-ENOMEM, -EAGAIN, -EINTR})
        in_run([error] {
            Ints ch = wh_chan_create(int, 4);
            int got = 0;
            failures = {error, error};
            int rc = wh_signal_notify(ch, SIGUSR1);
            CHECK(rc == 0);
            raise(SIGUSR1);
            WH_WITH_TIMEOUT(10 * WH_SECOND)
            {
                rc = wh_chan_recv(ch, &got);
            }
            CHECK(rc == 1);
            CHECK(got == SIGUSR1);
            CHECK(failures.empty());
            wh_chan_unref(ch);
        });
}

TEST_CASE("signal: asking for none is -EINVAL")
{
    in_run([] {
        Ints ch = wh_chan_create(int, 1);
        CHECK(wh_signal_notify(ch) == -EINVAL);
        CHECK(live(worker_tls->run) == 1); /* nobody reads */
        wh_chan_unref(ch);
    });
}
