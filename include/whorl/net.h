/*
 * whorl/net.h: listening and dialling.
 *
 * A TCP address is "HOST:PORT": HOST an IPv4 address, an IPv6 address in brackets, "localhost"
 * (127.0.0.1), or nothing (every address of the machine); PORT a number from 0 to 65535. To be
 * dialled, HOST may also be a name and PORT that of a service, as whorl/resolve.h describes them. A
 * Unix address is a path; one that begins with '@' is in the abstract namespace (unix(7)).
 *
 *     wh_fd fd = wh_dial_tcp("www.example.org:http");
 *     if (fd < 0)
 *         return fd;                 -ENOENT: no such name; -ESRCH: no such service
 *     ...                            wh_send_all(), wh_recv() (whorl/io.h)
 *     wh_close(fd);
 */
#ifndef WHORL_NET_H
#define WHORL_NET_H

#include <whorl/resolve.h>
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
 * that is a socket nobody listens on any more is replaced. The address of a program that was killed
 * while it listened may be taken for some milliseconds more: the kernel takes down what its ring
 * was doing after the process has gone. Does not park. Returns the descriptor;
 * or
 *
 *   -EINVAL         the address is not of the form above
 *   -ENAMETOOLONG   the path does not fit a socket address
 *   -EADDRINUSE, -EADDRNOTAVAIL, -EACCES, -EMFILE...   of socket(2), bind(2), listen(2)
 */
WH_API wh_fd wh_listen_tcp(const char *address, const wh_listen_options *options);
WH_API wh_fd wh_listen_unix(const char *path, const wh_listen_options *options);

/* Zero in a field means its default; NULL for the struct means all defaults. */
typedef struct wh_dial_options {
    /* How long one address of a name may take before the next is tried beside it, in nanoseconds.
     * Default 250 ms; -1: not at all, all are tried at once. */
    int64_t attempt_delay_ns;
    int no_nodelay;                      /* leave Nagle's algorithm on. Default: TCP_NODELAY */
    const wh_resolver_options *resolver; /* how the name is resolved (whorl/resolve.h) */
} wh_dial_options;

/*
 * A connected socket, close-on-exec, the caller's; TCP with TCP_NODELAY. May park; obeys deadline
 * and cancel.
 *
 * A name is resolved, and its addresses (the first 32) are raced as RFC 8305 says: in their order,
 * the families taking turns, each gets a head start on the next, which an attempt that fails cuts
 * short. The first that is connected is the result; the others are cancelled and closed. When the
 * servers of DNS keep the answer for one family back, whichever it is, for 50 ms after that for the
 * other, the race begins with what there is (16 addresses at most), and the rest join it when they
 * come.
 *
 * Returns the descriptor; or, with nothing left open,
 *
 *   -EINVAL, -ENAMETOOLONG    as above
 *   -ETIMEDOUT, -ECANCELED    the context ended
 *   the errors of wh_resolve(), if there is a name: -ENOENT and -ESRCH, which strerror(3) takes for
 *   a file's and a process's, mean that there is no such name, and no such service
 *   the errors of socket(2) and connect(2). Of several addresses: that the program itself lacks
 *   something (-EMFILE...), else that a machine refused, else that none answered, else that there
 *   was no way to any; the last of these, if they differ
 *   -ENOMEM   also: no coroutine could be started to try one of several addresses
 */
WH_API wh_fd wh_dial_tcp(const char *address);
WH_API wh_fd wh_dial_tcp_with(const char *address, const wh_dial_options *options);
WH_API wh_fd wh_dial_unix(const char *path);

WH_END_DECLS

#endif
