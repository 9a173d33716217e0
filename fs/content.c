/*
 * The content of one cache as a file: rendered, and shown by a node.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "fs/content.h"
#include "fs/draft.h"
#include "fs/grow.h"
#include "fs/node.h"
#include "fs/tree.h"
#include "fs/user.h"

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
        if (b == NULL || !cred_parse(blob_data(b), &c) || cred_is_config(&c))
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

bool
content_fits_locked(const struct node *n, const struct image *image)
{
    assert(image != NULL);
    return image->len >= n->kernel_len;
}

/* n shows c from now on, or none does yet. */
static void
set_node_locked(struct content *c, struct node *n)
{
    if (c->node != NULL && c->node != n)
        c->node->right = c->checked;
    c->node = n;
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
content_grow(struct node *n, struct image *image)
{
    struct fs *fs = n->content->user->fs;
    pthread_mutex_lock(&fs->lock);
    bool grown = grow_begin_locked(n, image, 0);
    struct image *old = swap_locked(n, image);
    pthread_mutex_unlock(&fs->lock);
    if (grown)
        grow_end(fs, n);
    image_unref(old);
}

/*
 * Let c show image from now on.  Its node follows if that is right for who
 * has it open; else the cache gets a new node at the next lookup.  Where the
 * kernel's pages are read it is not: no order of notices has a read() that is
 * under way end where its page ends.  With the turn.
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
        bool follows = n->opens == 0 ? content_fits_locked(n, image)
                                     : grows && n->cached == 0;
        if (follows) {
            grown = grow_begin_locked(n, image, 0);
            drop[0] = n->image;
            n->image = image_ref(image);
            n->image_serial++;
        } else {
            set_node_locked(c, NULL); /* who has it open keeps what it sees */
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
        grow_end(fs, n);
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
    c->provisional = c->written = false;
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
    set_node_locked(c, NULL);
    fs->leftovers = true;
    memset(c->uuid, 0, sizeof(c->uuid));
    pthread_mutex_unlock(&fs->lock);
    image_unref(image);
}

static int
update(struct content *c)
{
    struct fs *fs = fs_of(c);
    struct kcm_snapshot *s = c->known.snapshot;
    pthread_mutex_lock(&fs->lock);
    _cleanup_(image_unrefp) struct image *old =
        c->image != NULL ? image_ref(c->image) : NULL;
    bool open = c->open_nodes > 0, asleep = c->asleep;
    bool same = c->shown == s && !c->written;
    pthread_mutex_unlock(&fs->lock);
    if (old != NULL && same && (old->clean || open))
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
    if (c->shown != s)
        image_share(next, s);
    bool is_new = old == NULL && !asleep;
    show(c, next, changed, is_new ? first_mtime(s) : next_mtime(c->mtime));
    set_shown(c, kcm_snapshot_ref(s));
    return 0;
}

int
content_update(struct content *c)
{
    struct fs *fs = fs_of(c);
    pthread_mutex_lock(&fs->lock);
    c->updating = true;
    pthread_mutex_unlock(&fs->lock);
    int r = update(c);
    pthread_mutex_lock(&fs->lock);
    c->updating = false;
    pthread_mutex_unlock(&fs->lock);
    return r;
}

int
content_node_locked(struct content *c, struct node **out)
{
    struct fs *fs = fs_of(c);
    *out = NULL;
    if (c->node != NULL) {
        *out = node_ref_locked(c->node);
    } else if (c->exists && c->image != NULL) {
        *out = node_new_locked(fs, NODE_CACHE, c->user->uid, c);
        if (*out == NULL)
            return -ENOMEM;
        (*out)->image = image_ref(c->image);
        c->node = *out;
    } else if (c->unborn != NULL) {
        *out = node_ref_locked(c->unborn);
    }
    return *out != NULL ? 0 : KCM_NOT_FOUND;
}

struct content *
content_of(struct fs *fs, struct node *n)
{
    pthread_mutex_lock(&fs->lock);
    struct content *c = n->content;
    c->refs++;
    pthread_mutex_unlock(&fs->lock);
    return c;
}

