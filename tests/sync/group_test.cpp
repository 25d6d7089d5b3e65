/*
 * group_test.cpp: groups: started together, waited for together, ended by the first that fails.
 */
#include "tests/sync/steps.hpp"
#include "tests/sync/sync.hpp"

#include <set>

using steps::CANCEL;
using steps::DEADLINE;
using steps::SERVE;
using steps::TIMER;
using steps::Who;

namespace
{

/* Members that the tests start. */

int return_it(int value)
{
    return value;
}

/* Stays until the event or the end of its context, and returns that end's error. */
int stay(wh_event *event)
{
    return wh_event_wait(event);
}

int stay_and_count(int *ended)
{
    int rc = wh_sleep(WH_HOUR);
    ++*ended;
    return rc;
}

int stay_then_return(wh_event *event, int value)
{
    wh_event_wait(event);
    return value;
}

void stay_shielded(wh_event *event)
{
    WH_SHIELD
    {
        wh_event_wait(event);
    }
}

void count_up(int *count)
{
    ++*count;
}

struct Owner {
    wh_group *group = nullptr;
    wh_event over = {};
    wh_coro *coro = nullptr;
    int result = 1;

    explicit Owner(unsigned limit)
    {
        coro = spawn([this, limit] {
            const wh_group_options options = {limit, &result};
            WH_WITH_GROUP(made, &options)
            {
                group = made;
                WH_SHIELD
                {
                    wh_event_wait(&over);
                }
            }
        });
        wh_yield();
    }
};

/*
 * A group of two at most, and waiters that want to start a third. Serve 0: a member ends well;
 * serve 1: the other fails; serve 2: the group is cancelled. A member that is told to end does so
 * when it next runs, which is after the other events of its turn.
 */
struct SlotFixture : steps::Fixture {
    Owner owner{2};
    wh_event end[2] = {}, end_all = {};
    int results[3] = {};
    size_t members = 0; /* the model's */
    size_t mine = 0;    /* of these: started by the waiters, and not to be ended */
    bool failed = false;
    std::vector<int> ending;

    int call(int) override
    {
        return wh_group_go(owner.group, stay_shielded, &end_all);
    }
    void prepare(int which) override
    {
        if (which == 2)
            return;
        int rc = wh_group_go(owner.group, stay_then_return, &end[which], which ? -EPROTO : 0);
        CHECK(rc == 0);
        members++;
    }
    void serve(int which) override
    {
        if (which == 2)
            wh_group_cancel(owner.group, -EDQUOT);
        else
            wh_event_set(&end[which]);
    }
    void unserved(int which) override
    {
        if (which < 2)
            wh_event_set(&end[which]);
    }
    Who refuse()
    {
        failed = true;
        for (int who : waiting)
            results[who] = -ECANCELED;
        return std::exchange(waiting, {});
    }
    Who serve_model(int which) override
    {
        if (which < 2) {
            ending.push_back(which);
            return {};
        }
        /* The members are cancelled, too, and end as if they had been told to. */
        bool first = !failed;
        if (first)
            members = mine;
        return refuse();
    }
    Who admit_model() override
    {
        Who in;
        for (int which : ending) {
            if (failed)
                continue;
            if (which == 1) {
                /* A slot that has been handed over and not been used starts nothing. */
                for (int who : in)
                    results[who] = -ECANCELED;
                for (int who : refuse())
                    in.push_back(who);
                members = mine;
                continue;
            }
            if (waiting.empty())
                members--;
            else
                in.push_back(steps::take_first(waiting));
        }
        ending.clear();
        if (!failed)
            mine += in.size();
        return in;
    }
    int served_result(int who) const override
    {
        return results[who];
    }
    std::string wrong() override
    {
        size_t count = wh_group_members(owner.group);
        return count == members ? "" : "members: " + std::to_string(count);
    }
    std::string wrong_at_end() override
    {
        wh_event_set(&end_all);
        wh_event_set(&owner.over);
        join(owner.coro);
        return "";
    }
};

} // namespace

