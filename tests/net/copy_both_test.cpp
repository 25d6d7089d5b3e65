/*
 * copy_both_test.cpp: wh_copy_both(): the sentences of whorl/copy.h about both directions.
 */
#include "tests/net/copy.hpp"

#include <catch2/catch_test_macros.hpp>

namespace
{

/* Two streams with their peers, and what copies between them. */
struct Pair {
    Sink a, b; /* each is read from and written to */
    wh_copied copied = {};
    wh_coro *copier = nullptr;

    explicit Pair(Kind kind_a = TCP, Kind kind_b = TCP) : a(kind_a), b(kind_b)
    {
    }
    void start(int64_t idle_ns = 0)
    {
        copier = spawn(
            [this, idle_ns] { return intptr_t(wh_copy_both(a.conn, b.conn, idle_ns, &copied)); });
    }
    intptr_t end()
    {
        return join(std::exchange(copier, nullptr));
    }
};

wh_coro *send(int fd, const std::string &text, bool shut)
{
    return spawn([=] {
        (void)wh_send_all(fd, text.data(), text.size());
        if (shut)
            wh_shutdown(fd, SHUT_WR);
    });
}

bool passes(int from, int to, const std::string &text)
{
    std::string got(text.size(), 0);
    return wh_send_all(from, text.data(), text.size()) >= 0 &&
           wh_recv(to, got.data(), got.size(), MSG_WAITALL) == static_cast<ssize_t>(got.size()) &&
           got == text;
}

/* 0 at the end, -errno; what comes before it is a mistake. */
ssize_t next(int fd)
{
    char byte;
    return wh_recv(fd, &byte, 1, 0);
}

} // namespace

TEST_CASE("copy both: megabytes both ways at once, between streams of every kind")
{
    for (Kind kind_a : {TCP, UNIX, WRAPPED})
        for (Kind kind_b : {TCP, UNIX, WRAPPED}) {
            const int fds = fds_open();
            in_run([&] {
                INFO(name(kind_a) << " and " << name(kind_b));
                const std::string there = pattern(times(4000000)), back = pattern(times(3000001));
                Pair pair(kind_a, kind_b);
                wh_coro *peers[] = {send(pair.a.peer, there, true), send(pair.b.peer, back, true),
                                    pair.a.receive(), pair.b.receive()};
                pair.start();
                for (wh_coro *peer : peers)
                    join(peer);
                const intptr_t rc = pair.end();
                CHECK(rc == 0);
                CHECK(pair.copied.a_to_b == there.size());
                CHECK(pair.copied.b_to_a == back.size());
                CHECK((pair.b.got == there));
                CHECK((pair.a.got == back));
                CHECK(blocks(pair.a.fd));
                CHECK(blocks(pair.b.fd));
            });
            CHECK(fds_open() == fds);
        }
}

TEST_CASE("copy both: an end is passed on, and the other direction goes on")
{
    in_run([] {
        for (bool from_a : {true, false})
            for (size_t size : {1, 100000}) {
                Pair pair;
                int first = pair.a.peer, second = pair.b.peer;
                if (!from_a)
                    std::swap(first, second);
                pair.start();
                CHECK(passes(first, second, "request"));
                wh_shutdown(first, SHUT_WR);
                ssize_t n = next(second);
                CHECK(n == 0);
                for (int i = 0; i < 3; i++)
                    CHECK(passes(second, first, pattern(size)));
                wh_shutdown(second, SHUT_WR);
                n = next(first);
                CHECK(n == 0);
                const intptr_t rc = pair.end();
                CHECK(rc == 0);
            }
    });
}

TEST_CASE("copy both: a stream that cannot be shut by half is not, and both are copied to the end")
{
    in_run([] {
        FdPair a = socket_pair(), b = socket_pair();
        Wrapped wrapped{std::move(a.a)};
        Conn one(unshut_ops, &wrapped), other(std::move(b.a));
        wh_coro *copier = spawn([&] { return intptr_t(wh_copy_both(one, other, 0, nullptr)); });
        CHECK(passes(a.b, b.b, "there"));
        wh_shutdown(b.b, SHUT_WR);
        CHECK(passes(a.b, b.b, "still"));
        wh_shutdown(a.b, SHUT_WR);
        const intptr_t rc = join(copier);
        CHECK(rc == 0);
    });
}

TEST_CASE("copy both: an error of one direction ends the other")
{
    in_run([] {
        for (bool of_a : {true, false}) {
            Pair pair;
            pair.start();
            CHECK(passes(pair.a.peer, pair.b.peer, "there"));
            reset(of_a ? pair.a.peer : pair.b.peer);
            const intptr_t rc = pair.end();
            CHECK(rc == -ECONNRESET);
            CHECK(pair.copied.a_to_b == 5);
        }
        /* One that is stuck in a write, too. */
        Pair pair;
        pair.b.narrow();
        wh_coro *sender = send(pair.a.peer, pattern(4000000), false);
        pair.start();
        until([&] { return stats(pair.b.conn).bytes_out > 8192; });
        reset(pair.b.peer);
        const intptr_t rc = pair.end();
        CHECK((rc == -ECONNRESET || rc == -EPIPE));
        pair.a.conn.reset();
        join(sender);
    });
}

