/*
 * round.c: a round: a run with a random mixture of actors, ended in one of several ways, and what
 * must hold afterwards whatever happened in it.
 *
 * In the run, before the root returns: every coroutine has ended, every stack is back, no operation
 * and no timer is left. After it: all that were started ended, all descriptors are closed, and each
 * kind's accounts are right. The root that returns early leaves the former to the run itself.
 */
#include "stress.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

#define GRACE_NS  (60 * WH_SECOND)
#define SETTLE_NS (20 * WH_SECOND)

int fds_open(void)
{
    int count = 0;
    DIR *dir = opendir("/proc/self/fd");
    while (dir && readdir(dir))
        count++;
    if (dir)
        closedir(dir);
    return count;
}

/* ---- Starting ---- */

static void shares_begin(struct round *r)
{
    for (int i = 0; i < kinds_count; i++)
        if (count_get(&r->shares[i].users) && kinds[i]->begin)
            kinds[i]->begin(r, r->shares[i].memory);
}

/* In WAY_GROUP they are members of a group, otherwise the handles are kept. */
static int actor_begin(struct actor *a, wh_coro **ret_coro, wh_group *group)
{
    int rc = 0;
    if (group)
        rc = GROUP_GO(group, actor_live, a);
    else if (ret_coro)
        rc = SPAWN(ret_coro, actor_live, a);
    else
        rc = GO(actor_live, a);
    CHECK(rc == 0, "actor %d could not be started: %d", a->number, rc);
    if (rc < 0)
        abort();
    return rc;
}

static void actors_begin(struct round *r, wh_coro **coros)
{
    for (int i = 0; i < r->actors_count; i++)
        actor_begin(&r->actors[i], coros ? &coros[i] : NULL, NULL);
}

/* ---- Ending ---- */

static void actors_join(const struct round *r, wh_coro **coros)
{
    for (int i = 0; i < r->actors_count; i++) {
        intptr_t value = -1;
        int rc = wh_join(coros[i], &value);
        CHECK(rc == 0 && value == 0, "the join of actor %d returned %d, value %ld", i, rc,
              (long)value);
    }
}

static void make_by_deadline(struct round *r, wh_coro **coros)
{
    WH_WITH_DEADLINE(r->end_ns)
    actors_begin(r, coros);
    actors_join(r, coros);
}

/* A cancel comes at any time, not only when the actors would leave by themselves. */
static void sleep_until_the_end(const struct round *r)
{
    struct rng rng = rng_of(r->seed, 1);
    int64_t sooner_ns = rng_below(&rng, 100) * WH_MILLISECOND;
    CHECK(wh_sleep_until(r->end_ns - sooner_ns) == 0, "the root's sleep was cut short");
}

static void make_by_context(struct round *r, wh_coro **coros)
{
    wh_ctx *ctx = wh_ctx_create(NULL);
    WH_WITH_CTX(ctx)
    actors_begin(r, coros);
    sleep_until_the_end(r);
    wh_ctx_cancel(ctx, ROUND_CAUSE);
    CHECK(wh_ctx_cause(ctx) == ROUND_CAUSE, "the cause is %d", wh_ctx_cause(ctx));
    actors_join(r, coros);
    wh_ctx_unref(ctx);
}

static void make_by_handles(struct round *r, wh_coro **coros)
{
    actors_begin(r, coros);
    sleep_until_the_end(r);
    struct rng rng = rng_of(r->seed, 2);
    for (int i = r->actors_count - 1; i > 0; i--) {
        int j = rng_below(&rng, i + 1);
        wh_coro *coro = coros[i];
        coros[i] = coros[j];
        coros[j] = coro;
    }
    for (int i = 0; i < r->actors_count; i++) {
        wh_cancel(coros[i]);
        if (rng_one_in(&rng, 4))
            wh_yield();
    }
    actors_join(r, coros);
}

static int fail_at_the_end(const struct round *r)
{
    ALIVE;
    sleep_until_the_end(r);
    return ROUND_CAUSE;
}

