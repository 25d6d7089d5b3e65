/*
 * http_epoll: the baseline of ./dev demo. One thread, epoll, llhttp; no whorl in it.
 *
 *     http_epoll --listen HOST:PORT [--stats]
 *
 * The idea: what a careful C programmer writes by hand for this job, so that a comparison with it
 * means something.
 *   - A connection owns a parser and no buffer: what was received is parsed where it lies, in the
 *     one shared buffer, and the answers to all requests in it leave in one send. Only a send that
 *     falls short allocates.
 *   - Edge-triggered, so that the kernel does not look at a socket a second time after each event;
 *     a receive that did not fill the buffer has emptied the socket, so none only learns "nothing
 *     there".
 *   - The heads of all answers are prepared once a second, when the Date changes.
 *   - Time costs no system call: the clock is the vDSO's, the next expiry is the timeout of
 *     epoll_wait.
 *
 * Invariants
 *   - c->rest != NULL: a send fell short. The interest is then OUT alone and nothing is received
 *     until the rest has gone: a slow reader fills its own socket, not our memory.
 *   - An edge is never lost: the interest is set anew (which reports what is ready already) after
 *     a rest has gone, and after a receive that filled the buffer.
 *   - The list holds every connection in the order of seen_s, which is when it last completed a
 *     request, or was accepted. Bytes alone do not count, so a request that trickles in and an
 *     answer that is not read end as an idle connection does, IDLE_S later.
 *   - A connection that broke the rules gets its answer, then lingers: closing with input unread
 *     would reset it and take the answer away.
 */
#include "bench/echo/echo_common.h"

#include <llhttp.h>
#include <stdbool.h>
#include <sys/epoll.h>

#define SERVER "epoll/0.1.0" /* as long as whorl's: the answers are equal in size */

enum {
    EVENTS_MAX = 512,
    ACCEPTS_MAX = 64, /* a turn, so that a flood of newcomers does not starve the others */
    IDLE_S = 30,
    COARSE_MS = 10, /* how far the coarse clock may lag behind */
    RECEIVE_BYTES = 16 * 1024,
    HEAD_BYTES_MAX = 16 * 1024, /* counted in whole receives */
    BODY_BYTES_MAX = 1024 * 1024,
    PATH_BYTES_MAX = 32,
    REQUEST_BYTES_MIN = 16, /* "GET / HTTP/1.1" and two line ends are 18 */
    ANSWER_BYTES_MAX = 320,
    /* One more for the refusal of what follows the last request. */
    ANSWERS_BYTES = (RECEIVE_BYTES / REQUEST_BYTES_MIN + 1) * ANSWER_BYTES_MAX,
};

/* One a descriptor, found by its number. conns[0] is the head of the list: descriptor 0 is taken
 * before the first connection comes. */
struct conn {
    llhttp_t parser; /* first: a callback is given only this */
    char *rest;      /* owned; what a short send left, or NULL */
    uint32_t rest_len;
    uint32_t rest_off;
    uint32_t head_bytes; /* received since the last request was complete, body apart */
    uint32_t body_bytes;
    uint32_t seen_s;
    int prev, next;
    uint8_t answer; /* an enum answer: the reason for which the parser was stopped */
    uint8_t path_len;
    bool open;
    bool in_body;
    bool ends;    /* nothing more is answered */
    bool lingers; /* answered and shut; what still comes is dropped */
    char path[PATH_BYTES_MAX];
};

enum answer { HELLO, NOT_FOUND, METHOD, BAD, BODY_TOO_LARGE, HEAD_TOO_LARGE, ANSWERS };

static const struct {
    const char *status;
    const char *more; /* headers */
    const char *body;
} answers[ANSWERS] = {
    [HELLO] = {"200 OK", "", "Hello from epoll\n"},
    [NOT_FOUND] = {"404 Not Found", "", "Not found\n"},
    [METHOD] = {"405 Method Not Allowed", "Allow: GET, HEAD\r\n", "Method not allowed\n"},
    [BAD] = {"400 Bad Request", "", "Bad request\n"},
    [BODY_TOO_LARGE] = {"413 Content Too Large", "", "Body too large\n"},
    [HEAD_TOO_LARGE] = {"431 Request Header Fields Too Large", "", "Headers too large\n"},
};

/* HTTP/1.1 keeps a connection unless told, HTTP/1.0 only when told. */
enum ending { KEEP, KEEP_TOLD, CLOSE, ENDINGS };

