/*
 * Requests and replies: kcm/server.c, operations.c.
 */
#include <check.h>
#include <errno.h>
#include <stdio.h>

#include "../../kcm/proto.h"
#include "../../kcm/server.h"
#include "samples.h"

#define A 1001
#define B 1002

static struct kcm_server *server;
static struct writer args, reply;

static void
setup(void)
{
    struct kcm_server_limits limits = {.caches_per_uid = 4,
                                       .bytes_per_uid = 32 * 1024};
    ck_assert_int_eq(kcm_server_new(&limits, &server), 0);
}

static void
teardown(void)
{
    kcm_server_free(server);
    writer_free(&args);
    writer_free(&reply);
    ck_assert_uint_eq(secret_in_use(), 0);
}

/* Send opcode with what is in args: the code; payload is in reply. */
static int32_t
send_as(uid_t uid, unsigned opcode, struct data body, struct data *payload)
{
    struct writer request = {0};
    struct reader r;
    write_u8(&request, 2);
    write_u8(&request, 0);
    write_u16(&request, (uint16_t)opcode);
    write_data(&request, body);
    writer_reset(&reply);
    ck_assert_int_eq(
        kcm_server_handle(server, uid, uid, writer_data(&request), &reply), 0);
    writer_free(&request);
    reader_init(&r, reply.p, reply.len);
    uint32_t len = read_u32(&r);
    ck_assert_uint_eq(read_u32(&r), 0); /* the outer status, always */
    ck_assert_uint_eq(reader_left(&r), len);
    int32_t code = (int32_t)read_u32(&r);
    ck_assert(!r.bad);
    ck_assert(code == 0 || len == 4);
    if (payload != NULL)
        *payload = (struct data){r.p, reader_left(&r)};
    return code;
}

static int32_t
call(unsigned opcode, struct data *payload)
{
    return send_as(A, opcode, writer_data(&args), payload);
}

static void
args_name(const char *name)
{
    writer_reset(&args);
    write_string(&args, name);
}

static int32_t
named(unsigned opcode, const char *name, struct data *payload)
{
    args_name(name);
    return call(opcode, payload);
}

static int32_t
initialize_as(uid_t uid, const char *name, const char *principal)
{
    args_name(name);
    sample_principal(&args, principal);
    return send_as(uid, KCM_OP_INITIALIZE, writer_data(&args), NULL);
}

static int32_t
store_one(const char *name, const struct sample *s)
{
    args_name(name);
    sample_cred(&args, s);
    return call(KCM_OP_STORE, NULL);
}

/* All that uid A can see, as bytes, to tell whether anything changed. */
static void
dump(struct writer *out)
{
    static const unsigned ops[] = {KCM_OP_GET_PRINCIPAL, KCM_OP_GET_KDC_OFFSET,
                                   KCM_OP_GET_CRED_LIST,
                                   KCM_OP_GET_CRED_UUID_LIST};
    struct writer uuids = {0}, name = {0};
    struct data got;
    writer_reset(out);
    send_as(A, KCM_OP_GET_DEFAULT_CACHE, TEXT(""), &got);
    write_data32(out, got);
    if (send_as(A, KCM_OP_GET_CACHE_UUID_LIST, TEXT(""), &got) != 0)
        return;
    write_data(&uuids, got);
    for (size_t at = 0; at < uuids.len; at += KCM_UUID_LEN) {
        struct data uuid = {uuids.p + at, KCM_UUID_LEN};
        write_data(out, uuid);
        ck_assert_int_eq(send_as(A, KCM_OP_GET_CACHE_BY_UUID, uuid, &got), 0);
        writer_reset(&name);
        write_data(&name, got);
        write_data32(out, got);
        for (int i = 0; i < 4; i++) {
            send_as(A, ops[i], writer_data(&name), &got);
            write_data32(out, got);
        }
    }
    writer_free(&name);
    writer_free(&uuids);
}

#define ALICE "00000001 00000001 00000001 45 00000001 61" /* a@E */
#define HOST  "00000001 00000001 00000001 45 00000001 68" /* h@E */
#define NAME  "31303031 00"                               /* 1001 */
#define OTHER "31303031 3a62 00"                          /* 1001:b */
#define CRED                                                                  \
    ALICE HOST "0012 00000001 6b 00000001 00000002 00000003 00000004 00 "     \
               "40000000 00000000 00000000 00000002 746b 00000000"
