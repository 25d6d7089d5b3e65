/*
 * echo_libuv.c: the echo server on libuv: one loop, callbacks.
 *
 *     echo_libuv HOST:PORT
 *     echo_libuv --version
 *
 * All reads go into one buffer, and are answered at once by uv_try_write(); what the peer does not
 * take is copied and written when it can be. The echo server of libuv's guide, with a new buffer of
 * 64 KiB for each read, has 0.55 to 0.6 of its messages a CPU second.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

enum { BACKLOG = 4096, BUFFER_BYTES = 65536 };

/* What could not be written at once. */
struct write {
    uv_write_t request; /* first: a callback is given only this */
    char bytes[];
};

static void check(const char *what, int rc)
{
    if (rc == 0)
        return;
    fprintf(stderr, "echo_libuv: %s: %s\n", what, uv_strerror(rc));
    exit(1);
}

static void on_close(uv_handle_t *client)
{
    free(client);
}

static void end(uv_stream_t *client)
{
    if (!uv_is_closing((uv_handle_t *)client))
        uv_close((uv_handle_t *)client, on_close);
}

static void on_alloc(uv_handle_t *client, size_t suggested, uv_buf_t *ret_buf)
{
    static char buffer[BUFFER_BYTES];
    (void)client;
    (void)suggested;
    *ret_buf = uv_buf_init(buffer, sizeof buffer);
}

static void on_written(uv_write_t *request, int status)
{
    if (status < 0)
        end(request->handle);
    free(request);
}

static int write_later(uv_stream_t *client, const char *bytes, size_t len)
{
    struct write *write = malloc(sizeof *write + len);
    if (!write)
        return UV_ENOMEM;
    memcpy(write->bytes, bytes, len);
    uv_buf_t rest = uv_buf_init(write->bytes, (unsigned)len);
    int rc = uv_write(&write->request, client, &rest, 1, on_written);
    if (rc < 0)
        free(write);
    return rc;
}

static void on_read(uv_stream_t *client, ssize_t n, const uv_buf_t *buf)
{
    if (n == 0)
        return;
    int rc = (int)n;
    if (n > 0) {
        uv_buf_t answer = uv_buf_init(buf->base, (unsigned)n);
        int sent = uv_try_write(client, &answer, 1);
        if (sent == UV_EAGAIN)
            sent = 0;
        rc = sent < 0 || sent == n ? sent
                                   : write_later(client, buf->base + sent, (size_t)(n - sent));
    }
    if (rc < 0)
        end(client);
}

static void on_connection(uv_stream_t *listener, int status)
{
    if (status < 0)
        return;
    uv_tcp_t *client = malloc(sizeof *client);
    if (!client)
        return;
    check("uv_tcp_init", uv_tcp_init(listener->loop, client));
    if (uv_accept(listener, (uv_stream_t *)client) < 0) {
        end((uv_stream_t *)client);
        return;
    }
    uv_tcp_nodelay(client, 1);
    uv_read_start((uv_stream_t *)client, on_alloc, on_read);
}

int main(int argc, char **argv)
{
    char *colon = argc > 1 ? strrchr(argv[1], ':') : NULL;
    if (argc > 1 && !strcmp(argv[1], "--version")) {
        printf("libuv %s\n", uv_version_string());
        return 0;
    }
    if (!colon) {
        fprintf(stderr, "usage: echo_libuv HOST:PORT\n");
        return 2;
    }
    *colon = '\0';
    struct sockaddr_in address;
    uv_tcp_t listener;
    uv_loop_t *loop = uv_default_loop();
    check(argv[1], uv_ip4_addr(argv[1], atoi(colon + 1), &address));
    check("uv_tcp_init", uv_tcp_init(loop, &listener));
    check("uv_tcp_bind", uv_tcp_bind(&listener, (const struct sockaddr *)&address, 0));
    check("uv_listen", uv_listen((uv_stream_t *)&listener, BACKLOG, on_connection));
    return uv_run(loop, UV_RUN_DEFAULT);
}
