/*
 * signal_test.cpp: signals as elements of channels: each sentence of whorl/signal.h.
 *
 * A signal is raised on the thread of the run, so its handler has run when raise() returns. That
 * the reader has sent it on is known by a channel of its own, which asked for it, too.
 */
#include "tests/base/child.hpp"
#include "tests/sched/order.hpp"

#include <catch2/catch_test_macros.hpp>

#include <atomic>
#include <condition_variable>
#include <csignal>
#include <mutex>
#include <thread>

#include <unistd.h>

extern "C" {
#include "sync/sync.h"
}

namespace
{

using Ints = WH_CHAN(int);

std::atomic<int> handled{0};

void on_earlier(int number)
{
    handled += number;
}

/* The action of a signal that stands for what was there before; put back at the end. */
class Earlier
{
  public:
    explicit Earlier(int number) : number_(number)
    {
        struct sigaction action = {};
        action.sa_handler = on_earlier;
        action.sa_flags = SA_NOCLDSTOP;
        sigaddset(&action.sa_mask, SIGCHLD);
        sigaction(number, &action, &before_);
        handled = 0;
    }
    Earlier(const Earlier &) = delete;
    Earlier &operator=(const Earlier &) = delete;
    ~Earlier()
    {
        sigaction(number_, &before_, nullptr);
    }
    /* Whether it is there, as it was. */
    bool installed() const
    {
        struct sigaction now = {};
        sigaction(number_, nullptr, &now);
        return now.sa_handler == on_earlier && now.sa_flags & SA_NOCLDSTOP &&
               sigismember(&now.sa_mask, SIGCHLD) == 1;
    }

  private:
    int number_;
    struct sigaction before_ = {};
};

/* What comes out of a channel now. */
std::vector<int> drained(Ints ch)
{
    std::vector<int> numbers;
    int number = 0;
    while (wh_chan_try_recv(ch, &number) > 0)
        numbers.push_back(number);
    return numbers;
}

/* Raises signals one after the other, each when the one before has been sent on. */
class Raiser
{
  public:
    explicit Raiser(std::initializer_list<int> numbers)
    {
        for (int number : numbers)
            CHECK(wh_signal_notify(sent_, number) == 0);
    }
    Raiser(const Raiser &) = delete;
    Raiser &operator=(const Raiser &) = delete;
    ~Raiser()
    {
        wh_signal_stop(sent_);
        wh_chan_unref(sent_);
    }
    void operator()(int number)
    {
        raise(number);
        int got = 0;
        const int rc = wh_chan_recv(sent_, &got);
        CHECK(rc == 1);
        CHECK(got == number);
    }

  private:
    Ints sent_ = wh_chan_create(int, 8);
};

/* Until the reader of a run that asks for nothing any more has gone. */
void until_alone()
{
    Turns turn;
    orders::pause_until(turn, [] { return live(worker_tls->run) == 1; });
    CHECK(live(worker_tls->run) == 1);
}

} // namespace

TEST_CASE("signal: one that is asked for is sent to the channel, and the earlier action is not run")
{
    Earlier earlier(SIGUSR1);
    in_run([] {
        Ints ch = wh_chan_create(int, 4);
        int rc = wh_signal_notify(ch, SIGUSR1);
        CHECK(rc == 0);
        for (int i = 0; i < 5; i++) {
            raise(SIGUSR1);
            int number = 0;
            rc = wh_chan_recv(ch, &number);
            CHECK(rc == 1);
            CHECK(number == SIGUSR1);
        }
        CHECK(wh_chan_len(ch) == 0);
        wh_chan_unref(ch);
    });
    CHECK(handled == 0);
}

TEST_CASE(
    "signal: one that comes at any moment is sent on, whatever coroutines start, park and end")
{
    constexpr int rounds = 400;
    std::atomic<int> wanted{0};
    std::atomic<bool> over{false};
    std::atomic<int> wrong{0};
    int came = 0;
    std::thread sender([&wanted, &over] {
        for (int sent = 0; !over;) {
            if (wanted == sent) {
                std::this_thread::yield();
                continue;
            }
            kill(getpid(), SIGUSR1);
            sent++;
        }
    });
    in_run([&] {
        Ints ch = wh_chan_create(int, 1);
        CHECK(wh_signal_notify(ch, SIGUSR1) == 0);
        while (came < rounds) {
            wh_event round_over = {};
            std::vector<wh_coro *> parked;
            wanted++;
            for (int i = 0; i < 8; i++) {
                parked.push_back(
                    spawn([&round_over, &wrong] { wrong += wh_event_wait(&round_over) != 0; }));
                wh_yield();
            }
            int number = 0;
            int rc = -ETIMEDOUT;
            WH_WITH_TIMEOUT(10 * WH_SECOND)
            {
                rc = wh_chan_recv(ch, &number);
            }
            wh_event_set(&round_over);
            for (wh_coro *coro : parked)
                CHECK(wh_join(coro, nullptr) == 0);
            if (rc != 1)
                break;
            came++;
        }
        wh_chan_unref(ch);
    });
    over = true;
    sender.join();
    CHECK(came == rounds);
    CHECK(wrong == 0);
}

