/*
 * hostile_test.cpp: clients that mean harm, and the good client beside them.
 */
#include "tests/http/harness.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>

namespace
{

/* One client of each bad kind after the other. */
void one_bad_client(uint16_t port, unsigned turn)
{
    Client client(port);
    switch (turn % 8) {
    case 0: client.send(noise(3000, turn)); break;
    case 1:
        client.send("GET / HTTP/1.1\r\nX: " + std::string(20000, 'x'));
        client.reset();
        break;
    case 2:
        client.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nshort");
        client.reset();
        break;
    case 3: /* asks and does not wait for the answer */
        for (int i = 0; i < 50; i++)
            client.send(get("/status"));
        client.reset();
        break;
    case 4:
        client.send("GET / HTT");
        client.finish_sending();
        client.end(1000);
        break;
    case 5: client.send(get("/files/%2e%2e/%2e%2e/etc/passwd")); break;
    case 6:
        client.send("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
                    "fffffffffffffffff\r\n");
        client.end(1000);
        break;
    default: client.reset(); break;
    }
}

/* A process that is hostile until it is killed. */
pid_t hostile_mix(uint16_t port)
{
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    alarm(60);
    try {
        std::vector<Client> silent; /* connects and says nothing, or half a word */
        for (unsigned turn = 0;; turn++) {
            one_bad_client(port, turn);
            silent.emplace_back(port);
            silent.back().send(turn % 2 ? "GET" : "");
            if (silent.size() > 300)
                silent.clear();
        }
    } catch (...) {
        _exit(1);
    }
}

} // namespace

TEST_CASE("http: a reset at any moment ends that connection and nothing else")
{
    Server server;
    Client good(server.port());
    REQUIRE(good.ask(get("/")).status == 200);
    size_t descriptors = server.descriptors();
    const std::string request = post("/echo", noise(3000));
    for (size_t at = 0; at <= request.size(); at += 97) {
        Client client(server.port());
        REQUIRE(client.send(std::string_view(request).substr(0, at)));
        client.reset();
    }
    for (int i = 0; i < 20; i++) { /* with answers under way */
        Client client(server.port());
        for (int k = 0; k < 30; k++)
            client.send(request);
        client.reset();
    }
    CHECK(good.ask(get("/")).status == 200);
    CHECK(server.reaches("connections", "open", 2));
    CHECK(server.descriptors() == descriptors);
    CHECK(server.stop() == 0);
    CHECK(lines_of(server.said()) == 1);
}

TEST_CASE("http: slow senders by the hundred do not slow down the others")
{
    Server server({"--read-timeout-ms", "60000"});
    std::vector<Client> slow;
    for (int i = 0; i < 500; i++) {
        slow.emplace_back(server.port());
        REQUIRE(slow.back().send("GET / HTTP/1.1\r\nHost: te"));
    }
    Client good(server.port());
    double worst = 0;
    for (int i = 0; i < 500; i++) {
        slow[static_cast<size_t>(i)].send("x");
        Clock::time_point begin = Clock::now();
        REQUIRE(good.ask(get("/")).status == 200);
        worst = std::max(worst, ms_since(begin));
    }
    CHECK(worst < 1000);
    for (Client &client : slow)
        REQUIRE(client.ask("st\r\n\r\n").status == 200);
}

TEST_CASE("http: a good client is served in time beside a hostile mix")
{
    Server server({"--read-timeout-ms", "300", "--idle-timeout-ms", "300"});
    pid_t bad = hostile_mix(server.port());
    REQUIRE(bad > 0);
    std::vector<double> took;
    Clock::time_point begin = Clock::now();
    size_t failed = 0;
    Client good(server.port());
    while (ms_since(begin) < 2000) {
        Clock::time_point asked = Clock::now();
        failed += good.ask(get("/")).status != 200;
        took.push_back(ms_since(asked));
    }
    int status = 0;
    CHECK(waitpid(bad, &status, WNOHANG) == 0); /* it was there all the time */
    kill(bad, SIGKILL);
    waitpid(bad, &status, 0);
    std::sort(took.begin(), took.end());
    CAPTURE(took.size(), took.back());
    CHECK(failed == 0);
    CHECK(server.number("connections", "accepted") > 100);
    CHECK(server.number("requests", "malformed") > 20);
    REQUIRE(took.size() > 20);
    CHECK(took[took.size() * 99 / 100] < 100);
    CHECK(took.back() < 1000);
    good.close();
    CHECK(server.reaches("connections", "open", 1));
    CHECK(server.stop() == 0);
    CHECK(lines_of(server.said()) == 1); /* the report, and no complaint of a sanitizer */
}
