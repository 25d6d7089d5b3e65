/*
 * io_close_test.cpp: closing a descriptor that others wait for, and using its number again.
 */
#include "tests/net/peers.hpp"

#include <catch2/catch_test_macros.hpp>

#include <vector>

extern "C" {
#include "sched/sched.h"
}

TEST_CASE(
    "io: closing a descriptor ends another coroutine's recv with -EBADF, and the peer sees it")
{
    for (bool tcp : {false, true})
        for (int flags : {0, static_cast<int>(SOCK_NONBLOCK)})
            in_run([&] {
                FdPair pair = tcp ? tcp_pair(flags) : socket_pair(flags);
                int fd = pair.a.release();
                char byte;
                ssize_t n = 0;
                wh_coro *receiver = spawn([&] { n = wh_recv(fd, &byte, 1, 0); });
                wh_sleep(1);
                int rc = wh_close(fd);
                CHECK(rc == 0);
                CHECK(n == -EBADF); /* before the close returned */
                CHECK(fcntl(fd, F_GETFD) == -1);
                CHECK(sees_end(pair.b));
                join(receiver);
            });
}

TEST_CASE("io: closing a descriptor ends read, write, send, accept, poll and connect on it, too")
{
    in_run([] {
        FdPair reading = pipe_pair(), writing = pipe_pair(), sending = socket_pair(),
               sending_all = socket_pair(), polling = socket_pair();
        fill(writing.b);
        fill(sending.a);
        fill(sending_all.a);
        Fd listener = plain_listener();
        FullListener full;
        Fd client(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        Fd event(eventfd(0, EFD_CLOEXEC));
        char byte = 0;
        uint64_t count;
        struct {
            const char *name;
            Fd *fd;
            std::function<ssize_t(int)> call;
        } cases[] = {
            {"read of a pipe", &reading.a, [&](int fd) { return wh_read(fd, &byte, 1); }},
            {"read of an eventfd", &event, [&](int fd) { return wh_read(fd, &count, 8); }},
            {"write", &writing.b, [&](int fd) { return wh_write(fd, &byte, 1); }},
            {"send", &sending.a, [&](int fd) { return wh_send(fd, &byte, 1, 0); }},
            {"send_all", &sending_all.a, [&](int fd) { return wh_send_all(fd, &byte, 1); }},
            {"accept", &listener, [&](int fd) { return ssize_t(wh_accept(fd)); }},
            {"poll", &polling.a, [&](int fd) { return ssize_t(wh_poll(fd, POLLIN)); }},
            {"connect", &client,
             [&](int fd) { return ssize_t(wh_connect(fd, full.address.any(), full.address.len)); }},
        };
        for (auto &one : cases) {
            int fd = one.fd->release();
            ssize_t n = 0;
            wh_coro *waiter = spawn([&] { n = one.call(fd); });
            wh_sleep(100 * WH_MICROSECOND);
            INFO(one.name);
            CHECK(waiter->state == CORO_PARKED);
            int rc = wh_close(fd);
            CHECK(rc == 0);
            CHECK(n == -EBADF);
            CHECK(fcntl(fd, F_GETFD) == -1);
            join(waiter);
        }
    });
}

TEST_CASE("io: closing a listener ends all that accept on it, and clients are refused")
{
    in_run([] {
        Fd listener = plain_listener();
        Address address = Address::of(listener);
        int fd = listener.release();
        int ended = 0;
        std::vector<wh_coro *> servers;
        for (int i = 0; i < 10; i++)
            servers.push_back(spawn([&] { ended += wh_accept(fd) == -EBADF; }));
        wh_sleep(1);
        int rc = wh_close(fd);
        CHECK(rc == 0);
        CHECK(ended == 10);
        for (wh_coro *server : servers)
            join(server);
        Fd client(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        rc = wh_connect(client, address.any(), address.len);
        CHECK(rc == -ECONNREFUSED);
    });
}

TEST_CASE("io: a close while data arrives delivers it or not, and hangs in no case")
{
    in_run([] {
        for (int i = 0; i < times(500); i++) {
            FdPair pair = socket_pair(i % 2 ? SOCK_NONBLOCK : 0);
            int fd = pair.a.release();
            ssize_t n = 0;
            char byte = 0;
            wh_coro *receiver = spawn([&] { n = wh_recv(fd, &byte, 1, 0); });
            wh_yield();
            Turns turn;
            turn(i % 3);
            if (i % 5)
                send(pair.b, "d", 1, 0);
            turn(i % 4 / 2);
            int rc = wh_close(fd);
            join(receiver);
            CHECK(rc == 0);
            CHECK(((n == 1 && byte == 'd') || n == -EBADF));
            CHECK(sees_end(pair.b));
        }
    });
}

TEST_CASE("io: what was sent before a close arrives before the end")
{
    in_run([] {
        for (bool tcp : {false, true}) {
            FdPair pair = tcp ? tcp_pair() : socket_pair();
            ssize_t n = wh_send_all(pair.a, "goodbye", 7);
            CHECK(n == 7);
            int rc = wh_close(pair.a.release());
            CHECK(rc == 0);
            char buf[16];
            n = wh_recv(pair.b, buf, sizeof buf, MSG_WAITALL);
            CHECK(n == 7);
            n = wh_recv(pair.b, buf, sizeof buf, 0);
            CHECK(n == 0);
        }
    });
}

TEST_CASE("io: a descriptor number that is used again gets nothing of the one before")
{
    in_run([] {
        int reused = 0;
        for (int i = 0; i < times(2000); i++) {
            FdPair old_pair = socket_pair();
            const int number = old_pair.a.release();
            ssize_t old_n = 0, new_n = 0;
            char old_byte = 0, new_byte = 0;
            wh_coro *old_receiver = spawn([&] { old_n = wh_recv(number, &old_byte, 1, 0); });
            wh_yield();
            if (i % 3 == 0)
                wh_sleep(1);
            int rc = wh_close(number);
            CHECK(rc == 0);

            /* The lowest free number is the one that was just closed. */
            FdPair new_pair = socket_pair();
            reused += new_pair.a == number;
            wh_coro *new_receiver = spawn([&] { new_n = wh_recv(new_pair.a, &new_byte, 1, 0); });
            wh_yield();
            send(old_pair.b, "o", 1, MSG_NOSIGNAL);
            send(new_pair.b, "n", 1, MSG_NOSIGNAL);
            join(new_receiver);
            join(old_receiver);
            CHECK(old_n == -EBADF);
            CHECK(new_n == 1);
            CHECK(new_byte == 'n');
        }
        CHECK(reused >= times(2000) * 9 / 10);
    });
}

TEST_CASE("io: a coroutine that is cancelled, or whose deadline has passed, can still close")
{
    in_run([] {
        FdPair one = socket_pair(), two = socket_pair();
        int rc = -1;
        char byte;
        ssize_t n = 0;
        int first = one.a.release(), second = two.a.release();
        wh_coro *receiver = spawn([&] { n = wh_recv(first, &byte, 1, 0); });
        wh_sleep(1);
        wh_coro *closer = spawn([&] {
            wh_cancel(wh_self());
            rc = wh_close(first);
        });
        join(closer);
        join(receiver);
        CHECK(rc == 0);
        CHECK(n == -EBADF);
        CHECK(sees_end(one.b));

        receiver = spawn([&] { n = wh_recv(second, &byte, 1, 0); });
        wh_sleep(1);
        WH_WITH_TIMEOUT(0)
        {
            rc = wh_close(second);
        }
        join(receiver);
        CHECK(rc == 0);
        CHECK(n == -EBADF);
        CHECK(sees_end(two.b));
    });
}

TEST_CASE("io: a cancel or the end of the run in the middle of a close does not stop it")
{
    FdPair pair = socket_pair(), last = socket_pair();
    in_run([&] {
        int fd = pair.a.release();
        int rc = -1;
        wh_coro *receiver = spawn([&] {
            char byte;
            wh_recv(fd, &byte, 1, 0);
        });
        wh_sleep(1);
        wh_coro *closer = spawn([&] { rc = wh_close(fd); });
        wh_yield();
        CHECK(closer->state == CORO_PARKED);
        wh_cancel(closer);
        join(closer);
        join(receiver);
        CHECK(rc == 0);

        int other = last.a.release();
        start([other] {
            char byte;
            wh_recv(other, &byte, 1, 0);
        });
        wh_sleep(1);
        start([other] { wh_close(other); });
        wh_yield();
    });
    CHECK(sees_end(pair.b));
    CHECK(sees_end(last.b));
}

TEST_CASE("io: closing twice is -EBADF the second time")
{
    in_run([] {
        int fd = eventfd(0, EFD_CLOEXEC);
        int rc = wh_close(fd);
        CHECK(rc == 0);
        rc = wh_close(fd);
        CHECK(rc == -EBADF);
    });
}
