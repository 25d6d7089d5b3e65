/*
 * Coroutines that keep their worker to themselves: what the watchdog does for the others, for one
 * worker and for several, with its signal and without; and wh_checkpoint().
 *
 * How long something takes depends on what else the machine does: where a bound is close, the best
 * of several rounds counts, because a mechanism that does not work is beyond it in all of them.
 */
#include "hog.hpp"
#include "on_workers.hpp"
#include "tests/base/child.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <arpa/inet.h>
#include <atomic>
#include <csignal>
#include <ctime>
#include <memory>
#include <string>
#include <thread>

namespace
{

enum { ROUNDS_MAX = 20 }; /* until one in which nobody else wanted the core */

/* Where hogs come one behind the other to spare workers: three are found, each within 15 ms, and
 * share two cores with the rest. They take 400 ms each. */
constexpr int64_t SHARED_GAP_NS = 120 * WH_MILLISECOND;

/* Beside one that calls wh_checkpoint() all the time others run every tick (half of it), if the
 * machine gives the worker a core meanwhile. */
constexpr int64_t CHECKPOINT_HOG_NS = 40 * WH_MILLISECOND;

wh_spawn_options migrant()
{
    wh_spawn_options options = {};
    options.migrate = true;
    return options;
}

wh_options one_worker()
{
    wh_options options = {};
    options.workers = 1;
    options.hog_ns = 10 * WH_MILLISECOND;
    return options;
}

/* Ticks every 10 ms until told to end; returns the longest time between two. */
intptr_t tick_gap(const std::atomic<bool> *ends)
{
    int64_t gap_ns = 0, last_ns = thread_now();
    while (!*ends) {
        wh_sleep(10 * WH_MILLISECOND);
        int64_t now_ns = thread_now();
        gap_ns = std::max(gap_ns, now_ns - last_ns);
        last_ns = now_ns;
    }
    return static_cast<intptr_t>(gap_ns);
}

/* Sends back what comes. */
void echo(int fd)
{
    char byte;
    while (wh_read(fd, &byte, 1) == 1 && wh_write(fd, &byte, 1) == 1)
        ;
}

/* A client that is no coroutine: asks once a millisecond until told to end; returns the longest
 * time that an answer took. */
int64_t ask_gap(int fd, const std::atomic<bool> *ends)
{
    int64_t gap_ns = 0;
    char byte = 'x';
    while (!*ends) {
        int64_t asked_ns = thread_now();
        if (write(fd, &byte, 1) != 1 || read(fd, &byte, 1) != 1)
            return INT64_MAX;
        gap_ns = std::max(gap_ns, thread_now() - asked_ns);
        usleep(1000); /* time itself */
    }
    shutdown(fd, SHUT_WR);
    return gap_ns;
}

struct Gaps {
    int64_t tick_ns = 0;
    int64_t ask_ns = 0;
    uint64_t hogs = 0;
};

/* One worker, on which the root is a hog; others with leave to migrate tick and echo. */
template <typename F> Gaps gaps_beside(const wh_options &options, const F &hog)
{
    Gaps gaps;
    int pair[2];
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    std::atomic<bool> ends{false};
    std::thread client([&] { gaps.ask_ns = ask_gap(pair[1], &ends); });
    int rc = in_run(
        [&] {
            wh_spawn_options may = migrant();
            std::vector<wh_coro *> tickers;
            for (int i = 0; i < 4; i++)
                tickers.push_back(spawn([&ends] { return tick_gap(&ends); }, &may));
            wh_coro *server = spawn([&pair] { echo(pair[0]); }, &may);
            wh_sleep(20 * WH_MILLISECOND);
            hog();
            ends = true;
            for (wh_coro *ticker : tickers)
                gaps.tick_ns = std::max<int64_t>(gaps.tick_ns, join(ticker));
            join(server);
            wh_stats stats;
            wh_stats_get(&stats);
            gaps.hogs = stats.hogs;
        },
        &options);
    client.join();
    CHECK(rc == 0);
    close(pair[0]);
    close(pair[1]);
    return gaps;
}

Gaps gaps_beside_hog(const wh_options &options, int64_t hog_ns)
{
    return gaps_beside(options, [=] { hog_for(hog_ns); });
}

} // namespace

