/*
 * once.c: doing something once (whorl/sync.h).
 */
#include "sync/sync.h"

#include <errno.h>

static const struct wait_kind wait_once = {.reason = "once", .withdraw = queue_withdraw};

int wh_once_do(wh_once *once, void (*fn)(void *arg), void *arg)
{
    wh_coro *self = self_or_panic("wh_once_do");
    if (likely(once->done))
        return 0;
    if (once->runner) {
        if (unlikely(once->runner == self))
            coro_misuse(self, "wh_once_do", "is called for the same object from its function");
        int rc = ended(self);
        if (unlikely(rc < 0))
            return refuse(self, rc);
        return queue_park(self, queue_of(&once->waiters), &wait_once);
    }
    once->runner = self;
    fn(arg);
    once->runner = NULL;
    once->done = true;
    queue_wake_all(queue_of(&once->waiters), 0);
    return 0;
}
