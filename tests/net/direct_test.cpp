/*
 * direct_test.cpp: descriptors of the ring's own (wh_accept_direct(), wh_serve_options.direct).
 */
#include "tests/base/child.hpp"
#include "tests/net/peers.hpp"
#include "tests/sched/on_workers.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include <sys/resource.h>

namespace
{

/* A connection that a worker has accepted into its ring, and its peer. */
struct Pair {
    wh_fd direct = -1;
    Fd client;
};

Fd dial(const Fd &listener)
{
    Address address = Address::of(listener);
    Fd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (connect(fd, address.any(), address.len) < 0)
        return Fd();
    return fd;
}

Pair pair_of(const Fd &listener)
{
    Pair pair;
    pair.client = dial(listener);
    pair.direct = wh_accept_direct(listener);
    return pair;
}

bool masked()
{
    const char *mask = getenv("WHORL_MASK");
    return mask && strstr(mask, "direct");
}

/* Calls body(first, second), options for coroutines that are bound to one worker and to another. */
template <typename F> void on_two_workers(const F &body)
{
    wh_options options = {};
    options.workers = 2;
    in_run(
        [&] {
            if (masked() || wh_workers() < 2)
                return;
            wh_spawn_options first = {}, second = {};
            first.worker = 1;
            second.worker = 2;
            body(first, second);
        },
        &options);
}

} // namespace

TEST_CASE("direct: a kernel without them says so, each time")
{
    in_run([] {
        Fd listener = plain_listener();
        if (!masked())
            return;
        for (int i = 0; i < 3; i++) {
            const wh_fd fd = wh_accept_direct(listener);
            CHECK(fd == -EOPNOTSUPP);
        }
    });
}

TEST_CASE("direct: a connection is read and written, and is no descriptor of the process")
{
    if (masked())
        return;
    in_run([] {
        Fd listener = plain_listener();
        Pair first = pair_of(listener); /* the ring has its table */
        int rc = wh_close(first.direct);
        CHECK(rc == 0);
        CHECK(sees_end(first.client));
        first.client.reset();

        const int before = fds_open();
        Pair pair = pair_of(listener);
        CHECK(pair.direct >= 0);
        CHECK(fds_open() == before + 1); /* the client's */
        CHECK(fcntl(pair.direct, F_GETFD) == -1);
        wh_addr addr;
        CHECK(wh_addr_local(pair.direct, &addr) == -EBADF);
        CHECK(wh_addr_peer(pair.direct, &addr) == -EBADF);

        char buf[8] = {};
        CHECK(write(pair.client, "there", 5) == 5);
        ssize_t n = wh_recv(pair.direct, buf, sizeof buf, 0);
        CHECK(n == 5);
        CHECK(std::string(buf) == "there");
        n = wh_send(pair.direct, "back", 4, 0);
        CHECK(n == 4);
        CHECK(read(pair.client, buf, sizeof buf) == 4);
        rc = wh_shutdown(pair.direct, SHUT_WR);
        CHECK(rc == 0);
        CHECK(read(pair.client, buf, sizeof buf) == 0);
        rc = wh_close(pair.direct);
        CHECK(rc == 0);
        n = wh_recv(pair.direct, buf, sizeof buf, 0);
        CHECK(n == -EBADF);
        rc = wh_close(pair.direct);
        CHECK(rc == -EBADF);
    });
}

TEST_CASE("direct: a stream over one, with deadline, buffers of the kernel's, and close")
{
    if (masked())
        return;
    in_run([] {
        Fd listener = plain_listener();
        Pair pair = pair_of(listener);
        wh_conn *conn = nullptr;
        int rc = wh_conn_create(&conn, pair.direct);
        CHECK(rc == 0);
        const char *bytes = nullptr;
        ssize_t n = 0;
        WH_WITH_TIMEOUT(WH_MILLISECOND)
        {
            n = wh_conn_peek(conn, 1, &bytes);
        }
        CHECK(n == -ETIMEDOUT);
        CHECK(write(pair.client, "line\n", 5) == 5);
        n = wh_conn_peek_until(conn, "\n", 1, 100, &bytes);
        CHECK(n == 5);
        n = wh_conn_write(conn, bytes, 5);
        CHECK(n == 5);
        wh_conn_consume(conn, 5);
        rc = wh_conn_close(conn);
        CHECK(rc == 0);
        char buf[8] = {};
        CHECK(read(pair.client, buf, sizeof buf) == 5);
        CHECK(sees_end(pair.client));
    });
}

