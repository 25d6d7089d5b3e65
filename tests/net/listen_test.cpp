/*
 * listen_test.cpp: listening and dialling, TCP of both versions and Unix.
 */
#include "tests/base/child.hpp"
#include "tests/net/peers.hpp"
#include "tests/sched/forbid.hpp"

#include <catch2/catch_test_macros.hpp>

#include <vector>

#include <sys/stat.h>

namespace
{

int option(int fd, int level, int name)
{
    int value = -1;
    socklen_t len = sizeof value;
    return getsockopt(fd, level, name, &value, &len) < 0 ? -errno : value;
}

/* A byte there and a byte back; the first comes from the dialling side. */
bool talk(int server, int client)
{
    char there = 0, back = 0;
    return wh_send(client, "t", 1, 0) == 1 && wh_recv(server, &there, 1, 0) == 1 && there == 't' &&
           wh_send(server, "b", 1, 0) == 1 && wh_recv(client, &back, 1, 0) == 1 && back == 'b';
}

std::string tcp_name(const char *host, int listener)
{
    return std::string(host) + ":" + std::to_string(Address::of(listener).port());
}

bool has_ipv6()
{
    Fd fd(socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
    struct sockaddr_in6 address = {};
    address.sin6_family = AF_INET6;
    address.sin6_addr = in6addr_loopback;
    return fd >= 0 && bind(fd, reinterpret_cast<struct sockaddr *>(&address), sizeof address) == 0;
}

bool is_socket(const std::string &path)
{
    struct stat status;
    return stat(path.c_str(), &status) == 0 && S_ISSOCK(status.st_mode);
}

} // namespace

/* ---- TCP ---- */

TEST_CASE("net: a TCP listener is dialled over IPv4, by address and as localhost")
{
    in_run([] {
        Fd listener(wh_listen_tcp("127.0.0.1:0", nullptr));
        CHECK(listener >= 0);
        for (const char *host : {"127.0.0.1", "localhost"}) {
            Fd client(wh_dial_tcp(tcp_name(host, listener).c_str()));
            CHECK(client >= 0);
            Fd server(wh_accept(listener));
            CHECK(server >= 0);
            bool talked = talk(server, client);
            CHECK(talked);
        }
    });
}

TEST_CASE("net: a TCP listener is dialled over IPv6")
{
    if (!has_ipv6())
        SKIP("this machine has no IPv6");
    in_run([] {
        Fd listener(wh_listen_tcp("[::1]:0", nullptr));
        CHECK(listener >= 0);
        Fd client(wh_dial_tcp(tcp_name("[::1]", listener).c_str()));
        CHECK(client >= 0);
        Fd server(wh_accept(listener));
        bool talked = talk(server, client);
        CHECK(talked);
    });
}

TEST_CASE("net: without a host it listens on every address, of both versions where there are both")
{
    in_run([] {
        Fd listener(wh_listen_tcp(":0", nullptr));
        CHECK(listener >= 0);
        std::vector<const char *> hosts = {"127.0.0.1"};
        if (has_ipv6())
            hosts.push_back("[::1]");
        for (const char *host : hosts) {
            Fd client(wh_dial_tcp(tcp_name(host, listener).c_str()));
            INFO(host);
            CHECK(client >= 0);
            Fd server(wh_accept(listener));
            bool talked = talk(server, client);
            CHECK(talked);
        }
        Fd everywhere(wh_listen_tcp("0.0.0.0:0", nullptr));
        CHECK(everywhere >= 0);
        Fd client(wh_dial_tcp(tcp_name("127.0.0.1", everywhere).c_str()));
        CHECK(client >= 0);
    });
}

TEST_CASE("net: where there is no IPv6, no host means every IPv4 address")
{
    ChildEnd end = in_child([] {
        CHILD_REQUIRE(forbid(SYS_socket, EAFNOSUPPORT, AF_INET6));
        return in_run([] {
            Fd listener(wh_listen_tcp(":0", nullptr));
            CHILD_REQUIRE(listener >= 0);
            CHILD_REQUIRE(Address::of(listener).storage.ss_family == AF_INET);
            Fd client(wh_dial_tcp(tcp_name("127.0.0.1", listener).c_str()));
            CHILD_REQUIRE(client >= 0);
            CHILD_REQUIRE(wh_listen_tcp("[::1]:0", nullptr) == -EAFNOSUPPORT);
            CHILD_REQUIRE(wh_dial_tcp("[::1]:1") == -EAFNOSUPPORT);
            return 3;
        });
    });
    INFO(end.how());
    CHECK(end.exited(3));
}

TEST_CASE("net: sockets are close-on-exec, blocking, and without Nagle's algorithm")
{
    in_run([] {
        Fd listener(wh_listen_tcp("127.0.0.1:0", nullptr));
        Fd client(wh_dial_tcp(tcp_name("127.0.0.1", listener).c_str()));
        Fd server(wh_accept(listener));
        for (int fd :
             {static_cast<int>(listener), static_cast<int>(client), static_cast<int>(server)}) {
            CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC);
            CHECK((fcntl(fd, F_GETFL) & O_NONBLOCK) == 0);
            CHECK(option(fd, IPPROTO_TCP, TCP_NODELAY) == 1);
        }
        CHECK(option(listener, SOL_SOCKET, SO_REUSEADDR) == 1);
        CHECK(option(listener, SOL_SOCKET, SO_REUSEPORT) == 0);
        CHECK(option(listener, SOL_SOCKET, SO_ACCEPTCONN) == 1);

        wh_listen_options options = {};
        options.no_nodelay = 1;
        Fd slow(wh_listen_tcp("127.0.0.1:0", &options));
        CHECK(option(slow, IPPROTO_TCP, TCP_NODELAY) == 0);
    });
}

