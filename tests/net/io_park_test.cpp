/*
 * io_park_test.cpp: calls park where a plain call would block or say EAGAIN, whatever kind of
 * descriptor it is, and a deadline or a cancel ends each of them.
 */
#include "tests/net/peers.hpp"

#include <catch2/catch_test_macros.hpp>

#include <climits>
#include <csignal>
#include <memory>
#include <vector>

#include <linux/net_tstamp.h>
#include <poll.h>
#include <sys/inotify.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/uio.h>

extern "C" {
#include "sched/sched.h"
}

namespace
{

/* A call that has to wait for something, with what it needs. */
class Waiting
{
  public:
    virtual ~Waiting() = default;
    virtual ssize_t call() = 0;
};

/* A call made of a function, on descriptors that it keeps. */
class OnPair : public Waiting
{
  public:
    OnPair(FdPair pair, std::function<ssize_t(FdPair &)> function)
        : pair_(std::move(pair)), function_(std::move(function))
    {
    }
    ssize_t call() override
    {
        return function_(pair_);
    }

  private:
    FdPair pair_;
    std::function<ssize_t(FdPair &)> function_;
};

FdPair full_pipe()
{
    FdPair pair = pipe_pair();
    fill(pair.b);
    return pair;
}

FdPair full_sockets()
{
    FdPair pair = socket_pair();
    fill(pair.a);
    return pair;
}

char some_bytes[65536];

struct iovec iov_of_some()
{
    return {some_bytes, sizeof some_bytes};
}

struct msghdr message_of(struct iovec *iov)
{
    struct msghdr msg = {};
    msg.msg_iov = iov;
    msg.msg_iovlen = 1;
    return msg;
}

/* Every call that can wait, in a state where it has to. */
struct Kind {
    const char *name;
    std::function<std::unique_ptr<Waiting>()> make;
};

template <typename F> Kind on(const char *name, FdPair (*make_pair)(), F function)
{
    return {name, [=] { return std::make_unique<OnPair>(make_pair(), function); }};
}

FdPair empty_pipe()
{
    return pipe_pair();
}

FdPair quiet_sockets()
{
    return socket_pair();
}

FdPair quiet_listener()
{
    return {plain_listener(), Fd()};
}

class ToFullListener : public Waiting
{
  public:
    explicit ToFullListener(bool dial)
        : dial_(dial), client_(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0))
    {
    }
    ssize_t call() override
    {
        if (!dial_)
            return wh_connect(client_, full_.address.any(), full_.address.len);
        Fd fd(wh_dial_unix(full_.name().c_str()));
        return fd >= 0 ? 0 : static_cast<int>(fd);
    }

  private:
    bool dial_;
    FullListener full_;
    Fd client_;
};

class DialTcp : public Waiting
{
  public:
    DialTcp() : listener_(plain_listener(0)), filler_(socket(AF_INET, SOCK_STREAM, 0))
    {
        Address address = Address::of(listener_);
        if (connect(filler_, address.any(), address.len) < 0)
            abort();
        name_ = "127.0.0.1:" + std::to_string(address.port());
    }
    ssize_t call() override
    {
        return wh_dial_tcp(name_.c_str());
    }

  private:
    Fd listener_, filler_;
    std::string name_;
};

