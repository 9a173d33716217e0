/*
 * Operations on a daemon that answers well, badly or not: kcm/session.c.
 */
#define KCM_INTERNAL
#include "../../kcm/kcm.h"

#include "../../kcm/log.h"
#include "peer.h"

#define TIMEOUT_MS 80

static struct peer peer;
static struct kcm *kcm;
static struct caller caller;
static char name_a[32], name_b[32], own[16];

static void
ask(unsigned opcode, const char *name, const char *more, bool principal)
{
    struct writer w = {0}, reply = {0};
    write_u16(&w, 0x0200);
    write_u16(&w, (uint16_t)opcode);
    write_string(&w, name);
    if (principal)
        sample_principal(&w, more);
    else if (more != NULL)
        sample_cred(&w, &(struct sample){.server = more});
    ck_assert_int_eq(kcm_server_handle(peer.server, geteuid(), getegid(),
                                       writer_data(&w), &reply),
                     0);
    writer_free(&w);
    writer_free(&reply);
}

static void
setup(void)
{
    log_open("test", LOG_LEVEL_ERROR, false);
    peer_start(&peer, NULL);
    snprintf(own, sizeof(own), "%u", geteuid());
    snprintf(name_a, sizeof(name_a), "%s:a", own);
    snprintf(name_b, sizeof(name_b), "%s:b", own);
    ask(KCM_OP_INITIALIZE, name_a, "alice@EX.ORG", true);
    ask(KCM_OP_STORE, name_a, "host/a@EX.ORG", false);
    ask(KCM_OP_STORE, name_a, "host/b@EX.ORG", false);
    ask(KCM_OP_INITIALIZE, name_b, "bob@EX.ORG", true);
    struct kcm_config config = {.socket_path = peer.path, .timeout_ms = 10000};
    ck_assert_int_eq(kcm_new(&config, &kcm), 0);
    caller = (struct caller){.uid = geteuid(), .gid = getegid()};
    caller.wake = wake_mine();
    kcm_start(kcm, &caller);
}

static void
teardown(void)
{
    kcm_free(kcm);
    peer_stop(&peer);
    peer_await_end(&peer);
}

/* --- operations as a table --------------------------------------------- */

static int
get_default(void)
{
    char *name;
    int r = kcm_get_default(kcm, &caller, &name);
    ck_assert((r == 0) == (name != NULL));
    free(name);
    return r;
}

static int
list(void)
{
    struct kcm_listing *l;
    int r = kcm_list(kcm, &caller, NULL, &l);
    ck_assert((r == 0) == (l != NULL));
    kcm_listing_free(l);
    return r;
}

static int
find_uuid(void)
{
    static const uint8_t uuid[KCM_UUID_LEN] = "none";
    char *name;
    int r = kcm_find_uuid(kcm, &caller, uuid, &name);
    ck_assert_ptr_null(name);
    return r == KCM_NOT_FOUND ? 0 : r;
}

static int
principals(void)
{
    const char *const names[3] = {name_a, "none", name_b};
    struct blob *out[3];
    int r = kcm_get_principals(kcm, &caller, names, 3, out);
    for (int i = 0; i < 3; i++)
        blob_unref(out[i]);
    return r;
}

static int
fetch(void)
{
    struct kcm_known known = {0};
    int r = kcm_fetch(kcm, &caller, name_a, &known);
    ck_assert((r == 0) == (known.snapshot != NULL));
    kcm_snapshot_unref(known.snapshot);
    return r;
}

static int (*const operations[])(void) = {get_default, list, find_uuid,
                                          principals, fetch};
#define OPERATIONS 5

/* --- what goes well ------------------------------------------------------ */

