/*
 * What becomes of caches, and of what is written to open files.
 */
#ifndef FS_CHANGE_H
#define FS_CHANGE_H

#include "fs/fs.h"

/* --- write.c: open files ------------------------------------------------- */

/* These with h->lock, as h->caller. */
/* A cache that exists was opened for writing. */
int change_opened(struct handle *h);
/* Bytes written at off (O_APPEND: at the end): 0 or an error. */
int change_write(struct handle *h, off_t off, struct data data);
/* Commit what is complete; -EINVAL for what cannot be a cache. */
int change_flush(struct handle *h);
/* ftruncate() on an open file. */
int change_truncate(struct handle *h, off_t size);

/* --- between write.c and unborn.c ---------------------------------------- */

/* A record that is not complete by then is none. */
#define RECORD_MAX ((size_t)10 * 1024 * 1024)

/* With the content's turn. */
int change_write_unborn(struct handle *h, struct draft *d, off_t off,
                        struct data data);
/* Takes the turn. */
int change_flush_unborn(struct handle *h);
/* These bytes, which are taken, wait for the rest of their record. */
int change_set_tail(struct handle *h, struct writer *bytes);

/* --- change.c: what becomes of caches ------------------------------------ */

/* Replace c's content by the file in bytes; n becomes its node. */
int change_replace(struct content *c, const struct caller *caller,
                   struct data bytes, struct node *n);
int change_destroy(struct content *c, const struct caller *caller);
int change_move(struct content *from, struct content *to,
                const struct caller *caller);
int change_remove_ticket(struct content *c, const struct caller *caller,
                         bool config, const char *name);
/* Store the tickets of a FILE cache into c. */
int change_store_file(struct content *c, const struct caller *caller,
                      struct data bytes);
int change_set_config(struct content *c, const struct caller *caller,
                      const char *file, struct data value);

/* --- between change.c and write.c, with the content's turn ----------------
 */

/* Is it a credential at all?  Zero bytes can be parsed as one, of nobody for
 * nothing. */
bool change_is_cred(const struct cred *c);

/* change_replace(), with the turn. */
int change_replace_held(struct content *c, const struct caller *caller,
                        struct data bytes, struct node *n);

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
