/*
 * fs.c: reading directories and copying files (whorl/fs.h).
 *
 * What a thread of wh_blocking() does with our descriptors and memory it does in a shield: a call
 * that went on without us might find another file under the number. Between two of them the context
 * is looked at.
 */
#include "base/base.h"

#include <whorl/blocking.h>
#include <whorl/ctx.h>
#include <whorl/fs.h>
#include <whorl/io.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    DENTS_BYTES_MAX = 1 << 20, /* read in one call */
    RANGE_BYTES = 8 << 20,     /* copied by the kernel at a time */
    LOOP_BYTES = 256 << 10,
    NAME_TRIES_MAX = 100,
};

/* ---- Reading a directory ---- */

/* On no stack: a run that abandons the caller leaves it to the thread, if that is at it still. */
struct dents {
    int fd;
    size_t len;
    char bytes[] __attribute__((aligned(8)));
};

static ssize_t getdents_now(struct dents *dents)
{
    ssize_t n = syscall(SYS_getdents64, dents->fd, dents->bytes, dents->len);
    return n < 0 ? -errno : n;
}

ssize_t wh_getdents(wh_fd dir, void *buf, size_t len)
{
    intptr_t n = 0;
    int rc = wh_ctx_err(NULL);
    if (rc < 0)
        return rc;
    if (len > DENTS_BYTES_MAX)
        len = DENTS_BYTES_MAX;
    struct dents *dents = mem_alloc(sizeof *dents + len);
    if (!dents)
        return -ENOMEM;
    dents->fd = dir;
    dents->len = len;
    WH_SHIELD
    {
        rc = wh_blocking(&n, getdents_now, dents);
    }
    if (rc == 0 && n > 0)
        memcpy(buf, dents->bytes, (size_t)n);
    mem_free(dents);
    return rc < 0 ? rc : n;
}

/* ---- Copying the bytes ---- */

static int clone_now(int in, int out)
{
    return ioctl(out, FICLONE, in) < 0 ? -errno : 0;
}

static ssize_t range_now(int in, int out)
{
    ssize_t n = copy_file_range(in, NULL, out, NULL, RANGE_BYTES, 0);
    return n < 0 ? -errno : n;
}

/* Whether another way of copying may do better. */
static bool may_go_otherwise(intptr_t error)
{
    switch (error) {
    case -EOPNOTSUPP:
    case -ENOSYS:
    case -ENOTTY:
    case -EXDEV:
    case -EINVAL:
    case -EPERM:
    case -EBADF:
    case -ETXTBSY: return true;
    default: return false;
    }
}

static int copy_by_loop(wh_fd in, wh_fd out)
{
    char *buf = mem_alloc(LOOP_BYTES);
    if (!buf)
        return -ENOMEM;
    ssize_t n;
    while ((n = wh_read(in, buf, LOOP_BYTES)) > 0) {
        n = wh_write_all(out, buf, (size_t)n);
        if (n < 0)
            break;
    }
    mem_free(buf);
    return (int)n;
}

/* Each way goes on where the one before has stopped: both files have their positions. */
static int copy_bytes(wh_fd in, wh_fd out)
{
    intptr_t n = 0;
    int rc = 0;
    WH_SHIELD
    {
        rc = wh_blocking(&n, clone_now, in, out);
    }
    if (rc < 0 || n == 0)
        return rc;
    if (!may_go_otherwise(n))
        return (int)n;
    do {
        rc = wh_ctx_err(NULL);
        if (rc < 0)
            return rc;
        WH_SHIELD
        {
            rc = wh_blocking(&n, range_now, in, out);
        }
        if (rc < 0)
            return rc;
    } while (n > 0);
    /* 0 is the end, or a file that has its length made up when it is read. */
    return n == 0 || may_go_otherwise(n) ? copy_by_loop(in, out) : (int)n;
}

/* ---- Copying a file ---- */

/* Where the copy goes, and what it is called before it is whole. */
struct target {
    wh_fd dir;
    const char *name;
    char temporary[32];
};

static int target_open(const char *to, bool sync, struct target *ret_target)
{
    const char *slash = strrchr(to, '/');
    size_t len = slash ? (size_t)(slash - to) + 1 : 2;
    char *dir = mem_alloc(len + 1);
    if (!dir)
        return -ENOMEM;
    memcpy(dir, slash ? to : "./", len);
    dir[len] = 0;
    ret_target->name = slash ? slash + 1 : to;
    ret_target->dir = wh_openat(AT_FDCWD, dir, O_DIRECTORY | (sync ? O_RDONLY : O_PATH), 0);
    mem_free(dir);
    if (ret_target->dir < 0)
        return ret_target->dir;
    return *ret_target->name ? 0 : -EISDIR;
}

static wh_fd temporary_open(struct target *target, mode_t mode)
{
    wh_fd fd = -EEXIST;
    for (int tries = 0; fd == -EEXIST && tries < NAME_TRIES_MAX; tries++) {
        uint64_t number;
        if (getrandom(&number, sizeof number, 0) != sizeof number)
            return -EIO;
        snprintf(target->temporary, sizeof target->temporary, ".wh-%016llx",
                 (unsigned long long)number);
        fd = wh_openat(target->dir, target->temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW,
                       mode);
    }
    return fd;
}

/* Fills the temporary file, and gives it its name. */
static int fill_and_rename(wh_fd in, wh_fd out, const struct target *target,
                           const wh_copy_file_options *o)
{
    int rc = copy_bytes(in, out);
    if (rc == 0 && o->sync)
        rc = wh_fsync(out);
    int closed = wh_close(out); /* some file systems say only now that there was no room */
    if (rc == 0)
        rc = closed;
    if (rc == 0)
        rc = wh_renameat(target->dir, target->temporary, target->dir, target->name,
                         o->exclusive ? RENAME_NOREPLACE : 0);
    if (rc < 0) {
        WH_SHIELD
        {
            (void)wh_unlinkat(target->dir, target->temporary, 0);
        }
        return rc;
    }
    /* The new file is there: from here on a cancel comes too late. */
    WH_SHIELD
    {
        rc = o->sync ? wh_fsync(target->dir) : 0;
    }
    return rc;
}

static int copy_to(wh_fd in, const char *to, mode_t mode, const wh_copy_file_options *o)
{
    struct target target = {.dir = -1};
    int rc = target_open(to, o->sync, &target);
    if (rc == 0) {
        wh_fd out = temporary_open(&target, mode);
        rc = out < 0 ? out : fill_and_rename(in, out, &target, o);
    }
    if (target.dir >= 0)
        wh_close(target.dir);
    return rc;
}

/* Whether it can be copied. */
static int check_source(wh_fd in, mode_t *ret_mode)
{
    struct statx info;
    int rc = wh_statx(in, "", AT_EMPTY_PATH, STATX_TYPE | STATX_MODE, &info);
    if (rc < 0)
        return rc;
    if (!S_ISREG(info.stx_mode))
        return S_ISDIR(info.stx_mode) ? -EISDIR : -EINVAL;
    *ret_mode = info.stx_mode & 0777;
    return 0;
}

int wh_copy_file(const char *from, const char *to, const wh_copy_file_options *options)
{
    const wh_copy_file_options o = options ? *options : (wh_copy_file_options){0};
    wh_fd in = wh_openat(AT_FDCWD, from, O_RDONLY | O_NOCTTY | O_NONBLOCK, 0);
    if (in < 0)
        return in;
    mode_t mode;
    int rc = check_source(in, &mode);
    if (rc == 0)
        rc = copy_to(in, to, mode, &o);
    wh_close(in);
    return rc;
}
