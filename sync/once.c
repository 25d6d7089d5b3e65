/*
 * once.c: doing something once (whorl/sync.h).
 */
#include "sync/sync.h"

#include <errno.h>

static const struct wait_kind wait_once = {.reason = "once", .withdraw = queue_withdraw};

/* Calls the function and lets those go who wait for that. */
static void run(wh_coro *self, wh_once *once, void (*fn)(void *arg), void *arg)
{
    where_set(self->worker, IN_USER);
    fn(arg);
    where_set(self->worker, IN_RUNTIME);
    bool shared = self->worker->shared;
    struct list woken;
    list_init(&woken);
    object_lock(shared, &once->lock);
    once->runner = NULL;
    /* release: pairs with the acquire in wh_once_do() */
    __atomic_store_n(&once->done, true, __ATOMIC_RELEASE);
    queue_take_all(queue_of(&once->waiters), &woken, shared);
    object_unlock(shared, &once->lock);
    wake_all(&woken, 0, shared);
}

int wh_once_do(wh_once *once, void (*fn)(void *arg), void *arg)
{
    /* acquire: pairs with the release in run() */
    if (likely(__atomic_load_n(&once->done, __ATOMIC_ACQUIRE)))
        return 0;
    wh_coro *self = enter("wh_once_do");
    bool shared = self->worker->shared;
    int rc = ended(self);
    object_lock(shared, &once->lock);
    if (once->done || !once->runner) {
        bool first = !once->done;
        if (first)
            once->runner = self;
        object_unlock(shared, &once->lock);
        if (first)
            run(self, once, fn, arg);
        return leave(self, 0);
    }
    if (unlikely(once->runner == self))
        coro_misuse(self, "wh_once_do", "is called for the same object from its function");
    if (unlikely(rc < 0)) {
        object_unlock(shared, &once->lock);
        return leave(self, refuse(self, rc));
    }
    return leave(self, queue_wait(self, queue_of(&once->waiters), &once->lock, shared, &wait_once));
}
