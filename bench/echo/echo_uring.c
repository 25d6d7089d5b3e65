/*
 * echo_uring: the limit, a hand-written io_uring echo server on one thread.
 *
 *     echo_uring HOST:PORT [--cpu K] [--recv oneshot|multishot] [--spin US] [--stats]
 *                [--buffer BYTES] [--buffers N] [--entries N] [--cq N] [--drain N]
 *                [--with NAME,...] [--without NAME,...]
 *
 * The idea: one system call a turn of the loop submits everything that the turn produced and waits
 * for the next completions, so that its cost is shared by all connections that are ready.
 *
 *        +--> completions --> each fills at most SQES_PER_CQE submissions --+
 *        |                                                                  |
 *        +------------- one io_uring_enter: submit all, wait for one <------+
 *
 * Two ways to receive:
 *   oneshot    a receive into the connection's own buffer, sent from there, then the next receive
 *   multishot  one receive that goes on, into whichever buffer of a common ring is next
 *
 * Invariants
 *   - A handler runs only while the submission queue has SQES_PER_CQE free entries, so taking an
 *     entry cannot fail: when the queue fills, the turn ends early and submits.
 *   - conn.receiving and conn.sending say what the kernel holds. The descriptor is closed only when
 *     both are false, so no completion can meet another connection under the same number, and no
 *     buffer is reused under the kernel. conn.starved likewise keeps it open.
 *   - multishot: every buffer is in the kernel's ring, or in the queue of exactly one connection.
 *     A connection that does not take its answers is stopped at QUEUE_MAX buffers (it must not eat
 *     everybody's). -ENOBUFS ends a receive, never a connection: it waits in `starved` until a
 *     buffer comes back.
 *   - Completions that did not fit (overflow) are kept by the kernel and come with the next enter,
 *     which always asks for them.
 *   - A turn takes all that is ready before it answers (take_deferred), else those whose data was
 *     there at once would be served again and again, and the others wait: 0.7 s at the 99th
 *     percentile was seen with 8000 connections, at a better rate than the fair server's.
 *
 * A limit of multishot: 64 peers that send and never receive hold all 1024 buffers between them. A
 * server for the world would copy what such a peer does not take.
 *
 * All memory lives as long as the process: the kernel may hold it to the end.
 */
#include "echo_common.h"

#include <liburing.h>
#include <poll.h>
#include <stdbool.h>
#include <sys/mman.h>

enum {
    SQES_PER_CQE = 2,
    QUEUE_MAX = 16, /* multishot: buffers one connection may hold */
    BUFFER_GROUP = 0,
    NO_BUFFER = 0xffff,
    SPINS_PER_LOOK = 16, /* at the clock */
};

enum op { OP_ACCEPT, OP_SIGNAL, OP_RECV, OP_SEND, OP_CANCEL, OP_CLOSE };

enum recv_mode { RECV_ONESHOT, RECV_MULTISHOT };

/* One a descriptor, found by its number. What the fields mean depends on the way to receive:
 *   oneshot     its buffer is being received into, or [off, len) of it is still to be sent
 *   multishot   buffers first .. last wait to be sent, in order; first is sent from off */
struct conn {
    uint32_t off, len;
    uint16_t first, last, queued;
    bool receiving;  /* the kernel holds a receive */
    bool sending;    /* the kernel holds a send */
    bool cancelling; /* the receive was asked to end */
    bool starved;    /* multishot: waits for a buffer, stands in server.starved */
    bool ended;      /* end of stream: answer what came, then close */
    bool failed;     /* close as soon as the kernel lets go */
    bool poll_first; /* the socket was empty: do not look before waiting */
};

/* What the ring is made with, to be switched by --with and --without, so that its worth can be
 * measured. First the set-up flags, the least needed first: a kernel that refuses the set gets one
 * less at a time. coop_taskrun is tried where defer_taskrun is not. */
struct feature {
    const char *name;
    unsigned flag;
    bool on;
};

