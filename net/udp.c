/*
 * udp.c: datagrams (whorl/udp.h).
 *
 * One is sent or received through the ring, as any operation. Many: there is no operation for that,
 * so recvmmsg(2) and sendmmsg(2) are called directly, without waiting, BATCH at a time; only when
 * nothing is there, or nothing fits, the ring waits with one. A busy socket so costs one system
 * call for BATCH datagrams. The direct call comes first, at the begin of ours: after a wait the
 * descriptor might be another's by then.
 *
 * What the kernel cuts (GSO) goes through the ring in pieces of up to SEGMENTS_MAX datagrams. It
 * refuses that, with one of several errors, where the way out cannot do it: a segment longer than
 * the way's MTU, a device without checksums. Then the piece is cut here; if the error was about
 * something else it comes again.
 *
 * Rejected: receiving with one operation for many datagrams into buffers that the kernel picks
 * (multishot recvmsg). See docs/DECISIONS.md.
 */
#include "sched/sched.h"

#include "uring/ring.h"

#include <whorl/io.h>
#include <whorl/udp.h>

#include <errno.h>
#include <netinet/udp.h>
#include <string.h>
#include <unistd.h>

enum {
    BATCH = 16,          /* datagrams a system call: more gain little, and are on the stack */
    SEGMENTS_MAX = 64,   /* in a piece: what every kernel takes */
    PAYLOAD_MAX = 65507, /* of IPv4 */
};

/* ---- Sockets ---- */

static int option_set(wh_fd fd, int level, int name, int value)
{
    return setsockopt(fd, level, name, &value, sizeof value) < 0 ? -errno : 0;
}

/* Where the kernel has none, each datagram comes by itself. */
static int gro_set(wh_fd fd)
{
    int rc = caps_masked("udp_gro") ? 0 : option_set(fd, SOL_UDP, UDP_GRO, 1);
    return rc == -ENOPROTOOPT ? 0 : rc;
}

static int options_set(wh_fd fd, const wh_udp_options *o)
{
    int rc = 0;
    if (o->reuseport)
        rc = option_set(fd, SOL_SOCKET, SO_REUSEPORT, 1);
    if (rc == 0 && o->recv_buffer_bytes)
        rc = option_set(fd, SOL_SOCKET, SO_RCVBUF, o->recv_buffer_bytes);
    if (rc == 0 && o->send_buffer_bytes)
        rc = option_set(fd, SOL_SOCKET, SO_SNDBUF, o->send_buffer_bytes);
    if (rc == 0 && o->gro)
        rc = gro_set(fd);
    return rc;
}

static wh_fd udp_socket(int family)
{
    int fd = socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    return fd < 0 ? -errno : fd;
}

/* Makes a socket for the address and binds or connects it. */
static wh_fd open_udp(const char *text, const wh_udp_options *options,
                      int (*attach)(wh_fd fd, const wh_addr *addr))
{
    const wh_udp_options o = options ? *options : (wh_udp_options){0};
    wh_addr addr;
    int rc = wh_addr_parse(text, &addr);
    if (rc < 0 || o.recv_buffer_bytes < 0 || o.send_buffer_bytes < 0)
        return -EINVAL;
    wh_fd fd = udp_socket(addr.any.sa_family);
    if (fd == -EAFNOSUPPORT && *text == ':') { /* "every address" where there is no IPv6 */
        in_port_t port = addr.in6.sin6_port;
        addr = (wh_addr){.in = {.sin_family = AF_INET, .sin_port = port}, .len = sizeof addr.in};
        fd = udp_socket(AF_INET);
    }
    if (fd < 0)
        return fd;
    rc = options_set(fd, &o);
    if (rc == 0)
        rc = attach(fd, &addr);
    if (rc < 0) {
        close(fd);
        return rc;
    }
    return fd;
}

static int bind_to(wh_fd fd, const wh_addr *addr)
{
    int rc = 0; /* "every address" means IPv4 too, whatever net.ipv6.bindv6only says */
    if (addr->any.sa_family == AF_INET6)
        rc = option_set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
    if (rc == 0 && bind(fd, &addr->any, addr->len) < 0)
        rc = -errno;
    return rc;
}

