/*
 * address.h: the text of an address as a socket address.
 */
#ifndef NET_ADDRESS_H
#define NET_ADDRESS_H

#include "base/base.h"

#include <sys/socket.h>
#include <sys/un.h>

struct address {
    union {
        struct sockaddr any;
        struct sockaddr_storage storage;
        struct sockaddr_un un;
    };
    socklen_t len;
};

/* "HOST:PORT" as whorl/net.h describes it. Returns 0 or -EINVAL. */
int address_tcp(const char *text, struct address *ret_address);

/* A path, or "@name". Returns 0, -EINVAL when it is empty, or -ENAMETOOLONG. */
int address_unix(const char *path, struct address *ret_address);

#endif
