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
 * struct race is on the caller's stack: no attempt outlives the group's block.
 */
#include "base/base.h"
#include "net/address.h"

#include <whorl/chan.h>
#include <whorl/ctx.h>
#include <whorl/group.h>
#include <whorl/io.h>
#include <whorl/net.h>
#include <whorl/select.h>

#include <errno.h>
#include <netinet/tcp.h>
#include <unistd.h>

#define ATTEMPT_DELAY_NS_DEFAULT (250 * WH_MILLISECOND)

enum { RACERS_MAX = 32 };

struct race {
    WH_CHAN(int) results;
    bool no_nodelay;
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

/* Starts them one after the other; returns when one has won, with its descriptor, or when none can
 * any more, with the error. */
static int run_race(wh_group *group, const struct race *race, const wh_addr *addrs, int count,
                    int64_t delay_ns)
{
    int error = 0;
    for (int started = 0, failed = 0; failed < count;) {
        if (started < count) {
            int rc = wh_group_go(group, attempt, race, &addrs[started]);
            if (rc < 0)
                return rc;
            started++;
        }
        int result;
        int happened = wh_select(WH_RECV(race->results, &result),
                                 started < count ? WH_AFTER(delay_ns) : WH_AT(WH_NEVER));
        switch (happened) {
        case 0:
            if (result >= 0)
                return result;
            if (weight(result) >= weight(error))
                error = result;
            failed++;
            break;
        case 1: break;
        default: return happened;
        }
    }
    int why = wh_ctx_err(NULL);
    return why < 0 ? why : error;
}

static wh_fd race_all(const wh_addr *addrs, int count, const wh_dial_options *o)
{
    const struct race race = {.results = wh_chan_create(int, (size_t)count),
                              .no_nodelay = o->no_nodelay != 0};
    if (!race.results)
        return -ENOMEM;
    int64_t delay_ns = o->attempt_delay_ns ? o->attempt_delay_ns : ATTEMPT_DELAY_NS_DEFAULT;
    wh_fd won = -ENOMEM;
    WH_WITH_GROUP(group, NULL)
    {
        won = run_race(group, &race, addrs, count, delay_ns < 0 ? 0 : delay_ns);
        wh_group_cancel(group, 0);
    }
    /* Some may have been connected at the same time. */
    int other;
    while (wh_chan_try_recv(race.results, &other) > 0) {
        if (other >= 0 && won < 0)
            won = other; /* and the context ended, too */
        else if (other >= 0)
            wh_close(other);
    }
    wh_chan_unref(race.results);
    return won;
}

/* Out of line: its frame would cost who dials an address a page of stack more. */
static __attribute__((noinline)) wh_fd dial_name(const char *text, const wh_dial_options *o)
{
    wh_addr found[RACERS_MAX];
    int count = wh_resolve(text, o->resolver, found, RACERS_MAX);
    if (count < 0)
        return count;
    if (count == 1)
        return dial(&found[0].any, found[0].len, o->no_nodelay);
    return race_all(found, count < RACERS_MAX ? count : RACERS_MAX, o);
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
