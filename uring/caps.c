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

/* The first word of the mask at *at, which goes on behind it; NULL at the end. */
static const char *next_word(const char **at, size_t *ret_len)
{
    if (!*at || !**at)
        return NULL;
    const char *word = *at;
    *ret_len = strcspn(word, ",");
    *at += *ret_len + (word[*ret_len] == ',');
    return word;
}

static bool is_word(const char *name, const char *word, size_t len)
{
    return strlen(name) == len && !strncmp(name, word, len);
}

bool caps_masked(const char *name)
{
    const char *mask = secure_getenv("WHORL_MASK"), *word;
    size_t len;
    while ((word = next_word(&mask, &len)))
        if (is_word(name, word, len))
            return true;
    return false;
}

static bool is_feature(const char *word, size_t len)
{
    static const char *const names[] = {
#define CAPS_TEXT(field, name) name,
        CAPS(CAPS_TEXT)
#undef CAPS_TEXT
    };
    for (size_t i = 0; i < array_count(names); i++)
        if (is_word(names[i], word, len))
            return true;
    return false;
}

void caps_check_mask(void)
{
    const char *mask = secure_getenv("WHORL_MASK"), *word;
    size_t len;
    while ((word = next_word(&mask, &len)))
        if (len && !is_feature(word, len))
            report("WHORL_MASK names \"%.*s\", which is no feature that wh_caps() knows; ignored",
                   (int)len, word);
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
