/*
 * udp_ways.c: three ways to receive datagrams, on a bare ring and without whorl: what is the
 * cheapest way to take a burst?
 *
 *     udp-ways [--cpu K]
 *
 *   one         a recvmsg operation for each, submitted when the one before is complete
 *   many        recvmmsg(2), 16 at a time
 *   multishot   one recvmsg operation for all, into buffers that the kernel picks (a ring of 256),
 *               each given back when it has been looked at
 *
 * A burst of 1, 4, 16 or 64 datagrams of 1200 bytes is sent by sendmmsg(2) over loopback, then
 * received; the time is that of receiving alone, of nanoseconds a datagram. Rounds of the three
 * are interleaved; printed are the medians.
 */
#include <errno.h>
#include <liburing.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { BYTES = 1200, BURST_MAX = 64, BATCH = 16, BUFFERS = 256, BUFFER_BYTES = 2048 };
enum { ROUNDS = 401, ONE = 0, MANY, MULTISHOT, WAYS };

static struct {
    struct io_uring uring;
    int from, to;
    struct mmsghdr out[BURST_MAX], in[BURST_MAX];
    struct iovec out_iov[BURST_MAX], in_iov[BURST_MAX];
    struct sockaddr_in in_addr[BURST_MAX];
    char bytes[BURST_MAX][BUFFER_BYTES];
    struct io_uring_buf_ring *ring;
    char *buffers;
    struct msghdr shape; /* of a multishot: how much room for an address */
    bool armed;
    unsigned checked;
} b;

static void fail(const char *what, int error)
{
    fprintf(stderr, "udp-ways: %s: %s\n", what, strerror(error));
    exit(1);
}

static int64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

static void sockets(void)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof addr;
    int room = 4 << 20;
    b.to = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    b.from = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (b.to < 0 || b.from < 0)
        fail("socket", errno);
    setsockopt(b.to, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
    if (bind(b.to, (struct sockaddr *)&addr, len) < 0 ||
        getsockname(b.to, (struct sockaddr *)&addr, &len) < 0 ||
        connect(b.from, (struct sockaddr *)&addr, len) < 0)
        fail("sockets", errno);
    for (int i = 0; i < BURST_MAX; i++) {
        b.out_iov[i] = (struct iovec){b.bytes[i], BYTES};
        b.out[i].msg_hdr = (struct msghdr){.msg_iov = &b.out_iov[i], .msg_iovlen = 1};
        b.in_iov[i] = (struct iovec){b.bytes[i], BUFFER_BYTES};
        b.in[i].msg_hdr = (struct msghdr){.msg_name = &b.in_addr[i],
                                          .msg_namelen = sizeof b.in_addr[i],
                                          .msg_iov = &b.in_iov[i],
                                          .msg_iovlen = 1};
    }
}

static void ring(void)
{
    struct io_uring_params params = {.flags =
                                         IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN};
    int rc = io_uring_queue_init_params(256, &b.uring, &params);
    if (rc < 0)
        fail("io_uring", -rc);
    b.buffers = malloc((size_t)BUFFERS * BUFFER_BYTES);
    b.ring = io_uring_setup_buf_ring(&b.uring, BUFFERS, 0, 0, &rc);
    if (!b.ring || !b.buffers)
        fail("buffers", -rc);
    for (int i = 0; i < BUFFERS; i++)
        io_uring_buf_ring_add(b.ring, b.buffers + i * BUFFER_BYTES, BUFFER_BYTES, (unsigned short)i,
                              io_uring_buf_ring_mask(BUFFERS), i);
    io_uring_buf_ring_advance(b.ring, BUFFERS);
    b.shape.msg_namelen = sizeof(struct sockaddr_in);
}

static void look_at(const char *bytes, ssize_t len)
{
    if (len != BYTES)
        fail("a datagram has another length", EPROTO);
    b.checked += (unsigned char)bytes[0];
}

static void one_by_one(int burst)
{
    for (int i = 0; i < burst; i++) {
        struct io_uring_cqe *cqe;
        io_uring_prep_recvmsg(io_uring_get_sqe(&b.uring), b.to, &b.in[0].msg_hdr, 0);
        int rc = io_uring_submit_and_wait(&b.uring, 1);
        if (rc < 0 || io_uring_peek_cqe(&b.uring, &cqe) < 0)
            fail("recvmsg", -rc);
        look_at(b.bytes[0], cqe->res);
        io_uring_cqe_seen(&b.uring, cqe);
    }
}

