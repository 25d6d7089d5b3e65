/*
 * run_test.cpp: how a run begins and ends: options, the environment, errors before the root runs,
 * the rest's end after the root, running out of stacks, several runs, and calls outside of one.
 */
#include "tests/base/child.hpp"
#include "tests/sched/forbid.hpp"
#include "tests/sched/in_run.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

extern "C" {
#include "sched/sched.h"
}

namespace
{

int return_seven(void *arg)
{
    (void)arg;
    return 7;
}

/* What a run with these options returns, and what it says. */
struct Refusal {
    int rc;
    std::string said;
};

Refusal refusal(const wh_options &options)
{
    StderrKept kept;
    int rc = wh_run(return_seven, nullptr, &options);
    return {rc, kept.text()};
}

/* Options with one field set. */
template <typename T, typename V> wh_options with(T wh_options::*field, V value)
{
    wh_options options = {};
    options.*field = static_cast<T>(value);
    return options;
}

size_t stack_bytes_of_self()
{
    return stack_class_bytes(wh_self()->stack->size_class);
}

} // namespace

/* ---- The root ---- */

TEST_CASE("run: it returns what the root returns, and passes the argument")
{
    int rc = wh_run(return_seven, nullptr, nullptr);
    CHECK(rc == 7);
    rc = wh_run([](void *arg) { return *static_cast<int *>(arg) - 1; }, &rc, nullptr);
    CHECK(rc == 6);
    rc = in_run([] { return -5; });
    CHECK(rc == -5);
    rc = in_run([] { return INT32_MIN; });
    CHECK(rc == INT32_MIN);
}

TEST_CASE("run: the version is the project's")
{
    CHECK(std::string(wh_version()) == WHORL_VERSION);
}

TEST_CASE("run: a run inside of a run is -EBUSY with a line, and the outer one goes on")
{
    Refusal inner = {0, ""};
    int rc = in_run([&] {
        inner = refusal(wh_options());
        wh_yield();
        return wh_sleep(WH_MICROSECOND);
    });
    CHECK(rc == 0);
    CHECK(inner.rc == -EBUSY);
    CHECK(lines_of(inner.said) == 1);
}

/* ---- Options ---- */

TEST_CASE("run: an option out of its range is -EINVAL and one line that names it")
{
    struct {
        const char *name;
        wh_options options;
    } cases[] = {
        {"stack_bytes", with(&wh_options::stack_bytes, (size_t(8) << 20) + 1)},
        {"stack_bytes", with(&wh_options::stack_bytes, SIZE_MAX)},
        {"ring_entries", with(&wh_options::ring_entries, 7)},
        {"ring_entries", with(&wh_options::ring_entries, 4)},
        {"ring_entries", with(&wh_options::ring_entries, 1000)},
        {"ring_entries", with(&wh_options::ring_entries, 65536)},
        {"ring_entries", with(&wh_options::ring_entries, UINT32_MAX)},
        {"spin_ns", with(&wh_options::spin_ns, 2 * WH_SECOND)},
        {"spin_ns", with(&wh_options::spin_ns, -2)},
        {"grace_ns", with(&wh_options::grace_ns, -2)},
    };
    /* A variable of the environment would count more than the field. */
    bool ring_is_set = getenv("WHORL_RING_ENTRIES") != nullptr;
    for (const auto &one : cases) {
        if (ring_is_set && !strcmp(one.name, "ring_entries"))
            continue;
        Refusal refused = refusal(one.options);
        INFO(one.name << ": " << refused.said);
        CHECK(refused.rc == -EINVAL);
        CHECK(lines_of(refused.said) == 1);
        CHECK(refused.said.find(one.name) != std::string::npos);
    }
    StderrKept kept;
    int rc = wh_run(nullptr, nullptr, nullptr);
    CHECK(rc == -EINVAL);
    CHECK(lines_of(kept.text()) == 1);
}

TEST_CASE("run: options at the ends of their ranges work")
{
    const wh_options cases[] = {
        {},
        with(&wh_options::stack_bytes, 1),
        with(&wh_options::stack_bytes, size_t(8) << 20),
        with(&wh_options::stacks_max, 1),
        with(&wh_options::ring_entries, 8),
        with(&wh_options::ring_entries, 32768),
        with(&wh_options::spin_ns, -1),
        with(&wh_options::spin_ns, 1),
        with(&wh_options::spin_ns, WH_SECOND),
        with(&wh_options::grace_ns, -1),
        with(&wh_options::grace_ns, INT64_MAX),
    };
    for (const wh_options &options : cases) {
        int rc = wh_run(return_seven, nullptr, &options);
        CHECK(rc == 7);
    }
}

