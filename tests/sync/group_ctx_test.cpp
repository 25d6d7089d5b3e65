/*
 * group_ctx_test.cpp: groups and the contexts around them, shields, cancels, and the run's end.
 */
#include "tests/sched/race.hpp"
#include "tests/sync/group.hpp"
#include "tests/sync/sync.hpp"

/* One round, with a deadline so far ahead. False: it had passed before all members were started. */
static bool deadline_reaches_members(int64_t ahead_ns)
{
    int rc = 1, ended = 0, error = 1, started = 1, members = 0;
    int64_t slow_end = 0;
    const wh_group_options options = {0, &error};
    int64_t deadline = wh_now() + ahead_ns;
    WH_WITH_DEADLINE(deadline)
    WH_WITH_GROUP(group, &options)
    {
        CHECK(wh_ctx_deadline(wh_group_ctx(group)) == deadline);
        members += wh_group_go(group, stay_and_count, &ended) == 0;
        members += wh_group_go(
                       group,
                       [](int64_t *at) {
                           WH_SHIELD
                           {
                               (void)wh_sleep(5 * WH_MILLISECOND);
                           }
                           *at = wh_now();
                       },
                       &slow_end) == 0;
        rc = wh_group_wait(group);
        started = wh_group_go(group, return_it, 0);
    }
    if (members < 2)
        return false;
    CHECK(ended == 1);
    CHECK(slow_end != 0);
    CHECK(rc == -ETIMEDOUT);
    CHECK(error == -ETIMEDOUT);
    CHECK(started == -ETIMEDOUT);
    return true;
}

TEST_CASE("group: a deadline around it reaches the members; its wait is not cut short by it")
{
    in_run([] {
        int64_t ahead_ns = 2 * WH_MILLISECOND;
        while (!deadline_reaches_members(ahead_ns))
            ahead_ns *= 2; /* others had the core meanwhile */
    });
}

TEST_CASE("group: a member that begins after the deadline does not turn it into a cancel")
{
    in_run([] {
        int rc = 1, ended = 0, started = 1;
        const int64_t deadline = wh_now() + WH_MILLISECOND;
        WH_WITH_DEADLINE(deadline)
        WH_WITH_GROUP(group, nullptr)
        {
            wh_group_go(group, stay_and_count, &ended);
            busy_until(deadline + WH_MILLISECOND); /* the loop's time is from before it */
            rc = wh_group_wait(group);
            started = wh_group_go(group, return_it, 0);
        }
        CHECK(ended == 1);
        CHECK(rc == -ETIMEDOUT);
        CHECK(started == -ETIMEDOUT);
    });
}

TEST_CASE("group: cancelling the owner while it waits reaches the members; the wait is for them")
{
    for (bool before : {true, false})
        in_run([before] {
            Turns turn;
            wh_event end = {};
            int rc = 1, next = 1, member = 1, shielded = 1;
            wh_coro *owner = spawn([&] {
                WH_WITH_GROUP(group, nullptr)
                {
                    wh_group_go(
                        group, [](wh_event *to, int *ret) { return *ret = wh_event_wait(to); },
                        &end, &member);
                    wh_group_go(
                        group,
                        [](wh_event *to, int *ret) {
                            WH_SHIELD
                            {
                                *ret = wh_event_wait(to);
                            }
                        },
                        &end, &shielded);
                    if (before)
                        wh_cancel(wh_self());
                    rc = wh_group_wait(group);
                    next = wh_group_go(group, return_it, 0);
                }
            });
            turn(1);
            wh_cancel(owner);
            turn(2);
            CHECK(is_parked(owner));
            CHECK(member == -ECANCELED);
            CHECK(rc == 1); /* one is still there */
            wh_event_set(&end);
            join(owner);
            CHECK(shielded == 0);
            CHECK(rc == -ECANCELED);
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

TEST_CASE("group: a start that waits for a slot is refused at the first failure, not when a member "
          "that is slow to end makes room")
{
    in_run([] {
        wh_event end = {}, over = {};
        int rc = 1;
        const wh_group_options options = {2, nullptr};
        WH_WITH_GROUP(group, &options)
        {
            wh_group_go(group, stay_shielded, &end);
            wh_group_go(group, stay_then_return, &over, -EIO);
            wh_coro *outside = nullptr;
            WH_SHIELD
            {
                outside = spawn([&, group] { rc = wh_group_go(group, return_it, 0); });
            }
            wh_yield();
            CHECK(is_parked(outside));
            wh_group_cancel(group, -EDQUOT);
            wh_yield();
            CHECK(rc == -ECANCELED);
            CHECK(wh_group_members(group) == 1);
            wh_event_set(&end);
            WH_SHIELD
            {
                join(outside);
            }
            int error = wh_group_wait(group);
            CHECK(error == -EDQUOT);
        }
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

TEST_CASE("group: without a stack for a member -ENOMEM, which fails it; the slot is free again")
{
    const wh_options few = {0, 3, 0, 0, 0};
    in_run(
        [] {
            wh_event end = {};
            int ok = 0, first = 1, refused = 0, later = 1, rc = 1;
            const wh_group_options options = {5, nullptr};
            WH_WITH_GROUP(group, &options)
            {
                ok += wh_group_go(group, stay, &end);
                ok += wh_group_go(group, stay, &end);
                first = wh_group_go(group, stay, &end);
                for (int i = 0; i < 6; i++)
                    refused += wh_group_go(group, stay, &end) == -ECANCELED;
                CHECK(wh_group_members(group) == 2);
                rc = wh_group_wait(group);
                later = wh_group_go(group, stay, &end);
            }
            CHECK(ok == 0);
            CHECK(first == -ENOMEM);
            CHECK(refused == 6);
            CHECK(rc == -ENOMEM);
            CHECK(later == -ECANCELED);
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
                (void)!wh_group_wait(group);
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
