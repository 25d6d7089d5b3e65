/*
 * blocking.h: wh_blocking() for what has to know that a call was never made.
 */
#ifndef SCHED_BLOCKING_H
#define SCHED_BLOCKING_H

#include <whorl/blocking.h>

/* Told of a call that nobody has begun when the run ends, and nobody will: of what was to be its
 * first argument. Its caller has been abandoned. On no coroutine, and by no thread of the calls. */
struct blocking_drop {
    void (*dropped)(void *arg);
};

/* wh_blocking() of a function that takes a pointer first; the struct is constant. */
#define blocking_or_drop(ret_value, drop, ...) \
    WH_START_(wh_blocking_, (ret_value), (drop), __VA_ARGS__)

#endif
