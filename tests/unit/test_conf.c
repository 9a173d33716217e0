/*
 * kcm_socket of krb5.conf: kcm/conf.c.
 */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../kcm/conf.h"
#include "../../kcm/proto.h"

static char directory[64];

static void
make_directory(void)
{
    strcpy(directory, "/tmp/kcmfs-conf.XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(directory));
}

static void
remove_directory(void)
{
    char command[128];
    snprintf(command, sizeof(command), "rm -rf '%s'", directory);
    ck_assert_int_eq(system(command), 0);
}

/* The path of a file of ours, in a buffer of its own for each. */
static const char *
path_of(const char *name)
{
    static char path[4][128];
    static int next;
    char *p = path[next++ % 4];
    snprintf(p, sizeof(path[0]), "%s/%s", directory, name);
    return p;
}

static void
write_file(const char *name, const char *text)
{
    FILE *f = fopen(path_of(name), "w");
    ck_assert_ptr_nonnull(f);
    fputs(text, f);
    fclose(f);
}

static void
expect(int result, const char *socket)
{
    char *path = (char *)1;
    ck_assert_int_eq(kcm_conf_socket(&path), result);
    if (socket == NULL)
        ck_assert_ptr_null(path);
    else
        ck_assert_str_eq(path, socket);
    free(path);
}

static const struct {
    const char *text, *socket; /* NULL: none */
    int result;
} cases[] = {
    {"", KCM_DEFAULT_SOCKET, 0},
    {"[libdefaults]\n default_realm = EX\n", KCM_DEFAULT_SOCKET, 0},
    {"[libdefaults]\n kcm_socket = /run/a\n", "/run/a", 0},
    {"[libdefaults]\n kcm_socket = \"/run/a b\"\n", "/run/a b", 0},
    {"[libdefaults]\n kcm_socket = -\n", NULL, 0},
    {"[libdefaults]\n kcm_socket = /a\n kcm_socket = /b\n", "/a", 0},
    {"[realms]\n kcm_socket = /a\n", KCM_DEFAULT_SOCKET, 0},
    {"[libdefaults\n kcm_socket = /a\n", NULL, -EINVAL},
    {"[libdefaults]\n kcm_socket\n", NULL, -EINVAL},
    {"include /nonexistent/file\n", NULL, -EINVAL},
};

START_TEST(one_file)
{
    write_file("krb5.conf", cases[_i].text);
    setenv("KRB5_CONFIG", path_of("krb5.conf"), 1);
    expect(cases[_i].result, cases[_i].socket);
}
END_TEST

START_TEST(includes)
{
    char text[256];
    ck_assert_int_eq(mkdir(path_of("conf.d"), 0755), 0);
    write_file("conf.d/kcm", "[libdefaults]\n kcm_socket = /run/b\n");
    snprintf(text, sizeof(text), "includedir %s\n", path_of("conf.d"));
    write_file("krb5.conf", text);
    setenv("KRB5_CONFIG", path_of("krb5.conf"), 1);
    expect(0, "/run/b");
    snprintf(text, sizeof(text), "include %s\n", path_of("conf.d/kcm"));
    write_file("krb5.conf", text);
    expect(0, "/run/b");
}
END_TEST

/* KRB5_CONFIG lists files: the first that has the setting counts. */
START_TEST(several_files)
{
    char list[300];
    write_file("a", "[libdefaults]\n default_realm = EX\n");
    write_file("b", "[libdefaults]\n kcm_socket = /run/b\n");
    write_file("c", "[libdefaults]\n kcm_socket = /run/c\n");
    snprintf(list, sizeof(list), "%s:%s:%s", path_of("a"), path_of("b"),
             path_of("c"));
    setenv("KRB5_CONFIG", list, 1);
    expect(0, "/run/b");
}
END_TEST

/* As for libkrb5: no configuration at all is a good one. */
START_TEST(no_file)
{
    setenv("KRB5_CONFIG", path_of("none"), 1);
    expect(0, KCM_DEFAULT_SOCKET);
}
END_TEST

int
main(void)
{
    Suite *s = suite_create("conf");
    TCase *t = tcase_create("socket");
    tcase_add_checked_fixture(t, make_directory, remove_directory);
    tcase_add_loop_test(t, one_file, 0, sizeof(cases) / sizeof(cases[0]));
    tcase_add_test(t, includes);
    tcase_add_test(t, several_files);
    tcase_add_test(t, no_file);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
