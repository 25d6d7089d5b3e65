/*
 * copy_test.cpp: wh_copy(): the sentences of whorl/copy.h about one direction.
 */
#include "tests/net/copy.hpp"

#include <catch2/catch_test_macros.hpp>

#include <csignal>

/* ---- All of it ---- */

TEST_CASE("copy: every byte, in order, between streams of every kind")
{
    for (Kind from : KINDS)
        for (Kind to : KINDS) {
            const int fds = fds_open();
            in_run([&] {
                INFO(name(from) << " to " << name(to));
                for (size_t size : {0, 1, 4095, 4096, 4097, 65536, 70000, times(3000000)}) {
                    INFO(size << " bytes");
                    const std::string text = pattern(size);
                    Source source(from);
                    Sink sink(to);
                    wh_coro *sender = source.send(text);
                    wh_coro *receiver = sink.receive();
                    uint64_t moved = 1;
                    const int64_t n = wh_copy(sink.conn, source.conn, WH_COPY_ALL, &moved);
                    CHECK(n == static_cast<int64_t>(size));
                    CHECK(moved == size);
                    CHECK(stats(source.conn).bytes_in == size);
                    CHECK(stats(sink.conn).bytes_out == size);
                    CHECK(blocks(source.fd));
                    CHECK(blocks(sink.fd));
                    sink.end();
                    const intptr_t sent = join(sender);
                    CHECK(sent == 0);
                    join(receiver);
                    CHECK((sink.got == text));
                }
            });
            CHECK(fds_open() == fds); /* the pipes are gone with the run */
        }
}

TEST_CASE("copy: a byte sent out of band stops nothing, and nothing behind it is lost")
{
    for (bool end_at_once : {true, false})
        in_run([&] {
            const std::string before = pattern(times(2000000)), behind = pattern(1000);
            Source source(TCP);
            Sink sink(TCP);
            wh_coro *receiver = sink.receive();
            wh_coro *sender = spawn([&] {
                (void)wh_send_all(source.peer, before.data(), before.size());
                (void)wh_send(source.peer, "!", 1, MSG_OOB);
                (void)wh_send_all(source.peer, behind.data(), behind.size());
                if (!end_at_once)
                    until([&] { return sink.received == before.size() + behind.size(); });
                source.peer.reset();
            });
            const int64_t n = wh_copy(sink.conn, source.conn, WH_COPY_ALL, nullptr);
            join(sender);
            CHECK(n == static_cast<int64_t>(before.size() + behind.size()));
            sink.end();
            join(receiver);
            CHECK((sink.got == before + behind));
        });
}

TEST_CASE("copy: pieces of every size, and a change between small and large ones")
{
    in_run([] {
        std::string all;
        Source source(TCP);
        Sink sink(TCP);
        wh_coro *receiver = sink.receive();
        wh_coro *sender = spawn([&] {
            for (int round = 0; round < 3; round++)
                for (size_t size : {1, 100, 5000, 100000, 1, 1, 1, 1, 1, 1, 40000, 4096, 1000}) {
                    const std::string piece = pattern(size);
                    all += piece;
                    (void)wh_send_all(source.peer, piece.data(), piece.size());
                    until([&] { return sink.received == all.size(); });
                }
            source.peer.reset();
        });
        const int64_t n = wh_copy(sink.conn, source.conn, WH_COPY_ALL, nullptr);
        join(sender);
        CHECK(n == static_cast<int64_t>(all.size()));
        sink.end();
        join(receiver);
        CHECK((sink.got == all));
    });
}

