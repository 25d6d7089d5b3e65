/*
 * op_test.cpp: every row of op_table does what its name says, against the real kernel, and every
 * one that can wait can be cancelled.
 */
#include "tests/uring/ring.hpp"

#include <csignal>
#include <memory>
#include <string>

#include <arpa/inet.h>
#include <linux/openat2.h>
#include <netinet/in.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <sys/xattr.h>

namespace
{

/* A folder that is removed in the end with the files named in it. */
struct Folder {
    std::string path;
    std::vector<std::string> files;

    Folder()
    {
        const char *tmp = getenv("TMPDIR");
        path = std::string(tmp ? tmp : "/tmp") + "/whorl-op.XXXXXX";
        REQUIRE(mkdtemp(path.data()));
    }
    Folder(const Folder &) = delete;
    Folder &operator=(const Folder &) = delete;
    ~Folder()
    {
        for (const auto &file : files)
            unlink(file.c_str());
        rmdir(path.c_str());
    }
    std::string file(const std::string &name)
    {
        files.push_back(path + "/" + name);
        return files.back();
    }
};

int make_listener(struct sockaddr_in *address)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    *address = {};
    address->sin_family = AF_INET;
    address->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t len = sizeof *address;
    REQUIRE(bind(fd, reinterpret_cast<struct sockaddr *>(address), len) == 0);
    REQUIRE(listen(fd, 16) == 0);
    REQUIRE(getsockname(fd, reinterpret_cast<struct sockaddr *>(address), &len) == 0);
    return fd;
}

} // namespace

TEST_CASE("op: every code has a row with a name of its own")
{
    std::set<std::string> names;
    for (const struct op_row &row : op_table) {
        REQUIRE(row.name);
        CHECK(names.insert(row.name).second);
    }
    CHECK(names.size() == OP_CODES);
}

TEST_CASE("op: openat, write, pwritev, fsync, fdatasync, statx, read, preadv and close of a file")
{
    Ring ring;
    Folder folder;
    std::string path = folder.file("data");

    Op open(OP_OPENAT, AT_FDCWD, path.c_str(), 0640, 0, O_RDWR | O_CREAT | O_CLOEXEC);
    int fd = ring.result(open);
    REQUIRE(fd >= 0);
    CHECK((fcntl(fd, F_GETFD) & FD_CLOEXEC));

    Op write(OP_WRITE, fd, "0123456789", 10, HERE);
    CHECK(ring.result(write) == 10);
    Op more(OP_WRITE, fd, "abc", 3, HERE); /* at the position where the first one ended */
    CHECK(ring.result(more) == 3);
    char x[] = "XY", z[] = "Z";
    struct iovec out[] = {{x, 2}, {z, 1}};
    Op writev(OP_WRITEV, fd, out, 2, 4);
    CHECK(ring.result(writev) == 3);
    Op sync(OP_FSYNC, fd), datasync(OP_FDATASYNC, fd);
    CHECK(ring.result(sync) == 0);
    CHECK(ring.result(datasync) == 0);
    Fds pipe = make_pipe(); /* which has nothing to sync: so the kernel did try */
    Op sync_pipe(OP_FSYNC, pipe[1]), datasync_pipe(OP_FDATASYNC, pipe[1]);
    CHECK(ring.result(sync_pipe) == -EINVAL);
    CHECK(ring.result(datasync_pipe) == -EINVAL);

    struct statx info = {};
    Op statx(OP_STATX, AT_FDCWD, path.c_str(), STATX_SIZE | STATX_MODE,
             reinterpret_cast<uintptr_t>(&info), 0);
    CHECK(ring.result(statx) == 0);
    CHECK(info.stx_size == 13);
    CHECK((info.stx_mode & 0777) == (0640 & ~[] {
              mode_t mask = umask(0);
              umask(mask);
              return mask;
          }()));

    char buf[32] = {};
    Op read(OP_READ, fd, buf, sizeof buf, 0);
    CHECK(ring.result(read) == 13);
    CHECK(std::string(buf) == "0123XYZ789abc");
    char a[4] = {}, b[4] = {};
    struct iovec in[] = {{a, 3}, {b, 3}};
    Op readv(OP_READV, fd, in, 2, 9);
    CHECK(ring.result(readv) == 4);
    CHECK(std::string(a) == "9ab");
    CHECK(std::string(b) == "c");
    Op end(OP_READ, fd, buf, sizeof buf, 1000);
    CHECK(ring.result(end) == 0);

    Op close(OP_CLOSE, fd);
    CHECK(ring.result(close) == 0);
    CHECK(fcntl(fd, F_GETFD) == -1);
    Op again(OP_CLOSE, fd);
    CHECK(ring.result(again) == -EBADF);

    Op missing(OP_OPENAT, AT_FDCWD, "/nowhere/at/all", 0, 0, O_RDONLY);
    CHECK(ring.result(missing) == -ENOENT);
    Op missing_stat(OP_STATX, AT_FDCWD, "/nowhere/at/all", STATX_SIZE,
                    reinterpret_cast<uintptr_t>(&info), 0);
    CHECK(ring.result(missing_stat) == -ENOENT);
}

