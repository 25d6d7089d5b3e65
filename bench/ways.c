/*
 * ways.c: which features of io_uring pay, on a bare ring and without whorl.
 *
 *     ways [--rounds N] [--connections N] [--cpu K] [--json]
 *
 * One thread plays both sides of loopback TCP connections; only the side under test is timed.
 *
 *   recv    messages are there when the receive is submitted (busy), or come after it (idle)
 *   send    the other side reads outside of the time
 *   accept  64 connections wait
 *
 * Ways of one table take turns, each round another first; printed are quartiles of nanoseconds a
 * message, or a connection. With more than 500 connections those with registered descriptors are
 * left out. Times of sends of more than the socket holds have entries that found nothing in them.
 * Loopback copies what is sent by zero-copy. A way that the kernel refuses is skipped with a line.
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
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { IDLE = 1, POLL_FIRST = 2, SELECT = 4, MULTI = 8, INC = 16, BUNDLE = 32, FIXED = 64 };
enum { PIECES = 128, ZC = 256, WAITALL = 512, SKIP = 1024, ONE_BY_ONE = 2048 };
enum { PIECE = 16384, BATCH = 64, SPINS = 1000000, WAYS_MAX = 16, MANY = 500 };

struct way {
    const char *name;
    unsigned flags;
};

struct run {
    const struct way *way;
    struct io_uring ring;
    struct io_uring_buf_ring *buffers;
    char *memory, *bytes;
    int listener, *near, *far, *taken;
    size_t size, piece, *done;
    unsigned n, pieces, left, n_taken;
    struct msghdr *messages;
    struct iovec *iov;
    double *ns;
    int error;
};

static unsigned opt_rounds = 201, opt_connections = 64;
static bool opt_json, json_comma;

static void fail(const char *what, int error)
{
    fprintf(stderr, "ways: %s: %s\n", what, strerror(error));
    exit(1);
}

static void *zalloc(size_t n, size_t size)
{
    void *p = calloc(n, size);
    if (!p)
        fail("memory", ENOMEM);
    return p;
}

static int64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

static void ring_init(struct run *r)
{
    struct io_uring_params p = {
        .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
                 IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_NO_SQARRAY | IORING_SETUP_CQSIZE |
                 IORING_SETUP_CLAMP | IORING_SETUP_SUBMIT_ALL,
        .cq_entries = 16384,
    };
    int error = io_uring_queue_init_params(4096, &r->ring, &p);
    if (error < 0)
        fail("ring", -error);
}

static struct sockaddr_in listen_on(struct run *r)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof addr;
    r->listener = socket(AF_INET, SOCK_STREAM, 0);
    int room = 512 * 1024;
    setsockopt(r->listener, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
    if (bind(r->listener, (struct sockaddr *)&addr, size) < 0 || listen(r->listener, 1024) < 0 ||
        getsockname(r->listener, (struct sockaddr *)&addr, &size) < 0)
        fail("listen", errno);
    return addr;
}

static int connect_to(const struct sockaddr_in *addr)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    int room = 512 * 1024;
    struct linger linger = {.l_onoff = 1}; /* no TIME_WAIT */
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    if (fd < 0 || connect(fd, (const struct sockaddr *)addr, sizeof *addr) < 0)
        fail("connect", errno);
    return fd;
}

static void connections(struct run *r)
{
    struct sockaddr_in addr = listen_on(r);
    for (unsigned i = 0; i < r->n; i++) {
        r->far[i] = connect_to(&addr);
        r->near[i] = accept(r->listener, NULL, NULL);
        if (r->near[i] < 0)
            fail("accept", errno);
    }
    if (r->way->flags & FIXED)
        r->error = io_uring_register_files(&r->ring, r->near, r->n);
}

static void buffer_return(struct run *r, unsigned number)
{
    io_uring_buf_ring_add(r->buffers, r->memory + number * r->piece, (unsigned)r->piece,
                          (unsigned short)number, (int)r->pieces - 1, 0);
    io_uring_buf_ring_advance(r->buffers, 1);
}