TEST_CASE("signal: one that is asked for no longer ends the process")
{
    for (int number : {SIGTERM, SIGINT, SIGHUP, SIGPIPE, SIGUSR2, SIGRTMIN, SIGRTMAX}) {
        ChildEnd end = in_child([number] {
            return in_run([number] {
                Ints ch = wh_chan_create(int, 1);
                int got = 0;
                CHILD_REQUIRE(wh_signal_notify(ch, number) == 0);
                raise(number);
                CHILD_REQUIRE(wh_chan_recv(ch, &got) == 1);
                CHILD_REQUIRE(got == number);
                wh_chan_unref(ch);
            });
        });
        INFO("signal " << number << ": " << end.how());
        CHECK(end.exited(0));
    }
}

TEST_CASE("signal: every channel that asked gets it, and no other")
{
    in_run([] {
        Ints first = wh_chan_create(int, 4), both = wh_chan_create(int, 4);
        Ints second = wh_chan_create(int, 4), none = wh_chan_create(int, 4);
        Raiser raiser({SIGUSR1, SIGUSR2});
        CHECK(wh_signal_notify(first, SIGUSR1) == 0);
        CHECK(wh_signal_notify(both, SIGUSR1, SIGUSR2) == 0);
        CHECK(wh_signal_notify(second, SIGUSR2) == 0);
        raiser(SIGUSR1);
        raiser(SIGUSR2);
        CHECK(drained(first) == std::vector<int>{SIGUSR1});
        CHECK(drained(both) == std::vector<int>{SIGUSR1, SIGUSR2});
        CHECK(drained(second) == std::vector<int>{SIGUSR2});
        CHECK(drained(none).empty());
        for (Ints ch : {first, both, second, none})
            wh_chan_unref(ch);
    });
}

TEST_CASE("signal: asking twice is asking once")
{
    in_run([] {
        Ints ch = wh_chan_create(int, 4);
        Raiser raiser({SIGUSR1});
        for (int i = 0; i < 3; i++)
            CHECK(wh_signal_notify(ch, SIGUSR1) == 0);
        CHECK(whorl::chan_of(ch)->refs == 2);
        raiser(SIGUSR1);
        CHECK(drained(ch) == std::vector<int>{SIGUSR1});
        wh_signal_stop(ch);
        CHECK(whorl::chan_of(ch)->refs == 1);
        raiser(SIGUSR1);
        CHECK(drained(ch).empty());
        wh_chan_unref(ch);
    });
}

TEST_CASE("signal: a channel that is full, or unbuffered without a receiver, does not get it")
{
    in_run([] {
        Ints one = wh_chan_create(int, 1), none = wh_chan_create(int, 0);
        Raiser raiser({SIGUSR1, SIGUSR2});
        for (Ints ch : {one, none})
            for (int number : {SIGUSR1, SIGUSR2})
                CHECK(wh_signal_notify(ch, number) == 0);
        raiser(SIGUSR1);
        raiser(SIGUSR2);
        CHECK(drained(one) == std::vector<int>{SIGUSR1});
        CHECK(drained(none).empty());
        int number = 0;
        wh_coro *receiver = spawn([&] { return wh_chan_recv(none, &number); });
        wh_yield();
        raiser(SIGUSR2);
        CHECK(join(receiver) == 1);
        CHECK(number == SIGUSR2);
        CHECK(drained(one) == std::vector<int>{SIGUSR2});
        wh_chan_unref(one);
        wh_chan_unref(none);
    });
}

