/*
 * admin.c: commands about the server and the connection: what redis-cli, redis-benchmark and the
 * client libraries ask for when they connect.
 */
#include "kv.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { INFO_BYTES = 4096, TEXT_BYTES_MAX = 64, NAME_BYTES_MAX = 64 };

/* The version of Redis whose answers these are. */
#define REDIS_VERSION "7.0.0"

static void reply_no_such(struct client *client, const char *command)
{
    struct text word = arg(client, 1);
    reply_error(client, "ERR unknown subcommand '%.*s'. Try %s HELP.",
                (int)(word.len < TEXT_BYTES_MAX ? word.len : TEXT_BYTES_MAX), word.bytes, command);
}

static struct blob *pong(struct text text)
{
    struct blob *blob = blob_create(32 + bulk_size(text));
    if (blob) {
        char *end = bulk_put(mempcpy(blob->bytes, "*2\r\n$4\r\npong\r\n", 14), text);
        blob->len = (uint32_t)(end - blob->bytes);
    }
    return blob;
}

void cmd_ping(struct client *client)
{
    if (args_count(client) > 2) {
        reply_arity(client, "ping");
    } else if (client->feed.on) {
        reply_whole(client, pong(args_count(client) == 2 ? arg(client, 1) : (struct text){"", 0}));
    } else if (args_count(client) == 2) {
        reply_bulk(client, arg(client, 1));
    } else {
        reply_bytes(client, "+PONG\r\n", 7);
    }
}

void cmd_echo(struct client *client)
{
    reply_bulk(client, arg(client, 1));
}

void cmd_quit(struct client *client)
{
    reply_ok(client);
    client->closing = true;
}

void cmd_select(struct client *client)
{
    int64_t number;
    if (!number_read(arg(client, 1), &number))
        reply_error(client, "ERR value is not an integer or out of range");
    else if (number != 0)
        reply_error(client, "ERR DB index is out of range");
    else
        reply_ok(client);
}

static void reply_pair(struct client *client, const char *name, const char *value)
{
    reply_word(client, name);
    reply_word(client, value);
}

void cmd_hello(struct client *client)
{
    int64_t version = 2;
    uint32_t count = args_count(client);
    if (count > 1 && !number_read(arg(client, 1), &version)) {
        reply_error(client, "ERR Protocol version is not an integer or out of range");
    } else if (version != 2) {
        reply_error(client, "NOPROTO unsupported protocol version");
    } else if (count > 2) {
        reply_error(client, "ERR Syntax error in HELLO option: there are none");
    } else {
        reply_array(client, 14);
        reply_pair(client, "server", "redis");
        reply_pair(client, "version", REDIS_VERSION);
        reply_word(client, "proto");
        reply_number(client, 2);
        reply_word(client, "id");
        reply_number(client, (int64_t)client->id);
        reply_pair(client, "mode", "standalone");
        reply_pair(client, "role", "master");
        reply_word(client, "modules");
        reply_array(client, 0);
    }
}

/* ---- CLIENT, CONFIG, COMMAND ---- */

static void set_name(struct client *client, struct text name)
{
    for (size_t i = 0; i < name.len; i++)
        if (name.bytes[i] < '!' || name.bytes[i] > '~' || name.len > NAME_BYTES_MAX) {
            reply_error(client, "ERR Client names cannot contain spaces, newlines or special "
                                "characters, nor be longer than 64 bytes.");
            return;
        }
    char *copy = strndup(name.bytes, name.len);
    if (!copy) {
        reply_error(client, "OOM no memory for a name");
        return;
    }
    free(client->name);
    client->name = copy;
    reply_ok(client);
}