TEST_CASE("hog: what may migrate runs on beside one that computes for a second")
{
    StderrKept err;
    wh_options options = one_worker();
    Gaps best = {INT64_MAX, INT64_MAX, 0};
    for (int i = 0; i < ROUNDS_MAX && std::max(best.tick_ns, best.ask_ns) >= 30 * WH_MILLISECOND;
         i++) {
        Gaps gaps = gaps_beside_hog(options, WH_SECOND);
        CHECK(gaps.hogs >= 1);
        best.tick_ns = std::min(best.tick_ns, gaps.tick_ns);
        best.ask_ns = std::min(best.ask_ns, gaps.ask_ns);
    }
    INFO("ticks " << best.tick_ns << " ns, echo " << best.ask_ns << " ns");
    CHECK(best.tick_ns < 30 * WH_MILLISECOND);
    CHECK(best.ask_ns < 30 * WH_MILLISECOND);
}

TEST_CASE("hog: without the watchdog they wait for it")
{
    wh_options options = one_worker();
    options.hog_ns = -1;
    Gaps gaps = gaps_beside_hog(options, 300 * WH_MILLISECOND);
    CHECK(gaps.hogs == 0);
    CHECK(gaps.tick_ns > 250 * WH_MILLISECOND);
    CHECK(gaps.ask_ns > 250 * WH_MILLISECOND);
}

TEST_CASE("hog: is named once, with where it was started, and those that wait for it are counted")
{
    StderrKept err;
    wh_options options = one_worker();
    wh_stats stats = {};
    std::atomic<bool> ends{false};
    in_run(
        [&] {
            std::vector<wh_coro *> bound;
            for (int i = 0; i < 3; i++)
                bound.push_back(spawn([&ends] { return tick_gap(&ends); }));
            wh_spawn_options named = {};
            named.name = "the glutton";
            wh_spawn_options may = migrant();
            wh_coro *ticker = spawn([&ends] { return tick_gap(&ends); }, &may);
            wh_sleep(20 * WH_MILLISECOND);
            join(spawn([] { return hog_for(200 * WH_MILLISECOND); }, &named));
            ends = true;
            for (wh_coro *coro : bound)
                CHECK(join(coro) > 100 * WH_MILLISECOND);
            join(ticker);
            wh_stats_get(&stats);
        },
        &options);
    CHECK(stats.hogs == 1);
    CHECK(stats.coros_hogged == 3);
    CHECK(stats.workers_spare == 1);
    INFO(err.text());
    CHECK(count_of(err.text(), "hog: ") == 1);
    CHECK(count_of(err.text(), "the glutton") == 1);
    CHECK(count_of(err.text(), "in_run.hpp") >= 1);
}

TEST_CASE("hog: a run in which nothing may migrate stays alone, and has it named")
{
    StderrKept err;
    wh_options options = one_worker();
    wh_stats stats = {};
    in_run(
        [&] {
            std::atomic<bool> ends{false};
            wh_coro *ticker = spawn([&ends] { return tick_gap(&ends); });
            wh_yield();
            hog_for(400 * WH_MILLISECOND);
            ends = true;
            intptr_t gap_ns = join(ticker);
            CHECK(gap_ns >= 390 * WH_MILLISECOND);
            wh_stats_get(&stats);
        },
        &options);
    CHECK(stats.hogs == 1);
    CHECK(stats.workers == 1);
    CHECK(count_of(err.text(), "hog: ") == 1);
}

namespace
{
/* Computes for as long, with calls that do not wait in between. */
intptr_t hog_with_calls(int64_t ns, bool checks)
{
    WH_CHAN(int) none = wh_chan_create(int, 1);
    int64_t end_ns = thread_now() + ns;
    int number;
    while (thread_now() < end_ns && wh_chan_try_recv(none, &number) == -EAGAIN)
        if (checks && wh_checkpoint() < 0)
            break;
    wh_chan_unref(none);
    return 0;
}
} // namespace

TEST_CASE("hog: one that makes calls which do not wait is one, too")
{
    StderrKept err;
    const wh_options options = one_worker();
    int64_t gap_ns = INT64_MAX;
    for (int i = 0; i < ROUNDS_MAX && gap_ns >= 100 * WH_MILLISECOND; i++) {
        const Gaps gaps = gaps_beside(options, [] { hog_with_calls(500 * WH_MILLISECOND, false); });
        CHECK(gaps.hogs >= 1);
        gap_ns = std::min(gap_ns, std::max(gaps.tick_ns, gaps.ask_ns));
    }
    INFO("gap " << gap_ns << " ns");
    CHECK(gap_ns < 100 * WH_MILLISECOND); /* the signal has to come between two calls */
    INFO(err.text());
    CHECK(count_of(err.text(), "hog: root #1") >= 1);
}

