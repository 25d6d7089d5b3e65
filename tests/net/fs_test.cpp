/*
 * fs_test.cpp: directories read, trees walked and files copied, in a folder of the test's own: what
 * is shown and in which order, links and directories that are replaced meanwhile, deep trees with
 * few descriptors, and what a failure leaves behind.
 *
 * Checks are made in the root alone: it is run with several workers, too.
 */
#include "tests/base/child.hpp"
#include "tests/net/peers.hpp"
#include "tests/sched/on_workers.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <map>
#include <set>

#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/xattr.h>

namespace
{

void put(const std::string &path, const std::string &text = "", mode_t mode = 0644)
{
    Fd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode));
    if (fd < 0 || write(fd, text.data(), text.size()) != ssize_t(text.size()))
        abort();
}

std::string contents(const std::string &path)
{
    std::string text;
    char buf[65536];
    Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    ssize_t n;
    while ((n = read(fd, buf, sizeof buf)) > 0)
        text.append(buf, size_t(n));
    return fd < 0 ? "(none)" : text;
}

std::set<std::string> names_in(const std::string &path)
{
    std::set<std::string> names;
    DIR *dir = opendir(path.c_str());
    while (struct dirent *entry = dir ? readdir(dir) : nullptr)
        names.insert(entry->d_name);
    if (dir)
        closedir(dir);
    names.erase(".");
    names.erase("..");
    return names;
}

using Visit = std::function<int(const wh_walk_entry &)>;

int walk(const std::string &path, const Visit &visit, const wh_walk_options *options = nullptr)
{
    return wh_walk(
        path.c_str(),
        [](void *arg, const wh_walk_entry *entry) {
            return (*static_cast<const Visit *>(arg))(*entry);
        },
        const_cast<Visit *>(&visit), options);
}

/* What a walk shows, as text: "2 d/f r", a directory after all in it "1 d D+", an error "1 d D!2".
 * A child's line comes behind its directory's. */
std::vector<std::string> shown(const Folder &folder, const wh_walk_options *options = nullptr)
{
    std::vector<std::string> lines;
    int rc = walk(
        folder.path(),
        [&](const wh_walk_entry &e) {
            std::string line = std::to_string(e.depth) + " ";
            line += std::string(e.path).substr(strlen(folder.path()) + 1);
            line += e.type == DT_DIR   ? " D"
                    : e.type == DT_LNK ? " l"
                    : e.type == DT_REG ? " r"
                                       : " ?";
            line += e.after ? "+" : "";
            line += e.error ? "!" + std::to_string(-e.error) : "";
            lines.push_back(line);
            return 0;
        },
        options);
    if (rc < 0)
        lines.push_back("result " + std::to_string(rc));
    return lines;
}

size_t place(const std::vector<std::string> &lines, const std::string &line)
{
    return size_t(std::find(lines.begin(), lines.end(), line) - lines.begin());
}

/* Removes everything in it, by the walk. */
int remove_all(const std::string &path)
{
    return walk(path, [](const wh_walk_entry &e) {
        if (e.error)
            return e.error;
        if (e.type == DT_DIR && !e.after)
            return 0;
        return wh_unlinkat(e.dir, e.name, e.type == DT_DIR ? AT_REMOVEDIR : 0);
    });
}

} // namespace

TEST_CASE("fs: openat2 keeps a name below the directory, and is close-on-exec")
{
    in_run([] {
        Folder folder;
        put(folder / "file", "x");
        Fd dir(open(folder.path(), O_PATH | O_DIRECTORY | O_CLOEXEC));
        struct open_how how = {};
        how.flags = O_RDONLY;
        how.resolve = RESOLVE_BENEATH;
        Fd fd(wh_openat2(dir, "file", &how, sizeof how));
        CHECK(fd >= 0);
        CHECK((fcntl(fd, F_GETFD) & FD_CLOEXEC));
        int rc = wh_openat2(dir, "../file", &how, sizeof how);
        CHECK(rc == -EXDEV);
        rc = wh_openat2(dir, "none", &how, sizeof how);
        CHECK(rc == -ENOENT);
        rc = wh_openat2(dir, "file", &how, sizeof how - 1);
        CHECK(rc == -EINVAL);
        struct {
            struct open_how how;
            uint64_t more;
        } longer = {how, 0};
        fd = Fd(wh_openat2(dir, "file", &longer.how, sizeof longer));
        CHECK(fd >= 0);
        longer.more = 1;
        rc = wh_openat2(dir, "file", &longer.how, sizeof longer);
        CHECK(rc == -E2BIG);
        std::string long_name(300, 'n');
        rc = wh_openat2(dir, long_name.c_str(), &how, sizeof how);
        CHECK(rc == -ENAMETOOLONG);
    });
}

