/*
 * process_stop_test.cpp: what stops processes: signals, contexts, the end of the run; many at once;
 * and the calls that do all in one: the sentences of whorl/process.h about that.
 */
#include "tests/sched/on_workers.hpp"
#include "tests/sync/process.hpp"

#include <thread>

/* ---- Stopping ---- */

TEST_CASE("process: a signal reaches it while it runs, and nobody afterwards")
{
    in_clean_run([] {
        Process process(CAT, PIPES);
        CHECK(wh_process_pid(process) > 0);
        CHECK(wh_process_kill(process, 0) == 0);
        CHECK(wh_process_kill(process, 1000) == -EINVAL);
        CHECK(wh_process_kill(process, SIGUSR1) == 0);
        const int status = process.status();
        CHECK(killed_by(status, SIGUSR1));
        CHECK(wh_process_kill(process, SIGUSR1) == -ESRCH);
        CHECK(wh_process_kill(process, 0) == -ESRCH);
    });
}

TEST_CASE("process: the end of the context in which it was spawned kills it, and no other")
{
    in_clean_run([] {
        Process other(CAT, PIPES);
        wh_ctx *ctx = wh_ctx_create(nullptr);
        std::unique_ptr<Process> process, below;
        WH_WITH_CTX(ctx)
        {
            process = std::make_unique<Process>(CAT, PIPES);
            WH_WITH_CANCEL(inner)
            {
                wh_coro *coro = spawn([&] { below = std::make_unique<Process>(CAT, PIPES); });
                join(coro);
                wh_ctx_cancel(ctx, -EDQUOT);
            }
        }
        int status = process->status();
        CHECK(killed_by(status, SIGKILL));
        status = below->status();
        CHECK(killed_by(status, SIGKILL));
        CHECK(wh_process_kill(other, 0) == 0);
        wh_ctx_destroy(ctx);
        process.reset();
        below.reset();
        wh_close(wh_process_take(other, 0));
        status = other.status();
        CHECK(status == exited(0));
    });
}

TEST_CASE("process: a deadline kills it: of a context, and of a block around the spawn")
{
    in_clean_run([] {
        wh_ctx *ctx = wh_ctx_create_timeout(nullptr, 10 * WH_MILLISECOND);
        std::unique_ptr<Process> process;
        WH_WITH_CTX(ctx)
        {
            process = std::make_unique<Process>(CAT, PIPES);
        }
        int status = process->status();
        CHECK(killed_by(status, SIGKILL));
        wh_ctx_destroy(ctx);
        WH_WITH_TIMEOUT(10 * WH_MILLISECOND)
        {
            process = std::make_unique<Process>(CAT, PIPES);
        }
        status = process->status(); /* the block was left long before */
        CHECK(killed_by(status, SIGKILL));
    });
}

TEST_CASE("process: whoever waits for one that its context has stopped is told so")
{
    in_clean_run([] {
        std::unique_ptr<Process> late, cancelled, before;
        wh_ctx *ctx = wh_ctx_create(nullptr);
        WH_WITH_TIMEOUT(10 * WH_MILLISECOND)
        {
            late = std::make_unique<Process>(CAT, PIPES);
        }
        WH_WITH_CTX(ctx)
        {
            cancelled = std::make_unique<Process>(CAT, PIPES);
            before = std::make_unique<Process>(TRUE);
        }
        int status = before->status(); /* by itself: its context has nothing to stop any more */
        CHECK(status == exited(0));
        wh_ctx_destroy(ctx);
        int rc = wh_process_wait(*before, nullptr);
        CHECK(rc == 0);
        for (int again = 0; again < 2; again++) {
            rc = wh_process_wait(*cancelled, &status);
            CHECK(rc == -ECANCELED);
            CHECK(killed_by(status, SIGKILL));
            status = -1;
            rc = wh_process_wait(*late, &status);
            CHECK(rc == -ECANCELED); /* it was stopped; the caller has all the time it wants */
            CHECK(killed_by(status, SIGKILL));
            status = -1;
            WH_WITH_TIMEOUT(0)
            {
                rc = wh_process_wait(*late, &status);
            }
            CHECK(rc == -ETIMEDOUT); /* so has not this one */
            CHECK(killed_by(status, SIGKILL));
            status = -1;
        }
    });
}

/* The reader meets the end of the output when the process is killed, which may be before its own
 * time is over: a text that was cut off must not look whole. */
TEST_CASE("process: what one has said whose time was over is not given as all of it")
{
    in_clean_run([] {
        for (int round = 0; round < 20; round++) {
            ssize_t n = 0;
            char *text = nullptr;
            WH_WITH_TIMEOUT(5 * WH_MILLISECOND)
            {
                n = wh_process_output(shell("echo begun; exec sleep 60"), nullptr, 100, &text,
                                      nullptr);
            }
            CHECK(n == -ETIMEDOUT);
        }
    });
}

