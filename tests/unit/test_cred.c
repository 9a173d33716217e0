/*
 * Principals and credentials: kcm/cred.c, compared with libkrb5.
 */
#include <check.h>
#include <krb5.h>

#include "samples.h"

/* alice@EX, a/b@EX; enctype 0x1203; one address, one authdata entry. */
#define V4_CLIENT "00000001 00000001 00000002 4558 00000005 616c696365"
#define V4_SERVER "00000002 00000002 00000002 4558 00000001 61 00000002 6263"
#define V4_REST                                                               \
    "00000003 6b6579 01020304 05060708 090a0b0c 0d0e0f10 01 40c10000 "        \
    "00000001 0002 00000004 7f000001 00000001 0001 00000002 6164 "            \
    "00000003 746b74 00000002 3264"
#define V4 V4_CLIENT V4_SERVER "1203" V4_REST
#define V3 V4_CLIENT V4_SERVER "1203 1203" V4_REST
#define V2 V4
#define V1                                                                    \
    "00000002 00000002 4558 00000005 616c696365"                              \
    "00000003 00000002 4558 00000001 61 00000002 6263 1203" V4_REST
#define LE_REST                                                               \
    "03000000 6b6579 04030201 08070605 0c0b0a09 100f0e0d 01 0000c140 "        \
    "01000000 0200 04000000 7f000001 01000000 0100 02000000 6164 "            \
    "03000000 746b74 02000000 3264"
#define V2_LITTLE                                                             \
    "01000000 01000000 02000000 4558 05000000 616c696365"                     \
    "02000000 02000000 02000000 4558 01000000 61 02000000 6263 0312" LE_REST
#define V1_LITTLE                                                             \
    "02000000 02000000 4558 05000000 616c696365"                              \
    "03000000 02000000 4558 01000000 61 02000000 6263 0312" LE_REST
/* What version 1 does not have is 0. */
#define V4_OF_V1                                                              \
    "00000000 00000001 00000002 4558 00000005 616c696365"                     \
    "00000000 00000002 00000002 4558 00000001 61 00000002 6263 1203" V4_REST

static const struct form {
    int version;
    bool little;
    const char *hex, *v4;
} forms[] = {
    {1, false, V1, V4_OF_V1}, {1, true, V1_LITTLE, V4_OF_V1},
    {2, false, V2, V4},       {2, true, V2_LITTLE, V4},
    {3, false, V3, V4},       {4, false, V4, V4},
};
#define FORMS ((int)(sizeof(forms) / sizeof(forms[0])))

START_TEST(golden_view)
{
    struct writer w = {0};
    struct cred c;
    sample_hex(&w, V4);
    ck_assert(cred_parse(writer_data(&w), &c));
    ck_assert_uint_eq(c.client.type, 1);
    ck_assert_uint_eq(c.client.count, 1);
    ck_assert(data_equal(c.client.realm, TEXT("EX")));
    ck_assert(data_equal(principal_component(&c.client, 0), TEXT("alice")));
    ck_assert_uint_eq(c.server.type, 2);
    ck_assert_uint_eq(c.server.count, 2);
    ck_assert(data_equal(principal_component(&c.server, 0), TEXT("a")));
    ck_assert(data_equal(principal_component(&c.server, 1), TEXT("bc")));
    ck_assert_uint_eq(principal_component(&c.server, 2).len, 0);
    ck_assert_uint_eq(c.enctype, 0x1203);
    ck_assert(data_equal(c.key, TEXT("key")));
    ck_assert_uint_eq(c.authtime, 0x01020304);
    ck_assert_uint_eq(c.starttime, 0x05060708);
    ck_assert_uint_eq(c.endtime, 0x090a0b0c);
    ck_assert_uint_eq(c.renew_till, 0x0d0e0f10);
    ck_assert_uint_eq(c.is_skey, 1);
    ck_assert_uint_eq(c.flags, 0x40c10000);
    ck_assert_uint_eq(c.addresses.len, 14);
    ck_assert_uint_eq(c.authdata.len, 12);
    ck_assert(data_equal(c.ticket, TEXT("tkt")));
    ck_assert(data_equal(c.second_ticket, TEXT("2d")));
    ck_assert(data_equal(c.raw, writer_data(&w)));
    struct principal p;
    ck_assert(principal_parse(c.client.raw, &p));
    ck_assert(principal_equal(&p, &c.client));
    writer_free(&w);
}
END_TEST

