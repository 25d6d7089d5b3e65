/*
 * serve.c: servers (whorl/serve.h), made of what the public headers offer.
 *
 *      wh_serve ---starts---> acceptors, ACCEPTS or more a listener, each bound to a worker
 *         | joins them          | accepts, and starts in server->ctx
 *         |                     '--> serve_client: a context and a stream, handler, close
 *         v
 *      drain: server->idle is cancelled; waits for the handlers; server->ctx is cancelled; waits
 *
 * The acceptors are in the context of wh_serve(), which ends them. The handlers are not: each is
 * started in a shield and under server->ctx, whose end is the server's to say.
 *
 * struct server is on the stack of wh_serve(), which waits for all that know it.
 */
#include "base/base.h"
#include "net/conn.h"

#include <whorl/coro.h>
#include <whorl/io.h>
#include <whorl/net.h>
#include <whorl/select.h>
#include <whorl/serve.h>
#include <whorl/sync.h>
#include <whorl/time.h>

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define DRAIN_NS_DEFAULT (10 * WH_SECOND)
#define PAUSE_NS         (100 * WH_MILLISECOND)
#define SHED_NS          WH_MILLISECOND

enum {
    LISTENERS_MAX = 64,
    /* Under load a turn of the worker's loop is long, and takes a newcomer for each that waits. */
    ACCEPTS = 8,
};

struct server {
    wh_serve_handler handler;
    void *arg;
    bool migrate;
    bool direct; /* newcomers become direct descriptors, where there are such */
    wh_ctx *ctx, *idle;
    wh_sem slots;         /* what is left of connections_max */
    wh_waitgroup running; /* handlers */
    /* A connection has ended since it was waited for: anywhere, and with `direct` on its worker. */
    wh_event ended[LISTENERS_MAX + 1];
    /* An acceptor has ended, and why the first did: others may go on, of another listener. */
    wh_event acceptor_ended;
    int why;
    wh_serve_stats *stats;
};

/* One of several on a listener. */
struct acceptor {
    struct server *server;
    wh_fd listener;
    struct acceptor *first; /* of that listener */
    wh_sem turn;            /* of the first: one unit, for whom accepts while they are starved */
    bool has_turn;
    bool direct; /* what it accepts is */
    unsigned worker;
    wh_coro *coro;
};

static void count(uint64_t *figure, int64_t by)
{
    __atomic_fetch_add(figure, (uint64_t)by, __ATOMIC_RELAXED);
}

/* ---- One connection ---- */

/* A table that is full gets room by an end on its own worker. */
static wh_event *ended_here(struct server *server)
{
    return &server->ended[server->direct ? wh_worker() : 0];
}

static void left(struct server *server)
{
    count(&server->stats->open, -1);
    wh_sem_release(&server->slots, 1);
    wh_event_set(&server->ended[0]);
    if (server->direct)
        wh_event_set(ended_here(server));
    wh_waitgroup_done(&server->running);
}

static void serve_client(struct server *server, wh_fd fd)
{
    wh_conn *conn;
    if (wh_conn_create(&conn, fd) < 0) {
        wh_close(fd);
        count(&server->stats->shed, 1);
        left(server);
        return;
    }
    conn_set_served(conn, true);
    WH_WITH_CANCEL(ctx)
    {
        const wh_client client = {
            .conn = conn, .ctx = ctx, .idle = server->idle, .arg = server->arg};
        server->handler(&client);
    }
    conn_set_served(conn, false);
    (void)wh_conn_close(conn); /* the handler flushes if it wants to know */
    left(server);
}

/* ---- Accepting ---- */

static bool is_starved(int error)
{
    return error == -EMFILE || error == -ENFILE || error == -ENOBUFS || error == -ENOMEM;
}

/* Errors of one connection, which was over before it was accepted (accept(2)), or was not let in;
 * all others are of the listener. */
static bool is_of_one(int error)
{
    return error == -ECONNABORTED || error == -EPROTO || error == -EPERM || error == -ENETDOWN ||
           error == -ENETUNREACH || error == -EHOSTDOWN || error == -EHOSTUNREACH ||
           error == -ENONET || error == -ENOPROTOOPT || error == -EINTR || error == -EAGAIN;
}

