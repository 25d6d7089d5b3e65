/*
 * whorl/addr.h: IPv4 and IPv6 addresses with their ports, as values. Nothing here parks, and any
 * thread may call it.
 */
#ifndef WHORL_ADDR_H
#define WHORL_ADDR_H

#include <whorl/types.h>

#include <netinet/in.h>
#include <sys/socket.h>

WH_BEGIN_DECLS

/* An IPv4 or IPv6 address with its port. `any` and `len` are what system calls want. */
typedef struct wh_addr {
    union {
        struct sockaddr any;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
    };
    socklen_t len;
} wh_addr;

/* Room for the text of any address, and the 0 behind it. */
enum { WH_ADDR_TEXT = 72 };

/* The address of a text "HOST:PORT", as whorl/net.h describes it. Returns 0 or -EINVAL. */
WH_API int wh_addr_parse(const char *text, wh_addr *ret_addr);

/* The text of an address, in the same form, as snprintf(3) writes it: returns its length; or
 * -EAFNOSUPPORT for what is no such address. */
WH_API int wh_addr_format(const wh_addr *addr, char *buf, size_t size);

/* Whether they are the same address and port. */
WH_API bool wh_addr_equal(const wh_addr *a, const wh_addr *b);

/* The two ends of a socket. IPv4 over a socket that takes both is IPv6 to the kernel, and here:
 * "[::ffff:192.0.2.1]:80". A direct descriptor (wh_accept_direct()) is -EBADF: it is one of a ring,
 * and the system calls that know the ends of a socket do not know it. */

/* The address that a socket has itself: tells which port was chosen for port 0. Returns 0, -EBADF,
 * -ENOTSOCK, or -EAFNOSUPPORT when it is of another family. */
WH_API int wh_addr_local(wh_fd fd, wh_addr *ret_addr);

/* The address that a connected socket is connected to: who is at the other end. Returns 0,
 * -ENOTCONN: it is not connected, or not any more (the peer has reset the connection); -EBADF,
 * -ENOTSOCK; or -EAFNOSUPPORT as above. */
WH_API int wh_addr_peer(wh_fd fd, wh_addr *ret_addr);

WH_END_DECLS

#endif
