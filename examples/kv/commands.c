/*
 * commands.c: the table of commands, and those on keys.
 *
 * A command on several keys holds the store's lock from the first to the last, so that others see
 * all of it or nothing, and answers afterwards: an answer may park.
 */
#include "kv.h"

#include <ctype.h>
#include <stdlib.h>

#define NOT_A_NUMBER "ERR value is not an integer or out of range"

/* ---- Helpers ---- */

static struct store *store_of(struct client *client)
{
    return &client->server->store;
}

static void reply_no_memory(struct client *client)
{
    reply_error(client, "OOM command not allowed: no memory, or more than --maxmemory");
}

static bool key_fits(struct client *client, uint32_t i)
{
    if (arg(client, i).len <= KEY_BYTES_MAX)
        return true;
    reply_error(client, "ERR the key is longer than %d bytes", KEY_BYTES_MAX);
    return false;
}

/* Lets others run after each so many of very many arguments. */
static void rest_after(uint32_t i)
{
    if (i % ARGS_STEP == ARGS_STEP - 1)
        wh_yield();
}

/* The time that is so many units from now. False: there is none. */
static bool time_from_now(int64_t count, int64_t unit_ns, int64_t *ret_ns)
{
    int64_t ns;
    return !__builtin_mul_overflow(count, unit_ns, &ns) &&
           !__builtin_add_overflow(ns, wh_now(), ret_ns) && *ret_ns != WH_NEVER;
}

/* ---- Setting ---- */

struct set_options {
    int condition;
    int64_t expires_ns;
    bool get;
};

/* A time to live for a key that is set; false and has answered when it is none. */
static bool read_ttl(struct client *client, const char *command, struct text text, int64_t unit_ns,
                     int64_t *ret_ns)
{
    int64_t count;
    if (!number_read(text, &count)) {
        reply_error(client, NOT_A_NUMBER);
        return false;
    }
    if (count > 0 && time_from_now(count, unit_ns, ret_ns))
        return true;
    reply_error(client, "ERR invalid expire time in '%s' command", command);
    return false;
}

/* False and has answered when they are wrong. */
static bool read_set_options(struct client *client, struct set_options *options)
{
    uint32_t count = args_count(client);
    *options = (struct set_options){SET_ALWAYS, WH_NEVER, false};
    for (uint32_t i = 3; i < count; i++) {
        struct text word = arg(client, i);
        bool free_condition = options->condition == SET_ALWAYS;
        bool free_expiry = options->expires_ns == WH_NEVER;
        bool ex = text_is(word, "ex"), px = text_is(word, "px");
        if (text_is(word, "nx") && free_condition) {
            options->condition = SET_IF_NEW;
        } else if (text_is(word, "xx") && free_condition) {
            options->condition = SET_IF_THERE;
        } else if (text_is(word, "get")) {
            options->get = true;
        } else if (text_is(word, "keepttl") && free_expiry) {
            options->expires_ns = KEEP_TTL;
        } else if ((ex || px) && free_expiry && i + 1 < count) {
            if (!read_ttl(client, "set", arg(client, ++i), ex ? WH_SECOND : WH_MILLISECOND,
                          &options->expires_ns))
                return false;
        } else {
            reply_error(client, "ERR syntax error");
            return false;
        }
    }
    return true;
}

/* Returns as store_set(), the new value being an argument. */
static int set_arg(struct client *client, uint32_t value_at, const struct set_options *options,
                   struct blob **ret_old)
{
    struct store *store = store_of(client);
    struct blob *value = blob_of(arg(client, value_at));
    int rc = -ENOMEM;
    store_fetch(store, arg(client, 1));
    if (value) {
        HOLD(&store->lock);
        rc = store_set(store, arg(client, 1), value, options->expires_ns, options->condition,
                       ret_old);
    } else if (ret_old) {
        *ret_old = NULL;
    }
    blob_unref(value, client->server->shared);
    return rc;
}

