/*
 * Fetching what changed: kcm/fetch.c, against a model of a daemon and one
 * that lies.
 */
#define KCM_INTERNAL
#include "../../kcm/kcm.h"

#include "../../kcm/log.h"
#include "peer.h"

static struct peer peer;
static struct kcm *kcm;
static struct caller caller;
static struct kcm_known known;
static char name[32];

static void
start(bool mit_extensions)
{
    struct kcm_server_limits limits = {.no_mit_extensions = !mit_extensions};
    log_open("test", LOG_LEVEL_ERROR, false);
    peer_start(&peer, &limits);
    snprintf(name, sizeof(name), "%u:a", geteuid());
    struct kcm_config config = {.socket_path = peer.path, .timeout_ms = 20000};
    ck_assert_int_eq(kcm_new(&config, &kcm), 0);
    caller = (struct caller){.uid = geteuid(), .gid = getegid()};
    caller.wake = wake_mine();
    known = (struct kcm_known){0};
}

static void
setup(void)
{
    start(true);
}

static void
teardown(void)
{
    kcm_snapshot_unref(known.snapshot);
    kcm_free(kcm);
    peer_stop(&peer);
    peer_await_end(&peer);
}

/* Have the model do something behind the client's back. */
static void
model(unsigned opcode, const struct writer *args)
{
    struct writer w = {0}, reply = {0};
    write_u16(&w, 0x0200);
    write_u16(&w, (uint16_t)opcode);
    write_string(&w, name);
    if (args != NULL)
        write_data(&w, writer_data(args));
    ck_assert_int_eq(kcm_server_handle(peer.server, geteuid(), getegid(),
                                       writer_data(&w), &reply),
                     0);
    writer_free(&w);
    writer_free(&reply);
}

static void
initialize(const char *principal)
{
    struct writer w = {0};
    sample_principal(&w, principal);
    model(KCM_OP_INITIALIZE, &w);
    writer_free(&w);
}

static void
store(uint32_t n)
{
    struct writer w = {0};
    sample_cred(&w, &(struct sample){.starttime = n, .flags = n});
    model(KCM_OP_STORE, &w);
    writer_free(&w);
}

static void
set_offset(uint32_t offset)
{
    struct writer w = {0};
    write_u32(&w, offset);
    model(KCM_OP_SET_KDC_OFFSET, &w);
    writer_free(&w);
}

static int
fetch(void)
{
    kcm_start(kcm, &caller);
    return kcm_fetch(kcm, &caller, name, &known);
}

/* The credentials numbered first to last are there, in that order. */
static void
check(uint32_t first, uint32_t last)
{
    struct kcm_snapshot *s = known.snapshot;
    ck_assert_ptr_nonnull(s);
    ck_assert_uint_eq(s->count, last - first + 1);
    for (uint32_t i = 0; i < s->count; i++) {
        struct blob *b = s->creds[i].bytes;
        struct cred c;
        ck_assert(cred_parse((struct data){b->bytes, b->len}, &c));
        ck_assert_uint_eq(c.flags, first + i);
    }
}

START_TEST(nothing_there)
{
    ck_assert_int_eq(fetch(), KCM_NOT_FOUND);
    ck_assert_ptr_null(known.snapshot);
}
END_TEST

START_TEST(follows_changes)
{
    struct kcm_snapshot *before;
    initialize("alice@EX.ORG");
    ck_assert_int_eq(fetch(), 0);
    ck_assert_uint_eq(known.snapshot->count, 0);
    before = known.snapshot;
    ck_assert_int_eq(fetch(), 0);
    ck_assert_ptr_eq(known.snapshot, before); /* nothing changed */
    for (uint32_t n = 1; n <= 8; n++) {
        store(n);
        ck_assert_int_eq(fetch(), 0);
        check(1, n);
        before = known.snapshot;
        ck_assert_int_eq(fetch(), 0);
        ck_assert_ptr_eq(known.snapshot, before);
    }
    /* Each was asked for once. */
    ck_assert_uint_eq(peer.seen[KCM_OP_GET_CRED_BY_UUID] + peer.seen[31], 8);
    set_offset(77);
    ck_assert_int_eq(fetch(), 0);
    ck_assert_int_eq(known.snapshot->kdc_offset, 77);
    check(1, 8);
    initialize("bob@EX.ORG");
    store(9);
    ck_assert_int_eq(fetch(), 0);
    check(9, 9);
    struct principal p;
    struct blob *b = known.snapshot->principal;
    ck_assert(principal_parse((struct data){b->bytes, b->len}, &p));
    ck_assert(data_equal(principal_component(&p, 0), TEXT("bob")));
    model(KCM_OP_DESTROY, NULL);
    before = known.snapshot;
    ck_assert_int_eq(fetch(), KCM_NOT_FOUND);
    ck_assert_ptr_eq(known.snapshot, before);
}
END_TEST

