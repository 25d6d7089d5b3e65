/*
 * race_test.cpp: calls against data, end, deadline, cancel and close, in every order (race.hpp).
 */
#include "tests/sched/race.hpp"

#include <cstring>

#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/un.h>

using namespace race;

namespace
{

constexpr char MESSAGE[] = "abc";
constexpr ssize_t MESSAGE_BYTES = 3;

/* Whether the descriptor's other side is found gone, at most a while later. */
bool hangs_up(int fd)
{
    struct pollfd poll_fd = {fd, POLLIN | POLLRDHUP, 0};
    char byte;
    while (poll(&poll_fd, 1, 3000) == 1) {
        if (poll_fd.revents & (POLLHUP | POLLERR | POLLRDHUP))
            return true;
        if (recv(fd, &byte, 1, 0) <= 0)
            return true;
    }
    return false;
}

FdPair tcp_pair(int flags)
{
    Fd listener(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    struct sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t len = sizeof address;
    auto *any = reinterpret_cast<struct sockaddr *>(&address);
    if (bind(listener, any, len) < 0 || listen(listener, 1) < 0 ||
        getsockname(listener, any, &len) < 0)
        return {};
    Fd client(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (connect(client, any, len) < 0)
        return {};
    Fd server(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | flags));
    return {std::move(server), std::move(client)};
}

/* A buffer that is refilled when the call has returned and must stay so. */
class Buffer
{
  public:
    void *data()
    {
        return returned_ ? next_ : bytes_;
    }
    size_t size() const
    {
        return sizeof bytes_;
    }
    void returned()
    {
        memset(bytes_, 0xee, sizeof bytes_);
        returned_ = true;
    }
    bool untouched() const
    {
        return std::all_of(bytes_, bytes_ + sizeof bytes_, [](char c) { return c == '\xee'; });
    }

  private:
    char bytes_[64];
    char next_[64];
    bool returned_ = false;
};

/* What recv, read and their like have in common: bytes come from a peer into a buffer. */
class Incoming : public Wait
{
  public:
    explicit Incoming(FdPair pair) : near_(std::move(pair.a)), far_(std::move(pair.b))
    {
    }
    void data() override
    {
        sent_ += far_ < 0 ? 0 : std::max<ssize_t>(write(far_, MESSAGE, MESSAGE_BYTES), 0);
    }
    void fin() override
    {
        far_.reset();
    }
    Results data_result() const override
    {
        return exactly(MESSAGE_BYTES);
    }
    int take_fd() override
    {
        return near_.release();
    }
    void returned(ssize_t first) override
    {
        (void)first;
        buffer_.returned();
    }
    bool buffer_untouched() override
    {
        return buffer_.untouched();
    }
    bool conserved(ssize_t first, ssize_t next, bool was_closed) override
    {
        if (was_closed)
            return true;
        int left = 0;
        ioctl(near_, FIONREAD, &left);
        return std::max<ssize_t>(first, 0) + std::max<ssize_t>(next, 0) + left == sent_;
    }

  protected:
    Fd near_, far_;
    Buffer buffer_;
    ssize_t sent_ = 0;
};

/* A write to a socket whose peer is gone must not kill the test. */
class SocketIncoming : public Incoming
{
  public:
    using Incoming::Incoming;
    void data() override
    {
        if (far_ >= 0)
            sent_ += std::max<ssize_t>(send(far_, MESSAGE, MESSAGE_BYTES, MSG_NOSIGNAL), 0);
    }
    bool peer_sees_end() override
    {
        return far_ < 0 || hangs_up(far_);
    }
};

class Recv : public SocketIncoming
{
  public:
    explicit Recv(int flags) : SocketIncoming(socket_pair(flags))
    {
    }
    ssize_t call() override
    {
        return wh_recv(near_, buffer_.data(), buffer_.size(), 0);
    }
};

class RecvTcp : public SocketIncoming
{
  public:
    explicit RecvTcp(int flags) : SocketIncoming(tcp_pair(flags))
    {
    }
    ssize_t call() override
    {
        return wh_recv(near_, buffer_.data(), buffer_.size(), 0);
    }
};

class Recvmsg : public SocketIncoming
{
  public:
    explicit Recvmsg(int flags) : SocketIncoming(socket_pair(flags))
    {
    }
    ssize_t call() override
    {
        iov_ = {buffer_.data(), buffer_.size()};
        msg_ = {};
        msg_.msg_iov = &iov_;
        msg_.msg_iovlen = 1;
        return wh_recvmsg(near_, &msg_, 0);
    }

  private:
    struct iovec iov_ = {};
    struct msghdr msg_ = {};
};

class ReadPipe : public Incoming
{
  public:
    explicit ReadPipe(int flags) : Incoming(pipe_pair(flags))
    {
    }
    ssize_t call() override
    {
        return wh_read(near_, buffer_.data(), buffer_.size());
    }
    void data() override
    {
        if (near_ >= 0) /* else it would raise SIGPIPE */
            Incoming::data();
    }
    bool peer_sees_end() override
    {
        struct pollfd poll_fd = {far_, POLLOUT, 0};
        return far_ < 0 || (poll(&poll_fd, 1, 3000) == 1 && poll_fd.revents & POLLERR);
    }
};

class ReadvPipe : public ReadPipe
{
  public:
    using ReadPipe::ReadPipe;
    ssize_t call() override
    {
        char *at = static_cast<char *>(buffer_.data());
        iov_[0] = {at, 1};
        iov_[1] = {at + 1, buffer_.size() - 1};
        return wh_readv(near_, iov_, 2);
    }

  private:
    struct iovec iov_[2] = {};
};

class ReadEvent : public Incoming
{
  public:
    explicit ReadEvent(int flags) : Incoming({Fd(eventfd(0, EFD_CLOEXEC | flags)), Fd()})
    {
    }
    ssize_t call() override
    {
        return wh_read(near_, buffer_.data(), sizeof(uint64_t));
    }
    void data() override
    {
        uint64_t one = 1;
        if (near_ >= 0)
            sent_ += write(near_, &one, sizeof one);
    }
    Results data_result() const override
    {
        return exactly(sizeof(uint64_t));
    }
    bool conserved(ssize_t first, ssize_t next, bool was_closed) override
    {
        if (was_closed)
            return true;
        struct pollfd poll_fd = {near_, POLLIN, 0};
        ssize_t left = poll(&poll_fd, 1, 0) == 1 ? ssize_t(sizeof(uint64_t)) : 0;
        return std::max<ssize_t>(first, 0) + std::max<ssize_t>(next, 0) + left == sent_;
    }
};

class Poll : public SocketIncoming
{
  public:
    explicit Poll(int flags) : SocketIncoming(socket_pair(flags))
    {
    }
    ssize_t call() override
    {
        return wh_poll(near_, POLLIN | POLLRDHUP);
    }
    Results data_result() const override
    {
        return {POLLIN, POLLIN | POLLHUP | POLLRDHUP};
    }
    Results fin_result() const override
    {
        return {POLLIN, POLLIN | POLLHUP | POLLRDHUP};
    }
    bool conserved(ssize_t, ssize_t, bool) override
    {
        return true; /* it takes nothing */
    }
    bool buffer_untouched() override
    {
        return true;
    }
};

/* Sends into a full socket; data() here is room, which the peer makes. */
class Send : public Wait
{
  public:
    explicit Send(int flags)
    {
        FdPair pair = socket_pair(flags);
        near_ = std::move(pair.a);
        far_ = std::move(pair.b);
        ssize_t n;
        while ((n = send(near_, bytes_, sizeof bytes_, MSG_DONTWAIT)) > 0)
            filled_ += n;
    }
    ssize_t call() override
    {
        return wh_send(near_, bytes_, sizeof bytes_, 0);
    }
    void data() override
    {
        drained_ += far_ < 0 ? 0 : drain();
    }
    void fin() override
    {
        far_.reset();
        gone_ = true;
    }
    Results data_result() const override
    {
        return {1, sizeof bytes_};
    }
    Results fin_result() const override
    {
        return exactly(-EPIPE);
    }
    int take_fd() override
    {
        return near_.release();
    }
    bool conserved(ssize_t first, ssize_t next, bool) override
    {
        if (gone_)
            return true;
        drained_ += drain();
        return filled_ + std::max<ssize_t>(first, 0) + std::max<ssize_t>(next, 0) == drained_;
    }
    bool peer_sees_end() override
    {
        return far_ < 0 || hangs_up(far_);
    }

  private:
    ssize_t drain()
    {
        static char sink[65536];
        ssize_t sum = 0, n;
        while ((n = recv(far_, sink, sizeof sink, MSG_DONTWAIT)) > 0)
            sum += n;
        return sum;
    }

    static char bytes_[4096];
    Fd near_, far_;
    ssize_t filled_ = 0, drained_ = 0;
    bool gone_ = false;
};

char Send::bytes_[4096];

/* Accepts; data() is a client that connects, fin() one that connects and goes at once. */
class Accept : public Wait
{
  public:
    Accept(int family, int flags) : client_(socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0))
    {
        listener_ = Fd(socket(family, SOCK_STREAM | SOCK_CLOEXEC | flags, 0));
        len_ = sizeof address_;
        memset(&address_, 0, sizeof address_);
        address_.ss_family = static_cast<sa_family_t>(family);
        if (family == AF_INET)
            reinterpret_cast<struct sockaddr_in *>(&address_)->sin_addr.s_addr =
                htonl(INADDR_LOOPBACK);
        else
            len_ = sizeof(sa_family_t); /* an abstract name that the kernel chooses */
        auto *any = reinterpret_cast<struct sockaddr *>(&address_);
        if (bind(listener_, any, len_) < 0 || listen(listener_, 8) < 0)
            abort();
        len_ = sizeof address_;
        getsockname(listener_, any, &len_);
    }
    ~Accept() override
    {
        if (accepted_ >= 0)
            close(accepted_);
    }
    ssize_t call() override
    {
        return wh_accept(listener_);
    }
    void data() override
    {
        connected_ = connect(client_, reinterpret_cast<struct sockaddr *>(&address_), len_) == 0;
    }
    Results data_result() const override
    {
        return {0, INT32_MAX};
    }
    void returned(ssize_t first) override
    {
        accepted_ = static_cast<int>(first);
    }
    int take_fd() override
    {
        return listener_.release();
    }
    bool conserved(ssize_t first, ssize_t next, bool was_closed) override
    {
        if (next >= 0)
            return false; /* only failures are asked for */
        if (first >= 0)
            return connected_ && are_connected();
        if (!connected_)
            return true;
        if (was_closed)
            return hangs_up(client_);
        accepted_ = accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
        return accepted_ >= 0 && are_connected();
    }
    bool peer_sees_end() override
    {
        Fd late(socket(address_.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
        return connect(late, reinterpret_cast<struct sockaddr *>(&address_), len_) < 0 &&
               errno == ECONNREFUSED;
    }

  private:
    bool are_connected()
    {
        char byte = 0;
        return send(client_, "x", 1, MSG_NOSIGNAL) == 1 && recv(accepted_, &byte, 1, 0) == 1 &&
               byte == 'x';
    }

    Fd listener_, client_;
    struct sockaddr_storage address_;
    socklen_t len_;
    bool connected_ = false;
    int accepted_ = -1;
};

/* Connects to a Unix socket whose queue is full; data() makes room, fin() closes the listener. The
 * kernel waits for room in a thread of its own, which is how operations are that cannot poll. */
class Connect : public Wait
{
  public:
    Connect() : near_(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0))
    {
        listener_ = Fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        filler_ = Fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        address_.sun_family = AF_UNIX;
        auto *any = reinterpret_cast<struct sockaddr *>(&address_);
        if (bind(listener_, any, sizeof(sa_family_t)) < 0 || listen(listener_, 0) < 0)
            abort();
        len_ = sizeof address_;
        getsockname(listener_, any, &len_);
        if (connect(filler_, any, len_) < 0)
            abort();
    }
    bool data_at_once() const override
    {
        return false;
    }
    ssize_t call() override
    {
        return wh_connect(near_, reinterpret_cast<struct sockaddr *>(&address_), len_);
    }
    void data() override
    {
        if (listener_ >= 0)
            Fd(accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC)).reset();
    }
    void fin() override
    {
        listener_.reset();
    }
    Results data_result() const override
    {
        return exactly(0);
    }
    Results fin_result() const override
    {
        return exactly(-ECONNREFUSED);
    }
    int take_fd() override
    {
        return near_.release();
    }

  private:
    Fd near_, listener_, filler_;
    struct sockaddr_un address_ = {};
    socklen_t len_;
};

/* Joins; data() is the end of the other. */
class Join : public Wait
{
  public:
    Join()
    {
        child_ = ::spawn([this] {
            while (!may_end_)
                wh_sleep(WH_HOUR);
            return 42;
        });
    }
    ~Join() override
    {
        if (joined_)
            return;
        data();
        join(child_);
    }
    ssize_t call() override
    {
        /* The next call is another one: what has ended meanwhile can be joined at any time. */
        return returned_ ? wh_sleep(WH_HOUR) : wh_join(child_, &value_);
    }
    void returned(ssize_t first) override
    {
        returned_ = true;
        joined_ = first == 0;
    }
    void data() override
    {
        may_end_ = true;
        if (!joined_)
            wh_cancel(child_);
    }
    bool conserved(ssize_t first, ssize_t, bool) override
    {
        return first == 0 ? value_ == 42 : value_ == 7;
    }
    Results fin_result() const override
    {
        return {1, 0};
    }

