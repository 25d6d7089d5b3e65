/*
 * whorl/conn_pool.h: connections to one place that are kept and used again.
 *
 *     wh_conn_pool *pool = wh_conn_pool_create("db.example.org:5432", NULL);
 *     ...
 *     wh_conn *conn;
 *     int rc = wh_conn_pool_get(pool, &conn);
 *     if (rc < 0)
 *         return rc;
 *     if (ask(conn) == 0)
 *         wh_conn_pool_put(pool, conn);         // for the next one
 *     else
 *         wh_conn_pool_discard(pool, conn);     // who knows what it would say next
 *
 *      get: idle, the one put back last --alive?--> yours --put----> idle, at most idle_max
 *             |  none                                 |                |  for idle_ns, or until the
 *             '--> dial it; at most conns_max         '--discard       v  peer closes it
 *                  in all, else wait for one              '------> closed
 *
 * A connection is looked at before it is kept and before it is given out: one that the peer has
 * closed, or has sent something on that nobody asked for, is closed and not given out. The peer may
 * still close it a moment later. A request that fails on a used connection before anything was
 * answered is therefore to be tried again on another one, if that does no harm; that it was used
 * wh_conn_pool_get() says.
 *
 * A pool belongs to a run; any coroutine of the run may use it, also at the same time.
 */
#ifndef WHORL_CONN_POOL_H
#define WHORL_CONN_POOL_H

#include <whorl/conn.h>
#include <whorl/net.h>

WH_BEGIN_DECLS

/* A pool. Opaque. */
typedef struct wh_conn_pool wh_conn_pool;

/* Zero in a field means its default; NULL for the struct means all defaults. */
typedef struct wh_conn_pool_options {
    uint64_t conns_max; /* most connections at once, given out and idle. Default: no limit */
    uint32_t idle_max;  /* most that are kept, up to 65536. Default 16 */
    int64_t idle_ns;    /* how long one is kept, in nanoseconds; -1: for ever. Default 90 s */
    /* Makes a connection: stores it and returns 0, or returns -errno. May park. For streams that
     * are more than a socket; one without a descriptor is taken to be alive. Default: dials
     * `address` by wh_dial_tcp_with(). */
    int (*dial)(wh_conn **ret_conn, const char *address, void *dial_arg);
    void *dial_arg;
    const wh_dial_options *dial_options; /* for the default; must last as long as the pool */
} wh_conn_pool_options;

/* What a pool has done, and does. */
typedef struct wh_conn_pool_stats {
    uint64_t out, idle; /* connections given out, and kept, now */
    uint64_t dialled;   /* connections made */
    uint64_t reused;    /* times that an idle one was given out */
    uint64_t stale;     /* idle ones found closed by the peer, or with something to read */
    uint64_t expired;   /* idle ones closed after idle_ns */
} wh_conn_pool_stats;

/*
 * A pool for an address of wh_dial_tcp(), which is copied, not looked at, and dialled when the
 * first connection is wanted. It starts a coroutine, which closes what has been idle for too long.
 * The caller's, to be given back by wh_conn_pool_destroy() before the run ends. Does not park.
 * Returns NULL without memory, when an option is out of its range, or when the run is ending.
 */
WH_API wh_conn_pool *wh_conn_pool_create(const char *address,
                                         const wh_conn_pool_options *options) WH_MUST_CHECK;

/*
 * Gives out a connection: *ret_conn is the caller's until wh_conn_pool_put() or
 * wh_conn_pool_discard(), one of which must follow; wh_conn_close() must not. At the limit it waits
 * until one is given back; who has waited longest is first. May park; obeys deadline and cancel.
 * Returns 1 when the connection has been used before, 0 when it is new; or
 *   -EPIPE   the pool has been closed
 *   -ETIMEDOUT, -ECANCELED   the context ended
 *   -ENOMEM, the errors of wh_dial_tcp_with(), or of options.dial   there is none
 */
WH_API int wh_conn_pool_get(wh_conn_pool *pool, wh_conn **ret_conn) WH_MUST_CHECK;

/*
 * Gives a connection back, to be kept for the next one. What is in its buffer of writes is sent
 * first, as by wh_conn_flush(). It is closed instead when that fails, when something that was
 * received has not been consumed, when the peer has closed it, when a read has seen its end or an
 * error of it, after wh_conn_shutdown(), when idle_max are idle already, and when the pool has been
 * closed. Its timeouts are as in the beginning again. May park. A caller that has not waited for
 * the whole answer discards it instead: no stream knows what is still to come.
 */
WH_API void wh_conn_pool_put(wh_conn_pool *pool, wh_conn *conn);

/* Gives a connection back, to be closed, without sending what is in its buffer. May park; obeys
 * neither deadline nor cancel. */
WH_API void wh_conn_pool_discard(wh_conn_pool *pool, wh_conn *conn);

/* Closes the idle ones, ends the calls of wh_conn_pool_get() that are under way, and refuses later
 * ones. Those that are given out go on, and are closed when they come back. May park; obeys neither
 * deadline nor cancel. Closing twice does nothing. */
WH_API void wh_conn_pool_close(wh_conn_pool *pool);

/* Closes it, waits until all that is given out has come back, and gives the pool back; no other
 * call may begin from then on but those that give a connection back. NULL does nothing. May park;
 * obeys neither deadline nor cancel. */
WH_API void wh_conn_pool_destroy(wh_conn_pool *pool);

/* Copies the pool's figures. May park, for a moment. */
WH_API void wh_conn_pool_stats_get(wh_conn_pool *pool, wh_conn_pool_stats *ret_stats);

WH_END_DECLS

#endif
