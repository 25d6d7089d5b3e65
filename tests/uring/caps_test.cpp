/*
 * caps_test.cpp: the names of kernel features: masked, printed, found.
 */
#include "tests/base/child.hpp"
#include "tests/uring/ring.hpp"

#include <sstream>

#include <whorl.h>

namespace
{

std::set<std::string> words(const std::string &text)
{
    std::istringstream stream(text);
    std::set<std::string> words;
    std::string word;
    while (stream >> word)
        words.insert(word);
    return words;
}

std::set<std::string> features_here()
{
    char buf[512];
    int len = wh_caps(buf, sizeof buf);
    REQUIRE(len >= 0);
    REQUIRE(static_cast<size_t>(len) < sizeof buf);
    REQUIRE(strlen(buf) == static_cast<size_t>(len));
    return words(buf);
}

} // namespace

TEST_CASE("caps: a mask is a list of whole names")
{
    unsetenv("WHORL_MASK");
    CHECK(!caps_masked("guard"));
    struct Row {
        const char *mask;
        bool guard;
        bool ring_fd;
    };
    for (const Row &row : std::initializer_list<Row>{{"", false, false},
                                                     {"guard", true, false},
                                                     {"guard,ring_fd", true, true},
                                                     {"ring_fd,guard", true, true},
                                                     {",,ring_fd,,", false, true},
                                                     {"guards,ring", false, false},
                                                     {"guar,ring_fdx", false, false},
                                                     {"other,guard,more", true, false},
                                                     {"GUARD", false, false}}) {
        INFO(row.mask);
        Environment mask("WHORL_MASK", row.mask);
        CHECK(caps_masked("guard") == row.guard);
        CHECK(caps_masked("ring_fd") == row.ring_fd);
    }
}

TEST_CASE("caps: a run says which names of a mask are no feature's")
{
    Environment mask("WHORL_MASK", "guard,,nonsense,splice,guards");
    StderrKept err;
    CHECK(wh_run([](void *) { return 0; }, nullptr, nullptr) == 0);
    const std::string said = err.text();
    INFO(said);
    CHECK(count_of(said, "WHORL_MASK") == 2);
    CHECK(said.find("\"nonsense\"") != std::string::npos);
    CHECK(said.find("\"guards\"") != std::string::npos);
}

TEST_CASE("caps: printed as snprintf does, whatever the buffer's size")
{
    struct caps caps = {};
    char buf[512] = "before";
    CHECK(caps_print(&caps, buf, sizeof buf) == 0);
    CHECK(std::string(buf).empty());

#define CAPS_SET(field, name) caps.field = true;
    CAPS(CAPS_SET)
#undef CAPS_SET
    int len = caps_print(&caps, buf, sizeof buf);
    std::string all = buf;
    CHECK(static_cast<size_t>(len) == all.size());
    std::set<std::string> names;
#define CAPS_NAME(field, name) names.insert(name);
    CAPS(CAPS_NAME)
#undef CAPS_NAME
    CHECK(words(all) == names);
    CHECK(all.find("  ") == std::string::npos);

    CHECK(caps_print(&caps, nullptr, 0) == len);
    for (size_t size = 1; size <= all.size() + 2; size++) {
        std::string small(size + 8, '#');
        CHECK(caps_print(&caps, small.data(), size) == len);
        CHECK(std::string(small.data()) == all.substr(0, size - 1));
        CHECK(small.substr(size) == "########"); /* nothing beyond */
    }
}

TEST_CASE("caps: wh_caps names what is here, and not what is masked")
{
    unsetenv("WHORL_MASK");
    std::set<std::string> here = features_here();
    CHECK(here.count("ext_arg") == 1); /* all kernels that whorl runs on have these */
    CHECK(here.count("single_issuer") == 1);
    CHECK(here.count("defer_taskrun") == 1);
    for (const std::string &name : here) {
        if (name == "ext_arg")
            continue; /* nothing works without it */
        INFO(name);
        Environment mask("WHORL_MASK", name);
        std::set<std::string> left = features_here();
        CHECK(left.count(name) == 0);
        for (const std::string &other : here)
            if (other != name && !(name == "single_issuer" && other == "defer_taskrun"))
                CHECK(left.count(other) == 1);
    }
}

TEST_CASE("caps: inside a run they are that run's")
{
    unsetenv("WHORL_MASK");
    static std::set<std::string> inside;
    auto look = [](void *) {
        inside = features_here();
        return 0;
    };
    CHECK(wh_run(look, nullptr, nullptr) == 0);
    CHECK(inside == features_here());
    Environment mask("WHORL_MASK", "ring_fd,guard,abs_timer");
    CHECK(wh_run(look, nullptr, nullptr) == 0);
    CHECK(inside == features_here());
    CHECK(inside.count("ring_fd") + inside.count("guard") + inside.count("abs_timer") == 0);
}

TEST_CASE("caps: a run works with every feature masked, one at a time and all together")
{
    unsetenv("WHORL_MASK");
    auto echo = [](void *) {
        int fds[2];
        if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) < 0)
            return 1;
        char buf[8];
        int result = 2;
        WH_WITH_TIMEOUT(WH_MILLISECOND)
        {
            if (wh_recv(fds[0], buf, sizeof buf, 0) != -ETIMEDOUT)
                return 3;
        }
        if (wh_send(fds[1], "ping", 4, 0) == 4 && wh_recv(fds[0], buf, sizeof buf, 0) == 4 &&
            wh_sleep(WH_MILLISECOND) == 0)
            result = 0;
        wh_close(fds[0]);
        wh_close(fds[1]);
        return result;
    };
    std::set<std::string> here = features_here();
    std::string all;
    for (const std::string &name : here) {
        all += name + ",";
        INFO(name);
        Environment mask("WHORL_MASK", name);
        CHECK(wh_run(echo, nullptr, nullptr) == 0);
    }
    Environment mask("WHORL_MASK", all);
    CHECK(wh_run(echo, nullptr, nullptr) == 0);
}
