/*
 * parse.c: what llhttp calls back.
 *
 * Nothing is answered in a callback: the parser pauses at the end of a head that has a body and at
 * the end of a request, and the connection's coroutine goes on from there, outside of the parser's
 * frames. What the callbacks keep are spans of the head, which stays in place until it is answered.
 *
 * A callback that refuses notes the status and stops the parser with an error. An error without a
 * noted status is the parser's own: malformed, 400.
 */
#include "http.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <string.h>
#include <strings.h>

static struct conn *conn_of(llhttp_t *parser)
{
    return (struct conn *)parser;
}

static int refuse(struct conn *c, int status)
{
    c->request.refusal = (uint16_t)status;
    return HPE_USER;
}

/* Whether a header's name, which the parser has found well-formed, is `word` in either case. */
static inline bool is(const char *text, size_t len, const char *word)
{
    if (len != strlen(word))
        return false;
    for (size_t i = 0; i < len; i++)
        if ((text[i] | 0x20) != word[i])
            return false;
    return true;
}

/* The parser gives a piece of the head in one or more pieces of its own. */
static void span_grow(const struct conn *c, struct span *span, const char *at, size_t len)
{
    if (!span->len)
        span->off = (uint32_t)(at - c->in) - c->start;
    span->len += (uint32_t)len;
}

static int on_message_begin(llhttp_t *parser)
{
    struct conn *c = conn_of(parser);
    c->request = (struct request){.begun = true};
    return 0;
}

static int on_url(llhttp_t *parser, const char *at, size_t len)
{
    struct conn *c = conn_of(parser);
    span_grow(c, &c->request.url, at, len);
    return 0;
}

static int on_header_field(llhttp_t *parser, const char *at, size_t len)
{
    struct conn *c = conn_of(parser);
    if (c->request.in_body) /* a trailer */
        return 0;
    if (c->request.value_seen) {
        c->request.field.len = 0;
        c->request.value.len = 0;
        c->request.value_seen = false;
    }
    span_grow(c, &c->request.field, at, len);
    return 0;
}

static int on_header_value(llhttp_t *parser, const char *at, size_t len)
{
    struct conn *c = conn_of(parser);
    if (!c->request.in_body)
        span_grow(c, &c->request.value, at, len);
    return 0;
}

/* The value of the header at hand, without the blanks behind it; those before it the parser has
 * left out. */
static const char *value_of(const struct conn *c, size_t *ret_len)
{
    const char *value = span_text(c, c->request.value);
    size_t len = c->request.value.len;
    while (len && (value[len - 1] == ' ' || value[len - 1] == '\t'))
        len--;
    *ret_len = len;
    return value;
}

static bool value_is(const struct conn *c, const char *word)
{
    size_t len;
    const char *value = value_of(c, &len);
    return len == strlen(word) && !strncasecmp(value, word, len);
}

/* What may stand in a name of a host as it is: RFC 3986, 3.2.2. */
static bool is_host_char(char c)
{
    static const bool may_stand[256] = {
        ['a' ... 'z'] = true, ['A' ... 'Z'] = true, ['0' ... '9'] = true, ['-'] = true,
        ['.'] = true,         ['_'] = true,         ['~'] = true,         ['!'] = true,
        ['$'] = true,         ['&'] = true,         ['\''] = true,        ['('] = true,
        [')'] = true,         ['*'] = true,         ['+'] = true,         [','] = true,
        [';'] = true,         ['='] = true,
    };
    return may_stand[(unsigned char)c];
}

/* "[::1]": its length, or 0. Addresses of versions that are yet to come, "[v7.x]", are none. */
static __attribute__((cold, noinline)) size_t bracketed_len(const char *text, size_t len)
{
    char address[INET6_ADDRSTRLEN];
    struct in6_addr binary;
    const char *end = memchr(text, ']', len);
    size_t inside = end ? (size_t)(end - text) - 1 : 0;
    if (!inside || inside >= sizeof address)
        return 0;
    memcpy(address, text + 1, inside);
    address[inside] = '\0';
    return inet_pton(AF_INET6, address, &binary) == 1 ? inside + 2 : 0;
}

/* How much of it is the name of a host. */
static size_t name_len(const char *text, size_t len)
{
    size_t at = 0;
    while (at < len) {
        if (is_host_char(text[at]))
            at++;
        else if (text[at] == '%' && len - at > 2 && isxdigit((unsigned char)text[at + 1]) &&
                 isxdigit((unsigned char)text[at + 2]))
            at += 3;
        else
            break;
    }
    return at;
}

/* A name, which may be empty, or an address, and perhaps a port. */
static bool is_host(const char *text, size_t len)
{
    size_t at = 0;
    if (len && *text == '[') {
        at = bracketed_len(text, len);
        if (!at)
            return false;
    } else {
        at = name_len(text, len);
    }
    if (at < len && text[at] == ':')
        for (at++; at < len && isdigit((unsigned char)text[at]);)
            at++;
    return at == len;
}

