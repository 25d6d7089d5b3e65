/*
 * reply.c: answers as the Redis protocol writes them, and the few helpers about bytes.
 *
 * An answer goes into the stream's buffer, or, while the client has subscribed to something, into
 * its feed, in one piece, between the messages. It is sent before the client's next request is
 * waited for: the answers of a pipeline go together.
 */
#include "kv.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

enum { ERROR_BYTES_MAX = 512 };

/* ---- Bytes ---- */

struct blob *blob_create(size_t len)
{
    struct blob *blob = malloc(sizeof *blob + len);
    if (!blob)
        return NULL;
    blob->refs = 1;
    blob->len = (uint32_t)len;
    return blob;
}

struct blob *blob_of(struct text text)
{
    struct blob *blob = blob_create(text.len);
    if (blob)
        memcpy(blob->bytes, text.bytes, text.len);
    return blob;
}

struct blob *blob_ref(struct blob *blob, bool shared)
{
    if (shared)
        __atomic_fetch_add(&blob->refs, 1, __ATOMIC_RELAXED);
    else
        blob->refs++;
    return blob;
}

void blob_unref(struct blob *blob, bool shared)
{
    if (!blob)
        return;
    /* acq_rel: pairs with itself; who frees has seen all that the other holders did before. */
    uint32_t left = shared ? __atomic_sub_fetch(&blob->refs, 1, __ATOMIC_ACQ_REL) : --blob->refs;
    if (!left)
        free(blob);
}

bool number_read(struct text text, int64_t *ret_number)
{
    size_t i = text.len > 0 && text.bytes[0] == '-';
    bool negative = i;
    uint64_t n = 0;
    if (i == text.len || text.len > 20 || (text.bytes[i] == '0' && text.len > 1))
        return false;
    for (; i < text.len; i++) {
        unsigned digit = (unsigned char)text.bytes[i] - (unsigned)'0';
        if (digit > 9 || __builtin_mul_overflow(n, 10u, &n) || __builtin_add_overflow(n, digit, &n))
            return false;
    }
    if (n > (uint64_t)INT64_MAX + negative)
        return false;
    *ret_number = (int64_t)(negative ? -n : n);
    return true;
}

size_t number_put(char *text, int64_t number)
{
    char digits[NUMBER_BYTES];
    size_t at = sizeof digits;
    uint64_t n = number < 0 ? -(uint64_t)number : (uint64_t)number;
    do
        digits[--at] = (char)('0' + n % 10);
    while (n /= 10);
    if (number < 0)
        digits[--at] = '-';
    memcpy(text, digits + at, sizeof digits - at);
    return sizeof digits - at;
}

bool text_is(struct text text, const char *word)
{
    return strlen(word) == text.len && !strncasecmp(text.bytes, word, text.len);
}

static uint64_t seed;

void text_hash_seed(void)
{
    if (getrandom(&seed, sizeof seed, 0) != (ssize_t)sizeof seed)
        seed = (uint64_t)wh_now();
}

uint64_t text_hash(struct text text)
{
    return XXH3_64bits_withSeed(text.bytes, text.len, seed);
}

/* ---- Answers ---- */

void reply_whole(struct client *client, struct blob *blob)
{
    if (!blob)
        wh_ctx_cancel(client->ctx, -ENOMEM); /* an answer less would shift those that follow */
    else if (!client->feed.on)
        (void)wh_conn_write(client->conn, blob->bytes, blob->len);
    else
        feed_answer(client, blob);
    blob_unref(blob, client->server->shared);
}

void reply_bytes(struct client *client, const char *bytes, size_t len)
{
    if (!client->feed.on)
        (void)wh_conn_write(client->conn, bytes, len);
    else
        reply_whole(client, blob_of((struct text){bytes, len}));
}

void reply_error(struct client *client, const char *format, ...)
{
    char text[ERROR_BYTES_MAX];
    va_list args;
    va_start(args, format);
    text[0] = '-';
    int len = vsnprintf(text + 1, sizeof text - 3, format, args);
    va_end(args);
    size_t end = 1 + (len < (int)sizeof text - 4 ? (size_t)len : sizeof text - 4);
    for (size_t i = 1; i < end; i++)
        if (text[i] == '\r' || text[i] == '\n')
            text[i] = ' ';
    memcpy(text + end, "\r\n", 2);
    reply_bytes(client, text, end + 2);
}

/* ":12\r\n": a kind and a number. Returns its length. */
static size_t head_put(char *text, char kind, int64_t number)
{
    text[0] = kind;
    size_t len = 1 + number_put(text + 1, number);
    memcpy(text + len, "\r\n", 2);
    return len + 2;
}

void reply_number(struct client *client, int64_t number)
{
    char text[NUMBER_BYTES + 4];
    reply_bytes(client, text, head_put(text, ':', number));
}

void reply_array(struct client *client, uint64_t count)
{
    char text[NUMBER_BYTES + 4];
    reply_bytes(client, text, head_put(text, '*', (int64_t)count));
}

void reply_bulk(struct client *client, struct text text)
{
    char head[NUMBER_BYTES + 4];
    size_t len = head_put(head, '$', (int64_t)text.len);
    const struct iovec pieces[] = {
        {head, len}, {(void *)(uintptr_t)text.bytes, text.len}, {(char[]){"\r\n"}, 2}};
    assert(!client->feed.on); /* the stream is its sender's */
    (void)wh_conn_writev(client->conn, pieces, 3);
}

void reply_word(struct client *client, const char *word)
{
    reply_bulk(client, (struct text){word, strlen(word)});
}

void reply_null(struct client *client)
{
    reply_bytes(client, "$-1\r\n", 5);
}

void reply_blob(struct client *client, struct blob *blob)
{
    if (blob)
        reply_bulk(client, (struct text){blob->bytes, blob->len});
    else
        reply_null(client);
    blob_unref(blob, client->server->shared);
}

int reply_flush(struct client *client)
{
    return client->feed.on ? feed_drain(client) : wh_conn_flush(client->conn);
}

char *bulk_put(char *at, struct text text)
{
    at += head_put(at, '$', (int64_t)text.len);
    at = mempcpy(at, text.bytes, text.len);
    return mempcpy(at, "\r\n", 2);
}

size_t bulk_size(struct text text)
{
    return NUMBER_BYTES + 6 + text.len;
}