TEST_CASE("hog: a sleep that is none of whorl's is named")
{
    StderrKept err;
    wh_options options = one_worker();
    options.hog_ns = 200 * WH_MILLISECOND; /* it sleeps by then, whatever else the machine does */
    in_run(
        [] {
            timespec ts = {1, 0};
            const int rc = nanosleep(&ts, nullptr); /* time itself */
            CHECK(rc == -1);
            CHECK(errno == EINTR);
            hog_for(50 * WH_MILLISECOND); /* ThreadSanitizer may hold the signal back until now */
        },
        &options);
    INFO(err.text());
    CHECK(count_of(err.text(), "in a system call that blocks") == 1);
    CHECK(count_of(err.text(), "wh_mutex_lock") == 1); /* the cure of what blocks */
    CHECK(count_of(err.text(), "wh_checkpoint") == 0); /* not that of a loop */
}

TEST_CASE("hog: one that was still computing when it was found, and sleeps now, is named by that")
{
    StderrKept err;
    wh_options options = one_worker();
    options.hog_ns = WH_SECOND;
    in_run(
        [&] {
            sigset_t none, before;
            sigemptyset(&none);
            sigset_t held = none;
            sigaddset(&held, SIGURG);
            REQUIRE(pthread_sigmask(SIG_BLOCK, &held, &before) == 0);
            wh_stats stats = {};
            while (!stats.hogs) { /* found where it computes */
                hog_for(WH_MILLISECOND);
                wh_stats_get(&stats);
            }
            const int rc = ppoll(nullptr, 0, nullptr, &none); /* ends with the signal */
            CHECK(rc == -1);
            CHECK(errno == EINTR);
            pthread_sigmask(SIG_SETMASK, &before, nullptr);
            hog_for(50 * WH_MILLISECOND); /* as above */
        },
        &options);
    INFO(err.text());
    CHECK(count_of(err.text(), "in a system call that blocks") == 1);
}

TEST_CASE("hog: a system call that it is blocked in is restarted")
{
    StderrKept err;
    wh_options options = one_worker();
    int fds[2];
    REQUIRE(pipe(fds) == 0);
    std::atomic<bool> ends{false};
    std::thread writer;
    in_run(
        [&] {
            wh_spawn_options may = migrant();
            wh_coro *ticker = spawn([&ends] { return tick_gap(&ends); }, &may);
            wh_yield();
            writer = std::thread([&] {
                usleep(150000); /* time itself */
                CHECK(write(fds[1], "x", 1) == 1);
            });
            char byte = 0;
            ssize_t n = read(fds[0], &byte, 1); /* blocks the worker */
            int error = n < 0 ? errno : 0;
            ends = true;
            wh_stats stats;
            wh_stats_get(&stats);
            join(ticker);
            CHECK(n == 1);
            CHECK(error == 0);
            CHECK(byte == 'x');
            CHECK(stats.hogs == 1);
        },
        &options);
    writer.join();
    close(fds[0]);
    close(fds[1]);
}

TEST_CASE("hog: without a signal it is counted and named by its start, and not interrupted")
{
    StderrKept err;
    wh_options options = one_worker();
    options.hog_signal = -1;
    wh_stats stats = {};
    int rc = 0;
    in_run(
        [&] {
            /* Ended with EINTR by any signal's handler. */
            timespec ts = {0, 150000000};
            rc = nanosleep(&ts, nullptr); /* time itself */
            wh_stats_get(&stats);
        },
        &options);
    CHECK(rc == 0);
    CHECK(stats.hogs == 1);
    INFO(err.text());
    CHECK(count_of(err.text(), "hog: root #") == 1);
}

namespace
{
std::atomic<int> passed{0};

int64_t own_cpu_ns()
{
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return ts.tv_sec * WH_SECOND + ts.tv_nsec;
}
} // namespace

TEST_CASE("hog: a signal that the watchdog has not sent goes to the handler from before")
{
    StderrKept err;
    struct sigaction mine = {}, before = {};
    mine.sa_handler = [](int) { passed++; };
    REQUIRE(sigaction(SIGUSR2, &mine, &before) == 0);
    wh_options options = one_worker();
    options.hog_signal = SIGUSR2;
    passed = 0;
    wh_stats stats = {};
    in_run(
        [&] {
            hog_for(50 * WH_MILLISECOND);
            raise(SIGUSR2);
            wh_stats_get(&stats);
        },
        &options);
    CHECK(stats.hogs == 1);
    CHECK(passed == 1);
    raise(SIGUSR2); /* outside of a run, too */
    CHECK(passed == 2);
}

