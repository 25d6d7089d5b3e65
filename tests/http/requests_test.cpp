/*
 * requests_test.cpp: well-formed requests, however they are cut up, and what they are answered.
 */
#include "tests/http/harness.hpp"

#include <catch2/catch_test_macros.hpp>

#include <ctime>

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

namespace
{

const char *const HELLO = "Hello from whorl\n";

/* Sends a request in two pieces, such that the server has parsed the first before the second is
 * sent: it serves one event after the other, and has answered somebody else in between. */
Answer ask_in_two(const Server &server, Client &client, const std::string &request, size_t at)
{
    client.send(std::string_view(request).substr(0, at));
    REQUIRE(ask_once(server, get("/")).status == 200);
    return client.ask(std::string_view(request).substr(at));
}

bool is_date_of_now(const std::string &text)
{
    struct tm tm = {};
    const char *end = strptime(text.c_str(), "%a, %d %b %Y %H:%M:%S GMT", &tm);
    return end && !*end && std::abs(difftime(timegm(&tm), time(nullptr))) <= 5;
}

/* Whether one more may listen on the port. */
bool is_shared(uint16_t port)
{
    struct sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    REQUIRE(fd >= 0);
    const int on = 1;
    bool shared = setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on) == 0 &&
                  bind(fd, reinterpret_cast<struct sockaddr *>(&address), sizeof address) == 0;
    close(fd);
    return shared;
}

} // namespace

TEST_CASE("http: a GET has status, date, server, type, length and content")
{
    Server server;
    Answer a = ask_once(server, get("/"));
    CHECK(a.status == 200);
    CHECK(a.body == HELLO);
    CHECK(a.header("content-length") == "17");
    CHECK(a.header("content-type") == "text/plain");
    CHECK(a.header("server").compare(0, 6, "whorl/") == 0);
    CHECK(is_date_of_now(a.header("date")));
    CHECK(a.header("connection").empty());
}

TEST_CASE("http: the date goes on with time on a connection that is kept")
{
    Server server;
    Client client(server.port());
    std::string first = client.ask(get("/")).header("date");
    std::string date = first;
    Clock::time_point begin = Clock::now();
    while (date == first && ms_since(begin) < 5000)
        date = client.ask(get("/")).header("date");
    CHECK(date != first);
    CHECK(is_date_of_now(date));
}

TEST_CASE("http: curl is served")
{
    if (!have_program("curl"))
        SKIP("curl is not installed");
    Server server;
    std::string url = "http://127.0.0.1:" + std::to_string(server.port());
    int status = -1;
    CHECK(run_program({"curl", "-sS", url + "/", url + "/"}, &status) ==
          std::string(HELLO) + HELLO);
    CHECK(status == 0);
    /* curl asks for leave to send a large body, and for an upgrade that we do not have. */
    Folder folder;
    std::string sent = noise(300000);
    std::string got = run_program({"curl", "-sS", "-H", "Expect: 100-continue", "--data-binary",
                                   "@" + folder.write("body", sent), url + "/echo"});
    CHECK((got == sent));
    CHECK(run_program({"curl", "-sS", "--http2", url + "/"}) == HELLO);
}