static void buffers_init(struct run *r)
{
    bool inc = r->way->flags & INC;
    r->piece = inc ? 65536 : r->size < PIECE ? r->size : PIECE;
    size_t want = 2 * r->n * r->size / r->piece;
    for (r->pieces = 8; r->pieces < want && r->pieces < 32768;)
        r->pieces *= 2;
    r->memory = zalloc(r->pieces, r->piece);
    r->buffers =
        io_uring_setup_buf_ring(&r->ring, r->pieces, 0, inc ? IOU_PBUF_RING_INC : 0, &r->error);
    for (unsigned i = 0; r->buffers && i < r->pieces; i++)
        buffer_return(r, i);
}

static struct io_uring_sqe *sqe_get(struct run *r)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&r->ring);
    if (!sqe) {
        io_uring_submit(&r->ring);
        sqe = io_uring_get_sqe(&r->ring);
    }
    return sqe;
}

static void recv_arm(struct run *r, unsigned i)
{
    unsigned flags = r->way->flags;
    struct io_uring_sqe *sqe = sqe_get(r);
    int fd = flags & FIXED ? (int)i : r->near[i];
    bool select = flags & SELECT;
    if (flags & MULTI)
        io_uring_prep_recv_multishot(sqe, fd, NULL, 0, 0);
    else
        io_uring_prep_recv(sqe, fd, select ? NULL : r->bytes + i * r->size, select ? 0 : r->size,
                           0);
    sqe->flags |= (flags & FIXED ? IOSQE_FIXED_FILE : 0) | (select ? IOSQE_BUFFER_SELECT : 0);
    sqe->ioprio |= (flags & POLL_FIRST ? IORING_RECVSEND_POLL_FIRST : 0) |
                   (flags & BUNDLE ? IORING_RECVSEND_BUNDLE : 0);
    io_uring_sqe_set_data64(sqe, i);
}

/* Buffers are taken and returned in the same order: those of a bundle have successive numbers. */
static void recv_return(struct run *r, const struct io_uring_cqe *cqe)
{
    if (!(cqe->flags & IORING_CQE_F_BUFFER) || cqe->flags & IORING_CQE_F_BUF_MORE)
        return;
    unsigned first = cqe->flags >> IORING_CQE_BUFFER_SHIFT, n = 1;
    if (r->way->flags & BUNDLE)
        n = (unsigned)(((size_t)cqe->res + r->piece - 1) / r->piece);
    for (unsigned k = 0; k < n; k++)
        buffer_return(r, (first + k) & (r->pieces - 1));
}

static void recv_one(struct run *r, const struct io_uring_cqe *cqe)
{
    unsigned i = (unsigned)cqe->user_data;
    if (cqe->res <= 0 && cqe->res != -ENOBUFS) {
        r->error = cqe->res ? cqe->res : -EPIPE;
        return;
    }
    recv_return(r, cqe);
    r->done[i] += cqe->res > 0 ? (size_t)cqe->res : 0;
    r->left -= cqe->res > 0 && r->done[i] == r->size;
    if (!(cqe->flags & IORING_CQE_F_MORE) && (r->way->flags & IDLE || r->done[i] < r->size))
        recv_arm(r, i);
}

static void reap(struct run *r, void (*one)(struct run *, const struct io_uring_cqe *))
{
    struct io_uring_cqe *cqe;
    unsigned head, n = 0;
    io_uring_for_each_cqe(&r->ring, head, cqe)
    {
        one(r, cqe);
        n++;
    }
    io_uring_cq_advance(&r->ring, n);
}

static void recv_init(struct run *r)
{
    connections(r);
    if (r->way->flags & SELECT)
        buffers_init(r);
    for (unsigned i = 0; r->way->flags & IDLE && !r->error && i < r->n; i++)
        recv_arm(r, i);
    io_uring_submit_and_get_events(&r->ring);
}

/* An answer takes the acknowledgement with it: without one, receiving is timed sending it. */
static void recv_reply(struct run *r)
{
    char byte = 0;
    for (unsigned i = 0; i < r->n && !r->error; i++)
        if (send(r->near[i], &byte, 1, 0) != 1 || recv(r->far[i], &byte, 1, 0) != 1)
            fail("reply", errno);
}

