/*
 * A file grows under those who have it open.  With the turn of its cache.
 */
#ifndef FS_GROW_H
#define FS_GROW_H

#include "fs/fs.h"

/*
 * n, which others than so many have open, is about to show image: does it
 * grow under them?  Then grow_end() is to follow once it shows it; until then
 * GETATTR and reads past the pages go by what it showed before.
 */
bool grow_begin_locked(struct node *n, const struct image *image,
                       unsigned opens);
/* The kernel learns of it. */
void grow_end(struct fs *fs, struct node *n);

#endif