TEST_CASE("direct: a close ends what others wait for on it, and the slot is used again")
{
    if (masked())
        return;
    in_run([] {
        Fd listener = plain_listener();
        for (int round = 0; round < 50; round++) {
            Pair pair = pair_of(listener);
            std::vector<wh_coro *> readers;
            std::atomic<int> ended{0};
            /* On this worker: elsewhere it is of no use. */
            wh_spawn_options here = {};
            here.worker = wh_worker();
            for (int i = 0; i < 3; i++)
                readers.push_back(spawn(
                    [fd = pair.direct] {
                        char buf[8];
                        return static_cast<intptr_t>(wh_recv(fd, buf, sizeof buf, 0));
                    },
                    &here));
            for (wh_coro *reader : readers)
                until_parked(reader);
            const int rc = wh_close(pair.direct);
            CHECK(rc == 0);
            for (wh_coro *reader : readers) {
                const intptr_t value = join(reader);
                CHECK(value == -EBADF);
            }
            CHECK(sees_end(pair.client));
        }
    });
}

TEST_CASE("direct: each worker has its own, and the others may not touch them")
{
    on_two_workers([](const wh_spawn_options &first, const wh_spawn_options &second) {
        Fd listener = plain_listener();
        Fd client = dial(listener), other_client = dial(listener);
        auto accept = [fd = static_cast<int>(listener)] {
            return static_cast<intptr_t>(wh_accept_direct(fd));
        };
        const auto a = static_cast<wh_fd>(join(spawn(accept, &first)));
        const auto b = static_cast<wh_fd>(join(spawn(accept, &second)));
        CHECK(a >= 0);
        CHECK(b >= 0);
        CHECK(a != b);
        auto use = [a] {
            char buf[8];
            const ssize_t n = wh_recv(a, buf, sizeof buf, 0);
            const int rc = wh_close(a);
            return static_cast<intptr_t>(n == rc ? n : 0);
        };
        CHECK(join(spawn(use, &second)) == -EXDEV);
        auto close_it = [](wh_fd fd) {
            return [fd] { return static_cast<intptr_t>(wh_close(fd)); };
        };
        CHECK(join(spawn(close_it(a), &first)) == 0);
        CHECK(join(spawn(close_it(b), &second)) == 0);
        CHECK(sees_end(client));
        CHECK(sees_end(other_client));
    });
}

TEST_CASE("direct: a stream is closed on its worker, and elsewhere stays")
{
    on_two_workers([](const wh_spawn_options &first, const wh_spawn_options &second) {
        Fd listener = plain_listener();
        Fd client = dial(listener);
        wh_conn *conn = nullptr;
        auto accept = [fd = static_cast<int>(listener), &conn] {
            return static_cast<intptr_t>(wh_conn_create(&conn, wh_accept_direct(fd)));
        };
        auto close_it = [&conn] { return static_cast<intptr_t>(wh_conn_close(conn)); };
        CHECK(join(spawn(accept, &first)) == 0);
        CHECK(join(spawn(close_it, &second)) == -EXDEV);
        CHECK(join(spawn(close_it, &first)) == 0);
        CHECK(sees_end(client));
    });
}

