/*
 * wheel_test.cpp: the timing wheel against a sorted map.
 *
 * The model is what the wheel promises and nothing of how it works: a timer expires at the first
 * wheel_advance() whose time, rounded down to a tick, has reached its deadline, rounded up to one.
 */
#include "tests/base/child.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/generators/catch_generators_range.hpp>

#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <vector>

extern "C" {
#include "timers/wheel.h"
}

namespace
{

constexpr int64_t TICK_NS = WHEEL_TICK_NS;
constexpr int64_t SECOND_NS = 1000000000;
constexpr int64_t YEAR_NS = 365 * 24 * 3600 * SECOND_NS;
constexpr int64_t END_NS = INT64_MAX - 1; /* the last deadline that can be armed */

uint64_t floor_tick(int64_t ns)
{
    return static_cast<uint64_t>(ns) / static_cast<uint64_t>(TICK_NS);
}

uint64_t ceil_tick(int64_t ns)
{
    if (ns < 0)
        return 0;
    return (static_cast<uint64_t>(ns) + static_cast<uint64_t>(TICK_NS) - 1) /
           static_cast<uint64_t>(TICK_NS);
}

/* The level on which the timers of the lowest occupied one stand. */
int lowest_level(const struct wheel &wheel)
{
    return wheel.levels ? __builtin_ctzll(wheel.levels) : -1;
}

/* What wheel_validate() leaves out: every timer's digits above its level are the current tick's,
 * and on level 0 no slot lies in the past. From these two follows that levels are in order. */
void validate_more(const struct wheel &wheel)
{
    wheel_validate(&wheel);
    for (unsigned level = 0; level < WHEEL_LEVELS; level++) {
        for (unsigned s = 0; s < WHEEL_SLOTS; s++) {
            const struct list *head = &wheel.slot[level][s];
            list_for_each (node, head) {
                const auto *timer = container_of(node, const struct timer, link);
                uint64_t tick = ceil_tick(timer->deadline_ns);
                unsigned above = (level + 1) * WHEEL_LEVEL_SHIFT;
                if (tick >= wheel.tick)
                    REQUIRE(tick >> above == wheel.tick >> above);
                if (level == 0)
                    REQUIRE(s >= (wheel.tick & (WHEEL_SLOTS - 1)));
            }
        }
    }
}

struct node {
    struct timer timer;
    size_t index;
    bool armed;
    uint64_t due_tick; /* of the deadline, or of the arming if that was later */
    std::multimap<uint64_t, size_t>::iterator at;
};

/* A wheel and its model, driven together. */
class Driver
{
  public:
    Driver(uint64_t seed, int64_t now_ns, size_t timers, bool validate)
        : random_(seed), now_ns_(now_ns), validate_(validate), nodes_(timers)
    {
        wheel_init(&wheel_, now_ns);
        for (size_t i = 0; i < timers; i++) {
            timer_init(&nodes_[i].timer);
            nodes_[i].index = i;
            nodes_[i].armed = false;
        }
    }

    void step()
    {
        uint64_t what = random_() % 16;
        if (what < 8)
            arm();
        else if (what < 11)
            cancel();
        else
            advance();
        check();
    }

    /* Everything that is armed expires when time goes to its end. */
    void finish()
    {
        advance_to(INT64_MAX);
        check();
        for (auto &node : nodes_)
            if (node.armed)
                REQUIRE(node.due_tick > floor_tick(INT64_MAX));
    }

    uint64_t expired() const
    {
        return expired_;
    }
    int64_t now_ns() const
    {
        return now_ns_;
    }

  private:
    int64_t later(int64_t duration_ns) const
    {
        return duration_ns > END_NS - now_ns_ ? END_NS : now_ns_ + duration_ns;
    }

    int64_t some_deadline()
    {
        switch (random_() % 10) {
        case 0: return now_ns_ - static_cast<int64_t>(random_() % (10 * SECOND_NS)); /* past */
        case 1: return now_ns_;
        case 2: return later(static_cast<int64_t>(random_() % (3 * TICK_NS)));
        case 3: return END_NS - static_cast<int64_t>(random_() % (3 * TICK_NS));
        case 4: /* a tick's border, and next to it */
            return later(static_cast<int64_t>(random_() % 5000) * TICK_NS - now_ns_ % TICK_NS +
                         static_cast<int64_t>(random_() % 3) - 1);
        case 5: { /* where a level begins */
            unsigned level = 1 + static_cast<unsigned>(random_() % 8);
            uint64_t width = UINT64_C(1) << (level * WHEEL_LEVEL_SHIFT);
            uint64_t tick = (floor_tick(now_ns_) / width + 1 + random_() % 3) * width;
            if (tick > floor_tick(END_NS))
                return END_NS;
            return static_cast<int64_t>(tick) * TICK_NS - static_cast<int64_t>(random_() % 3);
        }
        default: return later(static_cast<int64_t>(random_() >> (1 + random_() % 63)));
        }
    }

