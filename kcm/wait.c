/*
 * Wakes, waits and turns.
 */
#include "wait.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

enum turn_state {
    WAITING,
    GRANTED,
    PASSED,
};

struct turn_waiter {
    struct turn_waiter *next;
    struct wake *wake;
    uint64_t until;
    enum turn_state state;
};

static pthread_once_t key_once = PTHREAD_ONCE_INIT;
static pthread_key_t wake_key;

int64_t
now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void
wake_free(void *p)
{
    struct wake *w = p;
    close(w->fd);
    free(w);
}

static void
make_key(void)
{
    pthread_key_create(&wake_key, wake_free);
}

static void
clear(struct wake *w)
{
    uint64_t count;
    (void)!read(w->fd, &count, sizeof(count));
}

static void
nudge(struct wake *w)
{
    uint64_t one = 1;
    (void)!write(w->fd, &one, sizeof(one));
}

struct wake *
wake_mine(void)
{
    pthread_once(&key_once, make_key);
    struct wake *w = pthread_getspecific(wake_key);
    if (w != NULL) {
        if (__atomic_exchange_n(&w->interrupted, false, __ATOMIC_ACQ_REL))
            clear(w);
        return w;
    }
    w = malloc(sizeof(*w));
    if (w == NULL)
        return NULL;
    w->interrupted = false;
    w->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    int error = w->fd < 0 ? errno : pthread_setspecific(wake_key, w);
    if (error == 0)
        return w;
    if (w->fd >= 0)
        close(w->fd);
    free(w);
    errno = error;
    return NULL;
}

void
wake_interrupt(struct wake *w)
{
    __atomic_store_n(&w->interrupted, true, __ATOMIC_RELEASE);
    nudge(w);
}

bool
wake_interrupted(const struct wake *w)
{
    return __atomic_load_n(&w->interrupted, __ATOMIC_ACQUIRE);
}

static int end_fd = -1;
static int64_t end_at; /* atomic; 0: not yet */

void
wait_end_prepare(void)
{
    if (end_fd < 0)
        end_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
}

void
wait_end(void)
{
    int error = errno;
    uint64_t one = 1;
    __atomic_store_n(&end_at, now_ms() + WAIT_END_MS, __ATOMIC_RELEASE);
    if (end_fd >= 0)
        (void)!write(end_fd, &one, sizeof(one));
    errno = error;
}

int
wait_fd(int fd, short events, const struct caller *caller)
{
    for (;;) {
        if (wake_interrupted(caller->wake))
            return -EINTR;
        int64_t end = __atomic_load_n(&end_at, __ATOMIC_ACQUIRE);
        bool ends = end != 0 && end < caller->deadline;
        int64_t left = (ends ? end : caller->deadline) - now_ms();
        if (left <= 0)
            return -ETIMEDOUT;
        struct pollfd p[3] = {
            {.fd = fd, .events = events},
            {.fd = caller->wake->fd, .events = POLLIN},
            {.fd = end != 0 ? -1 : end_fd, .events = POLLIN},
        };
        int n = poll(p, 3, left > 1000000 ? 1000000 : (int)left);
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n > 0 && p[0].revents != 0)
            return 0;
        if (n > 0 && p[1].revents != 0) {
            clear(caller->wake);
            if (fd < 0 && !wake_interrupted(caller->wake))
                return 0;
        }
    }
}

void
turn_init(struct turn *t, unsigned count)
{
    pthread_mutex_init(&t->lock, NULL);
    t->free = count;
    t->first = t->last = NULL;
}

void
turn_destroy(struct turn *t)
{
    assert(t->first == NULL);
    pthread_mutex_destroy(&t->lock);
}

bool
turn_try(struct turn *t)
{
    pthread_mutex_lock(&t->lock);
    bool got = t->free > 0;
    if (got)
        t->free--;
    pthread_mutex_unlock(&t->lock);
    return got;
}

static void
enqueue_locked(struct turn *t, struct turn_waiter *w)
{
    if (t->last != NULL)
        t->last->next = w;
    else
        t->first = w;
    t->last = w;
}

static void
dequeue_locked(struct turn *t, struct turn_waiter *w)
{
    struct turn_waiter **link = &t->first, *previous = NULL;
    while (*link != w) {
        previous = *link;
        link = &previous->next;
    }
    *link = w->next;
    if (t->last == w)
        t->last = previous;
}

/* With what a waiter was woken; or it gives up, if it was not. */
static enum turn_state
end_wait(struct turn *t, struct turn_waiter *w, bool gives_up)
{
    pthread_mutex_lock(&t->lock);
    enum turn_state state = w->state;
    if (state == WAITING && gives_up)
        dequeue_locked(t, w);
    pthread_mutex_unlock(&t->lock);
    return state;
}

int
turn_take_until(struct turn *t, uint64_t until, const struct caller *caller)
{
    struct turn_waiter w = {.wake = caller->wake, .until = until};
    pthread_mutex_lock(&t->lock);
    if (t->free > 0) {
        t->free--;
        pthread_mutex_unlock(&t->lock);
        return 0;
    }
    enqueue_locked(t, &w);
    pthread_mutex_unlock(&t->lock);
    for (;;) {
        int r = wait_fd(-1, 0, caller);
        enum turn_state state = end_wait(t, &w, r < 0);
        if (state != WAITING)
            return state == PASSED ? TURN_PASSED : 0;
        if (r < 0)
            return r;
    }
}

int
turn_take(struct turn *t, const struct caller *caller)
{
    return turn_take_until(t, UINT64_MAX, caller);
}

/* w, which is in no queue any more, may be gone once the lock is left. */
static void
wake_locked(struct turn_waiter *w, enum turn_state state)
{
    w->state = state;
    nudge(w->wake);
}

void
turn_pass(struct turn *t, uint64_t number)
{
    pthread_mutex_lock(&t->lock);
    for (struct turn_waiter *w = t->first, *next; w != NULL; w = next) {
        next = w->next;
        if (w->until > number)
            continue;
        dequeue_locked(t, w);
        wake_locked(w, PASSED);
    }
    pthread_mutex_unlock(&t->lock);
}

void
turn_give(struct turn *t)
{
    pthread_mutex_lock(&t->lock);
    struct turn_waiter *w = t->first;
    if (w == NULL) {
        t->free++;
    } else {
        dequeue_locked(t, w);
        wake_locked(w, GRANTED);
    }
    pthread_mutex_unlock(&t->lock);
}