TEST_CASE("fs: sync_file_range and extended attributes do what the system calls do")
{
    in_run([] {
        Folder folder;
        put(folder / "file", "text");
        Fd fd(open((folder / "file").c_str(), O_RDWR | O_CLOEXEC));
        int rc = wh_sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
        CHECK(rc == 0);
        rc = wh_sync_file_range(fd, 0, 4, 0xff00);
        CHECK(rc == -EINVAL);
        rc = wh_sync_file_range(fd, -1, 4, 0);
        CHECK(rc == -EINVAL);
        rc = wh_sync_file_range(fd, 0, INT64_C(1) << 32, 0);
        CHECK(rc == -EINVAL);
        FdPair pipe = pipe_pair();
        rc = wh_sync_file_range(pipe.b, 0, 0, SYNC_FILE_RANGE_WRITE);
        CHECK(rc == -ESPIPE);

        char value[20] = {};
        if (fsetxattr(fd, "user.probe", "", 0, 0) < 0) /* not every file system has them */
            return;
        rc = wh_fsetxattr(fd, "user.whorl", "value", 5, 0);
        CHECK(rc == 0);
        CHECK(fgetxattr(fd, "user.whorl", value, sizeof value) == 5);
        CHECK(std::string(value) == "value");
        rc = wh_fsetxattr(fd, "user.whorl", "other", 5, XATTR_CREATE);
        CHECK(rc == -EEXIST);
        memset(value, 0, sizeof value);
        ssize_t n = wh_fgetxattr(fd, "user.whorl", value, sizeof value);
        CHECK(n == 5);
        CHECK(std::string(value) == "value");
        n = wh_fgetxattr(fd, "user.whorl", nullptr, 0);
        CHECK(n == 5);
        n = wh_fgetxattr(fd, "user.whorl", value, 2);
        CHECK(n == -ERANGE);
        n = wh_fgetxattr(fd, "user.none", value, sizeof value);
        CHECK(n == -ENODATA);
        n = wh_fgetxattr(fd, ("user." + std::string(300, 'n')).c_str(), value, sizeof value);
        CHECK(n == -ERANGE);
    });
}

