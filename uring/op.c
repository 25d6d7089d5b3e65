/*
 * op.c: what each operation is. The generic fields of struct op are those of a submission entry, so
 * a row is all that a new operation needs.
 */
#include "uring/engine.h"

#include <liburing.h>
#include <poll.h>
#include <sys/wait.h>

/* clang-format off */
/*                  name, opcode, takes an fd, waits on -EAGAIN for, flags, options, entry */
const struct op_row op_table[OP_CODES] = {
    [OP_READ] =      {"read",      IORING_OP_READ,         true,  POLLIN, 0, 0, 0},
    [OP_WRITE] =     {"write",     IORING_OP_WRITE,        true,  POLLOUT, 0, 0, 0},
    [OP_READV] =     {"readv",     IORING_OP_READV,        true,  POLLIN, 0, 0, 0},
    [OP_WRITEV] =    {"writev",    IORING_OP_WRITEV,       true,  POLLOUT, 0, 0, 0},
    [OP_RECV] =      {"recv",      IORING_OP_RECV,         true,  POLLIN, 0, 0, 0},
    [OP_SEND] =      {"send",      IORING_OP_SEND,         true,  POLLOUT, 0, 0, 0},
    [OP_RECVMSG] =   {"recvmsg",   IORING_OP_RECVMSG,      true,  POLLIN, 0, 0, 0},
    [OP_SENDMSG] =   {"sendmsg",   IORING_OP_SENDMSG,      true,  POLLOUT, 0, 0, 0},
    [OP_ACCEPT] =    {"accept",    IORING_OP_ACCEPT,       true,  POLLIN, 0, 0, 0},
    [OP_CONNECT] =   {"connect",   IORING_OP_CONNECT,      true,  0, 0, 0, 0},
    [OP_CLOSE] =     {"close",     IORING_OP_CLOSE,        false, 0, 0, 0, 0},
    [OP_SHUTDOWN] =  {"shutdown",  IORING_OP_SHUTDOWN,     true,  0, 0, 0, 0},
    [OP_OPENAT] =    {"openat",    IORING_OP_OPENAT,       false, 0, 0, 0, 0},
    [OP_FSYNC] =     {"fsync",     IORING_OP_FSYNC,        true,  0, 0, 0, 0},
    [OP_FDATASYNC] = {"fdatasync", IORING_OP_FSYNC,        true,  0, IORING_FSYNC_DATASYNC, 0, 0},
    [OP_STATX] =     {"statx",     IORING_OP_STATX,        false, 0, 0, 0, 0},
    [OP_UNLINKAT] =  {"unlinkat",  IORING_OP_UNLINKAT,     false, 0, 0, 0, 0},
    [OP_MKDIRAT] =   {"mkdirat",   IORING_OP_MKDIRAT,      false, 0, 0, 0, 0},
    /* len is the other directory, off the other path. */
    [OP_RENAMEAT] =  {"renameat",  IORING_OP_RENAMEAT,     false, 0, 0, 0, 0},
    [OP_LINKAT] =    {"linkat",    IORING_OP_LINKAT,       false, 0, 0, 0, 0},
    [OP_SYMLINKAT] = {"symlinkat", IORING_OP_SYMLINKAT,    false, 0, 0, 0, 0},
    [OP_FTRUNCATE] = {"ftruncate", IORING_OP_FTRUNCATE,    true,  0, 0, 0, 0},
    /* addr is the length, len the mode. */
    [OP_FALLOCATE] = {"fallocate", IORING_OP_FALLOCATE,    true,  0, 0, 0, 0},
    [OP_FADVISE] =   {"fadvise",   IORING_OP_FADVISE,      true,  0, 0, 0, 0},
    /* len is the size of a struct open_how, off its address. */
    [OP_OPENAT2] =   {"openat2",   IORING_OP_OPENAT2,      false, 0, 0, 0, 0},
    [OP_SYNC_RANGE] = {"sync_range", IORING_OP_SYNC_FILE_RANGE, true, 0, 0, 0, 0},
    /* addr is the name, off the value, len its size. */
    [OP_FGETXATTR] = {"fgetxattr", IORING_OP_FGETXATTR,    true,  0, 0, 0, 0},
    [OP_FSETXATTR] = {"fsetxattr", IORING_OP_FSETXATTR,    true,  0, 0, 0, 0},
    [OP_POLL] =      {"poll",      IORING_OP_POLL_ADD,     true,  0, 0, 0, 0},
    /* len 0: as much as the buffer holds. */
    [OP_RECV_BUFFER] = {"recv_buffer", IORING_OP_RECV, true,  POLLIN, 0, 0, IOSQE_BUFFER_SELECT},
    /* The result is the slot of a direct descriptor. */
    [OP_ACCEPT_DIRECT] = {"accept_direct", IORING_OP_ACCEPT, true,  POLLIN, 0,
                          IORING_FILE_INDEX_ALLOC, 0},
    /* addr is a struct __kernel_timespec, len 1; -ETIME when that has passed. The descriptor only
     * puts it where a close of that one finds it. */
    [OP_PAUSE] =     {"pause",     IORING_OP_TIMEOUT,      true,  0, 0, 0, 0},
    /* Of a child by its pidfd: len is P_PIDFD, off a siginfo_t's address. */
    [OP_WAITID] =    {"waitid",    IORING_OP_WAITID,       true,  0, 0, WEXITED, 0},
};
/* clang-format on */
