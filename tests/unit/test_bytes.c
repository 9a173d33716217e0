/*
 * Cursors: kcm/bytes.c.
 */
#include <check.h>

#include "samples.h"

START_TEST(data_compares)
{
    struct data none = {NULL, 0};
    ck_assert(data_equal(TEXT("ab"), TEXT("ab")));
    ck_assert(!data_equal(TEXT("ab"), TEXT("ac")));
    ck_assert(!data_equal(TEXT("ab"), TEXT("abc")));
    ck_assert(data_equal(none, TEXT("")));
    ck_assert_int_eq(data_compare(TEXT("ab"), TEXT("ab")), 0);
    ck_assert_int_lt(data_compare(TEXT("ab"), TEXT("b")), 0);
    ck_assert_int_gt(data_compare(TEXT("abc"), TEXT("ab")), 0);
    ck_assert_int_lt(data_compare(none, TEXT("a")), 0);
    ck_assert_int_eq(data_compare(none, none), 0);
    ck_assert_int_lt(data_compare(TEXT("\x7f"), TEXT("\x80")), 0);
}
END_TEST

START_TEST(reads_integers_both_ways)
{
    const uint8_t bytes[] = {0xf1, 0x12, 0x83, 0x04, 0x05, 0x96, 0x07};
    struct reader r;
    reader_init(&r, bytes, sizeof(bytes));
    ck_assert_uint_eq(read_u8(&r), 0xf1);
    ck_assert_uint_eq(read_u16(&r), 0x1283);
    ck_assert_uint_eq(read_u32(&r), 0x04059607);
    ck_assert(reader_done(&r));
    reader_init(&r, bytes, sizeof(bytes));
    r.little = true;
    ck_assert_uint_eq(read_u8(&r), 0xf1);
    ck_assert_uint_eq(read_u16(&r), 0x8312);
    ck_assert_uint_eq(read_u32(&r), 0x07960504);
    ck_assert(reader_done(&r));
}
END_TEST

START_TEST(error_sticks)
{
    const uint8_t bytes[] = {1, 2, 3};
    struct reader r;
    reader_init(&r, bytes, sizeof(bytes));
    ck_assert_uint_eq(read_u32(&r), 0);
    ck_assert(r.bad);
    ck_assert_uint_eq(reader_left(&r), 0);
    ck_assert_uint_eq(read_u8(&r), 0);
    ck_assert_uint_eq(read_u16(&r), 0);
    ck_assert_uint_eq(read_data(&r, 1).len, 0);
    ck_assert_uint_eq(read_data32(&r).len, 0);
    ck_assert_uint_eq(read_string(&r).len, 0);
    ck_assert_uint_eq(read_count(&r, 1), 0);
    ck_assert(!reader_done(&r));
    reader_init(&r, bytes, sizeof(bytes));
    ck_assert(!reader_done(&r));
    reader_fail(&r);
    ck_assert_uint_eq(read_u8(&r), 0);
}
END_TEST

START_TEST(empty_reader)
{
    struct reader r;
    reader_init(&r, NULL, 0);
    ck_assert(reader_done(&r));
    ck_assert_uint_eq(read_data(&r, 0).len, 0);
    ck_assert(reader_done(&r));
    (void)read_u8(&r);
    ck_assert(r.bad);
}
END_TEST

START_TEST(reads_runs)
{
    const uint8_t bytes[] = {0, 0, 0, 2, 'h', 'i', 0, 'x', 0, 0};
    struct reader r;
    reader_init(&r, bytes, sizeof(bytes));
    ck_assert(data_equal(read_data32(&r), TEXT("hi")));
    ck_assert(data_equal(read_string(&r), TEXT("")));
    struct data x = read_string(&r);
    ck_assert(data_equal(x, TEXT("x")));
    ck_assert_uint_eq(x.p[x.len], 0);
    ck_assert_uint_eq(reader_left(&r), 1);
    ck_assert(data_equal(read_string(&r), TEXT("")));
    ck_assert(reader_done(&r));
    reader_init(&r, bytes + 4, 2); /* no NUL */
    ck_assert_uint_eq(read_string(&r).len, 0);
    ck_assert(r.bad);
}
END_TEST

