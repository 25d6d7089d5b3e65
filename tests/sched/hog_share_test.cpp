/*
 * What is under way when a hog makes a run with one worker a shared one, or keeps its worker from
 * what others ask of it.
 */
#include "hog.hpp"
#include "on_workers.hpp"

#include <catch2/catch_test_macros.hpp>

#include <atomic>
#include <csignal>

namespace
{

wh_options workers(unsigned count)
{
    wh_options options = {};
    options.workers = count;
    options.hog_ns = 10 * WH_MILLISECOND;
    return options;
}

/* Gives the run something that may migrate: then a hog makes it shared. */
void have_a_migrant()
{
    wh_spawn_options may = {};
    may.migrate = true;
    wh_detach(spawn([] { (void)wh_sleep(WH_HOUR); }, &may));
}

/* Computes until it holds, for ten seconds at most. Returns whether it does. */
template <typename F> bool hog_until(const F &holds)
{
    const int64_t end_ns = thread_now() + 10 * WH_SECOND;
    while (!holds() && thread_now() < end_ns)
        ;
    return holds();
}

/* Computes until the watchdog's signal has found it. */
bool hog_until_found()
{
    const struct worker *w = worker_tls;
    const uint32_t before = __atomic_load_n(&w->watched.answered, __ATOMIC_RELAXED);
    return hog_until(
        [=] { return __atomic_load_n(&w->watched.answered, __ATOMIC_RELAXED) != before; });
}

} // namespace

TEST_CASE("hog: what it starts itself, with leave to migrate, runs on beside it")
{
    wh_options options = workers(1);
    in_run(
        [] {
            wh_spawn_options may = {};
            may.migrate = true;
            std::atomic<bool> ran{false};
            CHECK(hog_until_found()); /* nothing may migrate yet */
            wh_coro *migrant = spawn([&ran] { ran = true; }, &may);
            CHECK(hog_until([&ran] { return ran.load(); }));
            join(migrant);
        },
        &options);
}

TEST_CASE("hog: a timer that it sets itself fires beside it")
{
    for (unsigned count : {1u, 2u}) {
        wh_options options = workers(count);
        in_run(
            [] {
                wh_spawn_options may = {};
                may.migrate = true;
                std::atomic<bool> fired{false};
                wh_timer *timer = wh_timer_create(WH_HOUR, 0);
                wh_coro *waiter = spawn(
                    [&] {
                        const int rc = wh_timer_wait(timer);
                        fired = rc >= 0;
                    },
                    &may);
                until_state(waiter, CORO_PARKED);
                wh_timer_stop(timer);
                CHECK(hog_until_found()); /* no timer and no operation is under way */
                wh_timer_reset(timer, WH_MILLISECOND, 0);
                CHECK(hog_until([&fired] { return fired.load(); }));
                join(waiter);
                wh_timer_destroy(timer);
            },
            &options);
    }
}

TEST_CASE("hog: all members of a context that it cancels itself are told beside it")
{
    static constexpr int members = 3000; /* more than the call tells at once */
    for (unsigned count : {1u, 2u}) {
        wh_options options = workers(count);
        options.migrate = true;
        in_run(
            [] {
                static std::atomic<int> parked, told;
                static wh_event never;
                parked = told = 0;
                wh_ctx *ctx = wh_ctx_create(NULL);
                std::vector<wh_coro *> coros;
                WH_WITH_CTX(ctx)
                {
                    for (int i = 0; i < members; i++)
                        coros.push_back(spawn([] {
                            parked++;
                            told += wh_event_wait(&never) == -ECANCELED;
                        }));
                }
                until([] { return parked == members; });
                CHECK(hog_until_found());
                wh_ctx_cancel(ctx, -1);
                CHECK(hog_until([] { return told == members; }));
                for (wh_coro *coro : coros)
                    join(coro);
                wh_ctx_destroy(ctx);
            },
            &options);
    }
}