TEST_CASE("op: accept, connect, send, recv and shutdown over TCP")
{
    Ring ring;
    struct sockaddr_in address;
    int listener = make_listener(&address);
    struct sockaddr_in peer = {};
    socklen_t peer_len = sizeof peer;
    Op accept(OP_ACCEPT, listener, &peer, 0, reinterpret_cast<uintptr_t>(&peer_len), SOCK_CLOEXEC);
    ring.submit(accept);
    CHECK(ring.look().empty());

    int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    Op connect(OP_CONNECT, client, &address, 0, sizeof address);
    CHECK(ring.result(connect) == 0);
    REQUIRE(ring.finish());
    int server = accept.res;
    REQUIRE(server >= 0);
    CHECK((fcntl(server, F_GETFD) & FD_CLOEXEC));
    CHECK(peer.sin_addr.s_addr == htonl(INADDR_LOOPBACK));

    char buf[16] = {};
    Op recv(OP_RECV, server, buf, sizeof buf);
    ring.submit(recv);
    Op send(OP_SEND, client, "over tcp", 8, 0, MSG_NOSIGNAL);
    CHECK(ring.result(send) == 8);
    REQUIRE(ring.finish());
    CHECK(std::string(buf, 8) == "over tcp");

    Op shutdown(OP_SHUTDOWN, client, nullptr, SHUT_WR);
    CHECK(ring.result(shutdown) == 0);
    Op end(OP_RECV, server, buf, sizeof buf);
    CHECK(ring.result(end) == 0);
    Op hangup(OP_POLL, server, nullptr, 0, 0, POLLIN | POLLRDHUP);
    CHECK((ring.result(hangup) & POLLRDHUP) != 0);

    close(server);
    close(client);
    close(listener);
    client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    Op refused(OP_CONNECT, client, &address, 0, sizeof address);
    CHECK(ring.result(refused) == -ECONNREFUSED);
    close(client);
}

TEST_CASE("op: sendmsg and recvmsg carry a vector and a descriptor")
{
    Ring ring;
    Fds pair = make_socketpair(), pipe = make_pipe();
    char one[] = "scattered ", two[] = "words";
    struct iovec out[] = {{one, 10}, {two, 5}};
    alignas(struct cmsghdr) char out_control[CMSG_SPACE(sizeof(int))] = {};
    struct msghdr message = {};
    message.msg_iov = out;
    message.msg_iovlen = 2;
    message.msg_control = out_control;
    message.msg_controllen = sizeof out_control;
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &pipe.fd[1], sizeof(int));
    Op send(OP_SENDMSG, pair[1], &message, 1, 0, MSG_NOSIGNAL);
    CHECK(ring.result(send) == 15);

    char a[4] = {}, b[32] = {};
    struct iovec in[] = {{a, 3}, {b, sizeof b}};
    alignas(struct cmsghdr) char in_control[CMSG_SPACE(sizeof(int))] = {};
    struct msghdr got = {};
    got.msg_iov = in;
    got.msg_iovlen = 2;
    got.msg_control = in_control;
    got.msg_controllen = sizeof in_control;
    Op recv(OP_RECVMSG, pair[0], &got, 1);
    CHECK(ring.result(recv) == 15);
    CHECK(std::string(a, 3) + b == "scattered words");
    header = CMSG_FIRSTHDR(&got);
    REQUIRE(header);
    int passed;
    memcpy(&passed, CMSG_DATA(header), sizeof passed);
    CHECK(write(passed, "x", 1) == 1);
    close(passed);
    char byte = 0;
    CHECK(read(pipe[0], &byte, 1) == 1);
    CHECK(byte == 'x');
}

TEST_CASE("op: where a wait is not wanted the answer is -EAGAIN, and the row says what to wait for")
{
    Ring ring;
    char byte = 0;
    Fds pair = make_socketpair();
    Op recv(OP_RECV, pair[0], &byte, 1, 0, MSG_DONTWAIT);
    CHECK(ring.result(recv) == -EAGAIN);
    for (op_code code : {OP_READ, OP_READV, OP_RECV, OP_RECVMSG, OP_ACCEPT})
        CHECK(op_table[code].poll_events == POLLIN);
    for (op_code code : {OP_WRITE, OP_WRITEV, OP_SEND, OP_SENDMSG})
        CHECK(op_table[code].poll_events == POLLOUT);

    /* A descriptor that is non-blocking: kernels differ in whether they wait all the same. */
    Fds pipe = make_pipe(O_NONBLOCK);
    Op read(OP_READ, pipe[0], &byte, 1, HERE);
    ring.submit(read);
    ring.take(clock_now() + MS_NS);
    if (read.completions)
        CHECK(read.res == -EAGAIN);
    REQUIRE(write(pipe[1], "x", 1) == 1);
    if (read.completions)
        ring.submit(read);
    REQUIRE(ring.finish());
    CHECK(read.res == 1);
    CHECK(byte == 'x');
}

