/*
 * copy.hpp: what the tests of copying share: streams of every kind with their other ends, and ways
 * to take descriptors and memory away.
 */
#ifndef TESTS_NET_COPY_HPP
#define TESTS_NET_COPY_HPP

#include "tests/base/child.hpp"
#include "tests/net/peers.hpp"
#include "tests/sched/forbid.hpp"
#include "tests/sched/on_workers.hpp"

#include <atomic>
#include <memory>
#include <vector>

/* While it is set there is no memory for the library. (copy_memory.cpp) */
extern std::atomic<bool> no_memory;

/* Whether the run may splice. */
inline bool spliced()
{
    const char *mask = getenv("WHORL_MASK");
    return !mask || !strstr(mask, "splice");
}

enum Kind { TCP, UNIX, PIPE, WRAPPED };

constexpr Kind KINDS[] = {TCP, UNIX, PIPE, WRAPPED};

inline const char *name(Kind kind)
{
    constexpr const char *names[] = {"TCP", "Unix", "pipe", "wrapped"};
    return names[kind];
}

class Conn
{
  public:
    Conn() = default;
    explicit Conn(Fd &&fd)
    {
        if (wh_conn_create(&conn_, fd.release()) < 0)
            abort();
    }
    Conn(const wh_conn_ops &ops, void *self)
    {
        if (wh_conn_wrap(&conn_, &ops, self) < 0)
            abort();
    }
    Conn(Conn &&other) noexcept : conn_(std::exchange(other.conn_, nullptr))
    {
    }
    Conn &operator=(Conn &&other) noexcept
    {
        std::swap(conn_, other.conn_);
        return *this;
    }
    Conn(const Conn &) = delete;
    Conn &operator=(const Conn &) = delete;
    ~Conn()
    {
        reset();
    }
    void reset()
    {
        if (conn_)
            wh_conn_abandon(std::exchange(conn_, nullptr));
    }
    operator wh_conn *() const
    {
        return conn_;
    }

  private:
    wh_conn *conn_ = nullptr;
};

/* A socket as a stream that is no descriptor. */
struct Wrapped {
    Fd fd;

    static ssize_t read(void *self, void *buf, size_t len)
    {
        return wh_recv(static_cast<Wrapped *>(self)->fd, buf, len, 0);
    }
    static ssize_t writev(void *self, const struct iovec *iov, int count)
    {
        return count ? wh_send(static_cast<Wrapped *>(self)->fd, iov->iov_base, iov->iov_len, 0)
                     : -EINVAL;
    }
    static int shutdown(void *self)
    {
        return wh_shutdown(static_cast<Wrapped *>(self)->fd, SHUT_WR);
    }
};

constexpr wh_conn_ops wrapped_ops = {Wrapped::read, Wrapped::writev, Wrapped::shutdown, nullptr};
constexpr wh_conn_ops unshut_ops = {Wrapped::read, Wrapped::writev, nullptr, nullptr};

/* Gives and takes without end, and never waits. */
struct Endless {
    uint64_t written = 0;

    static ssize_t read(void *, void *buf, size_t len)
    {
        memset(buf, 'x', len);
        return static_cast<ssize_t>(len);
    }
    static ssize_t writev(void *self, const struct iovec *iov, int)
    {
        static_cast<Endless *>(self)->written += iov->iov_len;
        return static_cast<ssize_t>(iov->iov_len);
    }
};

constexpr wh_conn_ops endless_ops = {Endless::read, Endless::writev, nullptr, nullptr};

inline std::string pattern(size_t len)
{
    std::string text(len, 0);
    for (size_t i = 0; i < len; i++)
        text[i] = static_cast<char>('a' + (i * 7 + i / 4096) % 26);
    return text;
}

inline void put(int fd, const std::string &text)
{
    if (write(fd, text.data(), text.size()) != static_cast<ssize_t>(text.size()))
        abort();
}

inline wh_conn_stats stats(wh_conn *conn)
{
    wh_conn_stats stats;
    wh_conn_stats_get(conn, &stats);
    return stats;
}

