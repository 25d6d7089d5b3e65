/*
 * process_test.cpp: how processes are started, what they are given, and how they end: the sentences
 * of whorl/process.h about that.
 */
#include "tests/sync/process.hpp"

/* ---- How it ends ---- */

TEST_CASE("process: its exit code is in the status")
{
    in_clean_run([] {
        for (int code : {0, 1, 7, 255}) {
            Process process(shell(("exit " + std::to_string(code)).c_str()));
            CHECK(process.rc == 0);
            const int status = process.status();
            CHECK(status == exited(code));
        }
    });
}

TEST_CASE("process: the signal that ended it is in the status")
{
    in_clean_run([] {
        for (int number : {SIGTERM, SIGKILL, SIGUSR1, SIGPIPE, SIGALRM}) {
            Process process(shell(("kill -" + std::to_string(number) + " $$").c_str()));
            const int status = process.status();
            CHECK(killed_by(status, number));
            CHECK(!WCOREDUMP(status));
        }
    });
}

TEST_CASE("process: the status is kept: any number may wait, at once and afterwards")
{
    in_clean_run([] {
        Process process(CAT, PIPES);
        constexpr int WAITERS = 10;
        std::atomic<int> right{0};
        std::vector<wh_coro *> waiters;
        for (int i = 0; i < WAITERS; i++)
            waiters.push_back(spawn([&] { right += process.status() == exited(0); }));
        wh_yield();
        wh_close(wh_process_take(process, 0));
        for (wh_coro *waiter : waiters)
            join(waiter);
        CHECK(right == WAITERS);
        for (int i = 0; i < 3; i++) {
            const int again = wh_process_wait(process, nullptr);
            CHECK(again == 0);
        }
        /* Of one that has ended the context does not matter. */
        int status = -1, rc = 1;
        WH_WITH_CANCEL(ctx)
        {
            wh_ctx_cancel(ctx, 0);
            rc = wh_process_wait(process, &status);
        }
        CHECK(rc == 0);
        CHECK(status == exited(0));
    });
}

TEST_CASE("process: a wait that runs out of time takes nothing away")
{
    in_clean_run([] {
        Process process(CAT, PIPES);
        int rc = 0, status = 77;
        WH_WITH_TIMEOUT(5 * WH_MILLISECOND)
        {
            rc = wh_process_wait(process, &status);
        }
        CHECK(rc == -ETIMEDOUT);
        WH_WITH_CANCEL(ctx)
        {
            wh_ctx_cancel(ctx, 0);
            rc = wh_process_wait(process, &status);
        }
        CHECK(rc == -ECANCELED);
        CHECK(status == 77);
        CHECK(wh_process_kill(process, 0) == 0); /* it is there */
        wh_close(wh_process_take(process, 0));
        rc = wh_process_wait(process, &status);
        CHECK(rc == 0);
        CHECK(status == exited(0));
    });
}

TEST_CASE("process: its descriptor is readable in a select when it has ended")
{
    in_clean_run([] {
        Process process(CAT, PIPES);
        const wh_fd pidfd = wh_process_pidfd(process);
        int which = wh_select(WH_READABLE(pidfd), WH_DEFAULT);
        CHECK(which == 1);
        wh_close(wh_process_take(process, 0));
        which = wh_select(WH_READABLE(pidfd), WH_AFTER(WH_MINUTE));
        CHECK(which == 0);
        const int status = process.status();
        CHECK(status == exited(0));
        which = wh_select(WH_READABLE(pidfd), WH_DEFAULT);
        CHECK(which == 0);
    });
}

TEST_CASE("process: when something else took its status the wait says so")
{
    if (workers_here() > 1)
        SKIP("its keeper may be the first");
    in_clean_run([] {
        Process process({"true"});
        /* Before the keeper has first run. */
        const pid_t pid = waitpid(wh_process_pid(process), nullptr, 0);
        CHECK(pid == wh_process_pid(process));
        for (int i = 0; i < 2; i++) {
            const int rc = wh_process_wait(process, nullptr);
            CHECK(rc == -ECHILD);
        }
        CHECK(wh_process_kill(process, SIGTERM) == -ESRCH);
    });
}

/* ---- What cannot be started ---- */

