/*
 * The lists of system calls: what tracing all tests shows once the filter is
 * in place (strace -f), and marked so, what glibc calls instead on other
 * architectures and versions, or where memory or the vDSO is missing.
 */
#include "confine.h"

#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <sched.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "landlock.h"
#include "log.h"

#ifdef INSPECTABLE
int
confine(enum confine_program program, const char *socket_path)
{
    (void)program;
    (void)socket_path;
    return 0;
}
#else
#include <seccomp.h>

#define NONE (-1)

/* CONFINE_STRICT: for tests that look for what is missing on the lists. */
#ifdef CONFINE_STRICT
#define REFUSE SCMP_ACT_TRAP
#else
#define REFUSE SCMP_ACT_ERRNO(EPERM)
#endif

/* Any program: memory, time, descriptors that are open, its end. */
static const int basic[] = {
    SCMP_SYS(brk),
    SCMP_SYS(munmap),
    SCMP_SYS(mremap), /* realloc() of what has a mapping of its own */
    SCMP_SYS(madvise),
    SCMP_SYS(mlock),
    SCMP_SYS(read),
    SCMP_SYS(write),
    SCMP_SYS(writev),
    SCMP_SYS(close),
    SCMP_SYS(lseek),
    SCMP_SYS(_llseek), /* the same with 32 bits */
    SCMP_SYS(newfstatat),
    SCMP_SYS(fstatat64), /* with 32 bits, as all ...64 and ...32 */
    SCMP_SYS(statx),     /* stat() with 32 bits */
    SCMP_SYS(fstat),     /* stat() before glibc 2.33 */
    SCMP_SYS(fstat64),
    SCMP_SYS(stat),
    SCMP_SYS(lstat),
    SCMP_SYS(fcntl),
    SCMP_SYS(fcntl64),
    SCMP_SYS(dup2),
    SCMP_SYS(dup3), /* dup2() on arm64 */
    SCMP_SYS(futex),
    SCMP_SYS(futex_time64),
    SCMP_SYS(getpid),
    SCMP_SYS(gettid), /* abort() */
    SCMP_SYS(getrandom),
    SCMP_SYS(sysinfo),       /* qsort() */
    SCMP_SYS(clock_gettime), /* without a vDSO */
    SCMP_SYS(clock_gettime64),
    SCMP_SYS(gettimeofday),
    SCMP_SYS(time),
    SCMP_SYS(rt_sigaction),
    SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigreturn),
    SCMP_SYS(sigreturn),
    SCMP_SYS(restart_syscall), /* the kernel's, after SIGSTOP */
    SCMP_SYS(exit),
    SCMP_SYS(exit_group),
    NONE,
};

/* Waiting, and what goes over sockets; which sockets: see add_checked().
 * kcmd connects, too: to syslog or the journal, anew when that restarts. */
static const int serving[] = {
    SCMP_SYS(poll),         SCMP_SYS(ppoll), /* poll() on arm64 */
    SCMP_SYS(ppoll_time64), SCMP_SYS(epoll_create1),
    SCMP_SYS(epoll_ctl),    SCMP_SYS(epoll_wait),
    SCMP_SYS(epoll_pwait), /* epoll_wait() on arm64 */
    SCMP_SYS(connect),      SCMP_SYS(accept4),
    SCMP_SYS(send), /* on 32-bit arm, as recv */
    SCMP_SYS(sendto),       SCMP_SYS(sendmsg),
    SCMP_SYS(recv),         SCMP_SYS(recvfrom),
    SCMP_SYS(getsockopt),   SCMP_SYS(setsockopt),
    SCMP_SYS(unlink),       SCMP_SYS(unlinkat), /* unlink() on arm64 */
    SCMP_SYS(setsid),       NONE,
};

