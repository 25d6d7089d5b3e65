/*
 * dns_cares.c: asking DNS by c-ares, driven by the ring (net/lookup.h).
 *
 * Each lookup has a channel of its own, which only its coroutine uses once the thread that made it
 * is through. So nothing is locked, a lookup is ended by destroying its channel, each question
 * leaves from a port of its own, and a changed resolv.conf counts from the next lookup on. What a
 * channel costs is reading that file and /dev/urandom, on a thread of wh_blocking(); the sockets
 * would be opened in any case.
 *
 * The coroutine waits in a select for the sockets that c-ares names and for the time that it names.
 * The select has ended all its polls when it returns: c-ares closes its sockets in between, and no
 * operation is ever in flight on one that it closes.
 *
 * A question that is under way has a time at which it is asked again. When there is none and no
 * answer either, c-ares has dropped the question: 1.34 does that at some allocations that fail. (It
 * is noticed when the questions below are through, if there are any.)
 *
 * It tells of nothing before both families' answers are there, or their times are over. When that
 * is not so 50 ms after something has come (RFC 8305, section 3), each family is asked for once
 * more by itself: the one whose answer has come answers again at once (1.34 keeps it, and asks
 * nobody), and is what there is early. These two questions must be about the same name as the one
 * that is waited for, which c-ares makes from the host and the search list: its name is taken from
 * the datagrams that c-ares sends. They go on for their name when the search has left it (c-ares
 * cannot end one question); so the next name is asked for by itself only when they are through, and
 * datagrams of a name that has been left do not say where the search is.
 *
 * c-ares is told to look nothing up in the hosts file: net/lookup.c has done that, and c-ares would
 * read it here, on the worker.
 *
 * Rejected: a channel for each worker with a coroutine that drives it. It would save opening a
 * socket for each lookup, and with that the port that an attacker has to guess; a lookup could not
 * be ended alone (ares_cancel() ends all of a channel); and it would have to be told of a changed
 * configuration. Rejected: to ask for each family by itself from the start. c-ares would sort each
 * by itself (RFC 6724 compares the families, too), and their searches could end at different names.
 */
#define CARES_NO_DEPRECATED /* all that is used here does what it did in 1.18 */

#include "net/lookup.h"

#include "base/base.h"

#include <whorl/select.h>
#include <whorl/time.h>

#include <ares.h>
#include <ctype.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <strings.h>
#include <sys/uio.h>
#include <unistd.h>

#define RESOLUTION_DELAY_NS (50 * WH_MILLISECOND)

enum {
    HEADER_BYTES = 12, /* of a message (RFC 1035, section 4.1) */
    NAME_BYTES = 256,
};

struct dns {
    ares_channel channel;
    struct lookup *lookup;
    char asked[NAME_BYTES];    /* the name of the last question, with a dot at its end; or "" */
    int64_t heard_ns;          /* when something has come after that; 0: nothing yet */
    char asked_by[NAME_BYTES]; /* the one that each family has been asked for by itself; or "" */
    int by_open;               /* of these questions, those without an answer */
    bool answered;
    bool heard;       /* something has come from a server */
    int result;       /* 0 or -errno */
    int socket_error; /* the last of socket(2), negative: c-ares does not tell */
};

/* ---- Its sockets ---- */

static ares_socket_t dns_socket(int family, int type, int protocol, void *self)
{
    struct dns *dns = self;
    int fd = socket(family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol);
    dns->socket_error = fd < 0 ? -errno : 0;
    return fd;
}

static int dns_close(ares_socket_t fd, void *self)
{
    (void)self;
    return close(fd);
}

static int dns_connect(ares_socket_t fd, const struct sockaddr *to, ares_socklen_t len, void *self)
{
    (void)self;
    return connect(fd, to, len);
}

static ares_ssize_t dns_recvfrom(ares_socket_t fd, void *buf, size_t len, int flags,
                                 struct sockaddr *from, ares_socklen_t *from_len, void *self)
{
    struct dns *dns = self;
    ssize_t n = recvfrom(fd, buf, len, flags, from, from_len);
    if (n > 0) {
        dns->heard = true;
        dns->heard_ns = dns->heard_ns ? dns->heard_ns : wh_now();
    }
    return n;
}

/* The name that a message asks for; "" if it is not one of ordinary letters. */
static void name_read(const uint8_t *message, size_t len, char ret_name[NAME_BYTES])
{
    size_t at = HEADER_BYTES, to = 0;
    while (at < len && message[at] && at + 1 + message[at] < len &&
           to + message[at] + 1u < NAME_BYTES) {
        size_t label = message[at++];
        for (size_t i = 0; i < label; i++, at++) {
            bool ordinary = isalnum(message[at]) || message[at] == '-' || message[at] == '_';
            ret_name[to++] = ordinary ? (char)message[at] : ' ';
        }
        ret_name[to++] = '.';
    }
    ret_name[to] = 0;
    if (at >= len || message[at] || strchr(ret_name, ' '))
        *ret_name = 0;
}

