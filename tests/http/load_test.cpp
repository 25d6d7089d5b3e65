/*
 * load_test.cpp: many clients: a load generator that is not ours, and connections by the ten
 * thousand, counted before and after.
 */
#include "tests/http/harness.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>

#include <sys/resource.h>

namespace
{

/* How many connections one process can hold open here, with some descriptors to spare. */
size_t connections_possible()
{
    struct rlimit limit;
    REQUIRE(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    return std::min<size_t>(limit.rlim_cur - 200, 19000);
}

/* Clients come from several addresses: one has too few ports for all that are in TIME_WAIT. */
std::string source(size_t i)
{
    return "127.0.0." + std::to_string(2 + i % 8);
}

struct Figures {
    size_t descriptors;
    size_t resident;
    double coroutines;
    double stacks;
};

Figures figures(const Server &server)
{
    return {server.descriptors(), server.resident_bytes(), server.number("coroutines", "live"),
            server.number("memory", "stacks_in_use")};
}

} // namespace

TEST_CASE("http: wrk finds no error in two seconds")
{
    if (!have_program("wrk"))
        SKIP("wrk is not installed");
    Server server;
    std::string url = "http://127.0.0.1:" + std::to_string(server.port()) + "/";
    std::string said = run_program({"wrk", "-t1", "-c64", "-d2s", url});
    CAPTURE(said);
    CHECK(said.find("Socket errors") == std::string::npos);
    CHECK(said.find("Non-2xx") == std::string::npos);
    CHECK(said.find("requests in") != std::string::npos);
    CHECK(server.number("requests", "answered") > 1000);
    CHECK(server.number("requests", "malformed") == 0);
    CHECK(server.reaches("connections", "open", 1));
}

TEST_CASE("http: twenty thousand connections come and go without a trace")
{
    const size_t at_once = std::min<size_t>(connections_possible(), 10000);
    Server server({"--max-connections", "100000", "--idle-timeout-ms", "120000"});
    REQUIRE(ask_once(server, get("/")).status == 200);
    REQUIRE(server.reaches("connections", "open", 1));
    Figures before = figures(server);
    size_t made = 0, answered = 0;
    while (made < 20000) {
        std::vector<Client> clients;
        clients.reserve(at_once);
        for (size_t i = 0; i < at_once; i++, made++) {
            clients.emplace_back(server.port(), source(i));
            REQUIRE(clients.back().send(get("/")));
        }
        for (Client &client : clients)
            answered += client.answer().status == 200;
        CHECK(server.number("connections", "open") == static_cast<double>(at_once) + 1);
        for (size_t i = 0; i < at_once; i += 2) /* half of them rudely */
            clients[i].reset();
        clients.clear();
        REQUIRE(server.reaches("connections", "open", 1));
    }
    CHECK(answered == made);
    Figures after = figures(server);
    CHECK(after.descriptors == before.descriptors);
    CHECK(after.coroutines == before.coroutines);
    CHECK(after.stacks == before.stacks);
    /* Stacks are kept warm for the next for a while; then the memory is given back. A sanitizer
     * keeps its notes on them, but looks for leaks itself when the server ends. */
    const size_t kept = SANITIZED ? SIZE_MAX : before.resident + 8000000;
    Client quiet(server.port());
    Clock::time_point begin = Clock::now();
    while (server.resident_bytes() > kept && ms_since(begin) < PATIENCE_MS)
        REQUIRE(quiet.end(100) == Ending::open);
    CAPTURE(before.resident);
    CHECK(server.resident_bytes() <= kept);
    quiet.close();
    CHECK(server.number("requests", "malformed") == 0);
    CHECK(server.stop() == 0);
    CHECK(lines_of(server.said()) == 1);
}

TEST_CASE("http: an idle connection holds one page of stack, and little else")
{
    if (!LEAN)
        SKIP("the frames of a sanitizer, or without optimisation, are larger");
    const size_t count = std::min<size_t>(connections_possible(), 4000);
    Server server({"--max-connections", "100000"});
    REQUIRE(ask_once(server, get("/")).status == 200);
    REQUIRE(server.reaches("connections", "open", 1));
    double stacks_before = server.number("memory", "stacks_resident_bytes");
    size_t resident_before = server.resident_bytes();
    std::vector<Client> clients;
    for (size_t i = 0; i < count; i++) {
        clients.emplace_back(server.port(), source(i));
        REQUIRE(clients.back().ask(get("/")).status == 200);
    }
    double stacks = (server.number("memory", "stacks_resident_bytes") - stacks_before) /
                    static_cast<double>(count);
    double resident =
        static_cast<double>(server.resident_bytes() - resident_before) / static_cast<double>(count);
    CAPTURE(stacks, resident);
    CHECK(stacks < 4200);
    CHECK(resident < 5000);
}
