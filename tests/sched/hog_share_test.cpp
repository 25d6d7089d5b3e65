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

} // namespace

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