START_TEST(lists_names)
{
    struct kcm_listing *l, *again;
    ck_assert_int_eq(kcm_list(kcm, &caller, NULL, &l), 0);
    ck_assert_uint_eq(l->count, 2);
    ck_assert_str_eq(l->caches[0].name, name_b); /* newest first */
    ck_assert_str_eq(l->caches[1].name, name_a);
    peer.seen[KCM_OP_GET_CACHE_BY_UUID] = 0;
    ck_assert_int_eq(kcm_list(kcm, &caller, l, &again), 0);
    ck_assert_uint_eq(again->count, 2);
    ck_assert_str_eq(again->caches[1].name, name_a);
    /* A UUID keeps its name: not asked again. */
    ck_assert_uint_eq(peer.seen[KCM_OP_GET_CACHE_BY_UUID], 0);
    char *name;
    ck_assert_int_eq(kcm_find_uuid(kcm, &caller, l->caches[1].uuid, &name), 0);
    ck_assert_str_eq(name, name_a);
    free(name);
    kcm_listing_free(again);
    kcm_listing_free(l);
}
END_TEST

/* Of names known in any order only the new one is asked for. */
START_TEST(lists_known_names)
{
    struct kcm_listing *l, *again;
    char name_c[32];
    snprintf(name_c, sizeof(name_c), "%s:c", own);
    ck_assert_int_eq(kcm_list(kcm, &caller, NULL, &l), 0);
    if (_i == 1) {
        struct kcm_cache first = l->caches[0];
        l->caches[0] = l->caches[1];
        l->caches[1] = first;
    }
    ask(KCM_OP_INITIALIZE, name_c, "carol@EX.ORG", true);
    peer.seen[KCM_OP_GET_CACHE_BY_UUID] = 0;
    ck_assert_int_eq(kcm_list(kcm, &caller, l, &again), 0);
    ck_assert_uint_eq(again->count, 3);
    ck_assert_str_eq(again->caches[0].name, name_c);
    ck_assert_str_eq(again->caches[1].name, name_b);
    ck_assert_str_eq(again->caches[2].name, name_a);
    ck_assert_uint_eq(peer.seen[KCM_OP_GET_CACHE_BY_UUID], 1);
    kcm_listing_free(again);
    kcm_listing_free(l);
}
END_TEST

/* A walk for each of a great many would take longer than a test may. */
START_TEST(lists_many_known)
{
    const size_t count = 300000;
    struct kcm_listing known = {calloc(count, sizeof(*known.caches)), count};
    struct kcm_listing *l;
    struct writer uuids = {0};
    for (size_t i = 0; i < count; i++) {
        memcpy(known.caches[i].uuid + 8, &i, sizeof(i));
        known.caches[i].name = name_a;
        write_bytes(&uuids, known.caches[i].uuid, KCM_UUID_LEN);
    }
    peer_rule_set(&peer, 0,
                  (struct rule){.opcode = KCM_OP_GET_CACHE_UUID_LIST,
                                .manner = BODY,
                                .body = writer_data(&uuids)});
    ck_assert_int_eq(kcm_list_all(kcm, &caller, &known, &l), 0);
    ck_assert_uint_eq(l->count, count);
    kcm_listing_free(l);
    free(known.caches);
    writer_free(&uuids);
}
END_TEST

START_TEST(gets_principals)
{
    const char *const names[3] = {name_a, "none", name_b};
    struct blob *out[3];
    struct principal p;
    ck_assert_int_eq(kcm_get_principals(kcm, &caller, names, 3, out), 0);
    ck_assert_ptr_nonnull(out[0]);
    ck_assert_ptr_null(out[1]);
    ck_assert(principal_parse((struct data){out[2]->bytes, out[2]->len}, &p));
    ck_assert(data_equal(principal_component(&p, 0), TEXT("bob")));
    blob_unref(out[0]);
    blob_unref(out[2]);
    ck_assert_int_eq(kcm_get_principals(kcm, &caller, names, 0, out), 0);
}
END_TEST

