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
 * An edit that is done so must not lose what a KCM: client stores meanwhile.
 * The list of the cache is asked for in the same write as its INITIALIZE:
 * what is new in it can still be had afterwards, because sssd keeps what it
 * listed for a connection, and is stored again.
 *
 * What remains: sssd answers the list and reads INITIALIZE about a
 * millisecond later; what it stores for others between the two is lost (it
 * has no operation that would tell or prevent it).  And while its cache is
 * refilled, KCM: clients (not those of the mount, which wait) see part of it.
 */
#define KCM_INTERNAL
#include <errno.h>
#include <string.h>

#include "commit.h"
#include "cred.h"
#include "log.h"
#include "pool.h"

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
    int r = kcm_fill_work(kcm, caller, work, content);
    if (r == 0)
        r = kcm_move(kcm, caller, work, name);
    /* It was there: moved by a request whose reply was lost, or the daemon
     * has died and forgotten it, and the cache that it was for. */
    if (r == KCM_NOT_FOUND)
        r = -EIO;
    if (r != 0)
        kcm_give_up(kcm, caller, &(struct kcm_undo){.work = work});
    return r;
}

/* --- refilling --------------------------------------------------------- */

/* So many that came late can be had when there is no memory any more. */
#define LATE_RESERVED 64u
#define LATE_BYTES    ((size_t)64 * 1024)

/* Credentials that were stored since old was read, which before is made of. */
struct late {
    const struct kcm_snapshot *old;
    const struct kcm_content *before;
    struct batch asked;
    struct data *all; /* those of before, then these */
    size_t count;
    bool begun; /* the cache may be empty */
};

static void
late_free(struct late *l)
{
    batch_free(&l->asked);
    free(l->all);
}

/* Also for what lists them. */
static bool
late_reserve(struct late *l, const char *name, struct batch *list)
{
    size_t uuids = (l->old->count + LATE_RESERVED) * KCM_UUID_LEN;
    size_t request = 4 + 4 + strlen(name) + 1 + KCM_UUID_LEN;
    l->all = calloc(l->before->count + LATE_RESERVED, sizeof(*l->all));
    if (l->all == NULL)
        return false;
    for (size_t i = 0; i < l->before->count; i++)
        l->all[i] = l->before->creds[i];
    return batch_reserve(list, list->count, 0, uuids + LATE_BYTES) &&
           batch_reserve(&l->asked, LATE_RESERVED, LATE_RESERVED * request,
                         LATE_BYTES);
}

static bool
knows(const struct kcm_snapshot *s, const uint8_t *uuid)
{
    for (size_t i = 0; i < s->count; i++)
        if (memcmp(s->creds[i].uuid, uuid, KCM_UUID_LEN) == 0)
            return true;
    return false;
}

/* Ask, on the connection that listed them, for those that old lacks. */
static int
fetch_late(struct conn *conn, const struct caller *caller, const char *name,
           struct data uuids, struct late *late)
{
    struct batch *b = &late->asked;
    for (size_t at = 0; at + KCM_UUID_LEN <= uuids.len; at += KCM_UUID_LEN) {
        if (knows(late->old, uuids.p + at))
            continue;
        batch_add_named(b, KCM_OP_GET_CRED_BY_UUID, name);
        write_bytes(&b->out, uuids.p + at, KCM_UUID_LEN);
    }
    if (b->count == 0)
        return 0;
    if (b->count > LATE_RESERVED) {
        struct data *more = reallocarray(
            late->all, late->before->count + b->count, sizeof(*more));
        if (more == NULL)
            return -ENOMEM;
        late->all = more;
    }
    int r = conn_exchange(conn, b, caller);
    for (unsigned i = 0; r == 0 && i < b->count; i++) {
        struct cred c;
        if (kcm_reply_status(b, i) == 0 &&
            cred_parse(batch_reply(b, i).body, &c))
            late->all[late->before->count + late->count++] = c.raw;
        else
            log_warn("a credential that was stored into cache %s while it "
                     "was changed is lost",
                     name);
    }
    return r;
}

/* INITIALIZE, and what was stored until then. */
static int
initialize_late(struct kcm *kcm, const struct caller *caller, const char *name,
                const struct kcm_content *content, struct late *late)
{
    _cleanup_(batch_free) struct batch b = {0};
    batch_add_named(&b, KCM_OP_GET_CRED_UUID_LIST, name);
    batch_add_named(&b, KCM_OP_INITIALIZE, name);
    write_data(&b.out, content->principal);
    if (!late_reserve(late, name, &b))
        return -ENOMEM;
    int r = -EPIPE;
    for (int tries = 0; tries < 2 && r == -EPIPE && b.answered == 0; tries++) {
        struct conn *conn;
        r = pool_get(kcm->pool, caller, &conn);
        if (r < 0)
            return r;
        unsigned sent = conn->requests;
        r = conn_exchange(conn, &b, caller);
        late->begun = late->begun || conn->requests != sent;
        if (r == 0 && kcm_reply_status(&b, 0) == 0)
            r = fetch_late(conn, caller, name, batch_reply(&b, 0).body, late);
        if (r == 0)
            pool_put(kcm->pool, conn);
        else
            pool_drop(kcm->pool, conn);
    }
    if (r == -EPIPE)
        return -EIO;
    if (r == 0)
        r = kcm_reply_status(&b, 1);
    if (r == 0 && content->kdc_offset != 0)
        r = kcm_set_offset(kcm, caller, name, content->kdc_offset);
    return r;
}

