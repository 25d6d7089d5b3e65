/*
 * waitgroup.c: waiting until several coroutines are done.
 *
 *     waitgroup
 *
 * A wait group counts what is still to come: the starter adds one for each coroutine before it
 * starts it, each coroutine takes its one off when it is done, and wh_waitgroup_wait() parks until
 * none is left. Zeroed memory is a wait group, as Go's zero value is one.
 *
 * Look at where the one is added: by the starter, before the start. Added by the coroutine itself
 * it would come too late for a starter that waits at once.
 *
 * A wait group only counts. When the coroutines can fail, or are to end together, take a group
 * (fan.c).
 */
#include <whorl.h>

#include <stdio.h>

enum { WORKERS = 5 };

struct work {
    wh_waitgroup left;
    int squares[WORKERS];
    int done;
};

static void square(int i, struct work *work)
{
    printf("worker %d starts\n", i);
    if (wh_sleep((WORKERS - i) * 10 * WH_MILLISECOND) == 0) {
        work->squares[i] = i * i;
        work->done++;
    }
    wh_waitgroup_done(&work->left);
}

static int app(void *arg)
{
    (void)arg;
    struct work work = {0};
    for (int i = 0; i < WORKERS; i++) {
        wh_waitgroup_add(&work.left, 1);
        if (wh_go(square, i, &work) < 0)
            wh_waitgroup_done(&work.left); /* not started: it will not do it itself */
    }
    printf("waiting, %d done\n", work.done);
    int rc = 0;
    WH_SHIELD /* they use this frame: the wait must not end before they do */
        rc = wh_waitgroup_wait(&work.left);
    if (rc < 0)
        return rc;

    int sum = 0;
    for (int i = 0; i < WORKERS; i++)
        sum += work.squares[i];
    printf("all %d done, the sum of their squares is %d\n", work.done, sum);
    return work.done == WORKERS && sum == 0 + 1 + 4 + 9 + 16 ? 0 : 1;
}

int main(void)
{
    /* One worker: the coroutines share plain variables, and take turns. */
    const wh_options one_worker = {.workers = 1};
    return wh_run(app, NULL, &one_worker) != 0;
}