TEST_CASE("process: what cannot be run is told from each other, and leaves nothing behind")
{
    in_clean_run([] {
        File file; /* 0600 */
        wh_process *process = nullptr;
        auto spawns = [&](const Argv &argv, const wh_process_options &options = {}) {
            const int fds = fds_open();
            const int rc = wh_process_spawn(&process, argv, &options);
            wh_stats stats;
            wh_stats_get(&stats);
            while (workers_here() > 1 && stats.coros_live != 1) {
                wh_yield(); /* another worker's part of it is as of its last turn */
                wh_stats_get(&stats);
            }
            CHECK(fds_open() == fds);
            CHECK(stats.coros_live == 1);
            CHECK(childless());
            CHECK(process == nullptr);
            return rc;
        };
        CHECK(spawns({"no-such-program-anywhere"}) == -ENOENT);
        CHECK(spawns({"/no/such/program"}, PIPES) == -ENOENT);
        CHECK(spawns({"/dev/null/program"}) == -ENOTDIR);
        CHECK(spawns({"/dev/null"}) == -EACCES);
        CHECK(spawns({file.path.c_str()}) == -EACCES);
        CHECK(write(file.fd, "neither this nor that", 21) == 21);
        fchmod(file.fd, 0700);
        file.fd.reset();
        CHECK(spawns({file.path.c_str()}) == -ENOEXEC);
        CHECK(spawns({}) == -EINVAL);

        const std::string large(1 << 18, 'x'); /* more than one argument may have */
        CHECK(spawns({"true", large.c_str()}) == -E2BIG);

        wh_process_options options = {};
        options.dir = "/no/such/directory";
        CHECK(spawns({"true"}, options) == -ENOENT);
        options.dir = "/dev/null";
        CHECK(spawns({"true"}, options) == -ENOTDIR);
        CHECK(spawns({"true"}, streams(WH_STDIO_FD(-1), 0)) == -EBADF);
        CHECK(spawns({"true"}, streams(WH_STDIO_FD(-EMFILE), 0)) == -EBADF);
        CHECK(spawns({"true"}, streams(0, WH_STDIO_FD(1000000))) == -EBADF);
        CHECK(spawns({"true"}, streams(INT_MIN, 0)) == -EBADF);
        CHECK(spawns({"true"}, streams(WH_STDIO_STDOUT, 0)) == -EINVAL);
        CHECK(spawns({"true"}, streams(0, WH_STDIO_STDOUT)) == -EINVAL);
        for (int number : {-1, 65}) {
            options = {};
            options.stop_signal = number;
            CHECK(spawns({"true"}, options) == -EINVAL);
        }
        options = {};
        options.stop_grace_ns = -1;
        CHECK(spawns({"true"}, options) == -EINVAL);
        const int rc = wh_process_spawn(&process, nullptr, nullptr);
        CHECK(rc == -EINVAL);
    });
}

TEST_CASE("process: none is started in a context that has ended")
{
    in_clean_run([] {
        wh_process *process = nullptr;
        int cancelled = 0, late = 0;
        WH_WITH_CANCEL(ctx)
        {
            wh_ctx_cancel(ctx, 0);
            cancelled = wh_process_spawn(&process, CAT, nullptr);
        }
        WH_WITH_TIMEOUT(0)
        {
            late = wh_process_spawn(&process, CAT, nullptr);
        }
        CHECK(cancelled == -ECANCELED);
        CHECK(late == -ETIMEDOUT);
        CHECK(childless());
    });
}

TEST_CASE("process: without a stack for its keeper none is started")
{
    const wh_options one = {0, 1, 0, 0, 0};
    in_clean_run(
        [] {
            wh_process *process = nullptr;
            const int rc = wh_process_spawn(&process, CAT, &PIPES);
            CHECK(rc == -ENOMEM);
            CHECK(childless());
        },
        &one);
}

TEST_CASE("process: without descriptors none is started, however many are missing")
{
    in_clean_run([] {
        wh_process_options three = PIPES;
        three.err = WH_STDIO_PIPE;
        struct rlimit before, low;
        getrlimit(RLIMIT_NOFILE, &before);
        low = before;
        low.rlim_cur = 100;
        setrlimit(RLIMIT_NOFILE, &low);
        std::vector<Fd> fill;
        for (int fd; (fd = dup(STDERR_FILENO)) >= 0;)
            fill.emplace_back(fd);

        int rc = -EMFILE, free = 0;
        wh_process *process = nullptr;
        while (rc == -EMFILE && !fill.empty()) {
            rc = wh_process_spawn(&process, CAT, &three);
            if (rc == 0)
                break;
            CHECK(childless());
            /* As many are free as before. */
            for (int i = 0; i < free; i++) {
                const int fd = dup(STDERR_FILENO);
                CHECK(fd >= 0);
                fill.emplace_back(fd);
            }
            CHECK(dup(STDERR_FILENO) < 0);
            free++;
            for (int i = 0; i < free; i++)
                fill.pop_back();
        }
        CHECK(rc == 0);
        CHECK(free == 3 * 2 + 1);
        fill.clear();
        setrlimit(RLIMIT_NOFILE, &before);
        wh_process_destroy(process);
    });
}

TEST_CASE("process: where SIGCHLD is ignored none is started")
{
    in_clean_run([] {
        Action ignored(SIGCHLD, SIG_IGN);
        wh_process *process = nullptr;
        const int rc = wh_process_spawn(&process, TRUE, nullptr);
        CHECK(rc == -ECHILD);
    });
}