TEST_CASE("run: stack_bytes is rounded up to a class and is the stack of who asks for nothing")
{
    wh_options options = {};
    options.stack_bytes = 20000;
    in_run(
        [] {
            CHECK(stack_bytes_of_self() == 65536);
            wh_coro *coro = spawn([] { CHECK(stack_bytes_of_self() == 65536); });
            join(coro);
            wh_spawn_options own = {nullptr, size_t(1) << 20};
            coro = spawn([] { CHECK(stack_bytes_of_self() == size_t(1) << 20); }, &own);
            join(coro);
        },
        &options);
    in_run([] { CHECK(stack_bytes_of_self() == 262144); });
}

TEST_CASE("run: the environment counts more than the field")
{
    {
        EnvSet env("WHORL_STACK_BYTES", "1000000");
        wh_options options = {};
        options.stack_bytes = 16384;
        in_run([] { CHECK(stack_bytes_of_self() == size_t(1) << 20); }, &options);
    }
    {
        EnvSet env("WHORL_STACKS_MAX", "3");
        StderrKept kept;
        in_run([] {
            int a = start([] {}), b = start([] {}), c = start([] {});
            CHECK(a == 0);
            CHECK(b == 0);
            CHECK(c == -ENOMEM);
        });
    }
    {
        EnvSet env("WHORL_RING_ENTRIES", "9");
        CHECK(refusal(wh_options()).rc == -EINVAL);
    }
    {
        EnvSet env("WHORL_SPIN_NS", "2000000000");
        CHECK(refusal(wh_options()).rc == -EINVAL);
    }
    {
        EnvSet env("WHORL_GRACE_NS", "1000000");
        StderrKept kept;
        int64_t began_ns = wh_now();
        in_run([] {
            wh_go([] {
                for (;;)
                    wh_yield();
            });
            wh_yield();
        });
        CHECK(wh_now() - began_ns < 4 * WH_SECOND); /* the default would be 5 s */
        CHECK(kept.text().find("within 1 ms") != std::string::npos);
    }
}

TEST_CASE("run: a variable that is no number, or does not fit, is said and does no harm")
{
    for (const char *bad : {"many", "12x", "99999999999999999999"}) {
        EnvSet env("WHORL_STACK_BYTES", bad);
        Refusal refused = refusal(wh_options());
        INFO(refused.said);
        CHECK(refused.rc == 7);
        CHECK(refused.said.find("WHORL_STACK_BYTES") != std::string::npos);
    }
    /* 2^32 + 8 must not be taken for 8. */
    EnvSet env("WHORL_RING_ENTRIES", "4294967304");
    CHECK(refusal(wh_options()).rc == -EINVAL);
}

/* ---- The end ---- */

TEST_CASE("run: when the root returns, the rest is cancelled and waited for")
{
    int cancelled = 0, started_late = 0, closed = 0;
    FdPair pair = socket_pair();
    int rc = in_run([&] {
        start([&] { cancelled += wh_sleep(WH_HOUR) == -ECANCELED; });
        start([&] {
            char byte;
            cancelled += wh_recv(pair.a, &byte, 1, 0) == -ECANCELED;
            wh_yield();
            started_late = start([] {});
            closed = wh_close(pair.b.release());
        });
        wh_coro *child = spawn([] { wh_sleep(WH_HOUR); });
        start([&, child] { cancelled += wh_join(child, nullptr) == -ECANCELED; });
        wh_yield();
        /* This one has not run at all yet. */
        start([&] { cancelled += wh_sleep(WH_HOUR) == -ECANCELED; });
        return 3;
    });
    CHECK(rc == 3);
    CHECK(cancelled == 4);
    CHECK(started_late == -ECANCELED);
    CHECK(closed == 0);
}

TEST_CASE("run: the rest may take its time to end, within the grace time")
{
    int steps = 0;
    int64_t began_ns = wh_now();
    StderrKept kept;
    in_run([&] {
        start([&] {
            while (wh_sleep(WH_HOUR) != -ECANCELED)
                ;
            for (int i = 0; i < 1000; i++) {
                wh_yield();
                steps++;
            }
        });
        wh_yield();
    });
    CHECK(steps == 1000);
    CHECK(wh_now() - began_ns < 4 * WH_SECOND);
    CHECK(kept.text().empty());
}

