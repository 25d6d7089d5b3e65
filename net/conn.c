/*
 * conn.c: streams (whorl/conn.h).
 *
 *      peek:  nothing there --OP_RECV_BUFFER--> a buffer of the worker's is the stream's
 *                  ^                                |  more: received behind what is there
 *                  |                                |  too small: all moves to memory of its own
 *                  `---------- all consumed: given back
 *      read:  what is there is copied; if nothing is, received to where the caller wants it
 *
 * in_begin <= in_end <= in_size: what lies between the first two is received and not consumed. A
 * stream whose in_begin == in_end has no buffer, but while a peek is adding to it.
 *
 * When the worker has no buffer left, or cannot have any, the stream waits until there is something
 * to receive and takes memory of its own: nothing is delayed, and there is no more of that than
 * there are streams with bytes that nobody has consumed.
 *
 * Rejected: a multishot receive for each stream. It receives what nobody has asked for: a peer that
 * is fast takes all buffers of the worker, and stopping it, which a slow reader needs, is a cancel
 * and a new receive. A single receive that picks its buffer when data has come holds as little
 * while it waits, and the submission that it costs goes with the next enter anyway.
 */
#include "net/conn.h"

#include "sched/recv_buffer.h"
#include "sched/sched.h"

#include <whorl/ctx.h>
#include <whorl/io.h>
#include <whorl/time.h>

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    OUT_BYTES = 4096,
    PIECES_MAX = 64,
    DELIMITER_MAX = 64,
};

#define IN_BYTES_MAX ((size_t)1 << 30)

struct wh_conn {
    const wh_conn_ops *ops;
    void *self;
    wh_fd fd;
    bool is_socket;
    bool reading; /* a coroutine is in a call that reads */
    bool writing;
    bool in_over; /* the end of the stream has been seen */
    int in_error; /* what the end is: 0 or -errno */
    int out_error;
    char *in;
    uint32_t in_size, in_begin, in_end;
    uint32_t out_len;
    char *out;       /* OUT_BYTES, or NULL */
    bool in_is_lent; /* `in` is a buffer of that worker's; else memory of our own */
    uint8_t in_worker;
    uint16_t in_number;
    bool is_served; /* wh_serve() closes it, nobody else */
    bool is_part;   /* atomic, its reader and its writer may be on two workers: conn_is_whole() */
    int64_t read_ns, write_ns;
    wh_conn_stats stats;
};

/* There are as many as connections; 128 is a size that allocators have. */
static_assert(sizeof(struct wh_conn) <= 128, "see above");

/* ---- Taking turns ---- */

static void leave_turn(bool **turn)
{
    **turn = false;
}

static void take_turn(bool *turn, const char *call)
{
    if (unlikely(*turn))
        coro_misuse(self_or_panic(call), call,
                    "calls it while another coroutine is in such a call of the same stream, or "
                    "after the stream was closed");
    *turn = true;
}

/* To the end of the function: it reads, or writes. */
#define TURN(turn, call)                                                \
    bool *turn_ __attribute__((cleanup(leave_turn), unused)) = &(turn); \
    take_turn(turn_, call)

/* ---- What it is made of ---- */

static ssize_t fd_read(void *self, void *buf, size_t len)
{
    const wh_conn *conn = self;
    return conn->is_socket ? wh_recv(conn->fd, buf, len, 0) : wh_read(conn->fd, buf, len);
}

static ssize_t fd_writev(void *self, const struct iovec *iov, int count)
{
    const wh_conn *conn = self;
    if (!conn->is_socket)
        return wh_writev(conn->fd, iov, count);
    if (count == 1)
        return wh_send(conn->fd, iov->iov_base, iov->iov_len, 0);
    const struct msghdr msg = {.msg_iov = (struct iovec *)(uintptr_t)iov,
                               .msg_iovlen = (size_t)count};
    return wh_sendmsg(conn->fd, &msg, 0);
}

static int fd_shutdown(void *self)
{
    const wh_conn *conn = self;
    return conn->is_socket ? wh_shutdown(conn->fd, SHUT_WR) : -EOPNOTSUPP;
}

static int fd_close_whole(void *self)
{
    const wh_conn *conn = self;
    return wh_close(conn->fd);
}

static const wh_conn_ops fd_ops = {fd_read, fd_writev, fd_shutdown, fd_close_whole};

