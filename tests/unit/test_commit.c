/*
 * Changes, on daemons of several kinds, with every request of each change
 * going wrong in turn: kcm/commit.c, recover.c.  A cache holds what it held
 * before or what it was to hold, and nothing else ever.
 */
#include "changes.h"

#define HASTY_MS 80

static const struct {
    enum manner manner;
    int32_t arg;
} faults[] = {
    {BEFORE, 0},
    {AFTER, 0},
    {CUT, 5},
    {LENGTH, -1},
    {OUTER, KCM_CODE_FCC_INTERNAL},
    {BOTH, KCM_CODE_FCC_PERM},
    {SILENT, 0},
};
#define FAULTS ((int)(sizeof(faults) / sizeof(faults[0])))

/* One change on one kind of daemon, each request of it once by each fault. */
START_TEST(all_goes_wrong_once)
{
    const struct change *change = &changes[_i % CHANGES];
    struct writer before = {0}, after = {0}, now = {0};
    const enum kind kind = (enum kind)(_i / CHANGES);
    start(kind);
    reset();
    dump(&before);
    int honest = run(change);
    dump(&after);
    bool same = data_equal(writer_data(&before), writer_data(&after));
    ck_assert(same == (honest != 0));
    /* An operation that is not there does not fail in other ways. */
    for (int f = 0; f < FAULTS && honest == 0; f++) {
        for (unsigned nth = 1, hits = 1; hits > 0; nth++) {
            ck_assert_uint_lt(nth, 100);
            kcm_free(kcm);
            be(kind);
            start_kcm();
            reset();
            struct kcm_snapshot *old = fetch(name_a);
            peer_rule_set(&peer, 0,
                          RULE(ANY, nth, faults[f].manner, faults[f].arg));
            kcm_start(kcm, &caller);
            if (faults[f].manner == SILENT)
                caller.deadline = now_ms() + HASTY_MS;
            int r = change->run(old);
            hits = peer.rules[0].hits;
            be(kind);
            kcm_snapshot_unref(old);
            kcm_snapshot_unref(fetch(name_a));
            /* After nonsense there is nothing to be read. */
            if (faults[f].manner == LENGTH)
                peer.unread = 0;
            dump(&now);
            bool is_old = data_equal(writer_data(&now), writer_data(&before));
            bool is_new = data_equal(writer_data(&now), writer_data(&after));
            ck_assert_msg(is_new || r != 0, "fault %d at %u: done, but is not",
                          f, nth);
            ck_assert_msg(is_old || is_new || (change->steps && r != 0),
                          "fault %d at %u: neither old nor new (%d)", f, nth,
                          r);
            check_tidy();
        }
    }
    writer_free(&before);
    writer_free(&after);
    writer_free(&now);
    finish();
}
END_TEST

/* --- what is given up is put right later --------------------------------- */

/* The daemon dies at the nth request of a replacement and comes back. */
START_TEST(dies_and_comes_back)
{
    struct writer before = {0}, after = {0}, now = {0};
    start(SSSD);
    reset();
    dump(&before);
    ck_assert_int_eq(run(&changes[4]), 0);
    dump(&after);
    for (unsigned nth = 1; nth < 20; nth++) {
        kcm_free(kcm);
        be(SSSD);
        start_kcm();
        reset();
        struct kcm_snapshot *old = fetch(name_a);
        struct rule rule = RULE(ANY, nth, AFTER, 0);
        rule.always = true;
        peer_rule_set(&peer, 0, rule);
        kcm_start(kcm, &caller);
        int r = changes[4].run(old);
        bool died = peer.rules[0].hits > 0;
        kcm_snapshot_unref(old);
        be(SSSD);
        kcm_snapshot_unref(fetch(name_a));
        dump(&now);
        if (died)
            ck_assert_int_ne(r, 0);
        ck_assert(data_equal(writer_data(&now), writer_data(&before)) ||
                  data_equal(writer_data(&now), writer_data(&after)));
        check_tidy();
    }
    writer_free(&before);
    writer_free(&after);
    writer_free(&now);
    finish();
}
END_TEST

