/*
 * cpus_test.cpp: how many cores a process may use, by its control groups and its affinity.
 *
 * The groups are files in a temporary directory, laid out as the kernel does.
 */
#include <catch2/catch_test_macros.hpp>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <thread>

#include <sched.h>

extern "C" {
#include "base/base.h"
}

namespace
{

/* More than any machine has: no limit. */
constexpr unsigned MANY = 4096;

/* A directory with a file like /proc/self/cgroup and a tree like /sys/fs/cgroup. */
class Groups
{
  public:
    Groups()
    {
        std::string path = std::filesystem::temp_directory_path() / "whorl-cpus.XXXXXX";
        dir_ = mkdtemp(path.data()) ? path : "";
        REQUIRE(!dir_.empty());
        std::filesystem::create_directory(mount());
    }
    Groups(const Groups &) = delete;
    Groups &operator=(const Groups &) = delete;
    ~Groups()
    {
        std::error_code ignored;
        std::filesystem::remove_all(dir_, ignored);
    }
    /* What the process is in: lines "number:controllers:path". */
    void in(const std::string &text) const
    {
        write(proc_file(), text);
    }
    /* A file below the mount, with the directories that lead to it. */
    void file(const std::string &path, const std::string &text) const
    {
        std::filesystem::path full = mount() + "/" + path;
        std::filesystem::create_directories(full.parent_path());
        write(full, text);
    }
    unsigned cpus() const
    {
        return cpus_of_cgroups(proc_file().c_str(), mount().c_str());
    }

  private:
    std::string dir_;

    std::string proc_file() const
    {
        return dir_ + "/cgroup";
    }
    std::string mount() const
    {
        return dir_ + "/mount";
    }
    static void write(const std::string &path, const std::string &text)
    {
        FILE *file = fopen(path.c_str(), "we");
        REQUIRE(file);
        CHECK(fwrite(text.data(), 1, text.size(), file) == text.size());
        fclose(file);
    }
};

/* Of the group /a, whose cpu.max says this. */
unsigned of_cpu_max(const std::string &text)
{
    Groups groups;
    groups.in("0::/a\n");
    groups.file("a/cpu.max", text);
    return groups.cpus();
}

/* Of a group of version 1 with this quota in a period of 100000. */
unsigned of_cfs_quota(const std::string &quota)
{
    Groups groups;
    groups.in("4:cpu,cpuacct:/a\n");
    groups.file("cpu,cpuacct/a/cpu.cfs_quota_us", quota);
    groups.file("cpu,cpuacct/a/cpu.cfs_period_us", "100000\n");
    return groups.cpus();
}

} // namespace

TEST_CASE("cpus: a group whose cpu.max is max has no limit")
{
    CHECK(of_cpu_max("max 100000\n") >= MANY);
}

TEST_CASE("cpus: a quota is rounded up to whole cores and is at least one")
{
    CHECK(of_cpu_max("150000 100000\n") == 2);
    CHECK(of_cpu_max("200000 100000\n") == 2);
    CHECK(of_cpu_max("200001 100000\n") == 3);
    CHECK(of_cpu_max("100000 100000\n") == 1);
    CHECK(of_cpu_max("1000 100000\n") == 1);
    CHECK(of_cpu_max("30000 10000") == 3);
}

TEST_CASE("cpus: of nested groups the strictest counts, wherever it is")
{
    Groups groups;
    groups.in("0::/a/b/c\n");
    groups.file("a/b/c/cpu.max", "400000 100000\n");
    groups.file("a/b/cpu.max", "max 100000\n");
    CHECK(groups.cpus() == 4);
    groups.file("a/cpu.max", "300000 100000\n");
    CHECK(groups.cpus() == 3);
    groups.file("cpu.max", "200000 100000\n");
    CHECK(groups.cpus() == 2);
    groups.file("a/b/c/cpu.max", "100000 100000\n");
    CHECK(groups.cpus() == 1);
}

TEST_CASE("cpus: groups beside the path do not count")
{
    Groups groups;
    groups.in("0::/a/b\n");
    groups.file("a/b/cpu.max", "400000 100000\n");
    groups.file("a/c/cpu.max", "100000 100000\n");
    groups.file("b/cpu.max", "100000 100000\n");
    groups.file("a/b/c/cpu.max", "100000 100000\n");
    CHECK(groups.cpus() == 4);
}

