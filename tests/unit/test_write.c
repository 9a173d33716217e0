/*
 * Written files that are to become caches: what is done at each write.
 */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/change.h"
#include "fs/draft.h"
#include "fs/node.h"
#include "fs/user.h"
#include "kcm/mem.h"
#include "kcm/server.h"
#include "samples.h"

static struct kcm_server *server;
static struct kcm *kcm;
static struct fs *fs;
static struct content *content;
static struct handle *handle;
static struct writer file;
static size_t copies;

int __real_draft_copy(struct draft *d, struct draft_copy *out);
int __wrap_draft_copy(struct draft *d, struct draft_copy *out);

/* Each look at what was written begins with a copy of all of it. */
int
__wrap_draft_copy(struct draft *d, struct draft_copy *out)
{
    copies++;
    return __real_draft_copy(d, out);
}

static void
setup(void)
{
    struct caller caller = {.uid = geteuid(), .gid = getegid()};
    char name[32];
    struct node *n;
    copies = 0;
    ck_assert_int_eq(kcm_server_new(NULL, &server), 0);
    struct kcm_config config = {.server = server, .timeout_ms = 10000};
    ck_assert_int_eq(kcm_new(&config, &kcm), 0);
    ck_assert_int_eq(fs_new(kcm, &(struct fs_config){.embedded = true}, &fs),
                     0);
    snprintf(name, sizeof(name), "%u:a", caller.uid);
    content = user_content(user_get(fs, caller.uid), name);
    ck_assert_ptr_nonnull(content);
    ck_assert_int_eq(scratch_unborn(content, &n), 0);
    kcm_start(kcm, &caller);
    ck_assert_int_eq(handle_new(fs, n, &caller, 0, &handle), 0);
}

static void
teardown(void)
{
    handle_free(fs, handle);
    content_unref(content);
    fs_free(fs);
    kcm_free(kcm);
    kcm_server_free(server);
    writer_free(&file);
    ck_assert_uint_eq(secret_in_use(), 0);
}

/* The file so far is written a byte at a time; 0, or the error. */
static int
write_bytewise(void)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < file.len; i++)
        r = change_write(handle, (off_t)i, (struct data){file.p + i, 1});
    return r;
}

/* Version, tags, and a principal of count components of len bytes. */
static void
begin_file(uint32_t count, size_t len)
{
    write_u16(&file, 0x0504);
    write_u16(&file, 12);
    write_u16(&file, 1);
    write_u16(&file, 8);
    write_u32(&file, 7);
    write_u32(&file, 0);
    write_u32(&file, 1);
    write_u32(&file, count);
    write_data32(&file, TEXT("EXAMPLE.COM"));
    for (uint32_t i = 0; i < count; i++) {
        write_u32(&file, (uint32_t)len);
        for (size_t k = 0; k < len; k++)
            write_u8(&file, 'a');
    }
}

/* The work does not grow with each byte: one look finds how many are missing
 * at least, and there is none before those have come. */
START_TEST(principal_bytewise)
{
    static const struct {
        uint32_t count;
        size_t len;
        size_t copies;
    } forms[] = {{1, 5, 16}, {1, 60000, 16}, {2000, 20, 60}, {20000, 0, 16}};
    begin_file(forms[_i].count, forms[_i].len);
    ck_assert_int_eq(write_bytewise(), 0);
    ck_assert(content->exists);
    ck_assert_ptr_null(handle->node->draft);
    ck_assert_uint_le(copies, forms[_i].copies);
    /* What follows is a cache's. */
    struct sample s = {.client = "a@EXAMPLE.COM", .server = "b@EXAMPLE.COM"};
    size_t end = file.len;
    sample_cred(&file, &s);
    ck_assert_int_eq(change_write(handle, (off_t)end,
                                  (struct data){file.p + end, file.len - end}),
                     0);
    ck_assert_int_eq(change_flush(handle), 0);
}
END_TEST

/* Older versions are looked at when they are whole. */
START_TEST(old_version_bytewise)
{
    write_u16(&file, 0x0503);
    write_u32(&file, 1);
    write_u32(&file, 1);
    write_data32(&file, TEXT("EXAMPLE.COM"));
    write_data32(&file, TEXT("alice"));
    ck_assert_int_eq(write_bytewise(), 0);
    ck_assert_uint_le(copies, 3);
    ck_assert(!content->exists);
    ck_assert_int_eq(change_flush(handle), 0);
    ck_assert(content->exists);
}
END_TEST

/* What was looked at becomes something else: it is looked at again. */
START_TEST(written_anew)
{
    bool truncated = _i > 0;
    begin_file(1, 100000);
    ck_assert_int_eq(change_write(handle, 0, (struct data){file.p, 1000}), 0);
    ck_assert(!content->exists);
    if (truncated)
        ck_assert_int_eq(change_truncate(handle, 0), 0);
    writer_reset(&file);
    begin_file(1, 3);
    ck_assert_int_eq(change_write(handle, 0, writer_data(&file)), 0);
    ck_assert(content->exists);
}
END_TEST

/* A length that no principal has is refused at once, and changes nothing. */
START_TEST(lying_length)
{
    begin_file(0, 0);
    size_t count = file.len - 15 - 4;
    write_u32_at(&file, count, 1);
    write_u32(&file, 0x7fffffff);
    for (size_t i = 0; i < file.len - 1; i++)
        ck_assert_int_eq(
            change_write(handle, (off_t)i, (struct data){file.p + i, 1}), 0);
    ck_assert_int_eq(change_write(handle, (off_t)file.len - 1,
                                  (struct data){file.p + file.len - 1, 1}),
                     -EINVAL);
    ck_assert_uint_eq(draft_size(handle->node->draft), file.len - 1);
    ck_assert(!content->exists);
    ck_assert_int_eq(change_flush(handle), -EINVAL);
}
END_TEST

int
main(void)
{
    Suite *s = suite_create("write");
    TCase *tc = tcase_create("birth");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_loop_test(tc, principal_bytewise, 0, 4);
    tcase_add_test(tc, old_version_bytewise);
    tcase_add_loop_test(tc, written_anew, 0, 2);
    tcase_add_test(tc, lying_length);
    suite_add_tcase(s, tc);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
