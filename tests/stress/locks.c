/*
 * locks.c: mutexes, read-write locks and condition variables that all actors of the kind share; and
 * a condition variable by which a step's children take turns.
 *
 * What they protect are plain variables, changed in steps with pauses in between: whoever gets in
 * where another is finds them wrong, and ThreadSanitizer a hand-over without order.
 */
#include "stress.h"

/* ---- Mutexes ---- */

enum { LOCKS = 4, ROOM = 6, ITEMS_MAX = 1 << 18 };

struct guarded {
    wh_mutex mutex;
    uint64_t value; /* under the mutex */
    wh_coro *owner; /* under the mutex */
    counter inside;
    counter expected;
};

struct mutexes {
    struct guarded all[LOCKS];
};

static void inside_mutex(struct actor *a, struct guarded *g)
{
    CHECK(!g->owner, "another coroutine is inside");
    CHECK(count_add(&g->inside, 1) == 0, "somebody else is inside");
    g->owner = wh_self();
    uint64_t value = g->value;
    if (rng_one_in(&a->rng, 3))
        pause_a_while(&a->rng);
    g->value = value + 1;
    CHECK(g->owner == wh_self(), "the owner has changed");
    g->owner = NULL;
    count_less(&g->inside, 1);
    count_add(&g->expected, 1);
}

static void lock_once(struct actor *a, struct guarded *g)
{
    int way = rng_below(&a->rng, 8);
    doing(a, "locks a mutex");
    if (way == 0) {
        WH_LOCKED(&g->mutex)
        inside_mutex(a, g);
        return;
    }
    int rc = way == 1 ? wh_mutex_try_lock(&g->mutex) : wh_mutex_lock(&g->mutex);
    CHECK(rc == 0 || (way == 1 ? rc == -EBUSY : ended_early(rc)), "a lock returned %d", rc);
    if (rc < 0)
        return;
    inside_mutex(a, g);
    wh_mutex_unlock(&g->mutex);
}

static void mutex_step(struct actor *a)
{
    struct mutexes *m = shared_of(a);
    for (int left = rng_from_to(&a->rng, 1, 20); left > 0 && wh_ctx_err(NULL) == 0; left--)
        lock_once(a, &m->all[rng_below(&a->rng, LOCKS)]);
}

static void mutex_check(void *shared)
{
    struct mutexes *m = shared;
    for (int i = 0; i < LOCKS; i++)
        CHECK(m->all[i].value == count_get(&m->all[i].expected) && !m->all[i].owner,
              "mutex %d: %llu increments, the value is %llu", i,
              (unsigned long long)count_get(&m->all[i].expected),
              (unsigned long long)m->all[i].value);
}

const struct kind mutex_kind = {
    .name = "mutex",
    .step = mutex_step,
    .closed = true,
    .check = mutex_check,
    .shared_bytes = sizeof(struct mutexes),
};

/* ---- Read-write locks ---- */

enum { WORDS = 8 };

struct shelf {
    wh_rwlock lock;
    uint64_t words[WORDS]; /* under the lock; all the same while nobody writes */
    counter readers;
    counter writers;
    counter written;
};

struct rwlocks {
    struct shelf all[2];
};

static void compare_words(const struct shelf *s)
{
    for (int i = 1; i < WORDS; i++)
        CHECK(s->words[i] == s->words[0], "a reader sees a write half done: %llu, %llu",
              (unsigned long long)s->words[0], (unsigned long long)s->words[i]);
}

static void read_inside(struct actor *a, struct shelf *s)
{
    count_add(&s->readers, 1);
    CHECK(count_get(&s->writers) == 0, "a writer is inside with a reader");
    uint64_t before = s->words[0];
    compare_words(s);
    if (rng_one_in(&a->rng, 3))
        pause_a_while(&a->rng);
    compare_words(s);
    CHECK(s->words[0] == before, "the words changed under a reader");
    CHECK(count_get(&s->writers) == 0, "a writer is inside with a reader");
    count_less(&s->readers, 1);
    wh_rwlock_read_unlock(&s->lock);
}

