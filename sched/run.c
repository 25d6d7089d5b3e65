/*
 * run.c: wh_run(): options, the making and unmaking of workers, statistics.
 *
 * The calling thread is worker 0; the others get threads of their own. A worker makes what belongs
 * to its thread (ring, alternate stack) on it. It is listed in run->worker before it begins, and
 * stays listed to the end of the run, so that who has seen a worker may use it.
 *
 *      wh_run: worker 0 is made -> the others are; all meet -> the root is started -> loops
 *              -> over: all leave their loops and meet -> threads outside are told, and touch no
 *              worker any more; all meet -> each ends what it still has in flight, gives its ring
 *              back; all meet -> the threads end -> what they shared is freed
 */
#include "sched/recv_buffer.h"
#include "sched/sched.h"
#include "uring/caps.h"
#include "uring/ring.h"

#include <whorl/stats.h>

#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define STACK_BYTES_DEFAULT  ((size_t)256 << 10)
#define RING_ENTRIES_DEFAULT 1024u
#define SPIN_NS_DEFAULT      (50 * WH_MICROSECOND)
#define GRACE_NS_DEFAULT     (5 * WH_SECOND)
/* A sanitizer makes all code slow, and a line of ours in the middle of its report would break that
 * up. */
#if defined(WHORL_ASAN) || defined(WHORL_TSAN)
#define HOG_NS_DEFAULT WH_SECOND
#else
#define HOG_NS_DEFAULT (10 * WH_MILLISECOND)
#endif
#define HOG_NS_MAX    (60 * WH_SECOND)
#define SQPOLL_NS_MAX WH_HOUR
#define FDS_MAX       ((size_t)1 << 24)

/* The rest are for spare ones. */
enum { WORKERS_ASKED_MAX = 60 };

/* Weak: only in a process that has the C++ runtime. */
struct exception_globals *__cxa_get_globals(void) __attribute__((weak));

static _Thread_local struct exception_globals no_exceptions;

const char *wh_version(void)
{
    return WHORL_VERSION;
}

/* ---- Options ---- */

static wh_options options_effective(const wh_options *given)
{
    wh_options o = given ? *given : (wh_options){0};
    o.stack_bytes = (size_t)env_number("WHORL_STACK_BYTES", (int64_t)o.stack_bytes);
    o.stacks_max = (size_t)env_number("WHORL_STACKS_MAX", (int64_t)o.stacks_max);
    int64_t entries = env_number("WHORL_RING_ENTRIES", o.ring_entries);
    o.ring_entries = entries < 0 || entries > UINT32_MAX ? UINT32_MAX : (unsigned)entries;
    o.spin_ns = env_number("WHORL_SPIN_NS", o.spin_ns);
    o.grace_ns = env_number("WHORL_GRACE_NS", o.grace_ns);
    o.sqpoll_ns = env_number("WHORL_SQPOLL_NS", o.sqpoll_ns);
    int64_t core = env_number("WHORL_SQPOLL_CORE", o.sqpoll_core);
    o.sqpoll_core = core < 0 || core > INT_MAX ? UINT_MAX : (unsigned)core;
    int64_t workers = env_number("WHORL_WORKERS", o.workers);
    o.workers = workers < 0 || workers > UINT32_MAX ? UINT32_MAX : (unsigned)workers;
    o.pin = env_number("WHORL_PIN", o.pin);
    o.migrate = env_number("WHORL_MIGRATE", o.migrate);
    o.hog_ns = env_number("WHORL_HOG_NS", o.hog_ns);
    int64_t hog_signal = env_number("WHORL_HOG_SIGNAL", o.hog_signal);
    o.hog_signal = hog_signal < -1 || hog_signal > INT_MAX ? INT_MAX : (int)hog_signal;
    caps_check_mask();
    if (!o.stack_bytes)
        o.stack_bytes = STACK_BYTES_DEFAULT;
    if (!o.stacks_max)
        o.stacks_max = SIZE_MAX;
    if (!o.workers) {
        o.workers = cpus_usable();
        if (o.workers > WORKERS_ASKED_MAX)
            o.workers = WORKERS_ASKED_MAX;
    }
    if (!o.ring_entries)
        o.ring_entries = RING_ENTRIES_DEFAULT;
    if (!o.spin_ns)
        o.spin_ns = SPIN_NS_DEFAULT;
    if (!o.grace_ns)
        o.grace_ns = GRACE_NS_DEFAULT;
    if (!o.hog_ns)
        o.hog_ns = HOG_NS_DEFAULT;
    if (!o.hog_signal)
        o.hog_signal = SIGURG;
    return o;
}

