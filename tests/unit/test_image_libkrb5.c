/*
 * Our images and what libkrb5 writes and reads: kcm/image.c, kcm/parse.c.
 */
#include <krb5.h>
#include <stdio.h>
#include <unistd.h>

#include "images.h"

/* libkrb5 has it, krb5.h does not. */
krb5_error_code krb5_set_time_offsets(krb5_context, krb5_timestamp,
                                      krb5_int32);

static void
setup(void)
{
    w = (struct writer){0};
}

static void
teardown(void)
{
    writer_free(&w);
    ck_assert_uint_eq(secret_in_use(), 0);
}

/* What libkrb5 writes into a FILE cache of the same content, in our order,
 * is our image; with the offset, if there is one. */
START_TEST(as_libkrb5)
{
    struct kcm_snapshot *s = snapshot("01234567");
    char path[] = "/tmp/test_image.XXXXXX", name[64];
    uint8_t back[8192];
    krb5_context k;
    krb5_ccache cc;
    krb5_principal alice;
    s->kdc_offset = _i ? 3600 : 0;
    struct image *i = render(s);
    close(mkstemp(path));
    snprintf(name, sizeof(name), "FILE:%s", path);
    ck_assert_int_eq(krb5_init_context(&k), 0);
    if (_i)
        ck_assert_int_eq(krb5_set_time_offsets(k, 3600, 0), 0);
    ck_assert_int_eq(krb5_parse_name(k, "alice@EX.ORG", &alice), 0);
    ck_assert_int_eq(krb5_cc_resolve(k, name, &cc), 0);
    ck_assert_int_eq(krb5_cc_initialize(k, cc, alice), 0);
    for (size_t n = 0; n < i->count; n++) {
        struct data d = image_entry_bytes(i, n);
        krb5_data in = {.data = (char *)d.p, .length = (unsigned)d.len};
        krb5_creds *creds;
        ck_assert_int_eq(krb5_unmarshal_credentials(k, &in, &creds), 0);
        ck_assert_int_eq(krb5_cc_store_cred(k, cc, creds), 0);
        krb5_free_creds(k, creds);
    }
    FILE *f = fopen(path, "rb");
    size_t len = fread(back, 1, sizeof(back), f);
    fclose(f);
    ck_assert_uint_eq(len, i->len);
    ck_assert_mem_eq(back, image_bytes(i).p, len);
    krb5_cc_destroy(k, cc);
    krb5_free_principal(k, alice);
    krb5_free_context(k);
    image_unref(i);
    kcm_snapshot_unref(s);
}
END_TEST

/* libkrb5 reads what we render, and removes what we then know as removed. */
START_TEST(removed_by_libkrb5)
{
    struct kcm_snapshot *s = snapshot("0123");
    struct image *i = render(s), *after;
    char path[] = "/tmp/test_image.XXXXXX", name[64];
    uint8_t back[8192];
    krb5_context k;
    krb5_ccache cc;
    krb5_creds *creds;
    int fd = mkstemp(path);
    ck_assert_int_eq(write(fd, image_bytes(i).p, i->len), (int)i->len);
    close(fd);
    snprintf(name, sizeof(name), "FILE:%s", path);
    ck_assert_int_eq(krb5_init_context(&k), 0);
    ck_assert_int_eq(krb5_cc_resolve(k, name, &cc), 0);
    struct data d = image_entry_bytes(i, 2);
    krb5_data in = {.data = (char *)d.p, .length = (unsigned)d.len};
    ck_assert_int_eq(krb5_unmarshal_credentials(k, &in, &creds), 0);
    ck_assert_int_eq(krb5_cc_remove_cred(k, cc, 0, creds), 0);
    FILE *f = fopen(path, "rb");
    size_t len = fread(back, 1, sizeof(back), f);
    fclose(f);
    ck_assert_uint_eq(len, i->len);
    struct image_file file;
    ck_assert_int_eq(image_parse((struct data){back, len}, &file), 0);
    ck_assert_uint_eq(file.count, 4);
    ck_assert_int_eq(image_of_file(&file, &after), 0);
    check_table(after);
    for (size_t n = 0; n < 4; n++)
        ck_assert_int_eq(image_entries(after)[n].removed, n == 2);
    image_unref(after);
    image_file_free(&file);
    krb5_free_creds(k, creds);
    krb5_cc_destroy(k, cc);
    krb5_free_context(k);
    image_unref(i);
    kcm_snapshot_unref(s);
}
END_TEST

int
main(void)
{
    Suite *s = suite_create("image_libkrb5");
    TCase *t = tcase_create("image_libkrb5");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_loop_test(t, as_libkrb5, 0, 2);
    tcase_add_test(t, removed_by_libkrb5);
    suite_add_tcase(s, t);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
