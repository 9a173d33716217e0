/*
 * The caches that kcmd holds: kcm/store.c, creds.c, table.c.
 */
#include <check.h>
#include <errno.h>
#include <stdio.h>

#include "../../kcm/store.h"
#include "samples.h"
#include "tags.h"

#define U 1001

static struct store *store;
static struct store_user *user;

static void
setup(void)
{
    store = store_new(8, 64 * 1024);
    user = store_user_lock(store, U);
}

static void
teardown(void)
{
    store_user_unlock(user);
    store_free(store);
    ck_assert_uint_eq(secret_in_use(), 0);
}

static int
init(const char *name, const char *principal)
{
    struct writer w = {0};
    sample_principal(&w, principal);
    int result = store_initialize(user, TEXT(name), writer_data(&w));
    writer_free(&w);
    return result;
}

static struct store_cache *
fresh(const char *name)
{
    ck_assert_int_eq(init(name, "alice@EX.ORG"), 0);
    return store_find(user, TEXT(name));
}

static int
add(struct store_cache *cache, const struct sample *s)
{
    struct writer w = {0};
    sample_cred(&w, s);
    int result = store_add(user, cache, writer_data(&w));
    writer_free(&w);
    return result;
}

/* The first letters of the tickets, in order. */
static const char *
tickets(const struct store_cache *cache)
{
    static char out[64];
    size_t n = 0;
    for (struct store_cred *e = cache->creds.first; e != NULL; e = e->next) {
        struct cred c;
        struct data d = {e->blob->bytes, e->blob->len};
        ck_assert(cred_parse(d, &c));
        out[n++] = (char)c.ticket.p[0];
    }
    ck_assert_uint_eq(n, cache->creds.count);
    out[n] = '\0';
    return out;
}

