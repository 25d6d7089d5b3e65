/*
 * copy_splice_test.cpp: wh_copy() while it splices: sockets that must not block.
 */
#include "tests/net/copy.hpp"

#include <catch2/catch_test_macros.hpp>

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