TEST_CASE("fs: getdents gives every entry once, and ends with the context")
{
    in_run([] {
        Folder folder;
        std::set<std::string> expected, got;
        for (int i = 0; i < 300; i++) {
            expected.insert("entry-" + std::to_string(i));
            put(folder / ("entry-" + std::to_string(i)));
        }
        Fd dir(open(folder.path(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        alignas(8) char buf[1024];
        ssize_t n;
        int calls = 0;
        while ((n = wh_getdents(dir, buf, sizeof buf)) > 0) {
            calls++;
            for (ssize_t at = 0; at < n;) {
                const auto *d = reinterpret_cast<const struct dirent64 *>(buf + at);
                CHECK(got.insert(d->d_name).second);
                at += d->d_reclen;
            }
        }
        CHECK(n == 0);
        CHECK(calls > 1);
        expected.insert(".");
        expected.insert("..");
        CHECK(got == expected);
        CHECK(lseek(dir, 0, SEEK_SET) == 0);
        n = wh_getdents(dir, buf, 5);
        CHECK(n == -EINVAL);
        FdPair pipe = pipe_pair();
        n = wh_getdents(pipe.a, buf, sizeof buf);
        CHECK(n == -ENOTDIR);
        n = wh_getdents(-1, buf, sizeof buf);
        CHECK(n == -EBADF);
        WH_WITH_TIMEOUT(-1)
        {
            n = wh_getdents(dir, buf, sizeof buf);
        }
        CHECK(n == -ETIMEDOUT);
    });
}

TEST_CASE("walk: everything is shown, directories before and after what is in them, links as such")
{
    in_run([] {
        Folder folder;
        for (const char *dir : {"a", "a/b", "a/b/c", "empty"})
            CHECK(mkdir((folder / dir).c_str(), 0755) == 0);
        for (const char *file : {"f", "a/f", "a/b/c/f"})
            put(folder / file);
        CHECK(symlink("a", (folder / "link").c_str()) == 0);
        CHECK(symlink("..", (folder / "a/b/up").c_str()) == 0);
        int before = fds_open();
        std::vector<std::string> lines = shown(folder);
        std::set<std::string> set(lines.begin(), lines.end());
        CHECK(set == std::set<std::string>{"1 a D", "1 a D+", "1 empty D", "1 empty D+", "1 f r",
                                           "1 link l", "2 a/b D", "2 a/b D+", "2 a/f r",
                                           "3 a/b/c D", "3 a/b/c D+", "3 a/b/up l", "4 a/b/c/f r"});
        CHECK(lines.size() == set.size());
        CHECK(place(lines, "1 a D") < place(lines, "2 a/b D"));
        CHECK(place(lines, "4 a/b/c/f r") < place(lines, "3 a/b/c D+"));
        CHECK(place(lines, "3 a/b/c D+") < place(lines, "2 a/b D+"));
        CHECK(place(lines, "2 a/b D+") < place(lines, "1 a D+"));

        wh_walk_options options = {};
        options.depth_max = 2;
        lines = shown(folder, &options);
        set = {lines.begin(), lines.end()};
        CHECK(set == std::set<std::string>{"1 a D", "1 a D+", "1 empty D", "1 empty D+", "1 f r",
                                           "1 link l", "2 a/b D", "2 a/f r"});
        options.depth_max = 0;
        options.one_filesystem = 1;
        CHECK(shown(folder, &options).size() == 13);
        options.depth_max = -1;
        CHECK(shown(folder, &options).back() == "result -22");

        /* The path itself may be a link, and end with a slash. */
        int count = 0;
        std::string path;
        auto visit = [&](const wh_walk_entry &e) {
            count++;
            path = e.path;
            return e.type == DT_DIR ? int(WH_WALK_SKIP) : 0;
        };
        int rc = walk(folder / "link/", visit);
        CHECK(rc == 0);
        CHECK(count == 2);
        CHECK((path == folder / "link/b" || path == folder / "link/f"));
        CHECK(fds_open() == before);
        rc = remove_all(folder.path());
        CHECK(rc == 0);
        CHECK(names_in(folder.path()).empty());
    });
}

TEST_CASE("walk: the visitor ends it, and so do cancel and deadline; what cannot begin says why")
{
    in_run([] {
        Folder folder;
        CHECK(mkdir((folder / "d").c_str(), 0755) == 0);
        put(folder / "d/f");
        int before = fds_open();
        int rc = walk(folder.path(), [](const wh_walk_entry &e) { return e.depth > 1 ? -77 : 0; });
        CHECK(rc == -77);
        rc = walk(folder.path(), [](const wh_walk_entry &e) { return e.after ? -78 : 0; });
        CHECK(rc == -78);
        rc = walk(folder.path(), [](const wh_walk_entry &) {
            wh_cancel(wh_self());
            return 0;
        });
        CHECK(rc == -ECANCELED);
        WH_SHIELD
        {
            rc = remove_all(folder.path());
        }
        CHECK(rc == 0);
        CHECK(fds_open() == before);
    });
    in_run([] {
        Folder folder;
        int before = fds_open(), rc = 0;
        auto none = [](const wh_walk_entry &) { return 0; };
        WH_WITH_TIMEOUT(-1)
        {
            rc = walk(folder.path(), none);
        }
        CHECK(rc == -ETIMEDOUT);
        rc = walk(folder / "none", none);
        CHECK(rc == -ENOENT);
        put(folder / "file");
        rc = walk(folder / "file", none);
        CHECK(rc == -ENOTDIR);
        rc = walk(std::string(5000, 'x'), none);
        CHECK(rc == -ENAMETOOLONG);
        CHECK(fds_open() == before);
    });
}

TEST_CASE("walk: a directory that is replaced by a link is not followed; one that is gone is told")
{
    in_run([] {
        Folder folder, outside;
        put(outside / "secret");
        for (const char *dir : {"d", "e"})
            CHECK(mkdir((folder / dir).c_str(), 0755) == 0);
        std::vector<std::string> lines;
        int rc = walk(folder.path(), [&](const wh_walk_entry &e) {
            lines.push_back(std::string(e.name) + " " + std::to_string(e.error));
            if (e.error)
                return 0;
            if (rmdir(e.path) < 0)
                return -1;
            if (e.name == std::string("d") && symlink(outside.path(), e.path) < 0)
                return -2;
            return 0;
        });
        CHECK(rc == 0);
        std::sort(lines.begin(), lines.end());
        CHECK(lines == std::vector<std::string>{"d -20", "d 0", "e -2", "e 0"});
    });
}

TEST_CASE("walk: a directory that is moved away while the walk is in it ends the walk")
{
    in_run([] {
        Folder folder;
        for (const char *dir : {"a", "a/b", "a/b/c"})
            CHECK(mkdir((folder / dir).c_str(), 0755) == 0);
        int before = fds_open();
        int rc = walk(folder.path(), [&](const wh_walk_entry &e) {
            if (e.name == std::string("c") && !e.after)
                return rename((folder / "a/b").c_str(), (folder / "b").c_str());
            return 0;
        });
        CHECK(rc == -ESTALE);
        CHECK(fds_open() == before);
        rc = remove_all(folder.path());
        CHECK(rc == 0);
    });
}

TEST_CASE("walk: others replace directories by links all the time, and none is ever followed")
{
    in_run([] {
        Folder folder, outside;
        put(outside / "secret");
        CHECK(mkdir((folder / "d").c_str(), 0755) == 0);
        put(folder / "d/f");
        std::atomic<bool> stop{false};
        /* On a thread of its own: d is a directory and a link by turns. */
        wh_coro *swapper = spawn([&]() -> intptr_t {
            intptr_t rounds = 0;
            WH_SHIELD
            {
                wh_blocking(
                    &rounds,
                    +[](std::atomic<bool> *ends, const Folder *in, const Folder *out) -> intptr_t {
                        std::string d = *in / "d", other = *in / "other";
                        intptr_t done = 0;
                        while (!ends->load()) {
                            if (rename(d.c_str(), other.c_str()) < 0 ||
                                symlink(out->path(), d.c_str()) < 0 || unlink(d.c_str()) < 0 ||
                                rename(other.c_str(), d.c_str()) < 0)
                                return -1;
                            done++;
                        }
                        return done;
                    },
                    &stop, &folder, &outside);
            }
            return rounds;
        });
        int followed = 0, failed = 0, files = 0;
        for (int i = 0; i < times(500); i++) {
            int rc = walk(folder.path(), [&](const wh_walk_entry &e) {
                followed += e.name == std::string("secret");
                files += e.name == std::string("f");
                return 0;
            });
            failed += rc != 0;
        }
        stop = true;
        intptr_t swaps = join(swapper);
        CHECK(swaps > 0);
        CHECK(followed == 0);
        CHECK(failed == 0);
        CHECK(files > 0);
        int rc = remove_all(folder.path());
        CHECK(rc == 0);
    });
}

/* ThreadSanitizer allows no threads in a child of a process that has some. */
#ifndef __SANITIZE_THREAD__
TEST_CASE("walk: a directory that may be read and not searched does not end it")
{
    const ChildEnd end = in_child([] {
        if (geteuid() == 0) { /* who may do everything sees no difference */
            CHILD_REQUIRE(setresgid(65534, 65534, 65534) == 0);
            CHILD_REQUIRE(setresuid(65534, 65534, 65534) == 0);
        }
        return in_run([] {
            Folder folder;
            for (const char *dir : {"/a", "/a/b", "/a/c", "/a/c/d"})
                CHILD_REQUIRE(mkdir((folder.path() + std::string(dir)).c_str(), 0700) == 0);
            for (const char *file : {"/a/b/f", "/a/c/d/g"})
                CHILD_REQUIRE(mknod((folder.path() + std::string(file)).c_str(), S_IFREG, 0) == 0);
            const std::string closed = folder.path() + std::string("/a/b");
            CHILD_REQUIRE(chmod(closed.c_str(), 0444) == 0);
            const std::vector<std::string> lines = shown(folder);
            const char *expected[] = {"2 a/b D",   "3 a/b/f r",   "2 a/b D+", "2 a/c D",
                                      "3 a/c/d D", "4 a/c/d/g r", "2 a/c D+", "1 a D+"};
            for (const char *line : expected)
                CHILD_REQUIRE(place(lines, line) < lines.size());
            CHILD_REQUIRE(chmod(closed.c_str(), 0700) == 0);
            CHILD_REQUIRE(remove_all(folder.path()) == 0);
        });
    });
    INFO(end.how());
    CHECK(end.exited(0));
}
#endif

TEST_CASE("walk: deeper than a path can be, with four descriptors, and removed again")
{
    in_run([] {
        Folder folder;
        const int deep = times(1500);
        const std::string name(20, 'd');
        Fd dir(open(folder.path(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        for (int i = 0; i < deep; i++) {
            if (mkdirat(dir, name.c_str(), 0755) < 0)
                abort();
            dir = Fd(openat(dir, name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        }
        dir.reset();
        int before = fds_open(), deepest = 0, after = 0, most = 0, rc = 0;
        {
            FewDescriptors few(5); /* what counts them takes one, too */
            rc = walk(folder.path(), [&](const wh_walk_entry &e) {
                deepest = std::max(deepest, e.depth);
                after += e.after;
                if (e.depth % 100 == 0)
                    most = std::max(most, fds_open());
                return e.error;
            });
        }
        CHECK(rc == 0);
        CHECK(deepest == deep);
        CHECK(after == deep);
        CHECK(most <= before + 3);
        {
            FewDescriptors few(1);
            rc = walk(folder.path(), [](const wh_walk_entry &) { return 0; });
        }
        CHECK(rc == -EMFILE);
        rc = remove_all(folder.path());
        CHECK(rc == 0);
        CHECK(names_in(folder.path()).empty());
        CHECK(fds_open() == before);
    });
}

TEST_CASE("copy: bytes and permissions are the same, whatever was there is replaced")
{
    in_run([] {
        Folder folder;
        mode_t mask = umask(022);
        int before = fds_open();
        for (size_t len : {size_t(0), size_t(1), size_t(1) << 16, (size_t(9) << 20) + 17}) {
            std::string text(len, 0);
            for (size_t i = 0; i < len; i++)
                text[i] = char(i * 31 + i / 4099);
            put(folder / "from", text);
            CHECK(chmod((folder / "from").c_str(), 04751) == 0);
            int rc = wh_copy_file((folder / "from").c_str(), (folder / "to").c_str(), nullptr);
            CHECK(rc == 0);
            CHECK((contents(folder / "to") == text));
            struct stat st = {};
            CHECK(stat((folder / "to").c_str(), &st) == 0);
            CHECK((st.st_mode & 07777) == 0751);
        }
        umask(mask);
        CHECK(names_in(folder.path()) == std::set<std::string>{"from", "to"});

        /* A link is replaced, its target is left; the copy of a link is what it leads to. */
        put(folder / "target", "target");
        CHECK(symlink("target", (folder / "link").c_str()) == 0);
        put(folder / "from", "new");
        int rc = wh_copy_file((folder / "from").c_str(), (folder / "link").c_str(), nullptr);
        CHECK(rc == 0);
        CHECK(contents(folder / "target") == "target");
        CHECK(contents(folder / "link") == "new");
        wh_copy_file_options options = {};
        options.exclusive = 1;
        rc = wh_copy_file((folder / "from").c_str(), (folder / "to").c_str(), &options);
        CHECK(rc == -EEXIST);
        options.sync = 1;
        rc = wh_copy_file((folder / "from").c_str(), (folder / "other").c_str(), &options);
        CHECK(rc == 0);
        CHECK(contents(folder / "other") == "new");
        /* Onto itself. */
        rc = wh_copy_file((folder / "other").c_str(), (folder / "other").c_str(), nullptr);
        CHECK(rc == 0);
        CHECK(contents(folder / "other") == "new");
        CHECK(fds_open() == before);
        CHECK(names_in(folder.path()).size() == 5);
    });
}

TEST_CASE("copy: from another file system, and of a file whose length is not known")
{
    in_run([] {
        Folder folder;
        int rc = wh_copy_file("/proc/self/status", (folder / "status").c_str(), nullptr);
        CHECK(rc == 0);
        CHECK(contents(folder / "status").find("VmRSS") != std::string::npos);
        char shm[] = "/dev/shm/whorl-fs.XXXXXX";
        Fd fd(mkostemp(shm, O_CLOEXEC));
        if (fd < 0)
            return;
        std::string text((size_t(1) << 20) + 5, 'x');
        CHECK(write(fd, text.data(), text.size()) == ssize_t(text.size()));
        rc = wh_copy_file(shm, (folder / "copy").c_str(), nullptr);
        unlink(shm);
        CHECK(rc == 0);
        CHECK((contents(folder / "copy") == text));
    });
}

TEST_CASE("copy: a failure, a cancel and a deadline change nothing and leave nothing behind")
{
    in_run([] {
        Folder folder;
        put(folder / "from", std::string(size_t(9) << 20, 'x'));
        put(folder / "to", "before");
        CHECK(mkdir((folder / "dir").c_str(), 0755) == 0);
        CHECK(mkfifo((folder / "fifo").c_str(), 0644) == 0);
        int before = fds_open();
        auto copy = [&](const std::string &from, const std::string &to) {
            return wh_copy_file((folder / from).c_str(), (folder / to).c_str(), nullptr);
        };
        int rc = copy("none", "to");
        CHECK(rc == -ENOENT);
        rc = copy("dir", "to");
        CHECK(rc == -EISDIR);
        rc = copy("fifo", "to");
        CHECK(rc == -EINVAL);
        rc = copy("from", "dir");
        CHECK(rc == -EISDIR);
        rc = copy("from", "dir/");
        CHECK(rc == -EISDIR);
        rc = wh_copy_file((folder / "from").c_str(), "", nullptr);
        CHECK(rc == -EISDIR);
        rc = copy("from", "none/to");
        CHECK(rc == -ENOENT);
        rc = copy("from", "to/to");
        CHECK(rc == -ENOTDIR);
        rc = copy("from", std::string(256, 'n'));
        CHECK(rc == -ENAMETOOLONG);
        rc = copy("from", std::string(255, 'n')); /* the longest that there is */
        CHECK(rc == 0);
        CHECK(unlink((folder / std::string(255, 'n')).c_str()) == 0);
        WH_WITH_TIMEOUT(-1)
        {
            rc = copy("from", "to");
        }
        CHECK(rc == -ETIMEDOUT);
        for (int few = 0; few < 3; few++) {
            FewDescriptors limit(few);
            rc = copy("from", "to");
            CHECK(rc == -EMFILE);
        }
        /* No room: the size of files is limited. */
        struct rlimit size = {}, small = {};
        getrlimit(RLIMIT_FSIZE, &size);
        auto handler = signal(SIGXFSZ, SIG_IGN);
        small = {1 << 20, size.rlim_max};
        setrlimit(RLIMIT_FSIZE, &small);
        rc = copy("from", "to");
        setrlimit(RLIMIT_FSIZE, &size);
        signal(SIGXFSZ, handler);
        CHECK(rc == -EFBIG);
        /* At any moment of the copy. */
        int cancelled = 0, copied = 0;
        for (int i = 0; i < times(20); i++) {
            wh_coro *coro = on(worker_for(1), [&]() -> intptr_t { return copy("from", "to2"); });
            for (int turns = 0; turns < i; turns++)
                wh_sleep(200 * WH_MICROSECOND);
            wh_cancel(coro);
            intptr_t result = join(coro);
            if (result == 0) {
                copied++;
                CHECK(unlink((folder / "to2").c_str()) == 0);
            } else {
                CHECK(result == -ECANCELED);
                cancelled++;
            }
            CHECK(names_in(folder.path()) == std::set<std::string>{"dir", "fifo", "from", "to"});
        }
        CHECK(cancelled > 0);
        CHECK(contents(folder / "to") == "before");
        CHECK(fds_open() == before);
        rmdir((folder / "dir").c_str());
    });
}
