/*
 * watch_test.cpp: events of files in a channel: what comes and in which order, a full channel, the
 * kernel's overflow, and the ends of a watch.
 *
 * Checks are made in the root alone: it is run with several workers, too.
 */
#include "tests/net/peers.hpp"
#include "tests/sched/on_workers.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <fstream>

#include <sys/stat.h>

namespace
{

void touch(const std::string &path)
{
    Fd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
    if (fd < 0)
        abort();
}

wh_watch *watch_of(size_t capacity)
{
    wh_watch *watch = nullptr;
    if (wh_watch_create(&watch, capacity) < 0)
        abort();
    return watch;
}

/* The next event, which has to come; id 0 when it does not. */
wh_watch_event next(wh_watch *watch)
{
    wh_watch_event event = {};
    int rc = 0;
    WH_WITH_TIMEOUT(20 * WH_SECOND)
    {
        rc = wh_chan_recv(wh_watch_chan(watch), &event);
    }
    if (rc <= 0)
        event.id = 0;
    return event;
}

long sysctl_of(const char *name)
{
    long value = 0;
    std::ifstream(std::string("/proc/sys/fs/inotify/") + name) >> value;
    return value;
}

/* How many inotify descriptors this process has. */
int inotifies()
{
    int count = 0;
    DIR *dir = opendir("/proc/self/fd");
    while (struct dirent *entry = dir ? readdir(dir) : nullptr) {
        char target[100] = {};
        if (readlinkat(dirfd(dir), entry->d_name, target, sizeof target - 1) > 0)
            count += strstr(target, "inotify") != nullptr;
    }
    if (dir)
        closedir(dir);
    return count;
}

} // namespace

TEST_CASE("watch: what happens in a directory comes in its order, with names and cookies")
{
    in_run([] {
        Folder folder;
        wh_watch *watch = watch_of(4);
        int id = wh_watch_add(watch, folder.path(), IN_CREATE | IN_DELETE | IN_MOVE);
        CHECK(id >= 1);
        touch(folder / "one");
        CHECK(mkdir((folder / "dir").c_str(), 0755) == 0);
        CHECK(rename((folder / "one").c_str(), (folder / "two").c_str()) == 0);
        CHECK(unlink((folder / "two").c_str()) == 0);
        CHECK(rmdir((folder / "dir").c_str()) == 0);
        struct Row {
            uint32_t what;
            const char *name;
        };
        uint32_t cookie = 0;
        for (const Row &row : std::initializer_list<Row>{{IN_CREATE, "one"},
                                                         {IN_CREATE | IN_ISDIR, "dir"},
                                                         {IN_MOVED_FROM, "one"},
                                                         {IN_MOVED_TO, "two"},
                                                         {IN_DELETE, "two"},
                                                         {IN_DELETE | IN_ISDIR, "dir"}}) {
            wh_watch_event event = next(watch);
            INFO(row.name);
            CHECK(event.id == id);
            CHECK(event.what == row.what);
            CHECK(std::string(event.name) == row.name);
            if (row.what == IN_MOVED_FROM)
                cookie = event.cookie;
            CHECK((event.cookie != 0) == ((row.what & IN_MOVE) != 0));
            CHECK((row.what != IN_MOVED_TO || event.cookie == cookie));
        }
        /* The longest name there is. */
        std::string longest(255, 'n');
        touch(folder / longest);
        wh_watch_event event = next(watch);
        CHECK(std::string(event.name) == longest);
        wh_watch_destroy(watch);
    });
}

TEST_CASE("watch: several files and directories in one, each by its id, until it is removed")
{
    in_run([] {
        Folder folder;
        touch(folder / "file");
        wh_watch *watch = watch_of(4);
        int dir = wh_watch_add(watch, folder.path(), IN_CREATE);
        int file = wh_watch_add(watch, (folder / "file").c_str(), IN_MODIFY);
        CHECK(dir != file);
        Fd fd(open((folder / "file").c_str(), O_WRONLY | O_CLOEXEC));
        CHECK(write(fd, "x", 1) == 1);
        wh_watch_event event = next(watch);
        CHECK(event.id == file);
        CHECK(event.what == IN_MODIFY);
        CHECK(event.name[0] == 0);
        touch(folder / "new");
        event = next(watch);
        CHECK(event.id == dir);
        CHECK(wh_watch_remove(watch, file) == 0);
        CHECK(write(fd, "x", 1) == 1);
        touch(folder / "newer");
        event = next(watch);
        CHECK(event.id == file);
        CHECK(event.what == IN_IGNORED);
        event = next(watch);
        CHECK(event.id == dir);
        CHECK(std::string(event.name) == "newer");
        CHECK(wh_watch_remove(watch, file) == -EINVAL);
        CHECK(wh_watch_add(watch, (folder / "none").c_str(), IN_CREATE) == -ENOENT);
        CHECK(wh_watch_add(watch, (folder / "file").c_str(), IN_CREATE | IN_ONLYDIR) == -ENOTDIR);
        CHECK(wh_watch_add(watch, (folder / std::string(256, 'n')).c_str(), IN_CREATE) ==
              -ENAMETOOLONG);
        CHECK(wh_watch_add(watch, folder.path(), 0) == -EINVAL);
        wh_watch_destroy(watch);
        wh_watch_destroy(nullptr);
    });
}

