/*
 * overflow_test.cpp: a stack overflow explains itself and dies of SIGSEGV; any other fault goes to
 * whoever was there before. Each case runs in a child: this process itself never calls wh_run(), so
 * that the handlers the child finds are the ones that the case put there.
 */
#include "tests/base/child.hpp"
#include "tests/stacks/memory.hpp"

#include <catch2/catch_test_macros.hpp>

#include <cstdlib>
#include <cstring>
#include <string>

#include <fcntl.h>
#include <pthread.h>
#include <whorl.h>

extern "C" {

/* Visible, so that the backtrace can name it. */
__attribute__((visibility("default"), noinline)) int sink_deeper(int depth)
{
    volatile char frame[200];
    frame[0] = static_cast<char>(depth);
    int below = depth > 0 ? sink_deeper(depth - 1) : 0;
    return below + frame[0];
}

/* A frame larger than any guard: only probing it page by page meets the guard. */
__attribute__((visibility("default"), noinline)) int sink_at_once(int depth)
{
    char frame[300 * 1024];
    frame[0] = static_cast<char>(depth);
    __asm__ volatile("" ::"r"(frame) : "memory"); /* all of it is there */
    return frame[0];
}
}

namespace
{

constexpr int DEEP = 1 << 30;

/* Runs root in a child's run. */
ChildEnd
in_run(int (*root)(void *arg), size_t stack_bytes = 0, const std::function<void()> &before = [] {})
{
    return in_child([&] {
        before();
        wh_options options = {};
        options.stack_bytes = stack_bytes;
        return wh_run(root, nullptr, &options);
    });
}

int spawn_and_sink(size_t stack_bytes, int (*sink)(int), int depth)
{
    wh_coro *coro;
    wh_spawn_options options = {"sinker", stack_bytes};
    if (wh_spawn(&coro, &options, sink, depth) < 0)
        return 7;
    wh_join(coro, nullptr);
    return 0;
}

void borrow_and_sink()
{
    (void)wh_on_big_stack(nullptr, sink_deeper, DEEP);
}

char *no_access()
{
    return static_cast<char *>(
        mmap(nullptr, PAGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
}

int touch_nowhere(void *)
{
    *static_cast<volatile char *>(no_access()) = 1;
    return 0;
}

/* Exits with 42 from the handler, having said what it saw. */
void leave_with_info(int signal, siginfo_t *info, void *)
{
    dprintf(STDERR_FILENO, "earlier handler: %d %s\n", signal,
            info && info->si_addr ? "with an address" : "without");
    _exit(42);
}

void leave(int signal)
{
    dprintf(STDERR_FILENO, "earlier plain handler: %d\n", signal);
    _exit(43);
}

void handle_with_info(int signal)
{
    struct sigaction action = {};
    action.sa_sigaction = leave_with_info;
    action.sa_flags = SA_SIGINFO;
    sigaction(signal, &action, nullptr);
}

bool says(const ChildEnd &end, const std::string &text)
{
    return end.said.find(text) != std::string::npos;
}

} // namespace

TEST_CASE("overflow: says who, how large the stack is, where it was started and how it got there")
{
    ChildEnd end = in_run([](void *) { return spawn_and_sink(64 * 1024, sink_deeper, DEEP); });
    INFO(end.how());
    CHECK(end.killed_by(SIGSEGV));
    CHECK(says(end, "stack overflow"));
    CHECK(says(end, "sinker #2"));
    CHECK(says(end, "64 KiB"));
    CHECK(says(end, "overflow_test.cpp:"));
    CHECK(count_of(end.said, "sink_deeper") >= 5);
}

TEST_CASE("overflow: each class names its own size, guarded either way")
{
    struct Row {
        size_t bytes;
        const char *text;
        int (*root)(void *);
    };
    const Row rows[] = {
        {16 << 10, " 16 KiB", [](void *) { return spawn_and_sink(16 << 10, sink_deeper, DEEP); }},
        {256 << 10, " 256 KiB",
         [](void *) { return spawn_and_sink(256 << 10, sink_deeper, DEEP); }},
        {1 << 20, " 1024 KiB", [](void *) { return spawn_and_sink(1 << 20, sink_deeper, DEEP); }},
        {8 << 20, " 8192 KiB", [](void *) { return spawn_and_sink(8 << 20, sink_deeper, DEEP); }},
    };
    for (const char *mask : {"", "guard"}) {
        for (const Row &row : rows) {
            ChildEnd end = in_run(row.root, 0, [&] { setenv("WHORL_MASK", mask, 1); });
            INFO("mask '" << mask << "', class" << row.text << ": " << end.how());
            CHECK(end.killed_by(SIGSEGV));
            CHECK(says(end, "stack overflow"));
            CHECK(says(end, row.text));
        }
    }
}

TEST_CASE("overflow: of a borrowed stack is the borrower's, and names the size of that one")
{
    ChildEnd end = in_run([](void *) {
        wh_coro *coro;
        wh_spawn_options options = {"borrower", 16 << 10};
        if (wh_spawn(&coro, &options, borrow_and_sink) < 0)
            return 7;
        wh_join(coro, nullptr);
        return 0;
    });
    INFO(end.how());
    CHECK(end.killed_by(SIGSEGV));
    CHECK(says(end, "stack overflow"));
    CHECK(says(end, "borrower #2"));
    CHECK(says(end, " 8192 KiB"));
    CHECK(count_of(end.said, "sink_deeper") >= 5);
}

TEST_CASE("overflow: a frame larger than the guard does not jump over it")
{
    ChildEnd end = in_run([](void *) { return spawn_and_sink(64 * 1024, sink_at_once, 1); });
    INFO(end.how());
    CHECK(end.killed_by(SIGSEGV));
    CHECK(says(end, "stack overflow"));
    CHECK(says(end, "sinker #2"));
}

TEST_CASE("overflow: the root coroutine is named too, and a function's name serves without another")
{
    ChildEnd end = in_run([](void *) { return sink_deeper(DEEP); }, 16 * 1024);
    INFO(end.how());
    CHECK(end.killed_by(SIGSEGV));
    CHECK(says(end, "stack overflow"));
    CHECK(says(end, "coroutine root #1"));

    end = in_run([](void *) {
        int rc = wh_go(sink_deeper, DEEP);
        wh_yield();
        return rc;
    });
    INFO(end.how());
    CHECK(end.killed_by(SIGSEGV));
    CHECK(says(end, "coroutine sink_deeper #2"));
}

TEST_CASE("overflow: is explained in a later run of the process as in the first")
{
    ChildEnd end = in_child([] {
        auto nothing = [](void *) { return 0; };
        CHILD_REQUIRE(wh_run(nothing, nullptr, nullptr) == 0);
        CHILD_REQUIRE(wh_run(nothing, nullptr, nullptr) == 0);
        return wh_run([](void *) { return sink_deeper(DEEP); }, nullptr, nullptr);
    });
    INFO(end.how());
    CHECK(end.killed_by(SIGSEGV));
    CHECK(says(end, "stack overflow"));
}

TEST_CASE("overflow: a handler that was there before is not asked about an overflow")
{
    ChildEnd end =
        in_run([](void *) { return sink_deeper(DEEP); }, 0, [] { handle_with_info(SIGSEGV); });
    INFO(end.how());
    CHECK(end.killed_by(SIGSEGV));
    CHECK(says(end, "stack overflow"));
    CHECK(!says(end, "earlier"));
}

TEST_CASE("fault: one that is no overflow goes to the handler that was there")
{
    ChildEnd end = in_run(touch_nowhere, 0, [] { handle_with_info(SIGSEGV); });
    INFO(end.how());
    CHECK(end.exited(42));
    CHECK(end.said == "earlier handler: " + std::to_string(SIGSEGV) + " with an address\n");

    end = in_run(touch_nowhere, 0, [] { std::signal(SIGSEGV, leave); });
    INFO(end.how());
    CHECK(end.exited(43));
    CHECK(end.said == "earlier plain handler: " + std::to_string(SIGSEGV) + "\n");
}

TEST_CASE("fault: without an earlier handler, or with the signal ignored, it is fatal in silence")
{
    for (auto handler : {SIG_DFL, SIG_IGN}) {
        ChildEnd end = in_run(touch_nowhere, 0, [&] { std::signal(SIGSEGV, handler); });
        INFO(end.how());
        CHECK(end.killed_by(SIGSEGV));
        CHECK(end.said.empty());
    }
}

TEST_CASE("fault: a function that is NULL is named by who was started with it")
{
    auto start_null = [](void *) {
        void (*volatile none)(int) = nullptr;
        (void)wh_go(none, 5);
        return wh_sleep(WH_SECOND);
    };
    ChildEnd end = in_run(start_null, 0, [] { std::signal(SIGSEGV, SIG_DFL); });
    INFO(end.how());
    CHECK(end.killed_by(SIGSEGV));
    CHECK(says(end, "a function that is NULL was called, or started: coroutine none #2, started"));
    CHECK(says(end, "overflow_test.cpp:"));

    end = in_run(start_null, 0, [] { std::signal(SIGSEGV, leave); });
    INFO(end.how());
    CHECK(end.exited(43)); /* who has a handler says what is to be said */
    CHECK(end.said == "earlier plain handler: " + std::to_string(SIGSEGV) + "\n");
}

TEST_CASE("fault: SIGBUS goes to its own earlier handler")
{
    auto touch_beyond_end = [](void *) {
        int fd = memfd_create("short", MFD_CLOEXEC);
        auto *map = static_cast<volatile char *>(
            mmap(nullptr, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
        return static_cast<int>(map[0]);
    };
    ChildEnd end = in_run(touch_beyond_end, 0, [] {
        handle_with_info(SIGBUS);
        std::signal(SIGSEGV, leave);
    });
    INFO(end.how());
    CHECK(end.exited(42));
    CHECK(end.said == "earlier handler: " + std::to_string(SIGBUS) + " with an address\n");
}

TEST_CASE("fault: a SIGSEGV that somebody sent is passed on as well")
{
    auto send = [](void *) {
        raise(SIGSEGV);
        return 0;
    };
    ChildEnd end = in_run(send);
    INFO(end.how());
    CHECK(end.killed_by(SIGSEGV));

    end = in_run(send, 0, [] { std::signal(SIGSEGV, SIG_IGN); });
    INFO(end.how());
    CHECK(end.exited(0)); /* ignored, as before */

    end = in_run(send, 0, [] { std::signal(SIGSEGV, leave); });
    INFO(end.how());
    CHECK(end.exited(43));
}

TEST_CASE("fault: one on a thread outside of any run is passed on while a run goes on")
{
    ChildEnd end = in_run(
        [](void *) {
            pthread_t thread;
            auto fault = [](void *) -> void * {
                touch_nowhere(nullptr);
                return nullptr;
            };
            pthread_create(&thread, nullptr, fault, nullptr);
            pthread_join(thread, nullptr);
            return 0;
        },
        0, [] { handle_with_info(SIGSEGV); });
    INFO(end.how());
    CHECK(end.exited(42));
}

namespace
{

char *top_of_other;

void show_and_wait(int)
{
    char here = 0;
    char *volatile at = &here;
    top_of_other = at;
    wh_sleep(WH_SECOND);
}

/* Writes below the other coroutine's stack: a wild pointer, and nobody's overflow. */
int touch_other_guard(void *)
{
    wh_spawn_options options = {"bystander", 16 * 1024};
    wh_coro *coro;
    if (wh_spawn(&coro, &options, show_and_wait, 1) < 0)
        return 7;
    wh_yield();
    for (char *at = top_of_other;; at -= PAGE_BYTES)
        *const_cast<volatile char *>(at) = *const_cast<volatile char *>(at);
}

} // namespace

TEST_CASE("fault: on another coroutine's guard it is a wild pointer, not that one's overflow")
{
    ChildEnd end = in_run(touch_other_guard, 0, [] { handle_with_info(SIGSEGV); });
    INFO(end.how());
    CHECK(!says(end, "bystander"));
    CHECK(end.exited(42));
}

TEST_CASE("fault: after the run the thread's alternate signal stack is what it was before")
{
    ChildEnd end = in_child([] {
        static char memory[1 << 16];
        stack_t mine = {}, after = {};
        mine.ss_sp = memory;
        mine.ss_size = sizeof memory;
        CHILD_REQUIRE(sigaltstack(&mine, nullptr) == 0);
        CHILD_REQUIRE(wh_run([](void *) { return 5; }, nullptr, nullptr) == 5);
        CHILD_REQUIRE(sigaltstack(nullptr, &after) == 0);
        CHILD_REQUIRE(after.ss_sp == memory);
        CHILD_REQUIRE(after.ss_size == sizeof memory);

        stack_t none = {};
        none.ss_flags = SS_DISABLE;
        CHILD_REQUIRE(sigaltstack(&none, nullptr) == 0);
        CHILD_REQUIRE(wh_run([](void *) { return 6; }, nullptr, nullptr) == 6);
        CHILD_REQUIRE(sigaltstack(nullptr, &after) == 0);
        CHILD_REQUIRE(after.ss_flags & SS_DISABLE);
        return 0;
    });
    INFO(end.how());
    CHECK(end.exited(0));
}
