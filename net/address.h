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

/* A name and a service with the 0 at their end; see address_name(). */
enum {
    ADDRESS_HOST_BYTES = 256,
    ADDRESS_SERVICE_BYTES = 64,
};

/*
 * "HOST:PORT" in its parts, as whorl/resolve.h describes it: HOST is something that address_tcp()
 * takes, brackets and all, or has the form of a name; PORT is a number or has the form of a
 * service's name. Returns 0 or -EINVAL.
 */
int address_name(const char *text, char ret_host[ADDRESS_HOST_BYTES],
                 char ret_service[ADDRESS_SERVICE_BYTES]);

/* The number that the text is: from 0 to 65535, in at most five digits; else -EINVAL. */
int address_port(const char *text);

/* A path, or "@name". Returns 0, -EINVAL when it is empty, or -ENAMETOOLONG. */
int address_unix(const char *path, struct address *ret_address);

#endif
