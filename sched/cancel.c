/*
 * cancel.c: asking coroutines to end. What is asked of one from elsewhere, and how that is ordered
 * with its moving and its end, is at the head of coro.c.
 */
#include "sched/sched.h"

#include <errno.h>

/* On the coroutine's worker. Returns whether its wait is to be interrupted, if it waits. */
static bool note_cancel(wh_coro *coro)
{
    if (coro->flags & CORO_CANCELLED)
        return false;
    if (coro->flags & CORO_SHIELDED) {
        coro->flags |= CORO_CANCEL_NOTED;
        return false;
    }
    coro->flags |= CORO_CANCELLED;
    return true;
}

static void cancel(wh_coro *coro)
{
    if (note_cancel(coro))
        interrupt(coro, -ECANCELED);
}

void coro_ask(wh_coro *coro, unsigned what)
{
    lock_take(&coro->lock);
    uint8_t state = state_of(coro);
    struct worker *to = NULL;
    if (state != CORO_DEAD && state != CORO_FREE) {
        if (!(coro->handle & HANDLE_ASKED))
            to = coro->worker;
        __atomic_store_n(&coro->handle, (uint8_t)(coro->handle | what), __ATOMIC_RELAXED);
    }
    if (to)
        INBOX_PUSH(&to->inbox.asked, coro, asked);
    lock_give(&coro->lock);
    if (to)
        worker_notify(to);
}

void coro_asked(struct worker *w, wh_coro *coro)
{
    lock_take(&coro->lock);
    unsigned what = coro->handle & HANDLE_ASKED;
    wh_assert(what && state_of(coro) != CORO_DEAD);
    struct worker *now = coro->worker;
    if (now != w) {
        INBOX_PUSH(&now->inbox.asked, coro, asked);
        lock_give(&coro->lock);
        worker_notify(now);
        return;
    }
    __atomic_store_n(&coro->handle, (uint8_t)(coro->handle & ~HANDLE_ASKED), __ATOMIC_RELAXED);
    bool end = what & HANDLE_ASKED_CANCEL && note_cancel(coro);
    if (what & HANDLE_ASKED_CTX)
        coro->flags |= CORO_CTX_LOOK;
    /* One that is parked now is this worker's until it has run. One that is runnable may be another
     * one's as soon as the lock is given; it looks for itself. */
    bool parked = state_of(coro) == CORO_PARKED;
    lock_give(&coro->lock);
    if (parked && what & HANDLE_ASKED_CTX && ctx_unswept(coro))
        end = true;
    if (parked && end)
        interrupt(coro, -ECANCELED);
}

void wh_cancel(wh_coro *coro)
{
    if (unlikely(!worker_tls)) {
        INSIDE_ANYWHERE(self, "wh_cancel");
        (void)self;
        if (unlikely(!worker_of(coro)->shared))
            panic("wh_cancel was called by a thread that is no worker, in a run with one worker "
                  "that nobody holds; see wh_runtime_hold()");
        coro_ask(coro, HANDLE_ASKED_CANCEL);
        return;
    }
    INSIDE(self, "wh_cancel");
    if (self->worker->shared) {
        coro_ask(coro, HANDLE_ASKED_CANCEL);
        return;
    }
    wh_assert(state_of(coro) != CORO_FREE);
    if (unlikely(coro->worker->run != self->worker->run))
        coro_misuse(self, "wh_cancel", "cancels a coroutine of another run; see whorl/runtime.h");
    if (state_of(coro) != CORO_DEAD)
        cancel(coro);
}

static void cancel_one(wh_coro *coro, void *arg)
{
    const struct worker *w = arg;
    if (w->shared)
        coro_ask(coro, HANDLE_ASKED_CANCEL);
    else
        cancel(coro);
}

void cancel_all(struct worker *w)
{
    slab_visit(&w->slab, cancel_one, w);
    if (w->index)
        return;
    /* All that threads have started was injected before the run began to end. */
    slab_visit(&w->run->slab, cancel_one, w);
}
