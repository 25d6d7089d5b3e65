/*
 * times.c: sleeps and timers of microseconds. Here time itself is what is under test: nothing comes
 * early, and a tick is taken once.
 */
#include "stress.h"

/* ---- Sleeping ---- */

static void sleep_step(struct actor *a)
{
    for (int left = rng_from_to(&a->rng, 1, 8); left > 0 && wh_ctx_err(NULL) == 0; left--) {
        int64_t duration_ns = rng_time_ns(&a->rng, 12), limit_ns = rng_time_ns(&a->rng, 12);
        int64_t began_ns = now_ns(), until_ns = began_ns + duration_ns;
        int rc = 0;
        bool limited = false;
        doing(a, "sleeps");
        WH_WITH_TIMEOUT(limit_ns)
        {
            rc = rng_one_in(&a->rng, 2) ? wh_sleep(duration_ns) : wh_sleep_until(until_ns);
            /* An outer deadline may be the earlier one. */
            limited = wh_deadline() < began_ns + limit_ns;
        }
        int64_t slept_ns = now_ns() - began_ns;
        CHECK(rc == 0 || ended_early(rc), "a sleep returned %d", rc);
        CHECK(rc != 0 || slept_ns >= duration_ns, "a sleep of %lld ns ended after %lld ns",
              (long long)duration_ns, (long long)slept_ns);
        CHECK(rc != -ETIMEDOUT || limited || slept_ns >= limit_ns,
              "a deadline of %lld ns passed after %lld ns", (long long)limit_ns,
              (long long)slept_ns);
    }
}

const struct kind sleep_kind = {
    .name = "sleep",
    .step = sleep_step,
    .closed = true,
};

/* ---- Timers ---- */

enum { TAKERS_MAX = 3, TICKS = 20 };

struct clockwork {
    wh_timer *timer;
    int64_t period_ns;
    counter taken;
    counter resets;
    counter started_ns;
    wh_event enough;
};

static void taker(struct clockwork *c, uint64_t seed)
{
    ALIVE;
    struct rng rng = {seed};
    while (count_get(&c->taken) < TICKS) {
        int rc = rng_one_in(&rng, 2) ? wh_timer_wait(c->timer)
                                     : wh_select(WH_TICK(c->timer), WH_EVENT_SET(&c->enough));
        CHECK(rc == 0 || rc == 1 || ended_early(rc), "a wait for a tick returned %d", rc);
        if (rc != 0)
            return;
        count_add(&c->taken, 1);
    }
    wh_event_set(&c->enough);
}

/* Stops it and starts it again, with the same period, so that those who wait go on. */
static void winder(struct clockwork *c, uint64_t seed)
{
    ALIVE;
    struct rng rng = {seed};
    for (int left = rng_below(&rng, 5); left > 0; left--) {
        if (pause_a_while(&rng) < 0)
            return;
        if (rng_one_in(&rng, 2))
            wh_timer_stop(c->timer);
        count_add(&c->resets, 1);
        int rc = wh_timer_reset(c->timer, rng_time_ns(&rng, 6), c->period_ns);
        CHECK(rc == 0, "a reset returned %d", rc);
    }
}

/* A ticker that several take from: no more ticks than time for them. */
static void ticker(struct actor *a)
{
    struct clockwork c = {.period_ns = 20 * WH_MICROSECOND + rng_time_ns(&a->rng, 6)};
    struct team team = {.count = 0};
    int64_t began_ns = now_ns();
    c.timer = wh_timer_create(c.period_ns, c.period_ns);
    CHECK(c.timer, "no memory for a timer");
    for (int i = rng_from_to(&a->rng, 1, TAKERS_MAX); i > 0; i--)
        TEAM_GO(&team, taker, &c, rng_next(&a->rng));
    if (rng_one_in(&a->rng, 2))
        TEAM_GO(&team, winder, &c, rng_next(&a->rng));
    doing(a, "waits for takers of ticks");
    team_join(&team);
    int64_t most = (now_ns() - began_ns) / c.period_ns + 1 + 2 * (int64_t)count_get(&c.resets);
    CHECK((int64_t)count_get(&c.taken) <= most, "%llu ticks were taken, there was time for %lld",
          (unsigned long long)count_get(&c.taken), (long long)most);
    wh_timer_destroy(c.timer);
}

/* One tick, not early, and no second one. */
static void one_shot(struct actor *a)
{
    int64_t delay_ns = rng_time_ns(&a->rng, 10), began_ns = now_ns();
    wh_timer *timer = wh_timer_create(delay_ns, 0);
    CHECK(timer, "no memory for a timer");
    doing(a, "waits for one tick");
    int rc = wh_timer_wait(timer);
    CHECK(rc == 0 || ended_early(rc), "a wait for a tick returned %d", rc);
    if (rc == 0) {
        CHECK(now_ns() - began_ns >= delay_ns, "a tick after %lld ns came after %lld ns",
              (long long)delay_ns, (long long)(now_ns() - began_ns));
        rc = wh_select(WH_TICK(timer), WH_AFTER(20 * WH_MICROSECOND));
        CHECK(rc == 1 || ended_early(rc), "a timer of one tick ticked again: %d", rc);
        CHECK(!wh_timer_stop(timer), "a timer that has ticked was still to tick");
    }
    wh_timer_destroy(timer);
}

static void timer_step(struct actor *a)
{
    if (rng_one_in(&a->rng, 2))
        ticker(a);
    else
        one_shot(a);
}

const struct kind timer_kind = {
    .name = "timer",
    .step = timer_step,
    .closed = true,
};