static int connect_to(wh_fd fd, const wh_addr *addr)
{
    return connect(fd, &addr->any, addr->len) < 0 ? -errno : 0;
}

wh_fd wh_listen_udp(const char *address, const wh_udp_options *options)
{
    return open_udp(address, options, bind_to);
}

wh_fd wh_dial_udp(const char *address, const wh_udp_options *options)
{
    return open_udp(address, options, connect_to);
}

/* ---- Messages ---- */

/* Control data of one message: the size of a segment, as the kernel wants it. */
union control {
    struct cmsghdr head;
    char bytes[CMSG_SPACE(sizeof(int))];
};

/* The same as the kernel tells it: behind all that SOL_SOCKET can be set to tell (224 bytes by
 * Linux 6.18: stamps of time, drops, mark, priority), before what IP can. */
union control_told {
    struct cmsghdr head;
    char bytes[232 + CMSG_SPACE(sizeof(int))];
};

static void message_init(struct msghdr *msg, struct iovec *iov, const wh_addr *to)
{
    *msg = (struct msghdr){.msg_iov = iov, .msg_iovlen = 1};
    if (to && to->len) {
        msg->msg_name = (void *)(uintptr_t)&to->any;
        msg->msg_namelen = to->len;
    }
}

static void segments_ask(struct msghdr *msg, union control *control, size_t segment_bytes)
{
    uint16_t bytes = (uint16_t)segment_bytes;
    memset(control, 0, sizeof *control);
    control->head.cmsg_level = SOL_UDP;
    control->head.cmsg_type = UDP_SEGMENT;
    control->head.cmsg_len = CMSG_LEN(sizeof bytes);
    memcpy(CMSG_DATA(&control->head), &bytes, sizeof bytes);
    msg->msg_control = control;
    msg->msg_controllen = CMSG_SPACE(sizeof bytes);
}

static bool gro_is_on(wh_fd fd)
{
    int on = 0;
    socklen_t len = sizeof on;
    return getsockopt(fd, SOL_UDP, UDP_GRO, &on, &len) == 0 && on;
}

/* The size of the segments that were received in one piece, or 0; or -EBADMSG: it may have been cut
 * off. */
static int segments_told(wh_fd fd, struct msghdr *msg)
{
    bool was_its_turn = false;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
        if (c->cmsg_level == SOL_UDP && c->cmsg_type == UDP_GRO) {
            int bytes;
            memcpy(&bytes, CMSG_DATA(c), sizeof bytes);
            return bytes;
        }
        was_its_turn |= c->cmsg_level != SOL_SOCKET;
    }
    bool is_cut = msg->msg_flags & MSG_CTRUNC && !was_its_turn;
    return unlikely(is_cut) && gro_is_on(fd) ? -EBADMSG : 0;
}

/* The address that the kernel has filled in; an IPv4 one may be dressed as IPv6. */
static void from_set(wh_addr *from, socklen_t len)
{
    bool is_ip = len && (from->any.sa_family == AF_INET || from->any.sa_family == AF_INET6);
    if (!is_ip) { /* of a socket of another kind: from nobody */
        *from = (wh_addr){.len = 0};
        return;
    }
    from->len = len;
    if (from->any.sa_family != AF_INET6 || !IN6_IS_ADDR_V4MAPPED(&from->in6.sin6_addr))
        return;
    wh_addr ipv4 = {.in = {.sin_family = AF_INET, .sin_port = from->in6.sin6_port},
                    .len = sizeof ipv4.in};
    memcpy(&ipv4.in.sin_addr, &from->in6.sin6_addr.s6_addr[12], sizeof ipv4.in.sin_addr);
    *from = ipv4;
}

/* ---- One at a time ---- */

ssize_t wh_udp_send(wh_fd fd, const void *buf, size_t len, const wh_addr *to)
{
    if (!to)
        return wh_send(fd, buf, len, 0);
    struct iovec iov = {.iov_base = (void *)(uintptr_t)buf, .iov_len = len};
    struct msghdr msg;
    message_init(&msg, &iov, to);
    return wh_sendmsg(fd, &msg, 0);
}