void cmd_client(struct client *client)
{
    struct text word = arg(client, 1);
    uint32_t count = args_count(client);
    if (text_is(word, "setname") && count == 3) {
        set_name(client, arg(client, 2));
    } else if (text_is(word, "setinfo") && count == 4) {
        reply_ok(client); /* which library it is: for who looks at CLIENT LIST, which is not here */
    } else if (text_is(word, "getname") && count == 2) {
        if (client->name && *client->name)
            reply_word(client, client->name);
        else
            reply_null(client);
    } else if (text_is(word, "id") && count == 2) {
        reply_number(client, (int64_t)client->id);
    } else {
        reply_no_such(client, "CLIENT");
    }
}

/* What is asked for by name; NULL: it is not known. */
static const char *config_value(const struct server *server, struct text name, char *text)
{
    const struct config *config = &server->config;
    if (text_is(name, "save"))
        return "";
    if (text_is(name, "appendonly"))
        return "no";
    if (text_is(name, "databases"))
        return "1";
    uint64_t number;
    if (text_is(name, "maxclients"))
        number = config->clients_max;
    else if (text_is(name, "maxmemory"))
        number = config->memory_max;
    else if (text_is(name, "proto-max-bulk-len"))
        number = config->request_max;
    else if (text_is(name, "port"))
        number = (uint64_t)server->port;
    else
        return NULL;
    text[number_put(text, (int64_t)number)] = 0;
    return text;
}

void cmd_config(struct client *client)
{
    char text[NUMBER_BYTES + 1];
    uint32_t count = args_count(client), known = 0;
    if (!text_is(arg(client, 1), "get") || count < 3) {
        reply_no_such(client, "CONFIG");
        return;
    }
    for (uint32_t i = 2; i < count; i++)
        known += config_value(client->server, arg(client, i), text) != NULL;
    reply_array(client, 2 * known);
    for (uint32_t i = 2; i < count; i++) {
        const char *value = config_value(client->server, arg(client, i), text);
        if (!value)
            continue;
        reply_bulk(client, arg(client, i));
        reply_word(client, value);
    }
}

static void reply_flags(struct client *client, const char *flags)
{
    uint64_t count = 1;
    for (const char *p = flags; *p; p++)
        count += *p == ' ';
    reply_array(client, count);
    for (const char *p = flags; count; count--) {
        size_t len = strcspn(p, " ");
        reply_bytes(client, "+", 1);
        reply_bytes(client, p, len);
        reply_bytes(client, "\r\n", 2);
        p += len + 1;
    }
}

static void reply_command(struct client *client, const struct command *command)
{
    reply_array(client, 6);
    reply_word(client, command->name);
    reply_number(client, command->arity);
    reply_flags(client, command->flags);
    reply_number(client, command->first_key);
    reply_number(client, command->last_key);
    reply_number(client, command->key_step);
}

static void reply_doc(struct client *client, const struct command *command)
{
    reply_word(client, command->name);
    reply_array(client, 6);
    reply_pair(client, "summary", command->summary);
    reply_pair(client, "since", "1.0.0");
    reply_pair(client, "group", "generic");
}

/* Of all commands, or of those that are named from the argument `first` on. */
static void reply_commands(struct client *client, bool docs, uint32_t first)
{
    const struct server *server = client->server;
    const struct command *command;
    uint32_t count = args_count(client), known = 0;
    if (count <= first) {
        reply_array(client, (docs ? 2 : 1) * HASH_COUNT(server->commands));
        const struct known_command *next = server->commands;
        for (; next; next = next->hh.next)
            (docs ? reply_doc : reply_command)(client, next->command);
        return;
    }
    for (uint32_t i = first; i < count; i++)
        known += command_find(server, arg(client, i)) != NULL;
    reply_array(client, docs ? 2 * known : count - first);
    for (uint32_t i = first; i < count; i++) {
        command = command_find(server, arg(client, i));
        if (command)
            (docs ? reply_doc : reply_command)(client, command);
        else if (!docs)
            reply_bytes(client, "*-1\r\n", 5);
    }
}

