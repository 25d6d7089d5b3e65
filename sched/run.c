/*
 * run.c: wh_run(): options, the worker's making and unmaking, statistics.
 */
#include "sched/sched.h"
#include "uring/ring.h"

#include <whorl/stats.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define STACK_BYTES_DEFAULT  ((size_t)256 << 10)
#define RING_ENTRIES_DEFAULT 1024u
#define SPIN_NS_DEFAULT      (50 * WH_MICROSECOND)
#define GRACE_NS_DEFAULT     (5 * WH_SECOND)
#define FDS_MAX              ((size_t)1 << 24)

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
    if (!o.stack_bytes)
        o.stack_bytes = STACK_BYTES_DEFAULT;
    if (!o.stacks_max)
        o.stacks_max = SIZE_MAX;
    if (!o.ring_entries)
        o.ring_entries = RING_ENTRIES_DEFAULT;
    if (!o.spin_ns)
        o.spin_ns = SPIN_NS_DEFAULT;
    if (!o.grace_ns)
        o.grace_ns = GRACE_NS_DEFAULT;
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
    if (o->spin_ns < -1 || o->spin_ns > WH_SECOND) {
        report("spin_ns is %lld; it must be -1 (never) to a second", (long long)o->spin_ns);
        return -EINVAL;
    }
    if (o->grace_ns < -1) {
        report("grace_ns is %lld; it must be a duration, or -1 (none)", (long long)o->grace_ns);
        return -EINVAL;
    }
    return 0;
}

/* ---- The worker ---- */

/* A list for each descriptor that the process can have; untouched pages of it cost nothing. */
static int fds_map(struct worker *w)
{
    struct rlimit limit;
    size_t count = FDS_MAX;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_max < count)
        count = limit.rlim_max;
    void *map = mmap(NULL, count * sizeof *w->fds, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) {
        int error = -errno;
        report("no memory for a table of descriptors: %s", strerror(-error));
        return error;
    }
    w->fds = map;
    w->fds_count = count;
    return 0;
}

static int worker_init(struct worker *w, const wh_options *o)
{
    int rc = ring_create(o->ring_entries, &w->engine);
    if (rc < 0)
        return rc;
    rc = fds_map(w);
    if (rc < 0)
        goto destroy_engine;
    rc = fault_enter();
    if (rc < 0) {
        report("cannot install the stack overflow handler: %s", strerror(-rc));
        goto unmap_fds;
    }

    clock_init(&w->clock);
    w->now_ns = clock_now();
    wheel_init(&w->wheel, w->now_ns);
    wheel_init(&w->alarms, w->now_ns);
    list_init(&w->expired);
    list_init(&w->sweeps);
    list_init(&w->run_hooks);
    w->random = (uint64_t)w->now_ns | 1;
    stack_pool_init(&w->stacks, o->stacks_max, !caps_masked("guard") && stack_guard_probe());
    w->stack_class = stack_class_of(o->stack_bytes);
    w->spin_ns = o->spin_ns < 0 ? 0 : o->spin_ns;
    w->grace_ns = o->grace_ns;
    w->exceptions = __cxa_get_globals ? __cxa_get_globals() : &no_exceptions;
    w->exceptions_outer = *w->exceptions;
    *w->exceptions = (struct exception_globals){0};
    w->loop.state = CORO_RUNNING;
    sanitizer_thread_set(&w->loop.sanitizer);
    w->loop.worker = w;
    w->loop.deadline_ns = WH_NEVER;
    w->current = &w->loop;
    worker_tls = w;
    return 0;

unmap_fds:
    munmap(w->fds, w->fds_count * sizeof *w->fds);
destroy_engine:
    w->engine->type->destroy(w->engine);
    return rc;
}

/* Ends what abandoned coroutines have in flight, because the kernel would write into their stacks.
 */
