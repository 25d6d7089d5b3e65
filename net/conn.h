/*
 * conn.h: a stream from beneath, for what moves its bytes without the calls of whorl/conn.h
 * (copy.c). Nothing here looks at whose turn it is: the caller has taken it.
 */
#ifndef NET_CONN_H
#define NET_CONN_H

#include <whorl/conn.h>

/* A coroutine reads, or writes, until it leaves the turn; another one that does aborts the program,
 * as in the public calls. `call` is named then. */
void conn_take_reading(wh_conn *conn, const char *call);
void conn_leave_reading(wh_conn *conn);
void conn_take_writing(wh_conn *conn, const char *call);
void conn_leave_writing(wh_conn *conn);

/* Whether it may still be of use both ways: no read has seen its end or an error of it, and nobody
 * has said that no more will be written. */
bool conn_is_whole(const wh_conn *conn);

/* From now on closing it aborts: a server's stream, in the hands of a handler. Until it is not. */
void conn_set_served(wh_conn *conn, bool served);

/* The stream's own timeouts, in nanoseconds. */
int64_t conn_read_ns(const wh_conn *conn);
int64_t conn_write_ns(const wh_conn *conn);

/* ---- Reading ---- */

/* What is received and not consumed: wh_conn_buffered() bytes. */
const char *conn_buffered_at(const wh_conn *conn);

/* Receives some bytes more into the stream, with room for `room` in all, in the stream's own
 * timeout. Returns as recv(2), or -ENOMEM. */
ssize_t conn_fill(wh_conn *conn, size_t room);

/* The descriptor was read without the stream: so many bytes, 0 at the end, or an error. */
void conn_received(wh_conn *conn, ssize_t n);

/* Bytes that conn_received() has counted are to be read again. Nothing is there; the memory, of
 * mem_alloc(), is the stream's from now on. */
void conn_put_back(wh_conn *conn, char *bytes, size_t len);

/* Such bytes are lost: what is read next would not be what comes next. */
void conn_lost(wh_conn *conn, int error);

/* ---- Writing ---- */

/* Sends some of the bytes, past the buffer, which is empty. Returns as send(2), or the error that
 * every write says from now on; but -ETIMEDOUT and -ECANCELED of a descriptor, and -EXDEV, are this
 * call's alone. */
ssize_t conn_send(wh_conn *conn, const void *bytes, size_t len);

/* Sends some of what is in the buffer; the rest stays there. Returns as conn_send(), 0 when there
 * is nothing. */
ssize_t conn_send_buffered(wh_conn *conn);

/* The descriptor was written to without the stream: so many bytes, or an error, which every write
 * says from now on. */
void conn_sent(wh_conn *conn, ssize_t n);

#endif