std::vector<Kind> kinds()
{
    return {
        on("read", empty_pipe, [](FdPair &p) { return wh_read(p.a, some_bytes, 10); }),
        on("pread", empty_pipe, [](FdPair &p) { return wh_pread(p.a, some_bytes, 10, 0); }),
        on("readv", empty_pipe,
           [](FdPair &p) {
               struct iovec iov = iov_of_some();
               return wh_readv(p.a, &iov, 1);
           }),
        on("preadv", empty_pipe,
           [](FdPair &p) {
               struct iovec iov = iov_of_some();
               return wh_preadv(p.a, &iov, 1, 0);
           }),
        on("write", full_pipe, [](FdPair &p) { return wh_write(p.b, some_bytes, 10); }),
        on("pwrite", full_pipe, [](FdPair &p) { return wh_pwrite(p.b, some_bytes, 10, 0); }),
        on("writev", full_pipe,
           [](FdPair &p) {
               struct iovec iov = iov_of_some();
               return wh_writev(p.b, &iov, 1);
           }),
        on("pwritev", full_pipe,
           [](FdPair &p) {
               struct iovec iov = iov_of_some();
               return wh_pwritev(p.b, &iov, 1, 0);
           }),
        on("write_all", full_pipe, [](FdPair &p) { return wh_write_all(p.b, some_bytes, 10); }),
        on("recv", quiet_sockets, [](FdPair &p) { return wh_recv(p.a, some_bytes, 10, 0); }),
        on("recv for all", quiet_sockets,
           [](FdPair &p) { return wh_recv(p.a, some_bytes, 10, MSG_WAITALL); }),
        on("recvmsg", quiet_sockets,
           [](FdPair &p) {
               struct iovec iov = iov_of_some();
               struct msghdr msg = message_of(&iov);
               return wh_recvmsg(p.a, &msg, 0);
           }),
        on("send", full_sockets, [](FdPair &p) { return wh_send(p.a, some_bytes, 10, 0); }),
        on("sendmsg", full_sockets,
           [](FdPair &p) {
               struct iovec iov = iov_of_some();
               struct msghdr msg = message_of(&iov);
               return wh_sendmsg(p.a, &msg, 0);
           }),
        on("send_all", full_sockets, [](FdPair &p) { return wh_send_all(p.a, some_bytes, 10); }),
        on("accept", quiet_listener, [](FdPair &p) { return ssize_t(wh_accept(p.a)); }),
        on("accept4", quiet_listener,
           [](FdPair &p) { return ssize_t(wh_accept4(p.a, nullptr, nullptr, 0)); }),
        on("poll", quiet_sockets, [](FdPair &p) { return ssize_t(wh_poll(p.a, POLLIN)); }),
        {"connect", [] { return std::make_unique<ToFullListener>(false); }},
        {"dial_unix", [] { return std::make_unique<ToFullListener>(true); }},
        {"dial_tcp", [] { return std::make_unique<DialTcp>(); }},
    };
}

size_t drain(int fd)
{
    size_t drained = 0;
    ssize_t n;
    while ((n = read(fd, some_bytes, sizeof some_bytes)) > 0)
        drained += static_cast<size_t>(n);
    return drained;
}

void check_nothing_in_flight()
{
    wh_stats stats;
    wh_stats_get(&stats);
    CHECK(stats.ops_in_flight == 0);
}

} // namespace

TEST_CASE(
    "io: a deadline ends every call that waits, not before its time, and leaves nothing behind")
{
    const int fds = fds_open();
    in_run([] {
        for (const Kind &kind : kinds()) {
            auto waiting = kind.make();
            ssize_t n = 0;
            int64_t deadline_ns = 0, ended_ns = 0;
            WH_WITH_TIMEOUT(3 * WH_MILLISECOND)
            {
                deadline_ns = wh_deadline();
                n = waiting->call();
                ended_ns = wh_now();
            }
            INFO(kind.name);
            CHECK(n == -ETIMEDOUT);
            CHECK(ended_ns >= deadline_ns);
            CHECK(ended_ns < deadline_ns + 5 * WH_SECOND);
            check_nothing_in_flight();
        }
    });
    CHECK(fds_open() == fds);
}

TEST_CASE("io: a cancel ends every call that waits, and leaves nothing behind")
{
    const int fds = fds_open();
    in_run([] {
        for (const Kind &kind : kinds()) {
            auto waiting = kind.make();
            ssize_t n = 0;
            wh_coro *coro = spawn([&] { n = waiting->call(); });
            wh_sleep(100 * WH_MICROSECOND);
            CHECK(coro->state == CORO_PARKED);
            wh_cancel(coro);
            join(coro);
            INFO(kind.name);
            CHECK(n == -ECANCELED);
            check_nothing_in_flight();
        }
    });
    CHECK(fds_open() == fds);
}

