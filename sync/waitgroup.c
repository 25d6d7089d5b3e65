/*
 * waitgroup.c: waiting for a number of things to be done (whorl/sync.h).
 */
#include "sync/sync.h"

#include <errno.h>

static const struct wait_kind wait_group = {.reason = "waitgroup", .withdraw = queue_withdraw};

/* The count has come to zero: lets all go who wait, and gives the object's lock. */
static void let_go(wh_waitgroup *group, bool shared)
{
    struct list woken;
    struct waiter *waiter;
    list_init(&woken);
    while ((waiter = queue_take(queue_of(&group->waiters), shared))) {
        group->leaving++;
        list_push_back(&woken, &waiter->link);
    }
    object_unlock(shared, &group->lock);
    wake_all(&woken, 0, shared);
}

static inline void change(const char *call, wh_waitgroup *group, int64_t by)
{
    INSIDE_ANYWHERE(self, call);
    bool shared = shared_here();
    int64_t count;
    object_lock(shared, &group->lock);
    if (unlikely(__builtin_add_overflow(group->count, by, &count) || count < 0))
        coro_misuse(self, call,
                    "makes a waitgroup's count negative (or the waitgroup is no more: did a wait "
                    "for it fail?)");
    if (unlikely(group->leaving && !group->count && by > 0))
        coro_misuse(self, call, "adds to a waitgroup before all have returned from its wait");
    group->count = count;
    if (count || queue_empty(&group->waiters))
        object_unlock(shared, &group->lock);
    else
        let_go(group, shared);
}

void wh_waitgroup_add(wh_waitgroup *group, int64_t count)
{
    change("wh_waitgroup_add", group, count);
}

void wh_waitgroup_done(wh_waitgroup *group)
{
    change("wh_waitgroup_done", group, -1);
}

int wh_waitgroup_wait(wh_waitgroup *group)
{
    wh_coro *self = enter("wh_waitgroup_wait");
    int rc = ended_by_turn(self);
    if (unlikely(rc < 0))
        return leave(self, refuse(self, rc));
    bool shared = self->worker->shared;
    object_lock(shared, &group->lock);
    if (!group->count) {
        object_unlock(shared, &group->lock);
        return leave(self, served(self, 0));
    }
    rc = queue_park(self, queue_of(&group->waiters), &group->lock, shared, &wait_group);
    /* Whether it was let go or not, it is here for the last time. */
    shared = queue_leave(self, &group->lock);
    if (likely(rc == 0)) {
        wh_assert(group->leaving > 0);
        group->leaving--;
    }
    object_unlock(shared, &group->lock);
    return leave(self, rc);
}
