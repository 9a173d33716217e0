/*
 * A file that grows under those who have it open: what the kernel is told,
 * and in which order.
 */
#include "fs/grow.h"

#include <time.h>

#include "fs/content.h"
#include "fs/node.h"

/* A thread that waits for a page goes on with it by then. */
#define WAKE_MS 3

void
content_tell(struct fs *fs, struct node *n)
{
    pthread_mutex_lock(&fs->lock);
    const struct image *i = n->image;
    size_t len = i != NULL ? i->len : 0;
    uint8_t last = len > 0 ? image_bytes(i).p[len - 1] : 0;
    pthread_mutex_unlock(&fs->lock);
    if (len > 0 && fs->store_end != NULL)
        fs->store_end(fs, n->ino, (off_t)len, last);
    if (fs->drop_attr != NULL)
        fs->drop_attr(fs, n->ino);
}

/* A handle on n that shows less than n; both with a reference. */
static struct handle *
find_short(struct fs *fs, const struct node *n, struct image **pinned_out,
           struct image **shown_out)
{
    pthread_mutex_lock(&fs->lock);
    struct handle *h = fs->handles;
    while (h != NULL && (h->node != n || h->pinned == NULL ||
                         h->pinned->len >= n->image->len))
        h = h->next;
    *pinned_out = h != NULL ? image_ref(h->pinned) : NULL;
    *shown_out = h != NULL ? image_ref(n->image) : NULL;
    pthread_mutex_unlock(&fs->lock);
    return h;
}

static void
repin(struct fs *fs, const struct handle *h, const struct image *before,
      struct image *image)
{
    struct image *old = NULL;
    pthread_mutex_lock(&fs->lock);
    for (struct handle *at = fs->handles; at != NULL; at = at->next) {
        if (at != h || at->pinned != before)
            continue;
        old = at->pinned;
        at->pinned = image_ref(image);
    }
    pthread_mutex_unlock(&fs->lock);
    image_unref(old);
}

/*
 * n grew from n->old_len, and some read not what it shows but what they were
 * given when they opened it: that is as long again, by removed entries.
 */
static void
pad_pinned(struct fs *fs, struct node *n)
{
    for (bool enough = true; enough;) {
        _cleanup_(image_unrefp) struct image *pinned = NULL;
        _cleanup_(image_unrefp) struct image *shown = NULL;
        _cleanup_(image_unrefp) struct image *padded = NULL;
        const struct handle *h = find_short(fs, n, &pinned, &shown);
        if (h == NULL || image_pad(pinned, shown, n->old_len, &padded) != 0)
            return;
        enough = padded->len >= shown->len;
        repin(fs, h, pinned, padded);
    }
}

/*
 * A read() that has just been given a page takes what it holds of it, up to
 * the size that the kernel knows when it wakes up.
 */
static void
let_readers_wake(struct fs *fs, const struct node *n)
{
    pthread_mutex_lock(&fs->lock);
    int64_t until = n->cached > 0 ? n->read_ms + WAKE_MS : 0;
    pthread_mutex_unlock(&fs->lock);
    int64_t ms = until - now_ms();
    if (ms > 0)
        nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL);
}

/*
 * A file that somebody reads grew from n->old_len: before the kernel learns of
 * its new size, it must forget the page of its old end, where zeros follow,
 * and so must who was given it.
 */
void
grow_end(struct fs *fs, struct node *n)
{
    if (fs->drop_pages != NULL)
        fs->drop_pages(fs, n->ino, (off_t)(n->old_len & ~(size_t)4095));
    let_readers_wake(fs, n);
    pad_pinned(fs, n);
    pthread_mutex_lock(&fs->lock);
    n->old_len = 0;
    n->telling = true;
    pthread_mutex_unlock(&fs->lock);
    content_tell(fs, n);
    pthread_mutex_lock(&fs->lock);
    n->telling = false;
    pthread_cond_broadcast(&fs->told);
    pthread_mutex_unlock(&fs->lock);
    node_unref(fs, n);
}

bool
grow_begin_locked(struct node *n, const struct image *image, unsigned opens)
{
    if (n->opens <= opens || n->image == NULL || image->len <= n->image->len)
        return false;
    n->old_len = n->image->len;
    n->refs++;
    return true;
}
