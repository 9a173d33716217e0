/*
 * Between content.c (what is shown) and check.c (whether it is right).
 */
#ifndef FS_CONTENT_H
#define FS_CONTENT_H

#include "fs/fs.h"

/* The snapshot may have changed, or the last handle was closed: see that the
 * right image is shown.  With the turn. */
int content_update(struct content *c);

/*
 * May n, which nobody has open, show image?  Not if the kernel may take it to
 * be longer: it would show zeros at the end, until it asks.
 */
bool content_fits_locked(const struct node *n, const struct image *image);

/* n shows image, which extends what it showed.  With the turn. */
void content_grow(struct node *n, struct image *image);

#endif
