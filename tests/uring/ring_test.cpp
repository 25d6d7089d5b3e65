/*
 * ring_test.cpp: the io_uring engine on its own: no coroutine, the real kernel.
 *
 * The build runs this program once for every kernel feature, with that one masked (WHORL_MASK), and
 * once with none: all must hold in each.
 */
#include "tests/base/child.hpp"
#include "tests/uring/ring.hpp"

#include <algorithm>
#include <atomic>
#include <deque>
#include <memory>
#include <random>
#include <thread>

#include <dirent.h>
#include <sys/time.h>

namespace
{

int open_descriptors()
{
    int count = 0;
    DIR *dir = opendir("/proc/self/fd");
    REQUIRE(dir);
    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}

/* What is left in a socket. */
std::string rest_of(int fd)
{
    std::string rest;
    char buf[4096];
    ssize_t n;
    while ((n = recv(fd, buf, sizeof buf, MSG_DONTWAIT)) > 0)
        rest.append(buf, static_cast<size_t>(n));
    return rest;
}

/* A receive with its buffer. */
struct Receive {
    char buf[64] = {};
    Op op;

    explicit Receive(int fd)
    {
        op.set(OP_RECV, fd, buf, sizeof buf);
    }
    std::string got() const
    {
        return op.res > 0 ? std::string(buf, static_cast<size_t>(op.res)) : "";
    }
};

} // namespace

/* ---- Submitting and completing ---- */

TEST_CASE("ring: what WHORL_MASK names is not used")
{
    Ring ring;
    struct caps caps = ring.caps();
#define NOT_USED(field, name) \
    if (caps_masked(name)) {  \
        INFO(name);           \
        CHECK(!caps.field);   \
    }
    CAPS(NOT_USED)
#undef NOT_USED
    if (caps_masked("single_issuer"))
        CHECK(!caps.defer_taskrun); /* the second needs the first */
}

TEST_CASE("ring: a write and a read through a pipe give their counts")
{
    Ring ring;
    Fds pipe = make_pipe();
    char buf[16] = {};
    Op read(OP_READ, pipe[0], buf, sizeof buf, HERE);
    Op write(OP_WRITE, pipe[1], "hello", 5, HERE);
    ring.submit(read);
    CHECK(ring.look().empty());
    CHECK(read.op.state == OP_IN_FLIGHT);
    CHECK(ring.result(write) == 5);
    REQUIRE(ring.finish());
    CHECK(read.res == 5);
    CHECK(read.completions == 1);
    CHECK(std::string(buf) == "hello");
}

TEST_CASE("ring: a send and a receive through a socket pair give their counts")
{
    Ring ring;
    Fds pair = make_socketpair();
    Receive receive(pair[0]);
    Op send(OP_SEND, pair[1], "hello", 5);
    ring.submit(receive.op);
    ring.submit(send);
    REQUIRE(ring.finish());
    CHECK(send.res == 5);
    CHECK(receive.got() == "hello");
}

TEST_CASE("ring: a poll waits until the descriptor is ready and says for what")
{
    Ring ring;
    Fds pair = make_socketpair();
    Op poll(OP_POLL, pair[0], nullptr, 0, 0, POLLIN);
    ring.submit(poll);
    CHECK(ring.take(clock_now() + MS_NS).empty());
    REQUIRE(send(pair[1], "x", 1, 0) == 1);
    REQUIRE(ring.finish());
    CHECK(poll.res == POLLIN);

    Op both(OP_POLL, pair[0], nullptr, 0, 0, POLLIN | POLLOUT);
    CHECK(ring.result(both) == (POLLIN | POLLOUT));
}

TEST_CASE("ring: an error is the result of its operation")
{
    Ring ring;
    char buf[4];
    Op bad(OP_READ, 99999, buf, sizeof buf, HERE);
    CHECK(ring.result(bad) == -EBADF);
    Fds pipe = make_pipe();
    Op wrong_end(OP_WRITE, pipe[0], "x", 1, HERE);
    CHECK(ring.result(wrong_end) == -EBADF);
    Op bad_memory(OP_WRITE, pipe[1], reinterpret_cast<void *>(16), 4, HERE);
    CHECK(ring.result(bad_memory) == -EFAULT);
    close(pipe.fd[0]);
    pipe.fd[0] = -1;
    Fds pair = make_socketpair();
    close(pair.fd[0]);
    pair.fd[0] = -1;
    Op broken(OP_SEND, pair[1], "x", 1, 0, MSG_NOSIGNAL);
    CHECK(ring.result(broken) == -EPIPE);
}

