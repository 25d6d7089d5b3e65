/*
 * echo_epoll: the epoll baseline, one thread, as a careful C programmer would write it.
 *
 *     echo_epoll HOST:PORT [--cpu K] [--level] [--spin US] [--stats]
 *
 * The idea: three system calls a message at worst (epoll_wait, recv, send) and two when events
 * come in batches, with no call that only learns "nothing there":
 *   - one recv an event: a receive that did not fill the buffer has emptied the socket;
 *   - send at once, from the one shared buffer, which stays in the cache: a connection owns no
 *     memory until a send falls short;
 *   - edge-triggered with IN and OUT asked for once, so that epoll_ctl is called once a
 *     connection and the ready list is not polled a second time after each event.
 *
 * Invariants
 *   - c->rest != NULL: a send fell short. Nothing is received until the rest has gone (the peer
 *     is slow: it is its own socket that fills, not our memory). EPOLLOUT then comes.
 *   - An edge is never lost: a receive that filled the buffer, or that was put off because of a
 *     rest, is asked for again with EPOLL_CTL_MOD, which reports what is ready already.
 *   - With EPOLLRDHUP the end of the stream may stand right behind the data and bring no further
 *     edge: read to the end.
 *
 * Measured: --level (level-triggered) instead of edge is kept to compare, see README.md.
 */
#include "echo_common.h"

#include <stdbool.h>
#include <sys/epoll.h>

enum {
    EVENTS_MAX = 512,
    BUFFER_BYTES = 64 * 1024,
    ACCEPTS_MAX = 64, /* a turn, so that a flood of newcomers does not starve the others */
};

/* One a descriptor, found by its number. */
struct conn {
    char *rest; /* owned; what a short send left, or NULL */
    uint32_t rest_len;
    uint32_t rest_off;
    bool in_waits;  /* an IN event came while a rest was pending */
    bool out_asked; /* level-triggered only: EPOLLOUT is in the interest */
};

/* How often each call was made; their sum is counters.syscalls. */
struct calls {
    uint64_t epoll_wait, epoll_ctl, recv, send, accept, close;
};

static struct server {
    int epoll;
    int listener;
    int signals;
    long fd_limit;
    long open;
    uint64_t spin_ns;
    bool level;
    bool told_full;
    bool listener_off; /* out of descriptors: not accepting until a connection closes */
    struct conn *conns;
    struct counters counters;
    struct calls calls;
    char buffer[BUFFER_BYTES];
} server = {.epoll = -1, .listener = -1, .signals = -1};

static int interest(int op, int fd, uint32_t events)
{
    struct epoll_event e = {.events = events, .data.fd = fd};
    server.calls.epoll_ctl++;
    return epoll_ctl(server.epoll, op, fd, &e);
}

static uint32_t conn_events(const struct conn *c)
{
    if (!server.level)
        return EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
    return c->rest ? EPOLLOUT : EPOLLIN;
}

static void conn_close(int fd, bool reset)
{
    struct conn *c = &server.conns[fd];
    free(c->rest);
    memset(c, 0, sizeof *c);
    server.calls.close++;
    close(fd); /* leaves the epoll set with it */
    server.open--;
    server.counters.resets += reset;
    if (server.listener_off && interest(EPOLL_CTL_ADD, server.listener, EPOLLIN) == 0)
        server.listener_off = false;
}

/* Keeps what a send left. False: no memory, the connection is closed. */
static bool conn_keep_rest(int fd, const char *data, size_t len)
{
    struct conn *c = &server.conns[fd];
    c->rest = malloc(len);
    if (!c->rest) {
        conn_close(fd, true);
        return false;
    }
    memcpy(c->rest, data, len);
    c->rest_len = (uint32_t)len;
    c->rest_off = 0;
    if (server.level)
        interest(EPOLL_CTL_MOD, fd, conn_events(c));
    return true;
}

/* Sends; true when all went out. False: a rest is kept, or the connection is closed. */
static bool conn_send(int fd, const char *data, size_t len)
{
    server.calls.send++;
    ssize_t sent = send(fd, data, len, MSG_NOSIGNAL);
    if (sent == (ssize_t)len)
        return true;
    if (sent < 0 && errno != EAGAIN && errno != EINTR) {
        conn_close(fd, true);
        return false;
    }
    size_t done = sent > 0 ? (size_t)sent : 0;
    conn_keep_rest(fd, data + done, len - done);
    return false;
}

/* The socket takes data again. True when the rest has gone. */
static bool conn_flush(int fd)
{
    struct conn *c = &server.conns[fd];
    size_t len = c->rest_len - c->rest_off;
    server.calls.send++;
    ssize_t sent = send(fd, c->rest + c->rest_off, len, MSG_NOSIGNAL);
    if (sent < 0) {
        if (errno != EAGAIN && errno != EINTR)
            conn_close(fd, true);
        return false;
    }
    c->rest_off += (uint32_t)sent;
    if (c->rest_off < c->rest_len)
        return false;
    free(c->rest);
    c->rest = NULL;
    return true;
}

/* Receives and answers once, or to the end of the stream when `drain`. */
static void conn_echo(int fd, bool drain)
{
    for (;;) {
        server.calls.recv++;
        ssize_t n = recv(fd, server.buffer, sizeof server.buffer, 0);
        if (n <= 0) {
            if (n == 0 || (errno != EAGAIN && errno != EINTR))
                conn_close(fd, n < 0);
            return;
        }
        server.counters.messages++;
        server.counters.bytes += (uint64_t)n;
        if (!conn_send(fd, server.buffer, (size_t)n)) {
            server.conns[fd].in_waits = server.conns[fd].rest != NULL;
            return;
        }
        if (drain)
            continue;
        if (n == sizeof server.buffer && !server.level) /* more may be there: ask, in turn */
            interest(EPOLL_CTL_MOD, fd, conn_events(&server.conns[fd]));
        return;
    }
}

