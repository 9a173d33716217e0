/*
 * The whole content of a cache replaced, so that what was there before is
 * never lost:
 *
 *   REPLACE       where there is one (MIT's extension): atomic.
 *   MOVE_CACHE    (Heimdal): the new content is made in a work cache beside
 *                 the old one and moved over it: atomic.
 *   neither       (sssd): the old content is first copied to a work cache
 *                 that names its target; INITIALIZE and STOREs follow; the
 *                 work cache goes last, and with that the new content counts.
 *                 If anything fails before, the old content is stored back,
 *                 at once or as soon as the daemon answers again; if kcmfs
 *                 itself is killed half-way, the next one finds the work
 *                 cache and does so (recover.c).
 *
 * A daemon that keeps caches in memory and dies meanwhile comes back without
 * them: the one that was being replaced is put back.
 *
 * What remains: between the copy and INITIALIZE, what a KCM: client stores
 * into the cache is lost, as with any replacement; and while sssd's cache is
 * refilled, KCM: clients (not those of the mount, which wait) see part of it.
 */
#define KCM_INTERNAL
#include <errno.h>
#include <string.h>

#include "commit.h"
#include "log.h"

/* What REPLACE cannot do, because the request would be too long. */
static bool
is_too_long(struct kcm *kcm, const char *name,
            const struct kcm_content *content)
{
    size_t size = content->principal.len + 8;
    for (size_t i = 0; i < content->count; i++)
        size += content->creds[i].len + 4;
    return !kcm_fits(kcm, name, size);
}

static int
replace_atomic(struct kcm *kcm, const struct caller *caller, const char *name,
               const struct kcm_content *content)
{
    int known = __atomic_load_n(&kcm->replace, __ATOMIC_RELAXED);
    if (known == SUPPORT_NO || is_too_long(kcm, name, content))
        return KCM_UNSUPPORTED;
    _cleanup_(batch_free) struct batch b = {0};
    batch_add_named(&b, KCM_OP_REPLACE, name);
    write_u32(&b.out, (uint32_t)content->kdc_offset);
    write_data(&b.out, content->principal);
    write_u32(&b.out, (uint32_t)content->count);
    for (size_t i = 0; i < content->count; i++)
        write_data32(&b.out, content->creds[i]);
    int r = kcm_call(kcm, caller, &b);
    if (r == 0)
        __atomic_store_n(&kcm->replace, SUPPORT_YES, __ATOMIC_RELAXED);
    /* After a success the same code means that the quota is reached. */
    if (r == KCM_UNSUPPORTED && known == SUPPORT_YES)
        return KCM_QUOTA;
    return r;
}

static int
replace_by_move(struct kcm *kcm, const struct caller *caller, const char *name,
                const struct kcm_content *content)
{
    char work[KCM_WORK_NAME_MAX];
    kcm_work_name(kcm, caller->uid, work);
    int r = kcm_fill(kcm, caller, work, content);
    if (r == 0)
        r = kcm_move(kcm, caller, work, name);
    if (r != 0)
        kcm_give_up(kcm, caller, &(struct kcm_undo){.work = work});
    return r;
}

/* Refill the cache; before (NULL: there was none) is saved in the cache work
 * first. */
static int
replace_in_place(struct kcm *kcm, const struct caller *caller,
                 const char *name, const struct kcm_content *before,
                 const struct kcm_content *content)
{
    char work[KCM_WORK_NAME_MAX] = "";
    if (before != NULL) {
        kcm_work_name(kcm, caller->uid, work);
        int r = kcm_work_save(kcm, caller, work, name, before);
        if (r != 0) {
            kcm_give_up(kcm, caller, &(struct kcm_undo){.work = work});
            return r;
        }
    }
    int r = kcm_fill(kcm, caller, name, content);
    if (r == 0 && before != NULL)
        r = kcm_destroy(kcm, caller, work, NULL);
    if (r == KCM_NOT_FOUND && before != NULL)
        r = 0;
    if (r != 0)
        kcm_give_up(kcm, caller,
                    &(struct kcm_undo){
                        .work = work, .target = name, .before = before});
    return r;
}

static int
replace_any(struct kcm *kcm, const struct caller *caller, const char *name,
            const struct kcm_content *before,
            const struct kcm_content *content)
{
    int r = replace_atomic(kcm, caller, name, content);
    bool refused = r == KCM_UNSUPPORTED && !is_too_long(kcm, name, content);
    if (r == KCM_UNSUPPORTED) {
        r = kcm_can_move(kcm, caller, name);
        if (r == 0)
            r = replace_by_move(kcm, caller, name, content);
        else if (r == KCM_UNSUPPORTED)
            r = replace_in_place(kcm, caller, name, before, content);
    }
    if (r == 0 && refused)
        __atomic_store_n(&kcm->replace, SUPPORT_NO, __ATOMIC_RELAXED);
    if (r < 0 && before != NULL)
        kcm_give_up(kcm, caller,
                    &(struct kcm_undo){.target = name,
                                       .before = before,
                                       .only_if_gone = true});
    return r;
}

int
kcm_replace(struct kcm *kcm, const struct caller *caller, const char *name,
            const struct kcm_snapshot *old, const struct kcm_content *content)
{
    struct kcm_content before;
    _cleanup_(freep) struct data *live = NULL;
    int r = kcm_tell_kcmd(kcm, caller, name);
    if (r == 0 && old != NULL)
        r = kcm_content_of(old, &before, &live);
    if (r < 0)
        return r;
    for (size_t i = 0; i < content->count; i++)
        if (!kcm_fits(kcm, name, content->creds[i].len))
            return -EFBIG;
    return replace_any(kcm, caller, name, old != NULL ? &before : NULL,
                       content);
}
