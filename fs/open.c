/*
 * The files of a cache are looked up, opened and closed: which node, which
 * image, through the kernel's pages or past them.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "fs/content.h"
#include "fs/node.h"
#include "fs/told.h"
#include "fs/user.h"

static struct fs *
fs_of(const struct content *c)
{
    return c->user->fs;
}

int
content_look_up(struct content *c, const struct caller *caller,
                struct node **out)
{
    struct fs *fs = fs_of(c);
    bool truncates;
    *out = NULL;
    pthread_mutex_lock(&fs->lock);
    bool again = told_look_locked(fs, caller->pid, &truncates);
    pthread_mutex_unlock(&fs->lock);
    int r = again ? content_refresh(c, caller, 0) : content_locate(c, caller);
    if (r != 0)
        return r;
    pthread_mutex_lock(&fs->lock);
    if (again && c->exists && c->image != NULL)
        *out = node_new_locked(fs, NODE_CACHE, c->user->uid, c);
    if (*out != NULL) {
        (*out)->image = image_ref(c->image);
        (*out)->right = c->checked;
        (*out)->reserved = truncates;
    } else {
        r = content_node_locked(c, out);
    }
    pthread_mutex_unlock(&fs->lock);
    return r;
}

/*
 * The kernel takes a file that is opened with O_TRUNC to be empty, by whomever
 * it is open, and for how long is not told: so it is opened as a file of its
 * own.  Who comes past all names must do with it.
 */
static bool
needs_own_locked(const struct handle *h)
{
    const struct node *n = h->node;
    bool own = n->reserved || n->truncating > 0;
    return handle_truncates(h) ? !n->reserved : own;
}

/*
 * If n is not the cache's file, or others that have it open need what it
 * shows, the path is to be looked up again.  A thread that was told so already
 * is given it all the same: as it is, if the cache was so when it looked; else
 * as the cache is now.  A file that is gone stays as it was for who comes by
 * itself and not by its name.
 */
static enum open_outcome
choose_locked(struct content *c, struct handle *h, enum told told)
{
    struct node *n = h->node;
    bool gone = n->unlinked || n->moved;
    bool other = n->image != c->image;
    bool fits = content_fits_locked(n, c->image);
    bool stale = gone || (other && (n->opens > 0 || !fits));
    if (told == TOLD_NOTHING && (stale || needs_own_locked(h))) {
        told_note_locked(fs_of(c), h);
        return OPEN_STALE;
    }
    if (gone || (other && n->opens > 0)) {
        bool does = told == TOLD_LOOKED || (told == TOLD_SAME && gone);
        if (does && n->image != NULL)
            h->pinned = image_ref(n->image);
        return OPEN_PINNED;
    }
    if (other) {
        image_unref(n->image);
        n->image = image_ref(c->image);
        n->image_serial++;
    }
    if (c->node == NULL && fits)
        c->node = n;
    h->image_serial = n->image_serial;
    if (!fits || n->truncating > 0 || n->reserved)
        return OPEN_DIRECT;
    return n->image_serial > n->kernel_serial ? OPEN_FRESH : OPEN_KEEP;
}

/*
 * With the turn, after a check: what n shows with what has gone since marked
 * as removed, and what is new behind it.  So it is not shorter than what
 * fstat() says of n; and where c has come from there, too, the offsets are
 * the same by any path.
 */
static int
merge_shown(struct content *c, struct node *n, struct image **out)
{
    struct fs *fs = fs_of(c);
    _cleanup_(kcm_snapshot_unrefp) struct kcm_snapshot *s =
        content_snapshot(c);
    pthread_mutex_lock(&fs->lock);
    _cleanup_(image_unrefp) struct image *shown =
        n->image != NULL ? image_ref(n->image) : NULL;
    pthread_mutex_unlock(&fs->lock);
    assert(s != NULL && c->image != NULL);
    if (shown != NULL && !image_continues(c->image, shown))
        return image_merge(shown, s, out);
    *out = image_ref(c->image);
    return 0;
}

/* What h reads is no longer than what fstat(2) says of its node, which others
 * have open: they get removed entries at the end. */
static int
pad_shown(struct handle *h)
{
    struct fs *fs = h->user->fs;
    struct node *n = h->node;
    _cleanup_(image_unrefp) struct image *padded = NULL;
    pthread_mutex_lock(&fs->lock);
    _cleanup_(image_unrefp) struct image *shown =
        n->image != NULL ? image_ref(n->image) : NULL;
    pthread_mutex_unlock(&fs->lock);
    if (shown == NULL || h->pinned->len <= shown->len)
        return 0;
    int r = image_pad(shown, h->pinned, shown->len, &padded);
    if (r == 0)
        content_grow(n, padded);
    return r;
}

