/*
 * watchdog.c: nobody waits behind a hog (whorl/run.h says what a user sees of it).
 *
 * The watchdog is a thread of the run. Every tick (half of hog_ns) it looks how far each worker has
 * come and where it is:
 *
 *      worker (relaxed stores)                  watchdog (at a tick)
 *        each switch     turns, budget            another progress, or IN_SLEEP, or in the loop:
 *        a call begins   IN_RUNTIME                 no hog, or not any more
 *        it returns      IN_USER                  the same as at the tick before:
 *        falls asleep    IN_SLEEP                   wh_checkpoint() is to yield
 *        wakes up        IN_RUNTIME (exchange)    the same at the tick after, and IN_USER: a hog
 *
 * Turns of the loop and the budget that is left in one are never the same after a switch as before
 * it: the progress is the same only of a worker that has been with one coroutine all the time. A
 * turn is counted when its budget is given, after the sleep: what is noted of a worker that sleeps
 * is what the turn before has left, and nobody runs with that any more. The coroutine may have made
 * calls, which did not park. A hog has run for 2 to 3 ticks when it is found. A
 * coroutine that is IN_RUNTIME at every tick is in a call that takes long (a splice), and no hog.
 *
 * Then the signal. Its handler (on the worker's own thread: only that one may enter its ring) goes
 * on only if it finds IN_USER and the progress that the watchdog has seen: the thread is in the
 * user's code, in that of the hog, so no call into the runtime is under way, all that belongs to
 * the worker is consistent, and none of its locks is held. Of a hog that makes calls it may take
 * some ticks until a signal finds it there. The handler says IN_HANDLER meanwhile. The user's code
 * may hold any lock of its own, malloc's for one: the handler neither allocates nor frees
 * (worker_free()), and takes no lock but the runtime's, which are held for a few instructions by
 * threads that are not interrupted by it. It does what the loop would have done (loop_drive()),
 * gives what may run elsewhere from the run queue away (work_spread()), and answers:
 *
 *      watchdog: hog = n; hogged; sent;                  handler: not with our mark: passed on, too
 *                pthread_sigqueue                                 not sent any more
 *      watchdog: answered == n (acquire): reads who,              not as above, not hogged: an old
 *                frame, reports it                                one, nothing; who, frame;
 *                                                                 answered = n (release); sem_post
 *
 * While a real-time signal is on its way (`sent`) there is no second one: a thread that has it
 * blocked would gather as many as there are ticks. Of the others the kernel keeps one, maybe
 * somebody else's.
 *
 * `hogged` is taken back before another progress is noted (release, acquire), so a signal that
 * comes late does not go on with what it knew of an earlier hog.
 *
 * The signal comes again at each tick, whatever the handler has found: the hog itself may bring
 * work by calls that do not wait (a start, a timer, a cancel), and does not have to say so.
 *
 * A run with one worker is alone as long as it can be (sched.h): the handler turns it into a shared
 * one when there are coroutines that may run elsewhere, and otherwise only says who the hog is.
 *
 * Spare workers. When all workers that take work have a hog, and there is work for any, one more is
 * started, or the next of those that were started before takes work again: `spares` of them do.
 * When one of the run's own workers has no hog any more, none does: they give their queues away,
 * run what is bound to them (a select with polls in their rings) and sleep.
 *
 *      watchdog: spares = n (seq_cst); wakes them        spare: sleep = ASLEEP (seq_cst); does it
 *                if they sleep (seq_cst)                        take work (seq_cst)? is there any?
 *
 * The same as with an inbox (worker.c): one of the two sees the other.
 *
 * Sleeping. While all workers sleep and have not woken since the last tick the watchdog sleeps,
 * too, without limit: an idle process has no timer. Who wakes up looks whether it does.
 *
 *      watchdog: sleeps = 1 (seq_cst); all IN_SLEEP?     worker: where = IN_RUNTIME (seq_cst);
 *                then waits                                      sleeps? posts
 *
 * Rejected: to switch away from the hog in the handler. What runs next on that thread would share
 * the hog's malloc() lock, its errno, its half-written stdio buffers. Rejected: a timer a thread
 * (timer_create(2), SIGEV_THREAD_ID): it ticks in processes that are idle, and interrupts those
 * that are no hogs.
 */
