/*
 * pubsub.c: channels, patterns and their subscribers.
 *
 *      pubsub->channels: topic "news" --subscribers--> subscription <--> subscription
 *                                                          |
 *      client->subscriptions: by topic --------------------'
 *
 * All of it is under pubsub->lock. A client is on its coroutine's stack and leaves before it ends.
 */
#include "kv.h"

#include <stdlib.h>

#include <utlist.h>

enum { SUBSCRIPTIONS_MAX = 65536 /* of a client and kind */ };

struct topic {
    UT_hash_handle hh;
    struct subscription *subscribers;
    size_t len;
    char name[];
};

static struct topic **table_of(struct client *client, int kind)
{
    struct pubsub *pubsub = &client->server->pubsub;
    return kind == CHANNEL ? &pubsub->channels : &pubsub->patterns;
}

static struct topic *topic_find(struct topic *table, struct text name)
{
    struct topic *topic;
    unsigned hash = (unsigned)text_hash(name);
    HASH_FIND_BYHASHVALUE(hh, table, name.bytes, name.len, hash, topic);
    return topic;
}

static struct topic *topic_add(struct topic **table, struct text name)
{
    bool uthash_failed = false;
    unsigned hash = (unsigned)text_hash(name);
    struct topic *topic = malloc(sizeof *topic + name.len);
    if (!topic)
        return NULL;
    topic->subscribers = NULL;
    topic->len = name.len;
    memcpy(topic->name, name.bytes, name.len);
    HASH_ADD_KEYPTR_BYHASHVALUE(hh, *table, topic->name, name.len, hash, topic);
    if (!uthash_failed)
        return topic;
    free(topic);
    return NULL;
}

static void topic_end_if_empty(struct topic **table, struct topic *topic)
{
    if (topic->subscribers)
        return;
    HASH_DEL(*table, topic);
    free(topic);
}

/* ---- Subscribing ---- */

static struct subscription *subscription_find(struct client *client, int kind, struct topic *topic)
{
    struct subscription *found = NULL;
    if (topic)
        HASH_FIND_PTR(client->subscriptions[kind], &topic, found);
    return found;
}

/* Returns 0; -ENOMEM; -EDQUOT: it has too many. */
static int subscribe(struct client *client, int kind, struct text name)
{
    HOLD(&client->server->pubsub.lock);
    struct topic **table = table_of(client, kind);
    struct topic *topic = topic_find(*table, name);
    bool uthash_failed = false;
    if (subscription_find(client, kind, topic))
        return 0;
    if (HASH_COUNT(client->subscriptions[kind]) >= SUBSCRIPTIONS_MAX)
        return -EDQUOT;
    if (!topic)
        topic = topic_add(table, name);
    struct subscription *s = topic ? malloc(sizeof *s) : NULL;
    if (s) {
        s->topic = topic;
        s->client = client;
        HASH_ADD_PTR(client->subscriptions[kind], topic, s);
        if (!uthash_failed) {
            DL_APPEND(topic->subscribers, s);
            return 0;
        }
        free(s);
    }
    if (topic)
        topic_end_if_empty(table, topic);
    return -ENOMEM;
}

static void unsubscribe(struct client *client, int kind, struct subscription *s)
{
    struct topic *topic = s->topic;
    HASH_DEL(client->subscriptions[kind], s);
    DL_DELETE(topic->subscribers, s);
    free(s);
    topic_end_if_empty(table_of(client, kind), topic);
}

static void reply_state(struct client *client, const char *what, struct text name)
{
    reply_bytes(client, "*3\r\n", 4);
    reply_word(client, what);
    if (name.bytes)
        reply_bulk(client, name);
    else
        reply_null(client);
    reply_number(client, (int64_t)client_subscriptions(client));
}

static void subscribe_all(struct client *client, int kind, const char *what)
{
    if (!client->feed.on && feed_start(client) < 0) {
        reply_error(client, "OOM no memory for a subscription");
        return;
    }
    for (uint32_t i = 1; i < args_count(client); i++) {
        struct text name = arg(client, i);
        int rc = name.len > KEY_BYTES_MAX ? -ENAMETOOLONG : subscribe(client, kind, name);
        if (rc == -ENAMETOOLONG)
            reply_error(client, "ERR the name is longer than %d bytes", KEY_BYTES_MAX);
        else if (rc == -EDQUOT)
            reply_error(client, "ERR more than %d subscriptions", SUBSCRIPTIONS_MAX);
        else if (rc < 0)
            reply_error(client, "OOM no memory for a subscription");
        else
            reply_state(client, what, name);
    }
}

/* One name. */
static void unsubscribe_name(struct client *client, int kind, struct text name)
{
    HOLD(&client->server->pubsub.lock);
    struct topic *topic = topic_find(*table_of(client, kind), name);
    struct subscription *s = subscription_find(client, kind, topic);
    if (s)
        unsubscribe(client, kind, s);
}

/* Any one. *ret_name is a copy, the caller's. False: there is none, or no memory for its name. */
static bool unsubscribe_any(struct client *client, int kind, struct blob **ret_name)
{
    HOLD(&client->server->pubsub.lock);
    struct subscription *s = client->subscriptions[kind];
    struct blob *name = s ? blob_create(s->topic->len) : NULL;
    if (!name)
        return false;
    memcpy(name->bytes, s->topic->name, name->len);
    unsubscribe(client, kind, s);
    *ret_name = name;
    return true;
}