/* What is unchanged is not fetched again, nor copied. */
START_TEST(inherits)
{
    initialize("alice@EX.ORG");
    for (uint32_t n = 1; n <= 20; n++)
        store(n);
    ck_assert_int_eq(fetch(), 0);
    struct kcm_snapshot *old = kcm_snapshot_ref(known.snapshot);
    store(21);
    unsigned before = peer.requests;
    ck_assert_int_eq(fetch(), 0);
    check(1, 21);
    for (int i = 0; i < 20; i++)
        ck_assert_ptr_eq(known.snapshot->creds[i].bytes, old->creds[i].bytes);
    ck_assert_uint_le(peer.requests - before, 8);
    kcm_snapshot_unref(old);
}
END_TEST

/* sssd reverses the list with every change: all is known, none is asked. */
START_TEST(another_order)
{
    initialize("alice@EX.ORG");
    for (uint32_t n = 1; n <= 9; n++)
        store(n);
    ck_assert_int_eq(fetch(), 0);
    struct kcm_snapshot *s = known.snapshot;
    for (size_t i = 0; i < s->count / 2; i++) {
        struct kcm_snap_cred swap = s->creds[i];
        s->creds[i] = s->creds[s->count - 1 - i];
        s->creds[s->count - 1 - i] = swap;
    }
    peer.seen[KCM_OP_GET_CRED_BY_UUID] = peer.seen[31] = 0;
    ck_assert_int_eq(fetch(), 0);
    check(1, 9);
    ck_assert_uint_eq(peer.seen[KCM_OP_GET_CRED_BY_UUID], 0);
    ck_assert_uint_eq(peer.seen[31], 0); /* GET_CRED_LIST */
}
END_TEST

START_TEST(many_credentials)
{
    teardown();
    start(_i == 0);
    initialize("alice@EX.ORG");
    for (uint32_t n = 1; n <= 10000; n++)
        store(n);
    ck_assert_int_eq(fetch(), 0);
    check(1, 10000);
    store(10001);
    ck_assert_int_eq(fetch(), 0);
    check(1, 10001);
}
END_TEST

/* --- a daemon that lies -------------------------------------------------- */

#define P    "00000001 00000001 00000001 45 00000001 61" /* a@E */
#define FULL "0123456789abcdef0123456789abcdef"

