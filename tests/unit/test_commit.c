/*
 * Changes, on daemons of several kinds, with every request of each change
 * going wrong in turn: kcm/commit.c, recover.c.  A cache holds what it held
 * before or what it was to hold, and nothing else ever.
 */
#define KCM_INTERNAL
#include "../../kcm/kcm.h"

#include "../../kcm/log.h"
#include "peer.h"

#define TIMEOUT_MS 10000
#define HASTY_MS   80
#define MOST       16

static struct peer peer;
static struct kcm *kcm;
static struct caller caller;
static char name_a[32], name_b[32];

/* What daemons lack. */
enum kind {
    MIT,     /* nothing: kcmd */
    HEIMDAL, /* REPLACE and GET_CRED_LIST */
    SSSD,    /* REPLACE, REMOVE_CRED and MOVE_CACHE */
    KINDS
};

static void
be(enum kind kind)
{
    static const unsigned lacks[] = {KCM_OP_REPLACE, KCM_OP_REMOVE_CRED,
                                     KCM_OP_MOVE_CACHE, KCM_OP_NOOP};
    peer_rules_clear(&peer);
    for (int i = 0; kind == SSSD && i < 4; i++) {
        struct rule rule = RULE(lacks[i], 1, OUTER, KCM_CODE_FCC_INTERNAL);
        rule.always = true;
        peer_rule_set(&peer, i + 1, rule);
    }
}

static void
start_kcm(void)
{
    struct kcm_config config = {.socket_path = peer.path,
                                .timeout_ms = TIMEOUT_MS};
    ck_assert_int_eq(kcm_new(&config, &kcm), 0);
}

/* bytes: the quota, 0 for the usual one. */
static void
start_with(enum kind kind, size_t bytes)
{
    struct kcm_server_limits limits = {.no_mit_extensions = kind == HEIMDAL,
                                       .bytes_per_uid = bytes};
    log_open("test", LOG_LEVEL_ERROR, false);
    peer_start(&peer, &limits);
    be(kind);
    snprintf(name_a, sizeof(name_a), "%u:a", geteuid());
    snprintf(name_b, sizeof(name_b), "%u:b", geteuid());
    start_kcm();
    caller = (struct caller){.uid = geteuid(), .gid = getegid()};
    caller.wake = wake_mine();
}

static void
start(enum kind kind)
{
    start_with(kind, 0);
}

static void
finish(void)
{
    kcm_free(kcm);
    peer_stop(&peer);
    await_no_secrets();
}

/* --- the model ----------------------------------------------------------- */

static int32_t
model(unsigned opcode, const char *name, const struct writer *args,
      struct writer *out)
{
    struct writer w = {0}, reply = {0};
    struct reader r;
    write_u16(&w, 0x0200);
    write_u16(&w, (uint16_t)opcode);
    write_string(&w, name);
    if (args != NULL)
        write_data(&w, writer_data(args));
    ck_assert_int_eq(kcm_server_handle(peer.server, geteuid(), getegid(),
                                       writer_data(&w), &reply),
                     0);
    reader_init(&r, reply.p + 8, reply.len - 8);
    int32_t code = (int32_t)read_u32(&r);
    if (out != NULL)
        write_data(out, read_data(&r, reader_left(&r)));
    writer_free(&w);
    writer_free(&reply);
    return code;
}

static void
store(const char *name, unsigned n, const char *ticket)
{
    struct writer w = {0};
    sample_cred(
        &w, &(struct sample){.starttime = n, .flags = n, .ticket = ticket});
    ck_assert_int_eq(model(KCM_OP_STORE, name, &w, NULL), 0);
    writer_free(&w);
}

static void
initialize(const char *name, const char *principal, uint32_t offset)
{
    struct writer w = {0};
    sample_principal(&w, principal);
    ck_assert_int_eq(model(KCM_OP_INITIALIZE, name, &w, NULL), 0);
    writer_reset(&w);
    write_u32(&w, offset);
    ck_assert_int_eq(model(KCM_OP_SET_KDC_OFFSET, name, &w, NULL), 0);
    writer_free(&w);
}

/* Caches a and b before each change. */
static void
reset(void)
{
    initialize(name_a, "alice@EX.ORG", 5);
    for (unsigned n = 1; n <= 4; n++)
        store(name_a, n, NULL);
    /* REMOVE_CRED would take it for the second. */
    store(name_a, 2, "twin");
    initialize(name_b, "bob@EX.ORG", 0);
    store(name_b, 9, NULL);
}

static int
by_bytes(const void *a, const void *b)
{
    return data_compare(*(const struct data *)a, *(const struct data *)b);
}