TEST_CASE("process: the failure of a group kills what its members have spawned")
{
    in_clean_run([] {
        int status = -1, rc = 0;
        wh_event spawned = {};
        WH_WITH_GROUP(group, nullptr)
        {
            wh_group_go(
                group,
                [](int *ret_status, wh_event *event) {
                    Process process(CAT, PIPES);
                    wh_event_set(event);
                    WH_SHIELD
                    {
                        *ret_status = process.status();
                    }
                },
                &status, &spawned);
            wh_group_go(
                group,
                [](wh_event *event) {
                    (void)wh_event_wait(event);
                    return -EBADMSG;
                },
                &spawned);
            rc = wh_group_wait(group);
        }
        CHECK(rc == -EBADMSG);
        CHECK(killed_by(status, SIGKILL));
    });
}

TEST_CASE("process: cancelling the coroutine that spawned it does not concern it")
{
    in_clean_run([] {
        std::unique_ptr<Process> process;
        wh_event spawned = {};
        int rc = 0;
        wh_coro *coro = spawn([&] {
            process = std::make_unique<Process>(CAT, PIPES);
            wh_event_set(&spawned);
            rc = wh_process_wait(*process, nullptr);
        });
        wh_event_wait(&spawned);
        wh_cancel(coro);
        join(coro);
        CHECK(rc == -ECANCELED);
        CHECK(wh_process_kill(*process, 0) == 0);
        wh_close(wh_process_take(*process, 0));
        const int status = process->status();
        CHECK(status == exited(0));
    });
}

TEST_CASE("process: spawned in a shield it is not stopped by the contexts around")
{
    in_clean_run([] {
        std::unique_ptr<Process> process;
        WH_WITH_CANCEL(ctx)
        {
            WH_SHIELD
            {
                process = std::make_unique<Process>(CAT, PIPES);
            }
        }
        wh_close(wh_process_take(*process, 0));
        const int status = process->status();
        CHECK(status == exited(0));
    });
}

namespace
{

/* Handles SIGTERM as the action says, after it has written a line. */
std::string waiting_for_term(const char *action)
{
    return std::string("trap '") + action + "' TERM; echo ready; while :; do sleep 0.01; done";
}

} // namespace

TEST_CASE("process: one that is asked to stop may go as it likes")
{
    in_clean_run([] {
        const std::string script = waiting_for_term("exit 5");
        wh_process_options options = PIPES;
        options.stop_signal = SIGTERM;
        options.stop_grace_ns = WH_MINUTE;
        wh_ctx *ctx = wh_ctx_create(nullptr);
        std::unique_ptr<Process> process;
        WH_WITH_CTX(ctx)
        {
            process = std::make_unique<Process>(shell(script.c_str()), options);
        }
        const wh_fd out = wh_process_take(*process, 1);
        const std::string ready = line_of(out);
        CHECK(ready == "ready");
        wh_ctx_destroy(ctx);
        const int status = process->status();
        CHECK(status == exited(5));
        wh_close(out);
    });
}

TEST_CASE("process: one that does not go when asked is killed after the grace time")
{
    in_clean_run([] {
        const std::string script = waiting_for_term("");
        wh_process_options options = PIPES;
        options.stop_signal = SIGTERM;
        options.stop_grace_ns = 20 * WH_MILLISECOND;
        wh_ctx *ctx = wh_ctx_create(nullptr);
        std::unique_ptr<Process> process;
        WH_WITH_CTX(ctx)
        {
            process = std::make_unique<Process>(shell(script.c_str()), options);
        }
        const wh_fd out = wh_process_take(*process, 1);
        const std::string ready = line_of(out);
        CHECK(ready == "ready");
        const int64_t start_ns = wh_now();
        wh_ctx_destroy(ctx);
        const int status = process->status();
        CHECK(wh_now() - start_ns >= options.stop_grace_ns);
        CHECK(killed_by(status, SIGKILL));
        wh_close(out);
    });
}

TEST_CASE("process: destroying it stops it, waits for its end and closes what was not taken")
{
    in_clean_run([] {
        Turns turn;
        const int fds = fds_open();
        wh_process *process = nullptr;
        for (bool ran : {false, true}) {
            int rc = wh_process_spawn(&process, CAT, &PIPES);
            CHECK(rc == 0);
            if (ran)
                turn(3);
            WH_WITH_CANCEL(ctx)
            {
                wh_ctx_cancel(ctx, 0); /* it obeys none */
                wh_process_destroy(process);
            }
            CHECK(childless());
            CHECK(fds_open() == fds);
        }
        wh_process_destroy(nullptr);
    });
}

