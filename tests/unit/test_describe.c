/*
 * Caches as text: kcm/describe*.c.
 */
#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "../../kcm/describe.h"
#include "samples.h"

/* 2026-01-02 03:04:05 UTC */
#define NOW 1767323045

/* A ticket for krbtgt/EX.ORG@EX.ORG, etype 18, kvno 2, cipher SECRETBYTES!;
 * no byte of it is 0. */
#define TICKET                                                                \
    "614c304aa003020105a1081b0645582e4f5247a21b3019a003020102a11230101b06"    \
    "6b72627467741b0645582e4f5247a31c301aa003020112a103020102a20e040c5345"    \
    "4352455442595445 5321"

static char ticket[128];

static void
setup(void)
{
    setenv("TZ", "UTC", 1);
    struct writer w = {0};
    sample_hex(&w, TICKET);
    ck_assert_uint_lt(w.len, sizeof(ticket));
    memcpy(ticket, w.p, w.len);
    writer_free(&w);
}

/* --- principals ---------------------------------------------------------- */

static const struct {
    const char *hex; /* NULL: of text, by sample_principal() */
    const char *text;
    int result;
} principals[] = {
    {NULL, "alice@EX.ORG", 0},
    {NULL, "host/a.ex.org@EX.ORG", 0},
    {"00000001 00000001 00000002 4558 00000003 612f62", "a\\/b@EX", 0},
    {"00000001 00000001 00000002 4558 00000003 614062", "a\\@b@EX", 0},
    {"00000001 00000001 00000002 4558 00000003 615c62", "a\\\\b@EX", 0},
    {"00000001 00000001 00000002 4558 00000003 610062", "a\\0b@EX", 0},
    {"00000001 00000001 00000002 4558 00000003 610a09", "a\\n\\t@EX", 0},
    {"00000001 00000002 00000002 4558 00000000 00000001 62", "/b@EX", 0},
    {"00000001 00000001 00000002 4558 00000002 c3a9", "\xc3\xa9@EX", 0},
    {"00000001 00000001 00000002 4558 00000001 ff", "\xff@EX", 0},
    {"00000001 00000001 00000000 00000001 61", "a@", 0},
    {"00000001 00000000 00000002 4558", "@EX", 0},
    {"00000001 00000001 00000002 4558 00000001 61 00", NULL, -EINVAL},
    {"00000001 00000002 00000002 4558 00000001 61", NULL, -EINVAL},
    {"00000001 ffffffff 00000002 4558 00000001 61", NULL, -EINVAL},
    {"00000001 00000001 00000002 4558 ffffffff 61", NULL, -EINVAL},
    {"", NULL, -EINVAL},
};
#define PRINCIPALS ((int)(sizeof(principals) / sizeof(principals[0])))

static void
write_case(struct writer *w, int i)
{
    if (principals[i].hex == NULL)
        sample_principal(w, principals[i].text);
    else
        sample_hex(w, principals[i].hex);
}

START_TEST(principal_text)
{
    _cleanup_(writer_free) struct writer w = {0};
    _cleanup_(freep) char *text = (char *)1;
    write_case(&w, _i);
    int r = describe_principal(writer_data(&w), &text);
    ck_assert_int_eq(r, principals[_i].result);
    if (r != 0)
        ck_assert_ptr_null(text);
    else
        ck_assert_str_eq(text, principals[_i].text);
}
END_TEST

/* What describe_principal() writes, describe_parse_principal() reads. */
START_TEST(principal_and_back)
{
    _cleanup_(writer_free) struct writer w = {0}, back = {0};
    write_case(&w, _i);
    if (principals[_i].result != 0)
        return;
    ck_assert_int_eq(describe_parse_principal(principals[_i].text, &back), 0);
    struct principal a, b;
    ck_assert(principal_parse(writer_data(&w), &a));
    ck_assert(principal_parse(writer_data(&back), &b));
    /* libkrb5 reads "@EX" as one empty component. */
    if (a.count > 0)
        ck_assert(principal_equal(&a, &b));
}
END_TEST

