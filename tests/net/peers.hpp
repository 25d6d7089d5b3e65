/*
 * peers.hpp: the other ends that the tests of calls talk to, made with plain system calls, so that
 * what is tested is not tested with itself.
 */
#ifndef TESTS_NET_PEERS_HPP
#define TESTS_NET_PEERS_HPP

#include "tests/sched/in_run.hpp"

#include <cstring>
#include <string>

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/un.h>

/* A socket address of any family. */
struct Address {
    struct sockaddr_storage storage = {};
    socklen_t len = sizeof(struct sockaddr_storage);

    struct sockaddr *any()
    {
        return reinterpret_cast<struct sockaddr *>(&storage);
    }
    const struct sockaddr *any() const
    {
        return reinterpret_cast<const struct sockaddr *>(&storage);
    }
    int port() const
    {
        if (storage.ss_family == AF_INET6)
            return ntohs(reinterpret_cast<const struct sockaddr_in6 *>(&storage)->sin6_port);
        return ntohs(reinterpret_cast<const struct sockaddr_in *>(&storage)->sin_port);
    }
    static Address ipv4(int port)
    {
        Address address;
        auto *in = reinterpret_cast<struct sockaddr_in *>(&address.storage);
        in->sin_family = AF_INET;
        in->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        in->sin_port = htons(static_cast<uint16_t>(port));
        address.len = sizeof *in;
        return address;
    }
    static Address of(int fd)
    {
        Address address;
        getsockname(fd, address.any(), &address.len);
        return address;
    }
};

/* A listening TCP socket on a free port of 127.0.0.1. */
inline Fd plain_listener(int backlog = 16, int flags = 0)
{
    Fd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0));
    Address address = Address::ipv4(0);
    if (bind(fd, address.any(), address.len) < 0 || listen(fd, backlog) < 0)
        return Fd();
    return fd;
}

/* A connected TCP pair over loopback. */
inline FdPair tcp_pair(int flags = 0)
{
    Fd listener = plain_listener();
    Address address = Address::of(listener);
    Fd client(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (connect(client, address.any(), address.len) < 0)
        return {};
    Fd server(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | flags));
    return {std::move(server), std::move(client)};
}

/* A Unix listener whose queue is full: the next connect waits. */
struct FullListener {
    Fd listener, filler;
    Address address;

    FullListener()
        : listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)),
          filler(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0))
    {
        struct sockaddr_un any = {};
        any.sun_family = AF_UNIX;
        if (bind(listener, reinterpret_cast<struct sockaddr *>(&any), sizeof(sa_family_t)) < 0 ||
            listen(listener, 0) < 0)
            abort();
        address = Address::of(listener);
        if (connect(filler, address.any(), address.len) < 0)
            abort();
    }
    /* As whorl writes it. */
    std::string name() const
    {
        const auto *un = reinterpret_cast<const struct sockaddr_un *>(&address.storage);
        return "@" + std::string(un->sun_path + 1, address.len - sizeof(sa_family_t) - 1);
    }
};

/* Fills a socket or pipe until it takes no more; returns how many bytes that were. */
inline size_t fill(int fd)
{
    static const char zeros[65536] = {};
    const int flags = fcntl(fd, F_GETFL);
    fcntl(fd, F_SETFL, flags | O_NONBLOCK);
    size_t filled = 0;
    for (size_t piece = sizeof zeros; piece; piece /= 2) {
        ssize_t n;
        while ((n = write(fd, zeros, piece)) > 0)
            filled += static_cast<size_t>(n);
    }
    fcntl(fd, F_SETFL, flags);
    return filled;
}

/* Whether the descriptor's other side is found gone, at most a while later; takes what is left. */
inline bool sees_end(int fd)
{
    struct pollfd poll_fd = {fd, POLLIN | POLLRDHUP, 0};
    char bytes[4096];
    while (poll(&poll_fd, 1, 5000) == 1) {
        ssize_t n = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);
        if (n == 0 || (n < 0 && errno != EAGAIN))
            return true;
    }
    return false;
}

/* A folder that is gone, with the files in it, at the end of the block. */
class Folder
{
  public:
    Folder()
    {
        const char *base = getenv("TMPDIR");
        path_ = std::string(base ? base : "/tmp") + "/whorl-test-XXXXXX";
        if (!mkdtemp(path_.data()))
            abort();
    }
    Folder(const Folder &) = delete;
    Folder &operator=(const Folder &) = delete;
    ~Folder()
    {
        if (DIR *dir = opendir(path_.c_str())) {
            while (struct dirent *entry = readdir(dir))
                unlinkat(dirfd(dir), entry->d_name, 0);
            closedir(dir);
        }
        rmdir(path_.c_str());
    }
    std::string operator/(const std::string &name) const
    {
        return path_ + "/" + name;
    }
    const char *path() const
    {
        return path_.c_str();
    }

  private:
    std::string path_;
};

/* The limit of descriptors for the length of a block: so many more than are open can be had. */
class FewDescriptors
{
  public:
    explicit FewDescriptors(int more)
    {
        getrlimit(RLIMIT_NOFILE, &before_);
        /* The lowest numbers are given out first: where the n-th more one would be. */
        std::vector<Fd> probes;
        int last = -1;
        for (int i = 0; i <= more; i++) {
            probes.emplace_back(dup(STDERR_FILENO));
            last = probes.back();
        }
        const struct rlimit few = {static_cast<rlim_t>(last), before_.rlim_max};
        setrlimit(RLIMIT_NOFILE, &few);
    }
    FewDescriptors(const FewDescriptors &) = delete;
    FewDescriptors &operator=(const FewDescriptors &) = delete;
    ~FewDescriptors()
    {
        setrlimit(RLIMIT_NOFILE, &before_);
    }

  private:
    struct rlimit before_ = {};
};

/* What a plain system call returned, in whorl's way. */
inline ssize_t plain(ssize_t result)
{
    return result < 0 ? -errno : result;
}

#endif