#define CRED_LEN "00000052"
#define TAG                                                                   \
    "00000001 00000003" ALICE HOST                                            \
    "00000000 00000000 00000000 00000000 00 00000000"
#define ERR(hex) "00000004 00000000 " hex
#define OK       "00000004 00000000 00000000"
#define INTERNAL ERR("96c73ac4" /* KRB5_FCC_INTERNAL */)
#define NOFILE   ERR("96c73ac3")
#define END      ERR("96c73a8e")
#define NOTFOUND ERR("96c73a8d")
#define PERM     ERR("96c73ac2")
#define BADNAME  ERR("96c73a8b")

/* A conversation from an empty server on; "*" stands for a uuid. */
static const struct step {
    unsigned opcode;
    const char *args, *reply;
} conversation[] = {
    {KCM_OP_NOOP, "", OK},
    {KCM_OP_RESOLVE, NAME, OK},
    {KCM_OP_GET_DEFAULT_CACHE, "", "00000009 00000000 00000000" NAME},
    {KCM_OP_GET_CACHE_UUID_LIST, "", NOFILE},
    {KCM_OP_GET_PRINCIPAL, NAME, NOFILE},
    {KCM_OP_STORE, NAME CRED, NOFILE},
    {KCM_OP_DESTROY, NAME, NOFILE},
    {KCM_OP_INITIALIZE, "3130303200" ALICE, BADNAME},
    {KCM_OP_INITIALIZE, NAME ALICE, OK},
    {KCM_OP_GET_NAME, NAME, "00000009 00000000 00000000" NAME},
    {KCM_OP_GET_PRINCIPAL, NAME, "00000016 00000000 00000000" ALICE},
    {KCM_OP_GET_KDC_OFFSET, NAME, "00000008 00000000 00000000 00000000"},
    {KCM_OP_SET_KDC_OFFSET, NAME "fffffffe", OK},
    {KCM_OP_GET_KDC_OFFSET, NAME, "00000008 00000000 00000000 fffffffe"},
    {KCM_OP_GET_CRED_LIST, NAME, "00000008 00000000 00000000 00000000"},
    {KCM_OP_GET_CRED_UUID_LIST, NAME, OK},
    {KCM_OP_RETRIEVE, NAME TAG, END},
    {KCM_OP_REMOVE_CRED, NAME TAG, NOTFOUND},
    {KCM_OP_STORE, NAME CRED, OK},
    {KCM_OP_STORE, NAME CRED, OK},
    {KCM_OP_GET_CRED_LIST, NAME,
     "0000005e 00000000 00000000 00000001" CRED_LEN CRED},
    {KCM_OP_GET_CRED_UUID_LIST, NAME, "00000014 00000000 00000000 *"},
    {KCM_OP_GET_CRED_BY_UUID, NAME "00112233445566778899aabbccddeeff", END},
    {KCM_OP_RETRIEVE, NAME TAG, "00000056 00000000 00000000" CRED},
    {KCM_OP_SET_FLAGS, NAME "00000001", OK},
    {KCM_OP_CHOWN, NAME "000003e9 00000005", OK},
    {KCM_OP_CHOWN, NAME "000003ea 00000005", PERM},
    {KCM_OP_CHMOD, NAME "0180", OK},   /* 0600 */
    {KCM_OP_CHMOD, NAME "01a0", PERM}, /* 0640 */
    {KCM_OP_CHMOD, NAME "0000", PERM},
    {KCM_OP_GET_INITIAL_TICKET, NAME "00", INTERNAL},
    {KCM_OP_GET_TICKET, NAME, INTERNAL},
    {KCM_OP_SET_DEFAULT_CACHE, NAME, OK},
    {KCM_OP_MOVE_CACHE, NAME "3130303200", BADNAME},
    {KCM_OP_MOVE_CACHE, OTHER NAME, NOFILE},
    {KCM_OP_MOVE_CACHE, NAME OTHER, OK},
    {KCM_OP_GET_DEFAULT_CACHE, "", "0000000b 00000000 00000000" OTHER},
    {KCM_OP_GET_KDC_OFFSET, OTHER, "00000008 00000000 00000000 fffffffe"},
    {KCM_OP_GET_CACHE_UUID_LIST, "", "00000014 00000000 00000000 *"},
    {KCM_OP_GET_CACHE_BY_UUID, "00112233445566778899aabbccddeeff", NOFILE},
    {KCM_OP_REMOVE_CRED, OTHER TAG, OK},
    {KCM_OP_GET_CRED_UUID_LIST, OTHER, OK},
    {KCM_OP_REPLACE, NAME "00000007" HOST "00000001" CRED_LEN CRED, OK},
    {KCM_OP_GET_PRINCIPAL, NAME, "00000016 00000000 00000000" HOST},
    {KCM_OP_GET_KDC_OFFSET, NAME, "00000008 00000000 00000000 00000007"},
    {KCM_OP_DESTROY, OTHER, OK},
    {KCM_OP_GET_DEFAULT_CACHE, "", "00000009 00000000 00000000" NAME},
    {KCM_OP_SET_DEFAULT_CACHE, "666f6f00", BADNAME},
    {KCM_OP_SET_DEFAULT_CACHE, "00", BADNAME},
    {KCM_OP_GEN_NEW, "", "0000000b 00000000 00000000 313030313a3100"},
    {24, "", INTERNAL},
    {29, "", INTERNAL},
    {13003, "", INTERNAL},
    {0xffff, "", INTERNAL},
};

