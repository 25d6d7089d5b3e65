/*
 * whorl/stats.h: what a run is doing, in numbers.
 */
#ifndef WHORL_STATS_H
#define WHORL_STATS_H

#include <whorl/types.h>

WH_BEGIN_DECLS

struct wh_site;

/* Counters grow from the start of the run; the others are as of now. Bytes are bytes. */
typedef struct wh_stats {
    /* coroutines */
    uint64_t coros_live; /* started and not ended, the root among them */
    uint64_t coros_started;
    uint64_t coros_ended;
    uint64_t switches;
    /* workers */
    uint64_t workers;
    uint64_t steals;       /* times one took work from another */
    uint64_t coros_stolen; /* how many coroutines that were, each time it was */
    uint64_t wakes;        /* times one woke another that slept */
    /* hogs (wh_options.hog_ns) */
    uint64_t hogs;          /* times a coroutine kept its worker for too long */
    uint64_t coros_hogged;  /* had to stay behind one: runnable, and bound to that worker */
    uint64_t workers_spare; /* of the workers: those that were added because of hogs */
    /* stacks */
    uint64_t stacks_in_use;
    uint64_t stacks_warm;           /* free, their memory kept for the next coroutine */
    uint64_t stacks_reserved_bytes; /* address space */
    uint64_t stacks_resident_bytes; /* memory */
    uint64_t stacks_trimmed;        /* times a stack's unused depth was given back */
    /* ring */
    uint64_t ring_enters; /* system calls made for it: all that a loop turn makes */
    uint64_t ring_submissions;
    uint64_t ring_completions;
    uint64_t ring_cancels;
    uint64_t ring_full;      /* times the submission queue was full and had to be flushed */
    uint64_t ring_overflows; /* times the completion queue overflowed; nothing is lost by it */
    uint64_t ops_in_flight;
    uint64_t recv_buffers_in_use; /* of wh_conn's: with bytes that nobody has consumed */
    /* time */
    uint64_t timers_armed;
    uint64_t loop_turns; /* in which coroutines ran */
    uint64_t spins;      /* times the worker spun before it slept */
    uint64_t spins_paid; /* of these: times work came while it spun */
    uint64_t sleeps;
} wh_stats;

/* Fills in the figures of the calling coroutine's run: sums over its workers, those of the others
 * as of a moment ago (at most a turn of their loops, or since they fell asleep). Costs up to a
 * millisecond when there are many stacks (their memory is counted page by page). Does not park. */
WH_API void wh_stats_get(wh_stats *ret_stats);

/* Calls visit with each place that has started coroutines in this process (whorl/coro.h), newest
 * first. */
WH_API void wh_sites_visit(void (*visit)(const struct wh_site *site, void *arg), void *arg);

/* Writes the kernel features in use, separated by spaces, into buf (always terminated). Returns the
 * length it wanted, as snprintf(3). Works outside of a run too, where it probes the kernel. */
WH_API int wh_caps(char *buf, size_t size);

WH_END_DECLS

#endif
