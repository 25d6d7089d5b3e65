/*
 * dial.c: connected sockets (whorl/net.h), and the race of a name's addresses for the first that
 * answers (RFC 8305).
 *
 *      the caller      starts an attempt, waits for a result or for the head start's end, starts
 *         |            the next; until one has won or all have failed
 *         |  \
 *         |   group: attempt, attempt...   each connects, and sends its descriptor or its error
 *         |                                 into a channel that has room for all
 *         v
 *      the group is cancelled, and has ended; what else came into the channel is closed
 *
 * When the servers keep one family's addresses back the race begins with the other's (resolve.c),
 * and the rest join it when the lookup is over.
 *
 * struct race is on the caller's stack: no attempt outlives the group's block.
 */
#include "base/base.h"
#include "net/address.h"
#include "net/resolve.h"

#include <whorl/chan.h>
#include <whorl/ctx.h>
#include <whorl/group.h>
#include <whorl/io.h>
#include <whorl/net.h>
#include <whorl/select.h>

#include <errno.h>
#include <netinet/tcp.h>
#include <string.h>
#include <unistd.h>

#define ATTEMPT_DELAY_NS_DEFAULT (250 * WH_MILLISECOND)

enum {
    RACERS_MAX = 32,
    EARLY_MAX = 16, /* of them, while the other family may come */
};

/* The caller's, but for what is said. */
struct race {
    WH_CHAN(int) results;  /* an attempt sends one */
    bool no_nodelay;       /* constant */
    struct flight *lookup; /* may still find more; or NULL */
    int count, started, failed;
    wh_addr addrs[RACERS_MAX]; /* constant, those of attempts that have been started */
};

