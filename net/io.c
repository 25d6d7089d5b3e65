/*
 * io.c: the operations of the ring as calls (whorl/io.h). Each fills the operation in the
 * coroutine's descriptor and waits; what the fields mean for each operation is in its row of
 * op_table.
 */
#include "sched/sched.h"

#include "uring/ring.h"

#include <whorl/blocking.h>
#include <whorl/ctx.h>
#include <whorl/io.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

/* The kernel moves no more than this in a call, and a length of the ring is 32 bits wide. */
#define LEN_MAX ((size_t)0x7ffff000)

/* An offset that says "the file's own position". */
#define AT_POSITION UINT64_MAX

static inline uint64_t word(const void *pointer)
{
    return (uint64_t)(uintptr_t)pointer;
}

static inline uint32_t clamp(size_t len)
{
    return (uint32_t)(len < LEN_MAX ? len : LEN_MAX);
}

#define AWAIT(call, call_flags, ...)     \
    wh_coro *self = enter(call);         \
    self->op = (struct op){__VA_ARGS__}; \
    return op_await(self, call_flags)

ssize_t wh_read(wh_fd fd, void *buf, size_t len)
{
    AWAIT("wh_read", 0, .code = OP_READ, .fd = fd, .addr = word(buf), .len = clamp(len),
          .off = AT_POSITION);
}

ssize_t wh_write(wh_fd fd, const void *buf, size_t len)
{
    AWAIT("wh_write", 0, .code = OP_WRITE, .fd = fd, .addr = word(buf), .len = clamp(len),
          .off = AT_POSITION);
}

ssize_t wh_pread(wh_fd fd, void *buf, size_t len, int64_t offset)
{
    if (offset < 0)
        return -EINVAL;
    AWAIT("wh_pread", 0, .code = OP_READ, .fd = fd, .addr = word(buf), .len = clamp(len),
          .off = (uint64_t)offset);
}

ssize_t wh_pwrite(wh_fd fd, const void *buf, size_t len, int64_t offset)
{
    if (offset < 0)
        return -EINVAL;
    AWAIT("wh_pwrite", 0, .code = OP_WRITE, .fd = fd, .addr = word(buf), .len = clamp(len),
          .off = (uint64_t)offset);
}

static ssize_t vector(const char *call, enum op_code code, wh_fd fd, const struct iovec *iov,
                      int count, uint64_t offset)
{
    if (count < 0)
        return -EINVAL;
    wh_coro *self = enter(call);
    self->op = (struct op){
        .code = (uint8_t)code, .fd = fd, .addr = word(iov), .len = (uint32_t)count, .off = offset};
    return op_await(self, 0);
}

ssize_t wh_readv(wh_fd fd, const struct iovec *iov, int count)
{
    return vector("wh_readv", OP_READV, fd, iov, count, AT_POSITION);
}

ssize_t wh_writev(wh_fd fd, const struct iovec *iov, int count)
{
    return vector("wh_writev", OP_WRITEV, fd, iov, count, AT_POSITION);
}

ssize_t wh_preadv(wh_fd fd, const struct iovec *iov, int count, int64_t offset)
{
    return offset < 0 ? -EINVAL : vector("wh_preadv", OP_READV, fd, iov, count, (uint64_t)offset);
}

ssize_t wh_pwritev(wh_fd fd, const struct iovec *iov, int count, int64_t offset)
{
    return offset < 0 ? -EINVAL : vector("wh_pwritev", OP_WRITEV, fd, iov, count, (uint64_t)offset);
}

ssize_t wh_recv(wh_fd fd, void *buf, size_t len, int flags)
{
    AWAIT("wh_recv", flags, .code = OP_RECV, .fd = fd, .addr = word(buf), .len = clamp(len),
          .flags = (uint32_t)flags);
}

ssize_t wh_send(wh_fd fd, const void *buf, size_t len, int flags)
{
    AWAIT("wh_send", flags, .code = OP_SEND, .fd = fd, .addr = word(buf), .len = clamp(len),
          .flags = (uint32_t)(flags | MSG_NOSIGNAL));
}

ssize_t wh_recvmsg(wh_fd fd, struct msghdr *msg, int flags)
{
    AWAIT("wh_recvmsg", flags, .code = OP_RECVMSG, .fd = fd, .addr = word(msg), .len = 1,
          .flags = (uint32_t)flags);
}

ssize_t wh_sendmsg(wh_fd fd, const struct msghdr *msg, int flags)
{
    AWAIT("wh_sendmsg", flags, .code = OP_SENDMSG, .fd = fd, .addr = word(msg), .len = 1,
          .flags = (uint32_t)(flags | MSG_NOSIGNAL));
}