/* Threads, and who one is; changing that: see add_checked(). */
static const int threads[] = {
    SCMP_SYS(eventfd2),
    SCMP_SYS(set_robust_list),
    SCMP_SYS(rseq),
    SCMP_SYS(sched_getaffinity),
    SCMP_SYS(nanosleep),
    SCMP_SYS(clock_nanosleep), /* nanosleep() from glibc 2.31 on */
    SCMP_SYS(clock_nanosleep_time64),
    SCMP_SYS(getuid),
    SCMP_SYS(geteuid),
    SCMP_SYS(getegid),
    SCMP_SYS(getuid32),
    SCMP_SYS(geteuid32),
    SCMP_SYS(getegid32),
    SCMP_SYS(wait4),
    NONE,
};

static const int unmounting[] = {SCMP_SYS(umount2), NONE};

/* Nothing of ours ever does this. */
static const int deadly[] = {
    SCMP_SYS(execve),
    SCMP_SYS(execveat),
    SCMP_SYS(fork),
    SCMP_SYS(vfork),
    SCMP_SYS(ptrace),
    SCMP_SYS(process_vm_readv),
    SCMP_SYS(process_vm_writev),
    SCMP_SYS(mount),
    SCMP_SYS(move_mount),
    SCMP_SYS(open_tree),
    SCMP_SYS(fsopen),
    SCMP_SYS(pivot_root),
    SCMP_SYS(chroot),
    SCMP_SYS(unshare),
    SCMP_SYS(setns),
    SCMP_SYS(bpf),
    SCMP_SYS(perf_event_open),
    SCMP_SYS(userfaultfd),
    SCMP_SYS(init_module),
    SCMP_SYS(finit_module),
    SCMP_SYS(delete_module),
    SCMP_SYS(kexec_load),
    SCMP_SYS(kexec_file_load),
    SCMP_SYS(open_by_handle_at),
    SCMP_SYS(io_uring_setup),
    SCMP_SYS(reboot),
    SCMP_SYS(swapon),
    SCMP_SYS(swapoff),
    SCMP_SYS(add_key),
    SCMP_SYS(request_key),
    SCMP_SYS(keyctl),
    NONE,
};

/* A system call that this architecture has not is no error. */
static int
add(scmp_filter_ctx f, uint32_t action, int number, unsigned count,
    const struct scmp_arg_cmp *arguments)
{
    int r = seccomp_rule_add_array(f, action, number, count, arguments);
    return r == -EDOM || r == -EOPNOTSUPP ? 0 : r;
}

static int
add_list(scmp_filter_ctx f, uint32_t action, const int *numbers)
{
    int r = 0;
    for (; r == 0 && *numbers != NONE; numbers++)
        r = add(f, action, *numbers, 0, NULL);
    return r;
}

static int
add_if(scmp_filter_ctx f, int number, unsigned argument,
       enum scmp_compare compare, uint64_t a, uint64_t b)
{
    struct scmp_arg_cmp one = {argument, compare, a, b};
    return add(f, SCMP_ACT_ALLOW, number, 1, &one);
}

/* Memory is never to be executed; files are opened for reading alone. */
static int
add_checked_basic(scmp_filter_ctx f)
{
    const uint64_t changes = O_ACCMODE | O_CREAT | O_TRUNC | O_TMPFILE;
    int r = add_if(f, SCMP_SYS(mmap), 2, SCMP_CMP_MASKED_EQ, PROT_EXEC, 0);
    if (r == 0)
        r = add_if(f, SCMP_SYS(mmap2), 2, SCMP_CMP_MASKED_EQ, PROT_EXEC, 0);
    if (r == 0)
        r = add_if(f, SCMP_SYS(mprotect), 2, SCMP_CMP_MASKED_EQ, PROT_EXEC, 0);
    if (r == 0)
        r = add_if(f, SCMP_SYS(openat), 2, SCMP_CMP_MASKED_EQ,
                   changes & ~(uint64_t)O_DIRECTORY, O_RDONLY);
    if (r == 0)
        r = add_if(f, SCMP_SYS(open), 1, SCMP_CMP_MASKED_EQ,
                   changes & ~(uint64_t)O_DIRECTORY, O_RDONLY);
    /* abort() and pthread_cancel() */
    if (r == 0)
        r = add_if(f, SCMP_SYS(tgkill), 0, SCMP_CMP_EQ, (uint64_t)getpid(), 0);
    if (r == 0) {
        struct scmp_arg_cmp both[] = {
            {0, SCMP_CMP_EQ, PR_SET_DUMPABLE, 0},
            {1, SCMP_CMP_EQ, 0, 0},
        };
        r = add(f, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 2, both);
    }
    return r == 0 ? add_if(f, SCMP_SYS(prctl), 0, SCMP_CMP_EQ, PR_SET_NAME, 0)
                  : r;
}

