/*
 * signal.c: signals as elements of channels (whorl/signal.h).
 *
 *      kernel -> handler -> slot of each run: pending bits, eventfd -> its reader -> channels
 *
 * The handler is the process's and may run on any thread, at any instruction. It touches only the
 * slots: a fixed array, so that nothing it looks at can go away. A run that asks for signals takes
 * a slot and starts a reader, a coroutine that waits on the slot's eventfd, sends what is pending,
 * and takes everything down when it is cancelled by the last wh_signal_stop(). At the run's end it
 * puts the actions back at once, so that a second Ctrl-C does what it did before; the rest is done
 * when no coroutine runs any more (signals_over()), or all of it, when there was no time for more.
 *
 * A slot's life, and who may touch its descriptor:
 *
 *      FREE -- take (lock) --> TAKEN: fd is open, handlers write to it if `wanted` says so
 *        ^                        |
 *        `--- closed <--- LEAVING: wanted is 0; the closer waits until `busy` is 0
 *
 * A handler makes itself busy before it looks at `wanted`, and the closer clears `wanted` before it
 * looks at `busy`. Both are sequentially consistent: so either the handler sees 0 and leaves the
 * descriptor alone, or the closer sees it busy and waits. A closer that is interrupted by a handler
 * on its own thread goes on when that is through.
 *
 * A run's wishes are under a lock of their own, so that any worker may ask and the reader run on
 * any.
 *
 * What was installed before is kept for each signal, and put back when no run wants it any more;
 * that, and taking slots, is under a lock that no handler takes.
 */
#include "sync/sync.h"

#include <whorl/io.h>
#include <whorl/signal.h>
#include <whorl/time.h>

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define READ_AGAIN_NS (10 * WH_MILLISECOND)

enum { RUNS_MAX = 64, NUMBERS = 64 };

struct slot {
    /* any thread, atomic */
    uint64_t wanted;  /* bit n - 1: signal n */
    uint64_t pending; /* the same */
    uint32_t busy;    /* handlers that are looking at it */
    int fd;           /* written while wanted is 0 */
    /* under lock */
    bool taken;
};

/* A channel, and what it asked for. */
struct wish {
    struct wish *next;
    wh_chan *ch; /* held */
    uint64_t numbers;
};

/* Of a run; under wishes_lock, as run->signals is. */
struct signals {
    struct slot *slot;
    struct wish *wishes;
    wh_coro *reader;
    struct run_hook hook; /* listed while it lives */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* may be taken under the next one */
static pthread_mutex_t wishes_lock = PTHREAD_MUTEX_INITIALIZER;
static struct slot slots[RUNS_MAX];
static struct {
    unsigned runs; /* that want it */
    struct sigaction before;
} actions[NUMBERS]; /* under lock */

static inline uint64_t bit_of(int number)
{
    return UINT64_C(1) << (number - 1);
}

/* ---- The handler ---- */

static void on_signal(int number)
{
    int saved_errno = errno;
    for (struct slot *slot = slots; slot < slots + RUNS_MAX; slot++) {
        /* seq_cst: pairs with the store to wanted in slot_leave() */
        __atomic_fetch_add(&slot->busy, 1, __ATOMIC_SEQ_CST);
        /* seq_cst: pairs with the store to wanted in slot_leave() and slot_want() */
        if (__atomic_load_n(&slot->wanted, __ATOMIC_SEQ_CST) & bit_of(number)) {
            /* release: pairs with the acquire in the reader's exchange of pending */
            __atomic_fetch_or(&slot->pending, bit_of(number), __ATOMIC_RELEASE);
            const uint64_t one = 1;
            if (write(slot->fd, &one, sizeof one) < 0)
                errno = 0; /* the count is full: the reader will look anyway */
        }
        /* release: pairs with the load of busy in slot_leave() */
        __atomic_fetch_sub(&slot->busy, 1, __ATOMIC_RELEASE);
    }
    errno = saved_errno;
}

/* Why the signal cannot be had, or 0. */
static int action_refused(int number)
{
    struct sigaction now;
    if (watchdog_has_signal(number))
        return -EINVAL;
    return sigaction(number, NULL, &now) < 0 ? -errno : 0;
}

/* One run more wants the signal. */
static void action_want(int number)
{
    if (actions[number - 1].runs++)
        return;
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART | SA_ONSTACK};
    sigfillset(&action.sa_mask);
    int rc = sigaction(number, &action, &actions[number - 1].before);
    wh_assert(rc == 0);
}

/* One less. */
static void action_unwant(int number)
{
    pthread_mutex_lock(&lock);
    wh_assert(actions[number - 1].runs > 0);
    if (--actions[number - 1].runs == 0) {
        const struct sigaction *before = &actions[number - 1].before;
        /* A watchdog that has come meanwhile stays in front, and passes on. */
        watchdog_signals_lock();
        if (!watchdog_has_signal(number))
            sigaction(number, before, NULL);
        watchdog_signal_put_back(number, on_signal, before);
        watchdog_signals_unlock();
    }
    pthread_mutex_unlock(&lock);
}

/* ---- Slots ---- */