static const struct {
    unsigned opcode, nth;
    enum manner manner;
    int32_t code;
    const char *body; /* hexadecimal, or NULL: the code */
    int result;
} lies[] = {
    /* the first list */
    {KCM_OP_GET_CRED_UUID_LIST, 1, BODY, 0, "00", -EIO},
    {KCM_OP_GET_CRED_UUID_LIST, 1, BODY, 0, FULL "00", -EIO},
    {KCM_OP_GET_CRED_UUID_LIST, 1, INNER, KCM_CODE_CC_NOTFOUND, NULL,
     KCM_NOT_FOUND},
    {KCM_OP_GET_CRED_UUID_LIST, 1, BODY, 0, FULL, 0}, /* another one then */
    {KCM_OP_GET_CRED_UUID_LIST, 1, BODY, 0, "", 0},
    /* the principal */
    {KCM_OP_GET_PRINCIPAL, 1, BODY, 0, "", KCM_NOT_FOUND},
    {KCM_OP_GET_PRINCIPAL, 1, OUTER, KCM_CODE_CC_IO, NULL, KCM_NOT_FOUND},
    {KCM_OP_GET_PRINCIPAL, 1, BOTH, KCM_CODE_FCC_NOFILE, NULL, KCM_NOT_FOUND},
    {KCM_OP_GET_PRINCIPAL, 1, BODY, 0, "00", -EIO},
    {KCM_OP_GET_PRINCIPAL, 1, BODY, 0, "00000001 ffffffff 00000000", -EIO},
    {KCM_OP_GET_PRINCIPAL, 1, BODY, 0,
     "00000001 00000001 00000001 45 00000002 61", -EIO},
    {KCM_OP_GET_PRINCIPAL, 1, BODY, 0, P "00", 0}, /* MIT's test server */
    /* the offset: what is none is 0 */
    {KCM_OP_GET_KDC_OFFSET, 1, BODY, 0, "", 0},
    {KCM_OP_GET_KDC_OFFSET, 1, BODY, 0, "7fffffff", 0},
    {KCM_OP_GET_KDC_OFFSET, 1, OUTER, KCM_CODE_FCC_INTERNAL, NULL, 0},
    /* all credentials */
    {KCM_OP_GET_CRED_LIST, 1, BODY, 0, "", -EIO},
    {KCM_OP_GET_CRED_LIST, 1, BODY, 0, "000000", -EIO},
    {KCM_OP_GET_CRED_LIST, 1, BODY, 0, "ffffffff", -EIO},
    {KCM_OP_GET_CRED_LIST, 1, BODY, 0, "00000006 00000000", -EIO},
    {KCM_OP_GET_CRED_LIST, 1, BODY, 0,
     "00000006 00000000 00000000 00000000 00000000 00000000 ffffffff", -EIO},
    {KCM_OP_GET_CRED_LIST, 1, BODY, 0, "00000000", 0},
    {KCM_OP_GET_CRED_LIST, 1, BODY, 0, "00000001 00000000", 0},
    {KCM_OP_GET_CRED_LIST, 1, OUTER, KCM_CODE_FCC_INTERNAL, NULL, 0},
    {KCM_OP_GET_CRED_LIST, 1, BOTH, KCM_CODE_FCC_INTERNAL, NULL, 0},
};
#define LIES ((int)(sizeof(lies) / sizeof(lies[0])))

static void
lie(int n, struct writer *body)
{
    struct rule rule =
        RULE(lies[n].opcode, lies[n].nth, lies[n].manner, lies[n].code);
    if (lies[n].body != NULL)
        sample_hex(body, lies[n].body);
    rule.body = writer_data(body);
    peer_rule_set(&peer, 0, rule);
}

START_TEST(lied_to)
{
    struct writer body = {0};
    initialize("alice@EX.ORG");
    for (uint32_t n = 1; n <= 6; n++)
        store(n);
    lie(_i, &body);
    ck_assert_int_eq(fetch(), lies[_i].result);
    ck_assert_uint_eq(peer.hits, 1);
    ck_assert_int_eq(known.snapshot != NULL, lies[_i].result == 0);
    ck_assert_int_eq(fetch(), 0);
    check(1, 6);
    ck_assert_int_eq(known.snapshot->kdc_offset, 0);
    writer_free(&body);
}
END_TEST

/* The same when something is known: it stays as it is on failure. */
START_TEST(lied_to_later)
{
    struct writer body = {0};
    initialize("alice@EX.ORG");
    store(1);
    ck_assert_int_eq(fetch(), 0);
    struct kcm_snapshot *old = known.snapshot;
    for (uint32_t n = 2; n <= 6; n++)
        store(n);
    lie(_i, &body);
    ck_assert_int_eq(fetch(), lies[_i].result);
    if (lies[_i].result != 0) {
        ck_assert_ptr_eq(known.snapshot, old);
        ck_assert_int_eq(old->refs, 1);
        check(1, 1);
    }
    ck_assert_int_eq(fetch(), 0);
    check(1, 6);
    writer_free(&body);
}
END_TEST