  private:
    wh_coro *child_;
    intptr_t value_ = 7;
    bool may_end_ = false;
    bool returned_ = false;
    bool joined_ = false;
};

class Sleep : public Wait
{
  public:
    ssize_t call() override
    {
        return wh_sleep(2 * WH_HOUR);
    }
    bool deadline_lasts() const override
    {
        return false;
    }
};

} // namespace

TEST_CASE("race: recv against data, end, deadline, cancel and close in every order")
{
    for (int flags : {0, static_cast<int>(SOCK_NONBLOCK)}) {
        int count = race::all<Recv>({DATA, FIN, DEADLINE, CANCEL, CLOSE}, flags);
        CHECK(count == sampled(3165));
    }
}

TEST_CASE("race: recv of TCP against data, deadline, cancel and close in every order")
{
    for (int flags : {0, static_cast<int>(SOCK_NONBLOCK)})
        race::all<RecvTcp>({DATA, DEADLINE, CANCEL, CLOSE}, flags);
}

TEST_CASE("race: recv of TCP against end, deadline, cancel and close in every order")
{
    for (int flags : {0, static_cast<int>(SOCK_NONBLOCK)})
        race::all<RecvTcp>({FIN, DEADLINE, CANCEL, CLOSE}, flags);
}

TEST_CASE("race: recvmsg against data, end, deadline, cancel and close in every order")
{
    race::all<Recvmsg>({DATA, FIN, DEADLINE, CANCEL, CLOSE}, 0);
}