static void many_at_once(int burst)
{
    for (int got = 0; got < burst;) {
        int n = recvmmsg(b.to, b.in, BATCH, MSG_DONTWAIT, NULL);
        if (n < 0)
            fail("recvmmsg", errno);
        for (int i = 0; i < n; i++)
            look_at(b.bytes[i], b.in[i].msg_len);
        got += n;
    }
}

static void arm(void)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&b.uring);
    io_uring_prep_recvmsg_multishot(sqe, b.to, &b.shape, 0);
    sqe->flags |= IOSQE_BUFFER_SELECT;
    b.armed = true;
}

static int take(struct io_uring_cqe *cqe)
{
    if (!(cqe->flags & IORING_CQE_F_MORE))
        b.armed = false;
    if (cqe->res < 0)
        return 0; /* no buffer was left: armed anew */
    unsigned number = cqe->flags >> IORING_CQE_BUFFER_SHIFT;
    char *buffer = b.buffers + number * BUFFER_BYTES;
    struct io_uring_recvmsg_out *out = io_uring_recvmsg_validate(buffer, cqe->res, &b.shape);
    if (!out)
        fail("multishot", EPROTO);
    look_at(io_uring_recvmsg_payload(out, &b.shape), out->payloadlen);
    io_uring_buf_ring_add(b.ring, buffer, BUFFER_BYTES, (unsigned short)number,
                          io_uring_buf_ring_mask(BUFFERS), 0);
    io_uring_buf_ring_advance(b.ring, 1);
    return 1;
}

static void multishot(int burst)
{
    for (int got = 0; got < burst;) {
        struct io_uring_cqe *cqe;
        if (!b.armed)
            arm();
        int rc = io_uring_submit_and_wait(&b.uring, 1);
        if (rc < 0)
            fail("multishot", -rc);
        while (io_uring_peek_cqe(&b.uring, &cqe) == 0) {
            got += take(cqe);
            io_uring_cqe_seen(&b.uring, cqe);
        }
    }
}

/* A multishot that is armed would take what the others wait for. */
static void disarm(void)
{
    if (!b.armed)
        return;
    io_uring_prep_cancel_fd(io_uring_get_sqe(&b.uring), b.to, 0);
    io_uring_submit(&b.uring);
    for (int seen = 0; seen < 2; seen++) {
        struct io_uring_cqe *cqe;
        if (io_uring_wait_cqe(&b.uring, &cqe) < 0)
            fail("cancel", EIO);
        io_uring_cqe_seen(&b.uring, cqe);
    }
    b.armed = false;
}

static int ascending(const void *x, const void *y)
{
    double a = *(const double *)x, c = *(const double *)y;
    return (a > c) - (a < c);
}

static void compare(int burst)
{
    static void (*const ways[WAYS])(int) = {one_by_one, many_at_once, multishot};
    static double ns[WAYS][ROUNDS];
    for (int round = 0; round < ROUNDS; round++)
        for (int way = 0; way < WAYS; way++) {
            if (way == MULTISHOT) { /* it is armed before, as it would be */
                arm();
                io_uring_submit(&b.uring);
            }
            if (sendmmsg(b.from, b.out, (unsigned)burst, 0) != burst)
                fail("sendmmsg", errno);
            int64_t start_ns = now_ns();
            ways[way](burst);
            ns[way][round] = (double)(now_ns() - start_ns) / burst;
            disarm();
        }
    for (int way = 0; way < WAYS; way++)
        qsort(ns[way], ROUNDS, sizeof ns[way][0], ascending);
    printf("burst of %2d: one %6.0f   many %6.0f   multishot %6.0f   ns a datagram\n", burst,
           ns[ONE][ROUNDS / 2], ns[MANY][ROUNDS / 2], ns[MULTISHOT][ROUNDS / 2]);
}

int main(int argc, char **argv)
{
    if (argc == 3 && !strcmp(argv[1], "--cpu")) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(atoi(argv[2]), &set);
        sched_setaffinity(0, sizeof set, &set);
    }
    sockets();
    ring();
    for (int burst = 1; burst <= BURST_MAX; burst *= 4)
        compare(burst);
    io_uring_queue_exit(&b.uring);
    free(b.buffers);
    return b.checked ? 1 : 0;
}
