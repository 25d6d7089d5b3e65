/*
 * waitgroup.c: waiting for a number of things to be done (whorl/sync.h).
 */
#include "sync/sync.h"

#include <errno.h>

static const struct wait_kind wait_group = {.reason = "waitgroup", .withdraw = queue_withdraw};

static inline void change(wh_coro *self, const char *call, wh_waitgroup *group, int64_t by)
{
    int64_t count;
    if (unlikely(__builtin_add_overflow(group->count, by, &count) || count < 0))
        coro_misuse(self, call, "makes a waitgroup's count negative");
    if (unlikely(group->leaving && !group->count && by > 0))
        coro_misuse(self, call, "adds to a waitgroup before all have returned from its wait");
    group->count = count;
    if (count || queue_empty(&group->waiters))
        return;
    struct waiter *waiter;
    while ((waiter = queue_take(queue_of(&group->waiters)))) {
        group->leaving++;
        waiter_wake(waiter, 0);
    }
}

void wh_waitgroup_add(wh_waitgroup *group, int64_t count)
{
    change(self_or_panic("wh_waitgroup_add"), "wh_waitgroup_add", group, count);
}

void wh_waitgroup_done(wh_waitgroup *group)
{
    change(self_or_panic("wh_waitgroup_done"), "wh_waitgroup_done", group, -1);
}

int wh_waitgroup_wait(wh_waitgroup *group)
{
    wh_coro *self = self_or_panic("wh_waitgroup_wait");
    int rc = ended_by_turn(self);
    if (unlikely(rc < 0))
        return refuse(self, rc);
    if (!group->count)
        return served(self, 0);
    rc = queue_park(self, queue_of(&group->waiters), &wait_group);
    if (likely(rc == 0)) {
        wh_assert(group->leaving > 0);
        group->leaving--;
    }
    return rc;
}
