/*
 * http.h: the HTTP server's parts and what they share.
 *
 *      http_server.c   options, the listener, the report
 *            |
 *      http/serve.c    the run: who is let in, who is told 503, the end of it all
 *      http/conn.c     a connection: receives, parses, calls a handler, ends
 *      http/parse.c    what llhttp calls back
 *      http/route.c    paths to handlers; the small handlers
 *      http/files.c    files below --root
 *      http/status.c   /status and /status.json (the page is in http/page.c)
 *      http/answer.c   heads, the output of a connection
 *      http/date.c     dates as HTTP writes them
 *
 * One run serves them all. A connection stays on the worker on which it began, whatever
 * WHORL_MIGRATE says, and what it shares with others (struct worker) is of that worker's thread
 * alone, but for the counters, which /status.json reads on another one.
 *
 * Memory. A connection is one coroutine, and all that it has while it is idle is in that
 * coroutine's first stack page: struct conn with a receive buffer of IN_SMALL_BYTES. Heap is used
 * while a request needs it: a longer head, a body, more than one answer in a batch, a file.
 */
#ifndef EXAMPLES_HTTP_H
#define EXAMPLES_HTTP_H

#include <whorl.h>

#include <llhttp.h>
#include <stdbool.h>
#include <time.h>

enum {
    WORKERS_MAX = 60,      /* that can be asked for */
    WORKERS_EVER_MAX = 62, /* with those that share a core with a hog */
    IN_SMALL_BYTES = 1408,
    IN_BODY_BYTES = 8192,  /* least room for receiving a body */
    BLOCK_BYTES = 65536,   /* of output */
    BLOCKS_KEPT_MAX = 32,  /* free ones, a worker */
    HEAD_BYTES_MAX = 1024, /* of an answer */
    DATE_BYTES = 29,
    HELLO_BYTES_MAX = 256,
    REFUSALS_MAX = 256, /* being told 503 at the same time */
};

/* What the command line says. */
struct config {
    const char *listen;
    const char *root;
    int workers;
    int64_t idle_ns;
    int64_t read_ns;
    int64_t write_ns;
    int64_t grace_ns;
    size_t head_bytes_max;
    size_t body_bytes_max;
    long connections_max;
    bool stats;
};

/* HTTP/1.1 keeps a connection unless told, HTTP/1.0 only when told. */
enum ending { KEEP, KEEP_TOLD, CLOSE, ENDINGS };

/* The answer to "GET /", ready to be sent, with the date of this second. A send in flight holds a
 * reference, and what is referred to is not written to: a new second then gets a new struct. */
struct prepared {
    unsigned refs;
    uint16_t len[ENDINGS];
    uint16_t head_len[ENDINGS]; /* all that the answer to a HEAD has */
    char text[ENDINGS][HELLO_BYTES_MAX];
};

/* A free block of output is a link in the worker's list of them. */
struct block {
    struct block *next;
};

struct worker {
    /* immutable after its first connection */
    struct server *server;
    const struct config *config;
    int index;

    /* its thread's */
    struct prepared *prepared;
    struct block *blocks;
    unsigned blocks_count;
    time_t date_s;
    uint64_t rate_requests; /* `requests` when the second began */

    /* its thread writes, any reads (relaxed) */
    uint64_t connections;
    uint64_t requests;
    uint64_t requests_per_s; /* in the last whole second that had any */
    uint64_t refused;        /* answered 503 */
    uint64_t malformed;
    uint64_t timeouts;
    uint64_t finished; /* requests answered after the end began */
} __attribute__((aligned(128)));

struct server {
    struct config config;
    int64_t started_ns;
    wh_fd root; /* or -1 */
    struct worker workers[WORKERS_EVER_MAX];

    /* any thread, atomic */
    long open; /* connections, without those that are refused */
    wh_serve_stats stats;

    /* after the end */
    int64_t drained_ns; /* how long it took */
    wh_stats run_stats;
};

static inline bool is_stopping(const struct server *server)
{
    return __atomic_load_n(&server->stats.drain_began_ns, __ATOMIC_RELAXED);
}

static inline void count_up(uint64_t *counter)
{
    __atomic_store_n(counter, *counter + 1, __ATOMIC_RELAXED);
}

