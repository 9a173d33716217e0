/*
 * FILE images: kcm/image.c.
 */
#include <errno.h>

#include "images.h"

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

/* Entry n is that sample. */
static void
check_entry(const struct image *i, size_t n, size_t sample)
{
    ck_assert_uint_lt(n, i->count);
    writer_reset(&w);
    sample_cred(&w, &samples[sample]);
    ck_assert(data_equal(image_entry_bytes(i, n), writer_data(&w)));
    ck_assert(!image_entries(i)[n].removed);
}

START_TEST(golden)
{
    static const char plain[] = "0504 0000";
    static const char with_offset[] = "0504 000c 0001 0008 fffffff9 00000000";
    struct kcm_snapshot *s = empty(_i ? -7 : 0);
    struct writer want = {0};
    add(s, &samples[1]);
    struct image *i = render(s);
    sample_hex(&want, _i ? with_offset : plain);
    sample_principal(&want, "alice@EX.ORG");
    ck_assert_uint_eq(i->body, want.len);
    sample_cred(&want, &samples[1]);
    ck_assert(data_equal(image_bytes(i), writer_data(&want)));
    ck_assert(i->clean);
    ck_assert_uint_eq(i->count, 1);
    struct image_file f;
    ck_assert_int_eq(image_parse(image_bytes(i), &f), 0);
    ck_assert_int_eq(f.kdc_offset, s->kdc_offset);
    image_file_free(&f);
    image_unref(i);
    kcm_snapshot_unref(s);
    writer_free(&want);
}
END_TEST

/* The same bytes whatever order the daemon lists in. */
START_TEST(canonical)
{
    static const char *const orders[] = {"01234567", "76543210", "31426075",
                                         "67012345", "26413705"};
    struct kcm_snapshot *s = snapshot(orders[_i]), *t = snapshot(orders[0]);
    struct image *i = render(s), *first = render(t);
    ck_assert_uint_eq(i->count, SAMPLES);
    check_table(i);
    for (size_t n = 0; n < SAMPLES; n++)
        check_entry(i, n, n);
    ck_assert(image_equal(i, first));
    image_unref(first);
    image_unref(i);
    kcm_snapshot_unref(t);
    kcm_snapshot_unref(s);
}
END_TEST

START_TEST(nothing_to_show)
{
    struct kcm_snapshot *s = empty(0);
    struct image *i = render(s);
    ck_assert_uint_eq(i->count, 0);
    ck_assert_uint_eq(i->len, i->body);
    ck_assert_uint_eq(image_find(i, 0), 0);
    image_unref(i);
    /* garbage, and what a FILE client had removed */
    s->creds[s->count++].bytes = blob_new(NULL, 0);
    s->creds[s->count++].bytes = NULL;
    s->creds[s->count++].bytes = blob_new("junk", 4);
    add(s, &(struct sample){.authtime = UINT32_MAX});
    i = render(s);
    ck_assert_uint_eq(i->count, 0);
    bool superseded[4];
    ck_assert_int_eq(image_superseded(s, superseded), 0);
    for (int n = 0; n < 4; n++)
        ck_assert(superseded[n]);
    image_unref(i);
    kcm_snapshot_unref(s);
}
END_TEST

/* Of one purpose the newest is shown, wherever it stands. */
START_TEST(superseded)
{
    static const struct sample old = {
        .server = "host/a@EX.ORG", .starttime = 5, .endtime = 95};
    static const struct sample same = {
        .server = "host/a@EX.ORG", .starttime = 10, .endtime = 80};
    static const struct sample other = {.server = "host/a@EX.ORG",
                                        .starttime = 10,
                                        .endtime = 90,
                                        .authdata = "ad"};
    static const struct sample *const all[] = {&old, &same, &other,
                                               &samples[1]};
    struct kcm_snapshot *s = empty(0);
    bool hidden[4];
    for (int n = 0; n < 4; n++)
        add(s, all[(n + _i) % 4]);
    struct image *i = render(s);
    ck_assert_uint_eq(i->count, 2);
    check_table(i);
    ck_assert_int_eq(image_superseded(s, hidden), 0);
    for (int n = 0; n < 4; n++)
        ck_assert_int_eq(hidden[n], (n + _i) % 4 < 2);
    image_unref(i);
    kcm_snapshot_unref(s);
}
END_TEST

