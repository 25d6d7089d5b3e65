/*
 * whorl/process.h: other programs: started with pipes, waited for through the ring, stopped with
 * their context.
 *
 *     const char *const argv[] = {"sort", "-u", NULL};
 *     wh_process *sort;
 *     int status, rc = wh_process_spawn(&sort, argv, &(wh_process_options){
 *         .in = WH_STDIO_PIPE, .out = WH_STDIO_FD(file)});
 *     if (rc < 0)
 *         return rc;                              // -ENOENT: there is no such program
 *     wh_fd in = wh_process_take(sort, STDIN_FILENO);
 *     wh_write_all(in, text, len);
 *     wh_close(in);
 *     rc = wh_process_wait(sort, &status);           WEXITSTATUS(status), as of wait(2)
 *     wh_process_destroy(sort);
 *
 * or in one call: wh_process_run(), wh_process_output().
 *
 * A process belongs to the context in which it was spawned, as a coroutine does: when that is
 * cancelled, or its deadline or that of a block around the spawn passes, the process is stopped. So
 * it is at the end of the run. How is said in the options: by default with SIGKILL; or it is asked
 * first, and killed if it does not go in time. Only the process itself is stopped, not what it has
 * started. Spawned in a WH_SHIELD it is stopped by none but wh_process_destroy() and the run's end.
 *
 * It is waited for by a coroutine of its own, so a process whose end nobody asks about leaves no
 * zombie, and a signal never goes to a number that is another's by now. What must not be done
 * beside: ignoring SIGCHLD, and waiting for any child (wait(2), waitpid(2) with -1), which would
 * take the status away.
 *
 * Writing to a process that no longer reads raises SIGPIPE, as write(2) does, which ends the
 * program: one that writes to pipes ignores it, signal(SIGPIPE, SIG_IGN), and gets -EPIPE. The
 * processes it spawns do not inherit that.
 *
 * After package os/exec of Go; posix_spawn(3), pidfd_open(2), waitid(2).
 */
#ifndef WHORL_PROCESS_H
#define WHORL_PROCESS_H

#include <whorl/types.h>

WH_BEGIN_DECLS

/* A process that was spawned. Made by wh_process_spawn(), given back by wh_process_destroy(). */
typedef struct wh_process wh_process;

/*
 * What a process has as its standard input, output or error. WH_STDIO_FD(fd) is the caller's
 * descriptor, which is borrowed until the spawn returns.
 */
enum {
    WH_STDIO_INHERIT, /* what this program has */
    WH_STDIO_NULL,    /* /dev/null */
    WH_STDIO_PIPE,    /* a pipe; the other end is for wh_process_take() */
    WH_STDIO_STDOUT   /* of standard error only: the same as standard output */
};
#define WH_STDIO_FD(fd) ((1 << 24) + (fd))

/* How a process is started and stopped. Zero in a field means its default. */
typedef struct wh_process_options {
    const char *const *env; /* "NAME=value"..., NULL; default: this program's environment */
    const char *dir;        /* the directory it begins in; default: this program's */
    int in;                 /* WH_STDIO_...; default: inherited */
    int out;
    int err;
    int stop_signal;       /* what stops it; default: SIGKILL */
    int64_t stop_grace_ns; /* how long after another one SIGKILL follows; default 2 s; WH_NEVER:
                              never */
} wh_process_options;

/*
 * Starts the program argv[0] with the arguments argv, which end with NULL. Without a slash in its
 * name it is looked for in this program's PATH, as execvp(3) does; a relative path counts from
 * options->dir. options may be NULL. All is read before the call returns.
 *
 * The process has descriptors 0, 1 and 2 and no others of this program's, close-on-exec or not. It
 * begins with no signal blocked and none ignored, but SIGHUP, SIGINT and SIGQUIT if they are:
 * nohup(1) and shells mean that for descendants.
 *
 * It is running its program when the call returns. The call does not park, unless it fails, but
 * holds up the run until the kernel has loaded the program: some hundred microseconds. Returns 0
 * and a handle, which is the caller's, to be given to wh_process_destroy() before the run ends; or,
 * with no handle and nothing left behind,
 *
 *   -ENOENT, -EACCES, -ENOEXEC, -E2BIG, -ENOTDIR...   as execve(2): no such program (or directory,
 *             or interpreter), it may not be run, is none, has too long arguments
 *   -EBADF    a descriptor in the options is none
 *   -EINVAL   argv is empty; an option is out of its range
 *   -ECHILD   this program ignores SIGCHLD (or has set SA_NOCLDWAIT): ends cannot be waited for
 *   -EAGAIN   too many processes: RLIMIT_NPROC, or a limit of the control group
 *   -EMFILE, -ENFILE, -ENOMEM   descriptors or memory ran out. A process takes a coroutine (as
 *             wh_go(), with its stack), a descriptor, and one more for each pipe, which while it is
 *             started are two
 *   -ECANCELED, -ETIMEDOUT   the context has ended, or the run is ending
 */
