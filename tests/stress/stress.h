/*
 * stress.h: what the parts of whorl-stress share.
 *
 *     main.c      arguments; round after round
 *     round.c     a round: a run full of actors, ended in one of several ways, then the accounts
 *     step.c      an actor's life: steps of its kind, each made in a manner drawn by chance
 *     kinds.c     the table of kinds; one file a family holds their steps
 *     team.c      children that lend their parent's memory, joined in any weather
 *     ledger.c    accounts of items that must arrive exactly once
 *     watch.c     what to say when nothing moves any more
 *
 * A kind is a row of the table in kinds.c. Its step is called again and again by each of its
 * actors, under any deadline, cancel and context: it expects -ETIMEDOUT and -ECANCELED of every
 * call, joins what it started, gives back what it opened, and leaves the accounts right.
 *
 * Coroutines of a run may be on several threads. What two of them touch is atomic, or ordered by
 * the primitive that is under test; a race that ThreadSanitizer finds is a bug of that primitive.
 * What children use of their parent's frame is left only after they were joined, and what outlives
 * a step is in the round's memory, which is freed after the run.
 */
#ifndef TESTS_STRESS_STRESS_H
#define TESTS_STRESS_STRESS_H

#include <whorl.h>

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#if defined(__SANITIZE_THREAD__)
#define WITH_TSAN 1
#else
#define WITH_TSAN 0
#endif
#if defined(__SANITIZE_ADDRESS__)
#define WITH_ASAN 1
#else
#define WITH_ASAN 0
#endif

#define COUNT_OF(array) ((int)(sizeof(array) / sizeof(array)[0]))

/* ---- Chance: each actor draws from its own numbers, so that its choices can be repeated. ---- */

struct rng {
    uint64_t state;
};

/* splitmix64's finish: neighbours come out unlike each other. */
static inline uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static inline struct rng rng_of(uint64_t seed, uint64_t number)
{
    return (struct rng){mix(seed ^ mix(number + 1))};
}

static inline uint64_t rng_next(struct rng *rng)
{
    rng->state += UINT64_C(0x9e3779b97f4a7c15);
    return mix(rng->state);
}

/* 0 to n - 1; n is small, so that the remainder favours nobody much. */
static inline int rng_below(struct rng *rng, int n)
{
    return (int)(rng_next(rng) % (uint64_t)n);
}

static inline int rng_from_to(struct rng *rng, int from, int to)
{
    return from + rng_below(rng, to - from + 1);
}

static inline bool rng_one_in(struct rng *rng, int n)
{
    return rng_below(rng, n) == 0;
}

/* From a microsecond to about two to the power of `doublings` of them, short ones more often. */
static inline int64_t rng_time_ns(struct rng *rng, int doublings)
{
    int64_t most_ns = WH_MICROSECOND << rng_below(rng, doublings + 1);
    return most_ns / 2 + rng_below(rng, (int)(most_ns / 2) + 1);
}

/* Another's numbers, for a child. */
static inline struct rng rng_split(struct rng *rng)
{
    return (struct rng){rng_next(rng)};
}

/* ---- Counting: figures that are compared only when those who counted have ended. ---- */

typedef _Atomic uint64_t counter;

/* Relaxed, which pairs with nothing: what is ordered is so by the primitives under test. */
static inline uint64_t count_add(counter *c, uint64_t n)
{
    return atomic_fetch_add_explicit(c, n, memory_order_relaxed);
}

/* Relaxed, which pairs with nothing, as above. */
static inline uint64_t count_less(counter *c, uint64_t n)
{
    return atomic_fetch_sub_explicit(c, n, memory_order_relaxed);
}

static inline uint64_t count_get(const counter *c)
{
    return atomic_load_explicit(c, memory_order_relaxed);
}

/* ---- What is wrong ---- */

