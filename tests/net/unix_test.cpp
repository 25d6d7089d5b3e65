/*
 * unix_test.cpp: descriptors and credentials over Unix sockets: what arrives is the same file, is
 * close-on-exec, and nothing that was refused stays open.
 */
#include "tests/base/child.hpp"
#include "tests/net/peers.hpp"
#include "tests/sched/on_workers.hpp"

#include <catch2/catch_test_macros.hpp>

#include <sched.h>
#include <sys/stat.h>
#include <sys/wait.h>

namespace
{

bool same_file(int a, int b)
{
    struct stat x = {}, y = {};
    return fstat(a, &x) == 0 && fstat(b, &y) == 0 && x.st_ino == y.st_ino && x.st_dev == y.st_dev;
}

FdPair datagram_pair()
{
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, fds) < 0)
        return {};
    return {Fd(fds[0]), Fd(fds[1])};
}

} // namespace

TEST_CASE("unix: a descriptor that is passed is the same file, close-on-exec, and works")
{
    in_run([] {
        for (bool stream : {true, false}) {
            FdPair pair = stream ? socket_pair() : datagram_pair();
            FdPair pipe = pipe_pair();
            int fd = pipe.b;
            ssize_t n = wh_send_fds(pair.a, "take", 4, &fd, 1);
            CHECK(n == 4);
            char buf[10] = {};
            wh_fd got[3] = {-1, -1, -1};
            unsigned count = 3;
            n = wh_recv_fds(pair.b, buf, sizeof buf, got, &count);
            CHECK(n == 4);
            CHECK(std::string(buf) == "take");
            CHECK(count == 1);
            Fd ours(got[0]);
            CHECK(ours != pipe.b);
            CHECK(same_file(ours, pipe.b));
            CHECK((fcntl(ours, F_GETFD) & FD_CLOEXEC));
            n = wh_write(ours, "x", 1);
            CHECK(n == 1);
            n = wh_read(pipe.a, buf, sizeof buf);
            CHECK(n == 1);
        }
    });
}

TEST_CASE("unix: as many as the kernel takes in one message, and not one more")
{
    in_run([] {
        FdPair pair = socket_pair(), pipe = pipe_pair();
        int before = fds_open();
        std::vector<int> fds(WH_FDS_MAX + 1, pipe.a), got(WH_FDS_MAX, -1);
        ssize_t n = wh_send_fds(pair.a, "x", 1, fds.data(), WH_FDS_MAX + 1);
        CHECK(n == -EINVAL);
        n = wh_send_fds(pair.a, "x", 1, fds.data(), 0);
        CHECK(n == -EINVAL);
        n = wh_send_fds(pair.a, "x", 0, fds.data(), 1);
        CHECK(n == -EINVAL);
        fds[3] = -1;
        n = wh_send_fds(pair.a, "x", 1, fds.data(), 4);
        CHECK(n == -EBADF);
        fds[3] = pipe.a;
        n = wh_send_fds(pair.a, "x", 1, fds.data(), WH_FDS_MAX);
        CHECK(n == 1);
        char buf[10];
        unsigned count = WH_FDS_MAX;
        n = wh_recv_fds(pair.b, buf, 0, got.data(), &count);
        CHECK(n == -EINVAL);
        n = wh_recv_fds(pair.b, buf, sizeof buf, got.data(), &count);
        CHECK(n == 1);
        CHECK(count == WH_FDS_MAX);
        CHECK(fds_open() == before + WH_FDS_MAX);
        bool all = true;
        for (int fd : got) {
            all = all && same_file(fd, pipe.a) && (fcntl(fd, F_GETFD) & FD_CLOEXEC);
            close(fd);
        }
        CHECK(all);
        CHECK(fds_open() == before);
    });
}

TEST_CASE("unix: bytes without descriptors, bytes of several messages, and the end of the stream")
{
    in_run([] {
        FdPair pair = socket_pair(), pipe = pipe_pair();
        int fd = pipe.a;
        char buf[10] = {};
        wh_fd got = -1;
        unsigned count = 1;
        ssize_t n = wh_send(pair.a, "plain", 5, 0);
        CHECK(n == 5);
        n = wh_send_fds(pair.a, "fd", 2, &fd, 1);
        CHECK(n == 2);
        n = wh_send(pair.a, "more", 4, 0);
        CHECK(n == 4);
        count = 0;
        n = wh_recv_fds(pair.b, buf, 1, nullptr, &count); /* no room is needed for none */
        CHECK(n == 1);
        CHECK(count == 0);
        count = 1;
        n = wh_recv_fds(pair.b, buf, sizeof buf, &got, &count);
        CHECK(n == 6); /* what was before, and not what is behind */
        CHECK(count == 1);
        CHECK(same_file(got, pipe.a));
        close(got);
        count = 1;
        n = wh_recv_fds(pair.b, buf, sizeof buf, &got, &count);
        CHECK(n == 4);
        CHECK(count == 0);
        pair.a.reset();
        while (n > 0)
            n = wh_recv_fds(pair.b, buf, sizeof buf, &got, &(count = 1));
        CHECK(n == 0);
        CHECK(count == 0);
    });
}

