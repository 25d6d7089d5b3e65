/*
 * walk.c: through a tree of directories (whorl/fs.h).
 *
 * A directory is read to its end before one of its own is gone into, and only the names of those
 * are kept. So the walk needs no descriptor of the directories above, but the last: it comes back
 * by "..", and looks whether that is the directory that it came from. Each step is relative to the
 * one before and follows no link.
 *
 *      levels    [ a: b c d ]  [ c: e f ]  [ e: g ]  [ g: ]      names: what is still to be gone
 * into open, kept    "..": closed  kept    open
 *
 * Rejected: keeping all directories on the way open, which runs out of descriptors in a deep tree,
 * and keeping some of them, which is two ways where this is one, and saves an openat(2) and a
 * fstat(2) a directory, which is little beside reading it on another thread.
 */
#include "base/base.h"

#include <whorl/blocking.h>
#include <whorl/ctx.h>
#include <whorl/fs.h>
#include <whorl/io.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    BUF_BYTES = 32768,
    ENTRY_BYTES_LEFT = 512, /* with less room no more is asked for; most entries take less */
    ENTRY_BYTES_MAX = 1048, /* of a name of FUSE's, 1024 bytes; others have up to 765 */
    OPEN = O_RDONLY | O_DIRECTORY | O_NONBLOCK,
};

static_assert(BUF_BYTES >= ENTRY_BYTES_MAX, "the next entry fits where there is none yet");

/* Bytes that grow. */
struct bytes {
    char *at;
    size_t len;
    size_t size;
};

struct level {
    struct bytes names; /* of the directories in it, each with its 0 */
    size_t next;        /* the name to be gone into next */
    size_t path_len;
    ino_t inode;
    dev_t device;
};

struct walk {
    wh_walk_visit visit;
    void *arg;
    wh_walk_options options;
    struct bytes path;
    struct level *levels;
    size_t depth; /* levels in use */
    size_t size;
    wh_fd root;  /* of levels[0] */
    wh_fd dir;   /* of the last level; may be the root */
    wh_fd above; /* of the one before, while that is kept; or -1 */
    struct reading *reading;
};

static int bytes_add(struct bytes *bytes, const char *at, size_t len)
{
    if (!bytes->at || bytes->size - bytes->len < len) {
        size_t size = 2 * bytes->size + len + 1;
        char *more = mem_alloc(size);
        if (!more)
            return -ENOMEM;
        if (bytes->at)
            memcpy(more, bytes->at, bytes->len);
        mem_free(bytes->at);
        bytes->at = more;
        bytes->size = size;
    }
    memcpy(bytes->at + bytes->len, at, len);
    bytes->len += len;
    return 0;
}

/* The path of the level, and the name behind it. */
static int path_set(struct walk *walk, const struct level *level, const char *name)
{
    walk->path.len = level->path_len;
    int rc = 0;
    if (walk->path.len && walk->path.at[walk->path.len - 1] != '/')
        rc = bytes_add(&walk->path, "/", 1);
    if (rc == 0)
        rc = bytes_add(&walk->path, name, strlen(name) + 1);
    return rc;
}

/* Shows an entry of the last level. */
static int show(struct walk *walk, const char *name, unsigned char type, bool after, int error)
{
    int rc = path_set(walk, &walk->levels[walk->depth - 1], name);
    if (rc < 0)
        return rc;
    const wh_walk_entry entry = {.path = walk->path.at,
                                 .name = name,
                                 .dir = walk->dir,
                                 .depth = (int)walk->depth,
                                 .type = type,
                                 .after = after,
                                 .error = error};
    return walk->visit(walk->arg, &entry);
}

/* Of what the file system does not tell while it is read. Gone meanwhile: unknown. */
static int type_of(wh_fd dir, const char *name, unsigned char *ret_type)
{
    struct statx info;
    int rc = wh_statx(dir, name, AT_SYMLINK_NOFOLLOW, STATX_TYPE, &info);
    if (rc == 0)
        *ret_type = IFTODT(info.stx_mode);
    return rc == -ECANCELED || rc == -ETIMEDOUT ? rc : 0;
}

static int visit_entry(struct walk *walk, const struct dirent64 *d)
{
    if (!strcmp(d->d_name, ".") || !strcmp(d->d_name, ".."))
        return 0;
    unsigned char type = d->d_type;
    int rc = type == DT_UNKNOWN ? type_of(walk->dir, d->d_name, &type) : 0;
    if (rc == 0)
        rc = show(walk, d->d_name, type, false, 0);
    if (rc == WH_WALK_SKIP)
        return 0;
    bool deepest = walk->options.depth_max && walk->depth >= (size_t)walk->options.depth_max;
    if (rc < 0 || type != DT_DIR || deepest)
        return rc;
    return bytes_add(&walk->levels[walk->depth - 1].names, d->d_name, strlen(d->d_name) + 1);
}

