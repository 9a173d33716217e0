/*
 * FILE caches as clients write them: kcm/parse.c.
 */
#include <check.h>
#include <errno.h>

#include "../../kcm/image.h"
#include "samples.h"

#define TAIL                                                                  \
    "00000001 6b 00000001 00000002 00000003 00000004 00 40000000 "            \
    "00000000 00000000 00000002 746b 00000000"
#define TAIL_LE                                                               \
    "01000000 6b 01000000 02000000 03000000 04000000 00 00000040 "            \
    "00000000 00000000 02000000 746b 00000000"
#define A4    "00000001 00000001 00000001 45 00000001 61" /* a@E */
#define H4    "00000001 00000001 00000001 45 00000001 68" /* h@E */
#define A4_LE "01000000 01000000 01000000 45 01000000 61"
#define H4_LE "01000000 01000000 01000000 45 01000000 68"
#define A1    "00000002 00000001 45 00000001 61"
#define H1    "00000002 00000001 45 00000001 68"
#define A1_LE "02000000 01000000 45 01000000 61"
#define H1_LE "02000000 01000000 45 01000000 68"
#define A0    "00000000 00000001 00000001 45 00000001 61" /* no type */
#define H0    "00000000 00000001 00000001 45 00000001 68"
#define C4    A4 H4 "0012" TAIL
#define C0    A0 H0 "0012" TAIL
#define NONE  "0504 0000"
#define TAG   "0504 000c 0001 0008 00000005 0000000a"

/* A file, and what it is as version 4. */
static const struct form {
    const char *hex, *v4;
    int32_t offset;
    int version;
} forms[] = {
    {NONE A4 C4 C4, NONE A4 C4 C4, 0, 4},
    {TAG A4 C4, TAG A4 C4, 5, 4},
    {"0503" A4 A4 H4 "0012 0012" TAIL, NONE A4 C4, 0, 3},
    {"0502" A4 C4 C4, NONE A4 C4 C4, 0, 2},
    {"0502" A4_LE A4_LE H4_LE "1200" TAIL_LE, NONE A4 C4, 0, 2},
    {"0501" A1 A1 H1 "0012" TAIL, NONE A0 C0, 0, 1},
    {"0501" A1_LE A1_LE H1_LE "1200" TAIL_LE, NONE A0 C0, 0, 1},
};
#define FORMS ((int)(sizeof(forms) / sizeof(forms[0])))

static struct writer bytes;

static void
setup(void)
{
    bytes = (struct writer){0};
}

static void
teardown(void)
{
    writer_free(&bytes);
    ck_assert_uint_eq(secret_in_use(), 0);
}

static int
parse_hex(const char *hex, struct image_file *f)
{
    writer_reset(&bytes);
    sample_hex(&bytes, hex);
    return image_parse(writer_data(&bytes), f);
}

START_TEST(golden)
{
    const struct form *form = &forms[_i];
    struct image_file f;
    struct writer want = {0};
    struct cred c;
    sample_hex(&want, form->v4);
    ck_assert_int_eq(parse_hex(form->hex, &f), 0);
    ck_assert_int_eq(f.version, form->version);
    ck_assert_int_eq(f.kdc_offset, form->offset);
    ck_assert(f.has_principal);
    ck_assert_uint_eq(f.whole, bytes.len);
    ck_assert(data_equal(f.v4, writer_data(&want)));
    ck_assert_uint_eq(f.body, (form->offset ? 16 : 4) + 18);
    ck_assert(
        data_equal(f.principal, (struct data){f.v4.p + f.body - 18, 18}));
    size_t at = f.body;
    for (size_t i = 0; i < f.count; i++) {
        ck_assert_ptr_eq(f.creds[i].p, f.v4.p + at);
        ck_assert(cred_parse(f.creds[i], &c));
        at += f.creds[i].len;
    }
    ck_assert_uint_eq(at, f.v4.len);
    ck_assert_uint_ge(f.count, 1);
    image_file_free(&f);
    ck_assert_ptr_null(f.creds);
    writer_free(&want);
}
END_TEST

/* Every truncation: no error, and no more than what is whole. */
START_TEST(truncated)
{
    const struct form *form = &forms[_i];
    struct image_file all, f;
    ck_assert_int_eq(parse_hex(form->hex, &all), 0);
    size_t before = 0;
    for (size_t n = 0; n <= bytes.len; n++) {
        uint8_t *part = malloc(n > 0 ? n : 1);
        memcpy(part, bytes.p, n);
        ck_assert_int_eq(image_parse((struct data){part, n}, &f), 0);
        ck_assert_uint_le(f.whole, n);
        ck_assert_uint_ge(f.whole, before);
        ck_assert_int_eq(f.has_principal, f.whole > 0);
        if (f.version == 4 && !f.has_principal) {
            ck_assert_uint_gt(f.wants, n);
            ck_assert_uint_le(f.wants, all.body);
        }
        before = f.whole;
        for (size_t i = 0; i < f.count; i++)
            ck_assert(data_equal(f.creds[i], all.creds[i]));
        ck_assert(n < bytes.len || f.count == all.count);
        image_file_free(&f);
        free(part);
    }
    ck_assert_uint_eq(before, bytes.len);
    image_file_free(&all);
}
END_TEST