enum {
    F_SQARRAY,
    F_DEFER,
    F_SINGLE,
    F_SUBMIT_ALL,
    F_SETUP_COUNT,
    F_COOP = F_SETUP_COUNT,
    F_RING_FD,
    F_POLL_FIRST,
    F_COUNT
};

static struct feature features[F_COUNT] = {
    [F_SQARRAY] = {"no_sqarray", IORING_SETUP_NO_SQARRAY, true},
    [F_DEFER] = {"defer_taskrun", IORING_SETUP_DEFER_TASKRUN, true},
    [F_SINGLE] = {"single_issuer", IORING_SETUP_SINGLE_ISSUER, true},
    [F_SUBMIT_ALL] = {"submit_all", IORING_SETUP_SUBMIT_ALL, true},
    [F_COOP] = {"coop_taskrun", IORING_SETUP_COOP_TASKRUN, true}, /* only where defer is not */
    [F_RING_FD] = {"ring_fd", 0, true},
    [F_POLL_FIRST] = {"poll_first", 0, false},
};

static struct server {
    struct io_uring ring;
    bool ring_made;
    int listener;
    int signals;
    long fd_limit;
    long open;
    enum recv_mode mode;
    uint64_t spin_ns;
    unsigned drain_max;
    unsigned sq_entries, cq_entries;
    bool accept_multishot;
    bool accept_off; /* out of descriptors: not accepting until a connection closes */
    bool told_full;
    bool stop;
    struct conn *conns;
    size_t buffer_bytes; /* room in a buffer */
    size_t buffer_step;  /* from one buffer to the next */
    unsigned char *buffers;
    /* multishot */
    struct io_uring_buf_ring *buf_ring;
    unsigned buffers_count; /* a power of two */
    unsigned buffers_free;  /* in the kernel's ring, or on their way there */
    int buffers_added;      /* of those, not yet shown to the kernel */
    uint16_t *next_buffer;  /* by buffer: the next in its connection's queue */
    uint32_t *buffer_len;   /* by buffer: bytes in it */
    int *starved;           /* ring of descriptors, fd_limit long; each stands in it at most once */
    long starved_first, starved_count;
    struct counters counters;
    uint64_t deferred, spins_won, spins_lost, overflows, no_buffers, short_sends, throttled;
} server = {.listener = -1,
            .signals = -1,
            .buffer_bytes = 4096,
            .sq_entries = 1024,
            .cq_entries = 8192,
            .buffers_count = 1024,
            .drain_max = 64,
            .accept_multishot = true};

/* ---- submissions ---- */

static uint64_t user_data(int fd, enum op op)
{
    return (uint64_t)(unsigned)fd << 8 | op;
}

static struct io_uring_sqe *take_sqe(int fd, enum op op)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&server.ring);
    if (!sqe) { /* the invariant of the turn is broken: a fault of this program */
        fprintf(stderr, "echo_uring: the submission queue is full inside a turn\n");
        abort();
    }
    sqe->user_data = user_data(fd, op); /* the prep functions below leave it alone */
    return sqe;
}

static void submit_accept(void)
{
    struct io_uring_sqe *sqe = take_sqe(server.listener, OP_ACCEPT);
    if (server.accept_multishot)
        io_uring_prep_multishot_accept(sqe, server.listener, NULL, NULL, SOCK_CLOEXEC);
    else
        io_uring_prep_accept(sqe, server.listener, NULL, NULL, SOCK_CLOEXEC);
    server.accept_off = false;
}

static void submit_close(int fd)
{
    struct io_uring_sqe *sqe = take_sqe(fd, OP_CLOSE);
    io_uring_prep_close(sqe, fd);
}

static void submit_cancel(int fd)
{
    struct io_uring_sqe *sqe = take_sqe(fd, OP_CANCEL);
    io_uring_prep_cancel64(sqe, user_data(fd, OP_RECV), 0);
    server.conns[fd].cancelling = true;
}

static unsigned char *buffer_at(unsigned index)
{
    return server.buffers + index * server.buffer_step;
}

