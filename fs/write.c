/*
 * What is written to open cache files, and how bytes become changes.
 *
 *   a whole record at the end          STORE
 *   whole records over whole records   REMOVE_CRED, STORE
 *   the principal of a file being made INITIALIZE (unborn.c)
 *   zeros over the header              DESTROY (kdestroy through a link)
 *   anything else                      a draft of the whole file, which
 *                                      replaces the content at flush
 *
 * Bytes that do not make a whole record yet wait in the handle (h->tail).
 * All with h->lock, and the content's turn within it.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "fs/change.h"
#include "fs/content.h"
#include "fs/draft.h"
#include "fs/node.h"
#include "fs/user.h"

/* So many zeros over the header are no accident. */
#define ZERO_MIN 16
/* Records that are stored together, or patched together. */
#define AT_ONCE 64

static struct fs *
fs_of(const struct handle *h)
{
    return h->user->fs;
}

/* --- what the handle sees ---------------------------------------------- */

static struct image *
image_of(struct handle *h)
{
    struct fs *fs = fs_of(h);
    pthread_mutex_lock(&fs->lock);
    struct image *i = h->pinned != NULL ? h->pinned : h->node->image;
    if (i != NULL)
        image_ref(i);
    pthread_mutex_unlock(&fs->lock);
    return i;
}

/* What this handle wrote made image of what it saw. */
static void
set_image(struct handle *h, struct image *image)
{
    struct fs *fs = fs_of(h);
    struct image *old = NULL;
    pthread_mutex_lock(&fs->lock);
    if (h->pinned != NULL) {
        old = h->pinned;
        h->pinned = image_ref(image);
    }
    pthread_mutex_unlock(&fs->lock);
    if (old == NULL)
        content_written(h->node->content, h->node, image);
    image_unref(old);
}

/* --- the tail ---------------------------------------------------------- */

/* The uid pays for what a handle keeps. */
static int
charge_tail(struct handle *h)
{
    int r = 0;
    if (h->tail.len == 0)
        writer_free(&h->tail);
    if (h->tail.cap > h->charged)
        r = draft_charge(h->user, h->tail.cap - h->charged);
    else
        draft_discharge(h->user, h->charged - h->tail.cap);
    if (r == 0)
        h->charged = h->tail.cap;
    return r;
}

int
change_set_tail(struct handle *h, struct writer *bytes)
{
    writer_free(&h->tail);
    h->tail = *bytes;
    *bytes = (struct writer){0};
    return charge_tail(h);
}

/* The records of the tail that are whole: their number. */
static size_t
split_tail(struct data tail, struct data *creds, uint32_t *lengths)
{
    struct reader r;
    size_t count = 0;
    reader_init(&r, tail.p, tail.len);
    while (reader_left(&r) > 0 && count < AT_ONCE) {
        struct cred c;
        cred_read(&r, &c);
        if (r.bad)
            break;
        creds[count] = c.raw;
        lengths[count++] = (uint32_t)c.raw.len;
    }
    return count;
}

/* Take len bytes off the front of the tail. */
static void
consume(struct handle *h, size_t len)
{
    memmove(h->tail.p, h->tail.p + len, h->tail.len - len);
    h->tail.len -= len;
}

/* The records as removed entries: of the same length, but no content. */
static int
mark_removed(const struct data *creds, size_t count, struct writer *w)
{
    for (size_t i = 0; i < count; i++) {
        struct cred c;
        if (cred_parse(creds[i], &c))
            cred_write_removed(w, &c);
    }
    return w->failed ? -ENOMEM : 0;
}

/*
 * With the turn: what was stored comes behind what the file was.  Who has it
 * open besides must not see that without what others stored before, which
 * may not be known yet; nor in a file that is not the cache any more, where
 * a removed entry is as long as the kernel takes the file to be.
 */
static int
show_stored(struct handle *h, const struct data *creds,
            const uint32_t *lengths, size_t count)
{
    struct fs *fs = fs_of(h);
    struct node *n = h->node;
    _cleanup_(image_unrefp) struct image *image = image_of(h);
    _cleanup_(image_unrefp) struct image *next = NULL;
    _cleanup_(writer_free) struct writer bytes = {0};
    pthread_mutex_lock(&fs->lock);
    bool shared = n->opens > 1 && h->pinned == NULL && !n->unlinked;
    pthread_mutex_unlock(&fs->lock);
    int r = shared ? content_check(n->content, &h->caller) : 0;
    if (shared && r == 0 && content_follow(n->content, n))
        return 0;
    if (shared)
        r = mark_removed(creds, count, &bytes);
    for (size_t i = 0; !shared && i < count; i++)
        write_data(&bytes, creds[i]);
    if (r == 0 && bytes.failed)
        r = -ENOMEM;
    if (r == 0)
        r = image_append(image, writer_data(&bytes), lengths, count, &next);
    if (r == 0)
        set_image(h, next);
    return r;
}