static const char *const endings[ENDINGS] = {
    [KEEP] = "",
    [KEEP_TOLD] = "Connection: keep-alive\r\n",
    [CLOSE] = "Connection: close\r\n",
};

struct prepared {
    uint16_t head_len; /* all that the answer to a HEAD has */
    uint16_t len;
    char text[ANSWER_BYTES_MAX];
};

/* How often each call was made. The clock is not among them: it is none. */
struct calls {
    uint64_t epoll_wait, epoll_ctl, recv, send, accept, close, shutdown;
};

static struct server {
    int epoll;
    int listener;
    int signals;
    long fd_limit;
    long open;
    bool listener_off; /* out of descriptors: not accepting until a connection closes */
    bool full_said;    /* once is enough */
    uint32_t now_s;    /* of this turn, monotonic */
    time_t date_s;     /* what the prepared answers say */
    char date[40];
    uint64_t requests;
    uint64_t connections;
    struct calls calls;
    struct conn *conns;
    llhttp_settings_t settings;
    struct prepared prepared[ANSWERS][ENDINGS];
    size_t out_len;
    char out[ANSWERS_BYTES];
    char in[RECEIVE_BYTES];
} server;

static uint64_t syscalls(void)
{
    const struct calls *k = &server.calls;
    return k->epoll_wait + k->epoll_ctl + k->recv + k->send + k->accept + k->close + k->shutdown;
}

/* ---- answers ---- */

static void prepare(struct prepared *p, enum answer answer, enum ending ending)
{
    const char *body = answers[answer].body;
    int len = snprintf(p->text, sizeof p->text,
                       "HTTP/1.1 %s\r\nServer: " SERVER "\r\nDate: %s\r\n"
                       "Content-Type: text/plain\r\nContent-Length: %zu\r\n%s%s\r\n%s",
                       answers[answer].status, server.date, strlen(body), answers[answer].more,
                       endings[ending], body);
    p->len = (uint16_t)len;
    p->head_len = (uint16_t)(p->len - strlen(body));
}

static void prepare_all(time_t date_s)
{
    struct tm tm;
    server.date_s = date_s;
    gmtime_r(&date_s, &tm);
    strftime(server.date, sizeof server.date, "%a, %d %b %Y %H:%M:%S GMT", &tm);
    for (int a = 0; a < ANSWERS; a++)
        for (int e = 0; e < ENDINGS; e++)
            prepare(&server.prepared[a][e], (enum answer)a, (enum ending)e);
}

static void look_at_clock(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
    server.now_s = (uint32_t)t.tv_sec;
    clock_gettime(CLOCK_REALTIME_COARSE, &t);
    if (t.tv_sec != server.date_s)
        prepare_all(t.tv_sec);
}

static enum ending ending_of(const struct conn *c)
{
    if (c->ends)
        return CLOSE;
    return c->parser.http_major == 1 && c->parser.http_minor == 0 ? KEEP_TOLD : KEEP;
}

static void answer_with(struct conn *c, enum answer answer)
{
    const struct prepared *p = &server.prepared[answer][ending_of(c)];
    bool head = c->parser.method == HTTP_HEAD && answer != BAD;
    size_t len = head ? p->head_len : p->len;
    memcpy(server.out + server.out_len, p->text, len);
    server.out_len += len;
}

/* The counters, for whoever measures from outside. */
static void answer_with_status(struct conn *c)
{
    char body[160];
    int len = snprintf(body, sizeof body,
                       "{\"server\":\"epoll\",\"requests\":%llu,\"syscalls\":%llu,"
                       "\"connections\":%llu,\"open\":%ld}\n",
                       (unsigned long long)server.requests, (unsigned long long)syscalls(),
                       (unsigned long long)server.connections, server.open);
    server.out_len += (size_t)snprintf(
        server.out + server.out_len, ANSWER_BYTES_MAX,
        "HTTP/1.1 200 OK\r\nServer: " SERVER "\r\nDate: %s\r\nContent-Type: application/json\r\n"
        "Content-Length: %d\r\n%s\r\n%s",
        server.date, len, endings[ending_of(c)], c->parser.method == HTTP_HEAD ? "" : body);
}

static bool path_is(const struct conn *c, const char *path)
{
    const char *query = memchr(c->path, '?', c->path_len);
    size_t len = query ? (size_t)(query - c->path) : c->path_len;
    return len == strlen(path) && !memcmp(c->path, path, len);
}