TEST_CASE("direct: who is moved while it closes one leaves it as it was")
{
    on_two_workers([](const wh_spawn_options &first, const wh_spawn_options &second) {
        Fd listener = plain_listener();
        Fd client = dial(listener);
        std::atomic<bool> left{false}, closed{false};
        /* Without parking. */
        auto until_set = [](const std::atomic<bool> &flag) {
            while (!flag)
                std::this_thread::yield();
        };
        /* All others take nothing from the first worker until the closer is to be woken. */
        std::atomic<unsigned> busy_count{0};
        std::vector<wh_coro *> busy;
        for (wh_spawn_options other = second; other.worker <= wh_workers(); other.worker++)
            busy.push_back(spawn(
                [&] {
                    busy_count++;
                    until_set(left);
                    return intptr_t{0};
                },
                &other));
        until([&] { return busy_count == busy.size(); });
        auto serve = [&, fd = static_cast<int>(listener)] {
            const wh_fd direct = wh_accept_direct(fd);
            wh_spawn_options moves = {};
            moves.migrate = true;
            wh_coro *closer = spawn(
                [&closed, direct] {
                    const int rc = wh_close(direct);
                    closed = true;
                    return static_cast<intptr_t>(rc);
                },
                &moves);
            char byte;
            ssize_t n = 0;
            WH_WITH_TIMEOUT(10 * WH_SECOND)
            {
                n = wh_recv(direct, &byte, 1, 0);
            }
            int wrong = n != -EBADF; /* the closer is woken, and has to go elsewhere */
            left = true;
            until_set(closed);
            wrong += join(closer) != -EXDEV;
            wrong += wh_send(direct, "still", 5, 0) != 5;
            wrong += wh_close(direct) != 0;
            return static_cast<intptr_t>(wrong);
        };
        CHECK(join(spawn(serve, &first)) == 0);
        for (wh_coro *coro : busy)
            join(coro);
        char buf[16] = {};
        CHECK(recv(client, buf, 5, MSG_WAITALL) == 5);
        CHECK(std::string(buf) == "still");
        CHECK(sees_end(client));
    });
}

TEST_CASE("direct: what a stream has in its buffer outlives calls on the wrong worker")
{
    on_two_workers([](const wh_spawn_options &first, const wh_spawn_options &second) {
        Fd listener = plain_listener();
        Fd client = dial(listener);
        wh_conn *conn = nullptr;
        auto begin = [fd = static_cast<int>(listener), &conn] {
            const int rc = wh_conn_create(&conn, wh_accept_direct(fd));
            return static_cast<intptr_t>(rc < 0 ? rc : wh_conn_write(conn, "hello, ", 7));
        };
        CHECK(join(spawn(begin, &first)) == 7);
        auto try_all = [&conn] {
            static char much[8192];
            const struct iovec pieces[2] = {{much, 4096}, {much, 4096}};
            int wrong = 0;
            for (int i = 0; i < 2; i++) {
                WH_WITH_CANCEL(ctx)
                {
                    if (i == 1)
                        wh_ctx_cancel(ctx, 0);
                    wrong += wh_conn_write(conn, much, sizeof much) != -EXDEV;
                    wrong += wh_conn_writev(conn, pieces, 2) != -EXDEV;
                    wrong += wh_conn_printf(conn, "%8192d", i) != -EXDEV;
                    wrong += wh_conn_flush(conn) != -EXDEV;
                    wrong += wh_conn_shutdown(conn) != -EXDEV;
                    wrong += wh_conn_close(conn) != -EXDEV;
                }
            }
            wrong += wh_conn_read(conn, much, 1) != -EXDEV;
            return static_cast<intptr_t>(wrong);
        };
        CHECK(join(spawn(try_all, &second)) == 0);
        auto end = [&conn] {
            const ssize_t n = wh_conn_write(conn, "there", 5);
            const int rc = wh_conn_close(conn);
            return static_cast<intptr_t>(rc < 0 ? rc : n);
        };
        CHECK(join(spawn(end, &first)) == 5);
        char buf[16] = {};
        CHECK(recv(client, buf, 12, MSG_WAITALL) == 12);
        CHECK(std::string(buf) == "hello, there");
        CHECK(sees_end(client));
    });
}

namespace
{

/* Takes three bytes at a time, so many times; then its writer is on another worker. */
struct Moved {
    std::string written;
    int takes = 0, closed = 0;

    static ssize_t read(void *, void *, size_t)
    {
        return 0;
    }
    static ssize_t writev(void *self, const struct iovec *iov, int)
    {
        auto *me = static_cast<Moved *>(self);
        if (me->takes == 0)
            return -EXDEV;
        me->takes--;
        const size_t n = std::min(iov->iov_len, size_t(3));
        me->written.append(static_cast<const char *>(iov->iov_base), n);
        return static_cast<ssize_t>(n);
    }
    static int close(void *self)
    {
        static_cast<Moved *>(self)->closed++;
        return 0;
    }
};

constexpr wh_conn_ops moved_ops = {Moved::read, Moved::writev, nullptr, Moved::close};

} // namespace

