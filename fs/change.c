/*
 * What writers do to caches: bytes become KCM operations.
 *
 * Each commit is: take the content's turn, bring what is known up to date
 * where the operation needs it, have the daemon do it, and only then let the
 * node show it.  A commit that fails leaves everything as it was.
 *
 *   a whole record at the end          STORE
 *   whole records over whole records   REMOVE_CRED, STORE
 *   the header of a file being made    INITIALIZE
 *   zeros over the header              DESTROY (kdestroy through a link)
 *   anything else                      a draft of the whole file, which
 *                                      replaces the content at flush
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "fs/fs.h"
#include "kcm/describe.h"
#include "kcm/log.h"

/* A record that is not complete by then is none. */
#define RECORD_MAX ((size_t)10 * 1024 * 1024)
/* So many zeros over the header are no accident. */
#define ZERO_MIN 16
/* Records that are stored together. */
#define RECORDS_AT_ONCE 256

static struct fs *
fs_of(const struct content *c)
{
    return c->user->fs;
}

static struct data
blob_data(const struct blob *b)
{
    return (struct data){b->bytes, b->len};
}

static struct image *
image_of_node(struct fs *fs, struct node *n)
{
    pthread_mutex_lock(&fs->lock);
    struct image *i = n->image != NULL ? image_ref(n->image) : NULL;
    pthread_mutex_unlock(&fs->lock);
    return i;
}

/* --- whole files ------------------------------------------------------- */

/* The live credentials of a parsed file as what a cache is to hold. */
static int
content_of_file(const struct image_file *f, struct kcm_content *content,
                struct data **creds)
{
    *creds = calloc(f->count + 1, sizeof(**creds));
    if (*creds == NULL)
        return -ENOMEM;
    *content = (struct kcm_content){
        .principal = f->principal,
        .kdc_offset = f->kdc_offset,
        .creds = *creds,
    };
    for (size_t i = 0; i < f->count; i++) {
        struct cred c;
        if (cred_parse(f->creds[i], &c) && !cred_is_removed(&c))
            (*creds)[content->count++] = f->creds[i];
    }
    return 0;
}

/* With the turn: the content becomes what f holds. */
static int
replace_by_file(struct content *c, const struct caller *caller,
                const struct image_file *f, struct node *n)
{
    struct fs *fs = fs_of(c);
    struct kcm_content content;
    _cleanup_(freep) struct data *creds = NULL;
    _cleanup_(image_unrefp) struct image *image = NULL;
    char *before;
    int r = content_of_file(f, &content, &creds);
    if (r == 0)
        r = image_of_file(f, &image);
    if (r == 0)
        r = content_check(c, caller);
    if (r == 0)
        r = user_guard_begin(c->user, caller, &before);
    if (r != 0)
        return r;
    bool existed = content_exists(c);
    if (!existed && content.count == 0)
        r = kcm_initialize(fs->kcm, caller, c->name, content.principal,
                           content.kdc_offset);
    else
        r = kcm_replace(fs->kcm, caller, c->name,
                        existed ? c->known.snapshot : NULL, &content);
    user_guard_end(c->user, caller, before, r == 0 ? c->name : NULL, NULL);
    if (r == 0)
        content_adopt(c, n, image);
    return r;
}

/* Parse bytes that must be a whole file. */
static int
parse_whole(struct data bytes, struct image_file *f)
{
    int r = image_parse(bytes, f);
    if (r == 0 && (!f->has_principal || f->whole < bytes.len)) {
        image_file_free(f);
        r = -EINVAL;
    }
    if (r == -EINVAL)
        log_info("%zu bytes written are no credential cache", bytes.len);
    return r;
}

int
change_replace(struct content *c, const struct caller *caller,
               struct data bytes, struct node *n)
{
    _cleanup_(image_file_free) struct image_file f = {0};
    int r = parse_whole(bytes, &f);
    if (r == 0)
        r = turn_take(&c->turn, caller);
    if (r != 0)
        return r;
    r = replace_by_file(c, caller, &f, n);
    turn_give(&c->turn);
    return r;
}