static void note_asked(struct dns *dns, ares_socket_t fd, const struct iovec *iov, int count)
{
    int type = 0;
    socklen_t type_bytes = sizeof type;
    if (count != 1 || getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_bytes) < 0 ||
        type != SOCK_DGRAM)
        return;
    char name[NAME_BYTES];
    name_read(iov->iov_base, iov->iov_len, name);
    if (*name && (!strcasecmp(name, dns->asked) || !strcasecmp(name, dns->asked_by)))
        return; /* asked again; or by itself, be it for a name that the search has left */
    memcpy(dns->asked, name, strlen(name) + 1);
    dns->heard_ns = 0;
}

static ares_ssize_t dns_sendv(ares_socket_t fd, const struct iovec *iov, int count, void *self)
{
    note_asked(self, fd, iov, count);
    const struct msghdr msg = {.msg_iov = (struct iovec *)(uintptr_t)iov,
                               .msg_iovlen = (size_t)count};
    return sendmsg(fd, &msg, MSG_NOSIGNAL);
}

static const struct ares_socket_functions socket_functions = {
    .asocket = dns_socket,
    .aclose = dns_close,
    .aconnect = dns_connect,
    .arecvfrom = dns_recvfrom,
    .asendv = dns_sendv,
};

/* ---- Beginning ---- */

static int error_of(const struct dns *dns, int status)
{
    switch (status) {
    case ARES_SUCCESS: return 0;
    case ARES_ENODATA:
    case ARES_ENOTFOUND: return -ENOENT;
    case ARES_EBADNAME:
    case ARES_EBADSTR: return -EINVAL;
    case ARES_ENOMEM: return -ENOMEM;
    default: break; /* before 1.19 it says ARES_ECONNREFUSED of servers that fail, too */
    }
    if (dns->heard)
        return -EREMOTEIO;
    return dns->socket_error ? dns->socket_error : -EHOSTDOWN;
}

static void library_init(void)
{
    (void)ares_library_init(ARES_LIB_INIT_ALL);
}

/* Cuts "a,b" into its parts. Returns how many there are, or -EINVAL. */
static int domains_cut(char *text, char *ret_domains[LOOKUP_DOMAINS_MAX])
{
    int count = 0;
    char *rest = NULL;
    for (char *word = strtok_r(text, ", ", &rest); word; word = strtok_r(NULL, ", ", &rest)) {
        if (count == LOOKUP_DOMAINS_MAX)
            return -EINVAL;
        ret_domains[count++] = word;
    }
    return count;
}

/* The options' part. Where they name servers nothing is taken from resolv.conf. */
static int channel_make(struct dns *dns, const struct lookup *lookup)
{
    static char files_none[] = "b", no_file[] = "/dev/null";
    char *search = NULL, *domains[LOOKUP_DOMAINS_MAX];
    struct ares_options options = {
        .timeout = lookup->try_ms,
        .tries = lookup->tries,
        .lookups = files_none,
        .domains = domains,
    };
    int mask = ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES | ARES_OPT_LOOKUPS;
    if (lookup->search || lookup->servers) {
        const char *text = lookup->search ? lookup->search : "";
        search = mem_alloc(strlen(text) + 1);
        if (!search)
            return -ENOMEM;
        memcpy(search, text, strlen(text) + 1);
        options.ndomains = domains_cut(search, domains);
        if (options.ndomains < 0) {
            mem_free(search);
            return -EINVAL;
        }
        mask |= ARES_OPT_DOMAINS;
    }
    if (lookup->servers) {
        options.resolvconf_path = no_file;
        options.ndots = 1;
        mask |= ARES_OPT_RESOLVCONF | ARES_OPT_NDOTS;
    }
    int status = ares_init_options(&dns->channel, &options, mask);
    int error = errno;
    mem_free(search);
    if (status == ARES_EFILE && (error == EMFILE || error == ENFILE))
        return -error; /* it could not open one of its files */
    if (status != ARES_SUCCESS)
        return error_of(dns, status);
    ares_set_socket_functions(dns->channel, &socket_functions, dns);
    if (lookup->servers)
        status = ares_set_servers_ports_csv(dns->channel, lookup->servers);
    return error_of(dns, status);
}

static void answered(void *self, int status, int timeouts, struct ares_addrinfo *info)
{
    (void)timeouts;
    struct dns *dns = self;
    dns->answered = true;
    dns->result = error_of(dns, status);
    if (!info)
        return;
    for (const struct ares_addrinfo_node *node = info->nodes; node && dns->result == 0;
         node = node->ai_next)
        dns->result = lookup_add(dns->lookup, &dns->lookup->found, node->ai_addr);
    ares_freeaddrinfo(info);
}

