/*
 * conn.c: a connection, from its first byte to its end, as one sequential coroutine.
 *
 *      receive --> parse --+--> more is needed --------------------.
 *         ^                +--> head of a request with a body --+--+
 *         |                +--> request: answer ------------+---'  |
 *         |                `--> refused: answer, linger, end|      |
 *         `-----------------------------------<-------------'------'
 *
 * Answers gather while requests are parsed; they are sent before the next receive, so a peer that
 * waits for an answer always has it.
 *
 * Deadlines: a connection may be idle for idle_ns; a request, once begun, must be complete within
 * read_ns; each send must be done within write_ns.
 */
#include "http.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LINGER_NS     WH_SECOND
#define LINGER_BYTES  ((size_t)1 << 20) /* dropped in a call */
#define CONTINUE      "HTTP/1.1 100 Continue\r\n\r\n"
#define WIRE_SLACK    ((size_t)64 << 10)
#define BODY_SIZE_MIN ((size_t)4096)

/* ---- The end ---- */

void conn_linger(wh_fd fd)
{
    if (wh_shutdown(fd, SHUT_WR) < 0)
        return;
    WH_WITH_TIMEOUT(LINGER_NS)
    {
        /* With MSG_TRUNC TCP drops the bytes and copies none. */
        while (wh_recv(fd, NULL, LINGER_BYTES, MSG_TRUNC) > 0)
            ;
    }
}

/* Sends what there is and ends; lingers unless the peer is known to send nothing more. */
static bool end(struct conn *c, bool linger)
{
    if (out_flush(c) && linger)
        conn_linger(c->fd);
    return false;
}

/* Answers with an error and ends. What was answered before goes out before it. */
__attribute__((cold, noinline)) static bool refuse(struct conn *c, int status)
{
    struct worker *w = c->worker;
    count_up(status == 408 ? &w->timeouts : status == 503 ? &w->refused : &w->malformed);
    c->keep = false;
    return answer_status(c, status, "") && end(c, true);
}

/* ---- Input ---- */

static void input_release(struct conn *c)
{
    if (c->in != c->small)
        free(c->in);
    c->in = c->small;
    c->in_size = IN_SMALL_BYTES;
    c->start = c->at = c->end = 0;
}

/* How much should be received at once. */
static size_t input_wanted(const struct conn *c)
{
    if (!c->request.in_body)
        return 1;
    bool short_rest = !(c->parser.flags & F_CHUNKED) && c->parser.content_length < IN_BODY_BYTES;
    return short_rest ? (size_t)c->parser.content_length : IN_BODY_BYTES;
}

/* Everything received is parsed, and more is needed: keeps the head, makes room behind it. */
static bool input_room(struct conn *c)
{
    uint32_t used = c->request.in_body ? c->head_len : c->end - c->start;
    if (c->start)
        memmove(c->in, c->in + c->start, used);
    c->start = 0;
    c->at = c->end = used;
    if (used + input_wanted(c) <= c->in_size)
        return true;

    size_t size = c->worker->config->head_bytes_max + IN_BODY_BYTES;
    char *in = malloc(size);
    if (!in)
        return false;
    memcpy(in, c->in, used);
    if (c->in != c->small)
        free(c->in);
    c->in = in;
    c->in_size = (uint32_t)size;
    return true;
}

/* Waits for a request to begin. */
static bool receive_first(struct conn *c)
{
    struct worker *w = c->worker;
    ssize_t n = 0;
    input_release(c);
    WH_WITH_CTX(c->idle)
    {
        WH_WITH_TIMEOUT(w->config->idle_ns)
        {
            n = wh_recv(c->fd, c->in, c->in_size, 0);
        }
    }
    if (n == -ECANCELED) /* the end: a request that has come already is still answered */
        n = wh_recv(c->fd, c->in, c->in_size, MSG_DONTWAIT);
    if (n <= 0)
        return false;
    c->end = (uint32_t)n;
    return true;
}

