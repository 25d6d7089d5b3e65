/*
 * group.hpp: members and an owner, for the tests of groups.
 */
#ifndef TESTS_SYNC_GROUP_HPP
#define TESTS_SYNC_GROUP_HPP

#include "tests/sched/in_run.hpp"

/* Members that the tests start. */

inline int return_it(int value)
{
    return value;
}

/* Stays until the event or the end of its context, and returns that end's error. */
inline int stay(wh_event *event)
{
    return wh_event_wait(event);
}

inline int stay_and_count(int *ended)
{
    int rc = wh_sleep(WH_HOUR);
    ++*ended;
    return rc;
}

inline int stay_then_return(wh_event *event, int value)
{
    wh_event_wait(event);
    return value;
}

inline void stay_shielded(wh_event *event)
{
    WH_SHIELD
    {
        wh_event_wait(event);
    }
}

inline void count_up(int *count)
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

#endif
