/*
 * name_server.hpp: a DNS server that answers as a test tells it to: coroutines of the test's run,
 * on UDP and TCP of 127.0.0.1.
 */
#ifndef TESTS_NET_NAME_SERVER_HPP
#define TESTS_NET_NAME_SERVER_HPP

#include "tests/net/peers.hpp"
#include "tests/sched/on_workers.hpp"

#include <map>
#include <mutex>
#include <string>
#include <vector>

#include <arpa/inet.h>
#include <sys/resource.h>

/* Types of records. */
enum { A = 1, AAAA = 28 };

/* How one question is answered. */
struct Reply {
    std::vector<std::string> addresses = {};
    int rcode = 0;
    bool dropped = false;
    bool truncated = false; /* over UDP; over TCP it is whole */
    bool garbage = false;
    wh_event *gate = nullptr; /* not before this is set */

    static Reply with(std::vector<std::string> addresses)
    {
        Reply reply;
        reply.addresses = std::move(addresses);
        return reply;
    }
    static Reply code(int rcode)
    {
        Reply reply;
        reply.rcode = rcode;
        return reply;
    }
    static Reply drop()
    {
        Reply reply;
        reply.dropped = true;
        return reply;
    }
    static Reply nonsense()
    {
        Reply reply;
        reply.garbage = true;
        return reply;
    }
    Reply behind(wh_event *event) const
    {
        Reply reply = *this;
        reply.gate = event;
        return reply;
    }
    Reply cut() const
    {
        Reply reply = *this;
        reply.truncated = true;
        return reply;
    }
};

enum { NOERROR = 0, SERVFAIL = 2, NXDOMAIN = 3, REFUSED = 5 };

