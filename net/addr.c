/*
 * addr.c: addresses as users see them (whorl/udp.h).
 */
#include "net/address.h"

#include <whorl/udp.h>

#include <netdb.h>
#include <stdio.h>
#include <string.h>

/* Of what the kernel or the parser has filled in. Returns 0 or -EAFNOSUPPORT. */
static int addr_of(const struct address *address, wh_addr *ret_addr)
{
    if (address->any.sa_family != AF_INET && address->any.sa_family != AF_INET6)
        return -EAFNOSUPPORT;
    memset(ret_addr, 0, sizeof *ret_addr);
    wh_assert(address->len <= sizeof ret_addr->in6);
    memcpy(&ret_addr->in6, &address->storage, address->len);
    ret_addr->len = address->len;
    return 0;
}

int wh_addr_parse(const char *text, wh_addr *ret_addr)
{
    struct address address;
    int rc = address_tcp(text, &address);
    return rc < 0 ? rc : addr_of(&address, ret_addr);
}

int wh_addr_format(const wh_addr *addr, char *buf, size_t size)
{
    char host[WH_ADDR_TEXT - 8], port[8];
    bool is_ipv6 = addr->any.sa_family == AF_INET6;
    if (!is_ipv6 && addr->any.sa_family != AF_INET)
        return -EAFNOSUPPORT;
    if (getnameinfo(&addr->any, addr->len, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV | NI_DGRAM) != 0)
        return -EAFNOSUPPORT;
    return snprintf(buf, size, is_ipv6 ? "[%s]:%s" : "%s:%s", host, port);
}

bool wh_addr_equal(const wh_addr *a, const wh_addr *b)
{
    if (a->any.sa_family != b->any.sa_family)
        return false;
    if (a->any.sa_family == AF_INET)
        return a->in.sin_port == b->in.sin_port && a->in.sin_addr.s_addr == b->in.sin_addr.s_addr;
    return a->any.sa_family == AF_INET6 && a->in6.sin6_port == b->in6.sin6_port &&
           a->in6.sin6_scope_id == b->in6.sin6_scope_id &&
           !memcmp(&a->in6.sin6_addr, &b->in6.sin6_addr, sizeof a->in6.sin6_addr);
}

int wh_addr_local(wh_fd fd, wh_addr *ret_addr)
{
    struct address address = {.len = sizeof address.storage};
    if (getsockname(fd, &address.any, &address.len) < 0)
        return -errno;
    return addr_of(&address, ret_addr);
}

int wh_addr_peer(wh_fd fd, wh_addr *ret_addr)
{
    struct address address = {.len = sizeof address.storage};
    if (getpeername(fd, &address.any, &address.len) < 0)
        return -errno;
    return addr_of(&address, ret_addr);
}