TEST_CASE("signal: several of the same before the run looks may arrive as one, different ones all")
{
    in_run([] {
        Ints ch = wh_chan_create(int, 8);
        Turns turn;
        CHECK(wh_signal_notify(ch, SIGUSR1) == 0);
        CHECK(wh_signal_notify(ch, SIGUSR2) == 0);
        turn(2);
        for (int i = 0; i < 3; i++)
            raise(SIGUSR1);
        raise(SIGUSR2);
        std::vector<int> numbers;
        while (numbers.empty() || numbers.back() != SIGUSR2) {
            int number = 0;
            int rc = wh_chan_recv(ch, &number);
            CHECK(rc == 1);
            numbers.push_back(number);
        }
        CHECK(numbers.front() == SIGUSR1);
        CHECK(numbers.size() <= 4);
        wh_chan_unref(ch);
    });
}

TEST_CASE("signal: a closed channel gets none, which is no error")
{
    in_run([] {
        Ints ch = wh_chan_create(int, 4);
        Raiser raiser({SIGUSR1});
        CHECK(wh_signal_notify(ch, SIGUSR1) == 0);
        wh_chan_close(ch);
        raiser(SIGUSR1);
        CHECK(drained(ch).empty());
        wh_chan_unref(ch);
    });
}

TEST_CASE("signal: what cannot be caught, or says that a thread has failed, is -EINVAL")
{
    in_run([] {
        const int fds_before = fds_open();
        Ints ch = wh_chan_create(int, 1);
        for (int number : {SIGKILL, SIGSTOP, SIGSEGV, SIGBUS, SIGFPE, SIGILL, 0, -1, 32, 33, 65,
                           INT_MAX, INT_MIN})
            CHECK(wh_signal_notify(ch, number) == -EINVAL);
        until_alone();
        wh_signal_stop(ch);
        CHECK(whorl::chan_of(ch)->refs == 1);
        CHECK(fds_open() == fds_before);
        wh_chan_unref(ch);
    });
}

TEST_CASE("signal: of several in one call all are asked for, or none")
{
    Earlier earlier(SIGUSR1);
    in_run([&earlier] {
        const int reserved = 33; /* the C library's: the kernel's sigaction(2) would take it */
        const int fds_before = fds_open();
        Ints ch = wh_chan_create(int, 4);
        for (int bad : {SIGKILL, reserved}) {
            CHECK(wh_signal_notify(ch, SIGUSR1, bad) == -EINVAL);
            CHECK(earlier.installed());
        }
        until_alone();
        CHECK(whorl::chan_of(ch)->refs == 1);
        CHECK(fds_open() == fds_before);

        CHECK(wh_signal_notify(ch, SIGUSR1) == 0);
        {
            Raiser raiser({SIGUSR1, SIGUSR2});
            CHECK(wh_signal_notify(ch, SIGUSR1, SIGUSR2, reserved) == -EINVAL);
            raiser(SIGUSR2); /* not of this channel */
            raiser(SIGUSR1); /* as before */
            CHECK(drained(ch) == std::vector{SIGUSR1});
            CHECK(wh_signal_notify(ch, SIGUSR1, SIGUSR2) == 0);
            raiser(SIGUSR2);
            CHECK(drained(ch) == std::vector{SIGUSR2});
        }
        wh_signal_stop(ch);
        CHECK(earlier.installed());
        wh_chan_unref(ch);
    });
}

TEST_CASE("signal: the handler is the process's, and restarts system calls")
{
    in_run([] {
        Ints ch = wh_chan_create(int, 1);
        CHECK(wh_signal_notify(ch, SIGUSR1) == 0);
        struct sigaction now = {};
        sigaction(SIGUSR1, nullptr, &now);
        CHECK(now.sa_handler != SIG_DFL);
        CHECK(now.sa_flags & SA_RESTART);
        wh_chan_unref(ch);
    });
}

TEST_CASE("signal: asking does not park; one coroutine more lives until the last is stopped")
{
    if (workers_here() > 1)
        SKIP("others run beside it");
    in_run([] {
        Ints a = wh_chan_create(int, 1), b = wh_chan_create(int, 1);
        bool others_ran = false;
        start([&] { others_ran = true; });
        CHECK(wh_signal_notify(a, SIGUSR1) == 0);
        CHECK(wh_signal_notify(b, SIGUSR2) == 0);
        CHECK(!others_ran);
        Turns turn;
        turn(3);
        CHECK(live(worker_tls->run) == 2);
        wh_signal_stop(a);
        turn(3);
        CHECK(live(worker_tls->run) == 2);
        wh_signal_stop(b);
        until_alone();
        wh_chan_unref(a);
        wh_chan_unref(b);
    });
}