class NameServer
{
  public:
    NameServer()
    {
        for (int i = 0; i < 100 && tcp_ < 0; i++) {
            udp_ = Fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
            Address address = Address::ipv4(0);
            if (bind(udp_, address.any(), address.len) < 0)
                abort();
            address = Address::of(udp_);
            Fd tcp(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
            if (bind(tcp, address.any(), address.len) == 0 && listen(tcp, 64) == 0)
                tcp_ = std::move(tcp);
        }
        if (tcp_ < 0)
            abort();
        port_ = Address::of(udp_).port();
        ctx_ = wh_ctx_create(wh_ctx_background());
        WH_WITH_CTX(ctx_)
        {
            coros_.push_back(spawn([this] { serve_udp(); }));
            coros_.push_back(spawn([this] { serve_tcp(); }));
        }
    }
    NameServer(const NameServer &) = delete;
    NameServer &operator=(const NameServer &) = delete;
    ~NameServer()
    {
        wh_ctx_cancel(ctx_, 0);
        for (wh_coro *coro : coros_)
            join(coro);
        (void)!wh_waitgroup_wait(&handlers_);
        wh_ctx_destroy(ctx_);
    }

    /* What questions for the name get, one after the other; the last one goes for all that follow.
     * Of a name that is known other types are empty; all other names do not exist. */
    void on(const std::string &name, int type, std::vector<Reply> replies)
    {
        std::lock_guard<std::mutex> guard(mutex_);
        script_[{name, type}] = std::move(replies);
    }
    void on(const std::string &name, int type, const Reply &reply)
    {
        on(name, type, std::vector<Reply>{reply});
    }
    int asked(const std::string &name, int type)
    {
        std::lock_guard<std::mutex> guard(mutex_);
        return asked_[{name, type}];
    }
    int asked_by_tcp()
    {
        std::lock_guard<std::mutex> guard(mutex_);
        return asked_by_tcp_;
    }
    /* All questions in their order, "name/type ". */
    std::string questions()
    {
        std::lock_guard<std::mutex> guard(mutex_);
        return questions_;
    }
    std::string address() const
    {
        return "127.0.0.1:" + std::to_string(port_);
    }
    /* What a lookup with this server is given; valid while the server is. */
    wh_resolver_options options()
    {
        servers_ = address();
        wh_resolver_options options = {};
        options.servers = servers_.c_str();
        options.hosts_file = "";
        return options;
    }

  private:
    using Key = std::pair<std::string, int>;
    using Bytes = std::string;

    /* The name and type of a question, and where it ends; 0: it is none. */
    static size_t parse(const Bytes &query, Key *ret_key)
    {
        std::string name;
        size_t at = 12;
        while (at < query.size() && query[at]) {
            const size_t len = static_cast<unsigned char>(query[at]);
            if (at + 1 + len >= query.size())
                return 0;
            name += (name.empty() ? "" : ".") + query.substr(at + 1, len);
            at += 1 + len;
        }
        if (at + 5 > query.size())
            return 0;
        for (char &c : name)
            c = static_cast<char>(tolower(c));
        *ret_key = {name, static_cast<unsigned char>(query[at + 1]) << 8 |
                              static_cast<unsigned char>(query[at + 2])};
        return at + 5;
    }
    static void put(Bytes *to, unsigned number, int bytes = 2)
    {
        for (int i = bytes - 1; i >= 0; i--)
            to->push_back(static_cast<char>(number >> (8 * i)));
    }
    static Bytes answer(const Bytes &query, size_t question_end, int type, const Reply &reply,
                        bool by_udp)
    {
        if (reply.garbage)
            return query.substr(0, 2) + "\x81\x80" + std::string(20, '\xff');
        const bool cut = reply.truncated && by_udp;
        Bytes bytes = query.substr(0, 2);
        put(&bytes, 0x8180u | static_cast<unsigned>(reply.rcode) | (cut ? 0x200u : 0));
        put(&bytes, 1);
        const size_t count = cut ? 0 : reply.addresses.size();
        put(&bytes, static_cast<unsigned>(count));
        put(&bytes, 0, 4);
        bytes += query.substr(12, question_end - 12);
        for (size_t i = 0; i < count; i++) {
            char address[16];
            const int family = type == A ? AF_INET : AF_INET6;
            if (inet_pton(family, reply.addresses[i].c_str(), address) != 1)
                abort();
            put(&bytes, 0xc00c);
            put(&bytes, static_cast<unsigned>(type));
            put(&bytes, 1);
            put(&bytes, 60, 4);
            const unsigned len = type == A ? 4 : 16;
            put(&bytes, len);
            bytes.append(address, len);
        }
        return bytes;
    }
    Reply choose(const Key &key, bool by_udp)
    {
        std::lock_guard<std::mutex> guard(mutex_);
        asked_by_tcp_ += !by_udp;
        const int nth = asked_[key]++;
        questions_ += key.first + "/" + std::to_string(key.second) + " ";
        auto found = script_.find(key);
        if (found != script_.end()) {
            const std::vector<Reply> &replies = found->second;
            return replies[std::min(replies.size() - 1, static_cast<size_t>(nth))];
        }
        const bool known = script_.count({key.first, A}) || script_.count({key.first, AAAA});
        return Reply::code(known ? NOERROR : NXDOMAIN);
    }
    void handle(const Bytes &query, const struct sockaddr_in &from)
    {
        Key key;
        const size_t end = parse(query, &key);
        if (!end)
            return;
        const Reply reply = choose(key, true);
        if (reply.dropped || (reply.gate && wh_event_wait(reply.gate) < 0))
            return;
        Bytes bytes = answer(query, end, key.second, reply, true);
        struct sockaddr_in to = from;
        struct iovec piece = {bytes.data(), bytes.size()};
        struct msghdr msg = {};
        msg.msg_name = &to;
        msg.msg_namelen = sizeof to;
        msg.msg_iov = &piece;
        msg.msg_iovlen = 1;
        (void)wh_sendmsg(udp_, &msg, 0);
    }
    template <typename F> void hand_over(const F &body)
    {
        wh_waitgroup_add(&handlers_, 1);
        const int rc = start([this, body] {
            body();
            wh_waitgroup_done(&handlers_);
        });
        if (rc < 0)
            wh_waitgroup_done(&handlers_);
    }
    void serve_udp()
    {
        for (;;) {
            char buf[2000];
            struct sockaddr_in from = {};
            struct iovec piece = {buf, sizeof buf};
            struct msghdr msg = {};
            msg.msg_name = &from;
            msg.msg_namelen = sizeof from;
            msg.msg_iov = &piece;
            msg.msg_iovlen = 1;
            const ssize_t n = wh_recvmsg(udp_, &msg, 0);
            if (n == -ECANCELED)
                break;
            if (n < 12)
                continue; /* also: an earlier answer was refused */
            hand_over(
                [this, from, query = Bytes(buf, static_cast<size_t>(n))] { handle(query, from); });
        }
    }
    /* The questions of one connection. */
    void handle_tcp(int fd)
    {
        for (;;) {
            unsigned char len[2];
            if (wh_recv(fd, len, 2, MSG_WAITALL) != 2)
                break;
            Bytes query(static_cast<size_t>(len[0] << 8 | len[1]), 0);
            if (wh_recv(fd, query.data(), query.size(), MSG_WAITALL) !=
                static_cast<ssize_t>(query.size()))
                break;
            Key key;
            const size_t end = parse(query, &key);
            if (!end)
                break;
            const Reply reply = choose(key, false);
            if (reply.dropped || (reply.gate && wh_event_wait(reply.gate) < 0))
                continue;
            const Bytes bytes = answer(query, end, key.second, reply, false);
            Bytes whole;
            put(&whole, static_cast<unsigned>(bytes.size()));
            whole += bytes;
            /* in two pieces, the first of which ends in the length */
            if (wh_send_all(fd, whole.data(), 1) < 0 || wh_sleep(WH_MILLISECOND) < 0 ||
                wh_send_all(fd, whole.data() + 1, whole.size() - 1) < 0)
                break;
        }
        wh_close(fd);
    }
    void serve_tcp()
    {
        for (;;) {
            const wh_fd fd = wh_accept(tcp_);
            if (fd == -ECANCELED)
                break;
            if (fd >= 0)
                hand_over([this, fd] { handle_tcp(fd); });
            else
                (void)wh_sleep(WH_MILLISECOND); /* a test has taken all descriptors */
        }
    }

    Fd udp_, tcp_;
    int port_ = 0;
    wh_ctx *ctx_ = nullptr;
    std::vector<wh_coro *> coros_;
    wh_waitgroup handlers_ = {};
    std::string servers_;
    std::mutex mutex_; /* for a moment at a time: nobody parks in between */
    std::map<Key, std::vector<Reply>> script_;
    std::map<Key, int> asked_;
    int asked_by_tcp_ = 0;
    std::string questions_;
};

/* While it lives no descriptor can be had but those that it frees. */
class NoMoreFds
{
  public:
    NoMoreFds()
    {
        getrlimit(RLIMIT_NOFILE, &before_);
        struct rlimit limit = before_;
        limit.rlim_cur = static_cast<rlim_t>(Fd(dup(0)) + 10);
        if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
            abort();
        for (int fd; (fd = dup(0)) >= 0;)
            all_.emplace_back(fd);
    }
    NoMoreFds(const NoMoreFds &) = delete;
    NoMoreFds &operator=(const NoMoreFds &) = delete;
    ~NoMoreFds()
    {
        setrlimit(RLIMIT_NOFILE, &before_);
    }
    /* Returns false when it has none left. */
    bool free_one()
    {
        if (all_.empty())
            return false;
        all_.pop_back();
        return true;
    }

