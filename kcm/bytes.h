/*
 * Cursors over bytes: everything that comes from outside (the wire, written
 * files, names) is read through a struct reader, everything that goes out is
 * made with a struct writer.  Both have a sticky error: parse straight
 * through, check once at the end.
 */
#ifndef KCM_BYTES_H
#define KCM_BYTES_H

#include "mem.h"

/* A run of bytes that somebody else owns. */
struct data {
    const uint8_t *p;
    size_t len;
};

static inline struct data
blob_data(const struct blob *b)
{
    return (struct data){b->bytes, b->len};
}

bool data_equal(struct data a, struct data b);
/* Byte order, then length: for sorting. */
int data_compare(struct data a, struct data b);
struct data data_of_string(const char *s);

/*
 * Once a read asks for more than is left, bad is set, nothing more is
 * consumed, and this and every later read gives zero or an empty run.
 */
struct reader {
    const uint8_t *p;
    const uint8_t *end;
    bool bad;
    size_t lacks; /* what made it bad was at least so many bytes short */
    bool little;  /* integers are little-endian (FILE version 1 and 2) */
};

void reader_init(struct reader *r, const void *bytes, size_t len);
size_t reader_left(const struct reader *r);
/* True when nothing was read past the end and nothing is left over. */
bool reader_done(const struct reader *r);
void reader_fail(struct reader *r);

uint8_t read_u8(struct reader *r);
uint16_t read_u16(struct reader *r);
uint32_t read_u32(struct reader *r);
struct data read_data(struct reader *r, size_t len);
/* A u32 length, then that many bytes. */
struct data read_data32(struct reader *r);
/* A NUL-terminated string; the terminator is consumed, not counted in len
 * (p[len] is the NUL). */
struct data read_string(struct reader *r);
/*
 * A u32 count of elements that take at least min_size bytes each.  A count
 * that the bytes left cannot hold sets bad and gives 0.
 */
uint32_t read_count(struct reader *r, size_t min_size);

/*
 * A growing buffer of secret memory, big-endian integers.  Failure to grow
 * sets failed; later writes do nothing.
 */
struct writer {
    uint8_t *p;
    size_t len;
    size_t cap;
    bool failed;
};

void writer_free(struct writer *w);
/* Make the writer empty again, wiping nothing that stays allocated unwiped:
 * what it held is wiped. */
void writer_reset(struct writer *w);
/* Make room for len more bytes at once; false (and failed) if impossible. */
bool writer_reserve(struct writer *w, size_t len);
void write_u8(struct writer *w, uint8_t v);
void write_u16(struct writer *w, uint16_t v);
void write_u32(struct writer *w, uint32_t v);
void write_data(struct writer *w, struct data d);
void write_bytes(struct writer *w, const void *p, size_t len);
void write_data32(struct writer *w, struct data d);
/* The string and its NUL. */
void write_string(struct writer *w, const char *s);
/* Overwrite the u32 at offset at, which must have been written before. */
void write_u32_at(struct writer *w, size_t at, uint32_t v);
struct data writer_data(const struct writer *w);

/* For _cleanup_(writer_free): the variable is the struct itself. */

#endif
