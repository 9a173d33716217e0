/*
 * The credentials of a snapshot in the order of a file: which of them are
 * shown, and where.
 */
#ifndef KCM_CANON_H
#define KCM_CANON_H

#include "cred.h"
#include "kcm.h"

struct canon_item {
    struct cred cred;
    uint64_t purpose; /* hash of what makes credentials supersede another */
    size_t index;     /* in the snapshot */
    uint32_t rank, start;
    bool hidden; /* superseded, or no credential to show */
};

/*
 * What is shown of s, in canonical order; *count_out of them.  The items
 * point into s.  Freed by free(); NULL without memory.
 */
struct canon_item *canon_items(const struct kcm_snapshot *s,
                               size_t *count_out);

/* An index of items by their bytes. */
struct canon_ref {
    uint64_t hash;
    struct canon_item *item;
};

struct canon_ref *canon_index(struct canon_item *items, size_t count);
/* The item of these bytes, or NULL. */
struct canon_item *canon_find(const struct canon_ref *refs, size_t count,
                              struct data bytes);

#endif
