/*
 * dial_test.cpp: dialling names: the race of their addresses (whorl/net.h). The names are those of
 * hosts files, which keep their addresses in the order they are written in.
 */
#include "tests/net/name_server.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <atomic>
#include <climits>
#include <memory>

#include <sys/resource.h>

namespace
{

/* A TCP listener that answers nobody any more: its queue is full. */
class Blackhole
{
  public:
    Blackhole(Address address)
        : listener_(socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0))
    {
        int on = 1;
        setsockopt(listener_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        if (bind(listener_, address.any(), address.len) < 0 || listen(listener_, 0) < 0)
            return;
        address = Address::of(listener_);
        for (int i = 0; i < 8 && !full_; i++) {
            Fd fd(socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
            (void)connect(fd, address.any(), address.len);
            struct pollfd wait = {fd, POLLOUT, 0};
            full_ = poll(&wait, 1, 50) == 0;
            fillers_.push_back(std::move(fd));
        }
    }
    bool works() const
    {
        return full_;
    }

  private:
    Fd listener_;
    std::vector<Fd> fillers_;
    bool full_ = false;
};

Address on_port(const char *host, int port)
{
    Address address;
    if (strchr(host, ':')) {
        auto *in6 = reinterpret_cast<struct sockaddr_in6 *>(&address.storage);
        in6->sin6_family = AF_INET6;
        inet_pton(AF_INET6, host, &in6->sin6_addr);
        in6->sin6_port = htons(static_cast<uint16_t>(port));
        address.len = sizeof *in6;
    } else {
        address = Address::ipv4(port);
        inet_pton(AF_INET, host,
                  &reinterpret_cast<struct sockaddr_in *>(&address.storage)->sin_addr);
    }
    return address;
}

/* A listener that answers, and names for it and its neighbours on the same port. */
struct Place {
    Folder folder;
    Fd live = plain_listener(256);
    int port = Address::of(live).port();
    std::string hosts;
    wh_resolver_options resolver = {};
    wh_dial_options options = {};

    explicit Place(const std::string &lines)
    {
        hosts = write_file(folder, "hosts", lines);
        resolver.hosts_file = hosts.c_str();
        resolver.servers = "127.0.0.1:9";
        options.resolver = &resolver;
    }
    wh_fd dial(const std::string &name) const
    {
        return wh_dial_tcp_with((name + ":" + std::to_string(port)).c_str(), &options);
    }
};

std::string peer_of(int fd)
{
    wh_addr peer = {};
    peer.len = sizeof peer.in6;
    if (getpeername(fd, &peer.any, &peer.len) < 0)
        return "none";
    const std::string text = text_of(peer);
    return text.substr(0, text.rfind(':'));
}

int option(int fd, int level, int name)
{
    int value = -1;
    socklen_t len = sizeof value;
    return getsockopt(fd, level, name, &value, &len) < 0 ? -errno : value;
}

bool has_ipv6()
{
    Fd fd(socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const Address address = on_port("::1", 0);
    return fd >= 0 && bind(fd, address.any(), address.len) == 0;
}

/* A listener on ::1. */
Fd ipv6_listener(int port)
{
    Fd fd(socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const Address address = on_port("::1", port);
    CHECK(bind(fd, address.any(), address.len) == 0);
    CHECK(listen(fd, 16) == 0);
    return fd;
}

} // namespace

TEST_CASE("dial: a name with one address is dialled as the address would be")
{
    in_run([] {
        Place place("127.0.0.1 live\n127.0.0.2 dead\n");
        Fd fd(place.dial("live"));
        CHECK(fd >= 0);
        CHECK(peer_of(fd) == "127.0.0.1");
        CHECK(option(fd, IPPROTO_TCP, TCP_NODELAY) == 1);
        CHECK((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
        place.options.no_nodelay = 1;
        Fd lazy(place.dial("live"));
        CHECK(option(lazy, IPPROTO_TCP, TCP_NODELAY) == 0);
        Fd dead(place.dial("dead"));
        CHECK(dead == -ECONNREFUSED);
        Fd numeric(
            wh_dial_tcp_with(("127.0.0.1:" + std::to_string(place.port)).c_str(), &place.options));
        CHECK(numeric >= 0);
        place.options.attempt_delay_ns = -2;
        Fd wrong(place.dial("live"));
        CHECK(wrong == -EINVAL);
        wrong = Fd(wh_dial_tcp("no name:80"));
        CHECK(wrong == -EINVAL);
    });
}

TEST_CASE("dial: an address that does not answer has a head start, and then loses")
{
    const int fds = fds_open();
    in_run([] {
        Place place("127.0.0.2 name\n127.0.0.1 name\n");
        Blackhole dead(on_port("127.0.0.2", place.port));
        CHECK(dead.works());
        const int before = fds_open();
        for (int64_t delay_ns : {40 * WH_MILLISECOND, int64_t(0), int64_t(-1)}) {
            place.options.attempt_delay_ns = delay_ns;
            const int64_t start_ns = wh_now();
            {
                Fd fd(place.dial("name"));
                const int64_t took_ns = wh_now() - start_ns;
                CHECK(fd >= 0);
                CHECK(peer_of(fd) == "127.0.0.1");
                CHECK(took_ns >= (delay_ns < 0    ? 0
                                  : delay_ns == 0 ? 250 * WH_MILLISECOND
                                                  : delay_ns));
                CHECK(took_ns < 20 * WH_SECOND); /* alone it would be minutes */
            }
            CHECK(fds_open() == before); /* the loser is closed */
        }
    });
    CHECK(fds_open() == fds);
}

TEST_CASE("dial: a dead IPv6 address beside a live IPv4 one, and the other way round")
{
    if (!has_ipv6())
        SKIP("this machine has no IPv6");
    in_run([] {
        Place place("::1 name\n127.0.0.1 name\n");
        place.options.attempt_delay_ns = 20 * WH_MILLISECOND;
        {
            Blackhole dead(on_port("::1", place.port));
            CHECK(dead.works());
            Fd fd(place.dial("name"));
            CHECK(peer_of(fd) == "127.0.0.1");
        }
        Fd six(socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
        const Address address = on_port("::1", place.port);
        const int on = 1; /* connections to the one that was there may not be quite over */
        CHECK(setsockopt(six, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0);
        CHECK(bind(six, address.any(), address.len) == 0);
        CHECK(listen(six, 16) == 0);
        place.options.attempt_delay_ns = WH_HOUR;
        Fd fd(place.dial("name"));
        CHECK(peer_of(fd) == "[::1]"); /* the first, if it answers */
    });
}

TEST_CASE("dial: an attempt that fails ends the head start of its address")
{
    in_run([] {
        Place place("127.0.0.2 name\n127.0.0.3 name\n127.0.0.4 name\n127.0.0.1 name\n");
        place.options.attempt_delay_ns = WH_HOUR;
        Fd fd(place.dial("name"));
        CHECK(peer_of(fd) == "127.0.0.1");
    });
}

TEST_CASE("dial: an earlier address that answers late still wins")
{
    in_run([] {
        Place place("127.0.0.2 name\n127.0.0.3 name\n");
        auto slow = std::make_unique<Blackhole>(on_port("127.0.0.2", place.port));
        Blackhole dead(on_port("127.0.0.3", place.port));
        CHECK((slow->works() && dead.works()));
        place.options.attempt_delay_ns = WH_MILLISECOND;
        wh_fd got = -1;
        wh_coro *caller = spawn([&] { got = place.dial("name"); });
        until([] { return live_now() >= 4; }); /* both attempts are under way */
        /* With its listener gone, the next try of the handshake is refused. Then it listens anew.
         */
        slow.reset();
        Fd listener(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        int on = 1;
        setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        const Address address = on_port("127.0.0.2", place.port);
        CHECK(bind(listener, address.any(), address.len) == 0);
        CHECK(listen(listener, 16) == 0);
        join(caller);
        Fd fd(got);
        CHECK(peer_of(fd) == "127.0.0.2");
    });
}

TEST_CASE("dial: when all fail, the error is the one that tells most")
{
    in_run([] {
        /* a broadcast address cannot be connected to: there is no way */
        Place place("127.0.0.2 all\n127.0.0.3 all\n"
                    "127.0.0.2 first\n255.255.255.255 first\n"
                    "255.255.255.255 last\n127.0.0.2 last\n"
                    "255.255.255.255 none\n255.255.255.255 none\n");
        place.options.attempt_delay_ns = WH_MILLISECOND;
        for (const char *name : {"all", "first", "last"}) {
            Fd fd(place.dial(name));
            INFO(name);
            CHECK(fd == -ECONNREFUSED);
        }
        Fd none(place.dial("none"));
        CHECK(none == -ENETUNREACH);
    });
}

TEST_CASE("dial: a name of many addresses is tried up to the 32nd")
{
    in_run([] {
        std::string lines;
        for (int i = 2; i <= 32; i++)
            lines += "127.0.0." + std::to_string(i) + " live few\n";
        lines += "127.0.0.33 few\n127.0.0.1 live few\n";
        Place place(lines);
        place.options.attempt_delay_ns = -1;
        Fd fd(place.dial("live"));
        CHECK(peer_of(fd) == "127.0.0.1");
        Fd none(place.dial("few"));
        CHECK(none == -ECONNREFUSED);
    });
}

TEST_CASE("dial: cancel and deadline end the race at any time, and leave nothing open")
{
    in_run([] {
        Place place("127.0.0.2 name\n127.0.0.3 name\n127.0.0.4 name\n");
        Blackhole two(on_port("127.0.0.2", place.port)), three(on_port("127.0.0.3", place.port)),
            four(on_port("127.0.0.4", place.port));
        CHECK((two.works() && three.works() && four.works()));
        const int before = fds_open();
        const uint64_t live = live_now();
        for (int64_t delay_ns : {WH_HOUR, WH_MILLISECOND, int64_t(-1)}) {
            place.options.attempt_delay_ns = delay_ns;
            wh_fd fd = 0;
            WH_WITH_TIMEOUT(20 * WH_MILLISECOND)
            {
                fd = place.dial("name");
            }
            CHECK(fd == -ETIMEDOUT);
            until_live(live);
            CHECK(fds_open() == before);

            const uint64_t racing = live + (delay_ns == WH_HOUR ? 2 : 4);
            wh_coro *caller = spawn([&] { return static_cast<intptr_t>(place.dial("name")); });
            until([&] { return live_now() >= racing; });
            wh_cancel(caller);
            const intptr_t rc = join(caller);
            CHECK(rc == -ECANCELED);
            until_live(live); /* a lookup that was left may have its file open */
            CHECK(fds_open() == before);
        }
    });
}

TEST_CASE("dial: a descriptor that was there when the end came is returned or closed, never lost")
{
    in_run([] {
        Place place("127.0.0.2 name\n127.0.0.1 name\n");
        Blackhole dead(on_port("127.0.0.2", place.port));
        const int before = fds_open();
        fcntl(place.live, F_SETFL, O_NONBLOCK);
        int wrong = 0;
        const uint64_t live = live_now();
        for (int i = 0; i < times(200); i++) {
            place.options.attempt_delay_ns = (i % 5) * 100 * WH_MICROSECOND - 1;
            if (place.options.attempt_delay_ns == 0)
                place.options.attempt_delay_ns = -1;
            wh_fd fd = -1;
            WH_WITH_TIMEOUT(i % 20 * 50 * WH_MICROSECOND)
            {
                fd = place.dial("name");
            }
            if (fd >= 0)
                wh_close(fd);
            else
                wrong += fd != -ETIMEDOUT;
            until_live(live);
            Fd server(accept4(place.live, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
            wrong += fds_open() != before + (server >= 0);
        }
        CHECK(wrong == 0);
    });
}

TEST_CASE("dial: many names at once from all workers")
{
    in_run([] {
        Place place("127.0.0.2 name\n127.0.0.1 name\n");
        place.options.attempt_delay_ns = WH_HOUR;
        const intptr_t right = on_all(static_cast<unsigned>(times(100)), [&](unsigned) {
            Fd fd(place.dial("name"));
            Fd server(wh_accept(place.live));
            return fd >= 0 && server >= 0;
        });
        CHECK(right == times(100));
    });
}

TEST_CASE("dial: without descriptors it is -EMFILE, whatever else failed")
{
    in_run([] {
        Place place("127.0.0.2 name\n127.0.0.1 name\n");
        NoMoreFds none;
        Fd fd(place.dial("name"));
        CHECK(fd == -EMFILE);
        none.free_one(); /* for the hosts file, or for one socket at a time */
        fd = Fd(place.dial("name"));
        CHECK(fd >= 0);
        place.options.attempt_delay_ns = WH_HOUR;
    });
}

TEST_CASE("dial: without stacks for the attempts it is -ENOMEM, and nothing is left")
{
    wh_options options = {};
    options.stacks_max = 2; /* the root and the lookup */
    in_run(
        [] {
            Place place("127.0.0.2 name\n127.0.0.3 name\n127.0.0.1 name\n127.0.0.1 one\n");
            Fd fd(place.dial("one"));
            CHECK(fd >= 0);
            wh_event never = {};
            wh_coro *other = spawn([&] { (void)wh_event_wait(&never); });
            CHECK(other != nullptr);
            wh_fd rc = place.dial("one");
            CHECK(rc == -ENOMEM);
            wh_event_set(&never);
            join(other);
            const int before = fds_open();
            Blackhole dead(on_port("127.0.0.2", place.port));
            const int with_dead = fds_open();
            place.options.attempt_delay_ns = WH_MILLISECOND;
            rc = place.dial("name");
            CHECK(rc == -ENOMEM); /* for the second attempt */
            CHECK(fds_open() == with_dead);
            CHECK(with_dead > before);
        },
        &options);
}

#if HAVE_CARES

TEST_CASE("dial: a name of DNS, by the name of a service")
{
    in_run([] {
        NameServer server;
        server.on("name.test", A, Reply::with({"127.0.0.1"}));
        server.on("name.test", AAAA, Reply::with({"2001:db8::1"}));
        Fd listener = plain_listener();
        const wh_resolver_options resolver = server.options();
        wh_dial_options options = {};
        options.resolver = &resolver;
        options.attempt_delay_ns = WH_MILLISECOND;
        const std::string port = std::to_string(Address::of(listener).port());
        Fd fd(wh_dial_tcp_with(("name.test:" + port).c_str(), &options));
        CHECK(peer_of(fd) == "127.0.0.1");
        fd = Fd(wh_dial_tcp_with("missing.test:80", &options));
        CHECK(fd == -ENOENT);
        fd = Fd(wh_dial_tcp_with("name.test:no-such-service", &options));
        CHECK(fd == -ESRCH);
    });
}

namespace
{

/* A server of DNS that answers only when it is told to, in place of a live and a dead address. */
struct SlowPlace {
    NameServer server;
    Fd live = plain_listener(256);
    int port = Address::of(live).port();
    wh_resolver_options resolver = server.options();
    wh_dial_options options = {};

    SlowPlace()
    {
        resolver.try_ns = WH_MINUTE; /* waiting for it is not what ends a test */
        options.resolver = &resolver;
        options.attempt_delay_ns = WH_MILLISECOND;
    }
    wh_fd dial(const std::string &name) const
    {
        return wh_dial_tcp_with((name + ":" + std::to_string(port)).c_str(), &options);
    }
};

} // namespace

TEST_CASE("dial: an answer for one family that does not come is waited for 50 ms")
{
    const int fds = fds_open();
    in_run([] {
        SlowPlace place;
        place.server.on("name.test", A, Reply::with({"127.0.0.1"}));
        place.server.on("name.test", AAAA, Reply::drop());
        const uint64_t live = live_now();
        const int64_t start_ns = wh_now();
        Fd fd(place.dial("name.test"));
        const int64_t took_ns = wh_now() - start_ns;
        CHECK(peer_of(fd) == "127.0.0.1");
        CHECK(took_ns >= 50 * WH_MILLISECOND);
        CHECK(took_ns < 30 * WH_SECOND);
        until_live(live); /* the lookup has ended, too */
        CHECK(place.server.asked("name.test", A) <= 2);
        CHECK(place.server.asked("name.test", AAAA) <= 2);
        if (!has_ipv6())
            return;
        Fd six = ipv6_listener(place.port);
        place.server.on("six.test", AAAA, Reply::with({"::1"}));
        place.server.on("six.test", A, Reply::drop());
        fd = Fd(place.dial("six.test"));
        CHECK(peer_of(fd) == "[::1]");
    });
    CHECK(fds_open() == fds);
}

TEST_CASE("dial: while both families' answers come nobody is asked twice")
{
    in_run([] {
        SlowPlace place;
        place.server.on("name.test", A, Reply::with({"127.0.0.1"}));
        place.server.on("name.test", AAAA, Reply::with({"2001:db8::1"}));
        int fewest = INT_MAX; /* others may keep the server from its core for 50 ms */
        for (int i = 0; i < 20; i++) {
            const int before = place.server.asked("name.test", A);
            Fd fd(place.dial("name.test"));
            CHECK(peer_of(fd) == "127.0.0.1");
            fewest = std::min(fewest, place.server.asked("name.test", A) - before);
        }
        CHECK(fewest == 1);
    });
}

TEST_CASE("dial: addresses whose family comes late join the race")
{
    if (!has_ipv6())
        SKIP("this machine has no IPv6");
    in_run([] {
        SlowPlace place;
        wh_event gate = {};
        /* None of these lives: refused, no answer. */
        Blackhole dead(on_port("127.0.0.2", place.port));
        CHECK(dead.works());
        place.server.on("refused.test", A, Reply::with({"127.0.0.3", "127.0.0.4"}));
        place.server.on("silent.test", A, Reply::with({"127.0.0.2"}));
        Fd six = ipv6_listener(place.port);
        for (const char *name : {"refused.test", "silent.test"}) {
            place.server.on(name, AAAA, Reply::with({"::1"}).behind(&gate));
            wh_event_reset(&gate);
            wh_fd got = -1;
            wh_coro *caller = spawn([&] { got = place.dial(name); });
            until([&] {
                return place.server.asked(name, AAAA) >= 2;
            }); /* the race has begun or will */
            wh_event_set(&gate);
            join(caller);
            Fd fd(got);
            INFO(name);
            CHECK(peer_of(fd) == "[::1]");
        }
        /* And when the late answer brings nothing, what has failed has. */
        place.server.on("nothing.test", A, Reply::with({"127.0.0.3"}));
        place.server.on("nothing.test", AAAA, Reply::code(NOERROR).behind(&gate));
        wh_event_reset(&gate);
        wh_fd got = -1;
        wh_coro *caller = spawn([&] { got = place.dial("nothing.test"); });
        until([&] { return place.server.asked("nothing.test", AAAA) >= 2; });
        wh_event_set(&gate);
        join(caller);
        CHECK(got == -ECONNREFUSED);
    });
}

TEST_CASE("dial: what there is early is of the name that the search is at")
{
    if (!has_ipv6())
        SKIP("this machine has no IPv6");
    in_run([] {
        SlowPlace place;
        wh_event gate = {};
        place.resolver.search = "a.test,b.test";
        place.server.on("host.a.test", AAAA, Reply::with({"::1"}).behind(&gate));
        place.server.on("host.b.test", A, Reply::with({"127.0.0.1"}));
        Fd six = ipv6_listener(place.port);
        wh_fd got = -1;
        wh_coro *caller = spawn([&] { got = place.dial("host"); });
        until([&] { return place.server.asked("host.a.test", AAAA) >= 2; });
        for (int i = 0; i < 100; i++)
            wh_yield();
        CHECK(got == -1);
        wh_event_set(&gate);
        join(caller);
        Fd fd(got);
        CHECK(peer_of(fd) == "[::1]");
        CHECK(place.server.asked("host.b.test", A) == 0);
        /* the second name of a search has its 50 ms, too */
        place.server.on("other.b.test", A, Reply::with({"127.0.0.1"}));
        place.server.on("other.b.test", AAAA, Reply::drop());
        fd = Fd(place.dial("other"));
        CHECK(peer_of(fd) == "127.0.0.1");
    });
}

TEST_CASE("dial: an answer for a name that the search has left is none")
{
    if (!has_ipv6())
        SKIP("this machine has no IPv6");
    in_run([] {
        SlowPlace place;
        wh_event gate = {};
        place.resolver.search = "a.test,b.test";
        place.resolver.try_ns = 2 * WH_SECOND;
        /* The one that asks for both; the one by itself, which gets lost; the same, again. */
        place.server.on("host.a.test", A, Reply::code(NOERROR));
        place.server.on("host.a.test", AAAA,
                        {Reply::code(NOERROR).behind(&gate), Reply::drop(), Reply::with({"::1"})});
        place.server.on("host.b.test", A, Reply::with({"127.0.0.1"}));
        place.server.on("host.b.test", AAAA, Reply::drop());
        Fd six = ipv6_listener(place.port);
        wh_fd got = -1;
        wh_coro *caller = spawn([&] { got = place.dial("host"); });
        until([&] { return place.server.asked("host.a.test", AAAA) >= 2; });
        /* It is asked again before the next name is asked again. */
        CHECK(wh_sleep(100 * WH_MILLISECOND) == 0);
        wh_event_set(&gate);
        join(caller);
        Fd fd(got);
        CHECK(peer_of(fd) == "127.0.0.1");
        CHECK(place.server.asked("host.b.test", A) >= 1);
    });
}

TEST_CASE("dial: a lookup that only some wait for to the end")
{
    in_run([] {
        SlowPlace place;
        wh_event gate = {};
        place.server.on("name.test", A, Reply::with({"127.0.0.1"}));
        place.server.on("name.test", AAAA, Reply::with({"2001:db8::1"}).behind(&gate));
        std::string whole;
        const std::string address = "name.test:" + std::to_string(place.port);
        const uint64_t live = live_now();
        wh_coro *patient = spawn([&] { whole = resolved(address, place.resolver); });
        std::vector<wh_coro *> callers;
        std::atomic<int> connected{0};
        for (int i = 0; i < 8; i++)
            callers.push_back(spawn([&] {
                Fd fd(place.dial("name.test"));
                connected += peer_of(fd) == "127.0.0.1";
            }));
        for (wh_coro *caller : callers)
            join(caller);
        CHECK(connected == 8);
        CHECK(whole.empty());
        Fd late(place.dial("name.test")); /* one that comes when there is something already */
        CHECK(peer_of(late) == "127.0.0.1");
        wh_event_set(&gate);
        join(patient);
        CHECK(whole.find("127.0.0.1") != std::string::npos);
        CHECK(whole.find("2001:db8::1") != std::string::npos);
        CHECK(place.server.asked("name.test", A) <= 2);
        until_live(live);
    });
}

TEST_CASE("dial: cancel and deadline end a race that waits for the late family")
{
    const int fds = fds_open();
    in_run([] {
        SlowPlace place;
        place.server.on("name.test", A, Reply::with({"127.0.0.3"})); /* refused */
        place.server.on("name.test", AAAA, Reply::drop());
        const uint64_t live = live_now();
        for (int i = 0; i < 5; i++) {
            wh_fd got = -1;
            WH_WITH_TIMEOUT(i * 30 * WH_MILLISECOND)
            {
                got = place.dial("name.test");
            }
            CHECK(got == -ETIMEDOUT);
        }
        wh_fd got = -1;
        const int before = place.server.asked("name.test", AAAA);
        wh_coro *caller = spawn([&] { got = place.dial("name.test"); });
        until([&] { return place.server.asked("name.test", AAAA) >= before + 2; });
        wh_cancel(caller);
        join(caller);
        CHECK(got == -ECANCELED);
        until_live(live);
    });
    CHECK(fds_open() == fds);
}

#endif