TEST_CASE("unix: descriptors for which there is no room are closed, all of them")
{
    in_run([] {
        FdPair pair = socket_pair(), pipe = pipe_pair();
        std::vector<int> fds(5, pipe.a), got(5, -1);
        char buf[10];
        int before = fds_open();
        for (unsigned room : {0u, 1u, 4u}) {
            ssize_t n = wh_send_fds(pair.a, "x", 1, fds.data(), 5);
            CHECK(n == 1);
            unsigned count = room;
            n = wh_recv_fds(pair.b, buf, sizeof buf, got.data(), &count);
            CHECK(n == -EMSGSIZE);
            CHECK(count == room);
            CHECK(got[0] == -1);
            CHECK(fds_open() == before);
        }
        /* The process may have two more, of five. */
        ssize_t n = wh_send_fds(pair.a, "x", 1, fds.data(), 5);
        CHECK(n == 1);
        unsigned count = 5;
        {
            FewDescriptors few(2);
            n = wh_recv_fds(pair.b, buf, sizeof buf, got.data(), &count);
        }
        CHECK(n == -EMFILE);
        CHECK(count == 5);
        CHECK(got[0] == -1);
        CHECK(fds_open() == before);
        /* And afterwards all is well. */
        n = wh_send_fds(pair.a, "y", 1, fds.data(), 5);
        CHECK(n == 1);
        n = wh_recv_fds(pair.b, buf, sizeof buf, got.data(), &count);
        CHECK(n == 1);
        CHECK(count == 5);
        for (int fd : got)
            close(fd);
    });
}

TEST_CASE("unix: the peer of a connection, and the sender of a message, are told")
{
    in_run([] {
        FdPair pair = socket_pair();
        wh_cred cred = {};
        CHECK(wh_peer_cred(pair.a, &cred) == 0);
        CHECK(cred.pid == getpid());
        CHECK(cred.uid == getuid());
        CHECK(cred.gid == getgid());
        Fd lonely(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        CHECK(wh_peer_cred(lonely, &cred) == -ENOTCONN);
        FdPair tcp = tcp_pair(), pipe = pipe_pair();
        CHECK(wh_peer_cred(tcp.a, &cred) == -EOPNOTSUPP);
        CHECK(wh_peer_cred(pipe.a, &cred) == -ENOTSOCK);
        CHECK(wh_peer_cred(-1, &cred) == -EBADF);
        CHECK(wh_want_cred(-1) == -EBADF);
        CHECK(wh_want_cred(tcp.a) == -EOPNOTSUPP);
        CHECK(wh_want_cred(pipe.a) == -ENOTSOCK);
        Fd netlink(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 0)); /* which would take it */
        CHECK(wh_want_cred(netlink) == -EOPNOTSUPP);
        CHECK(wh_peer_cred(netlink, &cred) == -EOPNOTSUPP);

        char buf[10];
        ssize_t n = wh_send(pair.a, "early", 5, 0);
        CHECK(n == 5);
        CHECK(wh_want_cred(pair.b) == 0);
        n = wh_recv_cred(pair.b, buf, sizeof buf, &cred);
        CHECK(n == -ENODATA);
        pid_t child = fork();
        if (child == 0)
            _exit(write(pair.a, "child", 5) == 5 ? 0 : 1);
        cred = {};
        n = wh_recv_cred(pair.b, buf, sizeof buf, &cred);
        CHECK(n == 5);
        CHECK(cred.pid == child);
        CHECK(cred.uid == getuid());
        CHECK(waitpid(child, nullptr, 0) == child);

        /* Both at once: each call gives what it is for, and leaks nothing of the other. */
        int before = fds_open(), fd = pipe.a;
        n = wh_send_fds(pair.a, "x", 1, &fd, 1);
        CHECK(n == 1);
        n = wh_recv_cred(pair.b, buf, sizeof buf, &cred);
        CHECK(n == 1);
        CHECK(cred.pid == getpid());
        CHECK(fds_open() == before);
        n = wh_send_fds(pair.a, "x", 1, &fd, 1);
        CHECK(n == 1);
        wh_fd got = -1;
        unsigned count = 1;
        n = wh_recv_fds(pair.b, buf, sizeof buf, &got, &count);
        CHECK(n == 1);
        CHECK(count == 1);
        close(got);
        pair.a.reset();
        n = wh_recv_cred(pair.b, buf, sizeof buf, &cred);
        CHECK(n == 0);
        n = wh_recv_cred(pair.b, buf, 0, &cred);
        CHECK(n == -EINVAL);
    });
}

/* ThreadSanitizer allows no threads in a child of a process that has some. */
#ifndef __SANITIZE_THREAD__

