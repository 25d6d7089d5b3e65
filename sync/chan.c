/*
 * chan.c: channels (whorl/chan.h). Who may wait when, and how an element goes over, is at struct
 * wh_chan; select.c uses the same two functions, chan_send_now() and chan_recv_now().
 *
 * A coroutine that sends and receives through a buffer of its own is always served at once. Such
 * calls are counted (served()) once in a round of the ring, when its head is at the start: who goes
 * on and on comes by there, and counting each would cost a fifth of a send and receive.
 *
 * Rejected: handing the processor over with the element (the receiver runs at once). It saves
 * nothing here, where the run queue is a list, and a sender of many would be interrupted at each.
 */
#include "sync/sync.h"

#include <errno.h>

void chan_misuse(const char *call, const char *what)
{
    coro_misuse(wh_self(), call, what);
}

wh_chan *wh_chan_create_(size_t elem_bytes, size_t capacity)
{
    size_t bytes;
    if (__builtin_mul_overflow(elem_bytes, capacity, &bytes) ||
        __builtin_add_overflow(bytes, sizeof(wh_chan), &bytes) || bytes > PTRDIFF_MAX)
        return NULL;
    wh_chan *ch = mem_alloc(bytes);
    if (!ch)
        return NULL;
    list_init(&ch->receivers);
    list_init(&ch->senders);
    ch->len = 0;
    ch->head = 0;
    ch->capacity = capacity;
    ch->elem_bytes = elem_bytes;
    ch->refs = 1;
    ch->waiting = 0;
    ch->closed = false;
    ch->lock = 0;
    return ch;
}

static const char no_hold[] = "has no hold on the channel: the last was given back";

wh_chan *wh_chan_ref_(wh_chan *ch)
{
    if (!ch)
        return NULL;
    INSIDE_ANYWHERE(self, "wh_chan_ref");
    (void)self;
    bool shared = shared_here();
    object_lock(shared, &ch->lock);
    if (unlikely(!ch->refs))
        chan_misuse("wh_chan_ref", no_hold);
    wh_assert(ch->refs < UINT32_MAX);
    ch->refs++;
    object_unlock(shared, &ch->lock);
    return ch;
}

/* Gives the lock, and frees the channel if nobody has anything to do with it any more. */
static void unlock_or_free(wh_chan *ch, bool shared)
{
    bool last = !ch->refs && !ch->waiting;
    object_unlock(shared, &ch->lock);
    if (last)
        mem_free(ch);
}

void wh_chan_unref_(wh_chan *ch)
{
    if (!ch)
        return;
    INSIDE_ANYWHERE(self, "wh_chan_unref");
    (void)self;
    bool shared = shared_here();
    object_lock(shared, &ch->lock);
    if (unlikely(!ch->refs))
        chan_misuse("wh_chan_unref", no_hold);
    ch->refs--;
    if (!ch->refs && (queue_first(&ch->receivers) || queue_first(&ch->senders)))
        chan_misuse("wh_chan_unref", "gives back the last hold on a channel on which others wait");
    unlock_or_free(ch, shared);
}

void chan_leave(wh_chan *ch, struct waiter *waiter, bool shared)
{
    object_lock(shared, &ch->lock);
    list_remove(&waiter->link);
    wh_assert(ch->waiting > 0);
    ch->waiting--;
    unlock_or_free(ch, shared);
}

/* ---- Sending ---- */

static const struct wait_kind wait_send = {.reason = "channel send", .withdraw = queue_withdraw};
static const struct wait_kind wait_recv = {.reason = "channel receive", .withdraw = queue_withdraw};
static const struct wait_kind wait_nil_send = {.reason = "send on a NULL channel",
                                               .withdraw = queue_withdraw};
static const struct wait_kind wait_nil_recv = {.reason = "receive on a NULL channel",
                                               .withdraw = queue_withdraw};

static const char closed_send[] = "sends on a closed channel";