TEST_CASE("cpus: who is in the root group has that one's limit")
{
    Groups groups;
    groups.in("0::/\n");
    CHECK(groups.cpus() >= MANY);
    groups.file("cpu.max", "500000 100000\n");
    CHECK(groups.cpus() == 5);
}

TEST_CASE("cpus: version 1 has the quota and the period in files of their own")
{
    CHECK(of_cfs_quota("-1\n") >= MANY);
    CHECK(of_cfs_quota("150000\n") == 2);
    CHECK(of_cfs_quota("100000\n") == 1);
    CHECK(of_cfs_quota("600000\n") == 6);
}

TEST_CASE("cpus: version 1 nests, too, and only the controller cpu counts")
{
    Groups groups;
    groups.in("12:memory:/m\n5:cpuset:/s\n4:cpu:/a/b\n1:name=systemd:/x\n");
    groups.file("memory/m/cpu.cfs_quota_us", "100000\n");
    groups.file("memory/m/cpu.cfs_period_us", "100000\n");
    groups.file("cpuset/s/cpu.cfs_quota_us", "100000\n");
    groups.file("cpuset/s/cpu.cfs_period_us", "100000\n");
    groups.file("cpu/a/b/cpu.cfs_quota_us", "-1\n");
    groups.file("cpu/a/b/cpu.cfs_period_us", "100000\n");
    CHECK(groups.cpus() >= MANY);
    groups.file("cpu/a/cpu.cfs_quota_us", "350000\n");
    groups.file("cpu/a/cpu.cfs_period_us", "100000\n");
    CHECK(groups.cpus() == 4);
}

TEST_CASE("cpus: where both versions are mounted the stricter limit counts")
{
    Groups groups;
    groups.in("4:cpu:/a\n0::/b\n");
    groups.file("cpu/a/cpu.cfs_quota_us", "300000\n");
    groups.file("cpu/a/cpu.cfs_period_us", "100000\n");
    groups.file("b/cpu.max", "700000 100000\n");
    CHECK(groups.cpus() == 3);
    groups.file("b/cpu.max", "200000 100000\n");
    CHECK(groups.cpus() == 2);
}

TEST_CASE("cpus: what is missing is no limit")
{
    CHECK(cpus_of_cgroups("/nonexistent/cgroup", "/nonexistent") >= MANY);
    Groups groups;
    CHECK(groups.cpus() >= MANY);
    groups.in("0::/gone/b\n");
    CHECK(groups.cpus() >= MANY);
    groups.in("4:cpu:/a\n");
    groups.file("cpu/a/cpu.cfs_quota_us", "100000\n");
    CHECK(groups.cpus() >= MANY); /* of which period? */
}

TEST_CASE("cpus: garbage is no limit, and never none at all")
{
    for (const char *text : {"", "\n", "many few\n", "max\n", "100000\n", "0 100000\n",
                             "100000 0\n", "-5 100000\n", "100000 -5\n"}) {
        INFO(text);
        CHECK(of_cpu_max(text) >= MANY);
    }
    for (const char *text : {"", "\n", "many\n", "0\n", "-2\n"}) {
        INFO(text);
        CHECK(of_cfs_quota(text) >= MANY);
    }
    for (const char *text : {"", "\n", ":", "::", "0:", "0::", "cpu\n", "4:cpu\n", ":::::\n",
                             "4:cpu,cpuacct", "\n\n\n"}) {
        INFO(text);
        Groups groups;
        groups.in(text);
        CHECK(groups.cpus() >= MANY);
    }
    Groups groups;
    groups.in("0::/" + std::string(10000, 'a') + "\n");
    CHECK(groups.cpus() >= MANY);
}

TEST_CASE("cpus: the largest numbers there are do no harm")
{
    CHECK(of_cpu_max("9223372036854775807 100000\n") >= MANY);
    CHECK(of_cpu_max("9223372036854775807 9223372036854775807\n") == 1);
}

TEST_CASE("cpus: a thread that may run on one core uses one, and others are not concerned")
{
    unsigned before = cpus_usable();
    CHECK(before >= 1);
    unsigned bound = 0;
    std::thread thread([&bound] {
        cpu_set_t allowed, one;
        if (sched_getaffinity(0, sizeof allowed, &allowed) < 0)
            return;
        int cpu = 0;
        while (cpu < CPU_SETSIZE - 1 && !CPU_ISSET(cpu, &allowed))
            cpu++;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        if (sched_setaffinity(0, sizeof one, &one) == 0)
            bound = cpus_usable();
    });
    thread.join();
    CHECK(bound == 1);
    CHECK(cpus_usable() == before);
}