/* With the turn: commit the records of the tail that are whole; *taken_out
 * bytes of them are. */
static int
commit_tail(struct handle *h, size_t *taken_out)
{
    struct data creds[AT_ONCE];
    uint32_t lengths[AT_ONCE];
    *taken_out = 0;
    for (;;) {
        size_t done = 0, len = 0;
        size_t count = split_tail(writer_data(&h->tail), creds, lengths);
        if (count == 0)
            return h->tail.len > RECORD_MAX ? -EINVAL : 0;
        int r =
            change_store(h->node->content, &h->caller, creds, count, &done);
        assert(done <= count);
        for (size_t i = 0; i < done; i++)
            len += lengths[i];
        int shown = 0;
        if (done > 0)
            shown = show_stored(h, creds, lengths, done);
        consume(h, len);
        *taken_out += len;
        if (r != 0 || shown != 0)
            return r != 0 ? r : shown;
    }
}

static int
append(struct handle *h, off_t off, struct data data)
{
    size_t before = h->tail.len, taken = 0;
    write_data(&h->tail, data);
    int r = h->tail.failed ? -ENOMEM : 0;
    h->tail.failed = false;
    if (r == 0)
        r = commit_tail(h, &taken);
    /* What was not taken is not written. */
    if (r != 0)
        h->tail.len = taken > 0 ? 0 : before;
    int paid = charge_tail(h);
    if (r == 0 && paid != 0) {
        h->tail.len = 0;
        r = paid;
    }
    if (r == 0)
        h->end = off + (off_t)data.len;
    return r;
}

/* --- drafts of existing files ------------------------------------------ */

/* From here on the handle writes a file of its own, which begins as the
 * first keep bytes of what it sees. */
static int
start_draft(struct handle *h, size_t keep)
{
    struct fs *fs = fs_of(h);
    _cleanup_(draft_unrefp) struct draft *d = NULL;
    _cleanup_(image_unrefp) struct image *image = image_of(h);
    int r = draft_new(h->user, &d);
    if (r == 0 && image != NULL && keep > 0) {
        struct data all = image_bytes(image);
        all.len = keep < all.len ? keep : all.len;
        r = draft_write(d, 0, all);
        if (r == 0 && keep > all.len)
            r = draft_write(d, (off_t)all.len, writer_data(&h->tail));
    }
    if (r != 0)
        return r;
    h->tail.len = 0;
    (void)charge_tail(h);
    pthread_mutex_lock(&fs->lock);
    h->draft = take(d);
    pthread_mutex_unlock(&fs->lock);
    return 0;
}

static int
write_draft(struct handle *h, off_t off, struct data data)
{
    if (h->flags & O_APPEND)
        off = (off_t)draft_size(h->draft);
    int r = draft_write(h->draft, off, data);
    if (r == 0)
        h->dirty = true;
    return r;
}

static int
flush_draft(struct handle *h)
{
    struct fs *fs = fs_of(h);
    _cleanup_(content_unrefp) struct content *c = NULL;
    if (!h->dirty)
        return 0;
    int r = content_take(fs, h->node, &h->caller, &c);
    if (r != 0)
        return r;
    r = change_replace_held(c, &h->caller, writer_data(&h->draft->bytes),
                            h->node);
    turn_give(&c->turn);
    if (r != 0)
        return r;
    h->dirty = false;
    /* The file is the cache now, and the draft done with, unless the node
     * stays as it is for who reads it, or the bytes differ. */
    struct draft *done = NULL;
    pthread_mutex_lock(&fs->lock);
    if (c->node == h->node && h->node->image != NULL &&
        h->node->image->len == h->draft->bytes.len)
        done = take(h->draft);
    pthread_mutex_unlock(&fs->lock);
    draft_unref(done);
    return 0;
}

/* --- writes in place --------------------------------------------------- */

static bool
all_zero(struct data d)
{
    for (size_t i = 0; i < d.len; i++)
        if (d.p[i] != 0)
            return false;
    return true;
}

/*
 * Do the bytes at off replace whole records by whole records of the same
 * lengths?  Their number; 0 if not.  *entry_out: the first.
 */
static size_t
whole_records(const struct image *image, size_t off, struct data data,
              struct cred *creds, size_t *entry_out)
{
    struct reader r;
    size_t entry = image_find(image, off), count = 0;
    reader_init(&r, data.p, data.len);
    *entry_out = entry;
    if (entry == image->count || image_entries(image)[entry].offset != off)
        return 0;
    while (reader_left(&r) > 0) {
        if (count == AT_ONCE || entry + count == image->count)
            return 0;
        cred_read(&r, &creds[count]);
        if (r.bad || !change_is_cred(&creds[count]) ||
            creds[count].raw.len != image_entries(image)[entry + count].length)
            return 0;
        count++;
    }
    return count;
}