TEST_CASE("group: a start that waits for a slot, a member's end, its failure and cancels in every "
          "order")
{
    steps::all<SlotFixture>(1, {{SERVE, 0}, {SERVE, 1}, {SERVE, 2}, {CANCEL, 0}});
    steps::all<SlotFixture>(2, {{SERVE, 0}, {SERVE, 1}, {TIMER, 0}, {CANCEL, 1}});
    steps::all<SlotFixture>(2, {{SERVE, 0}, {SERVE, 1}, {SERVE, 2}, {DEADLINE, 0}});
}

/* ---- Waiting and results ---- */

TEST_CASE("group: its wait returns 0 when all members have ended well, whatever they return")
{
    in_run([] {
        int count = 0, rc = 1, error = 1;
        const wh_group_options options = {0, &error};
        WH_WITH_GROUP(group, &options)
        {
            CHECK(wh_group_members(group) == 0);
            rc = wh_group_wait(group);
            CHECK(rc == 0);
            for (int i = 0; i < 10; i++) {
                rc = wh_group_go(group, count_up, &count);
                CHECK(rc == 0);
            }
            rc = wh_group_go(group, return_it, 7);
            CHECK(rc == 0);
            CHECK(wh_group_members(group) == 11);
            rc = wh_group_wait(group);
            CHECK(wh_group_members(group) == 0);
            CHECK(count == 10);
        }
        CHECK(rc == 0);
        CHECK(error == 0);
    });
}

TEST_CASE("group: a negative int, long or ssize_t fails it; options may be NULL")
{
    in_run([] {
        int errors[4] = {};
        WH_WITH_GROUP(group, nullptr)
        {
            wh_group_go(group, [] { return -EPROTO; });
            errors[0] = wh_group_wait(group);
        }
        WH_WITH_GROUP(group, nullptr)
        {
            wh_group_go(group, [] { return -long{EPROTO}; });
            errors[1] = wh_group_wait(group);
        }
        WH_WITH_GROUP(group, nullptr)
        {
            wh_group_go(group, []() -> ssize_t { return -EPROTO; });
            errors[2] = wh_group_wait(group);
        }
        WH_WITH_GROUP(group, nullptr)
        {
            wh_group_go(group, []() -> uint32_t { return 0x7fffffff; });
            errors[3] = wh_group_wait(group);
        }
        for (int i = 0; i < 3; i++)
            CHECK(errors[i] == -EPROTO);
        CHECK(errors[3] == 0);
    });
}

TEST_CASE("group: the first failure cancels the others and the block, with it as the cause")
{
    in_run([] {
        int rc = 0, own = 0, cause = 0, err = 0, error = 0, after = 0, causes = 0;
        int ended = 0;
        const wh_group_options options = {0, &error};
        WH_WITH_GROUP(group, &options)
        {
            for (int i = 0; i < 5; i++)
                wh_group_go(group, stay_and_count, &ended);
            wh_group_go(
                group,
                [](int *seen) {
                    int slept = wh_sleep(WH_HOUR);
                    *seen = wh_ctx_cause(nullptr);
                    return slept == -ECANCELED ? -EBADMSG : 0; /* a later error is dropped */
                },
                &causes);
            wh_group_go(group, return_it, -EPROTO);
            own = wh_sleep(WH_HOUR);
            cause = wh_ctx_cause(wh_group_ctx(group));
            err = wh_ctx_err(wh_group_ctx(group));
            after = wh_group_go(group, return_it, 0);
            CHECK(wh_group_try_go(group, return_it, 0) == -ECANCELED);
            rc = wh_group_wait(group);
            CHECK(wh_group_wait(group) == -EPROTO);
        }
        CHECK(own == -ECANCELED);
        CHECK(cause == -EPROTO);
        CHECK(causes == -EPROTO);
        CHECK(err == -ECANCELED);
        CHECK(after == -ECANCELED);
        CHECK(rc == -EPROTO);
        CHECK(error == -EPROTO);
        CHECK(ended == 5);
    });
}

TEST_CASE("group: more members may be started after a wait, if none has failed")
{
    in_run([] {
        int count = 0, rc = 1;
        WH_WITH_GROUP(group, nullptr)
        {
            for (int round = 1; round <= 3; round++) {
                wh_group_go(group, count_up, &count);
                rc = wh_group_wait(group);
                CHECK(rc == 0);
                CHECK(count == round);
            }
            wh_group_go(group, return_it, -EIO);
            rc = wh_group_wait(group);
            CHECK(rc == -EIO);
            rc = wh_group_go(group, count_up, &count);
        }
        CHECK(rc == -ECANCELED);
        CHECK(count == 3);
    });
}