TEST_CASE("run: what will not end within the grace time is named")
{
    ChildEnd end = in_child([] {
        wh_options options = {};
        options.grace_ns = 20 * WH_MILLISECOND;
        int64_t began_ns = wh_now();
        int rc = in_run(
            [] {
                wh_spawn_options stubborn = {"stubborn", 0}, willing = {"willing", 0};
                wh_detach(spawn(
                    [] {
                        for (;;)
                            wh_yield();
                    },
                    &stubborn));
                wh_detach(spawn([] { wh_sleep(WH_HOUR); }, &willing));
                wh_yield();
                return 5;
            },
            &options);
        CHILD_REQUIRE(wh_now() - began_ns >= 20 * WH_MILLISECOND);
        return rc;
    });
    INFO(end.how());
    CHECK(end.exited(5));
    CHECK(end.said.find("1 coroutine did not end within 20 ms") != std::string::npos);
    CHECK(end.said.find("ignores -ECANCELED") != std::string::npos); /* the cure */
    CHECK(end.said.find("stubborn #2") != std::string::npos);
    CHECK(end.said.find("runnable") != std::string::npos);
    CHECK(end.said.find("willing") == std::string::npos);
}

TEST_CASE("run: who goes on calling in a context that has ended is told of")
{
    const bool cancelled = GENERATE(false, true), yields = GENERATE(false, true);
    ChildEnd end = in_child([cancelled, yields] {
        return in_run([cancelled, yields] {
            auto deaf = [cancelled, yields] {
                return spawn([cancelled, yields] {
                    WH_CHAN(int) never = wh_chan_create(int, 0);
                    int value, rc = 0;
                    WH_WITH_TIMEOUT(cancelled ? WH_HOUR : WH_MILLISECOND)
                    {
                        for (int i = 0; i < 100100; i++) {
                            rc = wh_chan_recv(never, &value);
                            if (yields)
                                wh_yield();
                        }
                    }
                    wh_chan_unref(never);
                    return rc;
                });
            };
            wh_coro *two[] = {deaf(), deaf()}; /* which take turns */
            Turns turn;
            turn(2);
            for (wh_coro *coro : two)
                if (cancelled)
                    wh_cancel(coro);
            for (wh_coro *coro : two) {
                const intptr_t rc = join(coro);
                CHILD_REQUIRE(rc == (cancelled ? -ECANCELED : -ETIMEDOUT));
            }
            return 7;
        });
    });
    INFO(end.how());
    CHECK(end.exited(7));
    const std::string what = cancelled ? "context was cancelled" : "deadline has passed";
    const size_t at = end.said.find(what);
    REQUIRE(at != std::string::npos);
    CHECK(end.said.find("started at") < at);
    CHECK(end.said.find(what, at + what.size()) == std::string::npos); /* once */
}

TEST_CASE("run: who asks without waiting, or has been refused like many others, is not told of")
{
    ChildEnd end = in_child([] {
        return in_run([] {
            WH_WITH_TIMEOUT(0)
            {
                for (int i = 0; i < 200000; i++)
                    CHILD_REQUIRE(wh_sleep(WH_HOUR) == -ETIMEDOUT);
            }
            WH_WITH_CANCEL(ctx)
            {
                wh_ctx_cancel(ctx, 0);
                for (int i = 0; i < 30; i++) {
                    std::vector<wh_coro *> many;
                    for (int j = 0; j < 1000; j++)
                        many.push_back(spawn([] {
                            for (int k = 0; k < 20; k++) /* has much to do, but comes to its end */
                                (void)wh_sleep(WH_HOUR);
                            return wh_sleep(WH_HOUR);
                        }));
                    WH_SHIELD
                    {
                        for (wh_coro *coro : many)
                            join(coro);
                    }
                }
            }
            return 7;
        });
    });
    INFO(end.how());
    CHECK(end.exited(7));
    CHECK(end.said.find("goes on calling") == std::string::npos);
}