static double recv_round(struct run *r)
{
    memset(r->done, 0, r->n * sizeof *r->done);
    r->left = r->n;
    for (unsigned i = 0; i < r->n; i++)
        if (send(r->far[i], r->bytes, r->size, MSG_DONTWAIT) != (ssize_t)r->size)
            fail("send", errno ? errno : EAGAIN);
    int64_t start = now_ns();
    for (unsigned i = 0; !(r->way->flags & IDLE) && i < r->n; i++)
        recv_arm(r, i);
    while (r->left && !r->error) {
        io_uring_submit_and_wait(&r->ring, 1);
        reap(r, recv_one);
    }
    io_uring_submit(&r->ring);
    double ns = (double)(now_ns() - start) / r->n;
    recv_reply(r);
    return ns;
}

static void send_arm(struct run *r, unsigned i)
{
    unsigned flags = r->way->flags;
    struct io_uring_sqe *sqe = sqe_get(r);
    int how = flags & WAITALL ? MSG_WAITALL : 0, fd = flags & FIXED ? (int)i : r->far[i];
    size_t left = r->size - r->done[i];
    if (flags & ZC) {
        io_uring_prep_send_zc(sqe, fd, r->bytes, left, how, 0);
    } else if (flags & PIECES) {
        r->iov[2 * i] = (struct iovec){r->bytes, left / 2};
        r->iov[2 * i + 1] = (struct iovec){r->bytes, left - left / 2};
        r->messages[i] = (struct msghdr){.msg_iov = r->iov + (size_t)2 * i, .msg_iovlen = 2};
        io_uring_prep_sendmsg(sqe, fd, &r->messages[i], (unsigned)how);
    } else {
        io_uring_prep_send(sqe, fd, r->bytes, left, how);
    }
    sqe->flags |=
        (flags & FIXED ? IOSQE_FIXED_FILE : 0) | (flags & SKIP ? IOSQE_CQE_SKIP_SUCCESS : 0);
    io_uring_sqe_set_data64(sqe, i);
}

static void send_one(struct run *r, const struct io_uring_cqe *cqe)
{
    unsigned i = (unsigned)cqe->user_data;
    if (cqe->flags & IORING_CQE_F_NOTIF)
        return;
    if (cqe->res <= 0) {
        r->error = cqe->res ? cqe->res : -EPIPE;
        return;
    }
    r->done[i] += (size_t)cqe->res;
    r->left -= r->done[i] == r->size;
    if (r->done[i] < r->size)
        send_arm(r, i);
}

static size_t drain(struct run *r)
{
    size_t all = 0;
    for (unsigned i = 0; i < r->n; i++) {
        ssize_t n;
        while ((n = recv(r->near[i], NULL, 1 << 20, MSG_DONTWAIT | MSG_TRUNC)) > 0)
            all += (size_t)n;
    }
    return all;
}

static void send_init(struct run *r)
{
    connections(r);
    if (r->way->flags & FIXED && !r->error)
        r->error = io_uring_register_files_update(&r->ring, 0, r->far, r->n) < 0 ? -EINVAL : 0;
}

static double send_round(struct run *r)
{
    size_t got = 0, want = r->n * r->size;
    memset(r->done, 0, r->n * sizeof *r->done);
    r->left = r->way->flags & SKIP ? 0 : r->n;
    int64_t start = now_ns(), spent = 0;
    for (unsigned i = 0; i < r->n; i++)
        send_arm(r, i);
    for (unsigned k = 0; k < SPINS && !r->error && (r->left || got < want); k++) {
        io_uring_submit_and_get_events(&r->ring);
        reap(r, send_one);
        spent += now_ns() - start;
        got += drain(r);
        start = now_ns();
    }
    if (got < want && !r->error)
        r->error = -ETIMEDOUT;
    return (double)spent / r->n;
}

static void accept_arm(struct run *r)
{
    struct io_uring_sqe *sqe = sqe_get(r);
    unsigned flags = r->way->flags;
    if (flags & MULTI && flags & FIXED)
        io_uring_prep_multishot_accept_direct(sqe, r->listener, NULL, NULL, 0);
    else if (flags & MULTI)
        io_uring_prep_multishot_accept(sqe, r->listener, NULL, NULL, 0);
    else if (flags & FIXED)
        io_uring_prep_accept_direct(sqe, r->listener, NULL, NULL, 0, IORING_FILE_INDEX_ALLOC);
    else
        io_uring_prep_accept(sqe, r->listener, NULL, NULL, 0);
}