#include "sched/sched.h"

#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define REPORT_PERIOD_NS WH_SECOND
#define SPARE_RETRY_NS   (10 * WH_SECOND)

enum {
    TICKS_CHECKPOINT = 1, /* with one coroutine, until wh_checkpoint() is to let others run */
    TICKS_HOG = 2,
    TICKS_UNANSWERED = 4, /* the thread does not take the signal */
    WATCHDOG_STACK_BYTES = 256 * 1024,
};

/* ---- wh_checkpoint() ---- */

unsigned wh_checkpoint_wanted_; /* of how many workers; any thread, atomic */

static void checkpoint_ask(struct worker *w)
{
    if (!__atomic_exchange_n(&w->watched.asked, true, __ATOMIC_RELAXED))
        __atomic_fetch_add(&wh_checkpoint_wanted_, 1, __ATOMIC_RELAXED);
}

static void checkpoint_unask(struct worker *w)
{
    if (__atomic_load_n(&w->watched.asked, __ATOMIC_RELAXED) &&
        __atomic_exchange_n(&w->watched.asked, false, __ATOMIC_RELAXED))
        __atomic_fetch_sub(&wh_checkpoint_wanted_, 1, __ATOMIC_RELAXED);
}

int wh_checkpoint_(void)
{
    struct worker *w = worker_tls;
    if (!w || w->current == &w->loop || !__atomic_load_n(&w->watched.asked, __ATOMIC_RELAXED))
        return 0;
    wh_coro *self = enter("wh_checkpoint");
    checkpoint_unask(w);
    budget_drop(w); /* what the loop brings is what others wait for */
    yield(self);
    return leave(self, ended_exactly(self));
}

/* ---- The signal ---- */

typedef void with_info(int number, siginfo_t *info, void *context);

/* What a program has installed. Any thread, atomic; changed under the mutex, so that the handler
 * finds either the one or the other in between. */
struct action {
    with_info *with_info; /* or NULL, and then: */
    void (*plain)(int);
};

/* Of each signal that has been ours: what was there before us, and what a later run has found in
 * our place, or the same. The latter may have kept on_signal() as what was there before it and
 * pass on to it in turn. */
static struct action at_first[_NSIG], at_last[_NSIG];
static __thread bool passes_on __attribute__((tls_model("initial-exec")));
static bool known[_NSIG];     /* at_first is; the same mutex */
static unsigned users[_NSIG]; /* runs with a watchdog that sends it; the same mutex */
static pthread_mutex_t install_mutex = PTHREAD_MUTEX_INITIALIZER;

void watchdog_signals_lock(void)
{
    pthread_mutex_lock(&install_mutex);
}

bool watchdog_has_signal(int number)
{
    return users[number];
}

void watchdog_signals_unlock(void)
{
    pthread_mutex_unlock(&install_mutex);
}

static struct action action_of(const struct sigaction *action)
{
    if (action->sa_flags & SA_SIGINFO)
        return (struct action){.with_info = action->sa_sigaction};
    return (struct action){.plain = action->sa_handler};
}

static void action_set(struct action *action, struct action to)
{
    if (!to.with_info)
        __atomic_store_n(&action->plain, to.plain, __ATOMIC_RELAXED);
    /* release: pairs with the acquire in action_call() */
    __atomic_store_n(&action->with_info, to.with_info, __ATOMIC_RELEASE);
}

