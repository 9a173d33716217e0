/*
 * Waiting with a deadline that a signal to the caller can end.
 *
 * Every wait in the program - for a KCM reply, for a turn at a cache, for a
 * free connection - is a poll(2) with the caller's deadline and the eventfd
 * of the waiting thread, so that one interrupt ends any of them.
 */
#ifndef KCM_WAIT_H
#define KCM_WAIT_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* One per thread; lives as long as its thread. */
struct wake {
    int fd;
    bool interrupted; /* atomic */
};

/*
 * On whose behalf an operation runs.  Made where a request comes in, passed
 * down to everything that waits or talks to the KCM daemon.
 */
struct caller {
    uid_t uid;
    gid_t gid;
    pid_t pid;
    int64_t deadline; /* of now_ms() */
    struct wake *wake;
};

/* Milliseconds of CLOCK_MONOTONIC. */
int64_t now_ms(void);

/*
 * The process is to end: whoever waits, now or later, does so for at most
 * WAIT_END_MS more, whatever its deadline.  Safe in a signal handler, after
 * wait_end_prepare().
 */
#define WAIT_END_MS 2000
void wait_end_prepare(void);
void wait_end(void);

/* This thread's wake, with nothing pending; NULL, and errno, when out of
 * memory or descriptors. */
struct wake *wake_mine(void);
/* Make the waits of w's current caller return -EINTR.  Any thread. */
void wake_interrupt(struct wake *w);

/* Since wake_mine()? */
bool wake_interrupted(const struct wake *w);

/*
 * Wait until fd has one of the poll events, the deadline or an interrupt:
 * 0, -ETIMEDOUT or -EINTR.  fd < 0 waits for the wake alone and returns 0
 * when it was nudged.
 */
int wait_fd(int fd, short events, const struct caller *caller);

/*
 * A counting semaphore, first come first served: turn_take() waits as above.
 */
struct turn {
    pthread_mutex_t lock;
    unsigned free;
    struct turn_waiter *first, *last;
};

void turn_init(struct turn *t, unsigned count);
void turn_destroy(struct turn *t);
int turn_take(struct turn *t, const struct caller *caller);
/* Take without waiting: false if it is not free. */
bool turn_try(struct turn *t);
void turn_give(struct turn *t);

/*
 * Where what is waited for is less than the turn: who has it says by
 * turn_pass() how far it came.  turn_take_until() returns TURN_PASSED, without
 * the turn, as soon as that is until or more.
 */
#define TURN_PASSED 1000 /* no enum kcm_status */
int turn_take_until(struct turn *t, uint64_t until,
                    const struct caller *caller);
void turn_pass(struct turn *t, uint64_t number);

#endif
