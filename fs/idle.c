/*
 * The housekeeper.  A cache that sleeps is known by name, time and digest
 * alone; the next look at it fetches it again, and its time moves only if
 * the digest says that it is another content.
 */
#include "fs/idle.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "fs/draft.h"
#include "fs/tree.h"
#include "fs/user.h"
#include "kcm/log.h"
#include "kcm/notify.h"

/* Looked at four times while something may be idle, but within these. */
#define LOOK_MIN_MS 250
#define LOOK_MAX_MS 5000
/* For abandoned scratch files; the first at once. */
#define COLLECT_MS 60000
/* Put to sleep in one look, and inodes whose pages go at a time. */
#define BATCH 64

struct housekeeper {
    struct fs *fs;
    int64_t idle_ms;
    int64_t watchdog_ms; /* 0: none */
    void (*drop_pages)(struct fs *fs, uint64_t ino);
    int stop_fd;
    pthread_t thread;
};

static bool
is_idle_locked(const struct content *c, int64_t before)
{
    return c->image != NULL && c->open_nodes == 0 && c->checked_ms <= before;
}

/* Up to BATCH contents that are idle, each with a reference. */
static size_t
find_idle(struct fs *fs, int64_t before, struct content **found)
{
    size_t count = 0;
    pthread_mutex_lock(&fs->lock);
    for (struct user *u = fs->users; u != NULL; u = u->next)
        for (struct content *c = u->contents; c != NULL && count < BATCH;
             c = c->next)
            if (is_idle_locked(c, before)) {
                c->refs++;
                found[count++] = c;
            }
    pthread_mutex_unlock(&fs->lock);
    return count;
}

/* Drop what c holds of its cache.  With the turn: nobody opens it now. */
static void
put_to_sleep(struct content *c, int64_t before)
{
    struct fs *fs = c->user->fs;
    struct image *image = NULL;
    pthread_mutex_lock(&fs->lock);
    if (is_idle_locked(c, before))
        image = image_ref(c->image);
    pthread_mutex_unlock(&fs->lock);
    if (image == NULL)
        return;
    struct digest digest = image_digest(image);
    image_unref(image);

    struct kcm_snapshot *known = take(c->known.snapshot);
    c->known = (struct kcm_known){0};
    pthread_mutex_lock(&fs->lock);
    c->asleep = true;
    c->digest = digest;
    image = take(c->image);
    struct kcm_snapshot *shown = take(c->shown);
    struct ticket_table *tickets = take(c->tickets);
    pthread_mutex_unlock(&fs->lock);
    image_unref(image);
    kcm_snapshot_unref(shown);
    kcm_snapshot_unref(known);
    tickets_unref(tickets);
}

/* Nodes that nobody has open show no image either, if it is one that was
 * dropped or replaced: up to BATCH of them, and how many. */
static size_t
drop_images(struct fs *fs, uint64_t *inos)
{
    size_t count = 0;
    pthread_mutex_lock(&fs->lock);
    for (size_t i = 0; i < fs->buckets; i++)
        for (struct node *n = fs->by_ino[i]; n != NULL && count < BATCH;
             n = n->next_ino) {
            if (n->kind != NODE_CACHE || n->image == NULL || n->opens > 0 ||
                (n->content->node == n && !n->content->asleep))
                continue;
            image_unref(take(n->image));
            n->image_serial++;
            inos[count++] = n->ino;
        }
    pthread_mutex_unlock(&fs->lock);
    return count;
}

static void
sweep(struct housekeeper *h)
{
    struct content *idle[BATCH];
    uint64_t inos[BATCH];
    int64_t before = now_ms() - h->idle_ms;
    size_t count = find_idle(h->fs, before, idle);
    for (size_t i = 0; i < count; i++) {
        if (turn_try(&idle[i]->turn)) {
            put_to_sleep(idle[i], before);
            turn_give(&idle[i]->turn);
        }
        content_unref(idle[i]);
    }
    pthread_mutex_lock(&h->fs->lock);
    bool leftovers = h->fs->leftovers;
    h->fs->leftovers = false;
    pthread_mutex_unlock(&h->fs->lock);
    if (count == 0 && !leftovers)
        return;
    do {
        count = drop_images(h->fs, inos);
        for (size_t i = 0; i < count; i++)
            h->drop_pages(h->fs, inos[i]);
    } while (count == BATCH);
}

static int
look_ms(const struct housekeeper *h)
{
    int64_t ms = h->idle_ms / 4;
    if (h->watchdog_ms > 0 && h->watchdog_ms / 4 < ms)
        ms = h->watchdog_ms / 4;
    return ms < LOOK_MIN_MS   ? LOOK_MIN_MS
           : ms > LOOK_MAX_MS ? LOOK_MAX_MS
                              : (int)ms;
}

static void *
run(void *arg)
{
    struct housekeeper *h = arg;
    struct pollfd stop = {.fd = h->stop_fd, .events = POLLIN};
    int64_t told = 0, collected = 0;
    int n;
    while ((n = poll(&stop, 1, look_ms(h))) <= 0) {
        /* Without this thread systemd would take all for hung. */
        if (n < 0)
            nanosleep(&(struct timespec){.tv_nsec = LOOK_MIN_MS * 1000000L},
                      NULL);
        secret_defer();
        sweep(h);
        if (now_ms() - collected >= COLLECT_MS) {
            collected = now_ms();
            scratch_collect(h->fs);
        }
        secret_settle();
        /* Having come through the locks of all requests is the proof. */
        if (h->watchdog_ms > 0 && now_ms() - told >= h->watchdog_ms / 2) {
            told = now_ms();
            notify_systemd("WATCHDOG=1");
        }
    }
    return NULL;
}

int
housekeeper_start(struct fs *fs, unsigned idle_s,
                  void (*drop_pages)(struct fs *fs, uint64_t ino),
                  struct housekeeper **out)
{
    *out = NULL;
    struct housekeeper *h = calloc(1, sizeof(*h));
    if (h == NULL)
        return -ENOMEM;
    *h = (struct housekeeper){
        .fs = fs,
        .idle_ms = (int64_t)idle_s * 1000,
        .watchdog_ms = notify_watchdog_ms(),
        .drop_pages = drop_pages,
        .stop_fd = eventfd(0, EFD_CLOEXEC),
    };
    /* Signals are for the thread that loops over the session. */
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int r =
        h->stop_fd < 0 ? -errno : -pthread_create(&h->thread, NULL, run, h);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (r == 0) {
        *out = h;
        return 0;
    }
    if (h->stop_fd >= 0)
        close(h->stop_fd);
    free(h);
    return r;
}

void
housekeeper_end(struct housekeeper *h)
{
    if (h == NULL)
        return;
    (void)eventfd_write(h->stop_fd, 1);
    pthread_join(h->thread, NULL);
    close(h->stop_fd);
    free(h);
}
