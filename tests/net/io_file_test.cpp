/*
 * io_file_test.cpp: the calls on files, pipes and directories, against their POSIX namesakes.
 */
#include "tests/base/child.hpp"
#include "tests/net/peers.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <climits>
#include <csignal>
#include <vector>

#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>

namespace
{

/* The most that a call moves: 2 GiB less a page. */
constexpr ssize_t CALL_BYTES_MAX = 0x7ffff000;

std::string contents(const std::string &path)
{
    std::string text;
    char buf[4096];
    Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    ssize_t n;
    while ((n = read(fd, buf, sizeof buf)) > 0)
        text.append(buf, static_cast<size_t>(n));
    return text;
}

} // namespace

/* ---- The same results ---- */

TEST_CASE("io: errors of calls on files are those of their namesakes")
{
    Folder folder;
    const std::string file_path = folder / "file";
    in_run([&] {
        FdPair pipe = pipe_pair();
        Fd file(open(file_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
        Fd reading(open(file_path.c_str(), O_RDONLY | O_CLOEXEC));
        Fd dir(open(folder.path(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        Fd event(eventfd(0, EFD_CLOEXEC));
        ssize_t filled = write(pipe.b, "0123456789abcdef", 16);
        CHECK(filled == 16);

        char buf[16] = {};
        char *bad = reinterpret_cast<char *>(8);
        const struct iovec iov[2] = {{buf, 4}, {buf + 4, 4}};
        const struct iovec bad_iov[1] = {{bad, 4}};
        const uint64_t too_much = UINT64_MAX;
        struct statx status;
        const char *missing = "/nonexistent/file";
        const std::string below_file = file_path + "/x";
        const std::string long_name(300, 'n');
        constexpr int NONE = 9999;
        volatile int minus_one = -1; /* hidden from the compiler, which would complain */
        constexpr off_t LAST = INT64_MAX;

        struct Twin {
            const char *what;
            std::function<ssize_t()> posix, whorl;
        };
#define TWIN(what, posix_call, whorl_call) \
    {what, [&]() -> ssize_t { return posix_call; }, [&]() -> ssize_t { return whorl_call; }}
        const std::vector<Twin> twins = {
            TWIN("read: no such descriptor", read(NONE, buf, 1), wh_read(NONE, buf, 1)),
            TWIN("read: -1", read(-1, buf, 1), wh_read(-1, buf, 1)),
            TWIN("read: AT_FDCWD", read(AT_FDCWD, buf, 1), wh_read(AT_FDCWD, buf, 1)),
            TWIN("read: a directory", read(dir, buf, 1), wh_read(dir, buf, 1)),
            TWIN("read: a writing end", read(pipe.b, buf, 1), wh_read(pipe.b, buf, 1)),
            TWIN("read: a bad address", read(pipe.a, bad, 1), wh_read(pipe.a, bad, 1)),
            TWIN("read: nothing wanted", read(pipe.a, buf, 0), wh_read(pipe.a, buf, 0)),
            TWIN("read: an eventfd by halves", read(event, buf, 4), wh_read(event, buf, 4)),
            TWIN("write: no such descriptor", write(NONE, buf, 1), wh_write(NONE, buf, 1)),
            TWIN("write: a reading end", write(pipe.a, buf, 1), wh_write(pipe.a, buf, 1)),
            TWIN("write: opened for reading", write(reading, buf, 1), wh_write(reading, buf, 1)),
            TWIN("write: a bad address", write(file, bad, 1), wh_write(file, bad, 1)),
            TWIN("write: nothing", write(file, buf, 0), wh_write(file, buf, 0)),
            TWIN("write: too much for an eventfd", write(event, &too_much, 8),
                 wh_write(event, &too_much, 8)),
            TWIN("readv: no vectors", readv(pipe.a, iov, 0), wh_readv(pipe.a, iov, 0)),
            TWIN("readv: too many", readv(pipe.a, iov, IOV_MAX + 1),
                 wh_readv(pipe.a, iov, IOV_MAX + 1)),
            TWIN("readv: a negative number", readv(pipe.a, iov, minus_one),
                 wh_readv(pipe.a, iov, minus_one)),
            TWIN("readv: bad vectors", readv(pipe.a, reinterpret_cast<struct iovec *>(bad), 1),
                 wh_readv(pipe.a, reinterpret_cast<struct iovec *>(bad), 1)),
            TWIN("readv: a bad address", readv(pipe.a, bad_iov, 1), wh_readv(pipe.a, bad_iov, 1)),
            TWIN("writev: a negative number", writev(file, iov, minus_one),
                 wh_writev(file, iov, minus_one)),
            TWIN("writev: too many", writev(file, iov, IOV_MAX + 1),
                 wh_writev(file, iov, IOV_MAX + 1)),
            TWIN("pread: a negative offset", pread(file, buf, 1, -1), wh_pread(file, buf, 1, -1)),
            TWIN("pread: the most negative", pread(file, buf, 1, INT64_MIN),
                 wh_pread(file, buf, 1, INT64_MIN)),
            TWIN("pread: behind the end", pread(file, buf, 1, 1 << 20),
                 wh_pread(file, buf, 1, 1 << 20)),
            TWIN("pread: no such descriptor", pread(NONE, buf, 1, 0), wh_pread(NONE, buf, 1, 0)),
            TWIN("pwrite: a negative offset", pwrite(file, buf, 1, -1),
                 wh_pwrite(file, buf, 1, -1)),
            TWIN("pwrite: beyond what a file can be", pwrite(file, buf, 4, LAST - 2),
                 wh_pwrite(file, buf, 4, LAST - 2)),
            TWIN("pwrite: at the last offset", pwrite(file, buf, 4, LAST),
                 wh_pwrite(file, buf, 4, LAST)),
            TWIN("preadv: a negative offset", preadv(file, iov, 2, -1),
                 wh_preadv(file, iov, 2, -1)),
            TWIN("pwritev: a negative offset", pwritev(file, iov, 2, -1),
                 wh_pwritev(file, iov, 2, -1)),
            TWIN("pwritev: a negative number", pwritev(file, iov, minus_one, 0),
                 wh_pwritev(file, iov, minus_one, 0)),
            TWIN("fsync: no such descriptor", fsync(NONE), wh_fsync(NONE)),
            TWIN("fsync: a pipe", fsync(pipe.a), wh_fsync(pipe.a)),
            TWIN("fsync: a file", fsync(file), wh_fsync(file)),
            TWIN("fsync: a directory", fsync(dir), wh_fsync(dir)),
            TWIN("fdatasync: a pipe", fdatasync(pipe.a), wh_fdatasync(pipe.a)),
            TWIN("fdatasync: a file", fdatasync(file), wh_fdatasync(file)),
            TWIN("openat: not there", openat(AT_FDCWD, missing, O_RDONLY),
                 wh_openat(AT_FDCWD, missing, O_RDONLY, 0)),
            TWIN("openat: a directory for writing", openat(AT_FDCWD, folder.path(), O_WRONLY),
                 wh_openat(AT_FDCWD, folder.path(), O_WRONLY, 0)),
            TWIN("openat: below a file", openat(AT_FDCWD, below_file.c_str(), O_RDONLY),
                 wh_openat(AT_FDCWD, below_file.c_str(), O_RDONLY, 0)),
            TWIN("openat: in no directory", openat(NONE, "x", O_RDONLY),
                 wh_openat(NONE, "x", O_RDONLY, 0)),
            TWIN("openat: in a file", openat(file, "x", O_RDONLY),
                 wh_openat(file, "x", O_RDONLY, 0)),
            TWIN("openat: there already",
                 openat(AT_FDCWD, file_path.c_str(), O_CREAT | O_EXCL, 0600),
                 wh_openat(AT_FDCWD, file_path.c_str(), O_CREAT | O_EXCL, 0600)),
            TWIN("openat: a name that is too long", openat(dir, long_name.c_str(), O_RDONLY),
                 wh_openat(dir, long_name.c_str(), O_RDONLY, 0)),
            TWIN("openat: a bad address", openat(AT_FDCWD, bad, O_RDONLY),
                 wh_openat(AT_FDCWD, bad, O_RDONLY, 0)),
            TWIN("openat: contradicting flags", openat(dir, ".", O_TMPFILE | O_RDONLY),
                 wh_openat(dir, ".", O_TMPFILE | O_RDONLY, 0)),
            TWIN("statx: not there", statx(AT_FDCWD, missing, 0, STATX_ALL, &status),
                 wh_statx(AT_FDCWD, missing, 0, STATX_ALL, &status)),
            TWIN("statx: an empty path", statx(dir, "", 0, STATX_ALL, &status),
                 wh_statx(dir, "", 0, STATX_ALL, &status)),
            TWIN("statx: unknown flags", statx(dir, ".", 0x4000000, STATX_ALL, &status),
                 wh_statx(dir, ".", 0x4000000, STATX_ALL, &status)),
            TWIN("statx: a bad address",
                 statx(dir, ".", 0, STATX_ALL, reinterpret_cast<struct statx *>(bad)),
                 wh_statx(dir, ".", 0, STATX_ALL, reinterpret_cast<struct statx *>(bad))),
            TWIN("close: no such descriptor", close(NONE), wh_close(NONE)),
            TWIN("close: -1", close(-1), wh_close(-1)),
            TWIN("close: far beyond the table", close(INT_MAX), wh_close(INT_MAX)),
        };
#undef TWIN
        for (const Twin &twin : twins) {
            ssize_t posix = plain(twin.posix());
            ssize_t whorl = -ETIME;
            WH_WITH_TIMEOUT(5 * WH_SECOND)
            {
                whorl = twin.whorl();
            }
            INFO(twin.what);
            CHECK(whorl == posix);
        }
    });
}

/* ---- Position and offset ---- */

TEST_CASE("io: read and write go on at the file's position, and share it")
{
    Folder folder;
    const std::string path = folder / "file";
    in_run([&] {
        wh_fd fd = wh_openat(AT_FDCWD, path.c_str(), O_RDWR | O_CREAT, 0600);
        CHECK(fd >= 0);
        ssize_t n = wh_write(fd, "hello ", 6);
        CHECK(n == 6);
        n = wh_write(fd, "world", 5);
        CHECK(n == 5);
        CHECK(contents(path) == "hello world");
        CHECK(lseek(fd, 0, SEEK_CUR) == 11);

        char buf[16] = {};
        lseek(fd, 2, SEEK_SET);
        n = wh_read(fd, buf, 3);
        CHECK(n == 3);
        CHECK(std::string(buf, 3) == "llo");
        n = wh_read(fd, buf, sizeof buf);
        CHECK(n == 6);
        CHECK(std::string(buf, 6) == " world");
        n = wh_read(fd, buf, sizeof buf);
        CHECK(n == 0);
        n = wh_close(fd);
        CHECK(n == 0);
    });
}

TEST_CASE("io: pread and pwrite leave the position alone, and reach beyond 4 GiB")
{
    Folder folder;
    const std::string path = folder / "file";
    in_run([&] {
        Fd fd(wh_openat(AT_FDCWD, path.c_str(), O_RDWR | O_CREAT, 0600));
        char buf[8] = {};
        for (int64_t offset : {INT64_C(0), INT64_C(5), INT64_C(0xffffffff), INT64_C(0x100000000),
                               INT64_C(0x123456789a)}) {
            ssize_t n = wh_pwrite(fd, "data", 4, offset);
            CHECK(n == 4);
            n = wh_pread(fd, buf, sizeof buf, offset);
            CHECK(n >= 4);
            CHECK(std::string(buf, 4) == "data");
            n = pread(fd, buf, 4, offset);
            CHECK(n == 4);
            CHECK(std::string(buf, 4) == "data");
        }
        CHECK(lseek(fd, 0, SEEK_CUR) == 0);
    });
}

TEST_CASE("io: write_all does not write over its own pieces when a limit cuts one short")
{
    Folder folder;
    const std::string path = folder / "file";
    const bool appends = GENERATE(false, true);
    ChildEnd end = in_child([&] {
        signal(SIGXFSZ, SIG_IGN);
        const rlimit limit = {6000, 6000};
        CHILD_REQUIRE(setrlimit(RLIMIT_FSIZE, &limit) == 0);
        std::string words;
        for (int i = 0; i < 4000; i++)
            words += std::to_string(i % 10) + '\n';
        return in_run([&] {
            Fd fd(wh_openat(AT_FDCWD, path.c_str(), O_WRONLY | O_CREAT | (appends ? O_APPEND : 0),
                            0600));
            CHILD_REQUIRE(wh_write_all(fd, words.data(), 100) == 100);
            CHILD_REQUIRE(wh_write_all(fd, words.data() + 100, words.size() - 100) == -EFBIG);
            CHILD_REQUIRE(contents(path) == words.substr(0, 6000));
            return 8;
        });
    });
    INFO(end.how());
    CHECK(end.exited(8));
}

TEST_CASE("io: O_APPEND writes at the end")
{
    Folder folder;
    const std::string path = folder / "file";
    in_run([&] {
        Fd fd(wh_openat(AT_FDCWD, path.c_str(), O_RDWR | O_CREAT | O_APPEND, 0600));
        wh_write(fd, "one", 3);
        lseek(fd, 0, SEEK_SET);
        wh_write(fd, "two", 3);
        CHECK(contents(path) == "onetwo");
    });
}

TEST_CASE("io: vectors are filled and emptied in order, with and without an offset")
{
    Folder folder;
    const std::string path = folder / "file";
    in_run([&] {
        Fd fd(wh_openat(AT_FDCWD, path.c_str(), O_RDWR | O_CREAT, 0600));
        char a[] = "abc", b[] = "", c[] = "defgh";
        struct iovec out[3] = {{a, 3}, {b, 0}, {c, 5}};
        ssize_t n = wh_writev(fd, out, 3);
        CHECK(n == 8);
        n = wh_pwritev(fd, out, 2, 100);
        CHECK(n == 3);
        CHECK(lseek(fd, 0, SEEK_CUR) == 8);
        CHECK(contents(path).substr(0, 8) == "abcdefgh");

        char x[4] = {}, y[4] = {};
        struct iovec in[2] = {{x, 2}, {y, 4}};
        n = wh_preadv(fd, in, 2, 1);
        CHECK(n == 6);
        CHECK(std::string(x, 2) == "bc");
        CHECK(std::string(y, 4) == "defg");
        lseek(fd, 97, SEEK_SET);
        n = wh_readv(fd, in, 2);
        CHECK(n == 6);
        CHECK(std::string(y, 4) == std::string("\0abc", 4));
        CHECK(lseek(fd, 0, SEEK_CUR) == 103);

        std::vector<struct iovec> most(IOV_MAX, {a, 1});
        n = wh_pwritev(fd, most.data(), IOV_MAX, 0);
        CHECK(n == IOV_MAX);
    });
}

TEST_CASE("io: on what has no position the offset does not count")
{
    in_run([] {
        FdPair pipe = pipe_pair();
        char buf[4] = {};
        ssize_t n = wh_pwrite(pipe.b, "abcd", 4, 1000);
        CHECK(n == 4);
        n = wh_pread(pipe.a, buf, 4, 77);
        CHECK(n == 4);
        CHECK(std::string(buf, 4) == "abcd");
    });
}

TEST_CASE("io: a call moves at most 0x7ffff000 bytes, however many are asked for")
{
    constexpr size_t BYTES = size_t(5) << 30;
    void *map = mmap(nullptr, BYTES, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    REQUIRE(map != MAP_FAILED);
    in_run([&] {
        Fd null(wh_openat(AT_FDCWD, "/dev/null", O_WRONLY, 0));
        for (size_t bytes :
             {size_t(CALL_BYTES_MAX), size_t(CALL_BYTES_MAX) + 1, size_t(1) << 31,
              (size_t(1) << 32) - 1, size_t(1) << 32, (size_t(1) << 32) + 5, BYTES}) {
            ssize_t posix = plain(write(null, map, bytes));
            ssize_t n = wh_write(null, map, bytes);
            CHECK(n == posix);
            CHECK(n == CALL_BYTES_MAX);
            n = wh_pwrite(null, map, bytes, 0);
            CHECK(n == CALL_BYTES_MAX);
        }
        ssize_t n = wh_write_all(null, map, BYTES);
        CHECK(n == static_cast<ssize_t>(BYTES));
    });
    munmap(map, BYTES);
}

TEST_CASE("io: write_all writes all through a pipe that is emptied slowly")
{
    constexpr size_t BYTES = size_t(8) << 20;
    in_run([] {
        FdPair pipe = pipe_pair();
        std::vector<uint32_t> words(BYTES / 4);
        for (size_t i = 0; i < words.size(); i++)
            words[i] = static_cast<uint32_t>(i * 2654435761u);
        size_t at = 0, wrong = 0;
        wh_coro *reader = spawn([&] {
            std::vector<char> piece(100000);
            ssize_t n;
            while ((n = wh_read(pipe.a, piece.data(), 1 + at * 7919 % piece.size())) > 0) {
                wrong += memcmp(reinterpret_cast<char *>(words.data()) + at, piece.data(),
                                static_cast<size_t>(n)) != 0;
                at += static_cast<size_t>(n);
                if (at % 3 == 0)
                    wh_sleep(20 * WH_MICROSECOND);
            }
        });
        ssize_t n = wh_write_all(pipe.b, words.data(), BYTES);
        CHECK(n == BYTES);
        pipe.b.reset();
        join(reader);
        CHECK(at == BYTES);
        CHECK(wrong == 0);

        n = wh_write_all(-1, words.data(), BYTES);
        CHECK(n == -EBADF);
        Fd full(wh_openat(AT_FDCWD, "/dev/full", O_WRONLY, 0));
        n = wh_write_all(full, words.data(), BYTES);
        CHECK(n == -ENOSPC);
        n = wh_write_all(full, words.data(), 0);
        CHECK(n == 0);
    });
}

/* ---- Signals ---- */

TEST_CASE("io: a write to a pipe that nobody reads is -EPIPE, and raises SIGPIPE as write(2) does")
{
    auto write_to_none = [] {
        return in_run([] {
            FdPair pipe = pipe_pair();
            pipe.a.reset();
            return wh_write(pipe.b, "x", 1) == -EPIPE ? 3 : 4;
        });
    };
    ChildEnd ignoring = in_child([&] {
        std::signal(SIGPIPE, SIG_IGN);
        return write_to_none();
    });
    INFO(ignoring.how());
    CHECK(ignoring.exited(3));
    ChildEnd dying = in_child([&] {
        std::signal(SIGPIPE, SIG_DFL);
        return write_to_none();
    });
    INFO(dying.how());
    CHECK(dying.killed_by(SIGPIPE));
}

/* ---- Open and status ---- */

TEST_CASE("io: openat opens relative to a directory, with its mode, and close-on-exec")
{
    Folder folder;
    in_run([&] {
        wh_fd dir = wh_openat(AT_FDCWD, folder.path(), O_RDONLY | O_DIRECTORY, 0);
        CHECK(dir >= 0);
        mode_t mask = umask(027);
        wh_fd fd = wh_openat(dir, "made", O_WRONLY | O_CREAT | O_EXCL, 0666);
        umask(mask);
        CHECK(fd >= 0);
        CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC);
        CHECK((fcntl(fd, F_GETFL) & O_ACCMODE) == O_WRONLY);
        struct stat status;
        CHECK(fstat(fd, &status) == 0);
        CHECK((status.st_mode & 07777) == 0640);
        wh_close(fd);

        fd = wh_openat(dir, "made", O_RDONLY | O_NOFOLLOW, 0);
        CHECK(fd >= 0);
        wh_close(fd);
        CHECK(symlink("made", (folder / "link").c_str()) == 0);
        fd = wh_openat(dir, "link", O_RDONLY | O_NOFOLLOW, 0);
        CHECK(fd == -ELOOP);
        wh_close(dir);
    });
}

TEST_CASE("io: statx says what statx(2) says")
{
    Folder folder;
    const std::string path = folder / "file";
    in_run([&] {
        Fd fd(wh_openat(AT_FDCWD, path.c_str(), O_RDWR | O_CREAT, 0604));
        wh_write(fd, "1234567", 7);
        struct statx whorl, posix;
        memset(&whorl, 0, sizeof whorl);
        memset(&posix, 0, sizeof posix);
        int rc = wh_statx(AT_FDCWD, path.c_str(), 0, STATX_BASIC_STATS, &whorl);
        CHECK(rc == 0);
        CHECK(statx(AT_FDCWD, path.c_str(), 0, STATX_BASIC_STATS, &posix) == 0);
        CHECK(memcmp(&whorl, &posix, sizeof whorl) == 0);
        CHECK(whorl.stx_size == 7);

        memset(&whorl, 0, sizeof whorl);
        rc = wh_statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &whorl);
        CHECK(rc == 0);
        CHECK(whorl.stx_ino == posix.stx_ino);
    });
}

TEST_CASE("io: opening a FIFO does not wait for its other end")
{
    Folder folder;
    const std::string path = folder / "fifo";
    REQUIRE(mkfifo(path.c_str(), 0600) == 0);
    const int fds = fds_open();
    in_run([&] {
        wh_fd fd = wh_openat(AT_FDCWD, path.c_str(), O_WRONLY, 0);
        CHECK(fd == -ENXIO);
        Fd reading(wh_openat(AT_FDCWD, path.c_str(), O_RDONLY, 0));
        CHECK(reading >= 0);
        Fd writing(wh_openat(AT_FDCWD, path.c_str(), O_WRONLY, 0));
        CHECK(writing >= 0);
        char byte = 0;
        ssize_t n = 0;
        wh_coro *reader = spawn([&] { n = wh_read(reading, &byte, 1); });
        wh_yield();
        wh_write(writing, "f", 1);
        join(reader);
        CHECK(n == 1);
        CHECK(byte == 'f');
    });
    CHECK(fds_open() == fds);
}

/* ---- Directories, and the size of files ---- */

TEST_CASE("io: names are made, moved and removed as by their namesakes")
{
    Folder folder;
    in_run([&] {
        Fd dir(open(folder.path(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        int rc = wh_mkdirat(dir, "sub", 0700);
        CHECK(rc == 0);
        rc = wh_mkdirat(dir, "sub", 0700);
        CHECK(rc == -EEXIST);
        Fd sub(wh_openat(dir, "sub", O_RDONLY | O_DIRECTORY, 0));
        CHECK(sub >= 0);
        Fd file(wh_openat(dir, "a", O_RDWR | O_CREAT, 0600));
        ssize_t n = wh_write(file, "text", 4);
        CHECK(n == 4);

        rc = wh_linkat(dir, "a", sub, "linked", 0);
        CHECK(rc == 0);
        CHECK(contents(folder / "sub/linked") == "text");
        rc = wh_symlinkat("linked", sub, "symbolic");
        CHECK(rc == 0);
        CHECK(contents(folder / "sub/symbolic") == "text");
        rc = wh_symlinkat("linked", sub, "symbolic");
        CHECK(rc == -EEXIST);

        rc = wh_renameat(dir, "a", sub, "b", 0);
        CHECK(rc == 0);
        CHECK(access((folder / "a").c_str(), F_OK) < 0);
        CHECK(contents(folder / "sub/b") == "text");
        rc = wh_renameat(sub, "b", sub, "linked", RENAME_NOREPLACE);
        CHECK(rc == -EEXIST);
        rc = wh_renameat(dir, "missing", sub, "b", 0);
        CHECK(rc == -ENOENT);
        rc = wh_linkat(dir, "missing", sub, "c", 0);
        CHECK(rc == -ENOENT);

        rc = wh_unlinkat(dir, "sub", 0);
        CHECK(rc == -EISDIR);
        rc = wh_unlinkat(dir, "sub", AT_REMOVEDIR);
        CHECK(rc == -ENOTEMPTY);
        for (const char *name : {"b", "linked", "symbolic"}) {
            rc = wh_unlinkat(sub, name, 0);
            CHECK(rc == 0);
        }
        rc = wh_unlinkat(sub, "b", 0);
        CHECK(rc == -ENOENT);
        rc = wh_unlinkat(dir, "sub", AT_REMOVEDIR);
        CHECK(rc == 0);

        WH_WITH_CANCEL(ctx)
        {
            wh_ctx_cancel(ctx, 0);
            rc = wh_mkdirat(dir, "never", 0700);
        }
        CHECK(rc == -ECANCELED);
        CHECK(access((folder / "never").c_str(), F_OK) < 0);
    });
}

TEST_CASE("io: a file is cut, lengthened and given room as by its namesakes")
{
    Folder folder;
    const std::string path = folder / "file";
    in_run([&] {
        Fd file(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
        struct stat status;
        ssize_t n = wh_write(file, "0123456789", 10);
        CHECK(n == 10);
        int rc = wh_ftruncate(file, 4);
        CHECK(rc == 0);
        CHECK(contents(path) == "0123");
        rc = wh_ftruncate(file, 6);
        CHECK(rc == 0);
        CHECK(contents(path) == std::string("0123\0\0", 6));
        rc = wh_ftruncate(file, -1);
        CHECK(rc == -EINVAL);
        Fd reading(open(path.c_str(), O_RDONLY | O_CLOEXEC));
        rc = wh_ftruncate(reading, 0);
        CHECK(rc == -EINVAL);
        rc = wh_ftruncate(9999, 0);
        CHECK(rc == -EBADF);
        WH_WITH_CANCEL(ctx)
        {
            wh_ctx_cancel(ctx, 0);
            rc = wh_ftruncate(file, 0);
        }
        CHECK(rc == -ECANCELED);
        CHECK(fstat(file, &status) == 0);
        CHECK(status.st_size == 6);

        rc = wh_fallocate(file, 0, 0, 10000);
        const int same =
            fallocate(file, 0, 0, 10000) < 0 ? -errno : 0; /* not on every file system */
        CHECK(rc == same);
        CHECK(fstat(file, &status) == 0);
        CHECK(status.st_size == (same ? 6 : 10000));
        rc = wh_fallocate(file, 0, 0, 0);
        CHECK(rc == -EINVAL);
        rc = wh_fallocate(reading, 0, 0, 10);
        CHECK(rc == -EBADF);

        rc = wh_fadvise(file, 0, 0, POSIX_FADV_SEQUENTIAL);
        CHECK(rc == 0);
        rc = wh_fadvise(file, 0, INT64_MAX, POSIX_FADV_DONTNEED);
        CHECK(rc == 0);
        rc = wh_fadvise(file, 0, -1, POSIX_FADV_NORMAL);
        CHECK(rc == -EINVAL);
        rc = wh_fadvise(file, 0, 0, 1000);
        CHECK(rc == -EINVAL);
    });
}