TEST_CASE("ring: one wait submits all that was asked for, in one system call")
{
    Ring ring;
    std::vector<std::unique_ptr<Op>> ops;
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int i = 0; i < 50; i++) {
        ops.push_back(std::make_unique<Op>(OP_WRITE, null, "x", 1, HERE));
        ring.submit(*ops.back());
    }
    CHECK(ring.stats().enters == 0);
    CHECK(ring.stats().in_flight == 50);
    CHECK(ring.take(clock_now() + HANG_NS).size() == 50);
    CHECK(ring.stats().enters == 1);
    CHECK(ring.stats().submissions == 50);
    CHECK(ring.stats().completions == 50);
    CHECK(ring.stats().in_flight == 0);
    for (auto &op : ops)
        CHECK(op->res == 1);
    close(null);
}

TEST_CASE("ring: with nothing to do a wait that may not sleep makes no system call")
{
    Ring ring;
    Fds pair = make_socketpair();
    Receive receive(pair[0]);
    ring.submit(receive.op);
    ring.look();
    uint64_t before = ring.stats().enters;
    for (int i = 0; i < 10; i++)
        CHECK(ring.look().empty());
    /* Without the flag in shared memory only entering tells. */
    CHECK(ring.stats().enters - before == (ring.caps().taskrun_flag ? 0 : 10));
    REQUIRE(send(pair[1], "x", 1, 0) == 1);
    CHECK(ring.look().size() == 1);
}

TEST_CASE("ring: readiness is seen without a system call")
{
    Ring ring;
    Fds pair = make_socketpair();
    CHECK(!ring.ready());
    Receive receive(pair[0]);
    ring.submit(receive.op);
    ring.look();
    CHECK(!ring.ready());
    REQUIRE(send(pair[1], "x", 1, 0) == 1);
    uint64_t before = ring.stats().enters;
    /* Without the flag a ring whose completions are posted on entering cannot know. */
    if (ring.caps().taskrun_flag || !ring.caps().defer_taskrun)
        CHECK(ring.ready());
    CHECK(ring.stats().enters == before);
    CHECK(ring.look().size() == 1);
    CHECK(!ring.ready());
    CHECK(receive.got() == "x");
}

TEST_CASE("ring: the counters add up")
{
    Ring ring;
    Fds pair = make_socketpair();
    for (int i = 0; i < 100; i++) {
        Receive receive(pair[0]);
        Op send(OP_SEND, pair[1], "ping", 4);
        ring.submit(receive.op);
        if (i % 2)
            ring.submit(send);
        else
            ring.cancel(receive.op);
        REQUIRE(ring.finish());
    }
    struct engine_stats stats = ring.stats();
    CHECK(stats.submissions == 150);
    CHECK(stats.completions == 150);
    CHECK(stats.cancels == 50);
    CHECK(stats.in_flight == 0);
    CHECK(stats.overflows == 0);
}

/* ---- Time ---- */

TEST_CASE("ring: a wait returns at its time and not before")
{
    Ring ring;
    Fds pair = make_socketpair();
    Receive receive(pair[0]);
    ring.submit(receive.op);
    for (int64_t wait_ns :
         {INT64_C(1), INT64_C(1000), INT64_C(100000), MS_NS, 5 * MS_NS, 30 * MS_NS}) {
        for (int i = 0; i < 5; i++) {
            int64_t until_ns = clock_now() + wait_ns;
            CHECK(ring.take(until_ns).empty());
            int64_t now_ns = clock_now();
            CHECK(now_ns >= until_ns);
            CHECK(now_ns < until_ns + 5 * SECOND_NS);
        }
    }
}

TEST_CASE("ring: a wait until a time that has passed does not sleep")
{
    Ring ring;
    Fds pair = make_socketpair();
    Receive receive(pair[0]);
    ring.submit(receive.op);
    int64_t began_ns = clock_now();
    for (int64_t until_ns :
         {INT64_MIN, INT64_C(-1), INT64_C(0), INT64_C(1), began_ns - SECOND_NS, began_ns})
        CHECK(ring.take(until_ns).empty());
    CHECK(clock_now() - began_ns < 5 * SECOND_NS);
}