static void make_by_group(struct round *r)
{
    int error = 0;
    const wh_group_options options = {.ret_error = &error};
    WH_WITH_GROUP(group, &options)
    {
        for (int i = 0; i < r->actors_count; i++)
            actor_begin(&r->actors[i], NULL, group);
        int rc = GROUP_GO(group, fail_at_the_end, r);
        CHECK(rc == 0, "the last member could not be started: %d", rc);
        rc = wh_group_wait(group);
        CHECK(rc == ROUND_CAUSE, "the group's error is %d", rc);
    }
    CHECK(error == ROUND_CAUSE, "the block's error is %d", error);
}

/* ---- The accounts ---- */

/* A coroutine that was joined may not yet have given back its stack, on another worker: that comes
 * soon, and by itself. */
static void settle(const struct round *r)
{
    int64_t limit_ns = now_ns() + SETTLE_NS;
    wh_stats s;
    do {
        wh_sleep(WH_MILLISECOND / 4);
        wh_stats_get(&s);
    } while ((s.coros_live != 1 || s.stacks_in_use != 1 || s.ops_in_flight || s.timers_armed) &&
             now_ns() < limit_ns);
    CHECK(s.coros_live == 1 && s.coros_started == s.coros_ended + 1 && s.stacks_in_use == 1,
          "at the end %llu coroutines live (%llu started, %llu ended), %llu stacks are in use",
          (unsigned long long)s.coros_live, (unsigned long long)s.coros_started,
          (unsigned long long)s.coros_ended, (unsigned long long)s.stacks_in_use);
    CHECK(s.ops_in_flight == 0 && s.timers_armed == 0,
          "at the end %llu operations are in flight, %llu timers armed",
          (unsigned long long)s.ops_in_flight, (unsigned long long)s.timers_armed);
    uint64_t ended = count_get(&life.ended) - r->ended_before;
    CHECK(s.coros_ended == ended, "the run counts %llu ended, we %llu",
          (unsigned long long)s.coros_ended, (unsigned long long)ended);
}

static int root(void *arg)
{
    struct round *r = arg;
    wh_coro **coros = calloc((size_t)r->actors_count, sizeof *coros);
    if (!coros)
        return -ENOMEM;
    shares_begin(r);
    switch (r->way) {
    case WAY_DEADLINE: make_by_deadline(r, coros); break;
    case WAY_CONTEXT: make_by_context(r, coros); break;
    case WAY_HANDLES: make_by_handles(r, coros); break;
    case WAY_GROUP: make_by_group(r); break;
    default:
        actors_begin(r, NULL);
        sleep_until_the_end(r);
        atomic_store_explicit(&r->early, true, memory_order_relaxed);
        break;
    }
    free(coros);
    if (r->way != WAY_EARLY)
        settle(r);
    return 0;
}

static void check_ended(const struct round *r)
{
    CHECK(count_get(&life.started) == count_get(&life.ended),
          "%llu coroutines were started and %llu ended",
          (unsigned long long)count_get(&life.started), (unsigned long long)count_get(&life.ended));
    for (int i = 0; i < r->actors_count; i++)
        CHECK(atomic_load_explicit(&r->actors[i].left, memory_order_relaxed),
              "actor %d (%s) has not left", i, r->actors[i].kind->name);
    for (int i = 0; i < kinds_count; i++)
        CHECK(count_get(&r->shares[i].users) == 0, "%s: not all have left", kinds[i]->name);
}

/* ---- Making and unmaking ---- */

static void *zeroed(size_t bytes)
{
    void *memory = calloc(1, bytes ? bytes : 1);
    if (!memory)
        abort();
    return memory;
}

/* A kind's number in the table. */
static int kind_pick(struct rng *rng, const struct settings *s)
{
    int i = rng_below(rng, kinds_count);
    while (s->only && strcmp(kinds[i]->name, s->only) != 0)
        i = (i + 1) % kinds_count;
    return i;
}

