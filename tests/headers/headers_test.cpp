/*
 * headers_test.cpp: the public macros at work, in C (from_c.c) and in C++, with exceptions.
 *
 * What a coroutine must not do is to let an exception out; what it may is to throw and catch its
 * own while others do the same, also to park in the middle of it.
 */
#include "from_c.h"
#include "tests/base/child.hpp"
#include "tests/sched/in_run.hpp"

#include <catch2/catch_test_macros.hpp>

#include <csignal>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

TEST_CASE("C: none to six arguments arrive as given")
{
    CHECK(wh_run(c_arguments_arrive, nullptr, nullptr) == 0);
}

TEST_CASE("C: results of every width come back through a join")
{
    CHECK(wh_run(c_results_come_back, nullptr, nullptr) == 0);
}

TEST_CASE("C: the function and its arguments are evaluated once")
{
    CHECK(wh_run(c_arguments_are_evaluated_once, nullptr, nullptr) == 0);
}

TEST_CASE("C: a place that starts coroutines knows its file, line, function and sizes")
{
    CHECK(wh_run(c_sites_name_the_call, nullptr, nullptr) == 0);
}

TEST_CASE("C: a deadline's block ends however it is left")
{
    CHECK(wh_run(c_blocks_end, nullptr, nullptr) == 0);
}

/* ---- C++ ---- */

namespace
{

int sum;

void add(int a, int b)
{
    sum += a + b;
}

int count_down(int from)
{
    return from ? count_down(from - 1) + 1 : 0;
}

struct Static {
    static void add(int a)
    {
        sum += a;
    }
};

enum class Size : unsigned char { SMALL = 3 };

} // namespace

TEST_CASE("C++: functions, static members, pointers to functions and lambdas are started")
{
    in_run([] {
        sum = 0;
        int rc = wh_go(add, 1, 2);
        CHECK(rc == 0);
        rc = wh_go(Static::add, 10);
        CHECK(rc == 0);
        void (*pointer)(int, int) = add;
        rc = wh_go(pointer, 100, 200);
        CHECK(rc == 0);
        rc = wh_go([](int a) { sum += a; }, 1000);
        CHECK(rc == 0);
        rc = wh_go(+[](Size a) { sum += static_cast<int>(a) * 10000; }, Size::SMALL);
        CHECK(rc == 0);
        rc = wh_go([] { sum += 100000; });
        CHECK(rc == 0);
        wh_yield();
        CHECK(sum == 131313);

        wh_coro *coro;
        intptr_t value = 0;
        rc = wh_spawn(&coro, nullptr, [](int a) { return a * 2; }, 21);
        CHECK(rc == 0);
        rc = wh_join(coro, &value);
        CHECK(rc == 0);
        CHECK(value == 42);
    });
}

TEST_CASE("C++: a deadline's block ends when an exception leaves it")
{
    in_run([] {
        bool caught = false;
        try {
            WH_WITH_TIMEOUT(WH_HOUR)
            {
                std::string text = "must be destroyed";
                wh_yield();
                throw std::runtime_error(text);
            }
        } catch (const std::runtime_error &error) {
            caught = error.what() == std::string("must be destroyed");
        }
        CHECK(caught);
        CHECK(wh_deadline() == WH_NEVER);
    });
}

/* ---- Exceptions ---- */

namespace
{

/* Throws through some frames with destructors, parking in these too. */
struct Parks {
    explicit Parks(int *counter) : counter_(counter)
    {
    }
    ~Parks()
    {
        wh_yield();
        ++*counter_;
    }
    int *counter_;
};

void throw_deep(int depth, const std::string &what, int *destroyed)
{
    Parks parks(destroyed);
    if (depth == 0)
        throw std::runtime_error(what);
    throw_deep(depth - 1, what, destroyed);
}

std::string name_of(int number)
{
    return "exception of coroutine " + std::to_string(number);
}

} // namespace

