/*
 * worker.h: what a worker is, and a run, which is what its workers share.
 */
#ifndef SCHED_WORKER_H
#define SCHED_WORKER_H

#include "base/lock.h"
#include "sched/coro.h"
#include "sched/deque.h"
#include "sched/inbox.h"
#include "sched/spin.h"

#include <whorl/run.h>
#include <whorl/stats.h>

#include <pthread.h>
#include <semaphore.h>
#include <signal.h>

enum { WORKER_FIGURES = sizeof(wh_stats) / sizeof(uint64_t) };

/* A timer that belongs to no coroutine. */
struct alarm {
    struct timer timer;
    void (*fired)(struct alarm *alarm); /* on the loop */
};

/* Descriptors, last-in first-out. A worker's, or under a lock. */
struct slab {
    wh_coro *free;
    struct slab_chunk *chunks;
    /* any thread, atomic */
    wh_coro *freed; /* by other workers */
};

enum { HOG_FRAMES_MAX = 24 };

/* What the watchdog knows of a worker. The rules are at the head of watchdog.c. */
struct watched {
    /* the watchdog's own */
    uint64_t sleeps; /* as it last saw them */
    uint32_t ticks;  /* since when it has been with the same coroutine */
    bool reported;   /* this hog */
    bool blocked;    /* its thread was, when it was found */
    int64_t since_ns;
    int64_t cpu_ns; /* of the worker's thread, then */
    /* any thread, atomic */
    uint64_t progress;    /* worker_progress(), as last seen; the watchdog writes it */
    uint32_t hog;         /* the number of the hog that is looked at; the same */
    uint32_t answered;    /* the last one that the handler has found; the handler writes it */
    uint8_t hogged;       /* the same; taken back before `progress` changes */
    uint8_t asked;        /* wh_checkpoint() is to let others run */
    uint8_t sent;         /* signals that may not have been taken yet: see signal_sent() */
    uint64_t bound_coros; /* had to stay behind a hog: a figure */
    /* the handler's, and the watchdog's to read when it has answered */
    wh_coro *walked; /* the last of the run queue that was found to be bound */
    bool is_in_call; /* it was interrupted in a system call, or where one begins */
    int frames;
    void *frame[HOG_FRAMES_MAX];
    char who[256];
    struct wh_site *site;
};

struct watchdog {
    /* immutable after init */
    int64_t tick_ns; /* 0: there is none */
    bool runs;
    int signal; /* 0: none is sent */
    /* its own */
    pthread_t thread;
    int64_t spare_retry_ns; /* not before */
    int64_t reported_ns;
    unsigned unreported;
    /* any thread, atomic */
    sem_t wake;
    uint8_t sleeps; /* all workers do */
    uint8_t ends;
    uint32_t spares; /* how many of the spare workers take work */
    uint64_t hogs;   /* a figure */
};

/* What the workers of a run share. */
struct run {
    /* immutable after init */
    wh_options options;
    unsigned workers_asked; /* without spare ones */
    sigset_t signal_mask;   /* of the thread that called wh_run(), and of every worker's */
    int64_t grace_ns;
    bool guard_by_madvise;
    bool failed; /* to start its workers */
    size_t fds_count;
    bool was_alone; /* for a while: written before any other worker exists */
    /* any thread, atomic */
    struct worker *worker[WORKERS_MAX]; /* set once, in order */
    uint32_t workers;
    uint32_t asleep;          /* workers that sleep or are about to */
    int32_t searching;        /* workers that look for work of others; for a moment below 0 */
    uint32_t injected;        /* in the list below */
    uint32_t sweeps;          /* contexts that are being cancelled */
    uint32_t outside;         /* holds of threads that are no workers: wh_runtime */
    uint64_t started_outside; /* coroutines, by threads that are no workers */
    uint8_t ending;           /* the root has returned, or nothing can go on */
    uint8_t over;             /* nothing lives any more, or what does is abandoned */
    uint8_t stuck;            /* the kernel does not give the memory of abandoned operations back */
    size_t stacks;            /* of all workers, if there is a limit */
    uint64_t *fd_users; /* by descriptor: bit n: worker n has had operations on it; FD_CLOSING */
    /* under lock */
    uint8_t lock __attribute__((aligned(64)));
    wh_coro *injected_first; /* of no worker: NEW, or READY with leave to migrate */
    wh_coro *injected_last;
    struct slab slab; /* descriptors made by threads that are no workers; under runtime's mutex */
    struct wh_runtime *runtime; /* or NULL */
    bool runtime_over;          /* there will be none any more */
    wh_ctx *ctx_lots;           /* free contexts (ctx.c) */
    struct list run_hooks;
    struct signals *signals; /* of this run (sync/signal.c), or NULL */
    int result;
    /* The end: workers wait for each other. */
    pthread_mutex_t end_mutex;
    pthread_cond_t end_changed;
    unsigned end_threads; /* that are in the run */
    unsigned end_arrived;
    unsigned end_phase;
    struct watchdog watchdog;
};