static void write_inside(struct actor *a, struct shelf *s)
{
    CHECK(count_add(&s->writers, 1) == 0, "two writers are inside");
    CHECK(count_get(&s->readers) == 0, "readers are inside with a writer");
    for (int i = 0; i < WORDS; i++) {
        s->words[i]++;
        if (rng_one_in(&a->rng, 12))
            pause_a_while(&a->rng);
    }
    CHECK(count_get(&s->readers) == 0, "readers are inside with a writer");
    count_less(&s->writers, 1);
    count_add(&s->written, 1);
    wh_rwlock_write_unlock(&s->lock);
}

static void shelf_use(struct actor *a, struct shelf *s)
{
    bool writes = rng_one_in(&a->rng, 4), tries = rng_one_in(&a->rng, 6);
    doing(a, writes ? "write-locks" : "read-locks");
    int rc = tries
                 ? (writes ? wh_rwlock_try_write_lock(&s->lock) : wh_rwlock_try_read_lock(&s->lock))
                 : (writes ? wh_rwlock_write_lock(&s->lock) : wh_rwlock_read_lock(&s->lock));
    CHECK(rc == 0 || (tries ? rc == -EBUSY : ended_early(rc)), "a lock returned %d", rc);
    if (rc < 0)
        return;
    if (writes)
        write_inside(a, s);
    else
        read_inside(a, s);
}

static void rwlock_step(struct actor *a)
{
    struct rwlocks *locks = shared_of(a);
    for (int left = rng_from_to(&a->rng, 1, 20); left > 0 && wh_ctx_err(NULL) == 0; left--)
        shelf_use(a, &locks->all[rng_below(&a->rng, COUNT_OF(locks->all))]);
}

static void rwlock_check(void *shared)
{
    struct rwlocks *locks = shared;
    for (int i = 0; i < COUNT_OF(locks->all); i++) {
        struct shelf *s = &locks->all[i];
        compare_words(s);
        CHECK(s->words[0] == count_get(&s->written), "%llu writes, the words are %llu",
              (unsigned long long)count_get(&s->written), (unsigned long long)s->words[0]);
    }
}

const struct kind rwlock_kind = {
    .name = "rwlock",
    .step = rwlock_step,
    .closed = true,
    .check = rwlock_check,
    .shared_bytes = sizeof(struct rwlocks),
};

/* ---- Condition variables: a queue of little room ---- */

struct store {
    wh_mutex mutex;
    wh_cond not_empty;
    wh_cond not_full;
    struct item items[ROOM]; /* under the mutex, as what follows */
    int first;
    int count;
    struct ledger ledger; /* any thread */
};

static void cond_begin(struct round *r, void *shared)
{
    (void)r;
    struct store *s = shared;
    ledger_open(&s->ledger, ITEMS_MAX);
}

static void cond_end(void *shared)
{
    struct store *s = shared;
    for (; s->count > 0; s->count--) {
        ledger_received(&s->ledger, &s->items[s->first]);
        s->first = (s->first + 1) % ROOM;
    }
}

static void cond_check(void *shared)
{
    struct store *s = shared;
    ledger_close(&s->ledger, "cond", false);
}

/* Seldom all are woken, and all but one find nothing. */
static void tell(struct actor *a, wh_cond *cond)
{
    if (rng_one_in(&a->rng, 8))
        wh_cond_broadcast(cond);
    else
        wh_cond_signal(cond);
}

/* Waits until the count is another one; the mutex is held before and after. */
static int wait_while(struct store *s, wh_cond *cond, int count)
{
    int rc = 0;
    while (rc == 0 && s->count == count)
        rc = wh_cond_wait(cond, &s->mutex);
    CHECK(rc == 0 || ended_early(rc), "a wait returned %d", rc);
    return s->count == count ? rc : 0;
}

static void put(struct actor *a, struct store *s)
{
    struct item item;
    if (!ledger_item(&s->ledger, &item, (uint64_t)a->number, 0))
        return;
    int rc = wh_mutex_lock(&s->mutex);
    if (rc == 0) {
        rc = wait_while(s, &s->not_full, ROOM);
        if (rc == 0) {
            s->items[(s->first + s->count++) % ROOM] = item;
            tell(a, &s->not_empty);
        }
        wh_mutex_unlock(&s->mutex);
    }
    ledger_sent(&s->ledger, &item, rc);
}

