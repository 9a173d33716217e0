/*
 * connect(2) as somebody, kcm/connect.c: what each change of identity does to
 * the process.  The changes are not made here (that takes root, and what the
 * kernel does besides depends on fs.suid_dumpable), but what it does besides
 * where that is 1 is: the process is dumpable after each.
 */
#include <check.h>
#include <errno.h>
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kcm/harden.h"
#include "kcm/rpc.h"

#ifdef INSPECTABLE
#define WANTED 1
#else
#define WANTED 0
#endif

static int switches, refused_switch, connects;

long __wrap_syscall(long number, ...);
int __wrap_connect(int fd, const struct sockaddr *address, socklen_t len);

long
__wrap_syscall(long number, ...)
{
    ck_assert(number == SYS_setresuid || number == SYS_setresgid);
    if (++switches == refused_switch) {
        errno = EPERM;
        return -1;
    }
    ck_assert_int_eq(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0), 0);
    return 0;
}

int
__wrap_connect(int fd, const struct sockaddr *address, socklen_t len)
{
    (void)fd;
    (void)address;
    (void)len;
    connects++;
    ck_assert_int_eq(switches, 2);
    ck_assert_int_eq(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0), WANTED);
    return 0;
}

static void
setup(void)
{
    switches = refused_switch = connects = 0;
    harden_start();
    ck_assert_int_eq(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0), WANTED);
}

/* Of another uid, of another gid alone, and of both. */
START_TEST(not_dumpable_as_another)
{
    struct conn *c;
    uid_t uid = geteuid() + (_i != 1);
    gid_t gid = getegid() + (_i != 0);
    ck_assert_int_eq(conn_open("/nowhere", uid, gid, &c), 0);
    conn_free(c);
    ck_assert_int_eq(connects, 1);
    ck_assert_int_eq(switches, 4);
    ck_assert_int_eq(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0), WANTED);
}
END_TEST

/* The gid is changed, the uid is not to be, and all is taken back. */
START_TEST(not_dumpable_when_refused)
{
    struct conn *c;
    refused_switch = 2;
    ck_assert_int_eq(conn_open("/nowhere", geteuid() + 1, getegid() + 1, &c),
                     -EPERM);
    ck_assert_ptr_null(c);
    ck_assert_int_eq(connects, 0);
    ck_assert_int_eq(switches, 4);
    ck_assert_int_eq(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0), WANTED);
}
END_TEST

START_TEST(no_switch_as_oneself)
{
    struct conn *c;
    switches = 2;
    ck_assert_int_eq(conn_open("/nowhere", geteuid(), getegid(), &c), 0);
    conn_free(c);
    ck_assert_int_eq(connects, 1);
    ck_assert_int_eq(switches, 2);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("connect");
    TCase *tc = tcase_create("connect");
    tcase_add_checked_fixture(tc, setup, NULL);
    tcase_add_loop_test(tc, not_dumpable_as_another, 0, 3);
    tcase_add_test(tc, not_dumpable_when_refused);
    tcase_add_test(tc, no_switch_as_oneself);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
