/*
 * echo.c: the smallest useful server: sends back what it receives.
 *
 *     echo HOST:PORT [--workers N] [--one-listener] [--migrate]
 *
 * One coroutine a connection, written as if it were alone. Each worker has a listener of its own,
 * and the kernel spreads the connections (SO_REUSEPORT). With --one-listener the first worker
 * accepts all of them, and the others take what it has not begun; with --migrate they also take
 * connections that have something to do while their worker is busy. SIGINT or SIGTERM ends it and
 * prints one line of figures as JSON.
 */
#include <whorl.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum { WORKERS_MAX = 60, BUFFER_BYTES = 2048 };

struct server {
    const char *address;
    unsigned workers;
    bool one_listener, migrate;
    uint64_t connections, messages; /* any worker, atomic */
    wh_stats stats;
};

static void serve(wh_fd fd, struct server *server)
{
    char buf[BUFFER_BYTES];
    uint64_t messages = 0;
    for (;;) {
        ssize_t n = wh_recv(fd, buf, sizeof buf, 0);
        if (n <= 0)
            break;
        if (wh_send_all(fd, buf, (size_t)n) < 0)
            break;
        messages++;
    }
    wh_close(fd);
    __atomic_fetch_add(&server->messages, messages, __ATOMIC_RELAXED);
}

/* Accepts until the run ends. */
static void accept_all(wh_fd listener, struct server *server)
{
    /* What this coroutine starts is not bound to its worker, as it is itself. */
    const wh_spawn_options options = {.name = "serve", .migrate = server->migrate};
    for (;;) {
        wh_fd fd = wh_accept(listener);
        if (fd == -EMFILE || fd == -ENFILE || fd == -ENOBUFS || fd == -ENOMEM) {
            if (wh_sleep(10 * WH_MILLISECOND) < 0) /* until a connection has ended */
                break;
            continue;
        }
        if (fd == -ECONNABORTED)
            continue;
        if (fd < 0)
            break;
        __atomic_fetch_add(&server->connections, 1, __ATOMIC_RELAXED);
        wh_coro *coro;
        if (wh_spawn(&coro, &options, serve, fd, server) < 0)
            wh_close(fd);
        else
            wh_detach(coro);
    }
    wh_close(listener);
}

/* A listener a worker, or one in all. */
static int listen_all(struct server *server)
{
    unsigned count = server->one_listener ? 1 : wh_workers();
    int rc = 0;
    for (unsigned worker = 1; rc == 0 && worker <= count; worker++) {
        wh_fd listener =
            wh_listen_tcp(server->address, &(wh_listen_options){.reuseport = count > 1});
        if (listener < 0) {
            fprintf(stderr, "echo: cannot listen on %s: %s\n", server->address,
                    strerror(-listener));
            return listener;
        }
        wh_coro *acceptor;
        rc = wh_spawn(&acceptor, &(wh_spawn_options){.worker = worker}, accept_all, listener,
                      server);
        if (rc == 0)
            wh_detach(acceptor);
    }
    return rc;
}

/* The root: serves until a signal comes; returning ends everything else. */
static int app(void *arg)
{
    struct server *server = arg;
    WH_CHAN(int) signals = wh_chan_create(int, 1);
    if (!signals)
        return -ENOMEM;
    int rc = wh_signal_notify(signals, SIGINT);
    if (rc == 0)
        rc = wh_signal_notify(signals, SIGTERM);
    if (rc == 0)
        rc = listen_all(server);
    if (rc == 0)
        (void)!wh_chan_recv(signals, NULL);
    wh_stats_get(&server->stats);
    wh_signal_stop(signals);
    wh_chan_unref(signals);
    return rc;
}

static void print_figures(const struct server *server)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    double cpu_s = (double)usage.ru_utime.tv_sec + (double)usage.ru_stime.tv_sec +
                   (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
    printf("{\"server\":\"whorl\",\"messages\":%llu,\"syscalls\":%llu,\"cpu_s\":%.6f,"
           "\"connections\":%llu,\"stolen\":%llu,\"max_rss_kb\":%ld}\n",
           (unsigned long long)server->messages, (unsigned long long)server->stats.ring_enters,
           cpu_s, (unsigned long long)server->connections,
           (unsigned long long)server->stats.coros_stolen, usage.ru_maxrss);
}

static int usage(void)
{
    fprintf(stderr, "usage: echo HOST:PORT [--workers N] [--one-listener] [--migrate]\n"
                    "       N from 1, which it is without, to 60\n");
    return 2;
}

int main(int argc, char **argv)
{
    struct server server = {.workers = 1};
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--workers") && i + 1 < argc)
            server.workers = (unsigned)atoi(argv[++i]);
        else if (!strcmp(argv[i], "--one-listener"))
            server.one_listener = true;
        else if (!strcmp(argv[i], "--migrate"))
            server.migrate = true;
        else if (argv[i][0] != '-' && !server.address)
            server.address = argv[i];
        else
            return usage();
    }
    if (!server.address || server.workers < 1 || server.workers > WORKERS_MAX)
        return usage();

    const wh_options options = {.workers = server.workers};
    int rc = wh_run(app, &server, &options);
    if (rc == 0)
        print_figures(&server);
    return rc < 0;
}