/* Work caches, and caches of others that Heimdal shows root, are hidden. */
START_TEST(hides_names)
{
    static const struct {
        const char *suffix;
        bool own;
    } names[] = {{":.kcmfs-1-1", false}, {":x", true}, {"", true}};
    char text[64], other[64];
    struct kcm_listing *l;
    snprintf(text, sizeof(text), "%s%s", own, names[_i].suffix);
    snprintf(other, sizeof(other), "%u:x", geteuid() + 1);
    peer_rule_set(&peer, 0,
                  (struct rule){.opcode = KCM_OP_GET_CACHE_BY_UUID,
                                .manner = BODY,
                                .body = {(uint8_t *)text, strlen(text) + 1}});
    peer_rule_set(
        &peer, 1,
        (struct rule){.opcode = KCM_OP_GET_CACHE_BY_UUID,
                      .manner = BODY,
                      .body = {(uint8_t *)other, strlen(other) + 1}});
    kcm->checked_count = 0;
    ck_assert_int_eq(kcm_list_all(kcm, &caller, NULL, &l), 0);
    ck_assert_uint_eq(l->count, 1);
    ck_assert_str_eq(l->caches[0].name, text);
    kcm_listing_free(l);
    ck_assert_int_eq(list(), 0); /* leftovers have been looked for */
    peer_rule_set(&peer, 0,
                  (struct rule){.opcode = KCM_OP_GET_CACHE_BY_UUID,
                                .manner = BODY,
                                .body = {(uint8_t *)text, strlen(text) + 1}});
    kcm_start(kcm, &caller);
    ck_assert_int_eq(kcm_list(kcm, &caller, NULL, &l), 0);
    ck_assert_uint_eq(l->count, names[_i].own ? 2 : 1);
    kcm_listing_free(l);
}
END_TEST

START_TEST(empty_collection)
{
    struct kcm_listing *l;
    peer_rule_set(&peer, 0,
                  RULE(KCM_OP_GET_CACHE_UUID_LIST, 1, _i ? OUTER : BOTH,
                       KCM_CODE_FCC_NOFILE));
    ck_assert_int_eq(kcm_list_all(kcm, &caller, NULL, &l), 0);
    ck_assert_uint_eq(l->count, 0);
    kcm_listing_free(l);
}
END_TEST

/* A name that cannot be read is no cache that is gone. */
START_TEST(listed_without_a_name)
{
    struct kcm_listing *l;
    static const uint8_t no_nul[] = {'x'};
    peer_rule_set(&peer, 0,
                  (struct rule){.opcode = KCM_OP_GET_CACHE_BY_UUID,
                                .manner = BODY,
                                .nth = (unsigned)_i / 2 + 1,
                                .body = {no_nul, (size_t)_i % 2}});
    ck_assert_int_eq(kcm_list_all(kcm, &caller, NULL, &l), -EIO);
    ck_assert_ptr_null(l);
}
END_TEST

/* --- statuses ------------------------------------------------------------ */

