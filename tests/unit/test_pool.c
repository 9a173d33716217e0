/*
 * Connections kept and shared: kcm/pool.c.
 */
#include "../../kcm/pool.h"
#include "peer.h"

static struct peer peer;
static struct pool *pool;
static struct caller caller;

static struct caller
caller_for(int ms)
{
    struct caller c = {.uid = geteuid(), .gid = getegid()};
    c.wake = wake_mine();
    c.deadline = now_ms() + ms;
    return c;
}

static void
setup(void)
{
    peer_start(&peer, NULL);
    ck_assert_int_eq(pool_new(peer.path, &pool), 0);
    caller = caller_for(5000);
}

static void
teardown(void)
{
    pool_free(pool);
    peer_stop(&peer);
    peer_await_end(&peer);
}

static int
noop(struct conn *c, const struct caller *who)
{
    struct batch b = {0};
    batch_add(&b, KCM_OP_NOOP);
    int r = conn_exchange(c, &b, who);
    batch_free(&b);
    return r;
}

START_TEST(kept)
{
    struct conn *c, *again;
    for (int i = 0; i < 10; i++) {
        ck_assert_int_eq(pool_get(pool, &caller, &c), 0);
        ck_assert_int_eq(c->used, i > 0);
        ck_assert_int_eq(noop(c, &caller), 0);
        pool_put(pool, c);
    }
    ck_assert_uint_eq(peer.accepted, 1);
    ck_assert_int_eq(pool_get(pool, &caller, &c), 0);
    ck_assert_int_eq(pool_get(pool, &caller, &again), 0);
    ck_assert_ptr_ne(c, again);
    ck_assert(!again->used);
    ck_assert_int_eq(noop(again, &caller), 0);
    pool_put(pool, c);
    pool_put(pool, again);
    ck_assert_uint_eq(peer.accepted, 2);
}
END_TEST

START_TEST(most_at_once)
{
    struct conn *c[4], *none = (struct conn *)&peer;
    for (int i = 0; i < 4; i++) {
        ck_assert_int_eq(pool_get(pool, &caller, &c[i]), 0);
        /* What was answered was accepted. */
        ck_assert_int_eq(noop(c[i], &caller), 0);
    }
    struct caller hasty = caller_for(30);
    ck_assert_int_eq(pool_get(pool, &hasty, &none), -ETIMEDOUT);
    ck_assert_ptr_null(none);
    wake_interrupt(hasty.wake);
    hasty.deadline += 5000;
    ck_assert_int_eq(pool_get(pool, &hasty, &none), -EINTR);
    caller = caller_for(5000);
    pool_put(pool, c[3]);
    ck_assert_int_eq(pool_get(pool, &caller, &c[3]), 0);
    for (int i = 0; i < 4; i++)
        pool_put(pool, c[i]);
    ck_assert_uint_eq(peer.accepted, 4);
}
END_TEST

static void *
get_and_put(void *arg)
{
    struct caller c = caller_for(20000);
    struct conn *conn;
    int *result = arg;
    *result = pool_get(pool, &c, &conn);
    if (*result == 0)
        pool_put(pool, conn);
    return NULL;
}

static _Atomic int refused;

static void *
get_or_be_refused(void *arg)
{
    int *result = arg;
    get_and_put(result);
    refused += *result == -EAGAIN;
    return NULL;
}

/* Those that hang must not take all threads. */
START_TEST(too_many_wait)
{
    pthread_t threads[130];
    int results[130];
    struct conn *c[4];
    refused = 0;
    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(pool_get(pool, &caller, &c[i]), 0);
    for (int i = 0; i < 130; i++)
        pthread_create(&threads[i], NULL, get_or_be_refused, &results[i]);
    while (refused < 6) /* 4 have one, 124 wait */
        usleep(1000);
    for (int i = 0; i < 4; i++)
        pool_put(pool, c[i]);
    for (int i = 0; i < 130; i++) {
        pthread_join(threads[i], NULL);
        ck_assert(results[i] == -EAGAIN || results[i] == 0);
    }
    ck_assert_int_eq(refused, 6);
}
END_TEST

START_TEST(all_get_their_turn)
{
    pthread_t threads[60];
    int results[60];
    for (int i = 0; i < 60; i++)
        pthread_create(&threads[i], NULL, get_and_put, &results[i]);
    for (int i = 0; i < 60; i++) {
        pthread_join(threads[i], NULL);
        ck_assert_int_eq(results[i], 0);
    }
    ck_assert_uint_le(peer.accepted, 4);
}
END_TEST

/* One that failed takes the idle ones along: the same daemon. */
START_TEST(dropped)
{
    struct conn *c[3];
    for (int i = 0; i < 3; i++) {
        ck_assert_int_eq(pool_get(pool, &caller, &c[i]), 0);
        ck_assert_int_eq(noop(c[i], &caller), 0);
    }
    pool_put(pool, c[0]);
    pool_put(pool, c[1]);
    peer_rule_set(&peer, 0, RULE(ANY, 1, DELAY, 60));
    struct caller hasty = caller_for(20);
    ck_assert_int_eq(noop(c[2], &hasty), -ETIMEDOUT);
    pool_drop(pool, c[2]);
    ck_assert_int_eq(pool_get(pool, &caller, &c[0]), 0);
    ck_assert(!c[0]->used);
    ck_assert_int_eq(noop(c[0], &caller), 0);
    pool_put(pool, c[0]);
    ck_assert_uint_eq(peer.accepted, 4);
    for (int i = 0; i < 5000 && peer.live > 1; i++)
        usleep(1000);
    ck_assert_uint_eq(peer.live, 1);
}
END_TEST

