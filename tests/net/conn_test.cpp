/*
 * conn_test.cpp: the sentences of whorl/conn.h.
 */
#include "tests/base/child.hpp"
#include "tests/net/peers.hpp"
#include "tests/sched/on_workers.hpp"

#include <catch2/catch_test_macros.hpp>

#include <atomic>
#include <csignal>
#include <deque>
#include <vector>

extern "C" {
#include "sched/recv_buffer.h"
#include "sched/sched.h"
}

namespace
{

class Conn
{
  public:
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
    Conn(const Conn &) = delete;
    Conn &operator=(const Conn &) = delete;
    ~Conn()
    {
        if (conn_)
            wh_conn_abandon(conn_);
    }
    operator wh_conn *() const
    {
        return conn_;
    }
    wh_conn *release()
    {
        return std::exchange(conn_, nullptr);
    }
    /* Up to the delimiter's end, consumed; or what the call returned. */
    std::string line(const char *delimiter = "\n", size_t max = 100000)
    {
        const char *bytes = nullptr;
        const ssize_t n = wh_conn_peek_until(conn_, delimiter, strlen(delimiter), max, &bytes);
        if (n <= 0)
            return std::to_string(n);
        std::string line(bytes, static_cast<size_t>(n));
        wh_conn_consume(conn_, line.size());
        return line;
    }
    /* What is there once there are min bytes, not consumed; or what the call returned. */
    std::string peek(size_t min)
    {
        const char *bytes = nullptr;
        const ssize_t n = wh_conn_peek(conn_, min, &bytes);
        return n <= 0 ? std::to_string(n) : std::string(bytes, static_cast<size_t>(n));
    }
    wh_conn_stats stats() const
    {
        wh_conn_stats stats;
        wh_conn_stats_get(conn_, &stats);
        return stats;
    }

  private:
    wh_conn *conn_ = nullptr;
};

void put(int fd, const std::string &text)
{
    for (size_t at = 0; at < text.size();) {
        const ssize_t n = send(fd, text.data() + at, text.size() - at, MSG_NOSIGNAL);
        if (n < 0)
            abort();
        at += static_cast<size_t>(n);
    }
}

/* What the other side has got, without waiting. */
std::string got(int fd)
{
    std::string all;
    char buf[65536];
    ssize_t n;
    while ((n = recv(fd, buf, sizeof buf, MSG_DONTWAIT)) > 0)
        all.append(buf, static_cast<size_t>(n));
    return all;
}

std::string pattern(size_t len)
{
    std::string text(len, 0);
    for (size_t i = 0; i < len; i++)
        text[i] = static_cast<char>('a' + (i * 7 + i / 4096) % 26);
    return text;
}

uint64_t buffers_in_use()
{
    wh_stats stats;
    wh_stats_get(&stats);
    return stats.recv_buffers_in_use;
}

} // namespace

/* ---- Reading ---- */

TEST_CASE("conn: reading takes what is there, then the end, again and again")
{
    in_run([] {
        for (bool tcp : {false, true}) {
            FdPair pair = tcp ? tcp_pair() : socket_pair();
            Conn conn(std::move(pair.a));
            char buf[16] = {};
            put(pair.b, "abc");
            ssize_t n = wh_conn_read(conn, buf, 0);
            CHECK(n == 0);
            n = wh_conn_read(conn, buf, sizeof buf);
            CHECK(n == 3);
            CHECK(std::string(buf, 3) == "abc");
            shutdown(pair.b, SHUT_WR);
            for (int i = 0; i < 3; i++) {
                n = wh_conn_read(conn, buf, sizeof buf);
                CHECK(n == 0);
            }
            CHECK(conn.stats().bytes_in == 3);
            CHECK(conn.stats().reads == 1);
        }
    });
}