TEST_CASE("race: read of a pipe against data, end, deadline, cancel and close in every order")
{
    for (int flags : {0, static_cast<int>(O_NONBLOCK)})
        race::all<ReadPipe>({DATA, FIN, DEADLINE, CANCEL, CLOSE}, flags);
}

TEST_CASE("race: readv of a pipe against data, end, deadline, cancel and close in every order")
{
    race::all<ReadvPipe>({DATA, FIN, DEADLINE, CANCEL, CLOSE}, 0);
}

TEST_CASE("race: read of an eventfd against data, deadline, cancel and close in every order")
{
    for (int flags : {0, static_cast<int>(EFD_NONBLOCK)})
        race::all<ReadEvent>({DATA, DEADLINE, CANCEL, CLOSE}, flags);
}

TEST_CASE("race: poll against data, end, deadline, cancel and close in every order")
{
    race::all<Poll>({DATA, FIN, DEADLINE, CANCEL, CLOSE}, 0);
}

TEST_CASE(
    "race: send to a full socket against room, end, deadline, cancel and close in every order")
{
    for (int flags : {0, static_cast<int>(SOCK_NONBLOCK)})
        race::all<Send>({DATA, FIN, DEADLINE, CANCEL, CLOSE}, flags);
}

TEST_CASE("race: accept against a client, deadline, cancel and close in every order")
{
    for (int family : {AF_INET, AF_UNIX})
        for (int flags : {0, static_cast<int>(SOCK_NONBLOCK)})
            race::all<Accept>({DATA, DEADLINE, CANCEL, CLOSE}, family, flags);
}