static void cancel_op(wh_coro *coro, void *arg)
{
    (void)arg;
    /* A select that was woken and has not run since is READY, and still of its kind. */
    bool parked = coro->state == CORO_PARKED, woken = coro->state == CORO_READY;
    if ((parked || woken) && wait_kind_of(coro)->has_polls)
        for (struct poll_wait *poll = coro->polls; poll; poll = poll->next)
            poll_cancel(poll);
    else if (parked && wait_kind_of(coro) == &wait_op)
        engine_cancel(coro->worker->engine, &coro->op);
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
        coro_visit(w, cancel_op, NULL); /* again and again: see await.c */
        struct op_list done = {NULL, NULL};
        engine_wait(w->engine, now_ns + WH_MILLISECOND, &done); /* nobody is woken */
    }
}

static void worker_finish(struct worker *w)
{
    worker_tls = NULL;
    *w->exceptions = w->exceptions_outer;
    fault_leave();
    while (!list_empty(&w->run_hooks)) {
        struct run_hook *hook = container_of(w->run_hooks.next, struct run_hook, link);
        list_remove(&hook->link);
        hook->over(hook);
    }
    if (!drain(w)) {
        /* Left to the kernel for good, ring, stacks and descriptors: better than under its feet. */
        report("operations of abandoned coroutines do not end; their memory is not given back");
        return;
    }
    w->engine->type->destroy(w->engine);
    stack_pool_finish(&w->stacks);
    coro_slab_finish(w);
    sanitizer_fibers_finish();
    ctx_finish(w);
    munmap(w->fds, w->fds_count * sizeof *w->fds);
}

static struct wh_site root_site = {.file = "wh_run", .function = "root", .args = 1, .ret_size = 4};

int wh_run(int (*root)(void *arg), void *arg, const wh_options *options)
{
    if (worker_tls) {
        report("wh_run was called on a thread that is in a run already");
        return -EBUSY;
    }
    wh_options o = options_effective(options);
    int rc = options_check(root, &o);
    if (rc < 0)
        return rc;

    struct worker *w = mem_alloc_aligned(sizeof *w, 64);
    if (!w) {
        report("no memory for a worker");
        return -ENOMEM;
    }
    memset(w, 0, sizeof *w);
    rc = worker_init(w, &o);
    if (rc < 0)
        goto free_worker;

    const uintptr_t words[] = {(uintptr_t)arg};
    rc = coro_start_root(w, &root_site, (void (*)(void))root, words);
    if (rc == 0) {
        loop_run(w);
        rc = w->result;
    }
    worker_finish(w);
free_worker:
    mem_free(w);
    return rc;
}

/* ---- Statistics ---- */

void wh_stats_get(wh_stats *ret_stats)
{
    struct worker *w = self_or_panic("wh_stats_get")->worker;
    struct engine_stats ring;
    w->engine->type->stats(w->engine, &ring);
    uint64_t warm = 0;
    for (int i = 0; i < STACK_CLASSES; i++)
        warm += w->stacks.classes[i].warm_count;
    *ret_stats = (wh_stats){
        .coros_live = live(w),
        .coros_started = w->started,
        .coros_ended = w->ended,
        .switches = w->switches + (uint64_t)(w->budget_given - w->budget),
        .stacks_in_use = w->stacks.stacks,
        .stacks_warm = warm,
        .stacks_reserved_bytes = w->stacks.reserved_bytes,
        .stacks_resident_bytes = stack_pool_resident_bytes(&w->stacks),
        .stacks_trimmed = w->stacks.trimmed,
        .ring_enters = ring.enters,
        .ring_submissions = ring.submissions,
        .ring_completions = ring.completions,
        .ring_cancels = ring.cancels,
        .ring_full = ring.full,
        .ring_overflows = ring.overflows,
        .ops_in_flight = w->ops_in_flight,
        .timers_armed = w->wheel.armed + w->alarms.armed,
        .loop_turns = w->turns,
        .spins = w->spins,
        .spins_paid = w->spins_paid,
        .sleeps = w->sleeps,
    };
}

int wh_caps(char *buf, size_t size)
{
    struct caps caps = {0};
    struct worker *w = worker_tls;
    if (w) {
        ring_caps(w->engine, &caps);
    } else {
        struct engine *engine;
        if (ring_create(8, &engine) < 0)
            return caps_print(&caps, buf, size);
        ring_caps(engine, &caps);
        engine->type->destroy(engine);
    }
    caps.guard = !caps_masked("guard") && stack_guard_probe();
    return caps_print(&caps, buf, size);
}
