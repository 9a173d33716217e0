/*
 * Between change.c (what becomes of caches) and write.c (what is written to
 * open files).  All with the content's turn.
 */
#ifndef FS_CHANGE_H
#define FS_CHANGE_H

#include "fs/fs.h"

/* Is it a credential at all?  Zero bytes can be parsed as one, of nobody for
 * nothing. */
bool change_is_cred(const struct cred *c);

/* Parse bytes that must be a whole cache file, else -EINVAL. */
int change_parse(struct data bytes, struct image_file *f);

/* The content becomes what f holds; n becomes the node that shows it, if
 * nobody else reads n. */
int change_by_file(struct content *c, const struct caller *caller,
                   const struct image_file *f, struct node *n);

/* Add credentials, in order; a configuration entry takes the place of the
 * one with its key.  *done_out (may be NULL) of them are in the daemon. */
int change_store(struct content *c, const struct caller *caller,
                 const struct data *creds, size_t count, size_t *done_out);

/*
 * Mark in remove what goes with the entry whose bytes are entry: itself and
 * what it superseded.  False when the daemon does not hold it any more.
 */
bool change_mark(const struct kcm_snapshot *s, struct data entry,
                 bool *remove);

/* Remove what is marked of c->known.snapshot, and store count others. */
int change_edit(struct content *c, const struct caller *caller,
                const bool *remove, const struct data *creds, size_t count);

/* The cache goes; its files are unlinked.  KCM_NOT_FOUND: it was gone. */
int change_destroy_held(struct content *c, const struct caller *caller);

#endif
