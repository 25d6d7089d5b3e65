/*
 * conn_pool.c: connections that are kept (whorl/conn_pool.h), made of what the public headers
 * offer, but for one question to a stream (conn.h).
 *
 *      slots      units of conns_max that are left: a connection that is given out, or is being
 *                 dialled, has one; an idle one has none
 *      idle[]     the oldest first, under lock; given out from the end, expired from the beginning
 *
 * A unit is enough for a connection to be made: who has one takes an idle connection if there is
 * any, so it dials only when those with units are all there are. So given out + idle <= conns_max
 * holds though idle ones have no unit, and who waits for a unit need not be told of idle ones:
 * where one is put, a unit is released.
 *
 * The keeper is a coroutine that waits for the oldest to have been idle for too long. `kept` is set
 * when there is a first one; that the oldest has been taken meanwhile only wakes it too early.
 *
 * The pool's own context ends when the pool is closed: who waits or dials in wh_conn_pool_get()
 * does so under it.
 */
#include "base/base.h"
#include "net/conn.h"

#include <whorl/conn_pool.h>
#include <whorl/coro.h>
#include <whorl/ctx.h>
#include <whorl/io.h>
#include <whorl/sync.h>
#include <whorl/time.h>

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

enum { IDLE_MAX_DEFAULT = 16, IDLE_MAX_MOST = 65536 };

#define IDLE_NS_DEFAULT (90 * WH_SECOND)

struct idle {
    wh_conn *conn;
    int64_t until_ns; /* WH_NEVER: for ever */
};

struct wh_conn_pool {
    wh_sem slots;
    wh_waitgroup users; /* in wh_conn_pool_get(), or with a connection */
    wh_event kept;
    wh_ctx *ctx;
    wh_coro *keeper;
    /* constant */
    int (*dial)(wh_conn **ret_conn, const char *address, void *dial_arg);
    void *dial_arg;
    const wh_dial_options *dial_options;
    int64_t idle_ns;
    uint32_t idle_max;
    char *address;
    /* under lock */
    wh_mutex lock;
    bool closed;
    uint32_t idle_count;
    wh_conn_pool_stats stats;
    struct idle idle[];
};

/* ---- Looking at a connection ---- */

/* Whether it goes both ways, and the peer has neither closed it nor said something that nobody
 * asked for. */
static bool is_quiet(const wh_conn *conn)
{
    wh_fd fd = wh_conn_fd(conn);
    if (wh_conn_buffered(conn) || !conn_is_whole(conn))
        return false;
    char byte;
    return fd < 0 || (recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN);
}

/* ---- The idle ones ---- */

/* Takes the one that was put last. Returns NULL when there is none. */
static wh_conn *idle_take_last(wh_conn_pool *pool)
{
    wh_conn *conn = NULL;
    WH_LOCKED(&pool->lock)
    {
        if (pool->idle_count)
            conn = pool->idle[--pool->idle_count].conn;
    }
    return conn;
}

/* Takes the one that was put first, if its time has come by now_ns. Returns NULL when there is
 * none; *ret_until_ns is then when it will come. */
static wh_conn *idle_take_expired(wh_conn_pool *pool, int64_t now_ns, int64_t *ret_until_ns)
{
    wh_conn *conn = NULL;
    WH_LOCKED(&pool->lock)
    {
        *ret_until_ns = pool->idle_count ? pool->idle[0].until_ns : WH_NEVER;
        if (*ret_until_ns <= now_ns) {
            conn = pool->idle[0].conn;
            pool->idle_count--;
            memmove(pool->idle, pool->idle + 1, pool->idle_count * sizeof *pool->idle);
            pool->stats.expired++;
        }
    }
    return conn;
}

/* Keeps it, if there is room. Returns whether it did. */
static bool idle_put(wh_conn_pool *pool, wh_conn *conn)
{
    bool kept = false;
    int64_t until_ns;
    if (__builtin_add_overflow(wh_now(), pool->idle_ns, &until_ns))
        until_ns = WH_NEVER;
    WH_LOCKED(&pool->lock)
    {
        if (!pool->closed && pool->idle_count < pool->idle_max) {
            pool->idle[pool->idle_count++] = (struct idle){conn, until_ns};
            kept = true;
            if (pool->idle_count == 1)
                wh_event_set(&pool->kept);
        }
    }
    return kept;
}

/* The keeper. Ends when it is cancelled. */
static void keep(wh_conn_pool *pool)
{
    for (;;) {
        int64_t until_ns = WH_NEVER;
        wh_event_reset(&pool->kept);
        wh_conn *conn = idle_take_expired(pool, wh_now(), &until_ns);
        int rc = 0;
        if (conn)
            (void)wh_conn_abandon(conn);
        else
            rc = until_ns == WH_NEVER ? wh_event_wait(&pool->kept) : wh_sleep_until(until_ns);
        if (rc < 0)
            break;
    }
}

static int keeper_start(wh_conn_pool *pool)
{
    const wh_spawn_options options = {.name = "conn pool"};
    int rc = -ENOMEM;
    WH_SHIELD
    {
        rc = wh_spawn(&pool->keeper, &options, keep, pool);
    }
    return rc;
}

/* ---- The pool ---- */

static int dial_address(wh_conn **ret_conn, const char *address, void *self)
{
    const wh_conn_pool *pool = self;
    wh_fd fd = wh_dial_tcp_with(address, pool->dial_options);
    if (fd < 0)
        return fd;
    int rc = wh_conn_create(ret_conn, fd);
    if (rc < 0)
        wh_close(fd);
    return rc;
}

