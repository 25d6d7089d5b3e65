/*
 * udp_test.cpp: datagrams over loopback, against plain sockets: lengths, addresses, many at once,
 * in one piece, waiting and its ends.
 *
 * Nothing is lost on loopback as long as it fits the receiver's buffer, so what is counted here is
 * counted exactly. Checks are made in the root alone: it is run with several workers, too.
 */
#include "tests/net/peers.hpp"
#include "tests/sched/on_workers.hpp"

#include <catch2/catch_test_macros.hpp>

#include <atomic>

#include <algorithm>
#include <numeric>

#include <sys/un.h>

extern "C" {
int __real_recvmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags,
                    struct timespec *timeout);
int __wrap_recvmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags,
                    struct timespec *timeout);
}

namespace
{

std::atomic<bool> cuts{false};

} // namespace

/* A kernel that has more to tell of a datagram than there is room for. */
int __wrap_recvmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags,
                    struct timespec *timeout)
{
    const int rc = __real_recvmmsg(fd, messages, count, flags, timeout);
    for (int i = 0; cuts && i < rc; i++) {
        messages[i].msg_hdr.msg_flags |= MSG_CTRUNC;
        messages[i].msg_hdr.msg_controllen = 0;
    }
    return rc;
}

namespace
{

Fd plain_udp(int family = AF_INET)
{
    Fd fd(socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    Address address = Address::ipv4(0);
    if (bind(fd, address.any(), address.len) < 0)
        return Fd();
    return fd;
}

wh_addr addr_of(int fd)
{
    wh_addr addr = {};
    if (wh_addr_local(fd, &addr) < 0)
        abort();
    return addr;
}

std::string text_of(const wh_addr &addr)
{
    char buf[WH_ADDR_TEXT];
    return wh_addr_format(&addr, buf, sizeof buf) < 0 ? "?" : buf;
}

/* The lengths of the datagrams that a plain socket has got, taken until none is left. */
std::vector<size_t> lengths_at(int fd, std::string *ret_bytes = nullptr)
{
    static char buf[65536];
    std::vector<size_t> lengths;
    ssize_t n;
    while ((n = recv(fd, buf, sizeof buf, MSG_DONTWAIT)) >= 0) {
        lengths.push_back(static_cast<size_t>(n));
        if (ret_bytes)
            ret_bytes->append(buf, static_cast<size_t>(n));
    }
    return lengths;
}

std::string pattern(size_t len)
{
    std::string bytes(len, 0);
    for (size_t i = 0; i < len; i++)
        bytes[i] = static_cast<char>(i * 7 + i / 251);
    return bytes;
}

/* Datagrams with room for `size` bytes each. */
struct Room {
    std::vector<std::vector<char>> rooms;
    std::vector<wh_datagram> datagrams;

    Room(size_t count, size_t size) : rooms(count, std::vector<char>(size)), datagrams(count)
    {
        for (size_t i = 0; i < count; i++) {
            datagrams[i].bytes = rooms[i].data();
            datagrams[i].size = size;
        }
    }
};

} // namespace

TEST_CASE("udp: an address is parsed and printed in the same form")
{
    for (const char *text :
         {"127.0.0.1:80", "0.0.0.0:0", "255.255.255.255:65535", "[::1]:53", "[2001:db8::17]:1"}) {
        INFO(text);
        wh_addr addr = {};
        CHECK(wh_addr_parse(text, &addr) == 0);
        CHECK(text_of(addr) == text);
        char few[5];
        CHECK(wh_addr_format(&addr, few, sizeof few) == static_cast<int>(strlen(text)));
        CHECK(std::string(few) == std::string(text).substr(0, 4));
    }
    wh_addr addr = {}, other = {};
    for (const char *text : {"", "127.0.0.1", "127.0.0.1:", "name:80", "::1:80", "127.0.0.1:65536"})
        CHECK(wh_addr_parse(text, &addr) == -EINVAL);
    CHECK(wh_addr_parse(nullptr, &addr) == -EINVAL);
    CHECK(wh_addr_parse("localhost:7", &addr) == 0);
    CHECK(text_of(addr) == "127.0.0.1:7");
    CHECK(wh_addr_parse("127.0.0.1:7", &other) == 0);
    CHECK(wh_addr_equal(&addr, &other));
    CHECK(wh_addr_parse("127.0.0.1:8", &other) == 0);
    CHECK(!wh_addr_equal(&addr, &other));
    CHECK(wh_addr_parse("127.0.0.2:7", &other) == 0);
    CHECK(!wh_addr_equal(&addr, &other));
    wh_addr one = {}, two = {};
    CHECK(wh_addr_parse("[::1]:7", &one) == 0);
    CHECK(wh_addr_parse("[::2]:7", &two) == 0);
    CHECK(!wh_addr_equal(&one, &two));
    CHECK(!wh_addr_equal(&one, &addr));
    CHECK(wh_addr_equal(&one, &one));
    wh_addr none = {};
    char buf[WH_ADDR_TEXT];
    CHECK(wh_addr_format(&none, buf, sizeof buf) == -EAFNOSUPPORT);
    FdPair pair = socket_pair();
    CHECK(wh_addr_local(pair.a, &none) == -EAFNOSUPPORT);
    CHECK(wh_addr_local(-1, &none) == -EBADF);
}

TEST_CASE("udp: a socket's own address is its peer's peer, over UDP and TCP, IPv4 and IPv6")
{
    wh_addr here = {}, there = {};
    FdPair tcp = tcp_pair();
    CHECK(wh_addr_peer(tcp.a, &there) == 0);
    here = addr_of(tcp.b);
    CHECK(wh_addr_equal(&here, &there));
    CHECK(there.len == sizeof there.in);
    here = addr_of(tcp.a);
    CHECK(wh_addr_peer(tcp.b, &there) == 0);
    CHECK(wh_addr_equal(&here, &there));
    for (const char *text : {"127.0.0.1:0", "[::1]:0"}) {
        Fd to(wh_listen_udp(text, nullptr));
        if (to == -EADDRNOTAVAIL || to == -EAFNOSUPPORT)
            continue; /* no IPv6 here */
        here = addr_of(to);
        Fd fd(wh_dial_udp(text_of(here).c_str(), nullptr));
        CHECK(wh_addr_peer(fd, &there) == 0);
        CHECK(wh_addr_equal(&here, &there));
        CHECK(wh_addr_peer(to, &there) == -ENOTCONN);
    }
    there.len = 7;
    FdPair pair = socket_pair(), pipe = pipe_pair();
    CHECK(wh_addr_peer(pair.a, &there) == -EAFNOSUPPORT);
    CHECK(wh_addr_peer(pipe.a, &there) == -ENOTSOCK);
    CHECK(wh_addr_peer(-1, &there) == -EBADF);
    const struct linger hard = {1, 0};
    CHECK(setsockopt(tcp.a, SOL_SOCKET, SO_LINGER, &hard, sizeof hard) == 0);
    tcp.a.reset();
    CHECK(wh_addr_peer(tcp.b, &there) == -ENOTCONN);
    CHECK(there.len == 7);
}

TEST_CASE("udp: what a socket of another family receives is from nobody")
{
    in_run([] {
        /* One is longer than a wh_addr. It is not received by recvmmsg(2), of which
         * AddressSanitizer thinks that so many bytes were written. */
        for (const socklen_t name_len : {socklen_t(sizeof(struct sockaddr_un)), socklen_t(20)}) {
            int fds[2];
            CHECK(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, fds) == 0);
            Fd to(fds[0]), fd(fds[1]);
            struct sockaddr_un name = {};
            name.sun_family = AF_UNIX;
            snprintf(name.sun_path + 1, 16, "udp-%d", getpid());
            CHECK(bind(fd, reinterpret_cast<struct sockaddr *>(&name), name_len) == 0);
            char buf[10];
            wh_addr from = {};
            from.len = 7;
            CHECK(send(fd, "one", 3, 0) == 3);
            const ssize_t n = wh_udp_recv(to, buf, sizeof buf, &from);
            CHECK(n == 3);
            CHECK(from.len == 0);
            if (name_len > sizeof from)
                continue;
            Room room(2, 10);
            CHECK(send(fd, "two", 3, 0) == 3);
            const int count = wh_udp_recv_many(to, room.datagrams.data(), 2);
            CHECK(count == 1);
            CHECK(room.datagrams[0].len == 3);
            CHECK(room.datagrams[0].addr.len == 0);
        }
    });
}