TEST_CASE("signal: a run that asks for one waits for it and is not deadlocked")
{
    FdPair pipe = pipe_pair();
    const pthread_t runs = pthread_self();
    std::thread sender([&] {
        char byte;
        if (read(pipe.a, &byte, 1) == 1)
            pthread_kill(runs, SIGUSR1);
    });
    int rc = in_run([&] {
        Ints ch = wh_chan_create(int, 1);
        CHECK(wh_signal_notify(ch, SIGUSR1) == 0);
        Turns turn;
        turn(2);
        start([&] { (void)!write(pipe.b, "x", 1); }); /* runs when the root has parked */
        int got = wh_chan_recv(ch, nullptr);
        CHECK(got == 1);
        wh_chan_unref(ch);
    });
    sender.join();
    CHECK(rc == 0);
}

TEST_CASE("signal: the channel is held until it is stopped")
{
    in_run([] {
        Ints ch = wh_chan_create(int, 1);
        CHECK(wh_signal_notify(ch, SIGUSR1) == 0);
        wh_chan_unref(ch);
        CHECK(whorl::chan_of(ch)->refs == 1);
        raise(SIGUSR1);
        int rc = wh_chan_recv(ch, nullptr);
        CHECK(rc == 1);
        wh_signal_stop(ch);
        until_alone();
    });
}

TEST_CASE("signal: stopping the last channel puts back what was there before, flags and mask")
{
    Earlier one(SIGUSR1), two(SIGUSR2);
    in_run([&] {
        Ints a = wh_chan_create(int, 1), b = wh_chan_create(int, 2), never = wh_chan_create(int, 1);
        wh_signal_stop(never); /* nobody has asked for anything */
        CHECK(wh_signal_notify(a, SIGUSR1) == 0);
        CHECK(wh_signal_notify(b, SIGUSR1) == 0);
        CHECK(wh_signal_notify(b, SIGUSR2) == 0);
        wh_signal_stop(never);
        CHECK(!one.installed());
        wh_signal_stop(a);
        CHECK(!one.installed());
        raise(SIGUSR1);
        CHECK(handled == 0);
        int rc = wh_chan_recv(b, nullptr);
        CHECK(rc == 1);
        wh_signal_stop(b);
        CHECK(one.installed());
        CHECK(two.installed());
        raise(SIGUSR1);
        CHECK(handled == SIGUSR1);
        CHECK(drained(a).empty());
        CHECK(drained(b).empty());
        for (Ints ch : {a, b, never})
            wh_chan_unref(ch);
    });
}

TEST_CASE("signal: one that comes before a stop and was not looked at yet is lost")
{
    in_run([] {
        Ints ch = wh_chan_create(int, 4);
        for (bool reader_waits : {false, true}) {
            CHECK(wh_signal_notify(ch, SIGUSR1) == 0);
            Turns turn;
            if (reader_waits)
                turn(3);
            raise(SIGUSR1);
            wh_signal_stop(ch);
            const std::vector<int> seen = drained(ch);
            CHECK((seen.empty() || wh_workers() > 1)); /* the reader may be on another one */
            CHECK(wh_signal_notify(ch, SIGUSR1) == 0); /* while the first reader goes */
            CHECK(wh_signal_notify(ch, SIGUSR2) == 0);
            turn(4);
            raise(SIGUSR2);
            int number = 0;
            int rc = wh_chan_recv(ch, &number);
            CHECK(rc == 1);
            CHECK(number == SIGUSR2);
            wh_signal_stop(ch);
            until_alone();
        }
        wh_chan_unref(ch);
    });
}

TEST_CASE("signal: a run that ends with signals asked for puts everything back")
{
    const int fds_before = fds_open();
    Earlier earlier(SIGUSR1);
    for (int64_t grace_ns : {int64_t(0), int64_t(-1)}) /* the default; none at all */
        for (bool reader_waits : {true, false}) {
            INFO("grace " << grace_ns << ", the reader " << (reader_waits ? "waits" : "is new"));
            StderrKept kept; /* what has no grace is named */
            Ints ch = nullptr;
            wh_options options = {};
            options.grace_ns = grace_ns;
            int rc = in_run(
                [&] {
                    ch = wh_chan_create(int, 1);
                    int asked = wh_signal_notify(ch, SIGUSR1);
                    CHECK(asked == 0);
                    Turns turn;
                    if (reader_waits)
                        turn(3);
                },
                &options);
            CHECK(rc == 0);
            CHECK(earlier.installed());
            CHECK(whorl::chan_of(ch)->refs == 1);
            wh_chan_unref(ch);
        }
    CHECK(fds_open() == fds_before);
}