static void submit_recv(int fd)
{
    struct conn *c = &server.conns[fd];
    struct io_uring_sqe *sqe = take_sqe(fd, OP_RECV);
    if (server.mode == RECV_MULTISHOT) {
        io_uring_prep_recv_multishot(sqe, fd, NULL, 0, 0);
        sqe->flags |= IOSQE_BUFFER_SELECT;
        sqe->buf_group = BUFFER_GROUP;
    } else {
        io_uring_prep_recv(sqe, fd, buffer_at((unsigned)fd), server.buffer_bytes, 0);
    }
    if (c->poll_first)
        sqe->ioprio |= IORING_RECVSEND_POLL_FIRST;
    c->receiving = true;
    c->cancelling = false;
}

static void submit_send(int fd, const unsigned char *data, size_t len)
{
    struct io_uring_sqe *sqe = take_sqe(fd, OP_SEND);
    /* MSG_WAITALL: the kernel itself goes on after a short send. */
    io_uring_prep_send(sqe, fd, data, len, MSG_NOSIGNAL | MSG_WAITALL);
    server.conns[fd].sending = true;
}

/* ---- the buffers of multishot ---- */

/* Gives a buffer back. The kernel sees it at the end of the turn (buffers_show). */
static void buffer_give(unsigned bid)
{
    io_uring_buf_ring_add(server.buf_ring, buffer_at(bid), (unsigned)server.buffer_bytes,
                          (unsigned short)bid, io_uring_buf_ring_mask(server.buffers_count),
                          server.buffers_added++);
    server.buffers_free++;
}

static void buffers_show(void)
{
    if (server.buffers_added)
        io_uring_buf_ring_advance(server.buf_ring, server.buffers_added);
    server.buffers_added = 0;
}

static void queue_push(struct conn *c, uint16_t bid, uint32_t len)
{
    server.next_buffer[bid] = NO_BUFFER;
    server.buffer_len[bid] = len;
    if (c->queued++)
        server.next_buffer[c->last] = bid;
    else
        c->first = bid;
    c->last = bid;
}

static void queue_pop(struct conn *c)
{
    unsigned bid = c->first;
    c->first = server.next_buffer[bid];
    c->queued--;
    buffer_give(bid);
}

static void starve(int fd)
{
    server.conns[fd].starved = true;
    server.starved[(server.starved_first + server.starved_count++) % server.fd_limit] = fd;
}

/* ---- a connection ---- */

static void conn_open(int fd)
{
    struct conn *c = &server.conns[fd];
    memset(c, 0, sizeof *c);
    server.counters.connections++;
    server.open++;
    if ((uint64_t)server.open > server.counters.peak)
        server.counters.peak = (uint64_t)server.open;
    submit_recv(fd);
}

/* Closes a connection that is over, once the kernel holds nothing of it. At most one submission. */
static void conn_settle(int fd)
{
    struct conn *c = &server.conns[fd];
    bool over = c->failed || (c->ended && !c->sending && c->queued == 0);
    if (!over)
        return;
    if (c->receiving && !c->cancelling)
        submit_cancel(fd);
    if (c->receiving || c->sending || c->starved)
        return;
    while (c->queued)
        queue_pop(c);
    server.counters.resets += c->failed;
    c->ended = c->failed = false;
    submit_close(fd);
}

static void received(int fd, const struct io_uring_cqe *cqe)
{
    struct conn *c = &server.conns[fd];
    c->receiving = false;
    server.counters.messages++;
    c->off = 0;
    c->len = (uint32_t)cqe->res;
    submit_send(fd, buffer_at((unsigned)fd), c->len);
}

static void received_multishot(int fd, const struct io_uring_cqe *cqe)
{
    struct conn *c = &server.conns[fd];
    uint16_t bid = (uint16_t)(cqe->flags >> IORING_CQE_BUFFER_SHIFT);
    server.counters.messages++;
    server.buffers_free--;
    c->receiving = cqe->flags & IORING_CQE_F_MORE;
    queue_push(c, bid, (uint32_t)cqe->res);
    if (c->failed)
        return; /* conn_settle gives it back */
    if (!c->sending) {
        c->off = 0;
        submit_send(fd, buffer_at(bid), (size_t)cqe->res);
    }
    if (c->queued < QUEUE_MAX) {
        if (!c->receiving)
            submit_recv(fd);
    } else if (c->receiving && !c->cancelling) {
        server.throttled++;
        submit_cancel(fd); /* goes on when the queue is empty */
    }
}

