/*
 * exchange.c: channels that all actors of the kind send to and receive from, one at a time, by
 * trying, and by selects over several. Each item is in the ledger.
 */
#include "stress.h"

enum { CHANNELS = 6, CASES_MAX = 6, ITEMS_MAX = 1 << 19 };

struct exchange {
    WH_CHAN(struct item) channels[CHANNELS];
    struct ledger ledger;
};

static const unsigned capacities[CHANNELS] = {0, 0, 1, 3, 16, 200};

static void exchange_begin(struct round *r, void *shared)
{
    (void)r;
    struct exchange *x = shared;
    ledger_open(&x->ledger, ITEMS_MAX);
    for (int i = 0; i < CHANNELS; i++) {
        x->channels[i] = wh_chan_create(struct item, capacities[i]);
        CHECK(x->channels[i], "no memory for a channel");
    }
}

/* What is still in the buffers counts as received; nobody waits any more. */
static void exchange_end(void *shared)
{
    struct exchange *x = shared;
    struct item item;
    for (int i = 0; i < CHANNELS; i++) {
        WH_CHAN(struct item) ch = x->channels[i];
        size_t left = wh_chan_len(ch), came = 0;
        if (i % 2)
            wh_chan_close(ch);
        int rc;
        while ((rc = i % 2 ? wh_chan_recv(ch, &item) : wh_chan_try_recv(ch, &item)) == 1) {
            ledger_received(&x->ledger, &item);
            came++;
        }
        CHECK(rc == (i % 2 ? 0 : -EAGAIN), "an empty channel returned %d", rc);
        CHECK(came == left, "%zu elements were in a buffer that said %zu", came, left);
        wh_chan_unref(ch);
    }
}

static void exchange_check(void *shared)
{
    struct exchange *x = shared;
    ledger_close(&x->ledger, "exchange", false);
}

static void send_some(struct actor *a, struct exchange *x, WH_CHAN(struct item) ch)
{
    struct item item;
    for (int left = rng_from_to(&a->rng, 1, 20); left > 0; left--) {
        if (!ledger_item(&x->ledger, &item, (uint64_t)a->number, (uint64_t)left))
            return;
        bool try = rng_one_in(&a->rng, 4);
        doing(a, "sends");
        int rc = try                      ? wh_chan_try_send(ch, item)
                 : rng_one_in(&a->rng, 2) ? wh_chan_send(ch, item)
                                          : wh_chan_send_from(ch, &item);
        CHECK(rc == 0 || (try ? rc == -EAGAIN : ended_early(rc)), "a send returned %d", rc);
        ledger_sent(&x->ledger, &item, rc);
        if (rc < 0)
            return;
    }
}

static void receive_some(struct actor *a, struct exchange *x, WH_CHAN(struct item) ch)
{
    for (int left = rng_from_to(&a->rng, 1, 20); left > 0; left--) {
        struct item item = {.id = UINT64_MAX};
        bool try = rng_one_in(&a->rng, 4);
        doing(a, "receives");
        int rc = try ? wh_chan_try_recv(ch, &item) : wh_chan_recv(ch, &item);
        CHECK(rc == 1 || (try ? rc == -EAGAIN : ended_early(rc)), "a receive returned %d", rc);
        if (rc != 1) {
            CHECK(item.id == UINT64_MAX, "a receive that returned %d wrote an item", rc);
            return;
        }
        ledger_received(&x->ledger, &item);
    }
}

struct choice {
    WH_CHAN(struct item) ch;
    struct item item;
    bool sends;
    bool ok;
};

/* A case that sends needs an item; without one it receives. */
static wh_case choose(struct actor *a, struct exchange *x, struct choice *choice, int number)
{
    choice->ch = x->channels[rng_below(&a->rng, CHANNELS)];
    choice->ok = false;
    choice->sends = rng_one_in(&a->rng, 2) &&
                    ledger_item(&x->ledger, &choice->item, (uint64_t)a->number, (uint64_t)number);
    return choice->sends ? WH_SEND(choice->ch, &choice->item)
                         : WH_RECV_OK(choice->ch, &choice->item, &choice->ok);
}

static void select_once(struct actor *a, struct exchange *x)
{
    struct choice choices[CASES_MAX];
    wh_case cases[CASES_MAX + 1];
    int count = rng_from_to(&a->rng, 1, CASES_MAX);
    for (int i = 0; i < count; i++)
        cases[i] = choose(a, x, &choices[i], i);
    bool looks = rng_one_in(&a->rng, 4);
    cases[count] = looks ? WH_DEFAULT : WH_AFTER(rng_time_ns(&a->rng, 11));

    doing(a, "selects");
    int rc = wh_select_n(cases, count + 1);
    CHECK((rc >= 0 && rc <= count) || ended_early(rc), "a select of %d returned %d", count, rc);
    for (int i = 0; i < count; i++) {
        if (choices[i].sends)
            ledger_sent(&x->ledger, &choices[i].item, rc == i ? 0 : -EAGAIN);
        else if (rc == i)
            ledger_received(&x->ledger, &choices[i].item);
        CHECK(choices[i].sends || choices[i].ok == (rc == i), "case %d of a select says ok %d", i,
              choices[i].ok);
    }
}

static void exchange_step(struct actor *a)
{
    struct exchange *x = shared_of(a);
    WH_CHAN(struct item) ch = x->channels[rng_below(&a->rng, CHANNELS)];
    /* Seldom without a limit: all of them may want the same. */
    WH_WITH_TIMEOUT(rng_one_in(&a->rng, 8) ? WH_HOUR : rng_time_ns(&a->rng, 13))
    switch (rng_below(&a->rng, 4)) {
    case 0: send_some(a, x, ch); break;
    case 1: receive_some(a, x, ch); break;
    default:
        for (int left = rng_from_to(&a->rng, 1, 10); left > 0; left--)
            select_once(a, x);
        break;
    }
    CHECK(wh_chan_len(ch) <= wh_chan_cap(ch), "%zu elements are in a channel for %zu",
          wh_chan_len(ch), wh_chan_cap(ch));
}

const struct kind exchange_kind = {
    .name = "exchange",
    .step = exchange_step,
    .begin = exchange_begin,
    .end = exchange_end,
    .check = exchange_check,
    .shared_bytes = sizeof(struct exchange),
};