static void pool_free(wh_conn_pool *pool)
{
    if (pool->ctx)
        wh_ctx_destroy(pool->ctx);
    mem_free(pool->address);
    mem_free(pool);
}

wh_conn_pool *wh_conn_pool_create(const char *address, const wh_conn_pool_options *options)
{
    const wh_conn_pool_options o = options ? *options : (wh_conn_pool_options){0};
    uint32_t idle_max = o.idle_max ? o.idle_max : IDLE_MAX_DEFAULT;
    if (o.conns_max && idle_max > o.conns_max)
        idle_max = (uint32_t)o.conns_max;
    if (!address || idle_max > IDLE_MAX_MOST || o.conns_max > INT64_MAX || o.idle_ns < -1)
        return NULL;
    wh_conn_pool *pool = mem_zalloc(sizeof *pool + idle_max * sizeof *pool->idle);
    if (!pool)
        return NULL;
    pool->slots = (wh_sem)WH_SEM(o.conns_max ? o.conns_max : INT64_MAX);
    pool->dial = o.dial ? o.dial : dial_address;
    pool->dial_arg = o.dial ? o.dial_arg : pool;
    pool->dial_options = o.dial_options;
    pool->idle_ns = o.idle_ns ? o.idle_ns : IDLE_NS_DEFAULT;
    if (pool->idle_ns < 0)
        pool->idle_ns = WH_NEVER;
    pool->idle_max = idle_max;
    pool->address = mem_alloc(strlen(address) + 1);
    pool->ctx = wh_ctx_create(wh_ctx_background());
    if (!pool->address || !pool->ctx || keeper_start(pool) < 0) {
        pool_free(pool);
        return NULL;
    }
    memcpy(pool->address, address, strlen(address) + 1);
    return pool;
}

/* ---- Giving out ---- */

static void count(wh_conn_pool *pool, uint64_t *figure)
{
    WH_LOCKED(&pool->lock)
    {
        ++*figure;
    }
}

/* An idle one that is alive, or a new one; the caller has a unit. Returns as wh_conn_pool_get(). */
static int find(wh_conn_pool *pool, wh_conn **ret_conn)
{
    wh_conn *conn;
    while ((conn = idle_take_last(pool))) {
        if (is_quiet(conn)) {
            count(pool, &pool->stats.reused);
            *ret_conn = conn;
            return 1;
        }
        count(pool, &pool->stats.stale);
        (void)wh_conn_abandon(conn);
    }
    int rc = pool->dial(ret_conn, pool->address, pool->dial_arg);
    if (rc < 0)
        return rc;
    count(pool, &pool->stats.dialled);
    return 0;
}

int wh_conn_pool_get(wh_conn_pool *pool, wh_conn **ret_conn)
{
    int rc = -EPIPE;
    wh_waitgroup_add(&pool->users, 1);
    WH_WITH_CTX(pool->ctx)
    {
        rc = wh_sem_acquire(&pool->slots, 1);
        if (rc == 0) {
            rc = find(pool, ret_conn);
            if (rc < 0)
                wh_sem_release(&pool->slots, 1);
        }
        if (rc == -ECANCELED && wh_ctx_cause(NULL) == -ENOMEM)
            rc = -ENOMEM; /* for the block */
    }
    if (rc < 0) {
        if (wh_ctx_err(pool->ctx) < 0)
            rc = -EPIPE;
        wh_waitgroup_done(&pool->users);
        return rc;
    }
    count(pool, &pool->stats.out);
    return rc;
}

/* ---- Taking back ---- */

static void came_back(wh_conn_pool *pool)
{
    WH_LOCKED(&pool->lock)
    {
        wh_assert(pool->stats.out > 0);
        pool->stats.out--;
    }
    wh_sem_release(&pool->slots, 1);
    wh_waitgroup_done(&pool->users);
}

void wh_conn_pool_put(wh_conn_pool *pool, wh_conn *conn)
{
    bool good = wh_conn_flush(conn) == 0 && is_quiet(conn);
    wh_conn_set_timeouts(conn, WH_NEVER, WH_NEVER);
    if (!good || !idle_put(pool, conn))
        (void)wh_conn_abandon(conn);
    came_back(pool);
}

void wh_conn_pool_discard(wh_conn_pool *pool, wh_conn *conn)
{
    (void)wh_conn_abandon(conn);
    came_back(pool);
}

/* ---- The end ---- */

void wh_conn_pool_close(wh_conn_pool *pool)
{
    WH_LOCKED(&pool->lock)
    {
        pool->closed = true;
    }
    wh_ctx_cancel(pool->ctx, -EPIPE);
    wh_conn *conn;
    while ((conn = idle_take_last(pool)))
        (void)wh_conn_abandon(conn);
}

void wh_conn_pool_destroy(wh_conn_pool *pool)
{
    if (!pool)
        return;
    wh_conn_pool_close(pool);
    WH_SHIELD
    {
        (void)!wh_waitgroup_wait(&pool->users);
        wh_cancel(pool->keeper);
        wh_join(pool->keeper, NULL);
    }
    pool_free(pool);
}

void wh_conn_pool_stats_get(wh_conn_pool *pool, wh_conn_pool_stats *ret_stats)
{
    WH_LOCKED(&pool->lock)
    {
        *ret_stats = pool->stats;
        ret_stats->idle = pool->idle_count;
    }
}
