/*
 * resolve_dns_test.cpp: names of DNS (whorl/resolve.h), with a server of the test's own.
 */
#include "tests/net/name_server.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <atomic>
#include <set>
#include <sstream>

#include <sys/stat.h>

namespace
{

std::vector<std::string> words(const std::string &text)
{
    std::istringstream stream(text);
    std::vector<std::string> all;
    for (std::string word; stream >> word;)
        all.push_back(word);
    return all;
}

std::set<std::string> sorted(const std::string &text)
{
    const auto all = words(text);
    return {all.begin(), all.end()};
}

/* Whether the families take turns as long as there are both. */
bool take_turns(const std::string &text)
{
    const auto all = words(text);
    const auto is_v6 = [](const std::string &word) { return word[0] == '['; };
    const auto v6 = std::count_if(all.begin(), all.end(), is_v6);
    const size_t both = 2 * static_cast<size_t>(std::min(v6, static_cast<long>(all.size()) - v6));
    for (size_t i = 1; i < both; i++)
        if (is_v6(all[i]) == is_v6(all[i - 1]))
            return false;
    return true;
}

} // namespace

/* ---- Answers ---- */

TEST_CASE("resolve: names with addresses of one family, of the other, of both, and of many")
{
    in_run([] {
        NameServer server;
        server.on("four.test", A, Reply::with({"192.0.2.1"}));
        server.on("six.test", AAAA, Reply::with({"2001:db8::1"}));
        server.on("both.test", A, Reply::with({"192.0.2.1", "192.0.2.2", "192.0.2.3"}));
        server.on("both.test", AAAA, Reply::with({"2001:db8::1", "2001:db8::2"}));
        std::vector<std::string> fours, sixes;
        for (int i = 1; i <= 20; i++) {
            fours.push_back("192.0.2." + std::to_string(i));
            sixes.push_back("2001:db8::" + std::to_string(i));
        }
        server.on("many.test", A, Reply::with(fours));
        server.on("many.test", AAAA, Reply::with(sixes));
        wh_resolver_options options = server.options();

        std::string text = resolved("four.test:80", options);
        CHECK(text == "192.0.2.1:80");
        text = resolved("six.test:http", options);
        CHECK(text == "[2001:db8::1]:80");
        text = resolved("both.test.:80", options);
        CHECK(sorted(text) == sorted("192.0.2.1:80 192.0.2.2:80 192.0.2.3:80 [2001:db8::1]:80 "
                                     "[2001:db8::2]:80"));
        CHECK(take_turns(text));
        text = resolved("many.test:80", options);
        CHECK(sorted(text).size() == 40);
        CHECK(take_turns(text));

        options.family = AF_INET;
        text = resolved("both.test:80", options);
        CHECK(sorted(text) == sorted("192.0.2.1:80 192.0.2.2:80 192.0.2.3:80"));
        CHECK(server.asked("both.test", AAAA) == 1);
        text = resolved("six.test:80", options);
        CHECK(text == error_text(ENOENT));
        options.family = AF_INET6;
        text = resolved("both.test:80", options);
        CHECK(sorted(text) == sorted("[2001:db8::1]:80 [2001:db8::2]:80"));
    });
}

TEST_CASE("resolve: what does not exist, and servers that fail, refuse or talk nonsense")
{
    in_run([] {
        NameServer server;
        server.on("fails.test", A, Reply::code(SERVFAIL));
        server.on("fails.test", AAAA, Reply::code(SERVFAIL));
        server.on("refuses.test", A, Reply::code(REFUSED));
        server.on("refuses.test", AAAA, Reply::code(REFUSED));
        server.on("empty.test", A, Reply::code(NOERROR));
        server.on("nonsense.test", A, Reply::nonsense());
        server.on("nonsense.test", AAAA, Reply::nonsense());
        server.on("silent.test", A, Reply::drop());
        server.on("silent.test", AAAA, Reply::drop());
        wh_resolver_options options = server.options();
        options.try_ns = 20 * WH_MILLISECOND;
        options.tries = 2;
        std::string text = resolved("missing.test:80", options);
        CHECK(text == error_text(ENOENT));
        text = resolved("empty.test:80", options);
        CHECK(text == error_text(ENOENT));
        text = resolved("fails.test:80", options);
        CHECK(text == error_text(EREMOTEIO));
        text = resolved("refuses.test:80", options);
        CHECK(text == error_text(EREMOTEIO));
        text = resolved("nonsense.test:80", options);
        CHECK(text == error_text(EREMOTEIO));
        const int64_t start_ns = wh_now();
        text = resolved("silent.test:80", options);
        CHECK(text == error_text(EHOSTDOWN));
        CHECK(wh_now() - start_ns >= 20 * WH_MILLISECOND);
        CHECK(server.asked("silent.test", A) == 2);
        text = resolved("host.onion:80", options);
        CHECK(text == error_text(ENOENT));
    });
}