TEST_CASE("io: calls that cannot wait for long fail at once when the deadline has passed before")
{
    in_run([] {
        Fd file(open("/dev/null", O_RDWR | O_CLOEXEC));
        FdPair pair = tcp_pair();
        struct statx status;
        WH_WITH_TIMEOUT(0)
        {
            ssize_t n = wh_fsync(file);
            CHECK(n == -ETIMEDOUT);
            n = wh_fdatasync(file);
            CHECK(n == -ETIMEDOUT);
            n = wh_shutdown(pair.a, SHUT_WR);
            CHECK(n == -ETIMEDOUT);
            n = wh_statx(AT_FDCWD, "/", 0, STATX_ALL, &status);
            CHECK(n == -ETIMEDOUT);
            n = wh_openat(AT_FDCWD, "/", O_RDONLY, 0);
            CHECK(n == -ETIMEDOUT);
            n = wh_dial_tcp("127.0.0.1:1");
            CHECK(n == -ETIMEDOUT);
            n = wh_close(pair.a.release());
            CHECK(n == 0); /* obeys neither */
        }
        char byte;
        ssize_t n = recv(pair.b, &byte, 1, 0);
        CHECK(n == 0);
    });
}

/* ---- Kinds of descriptors ---- */

TEST_CASE(
    "io: reading parks on every kind of descriptor, blocking or not, until there is something")
{
    for (int flags : {0, static_cast<int>(O_NONBLOCK)})
        in_run([flags] {
            sigset_t set;
            sigemptyset(&set);
            sigaddset(&set, SIGUSR1);
            pthread_sigmask(SIG_BLOCK, &set, nullptr);
            FdPair pipe = pipe_pair(flags), sockets = socket_pair(flags), tcp = tcp_pair(flags);
            Fd event(eventfd(0, EFD_CLOEXEC | flags));
            Fd signal(signalfd(-1, &set, SFD_CLOEXEC | flags));
            Fd timer(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | flags));
            /* The ring says -EAGAIN of this kind, when it is non-blocking: it cannot poll and read
             * in one. */
            Folder folder;
            Fd notify(inotify_init1(IN_CLOEXEC | flags));
            int watch = inotify_add_watch(notify, folder.path(), IN_CREATE);
            CHECK(watch >= 0);
            int files = 0;
            const uint64_t one = 1;
            const struct itimerspec soon = {{0, 0}, {0, 1000}};
            struct {
                const char *name;
                int fd;
                ssize_t bytes;
                std::function<bool()> feed;
            } cases[] = {
                {"pipe", pipe.a, 1, [&] { return write(pipe.b, "x", 1) == 1; }},
                {"socket", sockets.a, 1, [&] { return write(sockets.b, "x", 1) == 1; }},
                {"tcp", tcp.a, 1, [&] { return write(tcp.b, "x", 1) == 1; }},
                {"eventfd", event, 8, [&] { return write(event, &one, 8) == 8; }},
                {"signalfd", signal, sizeof(struct signalfd_siginfo),
                 [&] { return pthread_kill(pthread_self(), SIGUSR1) == 0; }},
                {"timerfd", timer, 8,
                 [&] { return timerfd_settime(timer, 0, &soon, nullptr) == 0; }},
                {"inotify", notify, sizeof(struct inotify_event) + 16,
                 [&] {
                     const std::string name = "file" + std::to_string(files++);
                     Fd made(open((folder / name).c_str(), O_WRONLY | O_CREAT, 0600));
                     return made >= 0;
                 }},
            };
            for (auto &one_case : cases)
                for (bool vector : {false, true}) {
                    char buf[256];
                    struct iovec iov = {buf, sizeof buf};
                    ssize_t n = 0;
                    wh_coro *reader = spawn([&] {
                        n = vector ? wh_readv(one_case.fd, &iov, 1)
                                   : wh_read(one_case.fd, buf, sizeof buf);
                    });
                    Turns turn;
                    turn(3);
                    INFO(one_case.name << (flags ? ", non-blocking" : ""));
                    CHECK(reader->state == CORO_PARKED);
                    CHECK(one_case.feed());
                    join(reader);
                    CHECK(n == one_case.bytes);
                }
        });
}

