/*
 * Intrusive hash tables: the link lives in the thing, so that inserting
 * cannot fail and removing costs the same whatever the table holds.
 */
#ifndef KCM_TABLE_H
#define KCM_TABLE_H

#include "bytes.h"

#define TABLE_FEW 4

#define container_of(p, type, member)                                         \
    ((type *)(void *)((char *)(p)-offsetof(type, member)))

struct table_link {
    struct table_link *next;
    uint64_t hash;
};

/* All zero is an empty table.  May be moved: assigned, the old one dropped. */
struct table {
    struct table_link **buckets; /* NULL: the few */
    struct table_link *few[TABLE_FEW];
    size_t size; /* of buckets, a power of two */
    size_t count;
};

/*
 * A hash of d that differs from one process to the next, so that nobody can
 * choose keys which collide.
 */
uint64_t hash_data(struct data d);
/* The same over several runs of bytes: pass the result so far, first 0. */
uint64_t hash_more(uint64_t so_far, struct data d);

void table_insert(struct table *t, struct table_link *link, uint64_t hash);
void table_remove(struct table *t, struct table_link *link);
/* The first link with this hash, then the others; NULL at the end. */
struct table_link *table_find(const struct table *t, uint64_t hash);
struct table_link *table_next(const struct table_link *link);
/* Drop the buckets; what was linked is the caller's. */
void table_free(struct table *t);

#endif
