/*
 * whorl/serve.h: a server: who connects is served by a coroutine of its own.
 *
 *     static void greet(const wh_client *client)
 *     {
 *         const char *line;
 *         for (;;) {
 *             ssize_t len = 0;
 *             WH_WITH_CTX(client->idle)          // until a request begins the server may end
 *                 len = wh_conn_peek(client->conn, 1, &line);
 *             if (len > 0)
 *                 len = wh_conn_peek_until(client->conn, "\n", 1, 1000, &line);
 *             if (len <= 0)
 *                 break;
 *             wh_conn_printf(client->conn, "hello, %.*s", (int)len, line);
 *             wh_conn_consume(client->conn, (size_t)len);
 *             if (wh_conn_flush(client->conn) < 0)
 *                 break;
 *         }
 *     }
 *
 *     static int app(void *arg)
 *     {
 *         (void)arg;
 *         WH_CHAN(int) stop = wh_chan_create(int, 2);
 *         const wh_serve_options options = {.stop = stop};
 *         int rc = stop ? wh_signal_notify(stop, SIGTERM, SIGINT) : -ENOMEM;
 *         if (rc == 0)
 *             rc = wh_serve(wh_listen_tcp("127.0.0.1:7000", NULL), greet, NULL, &options);
 *         if (stop)
 *             wh_signal_stop(stop);
 *         wh_chan_unref(stop);
 *         return rc;
 *     }
 *
 * The end in good order (drain), when an element comes from options.stop, or the context of
 * wh_serve() ends:
 *
 *      accepting ends, the listener is closed         newcomers are refused by the kernel
 *      every client->idle is cancelled                who waits for a request that has not begun
 *                                                     gets -ECANCELED, and returns
 *      the others go on                               until they return
 *      ...for drain_ns, or until a second element comes; then their context is cancelled, and every
 *      call of theirs is -ECANCELED
 */
#ifndef WHORL_SERVE_H
#define WHORL_SERVE_H

#include <whorl/chan.h>
#include <whorl/conn.h>
#include <whorl/ctx.h>

WH_BEGIN_DECLS

/* Whom a handler serves; valid until it returns. */
typedef struct wh_client {
    wh_conn *conn; /* flushed and closed by the server when the handler has returned: a handler that
                      closes it aborts the program, also by the close of a stream that it has
                      wrapped around this one (wh_conn_wrap()) */
    wh_ctx *ctx;   /* of this connection, and ambient in the handler: cancelling it ends the calls
                      of the handler and of what it has started; so does its return */
    wh_ctx *idle;  /* cancelled when the server is to end: for waiting between two requests */
    void *arg;     /* as given to wh_serve() */
} wh_client;

/* Serves one connection, in a coroutine of its own, and returns when it is done with it. May park.
 */
typedef void (*wh_serve_handler)(const wh_client *client);

/* What a server has done, and does. Written while it serves, for any thread to read. */
typedef struct wh_serve_stats {
    uint64_t accepted;      /* connections */
    uint64_t open;          /* of those, now */
    uint64_t shed;          /* accepted and closed at once, for want of descriptors or memory */
    uint64_t starved;       /* times that accepting had to pause for the same reason */
    uint64_t cut;           /* connections that had to end before they were done, in the drain */
    int64_t drain_began_ns; /* wh_now() when the server began to end; 0 before */
} wh_serve_stats;

/* Zero in a field means its default; NULL for the struct all of them. */
typedef struct wh_serve_options {
    /* Most connections at once; further ones wait until one has ended: eight of each listener (with
     * `direct` one for each worker, if that is more) are accepted meanwhile, and have a descriptor,
     * the others are in the kernel's queue (listen(2)).
     * Default: as many as there are descriptors for. */
    uint64_t connections_max;
    /* How long connections may go on when the server is to end, in nanoseconds. -1: not at all.
     * Default 10 s. */
    int64_t drain_ns;
    /* Lets handlers move to other workers: wh_spawn_options.migrate. */
    bool migrate;
    wh_serve_stats *stats; /* written to, if not NULL */
    /* Connections do not count against the process's limit of descriptors, but each worker's ring
     * has a table of as many: wh_accept_direct() says what that asks of handlers. They stay on the
     * worker that has accepted, which may be any. Where the kernel has no such tables connections
     * are as without. Not with migrate. */
    bool direct;
    /* What is received from it begins the end in good order, as the end of the context does; what
     * is received second ends the drain. Closing it is both. For wh_signal_notify(), which is asked
     * before the listener is there, so that a signal finds it; or anybody else who wants to. It
     * must live until wh_serve() has returned. */
    WH_CHAN(int) stop;
} wh_serve_options;

/*
 * Serves the listener: handler(client) runs in a coroutine for each connection, on any worker; and
 * returns when it is told to by options.stop, or the ambient context has ended, or accepting has
 * become impossible, and all handlers have returned. A TCP listener with SO_REUSEPORT
 * (wh_listen_options.reuseport) is joined by one more on the same address for each other worker,
 * and the kernel spreads the connections. (A second server on that address, of the same user, then
 * takes a share of them instead of being refused.) The listener is closed in any case. A negative
 * one is the result, so that what wh_listen_tcp() returns needs no look in between; -1 is -EBADF.
 *
 * The listeners that join it have its backlog, and of its options SO_BINDTODEVICE, KEEPALIVE,
 * LINGER, MARK, PRIORITY, RCVBUF, SNDBUF, RCVLOWAT; IP_TOS, TTL, MINTTL, FREEBIND, TRANSPARENT, and
 * the like of IPv6; TCP_NODELAY, DEFER_ACCEPT, FASTOPEN, KEEPIDLE, KEEPINTVL, KEEPCNT,
 * USER_TIMEOUT, NOTSENT_LOWAT, MAXSEG, CONGESTION. They have no others: a listener with a filter
 * (SO_ATTACH_FILTER) or keys (TCP_MD5SIG) is to be without SO_REUSEPORT.
 *
 * Without a free descriptor newcomers are accepted as direct ones, which need none, and closed at
 * once, so that they see an end and do not hang (where the kernel has none, they wait); each time
 * accepting then pauses until a connection has ended, a tenth of a second at most. The first time
 * one line on standard error says so. With options.direct that is so when a worker's table is full,
 * and up to eight newcomers, or one for each worker, may be closed before the first pause.
 *
 * Parks. Returns 0 when options.stop has ended it; or
 *   -ECANCELED, -ETIMEDOUT   the context has ended
 *   -EBADF, -EINVAL, -ENOTSOCK, -EOPNOTSUPP   the descriptor is none on which one can accept
 *   -EINVAL   also: both direct and migrate
 *   -EACCES...   any other error of accept(2) but those of a single connection, after which
 *             accepting goes on
 *   -ENOMEM, -EMFILE, -EADDRINUSE...   the server could not begin; also -EPERM: an option of the
 *                            listener's could not be given to those beside it
 */
WH_API int wh_serve(wh_fd listener, wh_serve_handler handler, void *arg,
                    const wh_serve_options *options) WH_MUST_CHECK;

WH_END_DECLS

#endif
