/*
 * resolve_test.cpp: the sentences of whorl/resolve.h that need no server: addresses, services, the
 * hosts file.
 */
#include "tests/net/name_server.hpp"

#include <catch2/catch_test_macros.hpp>

#include <sys/stat.h>

TEST_CASE("resolve: addresses and localhost are what they are, and services have their ports")
{
    in_run([] {
        const wh_resolver_options none = {};
        std::string text = resolved("192.0.2.7:80", none);
        CHECK(text == "192.0.2.7:80");
        text = resolved("[2001:db8::1]:443", none);
        CHECK(text == "[2001:db8::1]:443");
        text = resolved("localhost:7", none);
        CHECK(text == "127.0.0.1:7");
        text = resolved(":80", none);
        CHECK(text == "[::]:80");
        text = resolved("192.0.2.7:https", none);
        CHECK(text == "192.0.2.7:443");
        text = resolved("[::1]:http", none);
        CHECK(text == "[::1]:80");
        text = resolved(":domain", none);
        CHECK(text == "[::]:53");
        text = resolved("192.0.2.7:no-such-service", none);
        CHECK(text == error_text(ESRCH));
        wh_resolver_options six = {};
        six.family = AF_INET6;
        text = resolved("192.0.2.7:80", six);
        CHECK(text == error_text(ENOENT));
        text = resolved("192.0.2.7:http", six);
        CHECK(text == error_text(ENOENT));
    });
}