WH_API int wh_process_spawn(wh_process **ret_process, const char *const *argv,
                            const wh_process_options *options) WH_MUST_CHECK;

/*
 * Our end of the pipe that is the process's standard input, output or error: 0, 1 or 2. The
 * descriptor is close-on-exec and is the caller's from now on, for wh_read(), wh_write() and
 * wh_close(); what is not taken is closed by wh_process_destroy(). A process sees the end of its
 * input when that end is closed. Does not park. -EBADF: that is no pipe, or was taken before.
 */
WH_API wh_fd wh_process_take(wh_process *process, int number);

/*
 * Waits until the process has ended. *ret_status, unless ret_status is NULL, is then as wait(2) has
 * it: WIFEXITED(), WEXITSTATUS(), WIFSIGNALED(), WTERMSIG() of <sys/wait.h> read it. Any number of
 * coroutines may wait, at once and again and again: the status is kept. May park. Returns 0; or
 *
 *   -ETIMEDOUT, -ECANCELED   the caller's context ended first: *ret_status is as it was, so is the
 *             process, and it can be waited for again
 *   -ECANCELED   the process was stopped because the context in which it was spawned has ended, so
 *             what it did is not whole: *ret_status is set all the same. (-ETIMEDOUT where the
 *             caller's deadline has passed, too.) Of one that ended by itself the status is
 *             returned all the same
 *   -ECHILD   it has ended, but something else in this program took the status
 */
WH_API int wh_process_wait(wh_process *process, int *ret_status);

/*
 * Sends the process a signal (0: none, only asks), never another one that has its number by now.
 * Does not park. Returns 0, also when the process has ended a moment ago; or
 *   -ESRCH    it has ended
 *   -EPERM    it has other rights than this program
 *   -EINVAL   there is no such signal
 */
WH_API int wh_process_kill(wh_process *process, int number);

/* Its number. After its end that may be another's: it is for printing. Does not park. */
WH_API pid_t wh_process_pid(const wh_process *process);

/* Its descriptor (pidfd_open(2)), borrowed until wh_process_destroy(). It is readable once the
 * process has ended: WH_READABLE() waits for that in a select, and wh_process_wait() is prompt
 * then. Does not park. */
WH_API wh_fd wh_process_pidfd(const wh_process *process);

/*
 * Stops the process if it has not ended, as the end of its context would, waits for its end, and
 * gives it back with the pipes that were not taken. Nobody may be in wh_process_wait(): that
 * aborts. May park, and obeys neither deadline nor cancel: a process that cannot be stopped (it has
 * other rights, or is held up in the kernel) is waited for. NULL does nothing.
 */
WH_API void wh_process_destroy(wh_process *process);

/*
 * Spawns, waits and destroys. May park. Returns 0 and the status, as wh_process_wait() does; or an
 * error of one of the two, without a status: with -ETIMEDOUT and -ECANCELED the process was
 * stopped. A pipe in the options is -EINVAL, because nobody would be at its other end.
 */
WH_API int wh_process_run(const char *const *argv, const wh_process_options *options,
                          int *ret_status);

/*
 * The same, and keeps what the process writes to its standard output, until that is closed by all
 * that have it. (A process that leaves others behind with it is not done when it has ended.)
 * options->out does not count. *ret_text is the caller's, for free(3); a 0 follows the last byte.
 * Returns how many bytes came; or, with nothing to free, an error as above, or
 *   -EMSGSIZE   it wrote more than `most` bytes; the process was stopped
 */
WH_API ssize_t wh_process_output(const char *const *argv, const wh_process_options *options,
                                 size_t most, char **ret_text, int *ret_status);

WH_END_DECLS

#endif
