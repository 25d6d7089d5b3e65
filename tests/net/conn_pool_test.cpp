/*
 * conn_pool_test.cpp: the sentences of whorl/conn_pool.h, with a listener of the test's own.
 */
#include "tests/net/name_server.hpp"

#include <catch2/catch_test_macros.hpp>

#include <atomic>
#include <memory>

namespace
{

/* A listener, its end of all connections in their order, and a pool for it. */
struct Place {
    Fd listener = plain_listener(256);
    std::string name = "127.0.0.1:" + std::to_string(Address::of(listener).port());
    wh_conn_pool *pool;

    explicit Place(const wh_conn_pool_options &options = {})
        : pool(wh_conn_pool_create(name.c_str(), &options))
    {
        if (!pool)
            abort();
    }
    Place(const Place &) = delete;
    Place &operator=(const Place &) = delete;
    ~Place()
    {
        wh_conn_pool_destroy(pool);
    }
    wh_conn_pool_stats stats() const
    {
        wh_conn_pool_stats stats;
        wh_conn_pool_stats_get(pool, &stats);
        return stats;
    }
    /* A connection; *ret_rc is what the pool said. */
    wh_conn *get(int *ret_rc) const
    {
        wh_conn *conn = nullptr;
        *ret_rc = wh_conn_pool_get(pool, &conn);
        return conn;
    }
    Fd accept() const
    {
        return Fd(wh_accept(listener));
    }
};

bool says(int fd, const std::string &what)
{
    std::string got(what.size(), 0);
    return wh_recv(fd, got.data(), got.size(), MSG_WAITALL) == static_cast<ssize_t>(got.size()) &&
           got == what;
}

} // namespace

TEST_CASE("conn_pool: a connection that was put back is given out again, the last one first")
{
    const int fds = fds_open();
    in_run([] {
        Place place;
        int rc;
        wh_conn_pool_stats stats;
        wh_conn *one = place.get(&rc);
        CHECK(rc == 0);
        wh_conn *two = place.get(&rc);
        CHECK(rc == 0);
        CHECK(one != two);
        stats = place.stats();
        CHECK(stats.out == 2);
        wh_conn_set_timeouts(two, 1, 1);
        wh_conn_pool_put(place.pool, one);
        wh_conn_pool_put(place.pool, two);
        stats = place.stats();
        CHECK(stats.out == 0);
        CHECK(stats.idle == 2);
        wh_conn *again = place.get(&rc);
        CHECK(rc == 1);
        CHECK(again == two);
        Fd first = place.accept(), second = place.accept();
        (void)wh_send(second, "x", 1, 0);
        char byte = 0;
        ssize_t n = wh_conn_read(again, &byte, 1); /* its timeouts are gone */
        CHECK(n == 1);
        wh_conn *other = place.get(&rc);
        CHECK(rc == 1);
        CHECK(other == one);
        wh_conn_pool_discard(place.pool, other);
        wh_conn_pool_discard(place.pool, again);
        CHECK(sees_end(first));
        CHECK(sees_end(second));
        stats = place.stats();
        CHECK(stats.dialled == 2);
        CHECK(stats.reused == 2);
        CHECK(stats.stale == 0);
        CHECK(stats.idle == 0);
    });
    CHECK(fds_open() == fds);
}

TEST_CASE("conn_pool: what was written is sent before a connection is kept")
{
    in_run([] {
        Place place;
        int rc;
        wh_conn_pool_stats stats;
        wh_conn *conn = place.get(&rc);
        Fd server = place.accept();
        (void)wh_conn_write(conn, "bye\n", 4);
        wh_conn_pool_put(place.pool, conn);
        const bool said = says(server, "bye\n");
        CHECK(said);
        stats = place.stats();
        CHECK(stats.idle == 1);
    });
}

