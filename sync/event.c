/*
 * event.c: a flag to wait for (whorl/sync.h).
 */
#include "sync/sync.h"

static const struct wait_kind wait_event = {.reason = "event", .withdraw = queue_withdraw};

void wh_event_set(wh_event *event)
{
    INSIDE_ANYWHERE(self, "wh_event_set");
    (void)self;
    bool shared = shared_here();
    struct list woken;
    list_init(&woken);
    object_lock(shared, &event->lock);
    event->set = true;
    if (!queue_empty(&event->waiters))
        queue_take_all(queue_of(&event->waiters), &woken, shared);
    object_unlock(shared, &event->lock);
    wake_all(&woken, 0, shared);
}

void wh_event_reset(wh_event *event)
{
    INSIDE_ANYWHERE(self, "wh_event_reset");
    (void)self;
    bool shared = shared_here();
    object_lock(shared, &event->lock);
    event->set = false;
    object_unlock(shared, &event->lock);
}

/* Under the lock: who sees that it is set may free it, and who sets it must be through with it. */
bool event_is_set(wh_event *event, bool shared)
{
    object_lock(shared, &event->lock);
    bool set = event->set;
    object_unlock(shared, &event->lock);
    return set;
}

bool wh_event_is_set(const wh_event *event)
{
    INSIDE_ANYWHERE(self, "wh_event_is_set");
    (void)self;
    return event_is_set((wh_event *)(uintptr_t)event, shared_here());
}

int wh_event_wait(wh_event *event)
{
    wh_coro *self = enter("wh_event_wait");
    int rc = ended_by_turn(self);
    if (unlikely(rc < 0))
        return leave(self, refuse(self, rc));
    bool shared = self->worker->shared;
    object_lock(shared, &event->lock);
    if (event->set) {
        object_unlock(shared, &event->lock);
        return leave(self, served(self, 0));
    }
    return leave(self,
                 queue_wait(self, queue_of(&event->waiters), &event->lock, shared, &wait_event));
}