static int options_check(int (*root)(void *arg), const wh_options *o)
{
    if (sysconf(_SC_PAGESIZE) != 4096) {
        report("this kernel's pages are of %ld bytes; whorl's stacks need pages of 4096",
               sysconf(_SC_PAGESIZE));
        return -ENOTSUP;
    }
    if (!root) {
        report("wh_run was given no function to run");
        return -EINVAL;
    }
    if (stack_class_of(o->stack_bytes) < 0) {
        report("stack_bytes is %zu; the largest stack class is %zu", o->stack_bytes,
               stack_class_bytes(STACK_CLASSES - 1));
        return -EINVAL;
    }
    if (o->workers > WORKERS_ASKED_MAX) {
        report("workers is %u; it must be 1 to %d, or 0 for as many as there are cores", o->workers,
               WORKERS_ASKED_MAX);
        return -EINVAL;
    }
    if (o->spin_ns < -1 || o->spin_ns > WH_SECOND) {
        report("spin_ns is %lld; it must be -1 (never) to a second", (long long)o->spin_ns);
        return -EINVAL;
    }
    if (o->sqpoll_ns && (o->sqpoll_ns < WH_MILLISECOND || o->sqpoll_ns > SQPOLL_NS_MAX)) {
        report("sqpoll_ns is %lld; it must be 0 (no polling), or from a millisecond to an hour",
               (long long)o->sqpoll_ns);
        return -EINVAL;
    }
    if (o->sqpoll_core > CPU_SETSIZE) {
        report("sqpoll_core is %u; it must be 0 (any), or 1 for the first core, and so on",
               o->sqpoll_core);
        return -EINVAL;
    }
    if (o->grace_ns < -1) {
        report("grace_ns is %lld; it must be a duration, or -1 (none)", (long long)o->grace_ns);
        return -EINVAL;
    }
    if (o->hog_ns != -1 && (o->hog_ns < WH_MILLISECOND || o->hog_ns > HOG_NS_MAX)) {
        report("hog_ns is %lld; it must be -1 (no watchdog), or from a millisecond to a minute",
               (long long)o->hog_ns);
        return -EINVAL;
    }
    sigset_t set;
    sigemptyset(&set);
    if (o->hog_signal != -1 && (o->hog_signal == SIGKILL || o->hog_signal == SIGSTOP ||
                                sigaddset(&set, o->hog_signal) < 0)) {
        report("hog_signal is %d; it must be -1 (none), or the number of a signal that can be "
               "caught",
               o->hog_signal);
        return -EINVAL;
    }
    return 0;
}

/* ---- The worker ---- */

/* A table by descriptor, of all that the process can have; untouched pages of it cost nothing. */
static void *fds_map(size_t count, size_t each_bytes)
{
    void *map = mmap(NULL, count * each_bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) {
        report("no memory for a table of descriptors: %s", strerror(errno));
        return NULL;
    }
    return map;
}

static size_t fds_limit(void)
{
    struct rlimit limit;
    return getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_max < FDS_MAX ? limit.rlim_max
                                                                             : FDS_MAX;
}

static bool stacks_limited(const wh_options *o)
{
    return o->stacks_max != SIZE_MAX;
}

