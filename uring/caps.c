/*
 * caps.c: the names of kernel features, WHORL_MASK, which hides them, and those that are no ring's.
 */
#include "uring/caps.h"

#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

bool caps_masked(const char *name)
{
    const char *mask = secure_getenv("WHORL_MASK");
    size_t len = strlen(name);
    while (mask && *mask) {
        size_t word = strcspn(mask, ",");
        if (word == len && !strncmp(mask, name, len))
            return true;
        mask += word + (mask[word] == ',');
    }
    return false;
}

static bool is_feature(const char *name, size_t len)
{
    static const char *const names[] = {
#define CAPS_TEXT(field, name) name,
        CAPS(CAPS_TEXT)
#undef CAPS_TEXT
    };
    for (size_t i = 0; i < array_count(names); i++)
        if (strlen(names[i]) == len && !strncmp(names[i], name, len))
            return true;
    return false;
}

void caps_check_mask(void)
{
    const char *mask = secure_getenv("WHORL_MASK");
    while (mask && *mask) {
        size_t word = strcspn(mask, ",");
        if (word && !is_feature(mask, word))
            report("WHORL_MASK names \"%.*s\", which is no feature that wh_caps() knows; ignored",
                   (int)word, mask);
        mask += word + (mask[word] == ',');
    }
}

void caps_probe_others(struct caps *caps)
{
    const int segment_bytes = 1000, on = 1;
    caps->splice = !caps_masked("splice"); /* whether it works shows when it is tried */
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    caps->udp_gso = fd >= 0 && !caps_masked("udp_gso") &&
                    setsockopt(fd, SOL_UDP, UDP_SEGMENT, &segment_bytes, sizeof segment_bytes) == 0;
    caps->udp_gro =
        fd >= 0 && !caps_masked("udp_gro") && setsockopt(fd, SOL_UDP, UDP_GRO, &on, sizeof on) == 0;
    if (fd >= 0)
        close(fd);
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
