/*
 * address.c: the text of an address as a socket address. libc parses the numbers; what it would
 * let pass beside them (names, service names, spaces) is refused before.
 */
#include "net/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
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
        return -EINVAL; /* getaddrinfo would take "80 " and 65536 */
    unsigned number = 0;
    sscanf(text, "%u", &number);
    return number > 65535 ? -EINVAL : (int)number;
}

int address_tcp(const char *text, struct address *ret_address)
{
    char host[128];
    const char *port;
    if (!text || split(text, host, sizeof host, &port) < 0)
        return -EINVAL;
    if (address_port(port) < 0)
        return -EINVAL;

    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE,
                             .ai_socktype = SOCK_STREAM};
    const char *name = !strcmp(host, "localhost") ? "127.0.0.1" : host;
    struct in_addr ipv4;
    if (*text == '[') {
        hints.ai_family = AF_INET6;
    } else if (!*name) {
        name = NULL; /* every address: IPv6 takes IPv4 too, where there is IPv6 */
        hints.ai_family = AF_INET6;
    } else if (inet_pton(AF_INET, name, &ipv4) != 1) {
        return -EINVAL; /* getaddrinfo would take "*", "127.1" and octal numbers */
    }
    struct addrinfo *found;
    if (getaddrinfo(name, port, &hints, &found) != 0)
        return -EINVAL;
    memset(ret_address, 0, sizeof *ret_address);
    memcpy(&ret_address->storage, found->ai_addr, found->ai_addrlen);
    ret_address->len = found->ai_addrlen;
    freeaddrinfo(found);
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