static void take(struct actor *a, struct store *s)
{
    if (wh_mutex_lock(&s->mutex) < 0)
        return;
    int rc = wait_while(s, &s->not_empty, 0);
    struct item item;
    if (rc == 0) {
        item = s->items[s->first];
        s->first = (s->first + 1) % ROOM;
        s->count--;
    }
    wh_mutex_unlock(&s->mutex);
    if (rc < 0)
        return;
    tell(a, &s->not_full); /* the mutex need not be held */
    ledger_received(&s->ledger, &item);
}

static void cond_step(struct actor *a)
{
    struct store *s = shared_of(a);
    doing(a, "puts or takes under a condition");
    WH_WITH_TIMEOUT(rng_one_in(&a->rng, 8) ? WH_HOUR : rng_time_ns(&a->rng, 13))
    for (int left = rng_from_to(&a->rng, 1, 20); left > 0 && wh_ctx_err(NULL) == 0; left--)
        if (rng_one_in(&a->rng, 2))
            put(a, s);
        else
            take(a, s);
}

const struct kind cond_kind = {
    .name = "cond",
    .step = cond_step,
    .begin = cond_begin,
    .end = cond_end,
    .check = cond_check,
    .shared_bytes = sizeof(struct store),
};

/* ---- Condition variables: taking turns ---- */

enum { PLAYERS_MAX = 6 };

struct game {
    wh_mutex mutex;
    wh_cond turned[PLAYERS_MAX]; /* a player's, or all wait for the first */
    bool alone;
    uint64_t players;
    uint64_t turn; /* under the mutex */
    uint64_t turns;
    uint64_t seed;
};

/* In an order that is not that of waiting. */
static uint64_t whose(const struct game *g, uint64_t turn)
{
    return mix(g->seed + turn) % g->players;
}

/* A signal that is lost stops the game. */
static void play(struct game *g, uint64_t number, uint64_t seed)
{
    ALIVE;
    struct rng rng = {seed};
    int rc = wh_mutex_lock(&g->mutex);
    if (rc < 0)
        return;
    while (rc == 0 && g->turn < g->turns) {
        if (whose(g, g->turn) != number) {
            rc = wh_cond_wait(&g->turned[g->alone ? number : 0], &g->mutex);
            continue;
        }
        uint64_t turn = ++g->turn;
        if (rng_one_in(&rng, 8))
            pause_a_while(&rng);
        CHECK(g->turn == turn, "a turn was taken under the mutex");
        if (g->alone && turn < g->turns)
            wh_cond_signal(&g->turned[whose(g, turn)]);
        else
            for (uint64_t i = 0; i < g->players; i++)
                wh_cond_broadcast(&g->turned[i]);
    }
    wh_mutex_unlock(&g->mutex);
    CHECK(rc == 0 || ended_early(rc), "a wait for a turn returned %d", rc);
}

static void turns_step(struct actor *a)
{
    struct game g = {.players = (uint64_t)rng_from_to(&a->rng, 1, PLAYERS_MAX),
                     .turns = (uint64_t)rng_from_to(&a->rng, 1, 60),
                     .seed = rng_next(&a->rng),
                     .alone = rng_one_in(&a->rng, 2)};
    struct team team = {.count = 0};
    for (uint64_t i = 0, players = g.players; i < players; i++)
        if (TEAM_GO(&team, play, &g, i, rng_next(&a->rng)) < 0)
            break;
    doing(a, "waits for players who take turns");
    if ((uint64_t)team.count == g.players)
        team_join(&team);
    else
        team_end(&team);
    CHECK(g.turn <= g.turns, "%llu turns of %llu were taken", (unsigned long long)g.turn,
          (unsigned long long)g.turns);
}

const struct kind turns_kind = {
    .name = "turns",
    .step = turns_step,
    .closed = true,
};
