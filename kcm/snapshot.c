/*
 * The content of a cache at one moment, its credentials told by their UUIDs.
 */
#include "snapshot.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct kcm_snapshot *
kcm_snapshot_ref(struct kcm_snapshot *s)
{
    __atomic_fetch_add(&s->refs, 1, __ATOMIC_RELAXED);
    return s;
}

void
kcm_snapshot_unref(struct kcm_snapshot *s)
{
    if (s == NULL || __atomic_fetch_sub(&s->refs, 1, __ATOMIC_ACQ_REL) != 1)
        return;
    blob_unref(s->principal);
    for (size_t i = 0; i < s->count; i++)
        blob_unref(s->creds[i].bytes);
    free(s);
}

struct kcm_snapshot *
snapshot_new(struct data uuids)
{
    size_t count = uuids.len / KCM_UUID_LEN;
    struct kcm_snapshot *s =
        calloc(1, sizeof(*s) + count * sizeof(s->creds[0]));
    if (s == NULL)
        return NULL;
    s->refs = 1;
    s->count = count;
    for (size_t i = 0; i < count; i++)
        memcpy(s->creds[i].uuid, uuids.p + i * KCM_UUID_LEN, KCM_UUID_LEN);
    return s;
}

bool
snapshot_has_uuids(const struct kcm_snapshot *s, struct data uuids)
{
    if (s == NULL || s->count * KCM_UUID_LEN != uuids.len)
        return false;
    for (size_t i = 0; i < s->count; i++)
        if (memcmp(s->creds[i].uuid, uuids.p + i * KCM_UUID_LEN,
                   KCM_UUID_LEN) != 0)
            return false;
    return true;
}

static int
compare_creds(const void *a, const void *b)
{
    const struct kcm_snap_cred *const *x = a, *const *y = b;
    return memcmp((*x)->uuid, (*y)->uuid, KCM_UUID_LEN);
}

/* Pointers to the credentials of s, sorted by UUID. */
static const struct kcm_snap_cred **
sorted(const struct kcm_snapshot *s)
{
    const struct kcm_snap_cred **list = calloc(s->count + 1, sizeof(*list));
    if (list == NULL)
        return NULL;
    for (size_t i = 0; i < s->count; i++)
        list[i] = &s->creds[i];
    qsort(list, s->count, sizeof(*list), compare_creds);
    return list;
}

bool
snap_cred_is_missing(const struct kcm_snap_cred *c)
{
    return c->bytes == NULL;
}

int
snapshot_inherit(struct kcm_snapshot *s, const struct kcm_snapshot *from,
                 size_t *missing_out)
{
    size_t missing = s->count;
    *missing_out = missing;
    if (from == NULL || from->count == 0)
        return 0;
    _cleanup_(freep) const struct kcm_snap_cred **list = sorted(from);
    if (list == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < s->count; i++) {
        const struct kcm_snap_cred *key = &s->creds[i];
        const struct kcm_snap_cred **found =
            bsearch(&key, list, from->count, sizeof(*list), compare_creds);
        if (found == NULL || (*found)->bytes == NULL)
            continue;
        s->creds[i].bytes = blob_ref((*found)->bytes);
        missing--;
    }
    *missing_out = missing;
    return 0;
}
