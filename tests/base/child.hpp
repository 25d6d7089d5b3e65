/*
 * child.hpp: running something in a child process, where it may die, and seeing how it ended and
 * what it said.
 *
 * The child is a fork of the test: it must not be made while the test has other threads. Signals
 * are at their defaults in it (Catch2 and the sanitizers catch the fatal ones), no core is dumped,
 * and an alarm ends one that hangs.
 */
#ifndef TESTS_BASE_CHILD_HPP
#define TESTS_BASE_CHILD_HPP

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <functional>
#include <string>

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* Standard error of a child or of a block, kept in memory. */
class Said
{
  public:
    Said() : fd_(memfd_create("said", MFD_CLOEXEC))
    {
    }
    Said(const Said &) = delete;
    Said &operator=(const Said &) = delete;
    ~Said()
    {
        close(fd_);
    }
    int fd() const
    {
        return fd_;
    }
    std::string text() const
    {
        std::string text;
        char buf[4096];
        ssize_t n;
        while ((n = pread(fd_, buf, sizeof buf, static_cast<off_t>(text.size()))) > 0)
            text.append(buf, static_cast<size_t>(n));
        return text;
    }

  private:
    int fd_;
};

/* Keeps what the calling process writes to standard error while it lives. */
class StderrKept
{
  public:
    StderrKept() : before_(dup(STDERR_FILENO))
    {
        fflush(stderr);
        dup2(said_.fd(), STDERR_FILENO);
    }
    StderrKept(const StderrKept &) = delete;
    StderrKept &operator=(const StderrKept &) = delete;
    ~StderrKept()
    {
        fflush(stderr);
        dup2(before_, STDERR_FILENO);
        close(before_);
    }
    std::string text() const
    {
        return said_.text();
    }

  private:
    Said said_;
    int before_;
};

struct ChildEnd {
    int status = -1; /* as wait(2) */
    std::string said;

    bool exited(int code) const
    {
        return WIFEXITED(status) && WEXITSTATUS(status) == code;
    }
    bool killed_by(int signal) const
    {
        return WIFSIGNALED(status) && WTERMSIG(status) == signal;
    }
    std::string how() const
    {
        if (WIFSIGNALED(status))
            return "killed by signal " + std::to_string(WTERMSIG(status)) + "\n" + said;
        return "exited with " + std::to_string(WEXITSTATUS(status)) + "\n" + said;
    }
};

/* Runs body in a child, which exits with what it returns. */
inline ChildEnd in_child(const std::function<int()> &body)
{
    Said said;
    fflush(nullptr);
    pid_t pid = fork();
    if (pid == 0) {
        for (int signal : {SIGSEGV, SIGBUS, SIGABRT, SIGILL, SIGFPE, SIGTERM, SIGINT, SIGALRM})
            std::signal(signal, SIG_DFL);
        const struct rlimit none = {0, 0};
        setrlimit(RLIMIT_CORE, &none);
        dup2(said.fd(), STDERR_FILENO);
        alarm(60);
        _exit(body());
    }
    ChildEnd end;
    while (pid > 0 && waitpid(pid, &end.status, 0) < 0 && errno == EINTR)
        ;
    end.said = said.text();
    return end;
}

inline size_t count_of(const std::string &text, const std::string &part)
{
    size_t count = 0;
    for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1))
        count++;
    return count;
}

inline size_t lines_of(const std::string &text)
{
    return count_of(text, "\n");
}

/* For a child: names the condition that does not hold and ends it with status 1. */
#define CHILD_REQUIRE(condition)                                                           \
    do {                                                                                   \
        if (!(condition)) {                                                                \
            fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition); \
            _exit(1);                                                                      \
        }                                                                                  \
    } while (0)

#endif
