/*
 * A keyed digest of what an image shows, so that it can be told whether a
 * cache changed after its image was dropped from memory.
 */
#ifndef KCM_DIGEST_H
#define KCM_DIGEST_H

#include "image.h"

struct digest {
    uint64_t sum[2];
};

/*
 * The digest of i's header, principal and live entries, in whatever order.
 * The key is random and of this process: nobody can tell content by it.
 */
struct digest image_digest(const struct image *i);
bool digest_equal(const struct digest *a, const struct digest *b);

#endif