namespace
{

constexpr int NO_NAMESPACE = 77;

/* In a PID namespace that does not have who made the pair and sends to it. */
int sees_stranger(const FdPair &pair)
{
    return in_run([&pair] {
        wh_cred cred = {-1, 1, 1};
        char buf[10] = {};
        CHILD_REQUIRE(wh_peer_cred(pair.b, &cred) == 0);
        CHILD_REQUIRE(cred.pid == 0);
        CHILD_REQUIRE(cred.uid == getuid());
        CHILD_REQUIRE(cred.gid == getgid());
        CHILD_REQUIRE(wh_want_cred(pair.b) == 0);
        ssize_t n = wh_send(pair.b, "ready", 5, 0);
        CHILD_REQUIRE(n == 5);
        cred = {-1, 1, 1};
        n = wh_recv_cred(pair.b, buf, sizeof buf, &cred);
        CHILD_REQUIRE(n == 5);
        CHILD_REQUIRE(std::string(buf) == "hello");
        CHILD_REQUIRE(cred.pid == 0);
        CHILD_REQUIRE(cred.uid == getuid());
        CHILD_REQUIRE(cred.gid == getgid());
    });
}

} // namespace

TEST_CASE("unix: who is in a PID namespace of elsewhere has a user and a group, and process 0")
{
    const ChildEnd end = in_child([] {
        FdPair pair = socket_pair();
        if (unshare(CLONE_NEWPID) < 0)
            return NO_NAMESPACE;
        const pid_t inner = fork();
        if (inner == 0)
            _exit(sees_stranger(pair));
        pair.b.reset(); /* should it fail before it is ready, the end is read */
        char buf[10];
        int status = -1;
        CHILD_REQUIRE(read(pair.a, buf, sizeof buf) == 5);
        CHILD_REQUIRE(write(pair.a, "hello", 5) == 5);
        CHILD_REQUIRE(waitpid(inner, &status, 0) == inner);
        return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
    });
    if (end.exited(NO_NAMESPACE)) {
        WARN("no right to make a PID namespace");
        return;
    }
    INFO(end.how());
    CHECK(end.exited(0));
}

#endif

TEST_CASE("unix: a descriptor of the sender's process, which nobody asked for, is not left open")
{
    in_run([] {
        constexpr int PASS_PIDFD = 76; /* SO_PASSPIDFD, Linux 6.5 */
        FdPair pair = socket_pair(), pipe = pipe_pair();
        int on = 1, fd = pipe.a;
        if (setsockopt(pair.b, SOL_SOCKET, PASS_PIDFD, &on, sizeof on) < 0)
            return;
        int before = fds_open();
        char buf[10];
        wh_fd got = -1;
        unsigned count = 1;
        ssize_t n = wh_send_fds(pair.a, "x", 1, &fd, 1);
        CHECK(n == 1);
        n = wh_recv_fds(pair.b, buf, sizeof buf, &got, &count);
        CHECK(n == 1);
        CHECK(count == 1);
        CHECK(same_file(got, pipe.a));
        close(got);
        CHECK(fds_open() == before);
    });
}

TEST_CASE("unix: waiting for descriptors ends with deadline and cancel, and none is lost by it")
{
    in_run([] {
        FdPair pair = socket_pair(), pipe = pipe_pair();
        auto receive = [&]() -> intptr_t {
            char buf[10];
            wh_fd got = -1;
            unsigned count = 1;
            ssize_t n = wh_recv_fds(pair.b, buf, sizeof buf, &got, &count);
            return n < 0 ? n : got;
        };
        intptr_t n = 0;
        WH_WITH_TIMEOUT(5 * WH_MILLISECOND)
        {
            n = receive();
        }
        CHECK(n == -ETIMEDOUT);
        wh_coro *coro = on(worker_for(1), receive);
        until_parked(coro);
        wh_cancel(coro);
        n = join(coro);
        CHECK(n == -ECANCELED);

        /* Sent at the moment of the cancel: received or not, it is never lost. */
        int before = fds_open(), received = 0, later = 0;
        const int rounds = times(200);
        for (int i = 0; i < rounds; i++) {
            coro = on(worker_for(1), receive);
            until_parked(coro);
            int fd = pipe.a;
            ssize_t sent = wh_send_fds(pair.a, "x", 1, &fd, 1);
            CHECK(sent == 1);
            wh_cancel(coro);
            n = join(coro);
            if (n >= 0) {
                received++;
            } else {
                CHECK(n == -ECANCELED);
                n = receive();
                later++;
            }
            CHECK(n >= 0);
            close(static_cast<int>(n));
        }
        CHECK(received + later == rounds);
        CHECK(fds_open() == before);
    });
}

TEST_CASE("unix: a full socket makes the sender of descriptors wait, and a deadline ends that")
{
    in_run([] {
        FdPair pair = socket_pair();
        fill(pair.a);
        int fd = pair.b;
        ssize_t n = 0;
        WH_WITH_TIMEOUT(5 * WH_MILLISECOND)
        {
            n = wh_send_fds(pair.a, "x", 1, &fd, 1);
        }
        CHECK(n == -ETIMEDOUT);
    });
}
