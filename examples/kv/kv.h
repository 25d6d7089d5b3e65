/*
 * kv.h: the key-value server's parts and what they share.
 *
 *      kv_server.c      options, the start, the end on a signal
 *            |
 *      kv/client.c      a connection: reads requests, runs commands, ends
 *      kv/commands.c    the table of commands, and those on keys
 *      kv/admin.c       commands about the server
 *      kv/pubsub.c      channels, patterns and their subscribers
 *      kv/feed.c        what is on its way to a subscriber, and the coroutine that sends it
 *      kv/reply.c       answers as the protocol writes them
 *      kv/request.c     requests as the protocol writes them
 *      kv/store.c       the keys, and their end at their time
 *
 * One coroutine a connection, and one more while it has subscriptions. With one worker nothing that
 * is shared is locked: between two calls that may park nothing else runs. With several there are
 * two locks, the store's and the channels', each held for a few hundred nanoseconds of a request
 * that costs microseconds of the kernel's time (longer for very many keys at once, for very many
 * subscribers of a channel, and while patterns are compared), and never while a call may park: so a
 * thread's mutex does, and no worker waits longer for it than another one computes. Rejected: a
 * lock for each part of the keys. What MSET and MGET do with several of them is to be seen as one
 * step, for which they would lock all of those in order, and one lock is not what limits a few
 * workers.
 */
#ifndef EXAMPLES_KV_H
#define EXAMPLES_KV_H

#include <whorl.h>

#include <pthread.h>
#include <stdbool.h>
#include <string.h>

/* Without memory uthash is not to end the process: it leaves an element out, and sets this. */
#define HASH_NONFATAL_OOM         1
#define uthash_nonfatal_oom(elem) (uthash_failed = true)
#include <uthash.h>

/* A table never grows by itself, see table_growth(). uthash doubles it for a single long chain, of
 * which there is one the sooner the larger the table: its buckets would soon outweigh the keys. */
#undef HASH_BKT_CAPACITY_THRESH
#define HASH_BKT_CAPACITY_THRESH (1U << 24)

enum {
    WORKERS_MAX = 60,
    SHARDS = 64, /* tables of the store, a power of two */
    KEY_BYTES_MAX = 65536,
    CHANNEL_BYTES_MAX = 256, /* of its name, and of a pattern */
    LINE_BYTES_MAX = 65536,
    ARGS_SMALL = 8,
    ARGS_MAX = 1 << 20,
    ARGS_BLOCKS = 17,
    ARGS_STEP = 1024,  /* of very many, after which others may run */
    NUMBER_BYTES = 24, /* of any number as text */
};

/* ---- Small things ---- */

/* Some bytes, borrowed. */
struct text {
    const char *bytes;
    size_t len;
};

/* A lock that a run with one worker does not take. `shared` is set before anything else runs. */
struct lock {
    pthread_mutex_t mutex;
    bool shared;
};

static inline struct lock *lock_enter(struct lock *lock)
{
    if (lock->shared)
        pthread_mutex_lock(&lock->mutex);
    return lock;
}

static inline void lock_leave(struct lock **lock)
{
    if ((*lock)->shared)
        pthread_mutex_unlock(&(*lock)->mutex);
}

/* To the end of the block, in which no call may park. */
#define HOLD(which) \
    struct lock *held_ __attribute__((cleanup(lock_leave), unused)) = lock_enter(which)

/* Bytes that several hold and nobody changes: a value, or a message on its way. */
struct blob {
    uint32_t refs; /* atomic if the run has several workers */
    uint32_t len;
    char bytes[];
};

/* With room for len bytes, for one holder; NULL without memory. */
struct blob *blob_create(size_t len);
/* With these bytes. */
struct blob *blob_of(struct text text);
struct blob *blob_ref(struct blob *blob, bool shared);
/* NULL does nothing. */
void blob_unref(struct blob *blob, bool shared);

/* A whole number as the protocol wants it: digits, perhaps a minus, nothing else. */
bool number_read(struct text text, int64_t *ret_number);
/* Writes the number, not terminated; returns its length, less than NUMBER_BYTES. */
size_t number_put(char *text, int64_t number);
/* The text is that word, in whatever case; the word is in lower case. */
bool text_is(struct text text, const char *word);
/* Of texts that peers choose, with a seed that they do not know. */
uint64_t text_hash(struct text text);
void text_hash_seed(void);