TEST_CASE("http: a connection is kept or closed as version and header say")
{
    Server server;
    SECTION("HTTP/1.1 is kept")
    {
        Client client(server.port());
        for (int i = 0; i < 10; i++)
            CHECK(client.ask(get("/")).body == HELLO);
        CHECK(server.number("connections", "accepted") == 2); /* ours, and that of the figures */
    }
    SECTION("HTTP/1.1 with Connection: close is closed after the answer")
    {
        Client client(server.port());
        Answer a = client.ask(get("/", "Connection: close\r\n"));
        CHECK(a.body == HELLO);
        CHECK(a.header("connection") == "close");
        CHECK(client.end() == Ending::fin);
    }
    SECTION("HTTP/1.0 is closed")
    {
        Client client(server.port());
        Answer a = client.ask("GET / HTTP/1.0\r\n\r\n");
        CHECK(a.body == HELLO);
        CHECK(a.header("connection") == "close");
        CHECK(client.end() == Ending::fin);
    }
    SECTION("HTTP/1.0 with Connection: keep-alive is kept, and told so")
    {
        Client client(server.port());
        for (int i = 0; i < 3; i++) {
            Answer a = client.ask("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
            CHECK(a.body == HELLO);
            CHECK(a.header("connection") == "keep-alive");
        }
    }
}

TEST_CASE("http: a hundred requests in one write are answered in order")
{
    Server server;
    std::string requests;
    for (int i = 0; i < 100; i++)
        requests += i % 3 == 0   ? get("/")
                    : i % 3 == 1 ? post("/echo", "number " + std::to_string(i))
                                 : get("/no/" + std::to_string(i));
    Client client(server.port());
    std::vector<Answer> answers = client.exchange(requests, 100);
    REQUIRE(answers.size() == 100);
    for (size_t i = 0; i < 100; i++) {
        CHECK(answers[i].status == (i % 3 == 2 ? 404 : 200));
        if (i % 3 == 1)
            CHECK(answers[i].body == "number " + std::to_string(i));
    }
    CHECK(client.ask(get("/")).body == HELLO);
}

TEST_CASE("http: pipelined answers leave together")
{
    Server server;
    Client client(server.port());
    REQUIRE(client.ask(get("/")).status == 200);
    double before = server.number("ring", "submissions");
    double between = server.number("ring", "submissions");
    std::string requests;
    for (int i = 0; i < 30; i++)
        requests += get("/");
    REQUIRE(requests.size() < 1400); /* one receive */
    CHECK(client.exchange(requests, 30).size() == 30);
    double after = server.number("ring", "submissions");
    /* Asking for the figures costs some too. For the thirty there is one send and one receive. */
    CHECK(after - between <= between - before + 2);
}

TEST_CASE("http: a flood of pipelined requests is answered while it comes")
{
    Server server;
    const std::string body = noise(100);
    const size_t count = 5000;
    std::string requests;
    for (size_t i = 0; i < count; i++)
        requests += post("/echo", body);
    Client client(server.port());
    std::vector<Answer> answers = client.exchange(requests, count);
    REQUIRE(answers.size() == count);
    size_t right = 0;
    for (const Answer &a : answers)
        right += a.status == 200 && a.body == body;
    CHECK(right == count);
}

TEST_CASE("http: a request that comes byte by byte is answered")
{
    Server server;
    Client client(server.port());
    const std::string request = get("/") + post("/echo", "slowly");
    size_t first_len = get("/").size();
    for (size_t i = 0; i < request.size(); i++) {
        REQUIRE(client.send(std::string_view(request).substr(i, 1)));
        REQUIRE(ask_once(server, get("/")).status == 200); /* that byte has been parsed */
        if (i + 1 == first_len)
            CHECK(client.answer().body == HELLO);
    }
    CHECK(client.answer().body == "slowly");
}

TEST_CASE("http: a request may be split anywhere")
{
    Server server;
    const std::string chunked =
        "POST /echo?a=b HTTP/1.1\r\nHost: test\r\n"
        "Transfer-Encoding: chunked\r\nX-Long: " +
        std::string(40, 'x') + "\r\n\r\n5;ext=1\r\nsplit\r\n6\r\n where \r\n0\r\nTrail: er\r\n\r\n";
    std::string bodied = post("/echo", "ever you like");
    std::string fixed = chunked;
    fixed.replace(fixed.find("6\r\n where \r\n"), 12, "7\r\n where \r\n");
    for (const std::string &request : {get("/"), bodied, fixed}) {
        Client client(server.port());
        std::string wanted = client.ask(request).body;
        REQUIRE(!wanted.empty());
        for (size_t at = 1; at < request.size(); at++) {
            CAPTURE(at);
            Answer a = ask_in_two(server, client, request, at);
            CHECK(a.status == 200);
            CHECK(a.body == wanted);
        }
    }
}

TEST_CASE("http: a long head is kept in one piece while it grows and moves")
{
    Folder folder;
    std::string name(200, 'n');
    folder.write(name, "found");
    Server server({"--root", folder.path()});
    std::string request = get("/files/" + name, "X-Filler: " + std::string(6000, 'f') + "\r\n");
    Client client(server.port());
    for (size_t at : {1, 100, 215, 1407, 1408, 1409, 3000, 6100}) {
        CAPTURE(at);
        CHECK(ask_in_two(server, client, request, at).body == "found");
        /* And behind another one, so that it begins in the middle of what is received. */
        std::string both = get("/") + request;
        client.send(std::string_view(both).substr(0, get("/").size() + at));
        CHECK(client.answer().body == HELLO);
        CHECK(client.ask(std::string_view(both).substr(get("/").size() + at)).body == "found");
    }
}

TEST_CASE("http: a header may stand across the end of what is received at once")
{
    Server server;
    Client client(server.port());
    for (size_t filler = 1200; filler < 1450; filler++) {
        CAPTURE(filler);
        /* Without a host it would be refused. */
        CHECK(
            client
                .ask("GET / HTTP/1.1\r\nX: " + std::string(filler, 'x') + "\r\nHost: test\r\n\r\n")
                .body == HELLO);
    }
}

TEST_CASE("http: HEAD is answered like GET, without the content")
{
    Folder folder;
    folder.write("a.txt", "content");
    Server server({"--root", folder.path()});
    Client client(server.port());
    for (const std::string path : {"/", "/files/a.txt", "/status", "/nowhere"}) {
        CAPTURE(path);
        Answer got = client.ask(get(path));
        std::string request = get(path);
        Answer head = client.ask(request.replace(0, 3, "HEAD"), true);
        CHECK(head.status == got.status);
        CHECK(head.header("content-length") == std::to_string(got.body.size()));
        CHECK(head.header("content-type") == got.header("content-type"));
    }
    CHECK(client.ask(get("/")).body == HELLO); /* nothing was left over */
}

TEST_CASE("http: what is not there is 404, a wrong method 405 with what is allowed")
{
    Server server;
    Client client(server.port());
    for (const char *path : {"/no", "//", "/status/", "/files/a", "/echo/", "/..", "/%2e%2e"})
        CHECK(client.ask(get(path)).status == 404);
    Answer a = client.ask("DELETE / HTTP/1.1\r\nHost: test\r\n\r\n");
    CHECK(a.status == 405);
    CHECK(a.header("allow") == "GET, HEAD");
    a = client.ask(get("/echo"));
    CHECK(a.status == 405);
    CHECK(a.header("allow") == "POST");
    CHECK(client.ask(post("/", "body that nobody wants")).status == 405);
    CHECK(client.ask(get("/")).body == HELLO);
}

TEST_CASE("http: the target may be absolute and have a query")
{
    Server server;
    Client client(server.port());
    CHECK(client.ask(get("/?a=b")).body == HELLO);
    CHECK(client.ask(get("http://test/")).body == HELLO);
    CHECK(client.ask(get("http://test:80/?x")).body == HELLO);
    CHECK(client.ask(get("http://test")).body == HELLO);
    CHECK(client.ask(get("http://test?x")).body == HELLO);
    CHECK(client.ask(get("http://test?/nowhere")).body == HELLO);
    CHECK(client.ask(get("/nowhere?http://test/")).status == 404);
    CHECK(client.ask(get("http://test/nowhere")).status == 404);
}

TEST_CASE("http: a body comes back, of any size and either framing")
{
    Server server;
    Client client(server.port());
    for (size_t size : {0, 1, 1000, 1408, 5000, 65535, 65536, 70000, 1 << 20}) {
        CAPTURE(size);
        std::string body = noise(size);
        std::vector<Answer> answers = client.exchange(post("/echo", body), 1);
        REQUIRE(answers.size() == 1);
        CHECK(answers[0].status == 200);
        CHECK((answers[0].body == body));

        std::string chunks;
        for (size_t at = 0; at < size; at += 3000) {
            std::string chunk = body.substr(at, 3000);
            char len[16];
            snprintf(len, sizeof len, "%zx\r\n", chunk.size());
            chunks += len + chunk + "\r\n";
        }
        answers = client.exchange("POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: "
                                  "chunked\r\n\r\n" +
                                      chunks + "0\r\n\r\n",
                                  1);
        REQUIRE(answers.size() == 1);
        CHECK((answers[0].body == body));
    }
}

TEST_CASE("http: a body that nobody wants is passed over")
{
    Server server;
    Client client(server.port());
    std::string request = "GET / HTTP/1.1\r\nHost: test\r\nContent-Length: 30000\r\n\r\n";
    std::vector<Answer> answers = client.exchange(request + noise(30000) + get("/nowhere"), 2);
    REQUIRE(answers.size() == 2);
    CHECK(answers[0].body == HELLO);
    CHECK(answers[1].status == 404);
}

TEST_CASE("http: leave to send a body is given or refused")
{
    Server server;
    const std::string head = " HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n"
                             "Expect: 100-continue\r\n\r\n";
    SECTION("given where a body is wanted")
    {
        Client client(server.port());
        CHECK(client.ask("POST /echo" + head).status == 100);
        CHECK(client.ask("body").body == "body");
        CHECK(client.ask(get("/")).body == HELLO);
    }
    SECTION("after what was asked before has been answered")
    {
        Client client(server.port());
        client.send(get("/") + "POST /echo" + head);
        CHECK(client.answer().body == HELLO);
        CHECK(client.answer().status == 100);
        CHECK(client.ask("body").body == "body");
    }
    SECTION("not asked for when the body is there already")
    {
        Client client(server.port());
        CHECK(client.ask("POST /echo" + head + "body").status == 200);
    }
    SECTION("refused with the answer where it is not")
    {
        Client client(server.port());
        Answer a = client.ask("POST /nowhere" + head);
        CHECK(a.status == 404);
        CHECK(a.header("connection") == "close");
        CHECK(client.end() == Ending::fin);
    }
    SECTION("not given to HTTP/1.0, which knows nothing of it")
    {
        Client client(server.port());
        const std::string old = " HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 4\r\n";
        client.send("POST /echo" + old + "Expect: 100-continue\r\n\r\n");
        REQUIRE(ask_once(server, get("/")).status == 200); /* that head has been parsed */
        Answer a = client.ask("body");
        CHECK(a.status == 200);
        CHECK(a.body == "body");
        client.send("POST /nowhere" + old + "Expect: 100-continue\r\n\r\n");
        REQUIRE(ask_once(server, get("/")).status == 200);
        a = client.ask("body");
        CHECK(a.status == 404);
        CHECK(a.header("connection") == "keep-alive");
        CHECK(client.ask("POST /echo" + old + "Expect: miracles\r\n\r\nbody").body == "body");
    }
    SECTION("another expectation cannot be met")
    {
        Answer a = ask_once(server, "POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n"
                                    "Expect: miracles\r\n\r\n");
        CHECK(a.status == 417);
    }
}

TEST_CASE("http: an offered upgrade is not taken, and the request answered")
{
    Server server;
    Client client(server.port());
    Answer a = client.ask(get("/", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
                                   "HTTP2-Settings: AAMAAABkAAQAAP__\r\n"));
    CHECK(a.status == 200);
    CHECK(a.body == HELLO);
    CHECK(client.ask(get("/")).body == HELLO);
}

TEST_CASE("http: several workers serve on one address, and the figures are of all")
{
    Server server({"--workers", "3"});
    std::vector<Client> clients;
    for (int i = 0; i < 60; i++) {
        clients.emplace_back(server.port());
        CHECK(clients.back().ask(get("/")).body == HELLO);
    }
    CHECK(server.reaches("connections", "open", 61));
    CHECK(server.number("requests", "answered") >= 60);
    CHECK(server.status_json().find("\"workers\":3") != std::string::npos);
    clients.clear();
    CHECK(server.stop() == 0);
    CHECK(server.said().find(" requests on ") != std::string::npos);
}

TEST_CASE("http: as many workers as the environment says serve on one address")
{
    REQUIRE(setenv("WHORL_WORKERS", "3", 1) == 0);
    Server server({"--workers", "1"});
    unsetenv("WHORL_WORKERS");
    CHECK(server.status_json().find("\"workers\":3,") != std::string::npos);
    CHECK(is_shared(server.port()));
}

TEST_CASE("http: the status page is whole in itself, its figures are JSON")
{
    Server server;
    Answer page = ask_once(server, get("/status"));
    CHECK(page.status == 200);
    CHECK(page.header("content-type") == "text/html; charset=utf-8");
    CHECK(page.body.find("/status.json") != std::string::npos);
    CHECK(page.body.find("http:") == std::string::npos);
    CHECK(page.body.find("https:") == std::string::npos);
    CHECK(page.body.find("src=") == std::string::npos);

    CHECK(server.reaches("connections", "open", 1));
    CHECK(server.number("coroutines", "live") >= 3);
    CHECK(server.number("memory", "rss_bytes") > 100000);
    CHECK(server.number("ring", "submissions") > 0);
    std::string json = server.status_json();
    CHECK(json.find("\"function\":\"serve_client\"") != std::string::npos);
    if (!have_program("python3"))
        return;
    int status = -1;
    Folder folder;
    run_program({"python3", "-m", "json.tool", folder.write("status.json", json)}, &status);
    CHECK(status == 0);
}

TEST_CASE("http: with --stats one line of figures is printed at the end")
{
    Server server({"--stats"});
    Client client(server.port());
    for (int i = 0; i < 7; i++)
        CHECK(client.ask(get("/")).status == 200);
    CHECK(server.stop() == 0);
    std::string line = server.printed().substr(server.printed().find("/status\n") + 8);
    CAPTURE(line);
    CHECK(line.compare(0, 34, "{\"server\":\"whorl\",\"requests\":7,\"sy") == 0);
    CHECK(line.find("\"connections\":1,") != std::string::npos);
    CHECK(lines_of(line) == 1);
}