int
change_store_file(struct content *c, const struct caller *caller,
                  struct data bytes)
{
    struct kcm_content content;
    _cleanup_(image_file_free) struct image_file f = {0};
    _cleanup_(freep) struct data *creds = NULL;
    int r = parse_whole(bytes, &f);
    if (r == 0)
        r = content_of_file(&f, &content, &creds);
    if (r == 0)
        r = turn_take(&c->turn, caller);
    if (r != 0)
        return r;
    r = kcm_store(fs_of(c)->kcm, caller, c->name, creds, content.count, NULL);
    if (r == 0)
        r = content_check(c, caller);
    turn_give(&c->turn);
    return r;
}

/* --- removing and replacing records ------------------------------------ */

/*
 * Mark in remove what goes with the entry whose bytes are entry: itself and
 * what it superseded.  False when the daemon does not hold it any more.
 */
static bool
mark_entry(const struct kcm_snapshot *s, struct data entry, bool *remove)
{
    struct cred c, other;
    bool found = false;
    if (!cred_parse(entry, &c))
        return false;
    for (size_t i = 0; i < s->count; i++)
        if (s->creds[i].bytes != NULL &&
            data_equal(blob_data(s->creds[i].bytes), entry))
            found = remove[i] = true;
    for (size_t i = 0; i < s->count && found; i++)
        if (s->creds[i].bytes != NULL &&
            cred_parse(blob_data(s->creds[i].bytes), &other) &&
            cred_same_purpose(&c, &other))
            remove[i] = true;
    return found;
}

/* kcm_edit() with the default kept where it is. */
static int
edit(struct content *c, const struct caller *caller, const bool *remove,
     const struct data *creds, size_t count)
{
    struct kcm *kcm = fs_of(c)->kcm;
    char *before = NULL;
    int r = 0;
    if (kcm_moves_default(kcm))
        r = user_guard_begin(c->user, caller, &before);
    if (r != 0)
        return r;
    r = kcm_edit(kcm, caller, c->name, c->known.snapshot, remove, creds,
                 count);
    if (before != NULL)
        user_guard_end(c->user, caller, before, NULL, NULL);
    return r;
}

/* With the turn: the records at entry..entry+count-1 of image become those
 * in bytes. */
static int
patch_entries(struct handle *h, struct image *image, size_t entry,
              const struct cred *creds, size_t count)
{
    struct content *c = h->node->content;
    int r = content_check(c, &h->caller);
    if (r != 0)
        return r;
    struct kcm_snapshot *s = c->known.snapshot;
    if (s == NULL)
        return KCM_NOT_FOUND;
    _cleanup_(freep) bool *remove = calloc(s->count + 1, sizeof(*remove));
    _cleanup_(freep) struct data *store = calloc(count + 1, sizeof(*store));
    size_t stores = 0;
    if (remove == NULL || store == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++) {
        struct data old = image_entry_bytes(image, entry + i);
        if (data_equal(old, creds[i].raw))
            continue;
        if (!image_entries(image)[entry + i].removed)
            (void)mark_entry(s, old, remove);
        if (!cred_is_removed(&creds[i]))
            store[stores++] = creds[i].raw;
    }
    r = edit(c, &h->caller, remove, store, stores);
    for (size_t i = 0; i < count && r == 0; i++) {
        struct image *next;
        r = image_patch(image, entry + i, creds[i].raw, &next);
        if (r != 0)
            break;
        content_written(c, h->node, next);
        image_unref(next);
        image = h->node->image;
    }
    return r;
}

/*
 * Do the bytes at off replace whole records by whole records of the same
 * lengths?  Their number; 0 if not.  *entry_out: the first.
 */