ssize_t wh_udp_recv(wh_fd fd, void *buf, size_t size, wh_addr *ret_from)
{
    if (!ret_from)
        return wh_recv(fd, buf, size, MSG_TRUNC);
    wh_addr from;
    memset(&from, 0, sizeof from);
    struct iovec iov = {.iov_base = buf, .iov_len = size};
    struct msghdr msg = {
        .msg_name = &from.any, .msg_namelen = sizeof from.in6, .msg_iov = &iov, .msg_iovlen = 1};
    ssize_t n = wh_recvmsg(fd, &msg, MSG_TRUNC);
    if (n >= 0) {
        from_set(&from, msg.msg_namelen);
        *ret_from = from;
    }
    return n;
}

/* ---- Many at a time ---- */

struct batch {
    struct mmsghdr messages[BATCH];
    struct iovec iovs[BATCH];
};

/* A direct call did nothing: waits in the ring with the first message. Leaves the runtime. */
static ssize_t first_by_ring(wh_coro *self, enum op_code code, wh_fd fd, struct mmsghdr *first,
                             int flags)
{
    self->op = (struct op){.code = (uint8_t)code,
                           .fd = fd,
                           .addr = (uint64_t)(uintptr_t)&first->msg_hdr,
                           .len = 1,
                           .flags = (uint32_t)flags};
    return op_await(self, 0);
}

