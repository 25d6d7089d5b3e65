/*
 * switch_test.cpp: the raw switch, from C (switching.c) and from C++.
 */
#include <catch2/catch_test_macros.hpp>

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <execinfo.h>

extern "C" {
#include "tests/stacks/switching.h"
}

TEST_CASE("switch: what the checks in C say")
{
    for (size_t i = 0; i < switch_checks_count; i++) {
        const char *wrong = switch_checks[i].run();
        INFO(switch_checks[i].name);
        CHECK(std::string(wrong ? wrong : "ok") == "ok");
    }
}

namespace
{

struct Pair {
    struct side thread;
    struct side other;

    Pair(void (*run)(struct side *self), void *arg)
    {
        side_init_thread(&thread);
        side_init(&other, &thread, run, arg);
    }
    ~Pair()
    {
        side_finish(&other);
    }
    void go()
    {
        side_switch(&thread, &other);
    }
};

[[noreturn]] void back_forever(struct side *self)
{
    for (;;)
        side_switch(self, self->other);
}

struct Counted {
    explicit Counted(int &count) : count_(count)
    {
        count_++;
    }
    ~Counted()
    {
        count_--;
    }
    int &count_;
};

struct Thrown {
    int alive = 0;
    std::string caught;
    bool values_held = true;
};

__attribute__((noinline)) void throw_deep(struct side *self, Thrown &thrown, int depth)
{
    Counted counted(thrown.alive);
    side_switch(self, self->other);
    if (depth == 0)
        throw std::runtime_error("from the bottom");
    throw_deep(self, thrown, depth - 1);
}

void throw_and_catch(struct side *self)
{
    auto &thrown = *static_cast<Thrown *>(self->arg);
    try {
        throw_deep(self, thrown, 10);
    } catch (const std::exception &e) {
        thrown.caught = e.what();
    }
    back_forever(self);
}

/* C++ objects and values of many kinds across switches. */
void keep_objects(struct side *self)
{
    auto &thrown = *static_cast<Thrown *>(self->arg);
    for (int round = 0; round < 50; round++) {
        auto text = std::make_unique<std::string>(100 + static_cast<size_t>(round), 'x');
        std::vector<double> numbers = {1.5, 2.5, 3.5 + round};
        double a = numbers[0] * round, b = numbers[1] * round, c = a * b;
        float f = static_cast<float>(round) / 3;
        side_switch(self, self->other);
        bool held = text->size() == 100 + static_cast<size_t>(round) && numbers[2] == 3.5 + round &&
                    a == 1.5 * round && b == 2.5 * round && c == a * b &&
                    f == static_cast<float>(round) / 3;
        thrown.values_held = thrown.values_held && held;
    }
    back_forever(self);
}

struct Trace {
    void *frames[64];
    int count;
};

__attribute__((noinline)) void trace_here(Trace &trace, int depth)
{
    if (depth > 0)
        trace_here(trace, depth - 1);
    else
        trace.count = backtrace(trace.frames, 64);
    __asm__ volatile("" ::: "memory");
}

void trace_and_stop(struct side *self)
{
    trace_here(*static_cast<Trace *>(self->arg), 3);
    back_forever(self);
}

} // namespace

TEST_CASE("switch: an exception thrown in a context unwinds to its catch there")
{
    Thrown thrown;
    Pair pair(throw_and_catch, &thrown);
    for (int depth = 1; depth <= 11; depth++) {
        pair.go();
        CHECK(thrown.alive == depth);
        /* One here meanwhile. */
        CHECK_THROWS_AS(throw std::logic_error("here"), std::logic_error);
    }
    pair.go();
    CHECK(thrown.alive == 0);
    CHECK(thrown.caught == "from the bottom");
}

TEST_CASE("switch: objects and values of C++ are kept across switches")
{
    Thrown thrown, theirs;
    Pair pair(keep_objects, &theirs);
    for (int round = 0; round < 60; round++) {
        double a = 1.25 * round, b = a + 0.5;
        std::string text(static_cast<size_t>(round), 'y');
        pair.go();
        REQUIRE(a == 1.25 * round);
        REQUIRE(b == a + 0.5);
        REQUIRE(text == std::string(static_cast<size_t>(round), 'y'));
    }
    CHECK(theirs.values_held);
}

TEST_CASE("switch: backtrace(3) from a context ends at its entry")
{
    Trace trace = {{}, 0};
    Pair pair(trace_and_stop, &trace);
    pair.go();
    /* Four of trace_here, trace_and_stop, context_main, context_entry. Under a sanitizer its own
     * backtrace() may stand before them. */
#ifdef WHORL_ASAN
    CHECK(trace.count >= 7);
    CHECK(trace.count <= 8);
#else
    CHECK(trace.count == 7);
#endif
    auto entry = reinterpret_cast<uintptr_t>(&context_entry);
    auto last = reinterpret_cast<uintptr_t>(trace.frames[trace.count - 1]);
    CHECK(last > entry);
    CHECK(last < entry + 64);
    for (int i = 0; i < trace.count; i++)
        CHECK(trace.frames[i] != nullptr);
}