/* Waits at the tail of a queue; the lock is held, if shared, and given. */
__attribute__((always_inline)) static inline int
wait_at(wh_coro *self, wh_chan *ch, struct list *queue, bool shared, const struct wait_kind *kind)
{
    ch->waiting++;
    int rc = queue_park(self, queue, &ch->lock, shared, kind);
    if (unlikely(rc < 0))
        chan_leave(ch, &self->waiter, self->worker->shared);
    return rc;
}

/* As a call of its own, which the public ones end with, so that after the switch there is one
 * return to the user's code and no more. */
__attribute__((noinline)) static int send_wait(wh_coro *self, wh_chan *ch, const void *elem,
                                               bool shared)
{
    self->waiter.data = (void *)(uintptr_t)elem;
    int rc = wait_at(self, ch, &ch->senders, shared, &wait_send);
    if (unlikely(rc == CHAN_CLOSED))
        chan_misuse("wh_chan_send", closed_send);
    return leave(self, rc < 0 ? rc : 0);
}

/* Leaves the runtime. */
__attribute__((always_inline)) static inline int send(wh_coro *self, wh_chan *ch, const void *elem,
                                                      bool shared)
{
    struct waiter *woken;
    object_lock(shared, &ch->lock);
    if (unlikely(ch->closed))
        chan_misuse("wh_chan_send", closed_send);
    if (unlikely(!chan_send_now(ch, elem, shared, &woken)))
        return send_wait(self, ch, elem, shared);
    bool counts = !ch->head;
    object_unlock(shared, &ch->lock);
    if (woken)
        waiter_wake(woken, CHAN_DONE, shared);
    return leave(self, likely(!counts) ? 0 : served(self, 0));
}

__attribute__((noinline)) static int send_shared(wh_coro *self, wh_chan *ch, const void *elem)
{
    return send(self, ch, elem, true);
}

int wh_chan_send_(wh_chan *ch, const void *elem)
{
    wh_coro *self = enter("wh_chan_send");
    int rc = ended_by_turn(self);
    if (unlikely(rc < 0))
        return leave(self, refuse(self, rc));
    if (unlikely(!ch))
        return leave(self, park_forever(self, &wait_nil_send));
    if (unlikely(self->worker->shared))
        return send_shared(self, ch, elem);
    return send(self, ch, elem, false);
}

int wh_chan_try_send_(wh_chan *ch, const void *elem)
{
    if (unlikely(!ch))
        return -EAGAIN;
    INSIDE_ANYWHERE(self, "wh_chan_try_send");
    (void)self;
    struct waiter *woken;
    bool shared = shared_here();
    object_lock(shared, &ch->lock);
    if (unlikely(ch->closed))
        chan_misuse("wh_chan_try_send", closed_send);
    bool sent = chan_send_now(ch, elem, shared, &woken);
    object_unlock(shared, &ch->lock);
    if (woken)
        waiter_wake(woken, CHAN_DONE, shared);
    return sent ? 0 : -EAGAIN;
}

/* Sends if it can be done at once and nobody has closed it. */
bool chan_offer(wh_chan *ch, const void *elem)
{
    struct waiter *woken = NULL;
    bool shared = shared_here();
    object_lock(shared, &ch->lock);
    bool sent = !ch->closed && chan_send_now(ch, elem, shared, &woken);
    object_unlock(shared, &ch->lock);
    if (woken)
        waiter_wake(woken, CHAN_DONE, shared);
    return sent;
}

/* ---- Receiving ---- */

__attribute__((noinline)) static int recv_wait(wh_coro *self, wh_chan *ch, void *elem, bool shared)
{
    self->waiter.data = elem;
    return leave(self, wait_at(self, ch, &ch->receivers, shared, &wait_recv));
}

