/*
 * sanitizer.c: the fibers that ThreadSanitizer knows coroutines by, kept for the next ones.
 */
#include "stacks/sanitizer.h"

#ifdef WHORL_TSAN

#include <poll.h>
#include <pthread.h>
#include <signal.h>

enum { FIBERS_KEPT = 1024 };

static __thread void *kept[FIBERS_KEPT];
static __thread unsigned kept_count;
static __thread sigset_t mask; /* of the thread, during a switch */

/* Not those of faults, which kill while they are blocked. */
void sanitizer_signals_hold(void)
{
    sigset_t all;
    sigfillset(&all);
    sigdelset(&all, SIGSEGV);
    sigdelset(&all, SIGBUS);
    sigdelset(&all, SIGFPE);
    sigdelset(&all, SIGILL);
    pthread_sigmask(SIG_BLOCK, &all, &mask);
}

void sanitizer_signals_release(void)
{
    pthread_sigmask(SIG_SETMASK, &mask, NULL);
}

/* A fiber keeps signals back in a list that it makes at the first call that needs it. One that
 * comes while it is made is lost, before gcc 13: so it is made at once, with signals blocked. */
static void signal_list_make(void)
{
    (void)poll(NULL, 0, 0);
}

void sanitizer_thread_set(struct sanitizer *s)
{
    sanitizer_signals_hold();
    s->fiber = __tsan_get_current_fiber();
    signal_list_make();
    sanitizer_signals_release();
}

void *sanitizer_fiber_take(void)
{
    if (kept_count)
        return kept[--kept_count];
    sanitizer_signals_hold();
    void *self = __tsan_get_current_fiber();
    void *fiber = __tsan_create_fiber(0);
    __tsan_switch_to_fiber(fiber, 0);
    signal_list_make();
    __tsan_switch_to_fiber(self, 0);
    sanitizer_signals_release();
    return fiber;
}

/* It may be the running one, which cannot be destroyed: of too many, another one goes. */
void sanitizer_fiber_give(void *fiber)
{
    if (kept_count == FIBERS_KEPT)
        __tsan_destroy_fiber(kept[--kept_count]);
    kept[kept_count++] = fiber;
}

void sanitizer_fibers_finish(void)
{
    while (kept_count)
        __tsan_destroy_fiber(kept[--kept_count]);
}

#endif
