/*
 * event.c: a flag to wait for (whorl/sync.h).
 */
#include "sync/sync.h"

static const struct wait_kind wait_event = {.reason = "event", .withdraw = queue_withdraw};

void wh_event_set(wh_event *event)
{
    event->set = true;
    if (!queue_empty(&event->waiters))
        queue_wake_all(queue_of(&event->waiters), 0);
}

void wh_event_reset(wh_event *event)
{
    event->set = false;
}

bool wh_event_is_set(const wh_event *event)
{
    return event->set;
}

int wh_event_wait(wh_event *event)
{
    wh_coro *self = self_or_panic("wh_event_wait");
    int rc = ended_by_turn(self);
    if (unlikely(rc < 0))
        return refuse(self, rc);
    if (event->set)
        return served(self, 0);
    return queue_park(self, queue_of(&event->waiters), &wait_event);
}
