/*
 * spin_test.cpp: whether a worker looks for work before it sleeps, by what it tries.
 *
 * The idle times are made up; the processor time that they cost is real.
 */
extern "C" {
#include "sched/spin.h"
}

#include <catch2/catch_test_macros.hpp>

#include <chrono>
#include <ctime>

namespace
{

using namespace std::chrono_literals;

constexpr int64_t LIMIT_NS = 50000;

/* What lies between two idle times. */
struct Work {
    int64_t cpu_ns;
    uint64_t switches;
};

/* Uses the processor. */
void compute(int64_t ns)
{
    auto cpu_ns = [] {
        timespec ts;
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
        return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
    };
    for (int64_t end_ns = cpu_ns() + ns; cpu_ns() < end_ns;)
        ;
}

/* Has idle times, and work after each. */
class Worker
{
  public:
    /* Returns in how many of them it looked. */
    int idle(int times, const Work &asleep, const Work &looking, int64_t asleep_ns = 5000)
    {
        return idle(times, asleep, looking, asleep_ns, asleep_ns);
    }
    int idle(int times, const Work &asleep, const Work &looking, int64_t asleep_ns,
             int64_t looking_ns)
    {
        int looked = 0;
        for (int i = 0; i < times; i++) {
            const bool looks = spin_now(&spin_, true, switches_);
            const Work &work = looks ? looking : asleep;
            if (!looks || looking_ns >= LIMIT_NS)
                spin_learn(&spin_, asleep_ns);
            else
                spin_found(&spin_, looking_ns);
            const auto began = std::chrono::steady_clock::now();
            compute(work.cpu_ns);
            spin_turn(&spin_, (std::chrono::steady_clock::now() - began) / 1ns);
            switches_ += work.switches;
            looked += looks;
        }
        return looked;
    }

    Worker()
    {
        spin_init(&spin_, LIMIT_NS);
    }

  private:
    spin spin_;
    uint64_t switches_ = 0;
};

/* Until it has tried often enough, and a thousand more in which it tries four. */
constexpr int ENOUGH = 20000, FEW = 8;

/* In how many of a thousand idle times a worker looks that has tried often enough. */
int looks_at_last(const Work &asleep, const Work &looking)
{
    Worker worker;
    worker.idle(ENOUGH, asleep, looking);
    return worker.idle(1000, asleep, looking);
}

} // namespace

TEST_CASE("spin: where a sleep gathers, and looking costs more a switch, the worker sleeps")
{
    CHECK(looks_at_last({20000, 16}, {20000, 4}) <= FEW);
}

TEST_CASE("spin: one peer alone is looked for, though a sleep costs a little less, not much less")
{
    CHECK(looks_at_last({18000, 1}, {20000, 1}) >= 1000 - FEW);
    CHECK(looks_at_last({5000, 1}, {20000, 1}) <= 2 * FEW); /* is tried more often */
}

TEST_CASE("spin: a worker that slept looks again when that has become the cheaper way")
{
    Worker worker;
    worker.idle(ENOUGH, {20000, 16}, {20000, 4});
    worker.idle(2 * ENOUGH, {20000, 4}, {5000, 4});
    CHECK(worker.idle(1000, {20000, 4}, {5000, 4}) >= 1000 - FEW);
}

TEST_CASE("spin: where idle times are long nobody looks, but in one of very many")
{
    Worker worker;
    worker.idle(2000, {1000, 1}, {1000, 1}, 4 * LIMIT_NS);
    CHECK(worker.idle(2000, {1000, 1}, {1000, 1}, 4 * LIMIT_NS) <= 2);
    /* And again when they are short. */
    worker.idle(20, {1000, 1}, {1000, 1});
    CHECK(worker.idle(50, {1000, 1}, {1000, 1}) == 50);
}

TEST_CASE(
    "spin: one peer is looked for again after a lull, though to wake up takes as long as it does")
{
    Worker worker;
    worker.idle(1000, {20000, 1}, {20000, 1});
    worker.idle(20, {1000, 1}, {1000, 1}, 1000 * LIMIT_NS);
    /* Asleep its answers seem to take 70 us, of which 30 are its own. */
    for (int asleep_ns : {70000, 100000, 150000}) {
        worker.idle(2000, {20000, 1}, {20000, 1}, asleep_ns, 30000);
        CHECK(worker.idle(1000, {20000, 1}, {20000, 1}, asleep_ns, 30000) >= 1000 - FEW);
    }
}

TEST_CASE("spin: one long idle time now and then does not keep a worker from trying")
{
    Worker worker;
    worker.idle(ENOUGH, {20000, 16}, {20000, 4}, 30000, 30000);
    int looked = 0;
    for (int i = 0; i < 100; i++) {
        looked = i < 90 ? 0 : looked;
        looked += worker.idle(399, {20000, 4}, {5000, 4}, 30000, 30000);
        looked += worker.idle(1, {20000, 4}, {20000, 4}, 100 * LIMIT_NS);
    }
    CHECK(looked >= 10 * 399 * 9 / 10);
}

TEST_CASE("spin: who sleeps because it gathers does so, too, when to wake up takes long")
{
    Worker worker;
    worker.idle(ENOUGH, {20000, 16}, {20000, 4}, 70000, 30000);
    CHECK(worker.idle(1000, {20000, 16}, {20000, 4}, 70000, 30000) <= FEW);
    /* Until that has become the dearer way. */
    worker.idle(2 * ENOUGH, {20000, 4}, {5000, 4}, 70000, 30000);
    CHECK(worker.idle(1000, {20000, 4}, {5000, 4}, 70000, 30000) >= 1000 - FEW);
}

TEST_CASE("spin: what is tried is not judged by turns that took long, nor kept from it by them")
{
    /* Every fiftieth request takes as long as fifty. */
    auto looks_at_last = [](const Work &asleep, const Work &looking) {
        Worker worker;
        const Work longer = {500000, 4};
        int looked = 0;
        for (int i = 0; i < 2 * ENOUGH / 50; i++) {
            looked = i % 20 ? looked : 0;
            looked += worker.idle(49, asleep, looking);
            looked += worker.idle(1, longer, longer);
        }
        return looked;
    };
    CHECK(looks_at_last({10000, 4}, {8000, 4}) >= 1000 - 10 * FEW);
    CHECK(looks_at_last({20000, 16}, {20000, 4}) <= 10 * FEW);
}
