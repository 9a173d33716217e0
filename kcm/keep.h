/*
 * The caches of a kcmd that ends, kept for the next one: in a sealed memory
 * file that systemd's descriptor store holds meanwhile.
 *
 *   file = "kcmd" version user*
 *   user = u32 length { u32 uid, u32 next id, default's name, cache* }
 *   cache = uuid, name, principal, u32 offset, u32 count,
 *           u32 length { (u32 length, credential)* }
 *
 * Names and principals have their lengths before them, oldest cache first.
 */
#ifndef KCM_KEEP_H
#define KCM_KEEP_H

struct store;

/* An empty memory file to keep caches in, or -errno. */
int keep_new(void);
/* Write all caches to fd and seal it: 0 or -errno. */
int keep_save(struct store *store, int fd);
/*
 * Take over the caches of such a file, also those above a quota: they are
 * there, and nobody else has them.  Closes fd.  -EIO if it is none, or was
 * not sealed.  What is wrong with one cache or one user takes no other with
 * it: the first such error is the result.
 */
int keep_load(struct store *store, int fd);

#endif
