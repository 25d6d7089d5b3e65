/*
 * accept.c: a worker's run: letting connections in, and the end.
 *
 * Above the limit of connections a newcomer is told 503 by a small coroutine of its own, so that
 * telling it does not hold up the others; when REFUSALS_MAX are being told, the next is closed
 * without a word. When descriptors or memory run out, accepting waits until a connection has ended:
 * newcomers wait in the kernel's queue.
 *
 * The end, once `stop` is readable:
 *
 *      the acceptor is cancelled and joined, the listener closed    nobody new
 *      idle connections are shut for reading                        they read 0, and end
 *      requests at hand are answered with Connection: close         they end
 *      ...until none is left, or grace_ns has passed
 *      the root returns, and the run cancels what is left
 *
 * A request that is in the socket of an idle connection when it is shut is still read and answered.
 */
#include "http.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define STARVED_NS       (100 * WH_MILLISECOND)
#define REFUSAL_WRITE_NS WH_SECOND

/* ---- Counting ---- */

static long open_add(struct server *server, long n)
{
    return __atomic_add_fetch(&server->open, n, __ATOMIC_RELAXED);
}

static void event_write(wh_fd fd)
{
    uint64_t one = 1;
    ssize_t n = write(fd, &one, sizeof one);
    (void)n; /* it fails only when it is readable anyway */
}

void worker_left(struct worker *w)
{
    open_add(w->server, -1);
    __atomic_store_n(&w->open, w->open - 1, __ATOMIC_RELAXED);
    if (w->ended_wanted)
        event_write(w->ended);
}

/* Waits until a connection of this worker has ended; returns 0, -ETIMEDOUT or -ECANCELED. */
static int wait_for_an_end(struct worker *w)
{
    uint64_t count;
    w->ended_wanted = true;
    ssize_t n = wh_read(w->ended, &count, sizeof count);
    w->ended_wanted = false;
    return n < 0 ? (int)n : 0;
}

/* ---- Accepting ---- */

static void refuse(wh_fd fd, struct worker *w)
{
    char text[HEAD_BYTES_MAX];
    size_t len = answer_refusal(w, text, sizeof text);
    bool sent = false;
    WH_WITH_TIMEOUT(REFUSAL_WRITE_NS)
    {
        sent = wh_send_all(fd, text, len) >= 0;
    }
    if (sent)
        conn_linger(fd);
    wh_close(fd);
    w->refusals--;
    worker_left(w);
}

/* Starts what serves the connection. False: there is no memory for it. */
static bool admit(struct worker *w, wh_fd fd)
{
    long open = open_add(w->server, 1);
    __atomic_store_n(&w->open, w->open + 1, __ATOMIC_RELAXED);
    int rc = -ENOMEM;
    bool full = open > w->config->connections_max;
    if (full) {
        count_up(&w->refused);
        if (w->refusals < REFUSALS_MAX)
            rc = wh_go(refuse, fd, w);
        w->refusals += rc == 0;
    } else {
        rc = wh_go(conn_serve, fd, w);
        if (rc == 0)
            count_up(&w->connections);
        else
            count_up(&w->refused);
    }
    if (rc == 0)
        return true;
    wh_close(fd);
    worker_left(w);
    return full;
}

static bool is_starved(int error)
{
    return error == -EMFILE || error == -ENFILE || error == -ENOBUFS || error == -ENOMEM;
}

/* Waits until there may be room again. False when the acceptor is to end. */
static bool wait_for_room(struct worker *w, int error)
{
    if (!w->starved_said)
        fprintf(stderr,
                "http_server: cannot accept (%s) with %llu connections open: newcomers wait "
                "(raise 'ulimit -n', or lower --max-connections)\n",
                strerror(-error), (unsigned long long)w->open);
    w->starved_said = true;
    int rc = 0;
    /* It may also be other workers or programs that have what is missing. */
    WH_WITH_TIMEOUT(STARVED_NS)
    {
        rc = wait_for_an_end(w);
    }
    return rc != -ECANCELED;
}

/* The acceptor. Returns why it ended. */
static int accept_all(struct worker *w)
{
    for (;;) {
        wh_fd fd = wh_accept(w->listener);
        if (fd >= 0) {
            if (!admit(w, fd) && !wait_for_room(w, -ENOMEM))
                return -ECANCELED;
        } else if (is_starved(fd)) {
            if (!wait_for_room(w, fd))
                return -ECANCELED;
        } else if (fd == -ECANCELED) {
            return fd;
        } else if (fd == -EBADF || fd == -EINVAL || fd == -ENOTSOCK) {
            fprintf(stderr, "http_server: cannot accept any more: %s\n", strerror(-fd));
            w->result = fd;
            server_stop(w->server);
            return fd;
        }
        /* Everything else is the end of that one connection before it was accepted. */
    }
}

/* ---- The end ---- */

void server_stop(struct server *server)
{
    event_write(server->stop);
}

/* Waits for the first signal. A second one then has its usual effect: it ends the process. */
static void watch_signals(struct server *server)
{
    struct signalfd_siginfo info;
    if (wh_read(server->signals, &info, sizeof info) != (ssize_t)sizeof info)
        return;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    server_stop(server);
}

static void drain(struct worker *w)
{
    int64_t began_ns = wh_now();
    w->stopping = true;
    conns_end_idle(w);
    WH_WITH_TIMEOUT(w->config->grace_ns)
    {
        while (w->open > 0 && wait_for_an_end(w) == 0)
            ;
    }
    w->cancelled = w->open;
    w->drained_ns = wh_now() - began_ns;
}

int worker_run(void *arg)
{
    struct worker *w = arg;
    wh_coro *acceptor;
    int rc = wh_spawn(&acceptor, NULL, accept_all, w);
    if (rc == 0 && w->index == 0) {
        rc = wh_go(watch_signals, w->server);
        if (rc < 0)
            wh_detach(acceptor);
    }
    if (rc < 0)
        return rc;
    rc = wh_poll(w->server->stop, POLLIN);
    wh_cancel(acceptor);
    wh_join(acceptor, NULL);
    wh_close(w->listener);
    w->listener = -1;
    if (rc >= 0)
        drain(w);
    wh_stats_get(&w->stats);
    return rc < 0 ? rc : w->result;
}