START_TEST(no_principal_text)
{
    static const char *const texts[] = {"alice", "", "a@b@c", "a\\", "a@EX\\"};
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        _cleanup_(writer_free) struct writer w = {0};
        ck_assert_int_eq(describe_parse_principal(texts[i], &w), -EINVAL);
        ck_assert_uint_eq(w.len, 0);
    }
}
END_TEST

/* More components than any name has. */
START_TEST(principal_too_long)
{
    _cleanup_(writer_free) struct writer w = {0};
    char *text;
    write_u32(&w, 1);
    write_u32(&w, 100000);
    write_data32(&w, TEXT("EX"));
    for (int i = 0; i < 100000; i++)
        write_u32(&w, 0);
    ck_assert_int_eq(describe_principal(writer_data(&w), &text), -EINVAL);
    ck_assert_ptr_null(text);
}
END_TEST

/* --- encryption types ------------------------------------------------------
 */

START_TEST(enctypes)
{
    char name[64], little[4];
    describe_enctype(18, name, sizeof(name));
    ck_assert_str_eq(name, "aes256-cts-hmac-sha1-96");
    describe_enctype(9999, name, sizeof(name));
    ck_assert_str_eq(name, "etype 9999");
    describe_enctype(-128, name, sizeof(name));
    ck_assert_str_eq(name, "etype -128");
    describe_enctype(18, little, sizeof(little));
    ck_assert_uint_lt(strlen(little), sizeof(little));
    int32_t enctype;
    ck_assert(describe_ticket_enctype(TEXT(ticket), &enctype));
    ck_assert_int_eq(enctype, 18);
}
END_TEST

START_TEST(truncated_ticket)
{
    for (size_t len = 0; len < strlen(ticket); len++) {
        uint8_t *exact = malloc(len + 1);
        memcpy(exact, ticket, len);
        int32_t enctype = 1;
        ck_assert(
            !describe_ticket_enctype((struct data){exact, len}, &enctype));
        ck_assert_int_eq(enctype, 0);
        free(exact);
    }
}
END_TEST

/* --- a whole cache ---------------------------------------------------------
 */

#define ENTRIES 7

struct sample_cache {
    struct writer principal, creds[ENTRIES];
    struct data data[ENTRIES];
    bool superseded[ENTRIES];
    struct describe_cache cache;
};

static void
add(struct sample_cache *s, const struct sample *sample)
{
    struct writer *w = &s->creds[s->cache.count];
    sample_cred(w, sample);
    s->data[s->cache.count++] = writer_data(w);
}

static void
add_config(struct sample_cache *s, const char *key, const char *principal,
           const char *value)
{
    struct writer *w = &s->creds[s->cache.count];
    cred_write_config(w, writer_data(&s->principal), TEXT(key),
                      TEXT(principal), TEXT(value));
    s->data[s->cache.count++] = writer_data(w);
}

static void
make_cache(struct sample_cache *s)
{
    memset(s, 0, sizeof(*s));
    sample_principal(&s->principal, "alice@EX.ORG");
    s->cache = (struct describe_cache){
        .name = "1000:5",
        .is_default = true,
        .kdc_offset = 5,
        .principal = writer_data(&s->principal),
        .creds = s->data,
        .superseded = s->superseded,
        .now = NOW,
        .file_size = 1234,
    };
    for (uint8_t i = 0; i < 16; i++)
        s->cache.uuid[i] = (uint8_t)(i * 17);
    add(s, &(struct sample){.server = "krbtgt/EX.ORG@EX.ORG",
                            .enctype = 18,
                            .authtime = NOW - 60,
                            .endtime = NOW + 36005,
                            .renew_till = NOW + 90 * 86400 + 5,
                            .flags = 0x40e10000,
                            .ticket = ticket});
    add(s, &(struct sample){.client = "bob\x1b[1m@EX.ORG",
                            .server = "HTTP/a\xff.ex.org@EX.ORG",
                            .enctype = 17,
                            .authtime = NOW - 7200,
                            .starttime = NOW - 7100,
                            .endtime = NOW - 3600,
                            .is_skey = 1,
                            .ticket = "no ASN.1"});
    s->superseded[1] = true;
    add_config(s, "fast_avail", "krbtgt/EX.ORG@EX.ORG", "yes");
    add_config(s, "proxy \"x\"", "", "a\\b\xc3\xa9");
    add_config(s, "kx509key", "", "SECRETBYTES!");
    add_config(s, "binary", "", "a\x01");
    s->data[s->cache.count++] = TEXT("garbage");
}