TEST_CASE("conn: what was peeked is read first, in any pieces")
{
    in_run([] {
        FdPair pair = socket_pair();
        Conn conn(std::move(pair.a));
        put(pair.b, "hello world");
        CHECK(conn.peek(5) == "hello world");
        CHECK(conn.peek(1) == "hello world");
        CHECK(wh_conn_buffered(conn) == 11);
        char buf[32];
        ssize_t n = wh_conn_read(conn, buf, 2);
        CHECK(n == 2);
        CHECK(conn.peek(1) == "llo world");
        wh_conn_consume(conn, 4);
        n = wh_conn_read(conn, buf, sizeof buf);
        CHECK(n == 5);
        CHECK(std::string(buf, 5) == "world");
        CHECK(wh_conn_buffered(conn) == 0);
        wh_conn_consume(conn, 0);
    });
}

TEST_CASE("conn: reading in full waits for the last byte, and says when it cannot come")
{
    in_run([] {
        FdPair pair = socket_pair();
        Conn conn(std::move(pair.a));
        const std::string text = pattern(10000);
        wh_coro *sender = spawn([&] {
            for (size_t at = 0; at < text.size(); at += 1000) {
                put(pair.b, text.substr(at, 1000));
                wh_yield();
            }
            put(pair.b, "rest");
            shutdown(pair.b, SHUT_WR);
        });
        std::string buf(text.size(), 0);
        ssize_t n = wh_conn_read_full(conn, buf.data(), buf.size());
        CHECK(n == static_cast<ssize_t>(buf.size()));
        CHECK((buf == text));
        n = wh_conn_read_full(conn, buf.data(), 5);
        CHECK(n == -ENODATA);
        CHECK(buf.substr(0, 4) == "rest");
        n = wh_conn_read_full(conn, buf.data(), 5);
        CHECK(n == 0);
        n = wh_conn_read_full(conn, buf.data(), 0);
        CHECK(n == 0);
        join(sender);
    });
}

TEST_CASE("conn: peeking waits for so many, in one piece, however they come")
{
    in_run([] {
        const std::string text = pattern(100000);
        for (size_t piece : {1, 100, 4095, 4096, 4097, 30000})
            for (size_t min : {1, 2, 4096, 4097, 9000, 50000}) {
                if (piece == 1 && min > 9000)
                    continue;
                INFO(piece << " byte pieces, " << min << " wanted");
                FdPair pair = socket_pair();
                Conn conn(std::move(pair.a));
                wh_coro *sender = spawn([&] {
                    for (size_t at = 0; at < min + piece; at += piece) {
                        const std::string part = text.substr(at, piece);
                        (void)wh_send_all(pair.b, part.data(), part.size());
                    }
                    shutdown(pair.b, SHUT_WR);
                });
                const std::string there = conn.peek(min);
                CHECK(there.size() >= min);
                CHECK((text.substr(0, there.size()) == there));
                join(sender);
            }
    });
}

TEST_CASE("conn: peeking at the end gives what is left, and then nothing")
{
    in_run([] {
        FdPair pair = socket_pair();
        Conn conn(std::move(pair.a));
        put(pair.b, "left");
        shutdown(pair.b, SHUT_WR);
        CHECK(conn.peek(100) == "left");
        CHECK(conn.peek(5000) == "left");
        CHECK(conn.line() == std::to_string(-ENODATA));
        wh_conn_consume(conn, 4);
        CHECK(conn.peek(1) == "0");
        CHECK(conn.line() == "0");
    });
}

TEST_CASE("conn: lines of any length come whole, whichever pieces they are sent in")
{
    in_run([] {
        std::vector<std::string> lines;
        std::string all;
        for (size_t len : {0, 1, 10, 4094, 4095, 4096, 4097, 0, 0, 8191, 20000, 3}) {
            lines.push_back(pattern(len) + "\r\n");
            all += lines.back();
        }
        for (size_t piece : {1, 7, 4096, 5000, 100000}) {
            FdPair pair = socket_pair();
            Conn conn(std::move(pair.a));
            wh_coro *sender = spawn([&] {
                for (size_t at = 0; at < all.size(); at += piece) {
                    const std::string part = all.substr(at, piece);
                    (void)wh_send_all(pair.b, part.data(), part.size());
                }
                shutdown(pair.b, SHUT_WR);
            });
            size_t wrong = 0;
            for (const std::string &line : lines)
                wrong += conn.line("\r\n") != line;
            CHECK(wrong == 0);
            CHECK(conn.line() == "0");
            join(sender);
        }
    });
}

