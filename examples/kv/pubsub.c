/*
 * pubsub.c: channels, patterns and their subscribers.
 *
 *      pubsub->channels: topic "news" --subscribers--> subscription <--> subscription
 *                                                          |
 *      client->subscriptions: by topic --------------------'
 *
 * Topics and their lists are under pubsub->lock; of a client's table only its owner knows. A client
 * is on its coroutine's stack and leaves before it ends.
 *
 * All patterns are compared with the name of a channel. That takes as many steps as the product of
 * their lengths, which are short, and others run now and then: a topic that is pinned stays where
 * it is meanwhile, and the look goes on from there.
 */
#include "kv.h"

#include <stdlib.h>

#include <utlist.h>

enum {
    SUBSCRIPTIONS_BYTES_MAX = 1 << 20, /* of a client */
    WORK_MAX = 1 << 16, /* bytes compared with bytes, or copied, before others may run */
};

#define NAME_TOO_LONG "ERR the name is longer than %d bytes"

struct topic {
    UT_hash_handle hh;
    struct subscription *subscribers;
    unsigned pins; /* by who is about to look on from here */
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
    topic->pins = 0;
    topic->len = name.len;
    memcpy(topic->name, name.bytes, name.len);
    HASH_ADD_KEYPTR_BYHASHVALUE(hh, *table, topic->name, name.len, hash, topic);
    if (uthash_failed) {
        free(topic);
        return NULL;
    }
    if (table_growth(topic->hh.tbl))
        table_double(topic->hh.tbl);
    return topic;
}

static void topic_end_if_empty(struct topic **table, struct topic *topic)
{
    if (topic->subscribers || topic->pins)
        return;
    HASH_DEL(*table, topic);
    free(topic);
}

/* Lets go of it. It ends when nobody else wants it. */
static void topic_unpin(struct topic **table, struct topic *topic)
{
    topic->pins--;
    topic_end_if_empty(table, topic);
}

/* ---- Subscribing ---- */

/* The owner's: takes no lock. */
static struct subscription *subscription_find(struct client *client, int kind, struct text name)
{
    struct subscription *found;
    unsigned hash = (unsigned)text_hash(name);
    HASH_FIND_BYHASHVALUE(hh, client->subscriptions[kind], name.bytes, name.len, hash, found);
    return found;
}

/* What it may take: it may be the only one of its topic, and both are in a table, which has two
 * buckets an element when it has just grown. */
static size_t subscription_bytes(size_t name_len)
{
    return sizeof(struct subscription) + sizeof(struct topic) + name_len +
           4 * sizeof(struct UT_hash_bucket);
}

/* A subscription that there is not. Returns 0 or -ENOMEM. */
static int subscription_add(struct client *client, int kind, struct text name)
{
    struct topic **table = table_of(client, kind);
    struct topic *topic = topic_find(*table, name);
    bool uthash_failed = false;
    if (!topic)
        topic = topic_add(table, name);
    struct subscription *s = topic ? malloc(sizeof *s) : NULL;
    if (s) {
        unsigned hash = (unsigned)text_hash(name);
        s->topic = topic;
        s->client = client;
        HASH_ADD_KEYPTR_BYHASHVALUE(hh, client->subscriptions[kind], topic->name, topic->len, hash,
                                    s);
        if (!uthash_failed) {
            if (table_growth(s->hh.tbl))
                table_double(s->hh.tbl);
            DL_APPEND(topic->subscribers, s);
            client->subscriptions_bytes += subscription_bytes(topic->len);
            return 0;
        }
        free(s);
    }
    if (topic)
        topic_end_if_empty(table, topic);
    return -ENOMEM;
}

static void subscription_end(struct client *client, int kind, struct subscription *s)
{
    struct topic *topic = s->topic;
    HOLD(&client->server->pubsub.lock);
    client->subscriptions_bytes -= subscription_bytes(topic->len);
    HASH_DEL(client->subscriptions[kind], s);
    DL_DELETE(topic->subscribers, s);
    free(s);
    topic_end_if_empty(table_of(client, kind), topic);
}