static void on_recv(int fd, const struct io_uring_cqe *cqe)
{
    struct conn *c = &server.conns[fd];
    if (features[F_POLL_FIRST].on)
        c->poll_first = !(cqe->flags & IORING_CQE_F_SOCK_NONEMPTY);
    if (cqe->res > 0) {
        if (server.mode == RECV_MULTISHOT)
            received_multishot(fd, cqe);
        else
            received(fd, cqe);
    } else if (cqe->res == -ENOBUFS) {
        server.no_buffers++;
        c->receiving = false;
        starve(fd);
    } else {
        c->receiving = cqe->flags & IORING_CQE_F_MORE;
        if (cqe->res == 0)
            c->ended = true;
        else if (cqe->res != -ECANCELED) /* that one is our own wish, see submit_cancel */
            c->failed = true;
        else if (!c->failed && !c->ended && c->queued == 0 && server.mode == RECV_MULTISHOT)
            submit_recv(fd); /* the queue emptied before the cancel was through */
    }
    conn_settle(fd);
}

/* The whole send is out: what comes next. */
static void sent_all(int fd)
{
    struct conn *c = &server.conns[fd];
    c->sending = false;
    if (c->failed)
        return;
    if (server.mode == RECV_ONESHOT) {
        submit_recv(fd);
    } else {
        queue_pop(c);
        c->off = 0;
        if (c->queued)
            submit_send(fd, buffer_at(c->first), server.buffer_len[c->first]);
        else if (!c->receiving && !c->starved && !c->ended)
            submit_recv(fd);
    }
}

static void on_send(int fd, const struct io_uring_cqe *cqe)
{
    struct conn *c = &server.conns[fd];
    bool multishot = server.mode == RECV_MULTISHOT;
    unsigned index = multishot ? c->first : (unsigned)fd;
    uint32_t len = multishot ? server.buffer_len[index] : c->len;
    if (cqe->res < 0) {
        c->sending = false;
        c->failed = true;
        conn_settle(fd);
        return;
    }
    server.counters.bytes += (uint64_t)cqe->res;
    c->off += (uint32_t)cqe->res;
    if (c->off >= len) {
        sent_all(fd);
    } else if (c->failed) {
        c->sending = false;
    } else {
        server.short_sends++;
        submit_send(fd, buffer_at(index) + c->off, len - c->off);
    }
    conn_settle(fd);
}

static void on_accept(const struct io_uring_cqe *cqe)
{
    bool more = cqe->flags & IORING_CQE_F_MORE;
    if (cqe->res >= 0) {
        conn_open(cqe->res);
    } else if (cqe->res == -EMFILE || cqe->res == -ENFILE) {
        if (!server.told_full)
            fprintf(stderr,
                    "echo_uring: %ld connections are open and descriptors have run out: "
                    "newcomers wait (raise 'ulimit -n')\n",
                    server.open);
        server.told_full = true;
        server.accept_off = !more;
        return;
    } else if (cqe->res == -EINVAL && server.accept_multishot) {
        server.accept_multishot = false; /* before Linux 5.19 */
    } else if (cqe->res != -ECONNABORTED && cqe->res != -EINTR) {
        fprintf(stderr, "echo_uring: accept: %s\n", strerror(-cqe->res));
    }
    if (!more)
        submit_accept();
}

static void handle(const struct io_uring_cqe *cqe)
{
    int fd = (int)(cqe->user_data >> 8);
    switch ((enum op)(cqe->user_data & 0xff)) {
    case OP_ACCEPT: on_accept(cqe); break;
    case OP_RECV: on_recv(fd, cqe); break;
    case OP_SEND: on_send(fd, cqe); break;
    case OP_SIGNAL: server.stop = true; break;
    case OP_CANCEL: break; /* only the receive's own completion says that it ended */
    case OP_CLOSE:
        server.open--;
        if (server.accept_off)
            submit_accept();
        break;
    }
}

