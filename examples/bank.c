/*
 * bank.c: a bank account that loses money, and two that do not.
 *
 *     bank
 *
 * The coroutines of a run with one worker take turns on one thread. Nothing happens between two
 * lines of C unless a call between them may park; wh_yield() stands here for any such call: a read,
 * a send, a sleep. With several workers, which is the default, they run at the same time, and only
 * the second way below is right.
 *
 * Look at the three ways to make a deposit:
 *   hasty     reads the balance, parks, and writes back a sum that is out of date by then;
 *   locked    does the same with a mutex held from the read to the write;
 *   straight  does not park between the two, and needs no lock.
 */
#include <whorl.h>

#include <stdio.h>

enum { DEPOSITS = 100 };

struct account {
    int balance;
    wh_mutex mutex;
};

static void deposit_hasty(struct account *account)
{
    int balance = account->balance;
    wh_yield(); /* the others read the same balance now */
    account->balance = balance + 1;
}

static void deposit_locked(struct account *account)
{
    WH_LOCKED(&account->mutex)
    {
        int balance = account->balance;
        wh_yield(); /* the others wait for the mutex */
        account->balance = balance + 1;
    }
}

static void deposit_straight(struct account *account)
{
    int balance = account->balance;
    account->balance = balance + 1;
    wh_yield();
}

/* Makes all deposits, each in a coroutine of its own. Returns the balance, or an error. */
static int balance_after(void (*deposit)(struct account *))
{
    struct account account = {0};
    int rc = 0;
    WH_WITH_GROUP(group, NULL)
    for (int i = 0; i < DEPOSITS && rc == 0; i++)
        rc = wh_group_go(group, deposit, &account);
    return rc < 0 ? rc : account.balance;
}

static int app(void *arg)
{
    (void)arg;
    int hasty = balance_after(deposit_hasty);
    int locked = balance_after(deposit_locked);
    int straight = balance_after(deposit_straight);
    printf("hasty:    %d deposits of 1 make %d\n", DEPOSITS, hasty);
    printf("locked:   %d deposits of 1 make %d\n", DEPOSITS, locked);
    printf("straight: %d deposits of 1 make %d\n", DEPOSITS, straight);
    return hasty > 0 && hasty < DEPOSITS && locked == DEPOSITS && straight == DEPOSITS ? 0 : 1;
}

int main(void)
{
    const wh_options one_worker = {.workers = 1};
    return wh_run(app, NULL, &one_worker) != 0;
}