START_TEST(converts)
{
    const struct form *f = &forms[_i];
    struct writer in = {0}, want = {0}, out = {0};
    struct reader r;
    sample_hex(&in, f->hex);
    sample_hex(&want, f->v4);
    reader_init(&r, in.p, in.len);
    r.little = f->little;
    cred_convert(&r, f->version, &out);
    ck_assert(reader_done(&r));
    ck_assert(data_equal(writer_data(&out), writer_data(&want)));
    writer_free(&out);
    writer_free(&want);
    writer_free(&in);
}
END_TEST

START_TEST(truncated)
{
    const struct form *f = &forms[_i];
    struct writer in = {0};
    sample_hex(&in, f->hex);
    for (size_t n = 0; n < in.len; n++) {
        /* A copy of its own, so that reading past the end shows. */
        uint8_t *part = malloc(n + 1);
        struct writer out = {0};
        struct reader r;
        struct cred c;
        memcpy(part, in.p, n);
        part = realloc(part, n > 0 ? n : 1);
        reader_init(&r, part, n);
        r.little = f->little;
        cred_convert(&r, f->version, &out);
        ck_assert(r.bad);
        if (f->version == 4)
            ck_assert(!cred_parse((struct data){part, n}, &c));
        writer_free(&out);
        free(part);
    }
    writer_free(&in);
}
END_TEST

START_TEST(lying)
{
    const struct form *f = &forms[_i];
    struct writer in = {0};
    sample_hex(&in, f->hex);
    for (size_t at = 0; at + 4 <= in.len; at++) {
        struct writer out = {0};
        struct reader r;
        struct cred c;
        uint8_t saved[4];
        memcpy(saved, in.p + at, 4);
        memset(in.p + at, 0xff, 4);
        reader_init(&r, in.p, in.len);
        r.little = f->little;
        cred_convert(&r, f->version, &out);
        ck_assert_uint_le(out.len, 2 * in.len);
        if (f->version == 4 && !cred_parse(writer_data(&in), &c))
            ck_assert(r.bad || reader_left(&r) > 0);
        memcpy(in.p + at, saved, 4);
        writer_free(&out);
    }
    writer_free(&in);
}
END_TEST

START_TEST(trailing)
{
    struct writer w = {0};
    struct cred c;
    struct principal p;
    sample_hex(&w, V4);
    write_u8(&w, 0);
    ck_assert(!cred_parse(writer_data(&w), &c));
    struct reader r;
    reader_init(&r, w.p, w.len);
    cred_read(&r, &c);
    ck_assert(!r.bad);
    ck_assert_uint_eq(reader_left(&r), 1);
    ck_assert(!principal_parse(
        (struct data){c.client.raw.p, c.client.raw.len + 1}, &p));
    writer_free(&w);
}
END_TEST

/* Version 1 counts the realm: a count of 0 has no realm. */
START_TEST(v1_without_realm)
{
    struct writer w = {0}, out = {0};
    struct reader r;
    sample_hex(&w, "00000000 00000000");
    reader_init(&r, w.p, w.len);
    principal_convert(&r, 1, &out);
    ck_assert(r.bad);
    writer_free(&out);
    writer_free(&w);
}
END_TEST

static struct cred
make(struct writer *w, const struct sample *s)
{
    struct cred c;
    sample_cred(w, s);
    ck_assert(cred_parse(writer_data(w), &c));
    return c;
}

START_TEST(purpose)
{
    static const struct {
        struct sample s;
        bool same;
    } rows[] = {
        {{.ticket = "other", .endtime = 9, .flags = 5}, true},
        {{.address = "addr", .is_skey = 1}, true},
        {{.server = "host/b@EX.ORG"}, false},
        {{.server = "host/a@EX.COM"}, false},
        {{.server = "host@EX.ORG"}, false},
        {{.client = "bob@EX.ORG"}, false},
        {{.enctype = 17}, false},
        {{.second = "u2u"}, false},
        {{.authdata = "ad"}, false},
    };
    struct writer base = {0};
    struct cred a = make(&base, &(struct sample){0});
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct writer w = {0};
        struct cred b = make(&w, &rows[i].s);
        ck_assert_int_eq(cred_same_purpose(&a, &b), rows[i].same);
        ck_assert_int_eq(cred_same_purpose(&b, &a), rows[i].same);
        writer_free(&w);
    }
    writer_free(&base);
}
END_TEST

