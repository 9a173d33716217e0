/*
 * The content of one cache as a file: checked against the daemon, rendered,
 * and shown by a node.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "fs/fs.h"
#include "kcm/log.h"

static struct fs *
fs_of(const struct content *c)
{
    return c->user->fs;
}

/* --- images and nodes -------------------------------------------------- */

/* Content that is new here is as old as its newest ticket. */
static struct timespec
first_mtime(const struct kcm_snapshot *s)
{
    struct timespec now;
    uint32_t newest = 0;
    clock_gettime(CLOCK_REALTIME, &now);
    for (size_t i = 0; i < s->count; i++) {
        struct cred c;
        struct blob *b = s->creds[i].bytes;
        if (b == NULL || !cred_parse((struct data){b->bytes, b->len}, &c) ||
            cred_is_config(&c))
            continue;
        if (cred_start(&c) > newest && cred_start(&c) <= now.tv_sec)
            newest = cred_start(&c);
    }
    return newest > 0 ? (struct timespec){.tv_sec = newest} : now;
}

/* Now, but later than before: a change must move it. */
static struct timespec
next_mtime(struct timespec before)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (now.tv_sec > before.tv_sec ||
        (now.tv_sec == before.tv_sec && now.tv_nsec > before.tv_nsec))
        return now;
    before.tv_nsec++;
    if (before.tv_nsec == 1000000000) {
        before.tv_sec++;
        before.tv_nsec = 0;
    }
    return before;
}

/*
 * A file that somebody reads grew from n->old_len: before the kernel learns of
 * its new size, it must forget the page of its old end, where zeros follow.
 */
static void
drop_end(struct fs *fs, struct node *n)
{
    if (fs->drop_pages != NULL)
        fs->drop_pages(fs, n->ino, (off_t)(n->old_len & ~(size_t)4095));
    pthread_mutex_lock(&fs->lock);
    n->old_len = 0;
    pthread_mutex_unlock(&fs->lock);
    /* What it was told of the size meanwhile is old, too. */
    if (fs->drop_pages != NULL)
        fs->drop_pages(fs, n->ino, -1);
    node_unref(fs, n);
}

/*
 * May n, which nobody has open, show image?  Not if the kernel may take it to
 * be longer: it would show zeros at the end, until it asks.
 */
static bool
fits_locked(const struct node *n, const struct image *image)
{
    assert(image != NULL);
    return image->len >= n->kernel_len;
}

/* Begin that, if n, which others than so many have open, shows image from now
 * on; drop_end() is to follow. */
static bool
grow_locked(struct node *n, const struct image *image, unsigned opens)
{
    if (n->opens <= opens || n->image == NULL || image->len <= n->image->len)
        return false;
    n->old_len = n->image->len;
    n->refs++;
    return true;
}

/*
 * Let c show image from now on.  Its node follows if that is right for who
 * has it open; else the cache gets a new node at the next lookup.  With the
 * turn.
 */
static void
show(struct content *c, struct image *image, bool changed,
     struct timespec mtime)
{
    struct fs *fs = fs_of(c);
    pthread_mutex_lock(&fs->lock);
    struct node *n = c->node;
    struct image *shown = n != NULL ? n->image : NULL;
    if (shown != NULL)
        image_ref(shown);
    pthread_mutex_unlock(&fs->lock);
    bool grows = shown != NULL && image_extends(image, shown);
    image_unref(shown);

    struct image *drop[2] = {NULL, NULL};
    bool grown = false;
    pthread_mutex_lock(&fs->lock);
    n = c->node;
    if (n != NULL && n->image != image) {
        if (grows || (n->opens == 0 && fits_locked(n, image))) {
            grown = grow_locked(n, image, 0);
            drop[0] = n->image;
            n->image = image_ref(image);
            n->image_serial++;
        } else {
            c->node = NULL; /* those who have it open keep what they see */
        }
    }
    if (c->image != image) {
        drop[1] = c->image;
        c->image = image_ref(image);
    }
    c->exists = true;
    c->asleep = false;
    if (changed)
        c->mtime = mtime;
    pthread_mutex_unlock(&fs->lock);
    if (grown)
        drop_end(fs, n);
    image_unref(drop[0]);
    image_unref(drop[1]);
}

/* Replaced with the turn, but read without it: under the lock. */
static void
set_shown(struct content *c, struct kcm_snapshot *s)
{
    struct fs *fs = fs_of(c);
    pthread_mutex_lock(&fs->lock);
    struct kcm_snapshot *old = c->shown;
    struct ticket_table *tickets = take(c->tickets);
    c->shown = s;
    pthread_mutex_unlock(&fs->lock);
    kcm_snapshot_unref(old);
    tickets_unref(tickets);
}