    void arm()
    {
        node &node = nodes_[random_() % nodes_.size()];
        if (node.armed)
            return;
        REQUIRE(!timer_armed(&node.timer));
        int64_t deadline_ns = some_deadline();
        wheel_arm(&wheel_, &node.timer, deadline_ns);
        REQUIRE(timer_armed(&node.timer));
        node.armed = true;
        node.due_tick = std::max(ceil_tick(deadline_ns), floor_tick(now_ns_));
        node.at = model_.emplace(node.due_tick, node.index);
    }

    void cancel()
    {
        node &node = nodes_[random_() % nodes_.size()];
        if (!node.armed)
            return;
        wheel_cancel(&wheel_, &node.timer);
        REQUIRE(!timer_armed(&node.timer));
        node.armed = false;
        model_.erase(node.at);
    }

    void advance()
    {
        int64_t next_ns = wheel_next(&wheel_);
        switch (random_() % 8) {
        case 0: advance_to(now_ns_); break;
        case 1: advance_to(later(static_cast<int64_t>(random_() % TICK_NS))); break;
        case 2: advance_to(later(static_cast<int64_t>(random_() % (100 * TICK_NS)))); break;
        case 3: /* just before the next expiry: nothing may come */
            if (next_ns != WHEEL_NEVER && next_ns - 1 > now_ns_) {
                uint64_t before = expired_;
                advance_to(next_ns - 1);
                REQUIRE(expired_ == before);
            }
            break;
        case 4: /* years, now and then */
            if (random_() % 64 == 0)
                advance_to(later(static_cast<int64_t>(random_() % 8) * YEAR_NS));
            break;
        case 5: advance_to(later(static_cast<int64_t>(random_() % (10 * SECOND_NS)))); break;
        default: /* to the next expiry; far away only now and then, or a run would soon be over */
            if (next_ns < later(60 * SECOND_NS) || (next_ns < END_NS && random_() % 256 == 0))
                advance_to(std::max(now_ns_, next_ns));
            break;
        }
    }

    void advance_to(int64_t now_ns)
    {
        struct list expired;
        list_init(&expired);
        wheel_advance(&wheel_, now_ns, &expired);
        now_ns_ = now_ns;
        uint64_t tick = floor_tick(now_ns);
        uint64_t last = 0;
        while (!list_empty(&expired)) {
            struct timer *timer = wheel_pop_expired(&expired);
            REQUIRE(!timer_armed(timer));
            node &node = *container_of(timer, struct node, timer);
            REQUIRE(node.armed);
            REQUIRE(timer->deadline_ns <= now_ns); /* never early */
            REQUIRE(node.due_tick >= last);        /* in order of ticks */
            last = node.due_tick;
            node.armed = false;
            model_.erase(node.at);
            expired_++;
        }
        /* None that is due was left: late by less than a tick. */
        REQUIRE((model_.empty() || model_.begin()->first > tick));
    }

    void check()
    {
        REQUIRE(wheel_.armed == model_.size());
        int64_t next_ns = wheel_next(&wheel_);
        REQUIRE((next_ns == WHEEL_NEVER) == model_.empty());
        if (!model_.empty()) {
            REQUIRE(next_ns >= 0);
            uint64_t first = model_.begin()->first;
            REQUIRE(floor_tick(next_ns) <= first);
            REQUIRE(floor_tick(next_ns) >= floor_tick(now_ns_));
            /* Within 64 ticks it is exact. */
            if (first / WHEEL_SLOTS == floor_tick(now_ns_) / WHEEL_SLOTS)
                REQUIRE(floor_tick(next_ns) == first);
        }
        if (validate_)
            validate_more(wheel_);
    }

    std::mt19937_64 random_;
    int64_t now_ns_;
    bool validate_;
    uint64_t expired_ = 0;
    struct wheel wheel_;
    std::vector<node> nodes_;
    std::multimap<uint64_t, size_t> model_;
};

/* One timer, for the cases that need no more. */
struct One {
    struct wheel wheel;
    struct timer timer;

    explicit One(int64_t now_ns)
    {
        wheel_init(&wheel, now_ns);
        timer_init(&timer);
    }

