/*
 * stream.c: bytes through pipes, socket pairs and TCP connections, in parts of any size, with
 * deadlines that pass in the middle of calls. Each byte tells its place: what is lost, doubled or
 * out of order is found. A call that was cut short has moved nothing, so both ends' sums are equal.
 */
#include "stress.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <string.h>
#include <unistd.h>

enum { PART_MAX = 6000, STREAM_MAX = 120000 };

/* One direction. */
struct flow {
    int from; /* written to by its sender */
    int to;   /* read from by its receiver, or by the owner */
    bool is_socket;
    uint64_t key;
    uint64_t wanted;
    uint64_t sent;     /* the sender's until it was joined */
    uint64_t received; /* the receiver's until it was joined */
};

static unsigned char byte_at(const struct flow *f, uint64_t at)
{
    return (unsigned char)(mix(f->key + at / 8) >> (at % 8 * 8));
}

static void fill(const struct flow *f, unsigned char *buf, uint64_t at, size_t len)
{
    for (size_t i = 0; i < len; i++)
        buf[i] = byte_at(f, at + i);
}

static void compare(struct flow *f, const unsigned char *buf, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (buf[i] != byte_at(f, f->received + i)) {
            CHECK(false, "byte %llu of a stream of %llu is wrong",
                  (unsigned long long)(f->received + i), (unsigned long long)f->wanted);
            break;
        }
    f->received += len;
}

static ssize_t send_part(struct flow *f, struct rng *rng, const unsigned char *buf, size_t len)
{
    struct iovec iov[2] = {{(void *)(uintptr_t)buf, len / 2},
                           {(void *)(uintptr_t)(buf + len / 2), len - len / 2}};
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 2};
    switch (rng_below(rng, f->is_socket ? 4 : 2)) {
    case 0: return wh_write(f->from, buf, len);
    case 1: return wh_writev(f->from, iov, 2);
    case 2: return wh_send(f->from, buf, len, 0);
    default: return wh_sendmsg(f->from, &msg, 0);
    }
}

/* The end of the stream, whatever has happened to the sender. */
static void finish(struct flow *f)
{
    int rc = 0;
    WH_SHIELD
    rc = f->is_socket ? wh_shutdown(f->from, SHUT_WR) : wh_close(f->from);
    CHECK(rc == 0, "the end of a stream returned %d", rc);
}

static void sender(struct flow *f, uint64_t seed)
{
    ALIVE;
    struct rng rng = {seed};
    unsigned char buf[PART_MAX];
    while (f->sent < f->wanted) {
        size_t len = (size_t)rng_from_to(&rng, 1, rng_one_in(&rng, 2) ? 50 : PART_MAX);
        if (len > f->wanted - f->sent)
            len = f->wanted - f->sent;
        fill(f, buf, f->sent, len);
        ssize_t n = 0;
        WH_WITH_TIMEOUT(rng_one_in(&rng, 4) ? rng_time_ns(&rng, 8) : WH_HOUR)
        n = send_part(f, &rng, buf, len);
        CHECK((n > 0 && n <= (ssize_t)len) || ended_early(n), "sending %zu bytes returned %zd", len,
              n);
        if (n > 0)
            f->sent += (uint64_t)n;
        if (wh_ctx_err(NULL) < 0)
            break;
        if (rng_one_in(&rng, 8))
            pause_a_while(&rng);
    }
    finish(f);
}

static ssize_t receive_part(struct flow *f, struct rng *rng, unsigned char *buf, size_t len)
{
    struct iovec iov[2] = {{buf, len / 2}, {buf + len / 2, len - len / 2}};
    int rc;
    switch (rng_below(rng, f->is_socket ? 4 : 3)) {
    case 0: return wh_read(f->to, buf, len);
    case 1: return wh_readv(f->to, iov, 2);
    case 2:
        rc = wh_select(WH_READABLE(f->to), WH_AFTER(WH_HOUR));
        CHECK(rc == 0 || ended_early(rc), "a select for reading returned %d", rc);
        return rc == 0 ? wh_read(f->to, buf, len) : rc;
    default: return wh_recv(f->to, buf, len, 0);
    }
}

static void receiver(struct flow *f, uint64_t seed)
{
    ALIVE;
    struct rng rng = {seed};
    unsigned char buf[PART_MAX];
    for (ssize_t n = 1; n != 0;) {
        size_t len = (size_t)rng_from_to(&rng, 1, rng_one_in(&rng, 2) ? 50 : PART_MAX);
        WH_WITH_TIMEOUT(rng_one_in(&rng, 4) ? rng_time_ns(&rng, 8) : WH_HOUR)
        n = receive_part(f, &rng, buf, len);
        CHECK((n >= 0 && n <= (ssize_t)len) || ended_early(n), "receiving %zu bytes returned %zd",
              len, n);
        if (n > 0)
            compare(f, buf, (size_t)n);
        else if (n < 0 && (!ended_early(n) || wh_ctx_err(NULL) < 0))
            return;
        if (rng_one_in(&rng, 8))
            pause_a_while(&rng);
    }
}

