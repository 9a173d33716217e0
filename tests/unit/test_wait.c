/*
 * Wakes, waits and turns: kcm/wait.c.
 */
#include <check.h>
#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "../../kcm/wait.h"

#define THREADS 16

static struct turn turn;
static int order[THREADS], finished;

static void
setup(void)
{
    turn_init(&turn, 1);
    finished = 0;
}

static void
teardown(void)
{
    turn_destroy(&turn);
}

/* This thread's caller, with so long to wait. */
static struct caller
caller_for(int ms)
{
    struct caller c = {.wake = wake_mine(), .deadline = now_ms() + ms};
    ck_assert_ptr_nonnull(c.wake);
    return c;
}

static unsigned
queue_length(void)
{
    unsigned n = 0;
    pthread_mutex_lock(&turn.lock);
    n = turn.free == 0 && turn.first != NULL;
    if (turn.first != NULL && turn.last != turn.first)
        n = 2; /* or more */
    pthread_mutex_unlock(&turn.lock);
    return n;
}

START_TEST(clock_goes_forward)
{
    int64_t before = now_ms();
    usleep(3000);
    int64_t passed = now_ms() - before;
    ck_assert_int_ge(passed, 2);
    ck_assert_int_lt(passed, 2000);
}
END_TEST

START_TEST(wake_is_the_threads)
{
    struct wake *w = wake_mine();
    ck_assert_ptr_nonnull(w);
    ck_assert_ptr_eq(w, wake_mine());
}
END_TEST

START_TEST(fd_is_ready)
{
    struct caller c = caller_for(2000);
    int fd = eventfd(1, 0);
    ck_assert_int_eq(wait_fd(fd, POLLIN, &c), 0);
    ck_assert_int_eq(wait_fd(fd, POLLOUT, &c), 0);
    close(fd);
}
END_TEST

START_TEST(deadline)
{
    static const int after[] = {60, 1, 0, -5};
    struct caller c = caller_for(after[_i]);
    int fd = eventfd(0, 0);
    int64_t before = now_ms();
    ck_assert_int_eq(wait_fd(fd, POLLIN, &c), -ETIMEDOUT);
    ck_assert_int_eq(wait_fd(-1, 0, &c), -ETIMEDOUT);
    ck_assert_int_ge(now_ms(), c.deadline);
    ck_assert_int_lt(now_ms() - before, 1000);
    /* What is past is past, also for what is ready. */
    ck_assert_int_eq(wait_fd(fd, POLLOUT, &c), -ETIMEDOUT);
    close(fd);
}
END_TEST

static void *
interrupt_soon(void *arg)
{
    usleep(30000);
    wake_interrupt(arg);
    return NULL;
}

START_TEST(interrupted)
{
    pthread_t thread;
    struct caller c = caller_for(5000);
    int64_t before = now_ms();
    pthread_create(&thread, NULL, interrupt_soon, c.wake);
    int fd = _i == 0 ? -1 : eventfd(0, 0);
    ck_assert_int_eq(wait_fd(fd, POLLIN, &c), -EINTR);
    ck_assert_int_lt(now_ms() - before, 2000);
    pthread_join(thread, NULL);
    /* It lasts until the wake is taken for the next request. */
    ck_assert_int_eq(wait_fd(fd, POLLIN, &c), -EINTR);
    c = caller_for(20);
    ck_assert_int_eq(wait_fd(fd, POLLIN, &c), -ETIMEDOUT);
    if (fd >= 0)
        close(fd);
}
END_TEST

/* An interrupt that comes before the wait is not lost. */
START_TEST(interrupted_before)
{
    struct caller c = caller_for(5000);
    wake_interrupt(c.wake);
    ck_assert_int_eq(wait_fd(-1, 0, &c), -EINTR);
    c = caller_for(20);
    ck_assert_int_eq(wait_fd(-1, 0, &c), -ETIMEDOUT);
}
END_TEST