TEST_CASE("op: every one that can wait can be cancelled")
{
    Ring ring;
    Folder folder;
    struct sockaddr_in address;
    int listener = make_listener(&address);
    Fds pair = make_socketpair(), pipe = make_pipe(), full = make_pipe(), busy = make_socketpair();

    /* A pipe and a socket that take no more. */
    fcntl(full[1], F_SETFL, O_NONBLOCK);
    fcntl(busy[1], F_SETFL, O_NONBLOCK);
    std::string much(1 << 16, 'x');
    while (write(full[1], much.data(), much.size()) > 0)
        ;
    while (write(busy[1], much.data(), much.size()) > 0)
        ;
    fcntl(full[1], F_SETFL, 0);
    fcntl(busy[1], F_SETFL, 0);

    char buf[16];
    struct iovec in = {buf, sizeof buf}, out = {much.data(), much.size()};
    struct msghdr in_message = {}, out_message = {};
    in_message.msg_iov = &in;
    in_message.msg_iovlen = 1;
    out_message.msg_iov = &out;
    out_message.msg_iovlen = 1;

    Op ops[] = {
        {OP_READ, pipe[0], buf, sizeof buf, HERE},
        {OP_READV, pipe[0], &in, 1, HERE},
        {OP_WRITE, full[1], much.data(), much.size(), HERE},
        {OP_WRITEV, full[1], &out, 1, HERE},
        {OP_RECV, pair[0], buf, sizeof buf},
        {OP_RECVMSG, pair[0], &in_message, 1},
        {OP_SEND, busy[1], much.data(), much.size(), 0, MSG_NOSIGNAL},
        {OP_SENDMSG, busy[1], &out_message, 1, 0, MSG_NOSIGNAL},
        {OP_ACCEPT, listener, nullptr},
        {OP_POLL, pair[0], nullptr, 0, 0, POLLIN},
    };
    for (Op &op : ops)
        ring.submit(op);
    CHECK(ring.take(clock_now() + MS_NS).empty());
    for (Op &op : ops)
        ring.cancel(op);
    REQUIRE(ring.finish());
    for (Op &op : ops) {
        INFO(op_table[op.op.code].name);
        CHECK(op.completions == 1);
        CHECK(op.res == -ECANCELED);
    }
    close(listener);
}

namespace
{

/* A child that ends with a code when something is written to its pipe, and the code is that. */
struct Child {
    Fds pipe = make_pipe();
    pid_t pid = fork();
    int pidfd = -1;

    Child()
    {
        unsigned char code = 0;
        if (pid == 0)
            _exit(read(pipe[0], &code, 1) == 1 ? code : 255);
        REQUIRE(pid > 0);
        pidfd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
        REQUIRE(pidfd >= 0);
    }
    Child(const Child &) = delete;
    Child &operator=(const Child &) = delete;
    ~Child()
    {
        close(pidfd);
        kill(pid, SIGKILL);
        waitpid(pid, nullptr, 0); /* unless that was done */
    }
    void end(unsigned char code) const
    {
        REQUIRE(write(pipe[1], &code, 1) == 1);
    }
};

Op waiting_for(const Child &child, siginfo_t *info)
{
    return {OP_WAITID, child.pidfd, nullptr, P_PIDFD, reinterpret_cast<uintptr_t>(info)};
}

} // namespace