TEST_CASE("direct: a stream whose writer moves in the middle keeps what has not gone")
{
    in_run([] {
        Moved self;
        wh_conn *conn = nullptr;
        int rc = wh_conn_wrap(&conn, &moved_ops, &self);
        CHECK(rc == 0);
        ssize_t n = wh_conn_write(conn, "abcdefgh", 8);
        CHECK(n == 8);
        self.takes = 1;
        rc = wh_conn_flush(conn);
        CHECK(rc == -EXDEV);
        const std::string much(5000, 'x');
        n = wh_conn_write(conn, much.data(), much.size());
        CHECK(n == -EXDEV);
        self.takes = 1;
        n = wh_conn_write(conn, much.data(), much.size()); /* the buffer's, and none of these */
        CHECK(n == -EXDEV);
        self.takes = 1;
        rc = wh_conn_flush(conn);
        CHECK(rc == 0);
        CHECK(self.written == "abcdefgh");
        self.takes = 1;
        n = wh_conn_write(conn, much.data(), much.size());
        CHECK(n == -EIO); /* three have gone, and who called does not know how many */
        rc = wh_conn_flush(conn);
        CHECK(rc == -EIO);
        rc = wh_conn_close(conn);
        CHECK(rc == -EIO);
        CHECK(self.closed == 1);

        rc = wh_conn_wrap(&conn, &moved_ops, &self);
        CHECK(rc == 0);
        n = wh_conn_write(conn, "lost", 4);
        CHECK(n == 4);
        rc = wh_conn_close(conn); /* and freed: then it is not -EXDEV */
        CHECK(rc == -EIO);
        CHECK(self.closed == 2);
    });
}

TEST_CASE("direct: memory that is missing once is asked for again")
{
    if (masked() || WITH_SANITIZER)
        return; /* a sanitizer needs terabytes of address space itself */
    const ChildEnd end = in_child([] {
        return in_run([] {
            Fd listener = plain_listener();
            Fd client = dial(listener);
            struct rlimit limit;
            getrlimit(RLIMIT_AS, &limit);
            const rlimit none = {1, limit.rlim_max};
            CHILD_REQUIRE(setrlimit(RLIMIT_AS, &none) == 0);
            CHILD_REQUIRE(wh_accept_direct(listener) == -ENOMEM);
            CHILD_REQUIRE(setrlimit(RLIMIT_AS, &limit) == 0);
            const wh_fd fd = wh_accept_direct(listener);
            CHILD_REQUIRE(fd >= 0);
            CHILD_REQUIRE(wh_close(fd) == 0);
            client.reset();
            listener.reset();
        });
    });
    INFO(end.how());
    CHECK(end.exited(0));
}

TEST_CASE("direct: with no descriptor left for more, as many again are accepted; then -ENFILE")
{
    if (masked())
        return;
    const ChildEnd end = in_child([] {
        return in_run([] {
            enum { CLIENTS = 100 };
            Fd listener = plain_listener(2 * CLIENTS);
            std::vector<Fd> clients;
            std::vector<wh_fd> accepted;
            for (int i = 0; i < CLIENTS; i++)
                clients.push_back(dial(listener));
            struct rlimit limit;
            getrlimit(RLIMIT_NOFILE, &limit);
            limit.rlim_cur = CLIENTS / 2; /* below what is open */
            setrlimit(RLIMIT_NOFILE, &limit);
            CHILD_REQUIRE(wh_accept(listener) == -EMFILE);
            for (int i = 0; i < CLIENTS / 2; i++) {
                accepted.push_back(wh_accept_direct(listener));
                CHILD_REQUIRE(accepted.back() >= 0);
            }
            CHILD_REQUIRE(wh_accept_direct(listener) == -ENFILE); /* as large as the table is */
            CHILD_REQUIRE(wh_close(accepted[7]) == 0);
            accepted[7] = wh_accept_direct(listener);
            CHILD_REQUIRE(accepted[7] >= 0);
            for (wh_fd fd : accepted)
                CHILD_REQUIRE(wh_close(fd) == 0);
        });
    });
    INFO(end.how());
    CHECK(end.exited(0));
}