static wh_fd dial(const struct sockaddr *to, socklen_t len, bool no_nodelay)
{
    int fd = socket(to->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    int rc = 0, on = 1;
    if (to->sa_family != AF_UNIX && !no_nodelay &&
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0)
        rc = -errno;
    if (rc == 0)
        rc = wh_connect(fd, to, len);
    if (rc < 0) {
        wh_close(fd);
        return rc;
    }
    return fd;
}

static void attempt(const struct race *race, const wh_addr *to)
{
    int result = dial(&to->any, to->len, race->no_nodelay);
    int rc = wh_chan_try_send(race->results, result);
    wh_assert(rc == 0); /* there is room for all */
}

/* How much an error tells of why there is no connection. */
static int weight(int error)
{
    switch (error) {
    case 0: return 0;
    case -ENETUNREACH:
    case -EADDRNOTAVAIL:
    case -EAFNOSUPPORT:
    case -EACCES:
    case -EPERM: return 1; /* there was no way to it */
    default: return 2;
    case -ECONNREFUSED:
    case -ECONNRESET: return 3; /* it was there */
    case -EMFILE:
    case -ENFILE:
    case -ENOBUFS:
    case -ENOMEM: return 4; /* it was us */
    }
}

static bool is_started(const struct race *race, const wh_addr *addr)
{
    for (int i = 0; i < race->started; i++)
        if (race->addrs[i].len == addr->len && !memcmp(&race->addrs[i].any, &addr->any, addr->len))
            return true;
    return false;
}

/* The lookup is over: all that it has found, in its order, but for those that are being tried. */
static __attribute__((noinline)) void race_extend(struct race *race)
{
    wh_addr found[RACERS_MAX];
    int count = resolve_found(race->lookup, found, RACERS_MAX);
    race->lookup = NULL;
    if (count < 0)
        return;
    race->count = race->started;
    for (int i = 0; i < count && i < RACERS_MAX && race->count < RACERS_MAX; i++)
        if (!is_started(race, &found[i]))
            race->addrs[race->count++] = found[i];
}

static int64_t add_saturated(int64_t time_ns, int64_t duration_ns)
{
    return duration_ns < WH_NEVER - time_ns ? time_ns + duration_ns : WH_NEVER;
}

/* Starts them one after the other; returns when one has won, with its descriptor, or when none can
 * any more, with the error. */
static int run_race(wh_group *group, struct race *race, int64_t delay_ns)
{
    int error = 0;
    int64_t next_ns = 0;
    while (race->failed < race->count || race->lookup) {
        if (race->started < race->count && wh_now() >= next_ns) {
            int rc = wh_group_go(group, attempt, race, &race->addrs[race->started]);
            if (rc < 0)
                return rc;
            race->started++;
            next_ns = add_saturated(wh_now(), delay_ns);
        }
        int result;
        int happened = wh_select(WH_RECV(race->results, &result),
                                 WH_AT(race->started < race->count ? next_ns : WH_NEVER),
                                 WH_EVENT_SET(race->lookup ? resolve_over(race->lookup) : NULL));
        switch (happened) {
        case 0:
            if (result >= 0)
                return result;
            if (weight(result) >= weight(error))
                error = result;
            race->failed++;
            next_ns = 0;
            break;
        case 1: break;
        case 2: race_extend(race); break;
        default: return happened;
        }
    }
    int why = wh_ctx_err(NULL);
    return why < 0 ? why : error;
}

static wh_fd race_all(struct race *race, const wh_dial_options *o)
{
    race->results = wh_chan_create(int, RACERS_MAX);
    if (!race->results)
        return -ENOMEM;
    int64_t delay_ns = o->attempt_delay_ns ? o->attempt_delay_ns : ATTEMPT_DELAY_NS_DEFAULT;
    wh_fd won = -ENOMEM;
    WH_WITH_GROUP(group, NULL)
    {
        won = run_race(group, race, delay_ns < 0 ? 0 : delay_ns);
        wh_group_cancel(group, 0);
    }
    /* Some may have been connected at the same time. */
    int other;
    while (wh_chan_try_recv(race->results, &other) > 0) {
        if (other >= 0 && won < 0)
            won = other; /* and the context ended, too */
        else if (other >= 0)
            wh_close(other);
    }
    wh_chan_unref(race->results);
    return won;
}

/* What the lookup finds, when it is over or when there is something to begin with. */
static wh_fd dial_found(struct flight *lookup, const wh_dial_options *o)
{
    struct race race = {.no_nodelay = o->no_nodelay != 0};
    int rc = wh_select(WH_EVENT_SET(resolve_over(lookup)), WH_EVENT_SET(resolve_early(lookup)));
    if (rc < 0)
        return rc;
    bool over = wh_event_is_set(resolve_over(lookup));
    int count = resolve_found(lookup, race.addrs, RACERS_MAX);
    if (count < 0)
        return count;
    if (over && count == 1)
        return dial(&race.addrs[0].any, race.addrs[0].len, o->no_nodelay);
    race.lookup = over ? NULL : lookup;
    int most = over ? RACERS_MAX : EARLY_MAX;
    race.count = count < most ? count : most;
    return race_all(&race, o);
}

/* Out of line: its frame would cost who dials an address a page of stack more. */
static __attribute__((noinline)) wh_fd dial_name(const char *text, const wh_dial_options *o)
{
    struct flight *lookup;
    int rc = resolve_join(text, o->resolver, &lookup);
    if (rc < 0)
        return rc;
    wh_fd fd = dial_found(lookup, o);
    resolve_leave(lookup);
    return fd;
}

wh_fd wh_dial_tcp_with(const char *text, const wh_dial_options *options)
{
    const wh_dial_options o = options ? *options : (wh_dial_options){0};
    if (o.attempt_delay_ns < -1)
        return -EINVAL;
    struct address address;
    if (address_tcp(text, &address) == 0)
        return dial(&address.any, address.len, o.no_nodelay);
    return dial_name(text, &o);
}

wh_fd wh_dial_tcp(const char *text)
{
    return wh_dial_tcp_with(text, NULL);
}

wh_fd wh_dial_unix(const char *path)
{
    struct address address;
    int rc = address_unix(path, &address);
    return rc < 0 ? rc : dial(&address.any, address.len, true);
}
