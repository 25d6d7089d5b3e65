/*
 * copy_splice_test.cpp: wh_copy() while it splices: sockets that must not block, and those that a
 * poll says too much about.
 */
#include "tests/net/copy.hpp"

#include <catch2/catch_test_macros.hpp>

#include <linux/net_tstamp.h>
#include <poll.h>

namespace
{

/* A copy that is stopped by a slow reader while it splices. */
struct Stopped {
    Source source;
    Sink sink;
    wh_coro *sender, *copier;

    Stopped(Sink &&to, size_t bytes) : source(UNIX), sink(std::move(to))
    {
        sink.narrow();
        sender = source.send(pattern(bytes));
        copier = spawn(
            [this] { return intptr_t(wh_copy(sink.conn, source.conn, WH_COPY_ALL, nullptr)); });
        until([&] { return stats(sink.conn).bytes_out > 8192; });
        until_parked(copier);
    }
    intptr_t end()
    {
        wh_coro *receiver = sink.receive();
        const intptr_t n = join(copier);
        sink.end();
        join(sender);
        join(receiver);
        return n == static_cast<intptr_t>(sink.got.size()) ? n : -1;
    }
};

/* Something that nobody takes out is in the error queue of the socket: when it sent this. */
bool queue_error(int fd)
{
    const int stamps = SOF_TIMESTAMPING_TX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE;
    const int none = 0;
    if (setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPING, &stamps, sizeof stamps) < 0)
        return false;
    put(fd, "!");
    until([=] {
        struct pollfd poll_fd = {fd, 0, 0};
        return poll(&poll_fd, 1, 0) == 1 && (poll_fd.revents & POLLERR);
    });
    return setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPING, &none, sizeof none) == 0;
}

} // namespace

/* ---- Non-blocking meanwhile ---- */

TEST_CASE("copy: of two on one open file the first to end leaves it non-blocking for the other")
{
    if (!spliced())
        return;
    /* In a child: a worker that is blocked waits for ever. */
    for (Kind kind : {TCP, UNIX}) {
        ChildEnd end = in_child([&] {
            return in_run([&] {
                /* As 0 and 1 of a server of inetd's: read by one stream and written by another. */
                Sink shared(kind);
                Conn reads(Fd(dup(shared.fd)));
                const int fd = shared.fd;
                Sink elsewhere(UNIX);
                wh_coro *receiver = elsewhere.receive();
                wh_coro *first = spawn(
                    [&] { return intptr_t(wh_copy(elsewhere.conn, reads, 200000, nullptr)); });
                const std::string half = pattern(100000);
                CHILD_REQUIRE(wh_send_all(shared.peer, half.data(), half.size()) == 100000);
                until([&] { return elsewhere.received == half.size(); });
                until_parked(first);
                CHILD_REQUIRE(!blocks(fd));

                Stopped second(std::move(shared), 1000000);
                CHILD_REQUIRE(wh_send_all(second.sink.peer, half.data(), half.size()) == 100000);
                CHILD_REQUIRE(join(first) == 200000);
                CHILD_REQUIRE(!blocks(fd));
                CHILD_REQUIRE(second.end() == 1000000);
                CHILD_REQUIRE(blocks(fd));
                elsewhere.end();
                join(receiver);
            });
        });
        INFO(name(kind) << ": " << end.how());
        CHECK(end.exited(0));
    }
}

