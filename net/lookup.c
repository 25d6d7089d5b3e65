/*
 * lookup.c: one lookup of a name, but for DNS (net/lookup.h).
 *
 * The hosts file is read here and not by c-ares, which before 1.19 reads no other than /etc/hosts,
 * and which reads it when it comes to it: on the worker. So a build without c-ares knows its names,
 * too.
 */
#include "net/lookup.h"

#include "base/base.h"
#include "net/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- What was found ---- */

int lookup_add(const struct lookup *lookup, struct addresses *to, const struct sockaddr *address)
{
    bool is_ipv4 = address->sa_family == AF_INET;
    if (!is_ipv4 && address->sa_family != AF_INET6)
        return 0;
    if (lookup->family != AF_UNSPEC && lookup->family != address->sa_family)
        return 0;
    if (to->count == to->room) {
        size_t room = to->room ? 2 * to->room : 8;
        wh_addr *at = mem_alloc(room * sizeof *at);
        if (!at)
            return -ENOMEM;
        if (to->count)
            memcpy(at, to->at, to->count * sizeof *at);
        mem_free(to->at);
        to->at = at;
        to->room = room;
    }
    wh_addr *last = &to->at[to->count++];
    memset(last, 0, sizeof *last);
    last->len = is_ipv4 ? sizeof last->in : sizeof last->in6;
    memcpy(&last->any, address, last->len);
    if (is_ipv4)
        last->in.sin_port = htons(lookup->port);
    else
        last->in6.sin6_port = htons(lookup->port);
    return 0;
}

/* Lets the families take turns, each in its own order, as long as there are both; the first
 * begins. */
static int take_turns(struct addresses *all)
{
    if (all->count < 3)
        return 0;
    wh_addr *sorted = mem_alloc(all->count * sizeof *sorted);
    if (!sorted)
        return -ENOMEM;
    const wh_addr *found = all->at;
    size_t next[2] = {0, 0}; /* of the family of the first, of the other */
    for (size_t i = 0; i < all->count; i++) {
        for (int other = 0; other < 2; other++)
            while (next[other] < all->count &&
                   (found[next[other]].any.sa_family != found[0].any.sa_family) != other)
                next[other]++;
        int turn = (int)(i & 1);
        if (next[turn] == all->count)
            turn = !turn;
        wh_assert(next[turn] < all->count);
        sorted[i] = found[next[turn]++];
    }
    mem_free(all->at);
    all->at = sorted;
    all->room = all->count;
    return 0;
}

/* ---- Files ---- */

/* Errors that are no fault of the file's. */
static int own_error(int error)
{
    return error == ENOMEM || error == EMFILE || error == ENFILE ? -error : 0;
}

/* Of those that most names are dialled with, for systems without /etc/services. */
static int port_of_web(const char *service)
{
    if (!strcmp(service, "http"))
        return 80;
    return strcmp(service, "https") != 0 ? -ESRCH : 443;
}

static int port_find(struct lookup *lookup)
{
    int port = address_port(lookup->service);
    if (port < 0) {
        char buf[4096];
        struct servent entry, *found = NULL;
        if (getservbyname_r(lookup->service, "tcp", &entry, buf, sizeof buf, &found) != 0 || !found)
            (void)getservbyname_r(lookup->service, "udp", &entry, buf, sizeof buf, &found);
        port = found ? ntohs((uint16_t)found->s_port) : port_of_web(lookup->service);
        if (port < 0)
            return port;
    }
    lookup->port = (uint16_t)port;
    return 0;
}

/* Adds the host if it is one that needs no lookup, and of the family asked for. Returns whether it
 * needs none, or -ENOMEM. */
static int numeric_find(struct lookup *lookup)
{
    char text[ADDRESS_HOST_BYTES + 8];
    struct address address;
    snprintf(text, sizeof text, "%s:%u", lookup->host, lookup->port);
    if (address_tcp(text, &address) < 0)
        return 0;
    int rc = lookup_add(lookup, &lookup->found, &address.any);
    return rc < 0 ? rc : 1;
}

/* The address that a text is, in either form. Returns whether it is one. */
static bool address_of(const char *text, wh_addr *ret_address)
{
    memset(ret_address, 0, sizeof *ret_address);
    ret_address->any.sa_family = AF_INET;
    if (inet_pton(AF_INET, text, &ret_address->in.sin_addr) == 1)
        return true;
    ret_address->any.sa_family = AF_INET6;
    return inet_pton(AF_INET6, text, &ret_address->in6.sin6_addr) == 1;
}

static bool same_name(const char *name, const char *other, size_t len)
{
    return strncasecmp(name, other, len) == 0 &&
           (!name[len] || (name[len] == '.' && !name[len + 1]));
}

/* "ADDRESS NAME NAME... # why" */
static int hosts_line(struct lookup *lookup, char *line, size_t host_len)
{
    static const char *const space = " \t\r\n";
    char *rest = NULL;
    wh_addr address;
    line[strcspn(line, "#")] = 0;
    const char *word = strtok_r(line, space, &rest);
    if (!word || !address_of(word, &address))
        return 0;
    while ((word = strtok_r(NULL, space, &rest)))
        if (same_name(word, lookup->host, host_len))
            return lookup_add(lookup, &lookup->found, &address.any);
    return 0;
}

static int hosts_find(struct lookup *lookup)
{
    const char *path = lookup->hosts_file ? lookup->hosts_file : "/etc/hosts";
    FILE *file = *path ? fopen(path, "re") : NULL;
    if (!file)
        return *path ? own_error(errno) : 0;
    size_t host_len = strlen(lookup->host);
    if (host_len && lookup->host[host_len - 1] == '.')
        host_len--;
    char *line = NULL;
    size_t line_bytes = 0;
    int rc = 0;
    while (rc == 0 && getline(&line, &line_bytes, file) >= 0)
        rc = hosts_line(lookup, line, host_len);
    if (rc == 0 && !feof(file))
        rc = own_error(errno);
    free(line);
    fclose(file);
    return rc;
}

/* ---- The lookup ---- */

int lookup_prepare(struct lookup *lookup)
{
    int rc = port_find(lookup);
    if (rc < 0)
        return rc;
    rc = numeric_find(lookup);
    if (rc != 0)
        return rc < 0 ? rc : 0; /* also with nothing found: no file or server knows better */
    rc = hosts_find(lookup);
    if (rc < 0 || lookup->found.count)
        return rc;
    rc = dns_begin(lookup);
    return rc < 0 ? rc : 1;
}

int lookup_await(struct lookup *lookup, int rc)
{
    if (rc == 1) {
        rc = dns_drive(lookup);
        dns_finish(lookup);
    }
    if (rc == 0 && !lookup->found.count)
        rc = -ENOENT;
    return rc < 0 ? rc : take_turns(&lookup->found);
}

void lookup_finish(struct lookup *lookup)
{
    dns_finish(lookup);
    mem_free(lookup->found.at);
    mem_free(lookup->early.at);
    lookup->found = lookup->early = (struct addresses){0};
}