static void unsubscribe_all(struct client *client, int kind, const char *what)
{
    uint32_t count = args_count(client);
    struct blob *name;
    for (uint32_t i = 1; i < count; i++) {
        unsubscribe_name(client, kind, arg(client, i));
        reply_state(client, what, arg(client, i));
    }
    if (count > 1)
        return;
    if (!client->subscriptions[kind])
        reply_state(client, what, (struct text){NULL, 0});
    while (unsubscribe_any(client, kind, &name)) {
        reply_state(client, what, (struct text){name->bytes, name->len});
        blob_unref(name, client->server->shared);
    }
}

void pubsub_leave(struct client *client)
{
    if (!client->feed.on)
        return;
    HOLD(&client->server->pubsub.lock);
    for (int kind = 0; kind < TOPIC_KINDS; kind++)
        while (client->subscriptions[kind])
            unsubscribe(client, kind, client->subscriptions[kind]);
}

void cmd_subscribe(struct client *client)
{
    subscribe_all(client, CHANNEL, "subscribe");
}

void cmd_psubscribe(struct client *client)
{
    subscribe_all(client, PATTERN, "psubscribe");
}

void cmd_unsubscribe(struct client *client)
{
    unsubscribe_all(client, CHANNEL, "unsubscribe");
}

void cmd_punsubscribe(struct client *client)
{
    unsubscribe_all(client, PATTERN, "punsubscribe");
}

/* ---- Patterns ---- */

/* A set: "abc]", "a-z]", "^abc]", from *at on, which is moved behind it. */
static bool set_matches(const char **at, const char *end, unsigned char c)
{
    const char *p = *at;
    bool negated = p < end && *p == '^', found = false;
    p += negated;
    for (; p < end && *p != ']'; p++) {
        if (*p == '\\' && p + 1 < end)
            p++;
        unsigned char low = (unsigned char)*p, high = low;
        if (p + 2 < end && p[1] == '-' && p[2] != ']') {
            high = (unsigned char)p[2];
            p += 2;
        }
        found |= low <= high ? c >= low && c <= high : c >= high && c <= low;
    }
    *at = p < end ? p + 1 : p;
    return found != negated;
}

/* One character of the pattern, other than '*'; *at is moved behind it. */
static bool char_matches(const char **at, const char *end, char c)
{
    const char *p = (*at)++;
    switch (*p) {
    case '?': return true;
    case '[': return set_matches(at, end, (unsigned char)c);
    case '\\':
        if (*at < end)
            p = (*at)++;
        return *p == c;
    default: return *p == c;
    }
}

/* Only the last '*' is ever tried again, so the time is at most the product of both lengths. */
static bool matches(struct text pattern, struct text text)
{
    const char *p = pattern.bytes, *p_end = p + pattern.len;
    const char *t = text.bytes, *t_end = t + text.len;
    const char *star = NULL, *starred = NULL;
    while (t < t_end) {
        if (p < p_end && *p == '*') {
            star = ++p;
            starred = t;
        } else if (p < p_end && char_matches(&p, p_end, *t)) {
            t++;
        } else if (star) {
            p = star;
            t = ++starred;
        } else {
            return false;
        }
    }
    while (p < p_end && *p == '*')
        p++;
    return p == p_end;
}

/* ---- Publishing ---- */

/* "message", or "pmessage" for a pattern; NULL without memory. */
static struct blob *message(const struct topic *pattern, struct text channel, struct text payload)
{
    struct text name = pattern ? (struct text){pattern->name, pattern->len} : (struct text){0};
    struct blob *blob = blob_create(64 + bulk_size(name) + bulk_size(channel) + bulk_size(payload));
    if (!blob)
        return NULL;
    char *at =
        mempcpy(blob->bytes, pattern ? "*4\r\n$8\r\npmessage\r\n" : "*3\r\n$7\r\nmessage\r\n",
                pattern ? 18 : 17);
    if (pattern)
        at = bulk_put(at, name);
    at = bulk_put(at, channel);
    at = bulk_put(at, payload);
    blob->len = (uint32_t)(at - blob->bytes);
    return blob;
}

/* Gives the message to all subscribers. Returns to how many, or -ENOMEM. */
static int64_t push_all(struct client *client, const struct topic *topic, struct blob *blob)
{
    const struct subscription *s;
    int64_t count = 0;
    if (!blob)
        return -ENOMEM;
    DL_FOREACH(topic->subscribers, s)
    {
        count += feed_push(s->client, blob, client->server->config.output_max);
    }
    blob_unref(blob, client->server->shared);
    return count;
}

static int64_t publish(struct client *client, struct text channel, struct text payload)
{
    struct pubsub *pubsub = &client->server->pubsub;
    HOLD(&pubsub->lock);
    const struct topic *topic = topic_find(pubsub->channels, channel);
    int64_t count = topic ? push_all(client, topic, message(NULL, channel, payload)) : 0;
    for (topic = pubsub->patterns; topic && count >= 0; topic = topic->hh.next) {
        if (!matches((struct text){topic->name, topic->len}, channel))
            continue;
        int64_t more = push_all(client, topic, message(topic, channel, payload));
        count = more < 0 ? more : count + more;
    }
    return count;
}

void cmd_publish(struct client *client)
{
    int64_t count = publish(client, arg(client, 1), arg(client, 2));
    if (count < 0)
        reply_error(client, "OOM no memory for a message");
    else
        reply_number(client, count);
}