static wh_conn *create(const wh_conn_ops *ops, void *self)
{
    wh_conn *conn = mem_zalloc(sizeof *conn);
    if (!conn)
        return NULL;
    conn->ops = ops;
    conn->self = self;
    conn->fd = -1;
    conn->read_ns = conn->write_ns = WH_NEVER;
    return conn;
}

int wh_conn_create(wh_conn **ret_conn, wh_fd fd)
{
    wh_conn *conn = create(&fd_ops, NULL);
    if (!conn)
        return -ENOMEM;
    int type;
    socklen_t len = sizeof type;
    conn->self = conn;
    conn->fd = fd;
    conn->is_socket = fd_is_direct(fd) || getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0;
    *ret_conn = conn;
    return 0;
}

int wh_conn_wrap(wh_conn **ret_conn, const wh_conn_ops *ops, void *self)
{
    wh_conn *conn = create(ops, self);
    if (!conn)
        return -ENOMEM;
    *ret_conn = conn;
    return 0;
}

/* ---- The buffer of what is received ---- */

static void in_release(wh_conn *conn)
{
    if (!conn->in)
        return;
    if (conn->in_is_lent) {
        INSIDE(self, "wh_conn_consume");
        struct recv_buffer buffer = {conn->in, conn->in_worker, conn->in_number};
        recv_buffer_return(self->worker, &buffer);
        conn->in_is_lent = false;
    } else {
        mem_free(conn->in);
    }
    conn->in = NULL;
    conn->in_size = conn->in_begin = conn->in_end = 0;
}

/* Memory of its own, with room for one byte at least and `size` in all. Returns 0 or -ENOMEM. */
static int in_grow(wh_conn *conn, size_t size)
{
    size_t len = conn->in_end - conn->in_begin;
    char *in = mem_alloc(size);
    if (!in)
        return -ENOMEM;
    if (conn->in)
        memcpy(in, conn->in + conn->in_begin, len);
    in_release(conn);
    conn->in = in;
    conn->in_size = (uint32_t)size;
    conn->in_end = (uint32_t)len;
    return 0;
}

/* Room behind what is there, and for `min` bytes in all. */
static int in_make_room(wh_conn *conn, size_t min)
{
    size_t len = conn->in_end - conn->in_begin;
    if (min < len + 1)
        min = len + 1;
    if (conn->in_begin + min <= conn->in_size)
        return 0;
    if (conn->in && min <= conn->in_size) {
        memmove(conn->in, conn->in + conn->in_begin, len);
        conn->in_begin = 0;
        conn->in_end = (uint32_t)len;
        return 0;
    }
    size_t size = conn->in_size ? 2 * (size_t)conn->in_size : RECV_BUFFER_BYTES;
    return in_grow(conn, size < min ? min : size);
}

/* Counts what other workers may read. */
static inline void tally(uint64_t *figure, uint64_t by)
{
    __atomic_store_n(figure, *figure + by, __ATOMIC_RELAXED);
}

static void part_set(wh_conn *conn)
{
    __atomic_store_n(&conn->is_part, true, __ATOMIC_RELAXED);
}

/* After which a read may go on. */
static bool is_of_caller(ssize_t error)
{
    return error == -ETIMEDOUT || error == -ECANCELED || error == -ENOMEM || error == -EXDEV;
}

/* After -ETIMEDOUT, inside of the stream's own timeout: no time has passed, so the kernel has given
 * the connection up. It says so once, and then that it has ended. */
static bool is_given_up(const wh_conn *conn)
{
    return conn->fd >= 0 && wh_ctx_err(NULL) == 0;
}

static ssize_t received(wh_conn *conn, ssize_t n)
{
    if (n > 0) {
        tally(&conn->stats.bytes_in, (uint64_t)n);
        tally(&conn->stats.reads, 1);
    } else if (!is_of_caller(n)) {
        part_set(conn);
    } else if (unlikely(n == -ETIMEDOUT && is_given_up(conn))) {
        conn_lost(conn, -ETIMEDOUT);
    }
    if (n == 0)
        conn->in_over = true;
    return n;
}

