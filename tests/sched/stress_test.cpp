/*
 * stress_test.cpp: very many coroutines, and a long random mix of everything, after which nothing
 * may be missing: every coroutine ended, every stack and descriptor back, every byte accounted for.
 *
 * WHORL_TEST_SECONDS makes the mix longer; the seed is Catch2's (--rng-seed).
 */
#include "tests/sched/in_run.hpp"

#include <catch2/catch_get_random_seed.hpp>
#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <random>
#include <vector>

extern "C" {
#include "sched/sched.h"
}

namespace
{

void sleep_for_ever(uint64_t *cancelled)
{
    *cancelled += wh_sleep(WH_HOUR) == -ECANCELED;
}

void read_for_ever(int fd, uint64_t *cancelled)
{
    char byte;
    *cancelled += wh_read(fd, &byte, 1) == -ECANCELED;
}

/* Without guard regions each stack is two mappings, and vm.max_map_count ends at 65530. */
int many()
{
    return at_once(has_cap("guard") ? times(100000) : 20000);
}

void check_all_back(const wh_stats &stats, uint64_t started)
{
    CHECK(stats.coros_live == 1);
    CHECK(stats.coros_started == started + 1);
    CHECK(stats.coros_ended == started);
    CHECK(stats.stacks_in_use == 1);
    CHECK(stats.ops_in_flight == 0);
}

} // namespace

TEST_CASE("stress: 100,000 coroutines that sleep are cancelled, and all come to their end")
{
    in_run([] {
        const int count = many();
        uint64_t cancelled = 0;
        std::vector<wh_coro *> coros(static_cast<size_t>(count));
        int failed = 0;
        for (wh_coro *&coro : coros)
            failed += wh_spawn(&coro, nullptr, sleep_for_ever, &cancelled) < 0;
        CHECK(failed == 0);
        wh_yield();
        worker_validate(worker_tls);
        wh_stats stats;
        wh_stats_get(&stats);
        CHECK(stats.coros_live == static_cast<uint64_t>(count) + 1);
        CHECK(stats.timers_armed >= static_cast<uint64_t>(count));

        std::mt19937_64 random(Catch::getSeed());
        std::shuffle(coros.begin(), coros.end(), random);
        for (wh_coro *coro : coros)
            wh_cancel(coro);
        for (wh_coro *coro : coros)
            join(coro);
        worker_validate(worker_tls);
        CHECK(cancelled == static_cast<uint64_t>(count));
        wh_stats_get(&stats);
        check_all_back(stats, static_cast<uint64_t>(count));
        CHECK(stats.timers_armed == 0);
    });
}

TEST_CASE(
    "stress: 20,000 operations in flight at once are cancelled, and the kernel lets go of all")
{
    const int fds = fds_open();
    in_run([] {
        const int count = at_once(times(20000));
        FdPair pipe = pipe_pair();
        uint64_t cancelled = 0;
        std::vector<wh_coro *> coros(static_cast<size_t>(count));
        int failed = 0;
        for (wh_coro *&coro : coros)
            failed +=
                wh_spawn(&coro, nullptr, read_for_ever, static_cast<int>(pipe.a), &cancelled) < 0;
        CHECK(failed == 0);
        wh_yield();
        wh_stats stats;
        wh_stats_get(&stats);
        CHECK(stats.ops_in_flight == static_cast<uint64_t>(count));
        for (wh_coro *coro : coros)
            wh_cancel(coro);
        for (wh_coro *coro : coros)
            join(coro);
        CHECK(cancelled == static_cast<uint64_t>(count));
        worker_validate(worker_tls);
        wh_stats_get(&stats);
        check_all_back(stats, static_cast<uint64_t>(count));
    });
    CHECK(fds_open() == fds);
}

TEST_CASE("stress: a close ends thousands of receives on its descriptor")
{
    in_run([] {
        constexpr int COUNT = 3000;
        FdPair pair = socket_pair();
        int fd = pair.a.release();
        int ended = 0;
        std::vector<wh_coro *> coros;
        for (int i = 0; i < COUNT; i++)
            coros.push_back(spawn([&] {
                char byte;
                ended += wh_recv(fd, &byte, 1, 0) == -EBADF;
            }));
        wh_sleep(1);
        int rc = wh_close(fd);
        CHECK(rc == 0);
        CHECK(ended == COUNT);
        for (wh_coro *coro : coros)
            join(coro);
        CHECK(ended == COUNT);
    });
}