TEST_CASE("udp: datagrams come whole, with the address they are from, and are answered")
{
    in_run([] {
        Fd fd(wh_listen_udp("127.0.0.1:0", nullptr));
        CHECK(fd >= 0);
        CHECK((fcntl(fd, F_GETFD) & FD_CLOEXEC));
        Fd peer = plain_udp();
        wh_addr here = addr_of(fd), from = {};
        char buf[100] = {};
        for (size_t len : {size_t(5), size_t(0), size_t(100)}) {
            std::string bytes = pattern(len);
            CHECK(sendto(peer, bytes.data(), len, 0, &here.any, here.len) == ssize_t(len));
            ssize_t n = wh_udp_recv(fd, buf, sizeof buf, &from);
            CHECK(n == ssize_t(len));
            CHECK(std::string(buf, len) == bytes);
            wh_addr there = addr_of(peer);
            CHECK(wh_addr_equal(&from, &there));
            n = wh_udp_send(fd, buf, len, &from);
            CHECK(n == ssize_t(len));
            CHECK(recv(peer, buf, sizeof buf, 0) == ssize_t(len));
        }
    });
}

TEST_CASE("udp: what does not fit is lost, and the true length says so")
{
    in_run([] {
        Fd fd(wh_listen_udp("127.0.0.1:0", nullptr));
        Fd peer = plain_udp();
        wh_addr here = addr_of(fd), from = {};
        std::string bytes = pattern(1000);
        for (int i = 0; i < 3; i++)
            CHECK(sendto(peer, bytes.data(), 1000 - size_t(i), 0, &here.any, here.len) > 0);
        char buf[10];
        ssize_t n = wh_udp_recv(fd, buf, sizeof buf, &from);
        CHECK(n == 1000);
        CHECK(std::string(buf, 10) == bytes.substr(0, 10));
        n = wh_udp_recv(fd, buf, sizeof buf, nullptr);
        CHECK(n == 999);
        Room room(2, 10);
        int count = wh_udp_recv_many(fd, room.datagrams.data(), 2);
        CHECK(count == 1);
        CHECK(room.datagrams[0].len == 998);
        CHECK(room.datagrams[0].segment_bytes == 0);
    });
}

