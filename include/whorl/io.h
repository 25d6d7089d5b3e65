/*
 * whorl/io.h: the ring's operations as calls that read like their POSIX namesakes.
 *
 * Each call here, unless it says otherwise:
 *   - may park the coroutine, never the thread;
 *   - must be made on a coroutine (elsewhere it aborts with a message);
 *   - borrows the descriptor and the memory it is given until it returns, and not a moment longer:
 *     it returns only after the kernel has let go of them, also when it was cancelled;
 *   - returns what its namesake returns, or -errno with the namesake's errors, and
 *       -ETIMEDOUT   the ambient deadline passed (whorl/time.h) before anything was achieved
 *       -ECANCELED   the coroutine was cancelled before anything was achieved
 *       -EBADF       also: another coroutine closed the descriptor meanwhile
 *     A call whose deadline had passed, or whose coroutine was cancelled, before it began touches
 *     nothing. A result that arrived beats deadline and cancel.
 *
 * Descriptors may be blocking or not: a call parks where a non-blocking one would say EAGAIN,
 * unless MSG_DONTWAIT is among its flags. At most 0x7ffff000 bytes move in a call, as in the system
 * calls.
 */
#ifndef WHORL_IO_H
#define WHORL_IO_H

#include <whorl/types.h>
#include <sys/socket.h>
#include <sys/uio.h>

WH_BEGIN_DECLS

struct statx;
struct open_how; /* <linux/openat2.h> */

/* read(2), write(2): at the file's own position, which two concurrent calls share. A write that an
 * error cuts short (a full disk) may leave the position where it was (Linux 6.18): write a file by
 * wh_pwrite, or by wh_write_all, which looks. Writing to a pipe or a socket that nobody reads
 * raises SIGPIPE, which ends the program unless it is ignored (signal(SIGPIPE, SIG_IGN)): then it
 * is -EPIPE. */
WH_API ssize_t wh_read(wh_fd fd, void *buf, size_t len);
WH_API ssize_t wh_write(wh_fd fd, const void *buf, size_t len);
WH_API ssize_t wh_readv(wh_fd fd, const struct iovec *iov, int count);
WH_API ssize_t wh_writev(wh_fd fd, const struct iovec *iov, int count);

/* pread(2), pwrite(2), preadv(2), pwritev(2): at an offset, which must be >= 0 (else -EINVAL). On
 * what has no position, a pipe or a socket, the offset does not count (there is no -ESPIPE). */
WH_API ssize_t wh_pread(wh_fd fd, void *buf, size_t len, int64_t offset);
WH_API ssize_t wh_pwrite(wh_fd fd, const void *buf, size_t len, int64_t offset);
WH_API ssize_t wh_preadv(wh_fd fd, const struct iovec *iov, int count, int64_t offset);
WH_API ssize_t wh_pwritev(wh_fd fd, const struct iovec *iov, int count, int64_t offset);

/* recv(2), send(2), recvmsg(2), sendmsg(2). No send raises SIGPIPE: the answer is -EPIPE. */
WH_API ssize_t wh_recv(wh_fd fd, void *buf, size_t len, int flags);
WH_API ssize_t wh_send(wh_fd fd, const void *buf, size_t len, int flags);
WH_API ssize_t wh_recvmsg(wh_fd fd, struct msghdr *msg, int flags);
WH_API ssize_t wh_sendmsg(wh_fd fd, const struct msghdr *msg, int flags);

/*
 * Sends, or writes, all of it, in as many calls as that takes. Returns len; or -errno, and then an
 * unknown part has gone (use wh_send or wh_write to know how much). A stream that failed so can
 * only be closed.
 */
WH_API ssize_t wh_send_all(wh_fd fd, const void *buf, size_t len);
WH_API ssize_t wh_write_all(wh_fd fd, const void *buf, size_t len);

/*
 * accept4(2). wh_accept: no address, and the descriptor is close-on-exec. A connection that was
 * accepted is always returned, whatever else happened. The caller owns the descriptor.
 */
WH_API wh_fd wh_accept(wh_fd listener);
WH_API wh_fd wh_accept4(wh_fd listener, struct sockaddr *addr, socklen_t *addr_len, int flags);

