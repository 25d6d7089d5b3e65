/*
 * deque_test.cpp: a worker's stealable queue: order, room, counters that wrap around, and thieves.
 *
 * A deque never looks into what it holds, so numbers stand for coroutines here.
 */
#include <catch2/catch_test_macros.hpp>

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

extern "C" {
#include "sched/deque.h"
}

namespace
{

wh_coro *item(uintptr_t number)
{
    return reinterpret_cast<wh_coro *>(16 * (number + 1));
}

uintptr_t number_of(const wh_coro *coro)
{
    return reinterpret_cast<uintptr_t>(coro) / 16 - 1;
}

/* An empty one, both counters of which are at `at`. */
std::unique_ptr<deque> deque_at(uint32_t at)
{
    auto made = std::make_unique<deque>();
    made->head = made->tail = at;
    return made;
}

/* Where counters begin: as they do, and so that they wrap around within a few steps. */
const uint32_t BEGINNINGS[] = {0, 1, 255, UINT32_MAX, UINT32_MAX - 1, UINT32_MAX - 200, 0x7fffff80};

} // namespace

TEST_CASE("deque: an empty one holds nothing and gives nothing")
{
    for (uint32_t at : BEGINNINGS) {
        auto deque = deque_at(at);
        wh_coro *taken[4];
        CHECK(deque_len(deque.get()) == 0);
        CHECK(deque_take(deque.get(), taken, 4) == 0);
    }
}

TEST_CASE("deque: the oldest comes first, by halves that are rounded up")
{
    for (uint32_t at : BEGINNINGS) {
        INFO("from " << at);
        auto deque = deque_at(at);
        for (uintptr_t i = 0; i < 10; i++)
            CHECK(deque_push(deque.get(), item(i)));
        CHECK(deque_len(deque.get()) == 10);
        wh_coro *taken[DEQUE_SLOTS];
        uintptr_t next = 0;
        for (uint32_t half : {5U, 3U, 1U, 1U, 0U}) {
            uint32_t count = deque_take(deque.get(), taken, DEQUE_SLOTS);
            CHECK(count == half);
            for (uint32_t i = 0; i < count; i++)
                CHECK(number_of(taken[i]) == next++);
        }
        CHECK(next == 10);
        CHECK(deque_len(deque.get()) == 0);
    }
}

TEST_CASE("deque: no more is taken than was asked for")
{
    for (uint32_t at : BEGINNINGS) {
        auto deque = deque_at(at);
        for (uintptr_t i = 0; i < 100; i++)
            CHECK(deque_push(deque.get(), item(i)));
        wh_coro *taken[4] = {};
        CHECK(deque_take(deque.get(), taken, 3) == 3);
        CHECK(number_of(taken[2]) == 2);
        CHECK(taken[3] == nullptr);
        CHECK(deque_take(deque.get(), taken, 1) == 1);
        CHECK(number_of(taken[0]) == 3);
        CHECK(deque_len(deque.get()) == 96);
    }
}

TEST_CASE("deque: a full one refuses, and has room for as many as were taken")
{
    for (uint32_t at : BEGINNINGS) {
        INFO("from " << at);
        auto deque = deque_at(at);
        uintptr_t pushed = 0;
        while (pushed < DEQUE_SLOTS && deque_push(deque.get(), item(pushed)))
            pushed++;
        CHECK(pushed == DEQUE_SLOTS);
        CHECK_FALSE(deque_push(deque.get(), item(pushed)));
        CHECK(deque_len(deque.get()) == DEQUE_SLOTS);

        wh_coro *taken[DEQUE_SLOTS];
        CHECK(deque_take(deque.get(), taken, 7) == 7);
        for (int i = 0; i < 7; i++)
            CHECK(deque_push(deque.get(), item(pushed++)));
        CHECK_FALSE(deque_push(deque.get(), item(pushed)));

        uintptr_t next = 7;
        while (uint32_t count = deque_take(deque.get(), taken, DEQUE_SLOTS))
            for (uint32_t i = 0; i < count; i++)
                CHECK(number_of(taken[i]) == next++);
        CHECK(next == pushed);
    }
}

