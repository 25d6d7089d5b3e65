/*
 * sync.hpp: what the tests of locks and meeting points share.
 */
#ifndef TESTS_SYNC_SYNC_HPP
#define TESTS_SYNC_SYNC_HPP

#include "tests/base/child.hpp"
#include "tests/sched/in_run.hpp"

#include <catch2/catch_test_macros.hpp>

#include <vector>

extern "C" {
#include "sched/sched.h"
}

using Ints = std::vector<int>;

inline bool is_parked(const wh_coro *coro)
{
    return coro->state == CORO_PARKED;
}

/* Calls call in a context that was cancelled, and in a block whose deadline has passed; whether it
 * failed with each's error. */
template <typename F> bool fails_when_ended(F &&call)
{
    int cancelled = 0, timed_out = 0;
    WH_WITH_CANCEL(ctx)
    {
        wh_ctx_cancel(ctx, -EDQUOT);
        cancelled = call();
    }
    WH_WITH_TIMEOUT(0)
    {
        timed_out = call();
    }
    return cancelled == -ECANCELED && timed_out == -ETIMEDOUT;
}

/* Whether the body, run in a child as the coroutine "culprit", aborts with these words and its
 * name. */
template <typename F> bool aborts(F body, const std::string &words)
{
    ChildEnd end = in_child([&] {
        return in_run([&] {
            wh_name_set("culprit");
            body();
        });
    });
    bool right = end.killed_by(SIGABRT) && count_of(end.said, words) == 1 &&
                 count_of(end.said, "culprit #1") == 1;
    if (!right)
        fprintf(stderr, "%s", end.how().c_str());
    return right;
}

#endif