/*
 * The same, and the connection gets no descriptor of the process's but a direct one: a slot of the
 * worker's ring, of which each worker has as many as the process may have descriptors
 * (RLIMIT_NOFILE). So the connections of eight workers can be eight times as many. What takes a
 * wh_fd takes it, wh_conn_create() and wh_close() too, but
 *
 *   - on its worker alone, wh_close() too: elsewhere, and after a move to another one, calls are
 *     -EXDEV;
 *   - no system call outside of whorl knows it: options are those that the listener had;
 *   - it is of no use in a select, where it counts as ready like one that is closed.
 *
 * The listener is a descriptor like any other. -EOPNOTSUPP: the kernel has none (io_uring
 * registered files, Linux 5.19); -ENFILE: all slots are taken, and a connection is lost: the kernel
 * has accepted it before it looked for a slot, and has closed it; -ENOMEM.
 */
WH_API wh_fd wh_accept_direct(wh_fd listener);

/* connect(2). A non-blocking Unix socket whose listener's backlog is full gets -EAGAIN. After
 * -ETIMEDOUT or -ECANCELED the socket may be connected or not: close it. */
WH_API int wh_connect(wh_fd fd, const struct sockaddr *addr, socklen_t addr_len);

/* shutdown(2). */
WH_API int wh_shutdown(wh_fd fd, int how);

/*
 * close(2). Operations of this run's other coroutines that are in flight on fd end with -EBADF
 * first, so that the peer of a socket sees its end now. Obeys neither deadline nor cancel: the
 * descriptor is always given back, whatever is returned but -EXDEV (wh_accept_direct()).
 */
WH_API int wh_close(wh_fd fd);

/*
 * openat(2), with O_CLOEXEC added. A FIFO does not wait for its other end: as with O_NONBLOCK it
 * opens at once for reading, and is -ENXIO for writing while nobody reads. The caller owns the
 * descriptor.
 */
WH_API wh_fd wh_openat(wh_fd dir, const char *path, int flags, mode_t mode);

/* openat2(2), with O_CLOEXEC added: says how far names may lead. A FIFO and the descriptor are as
 * above. -E2BIG: a struct with fields that the kernel, or this library, does not know. */
WH_API wh_fd wh_openat2(wh_fd dir, const char *path, const struct open_how *how, size_t size);

/* fsync(2), fdatasync(2), sync_file_range(2) (len 0: to the end; at most 4 GiB less a byte, else
 * -EINVAL). */
WH_API int wh_fsync(wh_fd fd);
WH_API int wh_fdatasync(wh_fd fd);
WH_API int wh_sync_file_range(wh_fd fd, int64_t offset, int64_t len, unsigned flags);

/* fgetxattr(2), fsetxattr(2). For attributes of what cannot be opened, and to list or remove them,
 * the ring has nothing, or nothing shorter: wh_blocking(). */
WH_API ssize_t wh_fgetxattr(wh_fd fd, const char *name, void *value, size_t size);
WH_API int wh_fsetxattr(wh_fd fd, const char *name, const void *value, size_t size, int flags);

/* statx(2). */
WH_API int wh_statx(wh_fd dir, const char *path, int flags, unsigned mask, struct statx *ret_stat);

/*
 * unlinkat(2), mkdirat(2), renameat2(2), linkat(2), symlinkat(2): a relative path starts from the
 * directory, or with AT_FDCWD from the current one. What is cancelled before the kernel has begun
 * it is not done; what it has begun is, and the call says so.
 */
WH_API int wh_unlinkat(wh_fd dir, const char *path, int flags);
WH_API int wh_mkdirat(wh_fd dir, const char *path, mode_t mode);
WH_API int wh_renameat(wh_fd dir, const char *path, wh_fd to_dir, const char *to_path,
                       unsigned flags);
WH_API int wh_linkat(wh_fd dir, const char *path, wh_fd to_dir, const char *to_path, int flags);
WH_API int wh_symlinkat(const char *target, wh_fd dir, const char *path);

/* ftruncate(2), fallocate(2), posix_fadvise(2) (len 0: to the end; at most 4 GiB less a byte, which
 * is advice for more). Where the ring cannot set a file's length (before Linux 6.9) that is done on
 * a thread of wh_blocking(). */
WH_API int wh_ftruncate(wh_fd fd, int64_t len);
WH_API int wh_fallocate(wh_fd fd, int mode, int64_t offset, int64_t len);
WH_API int wh_fadvise(wh_fd fd, int64_t offset, int64_t len, int advice);

/*
 * Waits until fd is ready for one of the poll(2) events (POLLIN, POLLOUT...). Returns the events
 * that hold, which may include POLLERR, POLLHUP and POLLRDHUP unasked.
 */
WH_API int wh_poll(wh_fd fd, short events);

WH_END_DECLS

#endif