static void accept_one(struct run *r, const struct io_uring_cqe *cqe)
{
    if (cqe->res < 0) {
        r->error = cqe->res;
        return;
    }
    r->taken[r->n_taken++] = cqe->res;
    if (!(cqe->flags & IORING_CQE_F_MORE) &&
        (r->way->flags & (MULTI | ONE_BY_ONE) || r->n_taken > BATCH))
        accept_arm(r);
}

static void accept_init(struct run *r)
{
    listen_on(r);
    if (r->way->flags & FIXED)
        r->error = io_uring_register_files_sparse(&r->ring, 2 * BATCH);
    if (r->way->flags & (MULTI | ONE_BY_ONE) && !r->error)
        accept_arm(r);
    io_uring_submit(&r->ring);
}

static void accept_close(struct run *r)
{
    int none = -1;
    for (unsigned i = 0; i < r->n_taken; i++) {
        close(r->far[i]);
        if (r->way->flags & FIXED)
            io_uring_register_files_update(&r->ring, (unsigned)r->taken[i], &none, 1);
        else
            close(r->taken[i]);
    }
}

static double accept_round(struct run *r)
{
    struct sockaddr_in addr;
    socklen_t size = sizeof addr;
    getsockname(r->listener, (struct sockaddr *)&addr, &size);
    r->n_taken = 0;
    for (unsigned i = 0; i < BATCH; i++)
        r->far[i] = connect_to(&addr);
    int64_t start = now_ns();
    for (unsigned i = 0; !(r->way->flags & (MULTI | ONE_BY_ONE)) && i < BATCH; i++)
        accept_arm(r);
    while (r->n_taken < BATCH && !r->error) {
        io_uring_submit_and_wait(&r->ring, 1);
        reap(r, accept_one);
    }
    io_uring_submit(&r->ring);
    double ns = (double)(now_ns() - start) / BATCH;
    accept_close(r);
    return ns;
}

#define BOTH(name, flags)              \
    {name, flags},                     \
    {                                  \
        name " fixed", (flags) | FIXED \
    }
static const struct way recv_busy[] = {
    BOTH("one-shot", 0), BOTH("poll-first", POLL_FIRST), BOTH("provided", SELECT), {0}};
static const struct way recv_idle[] = {BOTH("one-shot", IDLE),
                                       BOTH("poll-first", IDLE | POLL_FIRST),
                                       BOTH("provided", IDLE | SELECT),
                                       BOTH("multishot", IDLE | SELECT | MULTI),
                                       BOTH("multishot inc", IDLE | SELECT | MULTI | INC),
                                       BOTH("bundle", IDLE | SELECT | MULTI | BUNDLE),
                                       {0}};
static const struct way sends[] = {
    BOTH("send", 0),   {"sendmsg of 2", PIECES},         {"waitall", WAITALL},
    {"zero-copy", ZC}, {"skip success", SKIP | WAITALL}, {0}};
static const struct way accepts[] = {
    BOTH("one at a time", ONE_BY_ONE), BOTH("64 one-shot", 0), BOTH("multishot", MULTI), {0}};

static void run_init(struct run *r, const struct way *way, size_t size, unsigned n)
{
    *r = (struct run){.way = way, .size = size, .n = n, .listener = -1};
    ring_init(r);
    r->bytes = zalloc(n, size);
    r->near = zalloc(n, sizeof *r->near);
    r->far = zalloc(n, sizeof *r->far);
    r->taken = zalloc(2 * BATCH, sizeof *r->taken);
    r->done = zalloc(n, sizeof *r->done);
    r->messages = zalloc(n, sizeof *r->messages);
    r->iov = zalloc(n, 2 * sizeof *r->iov);
    r->ns = zalloc(opt_rounds, sizeof *r->ns);
}