TEST_CASE("conn: a line that is too long is -EMSGSIZE, and what is there stays there")
{
    in_run([] {
        FdPair pair = socket_pair();
        Conn conn(std::move(pair.a));
        put(pair.b, "0123456789\nnext\n");
        CHECK(conn.line("\n", 10) == std::to_string(-EMSGSIZE));
        CHECK(conn.line("\n", 11) == "0123456789\n");
        CHECK(conn.line("\n", 4) == std::to_string(-EMSGSIZE));
        CHECK(conn.line("\n", 5) == "next\n");
    });
}

TEST_CASE("conn: what is out of range is -EINVAL")
{
    in_run([] {
        FdPair pair = socket_pair();
        Conn conn(std::move(pair.a));
        const char *bytes;
        ssize_t n = wh_conn_peek(conn, 0, &bytes);
        CHECK(n == -EINVAL);
        n = wh_conn_peek(conn, (size_t(1) << 30) + 1, &bytes);
        CHECK(n == -EINVAL);
        n = wh_conn_peek_until(conn, "", 0, 10, &bytes);
        CHECK(n == -EINVAL);
        n = wh_conn_peek_until(conn, pattern(65).data(), 65, 100, &bytes);
        CHECK(n == -EINVAL);
        n = wh_conn_peek_until(conn, "\n", 1, 0, &bytes);
        CHECK(n == -EINVAL);
        n = wh_conn_writev(conn, nullptr, -1);
        CHECK(n == -EINVAL);
        n = wh_conn_writev(conn, nullptr, 65);
        CHECK(n == -EINVAL);
    });
}

TEST_CASE("conn: consuming more than there is aborts")
{
    ChildEnd end = in_child([] {
        return in_run([] {
            FdPair pair = socket_pair();
            Conn conn(std::move(pair.a));
            put(pair.b, "abc");
            (void)conn.peek(1);
            wh_conn_consume(conn, 4);
        });
    });
    INFO(end.how());
    CHECK(end.killed_by(SIGABRT));
    CHECK(end.said.find("takes more than is there") != std::string::npos);
}

TEST_CASE("conn: a second reader aborts")
{
    ChildEnd end = in_child([] {
        return in_run([] {
            FdPair pair = socket_pair();
            Conn conn(std::move(pair.a));
            wh_coro *other = spawn([&] { (void)conn.peek(1); });
            until_parked(other);
            (void)conn.peek(1);
        });
    });
    INFO(end.how());
    CHECK(end.killed_by(SIGABRT));
    CHECK(end.said.find("another coroutine is in such a call") != std::string::npos);
}

/* ---- Buffers ---- */

TEST_CASE("conn: streams that wait hold no buffer, and there is always enough")
{
    in_run([] {
        constexpr size_t COUNT = 2 * RECV_BUFFERS + 50;
        std::vector<FdPair> pairs(COUNT);
        std::vector<const wh_conn *> conns;
        std::vector<wh_coro *> readers;
        std::atomic<size_t> right{0}, waiting{0};
        wh_event go_on = {};
        for (FdPair &pair : pairs) {
            pair = socket_pair();
            wh_conn *conn;
            if (wh_conn_create(&conn, pair.a.release()) < 0)
                abort();
            conns.push_back(conn);
            readers.push_back(spawn([&, conn] {
                const char *bytes;
                right += wh_conn_peek(conn, 3, &bytes) == 3 && !memcmp(bytes, "abc", 3);
                waiting++;
                wh_event_wait(&go_on); /* each keeps what it has got */
                wh_conn_consume(conn, 3);
                right += wh_conn_peek(conn, 2, &bytes) == 2 && !memcmp(bytes, "de", 2);
                wh_conn_consume(conn, 2);
            }));
        }
        wh_sleep(WH_MILLISECOND);
        CHECK(buffers_in_use() == 0);
        CHECK(waiting == 0);
        for (FdPair &pair : pairs)
            put(pair.b, "abc");
        while (waiting < COUNT)
            wh_yield();
        CHECK(right == COUNT);
        if (has_cap("buffer_ring") && wh_workers() == 1)
            CHECK(buffers_in_use() == RECV_BUFFERS); /* and the others have memory of their own */
        wh_event_set(&go_on);
        for (FdPair &pair : pairs)
            put(pair.b, "de");
        for (wh_coro *reader : readers)
            join(reader);
        CHECK(right == 2 * COUNT);
        while (buffers_in_use()) /* those of other workers are as of a moment ago */
            wh_yield();
        for (const wh_conn *conn : conns) {
            const int rc = wh_conn_close(const_cast<wh_conn *>(conn));
            CHECK(rc == 0);
        }
    });
}

