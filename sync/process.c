/*
 * process.c: other programs (whorl/process.h), once they have been started (spawn.c).
 *
 * Each process has a keeper: a coroutine that was started where the process was spawned, in the
 * same context. It is the only one that waits for the process in the kernel. All the rest follows
 * from what coroutines do anyway:
 *
 *      spawn ----> keeper: wait for the end, in the ring ----------.
 *                    | cancelled: the context has ended,           | took the status
 *                    | the run ends, or wh_process_destroy()       v
 *                    `--> in a shield: signal, wait, SIGKILL, --> sets `ended`
 *                         wait for the end                         ^
 *      wh_process_wait(), as many as want: the event --------------'
 *
 * So a process is reaped once, whoever waits or does not, a wait that ends early takes nothing
 * away, and the process has ended when its keeper has, which is what wh_process_destroy() joins.
 *
 * The keeper waits with the ring's waitid, which also takes the status; where there is none, with a
 * poll of the pidfd and waitid(2). The kernel writes what it has to say onto the keeper's stack,
 * which outlives the operation even if the run abandons its coroutines.
 *
 * The keeper is started first, and waits for `started`: what a program has begun cannot be undone,
 * so nothing may fail behind its start.
 *
 * Owners: pid, pidfd and the way to stop are constant from `started` on; ends[] is the handle's
 * holder's; status and error are the keeper's until it sets `ended`, and constant then. At the end
 * of a run, what was not given back is killed, reaped and freed by a hook of the run
 * (process_over()), also when no keeper runs any more.
 *
 * Rejected: each call of wh_process_wait() with a waitid of its own. The first would take the
 * status, and who stops the process, or reaps what nobody waits for, would still be a coroutine.
 */
#include "sync/sync.h"

#include "uring/ring.h"

#include <whorl/io.h>
#include <whorl/process.h>

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    BY_PIDFD = 3, /* P_PIDFD of waitid(2), which older headers lack */
    SIGNALS_MAX = 64,
    OUTPUT_FIRST_BYTES = 4096,
    OVER_WAIT_MS = 1000, /* for the end of a process that was killed when the run was over */
};

#define GRACE_NS_DEFAULT (2 * WH_SECOND)
#define ASK_AGAIN_NS     (10 * WH_MILLISECOND)

struct wh_process {
    /* constant once started is set */
    pid_t pid;
    int pidfd; /* -1: it could not be started */
    int stop_signal;
    int64_t stop_grace_ns;
    wh_coro *keeper;

    wh_event started;
    wh_event ended;
    int status; /* as wait(2), if it has one; the keeper's until ended is set */
    bool has_status;
    int error; /* the same: 0, or why it was stopped, or why there is no status */

    int ends[STREAMS]; /* ours of the pipes; -1: none, or taken */
    uint32_t waiting;  /* any thread, atomic: in wh_process_wait() */
    struct run_hook hook;
};

/* ---- The kernel's calls ---- */

static int pidfd_kill(int pidfd, int number)
{
    return syscall(SYS_pidfd_send_signal, pidfd, number, NULL, 0) < 0 ? -errno : 0;
}

/* Takes the status of a process that has ended: 0; -EAGAIN when it has not. */
static int pidfd_reap(int pidfd, siginfo_t *ret_info)
{
    *ret_info = (siginfo_t){0};
    if (waitid((idtype_t)BY_PIDFD, (id_t)pidfd, ret_info, WEXITED | WNOHANG) < 0)
        return -errno;
    return ret_info->si_pid ? 0 : -EAGAIN;
}

/* ---- The keeper ---- */

/* wait(2)'s word for what waitid(2) says. */
static int status_of(const siginfo_t *info)
{
    switch (info->si_code) {
    case CLD_EXITED: return (info->si_status & 0xff) << 8;
    case CLD_DUMPED: return info->si_status | 0x80;
    default: return info->si_status;
    }
}

static bool ring_has_waitid(const wh_coro *self)
{
    struct caps caps;
    ring_caps(self->worker->engine, &caps);
    return caps.waitid;
}

