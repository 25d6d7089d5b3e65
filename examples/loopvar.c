/*
 * loopvar.c: what a coroutine gets to see of a loop variable.
 *
 *     loopvar
 *
 * The arguments of wh_go(), wh_spawn() and wh_group_go() are evaluated and copied when the
 * coroutine is started, as those of Go's `go f(x)` are. So a loop variable can be passed as it is.
 * A pointer is copied, too, and what it points at is not: a coroutine that is given the address of
 * the loop variable finds there whatever the loop has made of it by the time the coroutine runs.
 *
 * Look at the two loops. The groups are there to wait for all that the loop started.
 */
#include <whorl.h>

#include <stdio.h>

enum { COUNT = 4 };

struct notes {
    int values[COUNT];
    int count;
};

static void note(int value, struct notes *notes)
{
    notes->values[notes->count++] = value;
}

static void note_pointed_at(const int *value, struct notes *notes)
{
    notes->values[notes->count++] = *value;
}

static int by_value(struct notes *notes)
{
    int rc = 0;
    WH_WITH_GROUP(group, NULL)
    for (int i = 0; i < COUNT && rc == 0; i++)
        rc = wh_group_go(group, note, i, notes);
    return rc;
}

/* The mistake. That i lives outside the block at least keeps the pointer from dangling. */
static int by_address(struct notes *notes)
{
    int rc = 0;
    int i = 0;
    WH_WITH_GROUP(group, NULL)
    for (; i < COUNT && rc == 0; i++)
        rc = wh_group_go(group, note_pointed_at, &i, notes);
    return rc;
}

static void print(const char *how, const struct notes *notes)
{
    printf("%-10s", how);
    for (int i = 0; i < notes->count; i++)
        printf(" %d", notes->values[i]);
    puts("");
}

static int app(void *arg)
{
    (void)arg;
    struct notes copied = {0}, pointed_at = {0};
    int rc = by_value(&copied);
    if (rc == 0)
        rc = by_address(&pointed_at);
    if (rc < 0)
        return rc;
    print("value:", &copied);
    print("address:", &pointed_at);

    for (int i = 0; i < COUNT; i++)
        if (copied.values[i] != i || pointed_at.values[i] != COUNT)
            return 1;
    return copied.count == COUNT && pointed_at.count == COUNT ? 0 : 1;
}

int main(void)
{
    /* One worker: the coroutines share plain variables, and take turns. */
    const wh_options one_worker = {.workers = 1};
    return wh_run(app, NULL, &one_worker) != 0;
}