/* ---- the loop ---- */

/* One receive a free buffer for those that had none. */
static void feed_starved(void)
{
    unsigned feed = server.buffers_free;
    while (server.starved_count && feed && io_uring_sq_space_left(&server.ring) >= SQES_PER_CQE) {
        int fd = server.starved[server.starved_first];
        struct conn *c = &server.conns[fd];
        server.starved_first = (server.starved_first + 1) % server.fd_limit;
        server.starved_count--;
        c->starved = false;
        if (c->failed || c->ended) {
            conn_settle(fd);
        } else if (!c->receiving && c->queued == 0) { /* otherwise its own sends go on with it */
            submit_recv(fd);
            feed--;
        }
    }
}

static void handle_completions(void)
{
    struct io_uring_cqe *cqe;
    unsigned head, count = 0;
    io_uring_for_each_cqe(&server.ring, head, cqe)
    {
        if (io_uring_sq_space_left(&server.ring) < SQES_PER_CQE)
            break; /* submit first: the rest is still there after that */
        handle(cqe);
        count++;
    }
    io_uring_cq_advance(&server.ring, count);
    buffers_show();
    if (server.starved_count)
        feed_starved();
}

static unsigned ring_flags(void)
{
    return IO_URING_READ_ONCE(*server.ring.sq.kflags);
}

/* Looks for completions without sleeping. A DEFER_TASKRUN ring shows that there are some by the
 * TASKRUN flag and posts them only on enter. True when there are some. */
static bool spin(void)
{
    uint64_t until_ns = now_ns() + server.spin_ns;
    for (unsigned i = 1;; i++) {
        if (io_uring_cq_ready(&server.ring))
            return true;
        if (ring_flags() & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) {
            server.counters.syscalls++;
            io_uring_get_events(&server.ring);
        } else if (i % SPINS_PER_LOOK == 0 && now_ns() >= until_ns) {
            return false;
        } else {
            cpu_relax();
        }
    }
}

/* An enter of a DEFER_TASKRUN ring runs about 20 of the receives that had to wait (Linux 6.13 and
 * later), but all of those that found their data at once. Under load the latter would crowd out the
 * former: so the others are taken too, about 20 a call, before any is answered. */
static void take_deferred(void)
{
    for (unsigned i = 0; i < server.drain_max && (ring_flags() & IORING_SQ_TASKRUN); i++) {
        server.counters.syscalls++;
        server.deferred++;
        io_uring_get_events(&server.ring);
    }
}

/* Submits everything and comes back with at least one completion, or with -errno. */
static int submit_and_wait(void)
{
    if (ring_flags() & IORING_SQ_CQ_OVERFLOW)
        server.overflows++;
    if (server.spin_ns) {
        int rc = 0;
        if (io_uring_sq_ready(&server.ring)) {
            server.counters.syscalls++;
            rc = io_uring_submit_and_get_events(&server.ring);
        }
        if (rc < 0 || io_uring_cq_ready(&server.ring))
            return rc;
        if (spin()) {
            server.spins_won++;
            return 0;
        }
        server.spins_lost++;
    }
    server.counters.syscalls++;
    return io_uring_submit_and_wait(&server.ring, 1);
}

static int serve(void)
{
    struct io_uring_sqe *sqe = take_sqe(server.signals, OP_SIGNAL);
    io_uring_prep_poll_add(sqe, server.signals, POLLIN);
    submit_accept();
    while (!server.stop) {
        int rc = submit_and_wait();
        if (rc < 0 && rc != -EINTR && rc != -EAGAIN && rc != -EBUSY) {
            fprintf(stderr, "echo_uring: io_uring_enter: %s\n", strerror(-rc));
            return 1;
        }
        take_deferred();
        handle_completions();
    }
    return 0;
}

/* ---- set-up ---- */