TEST_CASE("exceptions: one that parks in a catch block finds its own exception there afterwards")
{
    in_run([] {
        bool right = false, others = false;
        wh_coro *first = spawn([&] {
            try {
                throw std::runtime_error("first");
            } catch (const std::exception &error) {
                wh_sleep(WH_MILLISECOND);
                std::string now;
                try {
                    throw; /* the current one, which only the runtime's words know */
                } catch (const std::exception &again) {
                    now = again.what();
                }
                right = now == "first" && error.what() == std::string("first");
            }
        });
        wh_coro *second = spawn([&] {
            CHECK(std::current_exception() == nullptr); /* the other's is not ours */
            CHECK(std::uncaught_exceptions() == 0);
            try {
                throw std::logic_error("second");
            } catch (const std::logic_error &error) {
                wh_yield();
                others = error.what() == std::string("second");
            }
        });
        wh_yield();
        CHECK(std::current_exception() == nullptr);
        join(second);
        join(first);
        CHECK(right);
        CHECK(others);
    });
}

TEST_CASE("exceptions: hundreds in flight at once, parked in catch blocks and in destructors")
{
    constexpr int COROS = 300, DEPTH = 5;
    int right = 0, destroyed = 0;
    in_run([&] {
        std::vector<wh_coro *> coros;
        for (int i = 0; i < COROS; i++)
            coros.push_back(spawn([&, i] {
                try {
                    throw_deep(DEPTH, name_of(i), &destroyed);
                } catch (const std::runtime_error &outer) {
                    bool inner_right = false;
                    wh_yield();
                    try {
                        throw_deep(1, "inner " + name_of(i), &destroyed);
                    } catch (const std::runtime_error &inner) {
                        wh_sleep(i % 5 * 10 * WH_MICROSECOND);
                        inner_right = inner.what() == "inner " + name_of(i);
                    }
                    wh_yield();
                    right += inner_right && outer.what() == name_of(i) &&
                             std::uncaught_exceptions() == 0;
                }
                right += std::current_exception() == nullptr;
            }));
        for (wh_coro *coro : coros)
            join(coro);
    });
    CHECK(right == 2 * COROS);
    CHECK(destroyed == COROS * (DEPTH + 1 + 2));
}

TEST_CASE("exceptions: a new coroutine, and the root after one has ended, see none of another's")
{
    in_run([] {
        int seen = 0;
        try {
            throw 5;
        } catch (int) {
            wh_coro *coro = spawn([&] {
                seen += std::current_exception() != nullptr;
                try {
                    throw 'c';
                } catch (char) {
                    start([&] { seen += std::current_exception() != nullptr; });
                    wh_yield();
                }
            });
            join(coro);
            CHECK(std::current_exception() != nullptr);
        }
        CHECK(seen == 0);
        CHECK(std::current_exception() == nullptr);
    });
    CHECK(std::current_exception() == nullptr);
}

TEST_CASE("exceptions: a run inside of a catch block leaves the thread's own exception in place")
{
    std::string what;
    try {
        throw std::runtime_error("the thread's");
    } catch (const std::runtime_error &) {
        in_run([] {
            CHECK(std::current_exception() == nullptr);
            CHECK(std::uncaught_exceptions() == 0);
            start([] { wh_yield(); });
            try {
                throw 1;
            } catch (int) {
                wh_yield();
            }
        });
        try {
            throw;
        } catch (const std::runtime_error &again) {
            what = again.what();
        }
    }
    CHECK(what == "the thread's");
}

TEST_CASE("exceptions: one that is stored goes from coroutine to coroutine")
{
    in_run([] {
        std::exception_ptr stored;
        wh_coro *thrower = spawn([&] {
            try {
                throw std::runtime_error("carried");
            } catch (...) {
                stored = std::current_exception();
            }
        });
        join(thrower);
        std::string what;
        try {
            std::rethrow_exception(stored);
        } catch (const std::runtime_error &error) {
            wh_yield();
            what = error.what();
        }
        CHECK(what == "carried");
    });
}

TEST_CASE(
    "exceptions: one that would leave a coroutine ends the program, as one that leaves a thread")
{
    ChildEnd end = in_child([] {
        in_run([] {
            wh_go(
                [](int from) {
                    if (count_down(from) == 3)
                        throw std::runtime_error("nobody catches this");
                },
                3);
            wh_yield();
        });
        return 0;
    });
    INFO(end.how());
    CHECK(end.killed_by(SIGABRT));
    CHECK(end.said.find("nobody catches this") != std::string::npos);
}
