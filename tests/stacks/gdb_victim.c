/*
 * gdb_victim.c: a program for gdb_test.sh to stop in: a chain of calls in a coroutine that has been
 * switched away from and back, beside another one.
 */
#include <whorl.h>

#include <stdio.h>

static volatile int reached;

__attribute__((noinline)) static void stop_here(int depth)
{
    reached = depth; /* the breakpoint */
}

__attribute__((noinline)) static int descend(int depth)
{
    if (depth > 0) {
        int below = descend(depth - 1);
        return below + reached;
    }
    wh_yield();
    stop_here(depth);
    return reached;
}

static void chatter(int rounds)
{
    for (int i = 0; i < rounds; i++)
        wh_yield();
}

static int victim(int depth)
{
    return descend(depth) + reached;
}

static int root(void *arg)
{
    wh_coro *coro;
    intptr_t value;
    (void)arg;
    int rc = wh_go(chatter, 10);
    if (rc == 0)
        rc = wh_spawn(&coro, NULL, victim, 3);
    if (rc == 0)
        rc = wh_join(coro, &value);
    return rc;
}

int main(void)
{
    int rc = wh_run(root, NULL, NULL);
    printf("ended with %d\n", rc);
    return rc < 0 ? 1 : 0;
}
