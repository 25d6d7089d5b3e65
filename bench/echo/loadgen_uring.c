/*
 * loadgen_uring.c: the engine on io_uring, which makes a client cheaper than any server under test.
 *
 * Why it exists: a client on epoll costs as much CPU a message as a server on epoll, and more than
 * one on io_uring. With a core each, the client is then the bottleneck: the faster server waits for
 * it, gets one or two messages at a time, and cannot show what it gains by taking many at once.
 *
 * The idea: half the work of a server. One multishot receive a connection, which never has to be
 * renewed, into a common ring of buffers that are checked and given back at once; sends that make
 * no completion; one enter a turn for all.
 *
 * Invariants
 *   - One send a connection at a time (the kernel may overtake a send that waits with a later one).
 *     c->flight > 0 says that there is one. With depth 1 a send needs no completion: the answer
 *     proves it, and nothing is sent before the answer.
 *   - What is being sent stays untouched in the connection's own place in `tx`.
 *   - A closed connection keeps its number for ever, so a late completion finds fd == -1.
 */
#include "loadgen.h"

#include <liburing.h>
#include <poll.h>
#include <sys/mman.h>

enum {
    SQ_ENTRIES = 1024,
    CQ_ENTRIES = 8192,
    BUFFERS = 1024,
    BUFFER_BYTES_MIN = 512,
    BUFFER_BYTES_MAX = 32 * 1024,
    TX_BYTES_MAX = 64 * 1024,
    GROUP = 0,
};

/* The top byte of a completion's user data; below it the number of the connection. */
enum kind { KIND_RECV, KIND_SEND, KIND_IDLE, KIND_TIMER };

static struct io_uring ring;
static bool ring_made;
static struct io_uring_buf_ring *buf_ring;
static unsigned char *buffers, *tx;
static size_t buffer_bytes, buffer_step, tx_bytes, tx_step;
static bool silent_sends;

/* An entry of the submission queue, which is emptied first if it is full. */
static struct io_uring_sqe *take_sqe(enum kind kind, long index)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
    while (!sqe) {
        int rc = io_uring_submit(&ring);
        if (rc < 0 && rc != -EINTR && rc != -EAGAIN && rc != -EBUSY) {
            fprintf(stderr, "loadgen: io_uring_enter: %s\n", strerror(-rc));
            exit(1);
        }
        sqe = io_uring_get_sqe(&ring);
    }
    sqe->user_data = (uint64_t)kind << 56 | (uint64_t)index;
    return sqe;
}

static void submit_recv(long index)
{
    struct io_uring_sqe *sqe = take_sqe(KIND_RECV, index);
    io_uring_prep_recv_multishot(sqe, load.conns[index].fd, NULL, 0, 0);
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->ioprio |= IORING_RECVSEND_POLL_FIRST;
    sqe->buf_group = GROUP;
}

static void submit_poll(enum kind kind, long index, int fd)
{
    io_uring_prep_poll_add(take_sqe(kind, index), fd, POLLIN | POLLRDHUP);
}

static void buffer_give(unsigned bid, int offset)
{
    io_uring_buf_ring_add(buf_ring, buffers + bid * buffer_step, (unsigned)buffer_bytes,
                          (unsigned short)bid, io_uring_buf_ring_mask(BUFFERS), offset);
}

static size_t clamp(size_t value, size_t low, size_t high)
{
    return value < low ? low : value > high ? high : value;
}

/* An odd number of cache lines from one to the next keeps the beginnings out of one cache set. */
static size_t odd_lines(size_t bytes)
{
    return ((bytes + 63) / 64 | 1) * 64;
}

static unsigned char *reserve(size_t bytes)
{
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return at == MAP_FAILED ? NULL : at;
}

static int make_buffers(void)
{
    size_t on_way = (size_t)opt.size * (size_t)opt.depth;
    int rc = 0;
    buffer_bytes = clamp(on_way, BUFFER_BYTES_MIN, BUFFER_BYTES_MAX);
    buffer_step = odd_lines(buffer_bytes);
    tx_bytes = clamp(on_way, 8, TX_BYTES_MAX);
    tx_step = odd_lines(tx_bytes + 16);
    silent_sends = opt.depth == 1 && (size_t)opt.size <= tx_bytes;
    buffers = reserve(BUFFERS * buffer_step);
    tx = reserve((size_t)(opt.connections + 1) * tx_step);
    buf_ring = io_uring_setup_buf_ring(&ring, BUFFERS, GROUP, 0, &rc);
    if (!buffers || !tx || !buf_ring) {
        fprintf(stderr, "loadgen: no ring of buffers: %s (use --engine epoll)\n",
                strerror(rc ? -rc : ENOMEM));
        return -1;
    }
    for (int bid = 0; bid < BUFFERS; bid++)
        buffer_give((unsigned)bid, bid);
    io_uring_buf_ring_advance(buf_ring, BUFFERS);
    return 0;
}