static size_t
whole_records(const struct image *image, size_t off, struct data data,
              struct cred *creds, size_t most, size_t *entry_out)
{
    struct reader r;
    size_t entry = image_find(image, off), count = 0;
    reader_init(&r, data.p, data.len);
    *entry_out = entry;
    if (entry == image->count || image_entries(image)[entry].offset != off)
        return 0;
    while (reader_left(&r) > 0) {
        if (count == most || entry + count == image->count)
            return 0;
        cred_read(&r, &creds[count]);
        if (r.bad ||
            creds[count].raw.len != image_entries(image)[entry + count].length)
            return 0;
        count++;
    }
    return count;
}

/* --- appending --------------------------------------------------------- */

/* The entry of image that a new configuration entry takes the place of. */
static bool
replaces_config(const struct image *image, const struct cred *c,
                struct data *entry_out)
{
    for (size_t i = 0; i < image->count; i++) {
        struct cred other;
        if (!image_entries(image)[i].removed &&
            cred_parse(image_entry_bytes(image, i), &other) &&
            cred_is_config(&other) && cred_same_purpose(&other, c) &&
            !data_equal(other.raw, c->raw)) {
            *entry_out = other.raw;
            return true;
        }
    }
    return false;
}

/* A configuration entry whose key exists takes the old one's place. */
static int
store_config(struct content *c, const struct caller *caller,
             const struct image *image, const struct cred *cred)
{
    struct data old;
    struct fs *fs = fs_of(c);
    if (!replaces_config(image, cred, &old))
        return kcm_store(fs->kcm, caller, c->name, &cred->raw, 1, NULL);
    int r = content_check(c, caller);
    if (r != 0)
        return r;
    struct kcm_snapshot *s = c->known.snapshot;
    if (s == NULL)
        return KCM_NOT_FOUND;
    _cleanup_(freep) bool *remove = calloc(s->count + 1, sizeof(*remove));
    if (remove == NULL)
        return -ENOMEM;
    (void)mark_entry(s, old, remove);
    return edit(c, caller, remove, &cred->raw, 1);
}

/* The records of the tail that are whole: their number. */
static size_t
split_tail(struct data tail, uint32_t *lengths, size_t most, size_t *used_out)
{
    struct reader r;
    size_t count = 0;
    reader_init(&r, tail.p, tail.len);
    *used_out = 0;
    while (reader_left(&r) > 0 && count < most) {
        struct cred c;
        cred_read(&r, &c);
        if (r.bad)
            break;
        lengths[count++] = (uint32_t)c.raw.len;
        *used_out = (size_t)(r.p - tail.p);
    }
    return count;
}

/* Have the daemon store count records; *done_out of them are in it. */
static int
store_records(struct content *c, const struct caller *caller,
              const struct image *image, struct data bytes,
              const uint32_t *lengths, size_t count, size_t *done_out)
{
    _cleanup_(freep) struct data *creds = calloc(count + 1, sizeof(*creds));
    size_t at = 0, plain = 0;
    bool simple = true;
    *done_out = 0;
    if (creds == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++) {
        struct cred cred;
        creds[i] = (struct data){bytes.p + at, lengths[i]};
        at += lengths[i];
        if (!cred_parse(creds[i], &cred))
            return -EINVAL;
        simple = simple && !cred_is_config(&cred) && !cred_is_removed(&cred);
    }
    if (simple)
        return kcm_store(fs_of(c)->kcm, caller, c->name, creds, count,
                         done_out);
    for (int r = 0; plain < count; plain++, (*done_out)++) {
        struct cred cred;
        (void)cred_parse(creds[plain], &cred);
        if (cred_is_config(&cred))
            r = store_config(c, caller, image, &cred);
        else if (!cred_is_removed(&cred))
            r = kcm_store(fs_of(c)->kcm, caller, c->name, &cred.raw, 1, NULL);
        if (r != 0)
            return r;
    }
    return 0;
}

