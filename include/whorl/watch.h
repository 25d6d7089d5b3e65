/*
 * whorl/watch.h: what happens to files and in directories, as elements of a channel (inotify(7)).
 *
 *     wh_watch *watch;
 *     int rc = wh_watch_create(&watch, 64);
 *     if (rc == 0)
 *         rc = wh_watch_add(watch, "/etc", IN_CREATE | IN_DELETE | IN_CLOSE_WRITE);
 *     if (rc < 0)
 *         return rc;
 *     wh_watch_event event;
 *     while (wh_chan_recv(wh_watch_chan(watch), &event) > 0) {
 *         if (event.what & IN_Q_OVERFLOW)
 *             look_at_everything_anew();
 *         else
 *             changed(event.name, event.what);
 *     }
 *     wh_watch_destroy(watch);
 *
 * Events come in the order in which they happened. Memory is bounded: the channel holds as many as
 * it was made for, and while it is full the kernel keeps them, up to its own limit
 * (fs.inotify.max_queued_events); what is beyond that is lost, and an event with IN_Q_OVERFLOW
 * stands in its place. What is below a directory's own directories is not watched.
 *
 * A watch belongs to the context in which it was made, as a coroutine does: when that ends, or the
 * run, no more events come and the channel is closed. The handle is to be given back all the same,
 * before the run ends. All calls here are made on a coroutine.
 */
#ifndef WHORL_WATCH_H
#define WHORL_WATCH_H

#include <whorl/chan.h>
#include <whorl/types.h>

#include <sys/inotify.h>

WH_BEGIN_DECLS

/* A watch. Made by wh_watch_create(), given back by wh_watch_destroy(). */
typedef struct wh_watch wh_watch;

/* What a receive from the channel gives. */
typedef struct wh_watch_event {
    int id;          /* what wh_watch_add() returned; -1 with IN_Q_OVERFLOW */
    uint32_t what;   /* IN_CREATE... ; also IN_ISDIR, IN_IGNORED: id is not watched any more */
    uint32_t cookie; /* the same in the two of one renaming, IN_MOVED_FROM and IN_MOVED_TO */
    char name[256];  /* in the directory that is watched; empty: it is that one itself, or a file */
} wh_watch_event;

/*
 * A watch that watches nothing yet, with a channel for so many events (300 bytes each); with 0 the
 * channel is unbuffered. Returns 0 and the handle, which is the caller's; or, with nothing left
 * behind, -EMFILE: also more than fs.inotify.max_user_instances; -ENFILE; -ENOMEM; -ECANCELED,
 * -ETIMEDOUT: the context has ended. Does not park. While it lives, one coroutine more does.
 */
WH_API int wh_watch_create(wh_watch **ret_watch, size_t capacity) WH_MUST_CHECK;

/* The channel of its events, borrowed until wh_watch_destroy(): for receives and selects, not to be
 * closed or sent to. It is closed when no more events come. Does not park. */
WH_API WH_CHAN(wh_watch_event) wh_watch_chan(wh_watch *watch);

/*
 * Watches a file or directory for the events in `what` (IN_ALL_EVENTS, IN_ONLYDIR, IN_DONT_FOLLOW,
 * IN_ONESHOT, IN_MASK_ADD... of inotify(7)); one that is watched already is watched for these
 * instead. Does not park, but looks the path up. Returns its id, 1 or more; or -ENOENT, -EACCES,
 * -ENOTDIR, -ENAMETOOLONG, -EINVAL; -ENOSPC: fs.inotify.max_user_watches is reached; -ENOMEM.
 */
WH_API int wh_watch_add(wh_watch *watch, const char *path, uint32_t what);

/* Watches it no more: when all earlier ones have come, the last event of that id is IN_IGNORED.
 * Does not park. Returns 0, or -EINVAL: there is no such id. */
WH_API int wh_watch_remove(wh_watch *watch, int id);

/* Ends it, closes its channel and gives both back: nobody may wait there but in a call that the
 * close ends. Events that were not received are dropped. May park for a moment, and obeys neither
 * deadline nor cancel. NULL does nothing. */
WH_API void wh_watch_destroy(wh_watch *watch);

WH_END_DECLS

#endif
