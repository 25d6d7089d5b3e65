/*
 * serve.c: the run: who is let in, and the end of it all. Most of that is wh_serve().
 *
 * Above the limit of connections a newcomer is told 503, by the coroutine that would have served
 * it. When REFUSALS_MAX are being told, newcomers wait in the kernel's queue. Without descriptors
 * wh_serve() sheds one now and then, and waits in between.
 *
 * The end, at the first signal: client->idle is cancelled, so idle connections end; one whose next
 * request has come already answers it first; requests at hand are answered with Connection: close.
 * What takes longer than grace_ns is cancelled, and all of it at a second signal.
 */
#include "http.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#define REFUSAL_WRITE_NS WH_SECOND

/* ---- Connections ---- */

/* What the thread has for its connections; NULL without memory. A spare worker's comes late. */
static struct worker *worker_here(struct server *server)
{
    struct worker *w = &server->workers[wh_worker() - 1];
    if (!w->server) {
        w->config = &server->config;
        w->index = (int)wh_worker() - 1;
        if (!answers_init(w))
            return NULL;
        w->server = server;
    }
    return w;
}

static void refuse(wh_fd fd, struct worker *w)
{
    char text[HEAD_BYTES_MAX];
    size_t len = answer_refusal(w, text, sizeof text);
    bool sent = false;
    count_up(&w->refused);
    WH_WITH_TIMEOUT(REFUSAL_WRITE_NS)
    {
        sent = wh_send_all(fd, text, len) >= 0;
    }
    if (sent)
        conn_linger(fd);
}

/* Whether there is room for one more, which then counts. */
static bool enter(struct server *server)
{
    long open = __atomic_load_n(&server->open, __ATOMIC_RELAXED);
    while (open < server->config.connections_max)
        if (__atomic_compare_exchange_n(&server->open, &open, open + 1, true, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED))
            return true;
    return false;
}

static void serve_client(const wh_client *client)
{
    struct server *server = client->arg;
    struct worker *w = worker_here(server);
    if (!w)
        return;
    if (!enter(server)) {
        refuse(wh_conn_fd(client->conn), w);
        return;
    }
    count_up(&w->connections);
    conn_serve(client, w);
    __atomic_sub_fetch(&server->open, 1, __ATOMIC_RELAXED);
}

/* ---- The run ---- */

/* Serves until a signal has come or it cannot go on, and those at hand have ended. */
static int serve_until_told(struct server *server, wh_fd listener, WH_CHAN(int) signals)
{
    const struct config *config = &server->config;
    const wh_serve_options options = {
        .connections_max = (uint64_t)config->connections_max + REFUSALS_MAX,
        .drain_ns = config->grace_ns ? config->grace_ns : -1,
        .stats = &server->stats,
        .stop = signals,
    };
    int rc = wh_serve(listener, serve_client, server, &options);
    server->drained_ns = wh_now() - server->stats.drain_began_ns;
    wh_stats_get(&server->run_stats);
    if (rc < 0)
        fprintf(stderr, "http_server: cannot accept any more: %s\n", strerror(-rc));
    return rc;
}

int server_run(void *arg)
{
    struct server *server = arg;
    WH_CHAN(int) signals = wh_chan_create(int, 2);
    if (!signals)
        return -ENOMEM;
    int rc = wh_signal_notify(signals, SIGINT, SIGTERM);
    if (rc == 0) {
        wh_fd listener = server_listen(server);
        rc = listener < 0 ? listener : serve_until_told(server, listener, signals);
    }
    wh_signal_stop(signals);
    wh_chan_unref(signals);
    return rc;
}
