/*
 * in_run.hpp: what the tests of coroutines share: running a piece of a test as a coroutine, turning
 * the loop, descriptors that close themselves, and counting what must not leak.
 *
 * Rules for a piece that runs as a coroutine: it checks with CHECK and never with REQUIRE, because
 * an exception must not leave a coroutine; and it never parks inside of a CHECK, because Catch2
 * keeps one assertion at a time: it takes the result first.
 */
#ifndef TESTS_SCHED_IN_RUN_HPP
#define TESTS_SCHED_IN_RUN_HPP

#include <whorl.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

/* Runs body as the root of a run and returns what wh_run() does. */
template <typename F> int in_run(F &&body, const wh_options *options = nullptr)
{
    using Body = std::remove_reference_t<F>;
    auto root = [](void *arg) -> int {
        Body &run = *static_cast<Body *>(arg);
        if constexpr (std::is_void_v<decltype(run())>) {
            run();
            return 0;
        } else {
            return run();
        }
    };
    return wh_run(root, &body, options);
}

inline intptr_t run_and_delete(std::function<intptr_t()> *body)
{
    intptr_t value = (*body)();
    delete body;
    return value;
}

template <typename F> std::function<intptr_t()> *copy_of(F &&body)
{
    if constexpr (std::is_void_v<decltype(body())>)
        return new std::function<intptr_t()>([body = std::forward<F>(body)]() -> intptr_t {
            body();
            return 0;
        });
    else
        return new std::function<intptr_t()>(std::forward<F>(body));
}

/* Starts a copy of body, captures and all, as a coroutine; returns as wh_go(). */
template <typename F> int start(F &&body)
{
    std::function<intptr_t()> *copy = copy_of(std::forward<F>(body));
    int rc = wh_go(run_and_delete, copy);
    if (rc < 0)
        delete copy;
    return rc;
}

/* The same with a handle, which is NULL when it could not be started. */
template <typename F> wh_coro *spawn(F &&body, const wh_spawn_options *options = nullptr)
{
    std::function<intptr_t()> *copy = copy_of(std::forward<F>(body));
    wh_coro *coro = nullptr;
    if (wh_spawn(&coro, options, run_and_delete, copy) < 0)
        delete copy;
    return coro;
}

/* Joins and returns the value; aborts if the join fails, which the caller has no use for. */
inline intptr_t join(wh_coro *coro)
{
    intptr_t value = 0;
    int rc = wh_join(coro, &value);
    if (rc < 0) {
        fprintf(stderr, "a join that must succeed failed: %d\n", rc);
        abort();
    }
    return value;
}

/* A descriptor that is closed at the end of its block, by plain close(2). */
class Fd
{
  public:
    Fd() = default;
    explicit Fd(int fd) : fd_(fd)
    {
    }
    Fd(Fd &&other) noexcept : fd_(other.release())
    {
    }
    Fd &operator=(Fd &&other) noexcept
    {
        std::swap(fd_, other.fd_);
        return *this;
    }
    Fd(const Fd &) = delete;
    Fd &operator=(const Fd &) = delete;
    ~Fd()
    {
        reset();
    }
    operator int() const
    {
        return fd_;
    }
    int release()
    {
        return std::exchange(fd_, -1);
    }
    void reset()
    {
        if (fd_ >= 0)
            ::close(release());
    }

  private:
    int fd_ = -1;
};

struct FdPair {
    Fd a; /* a pipe's reading end */
    Fd b; /* a pipe's writing end */
};

inline FdPair socket_pair(int flags = 0)
{
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0, fds) < 0)
        return {};
    return {Fd(fds[0]), Fd(fds[1])};
}

inline FdPair pipe_pair(int flags = 0)
{
    int fds[2];
    if (pipe2(fds, O_CLOEXEC | flags) < 0)
        return {};
    return {Fd(fds[0]), Fd(fds[1])};
}

/* Turns of the loop: each call parks in an operation that is ready at once, so that the ring is
 * entered and all its completions are taken before it returns. */
class Turns
{
  public:
    Turns() : fd_(eventfd(1, EFD_CLOEXEC))
    {
    }
    void operator()(int count = 1)
    {
        while (count-- > 0 && wh_poll(fd_, POLLIN) == POLLIN)
            ;
    }

  private:
    Fd fd_;
};

/* Keeps the thread busy, without parking, until the time has come. */
inline void busy_until(int64_t time_ns)
{
    while (wh_now() < time_ns)
        ;
}

/* How many workers a run has here: what the environment says. */
inline unsigned workers_here()
{
    const char *text = getenv("WHORL_WORKERS");
    return text ? static_cast<unsigned>(strtoul(text, nullptr, 10)) : 1;
}

inline int fds_open()
{
    int count = 0;
    DIR *dir = opendir("/proc/self/fd");
    while (dir && readdir(dir))
        count++;
    if (dir)
        closedir(dir);
    return count;
}

/* Resident memory of the process. */
inline size_t rss_bytes()
{
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    if (!file || fscanf(file, "%*s %ld", &pages) != 1)
        pages = 0;
    if (file)
        fclose(file);
    return static_cast<size_t>(pages) * 4096;
}

/* Whether the run that this test is in may use a feature, by its name in wh_caps(). */
inline bool has_cap(const std::string &name)
{
    char buf[512];
    wh_caps(buf, sizeof buf);
    return (" " + std::string(buf) + " ").find(" " + name + " ") != std::string::npos;
}

#if defined(__SANITIZE_ADDRESS__)
constexpr bool WITH_ASAN = true;
#else
constexpr bool WITH_ASAN = false;
#endif
#if defined(__SANITIZE_THREAD__)
constexpr bool WITH_TSAN = true;
#else
constexpr bool WITH_TSAN = false;
#endif
constexpr bool WITH_SANITIZER = WITH_ASAN || WITH_TSAN;

/* ThreadSanitizer knows at most 8128 threads and coroutines at once, and takes most of a megabyte
 * of memory for each: thousands are gigabytes, and minutes. */
constexpr int at_once(int coroutines, int most = 1000)
{
    return WITH_TSAN && coroutines > most ? most : coroutines;
}

/* How often a repeated test repeats: less under a sanitizer, which is slower by as much. */
constexpr int times(int plain)
{
    return WITH_SANITIZER ? (plain + 4) / 5 : plain;
}

/* Of many cases every fifth under ThreadSanitizer, for which all are minutes: the other builds try
 * all, and what it looks for does not hang on a single one. Five divides no power of two, so that
 * all parts of a case that is made of bits come up. */
template <typename T> std::vector<T> sampled(std::vector<T> all)
{
    if (!WITH_TSAN || all.size() < 200)
        return all;
    std::vector<T> some;
    for (size_t i = 0; i < all.size(); i += 5)
        some.push_back(all[i]);
    return some;
}

/* How many that leaves, or fewer by one. */
constexpr int sampled(int all)
{
    return WITH_TSAN ? all / 5 : all;
}

/* A variable of the environment for the length of a block. */
class EnvSet
{
  public:
    EnvSet(const char *name, const char *value) : name_(name)
    {
        const char *before = getenv(name);
        had_ = before != nullptr;
        before_ = had_ ? before : "";
        setenv(name, value, 1);
    }
    EnvSet(const EnvSet &) = delete;
    EnvSet &operator=(const EnvSet &) = delete;
    ~EnvSet()
    {
        if (had_)
            setenv(name_, before_.c_str(), 1);
        else
            unsetenv(name_);
    }

  private:
    const char *name_;
    std::string before_;
    bool had_;
};

#endif