TEST_CASE("signal: a run without grace puts everything back, whoever was left waiting")
{
    Earlier earlier(SIGUSR1);
    wh_options options = {};
    options.grace_ns = -1;
    StderrKept kept;
    const int fds_before = fds_open();
    for (bool stopped : {false, true})
        in_run(
            [&] {
                Ints ch = wh_chan_create(int, 0);
                int rc = wh_signal_notify(ch, SIGUSR1);
                CHECK(rc == 0);
                if (!stopped)
                    wh_go(
                        +[](wh_chan *waits) { (void)!wh_chan_recv_(waits, nullptr); },
                        whorl::chan_of(ch));
                Turns turn;
                turn(3);
                if (stopped)
                    wh_signal_stop(ch); /* the reader has no time to go */
                wh_chan_unref(ch);      /* or the run has the last hold */
            },
            &options);
    CHECK(earlier.installed());
    CHECK(fds_open() == fds_before);
}

TEST_CASE("signal: in a run that is ending asking is -ECANCELED, and stopping does nothing")
{
    int rc = 0;
    bool was_asked = false;
    in_run([&] {
        start([&] {
            Ints ch = wh_chan_create(int, 1);
            (void)!wh_chan_recv(ch, nullptr);
            rc = wh_signal_notify(ch, SIGUSR1);
            was_asked = true;
            wh_signal_stop(ch);
            wh_chan_unref(ch);
        });
        wh_yield();
    });
    CHECK(was_asked);
    CHECK(rc == -ECANCELED);
}

TEST_CASE("signal: without descriptors it is -EMFILE and nothing is asked for")
{
    ChildEnd end = in_child([] {
        return in_run([] {
            Ints ch = wh_chan_create(int, 1);
            struct sigaction before = {}, now = {};
            sigaction(SIGUSR1, nullptr, &before);
            const struct rlimit none = {0, 0};
            CHILD_REQUIRE(setrlimit(RLIMIT_NOFILE, &none) == 0);
            CHILD_REQUIRE(wh_signal_notify(ch, SIGUSR1) == -EMFILE);
            sigaction(SIGUSR1, nullptr, &now);
            CHILD_REQUIRE(now.sa_handler == before.sa_handler);
            CHILD_REQUIRE(whorl::chan_of(ch)->refs == 1);
            CHILD_REQUIRE(live(worker_tls->run) == 1);
            wh_chan_unref(ch);
        });
    });
    INFO(end.how());
    CHECK(end.exited(0));
}

TEST_CASE("signal: runs on two threads both get it, each until it stops")
{
    Earlier earlier(SIGUSR1);
    std::mutex mutex;
    std::condition_variable changed;
    int step = 0;
    /* The threads are blocked as a whole, so that each knows where the other is. */
    auto reach = [&](int next) {
        std::unique_lock<std::mutex> lock(mutex);
        step = next;
        changed.notify_all();
    };
    auto await = [&](int wanted) {
        std::unique_lock<std::mutex> lock(mutex);
        changed.wait(lock, [&] { return step >= wanted; });
    };
    int wrong = 0, wrong_there = 0;
    std::thread other([&] {
        in_run([&] {
            Ints ch = wh_chan_create(int, 4);
            wrong_there += wh_signal_notify(ch, SIGUSR1) != 0;
            reach(1);
            await(2); /* raised by the first */
            int number = 0;
            wrong_there += wh_chan_recv(ch, &number) != 1 || number != SIGUSR1;
            raise(SIGUSR1); /* both get this one */
            wrong_there += wh_chan_recv(ch, &number) != 1;
            reach(3);
            await(4); /* the first has stopped */
            raise(SIGUSR1);
            wrong_there += wh_chan_recv(ch, &number) != 1;
            wrong_there += earlier.installed();
            wh_signal_stop(ch);
            wrong_there += !earlier.installed();
            wh_chan_unref(ch);
        });
    });
    in_run([&] {
        Ints ch = wh_chan_create(int, 4);
        int number = 0;
        wrong += wh_signal_notify(ch, SIGUSR1) != 0;
        await(1);
        raise(SIGUSR1);
        wrong += wh_chan_recv(ch, &number) != 1 || number != SIGUSR1;
        reach(2);
        await(3);
        wrong += wh_chan_recv(ch, &number) != 1;
        wh_signal_stop(ch);
        wrong += earlier.installed();
        reach(4);
        other.join();
        Turns turn;
        turn(3);
        wrong += wh_chan_len(ch) != 0;
        wh_chan_unref(ch);
    });
    CHECK(wrong == 0);
    CHECK(wrong_there == 0);
    CHECK(handled == 0);
    CHECK(earlier.installed());
}