/* Tells one newcomer that there is no room, by closing its connection: as a direct descriptor it
 * needs none of the process's. There may be no newcomer, so it is not waited for. */
static void shed(struct server *server, wh_fd listener)
{
    wh_fd fd = -1;
    WH_WITH_TIMEOUT(SHED_NS)
    {
        fd = wh_accept_direct(listener);
    }
    if (fd >= 0) {
        wh_close(fd);
        count(&server->stats->shed, 1);
    }
}

/* Until a connection has ended, or another program may have given something back. */
static int pause_accepting(const struct acceptor *acceptor, int error)
{
    struct server *server = acceptor->server;
    int rc = 0;
    if (__atomic_fetch_add(&server->stats->starved, 1, __ATOMIC_RELAXED) == 0)
        report("wh_serve: cannot accept (%s) with %llu connections open: newcomers wait, or see an "
               "end; raise 'ulimit -n' or the memory limit, or lower "
               "wh_serve_options.connections_max",
               strerror(-error),
               (unsigned long long)__atomic_load_n(&server->stats->open, __ATOMIC_RELAXED));
    bool full = acceptor->direct && error == -ENFILE; /* or the system is */
    wh_event *ended = full ? ended_here(server) : &server->ended[0];
    wh_event_reset(ended);
    WH_WITH_TIMEOUT(PAUSE_NS)
    {
        rc = wh_event_wait(ended);
    }
    return rc == -ECANCELED ? rc : 0;
}

static wh_fd accept_one(struct acceptor *acceptor)
{
    if (unlikely(acceptor->direct)) {
        wh_fd fd = wh_accept_direct(acceptor->listener);
        if (likely(fd != -EOPNOTSUPP))
            return fd;
        acceptor->direct = false;
    }
    return wh_accept(acceptor->listener);
}

/* Starts the handler, out of reach of the acceptor's context. A direct descriptor stays on the
 * worker that has accepted it. */
static int start(const struct acceptor *acceptor, wh_fd fd)
{
    /* Started at no line of a user's: a message names the call that is. */
    static struct wh_site site = {.file = "wh_serve", .function = "serve_client", .args = 2};
    struct server *server = acceptor->server;
    const wh_spawn_options options = {.migrate = server->migrate,
                                      .worker = acceptor->direct ? wh_worker() : 0};
    const uintptr_t words[] = {(uintptr_t)server, (uintptr_t)fd};
    int rc = -ENOMEM;
    WH_SHIELD
    {
        WH_WITH_CTX(server->ctx)
        {
            wh_coro *coro;
            rc = wh_start_(&site, &coro, &options, (void (*)(void))serve_client, words);
            if (rc == 0)
                wh_detach(coro);
        }
    }
    return rc;
}

/* A connection is there: it is served, or closed. */
static int admit(const struct acceptor *acceptor, wh_fd fd)
{
    struct server *server = acceptor->server;
    wh_waitgroup_add(&server->running, 1);
    count(&server->stats->accepted, 1);
    count(&server->stats->open, 1);
    int rc = start(acceptor, fd);
    if (likely(rc == 0))
        return 0;
    wh_close(fd);
    count(&server->stats->shed, 1);
    left(server);
    return pause_accepting(acceptor, rc);
}

static void give_turn(struct acceptor *acceptor)
{
    acceptor->has_turn = false;
    wh_sem_release(&acceptor->first->turn, 1);
}

/* Those of a listener for whom there is no room take turns, so that one newcomer is shed in each
 * pause: who has the turn accepts. When that fails it sheds one, pauses, and gives the turn to the
 * next; when it does not, as well. A direct accept that finds no slot has shed one: the kernel had
 * accepted it. */
static int starve(struct acceptor *acceptor, int error)
{
    struct server *server = acceptor->server;
    wh_sem *turn = &acceptor->first->turn;
    bool has_shed = acceptor->direct && error == -ENFILE;
    int rc = 0;
    if (has_shed)
        count(&server->stats->shed, 1);
    if (acceptor->has_turn || wh_sem_try_acquire(turn, 1) == 0) {
        if (!has_shed && (error == -EMFILE || error == -ENFILE))
            shed(server, acceptor->listener);
        rc = pause_accepting(acceptor, error);
        give_turn(acceptor);
    }
    if (rc == 0) {
        rc = wh_sem_acquire(turn, 1);
        acceptor->has_turn = rc == 0;
    }
    return rc;
}