TEST_CASE("copy: what is buffered goes first, on both sides")
{
    in_run([] {
        for (Kind kind : KINDS) {
            Source source(kind);
            Sink sink(kind);
            put(source.peer, "first second ");
            const char *bytes;
            ssize_t n = wh_conn_peek(source.conn, 13, &bytes);
            CHECK(n == 13);
            wh_conn_consume(source.conn, 6);
            n = wh_conn_write(sink.conn, "before ", 7);
            CHECK(n == 7);
            const std::string text = pattern(100000);
            wh_coro *sender = source.send(text), *receiver = sink.receive();
            const int64_t copied = wh_copy(sink.conn, source.conn, WH_COPY_ALL, nullptr);
            CHECK(copied == 100007);
            CHECK(stats(sink.conn).bytes_out == 100014);
            sink.end();
            join(sender);
            join(receiver);
            CHECK((sink.got == "before second " + text));
        }
    });
}

TEST_CASE("copy: a limit is kept to the byte, and what is behind it can be read")
{
    in_run([] {
        const std::string text = pattern(300000);
        for (Kind kind : KINDS)
            for (size_t max : {0, 1, 5, 4096, 4097, 20000, 200000, 299990}) {
                INFO(name(kind) << ", " << max);
                Source source(kind);
                Sink sink(kind);
                wh_coro *sender = source.send(text), *receiver = sink.receive();
                uint64_t moved = 0;
                int64_t n = wh_copy(sink.conn, source.conn, static_cast<int64_t>(max), &moved);
                CHECK(n == static_cast<int64_t>(max));
                CHECK(moved == max);
                CHECK(read_some(source.conn, 7) == text.substr(max, 7));
                n = wh_copy(sink.conn, source.conn, 0, nullptr);
                CHECK(n == 0);
                n = wh_copy(sink.conn, source.conn, WH_COPY_ALL, nullptr);
                sink.end();
                join(sender);
                join(receiver);
                const size_t rest = max + 7 < text.size() ? max + 7 : text.size();
                CHECK(n == static_cast<int64_t>(text.size() - rest));
                CHECK((sink.got == text.substr(0, max) + text.substr(rest)));
            }
        Source source(TCP);
        Sink sink(TCP);
        uint64_t moved = 1;
        const int64_t n = wh_copy(sink.conn, source.conn, -1, &moved);
        CHECK(n == -EINVAL);
        CHECK(moved == 0);
    });
}

TEST_CASE("copy: a stream to itself is an echo")
{
    in_run([] {
        FdPair pair = tcp_pair();
        Conn conn(std::move(pair.a));
        wh_coro *echo = spawn([&] { return intptr_t(wh_copy(conn, conn, WH_COPY_ALL, nullptr)); });
        const std::string text = pattern(1000000);
        wh_coro *sender = spawn([&] {
            (void)wh_send_all(pair.b, text.data(), text.size());
            wh_shutdown(pair.b, SHUT_WR);
        });
        std::string back(text.size(), 0);
        const ssize_t n = wh_recv(pair.b, back.data(), back.size(), MSG_WAITALL);
        CHECK(n == 1000000);
        CHECK((back == text));
        join(sender);
        const intptr_t moved = join(echo);
        CHECK(moved == 1000000);
    });
}

/* ---- Ending before the end ---- */

