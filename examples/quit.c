/*
 * quit.c: telling a coroutine to stop, with a channel and a select.
 *
 *     quit
 *
 * fibonacci() offers the next number to whoever wants one, and at the same time listens for being
 * told to quit. wh_select() waits for the first of the two, does that one alone, and returns its
 * number in the order in which the cases are written.
 *
 * Look at the last case. The ambient context can end any wait (ctx_tree.c), and then it is neither
 * of the two that has happened: the result is negative. A select without that case would go round
 * for ever then.
 */
#include <whorl.h>

#include <errno.h>
#include <stdio.h>

enum { COUNT = 10 };

static int fibonacci(WH_CHAN(int) numbers, WH_CHAN(bool) quit)
{
    int x = 0, y = 1, sent = 0;
    for (;;) {
        int which = wh_select(WH_SEND(numbers, &x), WH_RECV(quit, NULL));
        switch (which) {
        case 0: { /* somebody took x */
            int next = x + y;
            x = y;
            y = next;
            sent++;
            break;
        }
        case 1: puts("quit"); return sent;
        default: return which; /* -ETIMEDOUT, -ECANCELED: neither happened */
        }
    }
}

/* Takes some numbers, then says that these were enough. */
static int take(WH_CHAN(int) numbers, WH_CHAN(bool) quit, int *ret_last)
{
    for (int i = 0; i < COUNT; i++) {
        int rc = wh_chan_recv(numbers, ret_last);
        if (rc <= 0)
            return rc;
        printf("%d\n", *ret_last);
    }
    return wh_chan_send(quit, true);
}

static int app(void *arg)
{
    (void)arg;
    WH_CHAN(int) numbers = wh_chan_create(int, 0);
    WH_CHAN(bool) quit = wh_chan_create(bool, 0);
    int rc = -ENOMEM, sent = 0, last = 0;
    if (numbers && quit) {
        WH_WITH_GROUP(group, NULL)
        {
            rc = wh_group_go(group, take, numbers, quit, &last);
            if (rc == 0)
                sent = fibonacci(numbers, quit);
        }
    }
    wh_chan_unref(numbers);
    wh_chan_unref(quit);
    if (rc < 0)
        return rc;
    return sent == COUNT && last == 34 ? 0 : 1;
}

int main(void)
{
    return wh_run(app, NULL, NULL) != 0;
}
