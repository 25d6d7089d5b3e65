/*
 * server.c: whorl's side of c1m: a coroutine a connection, each in a read with an idle deadline.
 *
 *     c1m_server PORT WORKERS DEADLINE_NS DIRECT SHARED_FILE
 *
 * The deadline is one instant (CLOCK_MONOTONIC) for all of them: the hardest case, a million timers
 * at once. What comes before is answered. Ends on SIGTERM.
 */
#include "bench/c1m/shared.h"

#include <whorl.h>

#include <signal.h>
#include <string.h>

struct app {
    const char *port;
    int64_t deadline_ns;
    bool direct;
    struct shared *shared;
};

static void serve_one(const wh_client *client)
{
    const struct app *app = client->arg;
    struct shared *shared = app->shared;
    add(&shared->begun, 1);
    add(&shared->direct, wh_conn_fd(client->conn) >= 1 << 30);
    for (;;) {
        const char *bytes;
        ssize_t n = -ETIMEDOUT;
        WH_WITH_DEADLINE(app->deadline_ns)
        {
            n = wh_conn_peek(client->conn, 1, &bytes);
        }
        if (n == -ETIMEDOUT)
            add(&shared->fired, 1);
        if (n <= 0 || wh_conn_write(client->conn, bytes, (size_t)n) < 0)
            break;
        wh_conn_consume(client->conn, (size_t)n);
        if (wh_conn_flush(client->conn) < 0)
            break;
        add(&shared->messages, 1);
    }
}

static int run(void *arg)
{
    struct app *app = arg;
    char address[32];
    snprintf(address, sizeof address, "127.0.0.1:%s", app->port);
    const wh_listen_options listen_options = {.reuseport = 1};
    wh_fd listener = wh_listen_tcp(address, &listen_options);
    if (listener < 0) {
        fprintf(stderr, "c1m_server: cannot listen on %s: %s\n", address, strerror(-listener));
        return listener;
    }
    WH_CHAN(int) stop = wh_chan_create(int, 1);
    const wh_serve_options options = {
        .direct = app->direct, .stats = &app->shared->stats, .drain_ns = -1, .stop = stop};
    int rc = wh_signal_notify(stop, SIGTERM);
    if (rc < 0)
        return rc;
    __atomic_store_n(&app->shared->ready, 1, __ATOMIC_RELAXED);
    rc = wh_serve(listener, serve_one, app, &options);
    wh_chan_unref(stop);
    return rc;
}

int main(int argc, char **argv)
{
    if (argc != 6) {
        fprintf(stderr, "usage: c1m_server PORT WORKERS DEADLINE_NS DIRECT SHARED_FILE\n");
        return 2;
    }
    struct app app = {
        .port = argv[1],
        .deadline_ns = atoll(argv[3]),
        .direct = atoi(argv[4]),
        .shared = shared_map(argv[5]),
    };
    if (!app.shared) {
        perror(argv[5]);
        return 1;
    }
    /* There may be far more workers than cores: one that waits for its core is no hog. */
    const wh_options options = {
        .workers = (unsigned)atoi(argv[2]), .stack_bytes = 16384, .hog_ns = -1};
    int rc = wh_run(run, &app, &options);
    if (rc < 0)
        fprintf(stderr, "c1m_server: %s\n", strerror(-rc));
    return rc < 0;
}
