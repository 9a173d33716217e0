/*
 * The memory file that one kcmd leaves to the next: kcm/keep.c.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "../../kcm/keep.h"
#include "../../kcm/store.h"
#include "samples.h"

#define SEALS (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

/* One user with one cache, some of it spoiled. */
struct kept {
    const char *uuids;
    const char *default_name;
    struct data name;
    bool no_principal, no_cred, twice;
    uint32_t more;            /* credentials than there are */
    const struct kept *after; /* another cache */
};

#define GOOD                                                                  \
    {                                                                         \
        (const uint8_t *)"1:a", 4                                             \
    }

static void
put_cache(struct writer *w, const struct kept *k, const char *uuid)
{
    struct writer principal = {0}, cred = {0};
    sample_principal(&principal, "a@E");
    sample_cred(&cred, &(struct sample){.server = "h@E"});
    principal.len -= k->no_principal;
    cred.len -= k->no_cred;
    for (int i = 0; i < KCM_UUID_LEN; i++)
        write_u8(w, (uint8_t)uuid[0]);
    write_data32(w, k->name);
    write_data32(w, writer_data(&principal));
    write_u32(w, 7);
    write_u32(w, 1 + k->more);
    write_u32(w, (uint32_t)cred.len + 4);
    write_data32(w, writer_data(&cred));
    writer_free(&cred);
    writer_free(&principal);
}

/* The part of one user in w. */
static void
put_user(struct writer *w, uid_t uid, const struct kept *k)
{
    struct writer user = {0};
    write_u32(&user, (uint32_t)uid);
    write_u32(&user, 3);
    write_data32(&user, (struct data){(const uint8_t *)k->default_name,
                                      strlen(k->default_name) + 1});
    put_cache(&user, k, k->uuids);
    if (k->twice) {
        struct kept other = *k;
        other.name = (struct data){(const uint8_t *)"1:b", 4};
        put_cache(&user, &other, k->uuids + 1);
    }
    if (k->after != NULL)
        put_cache(&user, k->after, k->after->uuids);
    write_data32(w, writer_data(&user));
    writer_free(&user);
}

/* The users 1 and, unless second is NULL, 2. */
static int
load_two(const struct kept *k, const struct kept *second, struct store *store)
{
    struct writer w = {0};
    write_u32(&w, 0x6b636d64);
    write_u32(&w, 1);
    put_user(&w, 1, k);
    if (second != NULL)
        put_user(&w, 2, second);
    int fd = keep_new();
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, w.p, w.len), (ssize_t)w.len);
    ck_assert_int_eq(fcntl(fd, F_ADD_SEALS, SEALS), 0);
    writer_free(&w);
    return keep_load(store, fd);
}

static int
load(const struct kept *k, struct store *store)
{
    return load_two(k, NULL, store);
}

static size_t
caches_of(struct store *store, uid_t uid)
{
    struct store_user *u = store_user_lock(store, uid);
    size_t count = u->count;
    store_user_unlock(u);
    return count;
}

static size_t
caches(struct store *store)
{
    return caches_of(store, 1);
}

START_TEST(test_good)
{
    struct kept k = {"UV", "1:a", GOOD, .twice = true};
    struct store *store = store_new(4, 1 << 20);
    ck_assert_int_eq(load(&k, store), 0);
    ck_assert_uint_eq(caches(store), 2);
    struct store_user *u = store_user_lock(store, 1);
    char room[12];
    struct data name = store_default(u, room);
    ck_assert_uint_eq(name.len, 3);
    ck_assert_int_eq(memcmp(name.p, "1:a", 3), 0);
    ck_assert_ptr_eq(store_find_uuid(u, (const uint8_t *)"UUUUUUUUUUUUUUUU"),
                     store_find(u, TEXT("1:a")));
    store_user_unlock(u);
    store_free(store);
}
END_TEST

/* What no client could have stored is not taken over. */
static const struct kept bad[] = {
    {"UV", "1:a", GOOD, .no_principal = true},
    {"UV", "1:a", GOOD, .no_cred = true},
    {"UV", "1:a", GOOD, .more = 1},
    {"UV", "1:a", GOOD, .more = 0xfffffffe},
    {"UV", "2:a", GOOD, .more = 0},
    {"UV", "1:a", {(const uint8_t *)"1:a", 3}, .more = 0},
    {"UV", "1:a", {(const uint8_t *)"1:\0a", 5}, .more = 0},
    {"UV", "1:a", {(const uint8_t *)"2:a", 4}, .more = 0},
    {"UV", "1:a", {(const uint8_t *)"", 1}, .more = 0},
};

START_TEST(test_bad)
{
    struct store *store = store_new(4, 1 << 20);
    ck_assert_int_eq(load(&bad[_i], store), -EIO);
    ck_assert_uint_eq(caches(store), 0);
    store_free(store);
}
END_TEST

/* The first stays: each cache has a UUID of its own. */
START_TEST(test_one_uuid_for_two)
{
    struct kept k = {"UU", "1:a", GOOD, .twice = true};
    struct store *store = store_new(4, 1 << 20);
    ck_assert_int_eq(load(&k, store), -EIO);
    ck_assert_uint_eq(caches(store), 1);
    store_free(store);
}
END_TEST

static const struct kept second = {
    "WX", "2:a", {(const uint8_t *)"2:a", 4}, .more = 0};

/* What is wrong with one user is not the next one's. */
START_TEST(test_goes_on)
{
    struct store *store = store_new(4, 1 << 20);
    ck_assert_int_eq(load_two(&bad[_i], &second, store), -EIO);
    ck_assert_uint_eq(caches(store), 0);
    ck_assert_uint_eq(caches_of(store, 2), 1);
    store_free(store);
}
END_TEST

/* Nor one cache's the next one's. */
START_TEST(test_goes_on_in_a_user)
{
    struct kept good = {"V", "", {(const uint8_t *)"1:b", 4}, .more = 0};
    struct kept k = {"U", "1:a", GOOD, .no_principal = true, .after = &good};
    struct store *store = store_new(4, 1 << 20);
    ck_assert_int_eq(load(&k, store), -EIO);
    ck_assert_uint_eq(caches(store), 1);
    store_free(store);
}
END_TEST

/* store_move() lets a user have more than the quota, and another quota may
 * be less: what is there is taken over, and nothing more gets in. */
START_TEST(test_above_the_quota)
{
    struct kept k = {"UV", "1:a", GOOD, .twice = true};
    struct writer p = {0};
    struct store *store = _i == 0 ? store_new(1, 1 << 20) : store_new(4, 100);
    sample_principal(&p, "a@E");
    ck_assert_int_eq(load_two(&k, &second, store), 0);
    ck_assert_uint_eq(caches(store), 2);
    ck_assert_uint_eq(caches_of(store, 2), 1);
    struct store_user *u = store_user_lock(store, 1);
    ck_assert_int_eq(store_initialize(u, TEXT("1:c"), writer_data(&p)),
                     -EDQUOT);
    store_user_unlock(u);
    store_free(store);
    writer_free(&p);
}
END_TEST

int
main(void)
{
    Suite *s = suite_create("keep");
    TCase *t = tcase_create("load");
    tcase_add_test(t, test_good);
    tcase_add_loop_test(t, test_bad, 0, sizeof(bad) / sizeof(bad[0]));
    tcase_add_test(t, test_one_uuid_for_two);
    tcase_add_loop_test(t, test_goes_on, 0, sizeof(bad) / sizeof(bad[0]));
    tcase_add_test(t, test_goes_on_in_a_user);
    tcase_add_loop_test(t, test_above_the_quota, 0, 2);
    suite_add_tcase(s, t);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
