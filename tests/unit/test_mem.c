/*
 * Secret memory: kcm/mem.c.
 */
#include <check.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "../../kcm/mem.h"

START_TEST(zeroed_and_wiped)
{
    for (size_t size = 0; size < 40000; size += size / 7 + 1) {
        uint8_t *p = secret_alloc(size);
        ck_assert_ptr_nonnull(p);
        ck_assert_uint_eq((uintptr_t)p % 16, 0);
        for (size_t i = 0; i < size; i++)
            ck_assert_uint_eq(p[i], 0);
        memset(p, 0xee, size);
        secret_free(p);
        p = secret_alloc(size); /* the same block again, most often */
        for (size_t i = 0; i < size; i++)
            ck_assert_uint_eq(p[i], 0);
        secret_free(p);
    }
    secret_free(NULL);
    ck_assert_uint_eq(secret_in_use(), 0);
}
END_TEST

START_TEST(too_much)
{
    ck_assert_ptr_null(secret_alloc(SIZE_MAX));
    ck_assert_ptr_null(secret_alloc(SIZE_MAX - 100));
    ck_assert_ptr_null(blob_new(NULL, SIZE_MAX));
    ck_assert_uint_eq(secret_in_use(), 0);
}
END_TEST

static void
churn(unsigned seed)
{
    enum {
        N = 200
    };
    uint8_t *block[N] = {0};
    size_t size[N] = {0};
    for (int round = 0; round < 20000; round++) {
        unsigned i = (seed = seed * 1103515245u + 12345u) >> 8;
        i %= N;
        size_t k = 0;
        while (k < size[i] && block[i][k] == (uint8_t)i)
            k += 13; /* ck_assert() is a system call each time */
        ck_assert_uint_ge(k, size[i]);
        secret_free(block[i]);
        size[i] = (seed >> 4) % (round % 50 == 0 ? 70000 : 3000);
        block[i] = secret_alloc(size[i]);
        ck_assert_ptr_nonnull(block[i]);
        memset(block[i], (int)i, size[i]);
    }
    for (int i = 0; i < N; i++)
        secret_free(block[i]);
}

START_TEST(blocks_do_not_overlap)
{
    churn(1);
    ck_assert_uint_eq(secret_in_use(), 0);
}
END_TEST

static void *
churn_thread(void *arg)
{
    churn((unsigned)(uintptr_t)arg);
    return NULL;
}

START_TEST(many_threads)
{
    pthread_t threads[4];
    for (uintptr_t i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, churn_thread, (void *)(i + 1));
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    ck_assert_uint_eq(secret_in_use(), 0);
}
END_TEST

START_TEST(blobs)
{
    struct blob *b = blob_new("abc", 3);
    ck_assert_uint_eq(b->len, 3);
    ck_assert_mem_eq(b->bytes, "abc", 3);
    ck_assert_ptr_eq(blob_ref(b), b);
    ck_assert_int_eq(b->refs, 2);
    blob_unref(b);
    ck_assert_mem_eq(b->bytes, "abc", 3);
    blob_unref(b);
    ck_assert_uint_eq(secret_in_use(), 0);
    b = blob_new(NULL, 5);
    ck_assert_mem_eq(b->bytes, "\0\0\0\0\0", 5);
    blob_unref(b);
    b = blob_new(NULL, 0);
    ck_assert_uint_eq(b->len, 0);
    blob_unref(b);
    blob_unref(NULL);
}
END_TEST

START_TEST(cleanup_and_take)
{
    struct blob *kept;
    {
        _cleanup_(blob_unrefp) struct blob *a = blob_new("a", 1);
        _cleanup_(blob_unrefp) struct blob *b = blob_new("b", 1);
        _cleanup_(freep) char *c = strdup("c");
        ck_assert_ptr_nonnull(c);
        ck_assert_ptr_nonnull(b);
        kept = take(a);
        ck_assert_ptr_null(a);
    }
    ck_assert_uint_ge(secret_in_use(), 1);
    ck_assert_mem_eq(kept->bytes, "a", 1);
    blob_unref(kept);
    ck_assert_uint_eq(secret_in_use(), 0);
}
END_TEST

/* Under a sanitizer memory is not locked, or not by kcm/mem.c. */
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
/* How many bytes of this process are mapped and locked. */
static size_t
locked_kb(void)
{
    size_t kb = 0;
    char line[256];
    FILE *f = fopen("/proc/self/status", "re");
    ck_assert_ptr_nonnull(f);
    while (fgets(line, sizeof(line), f) != NULL)
        (void)sscanf(line, "VmLck: %zu", &kb);
    fclose(f);
    return kb;
}

/* What is freed while a lock may be held stays until it is given back. */
START_TEST(deferred)
{
    const size_t large = 1 << 20;
    size_t before = locked_kb();
    uint8_t *p[3];
    for (int i = 0; i < 3; i++) {
        p[i] = secret_alloc(large);
        ck_assert_ptr_nonnull(p[i]);
        memset(p[i], 0xee, large);
    }
    ck_assert(secret_unlocked() || locked_kb() >= before + 3 * 1024);
    size_t all = locked_kb();
    secret_defer();
    secret_free(p[0]);
    secret_free(p[1]);
    ck_assert_uint_eq(locked_kb(), all);
    ck_assert_uint_ge(secret_in_use(), 3 * large);
    /* writers give back at once, small blocks are wiped at once */
    secret_free_now(p[2]);
    ck_assert(secret_unlocked() || locked_kb() <= all - 1024);
    uint8_t *small = secret_alloc(100);
    memset(small, 0xee, 100);
    secret_free(small);
    ck_assert_ptr_eq(secret_alloc(100), small);
    ck_assert_uint_eq(small[50], 0);
    secret_free(small);
    secret_settle();
    ck_assert_uint_eq(secret_in_use(), 0);
    ck_assert_uint_le(locked_kb(), all - 3 * 1024 + 128);
    /* and afterwards nothing waits */
    p[0] = secret_alloc(large);
    all = locked_kb();
    secret_free(p[0]);
    ck_assert(secret_unlocked() || locked_kb() <= all - 1024);
}
END_TEST
#endif

int
main(void)
{
    Suite *s = suite_create("mem");
    TCase *t = tcase_create("mem");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, zeroed_and_wiped);
    tcase_add_test(t, too_much);
    tcase_add_test(t, blocks_do_not_overlap);
    tcase_add_test(t, many_threads);
    tcase_add_test(t, blobs);
    tcase_add_test(t, cleanup_and_take);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    tcase_add_test(t, deferred);
#endif
    suite_add_tcase(s, t);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
