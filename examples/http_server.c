/*
 * http_server.c: an HTTP/1.1 server: options, the listener, the report at the end.
 *
 *     http_server [--listen HOST:PORT] [--root DIR] [--workers N] [...]     --help lists them all
 *
 * One coroutine a connection (http/conn.c), in one run with as many workers as asked for. With
 * several each has a listener of its own, and the kernel spreads the connections (SO_REUSEPORT).
 */
#include "http/http.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* ---- Options ---- */

enum { DEFAULT_HEAD_BYTES = 8192, DEFAULT_BODY_BYTES = 1 << 20 };

static const char help[] =
    "usage: http_server [OPTION...]\n"
    "\n"
    "  --listen HOST:PORT     where to listen (127.0.0.1:8080); port 0 is any free one\n"
    "  --root DIR             serve the regular files below DIR as /files/...; symbolic\n"
    "                         links are not followed\n"
    "  --workers N            threads, each with a ring of its own (1; at most 60)\n"
    "  --max-connections N    above it newcomers are told 503 (3/4 of 'ulimit -n')\n"
    "  --max-header-bytes N   a longer head is answered 431 (8192; at most 61440)\n"
    "  --max-body-bytes N     a longer body is answered 413 (1048576)\n"
    "  --idle-timeout-ms N    a connection without a request is closed (30000)\n"
    "  --read-timeout-ms N    a request not complete by then is answered 408 (10000)\n"
    "  --write-timeout-ms N   a peer that does not take what is sent is cut off (10000)\n"
    "  --grace-ms N           after SIGINT or SIGTERM: how long requests in flight may\n"
    "                         take; then they are cancelled (10000)\n"
    "  --stats                at the end, one line of figures as JSON\n"
    "  --help                 this list\n"
    "\n"
    "It answers /, /files/... (with --root), POST /echo, /status (a page to look at) and\n"
    "/status.json. A second signal ends it at once.\n";

static int complain(const char *option, const char *value, const char *wanted)
{
    fprintf(stderr, "http_server: %s %s: %s\n", option, value, wanted);
    return -1;
}

/* Reads a number of the option into *ret. Returns 0, or -1 and has said why. */
static int number(const char *option, const char *text, int64_t min, int64_t max, int64_t *ret)
{
    char wanted[96];
    char *end;
    errno = 0;
    long long n = strtoll(text, &end, 10);
    if (errno || end == text || *end || n < min || n > max) {
        snprintf(wanted, sizeof wanted, "must be a number from %lld to %lld", (long long)min,
                 (long long)max);
        return complain(option, text, wanted);
    }
    *ret = n;
    return 0;
}

static int milliseconds(const char *option, const char *text, int64_t *ret_ns)
{
    int64_t ms;
    if (number(option, text, 0, 86400000, &ms) < 0)
        return -1;
    *ret_ns = ms * WH_MILLISECOND;
    return 0;
}

/* One option; 0, or -1 and has said why. */
static int set_option(struct config *config, const char *name, const char *value)
{
    char option[32];
    int64_t n;
    int rc = -1;
    snprintf(option, sizeof option, "--%s", name);
    if (!strcmp(name, "listen") || !strcmp(name, "root")) {
        *(name[0] == 'l' ? &config->listen : &config->root) = value;
        return 0;
    }
    if (!strcmp(name, "idle-timeout-ms"))
        return milliseconds(option, value, &config->idle_ns);
    if (!strcmp(name, "read-timeout-ms"))
        return milliseconds(option, value, &config->read_ns);
    if (!strcmp(name, "write-timeout-ms"))
        return milliseconds(option, value, &config->write_ns);
    if (!strcmp(name, "grace-ms"))
        return milliseconds(option, value, &config->grace_ns);
    if (!strcmp(name, "workers")) {
        if ((rc = number(option, value, 1, WORKERS_MAX, &n)) == 0)
            config->workers = (int)n;
    } else if (!strcmp(name, "max-connections")) {
        if ((rc = number(option, value, 1, 1 << 24, &n)) == 0)
            config->connections_max = (long)n;
    } else if (!strcmp(name, "max-header-bytes")) {
        if ((rc = number(option, value, 64, 61440, &n)) == 0)
            config->head_bytes_max = (size_t)n;
    } else {
        if ((rc = number(option, value, 0, 1 << 30, &n)) == 0)
            config->body_bytes_max = (size_t)n;
    }
    return rc;
}

