/*
 * serve_test.cpp: the sentences of whorl/serve.h.
 */
#include "tests/base/child.hpp"
#include "tests/net/peers.hpp"

#include <catch2/catch_test_macros.hpp>

#include <atomic>
#include <vector>

#include <sys/resource.h>

namespace
{

/* A server in a context of its own, and what its handlers share with the test. */
struct Server {
    wh_serve_stats stats = {};
    wh_serve_options options = {};
    std::atomic<int> began{0}, ended{0}, wrong{0};
    std::atomic<unsigned> workers{0}; /* bit n: one ran on worker n */
    wh_event go_on = {};
    std::string name;
    wh_ctx *ctx = nullptr;
    wh_coro *coro = nullptr;

    explicit Server(wh_serve_handler handler, wh_serve_options with = {}, int reuseport = 0)
        : options(with)
    {
        const wh_listen_options listen_options = {0, reuseport, 0, 0};
        const wh_fd listener = wh_listen_tcp("127.0.0.1:0", &listen_options);
        name = "127.0.0.1:" + std::to_string(Address::of(listener).port());
        start(listener, handler);
    }
    Server(wh_fd listener, wh_serve_handler handler, wh_serve_options with = {}) : options(with)
    {
        start(listener, handler);
    }
    void start(wh_fd listener, wh_serve_handler handler)
    {
        options.stats = &stats;
        ctx = wh_ctx_create(nullptr);
        WH_WITH_CTX(ctx)
        {
            coro = spawn([this, listener, handler] {
                return static_cast<intptr_t>(wh_serve(listener, handler, this, &options));
            });
        }
    }
    Server(const Server &) = delete;
    Server &operator=(const Server &) = delete;
    ~Server()
    {
        if (coro)
            (void)end();
        wh_ctx_destroy(ctx);
    }
    /* Whether it has begun to. */
    bool ends() const
    {
        return __atomic_load_n(&stats.drain_began_ns, __ATOMIC_RELAXED) != 0;
    }
    Fd dial() const
    {
        return Fd(wh_dial_tcp(name.c_str()));
    }
    intptr_t end()
    {
        wh_ctx_cancel(ctx, 0);
        return join(std::exchange(coro, nullptr));
    }
    static Server &of(const wh_client *client)
    {
        return *static_cast<Server *>(client->arg);
    }
};

/* Answers each line with the same line, until the end of the stream or of the server. */
void echo_lines(const wh_client *client)
{
    Server &server = Server::of(client);
    server.began++;
    server.workers |= 1u << wh_worker();
    for (;;) {
        const char *line;
        ssize_t n = 0;
        WH_WITH_CTX(client->idle)
        {
            n = wh_conn_peek_until(client->conn, "\n", 1, 1000, &line);
        }
        if (n <= 0) {
            server.wrong += n != 0 && n != -ECANCELED;
            break;
        }
        (void)wh_conn_write(client->conn, line, static_cast<size_t>(n));
        wh_conn_consume(client->conn, static_cast<size_t>(n));
        if (wh_conn_flush(client->conn) < 0)
            break;
    }
    server.ended++;
}

/* Waits until it is told to go on, whatever the server does; then says so. */
void stay(const wh_client *client)
{
    Server &server = Server::of(client);
    server.began++;
    const int rc = wh_event_wait(&server.go_on);
    (void)wh_conn_printf(client->conn, "%d\n", rc);
    server.ended++;
}

/* Sends the line and returns whether it comes back. */
bool echoes(int fd, const std::string &line)
{
    if (wh_send_all(fd, line.data(), line.size()) < 0)
        return false;
    std::string back(line.size(), 0);
    return wh_recv(fd, back.data(), back.size(), MSG_WAITALL) ==
               static_cast<ssize_t>(line.size()) &&
           back == line;
}

std::string read_all(int fd)
{
    std::string all;
    char buf[1000];
    ssize_t n;
    while ((n = wh_recv(fd, buf, sizeof buf, 0)) > 0)
        all.append(buf, static_cast<size_t>(n));
    return n < 0 ? std::to_string(n) : all;
}

template <typename F> void until(const F &holds)
{
    while (!holds())
        wh_sleep(100 * WH_MICROSECOND);
}

} // namespace