/* A later list: of odd length, or another one, once or always. */
START_TEST(lists_change)
{
    uint8_t body[33] = {0};
    initialize("alice@EX.ORG");
    for (uint32_t n = 1; n <= 6; n++)
        store(n);
    struct rule rule =
        RULE(KCM_OP_GET_CRED_UUID_LIST, _i == 3 ? 2 : 3, BODY, 0);
    rule.body = (struct data){body, _i == 0 || _i == 3 ? 33 : 32};
    rule.always = _i == 2;
    peer_rule_set(&peer, 0, rule);
    static const int results[] = {-EIO, 0, -EAGAIN, -EIO};
    int r = fetch();
    ck_assert(r == results[_i] || (_i == 2 && r == -EIO));
    peer_rules_clear(&peer);
    ck_assert_int_eq(fetch(), 0);
    check(1, 6);
}
END_TEST

/* The daemon lists in another order since the first list, as sssd does after
 * each STORE: what the list of credentials said is of no use then. */
START_TEST(order_changes)
{
    uint8_t uuids[6 * KCM_UUID_LEN];
    struct writer list = {0};
    initialize("alice@EX.ORG");
    for (uint32_t n = 1; n <= 6; n++)
        store(n);
    ck_assert_int_eq(fetch(), 0);
    write_u32(&list, 6);
    for (uint32_t i = 0; i < 6; i++) {
        struct kcm_snap_cred *c = &known.snapshot->creds[(i + 1) % 6];
        memcpy(uuids + i * KCM_UUID_LEN, c->uuid, KCM_UUID_LEN);
        write_u32(&list, (uint32_t)c->bytes->len);
        write_data(&list, blob_data(c->bytes));
    }
    kcm_snapshot_unref(known.snapshot);
    known = (struct kcm_known){0};
    struct rule creds = RULE(KCM_OP_GET_CRED_LIST, 1, BODY, 0);
    struct rule after = RULE(KCM_OP_GET_CRED_UUID_LIST, 3, BODY, 0);
    creds.body = writer_data(&list);
    after.body = (struct data){uuids, sizeof(uuids)};
    peer_rule_set(&peer, 0, creds);
    peer_rule_set(&peer, 1, after);
    ck_assert_int_eq(fetch(), 0);
    ck_assert_uint_eq(peer.hits, 2);
    check(1, 6);
    writer_free(&list);
}
END_TEST

/* Destroyed between one request and the next: MIT's test server lists a
 * cache that is not there as empty. */
START_TEST(destroyed_meanwhile)
{
    static const uint8_t none[1];
    struct rule list = RULE(KCM_OP_GET_CRED_UUID_LIST, 1, BODY, 0);
    initialize("alice@EX.ORG");
    if (_i > 0)
        store(1);
    if (_i != 1)
        ck_assert_int_eq(fetch(), 0);
    struct kcm_snapshot *old = known.snapshot;
    if (_i == 2) {
        store(2);
        peer_rule_set(
            &peer, 1,
            RULE(KCM_OP_GET_PRINCIPAL, 2, INNER, KCM_CODE_FCC_NOFILE));
    } else {
        model(KCM_OP_DESTROY, NULL);
        list.body = (struct data){none, 0};
        list.always = true;
        peer_rule_set(&peer, 0, list);
    }
    int r = fetch();
    ck_assert(r == KCM_NOT_FOUND || (_i == 2 && r == 0));
    if (r != 0)
        ck_assert_ptr_eq(known.snapshot, old);
}
END_TEST

/* sssd stores anything: what is no credential is left out, the others are
 * there.  From who holds none (2) it is a wrong answer. */
START_TEST(garbage)
{
    static const uint8_t bytes[5] = "junk";
    struct rule rule = RULE(KCM_OP_GET_CRED_BY_UUID, 1, _i == 1 ? OUTER : BODY,
                            KCM_CODE_CC_IO);
    rule.body = (struct data){bytes, 5};
    if (_i < 2)
        peer_rule_set(&peer, 1,
                      RULE(KCM_OP_NOOP, 1, OUTER, KCM_CODE_FCC_INTERNAL));
    initialize("alice@EX.ORG");
    store(1);
    ck_assert_int_eq(fetch(), 0);
    store(2);
    peer_rule_set(&peer, 0, rule);
    ck_assert_int_eq(fetch(), _i < 2 ? 0 : -EIO);
    if (_i == 2)
        return;
    ck_assert_uint_eq(known.snapshot->count, 2);
    ck_assert_uint_eq(known.snapshot->creds[1].bytes->len, 0);
    struct blob *b = known.snapshot->creds[0].bytes;
    struct cred c;
    ck_assert(cred_parse((struct data){b->bytes, b->len}, &c));
    ck_assert_uint_eq(c.flags, 1);
}
END_TEST