TEST_CASE(
    "race: connect to a full listener against room, deadline, cancel and close in every order")
{
    race::all<Connect>({DATA, DEADLINE, CANCEL, CLOSE});
    race::all<Connect>({FIN, DEADLINE, CANCEL, CLOSE});
}

namespace
{

/* A receiver takes one byte after the other; so many are sent, and so many turns later another
 * coroutine closes. Returns what the receiver's last call did, or 1 if it did not end. */
ssize_t close_under_a_receiver(int flags, int bytes, int turns)
{
    ssize_t n = 1;
    in_run([&] {
        FdPair pair = socket_pair(flags);
        int fd = pair.a.release();
        wh_coro *receiver = spawn([&] {
            char byte;
            while ((n = wh_recv(fd, &byte, 1, 0)) > 0)
                ;
        });
        Turns turn;
        turn(2);
        ssize_t sent = send(pair.b, "12345678", static_cast<size_t>(bytes), MSG_NOSIGNAL);
        turn(turns);
        wh_coro *closer = spawn([&] { return wh_close(fd); });
        intptr_t closed = join(closer);
        int rc = 0;
        WH_WITH_TIMEOUT(5 * WH_SECOND)
        {
            rc = wh_join(receiver, nullptr);
        }
        CHECK(sent == bytes);
        CHECK(closed == 0);
        CHECK(hangs_up(pair.b));
        if (rc < 0) {
            pair.b.reset();
            join(receiver);
            n = 1;
        }
    });
    return n;
}

} // namespace

