/*
 * Images: rendering, merging, appending.
 */
#include "image.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#define FILE_VERSION4  0x0504
#define TAG_KDC_OFFSET 1

struct image_buffer {
    int refs;
    size_t used, cap;
    uint8_t bytes[];
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
    if (b != NULL && __atomic_fetch_sub(&b->refs, 1, __ATOMIC_ACQ_REL) == 1)
        secret_free(b);
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
    i->buffer = secret_alloc(sizeof(*i->buffer) + size);
    if (i->buffer == NULL)
        return NULL;
    i->buffer->refs = 1;
    i->buffer->cap = size;
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

/* --- canonical order --------------------------------------------------- */

struct item {
    struct cred cred;
    size_t index; /* in the snapshot */
    bool hidden;  /* superseded, or no credential to show */
};

static int
compare_u32(uint32_t a, uint32_t b)
{
    return (a > b) - (a < b);
}

static int
compare_principals(const struct principal *a, const struct principal *b)
{
    int order = data_compare(a->realm, b->realm);
    return order != 0 ? order : data_compare(a->components, b->components);
}

static int
compare_purpose(const struct cred *a, const struct cred *b)
{
    int order = compare_principals(&a->server, &b->server);
    if (order == 0)
        order = compare_principals(&a->client, &b->client);
    if (order == 0)
        order = compare_u32(a->enctype, b->enctype);
    if (order == 0)
        order = data_compare(a->second_ticket, b->second_ticket);
    if (order == 0)
        order = data_compare(a->authdata, b->authdata);
    return order;
}

/* By purpose, the newest last. */
static int
by_purpose(const void *x, const void *y)
{
    const struct item *a = x, *b = y;
    int order = compare_purpose(&a->cred, &b->cred);
    if (order == 0)
        order = compare_u32(cred_start(&a->cred), cred_start(&b->cred));
    if (order == 0)
        order = compare_u32(a->cred.endtime, b->cred.endtime);
    if (order == 0)
        order = (a->index > b->index) - (a->index < b->index);
    return order;
}

static uint32_t
rank(const struct cred *c)
{
    if (cred_is_config(c))
        return 2;
    return cred_is_local_tgt(c) ? 0 : 1;
}

static int
by_canon(const void *x, const void *y)
{
    const struct item *a = x, *b = y;
    int order = (int)a->hidden - (int)b->hidden;
    if (order == 0)
        order = compare_u32(rank(&a->cred), rank(&b->cred));
    if (order == 0)
        order = compare_u32(cred_start(&a->cred), cred_start(&b->cred));
    if (order == 0)
        order = data_compare(a->cred.raw, b->cred.raw);
    return order;
}

static void
free_items(struct item **items)
{
    free(*items);
}

/* The credentials of s by purpose, with what is not shown marked. */
static struct item *
sort_items(const struct kcm_snapshot *s)
{
    struct item *items = calloc(s->count + 1, sizeof(*items));
    if (items == NULL)
        return NULL;
    for (size_t i = 0; i < s->count; i++) {
        struct blob *b = s->creds[i].bytes;
        items[i].index = i;
        items[i].hidden =
            b == NULL ||
            !cred_parse((struct data){b->bytes, b->len}, &items[i].cred) ||
            cred_is_removed(&items[i].cred);
        if (items[i].hidden)
            items[i].cred = (struct cred){0};
    }
    qsort(items, s->count, sizeof(*items), by_purpose);
    for (size_t i = 0; i + 1 < s->count; i++)
        if (!items[i].hidden && !items[i + 1].hidden &&
            cred_same_purpose(&items[i].cred, &items[i + 1].cred))
            items[i].hidden = true;
    return items;
}

int
image_superseded(const struct kcm_snapshot *s, bool *superseded)
{
    _cleanup_(free_items) struct item *items = sort_items(s);
    if (items == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < s->count; i++)
        superseded[items[i].index] = items[i].hidden;
    return 0;
}

/* What is shown, in canonical order: *count_out items. */
static struct item *
canonical_items(const struct kcm_snapshot *s, size_t *count_out)
{
    struct item *items = sort_items(s);
    size_t count = 0;
    if (items == NULL)
        return NULL;
    qsort(items, s->count, sizeof(*items), by_canon);
    while (count < s->count && !items[count].hidden)
        count++;
    *count_out = count;
    return items;
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
sum_lengths(const struct item *items, size_t count)
{
    size_t sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += items[i].cred.raw.len;
    return sum;
}

int
image_render(const struct kcm_snapshot *s, struct image **out)
{
    *out = NULL;
    size_t count = 0;
    _cleanup_(free_items) struct item *items = canonical_items(s, &count);
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
    for (size_t n = 0; n < count; n++)
        put_entry(i, items[n].cred.raw, false);
    *out = i;
    return 0;
}

static int
by_raw(const void *x, const void *y)
{
    const struct item *a = x, *b = y;
    return data_compare(a->cred.raw, b->cred.raw);
}

/* Put entry n of old behind i, as removed if nothing in items is it; what
 * is taken from items is marked hidden. */
static int
put_merged(struct image *i, const struct image *old, size_t n,
           struct item *items, size_t count)
{
    const struct image_entry *e = &old->table->entries[n];
    struct data bytes = image_entry_bytes(old, n);
    struct item key = {.cred.raw = bytes};
    struct item *found =
        e->removed ? NULL
                   : bsearch(&key, items, count, sizeof(*items), by_raw);
    if (e->removed || (found != NULL && !found->hidden)) {
        if (found != NULL)
            found->hidden = true;
        put_entry(i, bytes, e->removed);
        return 0;
    }
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

int
image_merge(const struct image *old, const struct kcm_snapshot *s,
            struct image **out)
{
    *out = NULL;
    size_t count = 0;
    _cleanup_(free_items) struct item *items = canonical_items(s, &count);
    _cleanup_(writer_free) struct writer header = {0};
    image_write_header(&header, s);
    if (items == NULL || header.failed)
        return -ENOMEM;
    if (header.len != old->body)
        return image_render(s, out);
    size_t size = old->len + sum_lengths(items, count);
    if (size > UINT32_MAX)
        return -EFBIG;
    _cleanup_(image_unrefp) struct image *i =
                  image_new(size, old->count + count);
    if (i == NULL)
        return -ENOMEM;
    put(i, writer_data(&header));
    i->body = i->len;
    qsort(items, count, sizeof(*items), by_raw);
    for (size_t n = 0; n < old->count; n++) {
        int r = put_merged(i, old, n, items, count);
        if (r < 0)
            return r;
    }
    qsort(items, count, sizeof(*items), by_canon);
    for (size_t n = 0; n < count && !items[n].hidden; n++)
        put_entry(i, items[n].cred.raw, false);
    *out = take(i);
    return 0;
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
        *n = *i;
        n->refs = 1;
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
        put_entry(n, (struct data){bytes.p + at, lengths[k]}, false);
        at += lengths[k];
    }
    assert(at == bytes.len);
    *out = n;
    return 0;
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