static int reap_in_ring(int pidfd, siginfo_t *ret_info)
{
    wh_coro *self = enter("wh_process_spawn");
    *ret_info = (siginfo_t){0};
    self->op = (struct op){
        .code = OP_WAITID, .fd = pidfd, .len = BY_PIDFD, .off = (uint64_t)(uintptr_t)ret_info};
    return op_await(self, 0);
}

/* A debugger may have the process first: it has ended, and its status is not there yet. */
static int reap_by_poll(int pidfd, siginfo_t *ret_info)
{
    int rc = wh_poll(pidfd, POLLIN);
    if (rc >= 0)
        rc = pidfd_reap(pidfd, ret_info);
    if (likely(rc != -EAGAIN && rc != -ENOMEM))
        return rc;
    rc = wh_sleep(ASK_AGAIN_NS);
    return rc < 0 ? rc : -EAGAIN;
}

/* Waits for the end and stores the status. Returns 0; -ECANCELED or -ETIMEDOUT, and nothing has
 * happened; or why there never will be a status. */
static int reap(wh_process *process)
{
    wh_coro *self = self_or_panic("wh_process_spawn");
    siginfo_t info;
    int rc = -EAGAIN;
    if (likely(ring_has_waitid(self)))
        rc = reap_in_ring(process->pidfd, &info);
    while (rc == -EAGAIN || rc == -ENOMEM || rc == -EINTR)
        rc = reap_by_poll(process->pidfd, &info);
    if (likely(rc == 0)) {
        process->status = status_of(&info);
        process->has_status = true;
    }
    return rc;
}

/* By itself: nobody has stopped it. */
static bool has_ended(int pidfd)
{
    struct pollfd end = {.fd = pidfd, .events = POLLIN};
    int n;
    do {
        n = poll(&end, 1, 0);
    } while (n < 0 && errno == EINTR); /* the watchdog's signal, or the program's */
    return n > 0;
}

/* Ends the process, in a shield. */
static int stop(wh_process *process)
{
    int rc = -ETIMEDOUT;
    if (process->stop_signal != SIGKILL) {
        (void)pidfd_kill(process->pidfd, process->stop_signal);
        WH_WITH_TIMEOUT(process->stop_grace_ns)
        {
            rc = reap(process);
        }
    }
    if (rc != -ETIMEDOUT)
        return rc;
    (void)pidfd_kill(process->pidfd, SIGKILL);
    return reap(process);
}

static void keep(wh_process *process)
{
    WH_SHIELD
    {
        (void)wh_event_wait(&process->started);
    }
    if (unlikely(process->pidfd < 0))
        return;
    int rc = reap(process);
    if (rc == -ECANCELED || rc == -ETIMEDOUT) {
        int why = rc;
        WH_SHIELD
        {
            if (has_ended(process->pidfd)) {
                rc = reap(process);
            } else {
                rc = stop(process);
                bool by_itself = process->stop_signal == SIGKILL && WIFEXITED(process->status);
                rc = rc < 0 || by_itself ? rc : why;
            }
        }
    }
    wh_assert(!wh_event_is_set(&process->ended));
    process->error = rc;
    wh_event_set(&process->ended);
}

static int keeper_start(wh_process *process)
{
    static struct wh_site site = {.file = "wh_process_spawn", .function = "process", .args = 1};
    const uintptr_t words[] = {(uintptr_t)process};
    return wh_start_(&site, &process->keeper, NULL, (void (*)(void))keep, words);
}

/* ---- The end of the run ---- */

static void dispose(wh_process *process)
{
    fd_close(process->pidfd);
    for (int i = 0; i < STREAMS; i++)
        fd_close(process->ends[i]);
    mem_free(process);
}

