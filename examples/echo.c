/*
 * echo.c: the smallest useful server: sends back what it receives.
 *
 *     echo HOST:PORT [--workers N] [--one-listener] [--migrate] [--deadline-ms N] [--buffer BYTES]
 *
 * One coroutine a connection, written as if it were alone. Each worker has a listener of its own,
 * and the kernel spreads the connections (SO_REUSEPORT). With --one-listener the first worker
 * accepts all of them, and the others take what it has not begun; with --migrate they also take
 * connections that have something to do while their worker is busy. With --deadline-ms every
 * receive and every send has a deadline, and the connection that misses it is closed. The buffer is
 * on the coroutine's stack, a larger one (--buffer) is not. SIGINT or SIGTERM ends it and prints
 * one line of figures as JSON.
 */
#include <whorl.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum {
    WORKERS_MAX = 60,
    BUFFER_BYTES = 2048,
    ACCEPTORS = 8,
    BUFFER_BYTES_MAX = 1 << 20,
    DEADLINE_MS_MAX = 86400000
};

struct server {
    const char *address;
    unsigned workers;
    bool one_listener, migrate;
    int64_t deadline_ns;            /* of each operation; 0: none */
    size_t buffer_bytes;            /* a connection */
    uint64_t connections, messages; /* any worker, atomic */
    wh_stats stats;
};

/* Receives and sends back once. False: the stream has ended, or the connection failed. */
static bool echo_once(wh_fd fd, char *buf, size_t bytes)
{
    ssize_t n = wh_recv(fd, buf, bytes, 0);
    return n > 0 && wh_send_all(fd, buf, (size_t)n) >= 0;
}

/* The same, each operation under a deadline of its own. */
static bool echo_once_until(wh_fd fd, char *buf, size_t bytes, int64_t deadline_ns)
{
    ssize_t n = -ETIMEDOUT, sent = -ETIMEDOUT;
    WH_WITH_TIMEOUT(deadline_ns)
    {
        n = wh_recv(fd, buf, bytes, 0);
    }
    if (n <= 0)
        return false;
    WH_WITH_TIMEOUT(deadline_ns)
    {
        sent = wh_send_all(fd, buf, (size_t)n);
    }
    return sent >= 0;
}

static void serve(wh_fd fd, struct server *server)
{
    char small[BUFFER_BYTES], *buf = small;
    uint64_t messages = 0;
    if (server->buffer_bytes > sizeof small)
        buf = malloc(server->buffer_bytes);
    if (!buf)
        goto out;
    if (server->deadline_ns)
        while (echo_once_until(fd, buf, server->buffer_bytes, server->deadline_ns))
            messages++;
    else
        while (echo_once(fd, buf, server->buffer_bytes))
            messages++;
    if (buf != small)
        free(buf);
out:
    wh_close(fd);
    __atomic_fetch_add(&server->messages, messages, __ATOMIC_RELAXED);
}

/* Accepts until the run ends. */
static void accept_all(wh_fd listener, struct server *server)
{
    /* What this coroutine starts is not bound to its worker, as it is itself. */
    const wh_spawn_options options = {.migrate = server->migrate};
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
}

/* Several, so that newcomers do not come in one by one while many connections are busy. */
static int accept_on(wh_fd listener, unsigned worker, struct server *server)
{
    const wh_spawn_options options = {.worker = worker};
    for (int i = 0; i < ACCEPTORS; i++) {
        wh_coro *acceptor;
        int rc = wh_spawn(&acceptor, &options, accept_all, listener, server);
        if (rc < 0)
            return rc;
        wh_detach(acceptor);
    }
    return 0;
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
        rc = accept_on(listener, worker, server);
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
    int rc = wh_signal_notify(signals, SIGINT, SIGTERM);
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
    fprintf(stderr,
            "usage: echo HOST:PORT [--workers N] [--one-listener] [--migrate]\n"
            "            [--deadline-ms N] [--buffer BYTES]\n"
            "       N workers from 1, which it is without, to 60; milliseconds from 1 to a day;\n"
            "       bytes from 1 to 1048576, 2048 without\n");
    return 2;
}

/* The number that follows the option, or -1. */
static long number(const char *text, long max)
{
    char *end = NULL;
    long value = text ? strtol(text, &end, 10) : 0;
    return end && end != text && !*end && value >= 1 && value <= max ? value : -1;
}

int main(int argc, char **argv)
{
    struct server server = {.workers = 1, .buffer_bytes = BUFFER_BYTES};
    for (int i = 1; i < argc; i++) {
        long value = 0;
        if (!strcmp(argv[i], "--workers"))
            server.workers = (unsigned)(value = number(argv[++i], WORKERS_MAX));
        else if (!strcmp(argv[i], "--deadline-ms"))
            server.deadline_ns = WH_MILLISECOND * (value = number(argv[++i], DEADLINE_MS_MAX));
        else if (!strcmp(argv[i], "--buffer"))
            server.buffer_bytes = (size_t)(value = number(argv[++i], BUFFER_BYTES_MAX));
        else if (!strcmp(argv[i], "--one-listener"))
            server.one_listener = true;
        else if (!strcmp(argv[i], "--migrate"))
            server.migrate = true;
        else if (argv[i][0] != '-' && !server.address)
            server.address = argv[i];
        else
            return usage();
        if (value < 0)
            return usage();
    }
    if (!server.address)
        return usage();

    const wh_options options = {.workers = server.workers};
    int rc = wh_run(app, &server, &options);
    if (rc == 0)
        print_figures(&server);
    return rc < 0;
}