static void note_host(struct conn *c)
{
    size_t len;
    const char *value = value_of(c, &len);
    struct request *r = &c->request;
    r->hosts = r->hosts == 0 && is_host(value, len) ? 1 : 2;
}

static void note_coding(struct conn *c)
{
    struct request *r = &c->request;
    r->codings = r->codings == 0 && value_is(c, "chunked") ? 1 : 2;
}

static void note_expect(struct conn *c)
{
    if (c->parser.http_minor == 0)
        return; /* HTTP/1.0 knows none: RFC 9110, 10.1.1 */
    if (value_is(c, "100-continue"))
        c->request.expects_continue = true;
    else
        c->request.expects_other = true;
}

static int on_header_value_complete(llhttp_t *parser)
{
    struct conn *c = conn_of(parser);
    struct request *r = &c->request;
    if (r->in_body)
        return 0;
    r->value_seen = true;
    const char *field = span_text(c, r->field);
    if (is(field, r->field.len, "host"))
        note_host(c);
    else if (is(field, r->field.len, "transfer-encoding"))
        note_coding(c);
    else if (is(field, r->field.len, "expect"))
        note_expect(c);
    else if (is(field, r->field.len, "if-modified-since"))
        r->if_modified_since = r->value;
    return 0;
}

static int on_headers_complete(llhttp_t *parser)
{
    struct conn *c = conn_of(parser);
    struct request *r = &c->request;
    r->in_body = true;
    parser->upgrade = 0; /* asked for or not: a server may go on as if it had not been */
    if (parser->http_major != 1 || parser->http_minor > 1)
        return refuse(c, 505);
    if (r->hosts > 1 || (r->hosts == 0 && parser->http_minor == 1))
        return refuse(c, 400); /* RFC 9112, 3.2 */
    if (r->codings && (parser->http_minor == 0 || !(parser->flags & F_CHUNKED)))
        return refuse(c, 400); /* nobody knows where its body ends: RFC 9112, 6.1 and 6.3 */
    if (r->codings > 1)
        return refuse(c, 501);
    if ((parser->flags & F_CONTENT_LENGTH) &&
        parser->content_length > c->worker->config->body_bytes_max)
        return refuse(c, 413);
    r->has_body = (parser->flags & F_CHUNKED) || parser->content_length > 0;
    return r->has_body ? HPE_PAUSED : 0;
}

static int on_body(llhttp_t *parser, const char *at, size_t len)
{
    struct conn *c = conn_of(parser);
    size_t max = c->worker->config->body_bytes_max;
    if (len > max - c->body.seen)
        return refuse(c, 413);
    c->body.seen += len;
    if (!c->request.wants_body)
        return 0;
    return body_append(c, at, len) ? 0 : refuse(c, 503);
}

static int on_message_complete(llhttp_t *parser)
{
    conn_of(parser)->request.complete = true;
    return HPE_PAUSED;
}

static const llhttp_settings_t settings = {
    .on_message_begin = on_message_begin,
    .on_url = on_url,
    .on_header_field = on_header_field,
    .on_header_value = on_header_value,
    .on_header_value_complete = on_header_value_complete,
    .on_headers_complete = on_headers_complete,
    .on_body = on_body,
    .on_message_complete = on_message_complete,
};

void parse_init(struct conn *c)
{
    llhttp_init(&c->parser, HTTP_REQUEST, &settings);
    c->request = (struct request){.begun = false};
}

enum parsed parse(struct conn *c)
{
    llhttp_errno_t rc = llhttp_execute(&c->parser, c->in + c->at, c->end - c->at);
    if (rc == HPE_OK) {
        c->at = c->end;
        return PARSED_MORE;
    }
    if (rc != HPE_PAUSED) {
        if (!c->request.refusal)
            c->request.refusal = 400;
        return PARSED_REFUSED;
    }
    c->at = (uint32_t)(llhttp_get_error_pos(&c->parser) - c->in);
    llhttp_resume(&c->parser);
    return c->request.complete ? PARSED_REQUEST : PARSED_HEAD;
}

void parse_next(struct conn *c)
{
    c->request.begun = false;
    c->request.in_body = false;
    c->request.complete = false;
    c->start = c->at;
    c->reading = false;
}

void parse_warm_up(void)
{
    static char text[] = "POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
                         "Transfer-Encoding: chunked\r\n\r\n1;x=y\r\na\r\n0\r\nb: c\r\n\r\n"
                         "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
                         "DELETE / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\na\x01";
    static struct config config = {.body_bytes_max = 16};
    static struct worker worker = {.config = &config};
    struct conn c = {.worker = &worker, .in = text, .end = sizeof text - 1};
    parse_init(&c);
    while (c.at < c.end && parse(&c) != PARSED_REFUSED) {
        (void)llhttp_should_keep_alive(&c.parser);
        if (c.request.complete)
            parse_next(&c);
    }
}