/* What went away leaves a mark of its length, what is new comes behind. */
START_TEST(merged)
{
    static const struct {
        const char *before, *after;
        const char *entries; /* of the merged image; x: removed */
    } rows[] = {
        {"012", "012", "012"},   {"012", "02", "0x2"},
        {"012", "0123", "0123"}, {"012", "13", "x1x3"},
        {"012", "", "xxx"},      {"", "10", "01"},
        {"16", "0167", "1607"},  {"01234567", "7", "xxxxxxx7"},
    };
    struct kcm_snapshot *s = snapshot(rows[_i].before);
    struct kcm_snapshot *t = snapshot(rows[_i].after);
    struct image *old = render(s), *i;
    const char *want = rows[_i].entries;
    ck_assert_int_eq(image_merge(old, t, &i), 0);
    check_table(i);
    ck_assert_uint_eq(i->count, strlen(want));
    for (size_t n = 0; n < i->count; n++) {
        if (n < old->count)
            ck_assert_uint_eq(image_entries(i)[n].offset,
                              image_entries(old)[n].offset);
        ck_assert_int_eq(image_entries(i)[n].removed, want[n] == 'x');
        if (want[n] != 'x')
            check_entry(i, n, (size_t)(want[n] - '0'));
    }
    ck_assert(image_continues(i, old));
    ck_assert_int_eq(image_continues(old, i), i->count == old->count);
    /* Once more, with marks in the old one: they stay. */
    struct image *again;
    ck_assert_int_eq(image_merge(i, t, &again), 0);
    ck_assert(image_equal(i, again));
    ck_assert(image_extends(again, i));
    image_unref(again);
    image_unref(i);
    image_unref(old);
    kcm_snapshot_unref(t);
    kcm_snapshot_unref(s);
}
END_TEST

/* A header that has become longer moves all: the canonical image then. */
START_TEST(merged_anew)
{
    struct kcm_snapshot *s = snapshot("012"), *t = snapshot("02");
    t->kdc_offset = 5;
    struct image *old = render(s), *canon = render(t), *i;
    ck_assert_int_eq(image_merge(old, t, &i), 0);
    ck_assert(image_equal(i, canon));
    ck_assert(!image_continues(i, old));
    image_unref(i);
    t->kdc_offset = 0;
    s->kdc_offset = 6;
    image_unref(old);
    old = render(s);
    s->kdc_offset = 7; /* fits in place */
    ck_assert_int_eq(image_merge(old, s, &i), 0);
    ck_assert_uint_eq(i->count, 3);
    ck_assert(!image_extends(i, old));
    image_unref(i);
    image_unref(canon);
    image_unref(old);
    kcm_snapshot_unref(t);
    kcm_snapshot_unref(s);
}
END_TEST

/* Beside one that grew: as long, and nothing more to be found in it. */
START_TEST(padded)
{
    struct kcm_snapshot *s = snapshot("01"), *t = snapshot("16073");
    struct image *i = render(s), *old = render(s), *grown, *p;
    ck_assert_int_eq(image_merge(old, t, &grown), 0);
    ck_assert_uint_eq(grown->count, 5);
    ck_assert_int_eq(image_pad(i, grown, old->len, &p), 0);
    check_table(p);
    ck_assert_uint_eq(p->len, grown->len);
    ck_assert(image_extends(p, i) && image_continues(p, grown));
    for (size_t n = 2; n < p->count; n++) {
        struct cred c;
        ck_assert(cred_parse(image_entry_bytes(p, n), &c));
        ck_assert(cred_is_removed(&c));
    }
    image_unref(p);
    ck_assert_int_eq(image_pad(i, grown, grown->len, &p), 0);
    ck_assert(image_equal(p, i)); /* nothing is there from there on */
    image_unref(p);
    image_unref(grown);
    image_unref(old);
    image_unref(i);
    kcm_snapshot_unref(t);
    kcm_snapshot_unref(s);
}
END_TEST