/* The records at entry... of what the handle sees become creds. */
static int
show_patched(struct handle *h, size_t entry, const struct cred *creds,
             size_t count)
{
    for (size_t i = 0; i < count; i++) {
        _cleanup_(image_unrefp) struct image *image = image_of(h);
        _cleanup_(image_unrefp) struct image *next = NULL;
        int r = image_patch(image, entry + i, creds[i].raw, &next);
        if (r != 0)
            return r;
        set_image(h, next);
    }
    return 0;
}

static int
patch_entries(struct handle *h, struct image *image, size_t entry,
              const struct cred *creds, size_t count)
{
    struct content *c = h->node->content;
    struct data store[AT_ONCE];
    size_t stores = 0;
    int r = content_check(c, &h->caller);
    if (r != 0)
        return r;
    struct kcm_snapshot *s = c->known.snapshot;
    if (s == NULL)
        return KCM_NOT_FOUND;
    _cleanup_(freep) bool *remove = calloc(s->count + 1, sizeof(*remove));
    if (remove == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++) {
        struct data old = image_entry_bytes(image, entry + i);
        if (data_equal(old, creds[i].raw))
            continue;
        if (!image_entries(image)[entry + i].removed)
            (void)change_mark(s, old, remove);
        if (!cred_is_removed(&creds[i]))
            store[stores++] = creds[i].raw;
    }
    r = change_edit(c, &h->caller, remove, store, stores);
    return r == 0 ? show_patched(h, entry, creds, count) : r;
}

static int
write_in_place(struct handle *h, struct image *image, size_t off,
               struct data data)
{
    struct cred creds[AT_ONCE];
    size_t entry;
    if (off == 0 && data.len >= ZERO_MIN && all_zero(data)) {
        struct content *c = h->node->content;
        int r = change_destroy_held(c, &h->caller);
        if (r == 0)
            status_audit_change(c->user->fs, &h->caller, "destroys", c);
        return r == KCM_NOT_FOUND ? 0 : r;
    }
    if (off + data.len <= image->len &&
        memcmp(image_bytes(image).p + off, data.p, data.len) == 0)
        return 0;
    size_t count = whole_records(image, off, data, creds, &entry);
    if (count > 0)
        return patch_entries(h, image, entry, creds, count);
    int r = start_draft(h, image->len + h->tail.len);
    return r == 0 ? write_draft(h, (off_t)off, data) : r;
}

/* --- the operations ---------------------------------------------------- */

/* With the turn. */
static int
write_held(struct handle *h, off_t off, struct data data)
{
    if (node_is_unlinked(fs_of(h), h->node))
        return 0; /* it goes nowhere, as on disk */
    if (h->draft != NULL)
        return write_draft(h, off, data);
    _cleanup_(image_unrefp) struct image *image = image_of(h);
    if (image == NULL) {
        _cleanup_(draft_unrefp) struct draft *d = draft_of(fs_of(h), h->node);
        return d != NULL ? change_write_unborn(h, d, off, data) : -EIO;
    }
    size_t end = image->len + h->tail.len;
    /* Somebody may have appended meanwhile: where this writer saw the end
     * is the end. */
    if ((h->flags & O_APPEND) || (size_t)off == end ||
        (h->end > 0 && off == h->end))
        return append(h, off, data);
    if ((size_t)off > end)
        return -EINVAL;
    return write_in_place(h, image, (size_t)off, data);
}

int
change_opened(struct handle *h)
{
    _cleanup_(image_unrefp) struct image *image = image_of(h);
    if (h->flags & O_TRUNC)
        return change_truncate(h, 0);
    h->end = image != NULL ? (off_t)image->len : 0;
    return 0;
}

int
change_write(struct handle *h, off_t off, struct data data)
{
    _cleanup_(content_unrefp) struct content *c = NULL;
    int r = content_take(fs_of(h), h->node, &h->caller, &c);
    if (r == 0) {
        r = write_held(h, off, data);
        turn_give(&c->turn);
    }
    return r;
}

int
change_flush(struct handle *h)
{
    if (node_is_unlinked(fs_of(h), h->node))
        return 0;
    if (h->draft != NULL)
        return flush_draft(h);
    if (h->tail.len > 0)
        return -EINVAL; /* cut in a record */
    return change_flush_unborn(h);
}

int
change_truncate(struct handle *h, off_t size)
{
    int r = 0;
    _cleanup_(image_unrefp) struct image *image = image_of(h);
    _cleanup_(draft_unrefp) struct draft *d = draft_of(fs_of(h), h->node);
    if (size < 0)
        return -EINVAL;
    if (h->draft == NULL && d != NULL)
        return draft_truncate(d, size);
    if (h->draft == NULL && image != NULL && (size_t)size == image->len) {
        h->tail.len = 0;
        return charge_tail(h);
    }
    if (h->draft == NULL)
        r = start_draft(h, (size_t)size);
    if (r == 0)
        r = draft_truncate(h->draft, size);
    h->dirty = h->dirty || size > 0;
    return r;
}
