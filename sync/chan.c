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
    coro_misuse(self_or_panic(call), call, what);
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
    ch->closed = false;
    return ch;
}

wh_chan *wh_chan_ref_(wh_chan *ch)
{
    if (ch) {
        wh_assert(ch->refs > 0 && ch->refs < UINT32_MAX);
        ch->refs++;
    }
    return ch;
}

void wh_chan_unref_(wh_chan *ch)
{
    if (!ch)
        return;
    wh_assert(ch->refs > 0);
    if (--ch->refs)
        return;
    if (queue_first(&ch->receivers) || queue_first(&ch->senders))
        chan_misuse("wh_chan_unref", "gives back the last hold on a channel on which others wait");
    mem_free(ch);
}

/* ---- Sending ---- */

static const struct wait_kind wait_send = {.reason = "channel send", .withdraw = queue_withdraw};
static const struct wait_kind wait_recv = {.reason = "channel receive", .withdraw = queue_withdraw};
static const struct wait_kind wait_nil_send = {.reason = "send on a NULL channel",
                                               .withdraw = queue_withdraw};
static const struct wait_kind wait_nil_recv = {.reason = "receive on a NULL channel",
                                               .withdraw = queue_withdraw};

static const char closed_send[] = "sends on a closed channel";

__attribute__((noinline)) static int send_wait(wh_coro *self, wh_chan *ch, const void *elem)
{
    self->waiter.data = (void *)(uintptr_t)elem;
    int rc = queue_park(self, &ch->senders, &wait_send);
    if (unlikely(rc == CHAN_CLOSED))
        chan_misuse("wh_chan_send", closed_send);
    return rc < 0 ? rc : 0;
}

int wh_chan_send_(wh_chan *ch, const void *elem)
{
    wh_coro *self = self_or_panic("wh_chan_send");
    int rc = ended_by_turn(self);
    if (unlikely(rc < 0))
        return refuse(self, rc);
    if (unlikely(!ch))
        return park_forever(self, &wait_nil_send);
    if (unlikely(ch->closed))
        chan_misuse("wh_chan_send", closed_send);
    if (likely(chan_send_now(ch, elem)))
        return likely(ch->head) ? 0 : served(self, 0);
    return send_wait(self, ch, elem);
}

int wh_chan_try_send_(wh_chan *ch, const void *elem)
{
    if (unlikely(!ch))
        return -EAGAIN;
    if (unlikely(ch->closed))
        chan_misuse("wh_chan_try_send", closed_send);
    return chan_send_now(ch, elem) ? 0 : -EAGAIN;
}

/* ---- Receiving ---- */

__attribute__((noinline)) static int recv_wait(wh_coro *self, wh_chan *ch, void *elem)
{
    self->waiter.data = elem;
    return queue_park(self, &ch->receivers, &wait_recv);
}

int wh_chan_recv_(wh_chan *ch, void *elem)
{
    wh_coro *self = self_or_panic("wh_chan_recv");
    int rc = ended_by_turn(self);
    if (unlikely(rc < 0))
        return refuse(self, rc);
    if (unlikely(!ch))
        return park_forever(self, &wait_nil_recv);
    rc = chan_recv_now(ch, elem);
    if (likely(rc > 0 && ch->head))
        return rc;
    return likely(rc >= 0) ? served(self, rc) : recv_wait(self, ch, elem);
}

int wh_chan_try_recv_(wh_chan *ch, void *elem)
{
    return unlikely(!ch) ? -EAGAIN : chan_recv_now(ch, elem);
}

/* ---- Closing and asking ---- */

void wh_chan_close_(wh_chan *ch)
{
    if (unlikely(!ch))
        chan_misuse("wh_chan_close", "closes a NULL channel");
    if (unlikely(ch->closed))
        chan_misuse("wh_chan_close", "closes a channel that is closed already");
    ch->closed = true;
    struct waiter *receiver;
    while ((receiver = queue_take(&ch->receivers))) {
        /* Now: when it runs the channel may be gone. */
        if (receiver->data)
            memset(receiver->data, 0, ch->elem_bytes);
        waiter_wake(receiver, CHAN_ENDED);
    }
    queue_wake_all(&ch->senders, CHAN_CLOSED);
}

void chan_refuse_senders(wh_chan *ch, int rc)
{
    wh_assert(rc < 0);
    queue_wake_all(&ch->senders, rc);
}

size_t wh_chan_len_(const wh_chan *ch)
{
    return ch ? ch->len : 0;
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
