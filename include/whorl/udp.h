/*
 * whorl/udp.h: datagrams: one at a time, many at a time, and many in one piece (GSO, GRO).
 *
 *     wh_fd fd = wh_listen_udp(":5353", NULL);
 *     wh_addr from;
 *     ssize_t n;
 *     while ((n = wh_udp_recv(fd, buf, sizeof buf, &from)) >= 0)
 *         if ((size_t)n <= sizeof buf)                   // longer ones were cut
 *             wh_udp_send(fd, buf, (size_t)n, &from);
 *
 * A datagram is received whole or cut to the room there is, and sent whole or not at all. None
 * waits for the peer: sending waits only while the socket's own buffer is full, and what comes
 * while nobody receives is kept in the socket's buffer until that is full, then dropped. A socket
 * that is connected (wh_dial_udp()) sends to one peer and hears only from it, and it is told by an
 * error, of either direction, -ECONNREFUSED, when nobody is there: that says nothing of later
 * datagrams.
 *
 * The calls that send and receive are as those of whorl/io.h: on a coroutine, they may park, and
 * return -ETIMEDOUT, -ECANCELED and -EBADF as it says there. Everything else of a socket
 * (multicast, TTL...) is set by setsockopt(2).
 */
#ifndef WHORL_UDP_H
#define WHORL_UDP_H

#include <whorl/addr.h>

WH_BEGIN_DECLS

/* ---- Sockets ---- */

/* Zero in a field means its default; NULL for the struct means all defaults. */
typedef struct wh_udp_options {
    int reuseport;         /* SO_REUSEPORT: several sockets share the port. Default off */
    int gro;               /* UDP_GRO: datagrams that came one behind the other are received in one
                              piece by wh_udp_recv_many(). Where the kernel has it (Linux 5.0);
                              elsewhere each comes by itself. Default off */
    int recv_buffer_bytes; /* SO_RCVBUF, which the kernel doubles, and cuts to net.core.rmem_max */
    int send_buffer_bytes; /* SO_SNDBUF, the same with net.core.wmem_max */
} wh_udp_options;

/*
 * A socket that receives at the address, close-on-exec, the caller's; with no host it takes IPv4
 * and IPv6. Does not park. Returns the descriptor; or -EINVAL: the address is not of the form that
 * whorl/net.h describes, an option is negative; -EADDRINUSE, -EADDRNOTAVAIL, -EACCES, -EMFILE... of
 * socket(2) and bind(2).
 */
WH_API wh_fd wh_listen_udp(const char *address, const wh_udp_options *options);

/* A socket that is connected to the address, close-on-exec, the caller's. Does not park: nothing is
 * sent. Returns the descriptor; or as above, and -ENETUNREACH... of connect(2). */
WH_API wh_fd wh_dial_udp(const char *address, const wh_udp_options *options);

/* ---- One at a time ---- */

/* Sends a datagram, to an address, or where the socket is connected to (NULL). Returns len; or
 * -EMSGSIZE: longer than a datagram can be (65,507 bytes, 20 more with IPv6);
 * -EDESTADDRREQ: NULL, and it is not connected; other errors of sendmsg(2). */
WH_API ssize_t wh_udp_send(wh_fd fd, const void *buf, size_t len, const wh_addr *to);

/*
 * Receives one, and where it came from, unless ret_from is NULL. Returns its true length, which may
 * be 0: if that is greater than `size`, what did not fit is lost. Or errors of recvmsg(2). An IPv4
 * address is given as such, also by a socket that takes both; one of another family is not: len 0.
 * On a socket with the option gro use wh_udp_recv_many(), which tells one datagram from several.
 */
WH_API ssize_t wh_udp_recv(wh_fd fd, void *buf, size_t size, wh_addr *ret_from);

/* ---- Many at a time ---- */

/* One, and where it is. */
typedef struct wh_datagram {
    void *bytes;
    size_t size;            /* receiving: the room at bytes */
    size_t len;             /* its length; received and greater than size: it was cut */
    uint32_t segment_bytes; /* received with gro: when not 0, these are several datagrams, each of
                               so many bytes but the last, which may be shorter */
    wh_addr addr;           /* where from, or where to; sending on a connected socket: len 0 */
} wh_datagram;

/*
 * Takes what is there, at most `count` datagrams; when there is nothing waits for one. bytes and
 * size are the caller's in each, the other fields are filled in. With gro give each room for 65,535
 * bytes. Returns how many came, at least 1 (0 if count is 0); -EBADMSG: with gro, the kernel had so
 * much else to tell (SO_TIMESTAMP and its like; none that is known has) that the size of the
 * datagrams in a piece did not fit, and what was received is lost; or errors of recvmsg(2).
 */
WH_API int wh_udp_recv_many(wh_fd fd, wh_datagram *datagrams, unsigned count);

/* Sends them in their order, as many as go without waiting, but at least one: bytes, len and addr
 * of each. Returns how many went, so call it again with the rest; or, if the first one failed, as
 * wh_udp_send(). */
WH_API int wh_udp_send_many(wh_fd fd, const wh_datagram *datagrams, unsigned count);

/*
 * Sends len bytes as datagrams of segment_bytes each (1 to 65,507), of which the last may be
 * shorter, to an address or, NULL, to the peer. The kernel or the network card cuts them, up to 64
 * at a time, which is several times faster (UDP_SEGMENT, Linux 4.18); where that cannot be had they
 * are cut here. Returns how many bytes went, which is less than len when an error or the context's
 * end came in between; or -EINVAL: segment_bytes is out of its range; or as wh_udp_send().
 */
WH_API ssize_t wh_udp_send_segments(wh_fd fd, const void *buf, size_t len, size_t segment_bytes,
                                    const wh_addr *to);

WH_END_DECLS

#endif