START_TEST(local_tgt)
{
    static const struct {
        const char *server;
        bool is;
    } rows[] = {
        {"krbtgt/EX.ORG@EX.ORG", true},    {"krbtgt/EX.COM@EX.ORG", false},
        {"krbtgt/EX.COM@EX.COM", false},   {"krbtgt@EX.ORG", false},
        {"krbtgt/EX.ORG/x@EX.ORG", false}, {"host/EX.ORG@EX.ORG", false},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct writer w = {0};
        struct cred c = make(&w, &(struct sample){.server = rows[i].server});
        ck_assert_int_eq(cred_is_local_tgt(&c), rows[i].is);
        writer_free(&w);
    }
}
END_TEST

START_TEST(starts)
{
    struct writer w = {0};
    struct cred c = make(&w, &(struct sample){.authtime = 3});
    ck_assert_uint_eq(cred_start(&c), 3);
    writer_reset(&w);
    c = make(&w, &(struct sample){.authtime = 3, .starttime = 4});
    ck_assert_uint_eq(cred_start(&c), 4);
    writer_free(&w);
}
END_TEST

START_TEST(removed_marks)
{
    static const struct {
        struct sample s;
        bool removed;
    } rows[] = {
        {{.authtime = 5, .endtime = 6}, false},
        {{.authtime = UINT32_MAX, .endtime = 0}, true},
        {{.authtime = 1, .endtime = 0}, true},
        {{.authtime = 0, .endtime = 0}, false},
        {{.server = "krb5_ccache_conf_data/k@X-CACHECONF:"}, false},
        {{.server = "krb5_ccache_conf_data/k@X-RMED-CONF:"}, true},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct writer w = {0}, out = {0};
        struct cred c = make(&w, &rows[i].s), gone;
        ck_assert_int_eq(cred_is_removed(&c), rows[i].removed);
        cred_write_removed(&out, &c);
        ck_assert_uint_eq(out.len, w.len);
        ck_assert(cred_parse(writer_data(&out), &gone));
        ck_assert(cred_is_removed(&gone));
        ck_assert(!cred_is_config(&gone));
        ck_assert_uint_eq(gone.authtime, UINT32_MAX);
        ck_assert_uint_eq(gone.endtime, 0);
        ck_assert(data_equal(gone.ticket, c.ticket));
        writer_free(&out);
        writer_free(&w);
    }
}
END_TEST

START_TEST(config)
{
    struct writer client = {0}, w = {0};
    struct cred c;
    sample_principal(&client, "alice@EX.ORG");
    cred_write_config(&w, writer_data(&client), TEXT("pa_type"),
                      TEXT("krbtgt/EX.ORG@EX.ORG"), TEXT("2"));
    ck_assert(cred_parse(writer_data(&w), &c));
    ck_assert(cred_is_config(&c));
    ck_assert(!cred_is_removed(&c));
    ck_assert(data_equal(cred_config_key(&c), TEXT("pa_type")));
    ck_assert(
        data_equal(cred_config_principal(&c), TEXT("krbtgt/EX.ORG@EX.ORG")));
    ck_assert(data_equal(c.ticket, TEXT("2")));
    writer_reset(&w);
    cred_write_config(&w, writer_data(&client), TEXT("k"), TEXT(""), TEXT(""));
    ck_assert(cred_parse(writer_data(&w), &c));
    ck_assert(cred_is_config(&c));
    ck_assert_uint_eq(cred_config_principal(&c).len, 0);
    writer_reset(&w);
    c = make(&w, &(struct sample){.server = "other/k@X-CACHECONF:"});
    ck_assert(!cred_is_config(&c));
    writer_free(&w);
    writer_free(&client);
}
END_TEST

/* libkrb5 stores a config entry in a MEMORY cache: ours has its bytes. */
START_TEST(config_as_libkrb5)
{
    krb5_context k;
    krb5_ccache cc;
    krb5_principal alice;
    krb5_cc_cursor cursor;
    krb5_creds creds;
    krb5_data value = {.data = (char *)"yes", .length = 3}, *bytes;
    struct writer client = {0}, w = {0};
    ck_assert_int_eq(krb5_init_context(&k), 0);
    ck_assert_int_eq(krb5_parse_name(k, "alice@EX.ORG", &alice), 0);
    ck_assert_int_eq(krb5_cc_new_unique(k, "MEMORY", NULL, &cc), 0);
    ck_assert_int_eq(krb5_cc_initialize(k, cc, alice), 0);
    ck_assert_int_eq(krb5_cc_set_config(k, cc, alice, "key", &value), 0);
    ck_assert_int_eq(krb5_cc_start_seq_get(k, cc, &cursor), 0);
    ck_assert_int_eq(krb5_cc_next_cred(k, cc, &cursor, &creds), 0);
    ck_assert_int_eq(krb5_marshal_credentials(k, &creds, &bytes), 0);
    sample_principal(&client, "alice@EX.ORG");
    cred_write_config(&w, writer_data(&client), TEXT("key"),
                      TEXT("alice@EX.ORG"), TEXT("yes"));
    struct cred theirs, ours;
    struct data d = {(const uint8_t *)bytes->data, bytes->length};
    ck_assert(cred_parse(d, &theirs));
    ck_assert(cred_parse(writer_data(&w), &ours));
    ck_assert(cred_same_purpose(&theirs, &ours));
    ck_assert(data_equal(theirs.ticket, ours.ticket));
    ck_assert_uint_eq(d.len, w.len);
    krb5_free_data(k, bytes);
    krb5_free_cred_contents(k, &creds);
    krb5_cc_end_seq_get(k, cc, &cursor);
    krb5_cc_destroy(k, cc);
    krb5_free_principal(k, alice);
    krb5_free_context(k);
    writer_free(&w);
    writer_free(&client);
}
END_TEST

