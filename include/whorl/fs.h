/*
 * whorl/fs.h: directories, trees and whole files; single operations are in whorl/io.h.
 *
 *     static int print(void *arg, const wh_walk_entry *entry)
 *     {
 *         if (!entry->after)
 *             printf("%s\n", entry->path);
 *         return entry->error == -EACCES ? 0 : entry->error;
 *     }
 *     ...
 *     rc = wh_walk("/usr/share", print, NULL, NULL);
 *
 * The ring has no operation that reads a directory or copies a file, so those are made on a thread
 * of wh_blocking(), a buffer or some megabytes at a time. Deadline and cancel end a call between
 * two of them.
 */
#ifndef WHORL_FS_H
#define WHORL_FS_H

#include <whorl/types.h>

WH_BEGIN_DECLS

/*
 * getdents64(2): entries of a directory, from its position on, as a sequence of struct dirent64
 * (<dirent.h>), each d_reclen bytes long. May park. Returns how many bytes they take, 0 at the end;
 * or -EINVAL: there is no room for the next; -ENOTDIR, -EBADF...; -ETIMEDOUT, -ECANCELED;
 * -ENOMEM, -EAGAIN of wh_blocking().
 */
WH_API ssize_t wh_getdents(wh_fd dir, void *buf, size_t len);

/* ---- Walking through a tree ---- */

/* What a visitor is shown. All is borrowed until it returns. */
typedef struct wh_walk_entry {
    const char *path;   /* with the one given to wh_walk() in front, for people to read */
    const char *name;   /* its last part */
    wh_fd dir;          /* the directory that name is in: for wh_openat(), wh_unlinkat()... */
    int depth;          /* 1: in the directory where the walk began */
    unsigned char type; /* DT_REG, DT_DIR, DT_LNK... of <dirent.h> */
    bool after;         /* a directory, after all that is in it */
    int error;          /* not 0: a directory that is shown once more, because it cannot be
                           gone into or read: -EACCES; -ENOENT: it is gone; -ENOTDIR: it has been
                           replaced, perhaps by a link, or -ESTALE... */
} wh_walk_entry;

/* What a visitor returns for a directory that is not to be gone into. */
enum { WH_WALK_SKIP = 1 };

/* Returns 0 to go on; WH_WALK_SKIP for a directory, to go on without going into it; or a negative
 * number, which ends the walk and is its result. */
typedef int (*wh_walk_visit)(void *arg, const wh_walk_entry *entry);

/* Zero in a field means its default; NULL for the struct means all defaults. */
typedef struct wh_walk_options {
    int depth_max;      /* show nothing that is deeper; default: no limit */
    int one_filesystem; /* do not go into what is mounted from elsewhere. Default: do */
} wh_walk_options;

/*
 * Shows the visitor everything that is in the directory and below: first all that is in a
 * directory, in the order of the file system, then, one after the other, what is in those of its
 * entries that are directories. Each of them is shown a second time, with `after` set, when all in
 * it has been shown, unless it was not gone into. The visitor runs on the caller's coroutine and
 * may park; it may remove what it is shown, and a directory after it is empty.
 *
 * Symbolic links are shown, not followed; only the path itself may be one. Where somebody else
 * replaces a directory by a link at the same time, the walk does not follow that either, and what
 * the visitor does with `dir` and `name` stays in the tree. Four descriptors are used, however
 * deep the tree is, and memory for the names of the directories that are still to come.
 *
 * May park. Returns 0; what the visitor returned; -ENOTDIR, -ENOENT, -EACCES... when it could not
 * begin; -ESTALE: the directory that it was in was moved away meanwhile, so there is no way back;
 * -EMFILE, -ENFILE, -ENOMEM; -ETIMEDOUT, -ECANCELED; -EAGAIN of wh_blocking().
 */
WH_API int wh_walk(const char *path, wh_walk_visit visit, void *arg,
                   const wh_walk_options *options);

/* ---- Copying a file ---- */

/* Zero in a field means its default; NULL for the struct means all defaults. */
typedef struct wh_copy_file_options {
    int exclusive; /* -EEXIST if there is something at `to`. Default: it is replaced */
    int sync;      /* the file and its name are on the disk (fsync(2)) when the call returns */
} wh_copy_file_options;

/*
 * Copies a regular file: its bytes, and its permissions as far as umask lets them; not its owner,
 * times and extended attributes, and holes are filled. The copy is made under a name of its own in
 * the same directory (".wh-" and a random number), and renamed when it is whole: whoever looks sees
 * what was there before or all of the new file, and so it is after a failure. A link at `to` is
 * replaced, and not followed. The bytes are shared, if the file system can do that (FICLONE), or
 * copied by the kernel (copy_file_range(2)), else read and written.
 *
 * May park. Returns 0; or, and then nothing has changed,
 *
 *   -EISDIR, -EINVAL   `from` is a directory, or something else that is no regular file
 *   -EISDIR            `to` is a directory, or has no name at its end ("", "folder/")
 *   -EEXIST            see options; -EINVAL, too: a file system that cannot rename so
 *   -ENOENT, -EACCES, -ENAMETOOLONG, -ENOSPC, -EMFILE...   of open, read, write, rename
 *   -ETIMEDOUT, -ECANCELED, -ENOMEM; -EAGAIN of wh_blocking()
 *
 * With `sync` an -EIO may also say that the new file is there, and its name is not on the disk.
 */
WH_API int wh_copy_file(const char *from, const char *to, const wh_copy_file_options *options);

WH_END_DECLS

#endif