TEST_CASE("copy: cut short by a slow reader nothing is lost, and it can go on")
{
    for (bool cancel : {false, true})
        for (Kind from : KINDS)
            for (Kind to : KINDS)
                in_run([&] {
                    INFO(name(from) << " to " << name(to) << (cancel ? ", cancel" : ", timeout"));
                    const std::string text = pattern(2000000);
                    Source source(from);
                    Sink sink(to);
                    sink.narrow();
                    wh_coro *sender = source.send(text);
                    uint64_t moved = 0;
                    wh_coro *copier = spawn([&] {
                        int64_t n = 0;
                        WH_WITH_TIMEOUT(cancel ? WH_HOUR : 20 * WH_MILLISECOND)
                        {
                            n = wh_copy(sink.conn, source.conn, WH_COPY_ALL, &moved);
                        }
                        return static_cast<intptr_t>(n);
                    });
                    if (cancel) {
                        until([&] { return stats(sink.conn).bytes_out > 4096; });
                        until_parked(copier);
                        wh_cancel(copier);
                    }
                    const intptr_t rc = join(copier);
                    CHECK(rc == (cancel ? -ECANCELED : -ETIMEDOUT));
                    CHECK(moved == stats(sink.conn).bytes_out);
                    moved = std::min<uint64_t>(moved, text.size() - 1000);
                    CHECK(blocks(source.fd));
                    CHECK(blocks(sink.fd));
                    wh_coro *receiver = sink.receive();
                    /* Some of it by hand, the rest by another copy. */
                    const std::string some = read_some(source.conn, 1000);
                    CHECK((some == text.substr(moved, 1000)));
                    if (to != WRAPPED) {
                        const int64_t n = wh_copy(sink.conn, source.conn, WH_COPY_ALL, nullptr);
                        CHECK(n == static_cast<int64_t>(text.size() - moved - 1000));
                    } else {
                        source.drain();
                    }
                    sink.end();
                    join(sender);
                    join(receiver);
                    if (to != WRAPPED)
                        CHECK((sink.got == text.substr(0, moved) + text.substr(moved + 1000)));
                });
}

TEST_CASE("copy: cut short while it sends what was written before, `to` loses none of it")
{
    for (bool cancel : {false, true})
        for (Kind to : {TCP, UNIX, PIPE})
            in_run([&] {
                INFO(name(to) << (cancel ? ", cancel" : ", timeout"));
                Source source(UNIX);
                Sink sink(to);
                sink.narrow();
                size_t full = 0;
                const std::string some = pattern(4096);
                CHECK(fcntl(sink.fd, F_SETFL, O_NONBLOCK) == 0);
                for (ssize_t n; (n = write(sink.fd, some.data(), some.size())) > 0;)
                    full += static_cast<size_t>(n);
                CHECK(fcntl(sink.fd, F_SETFL, 0) == 0);
                ssize_t written = wh_conn_write(sink.conn, "before ", 7);
                CHECK(written == 7);
                put(source.peer, "copied ");
                uint64_t moved = 1;
                wh_coro *copier = spawn([&] {
                    int64_t n = 0;
                    WH_WITH_TIMEOUT(cancel ? WH_HOUR : 5 * WH_MILLISECOND)
                    {
                        n = wh_copy(sink.conn, source.conn, WH_COPY_ALL, &moved);
                    }
                    return static_cast<intptr_t>(n);
                });
                until_parked(copier);
                if (cancel)
                    wh_cancel(copier);
                const intptr_t rc = join(copier);
                CHECK(rc == (cancel ? -ECANCELED : -ETIMEDOUT));
                CHECK(moved == 0);
                wh_coro *receiver = sink.receive();
                written = wh_conn_write(sink.conn, "and behind ", 11);
                CHECK(written == 11);
                source.peer.reset();
                const int64_t n = wh_copy(sink.conn, source.conn, WH_COPY_ALL, nullptr);
                CHECK(n == 7);
                sink.end();
                join(receiver);
                CHECK(sink.got.size() == full + 25);
                CHECK((sink.got.substr(std::min(full, sink.got.size())) ==
                       "before and behind copied "));
            });
}

TEST_CASE("copy: what was written before may go in pieces")
{
    in_run([] {
        struct OneByte {
            std::string got;
            static ssize_t writev(void *self, const struct iovec *iov, int)
            {
                static_cast<OneByte *>(self)->got.append(static_cast<char *>(iov->iov_base), 1);
                return 1;
            }
        } to;
        const wh_conn_ops ops = {nullptr, OneByte::writev, nullptr, nullptr};
        Conn sink(ops, &to);
        Source source(UNIX);
        const ssize_t written = wh_conn_write(sink, "before ", 7);
        CHECK(written == 7);
        put(source.peer, "copied");
        source.peer.reset();
        const int64_t n = wh_copy(sink, source.conn, WH_COPY_ALL, nullptr);
        CHECK(n == 6);
        CHECK(to.got == "before copied");
        CHECK(stats(sink).bytes_out == 13);
    });
}