START_TEST(counts)
{
    struct turn three;
    struct caller c = caller_for(20);
    turn_init(&three, 3);
    ck_assert(turn_try(&three));
    ck_assert_int_eq(turn_take(&three, &c), 0);
    ck_assert(turn_try(&three));
    ck_assert(!turn_try(&three));
    ck_assert_int_eq(turn_take(&three, &c), -ETIMEDOUT);
    ck_assert_ptr_null(three.first);
    ck_assert_ptr_null(three.last);
    turn_give(&three);
    ck_assert_uint_eq(three.free, 1);
    ck_assert(turn_try(&three));
    for (int i = 0; i < 3; i++)
        turn_give(&three);
    ck_assert_uint_eq(three.free, 3);
    turn_destroy(&three);
}
END_TEST

static void *
take_in_order(void *arg)
{
    struct caller c = caller_for(10000);
    ck_assert_int_eq(turn_take(&turn, &c), 0);
    order[finished++] = (int)(intptr_t)arg; /* the turn is the lock */
    turn_give(&turn);
    return NULL;
}

/* Wait until the thread that was started last is in the queue: its waiter
 * is the new last one. */
static void
await_last(const struct turn_waiter *before)
{
    for (;;) {
        pthread_mutex_lock(&turn.lock);
        bool there = turn.last != before;
        pthread_mutex_unlock(&turn.lock);
        if (there)
            return;
        usleep(500);
    }
}

START_TEST(first_come_first_served)
{
    pthread_t threads[THREADS];
    ck_assert(turn_try(&turn));
    for (intptr_t i = 0; i < THREADS; i++) {
        struct turn_waiter *last = turn.last;
        pthread_create(&threads[i], NULL, take_in_order, (void *)i);
        await_last(last);
    }
    ck_assert(!turn_try(&turn)); /* nobody overtakes */
    turn_give(&turn);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < THREADS; i++)
        ck_assert_int_eq(order[i], i);
    ck_assert_uint_eq(turn.free, 1);
}
END_TEST

struct attempt {
    int ms;
    uint64_t until; /* 0: for the turn alone */
    int result;
    struct wake *wake; /* atomic, once it runs */
    pthread_t thread;
};

static void *
attempt(void *arg)
{
    struct attempt *a = arg;
    struct caller c = caller_for(a->ms);
    __atomic_store_n(&a->wake, c.wake, __ATOMIC_RELEASE);
    a->result = a->until > 0 ? turn_take_until(&turn, a->until, &c)
                             : turn_take(&turn, &c);
    return NULL;
}

static void
start_until(struct attempt *a, int ms, uint64_t until)
{
    *a = (struct attempt){.ms = ms, .until = until};
    struct turn_waiter *last = turn.last;
    pthread_create(&a->thread, NULL, attempt, a);
    await_last(last);
}

static void
start(struct attempt *a, int ms)
{
    start_until(a, ms, 0);
}

/* Of those that need no turn, each is let go when its number has come; who
 * needs it, or more, keeps its place. */
START_TEST(passed)
{
    struct attempt list[5];
    static const uint64_t until[5] = {2, 0, 1, 3, 2};
    ck_assert(turn_try(&turn));
    for (int i = 0; i < 5; i++)
        start_until(&list[i], 10000, until[i]);
    turn_pass(&turn, 1);
    pthread_join(list[2].thread, NULL);
    turn_pass(&turn, 2);
    pthread_join(list[0].thread, NULL);
    pthread_join(list[4].thread, NULL);
    ck_assert(!turn_try(&turn));
    for (int i = 0; i < 5; i += 2)
        ck_assert_int_eq(list[i].result, TURN_PASSED);
    turn_give(&turn);
    pthread_join(list[1].thread, NULL);
    ck_assert_int_eq(list[1].result, 0);
    turn_pass(&turn, 2);
    ck_assert_ptr_nonnull(turn.first);
    turn_give(&turn);
    pthread_join(list[3].thread, NULL);
    ck_assert_int_eq(list[3].result, 0);
    ck_assert_ptr_null(turn.first);
    ck_assert_ptr_null(turn.last);
    turn_give(&turn);
    ck_assert_uint_eq(turn.free, 1);
    ck_assert_int_eq(
        turn_take_until(&turn, 1, &(struct caller){.wake = wake_mine()}), 0);
}
END_TEST