/* Receives into a buffer of the worker's: as recv(2); -ENOBUFS when it has none. */
static ssize_t receive_in_buffer(wh_conn *conn)
{
    wh_coro *self = enter("wh_conn_peek");
    if (!recv_buffers_have(self->worker))
        return leave(self, -ENOBUFS);
    self->op = (struct op){.code = OP_RECV_BUFFER, .fd = conn->fd};
    int n = op_await(self, 0);
    (void)enter("wh_conn_peek");
    struct recv_buffer buffer;
    if (recv_buffer_take(self->worker, &self->op, &buffer) && n > 0) {
        conn->in = buffer.bytes;
        conn->in_worker = buffer.worker;
        conn->in_number = buffer.number;
        conn->in_is_lent = true;
        conn->in_size = RECV_BUFFER_BYTES;
        conn->in_begin = 0;
        conn->in_end = (uint32_t)n;
    } else {
        recv_buffer_return(self->worker, &buffer);
    }
    return leave(self, n);
}

/* Receives some more bytes behind those that are there, with room for `min` in all. */
static ssize_t fill_now(wh_conn *conn, size_t min)
{
    if (conn->in_over)
        return conn->in_error;
    if (!conn->in && conn->is_socket && min <= RECV_BUFFER_BYTES) {
        ssize_t n = receive_in_buffer(conn);
        if (likely(n != -ENOBUFS))
            return received(conn, n);
    }
    if (!conn->in && conn->fd >= 0) {
        int rc = wh_poll(conn->fd, POLLIN); /* no memory is taken until there is something */
        if (rc < 0)
            return rc;
    }
    int rc = in_make_room(conn, min);
    if (rc < 0)
        return rc;
    ssize_t n = conn->ops->read(conn->self, conn->in + conn->in_end, conn->in_size - conn->in_end);
    if (n > 0)
        conn->in_end += (uint32_t)n;
    else if (conn->in_begin == conn->in_end)
        in_release(conn);
    return received(conn, n);
}

static ssize_t fill(wh_conn *conn, size_t min)
{
    if (conn->read_ns == WH_NEVER)
        return fill_now(conn, min);
    ssize_t n = 0;
    WH_WITH_TIMEOUT(conn->read_ns)
    {
        n = fill_now(conn, min);
    }
    return n;
}

/* ---- Reading ---- */

static void consume(wh_conn *conn, size_t len)
{
    conn->in_begin += (uint32_t)len;
    if (conn->in_begin == conn->in_end)
        in_release(conn);
}

static ssize_t read_now(wh_conn *conn, void *buf, size_t len)
{
    if (conn->in_over)
        return conn->in_error;
    return received(conn, conn->ops->read(conn->self, buf, len));
}

static ssize_t read_some(wh_conn *conn, void *buf, size_t len)
{
    size_t there = conn->in_end - conn->in_begin;
    if (there) {
        if (len > there)
            len = there;
        memcpy(buf, conn->in + conn->in_begin, len);
        consume(conn, len);
        return (ssize_t)len;
    }
    if (!len)
        return 0;
    if (conn->read_ns == WH_NEVER)
        return read_now(conn, buf, len);
    ssize_t n = 0;
    WH_WITH_TIMEOUT(conn->read_ns)
    {
        n = read_now(conn, buf, len);
    }
    return n;
}

ssize_t wh_conn_read(wh_conn *conn, void *buf, size_t len)
{
    TURN(conn->reading, "wh_conn_read");
    return read_some(conn, buf, len);
}

ssize_t wh_conn_read_full(wh_conn *conn, void *buf, size_t len)
{
    TURN(conn->reading, "wh_conn_read_full");
    size_t got = 0;
    while (got < len) {
        ssize_t n = read_some(conn, (char *)buf + got, len - got);
        if (n < 0)
            return n;
        if (n == 0)
            return got ? -ENODATA : 0;
        got += (size_t)n;
    }
    return (ssize_t)len;
}

ssize_t wh_conn_peek(wh_conn *conn, size_t min, const char **ret_bytes)
{
    if (min < 1 || min > IN_BYTES_MAX)
        return -EINVAL;
    TURN(conn->reading, "wh_conn_peek");
    while (conn->in_end - conn->in_begin < min) {
        ssize_t n = fill(conn, min);
        if (n < 0)
            return n;
        if (n == 0)
            break;
    }
    *ret_bytes = conn->in + conn->in_begin;
    return (ssize_t)(conn->in_end - conn->in_begin);
}

