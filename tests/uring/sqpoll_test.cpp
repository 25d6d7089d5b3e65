/*
 * sqpoll_test.cpp: submission polling: a thread of the kernel's takes what is submitted.
 */
#include "ring.hpp"
#include "tests/base/child.hpp"
#include "tests/sched/in_run.hpp"

#include <catch2/catch_test_macros.hpp>

#include <fstream>
#include <thread>
#include <vector>

namespace
{

/* How many such threads the process has. */
int polling_threads()
{
    int count = 0;
    DIR *dir = opendir("/proc/self/task");
    while (const struct dirent *entry = readdir(dir)) {
        std::ifstream comm(std::string("/proc/self/task/") + entry->d_name + "/comm");
        std::string name;
        std::getline(comm, name);
        count += name.rfind("iou-sqp", 0) == 0;
    }
    closedir(dir);
    return count;
}

wh_options polling(unsigned workers = 1)
{
    wh_options options = {};
    options.workers = workers;
    options.sqpoll_ns = WH_SECOND;
    options.spin_ns = WH_SECOND;
    return options;
}

} // namespace

TEST_CASE("sqpoll: while the thread is awake operations take no system calls")
{
    const wh_options options = polling();
    in_run(
        [] {
            FdPair pair = socket_pair();
            wh_stats before, after;
            char byte = 0;
            int wrong = 0;
            auto round = [&] {
                wrong += wh_send(pair.a, "x", 1, 0) != 1;
                wrong += wh_recv(pair.b, &byte, 1, 0) != 1 || byte != 'x';
            };
            for (int i = 0; i < 100; i++) /* it learns that spinning pays */
                round();
            wh_stats_get(&before);
            for (int i = 0; i < 1000; i++)
                round();
            wh_stats_get(&after);
            CHECK(wrong == 0);
            CHECK(after.ring_submissions - before.ring_submissions >= 2000);
            /* On a machine with few cores the thread may have had to wait for one of them. */
            CHECK(after.ring_enters - before.ring_enters < 200);
        },
        &options);
}

TEST_CASE("sqpoll: a thread that has gone to sleep is woken, each time")
{
    wh_options options = polling();
    options.sqpoll_ns = WH_MILLISECOND;
    options.spin_ns = -1;
    in_run(
        [] {
            FdPair pair = socket_pair();
            for (int i = 0; i < 50; i++) {
                char byte = 0;
                ssize_t n = wh_send(pair.a, "x", 1, 0);
                CHECK(n == 1);
                n = wh_recv(pair.b, &byte, 1, 0);
                CHECK(n == 1);
                /* A deadline is the wheel's, so the ring has nothing to do meanwhile. */
                const int rc = wh_sleep((i % 5) * WH_MILLISECOND);
                CHECK(rc == 0);
            }
        },
        &options);
}

TEST_CASE("sqpoll: the workers of a run share one thread, and those of another have another")
{
    const wh_options options = polling(3);
    int threads = 0, beside = 0;
    while (polling_threads()) /* of runs that have ended: the kernel takes rings down by and by */
        sched_yield();
    in_run(
        [&] {
            threads = polling_threads();
            std::thread([&] { in_run([&] { beside = polling_threads(); }, &options); }).join();
        },
        &options);
    CHECK(threads == 1);
    CHECK(beside == 2);
}

TEST_CASE("sqpoll: more operations than the queue has entries")
{
    wh_options options = polling();
    options.ring_entries = 8;
    options.spin_ns = -1;
    in_run(
        [] {
            enum { PAIRS = 100 };
            std::vector<FdPair> pairs;
            std::vector<wh_coro *> readers;
            int right = 0;
            for (int i = 0; i < PAIRS; i++)
                pairs.push_back(socket_pair());
            for (FdPair &pair : pairs)
                readers.push_back(spawn([&] {
                    char byte = 0;
                    for (int n = 0; n < 20; n++)
                        right += wh_recv(pair.a, &byte, 1, 0) == 1;
                }));
            for (int n = 0; n < 20; n++)
                for (FdPair &pair : pairs)
                    right += wh_send(pair.b, "x", 1, 0) == 1;
            for (wh_coro *reader : readers)
                join(reader);
            CHECK(right == 2 * 20 * PAIRS);
        },
        &options);
}

TEST_CASE("sqpoll: options out of their range, and a core that is not there")
{
    for (int64_t ns : {int64_t{-1}, int64_t{1}, WH_MILLISECOND - 1, WH_HOUR + 1}) {
        StderrKept err;
        wh_options options = {};
        options.sqpoll_ns = ns;
        CHECK(in_run([] {}, &options) == -EINVAL);
        CHECK(err.text().find("sqpoll_ns") != std::string::npos);
    }
    StderrKept err;
    wh_options options = polling();
    options.sqpoll_core = CPU_SETSIZE;
    CHECK(in_run([] {}, &options) == -EINVAL);
    CHECK(err.text().find("sqpoll_core") != std::string::npos);
    options.sqpoll_core = 1;
    CHECK(in_run([] {}, &options) == 0);
}