/* ---- Reading ---- */

/* What a thread of wh_blocking() is asked for. It is on no stack, which a thread that is still at
 * it could outlive: a run that abandons the walk leaves it to the thread. */
struct reading {
    wh_fd dir;
    size_t len;  /* what it has read */
    int error;   /* 0, or why it has stopped */
    bool is_all; /* nor is there anything left */
    char buf[BUF_BYTES] __attribute__((aligned(8)));
};

/* As much as the buffer takes: a thread is asked once for most directories. -EINVAL is a next entry
 * that does not fit: it comes with the next filling. */
static void read_now(struct reading *reading)
{
    while (BUF_BYTES - reading->len >= ENTRY_BYTES_LEFT && !reading->error && !reading->is_all) {
        ssize_t n = syscall(SYS_getdents64, reading->dir, reading->buf + reading->len,
                            BUF_BYTES - reading->len);
        if (n > 0)
            reading->len += (size_t)n;
        else if (n == 0)
            reading->is_all = true;
        else if (errno == EINVAL && reading->len)
            break;
        else
            reading->error = -errno;
    }
}

/* In a shield: a thread that went on without us would read into what is not ours any more. */
static int read_some(struct walk *walk)
{
    struct reading *reading = walk->reading;
    int rc = wh_ctx_err(NULL);
    if (rc < 0)
        return rc;
    reading->dir = walk->dir;
    reading->len = 0;
    reading->error = 0;
    reading->is_all = false;
    WH_SHIELD
    {
        rc = wh_blocking(NULL, read_now, reading);
    }
    return rc;
}

/* Shows all that is in the last level. *ret_error: 0, or why it cannot be read. */
static int read_level(struct walk *walk, int *ret_error)
{
    const struct reading *reading = walk->reading;
    do {
        int rc = read_some(walk);
        for (size_t at = 0; rc >= 0 && at < reading->len;) {
            const struct dirent64 *d = (const struct dirent64 *)(reading->buf + at);
            rc = visit_entry(walk, d);
            at += d->d_reclen;
        }
        if (rc < 0)
            return rc;
    } while (!reading->error && !reading->is_all);
    *ret_error = reading->error;
    return 0;
}

/* ---- From level to level ---- */

/* Which directory it is. Of one that was opened just now the kernel knows: it does not wait. */
static int identify(wh_fd dir, struct level *ret_level)
{
    struct stat info;
    if (fstat(dir, &info) < 0)
        return -errno;
    ret_level->inode = info.st_ino;
    ret_level->device = info.st_dev;
    return 0;
}

static bool same_device(const struct level *a, const struct level *b)
{
    return a->device == b->device;
}

/* One level more, empty. */
static int level_push(struct walk *walk, const struct level *level)
{
    if (walk->depth == walk->size) {
        size_t size = walk->size ? 2 * walk->size : 16;
        struct level *more = mem_alloc(size * sizeof *more);
        if (!more)
            return -ENOMEM;
        if (walk->depth)
            memcpy(more, walk->levels, walk->depth * sizeof *more);
        mem_free(walk->levels);
        walk->levels = more;
        walk->size = size;
    }
    walk->levels[walk->depth++] = *level;
    return 0;
}

static void dir_close(const struct walk *walk, wh_fd dir)
{
    if (dir >= 0 && dir != walk->root)
        close(dir); /* nobody else has it */
}

static void dir_set(struct walk *walk, wh_fd dir)
{
    dir_close(walk, walk->dir);
    walk->dir = dir;
}

/* Into one below: the one above stays open until the walk goes deeper. One that may be read and not
 * searched has no way back by "..", and none deeper. */
static void dir_enter(struct walk *walk, wh_fd dir)
{
    dir_close(walk, walk->above);
    walk->above = walk->dir;
    walk->dir = dir;
}

/* Not of the directory, but of the walk. */
static bool ends_all(int error)
{
    switch (error) {
    case -ECANCELED:
    case -ETIMEDOUT:
    case -EMFILE:
    case -ENFILE:
    case -EAGAIN:
    case -ENOMEM: return true;
    default: return false;
    }
}

/* Goes back to the directory above, whose entry was `name`. */
static int leave_level(struct walk *walk)
{
    wh_assert(walk->depth > 1);
    mem_free(walk->levels[--walk->depth].names.at);
    const struct level *above = &walk->levels[walk->depth - 1];
    if (walk->above >= 0) {
        dir_set(walk, walk->above);
        walk->above = -1;
        return 0;
    }
    if (walk->depth == 1) {
        dir_set(walk, walk->root);
        return 0;
    }
    wh_fd dir = wh_openat(walk->dir, "..", OPEN | O_NOFOLLOW, 0);
    if (dir < 0)
        return dir;
    struct level found = {.inode = 0};
    int rc = identify(dir, &found);
    if (rc == 0 && (found.inode != above->inode || !same_device(&found, above)))
        rc = -ESTALE;
    if (rc < 0) {
        close(dir);
        return rc;
    }
    dir_set(walk, dir);
    return 0;
}