/* Which coroutines were refused a wait most often (park.c). */
struct refusals {
    struct {
        uint32_t id, count;
    } of[3];
    bool told;
};

struct worker {
    /* The lines that a switch touches. */
    wh_coro *current; /* atomic: others look */
    wh_coro *ready_first;
    wh_coro *ready_last;
    int32_t budget;     /* switches until the loop runs; atomic: others look */
    int32_t calls_left; /* calls that are served at once until others are let run */
    uint8_t epoch;      /* counts housekeeping rounds, modulo 256 */
    uint8_t index;      /* in run->worker */
    bool shared;        /* others may touch what it touches: see the head of sched.h; atomic: the
                           watchdog looks */
    bool ending;        /* as far as this worker knows: run->ending */
    uint8_t where;      /* enum where; atomic */
    struct exception_globals *exceptions;
    struct exception_globals exceptions_outer; /* the thread's, from before the run */
    wh_coro loop;                              /* the loop's own context */
    struct context discarded;                  /* where a dead coroutine's registers go */

    struct run *run;
    struct engine *engine;
    struct clock clock;
    int64_t now_ns;         /* exact, of the last turn of the loop */
    int64_t turn_ns;        /* the same; INT64_MAX while contexts are being cancelled, so that
                               everybody looks exactly */
    struct fd_waiters *fds; /* by descriptor */
    size_t fds_count;

    struct refusals refusals;
    struct direct_fd *direct; /* by slot, or NULL: there are none yet */
    uint32_t direct_count;
    bool no_direct; /* the kernel has none */
    uint64_t ops_in_flight;
    struct recv_buffers *recv_buffers; /* or NULL */
    uint32_t recv_buffers_in_use;
    bool no_recv_buffers; /* they cannot be had */
    struct slab slab;
    uint32_t id_first;     /* coroutines started here are numbered from here on... */
    uint32_t id_step;      /* ...in steps of this */
    uint64_t started;      /* atomic: others add them up */
    uint64_t ended;        /* the same */
    int stack_class;       /* of who asks for none */
    struct stack *leaving; /* of a coroutine that ended here, to be returned to another worker */
    struct stack_pool stacks;
    struct wheel wheel; /* of coroutines' timers */
    struct wheel alarms;
    struct list expired; /* coroutines' timers, when many came at once */
    struct list sweeps;  /* contexts being cancelled (ctx.c) */
    bool sweeping;
    struct ctx_chunk *ctx_chunks;
    wh_ctx *ctx_free;
    int32_t ctx_free_count;
    uint64_t random;

    /* What others may touch. */
    struct inbox inbox;
    uint8_t sleep; /* enum sleep_state; atomic */
    bool quiet;    /* it sleeps, or is about to, and no housekeeping is due; atomic */
    struct deque deque;
    struct watched watched;
    bool migrants; /* coroutines with leave to migrate have been started here; atomic */

    /* The loop's own. */
    bool searches;          /* counted in run->searching */
    int32_t budget_full;    /* adapted: about a fifth of a millisecond of switches */
    int32_t budget_given;   /* at the last turn */
    int32_t budget_dropped; /* of that, without a switch */
    struct spin spin;
    int64_t tidy_at_ns;
    unsigned tidy_round;   /* of housekeeping, since a coroutine ran or one found something to do */
    int64_t tidy_slice_ns; /* the next slice, if busy */
    bool tidy_under_way;
    bool tidy_found;
    uint64_t tidy_switches;
    uint64_t switches;
    uint64_t turns; /* in which coroutines ran; atomic: others look */
    uint64_t spins;
    uint64_t spins_paid;
    uint64_t sleeps;
    uint64_t steals; /* batches */
    uint64_t stolen; /* coroutines */
    uint64_t wakes;  /* of other workers */

    /* The end of the run. */
    bool grace_begun;
    int64_t grace_end_ns;

    pthread_t thread; /* of worker 0: the caller's */
    pid_t tid;
    int start_error;                    /* of the thread: 0 or -errno */
    bool start_over;                    /* of a spare one: start_error says how; end_mutex */
    bool signal_was_blocked;            /* the watchdog's, in the caller's thread */
    void *freed_later;                  /* memory, linked by its first word */
    uint64_t published[WORKER_FIGURES]; /* for wh_stats_get() elsewhere; atomic */
};

/* ---- Workers (worker.c) ---- */

/* The current values of the worker's own figures. */
void worker_figures(struct worker *w, wh_stats *ret_stats);
/* Lets others read them as they are now. */
void worker_publish(struct worker *w);

/* To be called after something was pushed to its inbox: wakes it if it sleeps. From any thread. */
void worker_notify(struct worker *w);

/* Has the post delivered on the worker's thread, between coroutines. From any thread. */
void worker_post(struct worker *w, struct post *post);

/* Takes what is in the inbox. */
void inbox_take(struct worker *w);

/* Queues a coroutine that any worker may run. */
void ready_push_any(struct worker *w, wh_coro *coro);