/* Waits for more of the request. */
static bool receive_rest(struct conn *c)
{
    ssize_t n = 0;
    if (!input_room(c))
        return refuse(c, 503);
    if (!c->reading) {
        c->reading = true;
        c->deadline_ns = wh_now() + c->worker->config->read_ns;
    }
    WH_WITH_DEADLINE(c->deadline_ns)
    {
        n = wh_recv(c->fd, c->in + c->end, c->in_size - c->end, 0);
    }
    if (n == -ETIMEDOUT)
        return refuse(c, 408);
    if (n == 0)
        return refuse(c, 400); /* half a request, and nothing more will come */
    if (n < 0)
        return false;
    c->end += (uint32_t)n;
    if (c->request.in_body)
        c->body.wire += (size_t)n;
    /* Chunks of one byte with a long extension each would never reach the limit of the body. */
    if (c->body.wire > 2 * c->worker->config->body_bytes_max + WIRE_SLACK)
        return refuse(c, 413);
    return true;
}

static bool receive(struct conn *c)
{
    if (!out_flush(c))
        return false;
    return c->request.begun ? receive_rest(c) : receive_first(c);
}

/* ---- Requests ---- */

bool body_append(struct conn *c, const char *bytes, size_t len)
{
    struct body *b = &c->body;
    if (len > b->size - b->len) {
        size_t size = b->len + len > 2 * b->size ? b->len + len : 2 * b->size;
        if (size < BODY_SIZE_MIN)
            size = BODY_SIZE_MIN;
        char *grown = realloc(b->bytes, size);
        if (!grown)
            return false;
        b->bytes = grown;
        b->size = size;
    }
    memcpy(b->bytes + b->len, bytes, len);
    b->len += len;
    return true;
}

static void body_release(struct conn *c)
{
    if (!c->request.has_body)
        return;
    free(c->body.bytes);
    c->body = (struct body){0};
}

static bool head_too_large(const struct conn *c)
{
    return c->head_len > c->worker->config->head_bytes_max;
}

/* The head of a request with a body is complete. */
static bool serve_head(struct conn *c)
{
    c->head_len = c->at - c->start;
    if (head_too_large(c))
        return refuse(c, 431);
    if (c->request.expects_other)
        return refuse(c, 417);
    bool wanted = route_wants_body(c);
    c->request.wants_body = wanted;
    if (!c->request.expects_continue || c->at < c->end)
        return true;
    if (!wanted) {
        /* The peer waits for leave to send what nobody wants: the answer comes at once. */
        c->keep = false;
        return route_answer(c) && end(c, true);
    }
    char *room = out_room(c, sizeof CONTINUE - 1);
    if (!room)
        return false;
    memcpy(room, CONTINUE, sizeof CONTINUE - 1);
    c->out_len += sizeof CONTINUE - 1;
    return true;
}

/* A request is complete. */
static bool serve_request(struct conn *c)
{
    struct worker *w = c->worker;
    if (!c->request.has_body) {
        c->head_len = c->at - c->start;
        if (head_too_large(c))
            return refuse(c, 431);
    }
    bool asked_to_keep = llhttp_should_keep_alive(&c->parser);
    bool stopping = is_stopping(w->server);
    c->keep = asked_to_keep && !stopping;
    if (!route_answer(c))
        return false;
    count_up(&w->requests);
    if (stopping)
        count_up(&w->finished);
    body_release(c);
    parse_next(c);
    return c->keep || end(c, asked_to_keep || c->at < c->end);
}

/* Parses and answers what has been received. False: the connection has ended. */
static bool serve_input(struct conn *c)
{
    while (c->at < c->end) {
        bool on = true;
        switch (parse(c)) {
        case PARSED_MORE:
            if (c->request.in_body)
                break;
            c->head_len = c->end - c->start;
            on = !head_too_large(c) || refuse(c, 431);
            break;
        case PARSED_HEAD: on = serve_head(c); break;
        case PARSED_REQUEST: on = serve_request(c); break;
        case PARSED_REFUSED: on = refuse(c, c->request.refusal); break;
        }
        if (!on)
            return false;
    }
    return true;
}

/* ---- The coroutine ---- */

static void conn_begin(struct conn *c, const wh_client *client, struct worker *w)
{
    memset(c, 0, offsetof(struct conn, small));
    c->worker = w;
    c->idle = client->idle;
    c->fd = wh_conn_fd(client->conn);
    c->keep = true;
    c->in = c->small;
    c->in_size = IN_SMALL_BYTES;
    parse_init(c);
}

static void conn_end(struct conn *c)
{
    out_drop(c);
    input_release(c);
    free(c->body.bytes);
}

void conn_serve(const wh_client *client, struct worker *worker)
{
    struct conn c;
    conn_begin(&c, client, worker);
    while (receive(&c) && serve_input(&c))
        ;
    conn_end(&c);
}
