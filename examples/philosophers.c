/*
 * philosophers.c: five philosophers, five forks, and two for each plate of spaghetti.
 *
 *     philosophers
 *
 * At the first table everybody takes the left fork, and then the right one: all left forks are
 * taken, each waits for a neighbour, and that for ever. A run notices when all its coroutines wait
 * for each other and nothing else can come: it says so on standard error, with the name of each and
 * the call it waits in, cancels them, and wh_run() returns -EDEADLK.
 *
 * At the second table everybody takes the fork with the lower number first. The circle is broken,
 * because the last philosopher's first fork is the right one, and all eat.
 *
 * Look at eat(): the two tables differ only in the order of its two locks. The first table's
 * philosophers get up again because a lock that is cancelled says so, and because each lays down
 * what it holds whatever came.
 */
#include <whorl.h>

#include <errno.h>
#include <stdio.h>

enum { SEATS = 5, MEALS = 20 };

struct table {
    wh_mutex forks[SEATS];
    int hands[SEATS]; /* on each fork */
    int meals[SEATS];
    bool shared; /* whether a fork was in two hands at once */
};

static void use(struct table *table, int seat, int fork, int other)
{
    table->shared |= ++table->hands[fork] > 1;
    table->shared |= ++table->hands[other] > 1;
    wh_yield();
    table->meals[seat]++;
    table->hands[fork]--;
    table->hands[other]--;
}

/* Takes both forks in this order, eats, and lays them down. */
static int eat(struct table *table, int seat, int first, int second)
{
    int rc = wh_mutex_lock(&table->forks[first]);
    if (rc < 0)
        return rc;
    wh_yield(); /* the neighbours reach for theirs */
    rc = wh_mutex_lock(&table->forks[second]);
    if (rc == 0) {
        use(table, seat, first, second);
        wh_mutex_unlock(&table->forks[second]);
    }
    wh_mutex_unlock(&table->forks[first]);
    return rc;
}

static void take_name(int seat)
{
    static const char *const names[SEATS] = {"Hypatia", "Plato", "Zeno", "Diotima", "Thales"};
    wh_name_set(names[seat]);
}

static int left_first(struct table *table, int seat)
{
    int rc = 0;
    take_name(seat);
    for (int i = 0; i < MEALS && rc == 0; i++)
        rc = eat(table, seat, seat, (seat + 1) % SEATS);
    return rc;
}

static int lower_first(struct table *table, int seat)
{
    int left = seat, right = (seat + 1) % SEATS, rc = 0;
    take_name(seat);
    for (int i = 0; i < MEALS && rc == 0; i++)
        rc = eat(table, seat, left < right ? left : right, left < right ? right : left);
    return rc;
}

static int dine(struct table *table, int (*philosopher)(struct table *, int))
{
    int rc = 0;
    WH_WITH_GROUP(group, NULL)
    {
        for (int seat = 0; seat < SEATS && rc == 0; seat++)
            rc = wh_group_go(group, philosopher, table, seat);
        if (rc < 0)
            wh_group_cancel(group, rc);
        rc = wh_group_wait(group);
    }
    return rc;
}

static int first_table(void *arg)
{
    return dine(arg, left_first);
}

static int second_table(void *arg)
{
    return dine(arg, lower_first);
}

static int meals(const struct table *table)
{
    int sum = 0;
    for (int i = 0; i < SEATS; i++)
        sum += table->meals[i];
    return sum;
}

int main(void)
{
    /* They take turns, so that the deadlock comes for sure and not by chance. */
    const wh_options one_worker = {.workers = 1};
    struct table first = {0}, second = {0};
    int deadlock = wh_run(first_table, &first, &one_worker);
    printf("left fork first:  %d meals, %s\n", meals(&first),
           deadlock == -EDEADLK ? "deadlock" : "no deadlock");
    int rc = wh_run(second_table, &second, &one_worker);
    printf("lower fork first: %d meals, %s\n", meals(&second),
           rc == 0 ? "no deadlock" : "it failed");

    if (deadlock != -EDEADLK || meals(&first) != 0)
        return 1;
    return rc != 0 || meals(&second) != SEATS * MEALS || second.shared;
}
