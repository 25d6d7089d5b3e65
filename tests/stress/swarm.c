/*
 * swarm.c: very many short coroutines, joined, detached, forgotten and cancelled; what they keep in
 * coroutine-local storage; and victims, that wait in every way there is until they are cancelled.
 */
#include "stress.h"

#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>

/* ---- Many that are short ---- */

enum { SWARM_MAX = WITH_TSAN ? 24 : WITH_ASAN ? 60 : 200 };

/* The actor's own: who was detached may still be in its last call when the step is over. */
struct swarm {
    wh_waitgroup group;
};

static int64_t short_one(uint64_t value)
{
    ALIVE;
    if (value % 3 == 0)
        wh_yield();
    else if (value % 7 == 0)
        wh_sleep((int64_t)(value % 50) * WH_MICROSECOND);
    return (int64_t)(value * 3);
}

static void forgotten_one(struct swarm *s, uint64_t value)
{
    ALIVE;
    wh_sleep((int64_t)(value % 20) * WH_MICROSECOND);
    wh_waitgroup_done(&s->group);
}

static void forget_one(struct swarm *s, struct rng *rng)
{
    wh_coro *coro = NULL;
    uint64_t value = rng_next(rng);
    bool detached = rng_one_in(rng, 2);
    wh_waitgroup_add(&s->group, 1);
    int rc = detached ? SPAWN(&coro, forgotten_one, s, value) : GO(forgotten_one, s, value);
    if (rc < 0)
        wh_waitgroup_done(&s->group);
    else if (detached) {
        if (rng_one_in(rng, 2))
            wh_cancel(coro);
        wh_detach(coro);
    }
}

/* With too little patience, then with enough. */
static void join_one(wh_coro *coro, uint64_t value, struct rng *rng)
{
    intptr_t got = -1;
    int rc = -ETIMEDOUT;
    if (rng_one_in(rng, 4)) {
        WH_WITH_TIMEOUT(rng_time_ns(rng, 4))
        rc = wh_join(coro, &got);
        CHECK(rc == 0 || ended_early(rc), "a join returned %d", rc);
        CHECK(rc == 0 || got == -1, "a join that returned %d stored a value", rc);
        if (rc < 0 && rng_one_in(rng, 2))
            wh_cancel(coro);
    }
    if (rc < 0)
        WH_SHIELD
    rc = wh_join(coro, &got);
    CHECK(rc == 0 && got == (intptr_t)(value * 3), "a join returned %d, the value %ld", rc,
          (long)got);
}

static void swarm_step(struct actor *a)
{
    struct swarm *s = a->own;
    wh_coro *coros[SWARM_MAX];
    uint64_t values[SWARM_MAX];
    int count = 0;
    doing(a, "starts a swarm");
    for (int left = rng_from_to(&a->rng, 1, SWARM_MAX); left > 0; left--) {
        if (rng_one_in(&a->rng, 3)) {
            forget_one(s, &a->rng);
            continue;
        }
        values[count] = rng_next(&a->rng) >> 8;
        if (SPAWN(&coros[count], short_one, values[count]) == 0)
            count++;
    }
    if (count && rng_one_in(&a->rng, 3))
        wh_cancel(coros[rng_below(&a->rng, count)]);
    doing(a, "joins a swarm");
    for (int i = 0; i < count; i++)
        join_one(coros[i], values[i], &a->rng);
    doing(a, "waits for who was forgotten");
    int rc = 0;
    WH_SHIELD
    rc = wh_waitgroup_wait(&s->group);
    CHECK(rc == 0, "a shielded wait returned %d", rc);
}

const struct kind swarm_kind = {
    .name = "swarm",
    .step = swarm_step,
    .closed = true,
    .own_bytes = sizeof(struct swarm),
};

/* ---- Locals ---- */

enum { KEYS = 3 };

struct locals {
    counter made;
    counter destroyed;
};

struct local {
    struct locals *locals;
    uint64_t tag;
};

static wh_key keys[KEYS]; /* immutable after the first locals_begin() */
static bool keys_made;

static void local_destroy(void *value)
{
    struct local *local = value;
    if (local->tag % 4 == 0)
        wh_yield();
    count_add(&local->locals->destroyed, 1);
    free(local);
}

static void locals_begin(struct round *r, void *shared)
{
    (void)r;
    (void)shared;
    for (int i = 0; i < KEYS && !keys_made; i++)
        CHECK(wh_key_create(&keys[i], local_destroy) == 0, "no key is left");
    keys_made = true;
}

static void local_user(struct locals *locals, uint64_t seed)
{
    ALIVE;
    struct rng rng = {seed};
    uint64_t tags[KEYS] = {0};
    for (int left = rng_from_to(&rng, 1, 6); left > 0; left--) {
        int i = rng_below(&rng, KEYS);
        struct local *before = wh_local_get(keys[i]);
        CHECK(before ? before->tag == tags[i] : tags[i] == 0, "a local is another one");
        struct local *local = malloc(sizeof *local);
        if (!local)
            abort();
        tags[i] = rng_next(&rng) | 1 << 8;
        *local = (struct local){.locals = locals, .tag = tags[i]};
        count_add(&locals->made, 1);
        CHECK(wh_local_set(keys[i], local) == 0, "no memory for a local");
        if (before)
            local_destroy(before);
        pause_a_while(&rng);
    }
}

static void locals_step(struct actor *a)
{
    struct team team = {.count = 0};
    for (int i = rng_from_to(&a->rng, 1, 10); i > 0; i--)
        TEAM_GO(&team, local_user, shared_of(a), rng_next(&a->rng));
    doing(a, "waits for users of locals");
    team_join(&team);
}

