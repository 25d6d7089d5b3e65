/*
 * resolve_memory_test.cpp: lookups without memory: of the library's own, which the linker's
 * --wrap=mem_alloc stands before, and of c-ares's, whose allocator can be chosen. And that all
 * memory is given back.
 */
#include "tests/net/name_server.hpp"

#include <catch2/catch_test_macros.hpp>

#include <atomic>
#include <climits>

#if HAVE_CARES
#include <ares.h>
#endif

extern "C" {
void *__real_mem_alloc(size_t bytes);
void *__wrap_mem_alloc(size_t bytes);
void *__real_mem_zalloc(size_t bytes);
void *__wrap_mem_zalloc(size_t bytes);
void *__real_mem_alloc_aligned(size_t bytes, size_t align);
void *__wrap_mem_alloc_aligned(size_t bytes, size_t align);
void __real_mem_free(void *memory);
void __wrap_mem_free(void *memory);
#if HAVE_CARES
void __real_ares_getaddrinfo(ares_channel channel, const char *node, const char *service,
                             const struct ares_addrinfo_hints *hints,
                             ares_addrinfo_callback callback, void *arg);
void __wrap_ares_getaddrinfo(ares_channel channel, const char *node, const char *service,
                             const struct ares_addrinfo_hints *hints,
                             ares_addrinfo_callback callback, void *arg);
#endif
}

namespace
{

/* How many allocations succeed, and how many bytes' worth of c-ares's have not been given back. */
std::atomic<int> left{INT_MAX};
std::atomic<int> held{0};

/* The same of the library's. */
std::atomic<int> owned{0};

bool refused()
{
    return left != INT_MAX && left-- <= 0;
}

} // namespace

void *__wrap_mem_alloc(size_t bytes)
{
    void *memory = refused() ? nullptr : __real_mem_alloc(bytes);
    owned += memory != nullptr;
    return memory;
}

void *__wrap_mem_zalloc(size_t bytes)
{
    void *memory = refused() ? nullptr : __real_mem_zalloc(bytes);
    owned += memory != nullptr;
    return memory;
}

void *__wrap_mem_alloc_aligned(size_t bytes, size_t align)
{
    void *memory = __real_mem_alloc_aligned(bytes, align);
    owned += memory != nullptr;
    return memory;
}

void __wrap_mem_free(void *memory)
{
    owned -= memory != nullptr;
    __real_mem_free(memory);
}

namespace
{

/* A thread of wh_blocking() stays in here until it is told. */
struct Gate {
    std::atomic<bool> reached{false}, open{false};
};

void pass(Gate *gate)
{
    gate->reached = true;
    while (!gate->open)
        sched_yield();
}

void hold(Gate *gate)
{
    WH_SHIELD(void) wh_blocking(nullptr, pass, gate);
}

void ask(const char *name)
{
    wh_addr found;
    (void)!wh_resolve(name, nullptr, &found, 1);
}

} // namespace

/* The first of all: there is no thread yet. */
TEST_CASE("resolve: of lookups that no thread has begun when the run ends nothing is left")
{
    setenv("WHORL_BLOCKING_MAX", "1", 1);
    static Gate gate, other;
    wh_options hasty = {};
    hasty.grace_ns = -1;
    const int before = owned;
    in_run(
        [] {
            (void)wh_go(hold, &gate);
            until([] { return gate.reached.load(); });
            other.open = true;
            (void)wh_go(ask, "one.test:80");
            (void)wh_go(ask, "two.test:80");
            (void)wh_go(hold, &other);
            for (int turns = 0; turns < 10; turns++) /* all of them wait, behind the gate */
                wh_yield();
            CHECK(!other.reached);
        },
        &hasty);
    gate.open = true;
    const int64_t limit_ns = wh_now() + 10 * WH_SECOND;
    while (owned != before && wh_now() < limit_ns)
        sched_yield(); /* the thread gives back what it was lent */
    CHECK(owned == before);
    CHECK(!other.reached);
    unsetenv("WHORL_BLOCKING_MAX");
}

#if HAVE_CARES

namespace
{

/* 1.34.9 follows a null pointer when there was no memory to send a question with (a question
 * without a connection, at its timeout), which earlier ones of 1.34 do not. So with 1.34.6 and
 * later the library's own allocations fail, and not c-ares's. */
bool cares_bears_it()
{
    int version = 0;
    ares_version(&version);
    return version < 0x012206;
}

bool cares_refused()
{
    static const bool bears_it = cares_bears_it();
    return bears_it && refused();
}

void *cares_alloc(size_t bytes)
{
    void *memory = cares_refused() ? nullptr : malloc(bytes);
    held += memory != nullptr;
    return memory;
}

void cares_free(void *memory)
{
    held -= memory != nullptr;
    free(memory);
}

void *cares_realloc(void *memory, size_t bytes)
{
    if (cares_refused())
        return nullptr;
    void *now = realloc(memory, bytes);
    held += !memory && now;
    return now;
}

} // namespace

