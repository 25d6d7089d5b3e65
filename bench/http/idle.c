/*
 * http_idle: opens many HTTP connections and lets them lie.
 *
 *     http_idle HOST:PORT N
 *
 * Each connection sends one request and reads the answer to its end, so that the server has done
 * with it all that it does with a connection in use. Then prints "ready N" and holds them until its
 * standard input ends or SIGTERM comes; then prints "lost K": how many the server had closed
 * meanwhile, and exits 0.
 *
 * Invariants
 *   - At most OPENING_MAX connections are being opened at once, so that no queue of a listener
 *     overflows (the retry of a dropped SYN takes a second).
 *   - To a server in 127/8 the connections come from many addresses of 127/8: one address has only
 *     as many ports as ip_local_port_range, and those of connections just ended are not free yet.
 *   - Opening makes progress or fails: OPEN_TIMEOUT_MS without any is an error that says how far it
 *     came.
 */
#include "bench/echo/echo_common.h"

#include <llhttp.h>
#include <stdbool.h>
#include <sys/epoll.h>

enum {
    EVENTS_MAX = 256,
    OPENING_MAX = 64,
    OPEN_TIMEOUT_MS = 10000,
    PER_ADDRESS = 4096,
};

enum state { UNUSED, CONNECTING, READING, IDLE };

/* One a descriptor, found by its number. */
struct conn {
    llhttp_t parser; /* first: a callback is given only this */
    enum state state;
};

static struct {
    int epoll;
    int signals;
    struct conn *conns;
    long wanted, opening, idle, lost;
    bool stop;
    struct sockaddr_storage to;
    socklen_t to_len;
    const char *host;
    llhttp_settings_t settings;
} self = {.epoll = -1, .signals = -1};

static int failed(const char *what)
{
    fprintf(stderr, "http_idle: connection %ld of %ld: %s: %s\n", self.idle + 1, self.wanted, what,
            strerror(errno));
    return -1;
}

static int watch(int op, int fd, uint32_t events)
{
    struct epoll_event e = {.events = events, .data.fd = fd};
    return epoll_ctl(self.epoll, op, fd, &e);
}

/* Chooses 127.x.y.1 as the source of connection `number`; the port is chosen when it connects. */
static int choose_source(int fd, long number)
{
    const struct sockaddr_in *to = (const struct sockaddr_in *)&self.to;
    if (to->sin_family != AF_INET || ntohl(to->sin_addr.s_addr) >> 24 != 127)
        return 0;
    uint32_t group = (uint32_t)(number / PER_ADDRESS) + 1;
    struct sockaddr_in from = {.sin_family = AF_INET};
    from.sin_addr.s_addr = htonl(127u << 24 | (group & 0xffff) << 8 | 1);
    int one = 1;
    if (setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one) < 0)
        return -1;
    return bind(fd, (struct sockaddr *)&from, sizeof from);
}