START_TEST(names)
{
    static const struct {
        uid_t uid;
        const char *name;
        bool allowed;
    } rows[] = {
        {1001, "1001", true},
        {1001, "1001:", true},
        {1001, "1001:x", true},
        {1001, "1001:a/b\n\xff", true},
        {1001, "1001x", false},
        {1001, "10017", false},
        {1001, "01001", false},
        {1001, "1002", false},
        {1001, "1002:x", false},
        {1001, "100", false},
        {1001, "foo", false},
        {1001, "", false},
        {1001, ":", false},
        {0, "0", true},
        {0, "0:x", true},
        {0, "foo", true},
        {0, "1001x", true},
        {0, ":x", true},
        {0, "", false},
        {0, "1001", false},
        {0, "1001:x", false},
        {0, "00", false},
        {4294967294u, "4294967294:a", true},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        ck_assert_msg(store_name_allowed(rows[i].uid, TEXT(rows[i].name)) ==
                          rows[i].allowed,
                      "%u %s", (unsigned)rows[i].uid, rows[i].name);
    char name[1026] = "1001:";
    memset(name + 5, 'x', 1020);
    ck_assert(!store_name_allowed(1001, TEXT(name)));
    name[1024] = '\0';
    ck_assert(store_name_allowed(1001, TEXT(name)));
}
END_TEST

START_TEST(initialize)
{
    uint8_t uuid[KCM_UUID_LEN];
    struct store_cache *c = fresh("1001:a");
    ck_assert_uint_eq(c->uuid[6] >> 4, 4);
    ck_assert_uint_eq(c->uuid[8] >> 6, 2);
    memcpy(uuid, c->uuid, sizeof(uuid));
    ck_assert_int_eq(add(c, &(struct sample){.ticket = "a"}), 0);
    c->kdc_offset = 7;
    ck_assert_int_eq(init("1001:a", "bob@EX.ORG"), 0);
    ck_assert_ptr_eq(store_find(user, TEXT("1001:a")), c);
    ck_assert_ptr_eq(store_find_uuid(user, uuid), c);
    ck_assert_uint_eq(c->creds.count, 0);
    ck_assert_int_eq(c->kdc_offset, 0);
    struct principal p;
    struct data d = {c->principal->bytes, c->principal->len};
    ck_assert(principal_parse(d, &p));
    ck_assert(data_equal(principal_component(&p, 0), TEXT("bob")));
    ck_assert_ptr_null(store_find(user, TEXT("1001:")));
    ck_assert_ptr_null(store_find(user, TEXT("1001:aa")));
    store_destroy(user, c);
    ck_assert_ptr_null(store_find_uuid(user, uuid));
    ck_assert_uint_eq(user->charged, 0);
    ck_assert_uint_eq(user->count, 0);
}
END_TEST

START_TEST(order_and_twins)
{
    struct store_cache *c = fresh("1001");
    ck_assert_int_eq(add(c, &(struct sample){.ticket = "a"}), 0);
    ck_assert_int_eq(
        add(c, &(struct sample){.ticket = "b", .server = "x@EX.ORG"}), 0);
    uint8_t uuid[KCM_UUID_LEN];
    memcpy(uuid, c->creds.first->uuid, sizeof(uuid));
    size_t charged = user->charged;
    ck_assert_int_eq(add(c, &(struct sample){.ticket = "a"}), 0);
    ck_assert_str_eq(tickets(c), "ab");
    ck_assert_mem_eq(c->creds.first->uuid, uuid, sizeof(uuid));
    ck_assert_uint_eq(user->charged, charged);
    ck_assert_int_eq(add(c, &(struct sample){.ticket = "c", .endtime = 9}), 0);
    ck_assert_str_eq(tickets(c), "abc");
    ck_assert_ptr_eq(store_cred_find_uuid(c, uuid), c->creds.first);
}
END_TEST

START_TEST(config_replaced)
{
    struct store_cache *c = fresh("1001");
    struct sample key = {.server = "krb5_ccache_conf_data/k@X-CACHECONF:",
                         .ticket = "1"};
    struct sample other = {.server = "krb5_ccache_conf_data/l@X-CACHECONF:",
                           .ticket = "o"};
    struct sample for_one = {
        .server = "krb5_ccache_conf_data/k/p@X-CACHECONF:", .ticket = "p"};
    ck_assert_int_eq(add(c, &key), 0);
    ck_assert_int_eq(add(c, &other), 0);
    ck_assert_int_eq(add(c, &for_one), 0);
    uint8_t uuid[KCM_UUID_LEN];
    memcpy(uuid, c->creds.first->uuid, sizeof(uuid));
    key.ticket = "2, and longer";
    ck_assert_int_eq(add(c, &key), 0);
    ck_assert_str_eq(tickets(c), "2op");
    ck_assert_ptr_null(store_cred_find_uuid(c, uuid));
    key.ticket = "3";
    ck_assert_int_eq(add(c, &key), 0);
    ck_assert_int_eq(add(c, &key), 0);
    ck_assert_str_eq(tickets(c), "3op");
    store_destroy(user, c);
    ck_assert_uint_eq(user->charged, 0);
}
END_TEST

static char
retrieved(const struct store_cache *c, const struct match *m)
{
    struct cred found;
    const struct store_cred *e = store_cred_match(c, m);
    if (e == NULL)
        return '-';
    struct data d = {e->blob->bytes, e->blob->len};
    ck_assert(cred_parse(d, &found));
    return (char)found.ticket.p[0];
}

START_TEST(match_prefers_newest_of_purpose)
{
    struct store_cache *c = fresh("1001");
    struct writer w = {0};
    struct sample s = {.ticket = "1", .endtime = 100};
    add(c, &s);
    s = (struct sample){.ticket = "2", .endtime = 300};
    add(c, &s);
    s = (struct sample){.ticket = "3", .endtime = 200};
    add(c, &s);
    s = (struct sample){.ticket = "u", .endtime = 900, .second = "s"};
    add(c, &s);
    s = (struct sample){.ticket = "e", .endtime = 900, .enctype = 17};
    add(c, &s);
    struct match m = tag(&w, 0, CS, &(struct sample){0});
    ck_assert_int_eq(retrieved(c, &m), '3');
    m = tag(&w, 0, KCM_MCRED_SERVER, &(struct sample){0});
    ck_assert_int_eq(retrieved(c, &m), '3');
    m = tag(&w, KCM_TC_MATCH_TIMES, CS, &(struct sample){.endtime = 250});
    ck_assert_int_eq(retrieved(c, &m), '2');
    m = tag(&w, KCM_TC_MATCH_TIMES, CS, &(struct sample){.endtime = 350});
    ck_assert_int_eq(retrieved(c, &m), 'u');
    m = tag(&w, KCM_TC_MATCH_TIMES, CS, &(struct sample){.endtime = 950});
    ck_assert_int_eq(retrieved(c, &m), '-');
    writer_free(&w);
}
END_TEST

START_TEST(removes_all_matches)
{
    struct store_cache *c = fresh("1001");
    struct writer w = {0};
    for (uint32_t i = 0; i < 3; i++)
        add(c, &(struct sample){.ticket = "a", .endtime = i});
    add(c, &(struct sample){.ticket = "b", .server = "x@EX.ORG"});
    add(c, &(struct sample){.ticket = "a", .endtime = 9});
    struct match m = tag(&w, 0, CS, &(struct sample){0});
    ck_assert_uint_eq(store_remove(user, c, &m), 4);
    ck_assert_str_eq(tickets(c), "b");
    ck_assert_uint_eq(store_remove(user, c, &m), 0);
    m = tag(&w, 0, 0, &(struct sample){0});
    ck_assert_uint_eq(store_remove(user, c, &m), 1);
    ck_assert_ptr_null(c->creds.first);
    ck_assert_ptr_null(c->creds.last);
    ck_assert_uint_eq(c->creds.bytes, 0);
    writer_free(&w);
}
END_TEST

START_TEST(default_name)
{
    char room[12];
    ck_assert(data_equal(store_default(user, room), TEXT("1001")));
    fresh("1001:a");
    struct store_cache *b = fresh("1001:b");
    ck_assert(data_equal(store_default(user, room), TEXT("1001:b")));
    ck_assert_int_eq(store_set_default(user, TEXT("1001:a")), 0);
    ck_assert(data_equal(store_default(user, room), TEXT("1001:a")));
    fresh("1001:c");
    ck_assert_int_eq(init("1001:a", "bob@EX.ORG"), 0);
    ck_assert(data_equal(store_default(user, room), TEXT("1001:a")));
    store_destroy(user, b);
    ck_assert(data_equal(store_default(user, room), TEXT("1001:a")));
    store_destroy(user, store_find(user, TEXT("1001:a")));
    ck_assert(data_equal(store_default(user, room), TEXT("1001:c")));
    ck_assert_int_eq(store_set_default(user, TEXT("1001:none")), 0);
    ck_assert(data_equal(store_default(user, room), TEXT("1001:none")));
}
END_TEST

START_TEST(move)
{
    char room[12];
    uint8_t uuid[KCM_UUID_LEN];
    struct store_cache *a = fresh("1001:a"), *b = fresh("1001:b");
    add(a, &(struct sample){.ticket = "a"});
    add(b, &(struct sample){.ticket = "b"});
    a->kdc_offset = 5;
    memcpy(uuid, b->uuid, sizeof(uuid));
    store_set_default(user, TEXT("1001:a"));
    ck_assert_int_eq(store_move(user, a, TEXT("1001:a")), 0);
    ck_assert_ptr_eq(store_find(user, TEXT("1001:a")), a);
    ck_assert_int_eq(store_move(user, a, TEXT("1001:b")), 0);
    ck_assert_ptr_null(store_find(user, TEXT("1001:a")));
    b = store_find(user, TEXT("1001:b"));
    ck_assert_mem_eq(b->uuid, uuid, sizeof(uuid));
    ck_assert_str_eq(tickets(b), "a");
    ck_assert_int_eq(b->kdc_offset, 5);
    ck_assert(data_equal(store_default(user, room), TEXT("1001:b")));
    ck_assert_int_eq(store_move(user, b, TEXT("1001:new")), 0);
    struct store_cache *n = store_find(user, TEXT("1001:new"));
    ck_assert_mem_ne(n->uuid, uuid, sizeof(uuid));
    ck_assert_str_eq(tickets(n), "a");
    ck_assert_uint_eq(user->count, 1);
    ck_assert(data_equal(store_default(user, room), TEXT("1001:new")));
    store_destroy(user, n);
    ck_assert_uint_eq(user->charged, 0);
}
END_TEST

/* A full user can still move: the count does not grow. */
START_TEST(move_at_quota)
{
    char name[16];
    for (int i = 0; i < 8; i++) {
        snprintf(name, sizeof(name), "1001:%d", i);
        fresh(name);
    }
    ck_assert_int_eq(init("1001:8", "alice@EX.ORG"), -EDQUOT);
    ck_assert_int_eq(init("1001:7", "alice@EX.ORG"), 0);
    struct store_cache *c = store_find(user, TEXT("1001:7"));
    ck_assert_int_eq(store_move(user, c, TEXT("1001:8")), 0);
    ck_assert_uint_eq(user->count, 8);
}
END_TEST

START_TEST(new_names)
{
    char room[24];
    fresh("1001:2");
    store_new_name(user, room);
    ck_assert_str_eq(room, "1001:1");
    store_new_name(user, room);
    ck_assert_str_eq(room, "1001:3");
}
END_TEST

START_TEST(byte_quota)
{
    static char big[20001];
    memset(big, 'x', sizeof(big) - 1);
    struct store_cache *c = fresh("1001");
    for (uint32_t i = 0; i < 3; i++)
        ck_assert_int_eq(add(c, &(struct sample){.ticket = big, .endtime = i}),
                         0);
    size_t charged = user->charged;
    ck_assert_int_eq(add(c, &(struct sample){.ticket = big, .endtime = 4}),
                     -EDQUOT);
    ck_assert_uint_eq(user->charged, charged);
    ck_assert_uint_eq(c->creds.count, 3);
    /* The same bytes again need nothing. */
    ck_assert_int_eq(add(c, &(struct sample){.ticket = big, .endtime = 1}), 0);
    ck_assert_int_eq(init("1001", "alice@EX.ORG"), 0);
    ck_assert_int_eq(add(c, &(struct sample){.ticket = big, .endtime = 4}), 0);
}
END_TEST

static int
replace(const char *name, const struct sample *s, uint32_t count)
{
    struct writer list = {0}, one = {0}, principal = {0};
    struct reader r;
    for (uint32_t i = 0; i < count; i++) {
        writer_reset(&one);
        sample_cred(&one, &s[i]);
        write_data32(&list, writer_data(&one));
    }
    sample_principal(&principal, "carol@EX.ORG");
    reader_init(&r, list.p, list.len);
    int result =
        store_replace(user, TEXT(name), 33, writer_data(&principal), count, r);
    writer_free(&principal);
    writer_free(&one);
    writer_free(&list);
    return result;
}

START_TEST(replaces)
{
    static char big[60001];
    memset(big, 'x', sizeof(big) - 1);
    struct sample two[] = {{.ticket = "x"}, {.ticket = "y", .flags = 1}};
    struct sample over[] = {{.ticket = "x"}, {.ticket = big, .flags = 1}};
    struct sample twins[] = {{.ticket = "x"}, {.ticket = "x"}};
    struct store_cache *c = fresh("1001:a");
    uint8_t uuid[KCM_UUID_LEN];
    memcpy(uuid, c->uuid, sizeof(uuid));
    add(c, &(struct sample){.ticket = "old"});
    ck_assert_int_eq(replace("1001:a", two, 2), 0);
    ck_assert_mem_eq(c->uuid, uuid, sizeof(uuid));
    ck_assert_str_eq(tickets(c), "xy");
    ck_assert_int_eq(c->kdc_offset, 33);
    size_t charged = user->charged;
    ck_assert_int_eq(replace("1001:a", over, 2), 0);
    ck_assert_int_eq(replace("1001:b", over, 2), -EDQUOT);
    ck_assert_ptr_null(store_find(user, TEXT("1001:b")));
    ck_assert_str_eq(tickets(c), "xx");
    ck_assert_int_eq(replace("1001:a", two, 2), 0);
    ck_assert_uint_eq(user->charged, charged);
    ck_assert_int_eq(replace("1001:b", twins, 2), 0);
    ck_assert_str_eq(tickets(store_find(user, TEXT("1001:b"))), "x");
    ck_assert_int_eq(replace("1001:b", NULL, 0), 0);
    ck_assert_uint_eq(store_find(user, TEXT("1001:b"))->creds.count, 0);
}
END_TEST

START_TEST(users_apart)
{
    struct store_cache *c = fresh("1001");
    store_user_unlock(user);
    struct store_user *other = store_user_lock(store, 1002);
    ck_assert_ptr_ne(other, user);
    ck_assert_ptr_null(store_find(other, TEXT("1001")));
    ck_assert_ptr_null(store_find_uuid(other, c->uuid));
    store_user_unlock(other);
    ck_assert_ptr_eq(store_user_lock(store, U), user);
}
END_TEST

int
main(void)
{
    Suite *s = suite_create("store");
    TCase *t = tcase_create("store");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, names);
    tcase_add_test(t, initialize);
    tcase_add_test(t, order_and_twins);
    tcase_add_test(t, config_replaced);
    tcase_add_test(t, match_prefers_newest_of_purpose);
    tcase_add_test(t, removes_all_matches);
    tcase_add_test(t, default_name);
    tcase_add_test(t, move);
    tcase_add_test(t, move_at_quota);
    tcase_add_test(t, new_names);
    tcase_add_test(t, byte_quota);
    tcase_add_test(t, replaces);
    tcase_add_test(t, users_apart);
    suite_add_tcase(s, t);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
