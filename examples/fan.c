/*
 * fan.c: fan-out and fan-in: several workers between two channels, and the first error ends all.
 *
 *     fan
 *
 *     source --> orders --> worker        --> receipts --> sum
 *                       \-> worker       /
 *                        \-> worker ----/
 *
 * All of them are members of one group, as in Go's errgroup. When one returns an error the group's
 * context is cancelled, so every send and receive of the others returns -ECANCELED and they leave,
 * too; wh_group_wait() returns that first error.
 *
 * Look at the second round: order 5 is bad, the worker that gets it fails, and what the source and
 * the others then return is dropped. And look at who closes the receipts: the worker that is the
 * last to leave, so that the sum knows when it has seen all.
 */
#include <whorl.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { WORKERS = 3, ORDERS = 20, SUM_OF_SQUARES = 2870 };

typedef WH_CHAN(int) int_chan;

struct round {
    int_chan orders, receipts;
    int bad;     /* the order that fails; 0: none */
    int working; /* workers that have not left */
    int cancelled;
    int sum;
};

/* Every member leaves through here. */
static int leave(struct round *round, int rc)
{
    if (rc == -ECANCELED)
        round->cancelled++;
    return rc;
}

static int source(struct round *round)
{
    int rc = 0;
    for (int i = 1; i <= ORDERS && rc == 0; i++)
        rc = wh_chan_send(round->orders, i);
    if (rc == 0)
        wh_chan_close(round->orders);
    return leave(round, rc);
}

static int square(int order, int bad)
{
    int rc = wh_sleep(WH_MILLISECOND); /* as if somebody were asked */
    if (rc < 0)
        return rc;
    return order == bad ? -EBADMSG : order * order;
}

static int worker(struct round *round)
{
    int order, rc;
    while ((rc = wh_chan_recv(round->orders, &order)) > 0) {
        if ((rc = square(order, round->bad)) < 0)
            break;
        if ((rc = wh_chan_send(round->receipts, rc)) < 0)
            break;
    }
    if (--round->working == 0)
        wh_chan_close(round->receipts);
    return leave(round, rc);
}

static int sum(struct round *round)
{
    int receipt, rc;
    while ((rc = wh_chan_recv(round->receipts, &receipt)) > 0)
        round->sum += receipt;
    return leave(round, rc);
}

static int start(wh_group *group, struct round *round)
{
    int rc = wh_group_go(group, source, round);
    for (; rc == 0 && round->working < WORKERS; round->working += rc == 0)
        rc = wh_group_go(group, worker, round);
    return rc < 0 ? rc : wh_group_go(group, sum, round);
}

/* Returns 0 when all has been done, or the first error. */
static int run(struct round *round)
{
    int rc = 0;
    WH_WITH_GROUP(group, NULL)
    {
        rc = start(group, round);
        if (rc < 0)
            wh_group_cancel(group, rc);
        rc = wh_group_wait(group);
    }
    return rc;
}

static int run_with_channels(struct round *round)
{
    round->orders = wh_chan_create(int, 0);
    round->receipts = wh_chan_create(int, 0);
    int rc = round->orders && round->receipts ? run(round) : -ENOMEM;
    wh_chan_unref(round->orders);
    wh_chan_unref(round->receipts);
    return rc;
}

static int app(void *arg)
{
    (void)arg;
    struct round good = {0};
    int rc = run_with_channels(&good);
    printf("all good:    %s, the sum is %d\n", rc == 0 ? "done" : strerror(-rc), good.sum);
    bool ok = rc == 0 && good.sum == SUM_OF_SQUARES && good.cancelled == 0;

    struct round bad = {.bad = 5};
    rc = run_with_channels(&bad);
    printf("order 5 bad: %s, %d others were cancelled\n", rc == 0 ? "done" : strerror(-rc),
           bad.cancelled);
    /* The source, the sum and the workers but one. */
    ok &= rc == -EBADMSG && bad.cancelled == 1 + 1 + WORKERS - 1;
    return ok ? 0 : 1;
}

int main(void)
{
    /* One worker: the coroutines share plain variables, and take turns. */
    const wh_options one_worker = {.workers = 1};
    return wh_run(app, NULL, &one_worker) != 0;
}