START_TEST(lying_lengths)
{
    const uint8_t more[] = {0, 0, 0, 3, 'h', 'i'};
    const uint8_t huge[] = {0xff, 0xff, 0xff, 0xff, 'h', 'i'};
    struct reader r;
    reader_init(&r, more, sizeof(more));
    ck_assert_uint_eq(read_data32(&r).len, 0);
    ck_assert(r.bad);
    reader_init(&r, huge, sizeof(huge));
    ck_assert_uint_eq(read_data32(&r).len, 0);
    ck_assert(r.bad);
}
END_TEST

START_TEST(counts)
{
    const uint8_t two[] = {0, 0, 0, 2, 1, 2, 3, 4};
    const uint8_t huge[] = {0x80, 0, 0, 0, 1, 2, 3, 4};
    struct reader r;
    reader_init(&r, two, sizeof(two));
    ck_assert_uint_eq(read_count(&r, 2), 2);
    ck_assert(!r.bad);
    reader_init(&r, two, sizeof(two));
    ck_assert_uint_eq(read_count(&r, 3), 0);
    ck_assert(r.bad);
    reader_init(&r, huge, sizeof(huge));
    ck_assert_uint_eq(read_count(&r, 4), 0);
    ck_assert(r.bad);
}
END_TEST

START_TEST(writes)
{
    static const uint8_t golden[] = {1, 2,   3,   4,   5, 6, 7, 0, 0,  0,
                                     2, 'h', 'i', 'y', 0, 9, 9, 9, 'z'};
    struct writer w = {0};
    write_u8(&w, 1);
    write_u16(&w, 0x0203);
    write_u32(&w, 0x04050607);
    write_data32(&w, TEXT("hi"));
    write_string(&w, "y");
    write_bytes(&w, "\x9\x9\x9", 3);
    write_data(&w, TEXT("z"));
    ck_assert(!w.failed);
    struct data got = writer_data(&w);
    ck_assert_uint_eq(got.len, sizeof(golden));
    ck_assert_mem_eq(got.p, golden, sizeof(golden));
    write_u32_at(&w, 3, 0xa0b0c0d0);
    ck_assert_mem_eq(w.p + 3, "\xa0\xb0\xc0\xd0", 4);
    size_t used = w.len;
    writer_reset(&w);
    ck_assert_uint_eq(w.len, 0);
    for (size_t i = 0; i < used; i++)
        ck_assert_uint_eq(w.p[i], 0);
    writer_free(&w);
    ck_assert_ptr_null(w.p);
    ck_assert_uint_eq(secret_in_use(), 0);
}
END_TEST

START_TEST(grows)
{
    struct writer w = {0};
    for (uint32_t i = 0; i < 100000; i++)
        write_u32(&w, i);
    ck_assert_uint_eq(w.len, 400000);
    struct reader r;
    reader_init(&r, w.p, w.len);
    for (uint32_t i = 0; i < 100000; i++)
        ck_assert_uint_eq(read_u32(&r), i);
    writer_free(&w);
}
END_TEST

START_TEST(failure_sticks)
{
    struct writer w = {0};
    write_u8(&w, 7);
    ck_assert(!writer_reserve(&w, SIZE_MAX - 64)); /* would wrap around */
    ck_assert(w.failed);
    write_u32(&w, 1);
    write_u32_at(&w, 0, 1);
    ck_assert_uint_eq(w.len, 1);
    ck_assert_uint_eq(w.p[0], 7);
    writer_reset(&w);
    ck_assert(!w.failed);
    ck_assert(!writer_reserve(&w, SIZE_MAX / 2));
    writer_free(&w);
    ck_assert(writer_reserve(&w, 0));
    writer_free(&w);
}
END_TEST

int
main(void)
{
    Suite *s = suite_create("bytes");
    TCase *t = tcase_create("bytes");
    tcase_add_test(t, data_compares);
    tcase_add_test(t, reads_integers_both_ways);
    tcase_add_test(t, error_sticks);
    tcase_add_test(t, empty_reader);
    tcase_add_test(t, reads_runs);
    tcase_add_test(t, lying_lengths);
    tcase_add_test(t, counts);
    tcase_add_test(t, writes);
    tcase_add_test(t, grows);
    tcase_add_test(t, failure_sticks);
    suite_add_tcase(s, t);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
