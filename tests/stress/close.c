/*
 * close.c: descriptors that are closed while others wait on them, and listeners that serve until
 * they are closed.
 *
 * Who uses a number after it was closed may find another's file there. So these descriptors have
 * numbers above all others, and each of them has a slot that is taken again only when all its users
 * have ended.
 */
#include "stress.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { SLOTS = 64, WAITERS_MAX = 6, DIALERS_MAX = 5, MESSAGE_MAX = 3000 };

/* ---- Numbers that nobody else gets ---- */

static atomic_bool slots_taken[SLOTS];

static int slot_base(void)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    rlim_t most = limit.rlim_cur < 60000 ? limit.rlim_cur : 60000;
    return (int)most - SLOTS;
}

/* Moves the file to a number of its own; returns that, or -1 with the file closed. */
static int slot_move(int fd)
{
    int base = slot_base();
    for (int i = 0; i < SLOTS && fd >= 0; i++) {
        /* acquire: pairs with the release in slot_free() */
        if (atomic_exchange_explicit(&slots_taken[i], true, memory_order_acquire))
            continue;
        int moved = fcntl(fd, F_DUPFD_CLOEXEC, base + i);
        close(fd);
        CHECK(moved == base + i, "a descriptor was to be %d and is %d", base + i, moved);
        return moved;
    }
    if (fd >= 0)
        close(fd);
    return -1;
}

static void slot_free(int fd)
{
    /* release: pairs with the acquire in slot_move() */
    atomic_store_explicit(&slots_taken[fd - slot_base()], false, memory_order_release);
}

/* ---- Closing under others' hands ---- */

struct closing {
    int fd;
    counter received;
};

static int64_t wait_on(int fd, int way)
{
    char byte;
    struct iovec iov = {&byte, 1};
    switch (way) {
    case 0: return wh_recv(fd, &byte, 1, 0);
    case 1: return wh_read(fd, &byte, 1);
    case 2: return wh_readv(fd, &iov, 1);
    case 3: {
        int rc = wh_poll(fd, POLLIN);
        return rc > 0 ? wh_recv(fd, &byte, 1, MSG_DONTWAIT) : rc;
    }
    default: {
        int rc = wh_select(WH_READABLE(fd), WH_AFTER(WH_HOUR));
        return rc == 0 ? wh_recv(fd, &byte, 1, MSG_DONTWAIT) : rc;
    }
    }
}

static void wait_until_closed(struct closing *c, int way)
{
    ALIVE;
    int64_t rc;
    do {
        rc = wait_on(c->fd, way);
        count_add(&c->received, rc > 0);
    } while (rc > 0 || rc == -EAGAIN);
    CHECK(rc == -EBADF || ended_early(rc), "a wait (%d) on what was closed returned %lld", way,
          (long long)rc);
}

static void close_step(struct actor *a)
{
    int fds[2];
    int rc = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds);
    CHECK(rc == 0, "no descriptors: %d", errno);
    struct closing c = {.fd = slot_move(fds[0])};
    if (c.fd < 0) {
        wh_close(fds[1]);
        return;
    }
    struct team team = {.count = 0};
    for (int i = rng_from_to(&a->rng, 1, WAITERS_MAX); i > 0; i--)
        TEAM_GO(&team, wait_until_closed, &c, rng_below(&a->rng, 5));
    uint64_t sent = 0;
    for (int left = rng_below(&a->rng, 20); left > 0; left--) {
        if (rng_one_in(&a->rng, 3))
            pause_a_while(&a->rng);
        sent += send(fds[1], "x", 1, MSG_DONTWAIT | MSG_NOSIGNAL) == 1;
    }
    doing(a, "closes what others wait on");
    rc = wh_close(c.fd);
    CHECK(rc == 0, "a close returned %d", rc);
    char byte;
    /* A thread of the ring's may have had the file in hand: the kernel lets go of it soon. */
    WH_SHIELD
    WH_WITH_TIMEOUT(10 * WH_SECOND)
    rc = (int)wh_recv(fds[1], &byte, 1, 0);
    CHECK(rc == 0 || rc == -ECONNRESET, "the peer of what was closed has %d", rc);
    /* The close has ended their waits: nothing else would. */
    doing(a, "waits for those whose descriptor was closed");
    WH_SHIELD
    team_join(&team);
    CHECK(count_get(&c.received) <= sent, "%llu bytes were sent, %llu came",
          (unsigned long long)sent, (unsigned long long)count_get(&c.received));
    slot_free(c.fd);
    wh_close(fds[1]);
}