TEST_CASE("copy both: a connection that the kernel gives up is an error, not idle and not an end")
{
    in_run([] {
        Pair pair(TCP, UNIX);
        const int ms = 200, bytes = 200000;
        int rc = setsockopt(pair.a.fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &ms, sizeof ms);
        CHECK(rc == 0);
        rc = setsockopt(pair.a.fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
        CHECK(rc == 0);
        pair.start(WH_HOUR);
        until_parked(pair.copier);
        /* More than the peer takes, which does not read, and less than waits on this side of it: so
         * this direction has moved, waits for more, and the other one is told. */
        wh_coro *other = spawn([&] {
            const std::string text = pattern(bytes);
            (void)wh_send_all(pair.b.peer, text.data(), text.size());
            if (next(pair.b.peer) == 0)
                wh_shutdown(pair.b.peer, SHUT_WR);
        });
        const intptr_t n = pair.end();
        CHECK(n == -ETIMEDOUT);
        pair.b.conn.reset();
        join(other);
    });
}

TEST_CASE("copy both: a socket that was never connected is an error")
{
    in_run([] {
        Pair pair(TCP, UNIX);
        pair.a.conn = Conn(Fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)));
        intptr_t rc = 0;
        WH_WITH_TIMEOUT(5 * WH_SECOND)
        {
            rc = wh_copy_both(pair.a.conn, pair.b.conn, 0, nullptr);
        }
        CHECK(rc == -ENOTCONN);
    });
}

TEST_CASE("copy both: it is idle only when nothing moves either way")
{
    in_run([] {
        constexpr int64_t IDLE = 100 * WH_MILLISECOND;
        for (bool from_a : {true, false})
            for (Kind kind : {TCP, WRAPPED}) {
                Pair pair(kind, kind);
                const int64_t start_ns = wh_now();
                pair.start(IDLE);
                int64_t last_ns = start_ns, began_ns = start_ns;
                bool passed = true;
                for (int i = 0; passed && i < 8; i++) {
                    wh_sleep(IDLE / 3); /* time itself */
                    began_ns = wh_now();
                    WH_WITH_TIMEOUT(5 * WH_SECOND)
                    {
                        passed = passes(from_a ? pair.a.peer : pair.b.peer,
                                        from_a ? pair.b.peer : pair.a.peer, "x");
                    }
                    if (passed)
                        last_ns = began_ns;
                }
                /* A machine that is so slow has let it be idle. */
                CHECK((passed || began_ns - last_ns >= IDLE / 2));
                const intptr_t rc = pair.end();
                CHECK(rc == -ETIMEDOUT);
                CHECK(wh_now() - last_ns >= IDLE);
                if (passed)
                    CHECK(last_ns - start_ns > 2 * IDLE);
            }
    });
}

TEST_CASE("copy both: a wrapped stream that takes nothing is not idle while it gives something")
{
    in_run([] {
        constexpr int64_t IDLE = 200 * WH_MILLISECOND;
        Pair pair(TCP, WRAPPED);
        pair.b.narrow();
        wh_coro *sender = send(pair.a.peer, pattern(1000000), false);
        const int64_t start_ns = wh_now();
        pair.start(IDLE);
        int64_t last_ns = start_ns, worst_ns = 0;
        bool passed = true;
        while (passed && last_ns - start_ns < 2 * IDLE) {
            const int64_t began_ns = wh_now();
            worst_ns = std::max(worst_ns, began_ns - last_ns);
            WH_WITH_TIMEOUT(5 * WH_SECOND)
            {
                passed = passes(pair.b.peer, pair.a.peer, "x");
            }
            last_ns = began_ns;
            wh_sleep(WH_MILLISECOND); /* time itself */
        }
        /* A machine that is so slow has let it be idle. */
        CHECK((passed || worst_ns >= IDLE / 4));
        wh_cancel(pair.copier);
        const intptr_t rc = pair.end();
        CHECK((rc == -ECANCELED || rc == -ETIMEDOUT));
        pair.a.conn.reset();
        join(sender);
    });
}

TEST_CASE(
    "copy both: when one way has ended the other alone may be idle; so is a peer that is stuck")
{
    in_run([] {
        constexpr int64_t IDLE = 20 * WH_MILLISECOND;
        Pair half;
        half.start(IDLE);
        wh_shutdown(half.a.peer, SHUT_WR);
        intptr_t rc = half.end();
        CHECK(rc == -ETIMEDOUT);

        for (Kind kind : {TCP, WRAPPED}) {
            Pair stuck(TCP, kind);
            stuck.b.narrow();
            wh_coro *sender = send(stuck.a.peer, pattern(4000000), false);
            stuck.start(IDLE);
            rc = stuck.end();
            CHECK(rc == -ETIMEDOUT);
            stuck.a.conn.reset();
            join(sender);
        }
    });
}