void
content_vanish(struct content *c)
{
    struct fs *fs = fs_of(c);
    kcm_snapshot_unref(c->known.snapshot);
    c->known = (struct kcm_known){0};
    set_shown(c, NULL);
    pthread_mutex_lock(&fs->lock);
    struct image *image = take(c->image);
    c->exists = c->asleep = false;
    c->node = NULL;
    fs->leftovers = true;
    memset(c->uuid, 0, sizeof(c->uuid));
    pthread_mutex_unlock(&fs->lock);
    image_unref(image);
}

/* The snapshot may have changed, or the last handle was closed: see that the
 * right image is shown.  With the turn. */
static int
update_image(struct content *c)
{
    struct fs *fs = fs_of(c);
    struct kcm_snapshot *s = c->known.snapshot;
    pthread_mutex_lock(&fs->lock);
    _cleanup_(image_unrefp) struct image *old =
        c->image != NULL ? image_ref(c->image) : NULL;
    bool open = c->open_nodes > 0, asleep = c->asleep;
    pthread_mutex_unlock(&fs->lock);
    if (old != NULL && c->shown == s && (old->clean || open))
        return 0;

    _cleanup_(image_unrefp) struct image *merged = NULL;
    _cleanup_(image_unrefp) struct image *fresh = NULL;
    bool changed = true;
    int r = 0;
    if (old != NULL && (open || !old->clean)) {
        r = image_merge(old, s, &merged);
        changed = r == 0 && !image_equal(merged, old);
    }
    if (r == 0 && (old == NULL || !open))
        r = image_render(s, &fresh);
    if (r < 0)
        return r;
    if (old != NULL && merged == NULL)
        changed = !image_equal(fresh, old); /* both are canonical */
    struct image *next = fresh != NULL ? fresh : changed ? merged : old;
    assert(next != NULL);
    if (old != NULL && image_equal(next, old) && old->clean == next->clean)
        next = old;
    if (asleep) {
        struct digest digest = image_digest(next);
        changed = !digest_equal(&digest, &c->digest);
    }
    bool is_new = old == NULL && !asleep;
    show(c, next, changed, is_new ? first_mtime(s) : next_mtime(c->mtime));
    set_shown(c, kcm_snapshot_ref(s));
    return 0;
}

struct node *
content_node(struct content *c)
{
    struct fs *fs = fs_of(c);
    pthread_mutex_lock(&fs->lock);
    struct node *n = c->node;
    if (n != NULL) {
        n->refs++;
    } else if (c->exists && c->image != NULL) {
        n = node_new_locked(fs, NODE_CACHE, c->user->uid, c);
        if (n != NULL) {
            n->image = image_ref(c->image);
            c->node = n;
        }
    } else if (c->unborn != NULL) {
        n = node_ref_locked(c->unborn);
    }
    pthread_mutex_unlock(&fs->lock);
    return n;
}

struct kcm_snapshot *
content_snapshot(struct content *c)
{
    struct fs *fs = fs_of(c);
    pthread_mutex_lock(&fs->lock);
    struct kcm_snapshot *s =
        c->shown != NULL ? kcm_snapshot_ref(c->shown) : NULL;
    pthread_mutex_unlock(&fs->lock);
    return s;
}

struct timespec
content_mtime(struct content *c)
{
    struct fs *fs = fs_of(c);
    pthread_mutex_lock(&fs->lock);
    struct timespec mtime = c->mtime;
    pthread_mutex_unlock(&fs->lock);
    return mtime;
}

bool
content_exists(struct content *c)
{
    struct fs *fs = fs_of(c);
    pthread_mutex_lock(&fs->lock);
    bool exists = c->exists;
    pthread_mutex_unlock(&fs->lock);
    return exists;
}

/* Under the lock: n shows image; what it replaces is returned. */
static struct image *
swap_locked(struct node *n, struct image *image)
{
    struct image *old = n->image;
    n->image = image_ref(image);
    n->image_serial++;
    return old;
}

void
content_written(struct content *c, struct node *n, struct image *image)
{
    struct fs *fs = fs_of(c);
    struct image *drop = NULL;
    pthread_mutex_lock(&fs->lock);
    bool grown = grow_locked(n, image, 1);
    struct image *old = swap_locked(n, image);
    if (c->node == n) {
        drop = c->image;
        c->image = image_ref(image);
        c->mtime = next_mtime(c->mtime);
        /* It may lack what others did since: that is for a new check. */
        c->check_finished = 0;
    }
    pthread_mutex_unlock(&fs->lock);
    if (grown)
        drop_end(fs, n);
    image_unref(old);
    image_unref(drop);
}