/* One that cannot be had now is not taken for garbage: who wrote the cache
 * back would lose it. */
START_TEST(refused_one)
{
    static const int32_t codes[] = {ENOMEM, KCM_CODE_FCC_PERM, EAGAIN,
                                    KCM_CODE_FCC_INTERNAL};
    initialize("alice@EX.ORG");
    store(1);
    store(2);
    peer_rule_set(&peer, 0,
                  RULE(KCM_OP_GET_CRED_BY_UUID, 2, INNER, codes[_i]));
    ck_assert_int_eq(fetch(), -EIO);
    ck_assert_ptr_null(known.snapshot);
    ck_assert_int_eq(fetch(), 0);
    check(1, 2);
}
END_TEST

/* --- meanwhile ----------------------------------------------------------- */

static bool stop;

/* Kinit after kinit: the credentials of one time are of one principal. */
static void *
change(void *arg)
{
    (void)arg;
    for (uint32_t n = 0; !__atomic_load_n(&stop, __ATOMIC_ACQUIRE); n++) {
        struct writer w = {0}, one = {0};
        char text[32];
        snprintf(text, sizeof(text), "u%u@EX.ORG", n % 1000);
        write_u32(&w, n % 1000);
        sample_principal(&w, text);
        write_u32(&w, 5);
        for (uint32_t i = 0; i < 5; i++) {
            writer_reset(&one);
            sample_cred(&one,
                        &(struct sample){.client = text, .starttime = i});
            write_data32(&w, writer_data(&one));
        }
        model(KCM_OP_REPLACE, &w);
        writer_free(&one);
        writer_free(&w);
        usleep(n % 7 * 300);
    }
    return NULL;
}

START_TEST(never_mixed)
{
    pthread_t thread;
    int got = 0;
    initialize("u0@EX.ORG");
    stop = false;
    pthread_create(&thread, NULL, change, NULL);
    for (int i = 0; i < 1500; i++) {
        int r = fetch();
        ck_assert(r == 0 || r == -EAGAIN);
        if (r != 0 || known.snapshot->count == 0)
            continue;
        struct kcm_snapshot *s = known.snapshot;
        struct blob *p = s->principal;
        ck_assert_uint_eq(s->count, 5);
        for (size_t k = 0; k < 5; k++) {
            struct blob *b = s->creds[k].bytes;
            struct cred c;
            ck_assert(cred_parse((struct data){b->bytes, b->len}, &c));
            ck_assert(
                data_equal(c.client.raw, (struct data){p->bytes, p->len}));
        }
        got++;
    }
    __atomic_store_n(&stop, true, __ATOMIC_RELEASE);
    pthread_join(thread, NULL);
    ck_assert_int_gt(got, 100);
}
END_TEST

int
main(void)
{
    Suite *s = suite_create("fetch");
    TCase *t = tcase_create("fetch");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, nothing_there);
    tcase_add_test(t, follows_changes);
    tcase_add_test(t, inherits);
    tcase_add_test(t, another_order);
    tcase_add_loop_test(t, many_credentials, 0, 2);
    tcase_add_loop_test(t, lied_to, 0, LIES);
    tcase_add_loop_test(t, lied_to_later, 0, LIES);
    tcase_add_loop_test(t, lists_change, 0, 4);
    tcase_add_test(t, order_changes);
    tcase_add_loop_test(t, destroyed_meanwhile, 0, 3);
    tcase_add_loop_test(t, garbage, 0, 3);
    tcase_add_loop_test(t, refused_one, 0, 4);
    tcase_add_test(t, never_mixed);
    suite_add_tcase(s, t);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