  private:
    struct rlimit before_;
    std::vector<Fd> all_;
};

/* A file with this content, in the folder. */
inline std::string write_file(const Folder &folder, const std::string &name,
                              const std::string &content)
{
    const std::string path = folder / name;
    FILE *file = fopen(path.c_str(), "we");
    if (!file || fputs(content.c_str(), file) < 0 || fclose(file) != 0)
        abort();
    return path;
}

/* An address as whorl writes it. */
inline std::string text_of(const wh_addr &addr)
{
    char host[INET6_ADDRSTRLEN] = "?";
    if (addr.any.sa_family == AF_INET && addr.len == sizeof addr.in) {
        inet_ntop(AF_INET, &addr.in.sin_addr, host, sizeof host);
        return std::string(host) + ":" + std::to_string(ntohs(addr.in.sin_port));
    }
    if (addr.any.sa_family == AF_INET6 && addr.len == sizeof addr.in6)
        inet_ntop(AF_INET6, &addr.in6.sin6_addr, host, sizeof host);
    return "[" + std::string(host) + "]:" + std::to_string(ntohs(addr.in6.sin6_port));
}

/* All that wh_resolve() finds, one after the other; or its error, a number. */
inline std::string resolved(const std::string &address, const wh_resolver_options &options)
{
    wh_addr found[64];
    const int n = wh_resolve(address.c_str(), &options, found, 64);
    if (n < 0)
        return std::to_string(n);
    std::string text;
    for (int i = 0; i < n && i < 64; i++)
        text += (i ? " " : "") + text_of(found[i]);
    return text;
}

inline std::string error_text(int error)
{
    return std::to_string(-error);
}

/* Until no coroutine is there but so many: lookups that nobody waits for have ended. */
inline void until_live(uint64_t count)
{
    until([&] {
        wh_stats stats;
        wh_stats_get(&stats);
        return stats.coros_live <= count;
    });
}

inline uint64_t live_now()
{
    wh_stats stats;
    wh_stats_get(&stats);
    return stats.coros_live;
}

#endif
