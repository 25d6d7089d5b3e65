/*
 * unix.c: descriptors and credentials over Unix sockets (whorl/unix.h).
 *
 * A descriptor that has been received is open in this process whether we know of it or not. So
 * there is always room for the control data of every message: as many descriptors as one can have,
 * and beside them credentials and what else a socket may have been set to tell. The kernel cuts
 * (MSG_CTRUNC) then only when it has no descriptor to give, and what it did give is there to be
 * closed. A descriptor that nobody asked for (SCM_PIDFD) is closed as well.
 *
 * A receive that has waited in the ring is told a sender's user and group, but 0 for its process
 * (Linux 6.18). So credentials are received only when they are there: the wait is a poll.
 */
#include "base/base.h"

#include <whorl/io.h>
#include <whorl/unix.h>

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

enum {
    PIDFD_TYPE = 4,    /* newer than some headers */
    ID_NOBODY = 65534, /* overflowuid(5): how the kernel writes one that it has not */
};

static_assert(sizeof(wh_cred) == sizeof(struct ucred), "one is the other");

union control {
    struct cmsghdr head;
    char bytes[CMSG_SPACE(WH_FDS_MAX * sizeof(int)) + CMSG_SPACE(sizeof(struct ucred)) +
               CMSG_SPACE(sizeof(int)) + CMSG_SPACE(256)]; /* the last for a security label */
};

/* What came with some bytes. */
struct passed {
    int fds[WH_FDS_MAX];
    unsigned count;
    bool cut;
    bool has_cred;
    wh_cred cred;
};

ssize_t wh_send_fds(wh_fd fd, const void *buf, size_t len, const wh_fd *fds, unsigned count)
{
    if (!len || !count || count > WH_FDS_MAX)
        return -EINVAL;
    struct iovec iov = {.iov_base = (void *)(uintptr_t)buf, .iov_len = len};
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(WH_FDS_MAX * sizeof(int))];
    } control;
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = &control,
                         .msg_controllen = CMSG_SPACE(count * sizeof *fds)};
    memset(&control, 0, msg.msg_controllen);
    control.head.cmsg_level = SOL_SOCKET;
    control.head.cmsg_type = SCM_RIGHTS;
    control.head.cmsg_len = CMSG_LEN(count * sizeof *fds);
    memcpy(CMSG_DATA(&control.head), fds, count * sizeof *fds);
    return wh_sendmsg(fd, &msg, 0);
}

static void close_all(const int *fds, size_t count)
{
    for (size_t i = 0; i < count; i++)
        close(fds[i]);
}

static void unpack_fds(struct cmsghdr *c, struct passed *passed)
{
    size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    if (c->cmsg_type == PIDFD_TYPE) {
        int fd;
        memcpy(&fd, CMSG_DATA(c), sizeof fd);
        close_all(&fd, fd >= 0);
        return;
    }
    wh_assert(passed->count + count <= WH_FDS_MAX);
    memcpy(passed->fds + passed->count, CMSG_DATA(c), count * sizeof(int));
    passed->count += (unsigned)count;
}

/* A sender that this process's PID namespace does not have is process 0. So is none, and then its
 * user and its group are nobody. */
static bool is_somebody(const wh_cred *cred)
{
    return cred->pid || cred->uid != ID_NOBODY || cred->gid != ID_NOBODY;
}

static void unpack(struct msghdr *msg, struct passed *ret_passed)
{
    ret_passed->count = 0;
    ret_passed->has_cred = false;
    ret_passed->cut = msg->msg_flags & MSG_CTRUNC;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
        if (c->cmsg_level != SOL_SOCKET)
            continue;
        if (c->cmsg_type == SCM_RIGHTS || c->cmsg_type == PIDFD_TYPE) {
            unpack_fds(c, ret_passed);
        } else if (c->cmsg_type == SCM_CREDENTIALS) {
            memcpy(&ret_passed->cred, CMSG_DATA(c), sizeof ret_passed->cred);
            ret_passed->has_cred = is_somebody(&ret_passed->cred);
        }
    }
}

static ssize_t receive(wh_fd fd, void *buf, size_t len, int flags, struct passed *ret_passed)
{
    if (!len)
        return -EINVAL; /* a stream would give no bytes, but the descriptors, for ever */
    struct iovec iov = {.iov_base = buf, .iov_len = len};
    union control control;
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = &control,
                         .msg_controllen = sizeof control};
    ssize_t n = wh_recvmsg(fd, &msg, MSG_CMSG_CLOEXEC | flags);
    if (n >= 0)
        unpack(&msg, ret_passed);
    return n;
}

ssize_t wh_recv_fds(wh_fd fd, void *buf, size_t len, wh_fd *ret_fds, unsigned *count)
{
    struct passed passed;
    ssize_t n = receive(fd, buf, len, 0, &passed);
    if (n < 0)
        return n;
    if (passed.cut || passed.count > *count) {
        close_all(passed.fds, passed.count);
        return passed.cut ? -EMFILE : -EMSGSIZE;
    }
    if (passed.count)
        memcpy(ret_fds, passed.fds, passed.count * sizeof *ret_fds);
    *count = passed.count;
    return n;
}

/* Returns 0 for a Unix socket, -EOPNOTSUPP for another, or -errno. */
static int check_unix(wh_fd fd)
{
    int domain;
    socklen_t len = sizeof domain;
    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0)
        return -errno;
    return domain == AF_UNIX ? 0 : -EOPNOTSUPP;
}

int wh_peer_cred(wh_fd fd, wh_cred *ret_cred)
{
    int rc = check_unix(fd);
    if (rc < 0)
        return rc;
    wh_cred cred;
    socklen_t len = sizeof cred;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
        return -errno;
    if (cred.uid == (uid_t)-1)
        return -ENOTCONN;
    *ret_cred = cred;
    return 0;
}

int wh_want_cred(wh_fd fd)
{
    int on = 1;
    int rc =
        check_unix(fd); /* kernels before 6.16 or so let others have it, who have no use for it */
    if (rc == 0 && setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof on) < 0)
        rc = -errno;
    return rc;
}

ssize_t wh_recv_cred(wh_fd fd, void *buf, size_t len, wh_cred *ret_cred)
{
    struct passed passed;
    ssize_t n;
    while ((n = receive(fd, buf, len, MSG_DONTWAIT, &passed)) == -EAGAIN) {
        int events = wh_poll(fd, POLLIN);
        if (events < 0)
            return events;
    }
    if (n < 0)
        return n;
    close_all(passed.fds, passed.count);
    if (n == 0)
        return 0;
    if (!passed.has_cred)
        return -ENODATA;
    *ret_cred = passed.cred;
    return n;
}
