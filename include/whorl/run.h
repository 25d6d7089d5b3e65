/*
 * whorl/run.h: starting and ending a run.
 *
 * A run is a number of workers and the coroutines that live on them. A worker is a thread (the
 * first is the calling one) with a ring of its own. A coroutine first runs on any of them and then
 * stays there, unless it has leave to migrate. Several threads may each have a run of their own at
 * the same time; they share nothing but the process.
 *
 * All workers have the signal mask of the thread that called wh_run() (pthread_sigmask(3)), so a
 * coroutine may raise(3) wherever it runs, and a signal that the program has blocked, to wait for
 * it with sigwait(3), stays blocked. wh_signal_notify() (whorl/signal.h) makes elements of a
 * channel of signals. The mask is a thread's: a coroutine that changes it does so for all on its
 * worker.
 */
#ifndef WHORL_RUN_H
#define WHORL_RUN_H

#include <whorl/types.h>

WH_BEGIN_DECLS

/*
 * Options of a run. Zero in a field means its default, so `(wh_options){0}` and NULL are the same.
 * An environment variable, where named, overrides the field: for trying things out without a build.
 * None is looked at in a program that has more rights than who started it (secure_getenv(3)).
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
    /* Longest spin before the worker sleeps, in nanoseconds; it spins only while work usually comes
     * in that time, and that costs no more processor time than sleeping, which it tries now and
     * then. -1: never. Default 50 us. WHORL_SPIN_NS. */
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
    /* A coroutine that runs for longer than this, in nanoseconds, without letting others run, is a
     * hog: see below. A millisecond to a minute; -1: nobody looks. Default 10 ms; a second
     * where the library was built for a sanitizer. WHORL_HOG_NS. */
    int64_t hog_ns;
    /* The signal that its worker's thread gets then; -1: none is sent. Default SIGURG.
     * WHORL_HOG_SIGNAL. */
    int hog_signal;
    /* Submission polling: a thread of the kernel's, one for all workers, takes what they submit and
     * works on it, so that a busy worker makes no system calls (wh_stats.ring_enters tells), at the
     * price of that thread's core. It sleeps when nothing came for so long, in nanoseconds: from a
     * millisecond to an hour. 0, the default: there is none. WHORL_SQPOLL_NS.
     * io_uring_setup(2), IORING_SETUP_SQPOLL. What depends on the thread that
     * makes a call is the kernel's thread's: a write to a broken pipe raises no SIGPIPE, a
     * signalfd(2) shows nothing, and the credentials stay those of when the run began: a program
     * that drops privileges in it goes on opening files with them. */
    int64_t sqpoll_ns;
    /* Binds that thread to a core: 1 is the first of the machine. 0, the default: to none; -EINVAL
     * for one that is not online. WHORL_SQPOLL_CORE. */
    unsigned sqpoll_core;
} wh_options;

/*
 * Hogs. A coroutine that computes for long, or blocks its thread in a system call, or goes round in
 * calls that do not wait (wh_chan_try_recv()), keeps its worker from all others. wh_blocking()
 * (whorl/blocking.h) and wh_checkpoint() (whorl/coro.h) are there to avoid that. For those that do
 * it nevertheless a run has a watchdog, a thread that looks at the workers every hog_ns / 2 while
 * any of them has something to do. When it finds a hog,
 *
 *   - it names it on standard error, once (and not one that merely waits for its core, which others
 *     have), with the calls that it is in (at most a line a second;
 *     as addresses where the program has no names for them: addr2line -f -e PROGRAM 0x1684), and
 *     counts it (wh_stats.hogs, wh_site.hogs);
 *   - it sends the worker's thread the signal, at each look as long as any other coroutine could
 *     gain by it. The handler runs on an alternate stack, in the middle of the hog's code. It takes
 *     what the ring, the timers and the other workers have brought, and puts the coroutines that
 *     are woken by it, if they have leave to migrate or have not run yet, where other workers take
 *     them. In a run with one worker only those with leave to migrate. The rest is bound to the
 *     worker and waits for the hog (wh_stats.coros_hogged);
 *   - when every worker has a hog it starts a spare worker (two at least can be had, up to 62
 *     workers in all), so that the operating system shares the cores between the hogs and the rest.
 *     It takes no more work when one of the run's own workers is free again, and sleeps until the
 *     next time. In a run with one worker, coroutines with leave to migrate may from then on run at
 *     the same time as the others, and calls cost what they cost with several workers.
 *
 * The signal's handler is installed with SA_RESTART, by the first run, for the process, and passes
 * what the watchdog has not sent on to the handler that was there before. System calls that the hog
 * is blocked in are restarted, but for those that never are: see signal(7), "Interruption of system
 * calls and library functions by signal handlers". The hog may see EINTR from nanosleep(2),
 * sleep(3) and usleep(3), which are over then, poll(2), select(2), epoll_wait(2),
 * io_uring_enter(2), sigtimedwait(2), semop(2), futex(2) waits of its own, and from reads and
 * writes of sockets with a timeout set (SO_RCVTIMEO). A thread that blocks the signal by itself
 * gets none; the workers' threads have it unblocked, so a program that waits for it by sigwait(3)
 * or signalfd(2) chooses another one. With hog_signal -1 there is none of this: a hog is counted
 * and named by where it was started, and only what had been offered to other workers before goes
 * on.
 */

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
 * A child that is forked (fork(2)) in a run may only call exec(3) or _exit(2). Programs are started
 * by whorl/process.h.
 *
 * The environment variable WHORL_MASK holds a comma-separated list of kernel features to leave
 * unused, by the names that wh_caps() prints: for testing how whorl does without. A name that is
 * none of these is reported.
 */
WH_API int wh_run(int (*root)(void *arg), void *arg, const wh_options *options);

/* The library's version, "MAJOR.MINOR.PATCH". Static. */
WH_API const char *wh_version(void);

WH_END_DECLS

#endif
