/*
 * FILE caches as bytes: render the content of a KCM cache, keep offsets
 * while somebody has it open, and parse what a FILE client wrote.
 *
 *   file   = u16 0x0504, u16 header length, tags, principal, creds
 *   tag    = u16 number, u16 length, bytes; 1: i32 KDC offset, i32 of usec
 *
 * An image is immutable and counted.  One that only adds entries to another
 * shares its bytes.
 */
#ifndef KCM_IMAGE_H
#define KCM_IMAGE_H

#include "cred.h"
#include "kcm.h"

struct image_entry {
    uint32_t offset, length;
    bool removed;
};

struct image {
    int refs; /* atomic */
    size_t len;
    size_t body; /* offset of the first entry */
    size_t count;
    bool clean; /* canonical: as image_render() makes it */
    struct image_buffer *buffer;
    struct image_table *table;
};

struct image *image_ref(struct image *i);
void image_unref(struct image *i);
DEFINE_CLEANUP(struct image *, image_unref)

struct data image_bytes(const struct image *i);
const struct image_entry *image_entries(const struct image *i);
struct data image_entry_bytes(const struct image *i, size_t n);

/* Version 4 header with the KDC offset where there is one, and principal. */
void image_write_header(struct writer *w, const struct kcm_snapshot *s);

/*
 * The canonical image: the realm's own TGT, other tickets by start time,
 * then configuration entries; superseded ones left out.  0 or -ENOMEM, or
 * -EFBIG above 4 GiB.
 */
int image_render(const struct kcm_snapshot *s, struct image **out);

/*
 * The image of s in which what old shows keeps its offset: what went away is
 * a removed entry of the same length, what is new comes at the end; old
 * itself if that is all.  If the header or the principal do not fit in place,
 * the canonical image.
 */
int image_merge(struct image *old, const struct kcm_snapshot *s,
                struct image **out);

/*
 * The credentials of s, which nobody else has yet, keep no bytes of their own
 * where i shows the same.  Without memory some of them do.
 */
void image_share(const struct image *i, struct kcm_snapshot *s);

/*
 * i with bytes behind it, count whole entries of the given lengths.  Callers
 * of one image take turns.
 */
int image_append(struct image *i, struct data bytes, const uint32_t *lengths,
                 size_t count, struct image **out);

/* i with as many bytes behind it as other has from there on, an end of an
 * entry: other's entries, but removed. */
int image_pad(struct image *i, const struct image *other, size_t from,
              struct image **out);

/* i with other bytes of the same length at one entry. */
int image_patch(const struct image *i, size_t entry, struct data bytes,
                struct image **out);

/* The image of exactly the bytes of a whole version 4 file. */
struct image_file;
int image_of_file(const struct image_file *f, struct image **out);

/* Is old a prefix of i: does who read old read nothing wrong in i? */
bool image_extends(const struct image *i, const struct image *old);
/* Has i an entry of the same length, maybe removed, wherever old has one? */
bool image_continues(const struct image *i, const struct image *old);
bool image_equal(const struct image *a, const struct image *b);
/* Do header and principal agree? */
bool image_same_header(const struct image *a, const struct image *b);

/* The entry that begins at or covers offset; count if there is none. */
size_t image_find(const struct image *i, size_t offset);

/*
 * Mark the credentials of s that a newer one supersedes (or that are no
 * credentials): superseded[i] for each.  0 or -ENOMEM.
 */
int image_superseded(const struct kcm_snapshot *s, bool *superseded);

/* What a FILE client wrote, version 1 to 4. */
struct image_file {
    int version;
    int32_t kdc_offset;
    bool has_principal;
    size_t wants; /* of version 4 without one: no fewer bytes can hold it */
    struct data principal; /* version 4 */
    struct data *creds;    /* version 4, in order, removed ones included */
    size_t count;
    size_t body;    /* offset of the first entry, of version 4 */
    size_t whole;   /* bytes of complete header, principal and entries */
    struct data v4; /* the bytes as version 4 */
    struct writer converted;
};

void image_file_free(struct image_file *f);

/*
 * Parse as much of bytes as is complete; f points into them.  0, also when
 * they end too soon: f->whole < bytes.len then; -EINVAL for what can never
 * become a cache; -ENOMEM.
 */
int image_parse(struct data bytes, struct image_file *f);

#endif