/* The part that any thread can do. */
static void worker_prepare(struct worker *w, struct run *run, unsigned index)
{
    const wh_options *o = &run->options;
    memset(w, 0, sizeof *w);
    w->run = run;
    w->index = (uint8_t)index;
    w->shared = run->workers_asked > 1 || index > 0;
    w->where = IN_RUNTIME;
    /* Spare workers, which the others do not reckon with, start few: they number from the top. */
    bool spare = index >= run->workers_asked;
    w->id_first = spare ? UINT32_MAX - (index << 24) : index + 1;
    w->id_step = spare ? UINT32_MAX : run->workers_asked; /* downwards */
    list_init(&w->expired);
    list_init(&w->sweeps);
    stack_pool_init(&w->stacks, (uint8_t)index, o->stacks_max,
                    stacks_limited(o) ? &run->stacks : NULL, run->guard_by_madvise);
    w->stack_class = stack_class_of(o->stack_bytes);
    spin_init(&w->spin, o->spin_ns < 0 ? 0 : o->spin_ns);
    w->loop.worker = w;
    w->loop.deadline_ns = WH_NEVER;
    w->loop.flags = o->migrate ? CORO_MIGRATES : 0;
    w->migrants = o->migrate;
    w->loop.state = CORO_RUNNING;
    w->current = &w->loop;
}

/* The part that belongs to its thread. */
static int worker_begin(struct worker *w)
{
    const wh_options *o = &w->run->options;
    const struct ring_options ring = {
        .entries = o->ring_entries,
        .sqpoll_ns = o->sqpoll_ns,
        .sqpoll_core = (int)o->sqpoll_core - 1,
        .beside = w->index ? w->run->worker[0]->engine : NULL,
    };
    int rc = ring_create(&ring, &w->engine);
    if (rc < 0)
        return rc;
    w->fds_count = w->run->fds_count;
    w->fds = fds_map(w->fds_count, sizeof *w->fds);
    if (!w->fds) {
        rc = -ENOMEM;
        goto destroy_engine;
    }
    rc = fault_enter();
    if (rc < 0) {
        report("cannot install the stack overflow handler: %s", strerror(-rc));
        goto unmap_fds;
    }
    clock_init(&w->clock);
    w->now_ns = clock_now();
    wheel_init(&w->wheel, w->now_ns);
    wheel_init(&w->alarms, w->now_ns);
    w->random = ((uint64_t)w->now_ns + w->index * UINT64_C(0x9e3779b97f4a7c15)) | 1;
    w->exceptions = __cxa_get_globals ? __cxa_get_globals() : &no_exceptions;
    w->exceptions_outer = *w->exceptions;
    *w->exceptions = (struct exception_globals){0};
    sanitizer_thread_set(&w->loop.sanitizer);
    worker_tls = w;
    w->tid = gettid();
    watchdog_signal_admit(w);
    return 0;

unmap_fds:
    munmap(w->fds, w->fds_count * sizeof *w->fds);
destroy_engine:
    w->engine->type->destroy(w->engine);
    w->engine = NULL;
    return rc;
}

/* Ends what abandoned coroutines of this worker have in flight, because the kernel would write into
 * their stacks. */
static void cancel_op(wh_coro *coro, void *arg)
{
    const struct worker *w = arg;
    if (coro->worker != w)
        return;
    /* A select that was woken and has not run since is READY, and still of its kind. */
    bool parked = state_of(coro) == CORO_PARKED, woken = state_of(coro) == CORO_READY;
    if ((parked || woken) && wait_kind_of(coro)->has_polls)
        for (struct poll_wait *poll = coro->polls; poll; poll = poll->next)
            poll_cancel(poll);
    else if (parked && wait_kind_of(coro) == &wait_op)
        engine_cancel(w->engine, &coro->op);
}

/* Returns whether nothing is in flight any more. */
static bool drain(struct worker *w)
{
    int64_t limit_ns = clock_now() + WH_SECOND;
    struct engine_stats stats;
    for (;;) {
        w->engine->type->stats(w->engine, &stats);
        if (!stats.in_flight)
            return true;
        int64_t now_ns = clock_now();
        if (now_ns >= limit_ns)
            return false;
        coro_visit(w->run, cancel_op, w); /* again and again: see await.c */
        struct op_list done = {NULL, NULL};
        engine_wait(w->engine, now_ns + WH_MILLISECOND, &done); /* nobody is woken */
    }
}