TEST_CASE("deque: counters that wrap around keep the order")
{
    auto deque = deque_at(UINT32_MAX - 3000);
    wh_coro *taken[DEQUE_SLOTS];
    uintptr_t pushed = 0, next = 0;
    unsigned wrong = 0;
    for (uint32_t step = 0; pushed < 10000; step++) {
        for (uint32_t i = 0; i <= step % 37; i++)
            pushed += deque_push(deque.get(), item(pushed));
        uint32_t count = deque_take(deque.get(), taken, 1 + step % 23);
        for (uint32_t i = 0; i < count; i++)
            wrong += number_of(taken[i]) != next++;
    }
    CHECK(wrong == 0);
    CHECK(deque_len(deque.get()) == pushed - next);
    CHECK(deque->tail < 10000); /* it has */
}

TEST_CASE("deque: an owner and several thieves take each item exactly once, each in order")
{
    constexpr unsigned THIEVES = 3;
    constexpr uintptr_t ITEMS = 200000;
    for (uint32_t at : {0U, UINT32_MAX - 50000}) {
        auto deque = deque_at(at);
        std::vector<std::atomic<uint8_t>> seen(ITEMS);
        std::atomic<bool> done = false;
        std::atomic<unsigned> out_of_order = 0;
        /* Of one taker, later items are younger. Returns how many there were. */
        auto take = [&](uint32_t most, uintptr_t &next) {
            wh_coro *taken[DEQUE_SLOTS];
            uint32_t count = deque_take(deque.get(), taken, most);
            for (uint32_t i = 0; i < count; i++) {
                uintptr_t number = number_of(taken[i]);
                out_of_order += number < next;
                next = number + 1;
                seen[number].fetch_add(1, std::memory_order_relaxed);
            }
            return count;
        };
        std::vector<std::thread> thieves;
        for (unsigned t = 0; t < THIEVES; t++)
            thieves.emplace_back([&, t] {
                uintptr_t next = 0;
                while (!done)
                    if (!take(1 + 40 * t, next))
                        std::this_thread::yield();
            });
        uintptr_t next = 0;
        for (uintptr_t pushed = 0; pushed < ITEMS;) {
            if (deque_push(deque.get(), item(pushed)))
                pushed++;
            else
                take(DEQUE_SLOTS, next);
            if (pushed % 61 == 0)
                take(16, next);
        }
        while (deque_len(deque.get()))
            take(DEQUE_SLOTS, next);
        done = true;
        for (std::thread &thief : thieves)
            thief.join();
        uintptr_t once = 0;
        for (const std::atomic<uint8_t> &count : seen)
            once += count == 1;
        CHECK(once == ITEMS);
        CHECK(out_of_order == 0);
    }
}

TEST_CASE("deque: what the owner wrote before it pushed is there for who takes")
{
    struct Box {
        uintptr_t before, value;
    };
    constexpr uintptr_t BOXES = 100000;
    std::vector<Box> boxes(BOXES);
    auto deque = deque_at(UINT32_MAX - 1000);
    std::atomic<uintptr_t> taken_in_all = 0, wrong = 0;
    auto take_all = [&] {
        while (taken_in_all < BOXES) {
            wh_coro *taken[8];
            uint32_t count = deque_take(deque.get(), taken, 8);
            for (uint32_t i = 0; i < count; i++) {
                const Box *box = reinterpret_cast<Box *>(taken[i]);
                wrong += box->value != static_cast<uintptr_t>(box - boxes.data()) + 1;
            }
            taken_in_all += count;
            if (!count)
                std::this_thread::yield();
        }
    };
    std::thread one(take_all), two(take_all);
    for (Box &box : boxes) {
        box.value = static_cast<uintptr_t>(&box - boxes.data()) + 1;
        while (!deque_push(deque.get(), reinterpret_cast<wh_coro *>(&box)))
            std::this_thread::yield();
    }
    one.join();
    two.join();
    CHECK(wrong == 0);
    CHECK(taken_in_all == BOXES);
}