TEST_CASE("serve: a coroutine each for all that connect, on a listener a worker or one in all")
{
    for (int reuseport : {0, 1}) {
        const int fds = fds_open();
        in_run([&] {
            Server server(echo_lines, {}, reuseport);
            constexpr int CLIENTS = 50;
            std::atomic<int> right{0};
            std::vector<wh_coro *> clients;
            for (int i = 0; i < CLIENTS; i++)
                clients.push_back(spawn([&, i] {
                    Fd fd = server.dial();
                    for (int j = 0; j < 10; j++)
                        right += echoes(fd, std::to_string(i) + "." + std::to_string(j) + "\n");
                }));
            for (wh_coro *client : clients)
                join(client);
            until([&] { return server.ended == CLIENTS; });
            const intptr_t rc = server.end();
            CHECK(rc == -ECANCELED);
            CHECK(right == CLIENTS * 10);
            CHECK(server.wrong == 0);
            CHECK(server.stats.accepted == CLIENTS);
            CHECK(server.stats.open == 0);
            CHECK(server.stats.shed == 0);
            CHECK(server.stats.cut == 0);
        });
        CHECK(fds_open() == fds);
    }
}

TEST_CASE("serve: the listeners beside the first have its options and its backlog")
{
    struct Option {
        int level, name, value;
    };
    const Option wanted[] = {
        {SOL_SOCKET, SO_KEEPALIVE, 1},      {SOL_SOCKET, SO_RCVBUF, 30000},
        {SOL_SOCKET, SO_SNDBUF, 40000},     {SOL_SOCKET, SO_RCVLOWAT, 3},
        {IPPROTO_IP, IP_TOS, 0x10},         {SOL_SOCKET, SO_PRIORITY, 2},
        {IPPROTO_IP, IP_TTL, 77},           {IPPROTO_IP, IP_FREEBIND, 1},
        {IPPROTO_TCP, TCP_DEFER_ACCEPT, 3}, {IPPROTO_TCP, TCP_KEEPIDLE, 71},
        {IPPROTO_TCP, TCP_KEEPCNT, 5},      {IPPROTO_TCP, TCP_USER_TIMEOUT, 4321},
        {IPPROTO_TCP, TCP_NODELAY, 0}};
    const auto device = [](int fd) {
        char name[16] = {};
        socklen_t len = sizeof name;
        return getsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, name, &len) < 0 ? "?"
                                                                           : std::string(name);
    };
    in_run([&] {
        const wh_listen_options options = {11, 1, 0, 0};
        const wh_fd first = wh_listen_tcp("127.0.0.1:0", &options);
        for (const Option &option : wanted)
            CHECK(setsockopt(first, option.level, option.name, &option.value,
                             sizeof option.value) == 0);
        const linger linger_s = {1, 7};
        CHECK(setsockopt(first, SOL_SOCKET, SO_LINGER, &linger_s, sizeof linger_s) == 0);
        CHECK(setsockopt(first, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3) == 0);
        const auto value = [](int fd, const Option &option) {
            int number = -1;
            socklen_t len = sizeof number;
            (void)getsockopt(fd, option.level, option.name, &number, &len);
            return number;
        };
        const int port = Address::of(first).port();
        const auto beside = [&] {
            std::vector<int> found;
            for (int fd = 0; fd < 1000; fd++)
                if (fd != first && value(fd, {SOL_SOCKET, SO_ACCEPTCONN, 0}) == 1 &&
                    Address::of(fd).port() == port)
                    found.push_back(fd);
            return found;
        };
        Server server(first, echo_lines);
        until([&] { return beside().size() == wh_workers() - 1; });
        for (int fd : beside()) {
            for (const Option &option : wanted) {
                INFO(option.level << " " << option.name);
                CHECK(value(fd, option) == value(first, option));
            }
            linger copied = {};
            socklen_t len = sizeof copied;
            CHECK(getsockopt(fd, SOL_SOCKET, SO_LINGER, &copied, &len) == 0);
            CHECK(copied.l_onoff == 1);
            CHECK(copied.l_linger == 7);
            CHECK(device(fd) == "lo");
            tcp_info info = {};
            len = sizeof info;
            CHECK(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) == 0);
            CHECK(info.tcpi_sacked == 11);
        }
    });
}