TEST_CASE("conn: all buffers come back, also from another worker")
{
    wh_options options = {};
    options.migrate = true;
    in_run(
        [] {
            std::atomic<int> wrong{0};
            std::vector<wh_coro *> coros;
            for (int c = 0; c < 40; c++)
                coros.push_back(spawn([&] {
                    FdPair pair = socket_pair();
                    Conn conn(std::move(pair.a));
                    for (int i = 0; i < times(1000); i++) {
                        put(pair.b, "x\n");
                        wrong += conn.line() != "x\n";
                    }
                }));
            for (wh_coro *coro : coros)
                join(coro);
            CHECK(wrong == 0);
            while (buffers_in_use())
                wh_yield();
        },
        &options);
}

TEST_CASE("conn: a reader that is slow stops the sender")
{
    in_run([] {
        FdPair pair = tcp_pair();
        Conn conn(std::move(pair.a));
        const size_t in_flight = fill(pair.b); /* until the kernel takes no more */
        CHECK(conn.peek(1).size() <= RECV_BUFFER_BYTES);
        CHECK(wh_conn_buffered(conn) <= RECV_BUFFER_BYTES);
        shutdown(pair.b, SHUT_WR);
        size_t all = 0;
        ssize_t n;
        char buf[65536];
        while ((n = wh_conn_read(conn, buf, sizeof buf)) > 0)
            all += static_cast<size_t>(n);
        CHECK(n == 0);
        CHECK(all == in_flight);
    });
}

/* ---- Time and cancel ---- */

TEST_CASE("conn: timeouts of its own end one wait each, and nothing is lost")
{
    in_run([] {
        FdPair pair = socket_pair();
        Conn conn(std::move(pair.a));
        wh_conn_set_timeouts(conn, 5 * WH_MILLISECOND, WH_NEVER);
        CHECK(conn.line() == std::to_string(-ETIMEDOUT));
        put(pair.b, "hal");
        CHECK(conn.line() == std::to_string(-ETIMEDOUT));
        CHECK(wh_conn_buffered(conn) == 3);
        put(pair.b, "lo\n");
        CHECK(conn.line() == "hallo\n");
        char byte;
        ssize_t n = wh_conn_read(conn, &byte, 1);
        CHECK(n == -ETIMEDOUT);
        n = wh_conn_read_full(conn, &byte, 1);
        CHECK(n == -ETIMEDOUT);
        wh_conn_set_timeouts(conn, WH_NEVER, WH_NEVER);
        WH_WITH_TIMEOUT(WH_MILLISECOND)
        {
            n = wh_conn_read(conn, &byte, 1);
        }
        CHECK(n == -ETIMEDOUT);
    });
}

TEST_CASE("conn: a cancelled reader returns, and what came before is there for the next")
{
    in_run([] {
        FdPair pair = socket_pair();
        Conn conn(std::move(pair.a));
        put(pair.b, "ab");
        std::string said;
        wh_coro *reader = spawn([&] { said = conn.line(); });
        until_parked(reader);
        wh_cancel(reader);
        join(reader);
        CHECK(said == std::to_string(-ECANCELED));
        put(pair.b, "c\n");
        CHECK(conn.line() == "abc\n");
    });
}