static int start(void)
{
    struct io_uring_params p = {.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
                                         IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CQSIZE,
                                .cq_entries = CQ_ENTRIES};
    int rc = io_uring_queue_init_params(SQ_ENTRIES, &ring, &p);
    if (rc < 0) {
        fprintf(stderr, "loadgen: no io_uring: %s (needs Linux 6.1; use --engine epoll)\n",
                strerror(-rc));
        return -1;
    }
    ring_made = true;
    io_uring_register_ring_fd(&ring); /* only saves a little */
    if (make_buffers() < 0)
        return -1;
    submit_poll(KIND_TIMER, 0, load.timer);
    for (long i = 0; i < opt.connections; i++)
        submit_recv(i);
    for (long i = 0; i < opt.idle; i++)
        submit_poll(KIND_IDLE, i, load.idle_fds[i]);
    return 0;
}

static void finish(void)
{
    if (ring_made)
        io_uring_queue_exit(&ring);
}

static void submit_send(struct conn *c, const unsigned char *from, size_t bytes)
{
    struct io_uring_sqe *sqe = take_sqe(KIND_SEND, c - load.conns);
    /* MSG_WAITALL: the kernel itself goes on after a short send. */
    io_uring_prep_send(sqe, c->fd, from, bytes, MSG_NOSIGNAL | MSG_WAITALL);
    if (silent_sends)
        sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
}

/* Where a connection's bytes stand while they are sent. */
static unsigned char *conn_tx(const struct conn *c)
{
    return tx + (size_t)(c - load.conns) * tx_step;
}

static void send_owed(struct conn *c, uint64_t time_ns)
{
    unsigned char *first;
    if (!c->owed || c->flight)
        return;
    size_t bytes = conn_fill(c, conn_tx(c), tx_bytes, time_ns, &first);
    submit_send(c, first, bytes);
    conn_sent(c, bytes);
    if (!silent_sends) {
        c->flight = (uint32_t)bytes;
        c->flight_done = (uint32_t)(first - conn_tx(c));
    }
}

static void forget(struct conn *c)
{
    shutdown(c->fd, SHUT_RDWR); /* close alone does not end what the ring holds of the socket */
}

static void on_send(struct conn *c, int res)
{
    if (c->fd < 0)
        return;
    if (res < 0 || silent_sends) { /* a silent send completes only when it went wrong */
        conn_fail(c, "send", res < 0 ? -res : EIO);
        return;
    }
    c->flight -= (uint32_t)res;
    c->flight_done += (uint32_t)res;
    if (c->flight)
        submit_send(c, conn_tx(c) + c->flight_done, c->flight);
    else
        send_owed(c, now_ns());
}

/* Returns 1 if a buffer was given back, at `offset` of those not yet shown to the kernel. */
static int on_recv(long index, const struct io_uring_cqe *cqe, int offset)
{
    struct conn *c = &load.conns[index];
    unsigned bid = cqe->flags >> IORING_CQE_BUFFER_SHIFT;
    bool used = cqe->flags & IORING_CQE_F_BUFFER;
    if (c->fd >= 0) {
        if (cqe->res > 0)
            conn_receive(c, buffers + bid * buffer_step, (size_t)cqe->res);
        else if (cqe->res == 0)
            conn_fail(c, "the server closed it", 0);
        else if (cqe->res != -ENOBUFS) /* that one: the buffers are back before it is renewed */
            conn_fail(c, "recv", -cqe->res);
    }
    if (used)
        buffer_give(bid, offset);
    if (!(cqe->flags & IORING_CQE_F_MORE) && c->fd >= 0)
        submit_recv(index);
    return used;
}

static int handle_completions(void)
{
    struct io_uring_cqe *cqe;
    unsigned head, count = 0;
    int given = 0;
    io_uring_for_each_cqe(&ring, head, cqe)
    {
        long index = (long)(cqe->user_data & 0xffffffff);
        count++;
        switch ((enum kind)(cqe->user_data >> 56)) {
        case KIND_RECV: given += on_recv(index, cqe, given); break;
        case KIND_SEND: on_send(&load.conns[index], cqe->res); break;
        case KIND_IDLE: idle_fail(index); break;
        case KIND_TIMER:
            next_phase();
            submit_poll(KIND_TIMER, 0, load.timer);
            break;
        }
    }
    io_uring_buf_ring_cq_advance(&ring, buf_ring, given);
    io_uring_cq_advance(&ring, count - (unsigned)given);
    return 0;
}

static int turn(uint64_t timeout_ns)
{
    struct io_uring_cqe *cqe;
    struct __kernel_timespec t = {.tv_sec = (long long)(timeout_ns / 1000000000u),
                                  .tv_nsec = (long long)(timeout_ns % 1000000000u)};
    int rc = timeout_ns == UINT64_MAX ? io_uring_submit_and_wait(&ring, 1)
                                      : io_uring_submit_and_wait_timeout(&ring, &cqe, 1, &t, NULL);
    if (rc < 0 && rc != -EINTR && rc != -EAGAIN && rc != -EBUSY && rc != -ETIME) {
        fprintf(stderr, "loadgen: io_uring_enter: %s\n", strerror(-rc));
        return -1;
    }
    return handle_completions();
}

const struct engine engine_uring = {.name = "uring",
                                    .start = start,
                                    .send = send_owed,
                                    .forget = forget,
                                    .turn = turn,
                                    .finish = finish};
