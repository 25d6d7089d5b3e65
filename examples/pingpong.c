/*
 * pingpong.c: two players, one ball, and what happens when it does not come back.
 *
 *     pingpong
 *
 * The table is two unbuffered channels, one for each direction: a send returns when the other side
 * has taken the ball. Each player waits for it at most so long. After some strokes one player lets
 * it go, the other waits in vain, and its receive returns -ETIMEDOUT.
 *
 * Look at WH_WITH_TIMEOUT: receiving and sending stand in one block, and one limit holds for both
 * together. It is set anew with every stroke, because every stroke enters the block anew.
 */
#include <whorl.h>

#include <errno.h>
#include <stdio.h>

enum { STROKES = 8 };
static const int64_t patience_ns = 300 * WH_MILLISECOND;

typedef WH_CHAN(int) ball_chan;

/* Returns every ball until `last`, which it lets go. Returns 0 then, or why it ended before. */
static int play(const char *name, ball_chan from, ball_chan to, int last)
{
    int ball = 0, rc = 0;
    while (ball < last) {
        WH_WITH_TIMEOUT(patience_ns)
        {
            rc = wh_chan_recv(from, &ball);
            if (rc > 0 && ball < last) {
                printf("%s %d\n", name, ball);
                rc = wh_chan_send(to, ball + 1);
            }
        }
        if (rc < 0)
            return rc;
    }
    printf("%s lets %d go\n", name, ball);
    return 0;
}

/* Serves the first ball. Returns how the other player's game ended. */
static int match(ball_chan left, ball_chan right)
{
    wh_coro *ping, *pong;
    intptr_t ping_end = 0, pong_end = 0;
    int rc = wh_spawn(&ping, NULL, play, "ping", left, right, STROKES + 1);
    if (rc < 0)
        return rc;
    rc = wh_spawn(&pong, NULL, play, "pong", right, left, STROKES);
    if (rc < 0) {
        wh_cancel(ping);
        wh_join(ping, NULL);
        return rc;
    }
    rc = wh_chan_send(left, 1);
    wh_join(pong, &pong_end);
    wh_join(ping, &ping_end);
    if (rc < 0 || pong_end < 0)
        return rc < 0 ? rc : (int)pong_end;
    return (int)ping_end;
}

static int app(void *arg)
{
    (void)arg;
    ball_chan left = wh_chan_create(int, 0);
    ball_chan right = wh_chan_create(int, 0);
    int64_t start = wh_now();
    int end = left && right ? match(left, right) : -ENOMEM;
    wh_chan_unref(left);
    wh_chan_unref(right);
    if (end != -ETIMEDOUT)
        return end < 0 ? end : 1;
    printf("ping waited in vain\n");
    return wh_now() - start >= patience_ns ? 0 : 1;
}

int main(void)
{
    return wh_run(app, NULL, NULL) != 0;
}