/* ---- Writing ---- */

TEST_CASE("conn: what is written goes when it is flushed, or the buffer is full, or at the close")
{
    in_run([] {
        FdPair pair = socket_pair();
        Conn conn(std::move(pair.a));
        ssize_t n = wh_conn_write(conn, "abc", 3);
        CHECK(n == 3);
        n = wh_conn_printf(conn, "%d-%s", 42, "x");
        CHECK(n == 4);
        const struct iovec iov[] = {
            {const_cast<char *>("p"), 1}, {nullptr, 0}, {const_cast<char *>("qr"), 2}};
        n = wh_conn_writev(conn, iov, 3);
        CHECK(n == 3);
        n = wh_conn_writev(conn, nullptr, 0);
        CHECK(n == 0);
        CHECK(got(pair.b).empty());
        int rc = wh_conn_flush(conn);
        CHECK(rc == 0);
        CHECK(got(pair.b) == "abc42-xpqr");
        CHECK(conn.stats().writes == 1);
        CHECK(conn.stats().bytes_out == 10);
        rc = wh_conn_flush(conn);
        CHECK(rc == 0);
        CHECK(conn.stats().writes == 1);

        const std::string large = pattern(10000);
        n = wh_conn_write(conn, "begin", 5);
        CHECK(n == 5);
        n = wh_conn_write(conn, large.data(), large.size());
        CHECK(n == 10000);
        CHECK((got(pair.b) == "begin" + large));
        n = wh_conn_printf(conn, "%s", large.c_str());
        CHECK(n == 10000);
        CHECK((got(pair.b) == large));
        const struct iovec pieces[] = {{const_cast<char *>(large.data()), 5000},
                                       {const_cast<char *>(large.data() + 5000), 5000}};
        n = wh_conn_writev(conn, pieces, 2);
        CHECK(n == 10000);
        CHECK((got(pair.b) == large));
        n = wh_conn_write(conn, "end", 3);
        CHECK(n == 3);
        rc = wh_conn_close(conn.release());
        CHECK(rc == 0);
        CHECK(got(pair.b) == "end");
        CHECK(sees_end(pair.b));
    });
}

TEST_CASE("conn: every length around the size of the buffer arrives whole")
{
    in_run([] {
        FdPair pair = socket_pair();
        Conn conn(std::move(pair.a));
        const std::string text = pattern(9000);
        for (size_t first : {0, 1, 4095, 4096, 4097})
            for (size_t second : {0, 1, 4094, 4095, 4096, 4097, 9000}) {
                INFO(first << " and " << second);
                ssize_t n = wh_conn_write(conn, text.data(), first);
                CHECK(n == static_cast<ssize_t>(first));
                n = wh_conn_write(conn, text.data(), second);
                CHECK(n == static_cast<ssize_t>(second));
                const int rc = wh_conn_flush(conn);
                CHECK(rc == 0);
                CHECK((got(pair.b) == text.substr(0, first) + text.substr(0, second)));
            }
    });
}

TEST_CASE("conn: a peer that takes nothing ends a write in time, and the error stays")
{
    in_run([] {
        FdPair pair = socket_pair();
        fill(pair.a);
        Conn conn(std::move(pair.a));
        wh_conn_set_timeouts(conn, WH_NEVER, 5 * WH_MILLISECOND);
        ssize_t n = wh_conn_write(conn, "abc", 3);
        CHECK(n == 3);
        int rc = wh_conn_flush(conn);
        CHECK(rc == -ETIMEDOUT);
        (void)got(pair.b);
        rc = wh_conn_flush(conn);
        CHECK(rc == -ETIMEDOUT);
        n = wh_conn_write(conn, "abc", 3);
        CHECK(n == -ETIMEDOUT);
        n = wh_conn_printf(conn, "x");
        CHECK(n == -ETIMEDOUT);
        rc = wh_conn_shutdown(conn);
        CHECK(rc == -ETIMEDOUT);
        put(pair.b, "still\n"); /* the other way is as it was */
        CHECK(conn.line() == "still\n");
        rc = wh_conn_close(conn.release());
        CHECK(rc == -ETIMEDOUT);
    });
}