/* Opens the directory of that name. *ret_error: why it cannot be gone into; 1: it is not to be. */
static int open_level(struct walk *walk, const char *name, struct level *ret_level, int *ret_error)
{
    wh_fd dir = wh_openat(walk->dir, name, OPEN | O_NOFOLLOW, 0);
    int rc = dir < 0 ? dir : identify(dir, ret_level);
    if (rc == 0 && walk->options.one_filesystem && !same_device(ret_level, &walk->levels[0]))
        rc = 1;
    if (rc == 0)
        return dir;
    if (dir >= 0)
        close(dir);
    *ret_error = rc;
    return ends_all(rc) ? rc : -ENOENT;
}

/* Goes into a directory of the last level, and shows what is in it. */
static int enter_level(struct walk *walk, size_t name_at)
{
    struct level level = {.next = 0};
    const char *name = walk->levels[walk->depth - 1].names.at + name_at;
    int error = 0;
    wh_fd dir = open_level(walk, name, &level, &error);
    if (dir < 0) {
        if (ends_all(dir) || error == 1)
            return error == 1 ? 0 : dir;
        int rc = show(walk, name, DT_DIR, false, error);
        return rc < 0 ? rc : 0;
    }
    int rc = path_set(walk, &walk->levels[walk->depth - 1], name);
    level.path_len = walk->path.len - 1;
    if (rc == 0)
        rc = level_push(walk, &level);
    if (rc < 0) {
        close(dir);
        return rc;
    }
    dir_enter(walk, dir);
    rc = read_level(walk, &error);
    if (rc < 0 || ends_all(error))
        return rc < 0 ? rc : error;
    if (!error)
        return 0;
    rc = leave_level(walk); /* what has been found until then is not gone into */
    name = walk->levels[walk->depth - 1].names.at + name_at;
    return rc < 0 ? rc : show(walk, name, DT_DIR, false, error);
}

/* The directory that was gone into last: the name before the next. */
static const char *name_last(const struct level *level)
{
    size_t at = level->next - 1;
    while (at > 0 && level->names.at[at - 1])
        at--;
    return level->names.at + at;
}

/* Everything below the first level, which has been shown. */
static int descend(struct walk *walk)
{
    for (;;) {
        wh_assert(walk->levels && walk->depth > 0);
        struct level *level = &walk->levels[walk->depth - 1];
        int rc;
        if (level->next < level->names.len) {
            size_t name_at = level->next;
            level->next += strlen(level->names.at + name_at) + 1;
            rc = enter_level(walk, name_at);
        } else {
            if (walk->depth == 1)
                return 0;
            rc = leave_level(walk);
            if (rc == 0)
                rc = show(walk, name_last(&walk->levels[walk->depth - 1]), DT_DIR, true, 0);
        }
        if (rc < 0)
            return rc;
    }
}

static int walk_from_root(struct walk *walk, const char *path)
{
    struct level level = {.path_len = strlen(path)};
    int error = 0;
    int rc = identify(walk->root, &level);
    if (rc == 0)
        rc = bytes_add(&walk->path, path, level.path_len);
    if (rc == 0)
        rc = level_push(walk, &level);
    if (rc == 0)
        rc = read_level(walk, &error);
    if (rc == 0)
        rc = error;
    return rc < 0 ? rc : descend(walk);
}

int wh_walk(const char *path, wh_walk_visit visit, void *arg, const wh_walk_options *options)
{
    struct walk walk = {.visit = visit, .arg = arg, .dir = -1, .above = -1};
    if (options)
        walk.options = *options;
    if (walk.options.depth_max < 0)
        return -EINVAL;
    walk.reading = mem_alloc(sizeof *walk.reading);
    if (!walk.reading)
        return -ENOMEM;
    walk.root = walk.dir = wh_openat(AT_FDCWD, path, OPEN, 0);
    int rc = walk.root < 0 ? walk.root : walk_from_root(&walk, path);
    if (walk.root >= 0) {
        dir_close(&walk, walk.above);
        dir_set(&walk, walk.root);
        close(walk.root);
    }
    for (size_t i = 0; i < walk.depth; i++)
        mem_free(walk.levels[i].names.at);
    mem_free(walk.levels);
    mem_free(walk.path.at);
    mem_free(walk.reading);
    return rc;
}