static void action_call(const struct action *action, int number, siginfo_t *info, void *context)
{
    /* acquire: pairs with the release in action_set() */
    with_info *call = __atomic_load_n(&action->with_info, __ATOMIC_ACQUIRE);
    void (*plain)(int) = __atomic_load_n(&action->plain, __ATOMIC_RELAXED);
    if (call) {
        call(number, info, context);
    } else if (plain != SIG_DFL && plain != SIG_IGN) {
        plain(number);
    } else if (plain == SIG_DFL && number != SIGURG && number != SIGCHLD && number != SIGWINCH &&
               number != SIGCONT) {
        const struct sigaction by_default = {.sa_handler = SIG_DFL};
        sigaction(number, &by_default, NULL); /* which is not to ignore it */
        raise(number);
    }
}

/* Calls who was found in our place, and if that one passes on to us, who was there before. */
static void pass_on(int number, siginfo_t *info, void *context)
{
    bool again = passes_on;
    passes_on = true;
    action_call(again ? &at_first[number] : &at_last[number], number, info, context);
    passes_on = again;
}

void *interrupted_at(const void *context)
{
    const ucontext_t *u = context;
#if defined(__x86_64__)
    return (void *)(uintptr_t)u->uc_mcontext.gregs[REG_RIP];
#else
    return (void *)(uintptr_t)u->uc_mcontext.pc;
#endif
}

/* Whether the signal has cut a system call short (EINTR), or found the thread where one begins, to
 * which the kernel sets it back for what is restarted (signal(7)). No more is read of the code than
 * is sure to be there: the first byte of `syscall` is no instruction by itself. */
static bool is_in_system_call(const void *context)
{
    const ucontext_t *u = context;
#if defined(__x86_64__)
    const uint8_t *at = interrupted_at(context);
    if (u->uc_mcontext.gregs[REG_RAX] == -EINTR)
        return at[-1] == 0x05 && at[-2] == 0x0f;
    return at[0] == 0x0f && at[1] == 0x05;
#else
    const uint32_t *at = interrupted_at(context), svc = 0xd4000001;
    return (int64_t)u->uc_mcontext.regs[0] == -EINTR ? at[-1] == svc : at[0] == svc;
#endif
}

/* Who the hog is and where, for the watchdog to say. */
static void describe(struct worker *w, const void *context)
{
    struct watched *watched = &w->watched;
    coro_describe(w->current, watched->who, sizeof watched->who);
    watched->site = w->current->site;
    watched->is_in_call = is_in_system_call(context);
    int count = backtrace(watched->frame, HOG_FRAMES_MAX);
    int first = 0; /* the handler's own frames are not of interest */
    while (first < count && watched->frame[first] != interrupted_at(context))
        first++;
    if (first == count)
        first = 0;
    watched->frames = count - first;
    memmove((void *)watched->frame, (void *)(watched->frame + first),
            (size_t)watched->frames * sizeof *watched->frame);
}

/* Whether what the worker's loop would do now can be of use to any but the hog: not if all others
 * are bound to a worker that is alone. */
static bool drives_for_others(const struct worker *w)
{
    return __atomic_load_n(&w->shared, __ATOMIC_RELAXED) ||
           __atomic_load_n(&w->migrants, __ATOMIC_RELAXED);
}

/* The worker's thread has been interrupted in the user's code. */
static void look_after(struct worker *w, const void *context)
{
    struct watched *watched = &w->watched;
    /* acquire: pairs with the release in hog_begins() */
    uint32_t hog = __atomic_load_n(&watched->hog, __ATOMIC_ACQUIRE);
    bool first = __atomic_load_n(&watched->answered, __ATOMIC_RELAXED) != hog;
    bool drives = drives_for_others(w);
    where_set(w, IN_HANDLER);
    if (first) {
        describe(w, context);
        watched->walked = NULL;
    }
    if (drives) {
        run_share(w);
        loop_drive(w);
    }
    size_t stay = work_spread(w, &watched->walked);
    __atomic_store_n(&watched->bound_coros, watched->bound_coros + stay, __ATOMIC_RELAXED);
    bool gives = drives && deque_len(&w->deque);
    if (gives)
        work_announce(w->run);
    where_set(w, IN_USER);
    /* release: pairs with the acquire in answered() */
    __atomic_store_n(&watched->answered, hog, __ATOMIC_RELEASE);
    if (first || gives)
        sem_post(&w->run->watchdog.wake);
}