/* ---- What it is given ---- */

TEST_CASE("process: what is written to it and what it writes may be large, both at once")
{
    in_clean_run([] {
        constexpr size_t BYTES = (WITH_SANITIZER ? 2 : 16) << 20;
        std::string sent(BYTES, 0);
        for (size_t i = 0; i < BYTES; i++)
            sent[i] = static_cast<char>(i * 2654435761U >> 13);
        Process process(CAT, PIPES);
        const wh_fd in = wh_process_take(process, 0), out = wh_process_take(process, 1);
        ssize_t written = 0;
        wh_coro *writer = spawn([&] {
            written = wh_write_all(in, sent.data(), sent.size());
            wh_close(in);
        });
        const std::string got = all_of(out);
        join(writer);
        CHECK(written == static_cast<ssize_t>(BYTES));
        CHECK((got == sent)); /* not to be printed */
        const int status = process.status();
        CHECK(status == exited(0));
    });
}

TEST_CASE("process: writing to one that no longer reads is -EPIPE where SIGPIPE is ignored")
{
    in_clean_run([] {
        Process process({"true"}, streams(WH_STDIO_PIPE, WH_STDIO_INHERIT));
        const int status = process.status();
        CHECK(status == exited(0));
        const wh_fd in = wh_process_take(process, 0);
        const ssize_t n = wh_write(in, "x", 1);
        CHECK(n == -EPIPE);
        wh_close(in);
    });
}

TEST_CASE("process: a pipe is taken once, and what is none is -EBADF")
{
    in_clean_run([] {
        Process process(CAT, PIPES);
        for (int number : {-1, 2, 3, INT_MAX, INT_MIN})
            CHECK(wh_process_take(process, number) == -EBADF);
        const wh_fd in = wh_process_take(process, 0);
        CHECK(in >= 0);
        CHECK((fcntl(in, F_GETFD) & FD_CLOEXEC));
        CHECK(wh_process_take(process, 0) == -EBADF);
        wh_close(in);
    });
}

TEST_CASE("process: the program is looked for in PATH")
{
    in_clean_run([] {
        CHECK(output({"echo", "found"}) == "found\n");
        EnvSet path("PATH", "/no/such/directory");
        CHECK(output({"echo", "found"}) == strerror(ENOENT));
        CHECK(output({"/bin/echo", "found"}) == "found\n");
    });
}

TEST_CASE("process: its environment is this program's, or the one given")
{
    in_clean_run([] {
        EnvSet set("WHORL_PROCESS_TEST", "seen");
        CHECK(output(shell("echo $WHORL_PROCESS_TEST")) == "seen\n");
        wh_process_options options = {};
        const Argv env = {"FIRST=1", "SECOND=two words"};
        options.env = env;
        CHECK(output({"env"}, options) == "FIRST=1\nSECOND=two words\n");
        const Argv empty = {};
        options.env = empty;
        CHECK(output({"env"}, options).empty());
    });
}

TEST_CASE("process: it begins in the directory given, and its relative name counts from there")
{
    in_clean_run([] {
        char here[4096];
        CHECK(getcwd(here, sizeof here) != nullptr);
        CHECK(output({"/bin/pwd"}) == std::string(here) + "\n");
        wh_process_options options = {};
        options.dir = "/";
        CHECK(output({"/bin/pwd"}, options) == "/\n");
        CHECK(output({"bin/pwd"}, options) == "/\n");
    });
}

TEST_CASE("process: standard error is dropped, piped, joined with standard output or a file")
{
    in_clean_run([] {
        const Argv both = shell("echo out; echo error >&2");
        CHECK(output(both, streams(0, 0, WH_STDIO_NULL)) == "out\n");
        CHECK(output(both, streams(0, 0, WH_STDIO_STDOUT)) == "out\nerror\n");
        {
            Process process(both, streams(0, WH_STDIO_NULL, WH_STDIO_PIPE));
            const std::string error = all_of(wh_process_take(process, 2));
            CHECK(error == "error\n");
        }
        File file;
        CHECK(output(both, streams(0, 0, WH_STDIO_FD(file.fd))) == "out\n");
        CHECK(file.text() == "error\n");
    });
}

TEST_CASE("process: standard input is empty, a file, or what this program has")
{
    in_clean_run([] {
        CHECK(output(CAT, streams(WH_STDIO_NULL, 0)).empty());
        File file;
        CHECK(write(file.fd, "in a file", 9) == 9);
        lseek(file.fd, 0, SEEK_SET);
        CHECK(output(CAT, streams(WH_STDIO_FD(file.fd), 0)) == "in a file");
        CHECK((fcntl(file.fd, F_GETFD) & FD_CLOEXEC)); /* as it was */

        FdPair pipe = pipe_pair();
        const Fd before(dup(STDIN_FILENO));
        dup2(pipe.a, STDIN_FILENO);
        CHECK(write(pipe.b, "inherited", 9) == 9);
        pipe.b.reset();
        const std::string inherited = output(CAT);
        dup2(before, STDIN_FILENO);
        CHECK(inherited == "inherited");
    });
}