/* On the worker's thread, when no coroutine runs any more. */
static void worker_end(struct worker *w)
{
    watchdog_signal_block(w);
    worker_tls = NULL;
    *w->exceptions = w->exceptions_outer;
    fault_leave();
    if (!drain(w)) {
        /* Left to the kernel for good, ring, stacks and descriptors: better than under its feet. */
        report("operations of abandoned coroutines do not end; their memory is not given back");
        __atomic_store_n(&w->run->stuck, true, __ATOMIC_RELAXED);
        return;
    }
    w->engine->type->destroy(w->engine);
    w->engine = NULL;
    recv_buffers_finish(w);
    direct_finish(w);
    munmap(w->fds, w->fds_count * sizeof *w->fds);
}

static void bind_to_core(unsigned nth)
{
    cpu_set_t may, one;
    if (sched_getaffinity(0, sizeof may, &may) < 0)
        return; /* more cores than the set has room for: not bound */
    int cores = CPU_COUNT(&may), core = -1;
    for (int left = (int)nth % cores; left >= 0; left--)
        do
            core++;
        while (!CPU_ISSET(core, &may));
    CPU_ZERO(&one);
    CPU_SET(core, &one);
    (void)sched_setaffinity(0, sizeof one, &one); /* a wish */
}

/* One that was told may be gone. */
static void run_hooks_call(struct run *run, bool late)
{
    struct list *next;
    for (struct list *at = run->run_hooks.next; at != &run->run_hooks; at = next) {
        struct run_hook *hook = container_of(at, struct run_hook, link);
        next = at->next;
        if (hook->late != late)
            continue;
        list_remove(&hook->link);
        hook->over(hook);
    }
}

uint32_t visitors;

static void visitors_await(void)
{
    /* seq_cst: pairs with the addition in inside_begin_anywhere(), and the release in inside_end()
     */
    while (__atomic_load_n(&visitors, __ATOMIC_SEQ_CST))
        sched_yield();
}

/* A worker's life, the same for the calling thread and the others. */
static void worker_live(struct worker *w)
{
    struct run *run = w->run;
    cpu_set_t cores;
    bool spare = w->index >= run->workers_asked; /* is there to share a core with a hog */
    bool pinned = run->options.pin && !spare && sched_getaffinity(0, sizeof cores, &cores) == 0;
    if (pinned)
        bind_to_core(w->index);
    unsigned arena = w->shared ? mem_arena_enter(w->index) : UINT32_MAX;
    loop_run(w);
    mem_arena_leave(arena);
    if (pinned)
        (void)sched_setaffinity(0, sizeof cores, &cores);
    if (!w->index) {
        watchdog_end(run); /* and no worker is added from here on */
        runtime_over(run);
    }
    run_meet(run); /* nobody runs any more */
    if (!w->index) {
        run_hooks_call(run, false);
        visitors_await();
    }
    run_meet(run); /* and no thread outside touches a worker any more */
    inbox_take(w); /* what waits there is to be freed */
    worker_end(w);
    run_meet(run); /* nobody looks at another one any more, and no operation is in flight */
    if (!w->index)
        run_hooks_call(run, true);
    sanitizer_fibers_finish();
}

/* A coroutine finds the same signal mask on every worker: a raise(3) arrives, and what the program
 * has blocked to wait for it elsewhere stays blocked. Signals that are sent to the process still go
 * to its main thread if that takes them. */
static void thread_begin(const struct worker *w)
{
    char name[16];
    snprintf(name, sizeof name, "whorl-%u", w->index + 1u);
    pthread_setname_np(pthread_self(), name);
    pthread_sigmask(SIG_SETMASK, &w->run->signal_mask, NULL);
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    thread_begin(w);
    w->start_error = worker_begin(w);
    bool ok = w->start_error == 0;
    run_meet(w->run); /* worker 0 sees how it went, and whether all are there */
    run_meet(w->run);
    if (ok && !w->run->failed)
        worker_live(w);
    else if (ok)
        worker_end(w);
    return NULL;
}