ssize_t wh_send_all(wh_fd fd, const void *buf, size_t len)
{
    for (size_t sent = 0; sent < len;) {
        ssize_t n = wh_send(fd, (const char *)buf + sent, len - sent, 0);
        if (n < 0)
            return n;
        sent += (size_t)n;
    }
    return (ssize_t)len;
}

/* Where a file is written next; negative for what is none. */
static int64_t position_of(wh_fd fd)
{
    struct stat status;
    if (fd_is_direct(fd) || fstat(fd, &status) < 0 || !S_ISREG(status.st_mode))
        return -EBADF;
    return lseek(fd, 0, SEEK_CUR);
}

/* A write that an error cuts short (a disk that is full, a limit) may leave the file's position
 * where it was (seen with Linux 6.18): the next one would overwrite it. */
COLD static int position_mend(wh_fd fd, int64_t before, size_t written)
{
    bool stayed = lseek(fd, 0, SEEK_CUR) == before && !(fcntl(fd, F_GETFL) & O_APPEND);
    return stayed && lseek(fd, before + (int64_t)written, SEEK_SET) < 0 ? -errno : 0;
}

ssize_t wh_write_all(wh_fd fd, const void *buf, size_t len)
{
    int64_t position = len ? position_of(fd) : -EBADF;
    for (size_t written = 0; written < len;) {
        ssize_t n = wh_write(fd, (const char *)buf + written, len - written);
        if (n < 0)
            return n;
        if (n == 0)
            return -EIO; /* a device that takes nothing and says nothing */
        written += (size_t)n;
        if (likely(position < 0 || written == len))
            continue;
        int rc = position_mend(fd, position, (size_t)n);
        if (rc < 0)
            return rc;
        position += n;
    }
    return (ssize_t)len;
}

wh_fd wh_accept4(wh_fd listener, struct sockaddr *addr, socklen_t *addr_len, int flags)
{
    AWAIT("wh_accept4", 0, .code = OP_ACCEPT, .fd = listener, .addr = word(addr),
          .off = word(addr_len), .flags = (uint32_t)flags);
}

wh_fd wh_accept(wh_fd listener)
{
    AWAIT("wh_accept", 0, .code = OP_ACCEPT, .fd = listener, .flags = SOCK_CLOEXEC);
}

wh_fd wh_accept_direct(wh_fd listener)
{
    wh_coro *self = enter("wh_accept_direct");
    int rc = direct_have(self->worker);
    if (unlikely(rc < 0))
        return leave(self, refuse(self, rc));
    self->op = (struct op){.code = OP_ACCEPT_DIRECT, .fd = listener};
    return op_await(self, 0);
}

int wh_connect(wh_fd fd, const struct sockaddr *addr, socklen_t addr_len)
{
    AWAIT("wh_connect", 0, .code = OP_CONNECT, .fd = fd, .addr = word(addr), .off = addr_len);
}

int wh_shutdown(wh_fd fd, int how)
{
    AWAIT("wh_shutdown", 0, .code = OP_SHUTDOWN, .fd = fd, .len = (uint32_t)how);
}

static int close_now(wh_coro *self, wh_fd fd)
{
#ifdef WHORL_TSAN
    /* ThreadSanitizer watches descriptors, too, and must see that this one may come again. */
    if (!fd_is_direct(fd)) {
        int rc = close(fd) < 0 ? -errno : 0;
        fd_closed(self->worker, fd);
        return rc;
    }
#endif
    self->op = (struct op){.code = OP_CLOSE, .fd = fd};
    return op_await_shielded(self);
}

int wh_close(wh_fd fd)
{
    if (fd < 0)
        return -EBADF;
    wh_coro *self = enter("wh_close");
    int rc = fd_end_operations(self, fd);
    if (rc < 0)
        return leave(self, rc);
    rc = close_now(self, fd);
    return leave(self, rc);
}

wh_fd wh_openat(wh_fd dir, const char *path, int flags, mode_t mode)
{
    AWAIT("wh_openat", 0, .code = OP_OPENAT, .fd = dir, .addr = word(path), .len = mode,
          .flags = (uint32_t)(flags | O_CLOEXEC));
}

wh_fd wh_openat2(wh_fd dir, const char *path, const struct open_how *how, size_t size)
{
    struct open_how ours = {.flags = O_CLOEXEC};
    if (size < sizeof ours)
        return -EINVAL;
    for (size_t i = sizeof ours; i < size; i++)
        if (((const char *)how)[i])
            return -E2BIG;
    ours = *how;
    ours.flags |= O_CLOEXEC;
    AWAIT("wh_openat2", 0, .code = OP_OPENAT2, .fd = dir, .addr = word(path), .len = sizeof ours,
          .off = word(&ours));
}

int wh_fsync(wh_fd fd)
{
    AWAIT("wh_fsync", 0, .code = OP_FSYNC, .fd = fd);
}