TEST_CASE("hog: the signal of one run's watchdog is given to nobody in the other runs")
{
    StderrKept err;
    wh_options options = one_worker(), without = one_worker();
    options.hog_signal = SIGUSR2;
    without.hog_ns = -1;
    int during = 1, after = 1;
    wh_stats stats = {};
    in_run(
        [&] {
            std::thread([&] {
                in_run(
                    [&] {
                        WH_CHAN(int) ch = wh_chan_create(int, 1);
                        during = wh_signal_notify(ch, SIGUSR2);
                        wh_chan_unref(ch);
                    },
                    &without);
            }).join();
            hog_for(50 * WH_MILLISECOND); /* its handler is still there */
            wh_stats_get(&stats);
        },
        &options);
    CHECK(during == -EINVAL);
    CHECK(stats.hogs >= 1);
    in_run(
        [&] {
            WH_CHAN(int) ch = wh_chan_create(int, 1);
            after = wh_signal_notify(ch, SIGUSR2);
            wh_chan_unref(ch);
        },
        &without);
    CHECK(after == 0);
}

TEST_CASE("hog: how far a worker has come while it sleeps is not where it is when it has woken")
{
    int fds[2], same = 0;
    REQUIRE(pipe(fds) == 0);
    const wh_options options = one_worker();
    in_run(
        [&] {
            struct worker *w = worker_tls;
            std::atomic<int> alone{0};
            std::atomic<uint64_t> asleep{0};
            std::thread waker([&] {
                for (int round = 1; round <= 50; round++) {
                    CHECK(write(fds[1], "a", 1) == 1);
                    while (alone < round || where_of(w) != IN_SLEEP)
                        std::this_thread::yield();
                    asleep = worker_progress(w);
                    CHECK(write(fds[1], "b", 1) == 1);
                }
            });
            for (int round = 1; round <= 50; round++) {
                char byte;
                (void)wh_read(fds[0], &byte, 1);
                alone = round; /* in this turn nobody else runs, until it sleeps again */
                (void)wh_read(fds[0], &byte, 1);
                std::vector<wh_coro *> others;
                same += worker_progress(w) == asleep;
                for (int i = 0; i < 4; i++)
                    others.push_back(spawn([&] { same += worker_progress(w) == asleep; }));
                for (wh_coro *other : others)
                    join(other);
            }
            waker.join();
        },
        &options);
    close(fds[0]);
    close(fds[1]);
    CHECK(same == 0);
}

TEST_CASE("hog: who merely waits for its core is not named")
{
    const ChildEnd end = in_child([] {
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(sched_getcpu(), &one);
        CHILD_REQUIRE(sched_setaffinity(0, sizeof one, &one) == 0);
        std::atomic<bool> ends{false};
        std::vector<std::thread> others;
        for (int i = 0; i < 12; i++)
            others.emplace_back([&ends] {
                while (!ends)
                    ;
            });
        std::string said;
        auto err = std::make_unique<StderrKept>();
        const wh_options options = one_worker();
        int64_t longest_ns = 0;
        in_run(
            [&] {
                for (int i = 0; i < 20; i++) {
                    /* Two milliseconds of its own, in which the others have many more. */
                    const int64_t begin_ns = wh_now(), cpu_ns = own_cpu_ns();
                    while (own_cpu_ns() - cpu_ns < 2 * WH_MILLISECOND)
                        ;
                    longest_ns = std::max(longest_ns, wh_now() - begin_ns);
                    wh_sleep(WH_MICROSECOND);
                }
            },
            &options);
        said = err->text();
        err.reset();
        ends = true;
        for (std::thread &other : others)
            other.join();
        CHILD_REQUIRE(longest_ns > 20 * WH_MILLISECOND); /* it did wait */
        fputs(said.c_str(), stderr);
        CHILD_REQUIRE(said.find("hog:") == std::string::npos);
        return 0;
    });
    INFO(end.how());
    CHECK(end.exited(0));
}