TEST_CASE("ring: a completion ends a wait without limit, and one that was limited early")
{
    Ring ring;
    Fds pair = make_socketpair();
    for (int64_t until_ns : {INT64_MAX, INT64_MAX - 1, clock_now() + 3600 * SECOND_NS}) {
        Receive receive(pair[0]);
        ring.submit(receive.op);
        ring.look();
        std::thread peer([&] { REQUIRE(send(pair[1], "late", 4, 0) == 4); });
        std::vector<Op *> done;
        while (done.empty())
            done = ring.take(until_ns);
        peer.join();
        CHECK(done.size() == 1);
        CHECK(receive.got() == "late");
    }
}

namespace
{

std::atomic<int> alarms;

void on_alarm(int)
{
    alarms++;
}

} // namespace

TEST_CASE("ring: a signal ends a wait early, and what is in flight goes on")
{
    Ring ring;
    Fds pair = make_socketpair();
    Receive receive(pair[0]);
    ring.submit(receive.op);
    ring.look();

    struct sigaction action = {}, before;
    action.sa_handler = on_alarm; /* SA_RESTART would change nothing: the call is not restarted */
    action.sa_flags = SA_RESTART;
    sigaction(SIGALRM, &action, &before);
    /* Again and again: the first may come before the wait. */
    const struct itimerval every = {{0, 5000}, {0, 5000}}, never = {{0, 0}, {0, 0}};
    for (int64_t until_ns : {INT64_MAX, clock_now() + 3600 * SECOND_NS}) {
        alarms = 0;
        setitimer(ITIMER_REAL, &every, nullptr);
        CHECK(ring.take(until_ns).empty());
        setitimer(ITIMER_REAL, &never, nullptr);
        CHECK(alarms > 0);
    }
    sigaction(SIGALRM, &before, nullptr);
    CHECK(receive.op.op.state == OP_IN_FLIGHT);
    REQUIRE(send(pair[1], "still", 5, 0) == 5);
    REQUIRE(ring.finish());
    CHECK(receive.got() == "still");
}

/* ---- Cancelling ---- */

TEST_CASE("cancel: an operation in flight completes once, with -ECANCELED")
{
    Ring ring;
    Fds pair = make_socketpair();
    Fds pipe = make_pipe();
    char buf[8];
    Receive receive(pair[0]);
    Op read(OP_READ, pipe[0], buf, sizeof buf, HERE);
    Op poll(OP_POLL, pair[0], nullptr, 0, 0, POLLIN);
    for (Op *op : {&receive.op, &read, &poll})
        ring.submit(*op);
    ring.look();
    for (Op *op : {&receive.op, &read, &poll}) {
        ring.cancel(*op);
        CHECK(op->op.state == OP_CANCELLING);
        ring.cancel(*op); /* asked again it is still one completion */
    }
    REQUIRE(ring.finish());
    for (Op *op : {&receive.op, &read, &poll}) {
        CHECK(op->res == -ECANCELED);
        CHECK(op->completions == 1);
    }
    /* Nothing comes after, and the descriptors are as before. */
    CHECK(ring.take(clock_now() + MS_NS).empty());
    REQUIRE(send(pair[1], "x", 1, 0) == 1);
    CHECK(ring.take(clock_now() + MS_NS).empty());
    CHECK(rest_of(pair[0]) == "x");
}

TEST_CASE("cancel: one that has not been handed to the kernel yet is cancelled too")
{
    Ring ring;
    Fds pair = make_socketpair();
    Receive receive(pair[0]);
    ring.submit(receive.op);
    ring.cancel(receive.op);
    CHECK(ring.stats().enters == 0);
    REQUIRE(ring.finish());
    CHECK(receive.op.res == -ECANCELED);
}

TEST_CASE("cancel: data that was there first is returned")
{
    Ring ring;
    Fds pair = make_socketpair();
    REQUIRE(send(pair[1], "first", 5, 0) == 5);
    Receive receive(pair[0]);
    ring.submit(receive.op);
    ring.cancel(receive.op);
    REQUIRE(ring.finish());
    CHECK(receive.got() == "first");
    CHECK(receive.op.completions == 1);
}

