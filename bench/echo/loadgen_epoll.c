/*
 * loadgen_epoll.c: the engine on epoll: two system calls a message, recv and send, and a share of
 * epoll_wait.
 *
 * Edge-triggered, both directions asked for once. No call only learns "nothing there": a receive
 * that did not fill the buffer has emptied the socket. One that did asks again with EPOLL_CTL_MOD,
 * in turn, so that a fast connection does not keep the others waiting.
 */
#include "loadgen.h"

#include <sys/epoll.h>

enum {
    EVENTS_MAX = 512,
    BUFFER_BYTES = 256 * 1024,
};

/* The data of an event: a connection's number, or one of these. */
static const uint64_t TIMER_EVENT = UINT64_MAX;
static const uint64_t IDLE_EVENT = 1ull << 32; /* plus the number of the idle connection */

static const uint32_t CONN_EVENTS = EPOLLIN | EPOLLOUT | EPOLLET;

static int set = -1;
static unsigned char *tx, *rx;

static int watch(int op, int fd, uint64_t data, uint32_t events)
{
    struct epoll_event e = {.events = events, .data.u64 = data};
    if (epoll_ctl(set, op, fd, &e) == 0)
        return 0;
    fprintf(stderr, "loadgen: epoll_ctl: %s\n", strerror(errno));
    return -1;
}

static int start(void)
{
    int rc = 0;
    set = epoll_create1(EPOLL_CLOEXEC);
    tx = malloc(BUFFER_BYTES + 16);
    rx = malloc(BUFFER_BYTES);
    if (set < 0 || !tx || !rx)
        return -1;
    rc = watch(EPOLL_CTL_ADD, load.timer, TIMER_EVENT, EPOLLIN);
    for (long i = 0; rc == 0 && i < opt.connections; i++)
        rc = watch(EPOLL_CTL_ADD, load.conns[i].fd, (uint64_t)i, CONN_EVENTS);
    for (long i = 0; rc == 0 && i < opt.idle; i++)
        rc = watch(EPOLL_CTL_ADD, load.idle_fds[i], IDLE_EVENT + (uint64_t)i,
                   EPOLLIN | EPOLLRDHUP | EPOLLET);
    return rc;
}

static void finish(void)
{
    if (set >= 0)
        close(set);
    free(rx);
    free(tx);
}

static void send_owed(struct conn *c, uint64_t time_ns)
{
    while (c->owed) {
        unsigned char *first;
        size_t bytes = conn_fill(c, tx, BUFFER_BYTES, time_ns, &first);
        ssize_t sent = send(c->fd, first, bytes, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno != EAGAIN && errno != EINTR)
                conn_fail(c, "send", errno);
            return; /* EPOLLOUT comes */
        }
        conn_sent(c, (size_t)sent);
        if ((size_t)sent < bytes)
            return;
    }
}

static void forget(struct conn *c)
{
    (void)c; /* close takes it out of the set */
}

static void readable(struct conn *c)
{
    ssize_t n = recv(c->fd, rx, BUFFER_BYTES, 0);
    if (n > 0)
        conn_receive(c, rx, (size_t)n);
    else if (n == 0)
        conn_fail(c, "the server closed it", 0);
    else if (errno != EAGAIN && errno != EINTR)
        conn_fail(c, "recv", errno);
    if (n == BUFFER_BYTES && c->fd >= 0) /* more may be there */
        watch(EPOLL_CTL_MOD, c->fd, (uint64_t)(c - load.conns), CONN_EVENTS);
}

static void handle(const struct epoll_event *e)
{
    if (e->data.u64 == TIMER_EVENT) {
        next_phase();
    } else if (e->data.u64 >= IDLE_EVENT) {
        idle_fail((long)(e->data.u64 - IDLE_EVENT));
    } else {
        struct conn *c = &load.conns[e->data.u64];
        if (c->owed && (e->events & EPOLLOUT))
            send_owed(c, now_ns());
        if (c->fd >= 0 && (e->events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
            readable(c);
    }
}

static int turn(uint64_t timeout_ns)
{
    struct epoll_event events[EVENTS_MAX];
    struct timespec t = {.tv_sec = (time_t)(timeout_ns / 1000000000u),
                         .tv_nsec = (long)(timeout_ns % 1000000000u)};
    int n = timeout_ns == UINT64_MAX ? epoll_wait(set, events, EVENTS_MAX, -1)
                                     : epoll_pwait2(set, events, EVENTS_MAX, &t, NULL);
    if (n < 0 && errno != EINTR) {
        fprintf(stderr, "loadgen: epoll_wait: %s\n", strerror(errno));
        return -1;
    }
    for (int i = 0; i < n; i++)
        handle(&events[i]);
    return 0;
}

const struct engine engine_epoll = {.name = "epoll",
                                    .start = start,
                                    .send = send_owed,
                                    .forget = forget,
                                    .turn = turn,
                                    .finish = finish};