TEST_CASE("hog: when the caller has blocked the signal it is blocked again after the run")
{
    StderrKept err;
    sigset_t set, before, after;
    sigemptyset(&set);
    sigaddset(&set, SIGURG);
    pthread_sigmask(SIG_BLOCK, &set, &before);
    wh_options options = one_worker();
    wh_stats stats = {};
    in_run(
        [&] {
            hog_for(50 * WH_MILLISECOND);
            wh_stats_get(&stats);
        },
        &options);
    CHECK(stats.hogs == 1);
    pthread_sigmask(SIG_SETMASK, &before, &after);
    CHECK(sigismember(&after, SIGURG));
}

TEST_CASE("hog: with as many as there are workers, spare and not, the rest goes on")
{
    StderrKept err;
    wh_options options = one_worker();
    options.workers = 2;
    int64_t gap_ns = INT64_MAX;
    uint64_t spare = 0;
    for (int i = 0; i < ROUNDS_MAX && (gap_ns >= SHARED_GAP_NS || spare < 2); i++)
        in_run(
            [&] {
                std::atomic<bool> ends{false};
                wh_spawn_options may = migrant();
                wh_coro *ticker = spawn([&ends] { return tick_gap(&ends); }, &may);
                wh_sleep(20 * WH_MILLISECOND);
                /* The third and the fourth find their workers taken, and come to spare ones. */
                std::vector<wh_coro *> hogs;
                for (int n = 0; n < 3; n++)
                    hogs.push_back(spawn([] { return hog_for(400 * WH_MILLISECOND); }));
                hog_for(400 * WH_MILLISECOND);
                ends = true;
                for (wh_coro *hog : hogs)
                    join(hog);
                gap_ns = std::min<int64_t>(gap_ns, join(ticker));
                wh_stats stats;
                wh_stats_get(&stats);
                spare = stats.workers_spare;
                CHECK(stats.hogs >= 3);
            },
            &options);
    INFO("gap " << gap_ns << " ns");
    CHECK(gap_ns < SHARED_GAP_NS);
    CHECK(spare >= 2);
}

TEST_CASE("hog: when it has ended the spare worker takes no more, and what it had goes back")
{
    StderrKept err;
    wh_options options = one_worker();
    in_run(
        [&] {
            std::atomic<bool> ends{false};
            std::atomic<unsigned> worker{0};
            wh_spawn_options may = migrant();
            wh_coro *wanderer = spawn(
                [&] {
                    while (!ends) {
                        wh_sleep(WH_MILLISECOND);
                        worker = wh_worker();
                    }
                },
                &may);
            for (int i = 0; i < 3; i++) {
                int64_t end_ns = thread_now() + 5 * WH_SECOND;
                while (worker != 2 && thread_now() < end_ns)
                    ; /* no call */
                unsigned beside = worker;
                until([&] { return worker == 1; });
                CHECK(beside == 2);
            }
            ends = true;
            join(wanderer);
            wh_stats stats;
            wh_stats_get(&stats);
            CHECK(stats.workers_spare == 1);
        },
        &options);
}

TEST_CASE("hog: what others start and end meanwhile does not meet the hog's malloc")
{
    StderrKept err;
    wh_options options = one_worker();
    std::atomic<uint64_t> done{0};
    in_run(
        [&] {
            std::atomic<bool> ends{false};
            wh_spawn_options may = migrant();
            std::vector<wh_coro *> others;
            /* Timers that are made on this worker and destroyed on the spare one; contexts whose
             * functions for afterwards are this worker's; calls on other threads whose callers have
             * left. Each has memory that the handler would have to free. */
            for (int i = 0; i < 8; i++)
                others.push_back(spawn(
                    [&] {
                        while (!ends) {
                            wh_timer *timer = wh_timer_create(WH_MILLISECOND, 0);
                            wh_timer_wait(timer);
                            wh_timer_destroy(timer);
                            wh_ctx *ctx = wh_ctx_create(NULL);
                            wh_after *after;
                            wh_ctx_after(ctx, &after, +[] {});
                            wh_sleep(WH_MILLISECOND / 2);
                            wh_ctx_cancel(ctx, 0);
                            wh_ctx_after_stop(after);
                            wh_ctx_destroy(ctx);
                            WH_WITH_TIMEOUT(WH_MILLISECOND)
                            {
                                (void)wh_blocking(NULL, usleep, 1000u);
                            }
                            done++;
                        }
                    },
                    &may));
            wh_yield();
            for (int round = 0; round < 20; round++) {
                int64_t end_ns = thread_now() + 40 * WH_MILLISECOND;
                while (thread_now() < end_ns)
                    free(malloc(64 + static_cast<size_t>(end_ns) % 512));
                wh_sleep(2 * WH_MILLISECOND); /* some come back */
            }
            ends = true;
            for (wh_coro *other : others)
                join(other);
        },
        &options);
    CHECK(done > 20);
}

