/*
 * sync.h: what coroutines coordinate with: channels, select, locks, groups, timers, signals.
 *
 * Everything here waits in queues of waiters (sched/sched.h), and is therefore interrupted by
 * deadline and cancel through the one waiting mechanism. What each object adds is when a waiter is
 * served. Two rules hold for all:
 *
 *   - Whoever serves a waiter completes the whole transfer before it wakes it: the element is
 *     copied, the lock is the other's, the units are taken. A waiter that was served has nothing
 *     left to do, so nothing that happens before it runs can take it back.
 *   - A waiter that is interrupted is off its queue at once, by its kind's withdraw. So it is
 *     served or interrupted, never both.
 *
 * All of it belongs to one worker; nothing is atomic. The objects of whorl/sync.h are in the user's
 * memory and zeroed at first, so their queues are made when somebody first waits.
 */
#ifndef SYNC_SYNC_H
#define SYNC_SYNC_H

#include "sched/next.h"

#include <whorl/chan.h>
#include <whorl/sync.h>
#include <whorl/timer.h>

#include <string.h>

/* ---- Queues in zeroed memory ---- */

static_assert(sizeof(struct wh_queue) == sizeof(struct list), "one is the other");

static inline struct list *queue_of(struct wh_queue *queue)
{
    struct list *list = (struct list *)queue;
    if (!list->next)
        list_init(list);
    return list;
}

static inline bool queue_empty(const struct wh_queue *queue)
{
    return !queue->next || queue->next == queue;
}

/* ---- Channels (chan.c) ---- */

/*
 * Elements, when nobody waits, are in a ring of `capacity`:
 *
 *      slots   [ . . e f g . . . ]        head: e, the oldest; len: 3
 *
 * Who waits: senders only while the ring is full, receivers only while it is empty. So never both;
 * of an unbuffered channel the ring is full and empty at once, and still never both, because who
 * comes second is served at once. Waiters that have been woken by something else may still be
 * linked (see waiter_waits): the ends below skip them.
 *
 * A waiter's data: the element to send, or where the received one goes (NULL: nowhere).
 */
struct wh_chan {
    struct list receivers;
    struct list senders;
    size_t len;
    size_t head;
    size_t capacity;
    size_t elem_bytes;
    uint32_t refs;
    bool closed;
    char slots[] __attribute__((aligned(16)));
};

/* What wakes who waits on a channel. */
enum chan_wake {
    CHAN_ENDED = 0, /* a receiver: closed and empty */
    CHAN_DONE = 1,  /* an element went over */
    CHAN_CLOSED = 2 /* a sender: closed, which is a programmer's error */
};

/* The usual sizes are moved in a register. */
static inline void elem_copy(void *to, const void *from, size_t bytes)
{
    if (likely(bytes == 8))
        memcpy(to, from, 8);
    else if (bytes == 4)
        memcpy(to, from, 4);
    else
        memcpy(to, from, bytes);
}

static inline char *chan_slot(wh_chan *ch, size_t slot)
{
    return ch->slots + slot * ch->elem_bytes;
}

static inline size_t chan_wrap(const wh_chan *ch, size_t slot)
{
    return slot >= ch->capacity ? slot - ch->capacity : slot;
}

COLD void chan_misuse(const char *call, const char *what) __attribute__((noreturn));

/* Whether a send, a receive would be served at once. */
static inline bool chan_can_send(wh_chan *ch)
{
    return ch->len < ch->capacity || ch->closed || queue_first(&ch->receivers);
}

static inline bool chan_can_recv(wh_chan *ch)
{
    return ch->len || ch->closed || queue_first(&ch->senders);
}

/* Sends if it can be done at once. Returns whether it was. The caller has seen to a closed one. */
static inline bool chan_send_now(wh_chan *ch, const void *elem)
{
    struct waiter *receiver = queue_take(&ch->receivers);
    if (receiver) {
        wh_assert_slow(!ch->len);
        if (receiver->data)
            elem_copy(receiver->data, elem, ch->elem_bytes);
        waiter_wake(receiver, CHAN_DONE);
        return true;
    }
    if (ch->len == ch->capacity)
        return false;
    elem_copy(chan_slot(ch, chan_wrap(ch, ch->head + ch->len)), elem, ch->elem_bytes);
    ch->len++;
    return true;
}

/* Receives if it can be done at once: CHAN_DONE; CHAN_ENDED; or -EAGAIN. */
__attribute__((always_inline)) static inline int chan_recv_now(wh_chan *ch, void *elem)
{
    struct waiter *sender;
    if (ch->len) {
        if (elem)
            elem_copy(elem, chan_slot(ch, ch->head), ch->elem_bytes);
        sender = queue_take(&ch->senders);
        if (sender)
            elem_copy(chan_slot(ch, ch->head), sender->data, ch->elem_bytes); /* it is full */
        else
            ch->len--;
        ch->head = chan_wrap(ch, ch->head + 1);
    } else if ((sender = queue_take(&ch->senders))) {
        if (elem)
            elem_copy(elem, sender->data, ch->elem_bytes);
    } else if (ch->closed) {
        if (elem)
            memset(elem, 0, ch->elem_bytes);
        return CHAN_ENDED;
    } else {
        return -EAGAIN;
    }
    if (sender)
        waiter_wake(sender, CHAN_DONE);
    return CHAN_DONE;
}

/* Ends the wait of all who wait to send, with this result, -errno. */
void chan_refuse_senders(wh_chan *ch, int rc);

void chan_validate(wh_chan *ch);

/* ---- Timers (timer.c) ---- */

struct wh_timer {
    struct alarm alarm;
    struct list waiters;
    int64_t next_ns;   /* the next tick, or, pending, the one that is */
    int64_t period_ns; /* 0: none after this one */
    bool pending;      /* a tick that nobody has taken; the alarm is not armed then */
};

/* Takes the tick that is pending. */
void timer_take(wh_timer *timer);

#endif