static int
pin(struct content *c, struct handle *h)
{
    struct fs *fs = fs_of(c);
    _cleanup_(image_unrefp) struct image *merged = NULL;
    int r = merge_shown(c, h->node, &merged);
    if (r != 0)
        return r;
    struct node *n = h->node;
    pthread_mutex_lock(&fs->lock);
    assert(h->pinned == NULL);
    h->unchecked = false;
    if (n->opens > 1) {
        h->pinned = take(merged);
    } else { /* nobody else sees it */
        struct image *old = n->image;
        n->image = merged;
        n->image_serial++;
        merged = old;
    }
    pthread_mutex_unlock(&fs->lock);
    if (h->pinned != NULL)
        return pad_shown(h);
    content_tell(fs, n);
    return 0;
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
    h->unchecked = c->exists && !c->ending && !c->updating && c->node == n &&
                   n->opens == 0 && !n->unlinked && !n->moved &&
                   n->image != NULL && n->image == c->image &&
                   now_ms() - c->checked_ms <= FRESH_MS;
    bool unchecked = h->unchecked;
    if (unchecked)
        content_opened_locked(n);
    pthread_mutex_unlock(&fs->lock);
    return unchecked;
}

int
content_catch_up(struct content *c, struct handle *h,
                 const struct caller *caller)
{
    struct fs *fs = fs_of(c);
    struct node *n = h->node;
    uint64_t needed;
    int r = content_fresh(c, caller, &needed);
    if (r == TURN_PASSED)
        r = content_hold(c, caller, needed);
    if (r != 0)
        return r;
    pthread_mutex_lock(&fs->lock);
    bool other = h->unchecked && n->image != c->image && !n->unlinked;
    /* It may have read the header that n shows. */
    if (other && (c->image == NULL || !image_same_header(c->image, n->image)))
        r = -ESTALE;
    if (!other)
        h->unchecked = false;
    pthread_mutex_unlock(&fs->lock);
    if (other && r == 0)
        r = pin(c, h);
    turn_give(&c->turn);
    return r;
}

/* A node of c that is open unchecked, with a reference, or NULL. */
static struct node *
find_unchecked(struct content *c)
{
    struct fs *fs = fs_of(c);
    struct node *n = NULL;
    pthread_mutex_lock(&fs->lock);
    for (struct handle *h = fs->handles; h != NULL && n == NULL; h = h->next)
        if (h->unchecked && h->node->content == c)
            n = node_ref_locked(h->node);
    pthread_mutex_unlock(&fs->lock);
    return n;
}

/* The same of all handles on n as content_catch_up() of one. */
static int
settle(struct content *c, struct node *n)
{
    struct fs *fs = fs_of(c);
    _cleanup_(image_unrefp) struct image *merged = NULL;
    int r = c->image != NULL ? merge_shown(c, n, &merged) : 0;
    if (r != 0)
        return r;
    pthread_mutex_lock(&fs->lock);
    for (struct handle *h = fs->handles; h != NULL; h = h->next) {
        if (h->node != n || !h->unchecked)
            continue;
        h->unchecked = false;
        if (merged != NULL && n->image != c->image)
            h->pinned = image_ref(merged);
    }
    pthread_mutex_unlock(&fs->lock);
    return 0;
}

int
content_ending(struct content *c, const struct caller *caller, bool all)
{
    struct fs *fs = fs_of(c);
    struct node *n;
    pthread_mutex_lock(&fs->lock);
    c->ending = true;
    pthread_mutex_unlock(&fs->lock);
    n = find_unchecked(c);
    int r = all || n != NULL ? content_check(c, caller) : 0;
    while (n != NULL) {
        if (r == 0)
            r = settle(c, n);
        node_unref(fs, n);
        n = r == 0 ? find_unchecked(c) : NULL;
    }
    return r;
}

void
content_ended(struct content *c)
{
    struct fs *fs = fs_of(c);
    pthread_mutex_lock(&fs->lock);
    c->ending = false;
    pthread_mutex_unlock(&fs->lock);
}