/* After accepting: an acceptor that waited with one would keep it from the newcomers of another
 * listener. One that there is is had also when the context has ended. */
static int take_slot(struct server *server)
{
    return likely(wh_sem_try_acquire(&server->slots, 1) == 0) ? 0
                                                              : wh_sem_acquire(&server->slots, 1);
}

/* Returns why it ends. */
static int accept_until_end(struct acceptor *acceptor)
{
    struct server *server = acceptor->server;
    for (;;) {
        int rc = 0;
        wh_fd fd = accept_one(acceptor);
        if (unlikely(acceptor->has_turn && !is_starved(fd)))
            give_turn(acceptor);
        if (likely(fd >= 0)) {
            rc = take_slot(server);
            if (unlikely(rc < 0))
                wh_close(fd);
            else
                rc = admit(acceptor, fd);
        } else if (is_starved(fd)) {
            rc = starve(acceptor, fd);
        } else if (!is_of_one(fd)) {
            rc = fd;
        }
        if (rc < 0)
            return rc;
    }
}

static void accept_all(struct acceptor *acceptor)
{
    struct server *server = acceptor->server;
    int why = accept_until_end(acceptor), none = 0;
    /* release: pairs with the acquire in join_all() */
    __atomic_compare_exchange_n(&server->why, &none, why, false, __ATOMIC_RELEASE,
                                __ATOMIC_RELAXED);
    wh_event_set(&server->acceptor_ended);
}

/* ---- Listeners ---- */