TEST_CASE("io: writing parks on a full descriptor, blocking or not, until there is room")
{
    for (int flags : {0, static_cast<int>(O_NONBLOCK)})
        in_run([flags] {
            for (bool sockets : {false, true})
                for (bool vector : {false, true}) {
                    FdPair pair = sockets ? socket_pair(flags) : pipe_pair(flags);
                    size_t filled = fill(pair.b);
                    CHECK(filled > 0);
                    struct iovec iov = {some_bytes, 100};
                    ssize_t n = 0;
                    wh_coro *writer = spawn([&] {
                        n = vector ? wh_writev(pair.b, &iov, 1) : wh_write(pair.b, some_bytes, 100);
                    });
                    Turns turn;
                    turn(3);
                    CHECK(writer->state == CORO_PARKED);
                    fcntl(pair.a, F_SETFL, O_NONBLOCK);
                    size_t drained = drain(pair.a);
                    join(writer);
                    CHECK(n == 100);
                    drained += drain(pair.a);
                    CHECK(drained == filled + 100);
                }
        });
}

TEST_CASE("io: an eventfd that is full parks its writer until it is read")
{
    for (int flags : {0, static_cast<int>(EFD_NONBLOCK)})
        in_run([flags] {
            Fd event(eventfd(0, EFD_CLOEXEC | flags));
            const uint64_t most = UINT64_MAX - 1, one = 1;
            ssize_t n = wh_write(event, &most, 8);
            CHECK(n == 8);
            n = 0;
            wh_coro *writer = spawn([&] { n = wh_write(event, &one, 8); });
            Turns turn;
            turn(3);
            CHECK(n == 0);
            uint64_t value = 0;
            ssize_t got = wh_read(event, &value, 8);
            CHECK(got == 8);
            CHECK(value == most);
            join(writer);
            CHECK(n == 8);
        });
}