TEST_CASE("serve: at its end the idle go at once, the busy finish, newcomers are refused")
{
    in_run([] {
        wh_serve_options options = {};
        options.drain_ns = WH_MINUTE;
        Server server(
            [](const wh_client *client) {
                char what = 0;
                (void)!wh_conn_read(client->conn, &what, 1);
                (what == 'i' ? echo_lines : stay)(client);
            },
            options);
        Fd idle = server.dial(), busy = server.dial();
        (void)wh_send(idle, "i", 1, 0);
        (void)wh_send(busy, "b", 1, 0);
        until([&] { return server.began == 2; });
        CHECK(echoes(idle, "before\n"));
        wh_ctx_cancel(server.ctx, 0);
        const std::string rest = read_all(idle); /* its handler has returned */
        CHECK(rest.empty());
        Fd late(wh_dial_tcp(server.name.c_str()));
        CHECK(late == -ECONNREFUSED);
        CHECK(server.ended == 1);
        wh_event_set(&server.go_on);
        const std::string said = read_all(busy); /* undisturbed, and flushed by the server */
        CHECK(said == "0\n");
        const intptr_t rc = server.end();
        CHECK(rc == -ECANCELED);
        CHECK(server.ended == 2);
        CHECK(server.stats.cut == 0);
    });
}

TEST_CASE("serve: who takes longer than the drain is cancelled and counted")
{
    in_run([] {
        for (int64_t drain_ns : {int64_t(-1), 5 * WH_MILLISECOND}) {
            wh_serve_options options = {};
            options.drain_ns = drain_ns;
            Server server(stay, options);
            Fd one = server.dial(), two = server.dial();
            until([&] { return server.began == 2; });
            const int64_t start_ns = wh_now();
            const intptr_t rc = server.end();
            CHECK(rc == -ECANCELED);
            CHECK(wh_now() - start_ns >= drain_ns);
            CHECK(server.ended == 2);
            CHECK(server.stats.cut == 2);
            CHECK(server.stats.open == 0);
            const std::string said = read_all(one);
            CHECK(said.empty()); /* it could not be sent any more */
        }
    });
}

TEST_CASE("serve: an element of the stop channel begins the end, and the result is 0")
{
    in_run([] {
        wh_serve_options options = {};
        options.drain_ns = WH_MINUTE;
        options.stop = wh_chan_create(int, 2);
        Server server(stay, options);
        CHECK(!server.ends());
        Fd one = server.dial(), two = server.dial();
        until([&] { return server.began == 2; });
        const int told = 1;
        const int64_t start_ns = wh_now();
        CHECK(wh_chan_send(options.stop, told) == 0);
        until([&] { return Fd(wh_dial_tcp(server.name.c_str())) == -ECONNREFUSED; });
        until([&] { return server.ends(); });
        CHECK(__atomic_load_n(&server.stats.drain_began_ns, __ATOMIC_RELAXED) >= start_ns);
        CHECK(server.ended == 0);
        wh_event_set(&server.go_on);
        const std::string said = read_all(one) + read_all(two);
        CHECK(said == "0\n0\n"); /* undisturbed */
        const intptr_t rc = join(std::exchange(server.coro, nullptr));
        CHECK(rc == 0);
        CHECK(server.stats.cut == 0);
        wh_chan_unref(options.stop);
    });
}

TEST_CASE("serve: a second one ends the drain, and closing the channel is both")
{
    in_run([] {
        for (bool closed : {false, true}) {
            wh_serve_options options = {};
            options.drain_ns = WH_MINUTE;
            options.stop = wh_chan_create(int, 2);
            Server server(stay, options);
            Fd one = server.dial(), two = server.dial();
            until([&] { return server.began == 2; });
            const int64_t start_ns = wh_now();
            const int told = 1;
            if (closed) {
                wh_chan_close(options.stop);
            } else {
                CHECK(wh_chan_send(options.stop, told) == 0);
                until([&] { return server.ends(); });
                CHECK(server.ended == 0);
                CHECK(wh_chan_send(options.stop, told) == 0);
            }
            const intptr_t rc = join(std::exchange(server.coro, nullptr));
            CHECK(rc == 0);
            CHECK(wh_now() - start_ns < WH_MINUTE / 2);
            CHECK(server.ended == 2);
            CHECK(server.stats.cut == 2);
            wh_chan_unref(options.stop);
        }
    });
}

TEST_CASE("serve: with a stop channel, too, the end of the context and of the listener are told")
{
    in_run([] {
        wh_serve_options options = {};
        options.stop = wh_chan_create(int, 1);
        Server server(stay, options);
        Fd one = server.dial();
        until([&] { return server.began == 1; });
        wh_event_set(&server.go_on);
        CHECK(server.end() == -ECANCELED);
        FdPair pipe = pipe_pair();
        const int rc = wh_serve(pipe.a.release(), stay, nullptr, &options);
        CHECK(rc == -ENOTSOCK);
        wh_chan_unref(options.stop);
    });
}

