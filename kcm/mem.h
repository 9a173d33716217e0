/*
 * Memory that may hold secrets, and the clean-up convention.
 *
 * Whatever can hold a ticket or a key lives in secret memory: locked where
 * the limits allow it, left out of core files, wiped when freed.  The types
 * built on it (struct writer, struct blob, images, snapshots) are secret by
 * type, so no call site has to remember to wipe.
 *
 * Clean-up: a local that owns something is declared with _cleanup_(its free
 * function) and handed over with take().  Free functions accept NULL.
 */
#ifndef KCM_MEM_H
#define KCM_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#define _cleanup_(f) __attribute__((cleanup(f)))

/* Hand an owned pointer over: returns it and leaves NULL behind. */
#define take(p)                                                               \
    __extension__({                                                           \
        __typeof__(p) taken_ = (p);                                           \
        (p) = NULL;                                                           \
        taken_;                                                               \
    })

/* Define NAMEp(T *p) that frees *p by NAME, for use with _cleanup_. */
#define DEFINE_CLEANUP(type, name)                                            \
    static inline void name##p(type *p)                                       \
    {                                                                         \
        name(*p);                                                             \
    }

static inline void
freep(void *p)
{
    free(*(void **)p);
}

/*
 * Allocate size bytes of zeroed secret memory.  NULL when there is none.
 * Freed by secret_free() alone, which wipes it.
 */
void *secret_alloc(size_t size);
void secret_free(void *p);

/*
 * To wipe and unmap megabytes takes milliseconds, and who frees them may hold
 * a lock that everybody waits for.  After secret_defer() what this thread
 * frees of more than a few pages waits for its secret_settle().  Writers do
 * not: they are nobody's but the one's who writes.
 */
void secret_defer(void);
void secret_settle(void);
/* The same as secret_free(), at once. */
void secret_free_now(void *p);

/* Bytes of secret memory handed out and not yet freed (of this process). */
size_t secret_in_use(void);

/* True when some secret memory could not be locked (RLIMIT_MEMLOCK). */
bool secret_unlocked(void);

/*
 * A counted run of secret bytes that does not change once shared.
 */
struct blob {
    int refs; /* atomic */
    size_t len;
    uint8_t *bytes;
    struct blob *owner; /* of the bytes, referenced; NULL: they are behind */
};

/* A blob of len bytes with one reference, copied from bytes unless NULL. */
struct blob *blob_new(const void *bytes, size_t len);
/* One of len bytes of owner's, which stays as long. */
struct blob *blob_slice(struct blob *owner, uint8_t *bytes, size_t len);
struct blob *blob_ref(struct blob *b);
void blob_unref(struct blob *b);
DEFINE_CLEANUP(struct blob *, blob_unref)

#endif
