/*
 * kv_server.c: a key-value server that speaks the Redis protocol: options, the start, the end.
 *
 *     kv_server [--port N] [--workers N] [--maxclients N] [...]     --help lists them all
 *     redis-cli -p 6379                                              talks to it
 *
 * What to look at: a connection is plain code that reads, answers and ends (kv/client.c); keys
 * expire because a coroutine waits with a deadline (kv/store.c); a subscriber has a second
 * coroutine that sends, so that who publishes never waits (kv/feed.c). kv/kv.h has the map, and
 * says what is shared and by what it is protected with several workers.
 *
 * SIGINT or SIGTERM ends it in good order: nobody new is let in, idle connections end at once,
 * requests that have begun are finished. A second one ends it immediately.
 */
#include "kv/kv.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

enum { REFUSALS = 32 /* being told that there are too many clients */, SPARE_DESCRIPTORS = 32 };

static const char help[] =
    "usage: kv_server [OPTION...]\n"
    "\n"
    "  --port N                  where to listen (6379); 0 is any free one\n"
    "  --bind ADDRESS            on which address (127.0.0.1)\n"
    "  --workers N               threads, each with a ring of its own (1; at most 60)\n"
    "  --maxclients N            above it newcomers are told so and closed (10000)\n"
    "  --maxmemory BYTES         of keys, values and their tables; above it none can be added\n"
    "                            (0: any)\n"
    "  --request-limit BYTES     a longer request ends the connection (67108864)\n"
    "  --client-output-limit BYTES   a subscriber for whom more waits is cut off (8388608)\n"
    "  --help                    this list\n"
    "\n"
    "There is no password: listen only where you trust everybody.\n";

/* jemalloc reads this: keys lie about at random, and where each is in a small page of its own,
 * finding out where that page is costs more than reading it. */
extern const char *malloc_conf;
const char *malloc_conf = "thp:always,metadata_thp:always";

/* Reads a number of the option into *ret. Returns 0, or -1 and has said why. */
static int number(const char *option, const char *text, int64_t min, int64_t max, int64_t *ret)
{
    if (number_read((struct text){text, strlen(text)}, ret) && *ret >= min && *ret <= max)
        return 0;
    fprintf(stderr, "kv_server: --%s %s: must be a number from %lld to %lld\n", option, text,
            (long long)min, (long long)max);
    return -1;
}

static const struct option options[] = {
    {"port", required_argument, NULL, 'p'},
    {"bind", required_argument, NULL, 'b'},
    {"workers", required_argument, NULL, 'w'},
    {"maxclients", required_argument, NULL, 'c'},
    {"maxmemory", required_argument, NULL, 'm'},
    {"request-limit", required_argument, NULL, 'r'},
    {"client-output-limit", required_argument, NULL, 'o'},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

/* One option; 0, or -1 and has said why. */
static int set_option(struct config *config, int letter, const char *name, const char *value)
{
    int64_t n = 0;
    int rc = 0;
    switch (letter) {
    case 'b': config->bind = value; break;
    case 'p':
        rc = number(name, value, 0, 65535, &n);
        config->port = (int)n;
        break;
    case 'w':
        rc = number(name, value, 1, WORKERS_MAX, &n);
        config->workers = (unsigned)n;
        break;
    case 'c':
        rc = number(name, value, 1, 1 << 24, &n);
        config->clients_max = (uint64_t)n;
        break;
    case 'm':
        rc = number(name, value, 0, INT64_MAX, &n);
        config->memory_max = (uint64_t)n;
        break;
    case 'r':
        rc = number(name, value, 1024, 1 << 29, &n);
        config->request_max = (size_t)n;
        break;
    case 'o':
        rc = number(name, value, 1024, 1 << 30, &n);
        config->output_max = (size_t)n;
        break;
    default: rc = -1;
    }
    return rc;
}

/* Returns -1 to go on, or the exit status. */
static int read_options(int argc, char **argv, struct config *config)
{
    *config = (struct config){.bind = "127.0.0.1",
                              .port = 6379,
                              .workers = 1,
                              .clients_max = 10000,
                              .request_max = 64 << 20,
                              .output_max = 8 << 20};
    for (;;) {
        int index = 0;
        int letter = getopt_long(argc, argv, "", options, &index);
        if (letter == 'h') {
            fputs(help, stdout);
            return 0;
        }
        if (letter == -1 && optind == argc)
            return -1;
        if (letter == -1)
            fprintf(stderr, "kv_server: unexpected '%s'; see --help\n", argv[optind]);
        if (letter == '?')
            fputs("kv_server: see --help\n", stderr);
        if (letter == -1 || letter == '?' ||
            set_option(config, letter, options[index].name, optarg) < 0)
            return 2;
    }
}

/* As many descriptors as may be had; there are no more clients than these allow. */
static void set_limits(struct config *config)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return;
    if (limit.rlim_cur < limit.rlim_max) {
        rlim_t before = limit.rlim_cur;
        limit.rlim_cur = limit.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
            limit.rlim_cur = before;
    }
    uint64_t spare = SPARE_DESCRIPTORS + REFUSALS + 12 * (uint64_t)config->workers;
    uint64_t most = limit.rlim_cur > spare ? limit.rlim_cur - spare : 1;
    if (config->clients_max <= most)
        return;
    fprintf(stderr, "kv_server: --maxclients is %llu, which is what 'ulimit -n' allows\n",
            (unsigned long long)most);
    config->clients_max = most;
}