TEST_CASE("op: openat2, sync_range, fsetxattr and fgetxattr of a file")
{
    Ring ring;
    Folder folder;
    std::string path = folder.file("data");
    struct open_how how = {};
    how.flags = O_RDWR | O_CREAT | O_CLOEXEC;
    how.mode = 0640;
    how.resolve = RESOLVE_NO_SYMLINKS;
    Op open(OP_OPENAT2, AT_FDCWD, path.c_str(), sizeof how, reinterpret_cast<uintptr_t>(&how));
    int fd = ring.result(open);
    REQUIRE(fd >= 0);
    CHECK((fcntl(fd, F_GETFD) & FD_CLOEXEC));
    how.flags |= O_EXCL;
    Op again(OP_OPENAT2, AT_FDCWD, path.c_str(), sizeof how, reinterpret_cast<uintptr_t>(&how));
    CHECK(ring.result(again) == -EEXIST);

    REQUIRE(write(fd, "text", 4) == 4);
    Op sync(OP_SYNC_RANGE, fd, nullptr, 4, 0, SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
    CHECK(ring.result(sync) == 0);
    Op flags(OP_SYNC_RANGE, fd, nullptr, 4, 0, 0x1000);
    CHECK(ring.result(flags) == -EINVAL); /* so the kernel did look at them */

    if (fsetxattr(fd, "user.probe", "", 0, 0) == 0) {
        Op set(OP_FSETXATTR, fd, "user.whorl", 5, reinterpret_cast<uintptr_t>("value"));
        CHECK(ring.result(set) == 0);
        Op create(OP_FSETXATTR, fd, "user.whorl", 5, reinterpret_cast<uintptr_t>("other"),
                  XATTR_CREATE);
        CHECK(ring.result(create) == -EEXIST);
        char value[8] = {};
        Op get(OP_FGETXATTR, fd, "user.whorl", sizeof value, reinterpret_cast<uintptr_t>(value));
        CHECK(ring.result(get) == 5);
        CHECK(std::string(value) == "value");
    }
    close(fd);
}

TEST_CASE("op: waitid waits for the end of a child and takes its status")
{
    Ring ring;
    if (!ring.caps().waitid)
        SKIP("this kernel, or WHORL_MASK, has no waitid in the ring");
    Child child;
    siginfo_t info = {};
    Op op = waiting_for(child, &info);
    ring.submit(op);
    CHECK(ring.take(clock_now() + MS_NS).empty());
    child.end(7);
    REQUIRE(ring.finish());
    CHECK(op.res == 0);
    CHECK(info.si_pid == child.pid);
    CHECK(info.si_code == CLD_EXITED);
    CHECK(info.si_status == 7);
    CHECK(waitpid(child.pid, nullptr, 0) < 0); /* it was taken */
    CHECK(errno == ECHILD);

    Op again = waiting_for(child, &info);
    CHECK(ring.result(again) == -ECHILD);
}

TEST_CASE("op: a waitid that is cancelled leaves the child to be waited for")
{
    Ring ring;
    if (!ring.caps().waitid)
        SKIP("this kernel, or WHORL_MASK, has no waitid in the ring");
    Child child;
    siginfo_t info = {};
    Op op = waiting_for(child, &info);
    ring.submit(op);
    CHECK(ring.take(clock_now() + MS_NS).empty());
    ring.cancel(op);
    REQUIRE(ring.finish());
    CHECK(op.res == -ECANCELED);

    child.end(3);
    Op again = waiting_for(child, &info);
    CHECK(ring.result(again) == 0);
    CHECK(info.si_status == 3);
}

TEST_CASE("op: a connect under way can be cancelled")
{
    Ring ring;
    struct sockaddr_in address;
    /* A listener whose queue is full and never emptied lets a further connect wait. */
    int listener = make_listener(&address);
    REQUIRE(listen(listener, 0) == 0);
    std::vector<int> clients;
    std::vector<std::unique_ptr<Op>> connects;
    size_t waiting = 0;
    for (int i = 0; i < 8; i++) {
        clients.push_back(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        connects.push_back(
            std::make_unique<Op>(OP_CONNECT, clients.back(), &address, 0, sizeof address));
        ring.submit(*connects.back());
        ring.take(clock_now() + 5 * MS_NS);
    }
    for (auto &op : connects)
        if (!op->completions) {
            ring.cancel(*op);
            waiting++;
        }
    CHECK(waiting > 0);
    REQUIRE(ring.finish());
    for (auto &op : connects)
        CHECK((op->res == 0 || op->res == -ECANCELED));
    for (int client : clients)
        close(client);
    close(listener);
}

TEST_CASE("op: one that blocks a thread of the kernel's can be interrupted")
{
    /* With O_CREAT a file is always opened on a thread; a fifo that nobody writes to keeps it. */
    Ring ring;
    Folder folder;
    std::string path = folder.file("fifo");
    REQUIRE(mkfifo(path.c_str(), 0600) == 0);
    Op open(OP_OPENAT, AT_FDCWD, path.c_str(), 0, 0, O_RDONLY | O_CREAT | O_CLOEXEC);
    ring.submit(open);
    CHECK(ring.take(clock_now() + 5 * MS_NS).empty());
    ring.cancel(open);
    int64_t until_ns = clock_now() + HANG_NS;
    while (!open.completions && clock_now() < until_ns) {
        ring.take(clock_now() + 5 * MS_NS);
        if (!open.completions)
            ring.cancel(open); /* the thread may not have begun when it was asked first */
    }
    REQUIRE(open.completions == 1);
    INFO(open.res);
    CHECK((open.res == -EINTR || open.res == -ECANCELED));
}