TEST_CASE("race: a receiver that goes on receiving ends when the descriptor is closed")
{
    /* Among these is the one where it has its next receive to submit when those in flight have been
     * ended and the descriptor is not closed yet. */
    for (int flags : {0, static_cast<int>(SOCK_NONBLOCK)})
        for (int bytes = 1; bytes <= 8; bytes++)
            for (int turns = 0; turns < 8; turns++) {
                INFO(bytes << " bytes, " << turns << " turns" << (flags ? ", non-blocking" : ""));
                ssize_t n = close_under_a_receiver(flags, bytes, turns);
                CHECK(n == -EBADF);
            }
}

TEST_CASE("race: data that the ring took because its queue was full beats what comes after it")
{
    /* So many operations at once that the queue is flushed in between; completions are taken then,
     * too, but nobody is woken before the turn is over. */
    wh_options options = {};
    options.ring_entries = 8;
    for (Event late : {DEADLINE, CANCEL})
        in_run(
            [late] {
                FdPair pair = socket_pair();
                Fd ready(eventfd(1, EFD_CLOEXEC));
                ssize_t n = 0;
                char byte = 0;
                wh_coro *receiver = spawn([&] {
                    WH_WITH_TIMEOUT(WH_HOUR)
                    {
                        n = wh_recv(pair.a, &byte, 1, 0);
                    }
                });
                Turns turn;
                turn(2);
                ssize_t sent = send(pair.b, "d", 1, 0);
                CHECK(sent == 1);
                bool was_taken = false;
                for (int i = 0; i < 64; i++)
                    start([&] { wh_poll(ready, POLLIN); });
                start([&] {
                    was_taken = receiver->state == CORO_PARKED && receiver->op.state == OP_DONE;
                    if (late == CANCEL)
                        wh_cancel(receiver);
                    else
                        pass_deadline(receiver);
                });
                join(receiver);
                CHECK(was_taken);
                CHECK(n == 1);
                CHECK(byte == 'd');
                turn(2);
            },
            &options);
}

TEST_CASE("race: of two closes at the same time one succeeds and the other is -EBADF")
{
    for (bool in_use : {false, true})
        for (int turns = 0; turns < 4; turns++)
            in_run([&] {
                FdPair pair = socket_pair();
                int fd = pair.a.release();
                ssize_t n = -EBADF;
                wh_coro *receiver = spawn([&] {
                    char byte;
                    if (in_use)
                        n = wh_recv(fd, &byte, 1, 0);
                });
                Turns turn;
                turn(2);
                int first = 1, second = 1;
                wh_coro *one = spawn([&] { first = wh_close(fd); });
                turn(turns);
                wh_coro *other = spawn([&] { second = wh_close(fd); });
                join(one);
                join(other);
                join(receiver);
                CHECK(first == 0);
                CHECK(second == -EBADF);
                CHECK(n == -EBADF);
            });
}

TEST_CASE("race: join against the end, deadline and cancel in every order")
{
    race::all<Join>({DATA, DEADLINE, CANCEL});
}

TEST_CASE("race: sleep against deadline and cancel in every order")
{
    race::all<Sleep>({DEADLINE, CANCEL});
}