static int conn_start(long number)
{
    int fd = socket(self.to.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return failed("socket");
    /* The descriptor is closed by the end of the process when anything fails. */
    if (choose_source(fd, number) < 0)
        return failed("bind");
    if (connect(fd, (struct sockaddr *)&self.to, self.to_len) < 0 && errno != EINPROGRESS)
        return failed("connect");
    if (watch(EPOLL_CTL_ADD, fd, EPOLLOUT) < 0)
        return failed("epoll_ctl");
    llhttp_init(&self.conns[fd].parser, HTTP_RESPONSE, &self.settings);
    self.conns[fd].state = CONNECTING;
    self.opening++;
    return 0;
}

static int conn_request(int fd)
{
    char request[256];
    int error = 0;
    socklen_t len = sizeof error;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0 || error) {
        errno = error ? error : errno;
        return failed("connect");
    }
    int n = snprintf(request, sizeof request, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", self.host);
    if (send(fd, request, (size_t)n, MSG_NOSIGNAL) != n)
        return failed("send"); /* a new socket has room */
    self.conns[fd].state = READING;
    return watch(EPOLL_CTL_MOD, fd, EPOLLIN) < 0 ? failed("epoll_ctl") : 0;
}

/* The answer is whole. */
static int on_message_complete(llhttp_t *parser)
{
    struct conn *c = (struct conn *)parser;
    c->state = IDLE;
    self.idle++;
    self.opening--;
    return 0;
}

static int conn_read(int fd)
{
    struct conn *c = &self.conns[fd];
    char data[4096];
    ssize_t n = recv(fd, data, sizeof data, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (n == 0)
        errno = ECONNRESET;
    if (n <= 0)
        return failed("the answer did not come");
    if (llhttp_execute(&c->parser, data, (size_t)n) != HPE_OK ||
        (c->state == IDLE && c->parser.status_code != 200)) {
        fprintf(stderr, "http_idle: connection %ld: got no HTTP answer 200 but status %d, %s\n",
                self.idle + 1, c->parser.status_code, llhttp_get_error_reason(&c->parser));
        return -1;
    }
    /* From now on only its end is of interest. */
    return c->state == IDLE && watch(EPOLL_CTL_MOD, fd, EPOLLRDHUP) < 0 ? failed("epoll_ctl") : 0;
}

static void conn_lost(int fd)
{
    self.conns[fd].state = UNUSED;
    self.lost++;
    close(fd);
}

static int handle(int fd)
{
    if (fd == self.signals || fd == STDIN_FILENO) {
        char ignored[256]; /* what is written to standard input is no end */
        self.stop = fd == self.signals || read(fd, ignored, sizeof ignored) <= 0;
        return 0;
    }
    switch (self.conns[fd].state) {
    case CONNECTING: return conn_request(fd);
    case READING: return conn_read(fd);
    case IDLE: conn_lost(fd); return 0;
    case UNUSED: break;
    }
    return 0;
}

/* One round of events. -1 with a message when something failed. */
static int turn(int timeout_ms)
{
    struct epoll_event events[EVENTS_MAX];
    int n = epoll_wait(self.epoll, events, EVENTS_MAX, timeout_ms);
    if (n < 0 && errno != EINTR)
        return failed("epoll_wait");
    if (n == 0) {
        fprintf(stderr,
                "http_idle: %ld of %ld connections were answered, then nothing came for %d s: "
                "does the server still serve?\n",
                self.idle, self.wanted, OPEN_TIMEOUT_MS / 1000);
        return -1;
    }
    for (int i = 0; i < n && !self.stop; i++) {
        if (handle(events[i].data.fd) < 0)
            return -1;
    }
    return 0;
}

static int open_all(void)
{
    while (!self.stop && self.idle < self.wanted) {
        while (self.opening < OPENING_MAX && self.idle + self.opening < self.wanted) {
            if (conn_start(self.idle + self.opening) < 0)
                return -1;
        }
        if (turn(OPEN_TIMEOUT_MS) < 0)
            return -1;
    }
    return 0;
}

static int hold(void)
{
    if (!self.stop)
        printf("ready %ld\n", self.idle);
    fflush(stdout);
    while (!self.stop) {
        if (turn(-1) < 0)
            return -1;
    }
    printf("lost %ld\n", self.lost);
    fflush(stdout);
    return 0;
}

static int start(const char *address)
{
    llhttp_settings_init(&self.settings);
    self.settings.on_message_complete = on_message_complete;
    self.host = address;
    if (parse_host_port(address, &self.to, &self.to_len) < 0)
        return -1;
    long limit = raise_fd_limit();
    if (self.wanted > limit - RESERVED_FDS) {
        fprintf(stderr,
                "http_idle: %ld connections need %ld descriptors and %ld are allowed: raise "
                "'ulimit -Hn', or ask for %ld connections\n",
                self.wanted, self.wanted + RESERVED_FDS, limit, limit - RESERVED_FDS);
        return -1;
    }
    self.conns = calloc((size_t)limit, sizeof *self.conns);
    self.epoll = epoll_create1(EPOLL_CLOEXEC);
    self.signals = stop_signal_fd();
    if (!self.conns || self.epoll < 0 || self.signals < 0 ||
        watch(EPOLL_CTL_ADD, self.signals, EPOLLIN) < 0)
        return failed("start");
    /* A file or /dev/null cannot be watched: then only a signal ends it. */
    if (watch(EPOLL_CTL_ADD, STDIN_FILENO, EPOLLIN) < 0 && errno != EPERM)
        return failed("standard input");
    return 0;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: http_idle HOST:PORT N\n");
        return 2;
    }
    self.wanted = parse_number("N", argv[2], 1, 1000000);
    int rc = start(argv[1]) < 0 || open_all() < 0 || hold() < 0 ? 1 : 0;
    free(self.conns); /* the connections end with the process */
    return rc;
}