TEST_CASE("copy: the streams' own timeouts end it")
{
    in_run([] {
        for (Kind kind : KINDS) {
            INFO(name(kind));
            Source source(kind);
            Sink sink(kind);
            sink.narrow();
            wh_conn_set_timeouts(source.conn, 5 * WH_MILLISECOND, WH_NEVER);
            wh_conn_set_timeouts(sink.conn, WH_NEVER, 5 * WH_MILLISECOND);
            put(source.peer, "abc");
            uint64_t moved = 0;
            int64_t n = wh_copy(sink.conn, source.conn, WH_COPY_ALL, &moved);
            CHECK(n == -ETIMEDOUT); /* of reading */
            CHECK(moved == 3);
            wh_conn_set_timeouts(source.conn, WH_NEVER, WH_NEVER);
            wh_coro *sender = source.send(pattern(1000000));
            n = wh_copy(sink.conn, source.conn, WH_COPY_ALL, &moved);
            CHECK(n == -ETIMEDOUT); /* of writing */
            CHECK(moved < 1000000);
            source.drain();
            join(sender);
        }
    });
}

TEST_CASE("copy: a context that has ended moves nothing")
{
    in_run([] {
        Source source(TCP);
        Sink sink(TCP);
        put(source.peer, "abc");
        int64_t n = 0;
        WH_WITH_TIMEOUT(0)
        {
            n = wh_copy(sink.conn, source.conn, WH_COPY_ALL, nullptr);
        }
        CHECK(n == -ETIMEDOUT);
        WH_WITH_CANCEL(ctx)
        {
            wh_ctx_cancel(ctx, 0);
            n = wh_copy(sink.conn, source.conn, WH_COPY_ALL, nullptr);
        }
        CHECK(n == -ECANCELED);
        CHECK(read_some(source.conn, 3) == "abc");
    });
}

TEST_CASE("copy: streams that are always ready obey a deadline, too")
{
    in_run([] {
        Endless from, to;
        Conn source(endless_ops, &from), sink(endless_ops, &to);
        int64_t n = 0;
        uint64_t moved = 0;
        WH_WITH_TIMEOUT(5 * WH_MILLISECOND)
        {
            n = wh_copy(sink, source, WH_COPY_ALL, &moved);
        }
        CHECK(n == -ETIMEDOUT);
        CHECK(moved > 0);
        CHECK(to.written == moved);
    });
}

TEST_CASE("copy: a source that breaks is the copy's error")
{
    in_run([] {
        for (Kind to : KINDS) {
            Source source(TCP);
            Sink sink(to);
            wh_coro *copier = spawn(
                [&] { return intptr_t(wh_copy(sink.conn, source.conn, WH_COPY_ALL, nullptr)); });
            until_parked(copier);
            reset(source.peer);
            const intptr_t n = join(copier);
            CHECK(n == -ECONNRESET);
        }
    });
}

TEST_CASE("copy: to one who has gone is -EPIPE, no signal, and the rest can be read")
{
    ChildEnd end = in_child([] {
        return in_run([] {
            std::signal(SIGPIPE, SIG_DFL);
            const std::string text = pattern(100000);
            for (Kind to : {TCP, UNIX}) {
                Source source(UNIX);
                Sink sink(to);
                wh_coro *sender = source.send(text);
                if (to == TCP)
                    reset(sink.peer);
                sink.peer.reset();
                const std::string first = read_some(source.conn, 10);
                uint64_t moved = 0;
                const int64_t n = wh_copy(sink.conn, source.conn, WH_COPY_ALL, &moved);
                CHILD_REQUIRE(n == -EPIPE || n == -ECONNRESET);
                CHILD_REQUIRE(wh_conn_shutdown(sink.conn) < 0);
                const std::string next = read_some(source.conn, 10);
                CHILD_REQUIRE(next == text.substr(first.size() + moved, 10));
                source.drain();
                join(sender);
            }
        });
    });
    INFO(end.how());
    CHECK(end.exited(0));
}