TEST_CASE("run: no grace at all ends the run at once, whatever is in flight")
{
    ChildEnd end = in_child([] {
        char *buffer = static_cast<char *>(malloc(4096));
        memset(buffer, 0x55, 4096);
        FdPair pair = socket_pair();
        wh_options options = {};
        options.grace_ns = -1;
        int rc = in_run(
            [&] {
                start([&] { wh_recv(pair.a, buffer, 4096, 0); });
                Turns turn;
                turn(2);
                return 6;
            },
            &options);
        /* The receive is not in flight any more: the kernel does not write what comes now. */
        CHILD_REQUIRE(send(pair.b, "late", 4, 0) == 4);
        char byte;
        CHILD_REQUIRE(recv(pair.a, &byte, 1, MSG_PEEK) == 1);
        for (int i = 0; i < 4096; i++)
            CHILD_REQUIRE(buffer[i] == 0x55);
        return rc;
    });
    INFO(end.how());
    CHECK(end.exited(6));
    CHECK(end.said.find("did not end within 0 ms") != std::string::npos);
    CHECK(end.said.find("waits in recv") != std::string::npos);
    CHECK(end.said.find("ignores -ECANCELED") == std::string::npos); /* it had no time to look */
}

TEST_CASE("run: many runs in a row leave nothing behind")
{
    auto one = [] {
        in_run([] {
            FdPair pair = socket_pair();
            for (int i = 0; i < 20; i++)
                start([&] {
                    wh_name_set("visitor");
                    char byte;
                    wh_recv(pair.a, &byte, 1, 0);
                });
            wh_sleep(1);
        });
    };
    for (int i = 0; i < 30; i++)
        one();
    int fds = fds_open();
    size_t rss = rss_bytes();
    for (int i = 0; i < times(300); i++)
        one();
    CHECK(fds_open() == fds);
    INFO("grew by " << (static_cast<long>(rss_bytes()) - static_cast<long>(rss)) << " bytes");
    /* A leaked ring would be 80 KiB a run, a stack 4. A sanitizer keeps freed memory for a while.
     */
    CHECK(rss_bytes() < rss + (size_t(WITH_SANITIZER ? 64 : 2) << 20));
}

/* ---- Several runs ---- */

TEST_CASE("run: several threads have a run of their own at the same time and share nothing")
{
    constexpr int THREADS = 4, MESSAGES = 2000;
    std::atomic<int> right = 0;
    std::vector<std::thread> threads;
    for (int t = 0; t < THREADS; t++)
        threads.emplace_back([&, t] {
            int rc = in_run([&] {
                FdPair pair = socket_pair();
                int sum = 0;
                wh_coro *echo = spawn([&] {
                    int number;
                    while (wh_recv(pair.a, &number, sizeof number, 0) == sizeof number)
                        wh_send(pair.a, &number, sizeof number, 0);
                });
                for (int i = 0; i < MESSAGES; i++) {
                    int number = t * MESSAGES + i, back = -1;
                    wh_send(pair.b, &number, sizeof number, 0);
                    wh_recv(pair.b, &back, sizeof back, MSG_WAITALL);
                    sum += back == number;
                }
                wh_shutdown(pair.b, SHUT_WR);
                join(echo);
                return sum + static_cast<int>(wh_id(wh_self()));
            });
            right += rc == MESSAGES + 1;
        });
    for (std::thread &thread : threads)
        thread.join();
    CHECK(right == THREADS);
}

TEST_CASE("run: threads that run one after the other leave nothing behind")
{
    auto one = [] { std::thread([] { in_run([] { return wh_sleep(1); }); }).join(); };
    for (int i = 0; i < 10; i++)
        one();
    int fds = fds_open();
    for (int i = 0; i < 50; i++)
        one();
    CHECK(fds_open() == fds);
}

/* ---- Running out ---- */

TEST_CASE("run: at stacks_max a start is -ENOMEM, and works again when a coroutine has ended")
{
    wh_options options = {};
    options.stacks_max = 10;
    StderrKept kept;
    in_run(
        [] {
            std::vector<wh_coro *> coros;
            wh_coro *coro;
            while ((coro = spawn([] { wh_sleep(WH_HOUR); })))
                coros.push_back(coro);
            CHECK(coros.size() == 9); /* and the root */
            wh_coro *const untouched = wh_self();
            coro = untouched;
            int rc = wh_spawn(&coro, nullptr, wh_yield);
            CHECK(rc == -ENOMEM);
            CHECK(coro == untouched);
            wh_yield(); /* they take their stacks */
            rc = wh_go(wh_yield);
            CHECK(rc == -ENOMEM);
            for (int i = 0; i < 3; i++) {
                wh_cancel(coros.back());
                join(coros.back());
                coros.pop_back();
                coro = spawn([] { wh_sleep(WH_HOUR); });
                CHECK(coro != nullptr);
                if (coro)
                    coros.push_back(coro);
                rc = wh_go(wh_yield);
                CHECK(rc == -ENOMEM);
            }
            worker_validate(worker_tls);
            for (wh_coro *each : coros) {
                wh_cancel(each);
                join(each);
            }
            wh_stats stats;
            wh_stats_get(&stats);
            CHECK(stats.stacks_in_use == 1);
        },
        &options);
    CHECK(lines_of(kept.text()) == 1); /* said once, not each time */
    CHECK(kept.text().find("stacks_max") != std::string::npos);
}