/* What is sent along with the watchdog's signals. */
static char mark;

/* One is sent, which is counted before. At most one waits while the handler has another and a third
 * is being sent: more are merged (below SIGRTMIN), or not sent. */
static void signal_sent(struct worker *w)
{
    uint8_t sent = __atomic_load_n(&w->watched.sent, __ATOMIC_RELAXED);
    while (sent < 3 && !__atomic_compare_exchange_n(&w->watched.sent, &sent, sent + 1, true,
                                                    __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        ;
}

/* One is taken, or could not be sent. Returns whether there was one. What is merged is counted as
 * one more than there are: a bare signal of somebody else's may then be taken for it, once each. */
static bool signal_taken(struct worker *w)
{
    uint8_t sent = __atomic_load_n(&w->watched.sent, __ATOMIC_RELAXED);
    while (sent && !__atomic_compare_exchange_n(&w->watched.sent, &sent, sent - 1, true,
                                                __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        ;
    return sent;
}

/* Whether the signal, which this thread takes now, is the watchdog's. A user may have no room for
 * queued signals left (RLIMIT_SIGPENDING): below SIGRTMIN the kernel then leaves out what was sent
 * along, and who has sent it. */
static bool take_ours(struct worker *w, const siginfo_t *info)
{
    bool marked = info->si_code == SI_QUEUE && info->si_value.sival_ptr == &mark;
    bool bare =
        info->si_signo < SIGRTMIN && info->si_code == SI_USER && !info->si_pid && !info->si_uid;
    if (!w || info->si_signo != w->run->watchdog.signal || !(marked || bare))
        return marked;
    return signal_taken(w) || marked;
}

/* Whether the worker, whose thread this is, is where the watchdog has seen it. */
static bool is_hogged(const struct worker *w)
{
    /* acquire: pairs with the release in look(), and with that in hog_begins() */
    return where_of(w) == IN_USER &&
           __atomic_load_n(&w->watched.progress, __ATOMIC_ACQUIRE) == worker_progress(w) &&
           __atomic_load_n(&w->watched.hogged, __ATOMIC_ACQUIRE);
}

static void on_signal(int number, siginfo_t *info, void *context)
{
    int saved_errno = errno;
    struct worker *w = worker_tls;
    if (!take_ours(w, info))
        pass_on(number, info, context);
    if (w && number == w->run->watchdog.signal && is_hogged(w)) /* ours may be merged with it */
        look_after(w, context);
    errno = saved_errno;
}

static bool is_on_signal(const struct sigaction *action)
{
    return action->sa_flags & SA_SIGINFO && action->sa_sigaction == on_signal;
}

static int install(int number)
{
    /* The unwinder is loaded at its first use: not in the handler. */
    void *frame;
    (void)backtrace(&frame, 1);

    int rc = 0;
    struct sigaction action = {.sa_sigaction = on_signal,
                               .sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK};
    sigfillset(&action.sa_mask); /* no other handler meets the worker in the middle of this */
    sigdelset(&action.sa_mask, SIGSEGV);
    sigdelset(&action.sa_mask, SIGBUS);
    struct sigaction now;
    pthread_mutex_lock(&install_mutex);
    if (sigaction(number, NULL, &now) < 0)
        rc = -errno;
    else if (!is_on_signal(&now)) {
        if (!known[number])
            action_set(&at_first[number], action_of(&now));
        known[number] = true;
        action_set(&at_last[number], action_of(&now));
        rc = sigaction(number, &action, NULL) < 0 ? -errno : 0;
    }
    users[number] += rc == 0;
    pthread_mutex_unlock(&install_mutex);
    return rc;
}

void watchdog_signal_put_back(int number, void (*gone)(int), const struct sigaction *before)
{
    /* Who found us there was found by us, too, by a later run. */
    struct action to = is_on_signal(before) ? at_first[number] : action_of(before);
    struct action *both[] = {&at_first[number], &at_last[number]};
    for (int i = 0; i < 2; i++)
        if (!both[i]->with_info && both[i]->plain == gone)
            action_set(both[i], to);
}

/* The handler stays: it passes on what comes late. */
static void uninstall(int number)
{
    pthread_mutex_lock(&install_mutex);
    wh_assert(users[number] > 0);
    users[number]--;
    pthread_mutex_unlock(&install_mutex);
}

static bool signal_of(const struct worker *w, sigset_t *ret_set)
{
    sigemptyset(ret_set);
    return w->run->watchdog.tick_ns && w->run->watchdog.signal &&
           sigaddset(ret_set, w->run->watchdog.signal) == 0;
}

void watchdog_signal_admit(struct worker *w)
{
    sigset_t set, before;
    if (!signal_of(w, &set))
        return;
    pthread_sigmask(SIG_UNBLOCK, &set, &before);
    w->signal_was_blocked = sigismember(&before, w->run->watchdog.signal);
}

void watchdog_signal_block(struct worker *w)
{
    const struct timespec now = {0};
    siginfo_t info;
    sigset_t set;
    if (!signal_of(w, &set))
        return;
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    /* One of ours that is still on its way must not find somebody else's handler. */
    while (sigtimedwait(&set, &info, &now) > 0) {
        if (take_ours(w, &info))
            continue;
        ucontext_t here; /* where a handler finds itself called */
        getcontext(&here);
        pass_on(info.si_signo, &info, &here);
    }
    if (!w->signal_was_blocked)
        pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

/* ---- Looking ---- */

/* Whether the handler has found the hog. */
static bool answered(const struct watched *watched)
{
    /* acquire: pairs with the release in look_after() */
    return __atomic_load_n(&watched->answered, __ATOMIC_ACQUIRE) == watched->hog;
}

/* Whether the thread waits for a core, or has one: it is not blocked in a system call. */
static bool is_runnable(pid_t tid)
{
    char path[64], text[256];
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", (int)tid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    if (n <= 0)
        return false;
    text[n] = 0;
    const char *name_end = strrchr(text, ')'); /* the state follows the name in brackets */
    return name_end && !strncmp(name_end, ") R", 3);
}

static bool in_users_code(uint8_t where)
{
    return where == IN_USER || where == IN_HANDLER;
}

/* Whether the worker has been with the same coroutine since its progress was noted. */
static bool stays(const struct worker *w)
{
    return worker_progress(w) == w->watched.progress &&
           __atomic_load_n(&w->current, __ATOMIC_RELAXED) != &w->loop;
}

/* Whether the worker's thread is blocked in the user's code, and not in our handler there. */
static bool is_blocked(const struct worker *w)
{
    if (is_runnable(w->tid))
        return false;
    /* acquire: pairs with nothing: read after the state, which may be that of a later sleep */
    return __atomic_load_n(&w->where, __ATOMIC_ACQUIRE) == IN_USER && stays(w);
}

/* Whether it was when it was found, or when the signal has found it. */
static bool was_blocked(const struct watched *watched)
{
    return watched->blocked || (answered(watched) && watched->is_in_call);
}

static void hog_begins(struct run *run, struct worker *w)
{
    struct watched *watched = &w->watched;
    watched->reported = false;
    watched->blocked = is_blocked(w); /* the signal may end that */
    __atomic_store_n(&run->watchdog.hogs, run->watchdog.hogs + 1, __ATOMIC_RELAXED);
    /* release: pairs with the acquire in look_after() */
    __atomic_store_n(&watched->hog, watched->hog + 1, __ATOMIC_RELEASE);
    /* Last: a signal that was held back may arrive at once. release: pairs with the acquire in
     * is_hogged() */
    __atomic_store_n(&watched->hogged, true, __ATOMIC_RELEASE);
}

/* Has the handler look after the worker: at each tick, whatever it has found before, because the
 * hog itself may start a timer, a coroutine or the end of a context by calls that do not wait. */
static void signal_hog(const struct run *run, struct worker *w)
{
    int number = run->watchdog.signal;
    bool needed = !answered(&w->watched) || drives_for_others(w);
    bool gathers = number >= SIGRTMIN && __atomic_load_n(&w->watched.sent, __ATOMIC_RELAXED);
    if (!needed || !number || gathers)
        return;
    signal_sent(w);
    if (pthread_sigqueue(w->thread, number, (union sigval){.sival_ptr = &mark}) != 0)
        (void)signal_taken(w); /* no room for it (RLIMIT_SIGPENDING) */
}

static int64_t thread_cpu_ns(const struct worker *w)
{
    clockid_t clock;
    struct timespec ts = {0};
    if (pthread_getcpuclockid(w->thread, &clock) == 0)
        clock_gettime(clock, &ts);
    return ts.tv_sec * WH_SECOND + ts.tv_nsec;
}

/* Returns whether the worker has slept since the last tick. */
static bool look(struct run *run, struct worker *w, int64_t now_ns)
{
    struct watched *watched = &w->watched;
    uint64_t sleeps = __atomic_load_n(&w->sleeps, __ATOMIC_RELAXED);
    bool slept = sleeps == watched->sleeps;
    watched->sleeps = sleeps;
    uint8_t where = where_of(w);
    if (where != IN_SLEEP && stays(w)) {
        watched->ticks++;
        if (watched->ticks == TICKS_CHECKPOINT)
            checkpoint_ask(w);
        if (watched->ticks >= TICKS_HOG && !watched->hogged && in_users_code(where))
            hog_begins(run, w);
        if (watched->hogged)
            signal_hog(run, w);
        return false;
    }
    __atomic_store_n(&watched->hogged, false, __ATOMIC_RELAXED);
    watched->ticks = 0;
    watched->since_ns = now_ns;
    checkpoint_unask(w);
    if (where != IN_SLEEP)
        watched->cpu_ns = thread_cpu_ns(w);
    /* release: pairs with the acquire in is_hogged() */
    __atomic_store_n(&watched->progress, worker_progress(w), __ATOMIC_RELEASE);
    return slept && where == IN_SLEEP;
}

/* Returns whether all workers have slept since the last tick. */
static bool look_at_all(struct run *run, int64_t now_ns)
{
    bool all = true;
    for (unsigned i = 0; i < run->workers; i++)
        all &= look(run, run->worker[i], now_ns);
    return all;
}

/* ---- Naming ---- */

static void site_hogged(struct wh_site *site)
{
    __atomic_fetch_add(&site->hogs, 1, __ATOMIC_RELAXED);
}

static void report_hog(struct run *run, const struct worker *w, const char *who, int frames,
                       int64_t now_ns)
{
    struct watchdog *dog = &run->watchdog;
    const struct watched *watched = &w->watched;
    if (dog->reported_ns && now_ns - dog->reported_ns < REPORT_PERIOD_NS) {
        dog->unreported++;
        return;
    }
    dog->reported_ns = now_ns;
    const char *how = "", *cure = "Give its loop a wh_checkpoint(), or move it to wh_blocking()";
    if (was_blocked(watched)) {
        how = dog->signal ? ", in a system call that blocks (a sleep, a poll or a select is cut "
                            "short by the watchdog's signal: EINTR)"
                          : ", in a system call that blocks";
        cure = "Use whorl's call of that kind (wh_read, wh_sleep, wh_mutex_lock), or move it to "
               "wh_blocking(); hold no thread's mutex across a call that may park";
    }
    report("hog: %s has kept worker %u for %lld ms without waiting in a call of whorl%s; others "
           "that are bound to this worker wait. %s",
           who, w->index + 1u, (long long)((now_ns - watched->since_ns) / 1000000), how, cure);
    if (dog->unreported)
        report("hog: %u more since the last such line", dog->unreported);
    dog->unreported = 0;
    if (frames)
        backtrace_symbols_fd(watched->frame, frames, STDERR_FILENO);
}

/* The thread takes no signal. What is read of the coroutine holds if the worker has been with it
 * all the time. */
static void name_unanswered(struct run *run, struct worker *w, int64_t now_ns)
{
    char who[256];
    /* acquire: pairs with the release in current_set(): its memory may be new */
    const wh_coro *coro = __atomic_load_n(&w->current, __ATOMIC_ACQUIRE);
    /* acquire: pairs with nothing: read before the progress is, below */
    struct wh_site *site = __atomic_load_n(&coro->site, __ATOMIC_ACQUIRE);
    /* acquire: pairs with nothing, the same */
    uint32_t id = __atomic_load_n(&coro->id, __ATOMIC_ACQUIRE);
    if (!site || !in_users_code(where_of(w)) || !stays(w))
        return;
    site_describe(site, site->function, id, who, sizeof who);
    site_hogged(site);
    report_hog(run, w, who, 0, now_ns);
    w->watched.reported = true;
}

/* Whether the worker's thread has been running, or blocked, and not merely kept from its core by
 * others: nothing is wrong with a coroutine on a machine that is too busy. */
static bool is_at_fault(const struct run *run, const struct worker *w)
{
    return was_blocked(&w->watched) || is_blocked(w) ||
           thread_cpu_ns(w) - w->watched.cpu_ns >= run->watchdog.tick_ns;
}

static void name_hogs(struct run *run, int64_t now_ns)
{
    for (unsigned i = 0; i < run->workers; i++) {
        struct worker *w = run->worker[i];
        struct watched *watched = &w->watched;
        if (!watched->hogged || watched->reported || !is_at_fault(run, w))
            continue;
        if (answered(watched)) {
            watched->reported = true;
            site_hogged(watched->site);
            report_hog(run, w, watched->who, watched->frames, now_ns);
        } else if (!run->watchdog.signal || watched->ticks >= TICKS_UNANSWERED) {
            name_unanswered(run, w, now_ns);
        }
    }
}

/* ---- Spare workers ---- */

static bool work_waits(const struct run *run)
{
    if (__atomic_load_n(&run->injected, __ATOMIC_RELAXED))
        return true;
    for (unsigned i = 0; i < run->workers; i++)
        if (deque_len(&run->worker[i]->deque))
            return true;
    return false;
}

static void spares_set(struct run *run, unsigned spares)
{
    /* seq_cst: pairs with the load in worker_works() */
    __atomic_store_n(&run->watchdog.spares, spares, __ATOMIC_SEQ_CST);
    /* Those that take work now, to look for it; the others, to be counted no more. */
    for (unsigned i = run->workers_asked; i < run->workers; i++)
        worker_notify(run->worker[i]);
}

COLD static void spares_see_to(struct run *run, int64_t now_ns)
{
    struct watchdog *dog = &run->watchdog;
    unsigned working = workers_working(run);
    unsigned hogged = 0, own_free = 0;
    for (unsigned i = 0; i < working; i++) {
        hogged += run->worker[i]->watched.hogged;
        own_free += i < run->workers_asked && !run->worker[i]->watched.hogged;
    }
    if (own_free && dog->spares)
        spares_set(run, 0);
    if (!hogged || !work_waits(run))
        return;
    if (hogged < working) {
        work_announce(run); /* who offered it last may have missed one that fell asleep */
        return;
    }
    if (working == run->workers) {
        if (now_ns < dog->spare_retry_ns)
            return;
        if (!spare_start(run)) {
            report("hog: no further worker can be had; what waits goes on when a hog ends");
            dog->spare_retry_ns = now_ns + SPARE_RETRY_NS;
            return;
        }
    }
    spares_set(run, working + 1 - run->workers_asked);
}

/* ---- The thread ---- */

/* Waits until the time has come or somebody has posted. */
static void wait_until(struct watchdog *dog, int64_t until_ns)
{
    struct timespec ts = {.tv_sec = until_ns / 1000000000, .tv_nsec = until_ns % 1000000000};
    (void)sem_clockwait(&dog->wake, CLOCK_MONOTONIC, &ts);
}

/* Until a worker has something to do. */
static void watchdog_sleep(struct run *run)
{
    struct watchdog *dog = &run->watchdog;
    /* seq_cst: pairs with the load in watchdog_notice() */
    __atomic_store_n(&dog->sleeps, true, __ATOMIC_SEQ_CST);
    bool all = true;
    for (unsigned i = 0; i < run->workers; i++) {
        /* seq_cst: pairs with the exchange in sleep_until() */
        all &= __atomic_load_n(&run->worker[i]->where, __ATOMIC_SEQ_CST) == IN_SLEEP;
    }
    if (all)
        while (__atomic_load_n(&dog->sleeps, __ATOMIC_RELAXED) &&
               !__atomic_load_n(&dog->ends, __ATOMIC_RELAXED))
            (void)sem_wait(&dog->wake);
    __atomic_store_n(&dog->sleeps, false, __ATOMIC_RELAXED);
}

static void *watchdog_main(void *arg)
{
    struct run *run = arg;
    struct watchdog *dog = &run->watchdog;
    pthread_setname_np(pthread_self(), "whorl-watchdog");
    int64_t look_ns = clock_now() + dog->tick_ns;
    while (!__atomic_load_n(&dog->ends, __ATOMIC_RELAXED)) {
        wait_until(dog, look_ns);
        int64_t now_ns = clock_now();
        if (now_ns >= look_ns) {
            if (look_at_all(run, now_ns)) {
                watchdog_sleep(run);
                now_ns = clock_now();
            }
            look_ns = now_ns + dog->tick_ns;
        }
        name_hogs(run, now_ns);
        spares_see_to(run, now_ns);
    }
    for (unsigned i = 0; i < run->workers; i++)
        checkpoint_unask(run->worker[i]);
    return NULL;
}

void watchdog_start(struct run *run)
{
    struct watchdog *dog = &run->watchdog;
    if (!dog->tick_ns)
        return;
    int rc = dog->signal ? install(dog->signal) : 0;
    bool installed = dog->signal && rc == 0;
    if (rc == 0) {
        pthread_attr_t attr;
        sigset_t all, before;
        pthread_attr_init(&attr);
        pthread_attr_setstacksize(&attr, WATCHDOG_STACK_BYTES);
        sigfillset(&all);
        sem_init(&dog->wake, 0, 0);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        rc = -pthread_create(&dog->thread, &attr, watchdog_main, run);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        pthread_attr_destroy(&attr);
        dog->runs = rc == 0;
    }
    if (rc < 0) {
        if (installed)
            uninstall(dog->signal);
        report("cannot start the watchdog: %s; hogs are not noticed", strerror(-rc));
    }
}

void watchdog_end(struct run *run)
{
    struct watchdog *dog = &run->watchdog;
    if (!dog->runs)
        return;
    __atomic_store_n(&dog->ends, true, __ATOMIC_RELAXED);
    sem_post(&dog->wake);
    pthread_join(dog->thread, NULL);
    if (dog->signal)
        uninstall(dog->signal);
}