TEST_CASE("conn_pool: a connection that the peer has closed, reset or spoken on is not given out")
{
    in_run([] {
        for (int how = 0; how < 3; how++) {
            Place place;
            int rc;
            wh_conn_pool_stats stats;
            wh_conn *conn = place.get(&rc);
            Fd server = place.accept();
            const int fd = wh_conn_fd(conn);
            wh_conn_pool_put(place.pool, conn);
            stats = place.stats();
            CHECK(stats.idle == 1);
            if (how == 1) {
                const struct linger hard = {1, 0};
                setsockopt(server, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
            }
            if (how == 2)
                (void)wh_send(server, "408\n", 4, 0);
            else
                server.reset();
            const int seen = wh_poll(fd, POLLIN); /* it has arrived */
            CHECK((seen & POLLIN) != 0);
            conn = place.get(&rc);
            CHECK(rc == 0);
            stats = place.stats();
            CHECK(stats.stale == 1);
            CHECK(stats.dialled == 2);
            Fd fresh = place.accept();
            wh_conn_pool_put(place.pool, conn);
        }
    });
}

TEST_CASE("conn_pool: of several idle ones the dead are passed over")
{
    in_run([] {
        Place place;
        int rc;
        wh_conn_pool_stats stats;
        std::vector<wh_conn *> conns;
        std::vector<Fd> servers;
        for (int i = 0; i < 4; i++) {
            conns.push_back(place.get(&rc));
            servers.push_back(place.accept());
        }
        for (wh_conn *conn : conns)
            wh_conn_pool_put(place.pool, conn);
        const int fd = wh_conn_fd(conns[3]), other = wh_conn_fd(conns[2]);
        servers[3].reset();
        servers[2].reset();
        (void)!wh_poll(fd, POLLIN);
        (void)!wh_poll(other, POLLIN);
        wh_conn *conn = place.get(&rc);
        CHECK(rc == 1);
        CHECK(conn == conns[1]);
        stats = place.stats();
        CHECK(stats.stale == 2);
        CHECK(stats.idle == 1);
        wh_conn_pool_put(place.pool, conn);
    });
}

TEST_CASE("conn_pool: what is not fit to be used again is closed when it comes back")
{
    in_run([] {
        Place place;
        int rc;
        wh_conn_pool_stats stats;
        /* something received and not consumed */
        wh_conn *conn = place.get(&rc);
        Fd server = place.accept();
        (void)wh_send(server, "ab", 2, 0);
        const char *bytes;
        ssize_t n = wh_conn_peek(conn, 2, &bytes);
        CHECK(n == 2);
        wh_conn_consume(conn, 1);
        wh_conn_pool_put(place.pool, conn);
        stats = place.stats();
        CHECK(stats.idle == 0);
        CHECK(sees_end(server));
        /* the peer's end */
        conn = place.get(&rc);
        server = place.accept();
        server.reset();
        char byte;
        n = wh_conn_read(conn, &byte, 1);
        CHECK(n == 0);
        wh_conn_pool_put(place.pool, conn);
        stats = place.stats();
        CHECK(stats.idle == 0);
        /* our end */
        conn = place.get(&rc);
        server = place.accept();
        rc = wh_conn_shutdown(conn);
        CHECK(rc == 0);
        CHECK(sees_end(server));
        wh_conn_pool_put(place.pool, conn);
        stats = place.stats();
        CHECK(stats.idle == 0);
        CHECK(stats.out == 0);
        /* an error of a write */
        conn = place.get(&rc);
        server = place.accept();
        fill(wh_conn_fd(conn));
        (void)wh_conn_write(conn, "more", 4);
        WH_WITH_TIMEOUT(WH_MILLISECOND)
        {
            wh_conn_pool_put(place.pool, conn);
        }
        stats = place.stats();
        CHECK(stats.idle == 0);
        CHECK(stats.out == 0);
    });
}

TEST_CASE("conn_pool: no more are kept than idle_max")
{
    in_run([] {
        wh_conn_pool_options options = {};
        options.idle_max = 2;
        Place place(options);
        int rc;
        wh_conn_pool_stats stats;
        std::vector<wh_conn *> conns;
        for (int i = 0; i < 5; i++)
            conns.push_back(place.get(&rc));
        for (wh_conn *conn : conns)
            wh_conn_pool_put(place.pool, conn);
        stats = place.stats();
        CHECK(stats.idle == 2);
        wh_conn *conn = place.get(&rc);
        CHECK(conn == conns[1]);
        wh_conn_pool_put(place.pool, conn);
    });
}

TEST_CASE("conn_pool: at the limit a get waits its turn, for an idle one or for a place")
{
    in_run([] {
        wh_conn_pool_options options = {};
        options.conns_max = 2;
        Place place(options);
        int rc;
        wh_conn_pool_stats stats;
        wh_conn *one = place.get(&rc), *two = place.get(&rc);
        std::vector<wh_conn *> got(2);
        std::vector<int> said(2, -1);
        std::vector<wh_coro *> waiting;
        for (size_t i = 0; i < 2; i++) {
            waiting.push_back(spawn([&, i] { got[i] = place.get(&said[i]); }));
            until_parked(waiting.back());
        }
        wh_conn_pool_put(place.pool, one);
        join(waiting[0]);
        CHECK(said[0] == 1);
        CHECK(got[0] == one);
        wh_conn_pool_discard(place.pool, two);
        join(waiting[1]);
        CHECK(said[1] == 0);
        stats = place.stats();
        CHECK(stats.dialled == 3);

        wh_conn *none = nullptr;
        WH_WITH_TIMEOUT(5 * WH_MILLISECOND)
        {
            rc = wh_conn_pool_get(place.pool, &none);
        }
        CHECK(rc == -ETIMEDOUT);
        wh_coro *caller = spawn([&] { (void)place.get(&rc); });
        until_parked(caller);
        wh_cancel(caller);
        join(caller);
        CHECK(rc == -ECANCELED);
        CHECK(none == nullptr);
        for (wh_conn *conn : got)
            wh_conn_pool_put(place.pool, conn);
        stats = place.stats();
        CHECK(stats.idle == 2);
        CHECK(stats.out == 0);
    });
}

TEST_CASE("conn_pool: what has been idle for too long is closed, the oldest first")
{
    in_run([] {
        wh_conn_pool_options options = {};
        options.idle_ns = 40 * WH_MILLISECOND;
        Place place(options);
        int rc;
        wh_conn_pool_stats stats;
        for (int round = 0; round < 2; round++) {
            wh_conn *one = place.get(&rc), *two = place.get(&rc);
            Fd first = place.accept(), second = place.accept();
            const int64_t start_ns = wh_now();
            wh_conn_pool_put(place.pool, one);
            wh_conn_pool_put(place.pool, two);
            char byte;
            ssize_t n = wh_recv(first, &byte, 1, 0);
            CHECK(n == 0);
            CHECK(wh_now() - start_ns >= options.idle_ns);
            n = wh_recv(second, &byte, 1, 0);
            CHECK(n == 0);
            stats = place.stats();
            CHECK(stats.idle == 0);
            CHECK(stats.expired == 2u * static_cast<unsigned>(round + 1));
        }
        wh_conn *conn = place.get(&rc);
        CHECK(rc == 0);
        wh_conn_pool_put(place.pool, conn);
    });
}

TEST_CASE("conn_pool: a close refuses, wakes who waits, ends who dials, and lets the others finish")
{
    const int fds = fds_open();
    in_run([] {
        wh_conn_pool_options options = {};
        options.conns_max = 2;
        auto place = std::make_unique<Place>(options);
        int rc;
        wh_conn *out = place->get(&rc), *idle = place->get(&rc);
        Fd out_server = place->accept(), idle_server = place->accept();
        int waited = 0, late = 0;
        wh_coro *waits = spawn([&] { (void)place->get(&waited); });
        until_parked(waits);
        (void)wh_conn_write(out, "last", 4);
        wh_conn_pool_close(place->pool);
        join(waits);
        CHECK(waited == -EPIPE);
        wh_conn_pool_put(place->pool, idle);
        CHECK(sees_end(idle_server));
        (void)place->get(&late);
        CHECK(late == -EPIPE);
        wh_conn_pool_close(place->pool);

        wh_conn_pool *pool = place->pool;
        wh_coro *destroys = spawn([&] { place.reset(); });
        until_parked(destroys);
        wh_conn_pool_put(pool, out);
        join(destroys);
        const bool said = says(out_server, "last");
        CHECK(said);
        CHECK(sees_end(out_server));
    });
    CHECK(fds_open() == fds);
}

TEST_CASE("conn_pool: a close ends a dial that is under way, and closes the idle ones")
{
    in_run([] {
        wh_conn_pool_options options = {};
        options.dial = [](wh_conn **, const char *, void *arg) -> int {
            *static_cast<std::atomic<int> *>(arg) += 1;
            return wh_sleep(WH_HOUR);
        };
        std::atomic<int> dials{0};
        options.dial_arg = &dials;
        wh_conn_pool *pool = wh_conn_pool_create("x", &options);
        int rc = 0;
        wh_coro *dialling = spawn([&] {
            wh_conn *conn;
            rc = wh_conn_pool_get(pool, &conn);
        });
        until([&] { return dials == 1; });
        until_parked(dialling);
        wh_conn_pool_close(pool);
        join(dialling);
        CHECK(rc == -EPIPE);
        wh_conn_pool_destroy(pool);

        Place place;
        wh_conn *conn = place.get(&rc);
        Fd server = place.accept();
        wh_conn_pool_put(place.pool, conn);
        wh_conn_pool_close(place.pool);
        CHECK(sees_end(server));
    });
}

TEST_CASE("conn_pool: a dial that fails is the error of the get, and takes no place")
{
    in_run([] {
        wh_conn_pool_options options = {};
        options.conns_max = 1;
        std::string nowhere;
        {
            Fd listener = plain_listener();
            nowhere = "127.0.0.1:" + std::to_string(Address::of(listener).port());
        }
        wh_conn_pool *pool = wh_conn_pool_create(nowhere.c_str(), &options);
        wh_conn *conn = nullptr;
        for (int i = 0; i < 3; i++) {
            const int rc = wh_conn_pool_get(pool, &conn);
            CHECK(rc == -ECONNREFUSED);
        }
        wh_conn_pool_destroy(pool);
        pool = wh_conn_pool_create("nonsense", nullptr);
        const int rc = wh_conn_pool_get(pool, &conn);
        CHECK(rc == -EINVAL);
        CHECK(conn == nullptr);
        wh_conn_pool_destroy(pool);
        wh_conn_pool_destroy(nullptr);

        options.idle_max = 65537;
        options.conns_max = 0;
        CHECK(wh_conn_pool_create("x:1", &options) == nullptr);
        options.idle_max = 1;
        options.idle_ns = -2;
        CHECK(wh_conn_pool_create("x:1", &options) == nullptr);
        CHECK(wh_conn_pool_create(nullptr, nullptr) == nullptr);
        WH_WITH_TIMEOUT(0)
        {
            Place place;
            int said;
            (void)place.get(&said);
            CHECK(said == -ETIMEDOUT);
        }
    });
}

TEST_CASE("conn_pool: streams that are no descriptor are pooled, too")
{
    static std::atomic<int> closed;
    closed = 0;
    static const wh_conn_ops ops = {
        [](void *, void *, size_t) -> ssize_t { return 0; },
        [](void *, const struct iovec *iov, int) -> ssize_t {
            return static_cast<ssize_t>(iov->iov_len);
        },
        nullptr,
        [](void *) -> int {
            closed++;
            return 0;
        },
    };
    in_run([] {
        wh_conn_pool_options options = {};
        options.dial = [](wh_conn **ret_conn, const char *, void *) {
            return wh_conn_wrap(ret_conn, &ops, nullptr);
        };
        wh_conn_pool *pool = wh_conn_pool_create("anything", &options);
        wh_conn *conn = nullptr, *again = nullptr;
        int rc = wh_conn_pool_get(pool, &conn);
        CHECK(rc == 0);
        wh_conn_pool_put(pool, conn);
        rc = wh_conn_pool_get(pool, &again);
        CHECK(rc == 1);
        CHECK(again == conn);
        wh_conn_pool_put(pool, again);
        wh_conn_pool_destroy(pool);
    });
    CHECK(closed == 1);
}

TEST_CASE("conn_pool: streams that are no descriptor are kept until an end or an error is seen")
{
    static const wh_conn_ops ops = {
        [](void *self, void *, size_t) -> ssize_t { return *static_cast<int *>(self); },
        [](void *, const struct iovec *iov, int) -> ssize_t {
            return static_cast<ssize_t>(iov->iov_len);
        },
        [](void *) { return 0; },
        nullptr,
    };
    in_run([] {
        int read_says = 0, rc;
        wh_conn_pool_options options = {};
        options.dial = [](wh_conn **ret_conn, const char *, void *arg) {
            return wh_conn_wrap(ret_conn, &ops, arg);
        };
        options.dial_arg = &read_says;
        wh_conn_pool *pool = wh_conn_pool_create("anything", &options);
        wh_conn_pool_stats stats;
        wh_conn *conn = nullptr;
        for (const int says : {-ETIMEDOUT, -ECANCELED, -ENOMEM, 0, -EPROTO, -ECONNRESET}) {
            rc = wh_conn_pool_get(pool, &conn);
            CHECK(rc == (says == -ECANCELED || says == -ENOMEM || says == 0));
            read_says = says;
            char byte;
            const ssize_t n = wh_conn_read(conn, &byte, 1);
            CHECK(n == says);
            wh_conn_pool_put(pool, conn);
            wh_conn_pool_stats_get(pool, &stats);
            CHECK(stats.idle == (says == -ETIMEDOUT || says == -ECANCELED || says == -ENOMEM));
        }
        rc = wh_conn_pool_get(pool, &conn);
        CHECK(rc == 0);
        rc = wh_conn_shutdown(conn);
        CHECK(rc == 0);
        wh_conn_pool_put(pool, conn);
        wh_conn_pool_stats_get(pool, &stats);
        CHECK(stats.idle == 0);
        wh_conn_pool_destroy(pool);
    });
}

TEST_CASE("conn_pool: many coroutines of all workers share a few connections")
{
    const int fds = fds_open();
    in_run([] {
        wh_conn_pool_options options = {};
        options.conns_max = 4;
        options.idle_ns = 2 * WH_MILLISECOND; /* some expire in between */
        Place place(options);
        wh_serve_options serve_options = {};
        wh_coro *server = spawn([listener = dup(place.listener), &serve_options] {
            return static_cast<intptr_t>(wh_serve(
                listener,
                [](const wh_client *client) {
                    const char *line;
                    ssize_t n;
                    int left = 20; /* then it closes the connection */
                    while (left-- > 0 &&
                           (n = wh_conn_peek_until(client->conn, "\n", 1, 100, &line)) > 0) {
                        (void)wh_conn_write(client->conn, line, static_cast<size_t>(n));
                        wh_conn_consume(client->conn, static_cast<size_t>(n));
                        if (wh_conn_flush(client->conn) < 0)
                            break;
                    }
                },
                nullptr, &serve_options));
        });
        constexpr unsigned CALLERS = 24;
        std::atomic<int> out{0}, most{0}, answered{0}, failed{0};
        const int rounds = times(50);
        on_all(CALLERS, [&](unsigned caller) {
            for (int i = 0; i < rounds;) {
                wh_conn *conn;
                int rc = 0;
                WH_WITH_TIMEOUT(caller % 4 ? WH_HOUR : 100 * WH_MICROSECOND)
                {
                    rc = wh_conn_pool_get(place.pool, &conn);
                }
                if (rc < 0) {
                    failed += rc != -ETIMEDOUT;
                    i++;
                    continue;
                }
                const int now = ++out;
                for (int before = most; before < now && !most.compare_exchange_weak(before, now);)
                    ;
                const char *line;
                const bool good =
                    wh_conn_printf(conn, "%u %d\n", caller, i) > 0 && wh_conn_flush(conn) == 0;
                const ssize_t n = good ? wh_conn_peek_until(conn, "\n", 1, 100, &line) : -EPIPE;
                const std::string expected =
                    std::to_string(caller) + " " + std::to_string(i) + "\n";
                const bool right = n > 0 && std::string(line, static_cast<size_t>(n)) == expected;
                if (right) {
                    wh_conn_consume(conn, static_cast<size_t>(n));
                    answered++;
                    i++;
                }
                out--;
                if (right)
                    wh_conn_pool_put(place.pool, conn);
                else
                    wh_conn_pool_discard(place.pool, conn);
                failed += n > 0 && !right;
            }
            return 0;
        });
        CHECK(failed == 0);
        CHECK(answered >= rounds * static_cast<int>(CALLERS) * 3 / 4);
        CHECK(most <= 4);
        wh_conn_pool_stats stats = place.stats();
        CHECK(stats.out == 0);
        CHECK(stats.reused > 0);
        wh_conn_pool_close(place.pool);
        stats = place.stats();
        CHECK(stats.idle == 0);
        wh_cancel(server);
        join(server);
    });
    CHECK(fds_open() == fds);
}
