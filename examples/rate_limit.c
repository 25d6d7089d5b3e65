/*
 * rate_limit.c: no more than so many requests in a time, evenly, and with room for a burst.
 *
 *     rate_limit
 *
 * Evenly: one tick of a timer is waited for before each request.
 *
 * In bursts: a channel holds the permits. It is full at first, and the ticks fill it up again; a
 * permit for which there is no room is dropped by wh_chan_try_send(). Whoever wants to make a
 * request receives one.
 *
 * Look at the ticks: they come at start + n * period in absolute time, so the rate does not drift
 * by what the work between two ticks takes, and one that is late does not push back the next.
 */
#include <whorl.h>

#include <errno.h>
#include <stdio.h>

enum { REQUESTS = 10, BURST = 3 };
static const int64_t period_ns = 20 * WH_MILLISECOND;

/* When each request was made, from the limiter's start on. */
struct record {
    int64_t start_ns;
    int64_t at_ns[REQUESTS];
};

static void request(struct record *record, int number)
{
    record->at_ns[number] = wh_now() - record->start_ns;
}

static int evenly(struct record *record)
{
    record->start_ns = wh_now();
    wh_timer *every = wh_timer_create(period_ns, period_ns);
    if (!every)
        return -ENOMEM;
    int rc = 0;
    for (int i = 0; i < REQUESTS && rc == 0; i++)
        if ((rc = wh_timer_wait(every)) == 0)
            request(record, i);
    wh_timer_destroy(every);
    return rc;
}

/* Adds a permit with every tick, until it is cancelled. */
static int refill(WH_CHAN(bool) permits)
{
    wh_timer *every = wh_timer_create(period_ns, period_ns);
    if (!every)
        return -ENOMEM;
    int rc;
    while ((rc = wh_timer_wait(every)) == 0)
        wh_chan_try_send(permits, true);
    wh_timer_destroy(every);
    return rc;
}

static int request_all(WH_CHAN(bool) permits, struct record *record)
{
    for (int i = 0; i < REQUESTS; i++) {
        int rc = wh_chan_recv(permits, NULL);
        if (rc < 0)
            return rc;
        request(record, i);
    }
    return 0;
}

static int in_bursts(struct record *record)
{
    WH_CHAN(bool) permits = wh_chan_create(bool, BURST);
    if (!permits)
        return -ENOMEM;
    while (wh_chan_try_send(permits, true) == 0)
        ; /* full at first */
    int rc = 0;
    record->start_ns = wh_now();
    WH_WITH_GROUP(group, NULL)
    {
        rc = wh_group_go(group, refill, permits);
        if (rc == 0)
            rc = request_all(permits, record);
        wh_group_cancel(group, 0); /* ends refill() */
    }
    wh_chan_unref(permits);
    return rc;
}

/* Prints when the requests came. Returns whether none came before there was a permit for it: of the
 * first `burst` at the start, and of one more at each multiple of the period. */
static bool rate_held(const char *how, const struct record *record, int burst)
{
    bool held = true;
    printf("%s:", how);
    for (int i = 0; i < REQUESTS; i++) {
        int64_t earliest_ns = i < burst ? 0 : (i - burst + 1) * period_ns;
        held &= record->at_ns[i] >= earliest_ns;
        printf(" %lld", (long long)(record->at_ns[i] / WH_MILLISECOND));
    }
    printf(" ms, the rate %s\n", held ? "held" : "was exceeded");
    return held;
}

static int app(void *arg)
{
    (void)arg;
    struct record even = {0}, bursts = {0};
    int rc = evenly(&even);
    if (rc == 0)
        rc = in_bursts(&bursts);
    if (rc < 0)
        return rc;
    bool held = rate_held("evenly", &even, 0);
    held &= rate_held("in bursts", &bursts, BURST);
    return held ? 0 : 1;
}

int main(void)
{
    return wh_run(app, NULL, NULL) != 0;
}