TEST_CASE("checkpoint: lets others run, and says when it is time to end")
{
    StderrKept err;
    wh_options options = one_worker();
    options.hog_ns = CHECKPOINT_HOG_NS;
    int64_t gap_ns = INT64_MAX;
    uint64_t hogs = UINT64_MAX; /* in the best round: others may have the core */
    for (int i = 0; i < ROUNDS_MAX && (gap_ns >= 3 * CHECKPOINT_HOG_NS || hogs); i++)
        in_run(
            [&] {
                std::atomic<bool> ends{false};
                wh_coro *ticker = spawn([&ends] { return tick_gap(&ends); });
                wh_yield();
                wh_coro *worker = spawn([] {
                    intptr_t rc;
                    while ((rc = wh_checkpoint()) == 0)
                        ;
                    return rc;
                });
                wh_sleep(20 * CHECKPOINT_HOG_NS);
                wh_cancel(worker);
                CHECK(join(worker) == -ECANCELED);
                ends = true;
                gap_ns = std::min<int64_t>(gap_ns, join(ticker));
                wh_stats stats;
                wh_stats_get(&stats);
                hogs = std::min(hogs, stats.hogs);
            },
            &options);
    INFO("gap " << gap_ns << " ns");
    CHECK(gap_ns < 3 * CHECKPOINT_HOG_NS);
    CHECK(hogs == 0);
}

TEST_CASE("checkpoint: lets others run also between calls that do not wait")
{
    StderrKept err;
    wh_options options = one_worker();
    options.hog_ns = CHECKPOINT_HOG_NS;
    int64_t gap_ns = INT64_MAX;
    for (int i = 0; i < ROUNDS_MAX && gap_ns >= 3 * CHECKPOINT_HOG_NS; i++)
        in_run(
            [&] {
                std::atomic<bool> ends{false};
                wh_coro *ticker = spawn([&ends] { return tick_gap(&ends); });
                wh_yield();
                hog_with_calls(20 * CHECKPOINT_HOG_NS, true);
                ends = true;
                gap_ns = std::min<int64_t>(gap_ns, join(ticker));
            },
            &options);
    INFO("gap " << gap_ns << " ns");
    CHECK(gap_ns < 3 * CHECKPOINT_HOG_NS);
}

TEST_CASE("checkpoint: counts as the one switch that it is")
{
    const wh_options options = one_worker();
    in_run(
        [] {
            wh_stats before, now;
            int refused = 0;
            wh_yield();
            wh_stats_get(&before);
            do {
                refused += wh_checkpoint() != 0;
                wh_stats_get(&now);
            } while (now.loop_turns < before.loop_turns + 5);
            CHECK(refused == 0);
            CHECK(now.switches - before.switches <= 2 * 5);
        },
        &options);
}

TEST_CASE("checkpoint: a deadline ends it, too")
{
    wh_options options = one_worker();
    in_run(
        [&] {
            int rc = 0;
            WH_WITH_TIMEOUT(30 * WH_MILLISECOND)
            {
                while ((rc = wh_checkpoint()) == 0)
                    ;
            }
            CHECK(rc == -ETIMEDOUT);
        },
        &options);
    CHECK(wh_checkpoint() == 0); /* outside */
}

TEST_CASE("hog: a library for a sanitizer has more patience")
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    const bool patient = true;
#else
    const bool patient = false;
#endif
    StderrKept err;
    wh_options options = one_worker();
    options.hog_ns = 0;
    in_run([] { hog_for(200 * WH_MILLISECOND); }, &options);
    INFO(err.text());
    CHECK(count_of(err.text(), "hog: root #1") == (patient ? 0 : 1));
}

TEST_CASE("hog: options out of their range are refused")
{
    StderrKept err;
    for (int64_t bad : {INT64_C(-2), INT64_C(1), 61 * WH_SECOND}) {
        wh_options options = one_worker();
        options.hog_ns = bad;
        CHECK(in_run([] {}, &options) == -EINVAL);
    }
    for (int bad : {-2, SIGKILL, SIGSTOP, 1000}) {
        wh_options options = one_worker();
        options.hog_signal = bad;
        CHECK(in_run([] {}, &options) == -EINVAL);
    }
    CHECK(count_of(err.text(), "hog_ns") == 3);
    CHECK(count_of(err.text(), "hog_signal") == 4);
}
