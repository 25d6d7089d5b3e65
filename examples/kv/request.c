/*
 * request.c: requests as the Redis protocol writes them.
 *
 *      *2\r\n $3\r\n GET\r\n $1\r\n k\r\n          an array of strings ...
 *      GET k\r\n                                   ... or a line, with quotes if need be
 *
 *      PART_HEAD --*2--> PART_BULK_HEAD --$3--> PART_BULK --all arguments--> a request
 *                              ^                    |
 *                              `--------------------'
 *
 * Parsing stops where the bytes end and goes on there when more have come: nothing is looked at
 * twice but the digits of a length. The arguments stay where they were received, and nothing is
 * copied. It also stops after each ARGS_STEP arguments: a million of them, which may be empty, come
 * in six megabytes and take milliseconds.
 *
 * Rejected: hiredis' reader, which is made for answers. It parses such arrays, too, and copies each
 * string into memory of its own: docs/DECISIONS.md has the figures. It knows no lines.
 */
#include "kv.h"

#include <ctype.h>
#include <stdlib.h>

enum { DIGITS_MAX = 18 };

_Static_assert(ARGS_SMALL << ARGS_BLOCKS >= ARGS_MAX, "there are blocks for all arguments");

void request_init(struct request *r)
{
    memset(r, 0, offsetof(struct request, small));
}

void request_reset(struct request *r)
{
    while (r->blocks_count)
        free(r->blocks[--r->blocks_count]);
    if (r->line) {
        free(r->line);
        r->line = NULL;
    }
    r->part = PART_HEAD;
    r->count = 0;
    r->at = 0;
}

static enum parsed more(struct request *r, size_t need)
{
    r->need = need;
    return PARSED_MORE;
}

static enum parsed wrong(struct request *r, const char *error)
{
    r->error = error;
    return PARSED_WRONG;
}

/* One argument more. False: no memory. */
static bool add(struct request *r, size_t off, size_t len)
{
    struct span *block = r->small;
    uint32_t size = (uint32_t)ARGS_SMALL << r->blocks_count, first = size - ARGS_SMALL;
    if (r->count == first + size) {
        first += size;
        block = malloc(2 * size * sizeof *block);
        if (!block)
            return false;
        r->blocks[r->blocks_count++] = block;
    } else if (r->blocks_count) {
        block = r->blocks[r->blocks_count - 1];
    }
    block[r->count++ - first] = (struct span){(uint32_t)off, (uint32_t)len};
    return true;
}

/* The number behind the byte at `at`, and its line's end. PARSED_REQUEST: it is there. */
static enum parsed parse_length(struct request *r, struct text there, const char *error,
                                int64_t *ret_length)
{
    size_t i = r->at + 1;
    bool negative = i < there.len && there.bytes[i] == '-';
    i += negative;
    size_t first = i;
    int64_t length = 0;
    while (i < there.len && i - first < DIGITS_MAX && there.bytes[i] >= '0' &&
           there.bytes[i] <= '9')
        length = 10 * length + (there.bytes[i++] - '0');
    if (i == there.len || (there.bytes[i] == '\r' && i + 1 == there.len))
        return more(r, there.len + 1);
    if (i == first || there.bytes[i] != '\r' || there.bytes[i + 1] != '\n')
        return wrong(r, error);
    r->at = i + 2;
    *ret_length = negative ? -length : length;
    return PARSED_REQUEST;
}

/* ---- Lines ---- */

static int hex(char c)
{
    return isdigit((unsigned char)c) ? c - '0' : tolower((unsigned char)c) - 'a' + 10;
}

/* What a backslash in double quotes stands for. */
static char escaped(const char **at, const char *end)
{
    const char *p = *at;
    if (end - p >= 3 && p[0] == 'x' && isxdigit((unsigned char)p[1]) &&
        isxdigit((unsigned char)p[2])) {
        *at = p + 3;
        return (char)(hex(p[1]) << 4 | hex(p[2]));
    }
    *at = p + 1;
    switch (*p) {
    case 'n': return '\n';
    case 'r': return '\r';
    case 't': return '\t';
    case 'b': return '\b';
    case 'a': return '\a';
    default: return *p;
    }
}