TEST_CASE("serve: it ends by a deadline, and by a cancel of its coroutine alone")
{
    in_run([] {
        int rc = 0;
        const wh_fd listener = wh_listen_tcp("127.0.0.1:0", nullptr);
        WH_WITH_TIMEOUT(5 * WH_MILLISECOND)
        {
            rc = wh_serve(listener, stay, nullptr, nullptr);
        }
        CHECK(rc == -ETIMEDOUT);

        Server server(echo_lines);
        Fd fd = server.dial();
        CHECK(echoes(fd, "here\n"));
        wh_cancel(server.coro);
        const intptr_t value = join(std::exchange(server.coro, nullptr));
        CHECK(value == -ECANCELED);
        CHECK(server.ended == 1);
    });
}

TEST_CASE("serve: above the limit newcomers wait until one has gone")
{
    in_run([] {
        wh_serve_options options = {};
        options.connections_max = 2;
        Server server(echo_lines, options);
        Fd one = server.dial();
        CHECK(echoes(one, "1\n")); /* before the next is there, whom another worker may admit */
        Fd two = server.dial();
        CHECK(echoes(two, "2\n"));
        Fd three = server.dial();
        (void)wh_send(three, "3\n", 2, 0);
        char buf[2];
        ssize_t n = 0;
        WH_WITH_TIMEOUT(10 * WH_MILLISECOND)
        {
            n = wh_recv(three, buf, 2, 0);
        }
        CHECK(n == -ETIMEDOUT);
        CHECK(server.began == 2);
        one.reset();
        n = wh_recv(three, buf, 2, MSG_WAITALL);
        CHECK(n == 2);
        CHECK(server.began == 3);
        CHECK(server.stats.accepted == 3);
    });
}

TEST_CASE("serve: below the limit every newcomer is served, whichever listener has it")
{
    in_run([] {
        wh_serve_options options = {};
        options.connections_max = 1;
        Server server(echo_lines, options, 1);
        for (int i = 0; i < 40; i++) { /* the kernel chooses the listener */
            Fd fd = server.dial();
            bool echoed = false;
            WH_WITH_TIMEOUT(10 * WH_SECOND)
            {
                echoed = echoes(fd, "line\n");
            }
            CHECK(echoed);
            if (!echoed)
                break;
        }
    });
}

TEST_CASE("serve: the connection has a context, which ends with its handler")
{
    in_run([] {
        Server server([](const wh_client *client) {
            Server &me = Server::of(client);
            me.wrong += wh_ctx_err(client->ctx) != 0;
            (void)!wh_go(
                +[](Server *to) {
                    to->began++;
                    to->wrong += wh_sleep(WH_HOUR) != -ECANCELED;
                    to->ended++;
                },
                &me);
            until([&] { return me.began == 1; });
            if (wh_conn_printf(client->conn, "x") < 0)
                me.wrong++;
        });
        Fd fd = server.dial();
        const std::string said = read_all(fd);
        CHECK(said == "x");
        until([&] { return server.ended == 1; });
        CHECK(server.wrong == 0);
    });
}

