/*
 * Landlock by its raw system calls: glibc has none of them.
 *
 * The constants are those of the kernel's interface, here because the
 * headers of the system that this is built on may be older than the kernel
 * that it runs on.
 */
#include "landlock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "mem.h"

#ifndef SYS_landlock_create_ruleset
#define SYS_landlock_create_ruleset 444
#define SYS_landlock_add_rule       445
#define SYS_landlock_restrict_self  446
#endif

#define VERSION_FLAG (1u << 0)
#define PATH_BENEATH 1

/* Of files: bits of handled_access_fs. */
#define READ_FILE   (UINT64_C(1) << 2)
#define READ_DIR    (UINT64_C(1) << 3)
#define REMOVE_FILE (UINT64_C(1) << 5)

/* All that version 1 knows, and what later ones added. */
#define FS_ALL_1     ((UINT64_C(1) << 13) - 1)
#define FS_REFER     (UINT64_C(1) << 13) /* 2: rename between directories */
#define FS_TRUNCATE  (UINT64_C(1) << 14) /* 3 */
#define FS_IOCTL_DEV (UINT64_C(1) << 15) /* 5 */
#define NET_TCP      UINT64_C(3)         /* 4: bind, connect */
#define SCOPE_SIGNAL UINT64_C(2)         /* 6: to other processes */

struct ruleset_attr {
    uint64_t access_fs;
    uint64_t access_net;
    uint64_t scoped;
};

struct path_beneath_attr {
    uint64_t access;
    int32_t parent_fd;
} __attribute__((packed));

/* What this kernel can keep us from. */
static struct ruleset_attr
everything(int version, size_t *size_out)
{
    struct ruleset_attr a = {.access_fs = FS_ALL_1};
    *size_out = version >= 6   ? sizeof(a)
                : version >= 4 ? offsetof(struct ruleset_attr, scoped)
                               : offsetof(struct ruleset_attr, access_net);
    if (version >= 2)
        a.access_fs |= FS_REFER;
    if (version >= 3)
        a.access_fs |= FS_TRUNCATE;
    if (version >= 4)
        a.access_net = NET_TCP;
    if (version >= 5)
        a.access_fs |= FS_IOCTL_DEV;
    if (version >= 6)
        a.scoped = SCOPE_SIGNAL;
    return a;
}

/* A path that is not there needs no rule. */
static int
allow(int ruleset, const char *path, uint64_t access)
{
    struct path_beneath_attr rule = {access, open(path, O_PATH | O_CLOEXEC)};
    if (rule.parent_fd < 0)
        return 0;
    int r = syscall(SYS_landlock_add_rule, ruleset, PATH_BENEATH, &rule, 0) < 0
                ? -errno
                : 0;
    close(rule.parent_fd);
    return r;
}

static int
allow_removal(int ruleset, const char *socket_path)
{
    if (socket_path == NULL)
        return 0;
    _cleanup_(freep) char *directory = strdup(socket_path);
    if (directory == NULL)
        return -ENOMEM;
    char *slash = strrchr(directory, '/');
    if (slash == NULL)
        return allow(ruleset, ".", REMOVE_FILE);
    slash[slash == directory] = '\0';
    return allow(ruleset, directory, REMOVE_FILE);
}

int
landlock_confine(const char *socket_path, bool proc, bool *active_out)
{
    *active_out = false;
    long version = syscall(SYS_landlock_create_ruleset, NULL, 0, VERSION_FLAG);
    if (version < 1)
        return 0;
    size_t size;
    struct ruleset_attr attr = everything((int)version, &size);
    int ruleset = (int)syscall(SYS_landlock_create_ruleset, &attr, size, 0);
    if (ruleset < 0)
        return -errno;
    int r = allow_removal(ruleset, socket_path);
    if (r == 0)
        r = allow(ruleset, "/etc/localtime", READ_FILE);
    if (r == 0)
        r = allow(ruleset, "/usr/share/zoneinfo", READ_FILE | READ_DIR);
    if (r == 0 && proc)
        r = allow(ruleset, "/proc", READ_FILE);
    if (r == 0 && syscall(SYS_landlock_restrict_self, ruleset, 0) < 0)
        r = -errno;
    close(ruleset);
    *active_out = r == 0;
    return r;
}