TEST_CASE("group: cancelling it gives the cause as its error; 0 is -ECANCELED; the first stays")
{
    in_run([] {
        for (int cause : {-EDQUOT, 0}) {
            int rc = 1, ended = 0;
            WH_WITH_GROUP(group, nullptr)
            {
                wh_group_go(group, stay_and_count, &ended);
                wh_yield();
                wh_group_cancel(group, cause);
                wh_group_cancel(group, -EIO);
                rc = wh_group_wait(group);
            }
            CHECK(rc == (cause ? cause : -ECANCELED));
            CHECK(ended == 1);
        }
        int error = 1;
        const wh_group_options options = {0, &error};
        WH_WITH_GROUP(group, &options)
        {
            wh_group_cancel(group, -EDQUOT); /* without members */
        }
        CHECK(error == -EDQUOT);
    });
}

TEST_CASE("group: waiting for one that is another coroutine's aborts")
{
    ChildEnd end = in_child([] {
        return in_run([] {
            WH_WITH_GROUP(group, nullptr)
            {
                wh_group_go(
                    group,
                    [](wh_group *of) {
                        wh_name_set("culprit");
                        return wh_group_wait(of);
                    },
                    group);
            }
        });
    });
    CHECK(end.killed_by(SIGABRT));
    CHECK(count_of(end.said, "wh_group_wait: a coroutine waits for a group that is another "
                             "coroutine's (culprit #2") == 1);
}

/* ---- Leaving the block ---- */

namespace
{

int return_from_group(int *ended)
{
    WH_WITH_GROUP(group, nullptr)
    {
        wh_group_go(group, stay_and_count, ended);
        wh_group_go(group, stay_and_count, ended);
        wh_yield();
        if (wh_group_members(group) == 2)
            return 5;
    }
    return 0;
}

int goto_from_group(int *ended)
{
    int rounds = 0;
again:
    WH_WITH_GROUP(group, nullptr)
    {
        wh_group_go(group, stay_and_count, ended);
        if (++rounds < 3)
            goto again;
        wh_group_cancel(group, 0);
    }
    return rounds;
}

} // namespace

TEST_CASE("group: left off its end it waits for its members and cancels nobody")
{
    in_run([] {
        int slept = 1, error = 1;
        const wh_group_options options = {0, &error};
        WH_WITH_GROUP(group, &options)
        {
            wh_group_go(group, [](int *rc) { *rc = wh_sleep(WH_MILLISECOND); }, &slept);
        }
        CHECK(slept == 0);
        CHECK(error == 0);
        slept = 1;
        WH_WITH_GROUP(group, &options)
        {
            wh_group_go(group, [](int *rc) { *rc = wh_sleep(WH_MILLISECOND); }, &slept);
            continue; /* the same */
        }
        CHECK(slept == 0);
        CHECK(error == 0);
    });
}

TEST_CASE("group: left by break, return, goto or an exception it cancels its members and waits")
{
    in_run([] {
        int ended = 0, error = 1, rounds = 0;
        const wh_group_options options = {0, &error};
        for (int i = 0; i < 2; i++)
            WH_WITH_GROUP(group, &options)
            {
                wh_group_go(group, stay_and_count, &ended);
                wh_yield();
                rounds++;
                break; /* leaves the block, not the loop */
            }
        CHECK(rounds == 2);
        CHECK(ended == 2);
        CHECK(error == -ECANCELED);

        ended = 0;
        int rc = return_from_group(&ended);
        CHECK(rc == 5);
        CHECK(ended == 2);

        ended = 0;
        rc = goto_from_group(&ended);
        CHECK(rc == 3);
        CHECK(ended == 3);

        ended = 0;
        try {
            WH_WITH_GROUP(group, &options)
            {
                wh_group_go(group, stay_and_count, &ended);
                wh_yield();
                throw 7;
            }
        } catch (int) {
            rounds++;
        }
        CHECK(rounds == 3);
        CHECK(ended == 1);
        rc = wh_sleep(1); /* we are in no ended context */
        CHECK(rc == 0);
    });
}