TEST_CASE("run: without address space a start is -ENOMEM with a reason, and nothing breaks")
{
    if (WITH_SANITIZER)
        SKIP("AddressSanitizer needs terabytes of address space itself");
    ChildEnd end = in_child([] {
        return in_run([] {
            struct rlimit limit;
            getrlimit(RLIMIT_AS, &limit);
            /* Room for some two hundred stacks of 256 KiB above what there is. */
            long pages = 0;
            FILE *file = fopen("/proc/self/statm", "re");
            CHILD_REQUIRE(file && fscanf(file, "%ld", &pages) == 1);
            fclose(file);
            limit.rlim_cur = static_cast<rlim_t>(pages) * 4096 + (64 << 20);
            CHILD_REQUIRE(setrlimit(RLIMIT_AS, &limit) == 0);

            static wh_coro *coros[4096];
            int count = 0;
            int rc = 0;
            while (count < 4096 && (rc = wh_spawn(&coros[count], NULL, wh_sleep, WH_HOUR)) == 0)
                count++;
            CHILD_REQUIRE(rc == -ENOMEM);
            CHILD_REQUIRE(count > 20);
            CHILD_REQUIRE(wh_go(wh_yield) == -ENOMEM);
            wh_yield();
            worker_validate(worker_tls);
            for (int i = 0; i < count; i++) {
                wh_cancel(coros[i]);
                CHILD_REQUIRE(wh_join(coros[i], NULL) == 0);
            }
            for (int i = 0; i < count; i++)
                CHILD_REQUIRE(wh_go(wh_yield) == 0);
            wh_yield();
            worker_validate(worker_tls);
            return 44;
        });
    });
    INFO(end.how());
    CHECK(end.exited(44));
    CHECK(end.said.find("no more coroutine stacks after") != std::string::npos);
    CHECK(lines_of(end.said) == 1);
}

TEST_CASE("run: where io_uring is forbidden or missing, one line says so and what helps")
{
    const struct {
        int error, rc;
        const char *cure;
    } cases[] = {
        {EPERM, -EPERM, "kernel.io_uring_disabled"},
        {EACCES, -EPERM, "seccomp"},
        {ENOSYS, -ENOSYS, "Linux 6.1"},
        {EINVAL, -ENOSYS, "Linux 6.1"},
        {ENOMEM, -ENOMEM, "WHORL_RING_ENTRIES"},
        {ENFILE, -ENFILE, "ulimit -n"},
    };
    for (const auto &one : cases) {
        ChildEnd end = in_child([&] {
            CHILD_REQUIRE(forbid(SYS_io_uring_setup, one.error));
            CHILD_REQUIRE(wh_run(return_seven, nullptr, nullptr) == one.rc);
            return 3;
        });
        INFO(strerror(one.error) << ": " << end.how());
        CHECK(end.exited(3));
        CHECK(lines_of(end.said) == 1);
        CHECK(end.said.find(one.cure) != std::string::npos);
    }
}

TEST_CASE("run: without io_uring wh_caps still answers")
{
    ChildEnd end = in_child([] {
        CHILD_REQUIRE(forbid(SYS_io_uring_setup, EPERM));
        char buf[256];
        CHILD_REQUIRE(wh_caps(buf, sizeof buf) >= 0);
        CHILD_REQUIRE(!strstr(buf, "single_issuer"));
        return 3;
    });
    INFO(end.how());
    CHECK(end.exited(3));
}