TEST_CASE("net: a port that is taken is -EADDRINUSE, unless all share it")
{
    const int fds = fds_open();
    in_run([] {
        Fd first(wh_listen_tcp("127.0.0.1:0", nullptr));
        const std::string name = tcp_name("127.0.0.1", first);
        wh_fd second = wh_listen_tcp(name.c_str(), nullptr);
        CHECK(second == -EADDRINUSE);
        wh_listen_options shared = {};
        shared.reuseport = 1;
        second = wh_listen_tcp(name.c_str(), &shared);
        CHECK(second == -EADDRINUSE); /* the first does not share */

        Fd one(wh_listen_tcp("127.0.0.1:0", &shared));
        Fd other(wh_listen_tcp(tcp_name("127.0.0.1", one).c_str(), &shared));
        CHECK(one >= 0);
        CHECK(other >= 0);
    });
    CHECK(fds_open() == fds);
}

TEST_CASE("net: the backlog is what was asked for")
{
    in_run([] {
        wh_listen_options options = {};
        options.backlog = 2;
        Fd listener(wh_listen_tcp("127.0.0.1:0", &options));
        struct tcp_info info = {};
        socklen_t len = sizeof info;
        CHECK(getsockopt(listener, IPPROTO_TCP, TCP_INFO, &info, &len) == 0);
        CHECK(info.tcpi_sacked == 2); /* of a listener: its backlog */
        Fd usual(wh_listen_tcp("127.0.0.1:0", nullptr));
        CHECK(getsockopt(usual, IPPROTO_TCP, TCP_INFO, &info, &len) == 0);
        CHECK(info.tcpi_sacked >= 128);
    });
}

TEST_CASE("net: errors of listening and dialling leave nothing open")
{
    const int fds = fds_open();
    in_run([] {
        std::string refused;
        {
            Fd gone(wh_listen_tcp("127.0.0.1:0", nullptr));
            refused = tcp_name("127.0.0.1", gone);
        }
        wh_fd fd = wh_dial_tcp(refused.c_str());
        CHECK(fd == -ECONNREFUSED);
        fd = wh_listen_tcp("192.0.2.1:0", nullptr);
        CHECK(fd == -EADDRNOTAVAIL);
        fd = wh_listen_tcp("example.org:80", nullptr);
        CHECK(fd == -EINVAL);
        for (const char *bad : {"", "nonsense", "127.0.0.1", "127.1:80", "127.0.0.1:65536"}) {
            fd = wh_listen_tcp(bad, nullptr);
            CHECK(fd == -EINVAL);
            fd = wh_dial_tcp(bad);
            CHECK(fd == -EINVAL);
        }
        fd = wh_dial_unix("@nobody-listens-here");
        CHECK(fd == -ECONNREFUSED);
        fd = wh_dial_unix("/nonexistent/socket");
        CHECK(fd == -ENOENT);
        fd = wh_listen_unix("/nonexistent/socket", nullptr);
        CHECK(fd == -ENOENT);
        const std::string endless(200, 'x');
        fd = wh_dial_unix(endless.c_str());
        CHECK(fd == -ENAMETOOLONG);
        fd = wh_listen_unix(endless.c_str(), nullptr);
        CHECK(fd == -ENAMETOOLONG);
        fd = wh_listen_unix("", nullptr);
        CHECK(fd == -EINVAL);
        fd = wh_dial_unix("");
        CHECK(fd == -EINVAL);
    });
    CHECK(fds_open() == fds);
}