static void cmd_set(struct client *client)
{
    struct set_options options;
    struct blob *old = NULL;
    if (!key_fits(client, 1) || !read_set_options(client, &options))
        return;
    int rc = set_arg(client, 2, &options, options.get ? &old : NULL);
    if (rc == -ENOMEM)
        reply_no_memory(client);
    else if (options.get)
        reply_blob(client, old);
    else if (rc < 0)
        reply_null(client);
    else
        reply_ok(client);
}

static void cmd_setnx(struct client *client)
{
    if (!key_fits(client, 1))
        return;
    int rc = set_arg(client, 2, &(struct set_options){SET_IF_NEW, WH_NEVER, false}, NULL);
    if (rc == -ENOMEM)
        reply_no_memory(client);
    else
        reply_number(client, rc == 0);
}

static void set_for(struct client *client, const char *command, int64_t unit_ns)
{
    struct set_options options = {SET_ALWAYS, WH_NEVER, false};
    if (!key_fits(client, 1) ||
        !read_ttl(client, command, arg(client, 2), unit_ns, &options.expires_ns))
        return;
    if (set_arg(client, 3, &options, NULL) < 0)
        reply_no_memory(client);
    else
        reply_ok(client);
}

static void cmd_setex(struct client *client)
{
    set_for(client, "setex", WH_SECOND);
}

static void cmd_psetex(struct client *client)
{
    set_for(client, "psetex", WH_MILLISECOND);
}

/* A key and its value among the arguments of MSET, and what was there before. */
struct pair {
    struct blob *value, *old; /* or NULL */
    int64_t expires_ns;
};

/* The values are made before the lock is taken, and others run now and then. False: no memory. */
static bool make_values(struct client *client, struct pair *pairs, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (!(pairs[i].value = blob_of(arg(client, 2 + 2 * i))))
            return false;
        rest_after(i);
    }
    return true;
}

static void drop_values(struct client *client, struct pair *pairs, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        blob_unref(pairs[i].value, client->server->shared);
        blob_unref(pairs[i].old, client->server->shared);
        rest_after(i);
    }
}

/* Sets all of them, or, when one cannot be set, none: takes back what was done before it. Returns 0
 * or -ENOMEM. */
static int set_pairs(struct client *client, struct pair *pairs, uint32_t count)
{
    struct store *store = store_of(client);
    HOLD(&store->lock);
    int rc = 0;
    uint32_t done = 0;
    for (; done < count; done++) {
        struct pair *pair = &pairs[done];
        struct text key = arg(client, 1 + 2 * done);
        pair->expires_ns = store_expiry(store, key);
        rc = store_set(store, key, pair->value, WH_NEVER, SET_ALWAYS, &pair->old);
        if (rc < 0)
            break;
    }
    while (rc < 0 && done-- > 0) {
        struct pair *pair = &pairs[done];
        struct text key = arg(client, 1 + 2 * done);
        if (pair->old)
            store_set_back(store, key, pair->old, pair->expires_ns);
        else
            (void)store_delete(store, key, NULL);
    }
    return rc;
}

static void cmd_mset(struct client *client)
{
    uint32_t count = args_count(client) / 2;
    if (args_count(client) % 2 == 0) {
        reply_arity(client, "mset");
        return;
    }
    for (uint32_t i = 0; i < count; i++)
        if (!key_fits(client, 1 + 2 * i))
            return;
    struct pair *pairs = calloc(count, sizeof *pairs);
    int rc = pairs && make_values(client, pairs, count) ? set_pairs(client, pairs, count) : -ENOMEM;
    if (pairs)
        drop_values(client, pairs, count);
    free(pairs);
    if (rc < 0)
        reply_no_memory(client);
    else
        reply_ok(client);
}

/* ---- Looking ---- */

static struct blob *get_arg(struct client *client, uint32_t i)
{
    struct store *store = store_of(client);
    store_fetch(store, arg(client, i));
    HOLD(&store->lock);
    return store_get(store, arg(client, i));
}

static void cmd_get(struct client *client)
{
    reply_blob(client, get_arg(client, 1));
}

