/*
 * runtime.c: a run, for threads that are no workers (whorl/runtime.h).
 *
 * The handle is memory of its own, that outlives the run: it holds the run as long as that lasts.
 *
 *      run ----> wh_runtime { mutex; run, or NULL: it is over; refs: the run's, and each hold's }
 *
 * What a thread does to the run it does under the mutex, so the end of the run, which takes the run
 * out of the handle before it takes it down, waits for that, and for nothing longer. A coroutine
 * that a thread starts is made by that thread (coro_start_outside()) and injected, for any worker
 * to take; in a run with one worker it is sent to that one. Its end is told to a thread that waits
 * by the coroutine's end hook, and if the run ends without it, by a hook of the run.
 *
 * Each hold counts as a thread outside (run->outside): while there is one, something may still
 * come, and a run in which all wait is no deadlock.
 */
#include "sched/sched.h"

#include <whorl/runtime.h>

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>

struct wh_runtime {
    uint32_t refs; /* any thread, atomic */
    pthread_mutex_t mutex;
    struct run *run; /* under mutex */
};

static wh_runtime *create(struct run *run)
{
    wh_runtime *runtime = mem_zalloc(sizeof *runtime);
    if (!runtime)
        return NULL;
    pthread_mutex_init(&runtime->mutex, NULL);
    runtime->run = run;
    runtime->refs = 1;
    return runtime;
}

static void unref(wh_runtime *runtime)
{
    /* acq_rel: pairs with itself: whoever frees it has seen what the others did */
    if (__atomic_sub_fetch(&runtime->refs, 1, __ATOMIC_ACQ_REL))
        return;
    pthread_mutex_destroy(&runtime->mutex);
    mem_free(runtime);
}

/* Holds the run's handle, `made` if it has none; NULL: it has none, or the run is over. Under the
 * run's lock, under which the run gives its own reference up. Returns whether `made` is used. */
static bool hold(struct run *run, wh_runtime *made, wh_runtime **ret_runtime)
{
    lock_take(&run->lock);
    bool used = made && !run->runtime && !run->runtime_over;
    if (used)
        run->runtime = made;
    wh_runtime *runtime = run->runtime;
    if (runtime) {
        __atomic_fetch_add(&runtime->refs, 1, __ATOMIC_RELAXED);
        __atomic_fetch_add(&run->outside, 1, __ATOMIC_RELAXED);
    }
    lock_give(&run->lock);
    *ret_runtime = runtime;
    return used;
}

wh_runtime *wh_runtime_hold(void)
{
    INSIDE(self, "wh_runtime_hold");
    struct run *run = self->worker->run;
    wh_runtime *runtime;
    run_share(self->worker); /* others may come from here on */
    (void)hold(run, NULL, &runtime);
    if (runtime)
        return runtime;
    wh_runtime *made = create(run);
    if (made && !hold(run, made, &runtime))
        unref(made);
    return runtime;
}

void wh_runtime_release(wh_runtime *runtime)
{
    if (!runtime)
        return;
    INSIDE_ANYWHERE(self, "wh_runtime_release");
    (void)self;
    pthread_mutex_lock(&runtime->mutex);
    struct run *run = runtime->run;
    /* seq_cst: pairs with the load in others_barren(): this, then a look whether it sleeps */
    if (run && __atomic_sub_fetch(&run->outside, 1, __ATOMIC_SEQ_CST) == 0)
        worker_notify(run->worker[0]); /* if all sleep, nobody could wake them any more */
    pthread_mutex_unlock(&runtime->mutex);
    unref(runtime);
}

void runtime_over(struct run *run)
{
    lock_take(&run->lock);
    wh_runtime *runtime = run->runtime;
    run->runtime = NULL;
    run->runtime_over = true;
    lock_give(&run->lock);
    if (!runtime)
        return;
    pthread_mutex_lock(&runtime->mutex);
    runtime->run = NULL;
    pthread_mutex_unlock(&runtime->mutex);
    unref(runtime);
}

int wh_runtime_go_(struct wh_site *site, wh_runtime *runtime, const void *none, void (*fn)(void),
                   const uintptr_t *words)
{
    INSIDE_ANYWHERE(self, "wh_runtime_go");
    (void)self;
    (void)none;
    pthread_mutex_lock(&runtime->mutex);
    int rc = runtime->run ? coro_start_outside(runtime->run, site, fn, words, NULL) : -ECANCELED;
    pthread_mutex_unlock(&runtime->mutex);
    return rc;
}

/* ---- Waiting for the end ---- */

/* On the stack of the thread that waits. */
struct call {
    struct end_hook end;
    struct run_hook over;
    sem_t done;
    intptr_t value;
    int rc;
};

static void call_ended(struct end_hook *hook, wh_coro *coro, intptr_t value)
{
    struct call *call = container_of(hook, struct call, end);
    (void)coro;
    call->value = value;
    run_hook_remove(&call->over);
    sem_post(&call->done);
}

/* The run is over, the coroutine has been abandoned, and what the caller has lent it is the
 * caller's again. */
static void call_over(struct run_hook *hook)
{
    struct call *call = container_of(hook, struct call, over);
    call->rc = -ECANCELED;
    sem_post(&call->done);
}

int wh_runtime_call_(struct wh_site *site, wh_runtime *runtime, intptr_t *ret_value,
                     void (*fn)(void), const uintptr_t *words)
{
    if (worker_tls)
        panic("wh_runtime_call was called in a run: it would block its worker; use wh_spawn and "
              "wh_join");
    struct call call = {.end.ended = call_ended, .over = {.late = true, .over = call_over}};
    sem_init(&call.done, 0, 0);
    pthread_mutex_lock(&runtime->mutex);
    int rc = -ECANCELED;
    if (runtime->run) {
        run_hook_add(runtime->run, &call.over);
        rc = coro_start_outside(runtime->run, site, fn, words, &call.end);
        if (rc < 0)
            run_hook_remove(&call.over);
    }
    pthread_mutex_unlock(&runtime->mutex);
    if (rc == 0) {
        while (sem_wait(&call.done) < 0)
            ; /* EINTR */
        rc = call.rc;
        if (rc == 0 && ret_value)
            *ret_value = call.value;
    }
    sem_destroy(&call.done);
    return rc;
}