TEST_CASE("cancel: of what has completed and was not taken yet changes nothing")
{
    Ring ring(8);
    Fds pair = make_socketpair();
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    REQUIRE(send(pair[1], "done", 4, 0) == 4);
    Receive receive(pair[0]);
    ring.submit(receive.op);
    /* The queue is full and is flushed: the receive completes then, and is not handed out yet. */
    std::vector<std::unique_ptr<Op>> ops;
    for (int i = 0; i < 9; i++) {
        ops.push_back(std::make_unique<Op>(OP_WRITE, null, "x", 1, HERE));
        ring.submit(*ops.back());
    }
    CHECK(ring.stats().full >= 1);
    CHECK(receive.op.op.state == OP_DONE);
    CHECK(receive.op.completions == 0);
    ring.cancel(receive.op);
    CHECK(ring.stats().cancels == 0);
    REQUIRE(ring.finish());
    CHECK(receive.got() == "done");
    CHECK(receive.op.completions == 1);
    close(null);
}

TEST_CASE("cancel: data and cancel that come between two waits lose nothing, in either order")
{
    for (bool data_first : {true, false}) {
        int returned = 0, cancelled = 0;
        Ring ring;
        for (int i = 0; i < 300; i++) {
            Fds pair = make_socketpair();
            Receive receive(pair[0]);
            ring.submit(receive.op);
            ring.look();
            if (data_first)
                REQUIRE(send(pair[1], "data", 4, 0) == 4);
            ring.cancel(receive.op);
            if (!data_first)
                REQUIRE(send(pair[1], "data", 4, 0) == 4);
            REQUIRE(ring.finish());
            REQUIRE(receive.op.completions == 1);
            if (receive.op.res == -ECANCELED) {
                REQUIRE(rest_of(pair[0]) == "data");
                cancelled++;
            } else {
                REQUIRE(receive.got() == "data");
                REQUIRE(rest_of(pair[0]).empty());
                returned++;
            }
        }
        INFO("data first " << data_first << ": returned " << returned << ", cancelled "
                           << cancelled);
        CHECK(returned + cancelled == 300);
    }
}

TEST_CASE("cancel: racing with a peer on another thread loses and doubles nothing")
{
    Ring ring;
    Fds pair = make_socketpair();
    std::atomic<bool> stop{false};
    std::string sent;
    std::thread peer([&] {
        std::mt19937 random(1);
        for (unsigned i = 0; !stop; i++) {
            char byte = static_cast<char>('a' + i % 26);
            if (send(pair[1], &byte, 1, MSG_DONTWAIT) == 1)
                sent.push_back(byte);
            for (unsigned spin = random() % 3000; spin > 0; spin--)
                __asm__ volatile("");
        }
    });

    std::string received;
    std::mt19937 random(2);
    int returned = 0, cancelled = 0;
    int64_t until_ns = clock_now() + 300 * MS_NS;
    while (clock_now() < until_ns) {
        Receive receive(pair[0]);
        ring.submit(receive.op);
        if (random() % 2)
            ring.look();
        for (unsigned spin = random() % 1000; spin > 0; spin--)
            __asm__ volatile("");
        ring.cancel(receive.op);
        if (!ring.finish() || receive.op.completions != 1)
            break;
        received += receive.got();
        (receive.op.res == -ECANCELED ? cancelled : returned)++;
    }
    stop = true;
    peer.join();
    received += rest_of(pair[0]);
    INFO("returned " << returned << ", cancelled " << cancelled);
    CHECK(received == sent);
    CHECK(ring.in_flight() == 0);
    CHECK(returned > 0);
}

TEST_CASE("cancel: storage used again at once is not hit by the cancel before")
{
    Ring ring(8);
    Fds pair = make_socketpair();
    Receive receive(pair[0]);
    for (int i = 0; i < 2000; i++) {
        /* Completes by data, by the cancel, or by whichever comes first. */
        ring.submit(receive.op);
        if (i % 3)
            ring.look();
        if (i % 2)
            REQUIRE(send(pair[1], "x", 1, 0) == 1);
        ring.cancel(receive.op);
        REQUIRE(ring.finish());
        rest_of(pair[0]);
        /* The same storage: only data may complete this one. */
        ring.submit(receive.op);
        REQUIRE(ring.look().empty());
        REQUIRE(send(pair[1], "y", 1, 0) == 1);
        REQUIRE(ring.finish());
        REQUIRE(receive.got() == "y");
    }
}

/* ---- Full queues ---- */