/* kcm_fill() that keeps what others have stored since late->old. */
static int
fill_late(struct kcm *kcm, const struct caller *caller, const char *name,
          const struct kcm_content *content, struct late *late)
{
    if (late->old == NULL || kcm->pool == NULL) {
        late->begun = true;
        return kcm_fill(kcm, caller, name, content);
    }
    int r = initialize_late(kcm, caller, name, content, late);
    if (r == 0)
        r = kcm_store(kcm, caller, name, content->creds, content->count, NULL);
    for (size_t i = 0; i < late->count && r == 0; i++)
        r = kcm_store(kcm, caller, name, &late->all[late->before->count + i],
                      1, NULL);
    return r;
}

/* It failed: what was before, and what came late, is to be there again. */
static void
give_up_late(struct kcm *kcm, const struct caller *caller, const char *name,
             const char *work, const struct late *late)
{
    struct kcm_undo undo = {.work = work};
    struct kcm_content all;
    if (late->begun) {
        undo.target = name;
        undo.before = late->before;
    }
    if (late->count > 0) {
        all = *late->before;
        all.creds = late->all;
        all.count += late->count;
        undo.before = &all;
    }
    kcm_give_up(kcm, caller, &undo);
}

/* Refill the cache; before (NULL: there was none) is saved in the cache work
 * first. */
static int
replace_in_place(struct kcm *kcm, const struct caller *caller,
                 const char *name, const struct kcm_content *before,
                 const struct kcm_content *content,
                 const struct kcm_snapshot *edited)
{
    _cleanup_(late_free) struct late late = {.old = edited, .before = before};
    char work[KCM_WORK_NAME_MAX] = "";
    if (before != NULL) {
        kcm_work_name(kcm, caller->uid, work);
        int r = kcm_work_save(kcm, caller, work, name, before);
        if (r != 0) {
            kcm_give_up(kcm, caller, &(struct kcm_undo){.work = work});
            return r;
        }
    }
    int r = fill_late(kcm, caller, name, content, &late);
    if (r == 0 && before != NULL)
        r = kcm_destroy(kcm, caller, work, NULL);
    if (r == KCM_NOT_FOUND && before != NULL)
        r = 0;
    if (r != 0)
        give_up_late(kcm, caller, name, work, &late);
    return r;
}

/* --- whatever the daemon has ------------------------------------------- */

static int
replace_any(struct kcm *kcm, const struct caller *caller, const char *name,
            const struct kcm_content *before,
            const struct kcm_content *content,
            const struct kcm_snapshot *edited)
{
    int r = replace_atomic(kcm, caller, name, content);
    bool refused = r == KCM_UNSUPPORTED && !is_too_long(kcm, name, content);
    if (r == KCM_UNSUPPORTED) {
        r = kcm_can_move(kcm, caller, name);
        if (r == 0)
            r = replace_by_move(kcm, caller, name, content);
        else if (r == KCM_UNSUPPORTED)
            r = replace_in_place(kcm, caller, name, before, content, edited);
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

static int
replace(struct kcm *kcm, const struct caller *caller, const char *name,
        const struct kcm_snapshot *old, const struct kcm_content *content,
        const struct kcm_snapshot *edited)
{
    struct kcm_content before;
    _cleanup_(freep) struct data *live = NULL;
    int r = kcm_tell_kcmd(kcm, caller, name);
    if (r == 0 && old != NULL)
        r = kcm_content_of(old, &before, &live);
    if (r != 0)
        return r;
    for (size_t i = 0; i < content->count; i++)
        if (!kcm_fits(kcm, name, content->creds[i].len))
            return -EFBIG;
    return replace_any(kcm, caller, name, old != NULL ? &before : NULL,
                       content, edited);
}

int
kcm_replace(struct kcm *kcm, const struct caller *caller, const char *name,
            const struct kcm_snapshot *old, const struct kcm_content *content)
{
    return replace(kcm, caller, name, old, content, NULL);
}

int
kcm_replace_edited(struct kcm *kcm, const struct caller *caller,
                   const char *name, const struct kcm_snapshot *old,
                   const struct kcm_content *content)
{
    return replace(kcm, caller, name, old, content, old);
}