/* The answer for a name: what was done, the name, or nothing, and how many subscriptions there are
 * now. NULL without memory. */
static struct blob *state(const char *what, struct text name, size_t count)
{
    struct text word = {what, strlen(what)};
    struct blob *blob = blob_create(bulk_size(word) + bulk_size(name) + 2 * NUMBER_BYTES);
    if (!blob)
        return NULL;
    char *at = bulk_put(mempcpy(blob->bytes, "*3\r\n", 4), word);
    at = name.bytes ? bulk_put(at, name) : mempcpy(at, "$-1\r\n", 5);
    *at++ = ':';
    at += number_put(at, (int64_t)count);
    at = mempcpy(at, "\r\n", 2);
    blob->len = (uint32_t)(at - blob->bytes);
    return blob;
}

/* One name, and the answer to it, which no message of that name comes before. Returns 0; -ENOMEM;
 * -EDQUOT: the client has too many; -ENAMETOOLONG; or -errno: it ends. */
static int subscribe(struct client *client, int kind, const char *what, struct text name)
{
    if (name.len > CHANNEL_BYTES_MAX)
        return -ENAMETOOLONG;
    bool is_new = !subscription_find(client, kind, name);
    if (is_new &&
        client->subscriptions_bytes + subscription_bytes(name.len) > SUBSCRIPTIONS_BYTES_MAX)
        return -EDQUOT;
    int rc = feed_drain(client);
    if (rc < 0)
        return rc;
    struct blob *answer = state(what, name, client_subscriptions(client) + is_new);
    if (!answer)
        return -ENOMEM;
    {
        HOLD(&client->server->pubsub.lock);
        if (is_new)
            rc = subscription_add(client, kind, name);
        if (rc == 0)
            feed_push(client, answer, 0);
    }
    blob_unref(answer, client->server->shared);
    return rc;
}

/* The feed ends with the last subscription. */
static void stop_if_none(struct client *client)
{
    if (client->feed.on && !client_subscriptions(client))
        (void)feed_stop(client); /* if it cannot, the client has ended */
}

static void subscribe_all(struct client *client, int kind, const char *what)
{
    int rc = client->feed.on ? 0 : feed_start(client);
    if (rc < 0) {
        reply_error(client, "OOM no memory for a subscription");
        return;
    }
    for (uint32_t i = 1; i < args_count(client); i++) {
        rc = subscribe(client, kind, what, arg(client, i));
        if (rc == -ENAMETOOLONG)
            reply_error(client, NAME_TOO_LONG, CHANNEL_BYTES_MAX);
        else if (rc == -EDQUOT)
            reply_error(client, "ERR more subscriptions than fit into %d bytes",
                        SUBSCRIPTIONS_BYTES_MAX);
        else if (rc < 0)
            reply_error(client, "OOM no memory for a subscription");
    }
    stop_if_none(client);
}

/* One name; its subscription may be NULL: there is none. */
static void unsubscribe(struct client *client, int kind, const char *what, struct text name,
                        struct subscription *s)
{
    struct blob *answer = state(what, name, client_subscriptions(client) - (s != NULL));
    if (s)
        subscription_end(client, kind, s);
    reply_whole(client, answer);
}

static void unsubscribe_all(struct client *client, int kind, const char *what)
{
    uint32_t count = args_count(client);
    struct subscription *s = client->subscriptions[kind];
    for (uint32_t i = 1; i < count; i++)
        unsubscribe(client, kind, what, arg(client, i),
                    subscription_find(client, kind, arg(client, i)));
    if (count == 1 && !s)
        unsubscribe(client, kind, what, (struct text){NULL, 0}, NULL);
    for (; count == 1 && s; s = client->subscriptions[kind])
        unsubscribe(client, kind, what, (struct text){s->topic->name, s->topic->len}, s);
    stop_if_none(client);
}