static void
free_cache(struct sample_cache *s)
{
    writer_free(&s->principal);
    for (int i = 0; i < ENTRIES; i++)
        writer_free(&s->creds[i]);
}

static const char info_golden[] =
    "Cache:       KCM:1000:5 (the default)\n"
    "UUID:        00112233-4455-6677-8899-aabbccddeeff\n"
    "Principal:   alice@EX.ORG\n"
    "State:       10 hours left\n"
    "KDC offset:  5 seconds (+5 s): the KDC's clock is ahead\n"
    "Size:        1234 bytes, 2 tickets, 4 configuration entries\n"
    "Unreadable:  1 (no credentials)\n"
    "\n"
    "Ticket:      krbtgt/EX.ORG@EX.ORG\n"
    "  Valid:     2026-01-02 03:03:05 UTC to 2026-01-02 13:04:10 UTC\n"
    "             10 hours left\n"
    "  Renewable: until 2026-04-02 03:04:10 UTC, 90 days left\n"
    "  Flags:     FRIA (forwardable, renewable, initial, pre-authent, "
    "enc-pa-rep)\n"
    "  Enctypes:  session key aes256-cts-hmac-sha1-96, ticket "
    "aes256-cts-hmac-sha1-96\n"
    "  Size:      %zu bytes, of which the ticket 78\n"
    "\n"
    "Ticket:      HTTP/a\\xff.ex.org@EX.ORG  [expired]  [superseded by a "
    "newer one]\n"
    "  Client:    bob\\x1b[1m@EX.ORG\n"
    "  Valid:     2026-01-02 01:05:45 UTC to 2026-01-02 02:04:05 UTC\n"
    "             EXPIRED 1 hour ago\n"
    "  Flags:     none\n"
    "  Enctypes:  session key aes128-cts-hmac-sha1-96, ticket unreadable\n"
    "  Size:      %zu bytes, of which the ticket 8; for user-to-user "
    "authentication\n"
    "\n"
    "Configuration:\n"
    "  fast_avail (krbtgt/EX.ORG@EX.ORG): yes\n"
    "  proxy \"x\": a\\b\xc3\xa9\n"
    "  kx509key: (12 bytes, not shown)\n"
    "  binary: (2 bytes, not shown)\n"
    "\n";

START_TEST(info_text)
{
    struct sample_cache s;
    make_cache(&s);
    char *text, *golden;
    ck_assert_int_gt(
        asprintf(&golden, info_golden, s.data[0].len, s.data[1].len), 0);
    ck_assert_int_eq(describe_info(&s.cache, &text), 0);
    ck_assert_str_eq(text, golden);
    free(text);
    free(golden);
    free_cache(&s);
}
END_TEST

