/*
 * Whether what is shown of a cache is what the daemon holds: checks, and the
 * opens that need them.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "fs/content.h"

static struct fs *
fs_of(const struct content *c)
{
    return c->user->fs;
}

/* --- checks ------------------------------------------------------------ */

int
content_check(struct content *c, const struct caller *caller)
{
    struct fs *fs = fs_of(c);
    pthread_mutex_lock(&fs->lock);
    uint64_t number = ++c->checks_begun;
    int64_t begun = now_ms();
    pthread_mutex_unlock(&fs->lock);

    int r = kcm_fetch(fs->kcm, caller, c->name, &c->known);
    if (r == KCM_NOT_FOUND)
        content_vanish(c);
    else if (r == 0)
        r = content_update(c);
    if (r != 0 && r != KCM_NOT_FOUND)
        return r;

    pthread_mutex_lock(&fs->lock);
    c->check_finished = number;
    c->checked_ms = begun;
    pthread_mutex_unlock(&fs->lock);
    return 0;
}

/*
 * Take the turn and see that a check which began after this call, or at most
 * max_age_ms ago, has succeeded.  Who waits for the same cache meanwhile
 * shares the next check.
 */
static int
refresh_and_hold(struct content *c, const struct caller *caller)
{
    struct fs *fs = fs_of(c);
    pthread_mutex_lock(&fs->lock);
    uint64_t needed = c->checks_begun + 1;
    pthread_mutex_unlock(&fs->lock);
    int r = turn_take(&c->turn, caller);
    if (r < 0)
        return r;
    pthread_mutex_lock(&fs->lock);
    bool done = c->check_finished >= needed;
    pthread_mutex_unlock(&fs->lock);
    if (!done)
        r = content_check(c, caller);
    if (r != 0)
        turn_give(&c->turn);
    return r;
}

static bool
is_recent_locked(const struct content *c, int64_t max_age_ms)
{
    return max_age_ms > 0 && now_ms() - c->checked_ms <= max_age_ms;
}

static int
refresh_unless(struct content *c, const struct caller *caller, bool recent)
{
    if (recent)
        return 0;
    int r = refresh_and_hold(c, caller);
    if (r == 0)
        turn_give(&c->turn);
    return r;
}

int
content_refresh(struct content *c, const struct caller *caller,
                int64_t max_age_ms)
{
    struct fs *fs = fs_of(c);
    pthread_mutex_lock(&fs->lock);
    /* "There is none" is what an open is told without an OPEN: never old.
     * Without a snapshot only a writer's bytes are known: a cache that was
     * just made through the mount. */
    bool recent =
        c->exists && c->shown != NULL && is_recent_locked(c, max_age_ms);
    pthread_mutex_unlock(&fs->lock);
    return refresh_unless(c, caller, recent);
}

int
content_locate(struct content *c, const struct caller *caller)
{
    struct fs *fs = fs_of(c);
    pthread_mutex_lock(&fs->lock);
    bool recent =
        c->exists && c->image != NULL && is_recent_locked(c, FRESH_MS);
    pthread_mutex_unlock(&fs->lock);
    return refresh_unless(c, caller, recent);
}

/* --- no cache ---------------------------------------------------------- */

void
content_tell_absent(struct content *c, const struct caller *caller)
{
    struct fs *fs = fs_of(c);
    pthread_mutex_lock(&fs->lock);
    c->absent_pid = caller->pid;
    c->absent_ms = now_ms();
    pthread_mutex_unlock(&fs->lock);
}

bool
content_told_absent(struct content *c, const struct caller *caller)
{
    struct fs *fs = fs_of(c);
    pthread_mutex_lock(&fs->lock);
    bool told = !c->exists && caller->pid != 0 &&
                c->absent_pid == caller->pid &&
                now_ms() - c->absent_ms <= FRESH_MS;
    pthread_mutex_unlock(&fs->lock);
    return told;
}

bool
content_absent_lately(struct content *c)
{
    struct fs *fs = fs_of(c);
    pthread_mutex_lock(&fs->lock);
    bool absent = !c->exists && is_recent_locked(c, FRESH_MS);
    pthread_mutex_unlock(&fs->lock);
    return absent;
}

void
content_changed_at(struct content *c, int64_t begun_ms)
{
    struct fs *fs = fs_of(c);
    pthread_mutex_lock(&fs->lock);
    c->checked_ms = begun_ms;
    pthread_mutex_unlock(&fs->lock);
}

/* --- open and close ---------------------------------------------------- */

enum told {
    TOLD_NOTHING, /* but is now */
    TOLD_SAME,
    TOLD_OTHER,
};

/*
 * Was this thread told before that a node of c is stale?  If it was this
 * one, it comes by a path that the kernel does not look up: a bind mount or
 * /proc/self/fd.  If another, the kernel did look again, but the cache was
 * replaced once more meanwhile; it does so only once.
 */
static enum told
told_stale_locked(struct content *c, const struct node *n, pid_t pid)
{
    size_t room = sizeof(c->told_stale) / sizeof(c->told_stale[0]);
    for (size_t i = 0; i < room; i++) {
        struct told_stale *t = &c->told_stale[i];
        if (t->ino == 0 || t->pid != pid)
            continue;
        enum told told = t->ino == n->ino ? TOLD_SAME : TOLD_OTHER;
        t->ino = 0;
        return told;
    }
    c->told_stale[c->told_next++ % room] = (struct told_stale){pid, n->ino};
    return TOLD_NOTHING;
}

