/*
 * walk_test.cpp: a walk through a file system of the test's own, by FUSE, whose names are longer
 * than those that others have. What holds for every file system is in fs_test.cpp.
 */
#include "tests/net/peers.hpp"

#include <catch2/catch_test_macros.hpp>

#include <set>
#include <thread>

#include <linux/fuse.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>

namespace
{

constexpr uint64_t ENTRIES = 300;

/* From 1 byte to the 1024 that FUSE has at most. */
std::string name_of(uint64_t entry)
{
    const std::string number = std::to_string(entry);
    const size_t len = entry % 3 ? 1024 - entry : 200 + entry;
    return number + std::string(len - number.size(), 'n');
}

/* A directory with these files, and nothing in them. Mounted, in a mount namespace of the test's
 * own, while it lives. */
class LongNames
{
  public:
    explicit LongNames(const char *path) : path_(path), fd_(open("/dev/fuse", O_RDWR | O_CLOEXEC))
    {
        const std::string options = "fd=" + std::to_string(fd_) +
                                    ",rootmode=40000,user_id=" + std::to_string(getuid()) +
                                    ",group_id=" + std::to_string(getgid());
        is_there_ = fd_ >= 0 && unshare(CLONE_NEWNS) == 0 &&
                    mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
                    mount("names", path, "fuse", MS_NODEV | MS_NOSUID, options.c_str()) == 0;
        if (is_there_)
            server_ = std::thread([this] { serve(); });
    }
    LongNames(const LongNames &) = delete;
    LongNames &operator=(const LongNames &) = delete;
    ~LongNames()
    {
        if (!is_there_)
            return;
        umount2(path_, MNT_DETACH); /* and its reads end */
        server_.join();
    }
    bool is_there() const
    {
        return is_there_;
    }

  private:
    const char *path_;
    Fd fd_;
    bool is_there_ = false;
    std::thread server_;

    void reply(const fuse_in_header &to, const void *bytes, size_t len, int error = 0) const
    {
        fuse_out_header header = {};
        header.len = static_cast<uint32_t>(sizeof header + len);
        header.unique = to.unique;
        header.error = error;
        std::string text(reinterpret_cast<const char *>(&header), sizeof header);
        if (len)
            text.append(static_cast<const char *>(bytes), len);
        if (write(fd_, text.data(), text.size()) < 0)
            return; /* who asked is gone */
    }

    /* As many entries from there on as fit. */
    static std::string entries(uint64_t from, size_t room)
    {
        std::string text;
        for (uint64_t i = from; i < ENTRIES; i++) {
            const std::string name = name_of(i);
            fuse_dirent entry = {};
            entry.ino = 100 + i;
            entry.off = i + 1;
            entry.namelen = static_cast<uint32_t>(name.size());
            entry.type = DT_REG;
            std::string one(reinterpret_cast<const char *>(&entry), FUSE_NAME_OFFSET);
            one += name;
            one.resize(FUSE_DIRENT_ALIGN(one.size()));
            if (text.size() + one.size() > room)
                break;
            text += one;
        }
        return text;
    }

    void serve() const
    {
        std::vector<char> buf(FUSE_MIN_READ_BUFFER + 65536);
        ssize_t n;
        while ((n = read(fd_, buf.data(), buf.size())) > 0 || (n < 0 && errno == EINTR)) {
            if (n < 0)
                continue;
            fuse_in_header header;
            memcpy(&header, buf.data(), sizeof header);
            switch (header.opcode) {
            case FUSE_INIT: {
                fuse_init_out init = {};
                init.major = FUSE_KERNEL_VERSION;
                init.minor = 31;
                init.max_readahead = init.max_write = 65536;
                reply(header, &init, sizeof init);
                break;
            }
            case FUSE_GETATTR: {
                fuse_attr_out attributes = {};
                attributes.attr.ino = header.nodeid;
                attributes.attr.mode = S_IFDIR | 0755;
                attributes.attr.nlink = 2;
                reply(header, &attributes, sizeof attributes);
                break;
            }
            case FUSE_OPENDIR: {
                fuse_open_out opened = {};
                reply(header, &opened, sizeof opened);
                break;
            }
            case FUSE_READDIR: {
                fuse_read_in from;
                memcpy(&from, buf.data() + sizeof header, sizeof from);
                const std::string text = entries(from.offset, from.size);
                reply(header, text.data(), text.size());
                break;
            }
            case FUSE_FORGET:
            case FUSE_BATCH_FORGET:
            case FUSE_INTERRUPT: break; /* no answer is expected */
            case FUSE_RELEASEDIR: reply(header, nullptr, 0); break;
            default: reply(header, nullptr, 0, -ENOSYS);
            }
        }
    }
};

} // namespace

TEST_CASE("walk: names as long as there are any are all shown, wherever the buffer ends")
{
    Folder folder;
    LongNames names(folder.path());
    if (!names.is_there()) {
        WARN("no FUSE here, or no right to mount it");
        return;
    }
    std::set<std::string> expected, shown;
    for (uint64_t i = 0; i < ENTRIES; i++)
        expected.insert(name_of(i));
    in_run([&] {
        const int rc = wh_walk(
            folder.path(),
            [](void *arg, const wh_walk_entry *entry) {
                const bool fresh =
                    static_cast<std::set<std::string> *>(arg)->insert(entry->name).second;
                return fresh && !entry->error ? 0 : -EEXIST;
            },
            &shown, nullptr);
        CHECK(rc == 0);
    });
    CHECK(shown == expected);
}
