/*
 * io_socket_test.cpp: the calls on sockets, against their POSIX namesakes.
 */
#include "tests/base/child.hpp"
#include "tests/net/peers.hpp"

#include <catch2/catch_test_macros.hpp>

#include <climits>
#include <csignal>
#include <thread>
#include <atomic>
#include <vector>

TEST_CASE("io: errors of calls on sockets are those of their namesakes")
{
    in_run([] {
        FdPair pair = socket_pair(), pipe = pipe_pair();
        Fd tcp(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        Fd udp(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
        Fd listener = plain_listener();
        Fd file(open("/dev/null", O_RDWR | O_CLOEXEC));
        Address nobody = Address::ipv4(0), here = Address::of(listener);
        {
            Fd gone = plain_listener();
            nobody = Address::of(gone);
        }
        ssize_t filled = send(pair.b, "0123456789", 10, 0);
        CHECK(filled == 10);

        char buf[16] = {};
        char *bad = reinterpret_cast<char *>(8);
        auto *bad_addr = reinterpret_cast<struct sockaddr *>(bad);
        struct iovec iov = {buf, 4}, bad_iov = {bad, 4};
        struct msghdr msg = {}, bad_msg = {}, long_msg = {};
        msg.msg_iov = &iov;
        msg.msg_iovlen = 1;
        bad_msg.msg_iov = &bad_iov;
        bad_msg.msg_iovlen = 1;
        long_msg.msg_iov = &iov;
        long_msg.msg_iovlen = IOV_MAX + 1;
        constexpr int NONE = 9999;

        /* Connecting leaves a mark on a socket: each call has one of its own. */
        std::vector<Fd> fresh_ones;
        auto fresh = [&] {
            fresh_ones.emplace_back(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
            return static_cast<int>(fresh_ones.back());
        };
        struct Twin {
            const char *what;
            std::function<ssize_t()> posix, whorl;
        };
#define TWIN(what, posix_call, whorl_call) \
    {what, [&]() -> ssize_t { return posix_call; }, [&]() -> ssize_t { return whorl_call; }}
        const std::vector<Twin> twins = {
            TWIN("recv: no such descriptor", recv(NONE, buf, 1, 0), wh_recv(NONE, buf, 1, 0)),
            TWIN("recv: no socket", recv(pipe.a, buf, 1, 0), wh_recv(pipe.a, buf, 1, 0)),
            TWIN("recv: not connected", recv(tcp, buf, 1, 0), wh_recv(tcp, buf, 1, 0)),
            TWIN("recv: a bad address", recv(pair.a, bad, 1, 0), wh_recv(pair.a, bad, 1, 0)),
            TWIN("recv: out of band of a Unix socket", recv(pair.a, buf, 1, MSG_OOB),
                 wh_recv(pair.a, buf, 1, MSG_OOB)),
            TWIN("recv: nothing wanted", recv(pair.a, buf, 0, 0), wh_recv(pair.a, buf, 0, 0)),
            TWIN("recv: a look", recv(pair.a, buf, 3, MSG_PEEK), wh_recv(pair.a, buf, 3, MSG_PEEK)),
            TWIN("recv: nothing there", recv(udp, buf, 1, MSG_DONTWAIT),
                 wh_recv(udp, buf, 1, MSG_DONTWAIT)),
            TWIN("send: no such descriptor", send(NONE, buf, 1, 0), wh_send(NONE, buf, 1, 0)),
            TWIN("send: no socket", send(pipe.b, buf, 1, 0), wh_send(pipe.b, buf, 1, 0)),
            TWIN("send: not connected", send(tcp, buf, 1, MSG_NOSIGNAL), wh_send(tcp, buf, 1, 0)),
            TWIN("send: to nowhere", send(udp, buf, 1, 0), wh_send(udp, buf, 1, 0)),
            TWIN("send: a bad address", send(pair.a, bad, 1, 0), wh_send(pair.a, bad, 1, 0)),
            TWIN("send: nothing", send(pair.a, buf, 0, 0), wh_send(pair.a, buf, 0, 0)),
            TWIN("send: a datagram that is too large", send(udp, buf, 70000, 0),
                 wh_send(udp, buf, 70000, 0)),
            TWIN("recvmsg: no socket", recvmsg(pipe.a, &msg, 0), wh_recvmsg(pipe.a, &msg, 0)),
            TWIN("recvmsg: a bad vector", recvmsg(pair.a, &bad_msg, 0),
                 wh_recvmsg(pair.a, &bad_msg, 0)),
            TWIN("recvmsg: too many vectors", recvmsg(pair.a, &long_msg, 0),
                 wh_recvmsg(pair.a, &long_msg, 0)),
            TWIN("sendmsg: no such descriptor", sendmsg(NONE, &msg, 0), wh_sendmsg(NONE, &msg, 0)),
            TWIN("sendmsg: too many vectors", sendmsg(pair.a, &long_msg, 0),
                 wh_sendmsg(pair.a, &long_msg, 0)),
            TWIN("accept: no such descriptor", accept(NONE, nullptr, nullptr), wh_accept(NONE)),
            TWIN("accept: no socket", accept(pipe.a, nullptr, nullptr), wh_accept(pipe.a)),
            TWIN("accept: a connected socket", accept(pair.a, nullptr, nullptr), wh_accept(pair.a)),
            TWIN("accept: nobody listens", accept(tcp, nullptr, nullptr), wh_accept(tcp)),
            TWIN("accept: a datagram socket", accept(udp, nullptr, nullptr), wh_accept(udp)),
            TWIN("accept4: unknown flags", accept4(listener, nullptr, nullptr, 0x1234),
                 wh_accept4(listener, nullptr, nullptr, 0x1234)),
            TWIN("connect: no such descriptor", connect(NONE, here.any(), here.len),
                 wh_connect(NONE, here.any(), here.len)),
            TWIN("connect: no socket", connect(file, here.any(), here.len),
                 wh_connect(file, here.any(), here.len)),
            TWIN("connect: nobody listens", connect(fresh(), nobody.any(), nobody.len),
                 wh_connect(fresh(), nobody.any(), nobody.len)),
            TWIN("connect: too short an address", connect(fresh(), here.any(), 3),
                 wh_connect(fresh(), here.any(), 3)),
            TWIN("connect: too long an address", connect(fresh(), here.any(), 10000),
                 wh_connect(fresh(), here.any(), 10000)),
            TWIN("connect: a bad address", connect(fresh(), bad_addr, 16),
                 wh_connect(fresh(), bad_addr, 16)),
            TWIN("connect: another family", connect(pair.a, here.any(), here.len),
                 wh_connect(pair.a, here.any(), here.len)),
            TWIN("shutdown: no such descriptor", shutdown(NONE, SHUT_RD),
                 wh_shutdown(NONE, SHUT_RD)),
            TWIN("shutdown: no socket", shutdown(pipe.a, SHUT_RD), wh_shutdown(pipe.a, SHUT_RD)),
            TWIN("shutdown: not connected", shutdown(tcp, SHUT_RD), wh_shutdown(tcp, SHUT_RD)),
            TWIN("shutdown: how?", shutdown(pair.a, 7), wh_shutdown(pair.a, 7)),
            TWIN("shutdown: writing", shutdown(pair.a, SHUT_WR), wh_shutdown(pair.a, SHUT_WR)),
            TWIN("send: after it", send(pair.a, buf, 1, MSG_NOSIGNAL), wh_send(pair.a, buf, 1, 0)),
        };
#undef TWIN
        for (const Twin &twin : twins) {
            ssize_t posix = plain(twin.posix());
            ssize_t whorl = -ETIME;
            WH_WITH_TIMEOUT(5 * WH_SECOND)
            {
                whorl = twin.whorl();
            }
            INFO(twin.what);
            CHECK(whorl == posix);
        }
    });
}

/* ---- recv and send ---- */

TEST_CASE("io: recv returns what is there, a look leaves it there, and the end is 0")
{
    in_run([] {
        FdPair pair = tcp_pair();
        char buf[16] = {};
        send(pair.b, "hello", 5, 0);
        ssize_t n = wh_recv(pair.a, buf, sizeof buf, MSG_PEEK);
        CHECK(n == 5);
        n = wh_recv(pair.a, buf, 2, 0);
        CHECK(n == 2);
        n = wh_recv(pair.a, buf + 2, sizeof buf - 2, 0);
        CHECK(n == 3);
        CHECK(std::string(buf) == "hello");
        shutdown(pair.b, SHUT_WR);
        n = wh_recv(pair.a, buf, sizeof buf, 0);
        CHECK(n == 0);
        n = wh_recv(pair.a, buf, sizeof buf, 0);
        CHECK(n == 0);
    });
}

TEST_CASE("io: a reset by the peer is -ECONNRESET")
{
    in_run([] {
        FdPair pair = tcp_pair();
        struct linger linger = {1, 0};
        setsockopt(pair.b, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
        char byte;
        ssize_t n = 0;
        wh_coro *receiver = spawn([&] { n = wh_recv(pair.a, &byte, 1, 0); });
        wh_yield();
        pair.b.reset();
        join(receiver);
        CHECK(n == -ECONNRESET);
        n = wh_send(pair.a, "x", 1, 0);
        CHECK(n == -EPIPE);
    });
}

TEST_CASE("io: MSG_WAITALL waits for all of it, and at the end returns what there was")
{
    for (bool tcp : {false, true})
        in_run([tcp] {
            FdPair pair = tcp ? tcp_pair() : socket_pair();
            char buf[8] = {};
            ssize_t n = 0;
            wh_coro *receiver = spawn([&] { n = wh_recv(pair.a, buf, 8, MSG_WAITALL); });
            Turns turn;
            for (const char *part : {"ab", "cd", "efgh"}) {
                turn(3);
                CHECK(n == 0);
                send(pair.b, part, strlen(part), 0);
            }
            join(receiver);
            CHECK(n == 8);
            CHECK(std::string(buf, 8) == "abcdefgh");

            receiver = spawn([&] { n = wh_recv(pair.a, buf, 8, MSG_WAITALL); });
            send(pair.b, "xyz", 3, 0);
            turn(3);
            shutdown(pair.b, SHUT_WR);
            join(receiver);
            CHECK(n == 3);
        });
}

TEST_CASE("io: MSG_WAITALL that a deadline ends returns the bytes that had arrived")
{
    in_run([] {
        FdPair pair = socket_pair();
        char buf[8] = {};
        ssize_t n = 0;
        send(pair.b, "abc", 3, 0);
        WH_WITH_TIMEOUT(5 * WH_MILLISECOND)
        {
            n = wh_recv(pair.a, buf, 8, MSG_WAITALL);
        }
        /* Taken from the socket already, or still in it: not lost in either case. */
        char rest[8] = {};
        ssize_t left = recv(pair.a, rest, 8, MSG_DONTWAIT);
        INFO("returned " << n << ", left " << left);
        CHECK(((n == 3 && left == -1) || (n == -ETIMEDOUT && left == 3)));
    });
}

TEST_CASE("io: no send raises SIGPIPE: the answer is -EPIPE")
{
    ChildEnd end = in_child([] {
        std::signal(SIGPIPE, SIG_DFL);
        return in_run([] {
            FdPair pair = socket_pair();
            pair.b.reset();
            struct iovec iov = {const_cast<char *>("x"), 1};
            struct msghdr msg = {};
            msg.msg_iov = &iov;
            msg.msg_iovlen = 1;
            CHILD_REQUIRE(wh_send(pair.a, "x", 1, 0) == -EPIPE);
            CHILD_REQUIRE(wh_send(pair.a, "x", 1, MSG_DONTWAIT) == -EPIPE);
            CHILD_REQUIRE(wh_sendmsg(pair.a, &msg, 0) == -EPIPE);
            CHILD_REQUIRE(wh_send_all(pair.a, "x", 1) == -EPIPE);
            return 3;
        });
    });
    INFO(end.how());
    CHECK(end.exited(3));
}

namespace
{

/* Bytes that show their place, so that a piece that is lost, doubled or moved is noticed. */
std::vector<char> pattern(size_t bytes)
{
    std::vector<char> data(bytes);
    auto *words = reinterpret_cast<uint32_t *>(data.data());
    for (size_t i = 0; i < bytes / 4; i++)
        words[i] = static_cast<uint32_t>(i * 2654435761u);
    return data;
}

/* Receives all and compares, in pieces of changing size, resting now and then. */
size_t receive_all(int fd, const std::vector<char> &expected)
{
    std::vector<char> piece(300000);
    size_t at = 0;
    ssize_t n;
    while ((n = wh_recv(fd, piece.data(), 1 + at * 7919 % piece.size(), 0)) > 0) {
        if (at + static_cast<size_t>(n) > expected.size() ||
            memcmp(expected.data() + at, piece.data(), static_cast<size_t>(n)) != 0)
            return 0;
        at += static_cast<size_t>(n);
        if (at % 5 == 0)
            wh_sleep(10 * WH_MICROSECOND);
    }
    return at;
}

} // namespace

TEST_CASE("io: send_all sends 64 MiB to a slow reader, whole and in order")
{
    constexpr size_t BYTES = size_t(64) << 20;
    const std::vector<char> data = pattern(BYTES);
    for (bool tcp : {true, false})
        in_run([&] {
            FdPair pair = tcp ? tcp_pair() : socket_pair();
            int small = 16384;
            setsockopt(pair.a, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
            size_t got = 0;
            wh_coro *reader = spawn([&] { got = receive_all(pair.a, data); });
            ssize_t n = wh_send_all(pair.b, data.data(), BYTES);
            CHECK(n == BYTES);
            shutdown(pair.b, SHUT_WR);
            join(reader);
            CHECK(got == BYTES);
        });
}

TEST_CASE("io: send_all to a peer that goes away in the middle fails, and does not hang")
{
    const std::vector<char> data = pattern(size_t(8) << 20);
    in_run([&] {
        for (bool tcp : {true, false}) {
            FdPair pair = tcp ? tcp_pair() : socket_pair();
            wh_coro *reader = spawn([&] {
                char buf[100000];
                for (int i = 0; i < 5; i++)
                    wh_recv(pair.a, buf, sizeof buf, 0);
                wh_close(pair.a.release());
            });
            ssize_t n = wh_send_all(pair.b, data.data(), data.size());
            CHECK((n == -EPIPE || n == -ECONNRESET));
            join(reader);
        }
        ssize_t n = wh_send_all(-1, data.data(), 1);
        CHECK(n == -EBADF);
        n = wh_send_all(-1, data.data(), 0);
        CHECK(n == 0);
    });
}

TEST_CASE("io: send_all that its deadline ends says so")
{
    const std::vector<char> data = pattern(size_t(8) << 20);
    in_run([&] {
        FdPair pair = socket_pair();
        ssize_t n = 0;
        WH_WITH_TIMEOUT(5 * WH_MILLISECOND)
        {
            n = wh_send_all(pair.b, data.data(), data.size());
        }
        CHECK(n == -ETIMEDOUT);
    });
}

/* ---- Messages ---- */

TEST_CASE("io: datagrams keep their borders, their senders and their lengths")
{
    in_run([] {
        Fd a(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
        Fd b(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
        Address any = Address::ipv4(0);
        CHECK(bind(a, any.any(), any.len) == 0);
        CHECK(bind(b, any.any(), any.len) == 0);
        Address to = Address::of(a), from = Address::of(b), seen;

        char head[] = "head", body[] = "body";
        struct iovec out[2] = {{head, 4}, {body, 4}};
        struct msghdr msg = {};
        msg.msg_name = to.any();
        msg.msg_namelen = to.len;
        msg.msg_iov = out;
        msg.msg_iovlen = 2;
        ssize_t n = wh_sendmsg(b, &msg, 0);
        CHECK(n == 8);
        msg.msg_iovlen = 0;
        n = wh_sendmsg(b, &msg, 0);
        CHECK(n == 0);
        msg.msg_iovlen = 2;
        n = wh_sendmsg(b, &msg, 0);
        CHECK(n == 8);

        char first[3] = {}, second[16] = {};
        struct iovec in[2] = {{first, sizeof first}, {second, sizeof second}};
        struct msghdr got = {};
        got.msg_name = seen.any();
        got.msg_namelen = seen.len;
        got.msg_iov = in;
        got.msg_iovlen = 2;
        n = wh_recvmsg(a, &got, 0);
        CHECK(n == 8);
        CHECK(std::string(first, 3) == "hea");
        CHECK(std::string(second, 5) == "dbody");
        CHECK(got.msg_namelen == sizeof(struct sockaddr_in));
        CHECK(seen.port() == from.port());
        n = wh_recv(a, second, sizeof second, 0);
        CHECK(n == 0); /* the empty one */
        n = wh_recv(a, second, 2, MSG_TRUNC);
        CHECK(n == 8);
    });
}

TEST_CASE("io: a descriptor is passed through a Unix socket, and works")
{
    const int fds = fds_open();
    in_run([] {
        FdPair pair = socket_pair(), pipe = pipe_pair();
        char byte = 'p';
        struct iovec iov = {&byte, 1};
        alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
        struct msghdr msg = {};
        msg.msg_iov = &iov;
        msg.msg_iovlen = 1;
        msg.msg_control = control;
        msg.msg_controllen = sizeof control;
        struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(sizeof(int));
        const int passed = pipe.b;
        memcpy(CMSG_DATA(cmsg), &passed, sizeof passed);

        Fd received;
        ssize_t n = 0;
        wh_coro *receiver = spawn([&] {
            char got = 0;
            struct iovec into = {&got, 1};
            alignas(struct cmsghdr) char space[CMSG_SPACE(sizeof(int))] = {};
            struct msghdr in = {};
            in.msg_iov = &into;
            in.msg_iovlen = 1;
            in.msg_control = space;
            in.msg_controllen = sizeof space;
            n = wh_recvmsg(pair.a, &in, MSG_CMSG_CLOEXEC);
            CHECK(got == 'p');
            CHECK((in.msg_flags & MSG_CTRUNC) == 0);
            struct cmsghdr *first = CMSG_FIRSTHDR(&in);
            CHECK(first != nullptr);
            int fd = -1;
            if (first && first->cmsg_type == SCM_RIGHTS)
                memcpy(&fd, CMSG_DATA(first), sizeof fd);
            received = Fd(fd);
        });
        wh_yield();
        ssize_t sent = wh_sendmsg(pair.b, &msg, 0);
        CHECK(sent == 1);
        join(receiver);
        CHECK(n == 1);
        CHECK(received >= 0);
        CHECK(fcntl(received, F_GETFD) == FD_CLOEXEC);
        sent = wh_write(received, "through", 7);
        CHECK(sent == 7);
        char text[8] = {};
        n = wh_read(pipe.a, text, 8);
        CHECK(n == 7);
        CHECK(std::string(text) == "through");
    });
    CHECK(fds_open() == fds);
}

TEST_CASE("io: a control message that does not fit is marked, not written past its end")
{
    in_run([] {
        FdPair pair = socket_pair();
        char byte = 'c';
        struct iovec iov = {&byte, 1};
        alignas(struct cmsghdr) char control[CMSG_SPACE(2 * sizeof(int))] = {};
        struct msghdr msg = {};
        msg.msg_iov = &iov;
        msg.msg_iovlen = 1;
        msg.msg_control = control;
        msg.msg_controllen = sizeof control;
        struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(2 * sizeof(int));
        const int passed[2] = {pair.a, pair.b};
        memcpy(CMSG_DATA(cmsg), passed, sizeof passed);
        ssize_t n = wh_sendmsg(pair.b, &msg, 0);
        CHECK(n == 1);

        char space[64];
        memset(space, 0xee, sizeof space);
        msg.msg_control = space;
        msg.msg_controllen = 8;
        n = wh_recvmsg(pair.a, &msg, 0);
        CHECK(n == 1);
        CHECK((msg.msg_flags & MSG_CTRUNC) != 0);
        for (size_t i = 8; i < sizeof space; i++)
            CHECK(space[i] == '\xee');
    });
}

/* ---- Connections ---- */

TEST_CASE("io: accept gives a descriptor that is close-on-exec and blocking")
{
    in_run([] {
        Fd listener = plain_listener();
        Address address = Address::of(listener);
        Fd client(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        int rc = wh_connect(client, address.any(), address.len);
        CHECK(rc == 0);
        Fd server(wh_accept(listener));
        CHECK(server >= 0);
        CHECK(fcntl(server, F_GETFD) == FD_CLOEXEC);
        CHECK((fcntl(server, F_GETFL) & O_NONBLOCK) == 0);
    });
}

TEST_CASE("io: accept4 fills in the address and obeys its flags")
{
    in_run([] {
        Fd listener = plain_listener();
        Address address = Address::of(listener), from;
        for (int flags : {0, static_cast<int>(SOCK_CLOEXEC), static_cast<int>(SOCK_NONBLOCK)}) {
            Fd client(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
            int rc = wh_connect(client, address.any(), address.len);
            CHECK(rc == 0);
            from = Address();
            Fd server(wh_accept4(listener, from.any(), &from.len, flags));
            CHECK(server >= 0);
            CHECK(from.len == sizeof(struct sockaddr_in));
            CHECK(from.port() == Address::of(client).port());
            CHECK(fcntl(server, F_GETFD) == (flags & SOCK_CLOEXEC ? FD_CLOEXEC : 0));
            CHECK(!!(fcntl(server, F_GETFL) & O_NONBLOCK) == !!(flags & SOCK_NONBLOCK));
        }
    });
}

TEST_CASE("io: accept waits for a client, and several may wait for one each")
{
    in_run([] {
        constexpr int CLIENTS = 20;
        Fd listener = plain_listener(CLIENTS);
        Address address = Address::of(listener);
        std::atomic<int> accepted{0};
        std::vector<wh_coro *> servers;
        for (int i = 0; i < CLIENTS; i++)
            servers.push_back(spawn([&] {
                Fd server(wh_accept(listener));
                accepted += server >= 0;
            }));
        wh_sleep(1);
        CHECK(accepted == 0);
        std::vector<Fd> clients;
        for (int i = 0; i < CLIENTS; i++) {
            clients.emplace_back(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
            int rc = wh_connect(clients.back(), address.any(), address.len);
            CHECK(rc == 0);
        }
        for (wh_coro *server : servers)
            join(server);
        CHECK(accepted == CLIENTS);
    });
}

TEST_CASE("io: connecting twice is -EISCONN, and a datagram socket may be connected anew")
{
    in_run([] {
        Fd listener = plain_listener();
        Address address = Address::of(listener);
        Fd client(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        int rc = wh_connect(client, address.any(), address.len);
        CHECK(rc == 0);
        rc = wh_connect(client, address.any(), address.len);
        CHECK(rc == -EISCONN);
        Fd udp(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
        for (int i = 0; i < 2; i++) {
            rc = wh_connect(udp, address.any(), address.len);
            CHECK(rc == 0);
        }
    });
}

TEST_CASE("io: connect waits for a listener with a full queue, blocking socket or not")
{
    /* The first packet is dropped, and the kernel sends it again after a second: side by side. */
    auto connect_to_full = [](int flags) {
        Fd listener = plain_listener(0);
        Address address = Address::of(listener);
        Fd filler(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        int rc = connect(filler, address.any(), address.len);
        CHECK(rc == 0);
        Fd client(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0));
        rc = -1;
        wh_coro *connector = spawn([&] {
            WH_WITH_TIMEOUT(30 * WH_SECOND)
            {
                rc = wh_connect(client, address.any(), address.len);
            }
        });
        wh_sleep(WH_MILLISECOND);
        CHECK(rc == -1);
        Fd first(wh_accept(listener));
        join(connector);
        CHECK(rc == 0);
    };
    in_run([&] {
        wh_coro *blocking = spawn([&] { connect_to_full(0); });
        wh_coro *non_blocking = spawn([&] { connect_to_full(SOCK_NONBLOCK); });
        join(blocking);
        join(non_blocking);
    });
}

TEST_CASE("io: shutdown ends one direction and not the other")
{
    in_run([] {
        FdPair pair = tcp_pair();
        char byte = 0;
        int rc = wh_shutdown(pair.a, SHUT_WR);
        CHECK(rc == 0);
        ssize_t n = wh_recv(pair.b, &byte, 1, 0);
        CHECK(n == 0);
        n = wh_send(pair.b, "x", 1, 0);
        CHECK(n == 1);
        n = wh_recv(pair.a, &byte, 1, 0);
        CHECK(n == 1);
        n = wh_send(pair.a, "x", 1, 0);
        CHECK(n == -EPIPE);
    });
}

TEST_CASE("io: shutdown ends a receive of another coroutine with 0")
{
    in_run([] {
        FdPair pair = tcp_pair();
        char byte;
        ssize_t n = -1;
        wh_coro *receiver = spawn([&] { n = wh_recv(pair.a, &byte, 1, 0); });
        wh_yield();
        int rc = wh_shutdown(pair.a, SHUT_RD);
        CHECK(rc == 0);
        join(receiver);
        CHECK(n == 0);
    });
}

TEST_CASE("io: poll returns the events that hold")
{
    in_run([] {
        FdPair pair = socket_pair();
        int events = wh_poll(pair.a, POLLOUT);
        CHECK(events == POLLOUT);
        events = wh_poll(pair.a, POLLIN | POLLOUT);
        CHECK(events == POLLOUT);
        send(pair.b, "x", 1, 0);
        events = wh_poll(pair.a, POLLIN | POLLOUT);
        CHECK(events == (POLLIN | POLLOUT));
        events = wh_poll(pair.a, POLLIN);
        CHECK(events == POLLIN);

        char byte;
        recv(pair.a, &byte, 1, 0);
        events = 0;
        wh_coro *waiter = spawn([&] { events = wh_poll(pair.a, POLLIN); });
        Turns turn;
        turn(3);
        CHECK(events == 0);
        send(pair.b, "y", 1, 0);
        join(waiter);
        CHECK(events == POLLIN);
        recv(pair.a, &byte, 1, 0);

        events = 0;
        waiter = spawn([&] { events = wh_poll(pair.a, 0); });
        turn(3);
        CHECK(events == 0);
        pair.b.reset();
        join(waiter);
        CHECK((events & POLLHUP) != 0); /* unasked */
        CHECK((events & ~(POLLHUP | POLLRDHUP)) == 0);
        events = wh_poll(pair.a, POLLIN | POLLRDHUP);
        CHECK((events & (POLLIN | POLLRDHUP | POLLHUP)) == (POLLIN | POLLRDHUP | POLLHUP));

        FdPair pipe = pipe_pair();
        pipe.a.reset();
        events = wh_poll(pipe.b, POLLOUT);
        CHECK((events & POLLERR) != 0);
        events = wh_poll(-1, POLLIN);
        CHECK(events == -EBADF);
        events = wh_poll(9999, POLLIN);
        CHECK(events == -EBADF);
    });
}