static const struct {
    unsigned opcode;
    int32_t code;
    int status;
} statuses[] = {
    {KCM_OP_NOOP, 0, 0},
    {KCM_OP_GET_NAME, KCM_CODE_FCC_NOFILE, KCM_NOT_FOUND},
    {KCM_OP_GET_NAME, KCM_CODE_CC_NOTFOUND, KCM_NOT_FOUND},
    {KCM_OP_GET_NAME, KCM_CODE_CC_END, KCM_NOT_FOUND},
    {KCM_OP_GET_NAME, KCM_CODE_FCC_PERM, KCM_DENIED},
    {KCM_OP_GET_NAME, KCM_CODE_CC_BADNAME, KCM_BAD_NAME},
    {KCM_OP_GET_NAME, KCM_CODE_CC_NOSUPP, KCM_UNSUPPORTED},
    {KCM_OP_GET_NAME, KCM_CODE_FCC_INTERNAL, KCM_UNSUPPORTED},
    {KCM_OP_INITIALIZE, KCM_CODE_FCC_INTERNAL, KCM_QUOTA},
    {KCM_OP_STORE, KCM_CODE_FCC_INTERNAL, KCM_QUOTA},
    {KCM_OP_SET_KDC_OFFSET, KCM_CODE_FCC_INTERNAL, KCM_QUOTA},
    {KCM_OP_SET_DEFAULT_CACHE, KCM_CODE_FCC_INTERNAL, KCM_QUOTA},
    {KCM_OP_REPLACE, KCM_CODE_FCC_INTERNAL, KCM_UNSUPPORTED},
    {KCM_OP_GET_PRINCIPAL, KCM_CODE_CC_IO, KCM_NOT_FOUND},
    {KCM_OP_GET_CRED_BY_UUID, KCM_CODE_CC_IO, KCM_UNSUPPORTED},
    {KCM_OP_DESTROY, EAGAIN, KCM_BUSY},
    {KCM_OP_STORE, EINVAL, KCM_INVALID},
    {KCM_OP_STORE, KCM_CODE_HEIM_EOF, KCM_INVALID},
    {KCM_OP_STORE, 1, -EIO},
    {KCM_OP_STORE, INT32_MIN, -EIO},
};
#define STATUSES ((int)(sizeof(statuses) / sizeof(statuses[0])))

START_TEST(status)
{
    static const enum manner manners[] = {OUTER, INNER, BOTH};
    for (int i = 0; i < 3; i++) {
        struct batch b = {0};
        peer_rule_set(&peer, 0, RULE(ANY, 1, manners[i], statuses[_i].code));
        batch_add_named(&b, statuses[_i].opcode, "none");
        if (statuses[_i].code != 0 || manners[i] != OUTER) {
            ck_assert_int_eq(kcm_exchange(kcm, &caller, &b), 0);
            ck_assert_int_eq(kcm_reply_status(&b, 0), statuses[_i].status);
        }
        batch_free(&b);
    }
    ck_assert_uint_eq(peer.accepted, 1);
}
END_TEST

/* --- what goes badly ----------------------------------------------------- */

static const struct {
    enum manner manner;
    int32_t arg;
    int result;
} bad[] = {
    {BYTES, 0, 0},
    {PIECES, 0, 0},
    {DELAY, 20, 0},
    {SILENT, 0, -ETIMEDOUT},
    {DELAY, 400, -ETIMEDOUT},
    {HALF, 0, -ETIMEDOUT},
    {LONGER, 1, -ETIMEDOUT},
    {LENGTH, 1000000, -ETIMEDOUT},
    {CUT, 0, 0}, /* asked again */
    {BEFORE, 0, 0},
    {AFTER, 0, 0},
    {CUT, 1, -EIO},
    {CUT, 8, -EIO},
    {CUT, 13, -EIO},
    {SHORTER, 1, -EIO},
    {LENGTH, 3, -EIO},
    {LENGTH, 0, -EIO},
    {LENGTH, -1, -EIO},
    {LENGTH, INT32_MIN, -EIO},
    {TRAILING, 1, -EIO},
    {TRAILING, 30, -EIO},
    {STRAY, 1, 0}, /* too late to be seen */
    {INNER, 77, -EIO},
    {OUTER, 77, -EIO},
    {BOTH, 77, -EIO},
    {OUTER, KCM_CODE_FCC_NOFILE, KCM_NOT_FOUND},
    {BODY, 0, -EIO}, /* no name at all */
};
#define BAD ((int)(sizeof(bad) / sizeof(bad[0])))

/* What ends by itself must not end early on a busy machine. */
static unsigned
timeout_of(int row)
{
    return bad[row].result >= 0 ? 10000 : TIMEOUT_MS;
}

/* On a busy machine the request to be answered badly may never have left. */
static bool
is_too_slow(int result, unsigned hits)
{
    return hits == 0 && result == -ETIMEDOUT;
}