TEST_CASE("serve: without descriptors newcomers see an end, and later ones are served again")
{
    const char *mask = getenv("WHORL_MASK");
    const bool without_direct = mask && strstr(mask, "direct");
    for (int reuseport : {0, 1}) {
        ChildEnd end = in_child([without_direct, reuseport] {
            return in_run([without_direct, reuseport] {
                struct rlimit limit; /* first: an accept that waits goes by the one it began with */
                getrlimit(RLIMIT_NOFILE, &limit);
                limit.rlim_cur = static_cast<rlim_t>(Fd(dup(0)) + 100);
                CHILD_REQUIRE(setrlimit(RLIMIT_NOFILE, &limit) == 0);
                Server server(echo_lines, {}, reuseport);
                std::vector<Fd> clients;
                for (int i = 0; i < 4; i++) {
                    clients.push_back(server.dial());
                    CHILD_REQUIRE(echoes(clients.back(), "a\n"));
                }
                /* Sockets first: to dial takes descriptors, too. */
                Address address = Address::ipv4(std::stoi(server.name.substr(10)));
                std::vector<Fd> late;
                for (int i = 0; i < 8; i++)
                    late.emplace_back(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
                std::vector<Fd> all;
                uint64_t ends = 0;
                for (Fd &fd : late) {
                    /* An acceptor of another worker that looks takes one for that moment. */
                    for (int more; (more = dup(0)) >= 0;)
                        all.emplace_back(more);
                    CHILD_REQUIRE(wh_connect(fd, address.any(), address.len) == 0);
                    if (without_direct)
                        continue; /* it waits */
                    char byte = 0;
                    ssize_t n = wh_send_all(fd, "x\n", 2);
                    if (n >= 0) {
                        WH_WITH_TIMEOUT(10 * WH_SECOND)
                        {
                            n = wh_recv(fd, &byte, 1, 0);
                        }
                    }
                    CHILD_REQUIRE(n == 0 || n == -ECONNRESET || n == -EPIPE || byte == 'x');
                    ends += byte != 'x';
                }
                CHILD_REQUIRE(without_direct || ends >= 1);
                until(
                    [&] { return __atomic_load_n(&server.stats.shed, __ATOMIC_RELAXED) == ends; });
                until(
                    [&] { return __atomic_load_n(&server.stats.starved, __ATOMIC_RELAXED) >= 1; });
                CHILD_REQUIRE(echoes(clients[0], "still\n"));
                all.clear();
                for (size_t i = 0; without_direct && i < late.size(); i++)
                    CHILD_REQUIRE(echoes(late[i], "late\n"));
                /* One of each listener may yet see the end of those for whom there was no room. */
                bool served = false;
                for (unsigned i = 0; i <= wh_workers() && !served; i++) {
                    Fd fd = server.dial();
                    served = echoes(fd, "again\n");
                }
                CHILD_REQUIRE(served);
            });
        });
        INFO(end.how());
        CHECK(end.exited(0));
    }
}

TEST_CASE("serve: where one cannot accept it ends with the reason, and the descriptor is closed")
{
    in_run([] {
        const int fds = fds_open();
        int rc = wh_serve(-1, stay, nullptr, nullptr);
        CHECK(rc == -EBADF);
        rc = wh_serve(wh_listen_tcp("nowhere", nullptr), stay, nullptr, nullptr);
        CHECK(rc == -EINVAL);
        FdPair pair = socket_pair();
        rc = wh_serve(pair.a.release(), stay, nullptr, nullptr);
        CHECK(rc == -EINVAL);
        FdPair pipe = pipe_pair();
        rc = wh_serve(pipe.a.release(), stay, nullptr, nullptr);
        CHECK(rc == -ENOTSOCK);
        pair.b.reset();
        pipe.b.reset();
        CHECK(fds_open() == fds);
    });
}

TEST_CASE("serve: when one of its listeners can accept no more it ends, and says why")
{
    in_run([] {
        Server server(echo_lines, {}, 1);
        Fd client = server.dial();
        CHECK(echoes(client, "here\n"));
        client.reset();
        int last = -1; /* the one of the last worker */
        for (int fd = 0; fd < 1000; fd++) {
            int listens = 0;
            socklen_t len = sizeof listens;
            if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len) == 0 && listens)
                last = fd;
        }
        const int rc = shutdown(last, SHUT_RDWR);
        CHECK(rc == 0);
        if (rc < 0)
            return;
        intptr_t value = 0;
        WH_WITH_TIMEOUT(30 * WH_SECOND)
        {
            value = join(std::exchange(server.coro, nullptr));
        }
        CHECK(value == -EINVAL);
    });
}

TEST_CASE("serve: a handler that closes its stream aborts, and is told who does")
{
    for (wh_serve_handler handler :
         {+[](const wh_client *client) { (void)wh_conn_close(client->conn); },
          +[](const wh_client *client) { (void)wh_conn_abandon(client->conn); }}) {
        ChildEnd end = in_child([=] {
            return in_run([=] {
                Server server(handler);
                Fd fd = server.dial();
                char byte;
                (void)wh_read(fd, &byte, 1);
            });
        });
        INFO(end.how());
        CHECK(end.killed_by(SIGABRT));
        CHECK(end.said.find("wh_serve() does") != std::string::npos);
        CHECK(end.said.find("serve_client #") != std::string::npos);
        CHECK(end.said.find("started by wh_serve)") != std::string::npos); /* no line of ours */
    }
}

TEST_CASE("serve: over Unix sockets, too")
{
    in_run([] {
        Folder folder;
        const std::string path = std::string(folder.path()) + "/socket";
        wh_serve_options options = {};
        options.connections_max = UINT64_MAX; /* as good as none */
        Server server(wh_listen_unix(path.c_str(), nullptr), echo_lines, options);
        Fd fd(wh_dial_unix(path.c_str()));
        CHECK(echoes(fd, "unix\n"));
        const intptr_t rc = server.end();
        CHECK(rc == -ECANCELED);
        const std::string rest = read_all(fd);
        CHECK(rest.empty());
    });
}
