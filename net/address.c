/*
 * address.c: the text of an address as a socket address. By inet_pton(3), and not by
 * getaddrinfo(3), which takes more than numbers, and which a program that is linked statically has
 * only with libc's shared libraries beside it.
 */
#include "net/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DIGITS  "0123456789"
#define LETTERS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

/* Splits "[HOST]:PORT" or "HOST:PORT" at the last colon. */
static int split(const char *text, char *host, size_t host_size, const char **ret_port)
{
    const char *colon = strrchr(text, ':');
    if (!colon || !colon[1])
        return -EINVAL;
    const char *end = colon;
    if (*text == '[') {
        if (end == text + 1 || end[-1] != ']')
            return -EINVAL;
        text++;
        end--;
    } else if (memchr(text, ':', (size_t)(end - text))) {
        return -EINVAL; /* an IPv6 address without its brackets */
    }
    int n = snprintf(host, host_size, "%.*s", (int)(end - text), text);
    if (n < 0 || (size_t)n >= host_size)
        return -EINVAL;
    *ret_port = colon + 1;
    return 0;
}

int address_port(const char *text)
{
    size_t len = strlen(text);
    if (len < 1 || len > 5 || strspn(text, DIGITS) != len)
        return -EINVAL; /* strtoul(3) would take "80 " and 65536 */
    unsigned number = 0;
    sscanf(text, "%u", &number);
    return number > 65535 ? -EINVAL : (int)number;
}

/* The interface that an address is of, by its name, if it is one of a link, or by its number. */
static int scope_parse(const char *text, const struct in6_addr *of, uint32_t *ret_scope)
{
    bool is_of_link = IN6_IS_ADDR_LINKLOCAL(of) || IN6_IS_ADDR_MC_LINKLOCAL(of);
    *ret_scope = is_of_link ? if_nametoindex(text) : 0;
    if (*ret_scope)
        return 0;
    size_t len = strlen(text);
    unsigned long long number = strtoull(text, NULL, 10); /* ULLONG_MAX if it is too large */
    if (!len || strspn(text, DIGITS) != len || number > UINT32_MAX)
        return -EINVAL;
    *ret_scope = (uint32_t)number;
    return 0;
}

/* "ADDRESS" or "ADDRESS%SCOPE". */
static int ipv6_parse(char *host, struct sockaddr_in6 *in6)
{
    char *percent = strchr(host, '%');
    if (percent)
        *percent = 0;
    if (inet_pton(AF_INET6, host, &in6->sin6_addr) != 1)
        return -EINVAL;
    return percent ? scope_parse(percent + 1, &in6->sin6_addr, &in6->sin6_scope_id) : 0;
}

static void address_set(struct address *address, const void *from, socklen_t len)
{
    memset(address, 0, sizeof *address);
    memcpy(&address->storage, from, len);
    address->len = len;
}

int address_tcp(const char *text, struct address *ret_address)
{
    char host[128];
    const char *port;
    if (!text || split(text, host, sizeof host, &port) < 0)
        return -EINVAL;
    int number = address_port(port);
    if (number < 0)
        return -EINVAL;

    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)number)};
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons((uint16_t)number)};
    if (*text == '[') {
        if (ipv6_parse(host, &in6) < 0)
            return -EINVAL;
        address_set(ret_address, &in6, sizeof in6);
    } else if (!*host) { /* every address: IPv6 takes IPv4 too, where there is IPv6 */
        address_set(ret_address, &in6, sizeof in6);
    } else {
        const char *name = !strcmp(host, "localhost") ? "127.0.0.1" : host;
        if (inet_pton(AF_INET, name, &in.sin_addr) != 1)
            return -EINVAL;
        address_set(ret_address, &in, sizeof in);
    }
    return 0;
}

/* What would be an IPv4 address, for who reads such in octal, in hexadecimal or in less parts. */
static bool is_number(const char *label, size_t len)
{
    if (len > 1 && label[0] == '0' && (label[1] == 'x' || label[1] == 'X'))
        return strspn(label + 2, DIGITS "abcdefABCDEF") >= len - 2;
    return strspn(label, DIGITS) >= len;
}

static bool is_name(const char *host)
{
    enum { LABEL_MAX = 63, NAME_MAX_BYTES = 253 };
    size_t len = strlen(host);
    if (len && host[len - 1] == '.')
        len--;
    if (len < 1 || len > NAME_MAX_BYTES)
        return false;
    for (const char *label = host, *end = host + len;;) {
        size_t label_len = strspn(label, DIGITS LETTERS "-_");
        if (label_len < 1 || label_len > LABEL_MAX)
            return false;
        if (label + label_len == end)
            return !is_number(label, label_len);
        if (label[label_len] != '.')
            return false;
        label += label_len + 1;
    }
}

int address_name(const char *text, char ret_host[ADDRESS_HOST_BYTES],
                 char ret_service[ADDRESS_SERVICE_BYTES])
{
    const char *colon = text ? strrchr(text, ':') : NULL;
    size_t host_len = colon ? (size_t)(colon - text) : 0;
    size_t service_len = colon ? strlen(colon + 1) : 0;
    if (!service_len || service_len >= ADDRESS_SERVICE_BYTES || host_len >= ADDRESS_HOST_BYTES)
        return -EINVAL;
    if (strspn(colon + 1, DIGITS) == service_len) {
        if (address_port(colon + 1) < 0)
            return -EINVAL;
    } else if (strspn(colon + 1, DIGITS LETTERS "-_.+") != service_len) {
        return -EINVAL;
    }
    char host[ADDRESS_HOST_BYTES + 2];
    struct address address;
    snprintf(host, sizeof host, "%.*s:0", (int)host_len, text);
    bool is_numeric = address_tcp(host, &address) == 0;
    host[host_len] = 0;
    if (!is_numeric && !is_name(host))
        return -EINVAL;
    memcpy(ret_host, host, host_len + 1);
    memcpy(ret_service, colon + 1, service_len + 1);
    return 0;
}

int address_unix(const char *path, struct address *ret_address)
{
    size_t len = path ? strlen(path) : 0;
    if (!len)
        return -EINVAL;
    if (len >= sizeof ret_address->un.sun_path)
        return -ENAMETOOLONG;
    memset(ret_address, 0, sizeof *ret_address);
    ret_address->un.sun_family = AF_UNIX;
    memcpy(ret_address->un.sun_path, path, len);
    ret_address->len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
    if (*path == '@')
        ret_address->un.sun_path[0] = 0; /* abstract: no terminator, the length counts */
    else
        ret_address->len++;
    return 0;
}
