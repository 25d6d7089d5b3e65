/*
 * listen.c: listening sockets (whorl/net.h). Their calls (socket, bind, listen, setsockopt) are
 * made directly: they never block.
 */
#include "net/address.h"

#include <whorl/net.h>

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/stat.h>
#include <unistd.h>

#define BACKLOG_DEFAULT 4096

static int option_on(wh_fd fd, int level, int name)
{
    int on = 1;
    return setsockopt(fd, level, name, &on, sizeof on) < 0 ? -errno : 0;
}

static wh_fd stream_socket(int family)
{
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return fd < 0 ? -errno : fd;
}

static int bind_and_listen(wh_fd fd, const struct address *address, const wh_listen_options *o)
{
    if (bind(fd, &address->any, address->len) < 0)
        return -errno;
    bool has_path = address->any.sa_family == AF_UNIX && address->un.sun_path[0];
    if ((o->mode && has_path && chmod(address->un.sun_path, o->mode) < 0) ||
        listen(fd, o->backlog > 0 ? o->backlog : BACKLOG_DEFAULT) < 0) {
        int error = -errno;
        if (has_path)
            unlink(address->un.sun_path); /* ours: bind made it */
        return error;
    }
    return 0;
}

static int listen_tcp(wh_fd fd, const struct address *address, const wh_listen_options *o)
{
    int off = 0; /* "every address" means IPv4 too, whatever net.ipv6.bindv6only says */
    if (address->any.sa_family == AF_INET6 &&
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off) < 0)
        return -errno;
    int rc = option_on(fd, SOL_SOCKET, SO_REUSEADDR);
    if (rc == 0 && o->reuseport)
        rc = option_on(fd, SOL_SOCKET, SO_REUSEPORT);
    if (rc == 0 && !o->no_nodelay)
        rc = option_on(fd, IPPROTO_TCP, TCP_NODELAY);
    return rc < 0 ? rc : bind_and_listen(fd, address, o);
}

/* "Every address" where the kernel has no IPv6. */
static void any_ipv4(struct address *address)
{
    in_port_t port = ((struct sockaddr_in6 *)&address->any)->sin6_port;
    struct sockaddr_in *in = (struct sockaddr_in *)&address->any;
    *in = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = port};
    address->len = sizeof *in;
}

wh_fd wh_listen_tcp(const char *text, const wh_listen_options *options)
{
    const wh_listen_options o = options ? *options : (wh_listen_options){0};
    struct address address;
    int rc = address_tcp(text, &address);
    if (rc < 0)
        return rc;
    wh_fd fd = stream_socket(address.any.sa_family);
    if (fd == -EAFNOSUPPORT && *text == ':') {
        any_ipv4(&address);
        fd = stream_socket(AF_INET);
    }
    if (fd < 0)
        return fd;
    rc = listen_tcp(fd, &address, &o);
    if (rc < 0) {
        close(fd);
        return rc;
    }
    return fd;
}

/* Whether the path is a socket that nobody listens on. */
static bool is_stale(const struct address *address)
{
    struct stat st;
    if (!address->un.sun_path[0] || stat(address->un.sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
        return false;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return false;
    bool refused = connect(fd, &address->any, address->len) < 0 && errno == ECONNREFUSED;
    close(fd);
    return refused;
}

wh_fd wh_listen_unix(const char *path, const wh_listen_options *options)
{
    const wh_listen_options o = options ? *options : (wh_listen_options){0};
    struct address address;
    int rc = address_unix(path, &address);
    if (rc < 0)
        return rc;
    wh_fd fd = stream_socket(AF_UNIX);
    if (fd < 0)
        return fd;
    rc = bind_and_listen(fd, &address, &o);
    if (rc == -EADDRINUSE && is_stale(&address) && unlink(path) == 0)
        rc = bind_and_listen(fd, &address, &o);
    if (rc < 0) {
        close(fd);
        return rc;
    }
    return fd;
}
