/*
 * Images: rendering, merging, appending.
 */
#include "image.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "canon.h"

#define FILE_VERSION4  0x0504
#define TAG_KDC_OFFSET 1

struct image_buffer {
    int refs;
    size_t used, cap;
    struct blob *blob;
    uint8_t *bytes; /* blob's */
};

struct image_table {
    int refs;
    size_t used, cap;
    struct image_entry entries[];
};

/* --- the parts and their life ------------------------------------------ */

static void
buffer_unref(struct image_buffer *b)
{
    if (b == NULL || __atomic_fetch_sub(&b->refs, 1, __ATOMIC_ACQ_REL) != 1)
        return;
    blob_unref(b->blob);
    free(b);
}

static struct image_buffer *
buffer_new(size_t size)
{
    struct image_buffer *b = calloc(1, sizeof(*b));
    if (b == NULL)
        return NULL;
    b->blob = blob_new(NULL, size);
    if (b->blob == NULL) {
        free(b);
        return NULL;
    }
    b->refs = 1;
    b->cap = size;
    b->bytes = b->blob->bytes;
    return b;
}

static void
table_unref(struct image_table *t)
{
    if (t != NULL && __atomic_fetch_sub(&t->refs, 1, __ATOMIC_ACQ_REL) == 1)
        free(t);
}

struct image *
image_ref(struct image *i)
{
    __atomic_fetch_add(&i->refs, 1, __ATOMIC_RELAXED);
    return i;
}

void
image_unref(struct image *i)
{
    if (i == NULL || __atomic_fetch_sub(&i->refs, 1, __ATOMIC_ACQ_REL) != 1)
        return;
    buffer_unref(i->buffer);
    table_unref(i->table);
    free(i);
}

/* An empty image with room for size bytes and count entries. */
static struct image *
image_new(size_t size, size_t count)
{
    _cleanup_(image_unrefp) struct image *i = calloc(1, sizeof(*i));
    if (i == NULL)
        return NULL;
    i->refs = 1;
    i->buffer = buffer_new(size);
    if (i->buffer == NULL)
        return NULL;
    i->table =
        calloc(1, sizeof(*i->table) + count * sizeof(struct image_entry));
    if (i->table == NULL)
        return NULL;
    i->table->refs = 1;
    i->table->cap = count;
    return take(i);
}

struct data
image_bytes(const struct image *i)
{
    return (struct data){i->buffer->bytes, i->len};
}

const struct image_entry *
image_entries(const struct image *i)
{
    return i->table->entries;
}

struct data
image_entry_bytes(const struct image *i, size_t n)
{
    const struct image_entry *e = &i->table->entries[n];
    return (struct data){i->buffer->bytes + e->offset, e->length};
}

/* Put bytes behind an image that nobody else has yet. */
static void
put(struct image *i, struct data d)
{
    assert(d.len <= i->buffer->cap - i->len);
    if (d.len > 0)
        memcpy(i->buffer->bytes + i->len, d.p, d.len);
    i->len += d.len;
    i->buffer->used = i->len;
}

static void
put_entry(struct image *i, struct data d, bool removed)
{
    assert(i->count < i->table->cap);
    i->table->entries[i->count++] =
        (struct image_entry){(uint32_t)i->len, (uint32_t)d.len, removed};
    i->table->used = i->count;
    put(i, d);
}

/* --- render and merge -------------------------------------------------- */

void
image_write_header(struct writer *w, const struct kcm_snapshot *s)
{
    write_u16(w, FILE_VERSION4);
    write_u16(w, s->kdc_offset != 0 ? 12 : 0);
    if (s->kdc_offset != 0) {
        write_u16(w, TAG_KDC_OFFSET);
        write_u16(w, 8);
        write_u32(w, (uint32_t)s->kdc_offset);
        write_u32(w, 0);
    }
    write_bytes(w, s->principal->bytes, s->principal->len);
}

static size_t
sum_lengths(const struct canon_item *items, size_t count)
{
    size_t sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += items[i].hidden ? 0 : items[i].cred.raw.len;
    return sum;
}

static void
put_items(struct image *i, const struct canon_item *items, size_t count)
{
    for (size_t n = 0; n < count; n++)
        if (!items[n].hidden)
            put_entry(i, items[n].cred.raw, false);
}

int
image_render(const struct kcm_snapshot *s, struct image **out)
{
    *out = NULL;
    size_t count = 0;
    _cleanup_(freep) struct canon_item *items = canon_items(s, &count);
    _cleanup_(writer_free) struct writer header = {0};
    image_write_header(&header, s);
    if (items == NULL || header.failed)
        return -ENOMEM;
    size_t size = header.len + sum_lengths(items, count);
    if (size > UINT32_MAX)
        return -EFBIG;
    struct image *i = image_new(size, count);
    if (i == NULL)
        return -ENOMEM;
    put(i, writer_data(&header));
    i->body = i->len;
    i->clean = true;
    put_items(i, items, count);
    *out = i;
    return 0;
}

