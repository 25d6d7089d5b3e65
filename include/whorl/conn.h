/*
 * whorl/conn.h: a stream: read by the byte, the line or the message, written through a buffer.
 *
 *     wh_conn *conn;
 *     if (wh_conn_create(&conn, fd) < 0)
 *         return;
 *     const char *line;
 *     ssize_t len;
 *     while ((len = wh_conn_peek_until(conn, "\n", 1, 4096, &line)) > 0) {
 *         wh_conn_write(conn, line, (size_t)len);      // into the buffer
 *         wh_conn_consume(conn, (size_t)len);
 *         if (!wh_conn_buffered(conn) && wh_conn_flush(conn) < 0)
 *             break;                                   // answers of a pipeline go together
 *     }
 *     wh_conn_close(conn);
 *
 * Waiting costs no buffer. What is received for a peek goes into a buffer of the worker's, which
 * the kernel picks when there is something to put into it (io_uring provided buffers), and which is
 * the stream's until all of it has been consumed. What is asked for by wh_conn_read() goes where
 * the caller wants it at once. Nothing is received that was not asked for: a reader that is slow
 * stops the sender, and fills no memory.
 *
 * One coroutine may read while another one writes, also on different workers; two that read, or
 * two that write, at the same time abort the program. All calls here but those that say so may
 * park, and obey deadline and cancel; a stream may have timeouts of its own beside
 * (wh_conn_set_timeouts()).
 */
#ifndef WHORL_CONN_H
#define WHORL_CONN_H

#include <whorl/types.h>

#include <sys/uio.h>

WH_BEGIN_DECLS

/* A stream; a handle, made by wh_conn_create() or wh_conn_wrap() and the caller's until it is
 * closed or abandoned. */
typedef struct wh_conn wh_conn;

/*
 * What a stream is made of, for those that are no descriptor: one that encrypts, or counts, or is
 * made up by a test. Each gets the pointer given to wh_conn_wrap(). They may park.
 */
typedef struct wh_conn_ops {
    /* Some bytes, at most len: their number; 0 at the end; or -errno. */
    ssize_t (*read)(void *self, void *buf, size_t len);
    /* Takes some of the bytes: their number, more than 0; or -errno. -EXDEV: none, they may come
     * again on another worker. */
    ssize_t (*writev)(void *self, const struct iovec *iov, int count);
    /* No more will be written; 0 or -errno. NULL: wh_conn_shutdown() is -EOPNOTSUPP. */
    int (*shutdown)(void *self);
    /* Nothing will be called any more; 0 or -errno. NULL: there is nothing to do. */
    int (*close)(void *self);
} wh_conn_ops;

/* What went through a stream until now. */
typedef struct wh_conn_stats {
    uint64_t bytes_in, bytes_out;
    uint64_t reads, writes; /* calls that received, or sent, something */
} wh_conn_stats;

/*
 * A stream over a descriptor, which it closes: a connected socket (TCP, Unix; also one of
 * wh_accept_direct(), and then on its worker alone), a pipe (which raises SIGPIPE as wh_write()
 * does), a terminal, a file.
 * Does not park. Returns 0, or -ENOMEM, and the descriptor is the caller's still.
 */
WH_API int wh_conn_create(wh_conn **ret_conn, wh_fd fd) WH_MUST_CHECK;

/* A stream over something else. `ops` is borrowed, `self` is for them. Does not park. Returns 0, or
 * -ENOMEM. */
WH_API int wh_conn_wrap(wh_conn **ret_conn, const wh_conn_ops *ops, void *self) WH_MUST_CHECK;

/*
 * Sends what is in the buffer, closes the descriptor (or calls ops->close), and frees the stream.
 * Returns 0, or the first error: one of an earlier write that was not asked about, of sending, or
 * of closing. Closed and freed it is in any case, also when the context has ended;
 * but over a direct descriptor, on another worker than its own, it is -EXDEV and nothing is done:
 * what is in the buffer stays there. -EXDEV never comes from a stream that was freed.
 */
WH_API int wh_conn_close(wh_conn *conn);

/* The same without sending what is in the buffer. */
WH_API int wh_conn_abandon(wh_conn *conn);

/* ---- Reading ----
 *
 * All return -ETIMEDOUT and -ECANCELED when the context, or the stream's timeout, has ended, and
 * the errors of recv(2); what had been received before stays in the stream.
 */

