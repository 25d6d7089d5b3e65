/*
 * feed.c: what is on its way to a subscriber, and the coroutine that sends it.
 *
 *      PUBLISH by anybody --.
 *                            +--> first -> item -> item -> ... --> sender --> the stream
 *      the client's answers -'
 *
 * There is one while the client has subscriptions, and it is all that writes to the stream. A
 * message is one blob however many get it, and so is an answer: nothing comes between its parts.
 * Who publishes never waits: a subscriber that does not take what it is sent, until more waits for
 * it than --client-output-limit, is cut off. The client itself waits, before each of its answers,
 * until they take no more than FEED_LOW_BYTES. Messages do not count there: whom they flood could
 * never unsubscribe.
 */
#include "kv.h"

#include <stdlib.h>

enum { FEED_LOW_BYTES = 65536 };

/* What it takes to hold a message. It is counted for each client, and may be shared. */
static size_t bytes_of(const struct blob *blob)
{
    return sizeof(struct feed_item) + sizeof *blob + blob->len;
}

#define LAST_WORDS_NS (5 * WH_SECOND)

bool feed_push(struct client *client, struct blob *blob, size_t most)
{
    struct feed *feed = &client->feed;
    if (feed->closed || feed->cut)
        return false;
    struct feed_item *item =
        most && feed->bytes + bytes_of(blob) > most ? NULL : malloc(sizeof *item);
    if (!item) {
        feed->cut = true;
        __atomic_fetch_add(&client->server->clients_cut, 1, __ATOMIC_RELAXED);
        wh_ctx_cancel(client->ctx, -ENOBUFS);
        return false;
    }
    *item = (struct feed_item){.blob = blob_ref(blob, client->server->shared), .own = !most};
    *feed->last = item;
    feed->last = &item->next;
    feed->bytes += bytes_of(blob);
    feed->own_bytes += item->own ? bytes_of(blob) : 0;
    wh_event_set(&feed->filled);
    return true;
}

/* The next item, which is the caller's; NULL: there is none. *ret_over: and never will be. */
static struct feed_item *take(struct client *client, bool *ret_over)
{
    struct feed *feed = &client->feed;
    HOLD(&client->server->pubsub.lock);
    struct feed_item *item = feed->first;
    if (item) {
        feed->first = item->next;
        if (!feed->first)
            feed->last = &feed->first;
    } else {
        wh_event_reset(&feed->filled);
    }
    *ret_over = !item && feed->closed;
    return item;
}

/* The item has gone, or never will. */
static void drop(struct client *client, struct feed_item *item)
{
    struct feed *feed = &client->feed;
    {
        HOLD(&client->server->pubsub.lock);
        feed->bytes -= bytes_of(item->blob);
        feed->own_bytes -= item->own ? bytes_of(item->blob) : 0;
        if (feed->own_bytes <= FEED_LOW_BYTES)
            wh_event_set(&feed->drained);
    }
    blob_unref(item->blob, client->server->shared);
    free(item);
}

/* The sender. The stream keeps what was wrong with it. */
static void feed_send(struct client *client)
{
    bool over = false;
    int rc = 0;
    while (rc >= 0 && !over) {
        struct feed_item *item = take(client, &over);
        if (item) {
            rc = wh_conn_write(client->conn, item->blob->bytes, item->blob->len) < 0 ? -EPIPE : 0;
            drop(client, item);
        } else {
            rc = wh_conn_flush(client->conn);
            if (rc == 0 && !over)
                rc = wh_event_wait(&client->feed.filled);
        }
    }
    if (rc < 0)
        wh_ctx_cancel(client->ctx, rc); /* the reader is to end, too */
}

int feed_start(struct client *client)
{
    struct feed *feed = &client->feed;
    int rc = wh_conn_flush(client->conn);
    if (rc < 0)
        return rc;
    feed->last = &feed->first;
    rc = wh_spawn(&feed->sender, NULL, feed_send, client);
    feed->on = rc == 0;
    return rc;
}

int feed_drain(struct client *client)
{
    struct feed *feed = &client->feed;
    for (;;) {
        {
            HOLD(&client->server->pubsub.lock);
            if (feed->own_bytes <= FEED_LOW_BYTES)
                return 0;
            wh_event_reset(&feed->drained);
        }
        int rc = wh_event_wait(&feed->drained);
        if (rc < 0)
            return rc;
    }
}

void feed_answer(struct client *client, struct blob *blob)
{
    if (feed_drain(client) < 0)
        return; /* so the client has ended */
    HOLD(&client->server->pubsub.lock);
    feed_push(client, blob, 0);
}

int feed_stop(struct client *client)
{
    struct feed *feed = &client->feed;
    {
        HOLD(&client->server->pubsub.lock);
        feed->closed = true;
        wh_event_set(&feed->filled);
    }
    int rc = wh_join(feed->sender, NULL);
    if (rc < 0)
        return rc;
    while (feed->first) { /* the stream has ended */
        struct feed_item *item = feed->first;
        feed->first = item->next;
        drop(client, item);
    }
    feed->on = feed->closed = false;
    return 0;
}

void feed_finish(struct client *client)
{
    int rc = -ETIMEDOUT;
    if (!client->feed.on)
        return;
    WH_WITH_TIMEOUT(LAST_WORDS_NS)
    {
        rc = feed_stop(client);
    }
    if (rc == 0)
        return;
    wh_ctx_cancel(client->ctx, -ETIMEDOUT);
    WH_SHIELD
    {
        (void)feed_stop(client);
    }
}
