/*
 * lookup.h: one lookup of a name: what was asked and what was found.
 *
 *      lookup_prepare   on a thread of wh_blocking(): reads the services, the hosts file and the
 *                       configuration of DNS, and sends the first questions
 *      lookup_await     on a coroutine: waits for the answers in the ring
 *
 * dns_cares.c asks DNS by c-ares; dns_none.c is there in a build without it.
 */
#ifndef NET_LOOKUP_H
#define NET_LOOKUP_H

#include <whorl/resolve.h>

enum {
    LOOKUP_TRIES_MAX = 16,
    LOOKUP_DOMAINS_MAX = 16,
    LOOKUP_TRY_MS_MAX = 60000,
};

struct addresses {
    wh_addr *at;
    size_t count, room;
};

struct lookup {
    /* what is asked, constant; the texts are the owner's and NULL where nothing was said */
    const char *host, *service, *servers, *search, *hosts_file;
    int family; /* AF_UNSPEC: both */
    int tries;
    int try_ms;
    /* what was found, and who is asked: the thread's, then the coroutine's, then constant */
    struct addresses found;
    uint16_t port;
    void *dns; /* under way; or NULL */
    /* what there is to begin with; constant when early_found() is called, by lookup_await() */
    struct addresses early;
    void (*early_found)(struct lookup *lookup);
};

/* The part that blocks. Returns 0, and all is found; 1: lookup_await() is to follow; or an error of
 * wh_resolve(). lookup_finish() is to follow in any case. */
int lookup_prepare(struct lookup *lookup);

/* The part that parks; rc is what lookup_prepare() returned. Returns 0, or an error of
 * wh_resolve(); -ECANCELED when the coroutine was cancelled. */
int lookup_await(struct lookup *lookup, int rc);

/* Gives back what was found, and what is under way. Does not park. */
void lookup_finish(struct lookup *lookup);

/* Adds an address to what was found, or to what there is early, if it is of the family asked for;
 * the port is the lookup's. Returns 0 or -ENOMEM. */
int lookup_add(const struct lookup *lookup, struct addresses *to, const struct sockaddr *address);

/* ---- DNS ---- */

/* Begins to ask. Blocks. Returns 0, and dns_drive() goes on; or -errno. */
int dns_begin(struct lookup *lookup);

/* Waits for the answers and adds what they say; to `early` first, and calls early_found(), if the
 * answer for one family is long in coming and the other is there. Parks. Returns 0 or -errno. */
int dns_drive(struct lookup *lookup);

/* Ends it, if it has been begun. Does not park. */
void dns_finish(struct lookup *lookup);

#endif