/* Closing with what the peer sent too much is no fault of the client. */
static void
forgive(enum manner manner)
{
    usleep(20000);
    if (manner == STRAY || manner == LENGTH || manner == TRAILING ||
        manner == SHORTER)
        peer.unread = 0;
}

START_TEST(one_request)
{
    int r;
    kcm->timeout_ms = bad[_i].result == -ETIMEDOUT ? TIMEOUT_MS : 10000;
    peer_rule_set(&peer, 0, RULE(ANY, 1, bad[_i].manner, bad[_i].arg));
    do {
        kcm_start(kcm, &caller);
        r = get_default();
    } while (is_too_slow(r, peer.hits));
    ck_assert_int_eq(r, bad[_i].result);
    ck_assert_uint_eq(peer.hits, 1);
    ck_assert_int_lt(now_ms(), caller.deadline + 1000);
    if (bad[_i].manner == STRAY)
        peer_stray(&peer);
    usleep(50000);
    kcm->timeout_ms = 10000;
    kcm_start(kcm, &caller);
    ck_assert_int_eq(get_default(), 0);
    forgive(bad[_i].manner);
}
END_TEST

/* Each operation, with each of its requests in turn answered so. */
START_TEST(any_request)
{
    int (*operation)(void) = operations[_i % OPERATIONS];
    const int row = _i / OPERATIONS;
    unsigned nth = 1, hits;
    bool slow;
    /* Bytes that come behind the next request cannot be told from a reply. */
    if (bad[row].manner == STRAY)
        return;
    do {
        kcm_free(kcm);
        struct kcm_config config = {.socket_path = peer.path,
                                    .timeout_ms = timeout_of(row)};
        ck_assert_int_eq(kcm_new(&config, &kcm), 0);
        peer_rule_set(&peer, 0,
                      RULE(ANY, nth++, bad[row].manner, bad[row].arg));
        kcm_start(kcm, &caller);
        int r = operation();
        ck_assert_int_lt(now_ms(), caller.deadline + 1000);
        ck_assert(r == 0 || r == -EIO || r == -ETIMEDOUT || r > 0);
        ck_assert(r != -EIO || bad[row].result != 0);
        hits = peer.hits;
        peer_rules_clear(&peer);
        slow = is_too_slow(r, hits);
        nth -= slow;
        kcm->timeout_ms = 10000;
        kcm_start(kcm, &caller);
        ck_assert_int_eq(operation(), 0);
    } while (hits > 0 || slow);
    ck_assert_uint_gt(nth, 2);
    forgive(bad[row].manner);
}
END_TEST

/* 10^5 UUIDs, none of which there is. */
START_TEST(many_uuids)
{
    const size_t count = 100000;
    struct kcm_listing *l;
    uint8_t *uuids = malloc(count * KCM_UUID_LEN);
    for (size_t i = 0; i < count * KCM_UUID_LEN; i++)
        uuids[i] = (uint8_t)(i * 7 >> 3);
    peer_rule_set(&peer, 0,
                  (struct rule){.opcode = KCM_OP_GET_CACHE_UUID_LIST,
                                .manner = BODY,
                                .body = {uuids, count * KCM_UUID_LEN}});
    caller.deadline = now_ms() + 20000;
    ck_assert_int_eq(kcm_list_all(kcm, &caller, NULL, &l), 0);
    ck_assert_uint_eq(l->count, 0);
    ck_assert_uint_eq(peer.seen[KCM_OP_GET_CACHE_BY_UUID], count);
    kcm_listing_free(l);
    free(uuids);
}
END_TEST

START_TEST(odd_uuids)
{
    static const uint8_t uuids[33];
    static const size_t lengths[] = {1, 15, 17, 31, 33};
    struct kcm_listing *l;
    for (int i = 0; i < 5; i++) {
        peer_rule_set(&peer, 0,
                      (struct rule){.opcode = KCM_OP_GET_CACHE_UUID_LIST,
                                    .manner = BODY,
                                    .body = {uuids, lengths[i]}});
        ck_assert_int_eq(kcm_list_all(kcm, &caller, NULL, &l), -EIO);
        ck_assert_ptr_null(l);
    }
}
END_TEST

