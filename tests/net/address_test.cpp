/*
 * address_test.cpp: what is an address and what is none.
 */
#include "tests/net/peers.hpp"

#include <catch2/catch_test_macros.hpp>

#include <cstring>

#include <arpa/inet.h>
#include <netdb.h>

extern "C" {
#include "net/address.h"
}

namespace
{

/* An address as text again, the host in the form of inet_ntop(3), or "-EINVAL". */
std::string parsed(const char *text)
{
    struct address address;
    int rc = address_tcp(text, &address);
    if (rc < 0)
        return rc == -EINVAL ? "-EINVAL" : std::to_string(rc);
    char host[INET6_ADDRSTRLEN] = "?";
    if (address.any.sa_family == AF_INET) {
        const auto *in = reinterpret_cast<const struct sockaddr_in *>(&address);
        if (address.len != sizeof *in)
            return "wrong length";
        inet_ntop(AF_INET, &in->sin_addr, host, sizeof host);
        return std::string(host) + " " + std::to_string(ntohs(in->sin_port));
    }
    const auto *in6 = reinterpret_cast<const struct sockaddr_in6 *>(&address);
    if (address.len != sizeof *in6)
        return "wrong length";
    inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof host);
    return std::string(host) + " " + std::to_string(ntohs(in6->sin6_port));
}

} // namespace

TEST_CASE("address: hosts and ports of the documented form are taken")
{
    const struct {
        const char *text, *expected;
    } cases[] = {
        {"127.0.0.1:80", "127.0.0.1 80"},
        {"0.0.0.0:0", "0.0.0.0 0"},
        {"192.0.2.77:65535", "192.0.2.77 65535"},
        {"255.255.255.255:1", "255.255.255.255 1"},
        {"localhost:7000", "127.0.0.1 7000"},
        {"[::1]:8080", "::1 8080"},
        {"[::]:0", ":: 0"},
        {"[2001:db8::17]:443", "2001:db8::17 443"},
        {"[::ffff:192.0.2.1]:1", "::ffff:192.0.2.1 1"},
        {":8080", ":: 8080"},
        {":0", ":: 0"},
        {"127.0.0.1:00080", "127.0.0.1 80"},
    };
    for (const auto &one : cases) {
        INFO(one.text);
        CHECK(parsed(one.text) == one.expected);
    }
}

/* Or a name, where it is link-local. */
TEST_CASE("address: the scope of an IPv6 address is what getaddrinfo(3) takes it for")
{
    const char *const hosts[] = {
        "fe80::1",
        "fe80::1%lo",
        "fe80::1%1",
        "fe80::1%01",
        "fe80::1%7",
        "fe80::1%4294967295",
        "fe80::1%4294967296",
        "fe80::1%99999999999",
        "fe80::1%",
        "fe80::1%nonesuch",
        "fe80::1% 1",
        "fe80::1%+1",
        "fe80::1%-1",
        "fe80::1%1 ",
        "fe80::1%lo%lo",
        "fe80::1%0x1",
        "ff02::1%lo",
        "ff02::1%2",
        "::1%lo",
        "::1%1",
        "2001:db8::1%lo",
        "2001:db8::1%3",
        "%lo",
        "%1",
        "febf:ffff::1%lo",
        "fec0::1%lo",
        "ff05::1%lo",
        "::ffff:192.0.2.1%1",
        "fe80::192.0.2.1%1",
        "fe80::1%18446744073709551617",
    };
    for (const char *host : hosts) {
        INFO(host);
        struct addrinfo hints = {}, *found = nullptr;
        hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE;
        hints.ai_family = AF_INET6;
        hints.ai_socktype = SOCK_STREAM;
        const bool is_one = getaddrinfo(host, "80", &hints, &found) == 0;
        struct address address;
        const int rc = address_tcp(("[" + std::string(host) + "]:80").c_str(), &address);
        CHECK(rc == (is_one ? 0 : -EINVAL));
        if (is_one && rc == 0) {
            CHECK(address.len == found->ai_addrlen);
            CHECK(memcmp(&address, found->ai_addr, found->ai_addrlen) == 0);
        }
        if (is_one)
            freeaddrinfo(found);
    }
}