static void answered_by_itself(void *self, int status, int timeouts, struct ares_addrinfo *info)
{
    (void)timeouts;
    struct dns *dns = self;
    struct lookup *lookup = dns->lookup;
    dns->by_open--;
    if (!info)
        return;
    int rc = error_of(dns, status);
    bool first = !dns->answered && !lookup->early.count && !strcasecmp(dns->asked, dns->asked_by);
    for (const struct ares_addrinfo_node *node = info->nodes; node && first && rc == 0;
         node = node->ai_next)
        rc = lookup_add(lookup, &lookup->early, node->ai_addr);
    ares_freeaddrinfo(info);
    if (first && rc < 0)
        lookup->early.count = 0;
    else if (first && lookup->early.count)
        lookup->early_found(lookup);
}

int dns_begin(struct lookup *lookup)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, library_init);
    struct dns *dns = mem_zalloc(sizeof *dns);
    if (!dns)
        return -ENOMEM;
    lookup->dns = dns;
    dns->lookup = lookup;
    int rc = channel_make(dns, lookup);
    if (rc < 0)
        return rc;
    const struct ares_addrinfo_hints hints = {.ai_family = lookup->family,
                                              .ai_socktype = SOCK_STREAM};
    ares_getaddrinfo(dns->channel, lookup->host, NULL, &hints, answered, dns);
    return 0;
}

/* ---- Going on ---- */

/* When each family is to be asked for by itself. */
static int64_t ask_by_itself_ns(const struct dns *dns)
{
    bool may = dns->lookup->family == AF_UNSPEC && !dns->lookup->early.count && !dns->by_open &&
               *dns->asked && strcasecmp(dns->asked, dns->asked_by) != 0;
    return may && dns->heard_ns ? dns->heard_ns + RESOLUTION_DELAY_NS : WH_NEVER;
}

static void ask_by_itself(struct dns *dns)
{
    static const int families[] = {AF_INET, AF_INET6};
    memcpy(dns->asked_by, dns->asked, sizeof dns->asked_by);
    for (size_t i = 0; i < array_count(families); i++) {
        const struct ares_addrinfo_hints hints = {.ai_family = families[i],
                                                  .ai_socktype = SOCK_STREAM};
        dns->by_open++;
        ares_getaddrinfo(dns->channel, dns->asked_by, NULL, &hints, answered_by_itself, dns);
    }
}

/* Waits for the first of the sockets, or for the time to ask again or otherwise, and lets c-ares go
 * on. It names at most 16: of more than that many servers the last are not heard. Returns 0;
 * -ENOMEM: nothing is under way; or as wh_select_n(). */
static int turn(const struct dns *dns)
{
    ares_socket_t sockets[ARES_GETSOCK_MAXNUM];
    wh_case cases[2 * ARES_GETSOCK_MAXNUM + 1];
    int count = 0;
    unsigned bits = (unsigned)ares_getsock(dns->channel, sockets, ARES_GETSOCK_MAXNUM);
    for (int i = 0; i < ARES_GETSOCK_MAXNUM; i++) {
        if (bits >> i & 1)
            cases[count++] = WH_READABLE(sockets[i]);
        if (bits >> (i + ARES_GETSOCK_MAXNUM) & 1) /* its macro shifts into the sign */
            cases[count++] = WH_WRITABLE(sockets[i]);
    }
    struct timeval until;
    const struct timeval *wait = ares_timeout(dns->channel, NULL, &until);
    if (!wait)
        return -ENOMEM;
    int64_t wake_ns = wh_now() + wait->tv_sec * WH_SECOND + wait->tv_usec * WH_MICROSECOND;
    int64_t other_ns = ask_by_itself_ns(dns);
    cases[count] = WH_AT(wake_ns < other_ns ? wake_ns : other_ns);

    int happened = wh_select_n(cases, count + 1);
    if (happened < 0)
        return happened;
    ares_socket_t fd = happened < count ? cases[happened].fd : ARES_SOCKET_BAD;
    bool reads = fd != ARES_SOCKET_BAD && cases[happened].events & POLLIN;
    ares_process_fd(dns->channel, reads ? fd : ARES_SOCKET_BAD, reads ? ARES_SOCKET_BAD : fd);
    return 0;
}

int dns_drive(struct lookup *lookup)
{
    struct dns *dns = lookup->dns;
    int rc = 0;
    while (rc == 0 && !dns->answered) {
        if (wh_now() >= ask_by_itself_ns(dns))
            ask_by_itself(dns); /* which may be what ends the other, when nothing can be sent */
        rc = dns->answered ? 0 : turn(dns);
    }
    return rc < 0 ? rc : dns->result;
}

void dns_finish(struct lookup *lookup)
{
    struct dns *dns = lookup->dns;
    if (!dns)
        return;
    if (dns->channel)
        ares_destroy(dns->channel);
    mem_free(dns);
    lookup->dns = NULL;
}
