/*
 * answer.c: heads, and the output of a connection.
 *
 * The output is one of two: a reference to the prepared answer, when that is all there is, or a
 * block that gathers what a batch of pipelined requests is answered. So a lone "GET /" is answered
 * from constant memory, and a hundred in one receive leave in one send.
 *
 *      nothing --hello--> prepared --anything more--> block --full--> sent, empty
 *         ^                  |                          |
 *         `----- flush ------+--------------------------'   the block goes back to the worker
 */
#include "http.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define HELLO       "Hello from whorl\n"
#define STATUS_LINE "HTTP/1.1 200 OK\r\n"
#define COMMON      "Server: whorl/" WHORL_VERSION "\r\nDate: "
#define NO_DATE     "Thu, 01 Jan 1970 00:00:00 GMT"
#define HELLO_HEAD \
    STATUS_LINE COMMON NO_DATE "\r\nContent-Type: text/plain\r\nContent-Length: 17\r\n"

_Static_assert(sizeof HELLO - 1 == 17, "its length stands in HELLO_HEAD");
_Static_assert(sizeof NO_DATE - 1 == DATE_BYTES, "dates have one length");

enum {
    COMMON_AT = sizeof STATUS_LINE - 1, /* in a prepared text */
    DATE_AT = COMMON_AT + sizeof COMMON - 1,
    COMMON_LEN = sizeof COMMON - 1 + DATE_BYTES + 2, /* both header lines */
};

static const char *const endings[ENDINGS] = {
    [KEEP] = "",
    [KEEP_TOLD] = "Connection: keep-alive\r\n",
    [CLOSE] = "Connection: close\r\n",
};

/* ---- Pieces of text ---- */

static char *put(char *p, const char *text, size_t len)
{
    memcpy(p, text, len);
    return p + len;
}

static char *put_text(char *p, const char *text)
{
    return put(p, text, strlen(text));
}

static char *put_number(char *p, uint64_t n)
{
    char digits[20];
    size_t at = sizeof digits;
    do
        digits[--at] = (char)('0' + n % 10);
    while (n /= 10);
    return put(p, digits + at, sizeof digits - at);
}

static const char *reason(int status)
{
    switch (status) {
    case 200: return "200 OK";
    case 304: return "304 Not Modified";
    case 400: return "400 Bad Request";
    case 403: return "403 Forbidden";
    case 404: return "404 Not Found";
    case 405: return "405 Method Not Allowed";
    case 408: return "408 Request Timeout";
    case 413: return "413 Content Too Large";
    case 417: return "417 Expectation Failed";
    case 431: return "431 Request Header Fields Too Large";
    case 501: return "501 Not Implemented";
    case 503: return "503 Service Unavailable";
    case 505: return "505 HTTP Version Not Supported";
    default: return "500 Internal Server Error";
    }
}

/* ---- Prepared answers ---- */

static void prepare(struct prepared *p, time_t date_s)
{
    for (int e = 0; e < ENDINGS; e++) {
        char *end = put_text(p->text[e], HELLO_HEAD);
        end = put_text(end, endings[e]);
        end = put(end, "\r\n", 2);
        p->head_len[e] = (uint16_t)(end - p->text[e]);
        end = put_text(end, HELLO);
        p->len[e] = (uint16_t)(end - p->text[e]);
        date_put(p->text[e] + DATE_AT, date_s);
    }
}

static time_t now_s(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME_COARSE, &ts);
    return ts.tv_sec;
}

bool answers_init(struct worker *w)
{
    w->prepared = calloc(1, sizeof *w->prepared);
    if (!w->prepared)
        return false;
    w->date_s = now_s();
    prepare(w->prepared, w->date_s);
    return true;
}

void answers_finish(struct worker *w)
{
    while (w->blocks) {
        struct block *block = w->blocks;
        w->blocks = block->next;
        free(block);
    }
    free(w->prepared);
}

static void prepared_unref(struct worker *w, struct prepared *p)
{
    if (--p->refs == 0 && p != w->prepared)
        free(p);
}

/* A new second has begun. */
__attribute__((cold, noinline)) static void new_second(struct worker *w, time_t date_s)
{
    int64_t passed_s = date_s - w->date_s;
    uint64_t requests = w->requests - w->rate_requests;
    __atomic_store_n(&w->requests_per_s, passed_s > 0 ? requests / (uint64_t)passed_s : 0,
                     __ATOMIC_RELAXED);
    w->rate_requests = w->requests;
    w->date_s = date_s;
    if (w->prepared->refs) {
        struct prepared *fresh = calloc(1, sizeof *fresh);
        if (!fresh)
            return; /* the old date goes on for a second */
        w->prepared = fresh;
    }
    prepare(w->prepared, date_s);
}

static struct prepared *prepared_now(struct worker *w)
{
    time_t date_s = now_s();
    if (__builtin_expect(date_s != w->date_s, 0))
        new_second(w, date_s);
    return w->prepared;
}

/* ---- The output ---- */

static bool block_take(struct conn *c)
{
    struct worker *w = c->worker;
    struct block *block = w->blocks;
    if (block) {
        w->blocks = block->next;
        w->blocks_count--;
    } else {
        block = malloc(BLOCK_BYTES);
    }
    c->out = (char *)block;
    c->out_len = 0;
    return block != NULL;
}

