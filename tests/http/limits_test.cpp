/*
 * limits_test.cpp: what is malformed, too large, too slow or too many: the right answer, then a
 * clean end, and nothing kept.
 */
#include "tests/http/harness.hpp"

#include <catch2/catch_test_macros.hpp>

#include <sys/socket.h>

namespace
{

/* The answer comes, says that the connection ends, and it does. */
void check_refused(Client &client, int status)
{
    Answer a = client.answer();
    CHECK(a.status == status);
    CHECK(a.header("connection") == "close");
    client.finish_sending();
    CHECK(client.end() == Ending::fin);
}

} // namespace

TEST_CASE("http: what is malformed is 400 and the end")
{
    Server server;
    int number = 0;
    for (const std::string &request :
         {std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11),
          noise(200, 7),
          std::string("GET\r\n\r\n"),
          std::string("GET / HTTP/1.1\r\nHost test\r\n\r\n"),
          std::string("GET / HTTP/1.1\r\n\r\n"), /* no host */
          std::string("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
          std::string("GET / HTTP/1.1\r\nHost: a\r\n: nameless\r\n\r\n"),
          std::string("GET / HTTP/1.0\r\nHost: a b\r\n\r\n"),
          std::string("GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", 33),
          std::string("GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n"),
          std::string("FETCH / HTTP/1.1\r\nHost: a\r\n\r\n"),
          std::string("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
          std::string("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n"),
          std::string("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n"
                      "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
          std::string("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
                      "zz\r\n"),
          std::string("POST /echo HTTP/1.0\r\nConnection: keep-alive\r\n"
                      "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
          std::string("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n"),
          std::string("POST /echo HTTP/1.1\r\nHost: a\r\n"
                      "Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
          std::string("POST /echo HTTP/1.1\r\nHost: a\r\n"
                      "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
          std::string("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
                      "Transfer-Encoding: gzip\r\n\r\n0\r\n\r\n")}) {
        CAPTURE(++number);
        Client client(server.port());
        REQUIRE(client.send(request));
        check_refused(client, 400);
    }
    CHECK(server.number("requests", "malformed") == 20);
    CHECK(ask_once(server, get("/")).status == 200);
}

TEST_CASE("http: a host that is none is 400 and the end, and any other is taken")
{
    Server server;
    for (const char *host :
         {"a b/@", "a b",  "a/",  "u@a",    "a:b",     "a:80:80",   "a:-1",        "a\"",
          "a%2",   "a%2g", "a\\", "<a>",    "a,b c",   "http://a",  "\xc3\xa4",    "[::1",
          "::1",   "[]",   "[a]", "[::1]a", "[::1]:x", "[1::2::3]", "[127.0.0.1]", "[::1%1]"}) {
        CAPTURE(host);
        Client client(server.port());
        REQUIRE(client.send("GET / HTTP/1.1\r\nHost: " + std::string(host) + "\r\n\r\n"));
        check_refused(client, 400);
    }
    Client client(server.port());
    for (const char *host :
         {"a", "a:80", "a:", "", ":80", "A-1.b_c~.example", "a%20b", "(a)!$&'*+,;=", "127.0.0.1",
          "127.0.0.1:8080", "[::1]", "[::1]:8080", "[FE80::1:2]", "[::ffff:127.0.0.1]", " a \t "}) {
        CAPTURE(host);
        CHECK(client.ask("GET / HTTP/1.1\r\nHost: " + std::string(host) + "\r\n\r\n").status ==
              200);
    }
}

TEST_CASE("http: a body with codings other than chunks is 501 and the end")
{
    Server server;
    for (const char *lines : {"Transfer-Encoding: gzip, chunked\r\n",
                              "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n"}) {
        CAPTURE(lines);
        Client client(server.port());
        REQUIRE(client.send("POST /echo HTTP/1.1\r\nHost: a\r\n" + std::string(lines) +
                            "\r\n5\r\ncoded\r\n0\r\n\r\n"));
        check_refused(client, 501);
    }
    CHECK(ask_once(server, "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked \r\n\r\n"
                           "5\r\nplain\r\n0\r\n\r\n")
              .body == "plain");
}

TEST_CASE("http: another version is 505")
{
    Server server;
    Client client(server.port());
    REQUIRE(client.send("GET / HTTP/2.0\r\nHost: a\r\n\r\n"));
    check_refused(client, 505);
}

TEST_CASE("http: what was asked before the nonsense is answered before it is refused")
{
    Server server;
    Client client(server.port());
    REQUIRE(client.send(get("/") + get("/") + "nonsense\r\n\r\n"));
    CHECK(client.answer().status == 200);
    CHECK(client.answer().status == 200);
    check_refused(client, 400);
}

TEST_CASE("http: half a request and then the end is 400 and the end")
{
    Server server;
    for (const char *half : {"G", "GET / HT", "GET / HTTP/1.1\r\nHost: te",
                             "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf"}) {
        Client client(server.port());
        REQUIRE(client.send(half));
        client.finish_sending();
        CHECK(client.answer().status == 400);
        CHECK(client.end() == Ending::fin);
    }
    CHECK(server.reaches("connections", "open", 1));
}

TEST_CASE("http: an end without a request is an end without an answer")
{
    Server server;
    for (const char *nothing : {"", "\r\n"}) {
        Client client(server.port());
        client.send(nothing);
        client.finish_sending();
        CHECK(client.end() == Ending::fin);
        CHECK(client.received().empty());
    }
}

TEST_CASE("http: who sends too slowly is told 408")
{
    Server server({"--read-timeout-ms", "150"});
    SECTION("a head")
    {
        Client client(server.port());
        Clock::time_point begin = Clock::now();
        REQUIRE(client.send("GET / HTTP/1.1\r\nHo"));
        Answer a = client.answer();
        CHECK(ms_since(begin) >= 145);
        CHECK(a.status == 408);
        CHECK(a.header("connection") == "close");
        client.finish_sending();
        CHECK(client.end() == Ending::fin);
    }
    SECTION("a body")
    {
        Client client(server.port());
        REQUIRE(client.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nslow"));
        check_refused(client, 408);
    }
    SECTION("bytes now and then do not help: the time counts from the first")
    {
        Client client(server.port());
        Clock::time_point begin = Clock::now();
        std::string drip = "GET / HTTP/1.1\r\nX: ";
        /* One byte each time somebody else has been answered, which is far less than 150 ms. */
        while (ms_since(begin) < PATIENCE_MS) {
            if (!client.send(drip) || server.number("requests", "timeouts") == 1)
                break;
            drip = "x";
        }
        CHECK(ms_since(begin) >= 145);
        CHECK(client.answer().status == 408);
    }
    CHECK(server.number("requests", "timeouts") == 1);
}

TEST_CASE("http: who is idle for too long is closed without a word, before and between requests")
{
    Server server({"--idle-timeout-ms", "150"});
    Client fresh(server.port());
    Client used(server.port());
    CHECK(used.ask(get("/")).status == 200);
    Clock::time_point begin = Clock::now();
    CHECK(fresh.end() == Ending::fin);
    CHECK(used.end() == Ending::fin);
    CHECK(ms_since(begin) < 10000);
    CHECK(fresh.received().empty());
    CHECK(used.received().empty());
}

TEST_CASE("http: who does not take what is sent is cut off")
{
    Server server({"--write-timeout-ms", "200"});
    Client client(server.port(), "", 4096);
    std::string request = post("/echo", noise(200000));
    for (int i = 0; i < 200 && server.number("requests", "timeouts") == 0; i++) {
        /* Sends without ever receiving, as long as the server takes it. */
        std::string_view rest = request;
        ssize_t n = ::send(client.fd(), rest.data(), rest.size(), MSG_NOSIGNAL);
        if (n < 0)
            break;
    }
    CHECK(server.reaches("requests", "timeouts", 1));
    CHECK(server.reaches("connections", "open", 1));
}

TEST_CASE("http: too large a body is 413, at once if it is announced")
{
    Server server({"--max-body-bytes", "1000"});
    SECTION("as large as may be")
    {
        CHECK(ask_once(server, post("/echo", noise(1000))).status == 200);
    }
    SECTION("announced")
    {
        Client client(server.port());
        REQUIRE(client.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n"));
        check_refused(client, 413);
    }
    SECTION("announced, and sent all the same: the answer is not lost by a reset")
    {
        Client client(server.port());
        REQUIRE(client.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n" +
                            noise(300000)));
        check_refused(client, 413);
    }
    SECTION("announced as endless")
    {
        Client client(server.port());
        REQUIRE(client.send("POST /echo HTTP/1.1\r\nHost: a\r\n"
                            "Content-Length: 18446744073709551615\r\n\r\n"));
        check_refused(client, 413);
    }
    SECTION("in chunks")
    {
        Client client(server.port());
        REQUIRE(client.send("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
                            "3e8\r\n" +
                            noise(1000) + "\r\n1\r\nx\r\n"));
        check_refused(client, 413);
    }
    SECTION("for a path that does not want it")
    {
        Client client(server.port());
        REQUIRE(client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
                            "3e9\r\n" +
                            noise(1001)));
        check_refused(client, 413);
    }
    SECTION("small, in a wrapping without end")
    {
        Client client(server.port());
        client.send("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        std::string chunk = "1;" + std::string(4000, 'e') + "\r\nx\r\n";
        for (int i = 0; i < 100; i++)
            client.send(chunk);
        check_refused(client, 413);
    }
    CHECK(ask_once(server, get("/")).status == 200);
}

TEST_CASE("http: a head is taken up to the limit and is 431 beyond it")
{
    Server server({"--max-header-bytes", "4000"});
    size_t rest = get("/", "X: \r\n").size();
    SECTION("in one write")
    {
        CHECK(ask_once(server, get("/", "X: " + std::string(4000 - rest, 'x') + "\r\n")).status ==
              200);
        Client client(server.port());
        REQUIRE(client.send(get("/", "X: " + std::string(4001 - rest, 'x') + "\r\n")));
        check_refused(client, 431);
    }
    SECTION("with a body")
    {
        Client client(server.port());
        REQUIRE(client.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nX: " +
                            std::string(4000, 'x') + "\r\n\r\nab"));
        check_refused(client, 431);
    }
    SECTION("smaller than what is received at once")
    {
        Server strict({"--max-header-bytes", "64"});
        CHECK(ask_once(strict, get("/")).status == 200);
        Client client(strict.port());
        REQUIRE(client.send(get("/", "X: " + std::string(64, 'x') + "\r\n")));
        check_refused(client, 431);
    }
    SECTION("each request of a pipeline has its own")
    {
        std::string half = get("/", "X: " + std::string(2500, 'x') + "\r\n");
        Client client(server.port());
        CHECK(client.exchange(half + half + half, 3).size() == 3);
    }
}

TEST_CASE("http: a head of ten megabytes is refused and not kept")
{
    Server server;
    REQUIRE(ask_once(server, get("/")).status == 200);
    size_t before = server.resident_bytes();
    Client client(server.port());
    client.send("GET / HTTP/1.1\r\nHost: a\r\nX: ");
    std::string piece(100000, 'x');
    for (int i = 0; i < 100 && client.send(piece); i++)
        ;
    /* An answer if it came before the connection was reset under what we went on sending. */
    Answer a = client.answer();
    CHECK((a.status == 431 || client.end() == Ending::reset));
    CHECK(server.number("requests", "malformed") == 1);
    CHECK(server.resident_bytes() < before + (SANITIZED ? 4000000 : 1000000));
    client.finish_sending();
    CHECK(server.reaches("connections", "open", 1));
}

TEST_CASE("http: above the limit of connections newcomers are told 503")
{
    Server server({"--max-connections", "5"});
    std::vector<Client> clients;
    for (int i = 0; i < 5; i++) {
        clients.emplace_back(server.port());
        REQUIRE(clients.back().ask(get("/")).status == 200);
    }
    Client sixth(server.port());
    REQUIRE(sixth.send(get("/")));
    Answer a = sixth.answer();
    CHECK(a.status == 503);
    CHECK(a.header("connection") == "close");
    CHECK(a.header("retry-after") == "1");
    sixth.finish_sending();
    CHECK(sixth.end() == Ending::fin);
    for (Client &client : clients)
        CHECK(client.ask(get("/")).status == 200);

    /* There is room again once one has gone. */
    clients.pop_back();
    Clock::time_point begin = Clock::now();
    int status = 503;
    while (status == 503 && ms_since(begin) < PATIENCE_MS)
        status = ask_once(server, get("/")).status;
    CHECK(status == 200);
    CHECK(server.number("connections", "refused") >= 1);
}

TEST_CASE("http: who is being refused takes nobody's place")
{
    Server server({"--max-connections", "1"});
    Client first(server.port());
    REQUIRE(first.ask(get("/")).status == 200);
    Client second(server.port());
    REQUIRE(second.ask(get("/")).status == 503);
    first.close();
    /* Who is refused is waited for, until it ends the connection, and that none of these does. */
    std::vector<Client> refused;
    const Clock::time_point begin = Clock::now();
    int status = 503;
    while (status == 503 && ms_since(begin) < PATIENCE_MS) {
        refused.emplace_back(server.port());
        status = refused.back().ask(get("/")).status;
    }
    CHECK(status == 200);
}

TEST_CASE("http: many too many are refused without harm to those who are in")
{
    Server server({"--max-connections", "10"});
    Client good(server.port());
    REQUIRE(good.ask(get("/")).status == 200);
    std::vector<Client> crowd;
    for (int i = 0; i < 600; i++)
        crowd.emplace_back(server.port());
    CHECK(good.ask(get("/")).status == 200);
    size_t told = 0, served = 0;
    for (Client &client : crowd) {
        int status = client.ask(get("/", "Connection: close\r\n")).status;
        told += status == 503;
        served += status == 200;
    }
    CHECK(served >= 9);
    CHECK(told >= 200);
    crowd.clear();
    CHECK(good.ask(get("/")).status == 200);
}

TEST_CASE("http: out of descriptors, newcomers wait or see an end, and nothing spins")
{
    /* The ring, the listener and the like take a dozen; every further one is a connection. */
    Server server({"--max-connections", "1000"}, 40);
    const Clock::time_point begin = Clock::now();
    std::vector<Client> clients;
    for (int i = 0; i < 60; i++) {
        clients.emplace_back(server.port());
        clients.back().send(get("/"));
    }
    size_t served = 0;
    while (served < 15 && clients[served].answer().status == 200)
        served++;
    REQUIRE(served == 15);
    /* The last one in the kernel's queue waits; in the meantime the server does next to nothing. */
    double cpu_before = server.cpu_ms();
    CHECK(clients.back().end(700) == Ending::open);
    CHECK(clients.back().received().empty());
    CHECK(server.cpu_ms() - cpu_before < 150);
    CHECK(server.said().find("cannot accept") != std::string::npos);
    CHECK(count_of(server.said(), "cannot accept") == 1);

    /* As descriptors come free, the others' turn comes. Some were told by an end, one for each time
     * that accepting paused. */
    for (size_t i = 0; i < served; i++)
        clients[i].close();
    size_t shed = 0;
    for (size_t i = served; i < clients.size(); i++) {
        CAPTURE(i);
        Answer a = clients[i].answer();
        if (a.status == 0) {
            CHECK(clients[i].end() != Ending::open);
            shed++;
        } else {
            CHECK(a.status == 200);
        }
        clients[i].close();
    }
    CAPTURE(shed);
    CHECK(shed >= 1);
    CHECK(static_cast<double>(shed) < 20 + ms_since(begin) / 100);
    CHECK(ask_once(server, get("/")).status == 200);
}

TEST_CASE("http: a wrong command line is explained")
{
    const std::string exe = getenv("HTTP_SERVER");
    struct Wrong {
        std::vector<std::string> options;
        const char *says;
    };
    for (const Wrong &wrong :
         {Wrong{{"--workers", "0"}, "from 1 to 60"}, Wrong{{"--workers", "two"}, "from 1 to 60"},
          Wrong{{"--nonsense"}, "--help"}, Wrong{{"word"}, "unexpected 'word'"},
          Wrong{{"--listen", "nowhere"}, "HOST:PORT"},
          Wrong{{"--listen", "127.0.0.1:99999"}, "HOST:PORT"},
          Wrong{{"--listen", "192.0.2.1:80"}, "no such address"},
          Wrong{{"--root", "/no/such/folder"}, "No such file"}}) {
        std::vector<std::string> command = {exe};
        command.insert(command.end(), wrong.options.begin(), wrong.options.end());
        int status = 0;
        std::string said = run_program(command, &status);
        CAPTURE(said);
        CHECK(said.find(wrong.says) != std::string::npos);
        CHECK(WIFEXITED(status));
        CHECK(WEXITSTATUS(status) != 0);
    }
    Server first;
    int status = 0;
    std::string address = "127.0.0.1:" + std::to_string(first.port());
    std::string said = run_program({exe, "--listen", address}, &status);
    CHECK(said.find("another program listens there") != std::string::npos);
    CHECK(WEXITSTATUS(status) == 1);
    CHECK(run_program({exe, "--help"}, &status).find("--grace-ms") != std::string::npos);
    CHECK(status == 0);
}