    /* Whether it expired. */
    bool advance(int64_t now_ns)
    {
        struct list expired;
        list_init(&expired);
        wheel_advance(&wheel, now_ns, &expired);
        wheel_validate(&wheel);
        if (list_empty(&expired))
            return false;
        REQUIRE(wheel_pop_expired(&expired) == &timer);
        REQUIRE(list_empty(&expired));
        return true;
    }
};

} // namespace

TEST_CASE("wheel: a random driver agrees with a sorted map")
{
    uint64_t seed = GENERATE(range(1, 13));
    /* A few timers meet the borders often, many fill the slots. */
    size_t timers = seed % 3 == 0 ? 2 : seed % 3 == 1 ? 40 : 2000;
    bool validate = seed % 2 == 0;
    int64_t start_ns = seed % 4 == 0 ? 0 : static_cast<int64_t>(seed * 123456789012345);
    INFO("seed " << seed);
    int left = validate ? 20000 : 400000;
    uint64_t expired = 0;
    /* A run that has come to the end of time is followed by another one. */
    for (uint64_t run = 0; left > 0; run++) {
        Driver driver(seed + 1000 * run, start_ns, timers, validate);
        for (; left > 0 && driver.now_ns() < END_NS - YEAR_NS; left--)
            driver.step();
        driver.finish();
        expired += driver.expired();
    }
    CHECK(expired > 200);
}

TEST_CASE("wheel: the end of time is like any other")
{
    Driver driver(99, END_NS - 1000 * SECOND_NS, 30, true);
    for (int i = 0; i < 5000; i++)
        driver.step();
    driver.finish();
    CHECK(driver.expired() > 100);
}

TEST_CASE("wheel: an empty wheel never asks to be called, and moves in one step")
{
    One one(0);
    CHECK(wheel_next(&one.wheel) == WHEEL_NEVER);
    CHECK(!one.advance(100 * YEAR_NS));
    CHECK(wheel_next(&one.wheel) == WHEEL_NEVER);
    CHECK(one.wheel.tick == floor_tick(100 * YEAR_NS));
}

TEST_CASE("wheel: a timer armed for the past expires at the next advance")
{
    for (int64_t deadline_ns : {INT64_MIN, INT64_C(-1), INT64_C(0), 50 * SECOND_NS,
                                100 * SECOND_NS - 1, 100 * SECOND_NS}) {
        INFO(deadline_ns);
        /* A whole tick, so that "now" is not rounded. */
        int64_t now_ns = 100 * SECOND_NS - 100 * SECOND_NS % TICK_NS + TICK_NS;
        One one(now_ns);
        wheel_arm(&one.wheel, &one.timer, deadline_ns);
        CHECK(wheel_next(&one.wheel) <= now_ns);
        CHECK(one.advance(now_ns));
        CHECK(one.wheel.armed == 0);
    }
}

TEST_CASE("wheel: a timer expires at its tick and not a nanosecond before")
{
    std::mt19937_64 random(3);
    for (int i = 0; i < 3000; i++) {
        int64_t start_ns = static_cast<int64_t>(random() >> (2 + random() % 40));
        int64_t deadline_ns = std::min(
            END_NS - TICK_NS, start_ns + static_cast<int64_t>(random() >> (2 + random() % 50)));
        One one(start_ns);
        wheel_arm(&one.wheel, &one.timer, deadline_ns);
        int64_t due_ns = static_cast<int64_t>(ceil_tick(deadline_ns)) * TICK_NS;
        INFO(start_ns << " " << deadline_ns);
        REQUIRE(due_ns >= deadline_ns);
        REQUIRE(due_ns - deadline_ns < TICK_NS);
        if (due_ns > start_ns)
            REQUIRE(!one.advance(due_ns - 1));
        REQUIRE(one.advance(due_ns));
    }
}

TEST_CASE("wheel: following wheel_next reaches a timer in at most nine steps, each a level lower")
{
    std::mt19937_64 random(4);
    int steps_max = 0;
    for (int i = 0; i < 20000; i++) {
        int64_t start_ns = static_cast<int64_t>(random() >> (2 + random() % 60));
        int64_t deadline_ns = start_ns + static_cast<int64_t>(random() >> (2 + random() % 60));
        One one(start_ns);
        wheel_arm(&one.wheel, &one.timer, deadline_ns);
        int steps = 0;
        int64_t now_ns = start_ns;
        for (;;) {
            int level = lowest_level(one.wheel);
            int64_t next_ns = std::max(now_ns, wheel_next(&one.wheel));
            steps++;
            now_ns = next_ns;
            if (one.advance(now_ns))
                break;
            REQUIRE(lowest_level(one.wheel) < level);
        }
        REQUIRE(steps <= WHEEL_LEVELS);
        REQUIRE(now_ns >= deadline_ns);
        REQUIRE(now_ns < std::max(start_ns + 1, deadline_ns + TICK_NS));
        steps_max = std::max(steps_max, steps);
    }
    CHECK(steps_max >= 5); /* the cases above did go through several levels */
}