static void answer_request(struct conn *c)
{
    if (c->parser.method != HTTP_GET && c->parser.method != HTTP_HEAD)
        answer_with(c, METHOD);
    else if (path_is(c, "/"))
        answer_with(c, HELLO);
    else if (path_is(c, "/status.json"))
        answer_with_status(c);
    else
        answer_with(c, NOT_FOUND);
}

/* ---- the list of connections in the order in which they expire ---- */

static void list_remove(int fd)
{
    struct conn *conns = server.conns;
    conns[conns[fd].prev].next = conns[fd].next;
    conns[conns[fd].next].prev = conns[fd].prev;
}

static void list_append(int fd)
{
    struct conn *conns = server.conns;
    conns[fd].seen_s = server.now_s;
    conns[fd].prev = conns[0].prev;
    conns[fd].next = 0;
    conns[conns[0].prev].next = fd;
    conns[0].prev = fd;
}

/* At most once a second for each: within it the order is of no interest. */
static void conn_touch(struct conn *c)
{
    if (c->seen_s == server.now_s)
        return;
    int fd = (int)(c - server.conns);
    list_remove(fd);
    list_append(fd);
}

/* Milliseconds until the first connection expires, -1 without one. */
static int next_expiry_ms(void)
{
    int first = server.conns[0].next;
    if (!first)
        return -1;
    uint64_t at_ms = (server.conns[first].seen_s + IDLE_S + 1) * (uint64_t)1000;
    uint64_t now_ms = now_ns() / 1000000;
    return at_ms > now_ms ? (int)(at_ms - now_ms) + COARSE_MS : COARSE_MS;
}

/* ---- connections ---- */

static int interest(int op, int fd, uint32_t events)
{
    struct epoll_event e = {.events = events, .data.fd = fd};
    server.calls.epoll_ctl++;
    return epoll_ctl(server.epoll, op, fd, &e);
}

static int conn_interest(int op, int fd)
{
    bool sends = server.conns[fd].rest != NULL;
    return interest(op, fd, EPOLLET | (sends ? EPOLLOUT : EPOLLIN | EPOLLRDHUP));
}

static void conn_close(int fd)
{
    struct conn *c = &server.conns[fd];
    list_remove(fd);
    free(c->rest);
    c->rest = NULL;
    c->open = false;
    server.calls.close++;
    close(fd); /* leaves the epoll set with it */
    server.open--;
    if (server.listener_off && interest(EPOLL_CTL_ADD, server.listener, EPOLLIN) == 0)
        server.listener_off = false;
}

static void conn_open(int fd)
{
    struct conn *c = &server.conns[fd];
    memset(c, 0, sizeof *c);
    llhttp_init(&c->parser, HTTP_REQUEST, &server.settings);
    c->open = true;
    list_append(fd);
    server.open++;
    server.connections++;
    if (conn_interest(EPOLL_CTL_ADD, fd) < 0)
        conn_close(fd);
}

/* All was answered that will be. */
static void conn_end(int fd)
{
    struct conn *c = &server.conns[fd];
    if (c->answer == HELLO) { /* the client asked for the end */
        conn_close(fd);
        return;
    }
    c->lingers = true;
    server.calls.shutdown++;
    if (shutdown(fd, SHUT_WR) < 0)
        conn_close(fd);
}

/* Keeps what a send left, and waits until the socket takes it. */
static void conn_keep_rest(int fd, const char *data, size_t len)
{
    struct conn *c = &server.conns[fd];
    c->rest = malloc(len);
    if (!c->rest) {
        conn_close(fd);
        return;
    }
    memcpy(c->rest, data, len);
    c->rest_len = (uint32_t)len;
    c->rest_off = 0;
    if (conn_interest(EPOLL_CTL_MOD, fd) < 0)
        conn_close(fd);
}

/* Sends the answers gathered. True when all went out; false: a rest is kept, or it is closed. */
static bool conn_send(int fd)
{
    size_t len = server.out_len;
    server.out_len = 0;
    if (!len)
        return true;
    server.calls.send++;
    ssize_t sent = send(fd, server.out, len, MSG_NOSIGNAL);
    if (sent == (ssize_t)len)
        return true;
    if (sent < 0 && errno != EAGAIN && errno != EINTR) {
        conn_close(fd);
        return false;
    }
    size_t done = sent > 0 ? (size_t)sent : 0;
    conn_keep_rest(fd, server.out + done, len - done);
    return false;
}