static void run_finish(struct run *r, bool pairs)
{
    io_uring_queue_exit(&r->ring);
    for (unsigned i = 0; pairs && i < r->n; i++) {
        close(r->far[i]);
        close(r->near[i]);
    }
    close(r->listener);
    void *memory[] = {r->memory, r->bytes,    r->near, r->far, r->taken,
                      r->done,   r->messages, r->iov,  r->ns};
    for (unsigned i = 0; i < sizeof memory / sizeof *memory; i++)
        free(memory[i]);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print(const char *table, struct run *r, double base)
{
    if (r->error) {
        fprintf(stderr, "%s %zu: %s skipped: %s\n", table, r->size, r->way->name,
                strerror(abs(r->error)));
        return;
    }
    double low = r->ns[opt_rounds / 4], mid = r->ns[opt_rounds / 2];
    double high = r->ns[opt_rounds * 3 / 4];
    if (opt_json)
        printf("%s{\"table\":\"%s\",\"bytes\":%zu,\"way\":\"%s\",\"n\":%u,\"q1\":%.0f,"
               "\"median\":%.0f,\"q3\":%.0f,\"ratio\":%.3f}\n",
               json_comma ? "," : "", table, r->size, r->way->name, r->n, low, mid, high,
               mid / base);
    else
        printf("%-10s %8zu %-20s %9.0f %9.0f %9.0f %6.2f\n", table, r->size, r->way->name, low, mid,
               high, mid / base);
    json_comma = true;
}

static void table(const char *name, const struct way *ways, size_t size, unsigned n,
                  void (*init)(struct run *), double (*round)(struct run *))
{
    struct run runs[WAYS_MAX];
    unsigned count = 0;
    for (unsigned j = 0; ways[j].name; j++) {
        if (n > MANY && ways[j].flags & FIXED) {
            fprintf(stderr, "%s: %s left out: descriptors\n", name, ways[j].name);
            continue;
        }
        run_init(&runs[count], &ways[j], size, n);
        init(&runs[count++]);
    }
    for (unsigned k = 0; k < opt_rounds + 1; k++) /* the first warms up */
        for (unsigned j = 0; j < count; j++) {
            struct run *r = &runs[(j + k) % count];
            double ns = r->error ? 0 : round(r);
            if (k)
                r->ns[k - 1] = ns;
        }
    for (unsigned j = 0; j < count; j++)
        qsort(runs[j].ns, opt_rounds, sizeof(double), by_value);
    double base = runs[0].ns[opt_rounds / 2];
    for (unsigned j = 0; j < count; j++)
        print(name, &runs[j], base);
    for (unsigned j = 0; j < count; j++)
        run_finish(&runs[j], round != accept_round);
}

static void options(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        bool value = i + 1 < argc;
        if (!strcmp(argv[i], "--json")) {
            opt_json = true;
        } else if (value && !strcmp(argv[i], "--rounds")) {
            opt_rounds = (unsigned)strtoul(argv[++i], NULL, 10);
        } else if (value && !strcmp(argv[i], "--connections")) {
            opt_connections = (unsigned)strtoul(argv[++i], NULL, 10);
        } else if (value && !strcmp(argv[i], "--cpu")) {
            cpu_set_t set;
            CPU_ZERO(&set);
            CPU_SET((unsigned)atoi(argv[++i]), &set);
            if (sched_setaffinity(0, sizeof set, &set) < 0)
                fail("--cpu", errno);
        } else {
            fputs("usage: ways [--json] [--rounds N] [--connections N] [--cpu N]\n", stderr);
            exit(strcmp(argv[i], "--help") ? 2 : 0);
        }
    }
    if (!opt_rounds || !opt_connections || opt_connections > 4096)
        fail("options", EINVAL);
}

int main(int argc, char **argv)
{
    options(argc, argv);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    static const size_t recv_sizes[] = {64, 4096, 65536};
    static const size_t send_sizes[] = {64, 4096, 16384, 65536, 262144, 1048576};
    printf(opt_json ? "[\n"
                    : "table         bytes way                         q1    median        "
                      "q3  ratio  (ns)\n");
    for (unsigned i = 0; i < 3; i++) {
        unsigned n = recv_sizes[i] < 65536 || opt_connections < 64 ? opt_connections : 64;
        table("recv busy", recv_busy, recv_sizes[i], n, recv_init, recv_round);
        table("recv idle", recv_idle, recv_sizes[i], n, recv_init, recv_round);
    }
    for (unsigned i = 0; i < 6; i++)
        table("send", sends, send_sizes[i], send_sizes[i] < 65536 ? opt_connections : 4, send_init,
              send_round);
    table("accept", accepts, 1, BATCH, accept_init, accept_round);
    if (opt_json)
        printf("]\n");
    return 0;
}