START_TEST(too_large)
{
    struct writer w = {0};
    char *ticket = malloc(140000);
    start((enum kind)_i);
    reset();
    memset(ticket, 'x', 139999);
    ticket[139999] = '\0';
    sample_cred(&w, &(struct sample){.ticket = ticket});
    struct data d = writer_data(&w);
    kcm_start(kcm, &caller);
    size_t stored;
    int r = kcm_store(kcm, &caller, name_a, &d, 1, &stored);
    ck_assert_int_eq(r, _i == HEIMDAL ? -EFBIG : 0);
    ck_assert_uint_eq(stored, r == 0);
    free(ticket);
    writer_free(&w);
    finish();
}
END_TEST

/* Three at once, of which the daemon refuses the second for its quota: the
 * third, for which there would be room, is not there without it. */
enum refused {
    STORED,         /* kcm_store(): the first is there */
    EDITED,         /* kcm_edit() that only adds: none is */
    EDITED_AND_CUT, /* one that also removes: none is */
    REFUSALS
};

START_TEST(second_is_refused)
{
    static const bool none[5], third[5] = {false, false, true};
    enum refused what = (enum refused)(_i % REFUSALS);
    struct writer w[3] = {{0}}, before = {0}, now = {0};
    struct data d[3];
    char ticket[20000];
    size_t stored = 0;
    start_with((enum kind)(_i / REFUSALS), 20000);
    reset();
    memset(ticket, 'x', sizeof(ticket) - 1);
    ticket[sizeof(ticket) - 1] = '\0';
    for (unsigned i = 0; i < 3; i++) {
        sample_cred(&w[i], &(struct sample){.flags = 40 + i,
                                            .ticket = i == 1 ? ticket : NULL});
        d[i] = writer_data(&w[i]);
    }
    struct kcm_snapshot *old = fetch(name_a);
    dump(&before);
    kcm_start(kcm, &caller);
    int r = what == STORED ? kcm_store(kcm, &caller, name_a, d, 3, &stored)
                           : kcm_edit(kcm, &caller, name_a, old,
                                      what == EDITED ? none : third, d, 3);
    ck_assert_int_gt(r, 0);
    if (what == STORED) {
        ck_assert_uint_eq(stored, 1);
        model(KCM_OP_STORE, name_a, &w[0], NULL); /* no second time */
        kcm_snapshot_unref(old);
        old = fetch(name_a);
        ck_assert_uint_eq(old->count, 6);
        for (size_t i = 0; i < old->count; i++)
            ck_assert(!data_equal((struct data){old->creds[i].bytes->bytes,
                                                old->creds[i].bytes->len},
                                  d[2]));
    } else {
        dump(&now);
        ck_assert(data_equal(writer_data(&now), writer_data(&before)));
    }
    kcm_snapshot_unref(old);
    for (unsigned i = 0; i < 3; i++)
        writer_free(&w[i]);
    writer_free(&before);
    writer_free(&now);
    finish();
}
END_TEST

START_TEST(destroy_busy)
{
    start(MIT);
    reset();
    struct rule rule = RULE(KCM_OP_DESTROY, 1, INNER, EAGAIN);
    rule.always = _i == 1;
    peer_rule_set(&peer, 0, rule);
    kcm_start(kcm, &caller);
    int r = kcm_destroy(kcm, &caller, name_a, NULL);
    ck_assert_int_eq(r, _i == 1 ? KCM_BUSY : 0);
    finish();
}
END_TEST

int
main(void)
{
    Suite *s = suite_create("commit");
    TCase *t = tcase_create("commit");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, all_goes_wrong_once, 0, CHANGES * KINDS);
    tcase_add_test(t, dies_and_comes_back);
    tcase_add_loop_test(t, too_large, 0, KINDS);
    tcase_add_loop_test(t, second_is_refused, 0, REFUSALS * KINDS);
    tcase_add_loop_test(t, destroy_busy, 0, 2);
    suite_add_tcase(s, t);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
