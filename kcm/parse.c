/*
 * Parse a FILE cache that a client wrote, versions 1 to 4.  Older versions
 * become version 4 bytes first; whether those of version 1 and 2 are little-
 * or big-endian, only the content tells.
 */
#include <errno.h>
#include <string.h>

#include "image.h"

#define TAG_KDC_OFFSET 1

void
image_file_free(struct image_file *f)
{
    free(f->creds);
    writer_free(&f->converted);
    *f = (struct image_file){0};
}

static int
add_cred(struct image_file *f, size_t *room, struct data raw)
{
    if (f->count == *room) {
        size_t more = *room > 0 ? *room * 2 : 16;
        struct data *creds = reallocarray(f->creds, more, sizeof(*creds));
        if (creds == NULL)
            return -ENOMEM;
        f->creds = creds;
        *room = more;
    }
    f->creds[f->count++] = raw;
    return 0;
}

/* The tags of a version 4 header; what is not known is skipped. */
static int
parse_tags(struct data tags, struct image_file *f)
{
    struct reader r;
    reader_init(&r, tags.p, tags.len);
    while (reader_left(&r) > 0) {
        uint16_t tag = read_u16(&r);
        struct data value = read_data(&r, read_u16(&r));
        if (r.bad)
            return -EINVAL;
        if (tag == TAG_KDC_OFFSET && value.len == 8) {
            struct reader v;
            reader_init(&v, value.p, value.len);
            f->kdc_offset = (int32_t)read_u32(&v);
        }
    }
    return 0;
}

static int
parse_v4(struct data bytes, struct image_file *f)
{
    struct reader r;
    reader_init(&r, bytes.p, bytes.len);
    f->v4 = bytes;
    (void)read_u16(&r); /* the version */
    struct data tags = read_data(&r, read_u16(&r));
    int result = r.bad ? 0 : parse_tags(tags, f);
    if (result < 0)
        return result;
    struct principal p;
    principal_read(&r, &p);
    if (r.bad) {
        f->wants = bytes.len + r.lacks;
        return 0;
    }
    f->has_principal = true;
    f->principal = p.raw;
    f->body = f->whole = (size_t)(r.p - bytes.p);
    size_t room = 0;
    while (reader_left(&r) > 0) {
        struct cred c;
        cred_read(&r, &c);
        if (r.bad)
            return 0;
        result = add_cred(f, &room, c.raw);
        if (result < 0)
            return result;
        f->whole = (size_t)(r.p - bytes.p);
    }
    return 0;
}

/* Convert what is complete to w; the number of source bytes it took. */
static size_t
convert(struct data bytes, int version, bool little, struct writer *w)
{
    struct reader r;
    reader_init(&r, bytes.p, bytes.len);
    r.little = little;
    (void)read_u16(&r);
    write_u16(w, 0x0504);
    write_u16(w, 0);
    size_t whole = 0, kept = w->len;
    principal_convert(&r, version, w);
    while (!r.bad && !w->failed) {
        whole = (size_t)(r.p - bytes.p);
        kept = w->len;
        if (reader_left(&r) == 0)
            break;
        cred_convert(&r, version, w);
    }
    if (!w->failed)
        w->len = kept;
    return whole;
}

static int
parse_old(struct data bytes, struct image_file *f)
{
    size_t whole = convert(bytes, f->version, false, &f->converted);
    if (whole < bytes.len && f->version <= 2) {
        struct writer other = {0};
        size_t whole_little = convert(bytes, f->version, true, &other);
        if (whole_little > whole) {
            writer_free(&f->converted);
            f->converted = other;
            whole = whole_little;
        } else {
            writer_free(&other);
        }
    }
    if (f->converted.failed)
        return -ENOMEM;
    int r = whole > 0 ? parse_v4(writer_data(&f->converted), f) : 0;
    f->whole = whole;
    return r;
}

/*
 * impacket 0.10 writes the length of the one tag that there usually is, also
 * where there is none: 12 bytes, which are the principal's.
 */
static bool
lacks_its_tag(struct data bytes)
{
    struct image_file f = {0};
    return bytes.len >= 16 && bytes.p[2] == 0 && bytes.p[3] == 12 &&
           parse_tags((struct data){bytes.p + 4, 12}, &f) != 0;
}

static int
parse_without_tag(struct data bytes, struct image_file *f)
{
    write_data(&f->converted, bytes);
    if (f->converted.failed)
        return -ENOMEM;
    f->converted.p[3] = 0;
    return parse_v4(writer_data(&f->converted), f);
}

int
image_parse(struct data bytes, struct image_file *f)
{
    *f = (struct image_file){0};
    if (bytes.len > 0 && bytes.p[0] != 5)
        return -EINVAL;
    if (bytes.len < 2)
        return 0;
    f->version = bytes.p[1];
    int r = f->version == 4 && lacks_its_tag(bytes)
                ? parse_without_tag(bytes, f)
            : f->version == 4                    ? parse_v4(bytes, f)
            : f->version >= 1 && f->version <= 3 ? parse_old(bytes, f)
                                                 : -EINVAL;
    if (r < 0)
        image_file_free(f);
    return r;
}
