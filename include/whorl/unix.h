/*
 * whorl/unix.h: passing descriptors over Unix sockets, and who is at the other end.
 *
 *     wh_send_fds(unix_fd, "take", 4, &file, 1);          // the caller's own stays open
 *
 *     wh_fd file;
 *     unsigned count = 1;
 *     ssize_t n = wh_recv_fds(unix_fd, buf, sizeof buf, &file, &count);
 *     if (n > 0 && count == 1)
 *         ...                                                 file is ours
 *
 * Descriptors and credentials travel with bytes. On a stream a receive ends behind the bytes that
 * had descriptors, but bytes that were sent before may come along. Whoever receives by another call
 * than these, wh_recv() or wh_read(), loses the descriptors: they are closed. The calls that send
 * and receive are as those of whorl/io.h: on a coroutine, they may park, and return -ETIMEDOUT,
 * -ECANCELED and -EBADF as it says there. See unix(7).
 */
#ifndef WHORL_UNIX_H
#define WHORL_UNIX_H

#include <whorl/types.h>

WH_BEGIN_DECLS

/* How many descriptors a message can have: SCM_MAX_FD of the kernel. */
enum { WH_FDS_MAX = 253 };

/* Who a process is, as the kernel vouches for. */
typedef struct wh_cred {
    pid_t pid; /* 0: it is in a PID namespace that the caller's does not see */
    uid_t uid;
    gid_t gid;
} wh_cred;

/*
 * Sends len bytes, at least 1, and with them copies of `count` descriptors, at most WH_FDS_MAX;
 * they stay the caller's. Returns how many bytes went, as wh_send() does: if at least 1, the
 * descriptors did. Or -EINVAL: a number is out of its range; -EBADF: a descriptor is none;
 * -ETOOMANYREFS: too many are on their way (RLIMIT_NOFILE); or other errors of sendmsg(2). Direct
 * descriptors (wh_accept_direct()) cannot be sent: -EBADF.
 */
WH_API ssize_t wh_send_fds(wh_fd fd, const void *buf, size_t len, const wh_fd *fds, unsigned count);

/*
 * Receives at most len bytes, at least 1, and the descriptors that came with them. *count is how
 * many ret_fds has room for (0: it may be NULL), and then how many came, which is 0 for bytes that
 * have none. They are close-on-exec and the caller's. Returns how many bytes came, 0 at the end of
 * the stream; or, with no descriptor left open, *count as it was, and the bytes of that message
 * lost,
 *
 *   -EMSGSIZE   it had more descriptors than there is room for
 *   -EMFILE     this process cannot have so many more (RLIMIT_NOFILE)
 *
 * or -EINVAL: len is 0; or other errors of recvmsg(2), with which nothing has been taken.
 */
WH_API ssize_t wh_recv_fds(wh_fd fd, void *buf, size_t len, wh_fd *ret_fds, unsigned *count);

/* Who was at the other end of a connection when it was made (SO_PEERCRED): the process that
 * connected, or that began to listen. Does not park. Returns 0; -ENOTCONN; -EBADF, -ENOTSOCK; or
 * -EOPNOTSUPP: no Unix socket. */
WH_API int wh_peer_cred(wh_fd fd, wh_cred *ret_cred);

/* From now on messages that are sent to this socket carry who sent them (SO_PASSCRED); what was
 * sent before does not. Does not park. Returns 0, -EBADF, -ENOTSOCK, or -EOPNOTSUPP as above. */
WH_API int wh_want_cred(wh_fd fd);

/* Receives at most len bytes, at least 1, and who sent them; descriptors that came with them are
 * closed. Returns how many bytes came, 0 at the end of the stream; or -ENODATA: they came without,
 * because they were sent before wh_want_cred(), and are lost (so are those of a sender that the
 * namespaces hide whole: process 0, user and group 65534); -EINVAL; or as wh_recvmsg(). */
WH_API ssize_t wh_recv_cred(wh_fd fd, void *buf, size_t len, wh_cred *ret_cred);

WH_END_DECLS

#endif