TEST_CASE("udp: a socket for every address sees IPv4 as such and answers it")
{
    in_run([] {
        Fd fd(wh_listen_udp(":0", nullptr));
        CHECK(fd >= 0);
        Address here = Address::ipv4(Address::of(fd).port());
        Fd peer = plain_udp();
        CHECK(sendto(peer, "x", 1, 0, here.any(), here.len) == 1);
        char buf[10];
        wh_addr from = {}, there = addr_of(peer);
        ssize_t n = wh_udp_recv(fd, buf, sizeof buf, &from);
        CHECK(n == 1);
        CHECK(wh_addr_equal(&from, &there));
        n = wh_udp_send(fd, "yes", 3, &from);
        CHECK(n == 3);
        CHECK(recv(peer, buf, sizeof buf, 0) == 3);
        CHECK(sendto(peer, "x", 1, 0, here.any(), here.len) == 1);
        Room room(1, 10);
        int count = wh_udp_recv_many(fd, room.datagrams.data(), 1);
        CHECK(count == 1);
        CHECK(wh_addr_equal(&room.datagrams[0].addr, &there));
    });
}

TEST_CASE("udp: a connected socket speaks with its peer alone, and is told when nobody is there")
{
    in_run([] {
        Fd peer = plain_udp(), stranger = plain_udp();
        Fd fd(wh_dial_udp(text_of(addr_of(peer)).c_str(), nullptr));
        CHECK(fd >= 0);
        CHECK((fcntl(fd, F_GETFD) & FD_CLOEXEC));
        wh_addr here = addr_of(fd), from = {};
        ssize_t n = wh_udp_send(fd, "hello", 5, nullptr);
        CHECK(n == 5);
        CHECK(sendto(stranger, "no", 2, 0, &here.any, here.len) == 2);
        CHECK(sendto(peer, "yes", 3, 0, &here.any, here.len) == 3);
        char buf[10];
        n = wh_udp_recv(fd, buf, sizeof buf, &from);
        CHECK(n == 3);

        peer.reset();
        n = wh_udp_send(fd, "hello", 5, nullptr);
        CHECK(n == 5);
        n = wh_udp_recv(fd, buf, sizeof buf, nullptr);
        CHECK(n == -ECONNREFUSED);
        n = wh_udp_send(fd, "hello", 5, nullptr);
        CHECK(n == 5);
        Room room(1, 10);
        int count = wh_udp_recv_many(fd, room.datagrams.data(), 1);
        CHECK(count == -ECONNREFUSED);
    });
}