/* Sends them, or if that would wait the first alone. Returns how many went, or -errno. */
static int batch_send(wh_fd fd, struct batch *batch, unsigned count)
{
    wh_coro *self = enter("wh_udp_send_many");
    int rc = ended(self);
    if (unlikely(rc < 0))
        return leave(self, refuse(self, rc));
    rc = sendmmsg(fd, batch->messages, count, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (likely(rc > 0))
        return leave(self, served(self, rc));
    if (errno != EAGAIN)
        return leave(self, served(self, -errno));
    ssize_t n = first_by_ring(self, OP_SENDMSG, fd, batch->messages, MSG_NOSIGNAL);
    return n < 0 ? (int)n : 1;
}

int wh_udp_send_many(wh_fd fd, const wh_datagram *datagrams, unsigned count)
{
    struct batch batch;
    unsigned sent = 0;
    while (sent < count) {
        unsigned here = count - sent < BATCH ? count - sent : BATCH;
        for (unsigned i = 0; i < here; i++) {
            const wh_datagram *d = &datagrams[sent + i];
            batch.iovs[i] = (struct iovec){.iov_base = d->bytes, .iov_len = d->len};
            message_init(&batch.messages[i].msg_hdr, &batch.iovs[i], &d->addr);
        }
        int rc = batch_send(fd, &batch, here);
        if (rc < 0)
            return sent ? (int)sent : rc;
        sent += (unsigned)rc;
        if ((unsigned)rc < here)
            break;
    }
    return (int)sent;
}

/* Receives what is there, or if there is nothing waits for one. */
static int batch_recv(wh_fd fd, struct batch *batch, unsigned count)
{
    wh_coro *self = enter("wh_udp_recv_many");
    int rc = ended(self);
    if (unlikely(rc < 0))
        return leave(self, refuse(self, rc));
    rc = recvmmsg(fd, batch->messages, count, MSG_DONTWAIT | MSG_TRUNC, NULL);
    if (likely(rc > 0))
        return leave(self, served(self, rc));
    if (errno != EAGAIN)
        return leave(self, served(self, -errno));
    ssize_t n = first_by_ring(self, OP_RECVMSG, fd, batch->messages, MSG_TRUNC);
    if (n < 0)
        return (int)n;
    batch->messages[0].msg_len = (unsigned)n;
    return 1;
}

int wh_udp_recv_many(wh_fd fd, wh_datagram *datagrams, unsigned count)
{
    struct batch batch;
    union control_told control[BATCH];
    if (!count)
        return 0;
    unsigned here = count < BATCH ? count : BATCH;
    for (unsigned i = 0; i < here; i++) {
        wh_datagram *d = &datagrams[i];
        control[i].head = (struct cmsghdr){.cmsg_len = 0};
        batch.iovs[i] = (struct iovec){.iov_base = d->bytes, .iov_len = d->size};
        batch.messages[i].msg_hdr = (struct msghdr){.msg_name = &d->addr.any,
                                                    .msg_namelen = sizeof d->addr.in6,
                                                    .msg_iov = &batch.iovs[i],
                                                    .msg_iovlen = 1,
                                                    .msg_control = &control[i],
                                                    .msg_controllen = sizeof control[i]};
    }
    int rc = batch_recv(fd, &batch, here);
    for (int i = 0; i < rc; i++) {
        wh_datagram *d = &datagrams[i];
        d->len = batch.messages[i].msg_len;
        int segment_bytes = segments_told(fd, &batch.messages[i].msg_hdr);
        if (unlikely(segment_bytes < 0))
            return segment_bytes;
        d->segment_bytes = (uint32_t)segment_bytes;
        if (d->segment_bytes >= d->len)
            d->segment_bytes = 0; /* it is one */
        from_set(&d->addr, batch.messages[i].msg_hdr.msg_namelen);
    }
    return rc;
}

/* ---- Many in one piece ---- */

/* Cuts a piece here. Returns how many bytes went, or -errno. */
static ssize_t cut_and_send(wh_fd fd, const char *bytes, size_t len, size_t segment_bytes,
                            const wh_addr *to)
{
    struct batch batch;
    size_t sent = 0;
    while (sent < len) {
        unsigned count = 0;
        for (size_t at = sent; at < len && count < BATCH; at += segment_bytes, count++) {
            size_t left = len - at;
            batch.iovs[count] =
                (struct iovec){.iov_base = (void *)(uintptr_t)(bytes + at),
                               .iov_len = left < segment_bytes ? left : segment_bytes};
            message_init(&batch.messages[count].msg_hdr, &batch.iovs[count], to);
        }
        int rc = batch_send(fd, &batch, count);
        if (rc < 0)
            return sent ? (ssize_t)sent : rc;
        for (int i = 0; i < rc; i++)
            sent += batch.iovs[i].iov_len;
    }
    return (ssize_t)sent;
}

static bool may_be_about_segments(ssize_t error)
{
    return error == -EINVAL || error == -EIO || error == -EMSGSIZE || error == -EOPNOTSUPP;
}

static bool has_gso(void)
{
    struct caps caps;
    ring_caps(self_or_panic("wh_udp_send_segments")->worker->engine, &caps);
    return caps.udp_gso;
}

ssize_t wh_udp_send_segments(wh_fd fd, const void *buf, size_t len, size_t segment_bytes,
                             const wh_addr *to)
{
    if (!segment_bytes || segment_bytes > PAYLOAD_MAX)
        return -EINVAL;
    size_t most = PAYLOAD_MAX / segment_bytes;
    size_t piece = (most < SEGMENTS_MAX ? most : SEGMENTS_MAX) * segment_bytes;
    bool gso = has_gso() && piece > segment_bytes;
    const char *bytes = buf;
    size_t sent = 0;
    while (sent < len) {
        size_t here = len - sent < piece ? len - sent : piece;
        ssize_t n = -EOPNOTSUPP;
        if (gso) {
            struct iovec iov = {.iov_base = (void *)(uintptr_t)(bytes + sent), .iov_len = here};
            struct msghdr msg;
            union control control;
            message_init(&msg, &iov, to);
            segments_ask(&msg, &control, segment_bytes);
            n = wh_sendmsg(fd, &msg, 0);
        }
        if (n < 0 && may_be_about_segments(n)) {
            gso = false;
            n = cut_and_send(fd, bytes + sent, here, segment_bytes, to);
        }
        if (n < 0)
            return sent ? (ssize_t)sent : n;
        sent += (size_t)n;
        if ((size_t)n < here)
            break;
    }
    return (ssize_t)sent;
}