TEST_CASE("wheel: a hundred years with a thousand timers are walked by their slots, not by ticks")
{
    auto wheel = std::make_unique<struct wheel>();
    wheel_init(wheel.get(), 0);
    std::mt19937_64 random(5);
    std::vector<struct timer> timers(1000);
    for (auto &timer : timers) {
        timer_init(&timer);
        wheel_arm(wheel.get(), &timer, static_cast<int64_t>(random() % (100 * YEAR_NS)));
    }
    struct list expired;
    list_init(&expired);
    wheel_advance(wheel.get(), 101 * YEAR_NS, &expired);
    int64_t last_ns = 0;
    size_t count = 0;
    while (!list_empty(&expired)) {
        int64_t deadline_ns = wheel_pop_expired(&expired)->deadline_ns;
        CHECK(ceil_tick(deadline_ns) >= ceil_tick(last_ns));
        last_ns = deadline_ns;
        count++;
    }
    CHECK(count == timers.size());
    CHECK(wheel_next(wheel.get()) == WHEEL_NEVER);
}

TEST_CASE("wheel: a timer moves at most eight times before it expires, however time passes")
{
    /* A timer has moved when its level has changed: it is looked for in the whole wheel. */
    auto level_of = [](const struct wheel &wheel, const struct timer &timer) {
        for (int level = 0; level < WHEEL_LEVELS; level++)
            for (const auto &head : wheel.slot[level])
                list_for_each (node, &head)
                    if (node == &timer.link)
                        return level;
        return -1;
    };
    std::mt19937_64 random(6);
    for (int i = 0; i < 200; i++) {
        One one(0);
        int64_t deadline_ns = static_cast<int64_t>(random() >> (2 + random() % 45));
        wheel_arm(&one.wheel, &one.timer, deadline_ns);
        int level = level_of(one.wheel, one.timer);
        int moves = 0;
        int64_t now_ns = 0;
        while (!one.advance(now_ns)) {
            int now_level = level_of(one.wheel, one.timer);
            REQUIRE(now_level <= level);
            moves += now_level < level;
            level = now_level;
            /* Steps that shrink with what is left, so that every level is passed through. */
            int64_t left_ns = deadline_ns + TICK_NS - now_ns;
            now_ns += 1 + static_cast<int64_t>(random() % static_cast<uint64_t>(left_ns / 2 + 1));
        }
        REQUIRE(moves < WHEEL_LEVELS);
    }
}

TEST_CASE("wheel: nothing drifts in ten million ticks")
{
    /* Every tick, every millisecond, and a period that is no whole number of ticks. */
    struct Ticker {
        struct timer timer;
        int64_t period_ns;
        int64_t count;
    };
    const int64_t start_ns = 77777;
    const int64_t length_ns = 10000000 * TICK_NS;
    Ticker tickers[3] = {{{}, TICK_NS, 0}, {{}, 1000000, 0}, {{}, 123457, 0}};
    auto wheel = std::make_unique<struct wheel>();
    wheel_init(wheel.get(), start_ns);
    for (auto &ticker : tickers) {
        timer_init(&ticker.timer);
        wheel_arm(wheel.get(), &ticker.timer, start_ns + ticker.period_ns);
    }
    int64_t late_max_ns = 0;
    for (;;) {
        int64_t now_ns = wheel_next(wheel.get());
        if (now_ns > start_ns + length_ns)
            break;
        struct list expired;
        list_init(&expired);
        wheel_advance(wheel.get(), now_ns, &expired);
        while (!list_empty(&expired)) {
            auto *ticker = container_of(wheel_pop_expired(&expired), Ticker, timer);
            ticker->count++;
            int64_t deadline_ns = start_ns + ticker->count * ticker->period_ns;
            if (ticker->timer.deadline_ns != deadline_ns || now_ns < deadline_ns)
                FAIL("expired at " << now_ns << " for " << deadline_ns);
            late_max_ns = std::max(late_max_ns, now_ns - deadline_ns);
            wheel_arm(wheel.get(), &ticker->timer, deadline_ns + ticker->period_ns);
        }
    }
    CHECK(late_max_ns < TICK_NS);
    for (auto &ticker : tickers) {
        INFO(ticker.period_ns);
        int64_t whole = length_ns / ticker.period_ns;
        CHECK(ticker.count <= whole);
        CHECK(ticker.count >= whole - 1); /* the last one may be rounded up beyond the end */
    }
}

