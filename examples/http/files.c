/*
 * files.c: files below --root.
 *
 * The path is opened one component after the other, each relative to the one before and none
 * through a symbolic link. So it cannot leave the root: "..", "." and empty components are refused,
 * a link is not followed, and nothing depends on what the path looked like a moment ago. Only
 * regular files are served.
 *
 * The file goes through one block of output: read a piece, send a piece. A peer that reads slowly
 * holds that block and no more.
 */
#include "http.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

/* ---- Paths ---- */

static int hex(char digit)
{
    if (digit >= '0' && digit <= '9')
        return digit - '0';
    digit |= 0x20;
    return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

bool path_decode(char *path, size_t *len)
{
    size_t to = 0;
    for (size_t from = 0; from < *len; from++) {
        char c = path[from];
        if (c == '%') {
            if (*len - from < 3)
                return false;
            int high = hex(path[from + 1]);
            int low = hex(path[from + 2]);
            if (high < 0 || low < 0)
                return false;
            c = (char)(high * 16 + low);
            from += 2;
        }
        if (c == '\0')
            return false;
        path[to++] = c;
    }
    *len = to;
    return true;
}

/* Whether a component may be opened. */
static bool component_ok(const char *name)
{
    return *name && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

/* Opens the file that the path names, relative to the root. The path is cut up. */
static wh_fd open_below(wh_fd root, char *path)
{
    wh_fd dir = root;
    for (;;) {
        char *slash = strchr(path, '/');
        if (slash)
            *slash = '\0';
        wh_fd fd = -ENOENT;
        int flags = slash ? O_PATH | O_DIRECTORY : O_RDONLY | O_NONBLOCK | O_NOCTTY;
        if (component_ok(path))
            fd = wh_openat(dir, path, flags | O_NOFOLLOW, 0);
        if (dir != root)
            wh_close(dir);
        if (fd < 0 || !slash)
            return fd;
        dir = fd;
        path = slash + 1;
    }
}

static const char *type_of(const char *path)
{
    static const struct {
        const char *extension;
        const char *type;
    } types[] = {
        {"html", "text/html; charset=utf-8"},
        {"htm", "text/html; charset=utf-8"},
        {"css", "text/css; charset=utf-8"},
        {"js", "text/javascript; charset=utf-8"},
        {"mjs", "text/javascript; charset=utf-8"},
        {"txt", "text/plain; charset=utf-8"},
        {"md", "text/plain; charset=utf-8"},
        {"csv", "text/csv; charset=utf-8"},
        {"xml", "application/xml"},
        {"json", "application/json"},
        {"pdf", "application/pdf"},
        {"wasm", "application/wasm"},
        {"svg", "image/svg+xml"},
        {"png", "image/png"},
        {"jpg", "image/jpeg"},
        {"jpeg", "image/jpeg"},
        {"gif", "image/gif"},
        {"webp", "image/webp"},
        {"ico", "image/vnd.microsoft.icon"},
        {"mp4", "video/mp4"},
        {"woff2", "font/woff2"},
    };
    const char *dot = strrchr(path, '.');
    for (size_t i = 0; dot && i < sizeof types / sizeof types[0]; i++)
        if (!strcasecmp(dot + 1, types[i].extension))
            return types[i].type;
    return "application/octet-stream";
}

/* ---- Answers ---- */

static int status_of(int error)
{
    switch (error) {
    case -ENOENT:
    case -ENOTDIR:
    case -ELOOP: /* a symbolic link */
    case -ENAMETOOLONG:
    case -ENXIO: return 404;
    case -EACCES:
    case -EPERM: return 403;
    case -EMFILE:
    case -ENFILE:
    case -ENOMEM: return 503;
    default: return 500;
    }
}

/* Reads the file piece by piece into the output and sends it. */
static bool send_file(struct conn *c, wh_fd fd, uint64_t size)
{
    enum { PIECE_MIN = BLOCK_BYTES / 4 };
    for (uint64_t done = 0; done < size;) {
        char *room = out_room(c, PIECE_MIN);
        if (!room)
            return false;
        uint64_t len = BLOCK_BYTES - c->out_len;
        if (len > size - done)
            len = size - done;
        ssize_t n = wh_pread(fd, room, len, (int64_t)done);
        if (n <= 0) /* it has shrunk: the length that was promised cannot be kept */
            return false;
        c->out_len += (uint32_t)n;
        done += (uint64_t)n;
    }
    return true;
}

#define LAST_MODIFIED "Last-Modified: "

/* The peer's copy is as new if it names the very date that we gave it. */
static bool is_unmodified(const struct conn *c, const char *date)
{
    struct span given = c->request.if_modified_since;
    return given.len >= DATE_BYTES && !memcmp(span_text(c, given), date, DATE_BYTES);
}

static bool answer_open_file(struct conn *c, wh_fd fd, const char *type)
{
    struct statx st;
    int rc = wh_statx(fd, "", AT_EMPTY_PATH, STATX_TYPE | STATX_SIZE | STATX_MTIME, &st);
    if (rc < 0)
        return answer_status(c, status_of(rc), "");
    if (!S_ISREG(st.stx_mode))
        return answer_status(c, 404, "");

    char more[] = LAST_MODIFIED "Thu, 01 Jan 1970 00:00:00 GMT\r\n";
    char *date = more + strlen(LAST_MODIFIED);
    date_put(date, st.stx_mtime.tv_sec);
    if (is_unmodified(c, date))
        return answer_head(c, 304, NULL, 0, more);
    return answer_head(c, 200, type, st.stx_size, more) &&
           (c->parser.method == HTTP_HEAD || send_file(c, fd, st.stx_size));
}

__attribute__((noinline)) bool files_answer(struct conn *c, char *path)
{
    const char *type = type_of(path);
    wh_fd fd = open_below(c->worker->server->root, path);
    if (fd < 0)
        return answer_status(c, status_of(fd), "");
    bool on = answer_open_file(c, fd, type);
    wh_close(fd);
    return on;
}
