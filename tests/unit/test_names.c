/*
 * Names as file names and back: fs/names.c, and those of collection/.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/tree.h"
#include "fs/user.h"

static const struct form_row {
    const char *name, *form;
} forms[] = {
    {"1000", "1000"},
    {"1000:51234", "1000.51234"},
    {"1000:a.b", "1000.a%2Eb"},
    {"1000:", "1000."},
    {"1000:a:b", "1000.a.b"},
    {"1000:50%", "1000.50%25"},
    {"1000:%41", "1000.%2541"},
    {"1000:a/b", "1000.a%2Fb"},
    {"1000:a b", "1000.a b"},
    {"1000:~\x7f", "1000.~%7F"},
    {"1000:\x01\x1f\n", "1000.%01%1F%0A"},
    {"1000:caf\xc3\xa9", "1000.caf%C3%A9"},
    {"1000:a#2", "1000.a#2"},
    {".", "%2E"},
    {"..", "%2E%2E"},
    {":", "%3A"},
    {"::", "%3A."},
    {":::", "..."},
    {":.", ".%2E"},
};

START_TEST(test_form)
{
    const struct form_row *row = &forms[_i];
    char *form = name_escape(row->name);
    char *name = name_unescape(row->form);
    ck_assert_str_eq(form, row->form);
    ck_assert_ptr_nonnull(name);
    ck_assert_str_eq(name, row->name);
    free(form);
    free(name);
}
END_TEST

START_TEST(test_every_byte)
{
    char name[] = "1000:x?y";
    for (int c = 1; c < 256; c++) {
        name[6] = (char)c;
        char *form = name_escape(name);
        char *back = name_unescape(form);
        for (const char *f = form; *f != '\0'; f++)
            ck_assert(*f >= ' ' && *f <= '~' && *f != '/' && *f != ':');
        ck_assert_ptr_nonnull(back);
        ck_assert_str_eq(back, name);
        free(form);
        free(back);
    }
}
END_TEST

/* One cache has one form. */
static const char *const no_forms[] = {
    "",     "a:b", "a%2e",        "a%41", "a%2", "a%",  "a%zz", "%00", "a%00",
    "a\nb", "a/b", "caf\xc3\xa9", "%3Aa", "%+1", "% 1", ".",    "..",
};

START_TEST(test_no_form)
{
    ck_assert_ptr_null(name_unescape(no_forms[_i]));
}
END_TEST

