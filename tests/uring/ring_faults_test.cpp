/*
 * ring_faults_test.cpp: what the kernel says seldom: no memory for requests, interrupted, only a
 * part of the submissions taken. The linker's --wrap=io_uring_enter2 puts the function below
 * between the engine and the kernel; it plays a list of answers and then lets everything through.
 */
#include "tests/base/child.hpp"
#include "tests/uring/ring.hpp"

#include <deque>
#include <functional>
#include <memory>

#include <sys/time.h>

extern "C" {
int __real_io_uring_enter2(unsigned fd, unsigned to_submit, unsigned min_complete, unsigned flags,
                           void *arg, size_t size);
int __wrap_io_uring_enter2(unsigned fd, unsigned to_submit, unsigned min_complete, unsigned flags,
                           void *arg, size_t size);
}

namespace
{

struct Call {
    unsigned to_submit;
    unsigned min_complete;
};

/* What the kernel does instead, a call each: a negative number is the error; a positive one takes
 * that many submissions and no more; PASS changes nothing. */
constexpr int PASS = 0;
std::deque<int> answers;

/* The first answer, as long as this says so. */
std::function<bool(const Call &call)> always;

std::vector<Call> calls;

void play(std::initializer_list<int> list)
{
    answers = list;
    always = nullptr;
    calls.clear();
}

struct Receive {
    char buf[64] = {};
    Op op;

    explicit Receive(int fd)
    {
        op.set(OP_RECV, fd, buf, sizeof buf);
    }
};

} // namespace

int __wrap_io_uring_enter2(unsigned fd, unsigned to_submit, unsigned min_complete, unsigned flags,
                           void *arg, size_t size)
{
    calls.push_back({to_submit, min_complete});
    int answer = PASS;
    if (always) {
        if (always(calls.back()))
            answer = answers.front();
    } else if (!answers.empty()) {
        answer = answers.front();
        answers.pop_front();
    }
    if (answer < 0)
        return answer;
    if (answer > 0 && static_cast<unsigned>(answer) < to_submit) {
        /* As the kernel does when it could not take all: it does not wait then. */
        return __real_io_uring_enter2(fd, static_cast<unsigned>(answer), 0, flags, arg, size);
    }
    return __real_io_uring_enter2(fd, to_submit, min_complete, flags, arg, size);
}

TEST_CASE("faults: interrupted, a wait returns with nothing, and the next one goes on")
{
    Ring ring;
    Fds pair = make_socketpair();
    Receive receive(pair[0]);
    ring.submit(receive.op);
    play({-EINTR});
    CHECK(ring.take(clock_now() + HANG_NS).empty());
    CHECK(calls.size() == 1);
    CHECK(receive.op.op.state == OP_IN_FLIGHT);
    REQUIRE(send(pair[1], "x", 1, 0) == 1);
    REQUIRE(ring.finish());
    CHECK(receive.op.res == 1);
}

TEST_CASE("faults: no memory or a busy ring delays operations and loses none")
{
    for (int error : {-EAGAIN, -EBUSY}) {
        INFO(strerror(-error));
        Ring ring;
        Fds pair = make_socketpair();
        std::vector<std::unique_ptr<Receive>> receives;
        for (int i = 0; i < 20; i++) {
            receives.push_back(std::make_unique<Receive>(pair[0]));
            ring.submit(receives.back()->op);
        }
        std::string bytes(20 * 64, 'y');
        REQUIRE(send(pair[1], bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()));
        play({error, error, PASS, error, -EINTR, error});
        REQUIRE(ring.finish());
        for (auto &receive : receives) {
            CHECK(receive->op.completions == 1);
            CHECK(receive->op.res == 64);
        }
        CHECK(ring.stats().submissions == 20);
        CHECK(ring.stats().completions == 20);
        CHECK(answers.empty());
    }
}

