/*
 * leak.c: a coroutine that waits for ever, and three cures.
 *
 *     leak
 *
 * answer() sends on an unbuffered channel. When whoever asked has gone meanwhile, nobody will ever
 * receive: the coroutine and its stack stay until the run ends. wh_stats_get() shows it.
 *
 * Look at the cures, each a line or a block:
 *   timeout   around the send, in the coroutine that might leak;
 *   select    between the send and a channel that is closed when nobody listens any more;
 *   context   around the asking: the end of its block cancels what was started in it. This one
 *             needs no change in answer(), because every call obeys the context.
 *
 * Look also at wh_chan_ref(): a coroutine that may outlive its starter holds the channel itself.
 */
#include <whorl.h>

#include <errno.h>
#include <stdio.h>

typedef WH_CHAN(int) int_chan;

static void answer(int_chan out, int *cancelled)
{
    if (wh_chan_send(out, 42) == -ECANCELED)
        ++*cancelled;
    wh_chan_unref(out);
}

static int start_answer(int_chan out, int *cancelled)
{
    int rc = wh_go(answer, wh_chan_ref(out), cancelled);
    if (rc < 0)
        wh_chan_unref(out); /* not started: it will not do it itself */
    else
        wh_yield(); /* until it waits */
    return rc;
}

static int answer_in_time(int_chan out)
{
    int rc = 0;
    WH_WITH_TIMEOUT(20 * WH_MILLISECOND)
    {
        rc = wh_chan_send(out, 42);
    }
    return rc;
}

static int answer_or_quit(int_chan out, WH_CHAN(bool) quit)
{
    int value = 42;
    return wh_select(WH_SEND(out, &value), WH_RECV(quit, NULL));
}

static int by_timeout(int_chan out)
{
    wh_coro *coro;
    intptr_t result = 0;
    int rc = wh_spawn(&coro, NULL, answer_in_time, out);
    if (rc == 0)
        rc = wh_join(coro, &result);
    return rc == 0 && result != -ETIMEDOUT ? -EPROTO : rc;
}

static int by_select(int_chan out)
{
    WH_CHAN(bool) quit = wh_chan_create(bool, 0);
    if (!quit)
        return -ENOMEM;
    wh_coro *coro;
    intptr_t which = -1;
    int rc = wh_spawn(&coro, NULL, answer_or_quit, out, quit);
    if (rc == 0) {
        wh_yield();          /* until it waits */
        wh_chan_close(quit); /* a close is heard by all who receive, however many there are */
        rc = wh_join(coro, &which);
    }
    wh_chan_unref(quit);
    return rc == 0 && which != 1 ? -EPROTO : rc;
}

static int by_context(int_chan out, int *cancelled)
{
    int rc = 0;
    WH_WITH_CANCEL(ctx)
    rc = start_answer(out, cancelled);
    wh_yield(); /* until it has left */
    return rc;
}

static uint64_t living(void)
{
    wh_stats stats;
    wh_stats_get(&stats);
    return stats.coros_live;
}

/* Says how many coroutines stayed; returns whether that is as expected. */
static bool report(const char *cure, int rc, uint64_t before, uint64_t expected)
{
    uint64_t stayed = living() - before;
    printf("%-9s %s, %d stayed\n", cure, rc < 0 ? "failed" : "done", (int)stayed);
    return rc >= 0 && stayed == expected;
}

static int app(void *arg)
{
    int *cancelled = arg;
    int_chan out = wh_chan_create(int, 0); /* nobody receives from it */
    if (!out)
        return -ENOMEM;

    uint64_t before = living();
    bool ok = report("timeout:", by_timeout(out), before, 0);
    ok &= report("select:", by_select(out), before, 0);
    ok &= report("context:", by_context(out, cancelled), before, 0);
    ok &= *cancelled == 1;
    ok &= report("no cure:", start_answer(out, cancelled), before, 1);

    wh_chan_unref(out);
    return ok ? 0 : 1;
}

int main(void)
{
    int cancelled = 0;
    /* One worker: what has stayed is counted, and a coroutine ends in its turn. */
    const wh_options one_worker = {.workers = 1};
    bool ok = wh_run(app, &cancelled, &one_worker) == 0;
    printf("the end of the run ended what stayed: %s\n", cancelled == 2 ? "yes" : "no");
    return !ok || cancelled != 2;
}