TEST_CASE("udp: addresses, lengths and options that cannot be are refused")
{
    in_run([] {
        CHECK(wh_listen_udp("nonsense", nullptr) == -EINVAL);
        CHECK(wh_dial_udp(nullptr, nullptr) == -EINVAL);
        wh_udp_options negative = {};
        negative.recv_buffer_bytes = -1;
        CHECK(wh_listen_udp("127.0.0.1:0", &negative) == -EINVAL);
        CHECK(wh_listen_udp("192.0.2.1:0", nullptr) == -EADDRNOTAVAIL);
        Fd fd(wh_listen_udp("127.0.0.1:0", nullptr));
        std::string same = text_of(addr_of(fd));
        CHECK(wh_listen_udp(same.c_str(), nullptr) == -EADDRINUSE);

        ssize_t n = wh_udp_send(fd, "x", 1, nullptr);
        CHECK(n == -EDESTADDRREQ);
        std::string big(65508, 'x');
        wh_addr here = addr_of(fd);
        n = wh_udp_send(fd, big.data(), big.size(), &here);
        CHECK(n == -EMSGSIZE);
        n = wh_udp_send_segments(fd, big.data(), 10, 0, &here);
        CHECK(n == -EINVAL);
        n = wh_udp_send_segments(fd, big.data(), 10, 65508, &here);
        CHECK(n == -EINVAL);
        n = wh_udp_send_segments(fd, big.data(), 10, 5, nullptr);
        CHECK(n == -EDESTADDRREQ);
        n = wh_udp_send_segments(fd, big.data(), 0, 5, &here);
        CHECK(n == 0);
        n = wh_udp_send_many(fd, nullptr, 0);
        CHECK(n == 0);
        n = wh_udp_recv_many(fd, nullptr, 0);
        CHECK(n == 0);
        wh_datagram too_long = {};
        too_long.bytes = big.data();
        too_long.len = big.size();
        too_long.addr = here;
        n = wh_udp_send_many(fd, &too_long, 1);
        CHECK(n == -EMSGSIZE);
        char buf[10];
        n = wh_udp_recv(-1, buf, sizeof buf, &here);
        CHECK(n == -EBADF);
        n = wh_udp_send_many(-1, &too_long, 1);
        CHECK(n == -EBADF);
    });
}

TEST_CASE("udp: with reuseport several sockets share a port; buffers are as asked")
{
    in_run([] {
        wh_udp_options options = {};
        options.reuseport = 1;
        options.recv_buffer_bytes = 20000;
        options.send_buffer_bytes = 30000;
        Fd one(wh_listen_udp("127.0.0.1:0", &options));
        Fd two(wh_listen_udp(text_of(addr_of(one)).c_str(), &options));
        CHECK(one >= 0);
        CHECK(two >= 0);
        int value = 0;
        socklen_t len = sizeof value;
        CHECK(getsockopt(two, SOL_SOCKET, SO_RCVBUF, &value, &len) == 0);
        CHECK(value == 40000);
        CHECK(getsockopt(two, SOL_SOCKET, SO_SNDBUF, &value, &len) == 0);
        CHECK(value == 60000);
    });
}