/* After both have ended: what is still under way comes, then the end. */
static void flow_settle(struct flow *f)
{
    unsigned char buf[PART_MAX];
    ssize_t n = 0;
    WH_SHIELD
    while ((n = wh_read(f->to, buf, sizeof buf)) > 0)
        compare(f, buf, (size_t)n);
    CHECK(n == 0, "the rest of a stream returned %zd", n);
    CHECK(f->sent == f->received, "of a stream of %llu bytes %llu were sent, %llu came",
          (unsigned long long)f->wanted, (unsigned long long)f->sent,
          (unsigned long long)f->received);
}

/* ---- Making connections ---- */

/* TCP connections stay in the kernel's tables for a minute: only so many a second. */
bool tcp_allowed(void)
{
    static counter last_ns;
    uint64_t now = (uint64_t)now_ns(), last = count_get(&last_ns);
    return now - last > 20 * WH_MILLISECOND &&
           atomic_compare_exchange_strong_explicit(&last_ns, &last, now, memory_order_relaxed,
                                                   memory_order_relaxed);
}

/* A TCP connection to ourselves: dialled and accepted by the same coroutine, because the kernel
 * completes it in between. */
static int tcp_pair(int fds[2])
{
    struct sockaddr_in in = {.sin_family = AF_INET};
    socklen_t len = sizeof in;
    char address[32];
    int listener = wh_listen_tcp("127.0.0.1:0", NULL), rc = -1;
    if (listener < 0)
        return -1;
    getsockname(listener, (struct sockaddr *)&in, &len);
    snprintf(address, sizeof address, "127.0.0.1:%d", ntohs(in.sin_port));
    WH_SHIELD
    {
        fds[0] = wh_dial_tcp(address);
        fds[1] = fds[0] >= 0 ? wh_accept(listener) : -1;
    }
    CHECK(fds[0] >= 0 && fds[1] >= 0, "a connection to ourselves: %d, %d", fds[0], fds[1]);
    if (fds[1] >= 0)
        rc = 0;
    else if (fds[0] >= 0)
        wh_close(fds[0]);
    wh_close(listener);
    return rc;
}

static void small_buffers(int fd)
{
    const int bytes = 4096;
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
}

/* Opens two ends and returns how many directions they have; 0: could not. */
static int flows_open(struct flow *flows, struct rng *rng)
{
    int fds[2], rc = -1, way = rng_below(rng, tcp_allowed() ? 8 : 7);
    int extra = rng_one_in(rng, 2) ? SOCK_NONBLOCK : 0;
    if (way < 3) {
        rc = pipe2(fds, O_CLOEXEC | (extra ? O_NONBLOCK : 0));
        if (rc == 0 && rng_one_in(rng, 2))
            fcntl(fds[1], F_SETPIPE_SZ, 4096);
        flows[0] = (struct flow){.from = fds[1], .to = fds[0]};
    } else {
        rc = way < 7 ? socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | extra, 0, fds)
                     : tcp_pair(fds);
        for (int i = 0; rc == 0 && i < 2; i++) {
            if (way < 7 && rng_one_in(rng, 2))
                small_buffers(fds[i]);
            flows[i] = (struct flow){.from = fds[i], .to = fds[!i], .is_socket = true};
        }
    }
    CHECK(rc == 0, "no descriptors: %d", errno);
    return rc < 0 ? 0 : way < 3 ? 1 : 2;
}

static void stream_step(struct actor *a)
{
    struct flow flows[2];
    struct team team = {.count = 0};
    int count = flows_open(flows, &a->rng);
    for (int i = 0; i < count; i++) {
        struct flow *f = &flows[i];
        f->key = rng_next(&a->rng);
        f->wanted = (uint64_t)rng_from_to(&a->rng, 0, rng_one_in(&a->rng, 2) ? 2000 : STREAM_MAX);
        TEAM_GO(&team, receiver, f, rng_next(&a->rng));
        if (TEAM_GO(&team, sender, f, rng_next(&a->rng)) < 0)
            finish(f);
    }
    doing(a, "waits for streams");
    team_join(&team);
    for (int i = 0; i < count; i++)
        flow_settle(&flows[i]);
    for (int i = 0; i < count; i++)
        wh_close(flows[i].to);
}

const struct kind stream_kind = {
    .name = "stream",
    .step = stream_step,
    .closed = true,
};