TEST_CASE("full: a thousand operations through a queue of eight, at once")
{
    Ring ring(8);
    int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    std::vector<std::unique_ptr<Op>> ops;
    std::vector<std::string> bufs(1000, std::string(10, 'x'));
    for (auto &buf : bufs) {
        ops.push_back(std::make_unique<Op>(OP_READ, zero, buf.data(), buf.size(), HERE));
        ring.submit(*ops.back());
    }
    CHECK(ring.stats().full >= 1000 / 8 - 1);
    REQUIRE(ring.finish());
    for (size_t i = 0; i < ops.size(); i++) {
        REQUIRE(ops[i]->completions == 1);
        REQUIRE(ops[i]->res == 10);
        REQUIRE(bufs[i] == std::string(10, '\0'));
    }
    CHECK(ring.stats().submissions == 1000);
    CHECK(ring.stats().completions == 1000);
    close(zero);
}

TEST_CASE("full: a thousand cancels through a queue of eight")
{
    Ring ring(8);
    Fds pair = make_socketpair();
    std::vector<std::unique_ptr<Receive>> receives;
    for (int i = 0; i < 1000; i++) {
        receives.push_back(std::make_unique<Receive>(pair[0]));
        ring.submit(receives.back()->op);
    }
    for (auto &receive : receives)
        ring.cancel(receive->op);
    REQUIRE(ring.finish());
    for (auto &receive : receives)
        REQUIRE(receive->op.res == -ECANCELED);
    CHECK(ring.stats().cancels == 1000);
}

namespace
{

/* Many receives in flight on a ring of eight entries (thirty-two completions), all of them fed
 * before the ring is looked at again. Returns the overflows counted. */
uint64_t all_at_once()
{
    Ring ring(8);
    std::vector<Fds> pairs;
    std::vector<std::unique_ptr<Receive>> receives;
    for (int i = 0; i < 500; i++) {
        pairs.push_back(make_socketpair());
        receives.push_back(std::make_unique<Receive>(pairs.back()[0]));
        ring.submit(receives.back()->op);
    }
    CHECK(ring.look().empty());
    CHECK(ring.in_flight() == 500);
    for (size_t i = 0; i < pairs.size(); i++) {
        std::string text = "number " + std::to_string(i);
        REQUIRE(send(pairs[i][1], text.data(), text.size(), 0) ==
                static_cast<ssize_t>(text.size()));
    }
    REQUIRE(ring.finish());
    for (size_t i = 0; i < pairs.size(); i++) {
        REQUIRE(receives[i]->op.completions == 1);
        REQUIRE(receives[i]->got() == "number " + std::to_string(i));
    }
    CHECK(ring.take(clock_now() + MS_NS).empty());
    return ring.stats().overflows;
}

} // namespace

TEST_CASE("overflow: more completions than the queue holds, and none is lost")
{
    all_at_once();
    /* Posted as they come and not when we ask, they must overflow; that is counted. */
    Environment mask("WHORL_MASK", "defer_taskrun");
    CHECK(all_at_once() > 0);
}

/* ---- All together ---- */

