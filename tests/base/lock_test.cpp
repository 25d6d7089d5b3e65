/*
 * lock_test.cpp: the lock of one byte.
 */
#include <catch2/catch_test_macros.hpp>

#include <atomic>
#include <thread>
#include <vector>

extern "C" {
#include "base/lock.h"
}

TEST_CASE("lock: zeroed memory is a free lock, and only a free one can be had at once")
{
    uint8_t lock = 0;
    CHECK(lock_try(&lock));
    CHECK_FALSE(lock_try(&lock));
    lock_give(&lock);
    CHECK(lock_try(&lock));
    lock_give(&lock);
    lock_take(&lock);
    CHECK_FALSE(lock_try(&lock));
    lock_give(&lock);
}

TEST_CASE("lock: one at a time is inside, among more threads than there are cores")
{
    const unsigned threads = 2 * std::thread::hardware_concurrency() + 2;
    constexpr unsigned ROUNDS = 20000;
    struct {
        uint8_t lock;
        uint64_t count[4]; /* no atomics: the lock is what protects them */
    } shared = {};
    std::atomic<unsigned> arrived = 0, torn = 0;
    std::vector<std::thread> all;
    for (unsigned t = 0; t < threads; t++)
        all.emplace_back([&] {
            arrived++;
            while (arrived < threads)
                std::this_thread::yield();
            for (unsigned i = 0; i < ROUNDS; i++) {
                lock_take(&shared.lock);
                uint64_t seen = shared.count[0]++;
                for (uint64_t &count : shared.count)
                    if (&count != shared.count && count++ != seen)
                        torn++;
                lock_give(&shared.lock);
            }
        });
    for (std::thread &thread : all)
        thread.join();
    CHECK(torn == 0);
    for (uint64_t count : shared.count)
        CHECK(count == uint64_t{threads} * ROUNDS);
}

TEST_CASE("lock: who waits for it gets it once the holder, who was not running, has given it")
{
    uint8_t lock = 0;
    std::atomic<bool> waits = false;
    int written = 0;
    lock_take(&lock);
    std::thread waiter([&] {
        waits = true;
        lock_take(&lock);
        written *= 2;
        lock_give(&lock);
    });
    while (!waits)
        std::this_thread::yield();
    /* Long enough for the waiter to stop spinning, mostly. */
    for (int i = 0; i < 1000; i++)
        std::this_thread::yield();
    written = 21;
    lock_give(&lock);
    waiter.join();
    CHECK(written == 42);
}

TEST_CASE("lock: trying never waits and never lets two in")
{
    uint8_t lock = 0;
    uint64_t count = 0;
    std::atomic<uint64_t> had = 0;
    std::vector<std::thread> all;
    for (int t = 0; t < 4; t++)
        all.emplace_back([&] {
            for (int i = 0; i < 100000; i++) {
                if (!lock_try(&lock))
                    continue;
                count++;
                lock_give(&lock);
                had.fetch_add(1, std::memory_order_relaxed);
            }
        });
    for (std::thread &thread : all)
        thread.join();
    CHECK(count == had);
    CHECK(count > 0);
}