/*
 * Which entries of old stay as they are?  The items that they show are
 * hidden: what is left is new.  False when out of memory.
 */
static bool
match_entries(const struct image *old, struct canon_item *items, size_t count,
              bool *stays, bool *all_stay_out)
{
    _cleanup_(freep) struct canon_ref *refs = canon_index(items, count);
    *all_stay_out = true;
    for (size_t n = 0; refs != NULL && n < old->count; n++) {
        stays[n] = old->table->entries[n].removed;
        struct canon_item *found =
            stays[n] ? NULL
                     : canon_find(refs, count, image_entry_bytes(old, n));
        if (found != NULL && !found->hidden)
            found->hidden = stays[n] = true;
        *all_stay_out &= stays[n];
    }
    return refs != NULL;
}

/* Put the mark of a removed entry of the same length behind i. */
static int
put_removed(struct image *i, struct data bytes)
{
    struct cred c;
    _cleanup_(writer_free) struct writer w = {0};
    if (!cred_parse(bytes, &c))
        return -EINVAL;
    cred_write_removed(&w, &c);
    if (w.failed)
        return -ENOMEM;
    put_entry(i, writer_data(&w), true);
    return 0;
}

static int
merge(const struct image *old, struct data header,
      const struct canon_item *items, size_t count, const bool *stays,
      struct image **out)
{
    size_t size = old->len + sum_lengths(items, count);
    if (size > UINT32_MAX)
        return -EFBIG;
    _cleanup_(image_unrefp) struct image *i =
        image_new(size, old->count + count);
    if (i == NULL)
        return -ENOMEM;
    put(i, header);
    i->body = i->len;
    for (size_t n = 0; n < old->count; n++) {
        struct data bytes = image_entry_bytes(old, n);
        int r = 0;
        if (stays[n])
            put_entry(i, bytes, old->table->entries[n].removed);
        else
            r = put_removed(i, bytes);
        if (r < 0)
            return r;
    }
    put_items(i, items, count);
    *out = take(i);
    return 0;
}

int
image_merge(struct image *old, const struct kcm_snapshot *s,
            struct image **out)
{
    *out = NULL;
    size_t count = 0;
    _cleanup_(freep) struct canon_item *items = canon_items(s, &count);
    _cleanup_(freep) bool *stays = calloc(old->count + 1, sizeof(*stays));
    _cleanup_(writer_free) struct writer header = {0};
    bool all_stay;
    image_write_header(&header, s);
    if (items == NULL || stays == NULL || header.failed)
        return -ENOMEM;
    if (header.len != old->body)
        return image_render(s, out);
    if (!match_entries(old, items, count, stays, &all_stay))
        return -ENOMEM;
    if (all_stay && sum_lengths(items, count) == 0 &&
        memcmp(header.p, old->buffer->bytes, old->body) == 0) {
        *out = image_ref(old);
        return 0;
    }
    return merge(old, writer_data(&header), items, count, stays, out);
}

/* --- one copy for both -------------------------------------------------- */

/* The credential's bytes are those of i's entry n, which are the same. */
static void
share_entry(const struct image *i, size_t n, struct canon_item *item,
            struct kcm_snap_cred *cred)
{
    struct data d = image_entry_bytes(i, n);
    if (cred->bytes->owner == i->buffer->blob)
        return;
    struct blob *slice = blob_slice(
        i->buffer->blob, i->buffer->bytes + image_entries(i)[n].offset, d.len);
    if (slice == NULL)
        return;
    item->cred.raw = d; /* what it pointed to goes */
    blob_unref(cred->bytes);
    cred->bytes = slice;
}

void
image_share(const struct image *i, struct kcm_snapshot *s)
{
    size_t count = 0;
    _cleanup_(freep) struct canon_item *items = canon_items(s, &count);
    bool in_order = items != NULL && i->clean && i->count == count;
    _cleanup_(freep) struct canon_ref *refs =
        items != NULL && !in_order ? canon_index(items, count) : NULL;
    for (size_t n = 0; (in_order || refs != NULL) && n < i->count; n++) {
        struct data d = image_entry_bytes(i, n);
        struct canon_item *found =
            in_order ? &items[n] : canon_find(refs, count, d);
        if (found != NULL && data_equal(found->cred.raw, d))
            share_entry(i, n, found, &s->creds[found->index]);
    }
}

/* --- change ------------------------------------------------------------ */

/* A copy of i with room for more. */
static struct image *
copy(const struct image *i, size_t more_bytes, size_t more_entries)
{
    struct image *c = image_new(i->len + more_bytes, i->count + more_entries);
    if (c == NULL)
        return NULL;
    put(c, image_bytes(i));
    c->body = i->body;
    c->count = c->table->used = i->count;
    memcpy(c->table->entries, i->table->entries,
           i->count * sizeof(struct image_entry));
    return c;
}