/* What is superseded keeps its bytes; the others last as long as either. */
START_TEST(shared)
{
    struct kcm_snapshot *s = snapshot("0161731"), *same = snapshot("0161731");
    size_t before = secret_in_use();
    struct image *i = render(s), *again;
    size_t both = secret_in_use();
    ck_assert_uint_gt(both, before);
    image_share(i, s);
    ck_assert_uint_lt(secret_in_use(), both);
    size_t slices = 0;
    for (size_t n = 0; n < s->count; n++)
        slices += s->creds[n].bytes->owner != NULL;
    ck_assert_uint_eq(slices, i->count);

    /* The next image has them in other bytes; the first goes. */
    ck_assert_int_eq(image_merge(i, s, &again), 0);
    ck_assert(again == i);
    image_unref(again);
    struct image *next = render(s);
    image_share(next, s);
    image_unref(i);
    image_share(next, s); /* is so already */
    image_unref(next);
    for (size_t n = 0; n < s->count; n++)
        ck_assert(data_equal(blob_data(s->creds[n].bytes),
                             blob_data(same->creds[n].bytes)));
    kcm_snapshot_unref(same);
    kcm_snapshot_unref(s);
}
END_TEST

START_TEST(appended)
{
    struct kcm_snapshot *s = snapshot("01");
    struct image *i = render(s), *steps[40];
    struct writer more = {0};
    uint32_t lengths[2];
    sample_cred(&more, &samples[2]);
    lengths[0] = (uint32_t)more.len;
    sample_cred(&more, &samples[6]);
    lengths[1] = (uint32_t)more.len - lengths[0];
    struct data bytes = writer_data(&more);
    for (int n = 0; n < 40; n++) {
        struct image *last = n == 0 ? i : steps[n - 1];
        ck_assert_int_eq(image_append(last, bytes, lengths, 2, &steps[n]), 0);
        check_table(steps[n]);
        ck_assert(image_extends(steps[n], last));
        ck_assert(!image_extends(last, steps[n]));
        ck_assert(!steps[n]->clean);
    }
    /* Most of them share their bytes. */
    int copies = 0;
    for (int n = 1; n < 40; n++)
        copies += image_bytes(steps[n]).p != image_bytes(steps[n - 1]).p;
    ck_assert_int_le(copies, 5);
    ck_assert_uint_eq(steps[39]->count, 82);
    check_entry(steps[39], 0, 0);
    check_entry(steps[39], 80, 2);
    check_entry(steps[39], 81, 6);
    /* A second one behind the same image does not get in its way. */
    struct image *other;
    bytes.len = lengths[0];
    ck_assert_int_eq(image_append(steps[3], bytes, lengths, 1, &other), 0);
    ck_assert_uint_eq(other->count, 11);
    check_table(other);
    check_table(steps[4]);
    check_entry(steps[4], 11, 6);
    image_unref(other);
    image_unref(i);
    for (int n = 0; n < 40; n++)
        image_unref(steps[n]);
    writer_free(&more);
    kcm_snapshot_unref(s);
}
END_TEST

