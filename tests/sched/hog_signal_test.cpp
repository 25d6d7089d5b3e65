/*
 * The watchdog's signal among those of the program: what is taken for the watchdog's, and who gets
 * the others.
 */
#include "hog.hpp"
#include "on_workers.hpp"
#include "tests/base/child.hpp"

#include <catch2/catch_test_macros.hpp>

#include <csignal>
#include <thread>

namespace
{

wh_options with_signal(int number)
{
    wh_options options = {};
    options.workers = 1;
    options.hog_signal = number;
    return options;
}

/* Computes until the watchdog's signal has found it, for ten seconds at most. Returns whether it
 * has. */
bool hog_until_found()
{
    const struct worker *w = worker_tls;
    const uint32_t before = __atomic_load_n(&w->watched.answered, __ATOMIC_RELAXED);
    const int64_t end_ns = thread_now() + 10 * WH_SECOND;
    bool found = false;
    while (!found && thread_now() < end_ns)
        found = __atomic_load_n(&w->watched.answered, __ATOMIC_RELAXED) != before;
    return found;
}

} // namespace

TEST_CASE("hog signal: a user without room for queued signals gets it all the same")
{
    for (int number : {SIGUSR1, SIGURG}) {
        const ChildEnd end = in_child([number] {
            const rlimit none = {0, 0};
            CHILD_REQUIRE(setrlimit(RLIMIT_SIGPENDING, &none) == 0);
            const wh_options options = with_signal(number);
            const int rc = in_run(
                [] {
                    CHILD_REQUIRE(hog_until_found());
                    wh_yield();
                    CHILD_REQUIRE(hog_until_found()); /* the next hog, too */
                    return 0;
                },
                &options);
            CHILD_REQUIRE(rc == 0);
            return 0;
        });
        INFO(number << ": " << end.how());
        CHECK(end.exited(0));
    }
}

TEST_CASE("hog signal: one at a time is on its way to a thread that has it blocked")
{
    const int number = SIGRTMIN + 3;
    const wh_options options = with_signal(number);
    StderrKept err;
    in_run(
        [number] {
            const struct worker *w = worker_tls;
            sigset_t set;
            sigemptyset(&set);
            sigaddset(&set, number);
            pthread_sigmask(SIG_BLOCK, &set, nullptr);
            const int64_t end_ns = thread_now() + 10 * WH_SECOND;
            while (__atomic_load_n(&w->watched.hog, __ATOMIC_RELAXED) == 0 && thread_now() < end_ns)
                ;
            hog_for(100 * WH_MILLISECOND); /* many ticks */
            int pending = 0;
            const timespec now = {};
            while (sigtimedwait(&set, nullptr, &now) == number)
                pending++;
            pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
            CHECK(pending == 1);
        },
        &options);
}

namespace
{
struct sigaction found;
std::atomic<int> first_came{0}, chained_came{0};

void first(int)
{
    first_came++;
}

void chained(int number, siginfo_t *info, void *context)
{
    if (++chained_came < 100) /* or it would not end */
        found.sa_sigaction(number, info, context);
}
} // namespace

TEST_CASE("hog signal: one that a handler from between two runs passes on goes to the first of all")
{
    const wh_options options = with_signal(SIGUSR2);
    struct sigaction action = {}, before = {};
    StderrKept err;
    first_came = chained_came = 0;
    action.sa_handler = first;
    REQUIRE(sigaction(SIGUSR2, &action, &before) == 0);
    in_run([] {}, &options);
    action = {};
    action.sa_flags = SA_SIGINFO;
    action.sa_sigaction = chained;
    REQUIRE(sigaction(SIGUSR2, &action, &found) == 0);
    REQUIRE(found.sa_flags & SA_SIGINFO); /* the watchdog's, which stays */
    in_run(
        [] {
            raise(SIGUSR2);
            CHECK(chained_came == 1);
            CHECK(first_came == 1);
            CHECK(hog_until_found());
        },
        &options);
    CHECK(chained_came == 1);
    raise(SIGUSR2);
    CHECK(chained_came == 2);
    CHECK(first_came == 2);

    /* What comes to stand there does without them. */
    action = {};
    action.sa_handler = SIG_IGN;
    REQUIRE(sigaction(SIGUSR2, &action, nullptr) == 0);
    in_run([] { raise(SIGUSR2); }, &options);
    CHECK(chained_came == 2);
    CHECK(first_came == 2);
    sigaction(SIGUSR2, &before, nullptr);
}

TEST_CASE("hog signal: one that another run's channel gives up goes to the handler from before")
{
    wh_options without = with_signal(SIGUSR1);
    without.hog_signal = -1;
    struct sigaction action = {}, before = {};
    StderrKept err;
    first_came = 0;
    action.sa_handler = first;
    REQUIRE(sigaction(SIGUSR1, &action, &before) == 0);
    for (int round = 1; round <= 4; round++) { /* the watchdog's handler is there from the first */
        INFO("round " << round);
        std::atomic<bool> runs{false}, stopped{false};
        std::thread hogs;
        in_run(
            [&] {
                WH_CHAN(int) ch = wh_chan_create(int, 1);
                CHECK(wh_signal_notify(ch, SIGUSR1) == 0);
                hogs = std::thread([&] {
                    const wh_options options = with_signal(SIGUSR1);
                    in_run(
                        [&] {
                            runs = true;
                            until([&] { return stopped.load(); });
                            CHECK(hog_until_found());
                        },
                        &options);
                });
                until([&] { return runs.load(); });
                raise(SIGUSR1);
                int number = 0;
                const int rc = wh_chan_recv(ch, &number);
                CHECK(rc == 1);
                CHECK(first_came == 2 * (round - 1));
                if (round % 2 == 0) {
                    stopped = true; /* the watchdog goes first */
                    hogs.join();
                }
                wh_signal_stop(ch);
                wh_chan_unref(ch);
                raise(SIGUSR1);
                CHECK(first_came == 2 * round - 1);
                stopped = true;
            },
            &without);
        if (hogs.joinable())
            hogs.join();
        raise(SIGUSR1);
        CHECK(first_came == 2 * round);
    }
    sigaction(SIGUSR1, &before, nullptr);
}