TEST_CASE("udp: without a descriptor left there is -EMFILE and nothing is left open")
{
    in_run([] {
        int before = fds_open();
        struct rlimit limit = {}, none = {};
        getrlimit(RLIMIT_NOFILE, &limit);
        none = {0, limit.rlim_max};
        setrlimit(RLIMIT_NOFILE, &none);
        int listener = wh_listen_udp("127.0.0.1:0", nullptr);
        int dialled = wh_dial_udp("127.0.0.1:9", nullptr);
        setrlimit(RLIMIT_NOFILE, &limit);
        CHECK(listener == -EMFILE);
        CHECK(dialled == -EMFILE);
        Fd fd(wh_listen_udp("127.0.0.1:0", nullptr));
        Fd taken(wh_listen_udp(text_of(addr_of(fd)).c_str(), nullptr));
        fd.reset();
        CHECK(fds_open() == before);
    });
}

TEST_CASE("udp: many are taken at once, in their order, at most as many as there is room for")
{
    in_run([] {
        Fd fd(wh_listen_udp("127.0.0.1:0", nullptr));
        Fd peer = plain_udp();
        wh_addr here = addr_of(fd), there = addr_of(peer);
        std::string bytes = pattern(100);
        for (size_t i = 1; i <= 40; i++)
            CHECK(sendto(peer, bytes.data(), i, 0, &here.any, here.len) == ssize_t(i));
        Room room(10, 100);
        std::vector<size_t> lengths;
        while (lengths.size() < 40) {
            int count = wh_udp_recv_many(fd, room.datagrams.data(), 10);
            CHECK(count == 10);
            if (count <= 0)
                break;
            for (int i = 0; i < count; i++) {
                const wh_datagram &d = room.datagrams[size_t(i)];
                lengths.push_back(d.len);
                CHECK(!memcmp(d.bytes, bytes.data(), d.len));
                CHECK(wh_addr_equal(&d.addr, &there));
                CHECK(d.segment_bytes == 0);
            }
        }
        std::vector<size_t> expected(40);
        std::iota(expected.begin(), expected.end(), 1);
        CHECK(lengths == expected);
    });
}

TEST_CASE("udp: many are sent at once, each to its own address, or all to the peer")
{
    in_run([] {
        Fd fd(wh_listen_udp("127.0.0.1:0", nullptr));
        Fd one = plain_udp(), two = plain_udp();
        std::string bytes = pattern(1000);
        std::vector<wh_datagram> datagrams(50);
        for (size_t i = 0; i < 50; i++) {
            datagrams[i].bytes = bytes.data();
            datagrams[i].len = i;
            datagrams[i].addr = addr_of(i % 2 ? one : two);
        }
        int count = wh_udp_send_many(fd, datagrams.data(), 50);
        CHECK(count == 50);
        std::vector<size_t> odd, even;
        for (size_t i = 0; i < 50; i++)
            (i % 2 ? odd : even).push_back(i);
        CHECK(lengths_at(one) == odd);
        CHECK(lengths_at(two) == even);

        Fd dialled(wh_dial_udp(text_of(addr_of(one)).c_str(), nullptr));
        for (wh_datagram &d : datagrams)
            d.addr = {};
        count = wh_udp_send_many(dialled, datagrams.data(), 50);
        CHECK(count == 50);
        CHECK(lengths_at(one).size() == 50);
    });
}

TEST_CASE("udp: a buffer goes as datagrams of a size, whoever cuts it")
{
    in_run([] {
        wh_udp_options options = {};
        options.recv_buffer_bytes = 4 << 20;
        Fd fd(wh_listen_udp("127.0.0.1:0", nullptr));
        Fd to(wh_listen_udp("127.0.0.1:0", &options));
        wh_addr addr = addr_of(to);
        struct Row {
            size_t len, segment;
        };
        /* One, some, exactly so many as go at once, more; the last shorter, or not. */
        for (const Row &row : std::initializer_list<Row>{{10, 100},
                                                         {100, 100},
                                                         {1050, 100},
                                                         {6400, 100},
                                                         {6500, 100},
                                                         {20001, 1000},
                                                         {70000, 1400},
                                                         {50000, 40000}}) {
            INFO(row.len << " as " << row.segment);
            std::string bytes = pattern(row.len), got;
            ssize_t n = wh_udp_send_segments(fd, bytes.data(), row.len, row.segment, &addr);
            CHECK(n == ssize_t(row.len));
            std::vector<size_t> lengths = lengths_at(to, &got);
            CHECK(got == bytes);
            CHECK(lengths.size() == (row.len + row.segment - 1) / row.segment);
            for (size_t i = 0; i + 1 < lengths.size(); i++)
                CHECK(lengths[i] == row.segment);
        }
    });
}