/* Each four bytes in turn all ones: whatever is found is inside. */
START_TEST(lying)
{
    const struct form *form = &forms[_i];
    struct image_file f;
    struct writer copy = {0};
    sample_hex(&copy, form->hex);
    for (size_t at = 0; at + 4 <= copy.len; at++) {
        parse_hex(form->hex, &f);
        image_file_free(&f);
        memset(bytes.p + at, 0xff, 4);
        int r = image_parse(writer_data(&bytes), &f);
        ck_assert(r == 0 || r == -EINVAL);
        if (r != 0) {
            ck_assert_uint_eq(f.count, 0);
            ck_assert_ptr_null(f.creds);
        }
        ck_assert_uint_le(f.whole, bytes.len);
        for (size_t i = 0; i < f.count; i++) {
            ck_assert(f.creds[i].p >= f.v4.p);
            ck_assert(f.creds[i].p + f.creds[i].len <= f.v4.p + f.v4.len);
        }
        image_file_free(&f);
    }
    writer_free(&copy);
}
END_TEST

START_TEST(trailing)
{
    const struct form *form = &forms[_i];
    struct image_file f;
    sample_hex(&bytes, form->hex);
    size_t len = bytes.len;
    write_u8(&bytes, 0);
    ck_assert_int_eq(image_parse(writer_data(&bytes), &f), 0);
    ck_assert_uint_eq(f.whole, len);
    image_file_free(&f);
}
END_TEST

static const struct {
    const char *hex;
    int result;
    size_t count;
    int32_t offset;
} headers[] = {
    {"", 0, 0, 0},
    {"05", 0, 0, 0},
    {"04", -EINVAL, 0, 0},
    {"00", -EINVAL, 0, 0},
    {"0500", -EINVAL, 0, 0},
    {"0505", -EINVAL, 0, 0},
    {"0404 0000" A4, -EINVAL, 0, 0},
    {"7b22", -EINVAL, 0, 0},
    {NONE, 0, 0, 0},
    {NONE A4, 0, 0, 0},
    /* unknown tags are skipped; the offset is found behind them */
    {"0504 0005 0007 0001 ff" A4 C4, 0, 1, 0},
    {"0504 0011 0007 0001 ff 0001 0008 fffffffe 00000000" A4 C4, 0, 1, -2},
    {"0504 0004 0007 0000" A4 C4, 0, 1, 0},
    /* an offset of another size is none */
    {"0504 0008 0001 0004 00000005" A4 C4, 0, 1, 0},
    /* tags that do not fit the header's length can never become right */
    {"0504 0001 00" A4, -EINVAL, 0, 0},
    {"0504 0004 0001 0008 00000005 00000000" A4, -EINVAL, 0, 0},
    {"0504 0003 000100" A4, -EINVAL, 0, 0},
    {"0504 0004 0007 ffff" A4, -EINVAL, 0, 0},
    /* a header not whole yet may */
    {"0504 ffff 0007 0001", 0, 0, 0},
    /* version 1 without a realm */
    {"0501 00000000 00000000", 0, 0, 0},
};
#define HEADERS ((int)(sizeof(headers) / sizeof(headers[0])))

START_TEST(header)
{
    struct image_file f;
    ck_assert_int_eq(parse_hex(headers[_i].hex, &f), headers[_i].result);
    ck_assert_uint_eq(f.count, headers[_i].count);
    ck_assert_int_eq(f.kdc_offset, headers[_i].offset);
    image_file_free(&f);
}
END_TEST

/* As many as no table has at first. */
START_TEST(many)
{
    struct image_file f;
    const size_t count = 10000;
    sample_hex(&bytes, NONE A4);
    for (size_t i = 0; i < count; i++)
        sample_cred(&bytes, &(struct sample){.flags = (uint32_t)i});
    ck_assert_int_eq(image_parse(writer_data(&bytes), &f), 0);
    ck_assert_uint_eq(f.count, count);
    for (size_t i = 0; i < count; i++) {
        struct cred c;
        ck_assert(cred_parse(f.creds[i], &c));
        ck_assert_uint_eq(c.flags, i);
    }
    image_file_free(&f);
}
END_TEST

int
main(void)
{
    Suite *s = suite_create("parse");
    TCase *t = tcase_create("parse");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_loop_test(t, golden, 0, FORMS);
    tcase_add_loop_test(t, truncated, 0, FORMS);
    tcase_add_loop_test(t, lying, 0, FORMS);
    tcase_add_loop_test(t, trailing, 0, FORMS);
    tcase_add_loop_test(t, header, 0, HEADERS);
    tcase_add_test(t, many);
    suite_add_tcase(s, t);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