static void cmd_mget(struct client *client)
{
    struct store *store = store_of(client);
    uint32_t count = args_count(client) - 1;
    struct blob **values = malloc(count * sizeof *values);
    if (!values) {
        reply_no_memory(client);
        return;
    }
    {
        HOLD(&store->lock);
        for (uint32_t i = 0; i < count; i++)
            values[i] = store_get(store, arg(client, 1 + i));
    }
    reply_array(client, count);
    for (uint32_t i = 0; i < count; i++)
        reply_blob(client, values[i]);
    free(values);
}

static void cmd_exists(struct client *client)
{
    struct store *store = store_of(client);
    int64_t count = 0;
    {
        HOLD(&store->lock);
        for (uint32_t i = 1; i < args_count(client); i++)
            count += store_has(store, arg(client, i));
    }
    reply_number(client, count);
}

static void reply_ttl(struct client *client, int64_t unit_ns)
{
    struct store *store = store_of(client);
    int64_t expires_ns;
    {
        HOLD(&store->lock);
        expires_ns = store_expiry(store, arg(client, 1));
    }
    int64_t left_ns = expires_ns - wh_now();
    if (expires_ns < 0)
        reply_number(client, -2);
    else if (expires_ns == WH_NEVER)
        reply_number(client, -1);
    else
        reply_number(client, left_ns < 0 ? 0 : (left_ns + unit_ns / 2) / unit_ns);
}

static void cmd_ttl(struct client *client)
{
    reply_ttl(client, WH_SECOND);
}

static void cmd_pttl(struct client *client)
{
    reply_ttl(client, WH_MILLISECOND);
}

static void cmd_dbsize(struct client *client)
{
    struct store *store = store_of(client);
    int64_t keys;
    {
        HOLD(&store->lock);
        keys = (int64_t)store->keys;
    }
    reply_number(client, keys);
}

/* ---- Deleting ---- */

static void cmd_del(struct client *client)
{
    struct store *store = store_of(client);
    int64_t count = 0;
    {
        HOLD(&store->lock);
        for (uint32_t i = 1; i < args_count(client); i++)
            count += store_delete(store, arg(client, i), NULL);
    }
    reply_number(client, count);
}

static void cmd_getdel(struct client *client)
{
    struct store *store = store_of(client);
    struct blob *old = NULL;
    {
        HOLD(&store->lock);
        (void)store_delete(store, arg(client, 1), &old);
    }
    reply_blob(client, old);
}

static void cmd_flushall(struct client *client)
{
    if (args_count(client) > 2 || (args_count(client) == 2 && !text_is(arg(client, 1), "sync") &&
                                   !text_is(arg(client, 1), "async"))) {
        reply_error(client, "ERR syntax error");
        return;
    }
    store_clear(store_of(client));
    reply_ok(client);
}

/* ---- Numbers ---- */

static void reply_sum(struct client *client, int64_t by)
{
    struct store *store = store_of(client);
    int64_t sum = 0;
    int rc;
    if (!key_fits(client, 1))
        return;
    {
        HOLD(&store->lock);
        rc = store_add(store, arg(client, 1), by, &sum);
    }
    if (rc == -EINVAL)
        reply_error(client, NOT_A_NUMBER);
    else if (rc == -ERANGE)
        reply_error(client, "ERR increment or decrement would overflow");
    else if (rc < 0)
        reply_no_memory(client);
    else
        reply_number(client, sum);
}

static void cmd_incr(struct client *client)
{
    reply_sum(client, 1);
}

static void cmd_decr(struct client *client)
{
    reply_sum(client, -1);
}

static void cmd_incrby(struct client *client)
{
    int64_t by;
    if (number_read(arg(client, 2), &by))
        reply_sum(client, by);
    else
        reply_error(client, NOT_A_NUMBER);
}

static void cmd_decrby(struct client *client)
{
    int64_t by;
    if (!number_read(arg(client, 2), &by))
        reply_error(client, NOT_A_NUMBER);
    else if (by == INT64_MIN)
        reply_error(client, "ERR decrement would overflow");
    else
        reply_sum(client, -by);
}

/* ---- Times ---- */

