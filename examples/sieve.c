/*
 * sieve.c: the prime sieve: a chain of coroutines with a channel between each and the next.
 *
 *     sieve
 *
 * generate() sends 2, 3, 4... into a channel. The first number that comes out of the chain's end is
 * a prime; a filter that drops its multiples is put there, and its output is the chain's new end.
 * The hundredth prime comes through a chain of ninety-nine filters.
 *
 * Look at how it ends. The numbers never do, and the filters wait on each other: the group is
 * cancelled, every send and receive in it returns -ECANCELED, and the block's end waits until all
 * have left. Look also at who holds a channel: each coroutine has a reference to the two it uses
 * and gives it back; the last one frees the channel.
 */
#include <whorl.h>

#include <errno.h>
#include <stdio.h>

enum { PRIMES = 100, PRIMES_SUM = 24133 }; /* the sum of the first hundred */

typedef WH_CHAN(int) int_chan;

static int generate(int_chan out)
{
    int rc = 0;
    for (int i = 2; rc == 0; i++)
        rc = wh_chan_send(out, i);
    wh_chan_unref(out);
    return rc;
}

static int filter(int_chan in, int_chan out, int prime)
{
    int rc, number;
    while ((rc = wh_chan_recv(in, &number)) > 0)
        if (number % prime != 0 && (rc = wh_chan_send(out, number)) < 0)
            break;
    wh_chan_unref(in);
    wh_chan_unref(out);
    return rc;
}

/* Starts generate(). Returns its output, a reference for the caller, or NULL. */
static int_chan start_generate(wh_group *group)
{
    int_chan out = wh_chan_create(int, 0);
    if (out && wh_group_go(group, generate, wh_chan_ref(out)) < 0) {
        wh_chan_unref(out);
        wh_chan_unref(out);
        return NULL;
    }
    return out;
}

/* Puts a filter behind `in`, whose reference it takes over. Returns as start_generate(). */
static int_chan start_filter(wh_group *group, int_chan in, int prime)
{
    int_chan out = wh_chan_create(int, 0);
    if (!out || wh_group_go(group, filter, in, wh_chan_ref(out), prime) < 0) {
        wh_chan_unref(in);
        wh_chan_unref(out);
        wh_chan_unref(out);
        return NULL;
    }
    return out;
}

static int first_primes(wh_group *group, int *primes)
{
    int rc = -ENOMEM;
    int_chan end = start_generate(group);
    for (int i = 0; end && i < PRIMES; i++) {
        rc = wh_chan_recv(end, &primes[i]);
        if (rc < 0)
            break;
        end = start_filter(group, end, primes[i]);
        rc = end ? 0 : -ENOMEM;
    }
    wh_chan_unref(end);
    return rc;
}

static int app(void *arg)
{
    (void)arg;
    int primes[PRIMES];
    int rc = 0;
    WH_WITH_GROUP(group, NULL)
    {
        rc = first_primes(group, primes);
        wh_group_cancel(group, 0);
    }
    if (rc < 0)
        return rc;

    int sum = 0;
    for (int i = 0; i < PRIMES; i++) {
        printf("%d%c", primes[i], i % 10 == 9 ? '\n' : ' ');
        sum += primes[i];
    }
    return sum == PRIMES_SUM ? 0 : 1;
}

int main(void)
{
    return wh_run(app, NULL, NULL) != 0;
}