static void block_give(struct conn *c)
{
    struct worker *w = c->worker;
    struct block *block = (struct block *)c->out;
    c->out = NULL;
    c->out_len = 0;
    if (w->blocks_count == BLOCKS_KEPT_MAX) {
        free(block);
        return;
    }
    block->next = w->blocks;
    w->blocks = block;
    w->blocks_count++;
}

bool out_send(struct conn *c, const void *bytes, size_t len)
{
    ssize_t n = 0;
    WH_WITH_TIMEOUT(c->worker->config->write_ns)
    {
        n = wh_send_all(c->fd, bytes, len);
    }
    if (n == -ETIMEDOUT)
        count_up(&c->worker->timeouts);
    return n >= 0;
}

bool out_flush(struct conn *c)
{
    bool sent = true;
    if (c->prepared)
        sent = out_send(c, c->prepared_text, c->prepared_len);
    else if (c->out)
        sent = out_send(c, c->out, c->out_len);
    out_drop(c);
    return sent;
}

void out_drop(struct conn *c)
{
    if (c->prepared) {
        prepared_unref(c->worker, c->prepared);
        c->prepared = NULL;
    } else if (c->out) {
        block_give(c);
    }
}

char *out_room(struct conn *c, size_t len)
{
    if (!c->out) {
        if (!block_take(c))
            return NULL;
        if (c->prepared) {
            memcpy(c->out, c->prepared_text, c->prepared_len);
            c->out_len = c->prepared_len;
            prepared_unref(c->worker, c->prepared);
            c->prepared = NULL;
        }
    }
    if (BLOCK_BYTES - c->out_len < len) {
        bool sent = out_send(c, c->out, c->out_len);
        c->out_len = 0;
        if (!sent)
            return NULL;
    }
    return c->out + c->out_len;
}

/* ---- Answers ---- */

static enum ending ending_of(const struct conn *c)
{
    if (!c->keep)
        return CLOSE;
    return c->parser.http_minor == 0 ? KEEP_TOLD : KEEP;
}

/* Whether the answer to the request at hand has no content. */
static bool is_bare(const struct conn *c)
{
    return c->request.in_body && c->parser.method == HTTP_HEAD;
}

bool answer_hello(struct conn *c)
{
    char *room = NULL;
    if (c->prepared || c->out) {
        room = out_room(c, HELLO_BYTES_MAX);
        if (!room)
            return false;
    }
    struct prepared *p = prepared_now(c->worker); /* good until the next call that may park */
    enum ending ending = ending_of(c);
    uint32_t len = is_bare(c) ? p->head_len[ending] : p->len[ending];
    if (!room) {
        p->refs++;
        c->prepared = p;
        c->prepared_text = p->text[ending];
        c->prepared_len = len;
        return true;
    }
    memcpy(room, p->text[ending], len);
    c->out_len += len;
    return true;
}

static char *put_head_start(struct worker *w, char *p, int status)
{
    p = put_text(p, "HTTP/1.1 ");
    p = put_text(p, reason(status));
    p = put(p, "\r\n", 2);
    return put(p, prepared_now(w)->text[KEEP] + COMMON_AT, COMMON_LEN);
}

static char *put_content_lines(char *p, const char *type, uint64_t length)
{
    p = put_text(p, "Content-Type: ");
    p = put_text(p, type);
    p = put_text(p, "\r\nContent-Length: ");
    p = put_number(p, length);
    return put(p, "\r\n", 2);
}

bool answer_head(struct conn *c, int status, const char *type, uint64_t length, const char *more)
{
    char *room = out_room(c, HEAD_BYTES_MAX);
    if (!room)
        return false;
    char *p = put_head_start(c->worker, room, status);
    if (type)
        p = put_content_lines(p, type, length);
    p = put_text(p, more);
    p = put_text(p, endings[ending_of(c)]);
    p = put(p, "\r\n", 2);
    c->out_len += (uint32_t)(p - room);
    return true;
}

bool answer_content(struct conn *c, const void *bytes, size_t len)
{
    if (is_bare(c) || !len)
        return true;
    if (len > BLOCK_BYTES / 2) /* rather sent from where it is */
        return out_flush(c) && out_send(c, bytes, len);
    char *room = out_room(c, len);
    if (!room)
        return false;
    memcpy(room, bytes, len);
    c->out_len += (uint32_t)len;
    return true;
}

bool answer_status(struct conn *c, int status, const char *more)
{
    const char *text = reason(status);
    size_t len = strlen(text);
    return answer_head(c, status, "text/plain", len + 1, more) && answer_content(c, text, len) &&
           answer_content(c, "\n", 1);
}

size_t answer_refusal(struct worker *w, char *ret_text, size_t size)
{
    const char *text = reason(503);
    if (size < HEAD_BYTES_MAX)
        return 0;
    char *p = put_head_start(w, ret_text, 503);
    p = put_content_lines(p, "text/plain", strlen(text) + 1);
    p = put_text(p, "Retry-After: 1\r\n");
    p = put_text(p, endings[CLOSE]);
    p = put(p, "\r\n", 2);
    p = put_text(p, text);
    p = put(p, "\n", 1);
    return (size_t)(p - ret_text);
}