static inline uint64_t count_read(const uint64_t *counter)
{
    return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

/* A piece of the head: an offset from the request's first byte, so that it stays right when the
 * head is moved. */
struct span {
    uint32_t off;
    uint32_t len;
};

/* What the parser has found out about the request at hand. */
struct request {
    struct span url;
    struct span if_modified_since;
    struct span field; /* the header at hand */
    struct span value;
    uint8_t hosts;   /* its Host headers; many, if one is no host */
    uint8_t codings; /* its transfer codings; many, if one is not "chunked" */
    bool begun;      /* its first byte has come */
    bool in_body;    /* its head is complete */
    bool value_seen; /* the next header bytes begin another one */
    bool complete;
    bool expects_continue;
    bool expects_other;
    bool has_body;
    bool wants_body;  /* it is kept */
    uint16_t refusal; /* a status: nothing but this is the answer, and the connection ends */
};

struct body {
    char *bytes; /* on the heap, or NULL */
    size_t len;
    size_t size;
    size_t seen; /* of it came, kept or not */
    size_t wire; /* bytes received for it, framing and trailers included */
};

/*
 * The input: the request at hand begins at `start`, what is before `at` is parsed.
 *
 *      in |....|request parsed so far|not yet parsed|free|
 *              start                 at             end  in_size
 *
 * The whole head stands in one piece, because spans point into it. It moves to the heap when it
 * outgrows `small`. A body is received behind the head, over and over into the same place.
 */
struct conn {
    llhttp_t parser; /* first: a callback is given only this */
    struct worker *worker;
    wh_ctx *idle; /* cancelled when the end begins */
    wh_fd fd;
    bool reading; /* a request has begun, deadline_ns counts */
    bool keep;    /* the connection goes on after the answer at hand */
    char *in;
    uint32_t in_size;
    uint32_t start;
    uint32_t at;
    uint32_t end;
    uint32_t head_len; /* of the request, once in_body */
    int64_t deadline_ns;
    struct request request;
    struct body body;
    /* The output: one prepared answer, or a block. */
    struct prepared *prepared;
    const char *prepared_text;
    uint32_t prepared_len;
    uint32_t out_len;
    char *out;
    char small[IN_SMALL_BYTES];
};

/* ---- http_server.c ---- */

/* Listens as the options say, and says where; or says why not. As wh_listen_tcp(). */
wh_fd server_listen(const struct server *server);

/* ---- serve.c ---- */

/* The root of the run: serves until a signal comes. arg is the server. */
int server_run(void *arg);

/* ---- conn.c ---- */

/* Serves a connection to its end. */
void conn_serve(const wh_client *client, struct worker *worker);

/* Keeps a piece of the body. False: no memory. */
bool body_append(struct conn *c, const char *bytes, size_t len);

/* Drops what the peer still sends until it closes, at most for a short while: closing with input
 * unread would reset the connection and take the last answer away. */
void conn_linger(wh_fd fd);

/* ---- parse.c ---- */

enum parsed { PARSED_MORE, PARSED_HEAD, PARSED_REQUEST, PARSED_REFUSED };

void parse_init(struct conn *c);

/* Parses what is between `at` and `end`, up to the end of a head with a body or of a request. */
enum parsed parse(struct conn *c);

/* Forgets the request that was answered. */
void parse_next(struct conn *c);

/* Makes the parser's first calls, which bind its symbols, here and not on a small stack. */
void parse_warm_up(void);

static inline const char *span_text(const struct conn *c, struct span span)
{
    return c->in + c->start + span.off;
}

/* ---- route.c ---- */

/* Whether the body of the request, whose head is complete, is to be kept. */
bool route_wants_body(struct conn *c);

/* Answers the request. False when the connection cannot go on. May park. */
bool route_answer(struct conn *c);

/* ---- files.c, status.c, page.c: handlers ---- */

/* Percent-decoded in place. False when it is not well-formed. */
bool path_decode(char *path, size_t *len);

bool files_answer(struct conn *c, char *path);
bool status_page_answer(struct conn *c);
bool status_json_answer(struct conn *c);

extern const char status_page[];
extern const size_t status_page_len;

/* ---- answer.c: each returns false when the connection cannot go on, and may park ---- */

/* The prepared answer to "GET /". */
bool answer_hello(struct conn *c);

/* A head. type may be NULL: then there is no content at all. `more` is whole header lines, or "".
 */
bool answer_head(struct conn *c, int status, const char *type, uint64_t length, const char *more);

/* Content behind a head; nothing for a HEAD request. */
bool answer_content(struct conn *c, const void *bytes, size_t len);

/* A whole small answer that says what its status means. */
bool answer_status(struct conn *c, int status, const char *more);

/* Room for at least len bytes in the output, which may be flushed for it; NULL: cannot go on. They
 * count once out_len is raised. len is at most BLOCK_BYTES. */
char *out_room(struct conn *c, size_t len);

/* Sends everything. */
bool out_flush(struct conn *c);

/* Forgets what was not sent. */
void out_drop(struct conn *c);

/* Sends bytes that are not in the output, within the write timeout. */
bool out_send(struct conn *c, const void *bytes, size_t len);

/* "503 Service Unavailable", whole, with Connection: close. Returns its length. */
size_t answer_refusal(struct worker *w, char *ret_text, size_t size);

/* Makes the first prepared answers. False: no memory. */
bool answers_init(struct worker *w);
void answers_finish(struct worker *w);

/* ---- date.c ---- */

/* Writes "Sun, 06 Nov 1994 08:49:37 GMT", DATE_BYTES long and not terminated. Uses little stack. */
void date_put(char *text, int64_t unix_s);

#endif
