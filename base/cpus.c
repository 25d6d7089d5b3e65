/*
 * cpus.c: how many cores this process may use (base.h).
 *
 * Two things limit them: the set of cores that the calling thread may run on
 * (sched_setaffinity(2)), and the quota of the control group, of every one from ours up to the
 * root: so much time in a period (cgroup v2: cpu.max; v1: cpu.cfs_quota_us and cpu.cfs_period_us).
 * A quota of one and a half cores counts as two: with one worker half a core would be left.
 */
#include "base/base.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CPUS_MAX = 8192, PATH_BYTES = 4096 };

static unsigned cpus_of_affinity(void)
{
    cpu_set_t *set = CPU_ALLOC(CPUS_MAX);
    if (!set)
        return 1;
    size_t bytes = CPU_ALLOC_SIZE(CPUS_MAX);
    int count = sched_getaffinity(0, bytes, set) == 0 ? CPU_COUNT_S(bytes, set) : 1;
    CPU_FREE(set);
    return count > 0 ? (unsigned)count : 1;
}

/* Reads a small file; returns false when it cannot be. */
static bool slurp(const char *path, char *buf, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, buf, size - 1);
    close(fd);
    buf[n > 0 ? n : 0] = 0;
    return n > 0;
}

static unsigned rounded_up(long long quota, long long period)
{
    if (quota <= 0 || period <= 0)
        return CPUS_MAX;
    long long cpus = quota / period + (quota % period != 0);
    return cpus > CPUS_MAX ? CPUS_MAX : (unsigned)cpus;
}

/* The quota of one control group, by its directory. */
static unsigned cpus_of_group(const char *dir)
{
    char path[PATH_BYTES + 32], text[128];
    long long quota, period;
    snprintf(path, sizeof path, "%s/cpu.max", dir);
    if (slurp(path, text, sizeof text)) /* "max 100000" is no limit and no two numbers */
        return sscanf(text, "%lld %lld", &quota, &period) == 2 ? rounded_up(quota, period)
                                                               : CPUS_MAX;
    snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", dir);
    if (!slurp(path, text, sizeof text))
        return CPUS_MAX;
    quota = strtoll(text, NULL, 10); /* -1: no limit */
    snprintf(path, sizeof path, "%s/cpu.cfs_period_us", dir);
    return slurp(path, text, sizeof text) ? rounded_up(quota, strtoll(text, NULL, 10)) : CPUS_MAX;
}

/* The least quota of the group at root + path and all above it. */
static unsigned cpus_of_groups(const char *root, const char *path)
{
    char dir[PATH_BYTES];
    size_t root_len = strlen(root);
    int len = snprintf(dir, sizeof dir, "%s%s", root, path);
    if (len < 0 || (size_t)len >= sizeof dir)
        return CPUS_MAX;
    unsigned least = CPUS_MAX;
    for (;;) {
        unsigned cpus = cpus_of_group(dir);
        if (cpus < least)
            least = cpus;
        char *slash = strrchr(dir, '/');
        if (!slash || (size_t)(slash - dir) < root_len || strlen(dir) <= root_len)
            return least;
        *slash = 0;
    }
}

/* Whether a line's list of controllers names cpu: "cpu,cpuacct". */
static bool names_cpu(const char *list, size_t len)
{
    while (len) {
        size_t word = 0;
        while (word < len && list[word] != ',')
            word++;
        if (word == 3 && !strncmp(list, "cpu", 3))
            return true;
        list += word + (word < len);
        len -= word + (word < len);
    }
    return false;
}

unsigned cpus_of_cgroups(const char *proc_file, const char *mount)
{
    char groups[PATH_BYTES], root[PATH_BYTES];
    unsigned least = CPUS_MAX;
    if (!slurp(proc_file, groups, sizeof groups))
        return least;
    /* Lines "number:controllers:path"; cgroup v2's has no controllers. */
    char *rest = groups, *line;
    while ((line = strsep(&rest, "\n"))) {
        char *controllers = strchr(line, ':');
        char *path = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!path)
            continue;
        controllers++;
        size_t len = (size_t)(path++ - controllers);
        unsigned cpus = CPUS_MAX;
        if (!len) {
            cpus = cpus_of_groups(mount, path);
        } else if (names_cpu(controllers, len)) {
            snprintf(root, sizeof root, "%s/%.*s", mount, (int)len, controllers);
            cpus = cpus_of_groups(root, path);
        }
        if (cpus < least)
            least = cpus;
    }
    return least;
}

unsigned cpus_usable(void)
{
    unsigned cpus = cpus_of_affinity();
    unsigned quota = cpus_of_cgroups("/proc/self/cgroup", "/sys/fs/cgroup");
    return quota < cpus ? quota : cpus;
}
