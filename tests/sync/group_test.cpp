/*
 * group_test.cpp: groups: started together, waited for together, ended by the first that fails.
 * (group_ctx_test.cpp: what contexts, deadlines and the run's end do to them.)
 */
#include "tests/sync/group.hpp"
#include "tests/sync/steps.hpp"
#include "tests/sync/sync.hpp"

using steps::CANCEL;
using steps::DEADLINE;
using steps::SERVE;
using steps::TIMER;
using steps::Who;

namespace
{

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