/* The socket takes data again. */
static void conn_flush(int fd)
{
    struct conn *c = &server.conns[fd];
    server.calls.send++;
    ssize_t sent = send(fd, c->rest + c->rest_off, c->rest_len - c->rest_off, MSG_NOSIGNAL);
    if (sent < 0) {
        if (errno != EAGAIN && errno != EINTR)
            conn_close(fd);
        return;
    }
    c->rest_off += (uint32_t)sent;
    if (c->rest_off < c->rest_len)
        return;
    free(c->rest);
    c->rest = NULL;
    if (c->ends)
        conn_end(fd);
    if (c->open && conn_interest(EPOLL_CTL_MOD, fd) < 0)
        conn_close(fd);
}

/* ---- requests ---- */

static int on_message_begin(llhttp_t *parser)
{
    struct conn *c = (struct conn *)parser;
    c->path_len = 0;
    c->body_bytes = 0;
    return 0;
}

/* Keeps the beginning: enough to tell the paths that are served from all others. */
static int on_url(llhttp_t *parser, const char *at, size_t len)
{
    struct conn *c = (struct conn *)parser;
    size_t room = sizeof c->path - c->path_len;
    size_t take = len < room ? len : room;
    memcpy(c->path + c->path_len, at, take);
    c->path_len += (uint8_t)take;
    return 0;
}

static int refuse(struct conn *c, enum answer answer)
{
    c->answer = (uint8_t)answer;
    return -1;
}

static int on_headers_complete(llhttp_t *parser)
{
    struct conn *c = (struct conn *)parser;
    parser->upgrade = 0; /* asked for or not: a server may go on as if it had not been */
    c->in_body = true;
    bool large = (parser->flags & F_CONTENT_LENGTH) && parser->content_length > BODY_BYTES_MAX;
    return large ? refuse(c, BODY_TOO_LARGE) : 0;
}

static int on_body(llhttp_t *parser, const char *at, size_t len)
{
    struct conn *c = (struct conn *)parser;
    (void)at;
    if (len > BODY_BYTES_MAX - c->body_bytes)
        return refuse(c, BODY_TOO_LARGE);
    c->body_bytes += (uint32_t)len;
    return 0;
}

static int on_message_complete(llhttp_t *parser)
{
    struct conn *c = (struct conn *)parser;
    server.requests++;
    c->head_bytes = 0;
    c->in_body = false;
    c->ends = !llhttp_should_keep_alive(parser);
    answer_request(c);
    conn_touch(c);
    return 0;
}

/* Parses what was received; answers gather in server.out. */
static void conn_parse(struct conn *c, size_t len)
{
    uint64_t before = server.requests;
    llhttp_errno_t rc = llhttp_execute(&c->parser, server.in, len);
    if (c->ends)
        return; /* what follows the last request is nobody's */
    if (rc == HPE_OK && !c->in_body && server.requests == before)
        c->head_bytes += (uint32_t)len;
    if (rc == HPE_OK && c->head_bytes <= HEAD_BYTES_MAX)
        return;
    if (rc == HPE_OK)
        refuse(c, HEAD_TOO_LARGE);
    else if (c->answer == HELLO)
        refuse(c, BAD);
    c->ends = true;
    answer_with(c, (enum answer)c->answer);
}

/* Receives and answers once, or to the end of the stream when `drain`. */
static void conn_receive(int fd, bool drain)
{
    struct conn *c = &server.conns[fd];
    for (;;) {
        server.calls.recv++;
        ssize_t n = recv(fd, server.in, sizeof server.in, 0);
        if (n <= 0) {
            if (n == 0 || (errno != EAGAIN && errno != EINTR))
                conn_close(fd);
            return;
        }
        if (!c->lingers) {
            conn_parse(c, (size_t)n);
            if (!conn_send(fd))
                return;
            if (c->ends)
                conn_end(fd);
        }
        if (!c->open)
            return;
        if (drain)
            continue;
        if (n == sizeof server.in && conn_interest(EPOLL_CTL_MOD, fd) < 0) /* more: in turn */
            conn_close(fd);
        return;
    }
}

static void conn_event(int fd, uint32_t events)
{
    if (server.conns[fd].rest)
        conn_flush(fd);
    else /* the end of the stream may stand right behind the data and bring no further edge */
        conn_receive(fd, events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR));
}

/* ---- the server ---- */

