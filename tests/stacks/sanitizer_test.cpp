/*
 * sanitizer_test.cpp: what AddressSanitizer is told of stacks is true. Without the sanitizer these
 * are ordinary programs that must do what they say; with it they must do so without a report, and
 * a real mistake on a coroutine's stack must be found.
 */
#include "tests/base/child.hpp"

#include <catch2/catch_test_macros.hpp>

#include <csetjmp>
#include <cstring>
#include <stdexcept>
#include <string>

#include <whorl.h>

#if defined(__SANITIZE_ADDRESS__)
#define WITH_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WITH_ASAN 1
#endif
#endif

namespace
{

/* Arrays of which the sanitizer keeps track, in a frame that is left by a throw. */
__attribute__((noinline)) int throw_from(int depth)
{
    volatile char frame[500];
    frame[depth % 500] = 2;
    if (depth == 0)
        throw std::runtime_error("thrown");
    return throw_from(depth - 1) + frame[0];
}

__attribute__((noinline)) int fill_frames(int depth)
{
    volatile char frame[1000];
    for (size_t i = 0; i < sizeof frame; i++)
        frame[i] = static_cast<char>(depth);
    return (depth > 0 ? fill_frames(depth - 1) : 0) + frame[depth % 1000];
}

int throw_and_catch(int times)
{
    int caught = 0;
    for (int i = 0; i < times; i++) {
        try {
            throw_from(10);
        } catch (const std::runtime_error &) {
            caught++;
        }
        fill_frames(12);
    }
    return caught;
}

int run_some(void *)
{
    for (int i = 0; i < 20; i++) {
        if (wh_go(throw_and_catch, 2) < 0)
            return -1;
        wh_yield();
    }
    wh_sleep(WH_MILLISECOND);
    return 1;
}

} // namespace

TEST_CASE("sanitizer: a thread that has come back from a run has its own stack again")
{
    REQUIRE(wh_run(run_some, nullptr, nullptr) == 1);
    CHECK(throw_and_catch(3) == 3);

    static std::jmp_buf there;
    volatile int jumps = 0;
    setjmp(there);
    if (jumps < 3) {
        jumps = jumps + 1;
        fill_frames(10);
        std::longjmp(there, 1);
    }
    CHECK(jumps == 3);
    CHECK(fill_frames(50) >= 0);
}

TEST_CASE("sanitizer: a coroutine may use the stack where another one was abandoned")
{
    struct Ends {
        /* Ends deep in its frames: nothing is unwound. */
        static void leave_frames(int depth)
        {
            volatile char frame[700];
            frame[depth] = 1;
            if (depth > 0)
                leave_frames(depth - 1);
            else
                wh_sleep(WH_HOUR); /* abandoned here */
            frame[0] = frame[depth];
        }
        static int root(void *)
        {
            for (int i = 0; i < 10; i++)
                if (wh_go(leave_frames, 30) < 0)
                    return -1;
            wh_sleep(WH_MILLISECOND);
            return 2;
        }
    };
    wh_options options = {};
    options.grace_ns = -1;
    for (int i = 0; i < 3; i++) {
        StderrKept kept; /* the abandoned ones are named */
        REQUIRE(wh_run(Ends::root, nullptr, &options) == 2);
        REQUIRE(wh_run(run_some, nullptr, nullptr) == 1);
    }
}

TEST_CASE("sanitizer: a coroutine that ends passes its stack to the next without a report")
{
    struct Chain {
        static void link(int left)
        {
            fill_frames(20);
            throw_and_catch(1);
            if (left > 0)
                wh_go(link, left - 1);
        }
        static int root(void *)
        {
            for (int i = 0; i < 5; i++)
                wh_go(link, 100);
            wh_sleep(20 * WH_MILLISECOND);
            return 3;
        }
    };
    CHECK(wh_run(Chain::root, nullptr, nullptr) == 3);
}

TEST_CASE("sanitizer: the address of a local is on the coroutine's stack and can be shared")
{
    struct Share {
        static void add(int *sum, int value)
        {
            wh_yield();
            *sum += value;
        }
        static int root(void *)
        {
            int sum = 0;
            for (int i = 1; i <= 10; i++)
                wh_go(add, &sum, i);
            wh_sleep(WH_MILLISECOND);
            return sum;
        }
    };
    CHECK(wh_run(Share::root, nullptr, nullptr) == 55);
}

#ifdef WITH_ASAN

TEST_CASE("sanitizer: an overflow of a buffer on a coroutine's stack is found")
{
    struct Bad {
        static int root(void *)
        {
            char buffer[32];
            volatile size_t length = 33;
            wh_yield();
            memset(buffer, 1, length);
            return buffer[3];
        }
    };
    ChildEnd end = in_child([] { return wh_run(Bad::root, nullptr, nullptr); });
    INFO(end.how());
    CHECK(!end.exited(0));
    CHECK(end.said.find("stack-buffer-overflow") != std::string::npos);
}

#endif