TEST_CASE("faults: short of memory the ring does not spin: it waits for completions between tries")
{
    Ring ring;
    Fds pair = make_socketpair();
    Receive receive(pair[0]);
    ring.submit(receive.op);
    play({-EAGAIN});
    int64_t until_ns = clock_now() + 30 * MS_NS;
    always = [&](const Call &call) { return call.to_submit > 0 && clock_now() < until_ns; };
    ring.take(clock_now() + HANG_NS);
    always = nullptr;
    answers.clear();
    CHECK(clock_now() >= until_ns);
    size_t tries = 0;
    for (const Call &call : calls)
        tries += call.to_submit > 0;
    CHECK(tries >= 2);
    CHECK(tries <= 40); /* one a millisecond */
    REQUIRE(send(pair[1], "x", 1, 0) == 1);
    REQUIRE(ring.finish());
    CHECK(receive.op.res == 1);
}

TEST_CASE("faults: only a part of the submissions taken, the rest goes with the next calls")
{
    Ring ring;
    int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    std::vector<std::unique_ptr<Op>> ops;
    for (int i = 0; i < 30; i++) {
        ops.push_back(std::make_unique<Op>(OP_WRITE, null, "abc", 3, HERE));
        ring.submit(*ops.back());
    }
    play({1, 2, -EINTR, 3, 10, -EAGAIN, 1});
    REQUIRE(ring.finish());
    for (auto &op : ops) {
        CHECK(op->completions == 1);
        CHECK(op->res == 3);
    }
    CHECK(calls.front().to_submit == 30);
    CHECK(ring.stats().submissions == 30);
    close(null);
}

TEST_CASE("faults: the same while a full queue is flushed")
{
    Ring ring(8);
    int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    char buf[200];
    std::vector<std::unique_ptr<Op>> ops;
    play({-EAGAIN, PASS, 3, -EBUSY, PASS, -EINTR, 1, 1, -EAGAIN, -EAGAIN, -EAGAIN, 2});
    for (char &byte : buf) {
        ops.push_back(std::make_unique<Op>(OP_READ, zero, &byte, 1, HERE));
        ring.submit(*ops.back());
    }
    REQUIRE(ring.finish());
    for (auto &op : ops) {
        CHECK(op->completions == 1);
        CHECK(op->res == 1);
    }
    CHECK(answers.empty());
    CHECK(ring.stats().full > 0);
    close(zero);
}

TEST_CASE("faults: a cancel that meets them still ends its operation once")
{
    for (std::initializer_list<int> list : {std::initializer_list<int>{-EAGAIN},
                                            {-EBUSY, -EBUSY},
                                            {-EINTR, -EINTR},
                                            {1},
                                            {1, -EAGAIN}}) {
        Ring ring(8);
        Fds pair = make_socketpair();
        Receive receive(pair[0]);
        ring.submit(receive.op);
        ring.cancel(receive.op);
        play(list);
        REQUIRE(ring.finish());
        CHECK(receive.op.completions == 1);
        CHECK(receive.op.res == -ECANCELED);
    }
}

TEST_CASE("faults: a time limit holds when calls are interrupted or fail")
{
    for (int error : {-EINTR, -EAGAIN, -EBUSY}) {
        Ring ring;
        Fds pair = make_socketpair();
        Receive receive(pair[0]);
        ring.submit(receive.op);
        play({error, error});
        int64_t until_ns = clock_now() + 10 * MS_NS;
        int waits = 0;
        while (clock_now() < until_ns && waits < 1000) {
            CHECK(ring.take(until_ns).empty());
            waits++;
        }
        INFO(strerror(-error) << ": " << waits << " waits");
        CHECK(waits <= 5);
        CHECK(clock_now() < until_ns + 5 * SECOND_NS);
        ring.cancel(receive.op);
        REQUIRE(ring.finish());
    }
}

TEST_CASE("faults: memory short for long is said once, with what helps")
{
    Ring ring;
    Fds pair = make_socketpair();
    Receive receive(pair[0]);
    ring.submit(receive.op);
    play({-EAGAIN});
    size_t refused = 0;
    always = [&](const Call &) { return ++refused < 12000; }; /* also the waits between: no time */
    std::string said;
    {
        StderrKept kept;
        ring.look();
        said = kept.text();
    }
    always = nullptr;
    answers.clear();
    INFO(said);
    CHECK(lines_of(said) == 1);
    CHECK(said.find("memory") != std::string::npos);
    CHECK(said.find("1 now") != std::string::npos);
    REQUIRE(send(pair[1], "x", 1, 0) == 1);
    REQUIRE(ring.finish());
    CHECK(receive.op.res == 1);
}