static void
forget_told_locked(struct content *c, pid_t pid)
{
    size_t room = sizeof(c->told_stale) / sizeof(c->told_stale[0]);
    for (size_t i = 0; i < room; i++)
        if (c->told_stale[i].pid == pid)
            c->told_stale[i].ino = 0;
}

/* n shows another image than c does.  What a thread that was told already
 * reads fits what it is told of n, if n was right a moment ago. */
static enum open_outcome
choose_stale_locked(struct content *c, struct handle *h)
{
    struct node *n = h->node;
    enum told told = told_stale_locked(c, n, h->caller.pid);
    if (told == TOLD_NOTHING)
        return OPEN_STALE;
    bool own = told == TOLD_OTHER || n->unlinked || n->moved;
    h->pinned = image_ref(own ? n->image : c->image);
    return OPEN_PINNED;
}

static enum open_outcome
choose_locked(struct content *c, struct handle *h, bool grows)
{
    struct node *n = h->node;
    /* Its name may be another file's now, or who has it open needs it. */
    if (n->unlinked || n->moved ||
        (n->image != c->image && !grows &&
         (n->opens > 0 || !content_fits_locked(n, c->image))))
        return choose_stale_locked(c, h);
    forget_told_locked(c, h->caller.pid);
    if (n->image != c->image) {
        image_unref(n->image);
        n->image = image_ref(c->image);
        n->image_serial++;
    }
    if (c->node == NULL)
        c->node = n;
    h->image_serial = n->image_serial;
    return n->image_serial > n->kernel_serial ? OPEN_FRESH : OPEN_KEEP;
}

/*
 * Who opens a cache to append to it reads no more than its header, if
 * anything: it need not be checked before that, when it was a moment ago.
 */
static bool
open_unchecked(struct content *c, struct handle *h)
{
    struct fs *fs = fs_of(c);
    struct node *n = h->node;
    if ((h->flags & O_ACCMODE) == O_RDONLY ||
        (h->flags & (O_APPEND | O_TRUNC)) != O_APPEND)
        return false;
    pthread_mutex_lock(&fs->lock);
    /* Not where others read: they would see its end without what came
     * between. */
    h->unchecked = c->exists && c->node == n && n->opens == 0 &&
                   !n->unlinked && !n->moved && n->image != NULL &&
                   n->image == c->image &&
                   now_ms() - c->checked_ms <= FRESH_MS;
    if (h->unchecked)
        content_opened_locked(n);
    pthread_mutex_unlock(&fs->lock);
    return h->unchecked;
}

int
content_catch_up(struct content *c, struct handle *h,
                 const struct caller *caller)
{
    struct fs *fs = fs_of(c);
    struct node *n = h->node;
    int r = content_refresh(c, caller, 0);
    if (r != 0)
        return r;
    pthread_mutex_lock(&fs->lock);
    if (h->unchecked && n->image != c->image && !n->unlinked) {
        if (c->image != NULL && image_same_header(c->image, n->image))
            h->pinned = image_ref(c->image);
        else
            r = -ESTALE;
    }
    h->unchecked = false;
    pthread_mutex_unlock(&fs->lock);
    return r;
}

int
content_open(struct content *c, struct handle *h, enum open_outcome *outcome)
{
    struct fs *fs = fs_of(c);
    struct node *n = h->node;
    *outcome = OPEN_KEEP;
    if (open_unchecked(c, h))
        return 0;
    int r = refresh_and_hold(c, &h->caller);
    if (r != 0)
        return r;
    pthread_mutex_lock(&fs->lock);
    if (!c->exists) {
        enum told told = told_stale_locked(c, n, h->caller.pid);
        *outcome = OPEN_STALE;
        r = told != TOLD_NOTHING ? KCM_NOT_FOUND : 0;
    } else {
        bool grows = n->image != NULL && n->image != c->image &&
                     image_extends(c->image, n->image);
        *outcome = choose_locked(c, h, grows);
        if (*outcome != OPEN_STALE) {
            content_opened_locked(n);
        }
    }
    pthread_mutex_unlock(&fs->lock);
    turn_give(&c->turn);
    return r;
}

/*
 * The kernel read by h, or closed it: so it has dropped the pages it had
 * before.  Only now: the answers to two opens may overtake each other, and
 * the one that says OPEN_KEEP must not be the first.
 */
void
content_used_locked(struct handle *h)
{
    if (h->image_serial > h->node->kernel_serial)
        h->node->kernel_serial = h->image_serial;
}

void
content_opened_locked(struct node *n)
{
    n->opens++;
    n->refs++;
    if (n->kind == NODE_CACHE && !n->counted) {
        n->counted = true;
        n->content->open_nodes++;
    }
}

void
content_closed(struct fs *fs, struct node *n)
{
    pthread_mutex_lock(&fs->lock);
    n->opens--;
    if (n->opens == 0 && n->counted) {
        n->counted = false;
        n->content->open_nodes--;
        fs->leftovers |= n->content->node != n;
    }
    node_unref_locked(fs, n);
    pthread_mutex_unlock(&fs->lock);
}
