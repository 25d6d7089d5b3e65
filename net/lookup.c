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

int lookup_add(struct lookup *lookup, const struct sockaddr *address)
{
    bool is_ipv4 = address->sa_family == AF_INET;
    if (!is_ipv4 && address->sa_family != AF_INET6)
        return 0;
    if (lookup->family != AF_UNSPEC && lookup->family != address->sa_family)
        return 0;
    if (lookup->count == lookup->room) {
        size_t room = lookup->room ? 2 * lookup->room : 8;
        wh_addr *found = mem_alloc(room * sizeof *found);
        if (!found)
            return -ENOMEM;
        if (lookup->count)
            memcpy(found, lookup->found, lookup->count * sizeof *found);
        mem_free(lookup->found);
        lookup->found = found;
        lookup->room = room;
    }
    wh_addr *to = &lookup->found[lookup->count++];
    memset(to, 0, sizeof *to);
    to->len = is_ipv4 ? sizeof to->in : sizeof to->in6;
    memcpy(&to->any, address, to->len);
    if (is_ipv4)
        to->in.sin_port = htons(lookup->port);
    else
        to->in6.sin6_port = htons(lookup->port);
    return 0;
}

/* Lets the families take turns, each in its own order, as long as there are both; the first
 * begins. */
static int take_turns(struct lookup *lookup)
{
    if (lookup->count < 3)
        return 0;
    wh_addr *sorted = mem_alloc(lookup->count * sizeof *sorted);
    if (!sorted)
        return -ENOMEM;
    const wh_addr *found = lookup->found;
    size_t next[2] = {0, 0}; /* of the family of the first, of the other */
    for (size_t i = 0; i < lookup->count; i++) {
        for (int other = 0; other < 2; other++)
            while (next[other] < lookup->count &&
                   (found[next[other]].any.sa_family != found[0].any.sa_family) != other)
                next[other]++;
        int turn = (int)(i & 1);
        if (next[turn] == lookup->count)
            turn = !turn;
        wh_assert(next[turn] < lookup->count);
        sorted[i] = found[next[turn]++];
    }
    mem_free(lookup->found);
    lookup->found = sorted;
    lookup->room = lookup->count;
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
    int rc = lookup_add(lookup, &address.any);
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
            return lookup_add(lookup, &address.any);
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
    if (rc < 0 || lookup->count)
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
    if (rc == 0 && !lookup->count)
        rc = -ENOENT;
    return rc < 0 ? rc : take_turns(lookup);
}

void lookup_finish(struct lookup *lookup)
{
    dns_finish(lookup);
    mem_free(lookup->found);
    lookup->found = NULL;
}