/* Moves runnable coroutines from the worker's own deque to its run queue. */
COLD void deque_refill(struct worker *w);

/* Takes the worker's share of those that have been injected. Returns whether the run queue has some
 * now. */
bool work_injected_take(struct worker *w);

/* Looks for runnable coroutines elsewhere. Returns whether the run queue has some now. */
bool work_find(struct worker *w);

/* Whether there is something that the worker could take. */
bool work_is_there(const struct worker *w);

/* Gives the NEW coroutine, which a thread outside has made, to whichever worker comes first; with
 * one worker, to that one. Counts it. Returns false if the run is ending. */
bool work_from_outside(struct run *run, wh_coro *coro);

/* If somebody sleeps and nobody searches, wakes one to search. */
void work_announce(struct run *run);

/* The worker finds no work: it searches, and is counted. False: enough others do. */
bool search_begin(struct worker *w);
/* It has found some, or gives up. */
void search_end(struct worker *w, bool found);

enum may_sleep {
    SLEEP_NOT,        /* something has come */
    SLEEP_MAY,        /* worker_awake() follows */
    SLEEP_NEVER_ENDS, /* nobody could ever wake it, or any other */
};

/* The worker is about to sleep. barren: nothing of its own can wake it. */
enum may_sleep worker_may_sleep(struct worker *w, bool barren, bool quiet);
void worker_awake(struct worker *w);

/* From now on others may touch what this worker touches. On its own thread, between calls. */
void run_share(struct worker *w);

/* How many workers take work: spare ones only while they are needed. */
static inline uint32_t workers_working(const struct run *run)
{
    return run->workers_asked + __atomic_load_n(&run->watchdog.spares, __ATOMIC_RELAXED);
}

/* Whether this one does. */
static inline bool worker_works(const struct worker *w)
{
    /* seq_cst: pairs with the store in spares_set(): that one, then a look at `sleep`; in
     * worker_may_sleep() the other way round */
    return w->index < w->run->workers_asked ||
           w->index <
               w->run->workers_asked + __atomic_load_n(&w->run->watchdog.spares, __ATOMIC_SEQ_CST);
}

/* Gives what may run elsewhere from the run queue to whoever comes first, from behind *walked on
 * (NULL: from its head). *walked is the last that stays. Returns how many stay. */
size_t work_spread(struct worker *w, wh_coro **walked);

/* Gives all that may run elsewhere away, for the others to find. */
void work_give_away(struct worker *w);

/* One more worker, on a thread of its own, in a run that is under way. Returns NULL when there is
 * none to be had. Called by the watchdog alone. (run.c) */
struct worker *spare_start(struct run *run);

/* mem_free(), which must not be called in a signal handler: then as soon as it may. */
void worker_free(struct worker *w, void *memory);

void run_hook_add(struct run *run, struct run_hook *hook);
/* Takes it off, if it still is on. */
void run_hook_remove(struct run_hook *hook);

/* All threads of the run wait here for each other. */
void run_meet(struct run *run);

/* The root has returned, or nothing can go on: the run ends with this result. Returns whether this
 * was the first to say so. */
bool run_end(struct run *run, int result);

/* Nothing lives any more, or what does is abandoned: workers leave their loops. */
void run_over(struct run *run);

/* Names on standard error what has not ended when all workers have left their loops. */
void run_name_left(const struct run *run);

/* For the start of a thread: blocks what it is not to get, or not yet. */
void signals_block(sigset_t *ret_before);

/* ---- For threads that are no workers (runtime.c) ---- */

/* No worker runs any more: no thread touches the run from here on. */
void runtime_over(struct run *run);

/* ---- The watchdog (watchdog.c) ---- */

/* Lets the signal through on the worker's thread, which is the calling one; and no more. */
void watchdog_signal_admit(struct worker *w);
void watchdog_signal_block(struct worker *w);

/* Where the code was that a signal interrupted, by its handler's third argument. */
void *interrupted_at(const void *context);

/* Installs the handler and starts the thread, when all workers run; ends it. Without one the run
 * goes on. */
void watchdog_start(struct run *run);
void watchdog_end(struct run *run);

/* Under the lock: whether the signal is the watchdog's of any run in the process. Until the unlock
 * none becomes one, and none ceases to be one. */
void watchdog_signals_lock(void);
bool watchdog_has_signal(int number);
void watchdog_signals_unlock(void);

/* Under the same: the handler that the watchdog may pass the signal on to is gone, and `before`
 * is what it had found. */
void watchdog_signal_put_back(int number, void (*gone)(int), const struct sigaction *before);

/* A worker has something to do again. */
static inline void watchdog_notice(struct run *run)
{
    /* seq_cst: pairs with the store in watchdog_sleep() */
    if (unlikely(__atomic_load_n(&run->watchdog.sleeps, __ATOMIC_SEQ_CST)) &&
        __atomic_exchange_n(&run->watchdog.sleeps, false, __ATOMIC_RELAXED))
        sem_post(&run->watchdog.wake);
}

#endif