/* ---- Hash tables ---- */

enum {
    TABLE_BYTES_MIN =
        sizeof(UT_hash_table) + HASH_INITIAL_NUM_BUCKETS * sizeof(struct UT_hash_bucket)
};

static inline size_t table_bytes(const UT_hash_table *table)
{
    return sizeof *table + (size_t)table->num_buckets * sizeof *table->buckets;
}

/* By how many bytes it is to grow now, which doubles its buckets: once there are more elements than
 * those. A lookup that finds its key then looks at one and a half on average. */
static inline size_t table_growth(const UT_hash_table *table)
{
    return table->num_items > table->num_buckets
               ? (size_t)table->num_buckets * sizeof *table->buckets
               : 0;
}

/* Doubles its buckets. Without memory it stays as it is, and its chains are longer. */
void table_double(UT_hash_table *table);

/* ---- request.c ---- */

/* Where an argument is, from the first byte of the request, which may move until it is whole. */
struct span {
    uint32_t off, len;
};

enum part { PART_HEAD, PART_BULK_HEAD, PART_BULK };

/*
 *      small      blocks[0]    blocks[1]    ...   blocks[16]
 *      0 .. 7     8 .. 23      24 .. 55           1048568 .. 2097143       arguments
 *
 * Each block has as many as all before it and eight more, so that room for more never copies what
 * is there.
 */
struct request {
    enum part part; /* what comes next */
    uint32_t expected, count;
    uint32_t blocks_count;
    const char *base;
    size_t at;   /* parsed, from the first byte */
    size_t need; /* how many bytes there must be before it is worth parsing again */
    size_t bulk; /* length of the argument at hand */
    char *line;  /* copy of an inline command, its quotes resolved */
    const char *error;
    char unexpected;
    struct span small[ARGS_SMALL];
    struct span *blocks[ARGS_BLOCKS];
};

enum parsed {
    PARSED_MORE,
    PARSED_SOME,      /* ARGS_STEP arguments of it; go on, when others have run */
    PARSED_REQUEST,   /* whole; without arguments it is nothing */
    PARSED_WRONG,     /* `error` says why */
    PARSED_NO_MEMORY, /* for so many arguments */
};

/* Ready for a request. */
void request_init(struct request *request);
/* The same after one; gives back what that one needed. */
void request_reset(struct request *request);
/* Parses on in what is there of the request. bytes_max: of a whole request, less than 4 GiB. */
enum parsed request_parse(struct request *request, struct text there, size_t bytes_max);

static inline struct text request_arg(const struct request *request, uint32_t i)
{
    const struct span *span;
    if (i < ARGS_SMALL) {
        span = &request->small[i];
    } else {
        int block = __builtin_clz(ARGS_SMALL) - __builtin_clz(i + ARGS_SMALL);
        span = &request->blocks[block - 1][i + ARGS_SMALL - ((uint32_t)ARGS_SMALL << block)];
    }
    return (struct text){request->base + span->off, span->len};
}

/* ---- store.c: all but store_init and store_expire_all under store->lock ---- */

struct entry {
    UT_hash_handle hh;
    struct blob *value;
    int64_t expires_ns; /* or WH_NEVER */
    size_t heap_at;     /* where in store->heap, if it expires */
    uint32_t key_len;
    char key[];
};

/*
 * The keys are spread over SHARDS tables so that growing, which rehashes a table in one go, stops
 * the others for a fraction of the time. Those that expire are in a heap, earliest first, and a
 * coroutine waits until that one's time has come.
 */
struct store {
    struct lock lock;
    struct entry *shards[SHARDS];
    struct entry **heap;
    size_t heap_len, heap_size;
    wh_event sooner; /* the earliest is another one */
    uint64_t keys;
    uint64_t bytes, bytes_max; /* of keys, values and the tables */
    uint64_t hits, misses, expired;
};

enum { SET_ALWAYS, SET_IF_NEW, SET_IF_THERE };
#define KEEP_TTL INT64_C(-1)

