/*
 * forbid.hpp: taking a system call away from a child process, as a container's seccomp profile or
 * an older kernel would. For children only: there is no way back.
 */
#ifndef TESTS_SCHED_FORBID_HPP
#define TESTS_SCHED_FORBID_HPP

#include <cstddef>

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The system call fails with this error from here on; with a first argument given, only calls that
 * have it. Returns whether that could be arranged. */
inline bool forbid(long number, int error, int first_argument = -1)
{
    const auto what = static_cast<unsigned>(number);
    const auto which = static_cast<unsigned>(first_argument);
    const unsigned skip = first_argument >= 0 ? 0 : 2; /* the look at the argument */
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, what, 0, 4),
        BPF_JUMP(BPF_JMP | BPF_JA, skip, 0, 0),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, which, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<unsigned>(error)),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog program = {sizeof code / sizeof *code, code};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

#endif