ssize_t wh_conn_peek_until(wh_conn *conn, const void *delimiter, size_t delimiter_len, size_t max,
                           const char **ret_bytes)
{
    if (delimiter_len < 1 || delimiter_len > DELIMITER_MAX || max < 1 || max > IN_BYTES_MAX)
        return -EINVAL;
    TURN(conn->reading, "wh_conn_peek_until");
    size_t seen = 0; /* bytes at which none begins */
    for (;;) {
        const char *bytes = conn->in + conn->in_begin;
        size_t there = conn->in_end - conn->in_begin;
        size_t look = there < max ? there : max;
        const char *at =
            look > seen ? memmem(bytes + seen, look - seen, delimiter, delimiter_len) : NULL;
        if (at) {
            *ret_bytes = bytes;
            return at - bytes + (ssize_t)delimiter_len;
        }
        if (there >= max)
            return -EMSGSIZE;
        if (there >= delimiter_len)
            seen = there - delimiter_len + 1;
        ssize_t n = fill(conn, 0);
        if (n < 0)
            return n;
        if (n == 0)
            return there ? -ENODATA : 0;
    }
}

void wh_conn_consume(wh_conn *conn, size_t len)
{
    if (unlikely(len > conn->in_end - conn->in_begin))
        coro_misuse(self_or_panic("wh_conn_consume"), "wh_conn_consume",
                    "takes more than is there");
    if (len)
        consume(conn, len);
}

size_t wh_conn_buffered(const wh_conn *conn)
{
    return conn->in_end - conn->in_begin;
}

/* ---- Writing ---- */

static ssize_t write_now(wh_conn *conn, const struct iovec *iov, int count)
{
    ssize_t n = conn->ops->writev(conn->self, iov, count);
    if (unlikely(n == -ETIMEDOUT && is_given_up(conn)))
        conn->out_error = -ETIMEDOUT;
    return n;
}

static ssize_t write_some(wh_conn *conn, const struct iovec *iov, int count)
{
    if (conn->write_ns == WH_NEVER)
        return write_now(conn, iov, count);
    ssize_t n = 0;
    WH_WITH_TIMEOUT(conn->write_ns)
    {
        n = write_now(conn, iov, count);
    }
    return n;
}

void conn_sent(wh_conn *conn, ssize_t n)
{
    if (unlikely(n <= 0)) {
        conn->out_error = n < 0 ? (int)n : -EIO;
        return;
    }
    tally(&conn->stats.bytes_out, (uint64_t)n);
    tally(&conn->stats.writes, 1);
}

/* Sends all of them; the vector is used up. -EXDEV is no error of the stream's: what has not gone
 * is sent on its own worker. */
static int write_all(wh_conn *conn, struct iovec *iov, int count)
{
    for (;;) {
        while (count && !iov->iov_len) {
            iov++;
            count--;
        }
        if (!count)
            return 0;
        ssize_t n = write_some(conn, iov, count);
        if (unlikely(n == -EXDEV))
            return -EXDEV;
        conn_sent(conn, n);
        if (unlikely(n <= 0))
            return conn->out_error;
        for (size_t left = (size_t)n; left && count;) {
            size_t part = left < iov->iov_len ? left : iov->iov_len;
            iov->iov_base = (char *)iov->iov_base + part;
            iov->iov_len -= part;
            left -= part;
            if (!iov->iov_len) {
                iov++;
                count--;
            }
        }
    }
}

static void out_release(wh_conn *conn)
{
    mem_free(conn->out);
    conn->out = NULL;
    conn->out_len = 0;
}

/* Whether it is over a direct descriptor of another worker's. Asked before a call is made: that
 * looks at the context first, and its end would be the error of every later write. */
static bool is_elsewhere(const wh_conn *conn)
{
    return unlikely(fd_is_direct(conn->fd)) && fd_owner(conn->fd) + 1 != wh_worker();
}

/* Sends what is in the buffer, and these behind it; pieces[0] is for the buffer. -EXDEV: none of
 * these has gone, and what is left of the buffer stays: the coroutine is on another worker, to
 * which it may have moved in the middle. */
static int send_out(wh_conn *conn, struct iovec *pieces, int count)
{
    if (unlikely(is_elsewhere(conn)))
        return -EXDEV;
    pieces[0] = (struct iovec){conn->out, conn->out_len};
    uint64_t without_these = conn->stats.bytes_out + conn->out_len;
    int rc = write_all(conn, pieces, count);
    if (unlikely(rc == -EXDEV && pieces->iov_len)) {
        conn->out_len = (uint32_t)pieces->iov_len;
        memmove(conn->out, pieces->iov_base, conn->out_len);
        return rc;
    }
    if (unlikely(rc == -EXDEV && conn->stats.bytes_out > without_these))
        rc = conn->out_error = -EIO;
    out_release(conn);
    return rc;
}

