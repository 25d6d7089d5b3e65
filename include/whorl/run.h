/*
 * whorl/run.h: starting and ending a run.
 *
 * A run is a number of workers and the coroutines that live on them. A worker is a thread (the
 * first is the calling one) with a ring of its own. A coroutine first runs on any of them and then
 * stays there, unless it has leave to migrate. Several threads may each have a run of their own at
 * the same time; they share nothing but the process.
 */
#ifndef WHORL_RUN_H
#define WHORL_RUN_H

#include <whorl/types.h>

WH_BEGIN_DECLS

/*
 * Options of a run. Zero in a field means its default, so `(wh_options){0}` and NULL are the same.
 * An environment variable, where named, overrides the field: for trying things out without a build.
 */
typedef struct wh_options {
    /* Stack of a coroutine that asks for nothing else, in bytes, rounded up to a class of 16, 64 or
     * 256 KiB, 1 or 8 MiB. Default 256 KiB. WHORL_STACK_BYTES. */
    size_t stack_bytes;
    /* Most stacks at once, of all classes; one more makes the start of a coroutine -ENOMEM.
     * Default: none but memory. WHORL_STACKS_MAX. */
    size_t stacks_max;
    /* Entries of the submission queue, a power of two from 8 to 32768; the completion queue has
     * four times as many, at most 65536. Default 1024. WHORL_RING_ENTRIES. */
    unsigned ring_entries;
    /* Longest spin before the worker sleeps, in nanoseconds; it spins only while that pays. -1:
     * never. Default 50 us. WHORL_SPIN_NS. */
    int64_t spin_ns;
    /* After the root returned and everything else was cancelled: how long the rest may take to end.
     * -1: do not wait at all. Default 5 s. WHORL_GRACE_NS. */
    int64_t grace_ns;
    /* How many workers, 1 to 60. Default: the cores that the calling thread may use (its affinity,
     * and no more than the quota of its control group). With one, coroutines run one at a time, and
     * between two calls that may park nothing else runs: what they share needs no lock. With more,
     * they run at the same time. WHORL_WORKERS. */
    unsigned workers;
    /* Binds each worker to one of those cores. Default: not. WHORL_PIN=1. */
    bool pin;
    /* Gives all coroutines leave to migrate: they may move to another worker at each call that may
     * park. See wh_spawn_options.migrate for what that asks of them. WHORL_MIGRATE=1. */
    bool migrate;
} wh_options;

/*
 * Runs root(arg) as the first coroutine, on the calling thread, and everything it starts, on all
 * workers, until the root returns. What is then left is cancelled (its calls return -ECANCELED) and
 * given the grace time; what would not end is named on standard error.
 *
 * options may be NULL. It is read only during the call's start.
 *
 * Returns what root returned, or before root ran:
 *   -EINVAL   an option is out of its range, or the root is NULL
 *   -EBUSY    the calling thread is in a run already
 *   -ENOTSUP  the machine's pages are not of 4096 bytes
 *   -ENOSYS   the kernel is older than 6.1, or has no io_uring
 *   -EPERM    io_uring is forbidden here (sysctl kernel.io_uring_disabled, seccomp)
 *   -ENOMEM, -EMFILE, -ENFILE   memory or descriptors ran out
 * and -EDEADLK when every coroutine waits for another one and nothing can ever wake them (noticed
 * when the deadlines of their earlier waits have passed, too). Each of these is also one line on
 * standard error that names the cause and the cure.
 *
 * The environment variable WHORL_MASK holds a comma-separated list of kernel features to leave
 * unused, by the names that wh_caps() prints: for testing how whorl does without.
 */
WH_API int wh_run(int (*root)(void *arg), void *arg, const wh_options *options);

/* The library's version, "MAJOR.MINOR.PATCH". Static. */
WH_API const char *wh_version(void);

WH_END_DECLS

#endif
