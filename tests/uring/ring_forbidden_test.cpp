/*
 * ring_forbidden_test.cpp: where io_uring is forbidden, missing, too old or out of means, wh_run()
 * returns an error and says why in one line; where only parts of it are missing, it works without.
 *
 * A seccomp filter in a child plays the kernel that refuses.
 */
#include "tests/base/child.hpp"
#include "tests/uring/ring.hpp"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <whorl.h>

namespace
{

#if defined(__x86_64__)
constexpr uint32_t ARCH = AUDIT_ARCH_X86_64;
#else
constexpr uint32_t ARCH = AUDIT_ARCH_AARCH64;
#endif

constexpr uint32_t ANY = UINT32_MAX;

/* From now on the system call fails with error, if its third argument is the one given. */
bool forbid(long number, int error, uint32_t third = ANY)
{
    const auto skip = static_cast<uint8_t>(third == ANY ? 0 : 1);
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCH, 0, 5),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(number), 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, third, 0, skip),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<uint32_t>(error)),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog program = {sizeof code / sizeof code[0], code};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

bool reached;

int root(void *)
{
    reached = true;
    return 0;
}

/* Runs in a child after `before`; expects wh_run() to return `error` without having run anything.
 */
ChildEnd refused_run(int error, const std::function<void()> &before,
                     const wh_options *options = nullptr)
{
    return in_child([&] {
        before();
        int rc = wh_run(root, nullptr, options);
        CHILD_REQUIRE(rc == error);
        CHILD_REQUIRE(!reached);
        return 0;
    });
}

/* A run that uses the ring, a timer and a deep stack. */
int use_everything(void *)
{
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) < 0)
        return 1;
    char buf[8];
    WH_WITH_TIMEOUT(WH_MILLISECOND)
    {
        if (wh_recv(fds[0], buf, sizeof buf, 0) != -ETIMEDOUT)
            return 2;
    }
    if (wh_send(fds[1], "ping", 4, 0) != 4 || wh_recv(fds[0], buf, sizeof buf, 0) != 4)
        return 3;
    return wh_sleep(WH_MILLISECOND);
}

} // namespace

TEST_CASE(
    "forbidden: the kernel's answer to io_uring_setup is wh_run's, with one line that says why")
{
    struct Row {
        int answer;
        int result;
        const char *says;
    };
    const Row rows[] = {
        {EPERM, -EPERM, "forbidden"},   {EACCES, -EPERM, "forbidden"},
        {ENOSYS, -ENOSYS, "6.1"},       {EINVAL, -ENOSYS, "too old"},
        {ENOMEM, -ENOMEM, "ulimit -l"}, {EMFILE, -EMFILE, "ulimit -n"},
        {ENFILE, -ENFILE, "ulimit -n"},
    };
    for (const Row &row : rows) {
        ChildEnd end =
            refused_run(row.result, [&] { CHILD_REQUIRE(forbid(SYS_io_uring_setup, row.answer)); });
        INFO(strerror(row.answer) << ": " << end.how());
        CHECK(end.exited(0));
        CHECK(lines_of(end.said) == 1);
        CHECK(end.said.find("io_uring") != std::string::npos);
        CHECK(end.said.find(row.says) != std::string::npos);
    }
}

TEST_CASE("forbidden: no descriptor left is -EMFILE, and wh_run works once there is one")
{
    ChildEnd end = in_child([] {
        const struct rlimit few = {64, 64};
        CHILD_REQUIRE(setrlimit(RLIMIT_NOFILE, &few) == 0);
        std::vector<int> fds;
        for (int fd; (fd = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0;)
            fds.push_back(fd);
        CHILD_REQUIRE(errno == EMFILE);
        CHILD_REQUIRE(wh_run(root, nullptr, nullptr) == -EMFILE);
        CHILD_REQUIRE(!reached);
        for (int fd : fds)
            close(fd);
        CHILD_REQUIRE(wh_run(root, nullptr, nullptr) == 0);
        CHILD_REQUIRE(reached);
        return 0;
    });
    INFO(end.how());
    CHECK(end.exited(0));
    CHECK(lines_of(end.said) == 1);
    CHECK(end.said.find("ulimit -n") != std::string::npos);
}

TEST_CASE("forbidden: ring entries out of range are -EINVAL with a line that says the range")
{
    for (unsigned entries : {1u, 7u, 1000u, 65536u, UINT32_MAX}) {
        wh_options options = {};
        options.ring_entries = entries;
        ChildEnd end = refused_run(-EINVAL, [] {}, &options);
        INFO(entries << ": " << end.how());
        CHECK(end.exited(0));
        CHECK(lines_of(end.said) == 1);
        CHECK(end.said.find("32768") != std::string::npos);
    }
    ChildEnd end = refused_run(-EINVAL, [] { setenv("WHORL_RING_ENTRIES", "99", 1); });
    INFO(end.how());
    CHECK(end.exited(0));
    CHECK(lines_of(end.said) == 1);
}

TEST_CASE("forbidden: a kernel that registers nothing with a ring is done without")
{
    for (int error : {EINVAL, EPERM, ENOSYS}) {
        ChildEnd end = in_child([&] {
            CHILD_REQUIRE(forbid(SYS_io_uring_register, error));
            char caps[512];
            wh_caps(caps, sizeof caps);
            CHILD_REQUIRE(!strstr(caps, "ring_fd"));
            CHILD_REQUIRE(!strstr(caps, "abs_timer"));
            return wh_run(use_everything, nullptr, nullptr);
        });
        INFO(end.how());
        CHECK(end.exited(0));
        CHECK(end.said.empty());
    }
}

TEST_CASE("forbidden: a kernel without guard regions gets its guards by mprotect")
{
    constexpr uint32_t GUARD_INSTALL = 102;
    ChildEnd end = in_child([] {
        CHILD_REQUIRE(forbid(SYS_madvise, EINVAL, GUARD_INSTALL));
        char caps[512];
        wh_caps(caps, sizeof caps);
        CHILD_REQUIRE(!strstr(caps, "guard"));
        return wh_run(use_everything, nullptr, nullptr);
    });
    INFO(end.how());
    CHECK(end.exited(0));
    CHECK(end.said.empty());
}