TEST_CASE("signal: 64 runs may ask at once, one more is -EMFILE, and later ones may again")
{
    for (int round = 0; round < 2; round++) {
        std::mutex mutex;
        std::condition_variable changed;
        int asked = 0, accepted = 0, refused = 0, strange = 0;
        std::vector<std::thread> threads;
        for (int i = 0; i < 65; i++)
            threads.emplace_back([&] {
                wh_options options = {};
                options.ring_entries = 8;
                int rc = in_run(
                    [&] {
                        Ints ch = wh_chan_create(int, 1);
                        int notified = wh_signal_notify(ch, SIGUSR2);
                        std::unique_lock<std::mutex> lock(mutex);
                        asked++;
                        accepted += notified == 0;
                        refused += notified == -EMFILE;
                        changed.notify_all();
                        changed.wait(lock, [&] { return asked >= 65; });
                        lock.unlock();
                        wh_signal_stop(ch);
                        wh_chan_unref(ch);
                    },
                    &options);
                std::unique_lock<std::mutex> lock(mutex);
                strange += rc != 0;
                asked += rc != 0;
                changed.notify_all();
            });
        for (std::thread &thread : threads)
            thread.join();
        CHECK(strange == 0);
        CHECK(accepted == 64);
        CHECK(refused == 1);
    }
}

TEST_CASE("signal: a storm from another thread, while runs ask and stop, breaks nothing")
{
    Earlier earlier(SIGUSR1);
    std::atomic<bool> over{false};
    std::atomic<uint64_t> storms{0};
    const pid_t process = getpid();
    std::thread storm([&] {
        while (!over) {
            kill(process, SIGUSR1);
            storms++;
        }
    });
    int got = 0, strange = 0;
    in_run([&] {
        Turns turn;
        for (int i = 0; i < times(300); i++) {
            Ints ch = wh_chan_create(int, 2);
            strange += wh_signal_notify(ch, SIGUSR1) != 0;
            for (int j = 0; j < 3; j++) {
                int number = 0;
                got += wh_chan_recv(ch, &number);
                strange += number != SIGUSR1;
            }
            wh_signal_stop(ch);
            wh_chan_unref(ch);
            if (i % 4 == 0)
                turn();
        }
        until_alone();
    });
    over = true;
    storm.join();
    CHECK(got == 3 * times(300));
    CHECK(strange == 0);
    CHECK(storms > 0);
    CHECK(earlier.installed());
}

TEST_CASE("signal: many cycles of asking and stopping, and many runs, leave no descriptors")
{
    const int fds_before = fds_open();
    Earlier earlier(SIGUSR1);
    in_run([&] {
        Turns turn;
        const int fds_inside = fds_open();
        int wrong = 0;
        Ints ch = wh_chan_create(int, 1);
        for (int i = 0; i < times(1000); i++) {
            wrong += wh_signal_notify(ch, SIGUSR1) != 0;
            if (i % 3 == 0)
                turn(1);
            if (i % 2) {
                raise(SIGUSR1);
                wrong += wh_chan_recv(ch, nullptr) != 1;
            }
            wh_signal_stop(ch);
            wrong += !earlier.installed();
            if (i % 8 == 0)
                turn(1); /* else the next reader begins before this one has gone */
            if (i % 20 == 19)
                until_alone();
        }
        until_alone();
        CHECK(wrong == 0);
        CHECK(fds_open() == fds_inside);
        wh_chan_unref(ch);
    });
    for (int i = 0; i < times(100); i++)
        in_run([i] {
            Ints ch = wh_chan_create(int, 1);
            (void)wh_signal_notify(ch, SIGUSR1);
            if (i % 2) {
                raise(SIGUSR1);
                (void)!wh_chan_recv(ch, nullptr);
            }
            wh_chan_unref(ch);
        });
    CHECK(earlier.installed());
    CHECK(fds_open() == fds_before);
}
