/*
 * base_test.cpp: what is said on standard error, numbers from the environment, memory.
 */
#include "tests/base/child.hpp"

#include <catch2/catch_test_macros.hpp>

#include <cstdlib>
#include <cstring>
#include <string>

extern "C" {
#include "base/base.h"
}

namespace
{

const char *const NAME = "WHORL_TEST_NUMBER";

/* What env_number() makes of a text, and whether it said something. */
struct Reading {
    int64_t number;
    std::string said;
};

Reading reading(const char *text)
{
    if (text)
        setenv(NAME, text, 1);
    else
        unsetenv(NAME);
    StderrKept kept;
    int64_t number = env_number(NAME, -77);
    return {number, kept.text()};
}

} // namespace

TEST_CASE("env_number: a number is read, negative ones and the extremes too")
{
    CHECK(reading("0").number == 0);
    CHECK(reading("12").number == 12);
    CHECK(reading("-1").number == -1);
    CHECK(reading("9223372036854775807").number == INT64_MAX);
    CHECK(reading("-9223372036854775808").number == INT64_MIN);
    CHECK(reading("12").said.empty());
}

TEST_CASE("env_number: unset or empty is the fallback, in silence")
{
    CHECK(reading(nullptr).number == -77);
    CHECK(reading(nullptr).said.empty());
    CHECK(reading("").number == -77);
    CHECK(reading("").said.empty());
}

TEST_CASE("env_number: what is not a number is named and ignored")
{
    for (const char *text :
         {"many", "12x", "1.5", "0x10", "1 ", "9223372036854775808", "-9223372036854775809", "-"}) {
        INFO(text);
        Reading r = reading(text);
        CHECK(r.number == -77);
        CHECK(lines_of(r.said) == 1);
        CHECK(r.said.find(std::string(NAME) + "=" + text) != std::string::npos);
        CHECK(r.said.find("digits alone") != std::string::npos);
    }
    unsetenv(NAME);
}

TEST_CASE("report: one line with the library's name, cut when it is too long")
{
    std::string long_text(2000, 'x');
    StderrKept kept;
    report("%s has %d", "this", 3);
    report("%s", long_text.c_str());
    std::string said = kept.text();
    CHECK(said.rfind("whorl: this has 3\n", 0) == 0);
    CHECK(lines_of(said) == 2);
    CHECK(said.back() == '\n');
    CHECK(said.size() < 600);
}

TEST_CASE("wh_assert: a condition that fails aborts and names itself")
{
    ChildEnd end = in_child([] {
        int three = 3;
        wh_assert(three == 4);
        return 0;
    });
    INFO(end.how());
    CHECK(end.killed_by(SIGABRT));
    CHECK(end.said.find("three == 4") != std::string::npos);
    CHECK(end.said.find("base_test.cpp") != std::string::npos);
}

TEST_CASE("panic: says why and aborts")
{
    ChildEnd end = in_child([]() -> int { panic("no %s left", "thread"); });
    INFO(end.how());
    CHECK(end.killed_by(SIGABRT));
    CHECK(end.said == "whorl: no thread left\n");
}

TEST_CASE("memory: aligned as asked, zeroed when asked, and freeing NULL is harmless")
{
    for (size_t align = 16; align <= 4096; align *= 2) {
        for (size_t bytes : {size_t{1}, size_t{17}, size_t{4096}, size_t{100000}}) {
            void *memory = mem_alloc_aligned(bytes, align);
            REQUIRE(memory);
            CHECK(reinterpret_cast<uintptr_t>(memory) % align == 0);
            memset(memory, 0xa5, bytes);
            mem_free(memory);
        }
    }
    for (int i = 0; i < 100; i++) {
        auto *memory = static_cast<unsigned char *>(mem_zalloc(1000));
        REQUIRE(memory);
        for (int k = 0; k < 1000; k++)
            REQUIRE(memory[k] == 0);
        memset(memory, 0xff, 1000);
        mem_free(memory);
    }
    void *memory = mem_alloc(123);
    REQUIRE(memory);
    memset(memory, 1, 123);
    mem_free(memory);
    mem_free(nullptr);
}

TEST_CASE("container_of: finds the struct around a member")
{
    struct outer {
        char before[24];
        int member;
    } outer = {};
    CHECK(container_of(&outer.member, struct outer, member) == &outer);
    int numbers[7] = {};
    CHECK(array_count(numbers) == 7);
}