/* ---- The mix ---- */

namespace
{

struct Mix {
    std::mt19937_64 random;
    int64_t end_ns = 0;
    uint64_t started = 0, ended = 0;
    uint64_t sleeps = 0, early = 0, sleeps_odd = 0;
    uint64_t written = 0, taken = 0, disordered = 0, transfers_odd = 0;
    uint64_t joined = 0, join_timeouts = 0, joins_odd = 0;
    uint64_t closes = 0, closes_odd = 0;
    uint64_t validated = 0;
    std::vector<wh_coro *> victims; /* sleepers that anyone may cancel; joined at the end */

    bool over() const
    {
        return wh_now() >= end_ns;
    }
    uint64_t pick(uint64_t below)
    {
        return random() % below;
    }
    template <typename F> wh_coro *begin(F &&body)
    {
        wh_coro *coro = ::spawn([this, body = std::forward<F>(body)] {
            body();
            ended++;
        });
        started += coro != nullptr;
        return coro;
    }
};

/* Sleeps, and is told why it woke. */
void mix_sleep(Mix &mix)
{
    int64_t duration_ns = static_cast<int64_t>(WH_MICROSECOND << mix.pick(12));
    int64_t limit_ns = static_cast<int64_t>(WH_MICROSECOND << mix.pick(12));
    int64_t began_ns = wh_now();
    int rc = 0;
    WH_WITH_TIMEOUT(limit_ns)
    {
        rc = wh_sleep(duration_ns);
    }
    int64_t slept_ns = wh_now() - began_ns;
    mix.sleeps++;
    if (rc == 0)
        mix.early += slept_ns < duration_ns;
    else if (rc == -ETIMEDOUT)
        mix.early += slept_ns < limit_ns;
    else
        mix.sleeps_odd += rc != -ECANCELED;
}

/* Numbers go through a pipe, with deadlines on both sides, and arrive all and in order. */
void mix_pipe(Mix &mix)
{
    FdPair pipe = pipe_pair(mix.pick(2) ? O_NONBLOCK : 0);
    int out = pipe.b.release();
    const uint64_t count = 1 + mix.pick(200);
    int64_t write_limit_ns = static_cast<int64_t>(WH_MICROSECOND << mix.pick(14));
    wh_coro *writer = mix.begin([&mix, out, count, write_limit_ns] {
        for (uint64_t number = 0; number < count;) {
            ssize_t n = 0;
            WH_WITH_TIMEOUT(write_limit_ns)
            {
                n = wh_write(out, &number, sizeof number);
            }
            if (n == sizeof number) {
                number++;
                mix.written++;
            } else if (n != -ETIMEDOUT) {
                mix.transfers_odd++;
                break;
            }
            if (number % 7 == 0)
                wh_yield();
        }
        mix.closes++;
        mix.closes_odd += wh_close(out) != 0;
    });
    uint64_t expected = 0;
    for (;;) {
        uint64_t number = 0;
        ssize_t n = 0;
        WH_WITH_TIMEOUT(static_cast<int64_t>(WH_MICROSECOND << mix.pick(10)))
        {
            n = wh_read(pipe.a, &number, sizeof number);
        }
        if (n == sizeof number) {
            mix.taken++;
            mix.disordered += number != expected++;
        } else if (n == 0) {
            break;
        } else if (n != -ETIMEDOUT) {
            mix.transfers_odd++;
            break;
        }
    }
    mix.disordered += expected != count;
    if (writer)
        join(writer);
}

/* Children are waited for with too little patience, then with enough. */
void mix_family(Mix &mix)
{
    std::vector<wh_coro *> children;
    for (uint64_t i = 0, count = 1 + mix.pick(10); i < count; i++) {
        wh_coro *child = mix.begin([&mix] {
            if (mix.pick(2))
                mix_sleep(mix);
        });
        if (child)
            children.push_back(child);
    }
    for (wh_coro *child : children) {
        int rc = 0;
        WH_WITH_TIMEOUT(static_cast<int64_t>(mix.pick(200)) * WH_MICROSECOND)
        {
            rc = wh_join(child, nullptr);
        }
        if (rc == -ETIMEDOUT) {
            mix.join_timeouts++;
            if (mix.pick(2))
                wh_cancel(child);
            rc = wh_join(child, nullptr);
        }
        mix.joined++;
        mix.joins_odd += rc != 0;
    }
}

/* A descriptor is closed while others receive on it, with and without data under way. */
void mix_close(Mix &mix)
{
    FdPair pair = socket_pair(mix.pick(2) ? SOCK_NONBLOCK : 0);
    int fd = pair.a.release();
    std::vector<wh_coro *> receivers;
    size_t begun = 0;
    for (uint64_t i = 0, count = 1 + mix.pick(4); i < count; i++) {
        wh_coro *receiver = mix.begin([&mix, &begun, fd] {
            char byte;
            ssize_t n;
            begun++;
            while ((n = wh_recv(fd, &byte, 1, 0)) == 1)
                ;
            mix.transfers_odd += n != -EBADF;
        });
        if (receiver)
            receivers.push_back(receiver);
    }
    for (uint64_t i = 0, count = mix.pick(20); i < count; i++) {
        if (mix.pick(3) == 0)
            wh_yield();
        if (send(pair.b, "x", 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
            mix.transfers_odd++;
    }
    while (begun < receivers.size())
        wh_yield(); /* one that began after the close might find another file at the number */
    mix.closes++;
    mix.closes_odd += wh_close(fd) != 0;
    for (wh_coro *receiver : receivers)
        join(receiver);
    char byte;
    mix.transfers_odd += recv(pair.b, &byte, 1, MSG_DONTWAIT) == -1 && errno == EAGAIN;
}

/* Victims that sleep until somebody cancels them. */
void mix_victims(Mix &mix)
{
    if (mix.victims.size() < 200) {
        wh_coro *victim = mix.begin([&mix] {
            int rc = wh_sleep(WH_HOUR);
            mix.sleeps_odd += rc != -ECANCELED;
        });
        if (victim)
            mix.victims.push_back(victim);
    }
    wh_cancel(mix.victims[mix.pick(mix.victims.size())]);
}

void mix_actor(Mix &mix)
{
    void (*const actions[])(Mix &) = {mix_sleep, mix_pipe, mix_family, mix_close, mix_victims};
    while (!mix.over()) {
        actions[mix.pick(5)](mix);
        if (mix.pick(20) == 0)
            wh_yield();
        if (mix.pick(300) == 0) {
            worker_validate(worker_tls);
            mix.validated++;
        }
    }
}

int64_t mix_duration_ns()
{
    const char *seconds = getenv("WHORL_TEST_SECONDS");
    return (seconds ? atoll(seconds) : 2) * WH_SECOND;
}

} // namespace

TEST_CASE("stress: after a random mix of everything nothing is missing")
{
    constexpr int ACTORS = 60;
    Mix mix;
    mix.random.seed(Catch::getSeed());
    const int fds = fds_open();
    wh_stats stats = {};
    int rc = in_run([&] {
        mix.end_ns = wh_now() + mix_duration_ns();
        std::vector<wh_coro *> actors;
        for (int i = 0; i < ACTORS; i++)
            actors.push_back(mix.begin([&] { mix_actor(mix); }));
        for (wh_coro *actor : actors)
            join(actor);
        for (wh_coro *victim : mix.victims) {
            wh_cancel(victim);
            join(victim);
        }
        worker_validate(worker_tls);
        wh_stats_get(&stats);
        return 0;
    });
    INFO("seed " << Catch::getSeed() << ": " << mix.started << " coroutines, " << mix.sleeps
                 << " sleeps, " << mix.written << " numbers, " << mix.joined << " joins, "
                 << mix.closes << " closes, " << stats.switches << " switches");
    CHECK(rc == 0);
    CHECK(mix.started > 100);
    CHECK(mix.validated > 0);
    CHECK(mix.started == mix.ended);
    CHECK(mix.early == 0);
    CHECK(mix.sleeps_odd == 0);
    CHECK(mix.written == mix.taken);
    CHECK(mix.disordered == 0);
    CHECK(mix.transfers_odd == 0);
    CHECK(mix.joins_odd == 0);
    CHECK(mix.join_timeouts > 0);
    CHECK(mix.closes_odd == 0);
    check_all_back(stats, mix.started);
    CHECK(stats.timers_armed == 0);
    CHECK(fds_open() == fds);
}
