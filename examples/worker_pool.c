/*
 * worker_pool.c: a few workers share many jobs: with channels by hand, and with wh_pool.
 *
 *     worker_pool
 *
 * By hand: all workers receive from one channel, so a job goes to whoever is free; closing that
 * channel ends each of them once the jobs are taken. The results come back through another one.
 *
 * With wh_pool: the workers and the queue are there already. wh_pool_submit() queues a call, and
 * wh_pool_destroy() waits for all that are queued.
 *
 * Look at how the channel of results is given room for all of them: the workers never wait to send,
 * so nobody needs to receive while the jobs are still being sent.
 */
#include <whorl.h>

#include <errno.h>
#include <stdio.h>

enum { WORKERS = 3, JOBS = 9, SUM = 2 * 45 }; /* each of 1 to 9, doubled */

static int work(WH_CHAN(int) jobs, WH_CHAN(int) results)
{
    int rc, job;
    while ((rc = wh_chan_recv(jobs, &job)) > 0) {
        if ((rc = wh_sleep(10 * WH_MILLISECOND)) < 0) /* the work itself */
            break;
        if ((rc = wh_chan_send(results, 2 * job)) < 0)
            break;
    }
    return rc;
}

static int send_jobs(WH_CHAN(int) jobs)
{
    int rc = 0;
    for (int job = 1; job <= JOBS && rc == 0; job++)
        rc = wh_chan_send(jobs, job);
    wh_chan_close(jobs);
    return rc;
}

static int share_out(WH_CHAN(int) jobs, WH_CHAN(int) results)
{
    int rc = 0;
    WH_WITH_GROUP(group, NULL)
    {
        for (int i = 0; i < WORKERS && rc == 0; i++)
            rc = wh_group_go(group, work, jobs, results);
        if (rc == 0)
            rc = send_jobs(jobs);
        if (rc == 0)
            rc = wh_group_wait(group);
    }
    return rc;
}

/* Returns the sum of the results, or an error. */
static int by_hand(void)
{
    WH_CHAN(int) jobs = wh_chan_create(int, 0);
    WH_CHAN(int) results = wh_chan_create(int, JOBS);
    int rc = jobs && results ? share_out(jobs, results) : -ENOMEM;
    int sum = 0, result;
    if (rc == 0) {
        wh_chan_close(results);
        while (wh_chan_recv(results, &result) > 0)
            sum += result;
    }
    wh_chan_unref(jobs);
    wh_chan_unref(results);
    return rc < 0 ? rc : sum;
}

/* One job of the pool. */
static void add_double(int job, int *sum)
{
    if (wh_sleep(10 * WH_MILLISECOND) == 0)
        *sum += 2 * job;
}

/* The same with a pool: here a job is a call. */
static int with_pool(void)
{
    int rc = 0, sum = 0;
    wh_pool *pool = wh_pool_create(WORKERS, 0);
    if (!pool)
        return -ENOMEM;
    for (int job = 1; job <= JOBS && rc == 0; job++)
        rc = wh_pool_submit(pool, add_double, job, &sum);
    wh_pool_destroy(pool); /* waits for all of them, so sum may be ours */
    return rc < 0 ? rc : sum;
}

static int app(void *arg)
{
    (void)arg;
    int hand = by_hand();
    int pool = with_pool();
    printf("by hand:      %d workers, %d jobs, the sum of the results is %d\n", WORKERS, JOBS,
           hand);
    printf("with wh_pool: %d workers, %d jobs, the sum of the results is %d\n", WORKERS, JOBS,
           pool);
    return hand == SUM && pool == SUM ? 0 : 1;
}

int main(void)
{
    /* One worker: the coroutines share plain variables, and take turns. */
    const wh_options one_worker = {.workers = 1};
    return wh_run(app, NULL, &one_worker) != 0;
}
