/*
 * loadgen_open.c: makes the connections, in bounded batches.
 *
 * The idea: OPEN_BATCH connects are on the way at once, and the next batch begins when all have
 * succeeded, so that the server's queue of connections to accept does not overflow (an overflow
 * costs a second: the retransmission).
 *
 * Every connection to one server needs a port of its own on our side. When they run short and the
 * server is in 127.0.0.0/8, the next come from 127.0.0.2, 127.0.0.3, ...: each has all ports again.
 */
#include "loadgen.h"

#include <sys/epoll.h>

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

enum {
    OPEN_BATCH = 128,
    OPEN_TIMEOUT_MS = 10000,
    SOURCES_MAX = 64, /* 127.0.0.1 .. 127.0.0.64 */
};

static struct sockaddr_storage address;
static socklen_t address_len;
static unsigned source; /* the address to connect from: 127.0.0.1 + source */

/* Binds to the present source address. Only needed past the first: without it the kernel picks. */
static int bind_source(int fd)
{
    struct sockaddr_in from = {.sin_family = AF_INET,
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK + source)};
    int one = 1;
    if (source == 0)
        return 0;
    /* The port is chosen by connect, for this destination: more fit than when bind chooses. */
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    return bind(fd, (struct sockaddr *)&from, sizeof from);
}

/* True when there is another source address to go on with. */
static bool next_source(void)
{
    const struct sockaddr_in *to = (const struct sockaddr_in *)&address;
    if (to->sin_family != AF_INET || ntohl(to->sin_addr.s_addr) >> 24 != 127 ||
        source + 1 >= SOURCES_MAX)
        return false;
    source++;
    return true;
}

static void complain(long index, const char *call, int error)
{
    const char *cure = "is the server running there?";
    if (error == EMFILE || error == ENFILE)
        cure = "raise 'ulimit -n', or start several loadgens";
    else if (error == EADDRNOTAVAIL)
        cure = "ports have run out: widen net.ipv4.ip_local_port_range, wait a minute, or connect "
               "to 127.x.x.x, where loadgen changes its own address";
    else if (error == ETIMEDOUT)
        cure = "the server does not accept: is it busy, or out of descriptors?";
    else if (error == ENOBUFS || error == ENOMEM)
        cure = "the kernel has no memory for more sockets";
    fprintf(stderr, "loadgen: connection %ld of %ld: %s: %s (%s)\n", index + 1,
            opt.connections + opt.idle, call, strerror(error), cure);
}

/* Begins to connect; returns the descriptor, or -1 with a message. */
static int open_begin(long index)
{
    int one = 1;
    for (;;) {
        const char *call = "socket";
        int fd = socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (fd >= 0) {
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
            call = "bind";
            if (bind_source(fd) == 0) {
                call = "connect";
                if (connect(fd, (struct sockaddr *)&address, address_len) == 0 ||
                    errno == EINPROGRESS)
                    return fd;
            }
        }
        int error = errno;
        if (fd >= 0)
            close(fd);
        if (error != EADDRNOTAVAIL || !next_source()) {
            complain(index, call, error);
            return -1;
        }
    }
}

/* 0 when the connect of fd has succeeded, else its error. */
static int open_error(int fd)
{
    int error = 0;
    socklen_t len = sizeof error;
    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0 ? errno : error;
}

/* Waits until `count` descriptors are connected. 0, or -1 with a message. */
static int open_finish(const int *fds, long first, int count)
{
    struct epoll_event events[OPEN_BATCH];
    int waiting = count, rc = -1;
    int set = epoll_create1(EPOLL_CLOEXEC);
    for (int i = 0; i < count; i++) {
        struct epoll_event e = {.events = EPOLLOUT | EPOLLONESHOT, .data.u32 = (uint32_t)i};
        if (epoll_ctl(set, EPOLL_CTL_ADD, fds[i], &e) < 0) {
            complain(first + i, "epoll_ctl", errno);
            goto out;
        }
    }
    while (waiting) {
        int n = epoll_wait(set, events, OPEN_BATCH, OPEN_TIMEOUT_MS);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            complain(first, "connect", ETIMEDOUT);
            goto out;
        }
        for (int i = 0; i < n; i++) {
            int which = (int)events[i].data.u32;
            int error = open_error(fds[which]);
            if (error) {
                complain(first + which, "connect", error);
                goto out;
            }
        }
        waiting -= n;
    }
    rc = 0;
out:
    if (set >= 0)
        close(set);
    return rc;
}

/* Connects `count` descriptors. *ret_opened says how many are open, also on failure. */
static int open_all(int *fds, long count, long first, long *ret_opened)
{
    *ret_opened = 0;
    while (*ret_opened < count) {
        long begin = *ret_opened;
        int batch = 0;
        for (; batch < OPEN_BATCH && begin + batch < count; batch++) {
            int fd = open_begin(first + begin + batch);
            if (fd < 0)
                return -1;
            fds[begin + batch] = fd;
            (*ret_opened)++;
        }
        if (open_finish(fds + begin, first + begin, batch) < 0)
            return -1;
    }
    return 0;
}

int open_everything(void)
{
    if (parse_address(opt.host, opt.port, &address, &address_len) < 0)
        return -1;
    int *fds = calloc((size_t)opt.connections + 1, sizeof *fds);
    if (!fds)
        return -1;
    int rc = open_all(load.idle_fds, opt.idle, 0, &load.idle_opened);
    if (rc == 0)
        rc = open_all(fds, opt.connections, opt.idle, &load.opened);
    for (long i = 0; i < load.opened; i++)
        load.conns[i].fd = fds[i];
    load.alive = load.opened;
    free(fds);
    return rc;
}