/* One in the middle of the queue gives up: the others keep their order. */
START_TEST(middle_gives_up)
{
    struct attempt list[3];
    ck_assert(turn_try(&turn));
    for (int i = 0; i < 3; i++)
        start(&list[i], 10000);
    ck_assert_uint_eq(queue_length(), 2);
    wake_interrupt(__atomic_load_n(&list[_i].wake, __ATOMIC_ACQUIRE));
    pthread_join(list[_i].thread, NULL);
    ck_assert_int_eq(list[_i].result, -EINTR);
    for (int i = 0; i < 3; i++) {
        if (i == _i)
            continue;
        turn_give(&turn);
        pthread_join(list[i].thread, NULL);
        ck_assert_int_eq(list[i].result, 0);
    }
    ck_assert_ptr_null(turn.first);
    turn_give(&turn);
    ck_assert_uint_eq(turn.free, 1);
}
END_TEST

/* The turn comes as the wait ends: it is either had or still there. */
START_TEST(granted_while_timing_out)
{
    int had = 0;
    for (int i = 0; i < 300; i++) {
        struct attempt a = {.ms = 2};
        ck_assert(turn_try(&turn));
        pthread_create(&a.thread, NULL, attempt, &a);
        usleep((useconds_t)(1000 + i * 7 % 2000));
        turn_give(&turn);
        pthread_join(a.thread, NULL);
        ck_assert(a.result == 0 || a.result == -ETIMEDOUT);
        had += a.result == 0;
        ck_assert_uint_eq(turn.free, a.result == 0 ? 0 : 1);
        if (a.result == 0)
            turn_give(&turn);
    }
    ck_assert_int_gt(had, 0);
}
END_TEST

/* A nudge that came too late must not end the thread's next wait early. */
START_TEST(stale_nudge)
{
    struct caller c = caller_for(50);
    struct turn other;
    uint64_t one = 1;
    turn_init(&other, 1);
    ck_assert(turn_try(&other));
    ck_assert_int_eq(write(c.wake->fd, &one, sizeof(one)), sizeof(one));
    ck_assert_int_eq(turn_take(&other, &c), -ETIMEDOUT);
    ck_assert_int_ge(now_ms(), c.deadline);
    turn_give(&other);
    turn_destroy(&other);
}
END_TEST

static unsigned shared;

static void *
contend(void *arg)
{
    unsigned *got = arg;
    for (int i = 0; i < 300; i++) {
        struct caller c = caller_for(i % 3 == 0 ? 1 : 5000);
        if (turn_take(&turn, &c) != 0)
            continue;
        shared++; /* ThreadSanitizer sees it if two are here */
        (*got)++;
        turn_give(&turn);
    }
    return NULL;
}

START_TEST(excludes)
{
    pthread_t threads[8];
    unsigned got[8] = {0}, sum = 0;
    shared = 0;
    for (int i = 0; i < 8; i++)
        pthread_create(&threads[i], NULL, contend, &got[i]);
    for (int i = 0; i < 8; i++) {
        pthread_join(threads[i], NULL);
        sum += got[i];
    }
    ck_assert_uint_eq(shared, sum);
    ck_assert_uint_ge(sum, 8 * 200);
    ck_assert_uint_eq(turn.free, 1);
}
END_TEST

int
main(void)
{
    Suite *s = suite_create("wait");
    TCase *t = tcase_create("wait");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, clock_goes_forward);
    tcase_add_test(t, wake_is_the_threads);
    tcase_add_test(t, fd_is_ready);
    tcase_add_loop_test(t, deadline, 0, 4);
    tcase_add_loop_test(t, interrupted, 0, 2);
    tcase_add_test(t, interrupted_before);
    tcase_add_test(t, counts);
    tcase_add_test(t, first_come_first_served);
    tcase_add_test(t, passed);
    tcase_add_loop_test(t, middle_gives_up, 0, 3);
    tcase_add_test(t, granted_while_timing_out);
    tcase_add_test(t, stale_nudge);
    tcase_add_test(t, excludes);
    suite_add_tcase(s, t);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
