/*
 * Process hardening by prctl(2), setrlimit(2) and raw capset(2).
 */
#include "harden.h"

#include <errno.h>
#include <linux/capability.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* LeakSanitizer and debuggers attach to the process, which must be dumpable
 * for that.  Set by the Makefile for the builds that are made for them. */
#ifdef INSPECTABLE
#define IS_INSPECTABLE true
#else
#define IS_INSPECTABLE false
#endif

/* Raise a limit to want, or where that is refused to its hard limit. */
static void
raise_limit(__rlimit_resource_t resource, rlim_t want)
{
    struct rlimit limit;
    if (getrlimit(resource, &limit) != 0)
        return;
    struct rlimit full = {want, want > limit.rlim_max ? want : limit.rlim_max};
    if (setrlimit(resource, &full) == 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(resource, &limit);
}

void
harden_switched(void)
{
    if (!IS_INSPECTABLE)
        (void)prctl(PR_SET_DUMPABLE, 0UL, 0UL, 0UL, 0UL);
}

void
harden_start(void)
{
    (void)setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
    harden_switched();
    umask(077);
    raise_limit(RLIMIT_MEMLOCK, RLIM_INFINITY);
    /* One descriptor per connection of each uid; more would only help
     * somebody to fill a table of the kernel. */
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max < 65536 ? files.rlim_max : 65536;
        (void)setrlimit(RLIMIT_NOFILE, &files);
    }
}

void
harden_memory(void)
{
    struct rlimit limit;
    /* Under a limit it would make later allocations fail. */
    if (IS_INSPECTABLE || getrlimit(RLIMIT_MEMLOCK, &limit) != 0 ||
        limit.rlim_cur != RLIM_INFINITY)
        return;
    (void)mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT);
}

static int
empty_bounding_set(void)
{
    for (int cap = 0;; cap++) {
        int set = prctl(PR_CAPBSET_READ, cap, 0, 0, 0);
        if (set < 0)
            return 0; /* past the last that this kernel knows */
        if (set == 1 && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) != 0)
            return -errno;
    }
}

int
harden_drop_capabilities(uint64_t keep)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct set[2];
    if (syscall(SYS_capget, &header, set) != 0)
        return -errno;
    bool privileged = (set[0].effective | set[1].effective) != 0;
    /* Without CAP_SETPCAP the bounding set cannot be changed: then
     * no_new_privs alone keeps capabilities from coming back. */
    if (privileged) {
        int r = empty_bounding_set();
        if (r < 0 && r != -EPERM)
            return r;
    }
    (void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    for (int i = 0; i < 2; i++) {
        set[i].permitted &= (uint32_t)(keep >> (32 * i));
        set[i].effective = set[i].permitted;
        set[i].inheritable = 0;
    }
    return syscall(SYS_capset, &header, set) != 0 ? -errno : 0;
}

int
harden_drop(uint64_t keep)
{
    int r = harden_drop_capabilities(keep);
    if (r < 0)
        return r;
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ? -errno : 0;
}

void
harden_end(void)
{
    if (IS_INSPECTABLE)
        (void)prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
}