TEST_CASE("group: leaving by break after a failure keeps the first error")
{
    in_run([] {
        int error = 1;
        const wh_group_options options = {0, &error};
        WH_WITH_GROUP(group, &options)
        {
            wh_group_go(group, return_it, -EPROTO);
            wh_yield();
            break;
        }
        CHECK(error == -EPROTO);
    });
}

TEST_CASE("group: no member outlives it: not one that is slow to end, nor one started by it then")
{
    in_run([] {
        int alive = 0;
        auto slow = [](wh_group *of, int *living) {
            ++*living;
            (void)wh_sleep(WH_HOUR);
            for (int i = 0; i < 3; i++)
                wh_yield();
            WH_SHIELD
            {
                (void)wh_sleep(WH_MICROSECOND);
            }
            if (wh_group_go(of, count_up, living) == 0)
                *living += 1000;
            --*living;
        };
        WH_WITH_GROUP(group, nullptr)
        {
            for (int i = 0; i < 10; i++)
                wh_group_go(group, slow, group, &alive);
            wh_yield();
            CHECK(alive == 10);
            break;
        }
        CHECK(alive == 0);
        wh_stats stats;
        wh_stats_get(&stats);
        CHECK(stats.coros_live == 1);
    });
}

/* ---- Limit ---- */

TEST_CASE("group: with a limit a start waits for a slot, in order, and try says -EAGAIN")
{
    in_run([] {
        Turns turn;
        wh_event end[6] = {};
        Ints started;
        int most = 0, rcs = 0;
        const wh_group_options options = {2, nullptr};
        WH_WITH_GROUP(group, &options)
        {
            CHECK(wh_group_try_go(group, stay, &end[0]) == 0);
            CHECK(wh_group_try_go(group, stay, &end[1]) == 0);
            CHECK(wh_group_try_go(group, stay, &end[2]) == -EAGAIN);
            CHECK(wh_group_members(group) == 2);
            std::vector<wh_coro *> starters;
            for (int i = 2; i < 6; i++)
                starters.push_back(spawn([&, group, i] {
                    rcs += wh_group_go(group, stay, &end[i]);
                    started.push_back(i);
                }));
            turn(1);
            CHECK(started.empty());
            for (int i = 0; i < 6; i++) {
                wh_event_set(&end[i]);
                turn(1);
                int members = static_cast<int>(wh_group_members(group));
                most = members > most ? members : most;
            }
            CHECK(started == Ints{2, 3, 4, 5});
            for (wh_coro *starter : starters)
                join(starter);
        }
        CHECK(most == 2);
        CHECK(rcs == 0);
    });
}

TEST_CASE("group: a slot that was handed over is taken: a try in between says -EAGAIN")
{
    in_run([] {
        wh_event end = {};
        int rc = -1, tried = 0;
        size_t members = 0;
        const wh_group_options options = {1, nullptr};
        WH_WITH_GROUP(group, &options)
        {
            wh_group_go(group, stay, &end);
            wh_coro *starter = spawn([&, group] { rc = wh_group_go(group, return_it, 0); });
            wh_coro *trier = spawn([&, group] {
                /* Runs behind the member that ends, and before the starter. */
                wh_yield();
                tried = wh_group_try_go(group, return_it, 0);
                members = wh_group_members(group);
            });
            wh_yield();
            wh_event_set(&end);
            join(starter);
            join(trier);
        }
        CHECK(rc == 0);
        CHECK((tried == -EAGAIN || tried == 0));
        CHECK(members <= 1);
    });
}

TEST_CASE("group: members start members, and one without slots for them does so by try")
{
    in_run([] {
        static int leaves;
        leaves = 0;
        struct Tree {
            static int grow(wh_group *group, int depth)
            {
                if (depth == 0) {
                    leaves++;
                    return 0;
                }
                wh_yield();
                int rc = wh_group_go(group, grow, group, depth - 1);
                return rc < 0 ? rc : wh_group_go(group, grow, group, depth - 1);
            }
        };
        int rc = 1;
        WH_WITH_GROUP(group, nullptr)
        {
            wh_group_go(group, Tree::grow, group, 6);
            rc = wh_group_wait(group);
        }
        CHECK(rc == 0);
        CHECK(leaves == 64);
        int tried = 0;
        auto try_one = [](wh_group *of, int *said) { *said = wh_group_try_go(of, return_it, 0); };
        const wh_group_options options = {1, nullptr};
        WH_WITH_GROUP(group, &options)
        {
            wh_group_go(group, try_one, group, &tried);
        }
        CHECK(tried == -EAGAIN);
    });
}