/* The next worker, not listed yet. Returns NULL without memory. */
static struct worker *worker_create(struct run *run)
{
    struct worker *w = mem_alloc_aligned(sizeof *w, 64);
    if (w)
        worker_prepare(w, run, run->workers);
    else
        report("no memory for a worker");
    return w;
}

/* Others may see it. */
static void worker_list(struct run *run, struct worker *w)
{
    wh_assert(w->index == run->workers);
    run->worker[w->index] = w;
    /* release: pairs with the acquires of those who go through run->worker */
    __atomic_store_n(&run->workers, w->index + 1u, __ATOMIC_RELEASE);
}

static struct worker *worker_add(struct run *run)
{
    struct worker *w = worker_create(run);
    if (w)
        worker_list(run, w);
    return w;
}

/* All but those that are a thread's own doing. */
void signals_block(sigset_t *ret_before)
{
    static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT, SIGPROF};
    sigset_t most;
    sigfillset(&most);
    for (size_t i = 0; i < array_count(own); i++)
        sigdelset(&most, own[i]);
    pthread_sigmask(SIG_SETMASK, &most, ret_before);
}

static int thread_start(struct worker *w, void *(*main)(void *arg))
{
    sigset_t before;
    signals_block(&before);
    int rc = -pthread_create(&w->thread, NULL, main, w);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc < 0)
        report("cannot start a thread for a worker: %s; lower WHORL_WORKERS or raise ulimit -u",
               strerror(-rc));
    return rc;
}

/* Starts the other workers; when one cannot be had there are none. */
static int workers_start(struct run *run)
{
    int rc = 0;
    unsigned started = 1;
    run->end_threads = run->workers_asked;
    while (rc == 0 && started < run->workers_asked) {
        struct worker *w = worker_add(run);
        rc = w ? thread_start(w, worker_main) : -ENOMEM;
        started += rc == 0;
    }
    pthread_mutex_lock(&run->end_mutex);
    run->end_threads = started;
    pthread_mutex_unlock(&run->end_mutex);
    run_meet(run);
    for (unsigned i = 1; i < started; i++)
        if (run->worker[i]->start_error && rc == 0)
            rc = run->worker[i]->start_error;
    run->failed = rc < 0;
    run_meet(run);
    if (rc == 0)
        return 0;
    for (unsigned i = 1; i < started; i++)
        pthread_join(run->worker[i]->thread, NULL);
    return rc;
}

/* A spare worker's thread. It is listed when it can work; one that cannot leaves no trace. */
static void *spare_main(void *arg)
{
    struct worker *w = arg;
    struct run *run = w->run;
    thread_begin(w);
    int rc = worker_begin(w);
    pthread_mutex_lock(&run->end_mutex);
    if (rc == 0)
        worker_list(run, w);
    w->start_error = rc;
    w->start_over = true;
    pthread_cond_broadcast(&run->end_changed);
    pthread_mutex_unlock(&run->end_mutex);
    if (rc == 0)
        worker_live(w);
    return NULL;
}

struct worker *spare_start(struct run *run)
{
    if (run->workers == WORKERS_MAX)
        return NULL;
    struct worker *w = worker_create(run);
    if (!w)
        return NULL;
    /* Worker 0 ends the watchdog, which is the caller, before it waits for the others: so nobody
     * has counted the threads yet. */
    pthread_mutex_lock(&run->end_mutex);
    run->end_threads++;
    pthread_mutex_unlock(&run->end_mutex);
    bool started = thread_start(w, spare_main) == 0;
    pthread_mutex_lock(&run->end_mutex);
    while (started && !w->start_over)
        pthread_cond_wait(&run->end_changed, &run->end_mutex);
    bool ok = started && w->start_error == 0;
    if (!ok)
        run->end_threads--;
    pthread_mutex_unlock(&run->end_mutex);
    if (ok)
        return w;
    if (started)
        pthread_join(w->thread, NULL);
    stack_pool_finish(&w->stacks);
    mem_free(w);
    return NULL;
}

/* ---- The run ---- */