int
content_take(struct fs *fs, struct node *n, const struct caller *caller,
             struct content **out)
{
    *out = NULL;
    for (;;) {
        _cleanup_(content_unrefp) struct content *c = content_of(fs, n);
        int r = turn_take(&c->turn, caller);
        if (r != 0)
            return r;
        pthread_mutex_lock(&fs->lock);
        bool same = n->content == c;
        pthread_mutex_unlock(&fs->lock);
        if (same) {
            *out = take(c);
            return 0;
        }
        turn_give(&c->turn);
    }
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

void
content_written(struct content *c, struct node *n, struct image *image)
{
    struct fs *fs = fs_of(c);
    struct image *drop = NULL;
    pthread_mutex_lock(&fs->lock);
    bool grown = grow_begin_locked(n, image, 1);
    struct image *old = swap_locked(n, image);
    if (c->node == n) {
        drop = c->image;
        c->image = image_ref(image);
        c->mtime = next_mtime(c->mtime);
        c->written = true;
        /* It may lack what others did since: that is for a new check. */
        c->check_finished = 0;
    }
    pthread_mutex_unlock(&fs->lock);
    if (grown)
        grow_end(fs, n);
    image_unref(old);
    image_unref(drop);
}

/* Whether n shows image from now on may not matter to others who read it. */
static bool
is_others_locked(const struct node *n, const struct image *image)
{
    return n->kind == NODE_CACHE && n->image != NULL && n->opens > 1 &&
           (n->cached > 0 || !image_extends(image, n->image));
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

static struct node *
find_untold_locked(struct content *c)
{
    struct fs *fs = fs_of(c);
    for (size_t i = 0; c->open_nodes > 0 && i < fs->buckets; i++)
        for (struct node *n = fs->by_ino[i]; n != NULL; n = n->next_ino)
            if (n->counted && n->content == c && n->unlinked && !n->links_told)
                return n;
    return NULL;
}

/*
 * The kernel counts down the links of the file that it found by the name.
 * Those that have another one of c open would be told by fstat(2) for a while
 * that it has a name.
 */
static void
tell_unlinked(struct content *c)
{
    struct fs *fs = fs_of(c);
    struct node *n;
    do {
        pthread_mutex_lock(&fs->lock);
        n = find_untold_locked(c);
        uint64_t ino = n != NULL ? n->ino : 0;
        if (n != NULL)
            n->links_told = true;
        pthread_mutex_unlock(&fs->lock);
        if (n != NULL && fs->drop_attr != NULL)
            fs->drop_attr(fs, ino);
    } while (n != NULL);
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
        set_node_locked(c, NULL);
    } else {
        if (n->image == NULL) /* a new file in the place of the old one */
            unlink_nodes_locked(c, n);
        settle_locked(c, n);
        draft = take(n->draft);
        old[0] = swap_locked(n, image);
        bool shows = content_fits_locked(n, image) && n->truncating == 0;
        set_node_locked(c, shows ? n : NULL);
    }
    c->image = image_ref(image);
    c->mtime = next_mtime(c->mtime);
    c->provisional = image->count > 0;
    c->written = true;
    c->exists = true;
    c->asleep = false;
    c->check_finished = 0; /* what is known is what was replaced */
    bool seen = n->opens > 1;
    pthread_mutex_unlock(&fs->lock);
    tell_unlinked(c);
    if (seen && fs->drop_attr != NULL) /* who opened it when it was empty */
        fs->drop_attr(fs, n->ino);
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
    tell_unlinked(c);
}

void
content_moved(struct content *from, struct content *to)
{
    struct fs *fs = fs_of(from);
    pthread_mutex_lock(&fs->lock);
    unlink_nodes_locked(to, NULL);
    set_node_locked(to, NULL);
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
    to->written = true;
    to->check_finished = 0; /* what is known is what was there before */
    to->mtime = next_mtime(to->mtime);
    pthread_mutex_unlock(&fs->lock);
    image_unref(old);
    tell_unlinked(to);
    content_vanish(from);
}