TEST_CASE("resolve: no server at all is -EHOSTDOWN")
{
    in_run([] {
        Fd closed(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
        Address address = Address::ipv4(0);
        (void)bind(closed, address.any(), address.len);
        const std::string servers = "127.0.0.1:" + std::to_string(Address::of(closed).port());
        closed.reset();
        wh_resolver_options options = {};
        options.servers = servers.c_str();
        options.hosts_file = "";
        options.try_ns = 20 * WH_MILLISECOND;
        std::string text = resolved("name.test:80", options);
        CHECK(text == error_text(EHOSTDOWN));
        options.servers = "no address";
        text = resolved("name.test:80", options);
        CHECK(text == error_text(EINVAL));
    });
}

TEST_CASE("resolve: a question that got lost is asked again, and of the next server")
{
    in_run([] {
        NameServer first, second;
        first.on("lost.test", A, {Reply::drop(), Reply::with({"192.0.2.1"})});
        first.on("fails.test", A, Reply::code(SERVFAIL));
        second.on("fails.test", A, Reply::with({"192.0.2.2"}));
        wh_resolver_options options = first.options();
        options.family = AF_INET;
        options.try_ns = 20 * WH_MILLISECOND;
        std::string text = resolved("lost.test:80", options);
        CHECK(text == "192.0.2.1:80");
        CHECK(first.asked("lost.test", A) == 2);
        const std::string both = first.address() + "," + second.address();
        options.servers = both.c_str();
        text = resolved("fails.test:80", options);
        CHECK(text == "192.0.2.2:80");
        CHECK(first.asked("fails.test", A) == 1);
    });
}

TEST_CASE("resolve: an answer that was cut is asked for by TCP")
{
    in_run([] {
        NameServer server;
        std::vector<std::string> fours;
        for (int i = 1; i <= 50; i++)
            fours.push_back("192.0.2." + std::to_string(i));
        server.on("long.test", A, Reply::with(fours).cut());
        server.on("long.test", AAAA, Reply::with({"2001:db8::1"}).cut());
        const std::string text = resolved("long.test:80", server.options());
        CHECK(sorted(text).size() == 51);
        CHECK(server.asked_by_tcp() == 2);
    });
}

TEST_CASE("resolve: the search list is tried in its order")
{
    in_run([] {
        NameServer server;
        server.on("host.b.test", A, Reply::with({"192.0.2.1"}));
        server.on("host", A, Reply::with({"192.0.2.2"}));
        server.on("bare", A, Reply::with({"192.0.2.3"}));
        wh_resolver_options options = server.options();
        options.family = AF_INET;
        std::string text = resolved("host:80", options);
        CHECK(text == "192.0.2.2:80"); /* no list */
        options.search = "a.test, b.test";
        text = resolved("host:80", options);
        CHECK(text == "192.0.2.1:80");
        CHECK(server.questions() == "host/1 host.a.test/1 host.b.test/1 ");
        text = resolved("host.:80", options);
        CHECK(text == "192.0.2.2:80");
        text = resolved("bare:80", options);
        CHECK(text == "192.0.2.3:80");
        CHECK(server.asked("bare.b.test", A) == 1);
        const std::string label(60, 'l'), tail = "." + label + "." + label + ".test";
        std::string long_list; /* 16 of them, 2 KB in all */
        for (char c = 'a'; c <= 'p'; c++)
            long_list += c + tail + ",";
        server.on("host.p" + tail, A, Reply::with({"192.0.2.4"}));
        options.search = long_list.c_str();
        text = resolved("host:80", options);
        CHECK(text == "192.0.2.4:80");
        CHECK(server.asked("host.o" + tail, A) == 1);
        const std::string many = "a b c d e f g h i j k l m n o p q";
        options.search = many.c_str();
        text = resolved("host:80", options);
        CHECK(text == error_text(EINVAL));
    });
}

TEST_CASE("resolve: the hosts file comes before DNS")
{
    Folder folder;
    const std::string path = write_file(folder, "hosts", "192.0.2.1 here.test\n");
    in_run([&] {
        NameServer server;
        server.on("here.test", A, Reply::with({"192.0.2.2"}));
        server.on("there.test", A, Reply::with({"192.0.2.3"}));
        wh_resolver_options options = server.options();
        options.hosts_file = path.c_str();
        std::string text = resolved("here.test:80", options);
        CHECK(text == "192.0.2.1:80");
        CHECK(server.asked("here.test", A) == 0);
        text = resolved("there.test:80", options);
        CHECK(text == "192.0.2.3:80");
        const std::string missing = folder / "missing";
        options.hosts_file = missing.c_str();
        text = resolved("here.test:80", options);
        CHECK(text == "192.0.2.2:80");
    });
}

/* ---- Several at once ---- */

TEST_CASE("resolve: lookups of the same name at the same time are one, and not for other options")
{
    in_run([] {
        NameServer server;
        wh_event gate = {};
        server.on("name.test", A, Reply::with({"192.0.2.1"}).behind(&gate));
        wh_resolver_options options = server.options();
        options.family = AF_INET; /* of both, one that is late would be asked for again */
        constexpr int CALLERS = 40;
        std::atomic<int> right{0};
        std::vector<wh_coro *> callers;
        for (int i = 0; i < CALLERS; i++)
            callers.push_back(on(worker_for(static_cast<unsigned>(i)), [&] {
                right += resolved("name.test:80", options) == "192.0.2.1:80";
            }));
        until([&] { return server.asked("name.test", A) == 1; });
        for (wh_coro *caller : callers)
            until_parked(caller);
        wh_coro *other_port =
            spawn([&] { right += resolved("name.test:81", options) == "192.0.2.1:81"; });
        until([&] { return server.asked("name.test", A) == 2; });
        wh_event_set(&gate);
        for (wh_coro *caller : callers)
            join(caller);
        join(other_port);
        CHECK(right == CALLERS + 1);
        CHECK(server.asked("name.test", A) == 2);
        const std::string text = resolved("name.test:80", options);
        CHECK(text == "192.0.2.1:80");
        CHECK(server.asked("name.test", A) == 3); /* nothing was kept */
    });
}

TEST_CASE("resolve: many names from all workers, each asked of one server")
{
    in_run([] {
        NameServer server;
        constexpr unsigned NAMES = 50;
        for (unsigned i = 0; i < NAMES; i++) {
            const std::string name = "n" + std::to_string(i) + ".test";
            server.on(name, A, Reply::with({"192.0.2." + std::to_string(i)}));
            server.on(name, AAAA, Reply::with({"2001:db8::1"}));
        }
        const wh_resolver_options options = server.options();
        const intptr_t right = on_all(4 * NAMES, [&](unsigned i) {
            const std::string number = std::to_string(i % NAMES);
            return sorted(resolved("n" + number + ".test:80", options)) ==
                   sorted("192.0.2." + number + ":80 [2001:db8::1]:80");
        });
        CHECK(right == 4 * NAMES);
    });
}

/* ---- Cancel and timeout ---- */

namespace
{

/* What a caller is stopped by while it waits in the lookup. */
enum Stop { CANCEL, TIMEOUT };

/* Looks the name up, is stopped once `waits` holds, and says what it got. */
template <typename W>
std::string stopped(Stop stop, const std::string &name, const wh_resolver_options &options,
                    const W &waits)
{
    std::string text;
    wh_coro *caller = spawn([&] {
        WH_WITH_TIMEOUT(stop == TIMEOUT ? 30 * WH_MILLISECOND : WH_HOUR)
        {
            text = resolved(name, options);
        }
    });
    if (stop == CANCEL) {
        until(waits);
        until_parked(caller);
        wh_cancel(caller);
    }
    join(caller);
    return text;
}

std::string said(Stop stop)
{
    return error_text(stop == CANCEL ? ECANCELED : ETIMEDOUT);
}

} // namespace

TEST_CASE("resolve: a caller leaves at once, whatever the lookup waits for, and nothing is left")
{
    for (Stop stop : {CANCEL, TIMEOUT}) {
        const int fds = fds_open();
        Folder folder;
        const std::string fifo = folder / "fifo";
        CHECK(mkfifo(fifo.c_str(), 0600) == 0);
        in_run([&] {
            NameServer server;
            wh_event never = {};
            server.on("udp.test", A, Reply::with({"192.0.2.1"}).behind(&never));
            server.on(
                "tcp.test", A,
                {Reply::with({"192.0.2.1"}).cut(), Reply::with({"192.0.2.1"}).behind(&never)});
            server.on("half.test", A, Reply::with({"192.0.2.1"}));
            server.on("half.test", AAAA, Reply::drop());
            wh_resolver_options options = server.options();
            const uint64_t live = live_now();

            std::string text = stopped(stop, "udp.test:80", options,
                                       [&] { return server.asked("udp.test", A) > 0; });
            CHECK(text == said(stop));
            text = stopped(stop, "tcp.test:80", options, [&] { return server.asked_by_tcp() > 0; });
            CHECK(text == said(stop));
            text = stopped(stop, "half.test:80", options,
                           [&] { return server.asked("half.test", AAAA) > 0; });
            CHECK(text == said(stop));
            wh_event_set(&never);

            /* The hosts file is one that blocks who opens it. */
            options.hosts_file = fifo.c_str();
            std::atomic<int> opened{-1};
            text = stopped(stop, "udp.test:80", options, [] { return true; });
            CHECK(text == said(stop));
            std::string again;
            wh_coro *caller = spawn([&] { again = resolved("udp.test:80", options); });
            until([&] { /* two threads wait: for a writer that comes and goes */
                        const int fd = open(fifo.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC);
                        if (fd >= 0)
                            ::close(fd);
                        opened = fd;
                        wh_stats stats;
                        wh_stats_get(&stats);
                        return stats.coros_live <= live;
            });
            join(caller);
            CHECK(again == "192.0.2.1:80");
            until_live(live);
        });
        CHECK(fds_open() == fds);
    }
}

TEST_CASE("resolve: one that leaves does not disturb the others, not even the first")
{
    in_run([] {
        NameServer server;
        wh_event gate = {};
        server.on("name.test", A, Reply::with({"192.0.2.1"}).behind(&gate));
        wh_resolver_options options = server.options();
        options.family = AF_INET; /* of both, one that is late would be asked for again */
        for (int leaving = 0; leaving < 3; leaving++) {
            wh_event_reset(&gate);
            const int asked = server.asked("name.test", A);
            std::vector<std::string> texts(3);
            std::vector<wh_coro *> callers;
            for (unsigned i = 0; i < 3; i++) {
                callers.push_back(
                    on(worker_for(i), [&, i] { texts[i] = resolved("name.test:80", options); }));
                until_parked(callers.back());
            }
            until([&] { return server.asked("name.test", A) == asked + 1; });
            wh_cancel(callers[static_cast<size_t>(leaving)]);
            join(callers[static_cast<size_t>(leaving)]);
            wh_event_set(&gate);
            for (int i = 0; i < 3; i++) {
                if (i != leaving)
                    join(callers[static_cast<size_t>(i)]);
                CHECK(texts[static_cast<size_t>(i)] ==
                      (i == leaving ? error_text(ECANCELED) : "192.0.2.1:80"));
            }
            CHECK(server.asked("name.test", A) == asked + 1);
        }
    });
}

TEST_CASE("resolve: when all have left, the lookup ends, and the next is a new one")
{
    in_run([] {
        NameServer server;
        wh_event gate = {};
        server.on("name.test", A, Reply::with({"192.0.2.1"}).behind(&gate));
        wh_resolver_options options = server.options();
        options.family = AF_INET; /* of both, one that is late would be asked for again */
        const uint64_t live = live_now();
        for (int round = 0; round < 3; round++) {
            std::vector<wh_coro *> callers;
            for (unsigned i = 0; i < 4; i++)
                callers.push_back(on(worker_for(i), [&] {
                    return static_cast<intptr_t>(resolved("name.test:80", options) ==
                                                 error_text(ECANCELED));
                }));
            until([&] { return server.asked("name.test", A) == round + 1; });
            for (wh_coro *caller : callers)
                until_parked(caller);
            for (wh_coro *caller : callers)
                wh_cancel(caller);
            intptr_t right = 0;
            for (wh_coro *caller : callers)
                right += join(caller);
            CHECK(right == 4);
            until_live(live + 2 * static_cast<uint64_t>(round + 1)); /* the server's two handlers */
        }
        wh_event_set(&gate);
        const std::string text = resolved("name.test:80", options);
        CHECK(text == "192.0.2.1:80");
    });
}

TEST_CASE("resolve: callers come and go while answers come")
{
    in_run([] {
        NameServer server;
        server.on("name.test", A, Reply::with({"192.0.2.1"}));
        const wh_resolver_options options = server.options();
        const uint64_t live = live_now();
        const intptr_t right = on_all(static_cast<unsigned>(times(400)), [&](unsigned i) {
            std::string text;
            WH_WITH_TIMEOUT(static_cast<int64_t>(i % 40) * 50 * WH_MICROSECOND)
            {
                text = resolved("name.test:80", options);
            }
            return text == "192.0.2.1:80" || text == error_text(ETIMEDOUT);
        });
        CHECK(right == times(400));
        until_live(live);
    });
}

TEST_CASE("resolve: a run that ends takes its lookups with it")
{
    const int fds = fds_open();
    for (int i = 0; i < times(5); i++)
        in_run([] {
            NameServer server;
            wh_event never = {};
            server.on("name.test", A, Reply::with({}).behind(&never));
            static wh_resolver_options options;
            static std::string servers;
            servers = server.address();
            options = server.options();
            options.servers = servers.c_str();
            for (int j = 0; j < 10; j++)
                (void)start(
                    [j] { (void)resolved("name.test:" + std::to_string(80 + j % 3), options); });
            until([&] { return server.asked("name.test", A) >= 1; });
        });
    CHECK(fds_open() == fds);
}

TEST_CASE("resolve: a run that abandons its coroutines frees their lookups")
{
    wh_options options = {};
    options.grace_ns = -1;
    const int fds = fds_open();
    for (int i = 0; i < 3; i++) {
        std::string servers;
        in_run(
            [&] {
                NameServer server;
                server.on("name.test", A, Reply::drop());
                static wh_resolver_options resolver;
                servers = server.address();
                resolver = server.options();
                resolver.servers = servers.c_str();
                /* what an abandoned coroutine owns is lost: no copy of a body */
                (void)wh_go([] {
                    wh_addr found;
                    (void)!wh_resolve("name.test:80", &resolver, &found, 1);
                });
                until([&] { return server.asked("name.test", A) >= 1; });
            },
            &options);
    }
    CHECK(fds_open() == fds);
}

/* ---- Descriptors ---- */

TEST_CASE("resolve: without descriptors it says so, and works again afterwards")
{
    Folder folder;
    const std::string path = write_file(folder, "hosts", "192.0.2.9 here.test\n");
    int rounds = 0, wrong = 0;
    in_run([&] {
        NameServer server;
        server.on("name.test", A, Reply::with({"192.0.2.1"}));
        wh_resolver_options options = server.options();
        const std::string before = resolved("name.test:80", options);
        CHECK(before == "192.0.2.1:80");
        NoMoreFds none;
        for (bool all = false; !all; rounds++) { /* it comes further with each that is free again */
            options.hosts_file = "";
            const std::string text = resolved("name.test:80", options);
            options.hosts_file = path.c_str();
            const std::string here = resolved("here.test:80", options);
            wrong += text != "192.0.2.1:80" && text != error_text(EMFILE);
            wrong += here != "192.0.2.9:80" && here != error_text(EMFILE);
            all = (text == "192.0.2.1:80" && here == "192.0.2.9:80") || !none.free_one();
        }
    });
    CHECK(wrong == 0);
    CHECK(rounds > 1);
    CHECK(rounds < 8);
}