TEST_CASE("process: this program's standard descriptors can be given crosswise")
{
    ChildEnd end = in_child([] {
        File out, error;
        dup2(out.fd, STDOUT_FILENO);
        dup2(error.fd, STDERR_FILENO);
        return in_run([&] {
            int status = -1;
            const wh_process_options crosswise =
                streams(0, WH_STDIO_FD(STDERR_FILENO), WH_STDIO_FD(STDOUT_FILENO));
            CHILD_REQUIRE(wh_process_run(shell("echo out; echo error >&2"), &crosswise, &status) ==
                          0);
            CHILD_REQUIRE(status == 0);
            CHILD_REQUIRE(out.text() == "error\n");
            CHILD_REQUIRE(error.text() == "out\n");
        });
    });
    INFO(end.how());
    CHECK(end.exited(0));
}

TEST_CASE("process: pipes go where they should when this program has closed its own descriptors")
{
    ChildEnd end = in_child([] {
        return in_run([] {
            for (int fd : {0, 1, 2})
                close(fd);
            wh_process_options three = PIPES;
            three.err = WH_STDIO_PIPE;
            Process process(shell("cat; echo error >&2"), three);
            if (process.rc != 0)
                return 2;
            const wh_fd in = wh_process_take(process, 0);
            if (wh_write_all(in, "through", 7) != 7)
                return 3;
            wh_close(in);
            const std::string out = all_of(wh_process_take(process, 1));
            const std::string error = all_of(wh_process_take(process, 2));
            return out == "through" && error == "error\n" && process.status() == 0 ? 0 : 4;
        });
    });
    INFO(end.how());
    CHECK(end.exited(0));
}

TEST_CASE("process: it has descriptors 0, 1 and 2 and no others of this program's")
{
    in_clean_run([] {
        const Fd leaky(dup(STDERR_FILENO)), high(fcntl(STDERR_FILENO, F_DUPFD, 200));
        Process other(CAT, PIPES);
        CHECK(!(fcntl(leaky, F_GETFD) & FD_CLOEXEC));
        const std::string fds = output({"ls", "/proc/self/fd"});
        CHECK(fds == "0\n1\n2\n3\n"); /* 3 is the directory that it reads */
        CHECK(!(fcntl(leaky, F_GETFD) & FD_CLOEXEC));
    });
}

namespace
{

/* A set of signals in what /proc says, without the two that the C library keeps for itself (32 and
 * 33), which it ignores in what it spawns. */
uint64_t signals_in(const std::string &text, const std::string &name)
{
    const size_t at = text.find(name);
    return at == std::string::npos ? 0 : strtoull(&text[at + name.size()], nullptr, 16) & INT32_MAX;
}

} // namespace

TEST_CASE("process: no signal is blocked in it, and none ignored but what is for descendants")
{
    in_clean_run([] {
        sigset_t blocked, before;
        sigemptyset(&blocked);
        sigaddset(&blocked, SIGTERM);
        sigaddset(&blocked, SIGUSR1);
        pthread_sigmask(SIG_BLOCK, &blocked, &before);
        const Argv look = {"cat", "/proc/self/status"};
        std::string none, hangup;
        {
            Action keyboard(SIGINT, SIG_DFL), quit(SIGQUIT, SIG_DFL);
            Action term(SIGTERM, SIG_IGN), user(SIGUSR2, SIG_IGN);
            Action handled(SIGHUP, [](int) {});
            none = output(look);
            Action ignored(SIGHUP, SIG_IGN);
            hangup = output(look);
        }
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
        CHECK(signals_in(none, "SigBlk:") == 0);
        CHECK(signals_in(none, "SigIgn:") == 0);
        CHECK(signals_in(hangup, "SigBlk:") == 0);
        CHECK(signals_in(hangup, "SigIgn:") == 1 << (SIGHUP - 1));
    });
}

TEST_CASE("process: a signal that this program asked for ends it as by default")
{
    in_clean_run([] {
        WH_CHAN(int) ch = wh_chan_create(int, 1);
        CHECK(wh_signal_notify(ch, SIGTERM) == 0);
        Process process(CAT, PIPES);
        CHECK(wh_process_kill(process, SIGTERM) == 0);
        const int status = process.status();
        CHECK(killed_by(status, SIGTERM));
        CHECK(wh_chan_len(ch) == 0);
        wh_signal_stop(ch);
        wh_chan_unref(ch);
    });
}