void store_init(struct store *store, uint64_t bytes_max);
/* Gives everything back, when the run has ended. */
void store_finish(struct store *store);

/*
 * Without the lock, before a command on a key: has the processor fetch what will be looked at, and
 * lets other coroutines run meanwhile. A lookup is three loads, each from where the last one points
 * to, and with many keys none of them is in the cache; the requests that have come together wait
 * for theirs at the same time. Nothing is fetched with several workers. May let others run.
 */
void store_fetch(struct store *store, struct text key);

/* The value, which is the caller's to unref, or NULL. */
struct blob *store_get(struct store *store, struct text key);
bool store_has(struct store *store, struct text key);

/*
 * Sets it, holding the value itself, if the condition holds; expires_ns may be KEEP_TTL. What was
 * there goes to *ret_old, if that is wanted, and is the caller's to unref. Returns 0; -EEXIST,
 * -ENOENT when the condition did not hold; -ENOMEM.
 */
int store_set(struct store *store, struct text key, struct blob *value, int64_t expires_ns,
              int condition, struct blob **ret_old);

/* Takes that back, under the same lock, for a key that had a value and a time, when the new one
 * never expires. It cannot fail: bytes_max does not count. */
void store_set_back(struct store *store, struct text key, struct blob *old, int64_t expires_ns);

/* Deletes it; what was there goes to *ret_old, if that is wanted. Returns whether it was there. */
bool store_delete(struct store *store, struct text key, struct blob **ret_old);

/* Adds to a number. Returns 0; -EINVAL: it is none; -ERANGE: the sum is none; -ENOMEM. */
int store_add(struct store *store, struct text key, int64_t by, int64_t *ret_sum);

/* When it expires, or WH_NEVER; -1: there is no such key. */
int64_t store_expiry(struct store *store, struct text key);
/* Sets that; a time that has passed deletes it. Returns 0, -ENOENT or -ENOMEM. */
int store_set_expiry(struct store *store, struct text key, int64_t expires_ns);

/* Takes the lock itself. Deletes everything, in steps between which others run: parks. */
void store_clear(struct store *store);

/* A coroutine: deletes keys when their time has come, until the run ends. */
void store_expire_all(struct store *store);

/* ---- feed.c: what is pushed to a client while it has subscriptions ---- */

struct feed_item {
    struct feed_item *next;
    struct blob *blob;
    bool own; /* what the client itself is answered */
};

struct feed {
    bool on;     /* all output goes through it; owner only, the rest under pubsub->lock */
    bool closed; /* nothing more will be pushed */
    bool cut;    /* the client was too slow, or there was no memory */
    struct feed_item *first, **last;
    size_t bytes, own_bytes; /* of memory, for what has not gone yet; for the client's answers */
    wh_event filled, drained;
    wh_coro *sender;
};

struct client;

/* From now on the client's output goes through its feed. Returns 0 or -errno. May park. */
int feed_start(struct client *client);
/* Under pubsub->lock. Holds the blob for the client. `most`: cuts the client off if more than so
 * many bytes wait; 0: does not, it is an answer to itself. Returns whether it will be sent. */
bool feed_push(struct client *client, struct blob *blob, size_t most);
/* Waits until few of its answers are left. Takes the lock. Parks. Returns 0 or -errno. */
int feed_drain(struct client *client);
/* Pushes what the client itself is answered, once few other answers are left. Takes the lock.
 * Parks. */
void feed_answer(struct client *client, struct blob *blob);
/* Sends what is left, and ends the feed: output goes to the stream again. The client must have no
 * subscription. Takes the lock. Parks. Returns 0; or -errno: it ends by feed_finish(). */
int feed_stop(struct client *client);
/* The same, for a while, at the end of the client. */
void feed_finish(struct client *client);

/* ---- pubsub.c ---- */

struct topic;

struct subscription {
    UT_hash_handle hh; /* in the client's table, by the topic's name; owner only */
    struct topic *topic;
    struct client *client;
    struct subscription *prev, *next; /* of the topic */
};

struct pubsub {
    struct lock lock;
    struct topic *channels, *patterns;
};

enum { CHANNEL, PATTERN, TOPIC_KINDS };