static int slot_take(struct slot **ret_slot)
{
    int fd = eventfd(0, EFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    struct slot *slot = slots;
    pthread_mutex_lock(&lock);
    while (slot < slots + RUNS_MAX && slot->taken)
        slot++;
    if (slot < slots + RUNS_MAX)
        slot->taken = true;
    pthread_mutex_unlock(&lock);
    if (slot == slots + RUNS_MAX) {
        close(fd);
        return -EMFILE;
    }
    slot->fd = fd;
    *ret_slot = slot;
    return 0;
}

static void slot_want(struct slot *slot, uint64_t wanted)
{
    /* seq_cst: pairs with the load of wanted in on_signal(), which then sees fd */
    __atomic_store_n(&slot->wanted, wanted, __ATOMIC_SEQ_CST);
}

/* The slot's run wants these, too; all of them or none. `wanted` is what it wants then: the slot
 * says so before the first handler is there, or a signal that comes at once would be lost; and no
 * handler is there before it is known that all can be. */
static int slot_want_more(struct slot *slot, uint64_t more, uint64_t wanted)
{
    int rc = 0;
    pthread_mutex_lock(&lock);
    watchdog_signals_lock();
    for (int number = 1; number <= NUMBERS && rc == 0; number++)
        if (more & bit_of(number))
            rc = action_refused(number);
    if (rc == 0)
        slot_want(slot, wanted);
    for (int number = 1; number <= NUMBERS && rc == 0; number++)
        if (more & bit_of(number))
            action_want(number);
    watchdog_signals_unlock();
    pthread_mutex_unlock(&lock);
    return rc;
}

static void slot_leave(struct slot *slot)
{
    slot_want(slot, 0);
    /* seq_cst: pairs with the add to busy in on_signal() */
    while (__atomic_load_n(&slot->busy, __ATOMIC_SEQ_CST))
        sched_yield();
    close(slot->fd);
    __atomic_store_n(&slot->pending, 0, __ATOMIC_RELAXED);
    pthread_mutex_lock(&lock);
    slot->taken = false;
    pthread_mutex_unlock(&lock);
}

/* ---- A run's wishes ---- */

static uint64_t all_wishes(const struct signals *signals)
{
    uint64_t numbers = 0;
    for (const struct wish *wish = signals->wishes; wish; wish = wish->next)
        numbers |= wish->numbers;
    return numbers;
}

/* Tells slot and process what is wanted now; those in `dropped` may have been wanted before. */
static void wishes_changed(struct signals *signals, uint64_t dropped)
{
    uint64_t wanted = all_wishes(signals);
    slot_want(signals->slot, wanted);
    for (int number = 1; number <= NUMBERS; number++)
        if (dropped & ~wanted & bit_of(number))
            action_unwant(number);
}

static void want_nothing(struct signals *signals)
{
    uint64_t dropped = all_wishes(signals);
    for (struct wish *wish = signals->wishes; wish; wish = wish->next)
        wish->numbers = 0;
    wishes_changed(signals, dropped);
}

static void wish_drop(struct signals *signals, struct wish **at)
{
    struct wish *wish = *at;
    *at = wish->next;
    wishes_changed(signals, wish->numbers);
    wh_chan_unref_(wish->ch);
    mem_free(wish);
}

/* ---- The reader ---- */

static void send_pending(const struct signals *signals)
{
    /* acquire: pairs with the release in on_signal() */
    uint64_t pending = __atomic_exchange_n(&signals->slot->pending, 0, __ATOMIC_ACQUIRE);
    for (int number = 1; number <= NUMBERS; number++)
        for (struct wish *wish = signals->wishes; wish && pending & bit_of(number);
             wish = wish->next)
            if (wish->numbers & bit_of(number))
                (void)chan_offer(wish->ch, &number);
}

static void take_down(struct signals *signals)
{
    while (signals->wishes)
        wish_drop(signals, &signals->wishes);
    slot_leave(signals->slot);
    run_hook_remove(&signals->hook);
    mem_free(signals);
}

/* The run is over, whether the reader has seen that or was abandoned. */
static void signals_over(struct run_hook *hook)
{
    struct signals *signals = container_of(hook, struct signals, hook);
    for (struct wish *wish = signals->wishes; wish; wish = wish->next) {
        /* Who waits there was abandoned, too, and is no reason to keep it. A thread that is no
         * worker may still be sending. */
        lock_take(&wish->ch->lock);
        list_init(&wish->ch->receivers);
        list_init(&wish->ch->senders);
        wish->ch->waiting = 0;
        lock_give(&wish->ch->lock);
    }
    take_down(signals);
}

/* Waits until something may be pending. Returns false when it is time to go: cancelled, or whoever
 * has closed the descriptor. */
static bool signals_await(const struct slot *slot)
{
    uint64_t count;
    ssize_t n = wh_read(slot->fd, &count, sizeof count);
    if (unlikely(n < 0 && n != -ECANCELED && n != -EBADF))
        n = wh_sleep(READ_AGAIN_NS); /* without memory, for a while */
    return n >= 0;
}

static void read_signals(struct signals *signals, struct run *run)
{
    while (signals_await(signals->slot)) {
        INSIDE(self, "wh_signal_notify");
        (void)self;
        pthread_mutex_lock(&wishes_lock);
        send_pending(signals);
        pthread_mutex_unlock(&wishes_lock);
    }
    INSIDE(self, "wh_signal_notify");
    (void)self;
    pthread_mutex_lock(&wishes_lock);
    if (run->signals == signals) {
        /* The run ends. Who waits at a channel may be left waiting: signals_over() drops the holds,
         * when nobody runs any more. */
        run->signals = NULL;
        want_nothing(signals);
    } else {
        take_down(signals);
    }
    pthread_mutex_unlock(&wishes_lock);
}

static int signals_create(struct worker *w)
{
    static struct wh_site site = {.file = "wh_signal_notify", .function = "signals", .args = 2};
    int rc = -ENOMEM;
    struct signals *signals = mem_zalloc(sizeof *signals);
    if (!signals)
        return rc;
    signals->reader = coro_reserve(w);
    if (!signals->reader)
        goto free_signals;
    rc = slot_take(&signals->slot);
    if (rc < 0)
        goto unreserve;
    signals->hook.over = signals_over;
    run_hook_add(w->run, &signals->hook);
    const uintptr_t words[] = {(uintptr_t)signals, (uintptr_t)w->run};
    coro_start(signals->reader, &site, (void (*)(void))read_signals, words);
    w->run->signals = signals;
    return 0;

unreserve:
    coro_unreserve(signals->reader);
free_signals:
    mem_free(signals);
    return rc;
}

/* ---- The calls ---- */

static bool can_be_asked_for(int number)
{
    switch (number) {
    case SIGKILL:
    case SIGSTOP:
    case SIGSEGV:
    case SIGBUS:
    case SIGFPE:
    case SIGILL: return false;
    default: return number >= 1 && number <= NUMBERS;
    }
}

/* Where the channel's wish is linked; what it points to is NULL if it has none. */
static struct wish **wish_at(struct signals *signals, const wh_chan *ch)
{
    struct wish **at = &signals->wishes;
    while (*at && (*at)->ch != ch)
        at = &(*at)->next;
    return at;
}

/* The channel's wish, made if it has none; NULL without memory. */
static struct wish *wish_of(struct signals *signals, wh_chan *ch)
{
    struct wish *wish = *wish_at(signals, ch);
    if (wish)
        return wish;
    wish = mem_zalloc(sizeof *wish);
    if (wish) {
        wish->ch = wh_chan_ref_(ch);
        wish->next = signals->wishes;
        signals->wishes = wish;
    }
    return wish;
}

/* Nobody wants anything: the reader ends and takes it all down. */
static void signals_end(struct run *run)
{
    wh_assert(run->signals);
    wh_coro *reader = run->signals->reader;
    run->signals = NULL;
    wh_cancel(reader);
}

/* All of them, or none. */
static int add(struct signals *signals, wh_chan *ch, uint64_t numbers)
{
    struct wish *wish = wish_of(signals, ch);
    if (!wish)
        return -ENOMEM;
    const uint64_t wanted = all_wishes(signals);
    int rc = slot_want_more(signals->slot, numbers & ~wanted, numbers | wanted);
    if (rc == 0)
        wish->numbers |= numbers;
    else if (!wish->numbers)
        wish_drop(signals, wish_at(signals, ch));
    return rc;
}

static int notify(struct worker *w, wh_chan *ch, uint64_t numbers)
{
    struct run *run = w->run;
    if (!run->signals) {
        int rc = signals_create(w);
        if (rc < 0)
            return rc;
    }
    struct signals *signals = run->signals;
    wh_assert(signals);
    int rc = add(signals, ch, numbers);
    if (rc < 0 && !all_wishes(signals))
        signals_end(run);
    return rc;
}

int wh_signal_notify_(wh_chan *ch, const int *numbers, int count)
{
    INSIDE(self, "wh_signal_notify");
    if (unlikely(!ch))
        coro_misuse(self, "wh_signal_notify", "asks for signals on a NULL channel");
    if (unlikely(count == 0))
        return -EINVAL;
    uint64_t asked = 0;
    for (int i = 0; i < count; i++) {
        if (!can_be_asked_for(numbers[i]))
            return -EINVAL;
        asked |= bit_of(numbers[i]);
    }
    if (run_ends(self))
        return -ECANCELED;
    pthread_mutex_lock(&wishes_lock);
    int rc = notify(self->worker, ch, asked);
    pthread_mutex_unlock(&wishes_lock);
    return rc;
}

void wh_signal_stop_(wh_chan *ch)
{
    INSIDE(self, "wh_signal_stop");
    struct run *run = self->worker->run;
    pthread_mutex_lock(&wishes_lock);
    struct signals *signals = run->signals;
    if (signals) {
        struct wish **at = wish_at(signals, ch);
        if (*at)
            wish_drop(signals, at);
        if (!all_wishes(signals))
            signals_end(run);
    }
    pthread_mutex_unlock(&wishes_lock);
}