int wh_fdatasync(wh_fd fd)
{
    AWAIT("wh_fdatasync", 0, .code = OP_FDATASYNC, .fd = fd);
}

int wh_sync_file_range(wh_fd fd, int64_t offset, int64_t len, unsigned flags)
{
    if (offset < 0 || len < 0 || len > UINT32_MAX)
        return -EINVAL;
    AWAIT("wh_sync_file_range", 0, .code = OP_SYNC_RANGE, .fd = fd, .off = (uint64_t)offset,
          .len = (uint32_t)len, .flags = flags);
}

ssize_t wh_fgetxattr(wh_fd fd, const char *name, void *value, size_t size)
{
    AWAIT("wh_fgetxattr", 0, .code = OP_FGETXATTR, .fd = fd, .addr = word(name), .off = word(value),
          .len = clamp(size));
}

int wh_fsetxattr(wh_fd fd, const char *name, const void *value, size_t size, int flags)
{
    AWAIT("wh_fsetxattr", 0, .code = OP_FSETXATTR, .fd = fd, .addr = word(name), .off = word(value),
          .len = clamp(size), .flags = (uint32_t)flags);
}

int wh_statx(wh_fd dir, const char *path, int flags, unsigned mask, struct statx *ret_stat)
{
    AWAIT("wh_statx", 0, .code = OP_STATX, .fd = dir, .addr = word(path), .len = mask,
          .off = word(ret_stat), .flags = (uint32_t)flags);
}

int wh_unlinkat(wh_fd dir, const char *path, int flags)
{
    AWAIT("wh_unlinkat", 0, .code = OP_UNLINKAT, .fd = dir, .addr = word(path),
          .flags = (uint32_t)flags);
}

int wh_mkdirat(wh_fd dir, const char *path, mode_t mode)
{
    AWAIT("wh_mkdirat", 0, .code = OP_MKDIRAT, .fd = dir, .addr = word(path), .len = mode);
}

int wh_renameat(wh_fd dir, const char *path, wh_fd to_dir, const char *to_path, unsigned flags)
{
    AWAIT("wh_renameat", 0, .code = OP_RENAMEAT, .fd = dir, .addr = word(path),
          .len = (uint32_t)to_dir, .off = word(to_path), .flags = flags);
}

int wh_linkat(wh_fd dir, const char *path, wh_fd to_dir, const char *to_path, int flags)
{
    AWAIT("wh_linkat", 0, .code = OP_LINKAT, .fd = dir, .addr = word(path), .len = (uint32_t)to_dir,
          .off = word(to_path), .flags = (uint32_t)flags);
}

int wh_symlinkat(const char *target, wh_fd dir, const char *path)
{
    AWAIT("wh_symlinkat", 0, .code = OP_SYMLINKAT, .fd = dir, .addr = word(target),
          .off = word(path));
}

static int set_length(int fd, int64_t len)
{
    return ftruncate(fd, len) < 0 ? -errno : 0;
}

/* In a shield: a call that went on without us might find another file under the number. */
COLD static int set_length_elsewhere(wh_fd fd, int64_t len)
{
    intptr_t result = 0;
    int rc = 0;
    WH_SHIELD
    {
        rc = wh_blocking(&result, set_length, fd, len);
    }
    return rc < 0 ? rc : (int)result;
}

int wh_ftruncate(wh_fd fd, int64_t len)
{
    if (len < 0)
        return -EINVAL;
    wh_coro *self = enter("wh_ftruncate");
    struct caps caps;
    ring_caps(self->worker->engine, &caps);
    if (unlikely(!caps.ftruncate)) {
        int rc = ended(self);
        if (rc < 0)
            return leave(self, refuse(self, rc));
        leave(self, 0);
        return set_length_elsewhere(fd, len);
    }
    self->op = (struct op){.code = OP_FTRUNCATE, .fd = fd, .off = (uint64_t)len};
    return op_await(self, 0);
}

int wh_fallocate(wh_fd fd, int mode, int64_t offset, int64_t len)
{
    AWAIT("wh_fallocate", 0, .code = OP_FALLOCATE, .fd = fd, .off = (uint64_t)offset,
          .addr = (uint64_t)len, .len = (uint32_t)mode);
}

int wh_fadvise(wh_fd fd, int64_t offset, int64_t len, int advice)
{
    if (len < 0)
        return -EINVAL;
    AWAIT("wh_fadvise", 0, .code = OP_FADVISE, .fd = fd, .off = (uint64_t)offset,
          .len = (uint32_t)(len < UINT32_MAX ? len : UINT32_MAX), .flags = (uint32_t)advice);
}

int wh_poll(wh_fd fd, short events)
{
    AWAIT("wh_poll", 0, .code = OP_POLL, .fd = fd, .flags = (uint16_t)events);
}
