/*
 * watch.c: events of files as elements of a channel (whorl/watch.h).
 *
 *      inotify's queue --> the reader's buffer --> channel --> who receives
 *      bounded by the kernel    one read           capacity
 *
 * A coroutine, the reader, reads the descriptor and sends. It waits while the channel is full, so
 * what is too much piles up in the kernel, which says when it has dropped some. It ends with its
 * context, by wh_watch_destroy(), or at the end of the run, and closes the channel. Everything else
 * is the handle's and lives as long as that.
 */
#include "base/base.h"

#include <whorl/coro.h>
#include <whorl/ctx.h>
#include <whorl/io.h>
#include <whorl/watch.h>

#include <errno.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

enum { BUF_BYTES = 2048 };

struct wh_watch {
    /* immutable after init */
    WH_CHAN(wh_watch_event) events;
    wh_coro *reader;
    int fd;
};

/* Sends what one read has brought. Returns 0 or why it cannot. */
static int send_events(wh_watch *watch, const char *buf, size_t len)
{
    for (size_t at = 0; at < len;) {
        const struct inotify_event *raw = (const struct inotify_event *)(buf + at);
        wh_watch_event event = {.id = raw->wd, .what = raw->mask, .cookie = raw->cookie};
        if (raw->len)
            memcpy(event.name, raw->name, strnlen(raw->name, sizeof event.name - 1));
        int rc = wh_chan_send_from(watch->events, &event);
        if (rc < 0)
            return rc;
        at += sizeof *raw + raw->len;
    }
    return 0;
}

static void read_events(wh_watch *watch)
{
    char buf[BUF_BYTES] __attribute__((aligned(8)));
    ssize_t n;
    while ((n = wh_read(watch->fd, buf, sizeof buf)) > 0 || n == -ENOMEM)
        if (n > 0 && send_events(watch, buf, (size_t)n) < 0)
            break;
    wh_chan_close(watch->events);
}

int wh_watch_create(wh_watch **ret_watch, size_t capacity)
{
    int rc = wh_ctx_err(NULL);
    if (rc < 0)
        return rc;
    wh_watch *watch = mem_zalloc(sizeof *watch);
    if (!watch)
        return -ENOMEM;
    rc = -ENOMEM;
    watch->events = wh_chan_create(wh_watch_event, capacity);
    if (!watch->events)
        goto free_watch;
    watch->fd = inotify_init1(IN_CLOEXEC);
    rc = watch->fd < 0 ? -errno : 0;
    if (rc < 0)
        goto unref_events;
    rc = wh_spawn(&watch->reader, NULL, read_events, watch);
    if (rc < 0)
        goto close_fd;
    *ret_watch = watch;
    return 0;

close_fd:
    close(watch->fd);
unref_events:
    wh_chan_unref(watch->events);
free_watch:
    mem_free(watch);
    return rc;
}

WH_CHAN(wh_watch_event) wh_watch_chan(wh_watch *watch)
{
    return watch->events;
}

int wh_watch_add(wh_watch *watch, const char *path, uint32_t what)
{
    int id = inotify_add_watch(watch->fd, path, what);
    return id < 0 ? -errno : id;
}

int wh_watch_remove(wh_watch *watch, int id)
{
    return inotify_rm_watch(watch->fd, id) < 0 ? -errno : 0;
}

void wh_watch_destroy(wh_watch *watch)
{
    if (!watch)
        return;
    WH_SHIELD
    {
        wh_cancel(watch->reader);
        wh_join(watch->reader, NULL);
    }
    wh_close(watch->fd);
    wh_chan_unref(watch->events);
    mem_free(watch);
}