TEST_CASE("copy: a peer that goes while bytes are spliced raises no signal either")
{
    for (bool blocked : {false, true}) {
        ChildEnd end = in_child([&] {
            std::signal(SIGPIPE, SIG_DFL);
            sigset_t set;
            sigemptyset(&set);
            sigaddset(&set, SIGPIPE);
            pthread_sigmask(blocked ? SIG_BLOCK : SIG_UNBLOCK, &set, nullptr);
            return in_run([&] {
                for (Kind to : {TCP, UNIX, PIPE}) {
                    if (to == PIPE && !spliced()) /* the ring's write to a pipe raises it */
                        continue;
                    Source source(TCP);
                    Sink sink(to);
                    sink.narrow();
                    wh_coro *sender = source.send(pattern(4000000));
                    wh_coro *copier = spawn([&] {
                        return intptr_t(wh_copy(sink.conn, source.conn, WH_COPY_ALL, nullptr));
                    });
                    /* It is stopped with bytes in a pipe, and wakes to find nobody there. */
                    until([&] { return stats(sink.conn).bytes_out > 4096; });
                    until_parked(copier);
                    sink.peer.reset();
                    const intptr_t n = join(copier);
                    CHILD_REQUIRE(n == -EPIPE || n == -ECONNRESET);
                    source.drain();
                    join(sender);
                }
                const intptr_t wrong = on_all(wh_workers(), [blocked](unsigned) {
                    sigset_t pending, mask;
                    sigpending(&pending);
                    pthread_sigmask(SIG_BLOCK, nullptr, &mask);
                    return sigismember(&pending, SIGPIPE) +
                           (sigismember(&mask, SIGPIPE) != (blocked ? 1 : 0));
                });
                CHILD_REQUIRE(wrong == 0);
            });
        });
        INFO(end.how());
        CHECK(end.exited(0));
    }
}

/* ---- Without splice, pipes, memory ---- */

TEST_CASE("copy: what refuses to be spliced to is written to")
{
    in_run([] {
        const std::string text = pattern(1000000);
        Source source(TCP);
        Sink sink(TCP);
        CHECK(fcntl(sink.fd, F_SETFL, fcntl(sink.fd, F_GETFL) | O_APPEND) == 0);
        wh_coro *sender = source.send(text), *receiver = sink.receive();
        const int64_t n = wh_copy(sink.conn, source.conn, WH_COPY_ALL, nullptr);
        CHECK(n == 1000000);
        CHECK(stats(source.conn).bytes_in == 1000000);
        CHECK(stats(sink.conn).bytes_out == 1000000);
        sink.end();
        join(sender);
        join(receiver);
        CHECK((sink.got == text));
    });
}

TEST_CASE("copy: where splice is forbidden the bytes go through the buffer")
{
    for (int error : {EINVAL, EPERM, ENOSYS}) {
        ChildEnd end = in_child([&] {
            CHILD_REQUIRE(forbid(SYS_splice, error));
            return in_run([] {
                const std::string text = pattern(1000000);
                Source source(TCP);
                Sink sink(TCP);
                wh_coro *sender = source.send(text), *receiver = sink.receive();
                const int64_t n = wh_copy(sink.conn, source.conn, WH_COPY_ALL, nullptr);
                CHILD_REQUIRE(n == 1000000);
                sink.end();
                join(sender);
                join(receiver);
                CHILD_REQUIRE(sink.got == text);
            });
        });
        INFO(end.how());
        CHECK(end.exited(0));
    }
}