const struct kind close_kind = {
    .name = "close",
    .step = close_step,
    .closed = true,
};

/* ---- Listeners ---- */

struct service {
    int listener;
    char address[64];
    bool tcp;
    counter accepted;
    counter answered; /* conversations that their dialler has seen to the end */
    counter cut;      /* conversations that an accepter left early */
};

/* Gives back what comes, until the end. */
static void answer(struct service *s, int fd)
{
    char buf[512];
    ssize_t n;
    while ((n = wh_recv(fd, buf, sizeof buf, 0)) > 0)
        if ((n = wh_send_all(fd, buf, (size_t)n)) < 0)
            break;
    count_add(&s->cut, n < 0);
    wh_close(fd);
}

static void accepter(struct service *s)
{
    ALIVE;
    int fd;
    while ((fd = wh_accept(s->listener)) >= 0) {
        count_add(&s->accepted, 1);
        answer(s, fd);
    }
    CHECK(fd == -EBADF || ended_early(fd), "an accept on what was closed returned %d", fd);
}

/* A message out, the same message back. */
static bool converse(struct service *s, int fd, struct rng *rng)
{
    unsigned char sent[MESSAGE_MAX], got[MESSAGE_MAX];
    size_t len = (size_t)rng_from_to(rng, 1, MESSAGE_MAX), at = 0;
    for (size_t i = 0; i < len; i++)
        sent[i] = (unsigned char)rng_next(rng);
    ssize_t n = wh_send_all(fd, sent, len);
    if (n == (ssize_t)len)
        n = wh_shutdown(fd, SHUT_WR);
    while (n >= 0 && (n = wh_recv(fd, got + at, len - at, 0)) > 0)
        at += (size_t)n;
    if (n < 0 || count_get(&s->cut) > 0) {
        CHECK(ended_early(n) || count_get(&s->cut) > 0, "a conversation ended with %zd", n);
        return false;
    }
    CHECK(at == len && memcmp(sent, got, len) == 0, "of %zu bytes %zu came back, or other ones",
          len, at);
    return true;
}

static void dialler(struct service *s, uint64_t seed)
{
    ALIVE;
    struct rng rng = {seed};
    for (int left = rng_from_to(&rng, 1, 3); left > 0; left--) {
        int fd = s->tcp ? wh_dial_tcp(s->address) : wh_dial_unix(s->address);
        CHECK(fd >= 0 || ended_early(fd), "dialling %s returned %d", s->address, fd);
        if (fd < 0)
            return;
        bool whole = converse(s, fd, &rng);
        count_add(&s->answered, whole);
        wh_close(fd);
        if (!whole)
            return;
    }
}

static void service_open(struct service *s)
{
    static counter names;
    s->tcp = tcp_allowed();
    if (!s->tcp) {
        snprintf(s->address, sizeof s->address, "@whorl-stress-%d-%llu", (int)getpid(),
                 (unsigned long long)count_add(&names, 1));
        s->listener = slot_move(wh_listen_unix(s->address, NULL));
        return;
    }
    struct sockaddr_in in = {.sin_family = AF_INET};
    socklen_t len = sizeof in;
    s->listener = slot_move(wh_listen_tcp("127.0.0.1:0", NULL));
    if (s->listener >= 0)
        getsockname(s->listener, (struct sockaddr *)&in, &len);
    snprintf(s->address, sizeof s->address, "127.0.0.1:%d", ntohs(in.sin_port));
}

static void listener_step(struct actor *a)
{
    struct service s = {.listener = -1};
    service_open(&s);
    if (s.listener < 0)
        return;
    struct team accepters = {.count = 0}, diallers = {.count = 0};
    for (int i = rng_from_to(&a->rng, 1, 3); i > 0; i--)
        TEAM_GO(&accepters, accepter, &s);
    for (int i = rng_from_to(&a->rng, 1, DIALERS_MAX); i > 0 && accepters.count; i--)
        TEAM_GO(&diallers, dialler, &s, rng_next(&a->rng));
    doing(a, "waits for diallers");
    team_join(&diallers);
    doing(a, "closes a listener");
    int rc = wh_close(s.listener);
    CHECK(rc == 0, "a close returned %d", rc);
    WH_SHIELD
    team_join(&accepters);
    CHECK(count_get(&s.accepted) >= count_get(&s.answered), "%llu connections, %llu answers",
          (unsigned long long)count_get(&s.accepted), (unsigned long long)count_get(&s.answered));
    slot_free(s.listener);
}

const struct kind listener_kind = {
    .name = "listener",
    .step = listener_step,
    .closed = true,
};
