/*
 * client.c: a connection: reads requests, runs commands, ends.
 *
 *      what was received |answered|request at hand|the next ones|
 *                        there    bytes                     +len
 *
 * Requests are parsed where they were received. Only when there is no whole one left is the stream
 * told what was used, the answers sent, and more waited for: those of a pipeline go together. While
 * nothing of a request has come the server may end (client->idle); one that has begun is finished.
 *
 * A request takes memory as its bytes come, whatever lengths it announces.
 */
#include "kv.h"

#include <stdio.h>
#include <stdlib.h>

enum { PEEK_STEP = 65536 };

#define LAST_WRITE_NS (5 * WH_SECOND)

/* What has been received. */
struct input {
    struct text there; /* from the request at hand on */
    size_t used;       /* before it */
    wh_ctx *idle;
};

static struct text request_name(const struct client *client)
{
    struct text name = arg(client, 0);
    return (struct text){name.bytes, name.len < 128 ? name.len : 128};
}

/* As Redis words it. */
static void reply_unknown(struct client *client)
{
    char args[160] = "";
    int len = 0;
    for (uint32_t i = 1; i < args_count(client) && len < 128; i++) {
        struct text a = arg(client, i);
        len += snprintf(args + len, sizeof args - (size_t)len, "'%.*s' ",
                        (int)(a.len < 128 - (size_t)len ? a.len : 128 - (size_t)len), a.bytes);
    }
    struct text name = request_name(client);
    reply_error(client, "ERR unknown command '%.*s', with args beginning with: %s", (int)name.len,
                name.bytes, args);
}

void reply_arity(struct client *client, const char *command)
{
    reply_error(client, "ERR wrong number of arguments for '%s' command", command);
}

/* Whether it is a line of HTTP, as which a web page may have its reader's browser send commands to
 * a server that only the reader reaches: they would be in the body. */
static bool is_http(struct text name)
{
    return text_is(name, "post") || text_is(name, "host:");
}

static void reply_no_command(struct client *client)
{
    if (!is_http(arg(client, 0))) {
        reply_unknown(client);
        return;
    }
    reply_error(client, "ERR Protocol error: this is no HTTP server");
    client->closing = true;
}

static void run_command(struct client *client)
{
    const struct command *command = command_find(client->server, arg(client, 0));
    int count = (int)args_count(client);
    __atomic_store_n(&client->tally->commands, client->tally->commands + 1, __ATOMIC_RELAXED);
    if (!command)
        reply_no_command(client);
    else if (command->arity > 0 ? count != command->arity : count < -command->arity)
        reply_arity(client, command->name);
    else if (!command->while_subscribed && client->feed.on)
        reply_error(client,
                    "ERR Can't execute '%s': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT "
                    "/ RESET are allowed in this context",
                    command->name);
    else
        command->run(client);
}

/* ---- Requests ---- */

/* Waits for more of the request at hand. False: the connection is to end. */
static bool receive(struct client *client, struct input *in)
{
    size_t there = in->there.len;
    if (in->used)
        wh_conn_consume(client->conn, in->used);
    in->used = 0;
    if (reply_flush(client) < 0)
        return false;
    ssize_t n = 0;
    if (there) {
        size_t most = there + (there > PEEK_STEP ? there : PEEK_STEP);
        size_t need = client->request.need < most ? client->request.need : most;
        n = wh_conn_peek(client->conn, need, &in->there.bytes);
    } else {
        WH_WITH_CTX(in->idle)
        {
            n = wh_conn_peek(client->conn, 1, &in->there.bytes);
        }
    }
    if (n == -ENOMEM)
        reply_error(client, "OOM no memory for so large a request");
    if (n <= (ssize_t)there)
        return false;
    in->there.len = (size_t)n;
    return true;
}

static void reply_wrong(struct client *client)
{
    const struct request *r = &client->request;
    if (r->unexpected)
        reply_error(client, "ERR Protocol error: %s, got '%c'", r->error, r->unexpected);
    else
        reply_error(client, "ERR Protocol error: %s", r->error);
}

/* Reads and answers until the connection is to end. */
static void answer_all(struct client *client, struct input *in)
{
    while (!client->closing) {
        switch (request_parse(&client->request, in->there, client->server->config.request_max)) {
        case PARSED_MORE:
            if (!receive(client, in))
                return;
            break;
        case PARSED_SOME: wh_yield(); break;
        case PARSED_REQUEST:
            if (args_count(client))
                run_command(client);
            in->used += client->request.at;
            in->there.bytes += client->request.at;
            in->there.len -= client->request.at;
            request_reset(&client->request);
            break;
        case PARSED_NO_MEMORY: reply_error(client, "OOM no memory for so many arguments"); return;
        case PARSED_WRONG: reply_wrong(client); return;
        }
    }
}

/* ---- The connection ---- */

/* Whether there is room for one more, which then counts. */
static bool enter(struct server *server)
{
    uint64_t clients = __atomic_load_n(&server->clients, __ATOMIC_RELAXED);
    while (clients < server->config.clients_max)
        if (__atomic_compare_exchange_n(&server->clients, &clients, clients + 1, true,
                                        __ATOMIC_RELAXED, __ATOMIC_RELAXED))
            return true;
    return false;
}

void client_serve(const wh_client *handed)
{
    struct server *server = handed->arg;
    struct client client = {
        .server = server,
        .conn = handed->conn,
        .ctx = handed->ctx,
        .tally = &server->tallies[wh_worker()],
        .id = __atomic_add_fetch(&server->next_id, 1, __ATOMIC_RELAXED),
    };
    struct input in = {.idle = handed->idle};
    if (enter(server)) {
        __atomic_fetch_add(&server->clients_seen, 1, __ATOMIC_RELAXED);
        request_init(&client.request);
        answer_all(&client, &in);
        pubsub_leave(&client);
        feed_finish(&client);
        request_reset(&client.request);
        free(client.name);
        __atomic_fetch_sub(&server->clients, 1, __ATOMIC_RELAXED);
    } else {
        __atomic_fetch_add(&server->clients_refused, 1, __ATOMIC_RELAXED);
        reply_error(&client, "ERR max number of clients reached");
    }
    /* Who does not take the last answer is not waited for. */
    wh_conn_set_timeouts(client.conn, WH_NEVER, LAST_WRITE_NS);
}
