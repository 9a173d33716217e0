/*
 * Bounds-checked cursors with a sticky error.
 */
#include "bytes.h"

#include <assert.h>
#include <string.h>

bool
data_equal(struct data a, struct data b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.p, b.p, a.len) == 0);
}

int
data_compare(struct data a, struct data b)
{
    size_t len = a.len < b.len ? a.len : b.len;
    int order = len > 0 ? memcmp(a.p, b.p, len) : 0;
    if (order != 0)
        return order;
    return (a.len > b.len) - (a.len < b.len);
}

struct data
data_of_string(const char *s)
{
    return (struct data){(const uint8_t *)s, strlen(s)};
}

void
reader_init(struct reader *r, const void *bytes, size_t len)
{
    static const uint8_t nothing[1];
    if (len == 0)
        bytes = nothing;
    *r = (struct reader){.p = bytes, .end = (const uint8_t *)bytes + len};
}

size_t
reader_left(const struct reader *r)
{
    return r->bad ? 0 : (size_t)(r->end - r->p);
}

bool
reader_done(const struct reader *r)
{
    return !r->bad && r->p == r->end;
}

void
reader_fail(struct reader *r)
{
    r->bad = true;
}

static void
fall_short(struct reader *r, size_t wanted)
{
    if (!r->bad)
        r->lacks = wanted - reader_left(r);
    r->bad = true;
}

struct data
read_data(struct reader *r, size_t len)
{
    if (len > reader_left(r)) {
        fall_short(r, len);
        return (struct data){NULL, 0};
    }
    struct data d = {r->p, len};
    r->p += len;
    return d;
}

uint8_t
read_u8(struct reader *r)
{
    struct data d = read_data(r, 1);
    return d.len == 1 ? d.p[0] : 0;
}

uint16_t
read_u16(struct reader *r)
{
    struct data d = read_data(r, 2);
    if (d.len != 2)
        return 0;
    if (r->little)
        return (uint16_t)(d.p[0] | d.p[1] << 8);
    return (uint16_t)(d.p[0] << 8 | d.p[1]);
}

uint32_t
read_u32(struct reader *r)
{
    struct data d = read_data(r, 4);
    if (d.len != 4)
        return 0;
    if (r->little)
        return d.p[0] | (uint32_t)d.p[1] << 8 | (uint32_t)d.p[2] << 16 |
               (uint32_t)d.p[3] << 24;
    return (uint32_t)d.p[0] << 24 | (uint32_t)d.p[1] << 16 |
           (uint32_t)d.p[2] << 8 | d.p[3];
}

struct data
read_data32(struct reader *r)
{
    return read_data(r, read_u32(r));
}

struct data
read_string(struct reader *r)
{
    size_t left = reader_left(r);
    const uint8_t *nul = left > 0 ? memchr(r->p, 0, left) : NULL;
    if (nul == NULL) {
        r->bad = true;
        return (struct data){(const uint8_t *)"", 0};
    }
    struct data d = {r->p, (size_t)(nul - r->p)};
    r->p = nul + 1;
    return d;
}

uint32_t
read_count(struct reader *r, size_t min_size)
{
    uint32_t count = read_u32(r);
    if (count > reader_left(r) / min_size) {
        fall_short(r,
                   count > SIZE_MAX / min_size ? SIZE_MAX : count * min_size);
        return 0;
    }
    return count;
}

void
writer_free(struct writer *w)
{
    secret_free_now(w->p);
    *w = (struct writer){0};
}

void
writer_reset(struct writer *w)
{
    if (w->p != NULL)
        explicit_bzero(w->p, w->len);
    w->len = 0;
    w->failed = false;
}

bool
writer_reserve(struct writer *w, size_t len)
{
    if (w->failed)
        return false;
    if (len <= w->cap - w->len)
        return true;
    size_t cap = w->cap * 2 > 256 ? w->cap * 2 : 256;
    bool fits = len <= SIZE_MAX - w->len;
    if (fits && cap < w->len + len)
        cap = w->len + len;
    uint8_t *p = fits ? secret_alloc(cap) : NULL;
    if (p == NULL) {
        w->failed = true;
        return false;
    }
    if (w->len > 0)
        memcpy(p, w->p, w->len);
    secret_free_now(w->p);
    w->p = p;
    w->cap = cap;
    return true;
}

void
write_bytes(struct writer *w, const void *p, size_t len)
{
    if (len == 0 || !writer_reserve(w, len))
        return;
    memcpy(w->p + w->len, p, len);
    w->len += len;
}

void
write_u8(struct writer *w, uint8_t v)
{
    write_bytes(w, &v, 1);
}

void
write_u16(struct writer *w, uint16_t v)
{
    uint8_t b[2] = {(uint8_t)(v >> 8), (uint8_t)v};
    write_bytes(w, b, sizeof(b));
}

static void
put_u32(uint8_t *b, uint32_t v)
{
    b[0] = (uint8_t)(v >> 24);
    b[1] = (uint8_t)(v >> 16);
    b[2] = (uint8_t)(v >> 8);
    b[3] = (uint8_t)v;
}

void
write_u32(struct writer *w, uint32_t v)
{
    uint8_t b[4];
    put_u32(b, v);
    write_bytes(w, b, sizeof(b));
}

void
write_data(struct writer *w, struct data d)
{
    write_bytes(w, d.p, d.len);
}

void
write_data32(struct writer *w, struct data d)
{
    if (d.len > UINT32_MAX) {
        w->failed = true;
        return;
    }
    write_u32(w, (uint32_t)d.len);
    write_data(w, d);
}

void
write_string(struct writer *w, const char *s)
{
    write_bytes(w, s, strlen(s) + 1);
}

void
write_u32_at(struct writer *w, size_t at, uint32_t v)
{
    if (w->failed)
        return;
    assert(at + 4 <= w->len);
    put_u32(w->p + at, v);
}

struct data
writer_data(const struct writer *w)
{
    return (struct data){w->p, w->len};
}