/* ---- Running ---- */

static int port_of(wh_fd listener)
{
    union {
        struct sockaddr any;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
    } address = {.any.sa_family = AF_UNSPEC};
    socklen_t len = sizeof address;
    getsockname(listener, &address.any, &len);
    return ntohs(address.any.sa_family == AF_INET6 ? address.in6.sin6_port : address.in.sin_port);
}

static wh_fd listen_there(struct server *server)
{
    const struct config *config = &server->config;
    char address[128];
    snprintf(address, sizeof address, strchr(config->bind, ':') ? "[%s]:%d" : "%s:%d", config->bind,
             config->port);
    wh_fd fd = wh_listen_tcp(address, &(wh_listen_options){.reuseport = server->shared});
    if (fd < 0) {
        fprintf(stderr, "kv_server: cannot listen on %s: %s\n", address, strerror(-fd));
        return fd;
    }
    server->port = port_of(fd);
    printf("listening on %s:%d\n", config->bind, server->port);
    fflush(stdout);
    return fd;
}

/* Serves until a signal comes. Returns 0, or what went wrong. */
static int serve(struct server *server, WH_CHAN(int) signals)
{
    const wh_serve_options serving = {.connections_max = server->config.clients_max + REFUSALS,
                                      .stop = signals};
    wh_coro *expiring;
    wh_fd listener = listen_there(server);
    if (listener < 0)
        return listener;
    int rc = wh_spawn(&expiring, NULL, store_expire_all, &server->store);
    if (rc < 0) {
        wh_close(listener);
        return rc;
    }
    rc = wh_serve(listener, client_serve, server, &serving);
    if (rc < 0)
        fprintf(stderr, "kv_server: cannot serve any more: %s\n", strerror(-rc));
    wh_cancel(expiring);
    wh_join(expiring, NULL);
    return rc;
}

/* The root. Nothing else runs yet. */
static int app(void *arg)
{
    struct server *server = arg;
    server->shared = wh_workers() > 1; /* which WHORL_WORKERS may have set */
    server->store.lock.shared = server->pubsub.lock.shared = server->shared;
    WH_CHAN(int) signals = wh_chan_create(int, 2);
    if (!signals)
        return -ENOMEM;
    int rc = wh_signal_notify(signals, SIGINT, SIGTERM);
    if (rc == 0)
        rc = serve(server, signals);
    wh_signal_stop(signals);
    wh_chan_unref(signals);
    return rc;
}

int main(int argc, char **argv)
{
    static struct server server;
    int status = read_options(argc, argv, &server.config);
    if (status >= 0)
        return status;
    set_limits(&server.config);
    /* What one worker shares is not locked: nothing is to move to one that helps out. */
    setenv("WHORL_MIGRATE", "0", 1);
    server.started_ns = wh_now();
    text_hash_seed();
    store_init(&server.store, server.config.memory_max);
    pthread_mutex_init(&server.pubsub.lock.mutex, NULL);
    int rc = commands_init(&server);
    if (rc == 0)
        rc = wh_run(app, &server, &(wh_options){.workers = server.config.workers});
    else
        fputs("kv_server: no memory\n", stderr);
    commands_finish(&server);
    store_finish(&server.store);
    return rc < 0;
}