TEST_CASE("address: everything else is -EINVAL")
{
    const char *const cases[] = {
        nullptr,
        "",
        ":",
        "127.0.0.1",
        "127.0.0.1:",
        "localhost",
        "localhost:",
        "8080",
        /* ports */
        "127.0.0.1:65536",
        "127.0.0.1:99999",
        "127.0.0.1:100000",
        "127.0.0.1:000080",
        "127.0.0.1:-1",
        "127.0.0.1:+1",
        "127.0.0.1: 1",
        "127.0.0.1:1 ",
        "127.0.0.1:1x",
        "127.0.0.1:0x50",
        "127.0.0.1:http",
        "127.0.0.1:1:2",
        "127.0.0.1:80\n",
        /* hosts */
        "256.0.0.1:80",
        "1.2.3:4x",
        "example.org:80",
        "LOCALHOST.:80",
        "localhost.localdomain:80",
        " 127.0.0.1:80",
        "127.0.0.1 :80",
        "127.0.0.1/8:80",
        "tcp://127.0.0.1:80",
        "*:80",
        "127.1:80",
        "0177.0.0.1:80",
        "0x7f.0.0.1:80",
        "2130706433:80",
        /* brackets */
        "::1:80",
        "::1",
        "[::1]",
        "[::1]80",
        "[::1:80",
        "::1]:80",
        "[]:80",
        "[[::1]]:80",
        "[127.0.0.1:80",
        "[::1]x:80",
        "[::g]:80",
        "[1:2]:80",
        "[127.0.0.1]:80",
        "[localhost]:80",
        "[ ::1]:80",
        "[:80",
    };
    for (const char *text : cases) {
        INFO((text ? text : "NULL"));
        CHECK(parsed(text) == "-EINVAL");
    }
    const std::string endless(10000, '1');
    CHECK(parsed((endless + ":80").c_str()) == "-EINVAL");
    CHECK(parsed(("127.0.0.1:" + endless).c_str()) == "-EINVAL");
}

TEST_CASE("address: a name and a service are taken apart, and nothing else is")
{
    char host[ADDRESS_HOST_BYTES], service[ADDRESS_SERVICE_BYTES];
    const std::string longest = std::string(63, 'a') + "." + std::string(63, 'b') + "." +
                                std::string(63, 'c') + "." + std::string(61, 'd');
    for (const std::string &name :
         {std::string("example.org"), std::string("host"), std::string("a-b_c.d1."),
          std::string("1a"), std::string("0x7f.example"), std::string("7.example"),
          std::string("0xg"), longest, longest + ".", std::string("127.0.0.1"),
          std::string("[::1]"), std::string("localhost"), std::string("")}) {
        for (const char *port : {"80", "https", "iso-tsap"}) {
            INFO(name << ":" << port);
            const int rc = address_name((name + ":" + port).c_str(), host, service);
            CHECK(rc == 0);
            CHECK(std::string(host) == name);
            CHECK(std::string(service) == port);
        }
    }
    for (const std::string &text : {std::string("example.org"),
                                    std::string("example.org:"),
                                    std::string("example..org:80"),
                                    std::string(".:80"),
                                    std::string(".a:80"),
                                    std::string("a.1:80"),
                                    std::string("1:80"),
                                    std::string("a.0x:80"),
                                    std::string("0x7F:80"),
                                    std::string("0x7f.:80"),
                                    std::string("a b:80"),
                                    std::string("a/b:80"),
                                    std::string("[a]:80"),
                                    std::string("a:b:80"),
                                    std::string("a:8 0"),
                                    std::string("a:65536"),
                                    std::string("a:100000"),
                                    std::string("a:ht/tp"),
                                    longest + "e:80",
                                    longest + "e.:80",
                                    std::string(64, 'a') + ":80",
                                    std::string(300, 'a') + ":80",
                                    "a:" + std::string(ADDRESS_SERVICE_BYTES, 's')}) {
        INFO(text);
        const int rc = address_name(text.c_str(), host, service);
        CHECK(rc == -EINVAL);
    }
    CHECK(address_name(nullptr, host, service) == -EINVAL);
}

TEST_CASE("address: a Unix path fits with its end, an abstract name to the last byte")
{
    struct address address;
    constexpr size_t ROOM = sizeof address.un.sun_path;
    const std::string fits(ROOM - 1, 'p'), long_path(ROOM, 'p');
    int rc = address_unix(fits.c_str(), &address);
    CHECK(rc == 0);
    CHECK(address.un.sun_family == AF_UNIX);
    CHECK(std::string(address.un.sun_path) == fits);
    CHECK(address.len == sizeof address.un);
    rc = address_unix(long_path.c_str(), &address);
    CHECK(rc == -ENAMETOOLONG);

    rc = address_unix("@name", &address);
    CHECK(rc == 0);
    CHECK(address.len == sizeof(sa_family_t) + 5);
    CHECK(std::string(address.un.sun_path, 5) == std::string("\0name", 5));
    const std::string abstract = "@" + std::string(ROOM - 1, 'a');
    rc = address_unix(abstract.c_str(), &address);
    CHECK((rc == 0 || rc == -ENAMETOOLONG));
    rc = address_unix(("@" + std::string(ROOM, 'a')).c_str(), &address);
    CHECK(rc == -ENAMETOOLONG);

    rc = address_unix("", &address);
    CHECK(rc == -EINVAL);
    rc = address_unix(nullptr, &address);
    CHECK(rc == -EINVAL);
}