/* Makes the ring with all features the kernel takes: one less at each refusal. */
static int ring_make(void)
{
    for (;;) {
        struct io_uring_params p = {.flags = IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP};
        p.cq_entries = server.cq_entries;
        features[F_DEFER].on = features[F_DEFER].on && features[F_SINGLE].on;
        bool coop = !features[F_DEFER].on && features[F_COOP].on;
        for (int i = 0; i < F_SETUP_COUNT; i++)
            p.flags |= features[i].on ? features[i].flag : 0;
        if (coop)
            p.flags |= IORING_SETUP_COOP_TASKRUN;
        if (coop || features[F_DEFER].on)
            p.flags |= IORING_SETUP_TASKRUN_FLAG;
        int rc = io_uring_queue_init_params(server.sq_entries, &server.ring, &p);
        if (rc == 0)
            break;
        int drop = 0;
        while (drop < F_SETUP_COUNT && !features[drop].on)
            drop++;
        if (rc == -EINVAL && drop < F_SETUP_COUNT) {
            features[drop].on = false;
        } else if (rc == -EINVAL && coop) {
            features[F_COOP].on = false;
        } else {
            fprintf(stderr,
                    "echo_uring: no io_uring: %s (EPERM: see kernel.io_uring_disabled and "
                    "the container's seccomp profile; ENOMEM: see 'ulimit -l')\n",
                    strerror(-rc));
            return -1;
        }
    }
    server.ring_made = true;
    if (features[F_RING_FD].on && io_uring_register_ring_fd(&server.ring) < 0)
        features[F_RING_FD].on = false;
    return 0;
}

/* Room for all buffers. Reserved only: a page costs memory when it is first written. The odd step
 * keeps the beginnings of the buffers out of one and the same cache set. */
static int buffers_make(void)
{
    bool multishot = server.mode == RECV_MULTISHOT;
    size_t count = multishot ? server.buffers_count : (size_t)server.fd_limit;
    server.buffer_step = (server.buffer_bytes + 63) / 64 * 64 + 64;
    void *at = mmap(NULL, count * server.buffer_step, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) {
        fprintf(stderr, "echo_uring: no room for %zu buffers of %zu bytes: %s\n", count,
                server.buffer_bytes, strerror(errno));
        return -1;
    }
    server.buffers = at;
    return 0;
}

static int buffer_ring_make(void)
{
    int rc = 0;
    server.next_buffer = calloc(server.buffers_count, sizeof *server.next_buffer);
    server.buffer_len = calloc(server.buffers_count, sizeof *server.buffer_len);
    server.starved = calloc((size_t)server.fd_limit, sizeof *server.starved);
    server.buf_ring =
        io_uring_setup_buf_ring(&server.ring, server.buffers_count, BUFFER_GROUP, 0, &rc);
    if (!server.buf_ring || !server.next_buffer || !server.buffer_len || !server.starved) {
        fprintf(stderr, "echo_uring: no ring of %u buffers: %s (multishot needs Linux 6.0)\n",
                server.buffers_count, strerror(rc ? -rc : ENOMEM));
        return -1;
    }
    for (unsigned bid = 0; bid < server.buffers_count; bid++)
        buffer_give(bid);
    buffers_show();
    return 0;
}

static void report(bool stats)
{
    char extra[512];
    unsigned n = (unsigned)snprintf(extra, sizeof extra, ",\"features\":\"");
    for (int i = 0; i < F_COUNT; i++)
        if (features[i].on && !(i == F_COOP && features[F_DEFER].on))
            n += (unsigned)snprintf(extra + n, sizeof extra - n, "%s ", features[i].name);
    n -= extra[n - 1] == ' ';
    snprintf(extra + n, sizeof extra - n, "\",\"overflows\":%llu,\"no_buffers\":%llu",
             (unsigned long long)server.overflows, (unsigned long long)server.no_buffers);
    if (stats)
        fprintf(stderr,
                "echo_uring: calls for the deferred %llu; spins won %llu, lost %llu; short "
                "sends %llu; throttled %llu\n",
                (unsigned long long)server.deferred, (unsigned long long)server.spins_won,
                (unsigned long long)server.spins_lost, (unsigned long long)server.short_sends,
                (unsigned long long)server.throttled);
    counters_print("echo_uring", &server.counters, extra);
}

