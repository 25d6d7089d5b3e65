/*
 * blocking.c: calls on threads of their own, whose callers may have left, or moved, when they end.
 */
#include "stress.h"

#include <time.h>

/* What the last call of all has to say may come when its actor is gone: the process's. */
static counter called;

static int compute(int64_t ns, int a, int b)
{
    struct timespec ts = {.tv_nsec = ns};
    if (ns)
        nanosleep(&ts, NULL); /* time itself, on the thread that the call has */
    count_add(&called, 1);
    return a + b;
}

static void blocking_step(struct actor *a)
{
    int64_t ns = rng_one_in(&a->rng, 2) ? 0 : rng_time_ns(&a->rng, 10);
    int left = rng_from_to(&a->rng, 1, 1000), right = rng_from_to(&a->rng, 1, 1000);
    intptr_t sum = -1;
    uint64_t before = count_get(&called);
    doing(a, "waits for a call on another thread");
    int rc = wh_blocking(&sum, compute, ns, left, right);
    CHECK(rc == 0 || ended_early(rc), "a blocking call returned %d", rc);
    if (rc == 0) {
        CHECK(sum == left + right, "%d + %d is %d", left, right, (int)sum);
        CHECK(count_get(&called) > before, "a call that has returned was not made");
    } else {
        CHECK(sum == -1, "a call that was left wrote its result");
    }
}

const struct kind blocking_kind = {
    .name = "blocking",
    .step = blocking_step,
    .closed = true,
};