/* Whether the condition ("nx", "xx", "gt", "lt") lets the time be set. */
static bool expiry_allowed(char condition, int64_t before_ns, int64_t expires_ns)
{
    switch (condition) {
    case 'n': return before_ns == WH_NEVER;
    case 'x': return before_ns != WH_NEVER;
    case 'g': return before_ns != WH_NEVER && expires_ns > before_ns;
    case 'l': return expires_ns < before_ns;
    default: return true;
    }
}

static int set_expiry(struct client *client, int64_t expires_ns, char condition)
{
    struct store *store = store_of(client);
    HOLD(&store->lock);
    int64_t before_ns = store_expiry(store, arg(client, 1));
    if (before_ns < 0 || !expiry_allowed(condition, before_ns, expires_ns))
        return -ENOENT;
    return store_set_expiry(store, arg(client, 1), expires_ns);
}

static bool read_condition(struct client *client, char *ret_condition)
{
    static const char *const words[] = {"nx", "xx", "gt", "lt"};
    uint32_t count = args_count(client);
    *ret_condition = 0;
    if (count == 3)
        return true;
    for (size_t i = 0; count == 4 && i < sizeof words / sizeof *words; i++)
        if (text_is(arg(client, 3), words[i]))
            *ret_condition = words[i][0];
    if (*ret_condition)
        return true;
    struct text word = arg(client, count - 1);
    reply_error(client, "ERR Unsupported option %.*s", (int)(word.len < 64 ? word.len : 64),
                word.bytes);
    return false;
}

static void expire_in(struct client *client, const char *command, int64_t unit_ns)
{
    int64_t count, expires_ns;
    char condition;
    if (!number_read(arg(client, 2), &count)) {
        reply_error(client, NOT_A_NUMBER);
        return;
    }
    if (!read_condition(client, &condition))
        return;
    if (!time_from_now(count, unit_ns, &expires_ns)) {
        reply_error(client, "ERR invalid expire time in '%s' command", command);
        return;
    }
    int rc = set_expiry(client, expires_ns, condition);
    if (rc == -ENOMEM)
        reply_no_memory(client);
    else
        reply_number(client, rc == 0);
}

static void cmd_expire(struct client *client)
{
    expire_in(client, "expire", WH_SECOND);
}

static void cmd_pexpire(struct client *client)
{
    expire_in(client, "pexpire", WH_MILLISECOND);
}

static void cmd_persist(struct client *client)
{
    reply_number(client, set_expiry(client, WH_NEVER, 'x') == 0);
}

/* ---- The table ---- */

#define WRITES "write fast"
#define READS  "readonly fast"