static void locals_check(void *shared)
{
    struct locals *locals = shared;
    CHECK(count_get(&locals->made) == count_get(&locals->destroyed),
          "%llu locals were made, %llu destroyed", (unsigned long long)count_get(&locals->made),
          (unsigned long long)count_get(&locals->destroyed));
}

const struct kind locals_kind = {
    .name = "locals",
    .step = locals_step,
    .begin = locals_begin,
    .check = locals_check,
    .closed = true,
    .shared_bytes = sizeof(struct locals),
};

/* ---- Victims ---- */

enum { VICTIMS_MAX = 20, WAITS = 17 };

struct trap {
    wh_mutex mutex; /* the owner's */
    wh_rwlock lock; /* the owner writes */
    wh_mutex cond_mutex;
    wh_cond cond;
    wh_sem sem;
    wh_event event;
    wh_waitgroup group;
    wh_barrier barrier;
    WH_CHAN(int) ch;
    wh_timer *timer;
    wh_ctx *ctx;
    int fds[2];
};

static int64_t wait_for_nothing(struct trap *t, int way)
{
    char byte;
    int64_t rc;
    switch (way) {
    case 0: return wh_mutex_lock(&t->mutex);
    case 1: return wh_rwlock_read_lock(&t->lock);
    case 2: return wh_rwlock_write_lock(&t->lock);
    case 3:
        rc = wh_mutex_lock(&t->cond_mutex);
        if (rc < 0)
            return rc;
        rc = wh_cond_wait(&t->cond, &t->cond_mutex);
        wh_mutex_unlock(&t->cond_mutex);
        return rc;
    case 4: return wh_sem_acquire(&t->sem, 1);
    case 5: return wh_event_wait(&t->event);
    case 6: return wh_waitgroup_wait(&t->group);
    case 7: return wh_barrier_wait(&t->barrier, VICTIMS_MAX + 1);
    case 8: return wh_chan_recv(t->ch, NULL);
    case 9: return wh_timer_wait(t->timer);
    case 10: return wh_recv(t->fds[0], &byte, 1, 0);
    case 11: return wh_poll(t->fds[1], POLLIN);
    case 12:
        return wh_select(WH_RECV(t->ch, NULL), WH_READABLE(t->fds[0]), WH_TICK(t->timer),
                         WH_EVENT_SET(&t->event), WH_DONE(t->ctx), WH_AFTER(WH_HOUR));
    case 13: return wh_read(t->fds[1], &byte, 1);
    case 14: return wh_select_n(NULL, 0);
    case 15: return wh_chan_send((WH_CHAN(int))NULL, 1);
    default: return wh_sleep(WH_HOUR);
    }
}

static void victim(struct trap *t, int way)
{
    ALIVE;
    int64_t rc = wait_for_nothing(t, way);
    CHECK(ended_early(rc), "a wait for nothing (%d) returned %lld", way, (long long)rc);
    /* A wake-up that was meant for the first wait would end the second one. */
    rc = wait_for_nothing(t, (way + 1) % WAITS);
    CHECK(ended_early(rc), "a second wait for nothing (after %d) returned %lld", way,
          (long long)rc);
}

static void hunter(struct team *victims, uint64_t seed)
{
    ALIVE;
    struct rng rng = {seed};
    for (int left = rng_from_to(&rng, 1, 10); left > 0; left--) {
        wh_cancel(victims->members[rng_below(&rng, victims->count)]);
        if (rng_one_in(&rng, 3) && pause_a_while(&rng) < 0)
            return;
    }
}

static void trap_hunt(struct actor *a, struct trap *t)
{
    struct team victims = {.count = 0}, hunters = {.count = 0};
    for (int i = rng_from_to(&a->rng, 1, VICTIMS_MAX); i > 0; i--)
        TEAM_GO(&victims, victim, t, rng_below(&a->rng, WAITS));
    if (rng_one_in(&a->rng, 2))
        pause_a_while(&a->rng);
    for (int i = rng_below(&a->rng, 3); i > 0 && victims.count; i--)
        TEAM_GO(&hunters, hunter, &victims, rng_next(&a->rng));
    doing(a, "waits for hunters");
    team_join(&hunters);
    doing(a, "waits for victims");
    team_end(&victims);
}

static void victims_step(struct actor *a)
{
    struct trap t = {.ch = wh_chan_create(int, 0),
                     .timer = wh_timer_create(WH_HOUR, 0),
                     .ctx = wh_ctx_create(wh_ctx_background())};
    int rc = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, t.fds);
    CHECK(rc == 0 && t.ch && t.timer && t.ctx, "no memory or descriptors: %d", errno);
    wh_waitgroup_add(&t.group, 1);
    rc = wh_mutex_lock(&t.mutex);
    CHECK(rc == 0, "locking what is free returned %d", rc);
    rc = wh_rwlock_write_lock(&t.lock);
    CHECK(rc == 0, "locking what is free returned %d", rc);
    trap_hunt(a, &t);
    wh_mutex_unlock(&t.mutex);
    wh_rwlock_write_unlock(&t.lock);
    wh_close(t.fds[0]);
    wh_close(t.fds[1]);
    wh_timer_destroy(t.timer);
    wh_ctx_destroy(t.ctx);
    wh_chan_unref(t.ch);
}

const struct kind victims_kind = {
    .name = "victims",
    .step = victims_step,
    .closed = true,
};