void cmd_command(struct client *client)
{
    if (args_count(client) == 1)
        reply_commands(client, false, 1);
    else if (text_is(arg(client, 1), "count"))
        reply_number(client, HASH_COUNT(client->server->commands));
    else if (text_is(arg(client, 1), "docs"))
        reply_commands(client, true, 2);
    else if (text_is(arg(client, 1), "info"))
        reply_commands(client, false, 2);
    else
        reply_no_such(client, "COMMAND");
}

/* ---- INFO ---- */

struct info {
    struct client *client;
    char *at, *end;
};

/* Whether the section is asked for; if so, begins it. */
static bool info_wants(struct info *info, const char *section)
{
    struct client *client = info->client;
    bool wants = args_count(client) == 1;
    for (uint32_t i = 1; i < args_count(client) && !wants; i++)
        wants = text_is(arg(client, i), section) || text_is(arg(client, i), "all") ||
                text_is(arg(client, i), "default") || text_is(arg(client, i), "everything");
    if (wants)
        info->at += snprintf(info->at, (size_t)(info->end - info->at), "# %s\r\n", section);
    return wants;
}

#define INFO(info, format, ...) \
    ((info)->at +=              \
     snprintf((info)->at, (size_t)((info)->end - (info)->at), format "\r\n", __VA_ARGS__))

static unsigned long long count_of(const uint64_t *figure)
{
    return __atomic_load_n(figure, __ATOMIC_RELAXED);
}

static void info_server(struct info *info)
{
    const struct server *server = info->client->server;
    int64_t up_s = (wh_now() - server->started_ns) / WH_SECOND;
    if (!info_wants(info, "server"))
        return;
    INFO(info, "redis_version:%s", REDIS_VERSION);
    INFO(info, "server_name:whorl %s", wh_version());
    INFO(info, "redis_mode:%s", "standalone");
    INFO(info, "process_id:%ld", (long)getpid());
    INFO(info, "tcp_port:%d", server->port);
    INFO(info, "io_threads_active:%u", wh_workers());
    INFO(info, "uptime_in_seconds:%lld\r\n", (long long)up_s);
}

static void info_clients(struct info *info)
{
    const struct server *server = info->client->server;
    if (!info_wants(info, "clients"))
        return;
    INFO(info, "connected_clients:%llu", count_of(&server->clients));
    INFO(info, "maxclients:%llu", (unsigned long long)server->config.clients_max);
    INFO(info, "total_connections_received:%llu", count_of(&server->clients_seen));
    INFO(info, "rejected_connections:%llu", count_of(&server->clients_refused));
    INFO(info, "client_output_buffer_limit_disconnections:%llu\r\n",
         count_of(&server->clients_cut));
}

static void info_store(struct info *info)
{
    struct store *store = &info->client->server->store;
    HOLD(&store->lock);
    if (info_wants(info, "memory")) {
        INFO(info, "used_memory_dataset:%llu", (unsigned long long)store->bytes);
        INFO(info, "maxmemory:%llu\r\n", (unsigned long long)store->bytes_max);
    }
    if (info_wants(info, "stats")) {
        const struct server *server = info->client->server;
        unsigned long long commands = 0;
        for (size_t i = 0; i < sizeof server->tallies / sizeof *server->tallies; i++)
            commands += count_of(&server->tallies[i].commands);
        INFO(info, "total_commands_processed:%llu", commands);
        INFO(info, "expired_keys:%llu", (unsigned long long)store->expired);
        INFO(info, "keyspace_hits:%llu", (unsigned long long)store->hits);
        INFO(info, "keyspace_misses:%llu\r\n", (unsigned long long)store->misses);
    }
    if (info_wants(info, "keyspace") && store->keys)
        INFO(info, "db0:keys=%llu,expires=%zu", (unsigned long long)store->keys, store->heap_len);
}

void cmd_info(struct client *client)
{
    char text[INFO_BYTES];
    struct info info = {client, text, text + sizeof text};
    info_server(&info);
    info_clients(&info);
    info_store(&info);
    reply_bulk(client, (struct text){text, (size_t)(info.at - text)});
}