/* With the turn: commit the records of h->tail that are whole. */
static int
commit_tail(struct handle *h)
{
    struct content *c = h->node->content;
    for (;;) {
        uint32_t lengths[RECORDS_AT_ONCE];
        size_t used, done;
        size_t count =
            split_tail(writer_data(&h->tail), lengths, RECORDS_AT_ONCE, &used);
        if (count == 0)
            return h->tail.len > RECORD_MAX ? -EINVAL : 0;
        _cleanup_(image_unrefp) struct image *image =
                      image_of_node(fs_of(c), h->node);
        int r =
            store_records(c, &h->caller, image, (struct data){h->tail.p, used},
                          lengths, count, &done);
        size_t kept = 0;
        for (size_t i = 0; i < done; i++)
            kept += lengths[i];
        struct image *next = NULL;
        int r2 = done > 0 ? image_append(image, (struct data){h->tail.p, kept},
                                         lengths, done, &next)
                          : 0;
        if (next != NULL) {
            content_written(c, h->node, next);
            image_unref(next);
        }
        memmove(h->tail.p, h->tail.p + kept, h->tail.len - kept);
        h->tail.len -= kept;
        if (r == 0)
            r = r2;
        if (r != 0)
            return r;
    }
}

static int
append(struct handle *h, struct data data)
{
    size_t before = h->tail.len;
    write_data(&h->tail, data);
    if (h->tail.failed) {
        h->tail.failed = false;
        return -ENOMEM;
    }
    int r = commit_tail(h);
    /* What was not taken is not written: the next try starts there. */
    if (r != 0)
        h->tail.len = h->tail.len < before ? h->tail.len : before;
    return r;
}

/* --- a cache that is being made ---------------------------------------- */

/* With the turn: the draft of an unborn cache grew; make the cache as soon
 * as its principal is there. */
static int
give_birth(struct handle *h)
{
    struct node *n = h->node;
    struct content *c = n->content;
    _cleanup_(image_file_free) struct image_file f = {0};
    _cleanup_(writer_free) struct writer rest = {0};
    _cleanup_(draft_unrefp) struct draft *d = draft_ref(n->draft);
    int r = image_parse(writer_data(&d->bytes), &f);
    if (r != 0 || !f.has_principal)
        return r;
    write_bytes(&rest, d->bytes.p + f.whole, d->bytes.len - f.whole);
    r = rest.failed ? -ENOMEM : replace_by_file(c, &h->caller, &f, n);
    if (r != 0)
        return r;
    h->tail = rest;
    rest = (struct writer){0};
    return 0;
}

static int
write_unborn(struct handle *h, off_t off, struct data data)
{
    struct draft *d = h->node->draft;
    size_t before = draft_size(d);
    if (h->flags & O_APPEND)
        off = (off_t)before;
    int r = draft_write(d, off, data);
    if (r == 0)
        r = give_birth(h);
    if (r != 0 && h->node->draft == d)
        (void)draft_truncate(d, (off_t)before);
    return r;
}

/* --- drafts of existing files ------------------------------------------ */

