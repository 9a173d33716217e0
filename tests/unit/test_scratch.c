/*
 * Drafts and scratch files: what a uid may keep, and for how long.
 */
#include <check.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "fs/draft.h"
#include "fs/idle.h"
#include "fs/node.h"
#include "fs/user.h"
#include "kcm/mem.h"
#include "kcm/server.h"

static struct kcm_server *server;
static struct kcm *kcm;
static struct fs *fs;
static struct user *user;
static struct node *dir;

static void
setup(void)
{
    ck_assert_int_eq(kcm_server_new(NULL, &server), 0);
    struct kcm_config config = {.server = server, .timeout_ms = 1000};
    ck_assert_int_eq(kcm_new(&config, &kcm), 0);
    ck_assert_int_eq(fs_new(kcm, &(struct fs_config){.embedded = true}, &fs),
                     0);
    user = user_get(fs, 1000);
    dir = node_get(fs, NODE_COLLECTION, EVERYBODY, NULL, 0, NULL);
    ck_assert_ptr_nonnull(user);
    ck_assert_ptr_nonnull(dir);
}

static void
teardown(void)
{
    node_unref(fs, dir);
    fs_free(fs);
    kcm_free(kcm);
    kcm_server_free(server);
    ck_assert_uint_eq(secret_in_use(), 0);
}

/* A scratch file that nobody has open. */
static void
make(const char *name, time_t age)
{
    struct node *n;
    struct data bytes = {(const uint8_t *)name, strlen(name)};
    ck_assert_int_eq(scratch_create(fs, dir, 1000, name, &n), 0);
    ck_assert_int_eq(draft_write(n->draft, 0, bytes), 0);
    n->mtime.tv_sec -= age;
    node_unref(fs, n);
}

static bool
is_there(const char *name)
{
    struct node *n = scratch_find(fs, dir, 1000, name);
    node_unref(fs, n);
    return n != NULL;
}

START_TEST(collected_by_age)
{
    make("new", 0);
    make("old", DRAFT_AGE_S + 1);
    make("open", DRAFT_AGE_S + 1);
    struct node *open = scratch_find(fs, dir, 1000, "open");
    open->opens = 1;
    scratch_collect(fs);
    ck_assert(is_there("new"));
    ck_assert(!is_there("old"));
    ck_assert(is_there("open"));
    ck_assert_uint_eq(user->scratch_count, 2);
    open->opens = 0;
    scratch_collect(fs);
    ck_assert(!is_there("open"));
    node_unref(fs, open);
    ck_assert_uint_eq(user->scratch_count, 1);
}
END_TEST

static void
no_pages(struct fs *f, uint64_t ino)
{
    (void)f;
    (void)ino;
}

/* Also of a user who does nothing any more. */
START_TEST(collected_by_the_housekeeper)
{
    struct housekeeper *h;
    make("old", DRAFT_AGE_S + 1);
    ck_assert_int_eq(housekeeper_start(fs, 1, no_pages, &h), 0);
    while (is_there("old"))
        (void)poll(NULL, 0, 10);
    housekeeper_end(h);
}
END_TEST

START_TEST(number_and_size)
{
    struct draft *d[DRAFTS_PER_UID], *one_more;
    for (size_t i = 0; i < DRAFTS_PER_UID; i++)
        ck_assert_int_eq(draft_new(user, &d[i]), 0);
    ck_assert_int_eq(draft_new(user, &one_more), -EDQUOT);
    ck_assert_ptr_null(one_more);
    ck_assert_int_eq(draft_truncate(d[0], DRAFT_BYTES + 1), -EFBIG);
    ck_assert_int_eq(draft_truncate(d[0], DRAFT_BYTES), 0);
    ck_assert_int_eq(draft_truncate(d[1], DRAFT_BYTES), 0);
    ck_assert_int_eq(draft_truncate(d[2], 1), -EDQUOT);
    ck_assert_uint_eq(draft_size(d[2]), 0);
    /* Another user is another account. */
    ck_assert_int_eq(draft_new(user_get(fs, 1001), &one_more), 0);
    ck_assert_int_eq(draft_truncate(one_more, DRAFT_BYTES), 0);
    draft_unref(one_more);
    for (size_t i = 0; i < DRAFTS_PER_UID; i++)
        draft_unref(d[i]);
    ck_assert_uint_eq(user->scratch_bytes, 0);
}
END_TEST

START_TEST(copies)
{
    struct draft *d;
    struct draft_copy copy[COPIES_PER_UID / DRAFT_BYTES], one_more;
    const size_t most = sizeof(copy) / sizeof(copy[0]);
    ck_assert_int_eq(draft_new(user, &d), 0);
    ck_assert_int_eq(draft_copy(d, &one_more), 0);
    ck_assert_uint_eq(one_more.bytes.len, 0);
    draft_copy_free(&one_more);
    ck_assert_int_eq(draft_truncate(d, DRAFT_BYTES), 0);
    for (size_t i = 0; i < most; i++)
        ck_assert_int_eq(draft_copy(d, &copy[i]), 0);
    ck_assert_int_eq(draft_copy(d, &one_more), -EAGAIN);
    draft_copy_free(&one_more);
    draft_copy_free(&copy[0]);
    ck_assert_int_eq(draft_copy(d, &copy[0]), 0);
    for (size_t i = 0; i < most; i++)
        draft_copy_free(&copy[i]);
    ck_assert_uint_eq(user->copied_bytes, 0);
    draft_unref(d);
}
END_TEST

int
main(void)
{
    Suite *s = suite_create("scratch");
    TCase *t = tcase_create("scratch");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, collected_by_age);
    tcase_add_test(t, collected_by_the_housekeeper);
    tcase_add_test(t, number_and_size);
    tcase_add_test(t, copies);
    suite_add_tcase(s, t);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
