/*
 * churn_test.cpp: very many connections come and go, one after the other and at the same time, and
 * nothing is left of them: descriptors, memory, coroutines.
 */
#include "tests/net/peers.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <vector>

namespace
{

struct Server {
    int listener = -1;
    std::string name;
    uint64_t accepted = 0, echoed = 0, ended = 0, odd = 0;
    uint64_t connected = 0, answered = 0;
};

void serve(Server *server, int fd)
{
    char buf[64];
    ssize_t n;
    while ((n = wh_recv(fd, buf, sizeof buf, 0)) > 0) {
        server->odd += wh_send_all(fd, buf, static_cast<size_t>(n)) != n;
        server->echoed++;
    }
    server->odd += n != 0 && n != -ECONNRESET;
    server->odd += wh_close(fd) != 0;
    server->ended++;
}

void accept_all(Server *server)
{
    for (;;) {
        wh_fd fd = wh_accept(server->listener);
        if (fd < 0) {
            server->odd += fd != -EBADF; /* closed at the end */
            return;
        }
        server->accepted++;
        if (wh_go(serve, server, fd) < 0) {
            server->odd++;
            wh_close(fd);
        }
    }
}

/* One connection: says something, hears it back, goes. Every other one goes with a reset, so that
 * the machine does not run out of ports that wait for late packets. */
void visit(Server *server, int number)
{
    Fd fd(wh_dial_tcp(server->name.c_str()));
    if (fd < 0) {
        server->odd++;
        return;
    }
    server->connected++;
    char there[16], back[16] = {};
    snprintf(there, sizeof there, "%015d", number);
    server->odd += wh_send_all(fd, there, sizeof there) != sizeof there;
    server->odd += wh_recv(fd, back, sizeof back, MSG_WAITALL) != sizeof back;
    server->answered += !memcmp(there, back, sizeof there);
    if (number % 2) {
        struct linger reset = {1, 0};
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    }
    server->odd += wh_close(fd.release()) != 0;
}

/* So many connections, so many of them at a time. */
void churn(Server *server, int connections, int at_a_time)
{
    int next = 0;
    std::vector<wh_coro *> clients;
    for (int i = 0; i < at_a_time; i++)
        clients.push_back(spawn([&] {
            while (next < connections)
                visit(server, next++);
        }));
    for (wh_coro *client : clients)
        join(client);
    while (server->ended < server->accepted)
        wh_sleep(100 * WH_MICROSECOND);
}

void begin(Server *server)
{
    server->listener = wh_listen_tcp("127.0.0.1:0", nullptr);
    server->name = "127.0.0.1:" + std::to_string(Address::of(server->listener).port());
    wh_go(accept_all, server);
}

} // namespace

TEST_CASE("churn: 20,000 connections come and go and leave nothing behind")
{
    const int connections = times(20000);
    in_run([&] {
        Server server;
        begin(&server);
        churn(&server, connections / 10, 100); /* everything that is kept for reuse is there now */
        wh_stats before, after;
        wh_stats_get(&before);
        const int fds = fds_open();
        const size_t rss = rss_bytes();

        churn(&server, connections, 100);
        CHECK(fds_open() == fds);
        wh_stats_get(&after);
        CHECK(after.coros_live == before.coros_live);
        CHECK(after.stacks_in_use == before.stacks_in_use);
        CHECK(after.ops_in_flight == before.ops_in_flight);
        CHECK(after.stacks_reserved_bytes == before.stacks_reserved_bytes);
        const size_t grown = std::max(rss_bytes(), rss) - rss;
        INFO("grew by " << grown << " bytes");
        CHECK(grown < size_t(WITH_ASAN ? 64 : 2) << 20);

        wh_close(server.listener);
        wh_yield();
        const uint64_t all = static_cast<uint64_t>(connections + connections / 10);
        CHECK(server.connected == all);
        CHECK(server.answered == all);
        CHECK(server.accepted == all);
        CHECK(server.ended == all);
        CHECK(server.odd == 0);
    });
}

TEST_CASE("churn: thousands of connections at once, as many as there are descriptors for")
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    const int count = static_cast<int>(std::min<rlim_t>(limit.rlim_max, 20000) - 200) / 2;
    const int fds = fds_open();
    in_run([&] {
        Server server;
        begin(&server);
        bool leave = false;
        int present = 0;
        std::vector<wh_coro *> clients;
        for (int i = 0; i < count; i++)
            clients.push_back(spawn([&, i] {
                Fd fd(wh_dial_tcp(server.name.c_str()));
                if (fd < 0) {
                    server.odd++;
                    return;
                }
                present++;
                char byte = static_cast<char>(i), back = 0;
                server.odd += wh_send(fd, &byte, 1, 0) != 1;
                server.odd += wh_recv(fd, &back, 1, 0) != 1;
                server.answered += byte == back;
                while (!leave && wh_sleep(5 * WH_MILLISECOND) == 0)
                    ;
                struct linger reset = {1, 0};
                setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
                wh_close(fd.release());
            }));
        while (server.answered + server.odd < static_cast<uint64_t>(count))
            wh_sleep(WH_MILLISECOND);
        CHECK(present == count);
        CHECK(server.odd == 0);
        wh_stats stats;
        wh_stats_get(&stats);
        CHECK(stats.coros_live == 2 * static_cast<uint64_t>(count) + 2);
        leave = true;
        for (wh_coro *client : clients)
            join(client);
        while (server.ended < server.accepted)
            wh_sleep(100 * WH_MICROSECOND);
        wh_close(server.listener);
        wh_yield();
        wh_stats_get(&stats);
        CHECK(stats.coros_live == 1);
        CHECK(stats.ops_in_flight == 0);
        CHECK(server.odd == 0);
    });
    CHECK(fds_open() == fds);
}

TEST_CASE("churn: without a free descriptor accept is -EMFILE, and works again with one")
{
    struct rlimit before, tight;
    getrlimit(RLIMIT_NOFILE, &before);
    in_run([&] {
        Fd listener = plain_listener();
        Address address = Address::of(listener);
        Fd client(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        int rc = wh_connect(client, address.any(), address.len);
        CHECK(rc == 0);
        Fd last(dup(client)); /* all numbers below are taken now, or will be */
        std::vector<Fd> fill_up;
        tight = before;
        tight.rlim_cur = static_cast<rlim_t>(last) + 1;
        CHECK(setrlimit(RLIMIT_NOFILE, &tight) == 0);
        for (;;) {
            Fd more(dup(client));
            if (more < 0)
                break;
            fill_up.push_back(std::move(more));
        }
        wh_fd server = wh_accept(listener);
        CHECK(server == -EMFILE);
        wh_fd fd = wh_openat(AT_FDCWD, "/", O_RDONLY, 0);
        CHECK(fd == -EMFILE);
        fd = wh_dial_tcp("127.0.0.1:1");
        CHECK(fd == -EMFILE);
        last.reset();
        server = wh_accept(listener);
        CHECK(server >= 0);
        setrlimit(RLIMIT_NOFILE, &before);
        ssize_t n = wh_send(client, "x", 1, 0);
        CHECK(n == 1);
        char byte = 0;
        n = wh_recv(server, &byte, 1, 0);
        CHECK(n == 1);
        wh_close(server);
    });
}