TEST_CASE("process: destroying it stops it as its options say")
{
    in_clean_run([] {
        File said;
        const std::string script = waiting_for_term("echo asked; exit 0");
        wh_process_options options = streams(0, WH_STDIO_PIPE, WH_STDIO_NULL);
        options.stop_signal = SIGTERM;
        options.stop_grace_ns = WH_NEVER;
        std::string out;
        wh_coro *reader = nullptr;
        {
            Process process(shell(script.c_str()), options);
            const wh_fd fd = wh_process_take(process, 1);
            const std::string ready = line_of(fd);
            CHECK(ready == "ready");
            reader = spawn([&out, fd] { out = all_of(fd); });
        }
        join(reader);
        CHECK(out == "asked\n");
    });
}

TEST_CASE("process: destroying one that is being waited for aborts")
{
    ChildEnd end = in_child([] {
        return in_run([] {
            wh_process *process = nullptr;
            CHILD_REQUIRE(wh_process_spawn(&process, CAT, &PIPES) == 0);
            until_parked(spawn([&] { (void)wh_process_wait(process, nullptr); }));
            wh_process_destroy(process);
        });
    });
    INFO(end.how());
    CHECK(end.killed_by(SIGABRT));
    CHECK(end.said.find("being waited for") != std::string::npos);
}

/* ---- The end of the run ---- */

TEST_CASE("process: the end of the run leaves neither process nor descriptor nor zombie")
{
    StderrKept kept;
    const wh_options patient = {}, hasty = {0, 0, 0, 0, -1};
    for (const wh_options *options : {&patient, &hasty})
        for (int turns = 0; turns < 6; turns++) {
            INFO((options == &hasty ? "hasty" : "patient") << " after " << turns << " turns");
            const int rc = in_clean_run(
                [turns] {
                    Turns turn;
                    wh_process *process = nullptr;
                    int all = 0;
                    for (int i = 0; i < 5; i++)
                        all |= wh_process_spawn(&process, CAT, &PIPES);
                    all |= wh_process_spawn(&process, TRUE, nullptr);
                    for (int i = 0; i < turns; i++) { /* some are being given back */
                        all |= wh_process_spawn(&process, CAT, &PIPES);
                        all |= wh_go(wh_process_destroy, process);
                        turn(1);
                    }
                    return all;
                },
                options);
            CHECK(rc == 0);
        }
}

TEST_CASE("process: whoever waits for one at the end of the run can still give it back")
{
    int rc = 1;
    in_clean_run([&] {
        wh_event spawned = {};
        start([&] {
            Process process(CAT, PIPES);
            wh_event_set(&spawned);
            rc = wh_process_wait(process, nullptr);
        });
        wh_event_wait(&spawned);
    });
    CHECK(rc == -ECANCELED);
}

TEST_CASE("process: none is started while the run is ending")
{
    int rc = 0;
    in_clean_run([&] {
        start([&] {
            (void)wh_sleep(WH_HOUR);
            WH_SHIELD
            {
                wh_process *process = nullptr;
                rc = wh_process_spawn(&process, CAT, nullptr);
            }
        });
        wh_yield();
    });
    CHECK(rc == -ECANCELED);
}

TEST_CASE("process: a run in which all wait for one is not deadlocked")
{
    const int rc = in_clean_run([] {
        int status = -1;
        const int run = wh_process_run(shell("sleep 0.05"), nullptr, &status);
        return run < 0 ? run : status;
    });
    CHECK(rc == 0);
}

/* ---- Many ---- */

TEST_CASE("process: a hundred at once")
{
    in_clean_run([] {
        constexpr int COUNT = 100;
        struct Shared {
            std::atomic<int> right{0}, failed{0};
        } shared;
        WH_WITH_GROUP(group, nullptr)
        {
            for (int i = 0; i < COUNT; i++)
                wh_group_go(
                    group,
                    [](Shared *to, int number) {
                        Process process(shell("read a; echo $a; exit $a"), PIPES);
                        if (process.rc < 0) {
                            ++to->failed;
                            return;
                        }
                        wh_yield(); /* all have been started before one is told to go on */
                        const std::string text = std::to_string(number) + "\n";
                        const wh_fd in = wh_process_take(process, 0);
                        (void)!wh_write_all(in, text.data(), text.size());
                        wh_close(in);
                        const std::string got = all_of(wh_process_take(process, 1));
                        to->right += got == text && process.status() == exited(number);
                    },
                    &shared, i);
            (void)!wh_group_wait(group);
        }
        CHECK(shared.failed == 0);
        CHECK(shared.right == COUNT);
    });
}