/* Whether the descriptor blocks; -1 is none. */
inline bool blocks(int fd)
{
    return fd < 0 || !(fcntl(fd, F_GETFL) & O_NONBLOCK);
}

/* The peer of the descriptor sees a reset. */
inline void reset(Fd &fd)
{
    const struct linger at_once = {1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    fd.reset();
}

inline std::string read_some(wh_conn *conn, size_t len)
{
    std::string text(len, 0);
    const ssize_t n = wh_conn_read_full(conn, text.data(), len);
    if (n == -ENODATA)
        return "too few";
    text.resize(n < 0 ? 0 : static_cast<size_t>(n));
    return text;
}

/* A stream and the other end of it, which is a plain descriptor. */
struct Stream {
    Conn conn;
    Fd peer;
    int fd = -1; /* of the stream, borrowed */
    std::unique_ptr<Wrapped> wrapped;

    Stream(Kind kind, FdPair &&pair, bool from)
    {
        Fd &near = from || kind != PIPE ? pair.a : pair.b;
        peer = std::move(from || kind != PIPE ? pair.b : pair.a);
        fd = kind == WRAPPED ? -1 : static_cast<int>(near);
        if (kind == WRAPPED) {
            wrapped = std::make_unique<Wrapped>();
            wrapped->fd = std::move(near);
            conn = Conn(wrapped_ops, wrapped.get());
        } else {
            conn = Conn(std::move(near));
        }
    }
    static FdPair pair(Kind kind)
    {
        return kind == TCP ? tcp_pair() : kind == PIPE ? pipe_pair() : socket_pair();
    }
};

/* Bytes come out of it. */
struct Source : Stream {
    explicit Source(Kind kind) : Stream(kind, pair(kind), true)
    {
    }
    /* The text, and then the end. Its value is 0, or -errno. */
    wh_coro *send(const std::string &text)
    {
        return spawn([this, text] {
            const ssize_t n = wh_write_all(peer, text.data(), text.size());
            peer.reset();
            return n < 0 ? static_cast<intptr_t>(n) : 0;
        });
    }
    /* Past the stream, so that it may be in any state. */
    void drain()
    {
        std::string some(65536, 0);
        while (wh_read(wrapped ? static_cast<int>(wrapped->fd) : fd, some.data(), some.size()) > 0)
            ;
    }
};

/* They go into it. */
struct Sink : Stream {
    std::string got;
    std::atomic<size_t> received{0};

    explicit Sink(Kind kind) : Stream(kind, pair(kind), false)
    {
    }
    Sink(Sink &&other) noexcept : Stream(std::move(other))
    {
    }
    /* Few bytes are on their way when the peer reads none. */
    void narrow()
    {
        const int bytes = 32768;
        for (int end : {wrapped ? static_cast<int>(wrapped->fd) : fd, static_cast<int>(peer)}) {
            setsockopt(end, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
            setsockopt(end, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
        }
    }
    /* All until the end. Nothing of it is looked at before this is joined, but `received`. */
    wh_coro *receive()
    {
        return spawn([this] {
            std::string some(65536, 0);
            ssize_t n;
            while ((n = wh_read(peer, some.data(), some.size())) > 0) {
                got.append(some, 0, static_cast<size_t>(n));
                received += static_cast<size_t>(n);
            }
        });
    }
    void end()
    {
        if (wh_conn_shutdown(conn) == 0)
            return;
        conn.reset();
        if (wrapped)
            wrapped->fd.reset();
    }
};

/* While it lives the process can open no more descriptors. */
class NoDescriptors
{
  public:
    NoDescriptors()
    {
        getrlimit(RLIMIT_NOFILE, &before_);
        struct rlimit few = before_;
        few.rlim_cur = 0;
        setrlimit(RLIMIT_NOFILE, &few);
    }
    NoDescriptors(const NoDescriptors &) = delete;
    NoDescriptors &operator=(const NoDescriptors &) = delete;
    ~NoDescriptors()
    {
        setrlimit(RLIMIT_NOFILE, &before_);
    }

  private:
    struct rlimit before_ = {};
};

#endif
