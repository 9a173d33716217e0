/*
 * Bytes that are no cache yet: scratch files, caches being created, files
 * being rewritten.  In secret memory, charged to a uid.
 */
#include <errno.h>
#include <string.h>

#include "fs/draft.h"
#include "fs/user.h"

/* Accounts are atomic: a draft's lock is taken within fs->lock, never the
 * other way round, and draft_unref() may be called with either. */
static bool
charge(size_t *account, size_t limit, size_t bytes)
{
    size_t used = __atomic_load_n(account, __ATOMIC_RELAXED);
    do {
        if (bytes > limit - used)
            return false;
    } while (!__atomic_compare_exchange_n(account, &used, used + bytes, true,
                                          __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return true;
}

int
draft_charge(struct user *u, size_t bytes)
{
    return charge(&u->scratch_bytes, DRAFT_BYTES_PER_UID, bytes) ? 0 : -EDQUOT;
}

void
draft_discharge(struct user *u, size_t bytes)
{
    __atomic_fetch_sub(&u->scratch_bytes, bytes, __ATOMIC_RELAXED);
}

int
draft_new(struct user *u, struct draft **out)
{
    *out = NULL;
    struct draft *d = calloc(1, sizeof(*d));
    if (d == NULL)
        return -ENOMEM;
    if (__atomic_add_fetch(&u->scratch_count, 1, __ATOMIC_RELAXED) >
        DRAFTS_PER_UID) {
        __atomic_fetch_sub(&u->scratch_count, 1, __ATOMIC_RELAXED);
        free(d);
        return -EDQUOT;
    }
    d->refs = 1;
    d->user = u;
    pthread_mutex_init(&d->lock, NULL);
    *out = d;
    return 0;
}

struct draft *
draft_ref(struct draft *d)
{
    __atomic_fetch_add(&d->refs, 1, __ATOMIC_RELAXED);
    return d;
}

void
draft_unref(struct draft *d)
{
    if (d == NULL || __atomic_fetch_sub(&d->refs, 1, __ATOMIC_ACQ_REL) != 1)
        return;
    __atomic_fetch_sub(&d->user->scratch_count, 1, __ATOMIC_RELAXED);
    draft_discharge(d->user, d->bytes.cap);
    secret_free(d->bytes.p); /* maybe under fs->lock: see secret_defer() */
    pthread_mutex_destroy(&d->lock);
    free(d);
}

/* Make room for size bytes; what is new is zero. */
static int
grow_locked(struct draft *d, size_t size)
{
    if (size <= d->bytes.len)
        return 0;
    size_t before = d->bytes.cap, more = size - d->bytes.len;
    if (more > before - d->bytes.len) {
        /* What reserving will take: at most twice of what is needed. */
        size_t expected = before * 2 > size ? before * 2 : size;
        expected = expected > 256 ? expected : 256;
        int r = draft_charge(d->user, expected - before);
        if (r < 0)
            return r;
        if (!writer_reserve(&d->bytes, more)) {
            d->bytes.failed = false;
            draft_discharge(d->user, expected - before);
            return -ENOMEM;
        }
        if (d->bytes.cap < expected)
            draft_discharge(d->user, expected - d->bytes.cap);
    }
    memset(d->bytes.p + d->bytes.len, 0, more);
    d->bytes.len = size;
    return 0;
}

int
draft_write(struct draft *d, off_t off, struct data data)
{
    if (off < 0 || (size_t)off > DRAFT_BYTES ||
        data.len > DRAFT_BYTES - (size_t)off)
        return -EFBIG;
    pthread_mutex_lock(&d->lock);
    if ((size_t)off < d->bytes.len)
        d->wants = 0;
    int r = grow_locked(d, (size_t)off + data.len);
    if (r == 0 && data.len > 0)
        memcpy(d->bytes.p + off, data.p, data.len);
    pthread_mutex_unlock(&d->lock);
    return r;
}

int
draft_truncate(struct draft *d, off_t size)
{
    if (size < 0 || (size_t)size > DRAFT_BYTES)
        return -EFBIG;
    pthread_mutex_lock(&d->lock);
    int r = grow_locked(d, (size_t)size);
    if (r == 0 && (size_t)size < d->bytes.len) {
        explicit_bzero(d->bytes.p + size, d->bytes.len - (size_t)size);
        d->bytes.len = (size_t)size;
        d->wants = 0;
    }
    pthread_mutex_unlock(&d->lock);
    return r;
}

void
draft_set_wants(struct draft *d, size_t size)
{
    pthread_mutex_lock(&d->lock);
    d->wants = size;
    pthread_mutex_unlock(&d->lock);
}

bool
draft_falls_short(struct draft *d)
{
    pthread_mutex_lock(&d->lock);
    bool short_of = d->bytes.len < d->wants;
    pthread_mutex_unlock(&d->lock);
    return short_of;
}

size_t
draft_size(struct draft *d)
{
    pthread_mutex_lock(&d->lock);
    size_t size = d->bytes.len;
    pthread_mutex_unlock(&d->lock);
    return size;
}

/* Twenty handles may flush one large draft at once. */
int
draft_copy(struct draft *d, struct draft_copy *out)
{
    *out = (struct draft_copy){.user = d->user};
    pthread_mutex_lock(&d->lock);
    struct data bytes = writer_data(&d->bytes);
    int r = 0;
    if (!charge(&d->user->copied_bytes, COPIES_PER_UID, bytes.len))
        r = -EAGAIN;
    else if (!writer_reserve(&out->bytes, bytes.len))
        r = -ENOMEM;
    if (r == 0)
        write_data(&out->bytes, bytes);
    if (r == -ENOMEM)
        __atomic_fetch_sub(&d->user->copied_bytes, bytes.len,
                           __ATOMIC_RELAXED);
    pthread_mutex_unlock(&d->lock);
    return r;
}

void
draft_copy_free(struct draft_copy *copy)
{
    if (copy->bytes.len > 0)
        __atomic_fetch_sub(&copy->user->copied_bytes, copy->bytes.len,
                           __ATOMIC_RELAXED);
    writer_free(&copy->bytes);
}

struct draft *
draft_of(struct fs *fs, struct node *n)
{
    pthread_mutex_lock(&fs->lock);
    struct draft *d = n->draft != NULL ? draft_ref(n->draft) : NULL;
    pthread_mutex_unlock(&fs->lock);
    return d;
}
