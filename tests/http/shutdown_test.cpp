/*
 * shutdown_test.cpp: the end on a signal: who may finish, who is cut off, what is said.
 */
#include "tests/http/harness.hpp"

#include <catch2/catch_test_macros.hpp>

namespace
{

/* Waits until nobody can connect any more: the listener is closed. */
bool listener_closes(const Server &server)
{
    Clock::time_point begin = Clock::now();
    while (ms_since(begin) < PATIENCE_MS)
        if (!can_connect(server.port()))
            return true;
    return false;
}

} // namespace

TEST_CASE("http: an idle server ends at once on SIGTERM and on SIGINT, with status 0")
{
    for (int number : {SIGTERM, SIGINT}) {
        Server server;
        REQUIRE(ask_once(server, get("/")).status == 200);
        REQUIRE(server.reaches("connections", "open", 1));
        Clock::time_point begin = Clock::now();
        server.signal(number);
        CHECK(server.wait() == 0);
        CHECK(ms_since(begin) < 2000);
        CHECK(server.said().find(
                  "stopped: 0 requests finished while stopping, 0 connections cancelled after "
                  "0.0 s; served ") == 0);
        CHECK(lines_of(server.said()) == 1);
    }
}

TEST_CASE("http: idle connections are ended at once")
{
    Server server;
    std::vector<Client> clients;
    for (int i = 0; i < 50; i++) {
        clients.emplace_back(server.port());
        if (i % 2)
            REQUIRE(clients.back().ask(get("/")).status == 200);
    }
    REQUIRE(server.reaches("connections", "open", 51));
    Clock::time_point begin = Clock::now();
    CHECK(server.stop() == 0);
    CHECK(ms_since(begin) < 2000);
    for (Client &client : clients) {
        CHECK(client.end() == Ending::fin);
        CHECK(client.received().empty());
    }
    CHECK(server.said().find(" 0 connections cancelled") != std::string::npos);
}

TEST_CASE("http: a request in flight is finished after SIGTERM, and told that it was the last")
{
    Server server;
    Client slow(server.port());
    const std::string request = post("/echo", "in flight");
    REQUIRE(slow.send(std::string_view(request).substr(0, request.size() - 5)));
    REQUIRE(ask_once(server, get("/")).status == 200); /* the server has that half */
    server.signal(SIGTERM);
    REQUIRE(listener_closes(server));
    Answer a = slow.ask(std::string_view(request).substr(request.size() - 5));
    CHECK(a.status == 200);
    CHECK(a.body == "in flight");
    CHECK(a.header("connection") == "close");
    slow.finish_sending();
    CHECK(slow.end() == Ending::fin);
    CHECK(server.wait() == 0);
    CHECK(server.said().find(
              "stopped: 1 requests finished while stopping, 0 connections cancelled after ") == 0);
    CHECK(server.said().find("; served 2 requests on ") != std::string::npos);
}

TEST_CASE("http: a request that has come, but was not looked at before the signal, is answered")
{
    Server server;
    Client client(server.port());
    REQUIRE(client.ask(get("/")).status == 200);
    server.signal(SIGSTOP);
    siginfo_t info;
    REQUIRE(waitid(P_PID, static_cast<id_t>(server.pid()), &info, WSTOPPED | WNOWAIT) == 0);
    REQUIRE(client.send(get("/") + get("/")));
    server.signal(SIGTERM);
    server.signal(SIGCONT);
    Answer a = client.answer();
    CHECK(a.status == 200);
    CHECK(client.end() != Ending::open);
    CHECK(server.wait() == 0);
}

TEST_CASE("http: a large answer on its way to a slow reader is finished")
{
    Folder folder;
    const std::string content = noise(8000000);
    folder.write("big", content);
    Server server({"--root", folder.path()});
    Client client(server.port(), "", 65536);
    REQUIRE(client.send(get("/files/big")));
    REQUIRE(ask_once(server, get("/")).status == 200);
    server.signal(SIGTERM);
    REQUIRE(listener_closes(server));
    Clock::time_point begin = Clock::now();
    Answer a = client.answer();
    CHECK((a.body == content));
    CHECK(client.end() == Ending::fin); /* although the head, sent before, did not say so */
    CHECK(server.wait() == 0);
    CHECK(ms_since(begin) < 5000);
    CHECK(server.said().find(" 0 connections cancelled") != std::string::npos);
}

TEST_CASE("http: what is stuck is cancelled when the grace is over")
{
    Server server({"--grace-ms", "300"});
    Client stuck(server.port());
    Client other(server.port());
    REQUIRE(stuck.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf"));
    REQUIRE(other.send("GET / HT"));
    REQUIRE(ask_once(server, get("/")).status == 200);
    Clock::time_point begin = Clock::now();
    CHECK(server.stop() == 0);
    CHECK(ms_since(begin) >= 295);
    CHECK(ms_since(begin) < 5000);
    CHECK(server.said().find(
              "stopped: 0 requests finished while stopping, 2 connections cancelled after 0.3 s; "
              "served 1 requests on 3 connections\n") == 0);
    CHECK(stuck.end() != Ending::open);
    CHECK(other.end() != Ending::open);
}

TEST_CASE("http: a second signal ends at once")
{
    Server server;
    Client stuck(server.port());
    REQUIRE(stuck.send("GET / HT"));
    REQUIRE(ask_once(server, get("/")).status == 200);
    server.signal(SIGTERM);
    REQUIRE(listener_closes(server));
    Clock::time_point begin = Clock::now();
    server.signal(SIGTERM);
    int status = server.wait();
    CHECK(ms_since(begin) < 2000);
    CHECK(status == 0);
    CHECK(server.said().find(
              "stopped: 0 requests finished while stopping, 1 connections cancelled") == 0);
    CHECK(stuck.end() != Ending::open);
}

TEST_CASE("http: all workers end together")
{
    Server server({"--workers", "4", "--grace-ms", "200"});
    std::vector<Client> clients;
    for (int i = 0; i < 40; i++) {
        clients.emplace_back(server.port());
        REQUIRE(clients.back().ask(get("/")).status == 200);
    }
    for (int i = 0; i < 8; i++)
        REQUIRE(clients[static_cast<size_t>(i)].send("GET / HT"));
    while (server.number("requests", "answered") < 41)
        ;
    CHECK(server.stop() == 0);
    for (Client &client : clients)
        CHECK(client.end() != Ending::open);
    CHECK(lines_of(server.said()) == 1);
}