static const char json_golden[] =
    "{\n"
    "  \"version\": 1,\n"
    "  \"name\": \"KCM:1000:5\",\n"
    "  \"uuid\": \"00112233-4455-6677-8899-aabbccddeeff\",\n"
    "  \"default\": true,\n"
    "  \"principal\": \"alice@EX.ORG\",\n"
    "  \"kdc_offset\": 5,\n"
    "  \"size\": 1234,\n"
    "  \"time\": 1767323045,\n"
    "  \"expires\": 1767359050,\n"
    "  \"expired\": false,\n"
    "  \"tickets\": [\n"
    "    {\"server\": \"krbtgt/EX.ORG@EX.ORG\", \"client\": "
    "\"alice@EX.ORG\", \"authtime\": 1767322985, \"starttime\": null, "
    "\"endtime\": 1767359050, \"renew_till\": 1775099050, "
    "\"remaining\": 36000, \"expired\": false, \"superseded\": false, "
    "\"user_to_user\": false, \"flags\": \"FRIA\", \"flag_names\": "
    "[\"forwardable\", \"renewable\", \"initial\", \"pre-authent\", "
    "\"enc-pa-rep\"], \"flags_value\": 1088487424, "
    "\"session_enctype\": {\"number\": 18, \"name\": "
    "\"aes256-cts-hmac-sha1-96\"}, "
    "\"ticket_enctype\": {\"number\": 18, \"name\": "
    "\"aes256-cts-hmac-sha1-96\"}, "
    "\"ticket_size\": 78, \"size\": %zu},\n"
    "    {\"server\": \"HTTP/a\\ufffd.ex.org@EX.ORG\", \"client\": "
    "\"bob\\u001b[1m@EX.ORG\", \"authtime\": 1767315845, "
    "\"starttime\": 1767315945, \"endtime\": 1767319445, "
    "\"renew_till\": null, \"remaining\": 0, \"expired\": true, "
    "\"superseded\": true, \"user_to_user\": true, \"flags\": \"\", "
    "\"flag_names\": [], \"flags_value\": 0, "
    "\"session_enctype\": {\"number\": 17, \"name\": "
    "\"aes128-cts-hmac-sha1-96\"}, \"ticket_enctype\": null, "
    "\"ticket_size\": 8, \"size\": %zu}],\n"
    "  \"config\": [\n"
    "    {\"key\": \"fast_avail\", \"principal\": "
    "\"krbtgt/EX.ORG@EX.ORG\", \"value\": \"yes\", \"size\": 3, "
    "\"superseded\": false},\n"
    "    {\"key\": \"proxy \\\"x\\\"\", \"principal\": null, \"value\": "
    "\"a\\\\b\xc3\xa9\", \"size\": 5, \"superseded\": false},\n"
    "    {\"key\": \"kx509key\", \"principal\": null, \"value\": null, "
    "\"size\": 12, \"superseded\": false},\n"
    "    {\"key\": \"binary\", \"principal\": null, \"value\": null, "
    "\"size\": 2, \"superseded\": false}],\n"
    "  \"unreadable\": 1\n"
    "}\n";

START_TEST(json_text)
{
    struct sample_cache s;
    make_cache(&s);
    char *text, *golden;
    ck_assert_int_gt(
        asprintf(&golden, json_golden, s.data[0].len, s.data[1].len), 0);
    ck_assert_int_eq(describe_json(&s.cache, &text), 0);
    ck_assert_str_eq(text, golden);
    free(text);
    free(golden);
    free_cache(&s);
}
END_TEST

/* Neither keys (0123456789abcdef in samples.h) nor tickets. */
START_TEST(nothing_secret)
{
    struct sample_cache s;
    make_cache(&s);
    for (int json = 0; json < 2; json++) {
        char *text;
        int r = json ? describe_json(&s.cache, &text)
                     : describe_info(&s.cache, &text);
        ck_assert_int_eq(r, 0);
        ck_assert_ptr_null(strstr(text, "0123456789"));
        ck_assert_ptr_null(strstr(text, "SECRET"));
        ck_assert_ptr_null(strstr(text, "no ASN.1"));
        free(text);
    }
    free_cache(&s);
}
END_TEST

START_TEST(empty)
{
    struct describe_cache cache = {.name = "1000", .now = NOW};
    char *text;
    ck_assert_int_eq(describe_info(&cache, &text), 0);
    ck_assert_str_eq(text,
                     "Cache:       KCM:1000\n"
                     "UUID:        00000000-0000-0000-0000-000000000000\n"
                     "Principal:   (unreadable)\n"
                     "State:       no ticket-granting ticket of its realm\n"
                     "Size:        0 bytes, 0 tickets, 0 configuration "
                     "entries\n"
                     "\n");
    free(text);
    ck_assert_int_eq(describe_json(&cache, &text), 0);
    ck_assert_ptr_nonnull(strstr(text, "\"principal\": null"));
    ck_assert_ptr_nonnull(strstr(text, "\"expires\": null"));
    ck_assert_ptr_nonnull(strstr(text, "\"tickets\": []"));
    free(text);
}
END_TEST