TEST_CASE("io: a deadline, a cancel and a close end the wait for what says -EAGAIN, too")
{
    in_run([] {
        Folder folder;
        char buf[256];
        Fd notify(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
        ssize_t n = 0;
        WH_WITH_TIMEOUT(2 * WH_MILLISECOND)
        {
            n = wh_read(notify, buf, sizeof buf);
        }
        CHECK(n == -ETIMEDOUT);
        int fd = notify.release();
        for (bool close_it : {false, true}) {
            wh_coro *reader = spawn([&] { n = wh_read(fd, buf, sizeof buf); });
            wh_sleep(100 * WH_MICROSECOND);
            CHECK(reader->state == CORO_PARKED);
            if (close_it) {
                int rc = wh_close(fd);
                CHECK(rc == 0);
            } else {
                wh_cancel(reader);
            }
            join(reader);
            CHECK(n == (close_it ? -EBADF : -ECANCELED));
        }
        check_nothing_in_flight();
    });
}

TEST_CASE("io: what is in the error queue of a non-blocking socket makes nobody spin")
{
    in_run([] {
        FdPair pair = tcp_pair(SOCK_NONBLOCK);
        const int stamps = SOF_TIMESTAMPING_TX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE;
        int rc = setsockopt(pair.a, SOL_SOCKET, SO_TIMESTAMPING, &stamps, sizeof stamps);
        CHECK(rc == 0);
        CHECK(write(pair.a, "!", 1) == 1);
        struct pollfd queued = {pair.a, 0, 0};
        while (poll(&queued, 1, 1000) == 1 && !(queued.revents & POLLERR))
            ;
        int fd = pair.a.release();
        enum { COME, CANCEL, CLOSE };
        for (int how : {COME, CANCEL, CLOSE}) {
            char buf[16];
            ssize_t n = 0;
            wh_stats before, after;
            wh_coro *reader = spawn([&] { n = wh_read(fd, buf, sizeof buf); });
            wh_yield();
            wh_stats_get(&before);
            wh_sleep(100 * WH_MILLISECOND);
            wh_stats_get(&after);
            CHECK(reader->state == CORO_PARKED);
            CHECK(after.switches - before.switches < 500);
            if (how == COME)
                CHECK(write(pair.b, "x", 1) == 1);
            if (how == CANCEL)
                wh_cancel(reader);
            if (how == CLOSE) {
                rc = wh_close(fd);
                CHECK(rc == 0);
            }
            join(reader);
            CHECK(n == (how == COME ? 1 : how == CANCEL ? -ECANCELED : -EBADF));
        }
        check_nothing_in_flight();
    });
}

TEST_CASE("io: two who wait for the same non-blocking descriptor get one message each")
{
    in_run([] {
        FdPair pair = socket_pair(SOCK_NONBLOCK);
        int got = 0;
        std::vector<wh_coro *> receivers;
        for (int i = 0; i < 10; i++)
            receivers.push_back(spawn([&] {
                char byte;
                got += wh_recv(pair.a, &byte, 1, 0) == 1;
            }));
        Turns turn;
        for (int i = 1; i <= 10; i++) {
            turn(4);
            send(pair.b, "x", 1, 0);
            for (int k = 0; k < 1000 && got < i; k++)
                turn();
            CHECK(got == i);
        }
        for (wh_coro *receiver : receivers)
            join(receiver);
    });
}

TEST_CASE("io: MSG_DONTWAIT says -EAGAIN and does not wait, blocking or not")
{
    for (int flags : {0, static_cast<int>(SOCK_NONBLOCK)})
        in_run([flags] {
            FdPair pair = socket_pair(flags);
            struct iovec iov = iov_of_some();
            struct msghdr msg = message_of(&iov);
            ssize_t n = wh_recv(pair.a, some_bytes, 1, MSG_DONTWAIT);
            CHECK(n == -EAGAIN);
            n = wh_recvmsg(pair.a, &msg, MSG_DONTWAIT);
            CHECK(n == -EAGAIN);
            fill(pair.a);
            n = wh_send(pair.a, some_bytes, sizeof some_bytes, MSG_DONTWAIT);
            CHECK(n == -EAGAIN);
            msg = message_of(&iov);
            n = wh_sendmsg(pair.a, &msg, MSG_DONTWAIT);
            CHECK(n == -EAGAIN);
            send(pair.b, "x", 1, 0);
            n = wh_recv(pair.a, some_bytes, 1, MSG_DONTWAIT);
            CHECK(n == 1);
        });
}

/* ---- Memory ---- */

TEST_CASE("io: the kernel does not touch memory that a call has given back")
{
    constexpr size_t BYTES = 4096;
    in_run([] {
        for (int i = 0; i < times(300); i++) {
            FdPair pair = socket_pair();
            std::vector<char> buf(BYTES, 'u');
            ssize_t n = 0;
            wh_coro *receiver = spawn([&] {
                WH_WITH_TIMEOUT((i % 20) * 10 * WH_MICROSECOND)
                {
                    n = wh_recv(pair.a, buf.data(), BYTES, 0);
                }
                if (n < 0)
                    memset(buf.data(), 'v', BYTES);
            });
            wh_sleep((i % 7) * 20 * WH_MICROSECOND);
            std::vector<char> data(BYTES, 'd');
            ssize_t sent = send(pair.b, data.data(), BYTES, 0);
            CHECK(sent == static_cast<ssize_t>(BYTES));
            join(receiver);
            Turns turn;
            turn(2);
            const char expected = n < 0 ? 'v' : 'd';
            size_t wrong = 0;
            for (char c : buf)
                wrong += c != expected;
            CHECK(wrong == 0);
            /* And what it did not take is still there. */
            ssize_t left = recv(pair.a, data.data(), BYTES, MSG_DONTWAIT);
            CHECK(left == (n < 0 ? static_cast<ssize_t>(BYTES) : -1));
        }
    });
}