/* From here on the handle writes a file of its own. */
static int
start_draft(struct handle *h, size_t keep)
{
    struct fs *fs = fs_of(h->node->content);
    struct draft *d;
    int r = draft_new(h->node->content->user, &d);
    if (r < 0)
        return r;
    _cleanup_(image_unrefp) struct image *image = image_of_node(fs, h->node);
    if (image != NULL && keep > 0) {
        struct data all = image_bytes(image);
        all.len = keep < all.len ? keep : all.len;
        r = draft_write(d, 0, all);
    }
    if (r < 0)
        draft_unref(d);
    else
        h->draft = d;
    return r;
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

int
change_truncate(struct handle *h, off_t size)
{
    struct fs *fs = fs_of(h->node->content);
    pthread_mutex_lock(&h->lock);
    int r = 0;
    _cleanup_(image_unrefp) struct image *image = image_of_node(fs, h->node);
    if (h->node->draft != NULL && image == NULL) {
        r = draft_truncate(h->node->draft, size);
    } else if (h->draft == NULL && image != NULL &&
               (size_t)size == image->len) {
        writer_reset(&h->tail);
    } else {
        if (h->draft == NULL)
            r = start_draft(h, (size_t)size);
        if (r == 0)
            r = draft_truncate(h->draft, size);
        h->dirty = h->dirty || size > 0;
        writer_reset(&h->tail);
    }
    pthread_mutex_unlock(&h->lock);
    return r;
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

/* With the turn. */
static int
destroy(struct content *c, const struct caller *caller)
{
    struct fs *fs = fs_of(c);
    char *before;
    int r = user_guard_begin(c->user, caller, &before);
    if (r != 0)
        return r;
    r = kcm_destroy(fs->kcm, caller, c->name);
    user_guard_end(c->user, caller, before, NULL, r == 0 ? c->name : NULL);
    if (r != 0 && r != KCM_NOT_FOUND)
        return r;
    pthread_mutex_lock(&fs->lock);
    if (c->node != NULL)
        c->node->unlinked = true;
    pthread_mutex_unlock(&fs->lock);
    content_vanish(c);
    return r;
}

static int
write_in_place(struct handle *h, struct image *image, size_t off,
               struct data data)
{
    enum {
        MOST = 64
    };
    struct cred creds[MOST];
    size_t entry;
    if (off == 0 && data.len >= ZERO_MIN && all_zero(data))
        return destroy(h->node->content, &h->caller);
    if (off + data.len <= image->len &&
        memcmp(image_bytes(image).p + off, data.p, data.len) == 0)
        return 0;
    size_t count = whole_records(image, off, data, creds, MOST, &entry);
    if (count > 0)
        return patch_entries(h, image, entry, creds, count);
    int r = start_draft(h, image->len);
    return r == 0 ? write_draft(h, (off_t)off, data) : r;
}

/* With the turn. */
static int
write_locked(struct handle *h, off_t off, struct data data)
{
    struct node *n = h->node;
    if (n->unlinked)
        return 0; /* it goes nowhere, as on disk */
    if (h->draft != NULL)
        return write_draft(h, off, data);
    _cleanup_(image_unrefp) struct image *image =
                  image_of_node(fs_of(n->content), n);
    if (image == NULL)
        return write_unborn(h, off, data);
    size_t end = image->len + h->tail.len;
    if ((h->flags & O_APPEND) || (size_t)off == end)
        return append(h, data);
    if ((size_t)off > end)
        return -EINVAL;
    return write_in_place(h, image, (size_t)off, data);
}

int
change_write(struct handle *h, off_t off, struct data data)
{
    struct content *c = h->node->content;
    pthread_mutex_lock(&h->lock);
    int r = turn_take(&c->turn, &h->caller);
    if (r == 0) {
        r = write_locked(h, off, data);
        turn_give(&c->turn);
    }
    pthread_mutex_unlock(&h->lock);
    return r;
}

static int
flush_draft(struct handle *h)
{
    if (!h->dirty)
        return 0;
    struct draft *d = h->draft;
    int r = change_replace(h->node->content, &h->caller,
                           writer_data(&d->bytes), h->node);
    if (r != 0)
        return r;
    h->dirty = false;
    /* What comes now is written to the cache that it has become. */
    draft_unref(take(h->draft));
    return 0;
}

int
change_flush(struct handle *h)
{
    struct node *n = h->node;
    pthread_mutex_lock(&h->lock);
    int r = 0;
    if (n->unlinked)
        r = 0;
    else if (h->draft != NULL)
        r = flush_draft(h);
    else if (h->tail.len > 0)
        r = -EINVAL; /* cut in a record */
    pthread_mutex_unlock(&h->lock);
    return r;
}

/* --- names ------------------------------------------------------------- */

int
change_destroy(struct content *c, const struct caller *caller)
{
    int r = turn_take(&c->turn, caller);
    if (r != 0)
        return r;
    r = destroy(c, caller);
    turn_give(&c->turn);
    return r;
}

/* With both turns. */
static int
move(struct content *from, struct content *to, const struct caller *caller)
{
    struct fs *fs = fs_of(from);
    int r = content_check(from, caller);
    if (r == 0)
        r = content_check(to, caller);
    struct kcm_snapshot *s = from->known.snapshot;
    if (r != 0 || s == NULL)
        return r != 0 ? r : KCM_NOT_FOUND;
    char *before;
    r = user_guard_begin(from->user, caller, &before);
    if (r != 0)
        return r;
    r = KCM_UNSUPPORTED;
    if (kcm_can_move(fs->kcm, caller, from->name))
        r = kcm_move(fs->kcm, caller, from->name, to->name);
    if (r == KCM_UNSUPPORTED) {
        struct kcm_content content;
        _cleanup_(freep) struct data *creds = NULL;
        r = kcm_content_of(s, &content, &creds);
        if (r == 0)
            r = kcm_replace(fs->kcm, caller, to->name, to->known.snapshot,
                            &content);
        if (r == 0)
            r = kcm_destroy(fs->kcm, caller, from->name);
    }
    user_guard_end(from->user, caller, before, r == 0 ? to->name : NULL,
                   r == 0 ? from->name : NULL);
    if (r == 0)
        content_vanish(from);
    return r != 0 ? r : content_check(to, caller);
}

int
change_move(struct content *from, struct content *to,
            const struct caller *caller)
{
    struct content *first = from < to ? from : to;
    struct content *second = from < to ? to : from;
    if (from == to)
        return 0;
    int r = turn_take(&first->turn, caller);
    if (r != 0)
        return r;
    r = turn_take(&second->turn, caller);
    if (r == 0) {
        r = move(from, to, caller);
        turn_give(&second->turn);
    }
    turn_give(&first->turn);
    return r;
}

/* With the turn: remove what name in tickets/ or config/ stands for and
 * store value (if any) instead. */
static int
replace_named(struct content *c, const struct caller *caller, bool config,
              const char *name, const struct data *value)
{
    _cleanup_(tickets_unrefp) struct ticket_table *t = NULL;
    int r = content_check(c, caller);
    if (r == 0)
        r = tickets_of(c, &t);
    if (r != 0)
        return r;
    struct kcm_snapshot *s = c->known.snapshot;
    const struct ticket_name *found =
        config ? tickets_find(t->config, t->configs, name)
               : tickets_find(t->ticket, t->tickets, name);
    if (found == NULL && value == NULL)
        return KCM_NOT_FOUND;
    _cleanup_(freep) bool *remove = calloc(s->count + 1, sizeof(*remove));
    if (remove == NULL)
        return -ENOMEM;
    if (found != NULL && config)
        (void)mark_entry(s, blob_data(s->creds[found->index].bytes), remove);
    else if (found != NULL)
        remove[found->index] = true;
    r = edit(c, caller, remove, value, value != NULL ? 1 : 0);
    return r == 0 ? content_check(c, caller) : r;
}

int
change_remove_ticket(struct content *c, const struct caller *caller,
                     bool config, const char *name)
{
    int r = turn_take(&c->turn, caller);
    if (r != 0)
        return r;
    r = replace_named(c, caller, config, name, NULL);
    turn_give(&c->turn);
    return r;
}

int
change_set_config(struct content *c, const struct caller *caller,
                  const char *file, struct data value)
{
    _cleanup_(writer_free) struct writer entry = {0};
    _cleanup_(freep) char *name = name_unescape_text(file);
    _cleanup_(kcm_snapshot_unrefp) struct kcm_snapshot *s =
                  content_snapshot(c);
    if (s == NULL)
        return KCM_NOT_FOUND;
    if (name == NULL || name[0] == '\0' || name[0] == '@')
        return -EINVAL;
    /* KEY or KEY@PRINCIPAL: no key in use holds an @. */
    char *of = strchr(name, '@');
    struct data principal = {NULL, 0};
    if (of != NULL) {
        *of = '\0';
        principal = data_of_string(of + 1);
    }
    cred_write_config(&entry, blob_data(s->principal), data_of_string(name),
                      principal, value);
    if (entry.failed)
        return -ENOMEM;
    struct data stored = writer_data(&entry);
    int r = turn_take(&c->turn, caller);
    if (r != 0)
        return r;
    r = replace_named(c, caller, true, file, &stored);
    turn_give(&c->turn);
    return r;
}