TEST_CASE("direct: a server's connections, and where there are none plain ones")
{
    in_run([] {
        static std::atomic<int> direct;
        direct = 0;
        auto handler = +[](const wh_client *client) {
            const char *line = nullptr;
            direct += fcntl(wh_conn_fd(client->conn), F_GETFD) < 0;
            for (;;) {
                const ssize_t n = wh_conn_peek_until(client->conn, "\n", 1, 100, &line);
                if (n <= 0 || wh_conn_write(client->conn, line, static_cast<size_t>(n)) < 0 ||
                    wh_conn_flush(client->conn) < 0)
                    break;
                wh_conn_consume(client->conn, static_cast<size_t>(n));
            }
        };
        const wh_listen_options shared = {0, 1, 0, 0};
        const wh_fd listener = wh_listen_tcp("127.0.0.1:0", &shared);
        const std::string name = "127.0.0.1:" + std::to_string(Address::of(listener).port());
        wh_serve_options options = {};
        options.direct = true;
        wh_ctx *ctx = wh_ctx_create(nullptr);
        wh_coro *server = nullptr;
        WH_WITH_CTX(ctx)
        {
            server = spawn([&] {
                return static_cast<intptr_t>(wh_serve(listener, handler, nullptr, &options));
            });
        }
        enum { CLIENTS = 40 };
        std::vector<Fd> clients;
        for (int i = 0; i < CLIENTS; i++) {
            clients.emplace_back(wh_dial_tcp(name.c_str()));
            ssize_t n = wh_send_all(clients.back(), "hello\n", 6);
            CHECK(n == 6);
        }
        for (Fd &client : clients) {
            char buf[8] = {};
            const ssize_t n = wh_recv(client, buf, 6, MSG_WAITALL);
            CHECK(n == 6);
            CHECK(std::string(buf) == "hello\n");
            client.reset();
        }
        CHECK(direct == (masked() ? 0 : CLIENTS));
        wh_ctx_cancel(ctx, 0);
        const intptr_t why = join(server);
        CHECK(why == -ECANCELED);
        wh_ctx_destroy(ctx);

        options.migrate = true;
        const int rc = wh_serve(wh_listen_tcp("127.0.0.1:0", nullptr), handler, nullptr, &options);
        CHECK(rc == -EINVAL);
    });
}

TEST_CASE("direct: a server with one listener serves on all workers, each connection on its own")
{
    if (masked())
        return;
    in_run([] {
        static std::atomic<uint64_t> workers;
        static std::atomic<int> wrong;
        workers = 0;
        wrong = 0;
        auto handler = +[](const wh_client *client) {
            const unsigned worker = wh_worker();
            workers |= uint64_t(1) << worker;
            wrong += fcntl(wh_conn_fd(client->conn), F_GETFD) >= 0;
            const char *line = nullptr;
            ssize_t n;
            while ((n = wh_conn_peek_until(client->conn, "\n", 1, 100, &line)) > 0) {
                if (wh_conn_write(client->conn, line, static_cast<size_t>(n)) < 0 ||
                    wh_conn_flush(client->conn) < 0)
                    break;
                wh_conn_consume(client->conn, static_cast<size_t>(n));
            }
            wrong += n != 0 || wh_worker() != worker;
        };
        Fd listener = plain_listener(4096);
        const std::string name = "127.0.0.1:" + std::to_string(Address::of(listener).port());
        wh_serve_options options = {};
        options.direct = true;
        wh_ctx *ctx = wh_ctx_create(nullptr);
        wh_coro *server = nullptr;
        WH_WITH_CTX(ctx)
        {
            server = spawn([&, fd = listener.release()] {
                return static_cast<intptr_t>(wh_serve(fd, handler, nullptr, &options));
            });
        }
        uint64_t all = 0;
        for (unsigned i = 0; i < wh_workers(); i++)
            all |= uint64_t(1) << worker_for(i);
        std::vector<Fd> clients;
        int echoed = 0, dialled = 0;
        WH_WITH_TIMEOUT(20 * WH_SECOND)
        {
            while (workers != all && dialled++ < 500) {
                clients.emplace_back(wh_dial_tcp(name.c_str()));
                char buf[3] = {};
                (void)wh_send_all(clients.back(), "hi\n", 3);
                echoed += wh_recv(clients.back(), buf, 3, MSG_WAITALL) == 3;
            }
        }
        CHECK(workers == all);
        CHECK(echoed == dialled);
        clients.clear();
        wh_ctx_cancel(ctx, 0);
        const intptr_t why = join(server);
        CHECK(why == -ECANCELED);
        CHECK(wrong == 0);
        wh_ctx_destroy(ctx);
    });
}