TEST_CASE("net: dialling without a host dials this machine")
{
    in_run([] {
        Fd listener(wh_listen_tcp(":0", nullptr));
        Fd client(wh_dial_tcp(tcp_name("", listener).c_str()));
        CHECK(client >= 0);
        Fd server(wh_accept(listener));
        bool talked = talk(server, client);
        CHECK(talked);
    });
}

/* ---- Unix ---- */

TEST_CASE("net: a Unix listener is dialled by its path, and by an abstract name")
{
    Folder folder;
    const std::string path = folder / "socket";
    const std::string abstract = "@whorl-test-" + std::to_string(getpid());
    in_run([&] {
        for (const std::string &name : {path, abstract}) {
            Fd listener(wh_listen_unix(name.c_str(), nullptr));
            INFO(name);
            CHECK(listener >= 0);
            CHECK(fcntl(listener, F_GETFD) == FD_CLOEXEC);
            Fd client(wh_dial_unix(name.c_str()));
            CHECK(client >= 0);
            CHECK(fcntl(client, F_GETFD) == FD_CLOEXEC);
            Fd server(wh_accept(listener));
            bool talked = talk(server, client);
            CHECK(talked);
            wh_fd second = wh_listen_unix(name.c_str(), nullptr);
            CHECK(second == -EADDRINUSE); /* somebody listens */
        }
    });
    CHECK(is_socket(path));
}

TEST_CASE("net: a path that nobody listens on any more is replaced")
{
    Folder folder;
    const std::string path = folder / "socket";
    const int fds = fds_open();
    in_run([&] {
        for (int i = 0; i < 3; i++) {
            Fd listener(wh_listen_unix(path.c_str(), nullptr));
            CHECK(listener >= 0);
            Fd client(wh_dial_unix(path.c_str()));
            CHECK(client >= 0);
        } /* closed, and the path stays */
        CHECK(is_socket(path));
    });
    CHECK(fds_open() == fds);
}

TEST_CASE("net: a listener whose queue is full is not taken for a dead one")
{
    Folder folder;
    const std::string path = folder / "socket";
    in_run([&] {
        wh_listen_options options = {};
        options.backlog = 1;
        Fd listener(wh_listen_unix(path.c_str(), &options));
        std::vector<Fd> clients;
        for (int i = 0; i < 2; i++)
            clients.emplace_back(wh_dial_unix(path.c_str()));
        wh_fd thief = wh_listen_unix(path.c_str(), nullptr);
        CHECK(thief == -EADDRINUSE);
        for (int i = 0; i < 2; i++) {
            Fd server(wh_accept(listener));
            CHECK(server >= 0);
        }
        Fd client(wh_dial_unix(path.c_str()));
        CHECK(client >= 0);
    });
}

TEST_CASE("net: a file that is no socket is not replaced")
{
    Folder folder;
    const std::string path = folder / "precious", link = folder / "link";
    in_run([&] {
        Fd file(open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
        ssize_t n = write(file, "keep", 4);
        CHECK(n == 4);
        wh_fd fd = wh_listen_unix(path.c_str(), nullptr);
        CHECK(fd == -EADDRINUSE);
        CHECK(symlink("precious", link.c_str()) == 0);
        fd = wh_listen_unix(link.c_str(), nullptr);
        CHECK(fd == -EADDRINUSE);
        struct stat status;
        CHECK(stat(path.c_str(), &status) == 0);
        CHECK(status.st_size == 4);
        CHECK(lstat(link.c_str(), &status) == 0);
        CHECK(S_ISLNK(status.st_mode));
    });
}

TEST_CASE("net: a path has the permissions that were asked for")
{
    Folder folder;
    const std::string path = folder / "socket", plain_path = folder / "plain";
    in_run([&] {
        struct stat status;
        wh_listen_options options = {};
        options.mode = 0620;
        Fd listener(wh_listen_unix(path.c_str(), &options));
        CHECK(stat(path.c_str(), &status) == 0);
        CHECK((status.st_mode & 07777) == 0620);
        mode_t mask = umask(077);
        Fd other(wh_listen_unix(plain_path.c_str(), nullptr));
        umask(mask);
        CHECK(stat(plain_path.c_str(), &status) == 0);
        CHECK((status.st_mode & 07777) == 0700);
    });
}

TEST_CASE("net: listening works outside of a run, dialling does not")
{
    Fd listener(wh_listen_tcp("127.0.0.1:0", nullptr));
    CHECK(listener >= 0);
    CHECK(wh_listen_tcp("nonsense", nullptr) == -EINVAL);
}