TEST_CASE("process: ends and cancels that meet leave one status each, and nothing behind")
{
    in_clean_run([] {
        Turns turn;
        int killed = 0, went = 0;
        for (int i = 0; i < times(100); i++) {
            wh_ctx *ctx = wh_ctx_create(nullptr);
            std::unique_ptr<Process> process;
            WH_WITH_CTX(ctx)
            {
                process = std::make_unique<Process>(CAT, PIPES);
            }
            turn(i % 3);
            wh_close(wh_process_take(*process, 0));
            busy_until(wh_now() + i * 10 * WH_MICROSECOND);
            wh_ctx_destroy(ctx);
            const int status = process->status();
            killed += killed_by(status, SIGKILL);
            went += status == exited(0);
        }
        CHECK(killed + went == times(100));
        CHECK(childless());
    });
}

TEST_CASE("process: runs on several threads spawn at once and do not see each other's")
{
    constexpr int THREADS = 3;
    int right[THREADS] = {};
    std::vector<std::thread> threads;
    const int fds = fds_open();
    for (int &count : right)
        threads.emplace_back([&count] {
            in_run([&count] {
                for (int i = 0; i < 20; i++) {
                    Process process(CAT, PIPES);
                    const wh_fd in = wh_process_take(process, 0);
                    (void)!wh_write(in, "x", 1);
                    wh_close(in); /* and no other process has it, or cat would not end */
                    count += all_of(wh_process_take(process, 1)) == "x" && process.status() == 0;
                }
            });
        });
    for (std::thread &thread : threads)
        thread.join();
    for (int count : right)
        CHECK(count == 20);
    CHECK(fds_open() == fds);
    CHECK(childless());
}

/* ---- In one call ---- */

TEST_CASE("process: wh_process_run gives the status, or says why there is none")
{
    in_clean_run([] {
        int status = -1;
        int rc = wh_process_run(shell("exit 3"), nullptr, &status);
        CHECK(rc == 0);
        CHECK(status == exited(3));
        rc = wh_process_run(TRUE, nullptr, nullptr);
        CHECK(rc == 0);
        rc = wh_process_run(Argv{"/no/such/program"}, nullptr, &status);
        CHECK(rc == -ENOENT);
        for (const wh_process_options &piped :
             {streams(WH_STDIO_PIPE, 0), streams(0, WH_STDIO_PIPE), streams(0, 0, WH_STDIO_PIPE)}) {
            rc = wh_process_run(CAT, &piped, &status);
            CHECK(rc == -EINVAL);
        }
        const FdPair pipe = pipe_pair();
        const wh_process_options waits = streams(WH_STDIO_FD(pipe.a), WH_STDIO_NULL);
        WH_WITH_TIMEOUT(10 * WH_MILLISECOND)
        {
            rc = wh_process_run(CAT, &waits, &status);
        }
        CHECK(rc == -ETIMEDOUT);
        CHECK(childless());
        CHECK(status == exited(3)); /* untouched since */
    });
}

TEST_CASE("process: wh_process_output keeps all that is written, up to the limit")
{
    in_clean_run([] {
        char *text = nullptr;
        int status = -1;
        ssize_t n = wh_process_output(shell("printf 12345; exit 4"), nullptr, 5, &text, &status);
        CHECK(n == 5);
        CHECK(text == std::string("12345"));
        CHECK(status == exited(4));
        free(text);

        text = nullptr;
        n = wh_process_output(shell("printf 12345"), nullptr, 4, &text, &status);
        CHECK(n == -EMSGSIZE);
        CHECK(text == nullptr);
        n = wh_process_output(TRUE, nullptr, 0, &text, nullptr);
        CHECK(n == 0);
        CHECK(text == std::string());
        free(text);

        constexpr size_t BYTES = 1 << 20;
        const std::string script = "head -c " + std::to_string(BYTES) + " /dev/zero";
        const std::string zeroes = output(shell(script.c_str()));
        CHECK((zeroes == std::string(BYTES, 0)));
    });
}

TEST_CASE("process: wh_process_output ends with its context, and refuses pipes")
{
    in_clean_run([] {
        char *text = nullptr;
        const FdPair pipe = pipe_pair();
        const wh_process_options waits = streams(WH_STDIO_FD(pipe.a), 0);
        ssize_t n = 0;
        WH_WITH_TIMEOUT(10 * WH_MILLISECOND)
        {
            n = wh_process_output(CAT, &waits, 100, &text, nullptr);
        }
        CHECK(n == -ETIMEDOUT);
        CHECK(childless());
        for (const wh_process_options &piped :
             {streams(WH_STDIO_PIPE, 0), streams(0, 0, WH_STDIO_PIPE)}) {
            n = wh_process_output(CAT, &piped, 100, &text, nullptr);
            CHECK(n == -EINVAL);
        }
        CHECK(text == nullptr);
        /* Its own is not asked for: it is the pipe. */
        const wh_process_options own = streams(WH_STDIO_NULL, WH_STDIO_PIPE);
        CHECK(output({"echo", "text"}, own) == "text\n");
    });
}