/* Says on standard error what does not hold, with the seed; the program will exit with 1. */
void violated(const char *file, int line, const char *what, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
bool anything_violated(void);

#define CHECK(condition, ...) \
    ((condition) ? (void)0 : violated(__FILE__, __LINE__, #condition, __VA_ARGS__))

/* Whether rc says that the ambient context has ended, as it may at any time. */
static inline bool ended_early(int64_t rc)
{
    return rc == -ECANCELED || rc == -ETIMEDOUT;
}

/* ---- Rounds, actors, kinds ---- */

enum way {
    WAY_DEADLINE, /* a deadline around all; the root waits for them */
    WAY_CONTEXT,  /* their context is cancelled with a cause */
    WAY_HANDLES,  /* each is cancelled by its handle, in any order */
    WAY_GROUP,    /* they are a group of which one member fails */
    WAY_EARLY,    /* the root returns, and the run's end cancels them */
    WAYS,
};

/* The cause with which a round's context or group is cancelled. */
#define ROUND_CAUSE (-ESRCH)

struct kind;

/* What a kind's actors of a round share: kind->shared_bytes, zeroed, and how many use it. */
struct share {
    void *memory;
    counter users;
};

struct actor {
    const struct kind *kind;
    struct round *round;
    struct share *share;
    struct rng rng; /* its coroutine's; a step's, while it is made by another */
    int number;
    void *own; /* kind->own_bytes, zeroed, the round's */

    /* any thread: what the watchdog prints */
    _Atomic(const char *) manner;
    _Atomic(const char *) doing;
    counter steps;
    counter since_ns;
    atomic_bool left;
};

enum { KINDS_MAX = 40 };

struct round {
    uint64_t seed;
    int number;
    enum way way;
    int64_t end_ns;
    uint64_t ended_before; /* coroutines, in earlier rounds */
    int actors_count;
    struct actor *actors;
    struct share shares[KINDS_MAX];
    atomic_bool early; /* the root has returned, or is about to: nothing new starts */
};

struct kind {
    const char *name;
    /* One step. */
    void (*step)(struct actor *a);
    /* Before the first actor starts, on the root; after the last has left, on that one and
     * shielded; after the run, in no coroutine. Each may be NULL. */
    void (*begin)(struct round *r, void *shared);
    void (*end)(void *shared);
    void (*check)(void *shared);
    size_t shared_bytes;
    size_t own_bytes;
    /* A step comes to its end by itself, whatever other actors do: it may be shielded, and then
     * a wake-up that was lost is a hang. */
    bool closed;
};

extern const struct kind *const kinds[];
extern const int kinds_count;

static inline void *shared_of(struct actor *a)
{
    return a->share->memory;
}

/* Notes what an actor, or a child of it, is about to do. */
static inline void doing(struct actor *a, const char *what)
{
    atomic_store_explicit(&a->doing, what, memory_order_relaxed);
}

static inline bool run_is_ending(const struct actor *a)
{
    return atomic_load_explicit(&a->round->early, memory_order_relaxed);
}

/* The body of an actor (step.c). */
int actor_live(struct actor *a);

struct settings {
    uint64_t seed;
    int seconds;
    int actors;
    bool quiet;
    bool migrate;
    const char *only; /* a kind's name; NULL: all */
};

/* Runs one round of about that length and looks at its accounts (round.c). */
void round_make(const struct settings *settings, int number, int64_t length_ns);
/* How many steps of each kind were made in all rounds. */
void steps_print(void);

/* ---- Coroutines: each is counted when it was started and at its end. ---- */

struct life {
    counter started;
    counter ended;
};
extern struct life life;

/* First in each function that is started. */
#define ALIVE char alive_ __attribute__((cleanup(life_over), unused)) = 0

static inline void life_over(const char *alive)
{
    (void)alive;
    count_add(&life.ended, 1);
}

/* Passes on what a start returned. */
int life_begun(int rc);

/* The options of each spawn: where a coroutine that may move to another worker would be asked for
 * (team.c). */
const wh_spawn_options *spawn_options(void);
void spawn_options_set(const struct settings *settings);

#define GO(...)           life_begun(wh_go(__VA_ARGS__))
#define SPAWN(coro, ...)  life_begun(wh_spawn((coro), spawn_options(), __VA_ARGS__))
#define GROUP_GO(g, ...)  life_begun(wh_group_go((g), __VA_ARGS__))
#define GROUP_TRY(g, ...) life_begun(wh_group_try_go((g), __VA_ARGS__))

/* ---- Teams ---- */

enum { TEAM_MAX = 32 };

struct team {
    wh_coro *members[TEAM_MAX];
    int count;
};

/* Starts a member; returns as wh_spawn(). */
#define TEAM_GO(team, ...) team_went((team), SPAWN(&(team)->members[(team)->count], __VA_ARGS__))

static inline int team_went(struct team *team, int rc)
{
    team->count += rc == 0;
    return rc;
}

/* Joins all. When the caller is to end first, cancels them, and joins those that are left under a
 * shield. Returns 0, or why it was cut short; the members have ended in either case. */
int team_join(struct team *team);

/* Cancels all, and joins them under a shield. */
void team_end(struct team *team);

/* ---- Accounts ---- */

struct item {
    uint64_t id;
    uint64_t from; /* and `seq`, for who wants to look at the order */
    uint64_t seq;
    uint64_t check;
};

struct ledger {
    counter next; /* the next item's number */
    counter sent;
    counter unsent;
    counter received;
    _Atomic uint8_t *states; /* an item: whether its send succeeded, how often it came */
    uint64_t size;
};

void ledger_open(struct ledger *ledger, uint64_t size);
/* A new item; false when the ledger is full. */
bool ledger_item(struct ledger *ledger, struct item *ret_item, uint64_t from, uint64_t seq);
/* What became of it: the send returned rc. */
void ledger_sent(struct ledger *ledger, const struct item *item, int rc);
void ledger_received(struct ledger *ledger, const struct item *item);
/* Looks at each item and forgets all. may_lose: what was sent need not have come. */
void ledger_close(struct ledger *ledger, const char *name, bool may_lose);

/* ---- The rest ---- */

/* CLOCK_MONOTONIC as the kernel says it. */
int64_t now_ns(void);

/* Yields, or sleeps for a moment; says why it was cut short. */
int pause_a_while(struct rng *rng);

int fds_open(void);

/* Whether one more TCP connection may be made: the kernel remembers each for a minute. */
bool tcp_allowed(void);

/* The watchdog: a thread that aborts after so long, and says what it knows. */
void watch_begin(int seconds);
void watch_round(const struct round *round); /* NULL: none */
void watch_end(void);
const char *way_name(enum way way);

#endif