START_TEST(golden)
{
    for (size_t i = 0; i < sizeof(conversation) / sizeof(*conversation); i++) {
        const struct step *step = &conversation[i];
        struct writer want = {0};
        const char *star = strchr(step->reply, '*');
        char hex[512];
        snprintf(hex, sizeof(hex), "%.*s",
                 star == NULL ? -1 : (int)(star - step->reply), step->reply);
        sample_hex(&want, hex);
        writer_reset(&args);
        sample_hex(&args, step->args);
        call(step->opcode, NULL);
        ck_assert_msg(reply.len == want.len + (star == NULL ? 0 : 16) &&
                          memcmp(reply.p, want.p, want.len) == 0,
                      "step %d", (int)i);
        writer_free(&want);
    }
}
END_TEST

START_TEST(by_uuid)
{
    struct data got;
    uint8_t uuid[KCM_UUID_LEN];
    initialize_as(A, "1001", "alice@EX.ORG");
    store_one("1001", &(struct sample){0});
    ck_assert_int_eq(named(KCM_OP_GET_CRED_UUID_LIST, "1001", &got), 0);
    memcpy(uuid, got.p, sizeof(uuid));
    args_name("1001");
    write_bytes(&args, uuid, sizeof(uuid));
    ck_assert_int_eq(call(KCM_OP_GET_CRED_BY_UUID, &got), 0);
    struct cred c;
    ck_assert(cred_parse(got, &c));
    args_name("1001");
    write_bytes(&args, uuid, sizeof(uuid) - 1);
    ck_assert_int_eq(call(KCM_OP_GET_CRED_BY_UUID, &got), KCM_CODE_CC_IO);
    ck_assert_int_eq(send_as(A, KCM_OP_GET_CACHE_UUID_LIST, TEXT(""), &got),
                     0);
    memcpy(uuid, got.p, sizeof(uuid));
    struct data key = {uuid, sizeof(uuid)};
    ck_assert_int_eq(send_as(A, KCM_OP_GET_CACHE_BY_UUID, key, &got), 0);
    ck_assert_str_eq((const char *)got.p, "1001");
    ck_assert_int_eq(send_as(B, KCM_OP_GET_CACHE_BY_UUID, key, &got),
                     KCM_CODE_FCC_NOFILE);
    key.len--;
    ck_assert_int_eq(send_as(A, KCM_OP_GET_CACHE_BY_UUID, key, &got),
                     KCM_CODE_CC_IO);
}
END_TEST

