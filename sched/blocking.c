/*
 * blocking.c: calls on threads of their own (whorl/blocking.h).
 *
 *      caller: job -> queue --> thread: calls the function --> post to the caller's worker
 *                                                                    | deliver: claims the caller
 *      caller parks <------------------------------------------------'   if it still waits
 *
 * A thread never touches a coroutine: it posts to the worker on which the caller waits, and that
 * one wakes it. So nothing is shared with the run but its worker's inbox, and a run with one worker
 * stays alone.
 *
 * A job is held by the caller and by whoever has it to do (queue, thread, post): the last of the
 * two frees it. While its worker may be posted to, `worker` is set; the caller that leaves early,
 * or the end of the run, clears it under the job's lock, under which the thread posts. The run
 * counts such jobs as threads outside (run->outside): it may sleep for ever without being
 * deadlocked. A caller that has been claimed by something else may run on another worker before
 * the post is delivered on the one where it waited: `caller` and `done` are under the lock, too.
 *
 *      job: QUEUED --taken--> RUNNING --returned--> posted or dropped
 *             `--- caller leaves: taken off the queue
 *
 * The queue and the threads are the process's, under one mutex. A child of fork(2) has neither: it
 * begins anew.
 */
#include "sched/blocking.h"
#include "sched/next.h"

#include <pthread.h>
#include <string.h>
#include <time.h>

#define STACK_BYTES ((size_t)8 << 20)

enum { THREADS_MAX = 64, THREADS_LIMIT = 4096, IDLE_S = 5 };

struct job {
    struct list link; /* in the queue; under the pool's mutex; pointing at itself when it is not */
    struct post post;
    struct run_hook hook; /* while the caller waits */
    const struct blocking_drop *drop;
    struct wh_site *site;
    void (*fn)(void);
    uintptr_t words[6];
    intptr_t value;
    uint32_t refs; /* atomic */
    uint8_t lock;
    /* under lock */
    struct worker *worker; /* to be posted to; NULL: nobody waits any more */
    wh_coro *caller;       /* NULL when it waits no more; it may go on on another worker */
    bool done;             /* delivered */
};

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t wanted;
    struct list queue;
    unsigned threads;
    unsigned idle;
    unsigned queued;
} pool = {.mutex = PTHREAD_MUTEX_INITIALIZER,
          .wanted = PTHREAD_COND_INITIALIZER,
          .queue = {&pool.queue, &pool.queue}};

static const struct wait_kind wait_blocking = {.reason = "blocking call",
                                               .withdraw = queue_withdraw};

static bool job_unref_last(struct job *job)
{
    /* acq_rel: pairs with itself: whoever frees it has seen what the other did */
    return __atomic_sub_fetch(&job->refs, 1, __ATOMIC_ACQ_REL) == 0;
}

static void job_unref(struct job *job)
{
    if (job_unref_last(job))
        mem_free(job);
}

/* ---- On the worker ---- */

/* Nobody is to post any more. */
static void job_forget(struct job *job)
{
    lock_take(&job->lock);
    struct worker *w = job->worker;
    job->worker = NULL;
    lock_give(&job->lock);
    if (w)
        __atomic_fetch_sub(&w->run->outside, 1, __ATOMIC_RELAXED);
}

static void delivered(struct post *post, struct worker *w)
{
    struct job *job = container_of(post, struct job, post);
    __atomic_fetch_sub(&w->run->outside, 1, __ATOMIC_RELAXED);
    lock_take(&job->lock);
    job->done = true;
    wh_coro *claimed = job->caller && claim(job->caller, w->shared) ? job->caller : NULL;
    lock_give(&job->lock);
    if (claimed)
        make_ready(claimed, 1, w->shared);
    if (job_unref_last(job))
        worker_free(w, job);
}

static bool job_unqueue(struct job *job);

/* The run is over and the caller has been abandoned. What nobody has begun is not done: its
 * arguments may be on a stack that goes next; who has none there may be told. */
static void job_over(struct run_hook *hook)
{
    struct job *job = container_of(hook, struct job, hook);
    if (job_unqueue(job)) {
        if (job->drop)
            job->drop->dropped((void *)job->words[0]);
        job_unref(job);
    }
    job_forget(job); /* or it has been posted, and is delivered when the inbox is emptied */
    job->caller = NULL;
    job_unref(job);
}

/* ---- The threads ---- */

static void job_do(struct job *job)
{
    job->value = call_with_words(job->fn, job->words, site_ret_size(job->site));
    lock_take(&job->lock);
    struct worker *w = job->worker;
    job->worker = NULL;
    if (w)
        worker_post(w, &job->post);
    lock_give(&job->lock);
    if (!w)
        job_unref(job);
}