TEST_CASE("faults: an error that nothing mends ends the process and says which")
{
    for (int error : {-EBADF, -EFAULT, -EOPNOTSUPP}) {
        ChildEnd end = in_child([&] {
            struct engine *engine;
            CHILD_REQUIRE(ring_try(8, &engine) == 0);
            play({error});
            struct op_list done = {nullptr, nullptr};
            engine_wait(engine, clock_now() + MS_NS, &done);
            return 0;
        });
        INFO(end.how());
        CHECK(end.killed_by(SIGABRT));
        CHECK(end.said.find(strerror(-error)) != std::string::npos);
        CHECK(lines_of(end.said) == 1);
    }
}

/* ---- The second enter, for what had to wait ---- */

namespace
{

/* What one wait took, and the enters that it made. */
struct Burst {
    unsigned at_once = 0, waited = 0;
    std::vector<Call> made;
};

/* A wait with so many writes that are done at once, and so many receives that had to wait and have
 * something now; then the others. */
Burst burst(Ring &ring, int waiting, int at_once)
{
    std::deque<Fds> pairs;
    std::deque<Receive> receives;
    for (int i = 0; i < waiting; i++) {
        pairs.push_back(make_socketpair());
        receives.emplace_back(pairs.back()[0]);
        ring.submit(receives.back().op);
    }
    CHECK(ring.look().empty());
    for (const Fds &pair : pairs)
        REQUIRE(send(pair[1], "x", 1, 0) == 1);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    std::deque<Op> writes;
    for (int i = 0; i < at_once; i++) {
        writes.emplace_back(OP_WRITE, null, "x", 1, HERE);
        ring.submit(writes.back());
    }
    play({});
    Burst burst;
    for (const Op *op : ring.look())
        op->op.code == OP_WRITE ? burst.at_once++ : burst.waited++;
    burst.made = calls;
    unsigned left = static_cast<unsigned>(waiting + at_once) - burst.at_once - burst.waited;
    for (int64_t until_ns = clock_now() + HANG_NS; left && clock_now() < until_ns;)
        left -= static_cast<unsigned>(ring.take(until_ns).size());
    REQUIRE(left == 0);
    for (const Op &write : writes)
        CHECK(write.res == 1);
    for (const Receive &receive : receives) {
        CHECK(receive.op.res == 1);
        CHECK(receive.buf[0] == 'x');
    }
    close(null);
    return burst;
}

} // namespace

TEST_CASE("second enter: what had to wait comes as fast as what is done at once")
{
    Ring ring(256);
    Burst first = burst(ring, 100, 80);
    CHECK(first.made.size() <= 2);
    CHECK(first.at_once == 80);
    /* Without the flag in shared memory nobody knows that something was left. */
    if (ring.caps().taskrun_flag || !ring.caps().defer_taskrun)
        CHECK(first.waited >= 80);
}

TEST_CASE("second enter: it asks for no more than is there, and for no more than its limit")
{
    Ring ring(1024);
    for (int at_once : {80, 100}) {
        Burst first = burst(ring, 300, at_once);
        REQUIRE(!first.made.empty());
        CHECK(first.made[0].min_complete == 0);
        CHECK(first.made.size() <= 2);
        if (first.made.size() < 2)
            continue; /* a kernel that takes everything at once, or no flag that tells */
        CHECK(first.made[1].to_submit == 0);
        CHECK(first.made[1].min_complete >= static_cast<unsigned>(at_once));
        CHECK(first.made[1].min_complete <= 128);
        CHECK(2 * first.made[1].min_complete <= first.at_once + first.waited);
    }
}

TEST_CASE("second enter: none where the completion queue has no room for what it brings")
{
    Ring ring(32);
    CHECK(burst(ring, 100, 32).made.size() == 1);
}

TEST_CASE("second enter: none with thousands in flight")
{
    Fds pipe = make_pipe();
    std::deque<Op> polls;
    Ring ring(8192);
    for (int i = 0; i < 5000; i++) {
        polls.emplace_back(OP_POLL, pipe[0], nullptr, 0, 0, POLLIN);
        ring.submit(polls.back());
    }
    CHECK(burst(ring, 100, 80).made.size() == 1);
    REQUIRE(write(pipe[1], "x", 1) == 1);
    REQUIRE(ring.finish());
}