TEST_CASE("direct: a server whose tables are full sheds one newcomer a pause, and counts each")
{
    if (masked())
        return;
    const ChildEnd end = in_child([] {
        return in_run([] {
            enum { SLOTS = 12, MORE = 40 };
            const int workers = static_cast<int>(wh_workers());
            const int room = SLOTS * workers, accepts = std::max(8, workers);
            static wh_serve_stats stats;
            Fd listener = plain_listener(4096);
            const Address address = Address::of(listener);
            std::vector<Fd> clients;
            for (int i = 0; i < room + MORE; i++)
                clients.emplace_back(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
            struct rlimit limit;
            getrlimit(RLIMIT_NOFILE, &limit);
            limit.rlim_cur = SLOTS; /* below what is open: as large as the tables will be */
            CHILD_REQUIRE(setrlimit(RLIMIT_NOFILE, &limit) == 0);
            auto handler = +[](const wh_client *client) {
                const char *bytes = nullptr;
                WH_WITH_CTX(client->idle)
                {
                    (void)!wh_conn_peek(client->conn, 1, &bytes);
                }
            };
            wh_serve_options options = {};
            options.direct = true;
            options.stats = &stats;
            wh_ctx *ctx = wh_ctx_create(nullptr);
            wh_coro *server = nullptr;
            WH_WITH_CTX(ctx)
            {
                server = spawn([&, fd = listener.release()] {
                    return static_cast<intptr_t>(wh_serve(fd, handler, nullptr, &options));
                });
            }
            const auto figure = [](const uint64_t &of) {
                return static_cast<int>(__atomic_load_n(&of, __ATOMIC_RELAXED));
            };
            const int64_t start_ns = wh_now();
            for (Fd &client : clients)
                CHILD_REQUIRE(wh_connect(client, address.any(), address.len) == 0);
            const auto ended = [&clients] {
                char byte;
                int count = 0;
                for (Fd &client : clients)
                    count += recv(client, &byte, 1, MSG_DONTWAIT) >= 0 || errno == ECONNRESET;
                return count;
            };
            const auto comes = [](const auto &holds) {
                const int64_t limit_ns = wh_now() + 20 * WH_SECOND;
                while (!holds() && wh_now() < limit_ns)
                    wh_sleep(WH_MILLISECOND);
                return holds();
            };
            CHILD_REQUIRE(comes([&] { return figure(stats.open) == room; }));
            CHILD_REQUIRE(comes([&] { return ended() >= accepts + 3; }));
            CHILD_REQUIRE(comes([&] { return figure(stats.shed) == ended(); }));
            const int shed = figure(stats.shed);
            const auto pauses = static_cast<int>((wh_now() - start_ns) / (100 * WH_MILLISECOND));
            CHILD_REQUIRE(shed <= accepts + 1 + pauses);
            CHILD_REQUIRE(figure(stats.accepted) == room);

            bool gone = false; /* one that is served: what waits in the queue comes next */
            for (Fd &client : clients) {
                char byte;
                if (!gone && recv(client, &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN) {
                    client.reset();
                    gone = true;
                }
            }
            CHILD_REQUIRE(comes([&] { return figure(stats.accepted) > room; }));
            wh_ctx_cancel(ctx, 0);
            CHILD_REQUIRE(join(server) == -ECANCELED);
            CHILD_REQUIRE(figure(stats.open) == 0);
            CHILD_REQUIRE(figure(stats.cut) == 0);
            wh_ctx_destroy(ctx);
        });
    });
    INFO(end.how());
    CHECK(end.exited(0));
}