TEST_CASE("resolve: whichever allocation fails, a lookup says so or succeeds, and leaves nothing")
{
    ares_library_init_mem(ARES_LIB_INIT_ALL, cares_alloc, cares_free, cares_realloc);
    const int fds = fds_open();
    in_run([] {
        NameServer server;
        server.on("name.test", A, Reply::with({"192.0.2.1", "192.0.2.2"}));
        server.on("name.test", AAAA, Reply::with({"2001:db8::1", "2001:db8::2"}).cut());
        wh_resolver_options options = server.options();
        options.try_ns = 10 * WH_MILLISECOND; /* without memory c-ares may not hear an answer */
        options.tries = 2;
        const std::string whole = resolved("name.test:80", options);
        const uint64_t live = live_now();
        int before = held;
        int failures = 0, n = 0;
        for (bool all = false; !all && n < 2000; n += n < 60 ? 1 : 7) { /* newer ones: hundreds */
            left = n;
            const std::string text = resolved("name.test:80", options);
            all = left > 0;
            left = INT_MAX;
            until_live(live);
            INFO(n << ": " << text);
            /* What a server is asked for want of memory in another way is not known to have
             * failed for that: it may have been heard, or not. */
            CHECK((text.size() > 20 || text == error_text(ENOMEM) ||
                   text == error_text(EHOSTDOWN) || text == error_text(EREMOTEIO) ||
                   text == error_text(ENOENT)));
            failures += text == error_text(ENOMEM);
            CHECK((held == before || !all)); /* some versions lose one when they fail */
            before = held;
        }
        CHECK(whole.size() > 40);
        CHECK(failures > (cares_bears_it() ? 10 : 2));
        CHECK(n < 2000);
    });
    CHECK(fds_open() == fds);
    ares_library_cleanup();
}

TEST_CASE("resolve: whichever allocation fails, a race that begins early leaves nothing")
{
    ares_library_init_mem(ARES_LIB_INIT_ALL, cares_alloc, cares_free, cares_realloc);
    const int fds = fds_open();
    in_run([] {
        NameServer server;
        server.on("name.test", A, Reply::with({"127.0.0.1"}));
        server.on("name.test", AAAA, Reply::drop());
        Fd live = plain_listener(256);
        const std::string address = "name.test:" + std::to_string(Address::of(live).port());
        wh_resolver_options resolver = server.options();
        resolver.try_ns = 300 * WH_MILLISECOND;
        resolver.tries = 1;
        wh_dial_options options = {};
        options.resolver = &resolver;
        const uint64_t coros = live_now();
        int before = held;
        int failures = 0, successes = 0, n = 0;
        for (bool all = false; !all && n < 2000; n += n < 16 ? 1 : 9) {
            left = n;
            const wh_fd fd = wh_dial_tcp_with(address.c_str(), &options);
            all = left > 0;
            left = INT_MAX;
            if (fd >= 0)
                wh_close(fd);
            until_live(coros);
            INFO(n << ": " << fd);
            CHECK((fd >= 0 || fd == -ENOMEM || fd == -EHOSTDOWN || fd == -EREMOTEIO ||
                   fd == -ENOENT));
            failures += fd == -ENOMEM;
            successes += fd >= 0;
            CHECK((held == before || !all)); /* as above */
            before = held;
        }
        CHECK(failures > (cares_bears_it() ? 5 : 2));
        CHECK(successes > 0);
        CHECK(n < 2000);
    });
    CHECK(fds_open() == fds);
    ares_library_cleanup();
}

namespace
{
bool forgets = false; /* c-ares 1.34 does, at some allocations that fail */
}

void __wrap_ares_getaddrinfo(ares_channel channel, const char *node, const char *service,
                             const struct ares_addrinfo_hints *hints,
                             ares_addrinfo_callback callback, void *arg)
{
    if (!forgets)
        __real_ares_getaddrinfo(channel, node, service, hints, callback, arg);
}

TEST_CASE("resolve: a question that c-ares has forgotten is one that there was no memory for")
{
    in_run([] {
        NameServer server;
        server.on("name.test", A, Reply::with({"192.0.2.1"}));
        const uint64_t live = live_now();
        forgets = true;
        const std::string text = resolved("name.test:80", server.options());
        forgets = false;
        until_live(live);
        CHECK(text == error_text(ENOMEM));
        CHECK(server.asked("name.test", A) == 0);
        const std::string again = resolved("name.test:80", server.options());
        CHECK(again == "192.0.2.1:80");
    });
}

#endif

TEST_CASE("resolve: without memory the hosts file is not read to a wrong end")
{
    Folder folder;
    std::string lines;
    for (int i = 1; i <= 40; i++)
        lines += "192.0.2." + std::to_string(i) + " name\n";
    const std::string path = write_file(folder, "hosts", lines);
    in_run([&] {
        wh_resolver_options options = {};
        options.hosts_file = path.c_str();
        const uint64_t live = live_now();
        int failures = 0, n = 0;
        for (bool all = false; !all && n < 100; n++) {
            left = n;
            wh_addr found[64];
            const int count = wh_resolve("name:80", &options, found, 64);
            all = left > 0;
            left = INT_MAX;
            until_live(live);
            CHECK((count == 40 || count == -ENOMEM));
            failures += count == -ENOMEM;
        }
        CHECK(failures >= 3);
        CHECK(n < 100);
    });
}
