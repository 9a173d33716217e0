/*
 * What a confined process is refused; each trial in a process of its own.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kcm/confine.h"
#include "kcm/harden.h"

#define KILLED 1000

static char directory[] = "/tmp/test_confine.XXXXXX";
static char in_directory[64], elsewhere[64];

/* 0, or the errno, of what is tried; KILLED: it ended the process. */
static int
outcome(enum confine_program program, int (*trial)(void))
{
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        harden_start();
        if (harden_drop(0) < 0 || confine(program, in_directory) < 0)
            _exit(255);
        errno = 0;
        _exit(trial() < 0 ? errno : 0);
    }
    int status;
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    if (WIFSIGNALED(status)) {
        ck_assert_int_eq(WTERMSIG(status), SIGSYS);
        return KILLED;
    }
    ck_assert_int_ne(WEXITSTATUS(status), 255);
    return WEXITSTATUS(status);
}

static int
read_file(void)
{
    return open("/etc/passwd", O_RDONLY | O_CLOEXEC);
}

static int
list_directory(void)
{
    return open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* Harmless, but on no list: all are refused, or which is not (from 200). */
static int
never_called(void)
{
    static const long numbers[] = {
        SYS_readv,  SYS_dup,         SYS_munlock,      SYS_mlock2,
        SYS_accept, SYS_recvmsg,     SYS_shutdown,     SYS_getsockname,
        SYS_waitid, SYS_sched_yield, SYS_getpeername,  SYS_chdir,
        SYS_getgid, SYS_sigaltstack, SYS_splice,       SYS_pipe2,
        SYS_ioctl,  SYS_mincore,     SYS_getdents64,   SYS_socketpair,
        SYS_bind,   SYS_listen,      SYS_renameat,     SYS_linkat,
        SYS_fchmod, SYS_kill,        SYS_memfd_create, SYS_prlimit64,
    };
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        errno = 0;
        if (syscall(numbers[i], -1, 0, 0, 0, 0) != -1 || errno != EPERM) {
            errno = 200 + (int)i;
            return -1;
        }
    }
    errno = EPERM;
    return -1;
}

static int
make_file(void)
{
    return open("/tmp/test_confine.made", O_WRONLY | O_CREAT, 0600);
}

static int
write_device(void)
{
    return open("/dev/null", O_WRONLY | O_CLOEXEC);
}

static int
remove_socket(void)
{
    return unlink(in_directory);
}

static int
remove_other(void)
{
    return unlink(elsewhere);
}

static int
internet(void)
{
    return socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

static int
netlink(void)
{
    return socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 0);
}