/*
 * Threads but no processes.  clone3() has its flags in memory, where no
 * filter sees them: glibc takes clone() where there is no clone3().
 */
static int
add_checked_threads(scmp_filter_ctx f)
{
    int r = add_if(f, SCMP_SYS(clone), 0, SCMP_CMP_MASKED_EQ, CLONE_THREAD,
                   CLONE_THREAD);
    if (r == 0)
        r = add(f, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0, NULL);
    /* The effective ids alone: connect.c. */
    static const int identity[] = {SCMP_SYS(setresuid), SCMP_SYS(setresgid),
                                   SCMP_SYS(setresuid32),
                                   SCMP_SYS(setresgid32)};
    for (size_t i = 0; r == 0 && i < sizeof(identity) / sizeof(int); i++) {
        struct scmp_arg_cmp both[] = {
            {0, SCMP_CMP_MASKED_EQ, UINT32_MAX, UINT32_MAX},
            {2, SCMP_CMP_MASKED_EQ, UINT32_MAX, UINT32_MAX},
        };
        r = add(f, SCMP_ACT_ALLOW, identity[i], 2, both);
    }
    return r;
}

static int
fill(scmp_filter_ctx f, enum confine_program program)
{
    /* A tree instead of a list, from libseccomp 2.5 on. */
    (void)seccomp_attr_set(f, SCMP_FLTATR_CTL_OPTIMIZE, 2);
    int r = add_list(f, SCMP_ACT_KILL_PROCESS, deadly);
    if (r == 0)
        r = add_list(f, SCMP_ACT_ALLOW, basic);
    if (r == 0)
        r = add_checked_basic(f);
    if (r == 0 && program == CONFINE_UNMOUNTER)
        return add_list(f, SCMP_ACT_ALLOW, unmounting);
    if (r == 0)
        r = add_list(f, SCMP_ACT_ALLOW, serving);
    if (r == 0)
        r = add_if(f, SCMP_SYS(socket), 0, SCMP_CMP_EQ, AF_UNIX, 0);
    if (r == 0)
        r = add(f, SCMP_ACT_KILL_PROCESS, SCMP_SYS(umount2), 0, NULL);
    if (r == 0 && program == CONFINE_KCMFS)
        r = add_list(f, SCMP_ACT_ALLOW, threads);
    if (r == 0 && program == CONFINE_KCMFS)
        r = add_checked_threads(f);
    return r;
}

static int
filter_system_calls(enum confine_program program)
{
    scmp_filter_ctx f = seccomp_init(REFUSE);
    if (f == NULL)
        return -ENOMEM;
    int r = fill(f, program);
    if (r == 0)
        r = seccomp_load(f);
    seccomp_release(f);
    return r;
}

/* What the C library would load or read later, when it no longer can. */
static void
load_now(void)
{
    void *here[1];
    (void)backtrace(here, 1); /* libgcc_s, for the end of a thread */
    tzset();
}

int
confine(enum confine_program program, const char *socket_path)
{
    load_now();
    /* Landlock would refuse the unmounter its one task. */
    bool active = true;
    int r = 0;
    if (program != CONFINE_UNMOUNTER)
        r = landlock_confine(socket_path, program == CONFINE_KCMFS_AUDIT,
                             &active);
    if (program == CONFINE_KCMFS_AUDIT)
        program = CONFINE_KCMFS;
    if (r < 0)
        return r;
    if (!active)
        log_debug("this kernel has no Landlock");
    r = filter_system_calls(program);
    /* EINVAL, ECANCELED: a kernel or container without filters. */
    if (r == -EINVAL || r == -ENOSYS || r == -ECANCELED) {
        log_warn("no filter for system calls: %s", strerror(-r));
        return 0;
    }
    return r;
}
#endif