void pubsub_leave(struct client *client)
{
    for (int kind = 0; kind < TOPIC_KINDS; kind++)
        while (client->subscriptions[kind])
            subscription_end(client, kind, client->subscriptions[kind]);
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

/* The connection is as it was at its beginning. */
void cmd_reset(struct client *client)
{
    pubsub_leave(client);
    stop_if_none(client);
    free(client->name);
    client->name = NULL;
    reply_bytes(client, "+RESET\r\n", 8);
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

/* Only the last '*' is ever tried again, so it takes at most the product of both lengths. */
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

/* Gives the message to all subscribers of a topic that is pinned. Returns to how many, or -ENOMEM.
 */
static int64_t deliver(struct client *client, const struct topic *topic, struct blob *blob)
{
    const struct subscription *s;
    int64_t count = 0;
    if (!blob)
        return -ENOMEM;
    {
        HOLD(&client->server->pubsub.lock);
        DL_FOREACH(topic->subscribers, s)
        {
            count += feed_push(s->client, blob, client->server->config.output_max);
        }
    }
    blob_unref(blob, client->server->shared);
    return count;
}

static int64_t publish_to_channel(struct client *client, struct text channel, struct text payload)
{
    struct pubsub *pubsub = &client->server->pubsub;
    struct topic *topic;
    {
        HOLD(&pubsub->lock);
        topic = topic_find(pubsub->channels, channel);
        if (topic)
            topic->pins++;
    }
    if (!topic)
        return 0;
    int64_t count = deliver(client, topic, message(NULL, channel, payload));
    HOLD(&pubsub->lock);
    topic_unpin(&pubsub->channels, topic);
    return count;
}

/* Looks among the patterns behind *at, which is pinned, or from the first on, for one that matches,
 * as long as *work is less than WORK_MAX. Whether *at is one now; it is pinned again, and the last
 * that was looked at, or NULL: there are no more. */
static bool look_on(struct pubsub *pubsub, struct text channel, struct topic **at, size_t *work)
{
    HOLD(&pubsub->lock);
    struct topic *before = *at, *topic = before ? before->hh.next : pubsub->patterns;
    bool found = false;
    for (; topic && !found && *work < WORK_MAX; topic = topic->hh.next) {
        found = matches((struct text){topic->name, topic->len}, channel);
        *work += 1 + topic->len * channel.len;
        *at = topic;
    }
    if (!found && !topic)
        *at = NULL;
    if (*at)
        (*at)->pins++;
    if (before)
        topic_unpin(&pubsub->patterns, before);
    return found;
}

static int64_t publish_to_patterns(struct client *client, struct text channel, struct text payload)
{
    struct pubsub *pubsub = &client->server->pubsub;
    struct topic *at = NULL;
    size_t work = 0;
    int64_t count = 0, more = 0;
    do {
        if (look_on(pubsub, channel, &at, &work)) {
            more = deliver(client, at, message(at, channel, payload));
            count += more;
            work += payload.len;
        }
        if (work >= WORK_MAX) {
            wh_yield();
            work = 0;
        }
    } while (at && more >= 0 && wh_ctx_err(client->ctx) == 0);
    if (at) {
        HOLD(&pubsub->lock);
        topic_unpin(&pubsub->patterns, at);
    }
    return more < 0 ? more : count;
}

void cmd_publish(struct client *client)
{
    struct text channel = arg(client, 1), payload = arg(client, 2);
    if (channel.len > CHANNEL_BYTES_MAX) {
        reply_error(client, NAME_TOO_LONG, CHANNEL_BYTES_MAX);
        return;
    }
    int64_t count = publish_to_channel(client, channel, payload);
    int64_t more = count < 0 ? count : publish_to_patterns(client, channel, payload);
    if (more < 0)
        reply_error(client, "OOM no memory for a message");
    else
        reply_number(client, count + more);
}