TEST_CASE("copy: one that a run abandons is forgotten, and what it had is closed")
{
    if (!spliced())
        return;
    ChildEnd end = in_child([] {
        FdPair from = socket_pair(), to = socket_pair();
        const int few = 8192;
        CHILD_REQUIRE(setsockopt(to.a, SOL_SOCKET, SO_SNDBUF, &few, sizeof few) == 0);
        const std::string text(500000, 'x');
        wh_options options = {};
        options.grace_ns = -1;
        const int fds = fds_open();
        for (int i = 0; i < 3; i++) {
            const int rc = in_run(
                [&] {
                    wh_conn *reads = nullptr, *writes = nullptr;
                    if (wh_conn_create(&reads, from.a) < 0 || wh_conn_create(&writes, to.a) < 0)
                        return -ENOMEM;
                    /* What an abandoned coroutine owns is lost: no copy of a body. */
                    int went = wh_go(wh_send_all, static_cast<int>(from.b),
                                     static_cast<const void *>(text.data()), text.size());
                    if (went == 0)
                        went = wh_go(wh_copy, writes, reads, WH_COPY_ALL,
                                     static_cast<uint64_t *>(nullptr));
                    char some[4096];
                    for (int got = 0; went == 0 && got < 100000;)
                        got += static_cast<int>(wh_recv(to.b, some, sizeof some, 0));
                    until([&] { return !blocks(to.a); });
                    wh_sleep(WH_MILLISECOND);
                    return went;
                },
                &options);
            CHILD_REQUIRE(rc == 0);
            CHILD_REQUIRE(blocks(from.a) && blocks(to.a));
            CHILD_REQUIRE(fds_open() == fds);
            char some[65536];
            for (int fd : {static_cast<int>(from.a), static_cast<int>(to.b)})
                while (recv(fd, some, sizeof some, MSG_DONTWAIT) > 0)
                    ;
        }
        return 0;
    });
    INFO(end.how());
    CHECK(end.exited(0));
}

TEST_CASE("copy: sockets that somebody else makes block again are not waited for by the thread")
{
    for (Kind kind : {TCP, UNIX}) {
        ChildEnd end = in_child([&] {
            return in_run([&] {
                Stopped copy(Sink(kind), 1000000);
                for (int fd : {copy.source.fd, copy.sink.fd})
                    CHILD_REQUIRE(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK) == 0);
                CHILD_REQUIRE(copy.end() == 1000000);
            });
        });
        INFO(name(kind) << ": " << end.how());
        CHECK(end.exited(0));
    }
}

TEST_CASE("copy: a pipe is spliced as it is")
{
    for (Kind kind : {TCP, PIPE})
        in_run([&] {
            Source source(PIPE);
            Sink sink(kind);
            sink.narrow();
            wh_coro *sender = source.send(pattern(1000000));
            wh_coro *copier = spawn(
                [&] { return intptr_t(wh_copy(sink.conn, source.conn, WH_COPY_ALL, nullptr)); });
            until([&] { return stats(sink.conn).bytes_out > 8192; });
            until_parked(copier);
            CHECK(blocks(source.fd));
            CHECK(blocks(sink.fd) == (kind == PIPE || !spliced()));
            wh_coro *receiver = sink.receive();
            const intptr_t n = join(copier);
            CHECK(n == 1000000);
            CHECK(blocks(sink.fd));
            sink.end();
            join(sender);
            join(receiver);
            CHECK((sink.got == pattern(1000000)));
        });
}

/* ---- What a poll reports for ever ---- */

TEST_CASE("copy: something in the error queue of a socket makes nobody spin")
{
    if (!spliced())
        return;
    for (bool of_from : {true, false})
        in_run([&] {
            INFO((of_from ? "from" : "to"));
            Source source(TCP);
            Sink sink(TCP);
            sink.narrow();
            const bool queued = queue_error(of_from ? source.fd : sink.fd);
            CHECK(queued);
            if (of_from) {
                char sent_back;
                const ssize_t taken = wh_recv(source.peer, &sent_back, 1, 0);
                CHECK(taken == 1);
            }
            const std::string text = pattern(of_from ? 100000 : 1000000);
            wh_coro *receiver = of_from ? sink.receive() : nullptr;
            wh_coro *sender =
                spawn([&] { return intptr_t(wh_send_all(source.peer, text.data(), text.size())); });
            wh_coro *copier = spawn(
                [&] { return intptr_t(wh_copy(sink.conn, source.conn, WH_COPY_ALL, nullptr)); });
            /* It has tried to splice, and goes on without. */
            until([&] { return stats(sink.conn).bytes_out > 8192; });
            if (of_from)
                until([&] { return sink.received == text.size(); });
            until_parked(copier);
            until([&] { return blocks(of_from ? source.fd : sink.fd); });
            if (!of_from)
                receiver = sink.receive();
            const intptr_t sent = join(sender);
            CHECK(sent == static_cast<intptr_t>(text.size()));
            source.peer.reset();
            const intptr_t n = join(copier);
            CHECK(n == static_cast<intptr_t>(text.size()));
            sink.end();
            join(receiver);
            CHECK((sink.got == (of_from ? "" : "!") + text));
        });
}