/* ---- Contexts around, inside, and cancels ---- */

TEST_CASE("group: a deadline around it reaches the members; its wait is not cut short by it")
{
    in_run([] {
        int rc = 1, ended = 0, error = 1, started = 1;
        int64_t slow_end = 0;
        const wh_group_options options = {0, &error};
        int64_t deadline = wh_now() + 2 * WH_MILLISECOND;
        WH_WITH_DEADLINE(deadline)
        WH_WITH_GROUP(group, &options)
        {
            CHECK(wh_ctx_deadline(wh_group_ctx(group)) == deadline);
            wh_group_go(group, stay_and_count, &ended);
            wh_group_go(
                group,
                [](int64_t *at) {
                    WH_SHIELD
                    {
                        (void)wh_sleep(5 * WH_MILLISECOND);
                    }
                    *at = wh_now();
                },
                &slow_end);
            rc = wh_group_wait(group);
            CHECK(ended == 1);
            CHECK(slow_end != 0);
            started = wh_group_go(group, return_it, 0);
        }
        CHECK(rc == -ETIMEDOUT);
        CHECK(error == -ETIMEDOUT);
        CHECK(started == -ETIMEDOUT);
    });
}

TEST_CASE("group: cancelling the owner while it waits reaches neither the wait nor the members")
{
    in_run([] {
        Turns turn;
        wh_event end = {};
        int rc = 1, next = 1;
        wh_coro *owner = spawn([&] {
            WH_WITH_GROUP(group, nullptr)
            {
                wh_group_go(group, stay, &end);
                rc = wh_group_wait(group);
                next = wh_group_go(group, return_it, 0);
            }
        });
        turn(1);
        wh_cancel(owner);
        turn(2);
        CHECK(is_parked(owner));
        CHECK(rc == 1);
        wh_event_set(&end);
        join(owner);
        CHECK(rc == 0);
        CHECK(next == -ECANCELED);
    });
}

TEST_CASE("group: cancelling a context around it reaches the members, not the wait")
{
    in_run([] {
        int rc = 1, ended = 0, error = 1, cause = 0;
        const wh_group_options options = {0, &error};
        WH_WITH_CANCEL(ctx)
        {
            start([ctx] { wh_ctx_cancel(ctx, -EDQUOT); });
            WH_WITH_GROUP(group, &options)
            {
                wh_group_go(group, stay_and_count, &ended);
                rc = wh_group_wait(group);
                cause = wh_ctx_cause(wh_group_ctx(group));
            }
        }
        CHECK(ended == 1);
        CHECK(rc == -ECANCELED);
        CHECK(error == -ECANCELED);
        CHECK(cause == -EDQUOT);
    });
}

TEST_CASE("group: groups nest: an inner failure stays inside, an outer one reaches in")
{
    in_run([] {
        int inner = 1, outer = 1, ended = 0, kept = 0;
        WH_WITH_GROUP(a, nullptr)
        {
            wh_group_go(a, [](int *rc) { *rc = wh_sleep(1); }, &kept);
            WH_WITH_GROUP(b, nullptr)
            {
                wh_group_go(b, stay_and_count, &ended);
                wh_group_go(b, return_it, -EIO);
                inner = wh_group_wait(b);
            }
            outer = wh_group_wait(a);
        }
        CHECK(inner == -EIO);
        CHECK(outer == 0);
        CHECK(kept == 0);
        CHECK(ended == 1);

        inner = 1;
        auto nest = [](int *error, int *count) {
            const wh_group_options options = {0, error};
            WH_WITH_GROUP(b, &options)
            {
                wh_group_go(b, stay_and_count, count);
            }
        };
        WH_WITH_GROUP(a, nullptr)
        {
            wh_group_go(a, nest, &inner, &ended);
            wh_group_go(a, return_it, -EPROTO);
            outer = wh_group_wait(a);
        }
        CHECK(outer == -EPROTO);
        CHECK(inner == -ECANCELED);
        CHECK(ended == 2);
    });
}