static int flush(wh_conn *conn)
{
    struct iovec piece[1];
    if (unlikely(conn->out_error))
        return conn->out_error;
    return conn->out_len ? send_out(conn, piece, 1) : 0;
}

/* Whether so many more bytes fit; makes the buffer, if there are any. One without a byte in it
 * would stay: there is nothing to send. */
static bool out_has_room(wh_conn *conn, size_t len)
{
    if (len >= OUT_BYTES - conn->out_len)
        return false;
    if (!conn->out && len)
        conn->out = mem_alloc(OUT_BYTES);
    return conn->out || !len;
}

static void out_put(wh_conn *conn, const void *buf, size_t len)
{
    if (len)
        memcpy(conn->out + conn->out_len, buf, len);
    conn->out_len += (uint32_t)len;
}

ssize_t wh_conn_write(wh_conn *conn, const void *buf, size_t len)
{
    TURN(conn->writing, "wh_conn_write");
    if (unlikely(conn->out_error))
        return conn->out_error;
    if (likely(out_has_room(conn, len))) {
        out_put(conn, buf, len);
        return (ssize_t)len;
    }
    struct iovec pieces[2] = {[1] = {(void *)(uintptr_t)buf, len}};
    int rc = send_out(conn, pieces, 2);
    return rc < 0 ? rc : (ssize_t)len;
}

ssize_t wh_conn_writev(wh_conn *conn, const struct iovec *iov, int count)
{
    if (count < 0 || count > PIECES_MAX)
        return -EINVAL;
    TURN(conn->writing, "wh_conn_writev");
    if (unlikely(conn->out_error))
        return conn->out_error;
    size_t len = 0;
    for (int i = 0; i < count; i++)
        len += iov[i].iov_len;
    if (out_has_room(conn, len)) {
        for (int i = 0; i < count; i++)
            out_put(conn, iov[i].iov_base, iov[i].iov_len);
        return (ssize_t)len;
    }
    struct iovec pieces[1 + PIECES_MAX];
    memcpy(pieces + 1, iov, (size_t)count * sizeof *iov);
    int rc = send_out(conn, pieces, 1 + count);
    return rc < 0 ? rc : (ssize_t)len;
}

ssize_t wh_conn_printf(wh_conn *conn, const char *format, ...)
{
    TURN(conn->writing, "wh_conn_printf");
    if (unlikely(conn->out_error))
        return conn->out_error;
    va_list args;
    char *room = out_has_room(conn, 1) ? conn->out + conn->out_len : NULL;
    size_t size = room ? OUT_BYTES - conn->out_len : 0;
    va_start(args, format);
    int len = vsnprintf(room, size, format, args);
    va_end(args);
    bool fits = len >= 0 && (size_t)len < size;
    if (fits)
        conn->out_len += (uint32_t)len;
    if (!conn->out_len)
        out_release(conn);
    if (len < 0)
        return -EINVAL;
    if (fits)
        return len;
    char *text = mem_alloc((size_t)len + 1);
    if (!text)
        return -ENOMEM;
    va_start(args, format);
    (void)vsnprintf(text, (size_t)len + 1, format, args);
    va_end(args);
    struct iovec pieces[2] = {[1] = {text, (size_t)len}};
    int rc = send_out(conn, pieces, 2);
    mem_free(text);
    return rc < 0 ? rc : len;
}

int wh_conn_flush(wh_conn *conn)
{
    TURN(conn->writing, "wh_conn_flush");
    return flush(conn);
}

int wh_conn_shutdown(wh_conn *conn)
{
    TURN(conn->writing, "wh_conn_shutdown");
    int rc = flush(conn);
    if (rc < 0)
        return rc;
    rc = conn->ops->shutdown ? conn->ops->shutdown(conn->self) : -EOPNOTSUPP;
    if (rc != -EOPNOTSUPP && rc != -EXDEV)
        part_set(conn);
    return rc;
}

/* ---- The end, and the rest ---- */

static void must_be_ours(const wh_conn *conn, const char *call)
{
    if (unlikely(conn->is_served))
        coro_misuse(self_or_panic(call), call,
                    "closes a client's stream: wh_serve() does when the handler has returned");
}