/* Whether others may listen on the same address. */
static bool is_shared(wh_fd listener)
{
    int domain = 0, reuseport = 0;
    socklen_t len = sizeof domain;
    if (getsockopt(listener, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0 ||
        (domain != AF_INET && domain != AF_INET6))
        return false;
    len = sizeof reuseport;
    return getsockopt(listener, SOL_SOCKET, SO_REUSEPORT, &reuseport, &len) == 0 && reuseport;
}

/* What a listener is copied with. All are set before it is bound, as some must be; what a new
 * socket has anyway is not, so that nothing is asked for that needs a privilege. The priority comes
 * behind what the kernel makes one of. */
static const struct option {
    int level, name;
    bool doubled; /* the kernel keeps, and says, twice what it is told */
} options_copied[] = {
    {SOL_SOCKET, SO_BINDTOIFINDEX, false}, /* SO_BINDTODEVICE, by number */
    {SOL_SOCKET, SO_REUSEPORT, false},
    {SOL_SOCKET, SO_REUSEADDR, false},
    {SOL_SOCKET, SO_KEEPALIVE, false},
    {SOL_SOCKET, SO_LINGER, false},
    {SOL_SOCKET, SO_MARK, false},
    {SOL_SOCKET, SO_RCVBUF, true},
    {SOL_SOCKET, SO_SNDBUF, true},
    {SOL_SOCKET, SO_RCVLOWAT, false},
    {IPPROTO_IP, IP_TOS, false},
    {IPPROTO_IP, IP_TTL, false},
    {IPPROTO_IP, IP_MINTTL, false},
    {IPPROTO_IP, IP_FREEBIND, false},
    {IPPROTO_IP, IP_TRANSPARENT, false},
    {IPPROTO_IPV6, IPV6_V6ONLY, false},
    {IPPROTO_IPV6, IPV6_TCLASS, false},
    {IPPROTO_IPV6, IPV6_UNICAST_HOPS, false},
    {IPPROTO_IPV6, IPV6_MINHOPCOUNT, false},
    {IPPROTO_TCP, TCP_NODELAY, false},
    {IPPROTO_TCP, TCP_DEFER_ACCEPT, false},
    {IPPROTO_TCP, TCP_FASTOPEN, false},
    {IPPROTO_TCP, TCP_KEEPIDLE, false},
    {IPPROTO_TCP, TCP_KEEPINTVL, false},
    {IPPROTO_TCP, TCP_KEEPCNT, false},
    {IPPROTO_TCP, TCP_USER_TIMEOUT, false},
    {IPPROTO_TCP, TCP_NOTSENT_LOWAT, false},
    {IPPROTO_TCP, TCP_MAXSEG, false},
    {IPPROTO_TCP, TCP_CONGESTION, false},
    {SOL_SOCKET, SO_PRIORITY, false},
};

union option_value {
    int number;
    char bytes[16]; /* SO_LINGER, TCP_CONGESTION */
};

static socklen_t option_get(wh_fd fd, const struct option *option, union option_value *ret_value)
{
    socklen_t len = sizeof *ret_value;
    memset(ret_value, 0, sizeof *ret_value);
    return getsockopt(fd, option->level, option->name, ret_value, &len) < 0 ? 0 : len;
}

static int options_copy(wh_fd from, wh_fd to)
{
    for (size_t i = 0; i < array_count(options_copied); i++) {
        const struct option *option = &options_copied[i];
        union option_value wanted, has;
        socklen_t len = option_get(from, option, &wanted);
        if (!len || (option_get(to, option, &has) == len && !memcmp(&has, &wanted, len)))
            continue; /* of another family, or unknown to this kernel; or as it should be */
        if (option->doubled)
            wanted.number /= 2;
        if (setsockopt(to, option->level, option->name, &wanted, len) < 0)
            return -errno;
    }
    return 0;
}

static int backlog_of(wh_fd listener)
{
    struct tcp_info info = {0};
    socklen_t len = sizeof info;
    if (getsockopt(listener, IPPROTO_TCP, TCP_INFO, &info, &len) < 0 || !info.tcpi_sacked)
        return 4096;
    return (int)info.tcpi_sacked; /* that it is, of a listener */
}

/* A listener like the one given, on its address. */
static wh_fd listen_beside(wh_fd first)
{
    struct sockaddr_storage address = {0};
    socklen_t len = sizeof address;
    if (getsockname(first, (struct sockaddr *)&address, &len) < 0)
        return -errno;
    int fd = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    int rc = options_copy(first, fd);
    if (rc == 0 &&
        (bind(fd, (struct sockaddr *)&address, len) < 0 || listen(fd, backlog_of(first)) < 0))
        rc = -errno;
    if (rc == 0)
        return fd;
    close(fd);
    return rc;
}

/* ---- The server ---- */

/* Bound: a direct descriptor is closed where it was accepted. */
static int start_acceptor(struct acceptor *acceptor)
{
    const wh_spawn_options options = {.name = "accept", .worker = acceptor->worker};
    return wh_spawn(&acceptor->coro, &options, accept_all, acceptor);
}

/* A direct descriptor stays where it was accepted: one listener's go to all workers, too. */
static unsigned accepts_each(const struct server *server, bool shared)
{
    bool all = server->direct && !shared && wh_workers() > ACCEPTS;
    return all ? wh_workers() : ACCEPTS;
}

/* All of them before any accepts: who is served finds a server that has begun. Returns 0, or -errno
 * with those that are open still to close. */
static int listen_all(struct server *server, struct acceptor *acceptors, unsigned *ret_count,
                      wh_fd first)
{
    bool shared = is_shared(first);
    unsigned each = accepts_each(server, shared);
    unsigned count = (shared ? wh_workers() : 1) * each;
    wh_fd listener = first;
    for (*ret_count = 0; *ret_count < count; ++*ret_count) {
        unsigned i = *ret_count;
        if (i && i % each == 0)
            listener = listen_beside(first);
        if (listener < 0)
            return listener;
        acceptors[i] = (struct acceptor){
            .server = server,
            .listener = listener,
            .first = &acceptors[i - i % each],
            .turn = WH_SEM(1),
            .direct = server->direct,
            .worker = (shared ? i / each : i % wh_workers()) + 1,
        };
    }
    return 0;
}

/* Closes the listeners but the first. */
static void close_all(const struct acceptor *acceptors, unsigned count)
{
    for (unsigned i = 1; i < count; i++)
        if (acceptors[i].first == &acceptors[i])
            wh_close(acceptors[i].listener);
}

/* Returns 0, or -errno with those that are started still to join. */
static int start_all(struct acceptor *acceptors, unsigned count, unsigned *ret_started)
{
    for (*ret_started = 0; *ret_started < count; ++*ret_started) {
        int rc = start_acceptor(&acceptors[*ret_started]);
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* Waits until it is told to end, or one of them has; then ends the others. */
static int join_all(struct server *server, struct acceptor *acceptors, unsigned acceptors_count,
                    WH_CHAN(int) stop, int error)
{
    int which = error;
    if (error == 0)
        which = wh_select(WH_EVENT_SET(&server->acceptor_ended), WH_RECV(stop, NULL));
    /* acquire: pairs with the release in accept_all() */
    int why = __atomic_load_n(&server->why, __ATOMIC_ACQUIRE);
    WH_SHIELD
    {
        for (unsigned i = 0; i < acceptors_count; i++)
            wh_cancel(acceptors[i].coro);
        for (unsigned i = 0; i < acceptors_count; i++)
            wh_join(acceptors[i].coro, NULL);
    }
    return which == 0 ? why : which < 0 ? which : 0;
}

static uint64_t open_now(const struct server *server)
{
    return __atomic_load_n(&server->stats->open, __ATOMIC_RELAXED);
}

/* Whether all handlers have come to their end before the drain has. */
static bool end_in_time(struct server *server, int64_t until_ns, WH_CHAN(int) stop)
{
    int which = 0;
    while (which == 0 && open_now(server)) {
        wh_event_reset(&server->ended[0]); /* before the look: who ends later sets it again */
        if (open_now(server))
            which =
                wh_select(WH_EVENT_SET(&server->ended[0]), WH_AT(until_ns), WH_RECV(stop, NULL));
    }
    return which == 0;
}

/* Lets the handlers come to their end. */
static void drain(struct server *server, int64_t drain_ns, WH_CHAN(int) stop)
{
    int64_t now_ns = wh_now();
    __atomic_store_n(&server->stats->drain_began_ns, now_ns, __ATOMIC_RELAXED);
    wh_ctx_cancel(server->idle, -ESHUTDOWN);
    WH_SHIELD
    {
        int64_t until_ns = drain_ns < WH_NEVER - now_ns ? now_ns + drain_ns : WH_NEVER;
        if (!end_in_time(server, until_ns, stop)) {
            __atomic_store_n(&server->stats->cut, open_now(server), __ATOMIC_RELAXED);
            wh_ctx_cancel(server->ctx, -ESHUTDOWN);
        }
        (void)!wh_waitgroup_wait(&server->running); /* under a shield: it does not fail */
    }
}

static int serve(struct server *server, wh_fd listener, const wh_serve_options *o)
{
    struct acceptor *acceptors = mem_alloc(LISTENERS_MAX * ACCEPTS * sizeof *acceptors);
    unsigned count = 0, started = 0;
    int rc = acceptors ? listen_all(server, acceptors, &count, listener) : -ENOMEM;
    if (rc == 0)
        rc = start_all(acceptors, count, &started);
    rc = join_all(server, acceptors, started, o->stop, rc);
    WH_SHIELD
    {
        close_all(acceptors, count);
    }
    mem_free(acceptors);
    wh_close(listener);
    drain(server, o->drain_ns ? o->drain_ns : DRAIN_NS_DEFAULT, o->stop);
    return rc;
}

/* More than there can be descriptors are no limit. */
static uint64_t slots_of(const wh_serve_options *o)
{
    return o->connections_max && o->connections_max < UINT32_MAX ? o->connections_max : UINT32_MAX;
}

int wh_serve(wh_fd listener, wh_serve_handler handler, void *arg, const wh_serve_options *options)
{
    if (listener < 0)
        return listener == -1 ? -EBADF : listener;
    const wh_serve_options none = {0};
    const wh_serve_options *o = options ? options : &none;
    wh_serve_stats stats;
    struct server server = {
        .handler = handler,
        .arg = arg,
        .migrate = o->migrate,
        .direct = o->direct,
        .slots = WH_SEM(slots_of(o)),
        .ctx = wh_ctx_create(wh_ctx_background()),
        .idle = wh_ctx_create(wh_ctx_background()),
        .stats = o->stats ? o->stats : &stats,
    };
    memset(server.stats, 0, sizeof *server.stats);
    int rc = server.ctx && server.idle ? 0 : -ENOMEM;
    if (o->direct && o->migrate)
        rc = -EINVAL;
    if (rc == 0)
        rc = serve(&server, listener, o);
    else
        wh_close(listener);
    if (server.ctx)
        wh_ctx_destroy(server.ctx);
    if (server.idle)
        wh_ctx_destroy(server.idle);
    return rc;
}
