/*
 * watch.c: what is said when something does not hold, or when nothing moves any more.
 *
 * The watchdog is a thread of its own: it needs no worker to come by. It reads only atomics, and
 * what does not change during a round.
 */
#include "stress.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <time.h>

enum { SAID_MAX = 30 };

static pthread_t watchdog;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t over;
static bool is_over;                /* under lock */
static const struct round *current; /* under lock */
static int64_t limit_ns;            /* immutable after watch_begin() */
static counter violations;

struct life life;

int64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * WH_SECOND + ts.tv_nsec;
}

const char *way_name(enum way way)
{
    static const char *const names[WAYS] = {"deadline", "context", "handles", "group", "early"};
    return names[way];
}

void violated(const char *file, int line, const char *what, const char *format, ...)
{
    if (count_add(&violations, 1) >= SAID_MAX)
        return;
    char text[400];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    fprintf(stderr, "whorl-stress: %s:%d: does not hold: %s: %s\n", file, line, what, text);
}

bool anything_violated(void)
{
    return count_get(&violations) > 0;
}

/* ---- The watchdog ---- */

static void print_actors(const struct round *r)
{
    fprintf(stderr, "round %d, seed %llu, ends by %s, end %+lld ms from now, early %d\n", r->number,
            (unsigned long long)r->seed, way_name(r->way),
            (long long)((r->end_ns - now_ns()) / WH_MILLISECOND),
            (int)atomic_load_explicit(&r->early, memory_order_relaxed));
    for (int i = 0; i < r->actors_count; i++) {
        const struct actor *a = &r->actors[i];
        if (atomic_load_explicit(&a->left, memory_order_relaxed))
            continue;
        int64_t since_ns = (int64_t)count_get(&a->since_ns);
        fprintf(stderr, "  actor %d: %s, %llu steps, step begun %lld ms ago, %s: %s\n", i,
                a->kind->name, (unsigned long long)count_get(&a->steps),
                since_ns ? (long long)((now_ns() - since_ns) / WH_MILLISECOND) : -1,
                atomic_load_explicit(&a->manner, memory_order_relaxed),
                atomic_load_explicit(&a->doing, memory_order_relaxed));
    }
}

static void *watch(void *arg)
{
    (void)arg;
    struct timespec at = {limit_ns / WH_SECOND, limit_ns % WH_SECOND};
    pthread_mutex_lock(&lock);
    int rc = 0;
    while (!is_over && rc == 0)
        rc = pthread_cond_timedwait(&over, &lock, &at);
    if (!is_over) {
        fprintf(stderr, "whorl-stress: hangs: %llu coroutines started, %llu ended\n",
                (unsigned long long)count_get(&life.started),
                (unsigned long long)count_get(&life.ended));
        if (current)
            print_actors(current);
        abort();
    }
    pthread_mutex_unlock(&lock);
    return NULL;
}

void watch_begin(int seconds)
{
    limit_ns = now_ns() + seconds * WH_SECOND;
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&over, &attr);
    pthread_condattr_destroy(&attr);
    if (pthread_create(&watchdog, NULL, watch, NULL) != 0)
        abort();
}

void watch_round(const struct round *round)
{
    pthread_mutex_lock(&lock);
    current = round;
    pthread_mutex_unlock(&lock);
}

void watch_end(void)
{
    pthread_mutex_lock(&lock);
    is_over = true;
    pthread_cond_signal(&over);
    pthread_mutex_unlock(&lock);
    pthread_join(watchdog, NULL);
}
