/*
 * ring.hpp: an engine and its operations for the tests: every operation counts its completions.
 */
#ifndef TESTS_URING_RING_HPP
#define TESTS_URING_RING_HPP

#include <catch2/catch_test_macros.hpp>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <set>
#include <string>
#include <vector>

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

extern "C" {
#include "base/clock.h"
#include "uring/ring.h"
}

constexpr int64_t MS_NS = 1000000;
constexpr int64_t SECOND_NS = 1000 * MS_NS;

/* Longer than anything here may take, save on a machine that is stuck. */
constexpr int64_t HANG_NS = 20 * SECOND_NS;

struct Op {
    struct op op = {};
    int completions = 0;
    int32_t res = 0; /* of the last completion */

    Op() = default;
    Op(op_code code, int fd, const void *addr = nullptr, size_t len = 0, uint64_t off = 0,
       uint32_t flags = 0)
    {
        set(code, fd, addr, len, off, flags);
    }
    Op(const Op &) = delete;
    Op &operator=(const Op &) = delete;
    void set(op_code code, int fd, const void *addr = nullptr, size_t len = 0, uint64_t off = 0,
             uint32_t flags = 0)
    {
        op.code = static_cast<uint8_t>(code);
        op.fd = fd;
        op.addr = reinterpret_cast<uintptr_t>(addr);
        op.len = static_cast<uint32_t>(len);
        op.off = off;
        op.flags = flags;
    }
};

/* Reads and writes at the file's own position. */
constexpr uint64_t HERE = UINT64_MAX;

/* What ring_create() says to so many entries. */
inline int ring_try(unsigned entries, struct engine **ret_engine)
{
    struct ring_options options = {};
    options.entries = entries;
    return ring_create(&options, ret_engine);
}

class Ring
{
  public:
    explicit Ring(unsigned entries = 64)
    {
        struct ring_options options = {};
        const char *sqpoll = getenv("RING_SQPOLL_NS");
        options.entries = entries;
        options.sqpoll_ns = sqpoll ? atoll(sqpoll) : 0;
        options.sqpoll_core = -1;
        REQUIRE(ring_create(&options, &engine_) == 0);
    }
    Ring(const Ring &) = delete;
    Ring &operator=(const Ring &) = delete;

    /* A test that failed leaves operations behind: they are ended, or the kernel would write into
     * what is gone. */
    ~Ring()
    {
        for (Op *op : in_flight_)
            engine_cancel(engine_, &op->op);
        if (finish())
            engine_->type->destroy(engine_);
    }

    void submit(Op &op)
    {
        in_flight_.insert(&op);
        op.completions = 0;
        engine_submit(engine_, &op.op);
    }
    void cancel(Op &op)
    {
        engine_cancel(engine_, &op.op);
    }

    /* One engine_wait(). Returns what it completed. */
    std::vector<Op *> take(int64_t until_ns)
    {
        struct op_list done = {nullptr, nullptr};
        engine_wait(engine_, until_ns, &done);
        std::vector<Op *> taken;
        while (struct op *raw = op_list_pop(&done)) {
            Op *op = reinterpret_cast<Op *>(raw);
            op->completions++;
            op->res = raw->res;
            if (raw->state != OP_DONE || !in_flight_.erase(op))
                abort(); /* completed twice, or never asked for */
            raw->state = OP_IDLE;
            taken.push_back(op);
        }
        return taken;
    }
    std::vector<Op *> look()
    {
        return take(0);
    }

    /* Takes what comes in the next while; when nothing does, asks again for what is to be
     * cancelled, as the engine's contract has it: a kernel can miss the first asking. */
    std::vector<Op *> take_patiently()
    {
        std::vector<Op *> taken = take(clock_now() + 20 * MS_NS);
        if (taken.empty())
            for (Op *op : in_flight_)
                if (op->op.state == OP_CANCELLING)
                    engine_cancel(engine_, &op->op);
        return taken;
    }
    /* Waits until everything in flight is completed. Returns false if that does not happen. */
    bool finish()
    {
        int64_t until_ns = clock_now() + HANG_NS;
        while (!in_flight_.empty() && clock_now() < until_ns)
            take_patiently();
        return in_flight_.empty();
    }
    /* Submits and waits for its result. */
    int32_t result(Op &op)
    {
        submit(op);
        int64_t until_ns = clock_now() + HANG_NS;
        while (!op.completions && clock_now() < until_ns)
            take(until_ns);
        REQUIRE(op.completions == 1);
        return op.res;
    }

    bool ready() const
    {
        return engine_->type->ready(engine_);
    }
    struct engine_stats stats() const
    {
        struct engine_stats stats;
        engine_->type->stats(engine_, &stats);
        return stats;
    }
    struct caps caps() const
    {
        struct caps caps;
        ring_caps(engine_, &caps);
        return caps;
    }
    size_t in_flight() const
    {
        return in_flight_.size();
    }

  private:
    struct engine *engine_ = nullptr;
    std::set<Op *> in_flight_;
};

/* Two descriptors that are closed in the end: a pipe (read from 0, write to 1) or a socket pair. */
struct Fds {
    int fd[2] = {-1, -1};

    Fds() = default;
    Fds(Fds &&other) noexcept
    {
        std::swap(fd, other.fd);
    }
    Fds(const Fds &) = delete;
    Fds &operator=(const Fds &) = delete;
    ~Fds()
    {
        for (int i : fd)
            if (i >= 0)
                close(i);
    }
    int operator[](int i) const
    {
        return fd[i];
    }
};

inline Fds make_pipe(int flags = 0)
{
    Fds fds;
    REQUIRE(pipe2(fds.fd, O_CLOEXEC | flags) == 0);
    return fds;
}

inline Fds make_socketpair(int type = SOCK_STREAM)
{
    Fds fds;
    REQUIRE(socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, fds.fd) == 0);
    return fds;
}

/* A variable of the environment while it lives. */
class Environment
{
  public:
    Environment(const char *name, const std::string &value) : name_(name)
    {
        const char *before = getenv(name);
        had_ = before != nullptr;
        before_ = before ? before : "";
        setenv(name, value.c_str(), 1);
    }
    Environment(const Environment &) = delete;
    Environment &operator=(const Environment &) = delete;
    ~Environment()
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
