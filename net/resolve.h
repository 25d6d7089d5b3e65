/*
 * resolve.h: taking part in a lookup (whorl/resolve.h) that is not waited for to the end.
 */
#ifndef NET_RESOLVE_H
#define NET_RESOLVE_H

#include <whorl/resolve.h>
#include <whorl/sync.h>

/* A lookup that is under way or over, and of which the caller is one. */
struct flight;

/* Becomes a caller of the lookup, which is begun if need be. Does not park. Returns 0, and
 * resolve_leave() is to follow; or an error of wh_resolve(). */
int resolve_join(const char *address, const wh_resolver_options *options,
                 struct flight **ret_flight);

/* Set when the lookup is over; and before that, maybe, when there are addresses to begin with while
 * the servers keep it waiting. */
wh_event *resolve_over(struct flight *flight);
wh_event *resolve_early(struct flight *flight);

/* Stores the first `most` addresses, and returns how many there are: all, or an error of
 * wh_resolve(), if the lookup is over; else those to begin with, if that event is set. */
int resolve_found(struct flight *flight, wh_addr *ret_addrs, int most);

/* Does not park. What nobody waits for any more is ended. */
void resolve_leave(struct flight *flight);

#endif