TEST_CASE("udp: where the kernel refuses to cut, it is done here, and other errors are told")
{
    in_run([] {
        Fd fd(wh_listen_udp("127.0.0.1:0", nullptr));
        Fd to = plain_udp();
        wh_addr addr = addr_of(to);
        int on = 1; /* without checksums the kernel cuts nothing */
        CHECK(setsockopt(fd, SOL_SOCKET, SO_NO_CHECK, &on, sizeof on) == 0);
        std::string bytes = pattern(10001), got;
        ssize_t n = wh_udp_send_segments(fd, bytes.data(), bytes.size(), 500, &addr);
        CHECK(n == 10001);
        CHECK(lengths_at(to, &got).size() == 21);
        CHECK(got == bytes);

        wh_addr port_0 = addr;
        port_0.in.sin_port = 0;
        n = wh_udp_send_segments(fd, bytes.data(), bytes.size(), 500, &port_0);
        CHECK(n == -EINVAL);
        n = wh_udp_send_segments(-1, bytes.data(), bytes.size(), 500, &addr);
        CHECK(n == -EBADF);
        WH_WITH_TIMEOUT(-1)
        {
            n = wh_udp_send_segments(fd, bytes.data(), bytes.size(), 500, &addr);
        }
        CHECK(n == -ETIMEDOUT);
        CHECK(lengths_at(to).empty());
    });
}

TEST_CASE("udp: with gro a piece is received as it was sent, and the size of its datagrams is told")
{
    in_run([] {
        wh_udp_options options = {};
        options.gro = 1;
        Fd to(wh_listen_udp("127.0.0.1:0", &options));
        Fd fd(wh_dial_udp(text_of(addr_of(to)).c_str(), nullptr));
        CHECK(to >= 0);
        std::string bytes = pattern(10500), got;
        ssize_t n = wh_udp_send_segments(fd, bytes.data(), bytes.size(), 1000, nullptr);
        CHECK(n == 10500);
        n = wh_udp_send(fd, "x", 1, nullptr);
        CHECK(n == 1);
        Room room(4, 65535);
        size_t datagrams = 0;
        bool pieces = false;
        while (got.size() < 10501) {
            int count = wh_udp_recv_many(to, room.datagrams.data(), 4);
            CHECK(count > 0);
            if (count <= 0)
                break;
            for (int i = 0; i < count; i++) {
                const wh_datagram &d = room.datagrams[size_t(i)];
                got.append(static_cast<const char *>(d.bytes), d.len);
                size_t each = d.segment_bytes ? d.segment_bytes : d.len;
                CHECK((!d.segment_bytes || d.segment_bytes == 1000));
                pieces = pieces || d.segment_bytes;
                datagrams += (d.len + each - 1) / each;
            }
        }
        CHECK(got == bytes + "x");
        CHECK(datagrams == 12);
        CHECK(pieces == (has_cap("udp_gso") && has_cap("udp_gro")));
    });
}