/* name, arguments, function, flags, first, last and step of keys, also while subscribed, summary */
static const struct command table[] = {
    {"command", -1, cmd_command, "loading stale", 0, 0, 0, false, "what commands there are"},
    {"client", -2, cmd_client, "admin", 0, 0, 0, false, "about this connection"},
    {"config", -2, cmd_config, "admin", 0, 0, 0, false, "what is configured"},
    {"dbsize", 1, cmd_dbsize, READS, 0, 0, 0, false, "how many keys there are"},
    {"decr", 2, cmd_decr, WRITES, 1, 1, 1, false, "takes one off a number"},
    {"decrby", 3, cmd_decrby, WRITES, 1, 1, 1, false, "subtracts from a number"},
    {"del", -2, cmd_del, "write", 1, -1, 1, false, "deletes keys"},
    {"echo", 2, cmd_echo, "fast", 0, 0, 0, false, "says it again"},
    {"exists", -2, cmd_exists, READS, 1, -1, 1, false, "how many of the keys are there"},
    {"expire", -3, cmd_expire, WRITES, 1, 1, 1, false, "lets a key live for some seconds"},
    {"flushall", -1, cmd_flushall, "write", 0, 0, 0, false, "deletes all keys"},
    {"flushdb", -1, cmd_flushall, "write", 0, 0, 0, false, "deletes all keys"},
    {"get", 2, cmd_get, READS, 1, 1, 1, false, "a key's value"},
    {"getdel", 2, cmd_getdel, WRITES, 1, 1, 1, false, "a key's value, for the last time"},
    {"hello", -1, cmd_hello, "fast", 0, 0, 0, false, "which protocol is spoken"},
    {"incr", 2, cmd_incr, WRITES, 1, 1, 1, false, "adds one to a number"},
    {"incrby", 3, cmd_incrby, WRITES, 1, 1, 1, false, "adds to a number"},
    {"info", -1, cmd_info, "loading stale", 0, 0, 0, false, "figures of the server"},
    {"mget", -2, cmd_mget, READS, 1, -1, 1, false, "values of several keys"},
    {"mset", -3, cmd_mset, "write", 1, -1, 2, false, "sets several keys at once"},
    {"persist", 2, cmd_persist, WRITES, 1, 1, 1, false, "lets a key live for ever"},
    {"pexpire", -3, cmd_pexpire, WRITES, 1, 1, 1, false, "lets a key live for milliseconds"},
    {"ping", -1, cmd_ping, "fast", 0, 0, 0, true, "is answered"},
    {"psetex", 4, cmd_psetex, "write", 1, 1, 1, false, "sets a key for milliseconds"},
    {"psubscribe", -2, cmd_psubscribe, "pubsub", 0, 0, 0, true, "messages of such channels"},
    {"pttl", 2, cmd_pttl, READS, 1, 1, 1, false, "milliseconds that a key has left"},
    {"publish", 3, cmd_publish, "pubsub fast", 0, 0, 0, false, "a message for a channel"},
    {"punsubscribe", -1, cmd_punsubscribe, "pubsub", 0, 0, 0, true, "no more of them"},
    {"quit", -1, cmd_quit, "fast", 0, 0, 0, true, "ends the connection"},
    {"reset", 1, cmd_reset, "fast", 0, 0, 0, true, "begins the connection anew"},
    {"select", 2, cmd_select, "fast", 0, 0, 0, false, "the database, of which there is one"},
    {"set", -3, cmd_set, "write", 1, 1, 1, false, "sets a key"},
    {"setex", 4, cmd_setex, "write", 1, 1, 1, false, "sets a key for some seconds"},
    {"setnx", 3, cmd_setnx, WRITES, 1, 1, 1, false, "sets a key that is not there"},
    {"subscribe", -2, cmd_subscribe, "pubsub", 0, 0, 0, true, "messages of channels"},
    {"ttl", 2, cmd_ttl, READS, 1, 1, 1, false, "seconds that a key has left"},
    {"unsubscribe", -1, cmd_unsubscribe, "pubsub", 0, 0, 0, true, "no more of them"},
};

enum { COMMANDS = sizeof table / sizeof *table, NAME_BYTES_MAX = 32 };

int commands_init(struct server *server)
{
    bool uthash_failed = false;
    for (int i = 0; i < COMMANDS; i++) {
        struct known_command *known = malloc(sizeof *known);
        if (!known)
            return -ENOMEM;
        const char *name = table[i].name;
        size_t len = strlen(name);
        known->command = &table[i];
        unsigned hash = (unsigned)text_hash((struct text){name, len});
        HASH_ADD_KEYPTR_BYHASHVALUE(hh, server->commands, name, len, hash, known);
        if (uthash_failed) {
            free(known);
            return -ENOMEM;
        }
        if (table_growth(known->hh.tbl))
            table_double(known->hh.tbl);
    }
    return 0;
}

void commands_finish(struct server *server)
{
    while (server->commands) {
        struct known_command *known = server->commands;
        HASH_DEL(server->commands, known);
        free(known);
    }
}

const struct command *command_find(const struct server *server, struct text name)
{
    char lower[NAME_BYTES_MAX];
    struct known_command *known;
    if (name.len > sizeof lower)
        return NULL;
    for (size_t i = 0; i < name.len; i++)
        lower[i] = (char)tolower((unsigned char)name.bytes[i]);
    unsigned hash = (unsigned)text_hash((struct text){lower, name.len});
    HASH_FIND_BYHASHVALUE(hh, server->commands, lower, name.len, hash, known);
    return known ? known->command : NULL;
}