TEST_CASE("copy: without a descriptor for a pipe the bytes go through the buffer")
{
    in_run([] {
        const std::string text = pattern(1000000);
        Source source(TCP);
        Sink sink(TCP);
        wh_coro *sender = source.send(text), *receiver = sink.receive();
        int64_t n = 0;
        {
            NoDescriptors none;
            n = wh_copy(sink.conn, source.conn, WH_COPY_ALL, nullptr);
        }
        CHECK(n == 1000000);
        sink.end();
        join(sender);
        join(receiver);
        CHECK((sink.got == text));
    });
}

TEST_CASE("copy: without memory to put the rest back, reading on says so")
{
    in_run([] {
        const std::string text = pattern(4000000);
        Source source(TCP);
        Sink sink(TCP);
        sink.narrow(); /* or all of it has room in the sockets' buffers, and the copy ends */
        wh_coro *sender = source.send(text);
        wh_coro *copier =
            spawn([&] { return intptr_t(wh_copy(sink.conn, source.conn, WH_COPY_ALL, nullptr)); });
        until([&] { return stats(sink.conn).bytes_out > 8192; });
        until_parked(copier);
        const bool rest = stats(source.conn).bytes_in > stats(sink.conn).bytes_out;
        wh_cancel(copier);
        no_memory = true;
        const intptr_t rc = join(copier);
        no_memory = false;
        CHECK((rc == -ECANCELED || (rc == -ENOMEM && !spliced())));
        if (spliced() && rest) {
            char byte;
            const char *bytes;
            for (int i = 0; i < 2; i++) {
                ssize_t n = wh_conn_read(source.conn, &byte, 1);
                CHECK(n == -ENOMEM);
                n = wh_conn_peek(source.conn, 1, &bytes);
                CHECK(n == -ENOMEM);
                const int64_t copied = wh_copy(sink.conn, source.conn, WH_COPY_ALL, nullptr);
                CHECK(copied == -ENOMEM);
            }
        }
        source.drain();
        join(sender);
    });
}

/* ---- What it holds, and who may use it ---- */

TEST_CASE("copy: those that wait hold neither pipe nor buffer")
{
    in_run([] {
        constexpr int COUNT = 40;
        std::vector<Source> sources;
        std::vector<Sink> sinks;
        std::vector<wh_coro *> copiers, peers;
        for (int i = 0; i < COUNT; i++) {
            sources.emplace_back(TCP);
            sinks.emplace_back(TCP);
        }
        const int fds = fds_open();
        std::atomic<int> ended{0};
        for (int i = 0; i < COUNT; i++) {
            peers.push_back(sinks[static_cast<size_t>(i)].receive());
            copiers.push_back(spawn([&, i] {
                const size_t at = static_cast<size_t>(i);
                const int64_t n = wh_copy(sinks[at].conn, sources[at].conn, WH_COPY_ALL, nullptr);
                ended++;
                return static_cast<intptr_t>(n);
            }));
        }
        const std::string text = pattern(50000);
        for (Source &source : sources)
            (void)wh_send_all(source.peer, text.data(), text.size());
        until([&] {
            size_t sum = 0;
            for (Sink &sink : sinks)
                sum += sink.received;
            return sum == COUNT * text.size();
        });
        for (wh_coro *copier : copiers)
            until_parked(copier);
        CHECK(ended == 0);
        CHECK(fds_open() <= fds + static_cast<int>(wh_workers()) * 2 * 4);
        until([] {
            wh_stats stats;
            wh_stats_get(&stats);
            return stats.recv_buffers_in_use == 0;
        });
        for (Source &source : sources)
            source.peer.reset();
        intptr_t sum = 0;
        for (wh_coro *copier : copiers)
            sum += join(copier);
        CHECK(sum == static_cast<intptr_t>(COUNT * text.size()));
        for (Sink &sink : sinks)
            sink.end();
        for (wh_coro *peer : peers)
            join(peer);
    });
}