static const struct option options[] = {
    {"listen", required_argument, NULL, 0},
    {"root", required_argument, NULL, 0},
    {"workers", required_argument, NULL, 0},
    {"max-connections", required_argument, NULL, 0},
    {"max-header-bytes", required_argument, NULL, 0},
    {"max-body-bytes", required_argument, NULL, 0},
    {"idle-timeout-ms", required_argument, NULL, 0},
    {"read-timeout-ms", required_argument, NULL, 0},
    {"write-timeout-ms", required_argument, NULL, 0},
    {"grace-ms", required_argument, NULL, 0},
    {"stats", no_argument, NULL, 's'},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

/* Returns -1 to go on, or the exit status. */
static int read_options(int argc, char **argv, struct config *config)
{
    *config = (struct config){.listen = "127.0.0.1:8080",
                              .workers = 1,
                              .idle_ns = 30 * WH_SECOND,
                              .read_ns = 10 * WH_SECOND,
                              .write_ns = 10 * WH_SECOND,
                              .grace_ns = 10 * WH_SECOND,
                              .head_bytes_max = DEFAULT_HEAD_BYTES,
                              .body_bytes_max = DEFAULT_BODY_BYTES};
    int index;
    for (;;) {
        switch (getopt_long(argc, argv, "", options, &index)) {
        case -1:
            if (optind == argc)
                return -1;
            fprintf(stderr, "http_server: unexpected '%s'; see --help\n", argv[optind]);
            return 2;
        case 0:
            if (set_option(config, options[index].name, optarg) < 0)
                return 2;
            break;
        case 's': config->stats = true; break;
        case 'h': fputs(help, stdout); return 0;
        default: fputs("http_server: see --help\n", stderr); return 2;
        }
    }
}

/* ---- Start ---- */

/* As many descriptors as may be had; the limit of connections follows from it. */
static void set_limits(struct config *config)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        limit.rlim_cur = limit.rlim_max = 1024;
    if (limit.rlim_cur < limit.rlim_max) {
        rlim_t before = limit.rlim_cur;
        limit.rlim_cur = limit.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
            limit.rlim_cur = before;
    }
    if (!config->connections_max) {
        rlim_t most = limit.rlim_cur < (rlim_t)1 << 24 ? limit.rlim_cur : (rlim_t)1 << 24;
        config->connections_max = (long)(most / 4 * 3);
    }
}

/* The address a listener has, as "HOST:PORT". */
static void address_of(wh_fd listener, char *ret_text, size_t size)
{
    wh_addr address;
    if (wh_addr_local(listener, &address) < 0 || wh_addr_format(&address, ret_text, size) < 0)
        snprintf(ret_text, size, "?");
}

static const char *listen_cure(int error)
{
    switch (error) {
    case -EADDRINUSE: return "another program listens there: stop it, or choose another port";
    case -EADDRNOTAVAIL: return "this machine has no such address";
    case -EACCES: return "ports below 1024 need a privilege: choose a higher one";
    case -EINVAL:
        return "an address is HOST:PORT, with HOST an IPv4 address, an IPv6 address in brackets, "
               "localhost or nothing";
    default: return "see --help";
    }
}

wh_fd server_listen(const struct server *server)
{
    const wh_listen_options shared = {.reuseport = wh_workers() > 1};
    char address[128];
    wh_fd fd = wh_listen_tcp(server->config.listen, &shared);
    if (fd < 0) {
        fprintf(stderr, "http_server: cannot listen on %s: %s (%s)\n", server->config.listen,
                strerror(-fd), listen_cure(fd));
        return fd;
    }
    address_of(fd, address, sizeof address);
    printf("listening on %s\nfigures: http://%s/status\n", address, address);
    fflush(stdout);
    return fd;
}

static int open_root(struct server *server)
{
    server->root = -1;
    if (!server->config.root)
        return 0;
    server->root = open(server->config.root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (server->root >= 0)
        return 0;
    return complain("--root", server->config.root, strerror(errno));
}

static int init_server(struct server *server)
{
    server->started_ns = wh_now();
    set_limits(&server->config);
    parse_warm_up();
    /* Whoever started us may have them ignored; a second one is to end us. */
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    signal(SIGPIPE, SIG_IGN);
    return open_root(server);
}

/* ---- The end ---- */

static unsigned long long sum(const struct server *server, size_t counter)
{
    unsigned long long total = 0;
    for (int i = 0; i < WORKERS_EVER_MAX; i++)
        total += count_read((const uint64_t *)((const char *)&server->workers[i] + counter));
    return total;
}

#define SUM(server, counter) sum(server, offsetof(struct worker, counter))

static void print_report(const struct server *server)
{
    fprintf(
        stderr,
        "stopped: %llu requests finished while stopping, %llu connections cancelled after %.1f s; "
        "served %llu requests on %llu connections\n",
        SUM(server, finished), (unsigned long long)server->stats.cut,
        (double)server->drained_ns / 1e9, SUM(server, requests), SUM(server, connections));
}

static double seconds(struct timeval t)
{
    return (double)t.tv_sec + (double)t.tv_usec / 1e6;
}

static void print_stats(const struct server *server)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    printf("{\"server\":\"whorl\",\"requests\":%llu,\"syscalls\":%llu,\"cpu_s\":%.6f,"
           "\"connections\":%llu,\"max_rss_kb\":%ld}\n",
           SUM(server, requests), (unsigned long long)server->run_stats.ring_enters,
           seconds(usage.ru_utime) + seconds(usage.ru_stime), SUM(server, connections),
           usage.ru_maxrss);
}

int main(int argc, char **argv)
{
    static struct server server;
    int rc = read_options(argc, argv, &server.config);
    if (rc >= 0)
        return rc;
    if (init_server(&server) < 0)
        return 1;
    /* A connection is not to move: struct worker is its thread's. */
    setenv("WHORL_MIGRATE", "0", 1);
    /* Large stacks stand further apart, which costs each connection more of the page tables. */
    const wh_options run_options = {.workers = (unsigned)server.config.workers,
                                    .stack_bytes = 65536};
    rc = wh_run(server_run, &server, &run_options);
    if (rc == 0)
        print_report(&server);
    if (rc == 0 && server.config.stats)
        print_stats(&server);
    for (int i = 0; i < WORKERS_EVER_MAX; i++)
        answers_finish(&server.workers[i]);
    return rc < 0;
}