TEST_CASE("ring: a random mix of receives, sends, cancels and waits keeps every stream whole")
{
    struct Stream {
        Fds pair = make_socketpair();
        std::deque<char> sent; /* and not received yet */
        std::unique_ptr<Receive> receive;
        unsigned next = 0;
    };
    std::mt19937 random(11);
    for (unsigned entries : {8u, 256u}) {
        Ring ring(entries);
        std::vector<Stream> streams(40);
        for (auto &stream : streams)
            stream.receive = std::make_unique<Receive>(stream.pair[0]);
        size_t returned = 0, cancelled = 0;
        auto settle = [&](const std::vector<Op *> &done) {
            for (Op *op : done) {
                auto &stream = *std::find_if(streams.begin(), streams.end(),
                                             [&](Stream &s) { return &s.receive->op == op; });
                if (op->res == -ECANCELED) {
                    cancelled++;
                    continue;
                }
                REQUIRE(op->res > 0);
                for (char byte : stream.receive->got()) {
                    REQUIRE(!stream.sent.empty());
                    REQUIRE(stream.sent.front() == byte);
                    stream.sent.pop_front();
                }
                returned++;
            }
        };
        for (int step = 0; step < 20000; step++) {
            Stream &stream = streams[random() % streams.size()];
            switch (random() % 8) {
            case 0:
            case 1:
            case 2:
                if (stream.receive->op.op.state == OP_IDLE)
                    ring.submit(stream.receive->op);
                break;
            case 3:
            case 4: {
                std::string bytes;
                for (unsigned n = 1 + random() % 100; n > 0; n--)
                    bytes.push_back(static_cast<char>(stream.next++));
                if (stream.sent.size() > 10000)
                    break;
                REQUIRE(send(stream.pair[1], bytes.data(), bytes.size(), 0) ==
                        static_cast<ssize_t>(bytes.size()));
                stream.sent.insert(stream.sent.end(), bytes.begin(), bytes.end());
                break;
            }
            case 5: ring.cancel(stream.receive->op); break;
            case 6: settle(ring.look()); break;
            default:
                if (random() % 8 == 0)
                    settle(ring.take(clock_now() + static_cast<int64_t>(random() % 50000)));
                break;
            }
            REQUIRE(ring.stats().in_flight <= ring.in_flight()); /* some are done and not taken */
        }
        for (auto &stream : streams)
            ring.cancel(stream.receive->op);
        int64_t until_ns = clock_now() + HANG_NS;
        while (ring.in_flight() && clock_now() < until_ns)
            settle(ring.take_patiently());
        REQUIRE(ring.in_flight() == 0);
        for (auto &stream : streams)
            CHECK(rest_of(stream.pair[0]) == std::string(stream.sent.begin(), stream.sent.end()));
        CHECK(returned > 1000);
        CHECK(cancelled > 100);
        CHECK(ring.stats().submissions == ring.stats().completions);
    }
}

/* ---- Making and unmaking ---- */

TEST_CASE("ring: made and destroyed many times it leaves no descriptor behind")
{
    int before = open_descriptors();
    for (int i = 0; i < 30; i++) {
        Ring ring(8u << i % 8);
        Fds pair = make_socketpair();
        Receive receive(pair[0]);
        ring.submit(receive.op);
        ring.cancel(receive.op);
        REQUIRE(ring.finish());
    }
    CHECK(open_descriptors() == before);
}

TEST_CASE("ring: a number of entries that is no power of two in range is refused, in one line")
{
    for (unsigned entries : {0u, 1u, 4u, 7u, 9u, 100u, 32767u, 65536u, 1u << 31, ~0u}) {
        INFO(entries);
        struct engine *engine = nullptr;
        StderrKept kept;
        CHECK(ring_try(entries, &engine) == -EINVAL);
        CHECK(engine == nullptr);
        std::string said = kept.text();
        CHECK(lines_of(said) == 1);
        CHECK(said.find("power of two") != std::string::npos);
    }
}

TEST_CASE("ring: the smallest and the largest number of entries work")
{
    for (unsigned entries : {8u, 32768u}) {
        INFO(entries);
        Ring ring(entries);
        Fds pair = make_socketpair();
        Receive receive(pair[0]);
        Op send(OP_SEND, pair[1], "x", 1);
        ring.submit(receive.op);
        ring.submit(send);
        REQUIRE(ring.finish());
        CHECK(receive.got() == "x");
    }
}

TEST_CASE("ring: submitting what is in flight and destroying a busy ring are errors")
{
    ChildEnd twice = in_child([] {
        struct engine *engine;
        CHILD_REQUIRE(ring_try(8, &engine) == 0);
        int fds[2];
        CHILD_REQUIRE(pipe(fds) == 0);
        char byte;
        Op read(OP_READ, fds[0], &byte, 1, HERE);
        engine_submit(engine, &read.op);
        engine_submit(engine, &read.op);
        return 0;
    });
    INFO(twice.how());
    CHECK(twice.killed_by(SIGABRT));
    CHECK(twice.said.find("OP_IDLE") != std::string::npos);

    ChildEnd busy = in_child([] {
        struct engine *engine;
        CHILD_REQUIRE(ring_try(8, &engine) == 0);
        int fds[2];
        CHILD_REQUIRE(pipe(fds) == 0);
        char byte;
        Op read(OP_READ, fds[0], &byte, 1, HERE);
        engine_submit(engine, &read.op);
        engine->type->destroy(engine);
        return 0;
    });
    INFO(busy.how());
    CHECK(busy.killed_by(SIGABRT));
    CHECK(busy.said.find("in_flight") != std::string::npos);
}
