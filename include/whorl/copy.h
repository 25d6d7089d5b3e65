/*
 * whorl/copy.h: moving bytes from one stream to another.
 *
 *     int64_t n = wh_copy(to, from, WH_COPY_ALL, NULL);    // until `from` ends
 *     if (n >= 0)
 *         wh_conn_shutdown(to);                             // pass the end on
 *
 * Between sockets and pipes the kernel moves the bytes by itself (splice(2)): no byte passes
 * through the program, and a stream that is waited for holds neither buffer nor pipe. Any other
 * stream, and where the kernel refuses or has no pipe to give, is copied through the buffer of
 * `from`.
 *
 * Nothing is lost on the way. Whatever a copy ends by, the bytes that it has taken and not given
 * on are in `from`, to be read next. What `from` had buffered goes first, behind what is in the
 * buffer of `to`; and all that was moved has been sent, not put into a buffer.
 *
 * While bytes are spliced sockets are non-blocking (O_NONBLOCK), for everyone who has the same open
 * file; when the last copy of this process from or to it has ended it is as it was before the
 * first. Another process that has the same open file (one that inherited it) may make it block at
 * any time; every splice looks and makes it non-blocking again. Between the look and the splice, a
 * few hundred nanoseconds, it may still come: then the worker's thread is blocked until there are
 * bytes, or room for them.
 * A stream owns its descriptor: who closes that below a copy (wh_close() of the number) may find
 * O_NONBLOCK taken from the next file that has the number.
 */
#ifndef WHORL_COPY_H
#define WHORL_COPY_H

#include <whorl/conn.h>

WH_BEGIN_DECLS

/* No limit. */
#define WH_COPY_ALL INT64_MAX

/*
 * Moves bytes until `from` ends or `max` of them (0 to WH_COPY_ALL) have been moved. `to` is
 * neither shut down nor closed. The same stream twice is an echo. ret_moved, unless NULL, receives
 * how many were moved, whatever is returned. May park; for the time it takes it is the one that
 * reads `from` and the one that writes `to` (whorl/conn.h). Returns how many were moved, or
 *
 *   -ETIMEDOUT, -ECANCELED   the context has ended, or a timeout of the streams passed in which
 *                            `from` gave nothing, or `to` took nothing: both can be used on, but a
 *                            wrapped `to` for reading alone
 *   -EINVAL                  max is out of its range
 *   -ENOMEM                  and the errors of recv(2) and send(2). After one of writing, writing
 *                            to `to` says the same from then on. If there was no memory to put the
 *                            rest back, reading `from` says -ENOMEM
 */
WH_API int64_t wh_copy(wh_conn *to, wh_conn *from, int64_t max, uint64_t *ret_moved);

/* How many bytes went each way. */
typedef struct wh_copied {
    uint64_t a_to_b, b_to_a;
} wh_copied;

/*
 * Moves bytes both ways at once, until both streams have ended: what a proxy does. The end of one
 * is passed on to the other by wh_conn_shutdown() (where that can be said of a stream), while the
 * other direction goes on. The first error ends both directions.
 *
 * idle_ns is for how long, in nanoseconds, nothing may move in either direction; 0 or WH_NEVER:
 * for ever. The timeouts of the streams hold for each direction alone, as in wh_copy(). For a limit
 * of the whole put a WH_WITH_TIMEOUT() around it.
 *
 * ret_copied may be NULL, and is filled in whatever is returned. May park; a second coroutine, on
 * the same worker, copies one way, and with idle_ns and a wrapped stream a third one watches the
 * time. Returns 0; -EINVAL: idle_ns is negative; or the first error:
 * those of wh_copy(), -ETIMEDOUT also after idle_ns. Both streams are still the caller's.
 */
WH_API int wh_copy_both(wh_conn *a, wh_conn *b, int64_t idle_ns,
                        wh_copied *ret_copied) WH_MUST_CHECK;

WH_END_DECLS

#endif