static void conn_event(int fd, uint32_t events)
{
    struct conn *c = &server.conns[fd];
    bool ended = events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR);
    if (c->rest) {
        c->in_waits |= (events & EPOLLIN) || ended;
        if (!(events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) || !conn_flush(fd))
            return;
        if (server.level || c->in_waits) {
            c->in_waits = false;
            interest(EPOLL_CTL_MOD, fd, conn_events(c));
        }
        return;
    }
    if (ended || (events & EPOLLIN))
        conn_echo(fd, ended && !server.level);
}

/* False when there is nothing more to accept now. */
static bool accept_one(void)
{
    server.calls.accept++;
    int fd = accept4(server.listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
        if (errno == EMFILE || errno == ENFILE) {
            if (!server.told_full)
                fprintf(stderr,
                        "echo_epoll: %ld connections are open and descriptors have run "
                        "out: newcomers wait (raise 'ulimit -n')\n",
                        server.open);
            server.told_full = true;
            interest(EPOLL_CTL_DEL, server.listener, 0);
            server.listener_off = true;
        }
        return errno == ECONNABORTED || errno == EINTR;
    }
    server.counters.connections++;
    server.open++;
    if ((uint64_t)server.open > server.counters.peak)
        server.counters.peak = (uint64_t)server.open;
    if (interest(EPOLL_CTL_ADD, fd, conn_events(&server.conns[fd])) < 0)
        conn_close(fd, true);
    return true;
}

/* --spin: looks without sleeping for a while. Not part of the baseline: each look is a call. */
static int wait_events(struct epoll_event *events)
{
    uint64_t until_ns = server.spin_ns ? now_ns() + server.spin_ns : 0;
    int n;
    do {
        server.calls.epoll_wait++;
        n = epoll_wait(server.epoll, events, EVENTS_MAX, until_ns ? 0 : -1);
        if (n != 0)
            return n;
    } while (now_ns() < until_ns);
    server.calls.epoll_wait++;
    return epoll_wait(server.epoll, events, EVENTS_MAX, -1);
}

static int serve(void)
{
    struct epoll_event events[EVENTS_MAX];
    for (;;) {
        int n = wait_events(events);
        if (n < 0 && errno != EINTR) {
            fprintf(stderr, "echo_epoll: epoll_wait: %s\n", strerror(errno));
            return 1;
        }
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
    }
}

static void report(bool stats)
{
    const struct calls *k = &server.calls;
    server.counters.syscalls =
        k->epoll_wait + k->epoll_ctl + k->recv + k->send + k->accept + k->close;
    if (stats)
        fprintf(stderr,
                "echo_epoll: epoll_wait %llu, epoll_ctl %llu, recv %llu, send %llu, "
                "accept %llu, close %llu\n",
                (unsigned long long)k->epoll_wait, (unsigned long long)k->epoll_ctl,
                (unsigned long long)k->recv, (unsigned long long)k->send,
                (unsigned long long)k->accept, (unsigned long long)k->close);
    counters_print("echo_epoll", &server.counters, "");
}

static void usage(void)
{
    fprintf(stderr, "usage: echo_epoll HOST:PORT [--cpu K] [--level] [--spin US] [--stats]\n");
    exit(2);
}

int main(int argc, char **argv)
{
    const char *address = NULL;
    bool stats = false;
    int rc = 1;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--cpu")) {
            if (pin_to_cpu((int)parse_number("--cpu", argv[++i], 0, CPU_SETSIZE - 1)) < 0)
                return 1;
        } else if (!strcmp(argv[i], "--spin")) {
            server.spin_ns = 1000u * (uint64_t)parse_number("--spin", argv[++i], 0, 1000000);
        } else if (!strcmp(argv[i], "--level")) {
            server.level = true;
        } else if (!strcmp(argv[i], "--stats")) {
            stats = true;
        } else if (argv[i][0] == '-' || address) {
            usage();
        } else {
            address = argv[i];
        }
    }
    if (!address)
        usage();

    server.fd_limit = raise_fd_limit();
    server.conns = calloc((size_t)server.fd_limit, sizeof *server.conns);
    server.signals = stop_signal_fd();
    server.epoll = epoll_create1(EPOLL_CLOEXEC);
    server.listener = listen_on(address, SOCK_NONBLOCK);
    if (!server.conns || server.signals < 0 || server.epoll < 0 || server.listener < 0)
        goto out;
    if (interest(EPOLL_CTL_ADD, server.listener, EPOLLIN) < 0 ||
        interest(EPOLL_CTL_ADD, server.signals, EPOLLIN) < 0) {
        fprintf(stderr, "echo_epoll: epoll_ctl: %s\n", strerror(errno));
        goto out;
    }
    rc = serve();
    report(stats);
out:
    if (server.listener >= 0)
        close(server.listener);
    if (server.epoll >= 0)
        close(server.epoll);
    if (server.signals >= 0)
        close(server.signals);
    for (long fd = 0; server.conns && fd < server.fd_limit; fd++)
        free(server.conns[fd].rest);
    free(server.conns);
    return rc;
}