/* The run is over and the process was not given back. No coroutine runs any more. */
static void process_over(struct run_hook *hook)
{
    wh_process *process = container_of(hook, wh_process, hook);
    if (!wh_event_is_set(&process->ended)) {
        siginfo_t info;
        struct pollfd end = {.fd = process->pidfd, .events = POLLIN};
        (void)pidfd_kill(process->pidfd, SIGKILL);
        while (poll(&end, 1, OVER_WAIT_MS) < 0 && errno == EINTR)
            ;
        (void)pidfd_reap(process->pidfd, &info); /* unless an operation in flight has done it */
    }
    dispose(process);
}

static void hook_add(wh_process *process)
{
    INSIDE(self, "wh_process_spawn");
    process->hook.over = process_over;
    run_hook_add(self->worker->run, &process->hook);
}

/* Its keeper has ended. */
static void give_back(wh_process *process)
{
    wh_coro *self = enter("wh_process_destroy");
    int pidfd = process->pidfd;
    int rc = fd_end_operations(self, pidfd); /* a select may still look at it */
    /* From here to the end without parking: a run that abandons this coroutine finds the process
     * with all that is its own, or nothing. */
    run_hook_remove(&process->hook);
    dispose(process);
    if (rc == 0)
        fd_closed(self->worker, pidfd);
    leave(self, 0);
}

/* ---- Spawning ---- */

static int options_check(const wh_process_options *o)
{
    if (o->stop_signal < 0 || o->stop_signal > SIGNALS_MAX || o->stop_grace_ns < 0)
        return -EINVAL;
    return o->in == WH_STDIO_STDOUT || o->out == WH_STDIO_STDOUT ? -EINVAL : 0;
}

static wh_process *create(const wh_process_options *o)
{
    wh_process *process = mem_zalloc(sizeof *process);
    if (!process)
        return NULL;
    process->pidfd = -1;
    process->stop_signal = o->stop_signal ? o->stop_signal : SIGKILL;
    process->stop_grace_ns = o->stop_grace_ns ? o->stop_grace_ns : GRACE_NS_DEFAULT;
    for (int i = 0; i < STREAMS; i++)
        process->ends[i] = -1;
    return process;
}

/* Nothing was started: the keeper sees that and goes. */
COLD static void discard(wh_process *process)
{
    wh_assert(process->pidfd < 0);
    WH_SHIELD
    {
        wh_join(process->keeper, NULL);
    }
    dispose(process);
}

/* Whether the caller may not begin anything any more: -ECANCELED, -ETIMEDOUT, or 0. */
static int refused(void)
{
    INSIDE(self, "wh_process_spawn");
    int rc = ended(self);
    return rc < 0 ? refuse(self, rc) : 0;
}

int wh_process_spawn(wh_process **ret_process, const char *const *argv,
                     const wh_process_options *options)
{
    const wh_process_options none = {0};
    const wh_process_options *o = options ? options : &none;
    int rc = refused();
    if (rc < 0)
        return rc;
    rc = argv && argv[0] ? options_check(o) : -EINVAL;
    if (rc < 0)
        return rc;

    wh_process *process = create(o);
    if (!process)
        return -ENOMEM;
    rc = keeper_start(process);
    if (rc < 0) {
        dispose(process);
        return rc;
    }
    rc = program_start(argv, o, process->ends, &process->pid, &process->pidfd);
    wh_event_set(&process->started);
    if (rc < 0) {
        discard(process);
        return rc;
    }
    hook_add(process);
    *ret_process = process;
    return 0;
}

/* ---- The calls ---- */

wh_fd wh_process_take(wh_process *process, int number)
{
    if (number < 0 || number >= STREAMS || process->ends[number] < 0)
        return -EBADF;
    wh_fd fd = process->ends[number];
    process->ends[number] = -1;
    return fd;
}

/* Of a process that has been stopped: its own context's deadline is no reason for the caller to try
 * again. */
static int stopped(void)
{
    INSIDE(self, "wh_process_wait");
    int rc = ended(self);
    return refuse(self, rc < 0 ? rc : -ECANCELED);
}