START_TEST(test_principal)
{
    static const struct form_row rows[] = {
        {"alice@EXAMPLE.COM", "alice@EXAMPLE.COM"},
        {"host/a.b:80@R", "host%2Fa.b.80@R"},
        {".hidden@R", "%2Ehidden@R"},
        {"..@R", "%2E.@R"},
        {":", "%3A"},
        {"::", "%3A."},
        {":.", "%3A."},
        {"a\\@b@R", "a\\@b@R"},
        {"x y@R", "x y@R"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char *name = name_of_principal(rows[i].name);
        ck_assert_str_eq(name, rows[i].form);
        free(name);
    }
    char *text = name_unescape_text("fast_avail@krbtgt%2FR@R");
    ck_assert_str_eq(text, "fast_avail@krbtgt/R@R");
    free(text);
    ck_assert_ptr_null(name_unescape_text("a%0"));
}
END_TEST

/* Names as they come, and as they are told apart: by the order of the
 * indexes. */
static const struct unique_row {
    const char *names[8], *unique[8];
} uniques[] = {
    {{"b", "a"}, {"b", "a"}},
    {{"a", "a", "a"}, {"a", "a#2", "a#3"}},
    {{"a", "b", "a", "b"}, {"a", "b", "a#2", "b#2"}},
    {{"a#2", "a", "a"}, {"a#2", "a", "a#3"}},
    {{"a", "a#3", "a", "a"}, {"a", "a#3", "a#2", "a#4"}},
    {{"a#2", "a", "a", "a#2"}, {"a#2", "a", "a#3", "a#2#2"}},
    {{"a", "a", "a#2", "a#2", "a#2#2"}, {"a", "a#3", "a#2", "a#2#3", "a#2#2"}},
    {{""}, {""}},
};

START_TEST(test_unique)
{
    const struct unique_row *row = &uniques[_i];
    struct ticket_name names[8];
    size_t count = 0;
    for (; row->names[count] != NULL; count++)
        names[count] = (struct ticket_name){strdup(row->names[count]), count};
    ck_assert_int_eq(names_make_unique(names, count), 0);
    for (size_t i = 0; i < count; i++) {
        ck_assert_str_eq(names[i].name, row->unique[names[i].index]);
        ck_assert(i == 0 || strcmp(names[i - 1].name, names[i].name) < 0);
        ck_assert_ptr_eq(tickets_find(names, count, names[i].name), &names[i]);
    }
    for (size_t i = 0; i < count; i++)
        free(names[i].name);
}
END_TEST

START_TEST(test_unique_of_none)
{
    ck_assert_int_eq(names_make_unique(NULL, 0), 0);
    ck_assert_ptr_null(tickets_find(NULL, 0, "a"));
}
END_TEST

START_TEST(test_uuid)
{
    static const char text[] = "01234567-89ab-4def-8123-456789abcdef";
    uint8_t uuid[KCM_UUID_LEN];
    char again[37];
    ck_assert(uuid_parse_text(text, uuid));
    ck_assert_int_eq(uuid[0], 0x01);
    ck_assert_int_eq(uuid[15], 0xef);
    uuid_format_text(uuid, again);
    ck_assert_str_eq(again, text);
    ck_assert(!uuid_parse_text("01234567-89AB-4def-8123-456789abcdef", uuid));
    ck_assert(!uuid_parse_text("0123456789ab4def8123456789abcdef", uuid));
    ck_assert(!uuid_parse_text("", uuid));
    ck_assert(!uuid_parse_text("01234567-89ab-4def-8123-456789abcdef ", uuid));
}
END_TEST

/* --- collection/ ------------------------------------------------------- */

#define X50 "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"

static const struct form_row collections[] = {
    {"1000:tkt", "tkt"},
    {"1000:tktAb12Cd", "tktAb12Cd"},
    {"1000:tkt_a.b", "tkt_a%2Eb"},
    {"1000:tkt:b", "tkt.b"},
    {"1000:tkt=x", "tkt=1000.tkt=x"},
    {"1000:51234", "tkt=1000.51234"},
    {"1000", "tkt=1000"},
    {"1001:tktA", "tkt=1001.tktA"},
    {"10000:tktA", "tkt=10000.tktA"},
    {"1000:tkt" X50 "123456789", "tkt" X50 "123456789"},
    {"1000:" X50 "123", "tkt=1000." X50 "123"},
};

START_TEST(test_collection)
{
    const struct form_row *row = &collections[_i];
    struct user u = {.uid = 1000};
    struct caller caller = {.uid = 1000};
    char *name, *file = tree_collection_file(&u, row->name);
    ck_assert_str_eq(file, row->form);
    ck_assert_int_eq(tree_collection_name(&u, &caller, row->form, &name), 0);
    ck_assert_str_eq(name, row->name);
    free(file);
    free(name);
}
END_TEST

/* What libkrb5 would not take is named by its UUID; without one, tkt. */
START_TEST(test_collection_by_uuid)
{
    struct kcm_cache cache = {
        .uuid = {0x12, 0x34, 0x56, 0x78},
        .name = (char *)"1000:" X50 "1234",
    };
    struct kcm_listing known = {&cache, 1};
    struct fs fs = {.lock = PTHREAD_MUTEX_INITIALIZER};
    struct user u = {.uid = 1000, .fs = &fs, .known = &known};
    struct caller caller = {.uid = 1000};
    static const char *const names[] = {"1000:" X50 "1234", "1000:back\\slash",
                                        "1000:tkt" X50 "1234567890"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        char *name, *file;
        cache.name = (char *)names[i];
        file = tree_collection_file(&u, names[i]);
        ck_assert_str_eq(file, "tkt=12345678-0000-0000-0000-000000000000");
        ck_assert_int_eq(tree_collection_name(&u, &caller, file, &name), 0);
        ck_assert_str_eq(name, names[i]);
        free(file);
        free(name);
    }
    char *file = tree_collection_file(&u, "1000:other\\");
    ck_assert_str_eq(file, "tkt");
    free(file);
}
END_TEST

START_TEST(test_no_collection_name)
{
    static const char *const files[] = {
        "", "tk", "primary", "TKT", "tkt%", "tkt=", "tkt=%", "tkta:b",
    };
    struct user u = {.uid = 1000};
    struct caller caller = {.uid = 1000};
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        char *name;
        ck_assert_int_eq(tree_collection_name(&u, &caller, files[i], &name),
                         KCM_NOT_FOUND);
        ck_assert_ptr_null(name);
    }
}
END_TEST

#define COUNT(table) ((int)(sizeof(table) / sizeof((table)[0])))

int
main(void)
{
    Suite *s = suite_create("names");
    TCase *names = tcase_create("names"), *dir = tcase_create("collection");
    tcase_add_loop_test(names, test_form, 0, COUNT(forms));
    tcase_add_test(names, test_every_byte);
    tcase_add_loop_test(names, test_no_form, 0, COUNT(no_forms));
    tcase_add_test(names, test_principal);
    tcase_add_loop_test(names, test_unique, 0, COUNT(uniques));
    tcase_add_test(names, test_unique_of_none);
    tcase_add_test(names, test_uuid);
    suite_add_tcase(s, names);
    tcase_add_loop_test(dir, test_collection, 0, COUNT(collections));
    tcase_add_test(dir, test_collection_by_uuid);
    tcase_add_test(dir, test_no_collection_name);
    suite_add_tcase(s, dir);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
