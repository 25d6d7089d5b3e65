/*
 * process.hpp: what the tests of processes share: spawning and giving back, what a process says,
 * and runs that must leave nothing behind.
 *
 * What has to live until it is stopped is a cat on a pipe: it ends by itself when the test does.
 * What a process has done is known by what it writes, never by time that passed.
 */
#ifndef TESTS_SYNC_PROCESS_HPP
#define TESTS_SYNC_PROCESS_HPP

#include "tests/base/child.hpp"
#include "tests/sched/order.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <initializer_list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

extern "C" {
#include "sync/sync.h"
}

/* The words of a command. */
class Argv
{
  public:
    Argv(std::initializer_list<const char *> words) : words_(words)
    {
        words_.push_back(nullptr);
    }
    operator const char * const *() const
    {
        return words_.data();
    }

  private:
    std::vector<const char *> words_;
};

inline Argv shell(const char *script)
{
    return {"sh", "-c", script};
}

inline const Argv CAT = {"cat"}, TRUE = {"true"};

/* A process that is given back at the end of its block. */
class Process
{
  public:
    explicit Process(const Argv &argv, const wh_process_options &options = {})
        : rc(wh_process_spawn(&process_, argv, &options))
    {
    }
    Process(const Process &) = delete;
    Process &operator=(const Process &) = delete;
    ~Process()
    {
        wh_process_destroy(process_);
    }
    operator wh_process *() const
    {
        return process_;
    }
    /* As wait(2), also of one that was stopped; or -1, if there is none. */
    int status() const
    {
        int status = -1;
        (void)wh_process_wait(process_, &status);
        return status;
    }

  private:
    wh_process *process_ = nullptr;

  public:
    const int rc;
};

inline wh_process_options streams(int in, int out, int err = WH_STDIO_INHERIT)
{
    wh_process_options options = {};
    options.in = in;
    options.out = out;
    options.err = err;
    return options;
}

inline const wh_process_options PIPES = streams(WH_STDIO_PIPE, WH_STDIO_PIPE);

constexpr int exited(int code)
{
    return code << 8;
}

inline bool killed_by(int status, int number)
{
    return status >= 0 && WIFSIGNALED(status) && WTERMSIG(status) == number;
}

/* Reads to the end and closes. */
inline std::string all_of(wh_fd fd)
{
    std::string text;
    char buf[4096];
    ssize_t n;
    while ((n = wh_read(fd, buf, sizeof buf)) > 0)
        text.append(buf, static_cast<size_t>(n));
    wh_close(fd);
    return n < 0 ? strerror(static_cast<int>(-n)) : text;
}

inline std::string line_of(wh_fd fd)
{
    std::string line;
    char c;
    while (wh_read(fd, &c, 1) == 1 && c != '\n')
        line += c;
    return line;
}

/* What a process says on its standard output; its status must be 0. */
inline std::string output(const Argv &argv, const wh_process_options &options = {})
{
    char *text = nullptr;
    int status = -1;
    const ssize_t n = wh_process_output(argv, &options, SIZE_MAX, &text, &status);
    if (n < 0)
        return strerror(static_cast<int>(-n));
    std::string all(text, static_cast<size_t>(n));
    free(text);
    return status == 0 ? all : "status " + std::to_string(status) + ": " + all;
}

/* Whether this process has no children, zombies included. */
inline bool childless()
{
    siginfo_t info;
    return waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) < 0 && errno == ECHILD;
}

/* A signal's action for the length of a block. */
class Action
{
  public:
    Action(int number, void (*handler)(int)) : number_(number)
    {
        struct sigaction action = {};
        action.sa_handler = handler;
        sigaction(number, &action, &before_);
    }
    Action(const Action &) = delete;
    Action &operator=(const Action &) = delete;
    ~Action()
    {
        sigaction(number_, &before_, nullptr);
    }

  private:
    int number_;
    struct sigaction before_ = {};
};

/* A run that ends with the children and descriptors that it began with. */
template <typename F> int in_clean_run(F &&body, const wh_options *options = nullptr)
{
    Action pipe(SIGPIPE, SIG_IGN);
    const int fds = fds_open();
    const int rc = in_run(std::forward<F>(body), options);
    CHECK(fds_open() == fds);
    CHECK(childless());
    return rc;
}

/* A file that is removed in the end. */
struct File {
    std::string path;
    Fd fd;

    File()
    {
        const char *tmp = getenv("TMPDIR");
        path = std::string(tmp ? tmp : "/tmp") + "/whorl-process.XXXXXX";
        fd = Fd(mkostemp(path.data(), O_CLOEXEC));
    }
    File(const File &) = delete;
    File &operator=(const File &) = delete;
    ~File()
    {
        unlink(path.c_str());
    }
    std::string text() const
    {
        char buf[256];
        const ssize_t n = pread(fd, buf, sizeof buf, 0);
        return {buf, static_cast<size_t>(n < 0 ? 0 : n)};
    }
};

#endif