__attribute__((always_inline)) static inline int recv(wh_coro *self, wh_chan *ch, void *elem,
                                                      bool shared)
{
    struct waiter *woken;
    object_lock(shared, &ch->lock);
    int rc = chan_recv_now(ch, elem, shared, &woken);
    if (unlikely(rc < 0))
        return recv_wait(self, ch, elem, shared);
    bool counts = !ch->head;
    object_unlock(shared, &ch->lock);
    if (woken)
        waiter_wake(woken, CHAN_DONE, shared);
    return leave(self, likely(rc > 0 && !counts) ? rc : served(self, rc));
}

__attribute__((noinline)) static int recv_shared(wh_coro *self, wh_chan *ch, void *elem)
{
    return recv(self, ch, elem, true);
}

int wh_chan_recv_(wh_chan *ch, void *elem)
{
    wh_coro *self = enter("wh_chan_recv");
    int rc = ended_by_turn(self);
    if (unlikely(rc < 0))
        return leave(self, refuse(self, rc));
    if (unlikely(!ch))
        return leave(self, park_forever(self, &wait_nil_recv));
    if (unlikely(self->worker->shared))
        return recv_shared(self, ch, elem);
    return recv(self, ch, elem, false);
}

int wh_chan_try_recv_(wh_chan *ch, void *elem)
{
    if (unlikely(!ch))
        return -EAGAIN;
    INSIDE_ANYWHERE(self, "wh_chan_try_recv");
    (void)self;
    struct waiter *woken;
    bool shared = shared_here();
    object_lock(shared, &ch->lock);
    int rc = chan_recv_now(ch, elem, shared, &woken);
    object_unlock(shared, &ch->lock);
    if (woken)
        waiter_wake(woken, CHAN_DONE, shared);
    return rc;
}

/* ---- Closing and asking ---- */

void wh_chan_close_(wh_chan *ch)
{
    INSIDE_ANYWHERE(self, "wh_chan_close");
    (void)self;
    if (unlikely(!ch))
        chan_misuse("wh_chan_close", "closes a NULL channel");
    if (unlikely(!chan_close(ch)))
        chan_misuse("wh_chan_close", "closes a channel that is closed already");
}

bool chan_close(wh_chan *ch)
{
    bool shared = shared_here();
    struct list receivers, senders;
    struct waiter *waiter;
    list_init(&receivers);
    list_init(&senders);
    object_lock(shared, &ch->lock);
    bool was = ch->closed;
    ch->closed = true;
    while ((waiter = chan_take(ch, &ch->receivers, shared))) {
        /* Now: when it runs the channel may be gone. */
        if (waiter->data)
            memset(waiter->data, 0, ch->elem_bytes);
        list_push_back(&receivers, &waiter->link);
    }
    while ((waiter = chan_take(ch, &ch->senders, shared)))
        list_push_back(&senders, &waiter->link);
    object_unlock(shared, &ch->lock);
    wake_all(&receivers, CHAN_ENDED, shared);
    wake_all(&senders, CHAN_CLOSED, shared);
    return !was;
}

size_t wh_chan_len_(const wh_chan *ch)
{
    if (!ch)
        return 0;
    INSIDE_ANYWHERE(self, "wh_chan_len");
    (void)self;
    uint8_t *lock = (uint8_t *)(uintptr_t)&ch->lock;
    bool shared = shared_here();
    object_lock(shared, lock);
    size_t len = ch->len;
    object_unlock(shared, lock);
    return len;
}

size_t wh_chan_cap_(const wh_chan *ch)
{
    return ch ? ch->capacity : 0;
}

void chan_validate(wh_chan *ch)
{
    wh_assert(ch->refs > 0);
    wh_assert(ch->len <= ch->capacity);
    wh_assert(ch->head < ch->capacity || !ch->head);
    bool receivers = queue_first(&ch->receivers), senders = queue_first(&ch->senders);
    wh_assert(!receivers || !ch->len);
    wh_assert(!senders || ch->len == ch->capacity);
    wh_assert(!ch->closed || (!receivers && !senders));
    /* A select may wait for both ends, and only such a one. */
    wh_assert(!receivers || !senders ||
              queue_first(&ch->receivers)->coro == queue_first(&ch->senders)->coro);
}