TEST_CASE("conn: writing to one who has gone is -EPIPE, and no signal")
{
    in_run([] {
        FdPair pair = socket_pair();
        Conn conn(std::move(pair.a));
        pair.b.reset();
        (void)wh_conn_write(conn, "abc", 3);
        const int rc = wh_conn_flush(conn);
        CHECK(rc == -EPIPE);
    });
}

TEST_CASE("conn: half of it can be shut, and the other half is read to its end")
{
    in_run([] {
        FdPair pair = tcp_pair();
        Conn conn(std::move(pair.a));
        wh_coro *peer = spawn([&] {
            std::string all;
            char buf[100];
            ssize_t n;
            while ((n = wh_recv(pair.b, buf, sizeof buf, 0)) > 0)
                all.append(buf, static_cast<size_t>(n));
            all += " back\n";
            put(pair.b, all);
            shutdown(pair.b, SHUT_WR);
        });
        ssize_t n = wh_conn_write(conn, "there and", 9);
        CHECK(n == 9);
        const int rc = wh_conn_shutdown(conn);
        CHECK(rc == 0);
        CHECK(conn.line() == "there and back\n");
        CHECK(conn.line() == "0");
        join(peer);
    });
}

TEST_CASE("conn: one reads while another writes")
{
    in_run([] {
        FdPair pair = tcp_pair();
        Conn one(std::move(pair.a)), other(std::move(pair.b));
        const std::string text = pattern(1 << 20);
        auto send = [&](Conn &to) {
            for (size_t at = 0; at < text.size(); at += 999) {
                const size_t len = std::min<size_t>(999, text.size() - at);
                if (wh_conn_write(to, text.data() + at, len) < 0)
                    return;
            }
            (void)wh_conn_shutdown(to);
        };
        auto receive = [&](Conn &from) {
            std::string all(text.size() + 1, 0);
            return wh_conn_read_full(from, all.data(), all.size()) == -ENODATA &&
                   all.substr(0, text.size()) == text;
        };
        wh_coro *writers[] = {spawn([&] { send(one); }), spawn([&] { send(other); })};
        wh_coro *reader = spawn([&] { return static_cast<intptr_t>(receive(one)); });
        const bool right = receive(other);
        CHECK(right);
        CHECK(join(reader) == 1);
        for (wh_coro *writer : writers)
            join(writer);
    });
}

/* ---- Other descriptors, other streams ---- */

TEST_CASE("conn: pipes are streams, too, which cannot be half shut")
{
    in_run([] {
        FdPair pipe = pipe_pair();
        Conn from(std::move(pipe.a)), to(std::move(pipe.b));
        ssize_t n = wh_conn_write(to, "one\ntwo\n", 8);
        CHECK(n == 8);
        int rc = wh_conn_flush(to);
        CHECK(rc == 0);
        CHECK(from.line() == "one\n");
        CHECK(from.line() == "two\n");
        rc = wh_conn_shutdown(to);
        CHECK(rc == -EOPNOTSUPP);
        rc = wh_conn_close(to.release());
        CHECK(rc == 0);
        CHECK(from.line() == "0");
    });
}