/* Ours, read and written again by libkrb5, is the same bytes. */
START_TEST(round_trip_by_libkrb5)
{
    static const struct sample samples[] = {
        {0},
        {.enctype = 18,
         .authtime = 1,
         .starttime = 2,
         .endtime = 3,
         .renew_till = 4,
         .is_skey = 1,
         .flags = 0xffffffff},
        {.address = "\x7f\1\1\1", .authdata = "data", .second = "second"},
        {.server = "krbtgt/EX.COM@EX.ORG", .endtime = 0xfffffff0},
        {.server = "a/b/c/d@", .client = "x@Y"},
    };
    krb5_context k;
    krb5_creds *creds;
    krb5_data *back;
    struct writer w = {0};
    sample_cred(&w, &samples[_i]);
    krb5_data in = {.data = (char *)w.p, .length = (unsigned)w.len};
    ck_assert_int_eq(krb5_init_context(&k), 0);
    ck_assert_int_eq(krb5_unmarshal_credentials(k, &in, &creds), 0);
    ck_assert_int_eq(krb5_marshal_credentials(k, creds, &back), 0);
    ck_assert_uint_eq(back->length, w.len);
    ck_assert_mem_eq(back->data, w.p, w.len);
    struct cred c;
    ck_assert(cred_parse(writer_data(&w), &c));
    ck_assert_uint_eq(c.endtime, (uint32_t)creds->times.endtime);
    ck_assert_uint_eq(c.flags, (uint32_t)creds->ticket_flags);
    ck_assert_uint_eq(c.ticket.len, creds->ticket.length);
    ck_assert_uint_eq(c.second_ticket.len, creds->second_ticket.length);
    krb5_free_data(k, back);
    krb5_free_creds(k, creds);
    krb5_free_context(k);
    writer_free(&w);
}
END_TEST

/* What libkrb5 refuses, cut short, is refused here too. */
START_TEST(truncated_as_libkrb5)
{
    krb5_context k;
    struct writer w = {0};
    sample_hex(&w, V4);
    ck_assert_int_eq(krb5_init_context(&k), 0);
    for (size_t n = 0; n <= w.len; n++) {
        krb5_data in = {.data = (char *)w.p, .length = (unsigned)n};
        krb5_creds *creds = NULL;
        struct cred c;
        bool theirs = krb5_unmarshal_credentials(k, &in, &creds) == 0;
        ck_assert_int_eq(theirs, cred_parse((struct data){w.p, n}, &c));
        if (theirs)
            krb5_free_creds(k, creds);
    }
    krb5_free_context(k);
    writer_free(&w);
}
END_TEST

int
main(void)
{
    Suite *s = suite_create("cred");
    TCase *t = tcase_create("cred");
    tcase_add_test(t, golden_view);
    tcase_add_loop_test(t, converts, 0, FORMS);
    tcase_add_loop_test(t, truncated, 0, FORMS);
    tcase_add_loop_test(t, lying, 0, FORMS);
    tcase_add_test(t, trailing);
    tcase_add_test(t, v1_without_realm);
    tcase_add_test(t, purpose);
    tcase_add_test(t, local_tgt);
    tcase_add_test(t, starts);
    tcase_add_test(t, removed_marks);
    tcase_add_test(t, config);
    tcase_add_test(t, config_as_libkrb5);
    tcase_add_loop_test(t, round_trip_by_libkrb5, 0, 5);
    tcase_add_test(t, truncated_as_libkrb5);
    suite_add_tcase(s, t);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