TEST_CASE("watch: a full channel loses nothing as long as the kernel has room; in a select, too")
{
    in_run([] {
        Folder folder;
        for (size_t capacity : {size_t(0), size_t(1), size_t(7)}) {
            wh_watch *watch = watch_of(capacity);
            wh_watch_add(watch, folder.path(), IN_CREATE | IN_DELETE);
            const int count = 200; /* far more than one read takes */
            for (int i = 0; i < count; i++)
                touch(folder / std::to_string(i));
            int in_order = 0;
            for (int i = 0; i < count; i++) {
                wh_watch_event event = {};
                if (i % 2) {
                    wh_select(WH_RECV(wh_watch_chan(watch), &event), WH_AFTER(20 * WH_SECOND));
                } else {
                    event = next(watch);
                }
                in_order += event.name == std::to_string(i);
            }
            CHECK(in_order == count);
            for (int i = 0; i < count; i++)
                unlink((folder / std::to_string(i)).c_str());
            wh_watch_destroy(watch); /* with events under way */
        }
    });
}

TEST_CASE("watch: what is too much for the kernel is dropped, and an event says so")
{
    in_run([] {
        Folder folder;
        long most = sysctl_of("max_queued_events");
        if (most <= 0 || most > 100000)
            return;
        touch(folder / "a");
        wh_watch *watch = watch_of(1);
        int id = wh_watch_add(watch, folder.path(), IN_ATTRIB | IN_OPEN);
        /* Two kinds by turns: equal ones are kept as one. */
        for (long i = 0; i < most; i++) {
            Fd fd(open((folder / "a").c_str(), O_RDONLY | O_CLOEXEC));
            fchmod(fd, i % 2 ? 0600 : 0644);
        }
        long events = 0;
        bool overflow = false;
        while (!overflow) {
            wh_watch_event event = next(watch);
            if (!event.id)
                break;
            overflow = event.what & IN_Q_OVERFLOW;
            CHECK((overflow ? event.id == -1 && !event.name[0] : event.id == id));
            events++;
        }
        CHECK(overflow);
        CHECK(events < 2 * most);
        touch(folder / "a"); /* and it goes on */
        wh_watch_event event = next(watch);
        CHECK(event.id == id);
        wh_watch_destroy(watch);
    });
}

TEST_CASE("watch: it ends with its context, with the run, and when it is destroyed")
{
    in_run([] {
        Folder folder;
        int before = fds_open();
        wh_watch *watch = nullptr;
        wh_watch_event event = {};
        int rc = 0;
        WH_WITH_CANCEL(ctx)
        {
            rc = wh_watch_create(&watch, 4);
            CHECK(rc == 0);
            wh_watch_add(watch, folder.path(), IN_CREATE);
            touch(folder / "one");
            event = next(watch);
            CHECK(std::string(event.name) == "one");
            wh_ctx_cancel(ctx, 0);
            wh_watch *other = nullptr;
            rc = wh_watch_create(&other, 4);
            CHECK(rc == -ECANCELED);
            CHECK(other == nullptr);
        }
        rc = wh_chan_recv(wh_watch_chan(watch), &event);
        CHECK(rc == 0); /* closed */
        wh_watch_destroy(watch);
        CHECK(fds_open() == before);

        /* A receive that waits is ended by it. */
        watch = watch_of(0);
        wh_coro *coro = on(worker_for(1), [=]() -> intptr_t {
            wh_watch_event none = {};
            return wh_chan_recv(wh_watch_chan(watch), &none);
        });
        until_parked(coro);
        wh_watch_destroy(watch);
        intptr_t result = join(coro);
        CHECK(result == 0);

        /* A deadline of the receive leaves the watch as it is. */
        watch = watch_of(0);
        wh_watch_add(watch, folder.path(), IN_CREATE);
        WH_WITH_TIMEOUT(5 * WH_MILLISECOND)
        {
            rc = wh_chan_recv(wh_watch_chan(watch), &event);
        }
        CHECK(rc == -ETIMEDOUT);
        touch(folder / "two");
        event = next(watch);
        CHECK(std::string(event.name) == "two");
        wh_watch_destroy(watch);
        CHECK(fds_open() == before);
        CHECK(inotifies() == 0);
    });
}

TEST_CASE("watch: destroyed by who was cancelled, at any moment, and nothing is left")
{
    in_run([] {
        Folder folder;
        int before = fds_open();
        for (int i = 0; i < times(100); i++) {
            wh_coro *coro = on(worker_for(unsigned(i)), [&, i]() -> intptr_t {
                wh_watch *watch = nullptr;
                if (wh_watch_create(&watch, size_t(i % 3)) < 0)
                    return 0;
                wh_watch_add(watch, folder.path(), IN_CREATE | IN_DELETE);
                wh_watch_event event;
                while (wh_chan_recv(wh_watch_chan(watch), &event) > 0)
                    ;
                wh_watch_destroy(watch);
                return 1;
            });
            for (int k = 0; k < i % 5; k++) {
                touch(folder / "x");
                unlink((folder / "x").c_str());
                wh_yield();
            }
            wh_cancel(coro);
            join(coro);
        }
        CHECK(fds_open() == before);
    });
}

TEST_CASE("watch: without descriptors there is none, and nothing is left behind")
{
    in_run([] {
        int before = fds_open();
        wh_watch *watch = nullptr;
        int rc = 0;
        {
            FewDescriptors few(0);
            rc = wh_watch_create(&watch, 4);
        }
        CHECK(rc == -EMFILE);
        CHECK(watch == nullptr);
        rc = wh_watch_create(&watch, SIZE_MAX / 4);
        CHECK(rc == -ENOMEM);
        CHECK(watch == nullptr);
        CHECK(fds_open() == before);
    });
}
