/*
 * dns_none.c: in a build without c-ares nobody asks DNS (net/lookup.h).
 */
#include "net/lookup.h"

#include <errno.h>

int dns_begin(struct lookup *lookup)
{
    (void)lookup;
    return -ENOSYS;
}

int dns_drive(struct lookup *lookup)
{
    (void)lookup;
    return -ENOSYS;
}

void dns_finish(struct lookup *lookup)
{
    (void)lookup;
}