int wh_process_wait(wh_process *process, int *ret_status)
{
    (void)self_or_panic("wh_process_wait");
    if (!wh_event_is_set(&process->ended)) {
        __atomic_fetch_add(&process->waiting, 1, __ATOMIC_RELAXED);
        int rc = wh_event_wait(&process->ended);
        __atomic_fetch_sub(&process->waiting, 1, __ATOMIC_RELAXED);
        if (rc < 0)
            return rc;
    }
    if (process->has_status && ret_status)
        *ret_status = process->status;
    return process->error == -ETIMEDOUT || process->error == -ECANCELED ? stopped()
                                                                        : process->error;
}

int wh_process_kill(wh_process *process, int number)
{
    return pidfd_kill(process->pidfd, number);
}

pid_t wh_process_pid(const wh_process *process)
{
    return process->pid;
}

wh_fd wh_process_pidfd(const wh_process *process)
{
    return process->pidfd;
}

void wh_process_destroy(wh_process *process)
{
    if (!process)
        return;
    wh_coro *self = self_or_panic("wh_process_destroy");
    if (unlikely(__atomic_load_n(&process->waiting, __ATOMIC_RELAXED)))
        coro_misuse(self, "wh_process_destroy", "destroys a process that is being waited for");
    WH_SHIELD
    {
        wh_cancel(process->keeper);
        wh_join(process->keeper, NULL);
        wh_assert(wh_event_is_set(&process->ended));
        give_back(process);
    }
}

/* ---- In one call ---- */

/* Waits and destroys. The status is stored only with 0: of one that was stopped it would depend on
 * who sees the deadline first, the keeper or the caller. */
static int finish(wh_process *process, int *ret_status)
{
    int status = 0;
    int rc = wh_process_wait(process, &status);
    if (rc == 0 && ret_status)
        *ret_status = status;
    wh_process_destroy(process);
    return rc;
}

static bool has_pipe(const wh_process_options *o)
{
    return o->in == WH_STDIO_PIPE || o->out == WH_STDIO_PIPE || o->err == WH_STDIO_PIPE;
}

int wh_process_run(const char *const *argv, const wh_process_options *options, int *ret_status)
{
    if (options && has_pipe(options))
        return -EINVAL;
    wh_process *process;
    int rc = wh_process_spawn(&process, argv, options);
    if (rc < 0)
        return rc;
    return finish(process, ret_status);
}

struct text {
    char *bytes;
    size_t len;
    size_t size;
};

/* Room for one byte more, and the 0 behind it. */
static bool text_grow(struct text *text)
{
    if (text->size - text->len > 1)
        return true;
    size_t size = text->size ? 2 * text->size : OUTPUT_FIRST_BYTES;
    char *bytes = realloc(text->bytes, size);
    if (!bytes)
        return false;
    text->bytes = bytes;
    text->size = size;
    return true;
}

/* Reads to the end. Returns 0 or -errno. */
static int text_read(struct text *text, wh_fd fd, size_t most)
{
    for (;;) {
        if (!text_grow(text))
            return -ENOMEM;
        ssize_t n = wh_read(fd, text->bytes + text->len, text->size - text->len - 1);
        if (n <= 0)
            return (int)n;
        text->len += (size_t)n;
        if (text->len > most)
            return -EMSGSIZE;
    }
}

ssize_t wh_process_output(const char *const *argv, const wh_process_options *options, size_t most,
                          char **ret_text, int *ret_status)
{
    wh_process_options o = options ? *options : (wh_process_options){0};
    o.out = WH_STDIO_NULL;
    if (has_pipe(&o))
        return -EINVAL;
    o.out = WH_STDIO_PIPE;
    wh_process *process;
    int rc = wh_process_spawn(&process, argv, &o);
    if (rc < 0)
        return rc;

    struct text text = {0};
    wh_fd fd = wh_process_take(process, STDOUT_FILENO);
    rc = text_read(&text, fd, most);
    wh_close(fd);
    if (rc == 0)
        rc = finish(process, ret_status);
    else
        wh_process_destroy(process);
    if (rc < 0) {
        free(text.bytes);
        return rc;
    }
    text.bytes[text.len] = 0;
    *ret_text = text.bytes;
    return (ssize_t)text.len;
}