/* ---- options ---- */

static void usage(void)
{
    fprintf(stderr, "usage: echo_uring HOST:PORT [--cpu K] [--recv oneshot|multishot]\n"
                    "                  [--spin US] [--stats] [--buffer BYTES] [--buffers N]\n"
                    "                  [--entries N] [--cq N] [--drain N] [--with NAME,...]\n"
                    "                  [--without NAME,...]\n"
                    "names:");
    for (int i = 0; i < F_COUNT; i++)
        fprintf(stderr, " %s", features[i].name);
    fprintf(stderr, "\n");
    exit(2);
}

static void parse_features(char *names, bool on)
{
    for (char *name = names ? strtok(names, ",") : NULL; name; name = strtok(NULL, ",")) {
        int i = 0;
        while (i < F_COUNT && strcmp(features[i].name, name))
            i++;
        if (i == F_COUNT)
            usage();
        features[i].on = on;
    }
}

static enum recv_mode parse_recv(const char *name)
{
    if (name && !strcmp(name, "multishot"))
        return RECV_MULTISHOT;
    if (!name || strcmp(name, "oneshot"))
        usage();
    return RECV_ONESHOT;
}

static const char *parse_options(int argc, char **argv, bool *ret_stats)
{
    const char *address = NULL;
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i];
        char *value = argv[i + 1]; /* argv ends with NULL */
        if (!strcmp(name, "--stats")) {
            *ret_stats = true;
            continue;
        }
        if (name[0] != '-' && !address) {
            address = name;
            continue;
        }
        if (!strcmp(name, "--cpu")) {
            if (pin_to_cpu((int)parse_number(name, value, 0, CPU_SETSIZE - 1)) < 0)
                exit(1);
        } else if (!strcmp(name, "--recv")) {
            server.mode = parse_recv(value);
        } else if (!strcmp(name, "--spin")) {
            server.spin_ns = 1000u * (uint64_t)parse_number(name, value, 0, 1000000);
        } else if (!strcmp(name, "--buffer")) {
            server.buffer_bytes = (size_t)parse_number(name, value, 1, 1 << 20);
        } else if (!strcmp(name, "--buffers")) {
            server.buffers_count = (unsigned)parse_number(name, value, 1, 32768);
        } else if (!strcmp(name, "--entries")) {
            server.sq_entries = (unsigned)parse_number(name, value, 4, 32768);
        } else if (!strcmp(name, "--cq")) {
            server.cq_entries = (unsigned)parse_number(name, value, 4, 65536);
        } else if (!strcmp(name, "--drain")) {
            server.drain_max = (unsigned)parse_number(name, value, 0, 1000);
        } else if (!strcmp(name, "--without")) {
            parse_features(value, false);
        } else if (!strcmp(name, "--with")) {
            parse_features(value, true);
        } else {
            usage();
        }
        i++;
    }
    if (!address || (server.buffers_count & (server.buffers_count - 1))) {
        if (address)
            fprintf(stderr, "--buffers wants a power of two\n");
        usage();
    }
    return address;
}

int main(int argc, char **argv)
{
    bool stats = false;
    int rc = 1;
    const char *address = parse_options(argc, argv, &stats);
    if (server.cq_entries < server.sq_entries)
        server.cq_entries = server.sq_entries;
    server.fd_limit = raise_fd_limit();
    server.conns = calloc((size_t)server.fd_limit, sizeof *server.conns);
    server.signals = stop_signal_fd();
    server.listener = listen_on(address, 0);
    if (!server.conns || server.signals < 0 || server.listener < 0)
        goto out;
    if (ring_make() < 0 || buffers_make() < 0 ||
        (server.mode == RECV_MULTISHOT && buffer_ring_make() < 0))
        goto out;
    rc = serve();
    report(stats);
out:
    if (server.ring_made)
        io_uring_queue_exit(&server.ring);
    if (server.listener >= 0)
        close(server.listener);
    if (server.signals >= 0)
        close(server.signals);
    free(server.starved);
    free(server.buffer_len);
    free(server.next_buffer);
    free(server.conns);
    return rc;
}