/* A cache's content, its credentials sorted. */
static void
dump_one(const char *name, struct writer *out)
{
    struct data creds[MOST];
    struct reader r;
    size_t count = 0;
    if (model(KCM_OP_GET_PRINCIPAL, name, NULL, out) != 0)
        return;
    model(KCM_OP_GET_KDC_OFFSET, name, NULL, out);
    struct writer uuids = {0}, cred[MOST] = {{0}};
    model(KCM_OP_GET_CRED_UUID_LIST, name, NULL, &uuids);
    reader_init(&r, uuids.p, uuids.len);
    for (; reader_left(&r) > 0 && count < MOST; count++) {
        struct writer arg = {0};
        write_data(&arg, read_data(&r, KCM_UUID_LEN));
        model(KCM_OP_GET_CRED_BY_UUID, name, &arg, &cred[count]);
        creds[count] = writer_data(&cred[count]);
        writer_free(&arg);
    }
    qsort(creds, count, sizeof(creds[0]), by_bytes);
    for (size_t i = 0; i < count; i++)
        write_data32(out, creds[i]);
    for (size_t i = 0; i < count; i++)
        writer_free(&cred[i]);
    writer_free(&uuids);
}

static void
dump(struct writer *out)
{
    writer_reset(out);
    dump_one(name_a, out);
    write_string(out, "and");
    dump_one(name_b, out);
}

/* --- changes ------------------------------------------------------------- */

static struct kcm_snapshot *
fetch(const char *name)
{
    struct kcm_known known = {0};
    kcm_start(kcm, &caller);
    int r = kcm_fetch(kcm, &caller, name, &known);
    ck_assert_msg(r == 0 || r == KCM_NOT_FOUND, "%d", r);
    return known.snapshot;
}

static int
do_initialize(const struct kcm_snapshot *old)
{
    struct writer w = {0};
    (void)old;
    sample_principal(&w, "carol@EX.ORG");
    int r = kcm_initialize(kcm, &caller, name_a, writer_data(&w), 0, NULL);
    writer_free(&w);
    return r;
}

static int
do_store(const struct kcm_snapshot *old)
{
    struct writer w = {0};
    (void)old;
    sample_cred(&w, &(struct sample){.flags = 20});
    struct data d = writer_data(&w);
    int r = kcm_store(kcm, &caller, name_a, &d, 1, NULL);
    writer_free(&w);
    return r;
}

static int
do_edit(const struct kcm_snapshot *old)
{
    static const bool remove[5] = {false, true, false, true, false};
    struct writer w = {0};
    sample_cred(&w, &(struct sample){.flags = 20});
    struct data d = writer_data(&w);
    int r = kcm_edit(kcm, &caller, name_a, old, remove, &d, 1);
    writer_free(&w);
    return r;
}

static int
do_remove(const struct kcm_snapshot *old)
{
    static const bool remove[5] = {true, false, false, true, false};
    return kcm_edit(kcm, &caller, name_a, old, remove, NULL, 0);
}

static int
do_replace(const struct kcm_snapshot *old)
{
    struct writer p = {0}, a = {0}, b = {0};
    sample_principal(&p, "dave@EX.ORG");
    sample_cred(&a, &(struct sample){.flags = 30});
    sample_cred(&b, &(struct sample){.flags = 31});
    struct data creds[2] = {writer_data(&a), writer_data(&b)};
    struct kcm_content content = {writer_data(&p), 8, creds, 2};
    int r = kcm_replace(kcm, &caller, name_a, old, &content);
    writer_free(&p);
    writer_free(&a);
    writer_free(&b);
    return r;
}

static int
do_destroy(const struct kcm_snapshot *old)
{
    (void)old;
    return kcm_destroy(kcm, &caller, name_a, NULL);
}

static int
do_move(const struct kcm_snapshot *old)
{
    (void)old;
    return kcm_move(kcm, &caller, name_b, name_a);
}

static const struct change {
    int (*run)(const struct kcm_snapshot *old);
    bool steps; /* of several requests that are not undone */
} changes[] = {
    {do_initialize, true}, {do_store, false},   {do_edit, true},
    {do_remove, true},     {do_replace, false}, {do_destroy, false},
    {do_move, false},
};
#define CHANGES ((int)(sizeof(changes) / sizeof(changes[0])))

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

/* No work cache is left. */
static void
check_tidy(void)
{
    struct kcm_listing *l;
    kcm_start(kcm, &caller);
    ck_assert_int_eq(kcm_list_all(kcm, &caller, NULL, &l), 0);
    for (size_t i = 0; i < l->count; i++)
        ck_assert_ptr_null(strstr(l->caches[i].name, KCM_WORK_PREFIX));
    kcm_listing_free(l);
}

static int
run(const struct change *change)
{
    struct kcm_snapshot *old = fetch(name_a);
    kcm_start(kcm, &caller);
    int r = change->run(old);
    kcm_snapshot_unref(old);
    return r;
}

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