static struct run *run_create(const wh_options *o)
{
    struct run *run = mem_alloc_aligned(sizeof *run, 64);
    if (!run) {
        report("no memory for a run");
        return NULL;
    }
    memset(run, 0, sizeof *run);
    run->options = *o;
    run->watchdog.tick_ns = o->hog_ns < 0 ? 0 : o->hog_ns / 2;
    run->watchdog.signal = o->hog_signal < 0 ? 0 : o->hog_signal;
    run->workers_asked = o->workers;
    pthread_sigmask(SIG_SETMASK, NULL, &run->signal_mask);
    run->grace_ns = o->grace_ns;
    run->guard_by_madvise = !caps_masked("guard") && stack_guard_probe();
    run->fds_count = fds_limit();
    run->fd_users = fds_map(run->fds_count, sizeof *run->fd_users);
    if (!run->fd_users) {
        mem_free(run);
        return NULL;
    }
    list_init(&run->run_hooks);
    pthread_mutex_init(&run->end_mutex, NULL);
    pthread_cond_init(&run->end_changed, NULL);
    return run;
}

static void run_destroy(struct run *run)
{
    pthread_cond_destroy(&run->end_changed);
    pthread_mutex_destroy(&run->end_mutex);
    munmap(run->fd_users, run->fds_count * sizeof *run->fd_users);
    mem_free(run);
}

/* All threads have ended. */
static void run_free_workers(struct run *run)
{
    if (run->stuck)
        return;
    for (unsigned i = 0; i < run->workers; i++) {
        struct worker *w = run->worker[i];
        slab_finish(&w->slab);
    }
    slab_finish(&run->slab);
    for (unsigned i = 0; i < run->workers; i++) {
        struct worker *w = run->worker[i];
        stack_pool_finish(&w->stacks);
        ctx_finish(w);
        mem_free(w);
    }
}

static struct wh_site root_site = {.file = "wh_run", .function = "root", .args = 1, .ret_size = 4};

/* Worker 0 has begun, on the calling thread. */
static int run_workers(struct run *run, int (*root)(void *arg), void *arg)
{
    struct worker *w = run->worker[0];
    w->thread = pthread_self();
    const uintptr_t words[] = {(uintptr_t)arg};
    int rc = coro_start_root(w, &root_site, (void (*)(void))root, words);
    if (rc < 0) {
        worker_end(w);
        return rc;
    }
    rc = workers_start(run);
    if (rc < 0) {
        worker_end(w);
        return rc;
    }
    watchdog_start(run);
    worker_live(w);
    run_name_left(run);
    for (unsigned i = 1; i < run->workers; i++)
        pthread_join(run->worker[i]->thread, NULL);
    return run->result;
}

/* There in programs under AddressSanitizer, and ThreadSanitizer. */
extern void __asan_init(void) __attribute__((weak));
extern void __tsan_init(void) __attribute__((weak));

/* A sanitizer sees what was compiled for it. The rest runs, and its silence would be taken for a
 * proof. */
static void name_sanitizer(void)
{
    static bool named;
    bool address = false, thread = false;
#ifndef WHORL_ASAN
    address = __asan_init != NULL;
#endif
#ifndef WHORL_TSAN
    thread = __tsan_init != NULL;
#endif
    if (likely(!address && !thread) || __atomic_exchange_n(&named, true, __ATOMIC_RELAXED))
        return;
    report("this program is built with %sSanitizer, the whorl it loaded is not, and hides errors "
           "from it: use one that was built with -Dsanitizer=%s",
           address ? "Address" : "Thread", address ? "address" : "thread");
}

int wh_run(int (*root)(void *arg), void *arg, const wh_options *options)
{
    name_sanitizer();
    if (worker_tls) {
        report("wh_run was called on a thread that is in a run already");
        return -EBUSY;
    }
    wh_options o = options_effective(options);
    int rc = options_check(root, &o);
    if (rc < 0)
        return rc;

    struct run *run = run_create(&o);
    if (!run)
        return -ENOMEM;
    struct worker *w = worker_add(run);
    rc = w ? worker_begin(w) : -ENOMEM;
    if (rc == 0)
        rc = run_workers(run, root, arg);
    run_free_workers(run);
    run_destroy(run);
    return rc;
}

