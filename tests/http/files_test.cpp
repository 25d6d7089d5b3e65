/*
 * files_test.cpp: files below --root, and nothing else.
 */
#include "tests/http/harness.hpp"

#include <catch2/catch_test_macros.hpp>

#include <filesystem>

#include <sys/socket.h>
#include <sys/stat.h>

TEST_CASE("http: files come as they are, of any size")
{
    Folder folder;
    Server server({"--root", folder.path()});
    Client client(server.port());
    for (size_t size : {0, 1, 1000, 65000, 65535, 65536, 65537, 1000000, 5000000}) {
        CAPTURE(size);
        std::string content = noise(size, static_cast<uint32_t>(size));
        folder.write("dir/sub/file.bin", content);
        Answer a = client.ask(get("/files/dir/sub/file.bin"));
        CHECK(a.status == 200);
        CHECK(a.body.size() == size);
        CHECK((a.body == content));
        CHECK(a.header("content-type") == "application/octet-stream");
    }
}

TEST_CASE("http: several files in one write")
{
    Folder folder;
    std::string requests;
    for (int i = 0; i < 20; i++) {
        folder.write("f" + std::to_string(i), noise(static_cast<size_t>(i) * 9000, 3));
        requests += get("/files/f" + std::to_string(i)) + get("/");
    }
    Server server({"--root", folder.path()});
    Client client(server.port());
    std::vector<Answer> answers = client.exchange(requests, 40);
    REQUIRE(answers.size() == 40);
    for (size_t i = 0; i < 20; i++) {
        CHECK((answers[2 * i].body == noise(i * 9000, 3)));
        CHECK(answers[2 * i + 1].body == "Hello from whorl\n");
    }
}

TEST_CASE("http: the type follows from the name")
{
    Folder folder;
    Server server({"--root", folder.path()});
    Client client(server.port());
    const std::map<std::string, std::string> types = {{"a.html", "text/html; charset=utf-8"},
                                                      {"a.CSS", "text/css; charset=utf-8"},
                                                      {"a.b.js", "text/javascript; charset=utf-8"},
                                                      {"a.png", "image/png"},
                                                      {"a.svg", "image/svg+xml"},
                                                      {"a", "application/octet-stream"},
                                                      {"a.", "application/octet-stream"},
                                                      {"a.json", "application/json"}};
    for (const auto &[name, type] : types) {
        folder.write(name, "x");
        CHECK(client.ask(get("/files/" + name)).header("content-type") == type);
    }
}

TEST_CASE("http: names may be encoded")
{
    Folder folder;
    folder.write("a b/\xc3\xa4%.txt", "found");
    Server server({"--root", folder.path()});
    Client client(server.port());
    CHECK(client.ask(get("/files/a%20b/%C3%a4%25.txt")).body == "found");
    CHECK(client.ask(get("/files/a%20b/%C3%a4%25.txt?query=x")).body == "found");
    for (const char *bad : {"/files/%", "/files/%2", "/files/%zz", "/files/a%00b", "/files/a%2g"})
        CHECK(client.ask(get(bad)).status == 400);
}

TEST_CASE("http: nothing outside of the root is served")
{
    Folder folder;
    namespace fs = std::filesystem;
    folder.write("secret", "secret");
    folder.write("root/inside", "inside");
    folder.write("root/dir/file", "file");
    const std::string root = folder.path() + "/root";
    fs::create_symlink("../secret", root + "/link");
    fs::create_symlink("..", root + "/up");
    fs::create_symlink(folder.path(), root + "/absolute");
    fs::create_symlink("inside", root + "/within");
    REQUIRE(mkfifo((root + "/fifo").c_str(), 0600) == 0);
    Server server({"--root", root});
    Client client(server.port());
    CHECK(client.ask(get("/files/inside")).body == "inside");
    for (const char *path : {"/files/../secret",
                             "/files/%2e%2e/secret",
                             "/files/%2E./secret",
                             "/files/..%2fsecret",
                             "/files/%2e%2e%2fsecret",
                             "/files/dir/../../secret",
                             "/files/dir/%2e%2e/%2e%2e/secret",
                             "/files/link",
                             "/files/up/secret",
                             "/files/absolute/secret",
                             "/files/within",
                             "/files//etc/passwd",
                             "/files/%2fetc%2fpasswd",
                             "/files/./inside",
                             "/files/dir/../inside",
                             "/files/inside/",
                             "/files/inside/x",
                             "/files/dir",
                             "/files/dir/",
                             "/files/",
                             "/files/.",
                             "/files/fifo",
                             "/files/missing",
                             "/inside"}) {
        CAPTURE(path);
        Answer a = client.ask(get(path));
        CHECK(a.status == 404);
        CHECK(a.body.find("secret") == std::string::npos);
    }
    CHECK(client.ask(get("/files/" + std::string(300, 'n'))).status == 404);
    CHECK(client.ask(get("/files/inside")).body == "inside");
}

TEST_CASE("http: without a root there are no files")
{
    Server server;
    CHECK(ask_once(server, get("/files/etc/passwd")).status == 404);
}

TEST_CASE("http: an unchanged file is not sent again")
{
    Folder folder;
    folder.write("a.txt", "content");
    Server server({"--root", folder.path()});
    Client client(server.port());
    std::string date = client.ask(get("/files/a.txt")).header("last-modified");
    REQUIRE(date.size() == 29);
    Answer a = client.ask(get("/files/a.txt", "If-Modified-Since: " + date + "\r\n"));
    CHECK(a.status == 304);
    CHECK(a.body.empty());
    CHECK(a.header("last-modified") == date);
    a = client.ask(get("/files/a.txt", "If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT\r\n"));
    CHECK(a.body == "content");
    CHECK(client.ask(get("/files/a.txt")).body == "content");
}

TEST_CASE("http: a file that shrinks while it is sent ends the connection, not the server")
{
    Folder folder;
    std::string path = folder.write("big", noise(8000000));
    Server server({"--root", folder.path()});
    Client client(server.port(), "", 65536);
    REQUIRE(client.send(get("/files/big")));
    char first;
    Clock::time_point begin = Clock::now();
    while (recv(client.fd(), &first, 1, MSG_PEEK) < 1 && ms_since(begin) < PATIENCE_MS)
        ;
    std::filesystem::resize_file(path, 100); /* what fits no socket buffer is not read yet */
    CHECK(client.end() != Ending::open);
    CHECK(client.received().size() < 8000000);
    CHECK(ask_once(server, get("/")).status == 200);
    CHECK(server.reaches("connections", "open", 1));
}

TEST_CASE("http: a slow reader of a large file holds one block and nobody else")
{
    Folder folder;
    folder.write("big", noise(20000000));
    Server server({"--root", folder.path()});
    REQUIRE(ask_once(server, get("/")).status == 200);
    size_t before = server.resident_bytes();
    std::vector<Client> readers;
    for (int i = 0; i < 20; i++) {
        readers.emplace_back(server.port(), "", 8192);
        REQUIRE(readers.back().send(get("/files/big")));
    }
    for (int i = 0; i < 20; i++)
        CHECK(ask_once(server, get("/")).status == 200);
    CHECK(server.resident_bytes() < before + 20 * 65536 * (SANITIZED ? 8 : 2));
    readers.clear();
    CHECK(server.reaches("connections", "open", 1));
}