/* One good request of each operation that has arguments. */
static const struct good {
    unsigned opcode;
    const char *args;
} goods[] = {
    {KCM_OP_GET_NAME, NAME},
    {KCM_OP_INITIALIZE, NAME HOST},
    {KCM_OP_DESTROY, NAME},
    {KCM_OP_STORE, NAME CRED},
    {KCM_OP_RETRIEVE, NAME TAG},
    {KCM_OP_GET_PRINCIPAL, NAME},
    {KCM_OP_GET_CRED_UUID_LIST, NAME},
    {KCM_OP_GET_CRED_BY_UUID, NAME "00112233445566778899aabbccddeeff"},
    {KCM_OP_REMOVE_CRED, NAME TAG},
    {KCM_OP_SET_FLAGS, NAME "00000000"},
    {KCM_OP_CHOWN, NAME "000003e9 000003e9"},
    {KCM_OP_CHMOD, NAME "0180"},
    {KCM_OP_MOVE_CACHE, NAME OTHER},
    {KCM_OP_GET_CACHE_BY_UUID, "00112233445566778899aabbccddeeff"},
    {KCM_OP_SET_DEFAULT_CACHE, OTHER},
    {KCM_OP_GET_KDC_OFFSET, NAME},
    {KCM_OP_SET_KDC_OFFSET, NAME "00000009"},
    {KCM_OP_GET_CRED_LIST, NAME},
    {KCM_OP_REPLACE, NAME "00000007" HOST "00000001" CRED_LEN CRED},
};
#define GOODS ((int)(sizeof(goods) / sizeof(goods[0])))

static void
populate(void)
{
    writer_reset(&args);
    sample_hex(&args, NAME ALICE);
    ck_assert_int_eq(call(KCM_OP_INITIALIZE, NULL), 0);
    writer_reset(&args);
    sample_hex(&args, NAME CRED);
    ck_assert_int_eq(call(KCM_OP_STORE, NULL), 0);
    ck_assert_int_eq(store_one("1001", &(struct sample){0}), 0);
}

START_TEST(truncated)
{
    struct writer before = {0}, after = {0}, good = {0};
    populate();
    dump(&before);
    sample_hex(&good, goods[_i].args);
    for (size_t n = 0; n < good.len; n++) {
        struct data part = {good.p, n};
        int32_t code = send_as(A, goods[_i].opcode, part, NULL);
        ck_assert_msg(code == KCM_CODE_HEIM_EOF || code == KCM_CODE_CC_IO,
                      "%d of %d bytes: %d", (int)n, (int)good.len, code);
        dump(&after);
        ck_assert(data_equal(writer_data(&before), writer_data(&after)));
    }
    writer_free(&good);
    writer_free(&after);
    writer_free(&before);
}
END_TEST

START_TEST(trailing)
{
    struct writer before = {0}, after = {0}, good = {0};
    populate();
    dump(&before);
    sample_hex(&good, goods[_i].args);
    write_u8(&good, 0);
    int32_t code = send_as(A, goods[_i].opcode, writer_data(&good), NULL);
    ck_assert_int_eq(code, EINVAL);
    dump(&after);
    ck_assert(data_equal(writer_data(&before), writer_data(&after)));
    writer_free(&good);
    writer_free(&after);
    writer_free(&before);
}
END_TEST

/* Counts and lengths that lie: a refusal changes nothing. */
START_TEST(lying)
{
    struct writer before = {0}, after = {0}, good = {0};
    sample_hex(&good, goods[_i].args);
    for (size_t at = 0; at + 4 <= good.len; at++) {
        uint8_t saved[4];
        populate();
        dump(&before);
        memcpy(saved, good.p + at, 4);
        memset(good.p + at, 0xff, 4);
        int32_t code = send_as(A, goods[_i].opcode, writer_data(&good), NULL);
        memcpy(good.p + at, saved, 4);
        dump(&after);
        ck_assert(code == 0 ||
                  data_equal(writer_data(&before), writer_data(&after)));
    }
    writer_free(&good);
    writer_free(&after);
    writer_free(&before);
}
END_TEST

START_TEST(not_a_request)
{
    static const char *const bad[] = {"",         "02",       "0200",
                                      "020000",   "02010000", "01000000",
                                      "03000000", "00020000"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        writer_reset(&args);
        sample_hex(&args, bad[i]);
        writer_reset(&reply);
        ck_assert_int_eq(
            kcm_server_handle(server, A, A, writer_data(&args), &reply),
            -EPROTO);
        ck_assert_uint_eq(reply.len, 0);
    }
}
END_TEST