bool
content_follow(struct content *c, struct node *n)
{
    struct fs *fs = fs_of(c);
    pthread_mutex_lock(&fs->lock);
    bool own =
        c->image != NULL && n->image != NULL && !n->unlinked && !n->moved;
    bool grows =
        own && n->image != c->image && image_extends(c->image, n->image);
    pthread_mutex_unlock(&fs->lock);
    if (grows)
        content_grow(n, c->image);
    pthread_mutex_lock(&fs->lock);
    bool follows = own && n->image == c->image;
    if (follows && c->node != n)
        n->right = c->checked;
    if (follows && c->node == NULL && n->truncating == 0 && !n->reserved &&
        content_fits_locked(n, c->image))
        c->node = n;
    pthread_mutex_unlock(&fs->lock);
    return follows;
}

static void
read_by_pages_locked(struct handle *h)
{
    h->cached = true;
    h->node->cached++;
}

/* With the turn, after a check. */
static int
open_checked(struct content *c, struct handle *h, enum open_outcome *outcome)
{
    struct fs *fs = fs_of(c);
    struct node *n = h->node;
    int r = 0;
    pthread_mutex_lock(&fs->lock);
    bool direct = n->cached == 0;
    pthread_mutex_unlock(&fs->lock);
    if (direct)
        (void)content_follow(c, n);
    pthread_mutex_lock(&fs->lock);
    enum told told = told_before_locked(fs, h);
    if (c->exists) {
        *outcome = choose_locked(c, h, told);
    } else {
        *outcome = OPEN_STALE;
        if (told == TOLD_NOTHING)
            told_note_locked(fs, h);
        else
            r = KCM_NOT_FOUND;
    }
    if (*outcome != OPEN_STALE)
        content_opened_locked(n);
    if (!handle_is_writer(h) &&
        (*outcome == OPEN_KEEP || *outcome == OPEN_FRESH))
        read_by_pages_locked(h);
    if (*outcome != OPEN_STALE && handle_truncates(h)) {
        h->truncating = true;
        n->truncating++;
        n->reserved = false;
    }
    bool pinned = h->pinned != NULL;
    pthread_mutex_unlock(&fs->lock);
    if (*outcome == OPEN_FRESH || *outcome == OPEN_DIRECT)
        content_tell(fs, n);
    if (*outcome == OPEN_PINNED && !pinned) {
        if (told == TOLD_OTHER && content_follow(c, n))
            *outcome = OPEN_DIRECT;
        else
            r = pin(c, h);
    }
    if (*outcome != OPEN_STALE && r != 0)
        handle_close(fs, h);
    return r;
}

/*
 * After a check by another, without the turn: the usual case, in which
 * nothing is to be done but to count it, and nobody writes who may have seen
 * that he is alone.
 */
static bool
open_passed(struct content *c, struct handle *h, uint64_t needed)
{
    struct fs *fs = fs_of(c);
    struct node *n = h->node;
    if (handle_is_writer(h) || handle_truncates(h))
        return false;
    pthread_mutex_lock(&fs->lock);
    bool usual = !c->updating && c->check_finished >= needed && c->exists &&
                 c->node == n && n->image != NULL && n->image == c->image &&
                 !n->unlinked && !n->moved && !n->reserved &&
                 n->truncating == 0 && n->old_len == 0 &&
                 n->opens == n->cached && content_fits_locked(n, n->image) &&
                 n->image_serial <= n->kernel_serial;
    if (usual) {
        h->image_serial = n->image_serial;
        content_opened_locked(n);
        read_by_pages_locked(h);
    }
    pthread_mutex_unlock(&fs->lock);
    return usual;
}

/* With the turn if r is 0. */
static int
open_held(struct content *c, struct handle *h, int r,
          enum open_outcome *outcome)
{
    if (r != 0)
        return r;
    r = open_checked(c, h, outcome);
    turn_give(&c->turn);
    return r;
}

int
content_open_after(struct content *c, struct handle *h, uint64_t needed,
                   enum open_outcome *outcome)
{
    *outcome = OPEN_KEEP;
    if (open_passed(c, h, needed))
        return 0;
    return open_held(c, h, content_hold(c, &h->caller, needed), outcome);
}

int
content_open(struct content *c, struct handle *h, enum open_outcome *outcome)
{
    uint64_t needed;
    *outcome = OPEN_KEEP;
    if (open_unchecked(c, h))
        return 0;
    int r = content_fresh(c, &h->caller, &needed);
    if (r == TURN_PASSED)
        return content_open_after(c, h, needed, outcome);
    return open_held(c, h, r, outcome);
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