TEST_CASE("copy both: the streams' timeouts hold for each direction alone")
{
    in_run([] {
        constexpr int64_t READ = 50 * WH_MILLISECOND;
        Pair pair;
        wh_conn_set_timeouts(pair.b.conn, READ, WH_NEVER);
        const int64_t start_ns = wh_now();
        pair.start(20 * WH_MILLISECOND);
        std::atomic<int64_t> worst_ns{0}; /* between two bytes */
        wh_coro *busy = spawn([&] {
            int64_t last_ns = start_ns;
            while (passes(pair.a.peer, pair.b.peer, "x") && last_ns - start_ns < WH_SECOND) {
                const int64_t now_ns = wh_now();
                worst_ns = std::max(worst_ns.load(), now_ns - last_ns);
                last_ns = now_ns;
                wh_sleep(WH_MILLISECOND); /* time itself */
            }
            worst_ns = std::max(worst_ns.load(), wh_now() - last_ns);
        });
        const intptr_t rc = pair.end();
        const int64_t took_ns = wh_now() - start_ns;
        CHECK(rc == -ETIMEDOUT);
        pair.a.conn.reset();
        pair.b.conn.reset();
        join(busy);
        /* A machine that is so slow has let it be idle. */
        CHECK((took_ns >= READ || worst_ns >= 10 * WH_MILLISECOND));
    });
}

TEST_CASE("copy both: a deadline around it, its context's end and a cancel of its coroutine end it")
{
    in_run([] {
        int rc = 0;
        Pair timed;
        const int64_t start_ns = wh_now();
        WH_WITH_TIMEOUT(10 * WH_MILLISECOND)
        {
            rc = wh_copy_both(timed.a.conn, timed.b.conn, 5 * WH_SECOND, nullptr);
        }
        CHECK(rc == -ETIMEDOUT);
        CHECK(wh_now() - start_ns < 5 * WH_SECOND);

        for (bool half : {false, true})
            for (bool alone : {false, true}) {
                Pair pair;
                wh_ctx *ctx = wh_ctx_create(nullptr);
                WH_WITH_CTX(ctx)
                {
                    pair.start();
                }
                CHECK(passes(pair.a.peer, pair.b.peer, "there"));
                CHECK(passes(pair.b.peer, pair.a.peer, "back"));
                if (half) { /* its own direction has ended: it waits for the other */
                    wh_shutdown(pair.a.peer, SHUT_WR);
                    const ssize_t n = next(pair.b.peer);
                    CHECK(n == 0);
                }
                until_parked(pair.copier);
                if (alone)
                    wh_cancel(pair.copier);
                else
                    wh_ctx_cancel(ctx, 0);
                const intptr_t ended = pair.end();
                CHECK(ended == -ECANCELED);
                CHECK(pair.copied.a_to_b == 5);
                CHECK(pair.copied.b_to_a == 4);
                wh_ctx_destroy(ctx);
            }
    });
}

TEST_CASE("copy both: many at once, on all workers")
{
    in_run([] {
        constexpr unsigned PAIRS = 30;
        std::atomic<int> right{0};
        const std::string text = pattern(times(300000));
        const intptr_t failed = on_all(PAIRS, [&](unsigned) {
            Pair pair;
            wh_coro *peers[] = {send(pair.a.peer, text, true), send(pair.b.peer, text, true),
                                pair.a.receive(), pair.b.receive()};
            const int rc = wh_copy_both(pair.a.conn, pair.b.conn, WH_MINUTE, &pair.copied);
            for (wh_coro *peer : peers)
                join(peer);
            right += pair.a.got == text && pair.b.got == text;
            return rc;
        });
        CHECK(failed == 0);
        CHECK(right == PAIRS);
    });
}

TEST_CASE("copy both: without memory for its coroutines nothing is moved")
{
    for (Kind kind : {TCP, WRAPPED})
        for (unsigned stacks = 1; stacks <= (kind == WRAPPED ? 2 : 1); stacks++) {
            wh_options options = {};
            options.stacks_max = stacks;
            in_run(
                [&] {
                    Pair pair(TCP, kind);
                    put(pair.a.peer, "abc");
                    wh_copied copied = {1, 1};
                    const int rc = wh_copy_both(pair.a.conn, pair.b.conn, WH_HOUR, &copied);
                    CHECK(rc == -ENOMEM);
                    CHECK(copied.a_to_b + copied.b_to_a == 0);
                    CHECK(read_some(pair.a.conn, 3) == "abc");
                },
                &options);
        }
}
