/*
 * fs_memory_test.cpp: walks, copies and watches without memory: each allocation on their way is
 * refused in turn, and nothing is left behind. The linker's --wrap=mem_alloc puts the functions
 * below between the library and its allocator.
 */
#include "tests/net/peers.hpp"

#include <catch2/catch_test_macros.hpp>

#include <climits>

#include <sys/stat.h>

extern "C" {
void *__real_mem_alloc(size_t bytes);
void *__wrap_mem_alloc(size_t bytes);
void *__real_mem_zalloc(size_t bytes);
void *__wrap_mem_zalloc(size_t bytes);
}

namespace
{

/* Other threads allocate, too: those of wh_blocking(). */
thread_local int allocations_left = INT_MAX;

/* The one after these is refused, and no other. */
bool refused()
{
    return allocations_left != INT_MAX && allocations_left-- == 0;
}

/* Makes the call with the first allocation refused, then with the second, and so on until it needs
 * no more. Returns how often it failed; -1 if it failed with something else. */
template <typename F> int failures(const F &call)
{
    for (int i = 0; i < 1000; i++) {
        allocations_left = i;
        int rc = call();
        bool met = allocations_left < 0;
        allocations_left = INT_MAX;
        if (!met)
            return rc == 0 ? i : -1;
        if (rc != -ENOMEM)
            return -1;
    }
    return -1;
}

} // namespace

void *__wrap_mem_alloc(size_t bytes)
{
    return refused() ? nullptr : __real_mem_alloc(bytes);
}

void *__wrap_mem_zalloc(size_t bytes)
{
    return refused() ? nullptr : __real_mem_zalloc(bytes);
}

TEST_CASE("no memory: a walk ends, and has closed what it had opened")
{
    in_run([] {
        Folder folder;
        for (const char *dir : {"a", "a/b", "a/b/c"})
            CHECK(mkdir((folder / dir).c_str(), 0755) == 0);
        int before = fds_open();
        int failed = failures([&] {
            return wh_walk(
                folder.path(), [](void *, const wh_walk_entry *e) { return e->error; }, nullptr,
                nullptr);
        });
        CHECK(failed >= 5);
        CHECK(fds_open() == before);
        for (const char *dir : {"a/b/c", "a/b", "a"})
            rmdir((folder / dir).c_str());
    });
}

TEST_CASE("no memory: a copy is not made, and its temporary file is gone")
{
    in_run([] {
        Folder folder;
        Fd fd(open((folder / "from").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
        CHECK(write(fd, "text", 4) == 4);
        int before = fds_open();
        std::string from = folder / "from", to = folder / "to";
        /* The second from a file whose reading the kernel does not copy: by the loop. */
        for (const char *source : {from.c_str(), "/proc/self/status"}) {
            int failed = failures([&] {
                int rc = wh_copy_file(source, to.c_str(), nullptr);
                return rc == 0 ? 0 : access(to.c_str(), F_OK) == 0 ? -EIO : rc;
            });
            CHECK(failed >= 3);
            CHECK(unlink(to.c_str()) == 0);
        }
        CHECK(fds_open() == before);
        DIR *dir = opendir(folder.path());
        int entries = 0;
        while (readdir(dir))
            entries++;
        closedir(dir);
        CHECK(entries == 3);
    });
}

TEST_CASE("no memory: there is no watch")
{
    in_run([] {
        int before = fds_open();
        int failed = failures([] {
            wh_watch *watch = nullptr;
            int rc = wh_watch_create(&watch, 4);
            if (rc < 0)
                return watch ? -EIO : rc;
            wh_watch_destroy(watch);
            return 0;
        });
        CHECK(failed >= 2);
        CHECK(fds_open() == before);
    });
}
