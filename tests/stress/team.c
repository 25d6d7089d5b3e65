/*
 * team.c: starting coroutines and waiting for them, so that none outlives what it was lent.
 */
#include "stress.h"

static wh_spawn_options options;

/* The hook for coroutines that move: when wh_spawn_options has a field for it, it is set here. */
void spawn_options_set(const struct settings *settings)
{
    options = (wh_spawn_options){.migrate = settings->migrate};
}

const wh_spawn_options *spawn_options(void)
{
    return &options;
}

int life_begun(int rc)
{
    if (rc == 0)
        count_add(&life.started, 1);
    else
        CHECK(rc == -ECANCELED || rc == -ETIMEDOUT || rc == -EAGAIN, "a start returned %d", rc);
    return rc;
}

static void join_all(struct team *team, int from)
{
    WH_SHIELD
    for (int i = from; i < team->count; i++) {
        int rc = wh_join(team->members[i], NULL);
        CHECK(rc == 0, "a shielded join returned %d", rc);
    }
    team->count = 0;
}

static void cancel_all(struct team *team, int from)
{
    for (int i = from; i < team->count; i++)
        wh_cancel(team->members[i]);
}

int team_join(struct team *team)
{
    for (int i = 0; i < team->count; i++) {
        int rc = wh_join(team->members[i], NULL);
        if (rc == 0)
            continue;
        CHECK(ended_early(rc), "a join returned %d", rc);
        cancel_all(team, i);
        join_all(team, i);
        return rc;
    }
    team->count = 0;
    return 0;
}

void team_end(struct team *team)
{
    cancel_all(team, 0);
    join_all(team, 0);
}

int pause_a_while(struct rng *rng)
{
    if (rng_one_in(rng, 3))
        return wh_sleep(rng_time_ns(rng, 8));
    wh_yield();
    return wh_ctx_err(NULL);
}