TEST_CASE("group: in a shield it obeys nothing around, and a shield in it nothing of its own")
{
    in_run([] {
        int slept = 1, started = 1, ended = 0, rc = 1;
        wh_coro *coro = spawn([&] {
            wh_cancel(wh_self());
            WH_SHIELD
            WH_WITH_GROUP(group, nullptr)
            {
                started = wh_group_go(group, [](int *out) { *out = wh_sleep(1); }, &slept);
                rc = wh_group_wait(group);
            }
        });
        join(coro);
        CHECK(started == 0);
        CHECK(slept == 0);
        CHECK(rc == 0);
        WH_WITH_GROUP(group, nullptr)
        {
            WH_SHIELD
            {
                started = wh_group_go(group, stay_and_count, &ended);
                CHECK(started == 0);
                wh_group_cancel(group, -EIO);
                slept = wh_sleep(1);
                started = wh_group_go(group, stay_and_count, &ended);
            }
            rc = wh_group_wait(group);
        }
        CHECK(slept == 0);
        CHECK(started == -ECANCELED);
        CHECK(ended == 1); /* it was started from the shield, but in the group */
        CHECK(rc == -EIO);
    });
}

TEST_CASE("group: a member is in its context whoever starts it, and in its starter's")
{
    in_run([] {
        Owner owner(0);
        int ended = 0;
        static int deadlined;
        deadlined = 0;
        int rc = wh_group_go(owner.group, stay_and_count, &ended); /* from outside */
        CHECK(rc == 0);
        WH_WITH_TIMEOUT(WH_MILLISECOND)
        {
            rc = wh_group_go(owner.group, [] {
                deadlined = wh_sleep(WH_HOUR);
                return 0;
            });
        }
        CHECK(rc == 0);
        while (!deadlined)
            (void)wh_sleep(WH_MICROSECOND);
        CHECK(deadlined == -ETIMEDOUT);
        CHECK(ended == 0);
        wh_group_cancel(owner.group, -EIO);
        wh_event_set(&owner.over);
        join(owner.coro);
        CHECK(ended == 1);
        CHECK(owner.result == -EIO);
    });
}

TEST_CASE("group: in a caller's context that has ended nothing is started")
{
    in_run([] {
        int count = 0;
        bool failed = false;
        WH_WITH_GROUP(group, nullptr)
        {
            failed = fails_when_ended([&] { return wh_group_go(group, count_up, &count); }) &&
                     fails_when_ended([&] { return wh_group_try_go(group, count_up, &count); });
            CHECK(wh_group_members(group) == 0);
        }
        CHECK(failed);
        CHECK(count == 0);
    });
}

TEST_CASE("group: without a stack for a member -ENOMEM, and its slot is free again")
{
    const wh_options few = {0, 3, 0, 0, 0};
    in_run(
        [] {
            wh_event end = {};
            int ok = 0, refused = 0, later = 1, rc = 1;
            const wh_group_options options = {5, nullptr};
            WH_WITH_GROUP(group, &options)
            {
                ok += wh_group_go(group, stay, &end);
                ok += wh_group_go(group, stay, &end);
                for (int i = 0; i < 6; i++)
                    refused += wh_group_go(group, stay, &end) == -ENOMEM;
                CHECK(wh_group_members(group) == 2);
                wh_event_set(&end);
                rc = wh_group_wait(group);
                later = wh_group_go(group, stay, &end);
            }
            CHECK(ok == 0);
            CHECK(refused == 6);
            CHECK(rc == 0);
            CHECK(later == 0);
        },
        &few);
}

TEST_CASE("group: when the run ends its members are ended before its owner's block is")
{
    static int ended, started;
    ended = 0;
    started = 1;
    in_run([] {
        start([] {
            WH_WITH_GROUP(group, nullptr)
            {
                wh_group_go(group, stay_and_count, &ended);
                wh_group_go(group, stay_and_count, &ended);
                (void)wh_group_wait(group);
                ended += 10;
                started = wh_group_go(group, stay_and_count, &ended);
            }
            ended += 100;
        });
        wh_yield();
        wh_yield();
    });
    CHECK(ended == 112);
    CHECK(started == -ECANCELED);
}
