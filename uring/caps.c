/*
 * caps.c: the names of kernel features, and WHORL_MASK, which hides them.
 */
#include "uring/caps.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool caps_masked(const char *name)
{
    const char *mask = getenv("WHORL_MASK");
    size_t len = strlen(name);
    while (mask && *mask) {
        size_t word = strcspn(mask, ",");
        if (word == len && !strncmp(mask, name, len))
            return true;
        mask += word + (mask[word] == ',');
    }
    return false;
}

int caps_print(const struct caps *caps, char *buf, size_t size)
{
    int len = 0;
    if (size)
        buf[0] = 0;
#define CAPS_NAME(field, name)                                 \
    if (caps->field)                                           \
        len += snprintf((size_t)len < size ? buf + len : NULL, \
                        (size_t)len < size ? size - len : 0, "%s%s", len ? " " : "", name);
    CAPS(CAPS_NAME)
#undef CAPS_NAME
    return len;
}