/* Any cut and any flipped byte of an entry gives some text. */
START_TEST(hostile)
{
    struct sample_cache s;
    make_cache(&s);
    size_t len = s.data[0].len;
    uint8_t *bytes = malloc(len);
    for (size_t i = 0; i < 2 * len; i++) {
        memcpy(bytes, s.data[0].p, len);
        if (i < len)
            bytes[i] ^= 0xff;
        struct data d = {bytes, i < len ? len : i - len};
        struct describe_cache cache = s.cache;
        cache.creds = &d;
        cache.superseded = NULL;
        cache.count = 1;
        char *text;
        ck_assert_int_eq(describe_info(&cache, &text), 0);
        free(text);
        ck_assert_int_eq(describe_json(&cache, &text), 0);
        free(text);
    }
    free(bytes);
    free_cache(&s);
}
END_TEST

static const struct {
    int32_t left;
    const char *text;
} durations[] = {
    {1, "1 second left"},
    {59, "59 seconds left"},
    {60, "1 minute left"},
    {61, "1 minute 1 second left"},
    {3599, "59 minutes 59 seconds left"},
    {3600, "1 hour left"},
    {3659, "1 hour left"},
    {3660, "1 hour 1 minute left"},
    {86400, "1 day left"},
    {90000, "1 day 1 hour left"},
    {0, "EXPIRED 0 seconds ago"},
    {-1, "EXPIRED 1 second ago"},
    {-3660, "EXPIRED 1 hour 1 minute ago"},
};

START_TEST(duration)
{
    struct sample_cache s;
    make_cache(&s);
    s.cache.count = 0;
    s.cache.kdc_offset = 0;
    writer_reset(&s.creds[0]);
    add(&s, &(struct sample){.server = "krbtgt/EX.ORG@EX.ORG",
                             .endtime = (uint32_t)(NOW + durations[_i].left)});
    char *text, *line;
    ck_assert_int_eq(describe_info(&s.cache, &text), 0);
    ck_assert_int_gt(
        asprintf(&line, "\nState:       %s\n", durations[_i].text), 0);
    ck_assert_msg(strstr(text, line) != NULL, "not '%s': %s", line + 1, text);
    free(line);
    free(text);
    free_cache(&s);
}
END_TEST

static void *
describe_in_thread(void *arg)
{
    struct sample_cache *s = arg;
    for (int i = 0; i < 50; i++) {
        char *text;
        if (describe_info(&s->cache, &text) != 0)
            return s;
        free(text);
    }
    return NULL;
}

START_TEST(threads)
{
    struct sample_cache s;
    make_cache(&s);
    pthread_t thread[8];
    for (int i = 0; i < 8; i++)
        ck_assert_int_eq(
            pthread_create(&thread[i], NULL, describe_in_thread, &s), 0);
    for (int i = 0; i < 8; i++) {
        void *result;
        pthread_join(thread[i], &result);
        ck_assert_ptr_null(result);
    }
    free_cache(&s);
}
END_TEST

/* A krb5.conf that cannot be read changes nothing. */
START_TEST(without_configuration)
{
    setenv("KRB5_CONFIG", "/dev/null/none", 1);
    _cleanup_(writer_free) struct writer w = {0};
    _cleanup_(freep) char *text = NULL;
    sample_principal(&w, "alice@EX.ORG");
    ck_assert_int_eq(describe_principal(writer_data(&w), &text), 0);
}
END_TEST

int
main(void)
{
    Suite *s = suite_create("describe");
    TCase *t = tcase_create("describe");
    tcase_add_checked_fixture(t, setup, NULL);
    tcase_add_loop_test(t, principal_text, 0, PRINCIPALS);
    tcase_add_loop_test(t, principal_and_back, 0, PRINCIPALS);
    tcase_add_test(t, no_principal_text);
    tcase_add_test(t, principal_too_long);
    tcase_add_test(t, enctypes);
    tcase_add_test(t, truncated_ticket);
    tcase_add_test(t, info_text);
    tcase_add_test(t, json_text);
    tcase_add_test(t, nothing_secret);
    tcase_add_test(t, empty);
    tcase_add_test(t, hostile);
    tcase_add_loop_test(t, duration, 0,
                        sizeof(durations) / sizeof(durations[0]));
    tcase_add_test(t, threads);
    tcase_add_test(t, without_configuration);
    suite_add_tcase(s, t);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