unsigned wh_worker(void)
{
    return worker_tls ? worker_tls->index + 1u : 0;
}

unsigned wh_workers(void)
{
    return self_or_panic("wh_workers")->worker->run->workers_asked;
}

/* ---- Statistics ---- */

void worker_figures(struct worker *w, wh_stats *ret_stats)
{
    struct engine_stats ring;
    w->engine->type->stats(w->engine, &ring);
    uint64_t warm = 0;
    for (int i = 0; i < STACK_CLASSES; i++)
        warm += w->stacks.classes[i].warm_count;
    *ret_stats = (wh_stats){
        .coros_started = w->started,
        .coros_ended = w->ended,
        .switches = w->switches + (uint64_t)budget_used(w),
        .workers = 1,
        .steals = w->steals,
        .coros_stolen = w->stolen,
        .wakes = w->wakes,
        .coros_hogged = __atomic_load_n(&w->watched.bound_coros, __ATOMIC_RELAXED),
        .stacks_in_use = w->stacks.stacks,
        .stacks_warm = warm,
        .stacks_reserved_bytes = w->stacks.reserved_bytes,
        .stacks_trimmed = w->stacks.trimmed,
        .ring_enters = ring.enters,
        .ring_submissions = ring.submissions,
        .ring_completions = ring.completions,
        .ring_cancels = ring.cancels,
        .ring_full = ring.full,
        .ring_overflows = ring.overflows,
        .ops_in_flight = w->ops_in_flight,
        .recv_buffers_in_use = w->recv_buffers_in_use,
        .timers_armed = w->wheel.armed + w->alarms.armed,
        .loop_turns = w->turns,
        .spins = w->spins,
        .spins_paid = w->spins_paid,
        .sleeps = w->sleeps,
    };
}

static_assert(sizeof(wh_stats) % sizeof(uint64_t) == 0, "all figures are of one type");

void worker_publish(struct worker *w)
{
    wh_stats stats;
    worker_figures(w, &stats);
    const uint64_t *figures = (const uint64_t *)&stats;
    for (int i = 0; i < WORKER_FIGURES; i++)
        __atomic_store_n(&w->published[i], figures[i], __ATOMIC_RELAXED);
}

void wh_stats_get(wh_stats *ret_stats)
{
    INSIDE(self, "wh_stats_get");
    struct worker *own = self->worker;
    const struct run *run = own->run;
    wh_stats stats;
    worker_figures(own, &stats);
    stats.stacks_resident_bytes = stack_pool_resident_bytes(&own->stacks);
    uint64_t *sums = (uint64_t *)&stats;
    /* acquire: pairs with the release in worker_add() */
    uint32_t workers = __atomic_load_n(&run->workers, __ATOMIC_ACQUIRE);
    for (uint32_t n = 0; n < workers; n++) {
        const struct worker *w = run->worker[n];
        if (w == own)
            continue;
        for (int i = 0; i < WORKER_FIGURES; i++)
            sums[i] += __atomic_load_n(&w->published[i], __ATOMIC_RELAXED);
        stats.stacks_resident_bytes += stack_pool_resident_bytes(&w->stacks);
    }
    stats.workers = workers;
    stats.coros_live = live(run);
    stats.hogs = __atomic_load_n(&run->watchdog.hogs, __ATOMIC_RELAXED);
    stats.workers_spare = workers - run->workers_asked;
    *ret_stats = stats;
}

int wh_caps(char *buf, size_t size)
{
    struct caps caps = {0};
    struct worker *w = worker_tls;
    if (w) {
        ring_caps(w->engine, &caps);
    } else {
        struct engine *engine;
        if (ring_create(&(struct ring_options){.entries = 8}, &engine) < 0)
            return caps_print(&caps, buf, size);
        ring_caps(engine, &caps);
        engine->type->destroy(engine);
    }
    caps.guard = !caps_masked("guard") && stack_guard_probe();
    return caps_print(&caps, buf, size);
}