/* B and root, for everything that names a cache of A. */
START_TEST(isolation)
{
    static const uid_t others[] = {B, 0};
    struct writer before = {0}, after = {0}, good = {0};
    populate();
    dump(&before);
    for (int o = 0; o < 2; o++) {
        for (int i = 0; i < GOODS; i++) {
            writer_reset(&good);
            sample_hex(&good, goods[i].args);
            int32_t code =
                send_as(others[o], goods[i].opcode, writer_data(&good), NULL);
            ck_assert_msg(code == KCM_CODE_FCC_NOFILE ||
                              code == KCM_CODE_CC_BADNAME,
                          "opcode %u: %d", goods[i].opcode, code);
        }
        ck_assert_int_eq(
            send_as(others[o], KCM_OP_GET_CACHE_UUID_LIST, TEXT(""), NULL),
            KCM_CODE_FCC_NOFILE);
    }
    dump(&after);
    ck_assert(data_equal(writer_data(&before), writer_data(&after)));
    ck_assert_int_eq(initialize_as(0, "foo", "root@EX.ORG"), 0);
    ck_assert_int_eq(named(KCM_OP_GET_PRINCIPAL, "foo", NULL),
                     KCM_CODE_FCC_NOFILE);
    writer_free(&good);
    writer_free(&after);
    writer_free(&before);
}
END_TEST

START_TEST(quotas)
{
    static char big[40001];
    char name[16];
    for (int i = 0; i < 4; i++) {
        snprintf(name, sizeof(name), "1001:%d", i);
        ck_assert_int_eq(initialize_as(A, name, "alice@EX.ORG"), 0);
    }
    ck_assert_int_eq(initialize_as(A, "1001:4", "alice@EX.ORG"),
                     KCM_CODE_FCC_INTERNAL);
    ck_assert_int_eq(initialize_as(B, "1002:4", "bob@EX.ORG"), 0);
    memset(big, 'x', sizeof(big) - 1);
    ck_assert_int_eq(store_one("1001:0", &(struct sample){.ticket = big}),
                     KCM_CODE_FCC_INTERNAL);
    ck_assert_int_eq(store_one("1001:0", &(struct sample){0}), 0);
}
END_TEST

START_TEST(without_mit_extensions)
{
    struct kcm_server_limits limits = {.no_mit_extensions = true};
    struct kcm_server *full = server;
    ck_assert_int_eq(kcm_server_new(&limits, &server), 0);
    initialize_as(A, "1001", "alice@EX.ORG");
    ck_assert_int_eq(named(KCM_OP_GET_CRED_LIST, "1001", NULL),
                     KCM_CODE_FCC_INTERNAL);
    writer_reset(&args);
    sample_hex(&args, NAME "00000007" HOST "00000000");
    ck_assert_int_eq(call(KCM_OP_REPLACE, NULL), KCM_CODE_FCC_INTERNAL);
    ck_assert_int_eq(named(KCM_OP_GET_CRED_UUID_LIST, "1001", NULL), 0);
    kcm_server_free(server);
    server = full;
}
END_TEST

/* A list longer than any client would read is refused. */
START_TEST(list_too_long)
{
    struct kcm_server *small = server;
    char *big = malloc(3 * 1024 * 1024 + 1);
    ck_assert_int_eq(kcm_server_new(NULL, &server), 0);
    memset(big, 'x', 3 * 1024 * 1024);
    big[3 * 1024 * 1024] = '\0';
    initialize_as(A, "1001", "alice@EX.ORG");
    for (uint32_t i = 0; i < 4; i++) {
        ck_assert_int_eq(named(KCM_OP_GET_CRED_LIST, "1001", NULL), 0);
        ck_assert_int_eq(
            store_one("1001", &(struct sample){.ticket = big, .flags = i}), 0);
    }
    ck_assert_int_eq(named(KCM_OP_GET_CRED_LIST, "1001", NULL),
                     KCM_CODE_FCC_INTERNAL);
    free(big);
    kcm_server_free(server);
    server = small;
}
END_TEST

int
main(void)
{
    Suite *s = suite_create("server");
    TCase *t = tcase_create("server");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, golden);
    tcase_add_test(t, by_uuid);
    tcase_add_loop_test(t, truncated, 0, GOODS);
    tcase_add_loop_test(t, trailing, 0, GOODS);
    tcase_add_loop_test(t, lying, 0, GOODS);
    tcase_add_test(t, not_a_request);
    tcase_add_test(t, isolation);
    tcase_add_test(t, quotas);
    tcase_add_test(t, without_mit_extensions);
    tcase_add_test(t, list_too_long);
    suite_add_tcase(s, t);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