/* --- daemons come and go ------------------------------------------------- */

START_TEST(idle_connection_closed)
{
    for (int i = 0; i < 5; i++) {
        ck_assert_int_eq(operations[i](), 0);
        unsigned before = peer.accepted;
        peer_hang_up(&peer);
        peer_listen(&peer);
        ck_assert_int_eq(operations[i](), 0);
        ck_assert_uint_eq(peer.accepted, before + 1);
    }
}
END_TEST

START_TEST(gone_and_back)
{
    ck_assert_int_eq(list(), 0);
    peer_hang_up(&peer);
    for (int i = 0; i < 5; i++)
        ck_assert_int_eq(operations[i](), -ECONNREFUSED);
    peer_listen(&peer);
    for (int i = 0; i < 5; i++)
        ck_assert_int_eq(operations[i](), 0);
}
END_TEST

START_TEST(always_closes)
{
    peer_rule_set(&peer, 0,
                  (struct rule){.opcode = ANY,
                                .manner = _i ? BEFORE : AFTER,
                                .always = true});
    for (int i = 0; i < 5; i++)
        ck_assert_int_eq(operations[i](), -EIO);
    ck_assert_uint_le(peer.accepted, 10);
}
END_TEST

/* It comes back as another kind: what was known of it is forgotten. */
START_TEST(another_kind)
{
    static const struct {
        enum manner manner;
        int32_t code;
        const char *text;
    } kinds[] = {
        {HONEST, 0, "Heimdal kcm or kcmd"},
        {OUTER, KCM_CODE_FCC_INTERNAL, "sssd-kcm"},
        {INNER, KCM_CODE_FCC_INTERNAL, "other"},
        {BOTH, KCM_CODE_FCC_INTERNAL, NULL},
    };
    ck_assert_str_eq(kcm_daemon_text(kcm), "unknown");
    for (int i = 0; i < 4; i++) {
        struct rule rule =
            RULE(KCM_OP_NOOP, 1, kinds[i].manner, kinds[i].code);
        rule.always = true;
        peer_rule_set(&peer, 0, rule);
        kcm->remove = SUPPORT_NO;
        peer_hang_up(&peer);
        ck_assert_int_eq(get_default(), -ECONNREFUSED);
        ck_assert_int_eq(kcm->remove, SUPPORT_UNKNOWN);
        peer_listen(&peer);
        kcm_start(kcm, &caller);
        ck_assert_int_eq(kcm_know_peer(kcm, &caller), 0);
        if (kinds[i].text != NULL)
            ck_assert_str_eq(kcm_daemon_text(kcm), kinds[i].text);
        ck_assert_int_eq(fetch(), 0);
    }
}
END_TEST

int
main(void)
{
    Suite *s = suite_create("session");
    TCase *t = tcase_create("session");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, lists_names);
    tcase_add_loop_test(t, lists_known_names, 0, 2);
    tcase_add_test(t, lists_many_known);
    tcase_add_test(t, gets_principals);
    tcase_add_loop_test(t, listed_without_a_name, 0, 4);
    tcase_add_loop_test(t, hides_names, 0, 3);
    tcase_add_loop_test(t, empty_collection, 0, 2);
    tcase_add_loop_test(t, status, 0, STATUSES);
    tcase_add_loop_test(t, one_request, 0, BAD);
    tcase_add_loop_test(t, any_request, 0, BAD * OPERATIONS);
    tcase_add_test(t, many_uuids);
    tcase_add_test(t, odd_uuids);
    tcase_add_test(t, idle_connection_closed);
    tcase_add_test(t, gone_and_back);
    tcase_add_loop_test(t, always_closes, 0, 2);
    tcase_add_test(t, another_kind);
    suite_add_tcase(s, t);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