int wh_conn_abandon(wh_conn *conn)
{
    must_be_ours(conn, "wh_conn_abandon");
    take_turn(&conn->reading, "wh_conn_abandon");
    take_turn(&conn->writing, "wh_conn_abandon");
    int rc = conn->ops->close ? conn->ops->close(conn->self) : 0;
    if (unlikely(rc == -EXDEV)) { /* a direct descriptor of another worker's: it is there still */
        conn->reading = conn->writing = false;
        return rc;
    }
    in_release(conn);
    out_release(conn);
    mem_free(conn);
    return rc;
}

int wh_conn_close(wh_conn *conn)
{
    must_be_ours(conn, "wh_conn_close");
    take_turn(&conn->writing, "wh_conn_close");
    int rc = flush(conn);
    conn->writing = false;
    int closed = wh_conn_abandon(conn);
    if (unlikely(closed == -EXDEV))
        return closed;
    if (unlikely(rc == -EXDEV))
        return -EIO; /* a made-up stream's; as it is, that would say that the stream is there */
    return rc < 0 ? rc : closed;
}

void wh_conn_set_timeouts(wh_conn *conn, int64_t read_ns, int64_t write_ns)
{
    conn->read_ns = read_ns;
    conn->write_ns = write_ns;
}

wh_fd wh_conn_fd(const wh_conn *conn)
{
    return conn->fd;
}

void wh_conn_stats_get(const wh_conn *conn, wh_conn_stats *ret_stats)
{
    const wh_conn_stats *stats = &conn->stats;
    *ret_stats = (wh_conn_stats){
        .bytes_in = __atomic_load_n(&stats->bytes_in, __ATOMIC_RELAXED),
        .bytes_out = __atomic_load_n(&stats->bytes_out, __ATOMIC_RELAXED),
        .reads = __atomic_load_n(&stats->reads, __ATOMIC_RELAXED),
        .writes = __atomic_load_n(&stats->writes, __ATOMIC_RELAXED),
    };
}

/* ---- From beneath (conn.h) ---- */

void conn_set_served(wh_conn *conn, bool served)
{
    conn->is_served = served;
}

void conn_take_reading(wh_conn *conn, const char *call)
{
    take_turn(&conn->reading, call);
}

void conn_leave_reading(wh_conn *conn)
{
    conn->reading = false;
}

void conn_take_writing(wh_conn *conn, const char *call)
{
    take_turn(&conn->writing, call);
}

void conn_leave_writing(wh_conn *conn)
{
    conn->writing = false;
}

bool conn_is_whole(const wh_conn *conn)
{
    return !__atomic_load_n(&conn->is_part, __ATOMIC_RELAXED);
}

int64_t conn_read_ns(const wh_conn *conn)
{
    return conn->read_ns;
}

int64_t conn_write_ns(const wh_conn *conn)
{
    return conn->write_ns;
}

const char *conn_buffered_at(const wh_conn *conn)
{
    return conn->in + conn->in_begin;
}

ssize_t conn_fill(wh_conn *conn, size_t room)
{
    return fill(conn, room);
}

void conn_received(wh_conn *conn, ssize_t n)
{
    (void)received(conn, n);
}

void conn_put_back(wh_conn *conn, char *bytes, size_t len)
{
    wh_assert(!conn->in && len);
    wh_assert(!conn->in_is_lent && len <= UINT32_MAX);
    conn->in = bytes;
    conn->in_size = conn->in_end = (uint32_t)len;
    conn->in_begin = 0;
}

void conn_lost(wh_conn *conn, int error)
{
    conn->in_over = true;
    conn->in_error = error;
    part_set(conn);
}

ssize_t conn_send(wh_conn *conn, const void *bytes, size_t len)
{
    const struct iovec piece = {(void *)(uintptr_t)bytes, len};
    if (unlikely(conn->out_error))
        return conn->out_error;
    ssize_t n = write_some(conn, &piece, 1);
    if (unlikely(((n == -ETIMEDOUT || n == -ECANCELED) && conn->fd >= 0) || n == -EXDEV))
        return n; /* and has done nothing */
    conn_sent(conn, n);
    return likely(n > 0) ? n : conn->out_error;
}

ssize_t conn_send_buffered(wh_conn *conn)
{
    if (!conn->out_len)
        return conn->out_error;
    ssize_t n = conn_send(conn, conn->out, conn->out_len);
    if (n > 0 && (size_t)n < conn->out_len) {
        conn->out_len -= (uint32_t)n;
        memmove(conn->out, conn->out + n, conn->out_len);
    } else if (n > 0 || conn->out_error) {
        out_release(conn);
    }
    return n;
}