TEST_CASE("resolve: an address of the other family is -ENOENT, and nobody is asked for it")
{
    Folder folder;
    const std::string hosts = write_file(folder, "hosts",
                                         "2001:db8::1 192.0.2.7 localhost .\n"
                                         "192.0.2.1 [::1] .\n");
    in_run([&] {
        Fd server(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
        Address address = Address::ipv4(0);
        CHECK(bind(server, address.any(), address.len) == 0);
        const std::string servers = "127.0.0.1:" + std::to_string(Address::of(server).port());
        wh_resolver_options four = {};
        four.servers = servers.c_str();
        four.try_ns = WH_MILLISECOND;
        four.tries = 1;
        four.hosts_file = hosts.c_str();
        four.family = AF_INET;
        wh_resolver_options six = four;
        six.family = AF_INET6;
        for (const char *port : {"80", "http"}) {
            INFO(port);
            const std::string end = ":" + std::string(port);
            std::string text = resolved("192.0.2.7" + end, six);
            CHECK(text == error_text(ENOENT));
            text = resolved("localhost" + end, six);
            CHECK(text == error_text(ENOENT));
            text = resolved("[::1]" + end, four);
            CHECK(text == error_text(ENOENT));
            text = resolved(end, four);
            CHECK(text == error_text(ENOENT));
            text = resolved(end, six);
            CHECK(text == "[::]:80");
        }
        char byte;
        CHECK(recv(server, &byte, 1, MSG_DONTWAIT) == -1);
    });
}

TEST_CASE("resolve: texts that are no address and options out of range are -EINVAL")
{
    in_run([] {
        const wh_resolver_options none = {};
        const std::string label(64, 'a'), name = std::string(63, 'b') + ".";
        for (const std::string &text : {std::string(""),
                                        std::string("name"),
                                        std::string("name:"),
                                        std::string("a b:80"),
                                        std::string("a..b:80"),
                                        std::string(".:80"),
                                        std::string(".a:80"),
                                        std::string("256.0.0.1:80"),
                                        std::string("127.1:80"),
                                        std::string("0x7f.0.0.1:80"),
                                        std::string("2130706433:80"),
                                        std::string("a.7:80"),
                                        std::string("a.0x7f:80"),
                                        std::string("::1:80"),
                                        std::string("[name]:80"),
                                        std::string("name:65536"),
                                        std::string("name:000080"),
                                        std::string("name:a b"),
                                        std::string("na\xc3\xafve:80"),
                                        std::string("*:80"),
                                        label + ":80",
                                        name + name + name + name + "c:80",
                                        "name:" + std::string(64, 's')}) {
            const std::string rc = resolved(text, none);
            INFO(text);
            CHECK(rc == error_text(EINVAL));
        }
        wh_addr found;
        int rc = wh_resolve(nullptr, nullptr, &found, 1);
        CHECK(rc == -EINVAL);
        for (int i = 0; i < 6; i++) {
            wh_resolver_options options = {};
            options.hosts_file = "";
            if (i == 0)
                options.servers = "";
            if (i == 1)
                options.try_ns = 5;
            if (i == 2)
                options.try_ns = WH_HOUR;
            if (i == 3)
                options.tries = 17;
            if (i == 4)
                options.tries = -1;
            if (i == 5)
                options.family = AF_UNIX;
            const std::string said = resolved("name:80", options);
            INFO(i);
            CHECK(said == error_text(EINVAL));
        }
    });
}

TEST_CASE("resolve: a hosts file is read, case and comments and all")
{
    Folder folder;
    const std::string path = write_file(folder, "hosts",
                                        "# 192.0.2.99 host\n"
                                        "192.0.2.1 other host.example  Host # not this\n"
                                        "\t2001:db8::1\tHOST. six\n"
                                        "nonsense host\n"
                                        "192.0.2.2 hosts\n"
                                        "192.0.2.3\n"
                                        "2001:db8::2 host\r\n"
                                        "192.0.2.4 host");
    in_run([&] {
        wh_resolver_options options = {};
        options.hosts_file = path.c_str();
        std::string text = resolved("host:80", options);
        CHECK(text == "192.0.2.1:80 [2001:db8::1]:80 192.0.2.4:80 [2001:db8::2]:80");
        text = resolved("HOST.:http", options);
        CHECK(text == "192.0.2.1:80 [2001:db8::1]:80 192.0.2.4:80 [2001:db8::2]:80");
        text = resolved("six:1", options);
        CHECK(text == "[2001:db8::1]:1");
        text = resolved("host.example:1", options);
        CHECK(text == "192.0.2.1:1");
        options.family = AF_INET6;
        text = resolved("host:80", options);
        CHECK(text == "[2001:db8::1]:80 [2001:db8::2]:80");
        options.family = AF_INET;
        text = resolved("host:80", options);
        CHECK(text == "192.0.2.1:80 192.0.2.4:80");

        wh_addr few[2];
        options.family = 0;
        int n = wh_resolve("host:80", &options, few, 2);
        CHECK(n == 4);
        CHECK(text_of(few[1]) == "[2001:db8::1]:80");
        n = wh_resolve("host:80", &options, nullptr, 0);
        CHECK(n == 4);
    });
}

TEST_CASE("resolve: a call in a context that has ended does nothing")
{
    in_run([] {
        WH_WITH_CANCEL(ctx)
        {
            wh_ctx_cancel(ctx, 0);
            const std::string text = resolved("192.0.2.1:80", {});
            CHECK(text == error_text(ECANCELED));
        }
        WH_WITH_TIMEOUT(0)
        {
            const std::string text = resolved("name.example:80", {});
            CHECK(text == error_text(ETIMEDOUT));
        }
    });
}

TEST_CASE("resolve: a run that ends while a file is read leaves the lookup to the reader")
{
    Folder folder;
    static std::string fifo;
    static int writer;
    fifo = folder / "fifo";
    CHECK(mkfifo(fifo.c_str(), 0600) == 0);
    const int fds = fds_open();
    wh_options options = {};
    options.grace_ns = -1;
    for (int i = 0; i < 3; i++) {
        in_run(
            [] {
                const int rc = wh_go([] {
                    wh_resolver_options resolver = {};
                    resolver.servers = "127.0.0.1:9";
                    resolver.hosts_file = fifo.c_str();
                    wh_addr found;
                    (void)!wh_resolve("name.test:80", &resolver, &found, 1);
                });
                CHECK(rc == 0);
                until([] { /* the thread has begun to open it, and will wait in its read */
                           writer = open(fifo.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC);
                           return writer >= 0;
                });
            },
            &options);
        CHECK(fds_open() > fds);
        ::close(writer);
        const int64_t limit_ns = wh_now() + 20 * WH_SECOND;
        bool closed = false; /* the thread may open and close some others on its way out */
        while (!closed && wh_now() < limit_ns) {
            closed = fds_open() == fds;
            sched_yield();
        }
        CHECK(closed);
    }
}

#if !HAVE_CARES

TEST_CASE("resolve: without c-ares a name that is not in the hosts file is -ENOSYS")
{
    in_run([] {
        wh_resolver_options options = {};
        std::string text = resolved("no-such-name.example:80", options);
        CHECK(text == error_text(ENOSYS));
        options.hosts_file = "";
        text = resolved("name:80", options);
        CHECK(text == error_text(ENOSYS));
        Fd fd(wh_dial_tcp("no-such-name.example:80"));
        CHECK(fd == -ENOSYS);
    });
}

#endif
