/*
 * FILE caches: what a client wrote, parsed; the image of it; the canonical
 * image of its content, in whatever order; merged, appended and patched.
 */
#include "../../kcm/image.h"

#include <errno.h>

#include "fuzz.h"

#define MAX_CREDS 64u

/* The content of a parsed file as the daemon would hold it. */
static struct kcm_snapshot *
snapshot_of(const struct image_file *f, bool backwards)
{
    size_t count = 0, live = 0;
    struct cred c;
    for (size_t i = 0; i < f->count; i++)
        live += cred_parse(f->creds[i], &c) && !cred_is_removed(&c);
    struct kcm_snapshot *s =
        calloc(1, sizeof(*s) + live * sizeof(s->creds[0]));
    assert(s != NULL);
    s->refs = 1;
    s->kdc_offset = f->kdc_offset;
    s->principal = blob_new(f->principal.p, f->principal.len);
    for (size_t i = 0; i < f->count; i++) {
        struct data d = f->creds[backwards ? f->count - 1 - i : i];
        if (cred_parse(d, &c) && !cred_is_removed(&c))
            s->creds[count++].bytes = blob_new(d.p, d.len);
    }
    s->count = count;
    return s;
}

/* Two of one purpose that are equally new: which is shown is the order's. */
static bool
has_ties(const struct kcm_snapshot *s)
{
    struct cred a, b;
    for (size_t i = 0; i < s->count; i++)
        for (size_t k = 0; k < i; k++) {
            struct blob *x = s->creds[i].bytes, *y = s->creds[k].bytes;
            assert(cred_parse((struct data){x->bytes, x->len}, &a));
            assert(cred_parse((struct data){y->bytes, y->len}, &b));
            if (cred_same_purpose(&a, &b) &&
                cred_start(&a) == cred_start(&b) && a.endtime == b.endtime &&
                !data_equal(a.raw, b.raw))
                return true;
        }
    return false;
}

static void
check_entries(const struct image *i)
{
    size_t at = i->body;
    for (size_t n = 0; n < i->count; n++) {
        const struct image_entry *e = &image_entries(i)[n];
        struct cred c;
        assert(e->offset == at);
        assert(cred_parse(image_entry_bytes(i, n), &c));
        assert(cred_is_removed(&c) == e->removed);
        assert(image_find(i, at) == n);
        assert(image_find(i, at + e->length - 1) == n);
        at += e->length;
    }
    assert(at == i->len);
    assert(image_find(i, at) == i->count);
    assert(i->body == 0 || image_find(i, i->body - 1) == i->count);
}

/* An image of ours is a whole file, with the content of s. */
static void
check_whole(const struct image *i, const struct kcm_snapshot *s)
{
    struct image_file f;
    check_entries(i);
    assert(image_parse(image_bytes(i), &f) == 0);
    assert(f.version == 4 && f.whole == i->len && f.count == i->count);
    assert(f.kdc_offset == s->kdc_offset && f.body == i->body);
    struct data principal = {s->principal->bytes, s->principal->len};
    assert(data_equal(f.principal, principal));
    image_file_free(&f);
}

static size_t
count_live(const struct image *i)
{
    size_t live = 0;
    for (size_t n = 0; n < i->count; n++)
        live += !image_entries(i)[n].removed;
    return live;
}

static void
check_order(const struct image *i)
{
    uint32_t before = 0;
    for (size_t n = 0; n < i->count; n++) {
        struct cred c;
        assert(cred_parse(image_entry_bytes(i, n), &c));
        uint32_t rank = cred_is_config(&c) ? 2 : cred_is_local_tgt(&c) ? 0 : 1;
        assert(rank >= before);
        before = rank;
    }
}

static void
check_change(struct image *i)
{
    struct writer w = {0};
    struct image *longer = NULL, *patched = NULL;
    struct cred c;
    if (i->count == 0)
        return;
    struct data first = image_entry_bytes(i, 0);
    uint32_t length = (uint32_t)first.len;
    assert(image_append(i, first, &length, 1, &longer) == 0);
    check_entries(longer);
    assert(image_extends(longer, i) && !image_extends(i, longer));
    assert(longer->count == i->count + 1 && !image_equal(longer, i));
    assert(cred_parse(first, &c));
    cred_write_removed(&w, &c);
    assert(image_patch(longer, 0, writer_data(&w), &patched) == 0);
    check_entries(patched);
    assert(patched->len == longer->len && image_entries(patched)[0].removed);
    struct data cut = {w.p, w.len - 1};
    struct image *none;
    assert(image_patch(longer, 0, cut, &none) == -EINVAL && none == NULL);
    image_unref(patched);
    image_unref(longer);
    writer_free(&w);
}

/* Merging keeps each entry's place and shows what the canonical image does. */
static void
check_merge(struct image *old, const struct kcm_snapshot *s,
            const struct image *canon)
{
    struct image *merged;
    assert(image_merge(old, s, &merged) == 0);
    check_whole(merged, s);
    assert(count_live(merged) == canon->count);
    if (canon->body == old->body) {
        assert(merged->count >= old->count && merged->len >= old->len);
        for (size_t n = 0; n < old->count; n++) {
            const struct image_entry *a = &image_entries(old)[n];
            const struct image_entry *b = &image_entries(merged)[n];
            assert(a->offset == b->offset && a->length == b->length);
            assert(!a->removed || b->removed);
        }
    }
    image_unref(merged);
}

static void
check_content(const struct image_file *f)
{
    struct kcm_snapshot *s = snapshot_of(f, false);
    struct kcm_snapshot *t = snapshot_of(f, true), *less;
    struct image *written, *canon, *other;
    struct image_file half = *f;
    assert(image_of_file(f, &written) == 0);
    check_entries(written);
    assert(written->count == f->count && written->body == f->body);
    assert(image_render(s, &canon) == 0);
    assert(image_render(t, &other) == 0);
    check_whole(canon, s);
    check_order(canon);
    assert(has_ties(s) || image_equal(canon, other));
    check_merge(written, s, canon);
    image_unref(other);
    half.count /= 2;
    less = snapshot_of(&half, false);
    assert(image_render(less, &other) == 0);
    check_merge(written, less, other);
    check_merge(other, s, canon);
    check_change(canon);
    image_unref(other);
    image_unref(canon);
    image_unref(written);
    kcm_snapshot_unref(less);
    kcm_snapshot_unref(t);
    kcm_snapshot_unref(s);
}

/* What is whole stays so, alone. */
static void
check_prefix(struct data d, const struct image_file *f)
{
    struct image_file g;
    uint8_t *part = exact_copy((struct data){d.p, f->whole});
    assert(image_parse((struct data){part, f->whole}, &g) == 0);
    assert(g.whole == f->whole && g.count == f->count);
    assert(data_equal(g.principal, f->principal));
    image_file_free(&g);
    free(part);
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    struct data d = {bytes, len};
    struct image_file f;
    int r = image_parse(d, &f);
    assert(r == 0 || r == -EINVAL);
    if (r == 0) {
        assert(f.whole <= len && f.has_principal == (f.whole > 0));
        if (f.has_principal)
            check_prefix(d, &f);
        if (f.has_principal && f.count <= MAX_CREDS)
            check_content(&f);
        image_file_free(&f);
    }
    assert(secret_in_use() == 0);
    return 0;
}
