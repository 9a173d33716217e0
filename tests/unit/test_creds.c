/*
 * The number of tickets in a cache does not count: kcm/creds.c compiled in
 * here with what it compares counted, which needs no clock.
 */
#include <check.h>
#include <stdio.h>

#include "../../kcm/creds.h"
#include "samples.h"
#include "tags.h"

/* Credentials parsed and compared, links of one hash followed. */
static size_t steps;

static bool
counted_parse(struct data d, struct cred *out)
{
    steps++;
    return cred_parse(d, out);
}

static bool
counted_match(const struct match *m, const struct cred *c)
{
    steps++;
    return match_cred(m, c);
}

static bool
counted_equal(struct data a, struct data b)
{
    steps++;
    return data_equal(a, b);
}

static struct table_link *
counted_next(const struct table_link *link)
{
    steps++;
    return table_next(link);
}

#define cred_parse counted_parse
#define match_cred counted_match
#define data_equal counted_equal
#define table_next counted_next
#include "../../kcm/creds.c"
#undef cred_parse
#undef match_cred
#undef data_equal
#undef table_next

#define U    1001
#define FEW  10
#define MANY 10000

/* How the tickets of a cache differ. */
enum shape {
    SERVERS, /* as usual */
    CLIENTS, /* of one server, so that all servers hash alike */
};

static struct store *store;
static struct store_user *user;
static struct store_cache *cache;

static void
setup(void)
{
    struct writer w = {0};
    store = store_new(8, (size_t)1 << 30);
    user = store_user_lock(store, U);
    sample_principal(&w, "alice@EX.ORG");
    ck_assert_int_eq(store_initialize(user, TEXT("1001"), writer_data(&w)), 0);
    cache = store_find(user, TEXT("1001"));
    writer_free(&w);
}

static void
teardown(void)
{
    store_user_unlock(user);
    store_free(store);
    ck_assert_uint_eq(secret_in_use(), 0);
}

/* The one of this number; its name is kept until the next call. */
static struct sample
sample_of(enum shape shape, unsigned number)
{
    static char name[32];
    snprintf(name, sizeof(name), "host/h%u@EX.ORG", number);
    return shape == SERVERS ? (struct sample){.server = name}
                            : (struct sample){.client = name};
}

static size_t
steps_to_add(const struct sample *s)
{
    struct writer w = {0};
    sample_cred(&w, s);
    steps = 0;
    ck_assert_int_eq(store_add(user, cache, writer_data(&w)), 0);
    writer_free(&w);
    return steps;
}

static size_t
steps_to_find(const struct sample *s, uint32_t present)
{
    struct writer w = {0};
    struct match m = tag(&w, 0, present, s);
    steps = 0;
    ck_assert_ptr_nonnull(store_cred_match(cache, &m));
    writer_free(&w);
    return steps;
}

static size_t
steps_to_remove(const struct sample *s)
{
    struct writer w = {0};
    struct match m = tag(&w, 0, CS, s);
    size_t count = cache->creds.count;
    steps = 0;
    ck_assert_uint_eq(store_remove(user, cache, &m), 1);
    ck_assert_uint_eq(cache->creds.count, count - 1);
    writer_free(&w);
    return steps;
}

static void
fill(enum shape shape, unsigned count)
{
    for (unsigned i = (unsigned)cache->creds.count; i < count; i++) {
        struct sample s = sample_of(shape, i);
        steps_to_add(&s);
    }
    ck_assert_uint_eq(cache->creds.count, count);
}

/* No more links than buckets, or chains would grow. */
static void
assert_spread(const struct table *t)
{
    ck_assert_uint_le(t->count, t->buckets == NULL ? TABLE_FEW : t->size);
}

struct costs {
    size_t store, store_again, first, middle, last, remove;
};

/* The cache has so many tickets, before and after. */
static struct costs
costs_of(enum shape shape, unsigned count)
{
    struct costs c;
    fill(shape, count);
    struct sample s = sample_of(shape, count);
    c.store = steps_to_add(&s);
    c.store_again = steps_to_add(&s);
    c.last = steps_to_find(&s, CS);
    c.remove = steps_to_remove(&s);
    s = sample_of(shape, 0);
    c.first = steps_to_find(&s, CS);
    s = sample_of(shape, count / 2);
    c.middle = steps_to_find(&s, CS);
    assert_spread(&cache->creds.by_uuid);
    assert_spread(&cache->creds.by_bytes);
    assert_spread(&cache->creds.by_key);
    return c;
}

START_TEST(flat)
{
    enum shape shape = (enum shape)_i;
    struct costs few = costs_of(shape, FEW), many = costs_of(shape, MANY);
    ck_assert_uint_gt(few.store, 0);
    ck_assert_uint_gt(few.last, 0);
    ck_assert_uint_eq(few.store, many.store);
    ck_assert_uint_eq(few.store_again, many.store_again);
    ck_assert_uint_eq(few.first, many.first);
    ck_assert_uint_eq(few.middle, many.middle);
    ck_assert_uint_eq(few.last, many.last);
    ck_assert_uint_eq(few.remove, many.remove);
    for (unsigned i = 0; i < MANY; i += 2) {
        struct sample s = sample_of(shape, i);
        ck_assert_uint_eq(steps_to_remove(&s), few.remove);
    }
    ck_assert_uint_eq(cache->creds.count, MANY / 2);
}
END_TEST

/* A configuration entry takes the place of the one before. */
START_TEST(flat_for_settings)
{
    struct sample setting = {.server = "krb5_ccache_conf_data/k@X-CACHECONF:",
                             .ticket = "1"};
    steps_to_add(&setting);
    fill(SERVERS, FEW);
    setting.ticket = "2";
    size_t few = steps_to_add(&setting);
    fill(SERVERS, MANY);
    setting.ticket = "3";
    ck_assert_uint_eq(steps_to_add(&setting), few);
    ck_assert_uint_eq(cache->creds.count, MANY);
}
END_TEST

/* By the server alone: others are passed by, but not compared. */
START_TEST(by_server)
{
    fill(SERVERS, FEW);
    struct sample last = sample_of(SERVERS, FEW - 1);
    size_t few = steps_to_find(&last, KCM_MCRED_SERVER);
    fill(SERVERS, MANY);
    last = sample_of(SERVERS, MANY - 1);
    ck_assert_uint_eq(steps_to_find(&last, KCM_MCRED_SERVER), few);
}
END_TEST

int
main(void)
{
    Suite *s = suite_create("creds");
    TCase *t = tcase_create("creds");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, flat, SERVERS, CLIENTS + 1);
    tcase_add_test(t, flat_for_settings);
    tcase_add_test(t, by_server);
    suite_add_tcase(s, t);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