TEST_CASE("conn: an error of the descriptor is the call's")
{
    in_run([] {
        wh_conn *conn;
        int rc = wh_conn_create(&conn, 1 << 20);
        CHECK(rc == 0);
        const char *bytes;
        ssize_t n = wh_conn_peek(conn, 1, &bytes);
        CHECK(n == -EBADF);
        char byte;
        n = wh_conn_read(conn, &byte, 1);
        CHECK(n == -EBADF);
        rc = wh_conn_close(conn);
        CHECK(rc == -EBADF);

        FdPair pair = tcp_pair();
        const struct linger reset = {1, 0};
        setsockopt(pair.b, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        Conn cut(std::move(pair.a));
        pair.b.reset();
        CHECK(cut.peek(1) == std::to_string(-ECONNRESET));
    });
}

namespace
{

/* A stream made up: gives what it is told to, by the piece, and keeps what it is given. */
struct MadeUp {
    std::deque<std::string> pieces;
    std::string written;
    size_t takes = 3; /* bytes at a time */
    int error = 0;    /* of the next write */
    int shut = 0, closed = 0;

    static ssize_t read(void *self, void *buf, size_t len)
    {
        auto *me = static_cast<MadeUp *>(self);
        if (me->pieces.empty())
            return 0;
        std::string piece = me->pieces.front();
        me->pieces.pop_front();
        if (piece.size() > len) {
            me->pieces.push_front(piece.substr(len));
            piece.resize(len);
        }
        memcpy(buf, piece.data(), piece.size());
        return static_cast<ssize_t>(piece.size());
    }
    static ssize_t writev(void *self, const struct iovec *iov, int count)
    {
        auto *me = static_cast<MadeUp *>(self);
        if (me->error)
            return me->error;
        size_t taken = 0;
        for (int i = 0; i < count && taken < me->takes; i++) {
            const size_t part = std::min(me->takes - taken, iov[i].iov_len);
            me->written.append(static_cast<const char *>(iov[i].iov_base), part);
            taken += part;
        }
        return static_cast<ssize_t>(taken);
    }
    static int shutdown(void *self)
    {
        return static_cast<MadeUp *>(self)->shut++ ? -ENOTCONN : 0;
    }
    static int close(void *self)
    {
        static_cast<MadeUp *>(self)->closed++;
        return -EDQUOT;
    }
};

constexpr wh_conn_ops made_up = {MadeUp::read, MadeUp::writev, MadeUp::shutdown, MadeUp::close};
constexpr wh_conn_ops bare = {MadeUp::read, MadeUp::writev, nullptr, nullptr};

} // namespace

TEST_CASE("conn: a stream may be anything that reads and writes")
{
    in_run([] {
        MadeUp self;
        self.pieces = {"on", "e\ntw", "o\nthr", "ee"};
        Conn conn(made_up, &self);
        CHECK(wh_conn_fd(conn) == -1);
        CHECK(conn.line() == "one\n");
        CHECK(conn.line() == "two\n");
        CHECK(conn.peek(5) == "three");
        CHECK(conn.line() == std::to_string(-ENODATA));
        const std::string text = pattern(5000);
        ssize_t n = wh_conn_write(conn, "abcd", 4);
        CHECK(n == 4);
        n = wh_conn_write(conn, text.data(), text.size());
        CHECK(n == 5000);
        CHECK((self.written == "abcd" + text));
        CHECK(conn.stats().writes == (5004 + 2) / 3);
        int rc = wh_conn_shutdown(conn);
        CHECK(rc == 0);
        rc = wh_conn_shutdown(conn);
        CHECK(rc == -ENOTCONN);
        rc = wh_conn_close(conn.release());
        CHECK(rc == -EDQUOT);
        CHECK(self.closed == 1);
    });
}

TEST_CASE("conn: what goes wrong first is what closing says")
{
    in_run([] {
        MadeUp self;
        Conn conn(made_up, &self);
        (void)wh_conn_write(conn, "abc", 3);
        self.error = -EIO;
        int rc = wh_conn_close(conn.release());
        CHECK(rc == -EIO);
        CHECK(self.closed == 1);

        self.error = 0;
        Conn plain(bare, &self);
        rc = wh_conn_shutdown(plain);
        CHECK(rc == -EOPNOTSUPP);
        (void)wh_conn_write(plain, "lost", 4);
        rc = wh_conn_abandon(plain.release());
        CHECK(rc == 0);
        CHECK(self.written.empty());
    });
}