static int
unix_socket(void)
{
    return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

static int
executable_memory(void)
{
    void *p = mmap(NULL, 4096, PROT_READ | PROT_EXEC,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? -1 : 0;
}

static int
make_executable(void)
{
    static char page[8192] __attribute__((aligned(4096)));
    return mprotect(page, 4096, PROT_READ | PROT_EXEC);
}

static int
another_process(void)
{
    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    return pid;
}

static void *
nothing(void *arg)
{
    return arg;
}

static int
thread(void)
{
    pthread_t id;
    int r = pthread_create(&id, NULL, nothing, NULL);
    if (r == 0)
        r = pthread_join(id, NULL);
    errno = r;
    return r == 0 ? 0 : -1;
}

static int
cancelled_thread(void)
{
    pthread_t id;
    void *result;
    int r = pthread_create(&id, NULL, (void *(*)(void *))(void *)pause, NULL);
    if (r == 0)
        r = pthread_cancel(id);
    if (r == 0)
        r = pthread_join(id, &result);
    errno = r;
    return r == 0 && result == PTHREAD_CANCELED ? 0 : -1;
}

static int
real_uid(void)
{
    return (int)syscall(SYS_setresuid, geteuid(), -1, -1);
}

static int
effective_uid(void)
{
    return (int)syscall(SYS_setresuid, -1, geteuid(), -1);
}

static int
not_dumpable(void)
{
    return prctl(PR_SET_DUMPABLE, 0UL, 0UL, 0UL, 0UL);
}

static int
dumpable(void)
{
    return prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
}

static int
signal_parent(void)
{
    return kill(getppid(), 0);
}

static int
run_program(void)
{
    char *argv[] = {(char *)"true", NULL};
    return execv("/bin/true", argv);
}

static int
trace_parent(void)
{
    return (int)ptrace(PTRACE_ATTACH, getppid(), NULL, NULL);
}

static int
mount_something(void)
{
    return mount("x", "/tmp", "tmpfs", 0, NULL);
}

static int
unmount_something(void)
{
    return umount2("/nonexistent", MNT_DETACH);
}

static int
new_namespace(void)
{
    return (int)syscall(SYS_unshare, 0);
}

static const struct trial {
    const char *name;
    int (*act)(void);
    int kcmfs, kcmd, unmounter;
} trials[] = {
    {"what no program calls", never_called, EPERM, EPERM, EPERM},
    {"write a device", write_device, EPERM, EPERM, EPERM},
    {"make a file", make_file, EPERM, EPERM, EPERM},
    {"the internet", internet, EPERM, EPERM, EPERM},
    {"netlink", netlink, EPERM, EPERM, EPERM},
    {"a Unix socket", unix_socket, 0, 0, EPERM},
    {"executable memory", executable_memory, EPERM, EPERM, EPERM},
    {"memory made executable", make_executable, EPERM, EPERM, EPERM},
    {"another process", another_process, EPERM, EPERM, EPERM},
    {"a thread", thread, 0, EPERM, EPERM},
    {"a cancelled thread", cancelled_thread, 0, EPERM, EPERM},
    {"real uid", real_uid, EPERM, EPERM, EPERM},
    {"effective uid", effective_uid, 0, EPERM, EPERM},
    {"not dumpable", not_dumpable, 0, 0, 0},
    {"dumpable", dumpable, EPERM, EPERM, EPERM},
    {"a signal", signal_parent, EPERM, EPERM, EPERM},
    {"a program", run_program, KILLED, KILLED, KILLED},
    {"tracing", trace_parent, KILLED, KILLED, KILLED},
    {"mounting", mount_something, KILLED, KILLED, KILLED},
    {"unmounting", unmount_something, KILLED, KILLED, ENOENT},
    {"a namespace", new_namespace, KILLED, KILLED, KILLED},
};

static bool
has_landlock(void)
{
    return syscall(444, NULL, 0, 1) > 0;
}

START_TEST(system_calls)
{
    const struct trial *t = &trials[_i];
    int got[] = {outcome(CONFINE_KCMFS, t->act), outcome(CONFINE_KCMD, t->act),
                 outcome(CONFINE_UNMOUNTER, t->act)};
    const int want[] = {t->kcmfs, t->kcmd, t->unmounter};
    for (int i = 0; i < 3; i++) {
        /* Who is not root is refused some things before. */
        bool other = got[i] != 0 && want[i] == ENOENT && geteuid() != 0;
        ck_assert_msg(got[i] == want[i] || other, "%s: %d, not %d, for %d",
                      t->name, got[i], want[i], i);
    }
}
END_TEST

/* In what Landlock adds, root is as anybody. */
START_TEST(files)
{
    if (!has_landlock())
        return;
    ck_assert_int_eq(outcome(CONFINE_KCMFS, read_file), EACCES);
    ck_assert_int_eq(outcome(CONFINE_KCMD, read_file), EACCES);
    ck_assert_int_eq(outcome(CONFINE_KCMFS, list_directory), EACCES);
    ck_assert_int_eq(outcome(CONFINE_UNMOUNTER, read_file), 0);
    ck_assert_int_eq(outcome(CONFINE_KCMD, remove_other), EACCES);
    ck_assert_int_eq(outcome(CONFINE_KCMD, remove_socket), 0);
}
END_TEST

static void
touch(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    ck_assert_int_ge(fd, 0);
    close(fd);
}

static void
setup(void)
{
    ck_assert_ptr_nonnull(mkdtemp(directory));
    snprintf(in_directory, sizeof(in_directory), "%s/socket", directory);
    snprintf(elsewhere, sizeof(elsewhere), "%s.other", directory);
    touch(in_directory);
    touch(elsewhere);
}

static void
teardown(void)
{
    unlink(in_directory);
    unlink(elsewhere);
    rmdir(directory);
    memcpy(directory + strlen(directory) - 6, "XXXXXX", 6);
}

int
main(void)
{
    Suite *suite = suite_create("confine");
    TCase *tc = tcase_create("confine");
#ifndef INSPECTABLE
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_loop_test(tc, system_calls, 0,
                        sizeof(trials) / sizeof(trials[0]));
    tcase_add_test(tc, files);
#else
    (void)system_calls;
    (void)files;
    (void)setup;
    (void)teardown;
#endif
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
