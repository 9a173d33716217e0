/*
 * What RETRIEVE and REMOVE_CRED mean: kcm/match.c.
 */
#include "tags.h"

/* One credential, the fields that a tag may ask for, and the answer. */
static const struct match_row {
    const char *what;
    uint32_t flags, present;
    struct sample want;
    bool found;
} match_rows[] = {
    {"client and server", 0, CS, {0}, true},
    {"server alone", 0, KCM_MCRED_SERVER, {0}, true},
    {"client alone", 0, KCM_MCRED_CLIENT, {0}, true},
    {"nothing", 0, 0, {0}, true},
    {"other client", 0, CS, {.client = "bob@EX.ORG"}, false},
    {"other server", 0, CS, {.server = "host/b@EX.ORG"}, false},
    {"other server alone", 0, KCM_MCRED_SERVER, {.server = "h@EX.ORG"}, false},
    {"fewer components", 0, CS, {.server = "host@EX.ORG"}, false},
    {"server's realm", 0, CS, {.server = "host/a@EX.COM"}, false},
    {"any server realm",
     KCM_TC_MATCH_SRV_NAMEONLY,
     CS,
     {.server = "host/a@EX.COM"},
     true},
    {"any server realm, client's",
     KCM_TC_MATCH_SRV_NAMEONLY,
     CS,
     {.client = "alice@EX.COM"},
     false},
    {"any realm",
     KCM_TC_DONT_MATCH_REALM,
     CS,
     {.client = "alice@X", .server = "host/a@Y"},
     true},
    {"any realm, other name",
     KCM_TC_DONT_MATCH_REALM,
     CS,
     {.server = "host/b@Y"},
     false},
    {"times unasked", 0, CS, {.endtime = 999}, true},
    {"times reached",
     KCM_TC_MATCH_TIMES,
     CS,
     {.endtime = 300, .renew_till = 400},
     true},
    {"times 0", KCM_TC_MATCH_TIMES, CS, {0}, true},
    {"end too late", KCM_TC_MATCH_TIMES, CS, {.endtime = 301}, false},
    {"renewal too late", KCM_TC_MATCH_TIMES, CS, {.renew_till = 401}, false},
    {"exact times",
     KCM_TC_MATCH_TIMES_EXACT,
     CS,
     {.authtime = 100, .starttime = 200, .endtime = 300, .renew_till = 400},
     true},
    {"exact but authtime",
     KCM_TC_MATCH_TIMES_EXACT,
     CS,
     {.starttime = 200, .endtime = 300, .renew_till = 400},
     false},
    {"exact but start",
     KCM_TC_MATCH_TIMES_EXACT,
     CS,
     {.authtime = 100, .endtime = 300, .renew_till = 400},
     false},
    {"exact but end",
     KCM_TC_MATCH_TIMES_EXACT,
     CS,
     {.authtime = 100, .starttime = 200, .renew_till = 400},
     false},
    {"exact but renewal",
     KCM_TC_MATCH_TIMES_EXACT,
     CS,
     {.authtime = 100, .starttime = 200, .endtime = 300},
     false},
    {"key type",
     KCM_TC_MATCH_KEYTYPE,
     CS | KCM_MCRED_SESSION_KEY,
     {.enctype = 18},
     true},
    {"other key type",
     KCM_TC_MATCH_KEYTYPE,
     CS | KCM_MCRED_SESSION_KEY,
     {.enctype = 17},
     false},
    {"key type without one", KCM_TC_MATCH_KEYTYPE, CS, {0}, false},
    {"key type unasked", 0, CS | KCM_MCRED_SESSION_KEY, {.enctype = 17}, true},
    {"flags", KCM_TC_MATCH_FLAGS, CS, {.flags = 0x40000000}, true},
    {"flags missing", KCM_TC_MATCH_FLAGS, CS, {.flags = 0x20000000}, false},
    {"exact flags", KCM_TC_MATCH_FLAGS_EXACT, CS, {.flags = 0x40800000}, true},
    {"not the exact flags",
     KCM_TC_MATCH_FLAGS_EXACT,
     CS,
     {.flags = 0x40000000},
     false},
    {"authdata",
     KCM_TC_MATCH_AUTHDATA,
     CS | KCM_MCRED_AUTHDATA,
     {.authdata = "ad"},
     true},
    {"other authdata",
     KCM_TC_MATCH_AUTHDATA,
     CS | KCM_MCRED_AUTHDATA,
     {.authdata = "da"},
     false},
    {"no authdata", KCM_TC_MATCH_AUTHDATA, CS, {0}, false},
    {"second ticket",
     KCM_TC_MATCH_2ND_TKT,
     CS | KCM_MCRED_SECOND,
     {.second = "second"},
     true},
    {"other second ticket",
     KCM_TC_MATCH_2ND_TKT,
     CS | KCM_MCRED_SECOND,
     {.second = "third"},
     false},
    {"no second ticket", KCM_TC_MATCH_2ND_TKT, CS, {0}, false},
    {"is_skey",
     KCM_TC_MATCH_IS_SKEY,
     CS | KCM_MCRED_SECOND,
     {.second = "any"},
     true},
    {"no is_skey", KCM_TC_MATCH_IS_SKEY, CS, {.is_skey = 1}, false},
    {"address and ticket never count",
     0,
     CS | KCM_MCRED_ADDRESSES | KCM_MCRED_TICKET,
     {.address = "no", .ticket = "no"},
     true},
};
#define MATCH_ROWS ((int)(sizeof(match_rows) / sizeof(match_rows[0])))

START_TEST(match_flags)
{
    static const struct sample held = {.enctype = 18,
                                       .authtime = 100,
                                       .starttime = 200,
                                       .endtime = 300,
                                       .renew_till = 400,
                                       .flags = 0x40800000,
                                       .authdata = "ad",
                                       .second = "second"};
    const struct match_row *row = &match_rows[_i];
    struct writer w = {0}, one = {0};
    struct cred c;
    sample_cred(&one, &held);
    ck_assert(cred_parse(writer_data(&one), &c));
    struct match m = tag(&w, row->flags, row->present, &row->want);
    ck_assert_msg(match_cred(&m, &c) == row->found, "%s", row->what);
    writer_free(&one);
    writer_free(&w);
}
END_TEST

START_TEST(truncated)
{
    const struct sample s = {
        .address = "a", .authdata = "d", .ticket = "t", .second = "s"};
    struct writer w = {0};
    struct reader r;
    struct match m = tag(&w, 0, 0x7f, &s);
    ck_assert(data_equal(m.want.ticket, TEXT("t")));
    for (size_t n = 0; n < w.len; n++) {
        reader_init(&r, w.p, n);
        match_read(&r, &m);
        ck_assert(r.bad);
    }
    writer_free(&w);
}
END_TEST

/* The mark of an empty second ticket that Heimdal sends without a flag. */
START_TEST(match_unmarked_second)
{
    struct writer w = {0};
    struct match m = tag(&w, 0, CS, &(struct sample){0});
    struct reader r;
    write_u32(&w, 0);
    reader_init(&r, w.p, w.len);
    match_read(&r, &m);
    ck_assert(reader_done(&r));
    ck_assert_uint_eq(m.want.second_ticket.len, 0);
    writer_free(&w);
}
END_TEST

int
main(void)
{
    Suite *s = suite_create("match");
    TCase *t = tcase_create("match");
    tcase_add_loop_test(t, match_flags, 0, MATCH_ROWS);
    tcase_add_test(t, truncated);
    tcase_add_test(t, match_unmarked_second);
    suite_add_tcase(s, t);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