/* sssd leaks until a connection closes. */
START_TEST(worn_out)
{
    struct conn *c;
    ck_assert_int_eq(pool_get(pool, &caller, &c), 0);
    ck_assert_int_eq(noop(c, &caller), 0);
    if (_i == 0)
        c->requests = 20001;
    else
        c->received = ((size_t)16 << 20) + 1;
    pool_put(pool, c);
    ck_assert_int_eq(pool_get(pool, &caller, &c), 0);
    ck_assert(!c->used);
    pool_put(pool, c);
}
END_TEST

START_TEST(no_daemon)
{
    struct conn *c = (struct conn *)&peer;
    peer_hang_up(&peer);
    ck_assert_int_eq(pool_get(pool, &caller, &c), -ECONNREFUSED);
    ck_assert_ptr_null(c);
    /* The turn was given back: more than there are. */
    for (int i = 0; i < 10; i++)
        ck_assert_int_eq(pool_get(pool, &caller, &c), -ECONNREFUSED);
    peer_listen(&peer);
    ck_assert_int_eq(pool_get(pool, &caller, &c), 0);
    pool_put(pool, c);
}
END_TEST

/* A daemon that accepts nobody, its backlog full. */
START_TEST(backlog_full)
{
    char path[64];
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct pool *other;
    struct conn *c[4];
    int got = 0, fd = socket(AF_UNIX, SOCK_STREAM, 0), r = 0;
    snprintf(path, sizeof(path), "%s/full", peer.dir);
    memcpy(address.sun_path, path, strlen(path) + 1);
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, sizeof(address)),
                     0);
    ck_assert_int_eq(listen(fd, 0), 0);
    ck_assert_int_eq(pool_new(path, &other), 0);
    struct caller hasty = caller_for(100);
    while (got < 4 && (r = pool_get(other, &hasty, &c[got])) == 0)
        got++;
    ck_assert_int_eq(r, -ETIMEDOUT);
    hasty = caller_for(5000);
    wake_interrupt(hasty.wake);
    ck_assert_int_eq(pool_get(other, &hasty, &c[got]), -EINTR);
    while (got > 0)
        pool_put(other, c[--got]);
    pool_free(other);
    close(fd);
    unlink(path);
}
END_TEST

/* Everybody has connections of their own; those used last are kept. */
START_TEST(identities)
{
    const unsigned uids = geteuid() == 0 ? 300 : 1;
    struct conn *c;
    for (unsigned i = 0; i < uids; i++) {
        struct caller who = caller;
        who.uid = caller.uid + i;
        ck_assert_int_eq(pool_get(pool, &who, &c), 0);
        ck_assert_uint_eq(c->uid, who.uid);
        ck_assert(!c->used);
        ck_assert_int_eq(noop(c, &who), 0);
        pool_put(pool, c);
    }
    for (int i = 0; i < 1000 && peer.live > 256; i++)
        usleep(1000);
    ck_assert_uint_eq(peer.live, uids < 256 ? uids : 256);
    ck_assert_uint_eq(peer.accepted, uids);
    struct caller last = caller;
    last.uid += uids - 1;
    ck_assert_int_eq(pool_get(pool, &last, &c), 0);
    ck_assert(c->used);
    pool_put(pool, c);
}
END_TEST

static void *
use(void *arg)
{
    for (int i = 0; i < 200; i++) {
        struct caller who = caller_for(20000);
        struct conn *c;
        who.gid += geteuid() == 0 ? (gid_t)(uintptr_t)arg % 3 : 0;
        ck_assert_int_eq(pool_get(pool, &who, &c), 0);
        ck_assert_uint_eq(c->gid, who.gid);
        ck_assert_int_eq(noop(c, &who), 0);
        if (i % 50 == 49)
            pool_drop(pool, c);
        else
            pool_put(pool, c);
    }
    return NULL;
}

START_TEST(many_threads)
{
    pthread_t threads[12];
    for (uintptr_t i = 0; i < 12; i++)
        pthread_create(&threads[i], NULL, use, (void *)i);
    for (int i = 0; i < 12; i++)
        pthread_join(threads[i], NULL);
    ck_assert_uint_eq(peer.requests, 12 * 200);
}
END_TEST

int
main(void)
{
    Suite *s = suite_create("pool");
    TCase *t = tcase_create("pool");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, kept);
    tcase_add_test(t, most_at_once);
    tcase_add_test(t, too_many_wait);
    tcase_add_test(t, all_get_their_turn);
    tcase_add_test(t, dropped);
    tcase_add_loop_test(t, worn_out, 0, 2);
    tcase_add_test(t, no_daemon);
    tcase_add_test(t, backlog_full);
    tcase_add_test(t, identities);
    tcase_add_test(t, many_threads);
    suite_add_tcase(s, t);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