int
image_append(struct image *i, struct data bytes, const uint32_t *lengths,
             size_t count, struct image **out)
{
    *out = NULL;
    if (bytes.len > UINT32_MAX - i->len)
        return -EFBIG;
    bool shared = i->buffer->used == i->len && i->table->used == i->count &&
                  i->buffer->cap - i->len >= bytes.len &&
                  i->table->cap - i->count >= count;
    struct image *n;
    if (shared) {
        n = calloc(1, sizeof(*n));
        if (n == NULL)
            return -ENOMEM;
        *n = (struct image){.refs = 1, /* others count those of i */
                            .len = i->len,
                            .body = i->body,
                            .count = i->count,
                            .buffer = i->buffer,
                            .table = i->table};
        __atomic_fetch_add(&n->buffer->refs, 1, __ATOMIC_RELAXED);
        __atomic_fetch_add(&n->table->refs, 1, __ATOMIC_RELAXED);
    } else {
        /* Twice the room, so that appending stays linear in all. */
        n = copy(i, i->len + bytes.len, i->count + count);
        if (n == NULL)
            return -ENOMEM;
    }
    n->clean = false;
    size_t at = 0;
    for (size_t k = 0; k < count; k++) {
        struct data entry = {bytes.p + at, lengths[k]};
        struct cred c;
        put_entry(n, entry, cred_parse(entry, &c) && cred_is_removed(&c));
        at += lengths[k];
    }
    assert(at == bytes.len);
    *out = n;
    return 0;
}

int
image_pad(struct image *i, const struct image *other, size_t from,
          struct image **out)
{
    _cleanup_(writer_free) struct writer w = {0};
    size_t first = image_find(other, from), count = other->count - first;
    _cleanup_(freep) uint32_t *lengths = calloc(count + 1, sizeof(*lengths));
    *out = NULL;
    if (lengths == NULL)
        return -ENOMEM;
    for (size_t k = 0; k < count; k++) {
        struct cred c;
        lengths[k] = image_entries(other)[first + k].length;
        if (!cred_parse(image_entry_bytes(other, first + k), &c))
            return -EINVAL;
        cred_write_removed(&w, &c);
    }
    return w.failed ? -ENOMEM
                    : image_append(i, writer_data(&w), lengths, count, out);
}

int
image_patch(const struct image *i, size_t entry, struct data bytes,
            struct image **out)
{
    *out = NULL;
    struct cred c;
    const struct image_entry *e = &i->table->entries[entry];
    if (bytes.len != e->length || !cred_parse(bytes, &c))
        return -EINVAL;
    struct image *n = copy(i, 0, 0);
    if (n == NULL)
        return -ENOMEM;
    memcpy(n->buffer->bytes + e->offset, bytes.p, bytes.len);
    n->table->entries[entry].removed = cred_is_removed(&c);
    *out = n;
    return 0;
}

int
image_of_file(const struct image_file *f, struct image **out)
{
    *out = NULL;
    struct image *i = image_new(f->v4.len, f->count);
    if (i == NULL)
        return -ENOMEM;
    put(i, (struct data){f->v4.p, f->body});
    i->body = i->len;
    for (size_t n = 0; n < f->count; n++) {
        struct cred c;
        bool removed = cred_parse(f->creds[n], &c) && cred_is_removed(&c);
        put_entry(i, f->creds[n], removed);
    }
    *out = i;
    return 0;
}

/* --- compare and find -------------------------------------------------- */

bool
image_extends(const struct image *i, const struct image *old)
{
    return i == old ||
           (i->len >= old->len && i->body == old->body &&
            memcmp(i->buffer->bytes, old->buffer->bytes, old->len) == 0);
}

bool
image_continues(const struct image *i, const struct image *old)
{
    const struct image_entry *a = image_entries(i), *b = image_entries(old);
    size_t n = 0;
    if (!image_same_header(i, old) || i->count < old->count)
        return false;
    while (n < old->count && a[n].offset == b[n].offset &&
           a[n].length == b[n].length)
        n++;
    return n == old->count;
}

bool
image_same_header(const struct image *a, const struct image *b)
{
    return a->body == b->body &&
           memcmp(a->buffer->bytes, b->buffer->bytes, a->body) == 0;
}

bool
image_equal(const struct image *a, const struct image *b)
{
    return a == b || (a->len == b->len && image_extends(a, b));
}

size_t
image_find(const struct image *i, size_t offset)
{
    size_t low = 0, high = i->count;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        const struct image_entry *e = &i->table->entries[mid];
        if (offset < e->offset)
            high = mid;
        else if (offset >= (size_t)e->offset + e->length)
            low = mid + 1;
        else
            return mid;
    }
    return i->count;
}
