/*
 * request_test.cpp: how requests with very many arguments are parsed.
 */
#include <whorl.h>

#include <catch2/catch_test_macros.hpp>

#include <memory>
#include <string>

extern "C" {
#include "examples/kv/kv.h"
}

namespace
{

constexpr size_t BYTES_MAX = 64 << 20;

/* A request that is given back at the end. */
struct Request : request {
    Request()
    {
        request_init(this);
    }
    ~Request()
    {
        request_reset(this);
    }
    Request(const Request &) = delete;
    Request &operator=(const Request &) = delete;

    parsed parse(const std::string &bytes)
    {
        return request_parse(this, text{bytes.data(), bytes.size()}, BYTES_MAX);
    }
    std::string argument(uint32_t i)
    {
        text there = request_arg(this, i);
        return std::string(there.bytes, there.len);
    }
};

/* The arguments are their numbers, or empty. */
std::string numbered(uint32_t count, bool empty)
{
    std::string bytes = "*" + std::to_string(count) + "\r\n";
    for (uint32_t i = 0; i < count; i++) {
        std::string number = empty ? "" : std::to_string(i);
        bytes += "$" + std::to_string(number.size()) + "\r\n" + number + "\r\n";
    }
    return bytes;
}

} // namespace

TEST_CASE("request: others may run after each so many arguments")
{
    Request request;
    const std::string bytes = numbered(ARGS_MAX, true);
    uint32_t before = 0, steps = 0;
    for (; request.parse(bytes) == PARSED_SOME; steps++) {
        REQUIRE(request.count == before + ARGS_STEP);
        before = request.count;
    }
    CHECK(steps == ARGS_MAX / ARGS_STEP - 1);
    CHECK(request.count == ARGS_MAX);
    CHECK(request.at == bytes.size());
    CHECK(request.argument(ARGS_MAX - 1).empty());
}

TEST_CASE("request: every argument of many is where it was, wherever they were cut")
{
    const std::string bytes = numbered(5000, false);
    for (size_t step : {bytes.size(), static_cast<size_t>(7), static_cast<size_t>(10007)}) {
        Request request;
        parsed last = PARSED_MORE;
        for (size_t len = 0; last != PARSED_REQUEST;) {
            if (last == PARSED_MORE)
                len = std::min(len + step, bytes.size());
            /* What was received moves. */
            auto copy = std::make_unique<std::string>(bytes.substr(0, len));
            last = request.parse(*copy);
            REQUIRE((last == PARSED_MORE || last == PARSED_SOME || last == PARSED_REQUEST));
            REQUIRE((last != PARSED_MORE || len < bytes.size()));
            if (last == PARSED_REQUEST) {
                REQUIRE(request.count == 5000);
                for (uint32_t i = 0; i < 5000; i++)
                    REQUIRE(request.argument(i) == std::to_string(i));
            }
        }
    }
}

TEST_CASE("request: a line may have very many words")
{
    Request request;
    std::string bytes;
    for (int i = 0; i < 10000; i++)
        bytes += std::to_string(i) + " ";
    bytes += "\r\n";
    REQUIRE(request.parse(bytes) == PARSED_REQUEST);
    REQUIRE(request.count == 10000);
    for (uint32_t i = 0; i < 10000; i++)
        REQUIRE(request.argument(i) == std::to_string(i));
}