TEST_CASE("copy: it is the one that reads and the one that writes")
{
    for (bool reading : {false, true}) {
        ChildEnd end = in_child([&] {
            return in_run([&] {
                Source source(TCP);
                Sink sink(TCP);
                wh_coro *copier = spawn([&] {
                    return intptr_t(wh_copy(sink.conn, source.conn, WH_COPY_ALL, nullptr));
                });
                until_parked(copier);
                char byte = 0;
                if (reading)
                    (void)!wh_conn_read(source.conn, &byte, 1);
                else
                    (void)wh_conn_write(sink.conn, &byte, 1);
            });
        });
        INFO(end.how());
        CHECK(end.killed_by(SIGABRT));
        CHECK(end.said.find("another coroutine is in such a call") != std::string::npos);
    }
}

namespace
{
/* A stream that the kernel gives up 200 ms after its peer, which does not read, takes no more; it
 * holds so many bytes by then. */
wh_conn *given_up_soon(FdPair &pair, int held_bytes)
{
    const int ms = 200;
    int rc = setsockopt(pair.a, IPPROTO_TCP, TCP_USER_TIMEOUT, &ms, sizeof ms);
    CHECK(rc == 0);
    rc = setsockopt(pair.a, SOL_SOCKET, SO_SNDBUF, &held_bytes, sizeof held_bytes);
    CHECK(rc == 0);
    wh_conn *conn = nullptr;
    rc = wh_conn_create(&conn, pair.a.release());
    CHECK(rc == 0);
    return conn;
}
} // namespace

TEST_CASE("copy: a stream that the kernel gives up has no end, but goes on being an error")
{
    in_run([] {
        FdPair pair = tcp_pair();
        const int bytes = 200000;
        wh_conn *conn = given_up_soon(pair, bytes);
        char byte = 0;
        wh_conn_set_timeouts(conn, WH_MILLISECOND, WH_NEVER);
        ssize_t n = wh_conn_read(conn, &byte, 1);
        CHECK(n == -ETIMEDOUT);
        put(pair.b, "x");
        wh_conn_set_timeouts(conn, WH_HOUR, WH_NEVER);
        n = wh_conn_read(conn, &byte, 1); /* its own timeout, which it outlives */
        CHECK(n == 1);
        const std::string text(bytes, 'x'); /* more than a peer takes that does not read */
        n = wh_conn_write(conn, text.data(), text.size());
        CHECK(n == bytes);
        Sink sink(UNIX);
        for (int i = 0; i < 2; i++) {
            const int64_t moved = wh_copy(sink.conn, conn, WH_COPY_ALL, nullptr);
            CHECK(moved == -ETIMEDOUT);
        }
        n = wh_conn_read(conn, &byte, 1);
        CHECK(n == -ETIMEDOUT);
        wh_conn_abandon(conn);
    });
}

TEST_CASE("copy: a stream that the kernel gives up is not written to any more")
{
    in_run([] {
        FdPair pair = tcp_pair(), source = socket_pair();
        wh_conn *to = given_up_soon(pair, 20000), *from = nullptr;
        const int rc = wh_conn_create(&from, source.a.release());
        CHECK(rc == 0);
        wh_coro *sender = spawn([&source] {
            const std::string text(10 << 20, 'x'); /* more than a peer takes that does not read */
            return wh_send_all(source.b, text.data(), text.size());
        });
        const int64_t moved = wh_copy(to, from, WH_COPY_ALL, nullptr);
        CHECK(moved == -ETIMEDOUT);
        for (int i = 0; i < 2; i++) {
            ssize_t n = wh_conn_write(to, "x", 1);
            n = n < 0 ? n : wh_conn_flush(to);
            CHECK(n == -ETIMEDOUT);
        }
        wh_conn_abandon(from);
        join(sender);
        wh_conn_abandon(to);
    });
}
