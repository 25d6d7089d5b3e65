/*
 * whorl/resolve.h: the addresses of a name.
 *
 *     wh_addr found[16];
 *     int n = wh_resolve("www.example.org:https", NULL, found, 16);
 *     if (n < 0)
 *         return n;
 *     for (int i = 0; i < n && i < 16; i++)
 *         ...                        connect to &found[i].any, which is found[i].len bytes long
 *
 * What a program wants of a name is usually a connection: that is wh_dial_tcp() (whorl/net.h).
 *
 * A name is looked up in the hosts file (hosts(5)) first, and then asked for by DNS, with the
 * servers and the search list of resolv.conf(5), both read anew for each lookup. Nothing is kept
 * from one lookup to the next; those of the same name that are under way at the same time, with the
 * same options and in the same run, are one.
 *
 * DNS is c-ares's part. A build of whorl without it knows the names of the hosts file only.
 */
#ifndef WHORL_RESOLVE_H
#define WHORL_RESOLVE_H

#include <whorl/addr.h>

WH_BEGIN_DECLS

/* Zero in a field means its default; NULL for the struct means all defaults. What it points to is
 * read until the call returns. */
typedef struct wh_resolver_options {
    /* DNS servers, "192.0.2.1,192.0.2.2:5353,[2001:db8::1]:53". Default: those of
     * /etc/resolv.conf. When they are given, nothing else is taken from that file, nor from the
     * environment variables that c-ares knows (LOCALDOMAIN, RES_OPTIONS). */
    const char *servers;
    /* Domains to try a name without a dot in, in their order, before it is tried as it is:
     * "example.org,example.net"; 0 to 16 of them. Default: the search list of /etc/resolv.conf;
     * none when `servers` is given. A name that ends with a dot is only tried as it is. */
    const char *search;
    /* Default "/etc/hosts"; "" for none. A file that cannot be read is an empty one. */
    const char *hosts_file;
    /* How long to wait for a server's answer, in nanoseconds, in whole milliseconds up to a minute;
     * twice as long in each further round through the servers. Default 2 s. It is a wish: newer
     * versions of c-ares (1.34) wait for 250 ms at least, in the first round for 5 s at most, and
     * in later ones for somewhat less than twice as long. */
    int64_t try_ns;
    int tries;  /* rounds through the servers, 1 to 16; default 3 */
    int family; /* AF_INET or AF_INET6; default: both */
} wh_resolver_options;

/*
 * The addresses of "HOST:PORT". HOST is an IPv4 address, an IPv6 address in brackets, "localhost"
 * (127.0.0.1), nothing (the wildcard address), or a name: of letters, digits, '-', '_' and dots, at
 * most 253 bytes, and its last part not a number. PORT is a number from 0 to 65535, or the name of
 * a service: "http", "https", or one of services(5) (Debian: the package netbase).
 *
 * Stores the first `most` of them, and returns how many there are, 1 at least. They are in the
 * order in which to try them: sorted as RFC 6724 says (those of a hosts file stay as they are
 * written), and with the families taking turns. It waits for the answers for both (wh_dial_tcp()
 * need not). May park, and obeys deadline and cancel: it leaves a lookup at once. An address with a
 * number for its port is served without parking.
 *
 *   -EINVAL     the text, or an option, is not of the form above
 *   -ENOENT     there is no such name, or it has no address of the family that was asked for
 *   -ESRCH      there is no such service in /etc/services
 *   -EHOSTDOWN  no server has answered
 *   -EREMOTEIO  the servers refused, failed, or answered with nonsense
 *   -ENOSYS     a name that is not in the hosts file, and this build of whorl has no c-ares
 *   -EAGAIN     no thread could be started for wh_blocking(), on which the files are read
 *   -ENOMEM, -EMFILE, -ENFILE, -ENOBUFS    memory or descriptors ran out
 *   -ETIMEDOUT, -ECANCELED   the context ended
 */
WH_API int wh_resolve(const char *address, const wh_resolver_options *options, wh_addr *ret_addrs,
                      int most) WH_MUST_CHECK;

WH_END_DECLS

#endif