TEST_CASE("udp: with gro the size of datagrams is told whatever else a socket is set to tell")
{
    constexpr int RCV_MARK = 75, RCV_PRIORITY = 82; /* newer than some headers */
    constexpr int STAMP_RECEIVED = 1 << 3, STAMP_SOFTWARE = 1 << 4;
    in_run([] {
        wh_udp_options options = {};
        options.gro = 1;
        Fd to(wh_listen_udp("127.0.0.1:0", &options));
        Fd fd(wh_dial_udp(text_of(addr_of(to)).c_str(), nullptr));
        auto ask = [&to](int level, int option, int value = 1) {
            return setsockopt(to, level, option, &value, sizeof value) == 0;
        };
        CHECK(ask(SOL_SOCKET, SO_TIMESTAMPNS));
        CHECK(ask(SOL_SOCKET, SO_TIMESTAMPING, STAMP_RECEIVED | STAMP_SOFTWARE));
        CHECK(ask(SOL_SOCKET, SO_RXQ_OVFL));
        (void)ask(SOL_SOCKET, RCV_MARK);
        (void)ask(SOL_SOCKET, RCV_PRIORITY);
        for (int option : {IP_PKTINFO, IP_RECVTTL, IP_RECVTOS, IP_RECVORIGDSTADDR})
            CHECK(ask(IPPROTO_IP, option)); /* these are cut */
        const std::string bytes = pattern(1000);
        Room room(2, 65535);
        for (int round = 0; round < 2; round++) {
            ssize_t n = wh_udp_send_segments(fd, bytes.data(), bytes.size(), 100, nullptr);
            CHECK(n == 1000);
            size_t got = 0;
            while (got < bytes.size()) {
                const int count = wh_udp_recv_many(to, room.datagrams.data(), 2);
                CHECK(count > 0);
                if (count <= 0)
                    return;
                for (int i = 0; i < count; i++) {
                    const wh_datagram &d = room.datagrams[size_t(i)];
                    got += d.len;
                    CHECK((d.len == 100 || d.segment_bytes == 100));
                }
            }
            n = wh_udp_send(fd, "x", 1, nullptr);
            CHECK(n == 1);
            const int count = wh_udp_recv_many(to, room.datagrams.data(), 2);
            CHECK(count == 1);
            CHECK(room.datagrams[0].len == 1);
            CHECK(room.datagrams[0].segment_bytes == 0);
        }

        /* Should a kernel have yet more to tell, that is said, and no size is made up. */
        cuts = true;
        ssize_t n = wh_udp_send(fd, "x", 1, nullptr);
        CHECK(n == 1);
        int count = wh_udp_recv_many(to, room.datagrams.data(), 2);
        CHECK(count == (has_cap("udp_gro") ? -EBADMSG : 1));
        Fd plain(wh_listen_udp("127.0.0.1:0", nullptr));
        const wh_addr there = addr_of(plain);
        n = wh_udp_send(plain, "x", 1, &there);
        CHECK(n == 1);
        count = wh_udp_recv_many(plain, room.datagrams.data(), 2);
        CHECK(count == 1);
        cuts = false;
    });
}

TEST_CASE("udp: every wait ends with deadline, cancel and close, and nothing was taken")
{
    in_run([] {
        Fd fd(wh_listen_udp("127.0.0.1:0", nullptr));
        int fds[2];
        CHECK(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, fds) == 0);
        Fd full(fds[0]), reader(fds[1]);
        while (send(full, "x", 1, MSG_DONTWAIT) == 1)
            ;
        auto receive = [](int on) -> intptr_t {
            char buf[10];
            wh_addr from;
            return wh_udp_recv(on, buf, sizeof buf, &from);
        };
        auto receive_many = [](int on) -> intptr_t {
            Room room(4, 10);
            return wh_udp_recv_many(on, room.datagrams.data(), 4);
        };
        auto send_many = [](int on) -> intptr_t {
            char byte = 'y';
            wh_datagram datagram = {};
            datagram.bytes = &byte;
            datagram.len = 1;
            return wh_udp_send_many(on, &datagram, 1);
        };
        struct Way {
            std::function<intptr_t(int)> call;
            int fd;
        };
        for (const Way &way : {Way{receive, fd}, Way{receive_many, fd}, Way{send_many, full}}) {
            intptr_t n = 0;
            WH_WITH_TIMEOUT(5 * WH_MILLISECOND)
            {
                n = way.call(way.fd);
            }
            CHECK(n == -ETIMEDOUT);
            WH_WITH_TIMEOUT(-1)
            {
                n = way.call(way.fd);
            }
            CHECK(n == -ETIMEDOUT);
            wh_coro *coro = on(worker_for(1), [&] { return way.call(way.fd); });
            until_parked(coro);
            wh_cancel(coro);
            n = join(coro);
            CHECK(n == -ECANCELED);
        }
        /* It waits, and is woken by what comes. */
        wh_coro *coro = on(worker_for(1), [&] { return receive_many(fd); });
        until_parked(coro);
        wh_addr here = addr_of(fd);
        CHECK(sendto(fd, "abc", 3, 0, &here.any, here.len) == 3);
        intptr_t n = join(coro);
        CHECK(n == 1);
        coro = on(worker_for(1), [&] { return send_many(full); });
        until_parked(coro);
        char byte;
        while (recv(reader, &byte, 1, MSG_DONTWAIT) == 1 && byte == 'x')
            ;
        n = join(coro);
        CHECK(n == 1);
        CHECK(send(full, "z", 1, 0) == 1);
        Room room(1, 10); /* of a socket that has no address such as these */
        room.datagrams[0].addr = here;
        n = wh_udp_recv_many(reader, room.datagrams.data(), 1);
        CHECK(n == 1);
        CHECK(room.datagrams[0].addr.len == 0);

        int number = fd.release();
        coro = on(worker_for(1), [=] { return receive_many(number); });
        until_parked(coro);
        n = wh_close(number);
        CHECK(n == 0);
        n = join(coro);
        CHECK(n == -EBADF);
    });
}