START_TEST(patched)
{
    struct kcm_snapshot *s = snapshot("012");
    struct image *i = render(s), *p;
    struct writer mark = {0}, before = {0};
    struct cred c;
    write_data(&before, image_bytes(i));
    ck_assert(cred_parse(image_entry_bytes(i, 1), &c));
    cred_write_removed(&mark, &c);
    ck_assert_int_eq(image_patch(i, 1, writer_data(&mark), &p), 0);
    check_table(p);
    ck_assert(image_entries(p)[1].removed);
    check_entry(p, 0, 0);
    check_entry(p, 2, 2);
    ck_assert(!image_equal(p, i));
    image_unref(p);
    /* another length, or no credential: nothing */
    struct data cut = {mark.p, mark.len - 1};
    ck_assert_int_eq(image_patch(i, 1, cut, &p), -EINVAL);
    ck_assert_ptr_null(p);
    memset(mark.p, 0xff, mark.len);
    ck_assert_int_eq(image_patch(i, 1, writer_data(&mark), &p), -EINVAL);
    ck_assert_ptr_null(p);
    ck_assert(data_equal(image_bytes(i), writer_data(&before)));
    image_unref(i);
    writer_free(&before);
    writer_free(&mark);
    kcm_snapshot_unref(s);
}
END_TEST

START_TEST(finds)
{
    struct kcm_snapshot *s = snapshot("01234567");
    struct image *i = render(s);
    for (size_t at = 0; at < i->len + 10; at++) {
        size_t n = 0;
        while (n < i->count && (at < image_entries(i)[n].offset ||
                                at >= (size_t)image_entries(i)[n].offset +
                                          image_entries(i)[n].length))
            n++;
        ck_assert_uint_eq(image_find(i, at), n);
    }
    image_unref(i);
    kcm_snapshot_unref(s);
}
END_TEST

START_TEST(of_file)
{
    struct kcm_snapshot *s = snapshot("20");
    struct image *i;
    struct image_file f;
    struct writer file = {0};
    struct cred c;
    image_write_header(&file, s);
    size_t body = file.len;
    sample_cred(&file, &samples[2]);
    writer_reset(&w);
    sample_cred(&w, &samples[1]);
    ck_assert(cred_parse(writer_data(&w), &c));
    cred_write_removed(&file, &c);
    sample_cred(&file, &samples[0]);
    size_t whole = file.len;
    write_u32(&file, 1); /* not whole */
    ck_assert_int_eq(image_parse(writer_data(&file), &f), 0);
    ck_assert_int_eq(image_of_file(&f, &i), 0);
    ck_assert(data_equal(image_bytes(i), (struct data){file.p, whole}));
    ck_assert_uint_eq(i->body, body);
    ck_assert_uint_eq(i->count, 3);
    check_table(i);
    check_entry(i, 0, 2);
    ck_assert(image_entries(i)[1].removed);
    check_entry(i, 2, 0);
    ck_assert(!i->clean);
    image_unref(i);
    image_file_free(&f);
    writer_free(&file);
    kcm_snapshot_unref(s);
}
END_TEST

START_TEST(counted)
{
    struct kcm_snapshot *s = snapshot("01");
    struct image *i = render(s);
    ck_assert_ptr_eq(image_ref(i), i);
    ck_assert_int_eq(i->refs, 2);
    image_unref(i);
    ck_assert_int_eq(i->refs, 1);
    ck_assert(image_extends(i, i) && image_equal(i, i));
    image_unref(i);
    image_unref(NULL);
    kcm_snapshot_unref(s);
}
END_TEST

int
main(void)
{
    Suite *s = suite_create("image");
    TCase *t = tcase_create("image");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_loop_test(t, golden, 0, 2);
    tcase_add_loop_test(t, canonical, 0, 5);
    tcase_add_test(t, nothing_to_show);
    tcase_add_loop_test(t, superseded, 0, 4);
    tcase_add_loop_test(t, merged, 0, 8);
    tcase_add_test(t, merged_anew);
    tcase_add_test(t, padded);
    tcase_add_test(t, shared);
    tcase_add_test(t, appended);
    tcase_add_test(t, patched);
    tcase_add_test(t, finds);
    tcase_add_test(t, of_file);
    tcase_add_test(t, counted);
    suite_add_tcase(s, t);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