/* Ends all subscriptions of a client, without a word. */
void pubsub_leave(struct client *client);

void cmd_subscribe(struct client *client);
void cmd_psubscribe(struct client *client);
void cmd_unsubscribe(struct client *client);
void cmd_punsubscribe(struct client *client);
void cmd_publish(struct client *client);
void cmd_reset(struct client *client);

/* ---- client.c ---- */

struct config {
    const char *bind;
    int port;
    unsigned workers;
    uint64_t clients_max;
    uint64_t memory_max;
    size_t request_max;
    size_t output_max;
};

/* Figures of a worker; written by it alone, read by any. */
struct tally {
    uint64_t commands;
} __attribute__((aligned(128)));

struct server {
    struct config config;
    bool shared; /* several workers */
    int port;
    int64_t started_ns;
    struct store store;
    struct pubsub pubsub;
    struct known_command *commands;
    struct tally tallies[WORKERS_MAX + 4];
    /* any worker, atomic */
    uint64_t clients, clients_seen, clients_refused, clients_cut, next_id;
};

struct client {
    struct server *server;
    wh_conn *conn;
    wh_ctx *ctx;
    struct tally *tally;
    uint64_t id;
    bool closing; /* the answer at hand is the last */
    struct request request;
    char *name; /* CLIENT SETNAME, or NULL */
    struct feed feed;
    struct subscription *subscriptions[TOPIC_KINDS];
    size_t subscriptions_bytes; /* of memory */
};

/* Serves a connection (wh_serve_handler). */
void client_serve(const wh_client *handed);

static inline size_t client_subscriptions(const struct client *client)
{
    return HASH_COUNT(client->subscriptions[CHANNEL]) + HASH_COUNT(client->subscriptions[PATTERN]);
}

/* An argument of the command at hand; 0 is its name. */
static inline struct text arg(const struct client *client, uint32_t i)
{
    return request_arg(&client->request, i);
}

static inline uint32_t args_count(const struct client *client)
{
    return client->request.count;
}

/* ---- reply.c: all may park; what cannot be sent is noted in the stream, and seen at a flush ----
 */

/* While the client has subscriptions an answer is one call of reply_bytes(), reply_whole(),
 * reply_ok() or reply_error(): messages come between two. */
void reply_bytes(struct client *client, const char *bytes, size_t len);
/* The blob, which is unreferenced; NULL: there is no memory, and the client ends. */
void reply_whole(struct client *client, struct blob *blob);
#define reply_ok(client) reply_bytes(client, "+OK\r\n", 5)
/* A text and its end: "ERR no such thing". Line breaks in it become blanks. */
void reply_error(struct client *client, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void reply_number(struct client *client, int64_t number);
void reply_array(struct client *client, uint64_t count);
void reply_bulk(struct client *client, struct text text);
void reply_word(struct client *client, const char *word);
void reply_null(struct client *client);
/* The blob, which is unreferenced; NULL is no value. */
void reply_blob(struct client *client, struct blob *blob);
/* Sends what is there. Returns 0 or -errno. */
int reply_flush(struct client *client);
/* What reply_bulk() writes, for messages: returns the end. */
char *bulk_put(char *at, struct text text);
size_t bulk_size(struct text text);

/* ---- commands.c, admin.c ---- */

struct command {
    const char *name; /* in lower case */
    int arity;        /* with the name; negative: at least */
    void (*run)(struct client *client);
    const char *flags; /* words */
    int first_key, last_key, key_step;
    bool while_subscribed;
    const char *summary;
};

/* In the server's table of them, by name. */
struct known_command {
    UT_hash_handle hh;
    const struct command *command;
};

/* Returns 0 or -ENOMEM. */
int commands_init(struct server *server);
void commands_finish(struct server *server);
const struct command *command_find(const struct server *server, struct text name);

/* Some command has the wrong number of arguments. */
void reply_arity(struct client *client, const char *command);

void cmd_ping(struct client *client);
void cmd_echo(struct client *client);
void cmd_quit(struct client *client);
void cmd_select(struct client *client);
void cmd_hello(struct client *client);
void cmd_client(struct client *client);
void cmd_config(struct client *client);
void cmd_command(struct client *client);
void cmd_info(struct client *client);

#endif
