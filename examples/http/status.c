/*
 * status.c: what the server is doing, for a person (/status) and for programs (/status.json).
 *
 * All figures are those of all workers; "worker" says which of them answers. Stacks and resident
 * memory are counted at the moment of asking.
 */
#include "http.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TEXT_BYTES = 16384 };

struct text {
    char *bytes;
    size_t len; /* what it wants, which may be more than there is room for */
    bool in_list;
};

__attribute__((format(printf, 2, 3))) static void add(struct text *text, const char *format, ...)
{
    size_t at = text->len < TEXT_BYTES ? text->len : TEXT_BYTES;
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text->bytes + at, TEXT_BYTES - at, format, args);
    va_end(args);
    if (n > 0)
        text->len += (size_t)n;
}

static unsigned long long ull(uint64_t n)
{
    return n;
}

/* Resident memory of the process in bytes; 0 when it cannot be read. */
static uint64_t resident_bytes(void)
{
    char line[128];
    unsigned long long pages = 0;
    wh_fd fd = wh_openat(AT_FDCWD, "/proc/self/statm", O_RDONLY, 0);
    if (fd < 0)
        return 0;
    ssize_t n = wh_read(fd, line, sizeof line - 1);
    if (n > 0) {
        line[n] = '\0';
        if (sscanf(line, "%*u %llu", &pages) != 1)
            pages = 0;
    }
    wh_close(fd);
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void add_site(const struct wh_site *site, void *arg)
{
    struct text *text = arg;
    const char *slash = strrchr(site->file, '/');
    add(text,
        "%s{\"function\":\"%s\",\"file\":\"%s\",\"line\":%u,\"started\":%llu,"
        "\"stack_depth_max\":%zu}",
        text->in_list ? "," : "", site->function, slash ? slash + 1 : site->file, site->line,
        ull(__atomic_load_n(&site->started, __ATOMIC_RELAXED)),
        __atomic_load_n(&site->stack_depth_max, __ATOMIC_RELAXED));
    text->in_list = true;
}

static uint64_t sum(const struct server *server, size_t counter)
{
    uint64_t total = 0;
    for (int i = 0; i < WORKERS_EVER_MAX; i++)
        total += count_read((const uint64_t *)((const char *)&server->workers[i] + counter));
    return total;
}

#define SUM(server, counter) ull(sum(server, offsetof(struct worker, counter)))

static void add_server(struct text *text, const struct worker *w)
{
    const struct server *server = w->server;
    add(text,
        "{\"server\":\"whorl/%s\",\"uptime_s\":%.1f,\"workers\":%u,\"worker\":%d,"
        "\"stopping\":%s,",
        wh_version(), (double)(wh_now() - server->started_ns) / 1e9, wh_workers(), w->index,
        is_stopping(server) ? "true" : "false");
    add(text,
        "\"connections\":{\"open\":%llu,\"accepted\":%llu,\"refused\":%llu,\"max\":%ld},"
        "\"requests\":{\"answered\":%llu,\"per_s\":%llu,\"malformed\":%llu,\"timeouts\":%llu},",
        ull((uint64_t)__atomic_load_n(&server->open, __ATOMIC_RELAXED)), SUM(server, connections),
        SUM(server, refused) + ull(count_read(&server->stats.shed)), server->config.connections_max,
        SUM(server, requests), SUM(server, requests_per_s), SUM(server, malformed),
        SUM(server, timeouts));
}

static void add_run(struct text *text, const wh_stats *s)
{
    add(text,
        "\"coroutines\":{\"live\":%llu,\"started\":%llu,\"ended\":%llu,\"switches\":%llu},"
        "\"memory\":{\"rss_bytes\":%llu,\"stacks_in_use\":%llu,\"stacks_warm\":%llu,"
        "\"stacks_resident_bytes\":%llu,\"stacks_reserved_bytes\":%llu,\"stacks_trimmed\":%llu},",
        ull(s->coros_live), ull(s->coros_started), ull(s->coros_ended), ull(s->switches),
        ull(resident_bytes()), ull(s->stacks_in_use), ull(s->stacks_warm),
        ull(s->stacks_resident_bytes), ull(s->stacks_reserved_bytes), ull(s->stacks_trimmed));
    add(text,
        "\"ring\":{\"enters\":%llu,\"submissions\":%llu,\"completions\":%llu,\"cancels\":%llu,"
        "\"full\":%llu,\"overflows\":%llu,\"in_flight\":%llu},"
        "\"loop\":{\"turns\":%llu,\"sleeps\":%llu,\"spins\":%llu,\"spins_paid\":%llu,"
        "\"timers_armed\":%llu},",
        ull(s->ring_enters), ull(s->ring_submissions), ull(s->ring_completions),
        ull(s->ring_cancels), ull(s->ring_full), ull(s->ring_overflows), ull(s->ops_in_flight),
        ull(s->loop_turns), ull(s->sleeps), ull(s->spins), ull(s->spins_paid),
        ull(s->timers_armed));
}

__attribute__((noinline)) bool status_json_answer(struct conn *c)
{
    struct text text = {.bytes = malloc(TEXT_BYTES)};
    if (!text.bytes)
        return answer_status(c, 503, "");
    wh_stats stats;
    wh_stats_get(&stats);
    add_server(&text, c->worker);
    add_run(&text, &stats);
    add(&text, "\"sites\":[");
    wh_sites_visit(add_site, &text);
    add(&text, "]}\n");

    bool on = text.len < TEXT_BYTES ? answer_head(c, 200, "application/json", text.len,
                                                  "Cache-Control: no-store\r\n") &&
                                          answer_content(c, text.bytes, text.len)
                                    : answer_status(c, 500, "");
    free(text.bytes);
    return on;
}

bool status_page_answer(struct conn *c)
{
    return answer_head(c, 200, "text/html; charset=utf-8", status_page_len, "") &&
           answer_content(c, status_page, status_page_len);
}