/* Whether n shows image from now on may not matter to others who read it. */
static bool
is_others_locked(const struct node *n, const struct image *image)
{
    return n->kind == NODE_CACHE && n->image != NULL && n->opens > 1 &&
           !image_extends(image, n->image);
}

/* The files of c are unlinked, but for the node that takes their place: the
 * one that shows it, and those that stayed with who had them open. */
static void
unlink_nodes_locked(struct content *c, const struct node *but)
{
    struct fs *fs = fs_of(c);
    if (c->node != NULL && c->node != but)
        c->node->unlinked = true;
    for (size_t i = 0; c->open_nodes > 0 && i < fs->buckets; i++)
        for (struct node *n = fs->by_ino[i]; n != NULL; n = n->next_ino)
            if (n->counted && n->content == c && n->draft == NULL && n != but)
                n->unlinked = true;
}

/* Under the lock: a scratch file or unborn cache becomes the file of c. */
static void
settle_locked(struct content *c, struct node *n)
{
    if (n->kind == NODE_SCRATCH) {
        node_unkey_locked(fs_of(c), n);
        if (n->content != c) {
            struct content *old = n->content;
            n->content = c;
            c->refs++;
            if (old != NULL)
                content_unref_locked(old);
        }
        n->kind = NODE_CACHE;
    }
    if (c->unborn == n)
        c->unborn = NULL;
    if (n->linked) {
        n->linked = false;
        n->refs--; /* of its name; the request holds another */
    }
    if (n->opens > 0 && !n->counted) {
        n->counted = true;
        c->open_nodes++;
    }
}

void
content_adopt(struct content *c, struct node *n, struct image *image)
{
    struct fs *fs = fs_of(c);
    struct draft *draft = NULL;
    struct image *old[2] = {NULL, c->image};
    pthread_mutex_lock(&fs->lock);
    if (is_others_locked(n, image)) {
        c->node = NULL;
    } else {
        if (n->image == NULL) /* a new file in the place of the old one */
            unlink_nodes_locked(c, n);
        settle_locked(c, n);
        draft = take(n->draft);
        old[0] = swap_locked(n, image);
        c->node = n;
    }
    c->image = image_ref(image);
    c->mtime = next_mtime(c->mtime);
    c->exists = true;
    c->asleep = false;
    pthread_mutex_unlock(&fs->lock);
    image_unref(old[0]);
    image_unref(old[1]);
    draft_unref(draft);
}

void
content_unlinked(struct content *c)
{
    struct fs *fs = fs_of(c);
    pthread_mutex_lock(&fs->lock);
    unlink_nodes_locked(c, NULL);
    pthread_mutex_unlock(&fs->lock);
}

void
content_moved(struct content *from, struct content *to)
{
    struct fs *fs = fs_of(from);
    pthread_mutex_lock(&fs->lock);
    unlink_nodes_locked(to, NULL);
    to->node = NULL;
    /* Open files go with it; the kernel may still find them by old names,
     * so whoever opens them anew is to look again. */
    for (size_t i = 0; from->open_nodes > 0 && i < fs->buckets; i++) {
        for (struct node *n = fs->by_ino[i]; n != NULL; n = n->next_ino) {
            if (!n->counted || n->content != from || n->unlinked)
                continue;
            n->content = to;
            n->moved = true;
            from->open_nodes--;
            to->open_nodes++;
            from->refs--; /* who moves it holds another */
            to->refs++;
        }
    }
    struct image *old = to->image;
    to->image = from->image != NULL ? image_ref(from->image) : NULL;
    to->exists = to->image != NULL;
    to->mtime = next_mtime(to->mtime);
    pthread_mutex_unlock(&fs->lock);
    image_unref(old);
    content_vanish(from);
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
        r = update_image(c);
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

int
content_refresh(struct content *c, const struct caller *caller,
                int64_t max_age_ms)
{
    struct fs *fs = fs_of(c);
    pthread_mutex_lock(&fs->lock);
    /* "There is none" is what an open is told without an OPEN: never old. */
    bool recent =
        c->exists && max_age_ms > 0 && now_ms() - c->checked_ms <= max_age_ms;
    pthread_mutex_unlock(&fs->lock);
    if (recent)
        return 0;
    int r = refresh_and_hold(c, caller);
    if (r == 0)
        turn_give(&c->turn);
    return r;
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
         (n->opens > 0 || !fits_locked(n, c->image))))
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
