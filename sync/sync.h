/*
 * sync.h: what coroutines coordinate with: channels, select, locks, groups, timers, signals,
 * processes.
 *
 * Everything here waits in queues of waiters (sched/sched.h), and is therefore interrupted by
 * deadline and cancel through the one waiting mechanism. What each object adds is when a waiter is
 * served. Two rules hold for all:
 *
 *   - Whoever serves a waiter completes the whole transfer before it wakes it: the element is
 *     copied, the lock is the other's, the units are taken. A waiter that was served has nothing
 *     left to do, so nothing that happens before it runs can take it back.
 *   - Serving and interrupting begin with claiming, so a waiter is served or interrupted, never
 *     both. One that was interrupted is stale from then on, and gone when its call returns.
 *
 * Each object has a lock of one byte, which is taken only while several threads may touch it (see
 * "alone" in sched/sched.h). Under it the object is changed and waiters are claimed; they are made
 * ready when it has been given, because an object may be gone as soon as one that it served runs.
 * At most one such lock is held at a time; only a select holds several, of channels alone, taken in
 * the order of their addresses.
 *
 * The objects of whorl/sync.h are in the user's memory and zeroed at first, so their queues are
 * made when somebody first waits. An object must outlive every call on it.
 */
#ifndef SYNC_SYNC_H
#define SYNC_SYNC_H

#include "sched/next.h"

#include <whorl/chan.h>
#include <whorl/process.h>
#include <whorl/sync.h>
#include <whorl/timer.h>

#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

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
 *
 * Memory. A channel is freed with its last hold. It may be given back as soon as those who wait on
 * it have been served, and even while some that were interrupted have not run since, whose waiters
 * are still linked: `waiting` counts the waiters that nobody has served, and the last of the two
 * counts that comes to zero frees it.
 */
struct wh_chan {
    struct list receivers;
    struct list senders;
    size_t len;
    size_t head;
    size_t capacity;
    size_t elem_bytes;
    uint32_t refs;    /* holds */
    uint32_t waiting; /* waiters: counted off by who serves them, or by themselves */
    bool closed;
    uint8_t lock;
    char slots[] __attribute__((aligned(16)));
};

/* What wakes who waits on a channel. */
enum chan_wake {
    CHAN_ENDED = 0,  /* a receiver: closed and empty */
    CHAN_DONE = 1,   /* an element went over */
    CHAN_CLOSED = 2, /* a sender: closed, which is a programmer's error */
    CHAN_REFUSED = 3 /* a sender: nobody will receive (pool.c) */
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

/* Takes the first that waits, to be served. */
static inline struct waiter *chan_take(wh_chan *ch, struct list *queue, bool shared)
{
    struct waiter *waiter = queue_take(queue, shared);
    if (waiter)
        ch->waiting--;
    return waiter;
}

/* Sends if it can be done at once. Returns whether it was; who is then to be woken with CHAN_DONE,
 * when the lock has been given, is in *ret_woken. The caller has seen to a closed one. */
static inline bool chan_send_now(wh_chan *ch, const void *elem, bool shared,
                                 struct waiter **ret_woken)
{
    struct waiter *receiver = chan_take(ch, &ch->receivers, shared);
    *ret_woken = receiver;
    if (receiver) {
        wh_assert_slow(!ch->len);
        if (receiver->data)
            elem_copy(receiver->data, elem, ch->elem_bytes);
        return true;
    }
    if (ch->len == ch->capacity)
        return false;
    elem_copy(chan_slot(ch, chan_wrap(ch, ch->head + ch->len)), elem, ch->elem_bytes);
    ch->len++;
    return true;
}

/* Receives if it can be done at once: CHAN_DONE; CHAN_ENDED; or -EAGAIN. *ret_woken: as above. */
__attribute__((always_inline)) static inline int chan_recv_now(wh_chan *ch, void *elem, bool shared,
                                                               struct waiter **ret_woken)
{
    struct waiter *sender;
    *ret_woken = NULL;
    if (ch->len) {
        if (elem)
            elem_copy(elem, chan_slot(ch, ch->head), ch->elem_bytes);
        sender = chan_take(ch, &ch->senders, shared);
        if (sender)
            elem_copy(chan_slot(ch, ch->head), sender->data, ch->elem_bytes); /* it is full */
        else
            ch->len--;
        ch->head = chan_wrap(ch, ch->head + 1);
    } else if ((sender = chan_take(ch, &ch->senders, shared))) {
        if (elem)
            elem_copy(elem, sender->data, ch->elem_bytes);
    } else if (ch->closed) {
        if (elem)
            memset(elem, 0, ch->elem_bytes);
        return CHAN_ENDED;
    } else {
        return -EAGAIN;
    }
    *ret_woken = sender;
    return CHAN_DONE;
}

/* For one whose wait was interrupted, or served by something else: takes its waiter off. The
 * channel may be freed by that. */
void chan_leave(wh_chan *ch, struct waiter *waiter, bool shared);

/* Sends if that can be done at once, to a channel that others may close at any time. */
bool chan_offer(wh_chan *ch, const void *elem);

/* The public call, for others in the runtime. Returns false when it was closed already. */
bool chan_close(wh_chan *ch);

void chan_validate(wh_chan *ch);

/* ---- Processes (spawn.c) ---- */

/* Standard input, output and error. */
enum { STREAMS = 3 };

/* close(2), of what wh_close() may close as well. ThreadSanitizer does not see the ring close, and
 * takes the number's next use by another thread for a race: it must see neither open nor close. */
static inline void fd_close(int fd)
{
    if (fd >= 0)
        (void)syscall(SYS_close, fd);
}

/*
 * Starts a program. Does not park, blocks until it is loaded. Returns 0 with its number, its pidfd
 * and our ends of its pipes (-1: none), all the caller's; or -errno as wh_process_spawn(), and then
 * nothing was started and nothing is left.
 */
int program_start(const char *const *argv, const wh_process_options *o, int ret_ours[STREAMS],
                  pid_t *ret_pid, int *ret_pidfd);

/* ---- Timers (timer.c) ---- */

/* Lives on the worker that made it, where its alarm is; see timer.c. */
struct wh_timer {
    struct alarm alarm; /* its worker only */
    struct post post;   /* to have the alarm armed anew, or everything freed */
    struct worker *worker;
    /* under lock */
    uint8_t lock;
    bool posted;
    bool destroyed;
    bool pending; /* a tick that nobody has taken; no further one comes until it is */
    uint32_t waiting;
    struct list waiters;
    int64_t next_ns;   /* the next tick, or, pending, the one that is; WH_NEVER: none */
    int64_t period_ns; /* 0: none after this one */
};

/* Takes the tick that is pending, if there is one. Returns whether there was. */
bool timer_take(struct worker *w, wh_timer *timer, bool shared);

bool timer_is_pending(wh_timer *timer, bool shared);

/* A waiter is off the timer's queue, and was not served; gives the lock. */
void timer_leave(struct worker *w, wh_timer *timer, struct waiter *waiter, bool shared);

/* ---- Others ---- */

/* Unlocks; the object's lock is held, if shared, and given. */
void mutex_unlock(wh_mutex *mutex, bool shared);
/* Locks, whatever the context says. */
void mutex_enter(wh_coro *self, wh_mutex *mutex);

bool event_is_set(wh_event *event, bool shared);

#endif
