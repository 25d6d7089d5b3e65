/*
 * whorl/net.h: listening and dialling.
 *
 * A TCP address is "HOST:PORT": HOST an IPv4 address, an IPv6 address in brackets, "localhost"
 * (127.0.0.1), or nothing (every address of the machine); PORT a number from 0 to 65535. Other
 * names are -EINVAL: they are not resolved here. A Unix address is a path; one that begins with '@'
 * is in the abstract namespace (unix(7)).
 */
#ifndef WHORL_NET_H
#define WHORL_NET_H

#include <whorl/types.h>

WH_BEGIN_DECLS

/* Zero in a field means its default; NULL for the struct means all defaults. */
typedef struct wh_listen_options {
    int backlog;    /* listen(2); default 4096, which the kernel cuts to net.core.somaxconn */
    int reuseport;  /* SO_REUSEPORT: several listeners share the port. Default off */
    int no_nodelay; /* leave Nagle's algorithm on. Default: TCP_NODELAY, which accepted sockets
                       inherit */
    unsigned mode;  /* Unix: permissions of the path, as chmod(2); default: what umask leaves */
} wh_listen_options;

/*
 * A listening socket, close-on-exec, the caller's. TCP listeners have SO_REUSEADDR. A Unix path
 * that is a socket nobody listens on any more is replaced. Does not park. Returns the descriptor;
 * or
 *
 *   -EINVAL         the address is not of the form above
 *   -ENAMETOOLONG   the path does not fit a socket address
 *   -EADDRINUSE, -EADDRNOTAVAIL, -EACCES, -EMFILE...   of socket(2), bind(2), listen(2)
 */
WH_API wh_fd wh_listen_tcp(const char *address, const wh_listen_options *options);
WH_API wh_fd wh_listen_unix(const char *path, const wh_listen_options *options);

/*
 * A connected socket, close-on-exec, the caller's; TCP with TCP_NODELAY. May park; obeys deadline
 * and cancel. Returns the descriptor, or -EINVAL, -ENAMETOOLONG as above, -ETIMEDOUT, -ECANCELED,
 * or the errors of socket(2) and connect(2). Nothing is left open on failure.
 */
WH_API wh_fd wh_dial_tcp(const char *address);
WH_API wh_fd wh_dial_unix(const char *path);

WH_END_DECLS

#endif