namespace
{

/* Whether a datagram waits to be received, and is not. */
bool is_stuck(int fd)
{
    char byte;
    const int64_t limit_ns = wh_now() + 2 * WH_SECOND;
    while (recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0)
        if (wh_now() > limit_ns || wh_sleep(10 * WH_MILLISECOND) < 0)
            return true;
    return false;
}

/* What the kernel has dropped because a core had too much to receive (net.core.netdev_max_backlog),
 * which on loopback anybody's traffic brings about. */
uint64_t dropped_by_kernel()
{
    uint64_t all = 0;
    FILE *file = fopen("/proc/net/softnet_stat", "re");
    char line[512];
    while (file && fgets(line, sizeof line, file)) {
        unsigned processed = 0, dropped = 0;
        if (sscanf(line, "%x %x", &processed, &dropped) == 2)
            all += dropped;
    }
    if (file)
        fclose(file);
    return all;
}

} // namespace

TEST_CASE("udp: many coroutines on all workers send to one, which answers each")
{
    in_run([] {
        constexpr unsigned PEERS = 40, ROUNDS = times(50);
        std::atomic<int> lost{0};
        const uint64_t dropped = dropped_by_kernel();
        Fd server(wh_listen_udp("127.0.0.1:0", nullptr));
        std::string address = text_of(addr_of(server));
        wh_coro *coro = on(worker_for(1), [&]() -> intptr_t {
            Room room(16, 100);
            intptr_t served = 0;
            for (;;) {
                int count = wh_udp_recv_many(server, room.datagrams.data(), 16);
                if (count < 0)
                    return count == -ECANCELED ? served : count;
                for (int done = 0; done < count;) {
                    int n = wh_udp_send_many(server, &room.datagrams[size_t(done)],
                                             unsigned(count - done));
                    if (n < 0)
                        return n;
                    done += n;
                }
                served += count;
            }
        });
        intptr_t right = on_all(PEERS, [&](unsigned i) -> intptr_t {
            Fd fd(wh_dial_udp(address.c_str(), nullptr));
            intptr_t rounds = 0;
            for (unsigned round = 0; round < ROUNDS; round++) {
                uint32_t sent = i * 1000 + round, got = 0;
                if (wh_udp_send(fd, &sent, sizeof sent, nullptr) != sizeof sent)
                    break;
                intptr_t n = 0;
                WH_WITH_TIMEOUT(10 * WH_SECOND)
                {
                    n = wh_udp_recv(fd, &got, sizeof got, nullptr);
                }
                if (n == -ETIMEDOUT && dropped_by_kernel() > dropped && !is_stuck(fd) &&
                    !is_stuck(server)) {
                    lost++;
                    fd = Fd(wh_dial_udp(address.c_str(), nullptr)); /* no late answer to this one */
                    round--;
                    continue;
                }
                if (n != sizeof got || got != sent)
                    break;
                rounds++;
            }
            wh_close(fd.release());
            return rounds;
        });
        INFO("lost " << lost << ", dropped " << dropped_by_kernel() - dropped);
        CHECK(right == intptr_t(PEERS * ROUNDS));
        wh_cancel(coro);
        intptr_t served = join(coro);
        CHECK(served >= intptr_t(PEERS * ROUNDS));
        CHECK(served <= intptr_t(PEERS * ROUNDS) + lost);
    });
}
