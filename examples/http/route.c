/*
 * route.c: which handler answers which path, and with which methods.
 */
#include "http.h"

#include <string.h>

#define FILES      "/files/"
#define ALLOW_READ "Allow: GET, HEAD\r\n"
#define ALLOW_POST "Allow: POST\r\n"

enum route { ROUTE_NONE, ROUTE_HELLO, ROUTE_ECHO, ROUTE_FILES, ROUTE_STATUS, ROUTE_STATUS_JSON };

/* The path of the request's target, without scheme, authority and query. An empty one is "/": RFC
 * 9112, 3.2.1. */
static struct span path_of(const struct conn *c)
{
    struct span path = c->request.url;
    const char *text = span_text(c, path), *host = NULL;
    const char *query = memchr(text, '?', path.len);
    if (query)
        path.len = (uint32_t)(query - text);
    if (path.len && text[0] != '/') /* "http://host/path", as to a proxy */
        host = memmem(text, path.len, "://", 3);
    if (!host)
        return path;
    host += 3;
    const char *slash = memchr(host, '/', path.len - (size_t)(host - text));
    if (!slash)
        return (struct span){path.off + (uint32_t)(host - 1 - text), 1};
    path.off += (uint32_t)(slash - text);
    path.len -= (uint32_t)(slash - text);
    return path;
}

static bool is(const char *text, size_t len, const char *path)
{
    return len == strlen(path) && !memcmp(text, path, len);
}

static enum route route_of(const struct conn *c, const char *text, size_t len)
{
    if (is(text, len, "/"))
        return ROUTE_HELLO;
    if (is(text, len, "/echo"))
        return ROUTE_ECHO;
    if (is(text, len, "/status"))
        return ROUTE_STATUS;
    if (is(text, len, "/status.json"))
        return ROUTE_STATUS_JSON;
    if (c->worker->server->root >= 0 && len > strlen(FILES) && !memcmp(text, FILES, strlen(FILES)))
        return ROUTE_FILES;
    return ROUTE_NONE;
}

static bool is_read(const struct conn *c)
{
    return c->parser.method == HTTP_GET || c->parser.method == HTTP_HEAD;
}

bool route_wants_body(struct conn *c)
{
    struct span path = path_of(c);
    return c->parser.method == HTTP_POST && route_of(c, span_text(c, path), path.len) == ROUTE_ECHO;
}

static bool answer_echo(struct conn *c)
{
    return answer_head(c, 200, "application/octet-stream", c->body.len, "") &&
           answer_content(c, c->body.bytes, c->body.len);
}

static bool answer_file(struct conn *c, struct span path)
{
    /* Behind the target stands at least the end of its line: there is room to terminate it. */
    char *name = c->in + c->start + path.off + strlen(FILES);
    size_t len = path.len - strlen(FILES);
    if (!path_decode(name, &len))
        return answer_status(c, 400, "");
    name[len] = '\0';
    return files_answer(c, name);
}

static bool answer_any(struct conn *c)
{
    struct span path = path_of(c);
    enum route route = route_of(c, span_text(c, path), path.len);
    if (route == ROUTE_NONE)
        return answer_status(c, 404, "");
    if (route == ROUTE_ECHO)
        return c->parser.method == HTTP_POST ? answer_echo(c) : answer_status(c, 405, ALLOW_POST);
    if (!is_read(c))
        return answer_status(c, 405, ALLOW_READ);
    switch (route) {
    case ROUTE_FILES: return answer_file(c, path);
    case ROUTE_STATUS: return status_page_answer(c);
    case ROUTE_STATUS_JSON: return status_json_answer(c);
    default: return answer_hello(c);
    }
}

bool route_answer(struct conn *c)
{
    struct span url = c->request.url;
    if (c->parser.method == HTTP_GET && url.len == 1 && *span_text(c, url) == '/')
        return answer_hello(c);
    return answer_any(c);
}
