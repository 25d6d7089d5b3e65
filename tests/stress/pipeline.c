/*
 * pipeline.c: producers, two channels, consumers: a step of its own channels, closed when all is
 * sent. Consumers merge both with a select until each is closed and empty.
 *
 * What holds: each consumer sees each producer's items in the order of sending, and all that were
 * sent are received or still in the buffers at the end.
 */
#include "stress.h"

enum { PRODUCERS_MAX = 5, CONSUMERS_MAX = 4, PER_PRODUCER_MAX = 60 };

struct pipeline {
    WH_CHAN(struct item) channels[2];
    struct ledger ledger;
};

static void produce(struct pipeline *p, uint64_t seed, int number)
{
    ALIVE;
    struct rng rng = {seed};
    WH_CHAN(struct item) ch = wh_chan_ref(p->channels[number % 2]);
    struct item item;
    for (uint64_t i = 0, count = (uint64_t)rng_from_to(&rng, 0, PER_PRODUCER_MAX); i < count; i++) {
        if (!ledger_item(&p->ledger, &item, (uint64_t)number, i))
            break;
        int rc = wh_chan_send(ch, item);
        CHECK(rc == 0 || ended_early(rc), "a send returned %d", rc);
        ledger_sent(&p->ledger, &item, rc);
        if (rc < 0 || (rng_one_in(&rng, 16) && pause_a_while(&rng) < 0))
            break;
    }
    wh_chan_unref(ch);
}

/* A consumer's view: how far each producer has come. */
struct view {
    uint64_t next[PRODUCERS_MAX];
};

static void look(struct pipeline *p, struct view *view, const struct item *item)
{
    ledger_received(&p->ledger, item);
    if (item->from >= PRODUCERS_MAX)
        return;
    CHECK(item->seq >= view->next[item->from], "item %llu of producer %llu came after item %llu",
          (unsigned long long)item->seq, (unsigned long long)item->from,
          (unsigned long long)view->next[item->from] - 1);
    view->next[item->from] = item->seq + 1;
}

static void consume(struct pipeline *p, uint64_t seed)
{
    ALIVE;
    struct rng rng = {seed};
    struct view view = {{0}};
    WH_CHAN(struct item) open[2] = {wh_chan_ref(p->channels[0]), wh_chan_ref(p->channels[1])};
    struct item item = {.id = 0};
    bool ok = false;
    while (open[0] || open[1]) {
        int rc = wh_select(WH_RECV_OK(open[0], &item, &ok), WH_RECV_OK(open[1], &item, &ok));
        CHECK(rc == 0 || rc == 1 || ended_early(rc), "a select of two returned %d", rc);
        if (rc < 0)
            break;
        CHECK(open[rc], "a case on no channel happened");
        if (ok) {
            look(p, &view, &item);
        } else {
            CHECK(!item.id && !item.check, "a closed channel gave an item");
            wh_chan_unref(open[rc]);
            open[rc] = NULL;
        }
        if (rng_one_in(&rng, 16) && pause_a_while(&rng) < 0)
            break;
    }
    wh_chan_unref(open[0]);
    wh_chan_unref(open[1]);
}

/* Nobody else uses the channel any more: what is left comes now, then the end. */
static void drain(struct pipeline *p, WH_CHAN(struct item) ch)
{
    struct item item;
    int rc = 0;
    WH_SHIELD
    while ((rc = wh_chan_recv(ch, &item)) > 0)
        ledger_received(&p->ledger, &item);
    CHECK(rc == 0, "a closed channel returned %d", rc);
    wh_chan_unref(ch);
}

static void pipeline_step(struct actor *a)
{
    struct pipeline p;
    struct team producers = {.count = 0}, consumers = {.count = 0};
    int makers = rng_from_to(&a->rng, 1, PRODUCERS_MAX);
    int takers = rng_from_to(&a->rng, 1, CONSUMERS_MAX);
    for (int i = 0; i < 2; i++) {
        unsigned capacity = rng_one_in(&a->rng, 2) ? 0 : (unsigned)rng_from_to(&a->rng, 1, 20);
        p.channels[i] = wh_chan_create(struct item, capacity);
    }
    ledger_open(&p.ledger, PRODUCERS_MAX * PER_PRODUCER_MAX);

    for (int i = 0; i < takers; i++)
        TEAM_GO(&consumers, consume, &p, rng_next(&a->rng));
    /* Without a consumer nobody would end the senders. */
    for (int i = 0; i < makers && consumers.count; i++)
        TEAM_GO(&producers, produce, &p, rng_next(&a->rng), i);
    if (producers.count && rng_one_in(&a->rng, 4)) {
        pause_a_while(&a->rng);
        wh_cancel(producers.members[0]);
    }
    doing(a, "waits for producers");
    int rc = team_join(&producers);
    wh_chan_close(p.channels[0]);
    wh_chan_close(p.channels[1]);
    doing(a, "waits for consumers");
    if (rc < 0)
        team_end(&consumers);
    else
        team_join(&consumers);
    drain(&p, p.channels[0]);
    drain(&p, p.channels[1]);
    ledger_close(&p.ledger, "pipeline", false);
}

const struct kind pipeline_kind = {
    .name = "pipeline",
    .step = pipeline_step,
    .closed = true,
};