TEST_CASE("hog: a close that waits for an operation while the run becomes shared comes to its end")
{
    wh_options options = workers(1);
    in_run(
        [] {
            int fds[2], again[2];
            char byte = 0;
            CHECK(pipe(fds) == 0);
            have_a_migrant();
            wh_coro *reader = spawn([&fds] {
                char c;
                ssize_t n = wh_read(fds[0], &c, 1);
                hog_for(60 * WH_MILLISECOND);
                return n;
            });
            wh_sleep(WH_MILLISECOND);
            int rc = wh_close(fds[0]);
            CHECK(rc == 0);
            CHECK(join(reader) == -EBADF);
            /* The number is as good as new. */
            CHECK(pipe(again) == 0);
            CHECK(again[0] == fds[0]);
            CHECK(write(again[1], "x", 1) == 1);
            ssize_t n = wh_read(again[0], &byte, 1);
            CHECK(n == 1);
            for (int fd : {fds[1], again[0], again[1]})
                (void)wh_close(fd);
        },
        &options);
}

TEST_CASE("hog: a number that comes again while its closer has to wait is closed as any")
{
    wh_options options = workers(1);
    in_run(
        [] {
            int old[2], spare[2];
            static int again[2];
            std::atomic<bool> reads{false};
            wh_spawn_options may = {};
            may.migrate = true;
            CHECK(pipe(spare) == 0);
            CHECK(pipe(old) == 0);
            wh_coro *taker = spawn(
                [&reads] {
                    char c;
                    wh_sleep(20 * WH_MILLISECOND);
                    if (pipe(again) < 0)
                        return static_cast<ssize_t>(-errno);
                    reads = true;
                    return static_cast<ssize_t>(wh_read(again[0], &c, 1));
                },
                &may);
            wh_sleep(WH_MILLISECOND);
            wh_coro *closer = spawn([&old] { return wh_close(old[0]); });
            wh_coro *hog = spawn([] { hog_for(100 * WH_MILLISECOND); });
            close(spare[0]);
            CHECK(join(closer) == 0);
            join(hog);
            until([&] { return reads.load(); });
            wh_sleep(5 * WH_MILLISECOND); /* time itself: it is in the kernel by then */
            int rc = wh_close(again[0]);
            CHECK(rc == 0);
            CHECK(join(taker) == -EBADF);
            for (int fd : {spare[1], old[1], again[1]})
                (void)wh_close(fd);
        },
        &options);
}

TEST_CASE("hog: the run's end is told to what its worker has started and others run")
{
    static std::atomic<int> told{0};
    told = 0;
    wh_options options = workers(2);
    options.grace_ns = 2 * WH_SECOND;
    int rc = in_run(
        [] {
            std::atomic<bool> *sleeps = new std::atomic<bool>(false);
            wh_detach(on(wh_worker() == 1 ? 2 : 1, [sleeps] {
                wh_detach(spawn([sleeps] {
                    *sleeps = true;
                    told = wh_sleep(WH_HOUR);
                }));
                hog_for(400 * WH_MILLISECOND);
            }));
            until([&] { return sleeps->load(); });
            wh_sleep(30 * WH_MILLISECOND);
            delete sleeps;
        },
        &options);
    CHECK(rc == 0);
    CHECK(told == -ECANCELED);
}

TEST_CASE("hog: the end of a coroutine that it has cancelled does not wait for it")
{
    wh_options options = workers(2);
    options.hog_signal = -1;
    in_run(
        [] {
            std::atomic<int64_t> ran_ns{0};
            unsigned other = wh_worker() == 1 ? 2 : 1;
            wh_detach(on(other, [] {
                while (wh_sleep(WH_MILLISECOND) == 0)
                    ;
            }));
            wh_sleep(20 * WH_MILLISECOND);
            wh_coro *stolen = spawn([] {});
            wh_cancel(stolen);
            wh_detach(stolen);
            hog_for(5 * WH_MILLISECOND);
            int64_t began_ns = thread_now();
            wh_coro *behind = on(other, [&ran_ns] { ran_ns = thread_now(); });
            hog_for(500 * WH_MILLISECOND);
            join(behind);
            CHECK(ran_ns - began_ns < 300 * WH_MILLISECOND);
        },
        &options);
}

TEST_CASE("hog: its signal cannot be asked for as a channel")
{
    wh_options options = workers(1);
    in_run(
        [] {
            WH_CHAN(int) ch = wh_chan_create(int, 1);
            CHECK(wh_signal_notify(ch, SIGURG) == -EINVAL);
            CHECK(wh_signal_notify(ch, SIGUSR1) == 0);
            wh_signal_stop(ch);
            wh_chan_unref(ch);
        },
        &options);
}