/* False when there is nothing more to accept now. */
static bool accept_one(void)
{
    server.calls.accept++;
    int fd = accept4(server.listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
        conn_open(fd);
        return true;
    }
    if ((errno == EMFILE || errno == ENFILE) && server.open > 0) {
        if (!server.full_said)
            fprintf(stderr,
                    "http_epoll: %ld connections are open and descriptors have run out: newcomers "
                    "wait (raise 'ulimit -n')\n",
                    server.open);
        server.full_said = true;
        server.listener_off = interest(EPOLL_CTL_DEL, server.listener, 0) == 0;
        return false;
    }
    return errno == ECONNABORTED || errno == EINTR;
}

static void expire(void)
{
    int first;
    while ((first = server.conns[0].next) != 0 &&
           server.now_s - server.conns[first].seen_s > IDLE_S)
        conn_close(first);
}

static int serve(void)
{
    struct epoll_event events[EVENTS_MAX];
    for (;;) {
        server.calls.epoll_wait++;
        int n = epoll_wait(server.epoll, events, EVENTS_MAX, next_expiry_ms());
        if (n < 0 && errno != EINTR) {
            fprintf(stderr, "http_epoll: epoll_wait: %s\n", strerror(errno));
            return 1;
        }
        look_at_clock();
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd == server.signals)
                return 0;
            if (fd != server.listener)
                conn_event(fd, events[i].events);
            else
                for (int k = 0; k < ACCEPTS_MAX && accept_one(); k++)
                    ;
        }
        expire();
    }
}

static int announce(void)
{
    struct sockaddr_storage address;
    socklen_t len = sizeof address;
    char host[64], port[8];
    if (getsockname(server.listener, (struct sockaddr *)&address, &len) < 0 ||
        getnameinfo((struct sockaddr *)&address, len, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
        fprintf(stderr, "http_epoll: cannot tell its own address\n");
        return -1;
    }
    printf(strchr(host, ':') ? "listening on [%s]:%s\n" : "listening on %s:%s\n", host, port);
    fflush(stdout);
    return 0;
}

static void report(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    printf("{\"server\":\"epoll\",\"requests\":%llu,\"syscalls\":%llu,\"cpu_s\":%.6f,"
           "\"connections\":%llu,\"max_rss_kb\":%ld}\n",
           (unsigned long long)server.requests, (unsigned long long)syscalls(), cpu_seconds(),
           (unsigned long long)server.connections, u.ru_maxrss);
    fflush(stdout);
}

static int start(const char *address)
{
    server.epoll = server.listener = server.signals = -1;
    llhttp_settings_init(&server.settings);
    server.settings.on_message_begin = on_message_begin;
    server.settings.on_url = on_url;
    server.settings.on_headers_complete = on_headers_complete;
    server.settings.on_body = on_body;
    server.settings.on_message_complete = on_message_complete;
    look_at_clock();

    /* Zero pages: only what is used becomes memory. */
    server.fd_limit = raise_fd_limit();
    server.conns = calloc((size_t)server.fd_limit, sizeof *server.conns);
    if (!server.conns) {
        fprintf(stderr, "http_epoll: no memory for %ld connections (lower 'ulimit -n')\n",
                server.fd_limit);
        return -1;
    }
    server.signals = stop_signal_fd();
    server.listener = listen_on(address, SOCK_NONBLOCK);
    if (server.signals < 0 || server.listener < 0)
        return -1;
    server.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (server.epoll < 0 || interest(EPOLL_CTL_ADD, server.listener, EPOLLIN) < 0 ||
        interest(EPOLL_CTL_ADD, server.signals, EPOLLIN) < 0) {
        fprintf(stderr, "http_epoll: no epoll: %s\n", strerror(errno));
        return -1;
    }
    return announce();
}

static void finish(void)
{
    const int fds[] = {server.listener, server.epoll, server.signals};
    while (server.conns && server.conns[0].next)
        conn_close(server.conns[0].next);
    for (size_t i = 0; i < sizeof fds / sizeof fds[0]; i++) {
        if (fds[i] >= 0)
            close(fds[i]);
    }
    free(server.conns);
}

int main(int argc, char **argv)
{
    const char *address = NULL;
    bool stats = false;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--stats")) {
            stats = true;
        } else if (!strcmp(argv[i], "--listen") && i + 1 < argc) {
            address = argv[++i];
        } else {
            address = NULL;
            break;
        }
    }
    if (!address) {
        fprintf(stderr, "usage: http_epoll --listen HOST:PORT [--stats]\n");
        return 2;
    }
    int rc = start(address) < 0 ? 1 : serve();
    if (rc == 0 && stats)
        report();
    finish();
    return rc;
}