/* One word, from *at on, to *to; both are moved on. False: its quotes are not closed. */
static bool take_word(const char **at, const char *end, char **to)
{
    char quote = 0;
    const char *p = *at;
    while (p < end && (quote || !isspace((unsigned char)*p))) {
        char c = *p++;
        if (!quote && (c == '"' || c == '\'')) {
            quote = c;
        } else if (quote && c == quote) {
            quote = 0;
            if (p < end && !isspace((unsigned char)*p))
                return false;
        } else if (quote == '"' && c == '\\' && p < end) {
            *(*to)++ = escaped(&p, end);
        } else if (quote == '\'' && c == '\\' && p < end && *p == '\'') {
            *(*to)++ = *p++;
        } else {
            *(*to)++ = c;
        }
    }
    *at = p;
    return !quote;
}

static enum parsed parse_line(struct request *r, struct text there)
{
    const char *end = memchr(there.bytes, '\n', there.len);
    if (!end && there.len < LINE_BYTES_MAX)
        return more(r, there.len + 1);
    if (!end || end - there.bytes > LINE_BYTES_MAX)
        return wrong(r, "too big inline request");
    r->at = (size_t)(end - there.bytes) + 1;
    r->line = malloc(r->at);
    if (!r->line)
        return PARSED_NO_MEMORY;
    r->base = r->line;
    char *to = r->line;
    for (const char *p = there.bytes;;) {
        while (p < end && isspace((unsigned char)*p))
            p++;
        if (p == end)
            return PARSED_REQUEST;
        char *word = to;
        if (!take_word(&p, end, &to))
            return wrong(r, "unbalanced quotes in request");
        if (!add(r, (size_t)(word - r->line), (size_t)(to - word)))
            return PARSED_NO_MEMORY;
    }
}

/* ---- Arrays ---- */

static enum parsed parse_head(struct request *r, struct text there)
{
    int64_t count;
    enum parsed parsed = parse_length(r, there, "invalid multibulk length", &count);
    if (parsed != PARSED_REQUEST)
        return parsed;
    if (count > ARGS_MAX)
        return wrong(r, "invalid multibulk length");
    r->base = there.bytes;
    r->expected = count > 0 ? (uint32_t)count : 0;
    r->part = PART_BULK_HEAD;
    return PARSED_REQUEST;
}

static enum parsed parse_bulk_head(struct request *r, struct text there, size_t bytes_max)
{
    int64_t length;
    if (r->at == there.len)
        return more(r, there.len + 1);
    if (there.bytes[r->at] != '$') {
        r->unexpected = there.bytes[r->at];
        return wrong(r, "expected '$'");
    }
    enum parsed parsed = parse_length(r, there, "invalid bulk length", &length);
    if (parsed != PARSED_REQUEST)
        return parsed;
    if (length < 0 || (uint64_t)length > bytes_max)
        return wrong(r, "invalid bulk length");
    if (r->at + (size_t)length > bytes_max)
        return wrong(r, "too big request");
    r->bulk = (size_t)length;
    r->part = PART_BULK;
    return PARSED_REQUEST;
}

static enum parsed parse_bulk(struct request *r, struct text there)
{
    if (there.len - r->at < r->bulk + 2)
        return more(r, r->at + r->bulk + 2);
    if (!add(r, r->at, r->bulk))
        return PARSED_NO_MEMORY;
    r->at += r->bulk + 2;
    r->part = PART_BULK_HEAD;
    return PARSED_REQUEST;
}

enum parsed request_parse(struct request *r, struct text there, size_t bytes_max)
{
    enum parsed parsed = PARSED_REQUEST;
    if (!there.len)
        return more(r, 1);
    if (r->part == PART_HEAD) {
        if (there.bytes[0] != '*')
            return parse_line(r, there);
        parsed = parse_head(r, there);
    }
    uint32_t rest = r->count + ARGS_STEP;
    while (parsed == PARSED_REQUEST && r->count < r->expected) {
        if (r->count == rest)
            return PARSED_SOME;
        parsed = r->part == PART_BULK ? parse_bulk(r, there) : parse_bulk_head(r, there, bytes_max);
    }
    r->base = there.bytes;
    return parsed;
}
