/*
 * date_test.cpp: dates written by hand against those of the C library.
 */
#include <whorl.h>

#include <catch2/catch_test_macros.hpp>

#include <ctime>
#include <string>

extern "C" {
#include "examples/http/http.h"
}

namespace
{

std::string ours(int64_t unix_s)
{
    char text[DATE_BYTES];
    date_put(text, unix_s);
    return std::string(text, sizeof text);
}

std::string theirs(time_t unix_s)
{
    struct tm tm;
    char text[64];
    gmtime_r(&unix_s, &tm);
    strftime(text, sizeof text, "%a, %d %b %Y %H:%M:%S GMT", &tm);
    return text;
}

} // namespace

TEST_CASE("date: the example of the standard")
{
    CHECK(ours(784111777) == "Sun, 06 Nov 1994 08:49:37 GMT");
}

TEST_CASE("date: every day of four centuries is as the C library has it")
{
    size_t wrong = 0;
    for (time_t day = 0; day < 146097; day++) {
        time_t t = day * 86400 + day * 7919 % 86400;
        if (ours(t) != theirs(t) && wrong++ == 0)
            CHECK(ours(t) == theirs(t));
    }
    CHECK(wrong == 0);
}

TEST_CASE("date: before the epoch is the epoch, the last four-digit year is right")
{
    CHECK(ours(-1) == "Thu, 01 Jan 1970 00:00:00 GMT");
    CHECK(ours(253402300799) == "Fri, 31 Dec 9999 23:59:59 GMT");
}
