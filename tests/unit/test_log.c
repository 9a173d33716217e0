/*
 * Lines: who they are of, what becomes of control bytes, how many there are.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kcm/log.h"

static FILE *file;
static int saved;

/* stderr goes to a file from here on. */
static void
setup(void)
{
    file = tmpfile();
    ck_assert_ptr_nonnull(file);
    fflush(stderr);
    saved = dup(STDERR_FILENO);
    ck_assert_int_ge(dup2(fileno(file), STDERR_FILENO), 0);
    log_open("test", LOG_LEVEL_INFO, false);
}

static void
teardown(void)
{
    log_context_clear();
    dup2(saved, STDERR_FILENO);
    close(saved);
    fclose(file);
}

/* How many lines hold text. */
static unsigned
lines_with(const char *text)
{
    char line[4096];
    unsigned count = 0;
    rewind(file);
    while (fgets(line, sizeof(line), file) != NULL)
        count += strstr(line, text) != NULL;
    return count;
}

START_TEST(prefix_and_escapes)
{
    log_info("nobody's");
    log_context(1000, "open");
    log_warn("cache %s", "a\nforged\x01\xff");
    log_debug("not at this level");
    ck_assert_uint_eq(lines_with("]: info: nobody's\n"), 1);
    ck_assert_uint_eq(lines_with("]: warning: uid 1000 open: cache "
                                 "a\\x0aforged\\x01\\xff\n"),
                      1);
    ck_assert_uint_eq(lines_with(""), 2);
}
END_TEST

/* The minute may change meanwhile. */
START_TEST(nobody_fills_the_log)
{
    const unsigned tries = 1000;
    log_context(1000, "write");
    for (unsigned i = 0; i < tries; i++)
        log_info("of one uid");
    ck_assert_uint_ge(lines_with("of one uid"), 100);
    ck_assert_uint_le(lines_with("of one uid"), 200);
    ck_assert_uint_ge(lines_with("no more in this minute"), 1);
    log_context(1001, "write");
    log_info("of another");
    ck_assert_uint_eq(lines_with("of another"), 1);
    log_context_clear();
    for (unsigned i = 0; i < tries; i++)
        log_warn("of the daemon itself");
    ck_assert_uint_eq(lines_with("of the daemon itself"), tries);
    /* An administrator who watches one user wants them all. */
    log_open("test", LOG_LEVEL_DEBUG, false);
    log_context(1000, "write");
    for (unsigned i = 0; i < tries; i++)
        log_debug("details");
    ck_assert_uint_eq(lines_with("details"), tries);
}
END_TEST

START_TEST(errors_are_never_left_out)
{
    const unsigned tries = 300;
    log_context(1002, "write");
    for (unsigned i = 0; i < tries; i++)
        log_error("this is bad");
    ck_assert_uint_eq(lines_with("this is bad"), tries);
}
END_TEST

int
main(void)
{
    Suite *s = suite_create("log");
    TCase *t = tcase_create("log");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, prefix_and_escapes);
    tcase_add_test(t, nobody_fills_the_log);
    tcase_add_test(t, errors_are_never_left_out);
    suite_add_tcase(s, t);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