TEST_CASE("wheel: timers of one tick expire in the order in which they were armed")
{
    auto wheel = std::make_unique<struct wheel>();
    wheel_init(wheel.get(), 0);
    std::vector<struct timer> timers(100);
    for (auto &timer : timers) {
        timer_init(&timer);
        wheel_arm(wheel.get(), &timer, 5 * SECOND_NS);
    }
    struct list expired;
    list_init(&expired);
    wheel_advance(wheel.get(), 6 * SECOND_NS, &expired);
    for (auto &timer : timers)
        REQUIRE(wheel_pop_expired(&expired) == &timer);
    CHECK(list_empty(&expired));
}

TEST_CASE("wheel: time that goes back changes nothing")
{
    One one(100 * SECOND_NS);
    wheel_arm(&one.wheel, &one.timer, 101 * SECOND_NS);
    uint64_t tick = one.wheel.tick;
    CHECK(!one.advance(50 * SECOND_NS));
    CHECK(one.wheel.tick == tick);
    CHECK(one.advance(101 * SECOND_NS + TICK_NS));
}

TEST_CASE("wheel: a timer cancelled can be armed again at once")
{
    One one(0);
    for (int i = 0; i < 1000; i++) {
        wheel_arm(&one.wheel, &one.timer, static_cast<int64_t>(i) * 12345678901);
        wheel_cancel(&one.wheel, &one.timer);
        REQUIRE(one.wheel.levels == 0);
        REQUIRE(wheel_next(&one.wheel) == WHEEL_NEVER);
    }
    wheel_arm(&one.wheel, &one.timer, SECOND_NS);
    CHECK(one.advance(2 * SECOND_NS));
}

TEST_CASE("wheel: the last deadline there is lets its owner sleep until then")
{
    One one(SECOND_NS);
    wheel_arm(&one.wheel, &one.timer, END_NS);
    int64_t next_ns = wheel_next(&one.wheel);
    CHECK(next_ns > 200 * YEAR_NS);
    CHECK(next_ns < WHEEL_NEVER);
    CHECK(!one.advance(290 * YEAR_NS));
    wheel_cancel(&one.wheel, &one.timer);
    CHECK(wheel_next(&one.wheel) == WHEEL_NEVER);
}

TEST_CASE("wheel: arming twice, cancelling what is not armed and arming for never are errors")
{
    struct Misuse {
        const char *what;
        void (*make)(One &one);
    };
    const Misuse misuses[] = {
        {"arm twice",
         [](One &one) {
             wheel_arm(&one.wheel, &one.timer, 1);
             wheel_arm(&one.wheel, &one.timer, 2);
         }},
        {"cancel", [](One &one) { wheel_cancel(&one.wheel, &one.timer); }},
        {"never", [](One &one) { wheel_arm(&one.wheel, &one.timer, WHEEL_NEVER); }},
    };
    for (const auto &misuse : misuses) {
        ChildEnd end = in_child([&] {
            One one(0);
            misuse.make(one);
            return 0;
        });
        INFO(misuse.what << ": " << end.how());
        CHECK(end.killed_by(SIGABRT));
        CHECK(end.said.find("wheel.c") != std::string::npos);
    }
}

TEST_CASE("wheel: the validator finds a wheel that was tampered with")
{
    struct Damage {
        const char *what;
        void (*make)(One &one);
    };
    const Damage damages[] = {
        {"count", [](One &one) { one.wheel.armed++; }},
        {"bitmap", [](One &one) { one.wheel.occupied[3] ^= 4; }},
        {"levels", [](One &one) { one.wheel.levels ^= 1 << 5; }},
        {"place", [](One &one) { one.timer.deadline_ns += 1000 * SECOND_NS; }},
        {"passed", [](One &one) { one.wheel.tick += 10000000; }},
    };
    for (const auto &damage : damages) {
        ChildEnd end = in_child([&] {
            One one(0);
            wheel_arm(&one.wheel, &one.timer, 10 * SECOND_NS);
            wheel_validate(&one.wheel);
            damage.make(one);
            wheel_validate(&one.wheel);
            return 0;
        });
        INFO(damage.what << ": " << end.how());
        CHECK(end.killed_by(SIGABRT));
    }
}