/* Half of the rounds mix all kinds, the others a few, so that those meet each other more. */
static void actors_make(struct round *r, const struct settings *s, struct rng *rng)
{
    int few[3];
    for (int i = 0; i < COUNT_OF(few); i++)
        few[i] = kind_pick(rng, s);
    bool all = rng_one_in(rng, 2);
    for (int i = 0; i < r->actors_count; i++) {
        struct actor *a = &r->actors[i];
        int kind = all ? kind_pick(rng, s) : few[rng_below(rng, COUNT_OF(few))];
        a->kind = kinds[kind];
        a->share = &r->shares[kind];
        a->round = r;
        a->rng = rng_of(r->seed, (uint64_t)i + 100);
        a->number = i;
        a->own = zeroed(a->kind->own_bytes);
        atomic_store_explicit(&a->manner, "not begun", memory_order_relaxed);
        doing(a, "waits for its first turn");
        count_add(&a->share->users, 1);
    }
    for (int i = 0; i < kinds_count; i++)
        r->shares[i].memory = zeroed(kinds[i]->shared_bytes);
}

static void round_free(struct round *r)
{
    for (int i = 0; i < r->actors_count; i++)
        free(r->actors[i].own);
    for (int i = 0; i < kinds_count; i++)
        free(r->shares[i].memory);
    free(r->actors);
}

static void accounts_check(struct round *r, const bool *used)
{
    for (int i = 0; i < kinds_count; i++)
        if (used[i] && kinds[i]->check)
            kinds[i]->check(r->shares[i].memory);
}

static uint64_t steps_by_kind[KINDS_MAX];

static uint64_t steps_note(const struct round *r, const struct actor *a)
{
    uint64_t steps = count_get(&a->steps);
    steps_by_kind[a->share - r->shares] += steps;
    return steps;
}

void steps_print(void)
{
    for (int i = 0; i < kinds_count; i++)
        printf("%12llu %s\n", (unsigned long long)steps_by_kind[i], kinds[i]->name);
}

void round_make(const struct settings *settings, int number, int64_t length_ns)
{
    struct rng rng = rng_of(settings->seed, (uint64_t)number + UINT32_MAX);
    struct round r = {.seed = rng_next(&rng), .number = number, .way = rng_below(&rng, WAYS)};
    r.actors_count = rng_from_to(&rng, settings->actors / 4 + 1, settings->actors);
    r.actors = zeroed((size_t)r.actors_count * sizeof *r.actors);
    actors_make(&r, settings, &rng);
    bool used[KINDS_MAX];
    for (int i = 0; i < kinds_count; i++)
        used[i] = count_get(&r.shares[i].users) > 0;

    uint64_t started = count_get(&life.started);
    int fds = fds_open();
    int64_t began_ns = now_ns();
    r.ended_before = count_get(&life.ended);
    r.end_ns = began_ns + length_ns;
    watch_round(&r);
    const wh_options options = {.grace_ns = GRACE_NS};
    int rc = wh_run(root, &r, &options);
    watch_round(NULL);
    CHECK(rc == 0, "the run returned %d", rc);
    check_ended(&r);
    CHECK(fds_open() == fds, "%d descriptors were open before the run, %d after", fds, fds_open());
    accounts_check(&r, used);

    uint64_t steps = 0;
    for (int i = 0; i < r.actors_count; i++)
        steps += steps_note(&r, &r.actors[i]);
    if (!settings->quiet || anything_violated())
        printf("round %3d: %4d actors, end by %-8s after %4lld ms (asked %4lld): %7llu steps, "
               "%7llu coroutines%s\n",
               number, r.actors_count, way_name(r.way),
               (long long)((now_ns() - began_ns) / WH_MILLISECOND),
               (long long)(length_ns / WH_MILLISECOND), (unsigned long long)steps,
               (unsigned long long)(count_get(&life.started) - started),
               anything_violated() ? ": FAILED" : "");
    fflush(stdout);
    round_free(&r);
}