/* The next job; NULL when there has been none for long. With the mutex held. */
static struct job *job_next(void)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += IDLE_S;
    int rc = 0;
    pool.idle++;
    while (list_empty(&pool.queue) && rc == 0)
        rc = pthread_cond_timedwait(&pool.wanted, &pool.mutex, &until);
    pool.idle--;
    if (list_empty(&pool.queue))
        return NULL;
    struct job *job = container_of(pool.queue.next, struct job, link);
    list_remove(&job->link);
    pool.queued--;
    return job;
}

static void *thread_main(void *none)
{
    struct job *job;
    (void)none;
    pthread_setname_np(pthread_self(), "whorl-blocking");
    pthread_mutex_lock(&pool.mutex);
    while ((job = job_next())) {
        pthread_mutex_unlock(&pool.mutex);
        job_do(job);
        pthread_mutex_lock(&pool.mutex);
    }
    pool.threads--;
    pthread_mutex_unlock(&pool.mutex);
    return NULL;
}

static unsigned threads_max(void)
{
    int64_t max = env_number("WHORL_BLOCKING_MAX", THREADS_MAX);
    return max < 1 ? 1 : max > THREADS_LIMIT ? THREADS_LIMIT : (unsigned)max;
}

/* In a child of fork(2), where nobody else is. */
static void begin_anew(void)
{
    pthread_mutex_init(&pool.mutex, NULL);
    pthread_cond_init(&pool.wanted, NULL);
    list_init(&pool.queue);
    pool.threads = pool.idle = pool.queued = 0;
}

static void fork_expect(void)
{
    (void)pthread_atfork(NULL, NULL, begin_anew); /* without memory a child may hang, as before */
}

/* With the mutex held. Returns 0 or -EAGAIN. */
static int thread_start(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_t thread;
    pthread_attr_t attr;
    pthread_once(&once, fork_expect);
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    sigset_t before;
    signals_block(&before);
    int rc = pthread_create(&thread, &attr, thread_main, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    pool.threads += rc == 0;
    return rc ? -EAGAIN : 0;
}

static int job_queue(struct job *job)
{
    int rc = 0;
    pthread_mutex_lock(&pool.mutex);
    if (pool.queued >= pool.idle && pool.threads < threads_max())
        rc = thread_start();
    if (pool.threads) {
        rc = 0; /* one more would have been better */
        list_push_back(&pool.queue, &job->link);
        pool.queued++;
        pthread_cond_signal(&pool.wanted);
    }
    pthread_mutex_unlock(&pool.mutex);
    return rc;
}

/* Takes a job that nobody has begun off the queue. Returns whether it was there. */
static bool job_unqueue(struct job *job)
{
    pthread_mutex_lock(&pool.mutex);
    bool queued = !list_empty(&job->link);
    if (queued) {
        list_remove(&job->link);
        pool.queued--;
    }
    pthread_mutex_unlock(&pool.mutex);
    return queued;
}

/* ---- The call ---- */

static int await(wh_coro *self, struct job *job)
{
    run_hook_add(self->worker->run, &job->hook);
    deadline_arm(self);
    int rc = park(self, &wait_blocking);
    run_hook_remove(&job->hook);
    /* The thread that has posted is through with the worker, too, which may go next. */
    lock_take(&job->lock);
    job->caller = NULL;
    bool done = job->done;
    lock_give(&job->lock);
    if (done)
        return 0; /* a result that has come beats what came with it */
    if (job_unqueue(job)) {
        job_forget(job);
        job_unref(job);
        return rc;
    }
    job_forget(job); /* the call goes on, and its end is nobody's matter */
    return rc;
}

int wh_blocking_(struct wh_site *site, intptr_t *ret_value, const void *drop, void (*fn)(void),
                 const uintptr_t *words)
{
    INSIDE(self, "wh_blocking");
    int rc = ended(self);
    if (unlikely(rc < 0))
        return refuse(self, rc);
    struct job *job = mem_zalloc(sizeof *job);
    if (!job)
        return -ENOMEM;
    struct worker *w = self->worker;
    list_init(&job->link);
    job->post.deliver = delivered;
    job->hook.over = job_over;
    job->drop = drop;
    job->site = site;
    job->fn = fn;
    memcpy(job->words, words, site_args(site) * sizeof *words);
    job->refs = 2;
    job->worker = w;
    job->caller = self;
    __atomic_fetch_add(&w->run->outside, 1, __ATOMIC_RELAXED);
    rc = job_queue(job);
    if (unlikely(rc < 0)) {
        job_forget(job);
        job_unref(job);
    } else {
        rc = await(self, job);
        if (rc == 0 && ret_value)
            *ret_value = job->value;
    }
    job_unref(job);
    return rc;
}
