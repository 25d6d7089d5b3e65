/*
 * stats_test.cpp: the figures of a run, and the features that it found.
 */
#include "tests/net/peers.hpp"

#include <catch2/catch_test_macros.hpp>

#include <set>
#include <sstream>
#include <vector>

namespace
{

wh_stats stats_now()
{
    wh_stats stats;
    wh_stats_get(&stats);
    return stats;
}

std::string caps()
{
    char buf[512];
    int len = wh_caps(buf, sizeof buf);
    return len >= 0 && static_cast<size_t>(len) < sizeof buf ? buf : "?";
}

std::set<std::string> words(const std::string &text)
{
    std::istringstream stream(text);
    std::set<std::string> set;
    for (std::string word; stream >> word;)
        set.insert(word);
    return set;
}

} // namespace

TEST_CASE("stats: coroutines are counted as they start, live and end")
{
    in_run([] {
        wh_stats at_first = stats_now();
        CHECK(at_first.coros_live == 1);
        CHECK(at_first.coros_started == 1);
        CHECK(at_first.coros_ended == 0);
        CHECK(at_first.stacks_in_use == 1);
        std::vector<wh_coro *> coros;
        for (int i = 0; i < 100; i++)
            coros.push_back(spawn([] { wh_sleep(WH_HOUR); }));
        wh_yield();
        wh_stats many = stats_now();
        CHECK(many.coros_live == 101);
        CHECK(many.coros_started == 101);
        CHECK(many.stacks_in_use == 101);
        CHECK(many.timers_armed == 100);
        CHECK(many.stacks_reserved_bytes >= 101 * (size_t(256) << 10));
        CHECK(many.stacks_resident_bytes >= 101 * 4096);
        CHECK(many.stacks_resident_bytes <= many.stacks_reserved_bytes);
        CHECK(many.switches >= at_first.switches + 100);
        for (wh_coro *coro : coros) {
            wh_cancel(coro);
            join(coro);
        }
        wh_stats at_last = stats_now();
        CHECK(at_last.coros_live == 1);
        CHECK(at_last.coros_ended == 100);
        CHECK(at_last.coros_started == 101);
        CHECK(at_last.stacks_in_use == 1);
        CHECK(at_last.stacks_warm >= 1);
        CHECK(at_last.timers_armed == 0);
    });
}

TEST_CASE("stats: operations are counted as they are submitted, fly and complete")
{
    in_run([] {
        FdPair pair = socket_pair();
        char byte;
        wh_stats before = stats_now();
        wh_send(pair.a, "x", 1, 0);
        wh_recv(pair.b, &byte, 1, 0);
        wh_stats two = stats_now();
        CHECK(two.ring_submissions == before.ring_submissions + 2);
        CHECK(two.ring_completions == before.ring_completions + 2);
        CHECK(two.ring_enters > before.ring_enters);
        CHECK(two.loop_turns > before.loop_turns);
        CHECK(two.ops_in_flight == 0);

        wh_coro *receiver = spawn([&] { wh_recv(pair.b, &byte, 1, 0); });
        wh_yield();
        wh_stats one = stats_now();
        CHECK(one.ops_in_flight == 1);
        wh_cancel(receiver);
        join(receiver);
        wh_stats none = stats_now();
        CHECK(none.ops_in_flight == 0);
        CHECK(none.ring_cancels >= one.ring_cancels + 1);
    });
}

TEST_CASE("stats: submissions go to the kernel in batches, not one by one")
{
    in_run([] {
        constexpr int COUNT = 500;
        std::vector<FdPair> pairs;
        std::vector<wh_coro *> senders;
        for (int i = 0; i < COUNT; i++)
            pairs.push_back(socket_pair());
        wh_stats before = stats_now();
        for (FdPair &pair : pairs)
            senders.push_back(spawn([&] { wh_send(pair.a, "x", 1, 0); }));
        for (wh_coro *sender : senders)
            join(sender);
        wh_stats after = stats_now();
        CHECK(after.ring_submissions == before.ring_submissions + COUNT);
        /* With a queue of eight entries there are some sixty; one call each would be 500. */
        CHECK(after.ring_enters - before.ring_enters <= COUNT / 4);
    });
}

TEST_CASE("caps: the names are printed as snprintf does, inside and outside of a run")
{
    const std::string outside = caps();
    CHECK(outside != "?");
    char small[5];
    memset(small, 'z', sizeof small);
    int wanted = wh_caps(small, sizeof small);
    CHECK(wanted == static_cast<int>(outside.size()));
    CHECK(std::string(small) == outside.substr(0, 4));
    CHECK(wh_caps(nullptr, 0) == wanted);
    char exact[1] = {'z'};
    CHECK(wh_caps(exact, 1) == wanted);
    CHECK(exact[0] == 0);

    std::string inside;
    in_run([&] { inside = caps(); });
    CHECK(inside == outside);
    CHECK(words(outside).count("ext_arg") == 1); /* the floor has it */
}

TEST_CASE("caps: a mask hides each feature, alone and with others, and a run does without")
{
    EnvSet none("WHORL_MASK", "");
    const std::set<std::string> all = words(caps());
    for (const std::string &name : all) {
        EnvSet env("WHORL_MASK", ("nonsense," + name + ",more").c_str());
        const std::set<std::string> left = words(caps());
        INFO(name);
        if (name != "ext_arg") /* without it there is no run */
            CHECK(left.count(name) == 0);
        for (const std::string &other : left)
            CHECK(all.count(other) == 1);
        int rc = in_run([] {
            FdPair pair = socket_pair();
            char byte = 0;
            wh_coro *receiver = spawn([&] { return wh_recv(pair.a, &byte, 1, 0); });
            wh_sleep(10 * WH_MICROSECOND);
            wh_send(pair.b, "m", 1, 0);
            return static_cast<int>(join(receiver)) + (byte == 'm');
        });
        CHECK(rc == 2);
    }
    /* Only whole names count. */
    EnvSet env("WHORL_MASK", "defer_taskru,defer_taskrunn,guar");
    CHECK(words(caps()) == all);
}