/* Some bytes, at most len, as soon as there are any. Returns their number, or 0 at the end. */
WH_API ssize_t wh_conn_read(wh_conn *conn, void *buf, size_t len) WH_MUST_CHECK;

/* Exactly len bytes: len; 0 if the stream ended before the first; -ENODATA if it ended before the
 * last, or -errno, and what came before is in buf. */
WH_API ssize_t wh_conn_read_full(wh_conn *conn, void *buf, size_t len) WH_MUST_CHECK;

/*
 * Waits until at least `min` bytes (1 to 1 GiB) are there, and says where: *ret_bytes is borrowed,
 * until the next call that reads. Nothing is taken: that is wh_conn_consume(). Returns how many are
 * there, which is less than min only if the stream ends behind them, 0 at its end; or
 *   -ENOMEM   no memory for so many: the usual buffer holds 4096 bytes
 *   -EINVAL   min is out of its range
 */
WH_API ssize_t wh_conn_peek(wh_conn *conn, size_t min, const char **ret_bytes) WH_MUST_CHECK;

/*
 * Waits until the delimiter (1 to 64 bytes) is there, and returns how many bytes there are up to
 * its end, which are at *ret_bytes as for wh_conn_peek(). Returns 0 at the end of the stream; or
 *
 *   -EMSGSIZE   it is not among the first `max` bytes (1 to 1 GiB)
 *   -ENODATA    the stream has ended, and it is not in what is left
 *   -ENOMEM, -EINVAL   as above
 */
WH_API ssize_t wh_conn_peek_until(wh_conn *conn, const void *delimiter, size_t delimiter_len,
                                  size_t max, const char **ret_bytes) WH_MUST_CHECK;

/* Takes the first len bytes of what is there; more than that aborts the program. Does not park. */
WH_API void wh_conn_consume(wh_conn *conn, size_t len);

/* How many bytes are there, received and not consumed. Does not park. */
WH_API size_t wh_conn_buffered(const wh_conn *conn);

/* ---- Writing ----
 *
 * After an error a part may have been sent, and nobody knows which: every call that writes returns
 * that error from then on. But for -EXDEV: the stream is over a direct descriptor of another
 * worker's (wh_accept_direct()), nothing of what was to be written is taken, and what is in the
 * buffer stays there. A coroutine that moves to another worker while a part of it is sent gets
 * -EIO.
 */

/* Takes all of it, into the buffer of 4096 bytes, or to the peer if that is full. Returns len, or
 * -errno: -ENOMEM, those of send(2), -ETIMEDOUT, -ECANCELED. */
WH_API ssize_t wh_conn_write(wh_conn *conn, const void *buf, size_t len);

/* The same for several pieces, 0 to 64; returns the sum of their lengths, or -EINVAL as above. */
WH_API ssize_t wh_conn_writev(wh_conn *conn, const struct iovec *iov, int count);

/* The same for text made as by printf(3), up to 1 GiB; returns its length. */
WH_API ssize_t wh_conn_printf(wh_conn *conn, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Sends what is in the buffer. Returns 0, or -errno as above. */
WH_API int wh_conn_flush(wh_conn *conn);

/* Sends what is in the buffer and says that no more will come (shutdown(2), SHUT_WR): the peer
 * reads the end. Reading goes on. Returns 0, or -errno as above; -EOPNOTSUPP: of such a stream it
 * cannot be said. A pipe is closed by wh_conn_close() alone. */
WH_API int wh_conn_shutdown(wh_conn *conn);

/* ---- The rest, which does not park ---- */

/* How long one wait for bytes, and one for the peer to take some, may last, in nanoseconds;
 * WH_NEVER, as in the beginning: without limit. Deadlines around the call hold as well. */
WH_API void wh_conn_set_timeouts(wh_conn *conn, int64_t read_ns, int64_t write_ns);

/* The descriptor, borrowed, or -1. */
WH_API wh_fd wh_conn_fd(const wh_conn *conn);

/* Copies the stream's figures. Those that another coroutine's call is just counting may be missing.
 */
WH_API void wh_conn_stats_get(const wh_conn *conn, wh_conn_stats *ret_stats);

WH_END_DECLS

#endif