TEST_CASE("run: without descriptors it is -EMFILE and one line")
{
    ChildEnd end = in_child([] {
        struct rlimit limit;
        getrlimit(RLIMIT_NOFILE, &limit);
        limit.rlim_cur = 3;
        setrlimit(RLIMIT_NOFILE, &limit);
        for (int fd = 3; fd < 64; fd++)
            close(fd);
        int rc = wh_run(return_seven, nullptr, nullptr);
        CHILD_REQUIRE(rc == -EMFILE);
        return 0;
    });
    INFO(end.how());
    CHECK(end.exited(0));
    CHECK(lines_of(end.said) == 1);
    CHECK(end.said.find("ulimit -n") != std::string::npos);
}

/* ---- Outside ---- */

TEST_CASE("run: a call outside of a coroutine aborts with a message that names it")
{
    static char byte;
    static wh_coro *coro;
    static wh_stats stats;
    const std::vector<std::pair<const char *, void (*)()>> calls = {
        {"wh_go", [] { wh_go(wh_yield); }},
        {"wh_spawn", [] { wh_spawn(&coro, nullptr, wh_yield); }},
        {"wh_join", [] { wh_join(nullptr, nullptr); }},
        {"wh_detach", [] { wh_detach(nullptr); }},
        {"wh_yield", [] { wh_yield(); }},
        {"wh_name_set", [] { wh_name_set("x"); }},
        {"wh_local_set", [] { wh_local_set(0, nullptr); }},
        {"wh_local_get", [] { wh_local_get(0); }},
        {"wh_sleep", [] { wh_sleep(1); }},
        {"wh_sleep_until", [] { wh_sleep_until(1); }},
        {"wh_deadline", [] { wh_deadline(); }},
        {"WH_WITH_TIMEOUT",
         [] {
             WH_WITH_TIMEOUT(1)
             {
             }
         }},
        {"WH_WITH_DEADLINE",
         [] {
             WH_WITH_DEADLINE(1)
             {
             }
         }},
        {"wh_stats_get", [] { wh_stats_get(&stats); }},
        {"wh_read", [] { wh_read(0, &byte, 1); }},
        {"wh_write", [] { wh_write(0, &byte, 1); }},
        {"wh_readv", [] { wh_readv(0, nullptr, 0); }},
        {"wh_writev", [] { wh_writev(0, nullptr, 0); }},
        {"wh_pread", [] { wh_pread(0, &byte, 1, 0); }},
        {"wh_pwrite", [] { wh_pwrite(0, &byte, 1, 0); }},
        {"wh_preadv", [] { wh_preadv(0, nullptr, 0, 0); }},
        {"wh_pwritev", [] { wh_pwritev(0, nullptr, 0, 0); }},
        {"wh_recv", [] { wh_recv(0, &byte, 1, 0); }},
        {"wh_send", [] { wh_send(0, &byte, 1, 0); }},
        {"wh_recvmsg", [] { wh_recvmsg(0, nullptr, 0); }},
        {"wh_sendmsg", [] { wh_sendmsg(0, nullptr, 0); }},
        {"wh_send", [] { wh_send_all(0, &byte, 1); }},
        {"wh_write", [] { wh_write_all(0, &byte, 1); }},
        {"wh_accept", [] { wh_accept(0); }},
        {"wh_accept4", [] { wh_accept4(0, nullptr, nullptr, 0); }},
        {"wh_connect", [] { wh_connect(0, nullptr, 0); }},
        {"wh_shutdown", [] { wh_shutdown(0, 0); }},
        {"wh_close", [] { wh_close(0); }},
        {"wh_openat", [] { wh_openat(0, "x", 0, 0); }},
        {"wh_fsync", [] { wh_fsync(0); }},
        {"wh_fdatasync", [] { wh_fdatasync(0); }},
        {"wh_statx", [] { wh_statx(0, "x", 0, 0, nullptr); }},
        {"wh_poll", [] { wh_poll(0, POLLIN); }},
        {"wh_connect", [] { wh_dial_tcp("127.0.0.1:1"); }},
    };
    for (const auto &call : calls) {
        ChildEnd end = in_child([&] {
            call.second();
            return 0;
        });
        INFO(call.first << ": " << end.how());
        CHECK(end.killed_by(SIGABRT));
        CHECK(lines_of(end.said) == 1);
        CHECK(end.said.find(std::string(call.first) + " was called outside") != std::string::npos);
    }
}

TEST_CASE("run: after a run the thread is outside again")
{
    ChildEnd end = in_child([] {
        in_run([] {});
        wh_yield();
        return 0;
    });
    CHECK(end.killed_by(SIGABRT));
}
