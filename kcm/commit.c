/*
 * Changes to caches, each by the best operations that the daemon has, so
 * that what was there before is never lost:
 *
 *   REPLACE       where there is one (MIT's extension): atomic.
 *   MOVE_CACHE    (Heimdal): the new content is made in a work cache beside
 *                 the old one and moved over it: atomic.
 *   neither       (sssd): the old content is first copied to a work cache
 *                 that names its target; INITIALIZE and STOREs follow; the
 *                 work cache goes last.  If that fails half-way, the old
 *                 content is stored back, at once or as soon as the daemon
 *                 answers again (recover.c); if kcmfs itself is killed
 *                 half-way, the next one finds the work cache and does so.
 *
 * Failure windows that remain: on sssd at its limit of caches there is no
 * room for the work cache, and kcmfs killed between INITIALIZE and the last
 * STORE then leaves the cache incomplete.
 */
#define KCM_INTERNAL
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "commit.h"
#include "cred.h"
#include "log.h"

#define DESTROY_TRIES 4
#define REMOVE_TRIES  8

/* One request without a result. */
static int
call(struct kcm *kcm, const struct caller *caller, struct batch *b)
{
    int r = kcm_exchange(kcm, caller, b);
    return r == 0 ? kcm_reply_status(b, 0) : r;
}

int
kcm_set_offset(struct kcm *kcm, const struct caller *caller, const char *name,
               int32_t kdc_offset)
{
    _cleanup_(batch_free) struct batch b = {0};
    batch_add_named(&b, KCM_OP_SET_KDC_OFFSET, name);
    write_u32(&b.out, (uint32_t)kdc_offset);
    return call(kcm, caller, &b);
}

int
kcm_initialize(struct kcm *kcm, const struct caller *caller, const char *name,
               struct data principal, int32_t kdc_offset)
{
    int r = kcm_know_peer(kcm, caller);
    if (r < 0)
        return r;
    _cleanup_(batch_free) struct batch b = {0};
    batch_add_named(&b, KCM_OP_INITIALIZE, name);
    write_data(&b.out, principal);
    r = call(kcm, caller, &b);
    /* Heimdal keeps the old offset, or none that was ever set. */
    bool keeps = __atomic_load_n(&kcm->peer, __ATOMIC_RELAXED) == PEER_HEIMDAL;
    if (r == 0 && (kdc_offset != 0 || keeps))
        r = kcm_set_offset(kcm, caller, name, kdc_offset);
    return r;
}

/* Heimdal closes the connection on a longer request: know before. */
static bool
fits(struct kcm *kcm, const char *name, size_t len)
{
    bool heimdal =
        kcm->server == NULL &&
        __atomic_load_n(&kcm->peer, __ATOMIC_RELAXED) == PEER_HEIMDAL &&
        __atomic_load_n(&kcm->cred_list, __ATOMIC_RELAXED) != SUPPORT_YES;
    size_t most = heimdal ? KCM_REQUEST_MAX_HEIMDAL : KCM_MESSAGE_MAX;
    return len + strlen(name) + 16 <= most;
}

/* Is this Heimdal's kcm, or kcmd, which answers as much? */
static int
tell_kcmd(struct kcm *kcm, const struct caller *caller, const char *name)
{
    int r = kcm_know_peer(kcm, caller);
    if (r < 0 || kcm->server != NULL ||
        __atomic_load_n(&kcm->cred_list, __ATOMIC_RELAXED) != SUPPORT_UNKNOWN)
        return r;
    _cleanup_(batch_free) struct batch b = {0};
    batch_add_named(&b, KCM_OP_GET_CRED_LIST, name);
    r = call(kcm, caller, &b);
    if (r < 0)
        return r;
    int support = r == KCM_UNSUPPORTED ? SUPPORT_NO : SUPPORT_YES;
    __atomic_store_n(&kcm->cred_list, support, __ATOMIC_RELAXED);
    return 0;
}

int
kcm_store(struct kcm *kcm, const struct caller *caller, const char *name,
          const struct data *creds, size_t count, size_t *stored_out)
{
    size_t stored = 0;
    _cleanup_(batch_free) struct batch b = {0};
    if (stored_out != NULL)
        *stored_out = 0;
    for (size_t i = 0; i < count; i++) {
        if (creds[i].len > KCM_REQUEST_MAX_HEIMDAL / 2) {
            int r = tell_kcmd(kcm, caller, name);
            if (r < 0)
                return r;
            if (!fits(kcm, name, creds[i].len))
                return -EFBIG;
        }
        batch_add_named(&b, KCM_OP_STORE, name);
        write_data(&b.out, creds[i]);
    }
    int r = count > 0 ? kcm_exchange(kcm, caller, &b) : 0;
    while (stored < b.answered && kcm_reply_status(&b, stored) == 0)
        stored++;
    if (stored_out != NULL)
        *stored_out = stored;
    return r == 0 && stored < count ? kcm_reply_status(&b, stored) : r;
}

int
kcm_destroy(struct kcm *kcm, const struct caller *caller, const char *name)
{
    int r = KCM_BUSY;
    /* Heimdal refuses while a renewal is queued; asking again helps. */
    for (int i = 0; i < DESTROY_TRIES && r == KCM_BUSY; i++) {
        _cleanup_(batch_free) struct batch b = {0};
        batch_add_named(&b, KCM_OP_DESTROY, name);
        r = call(kcm, caller, &b);
    }
    return r;
}

int
kcm_set_default(struct kcm *kcm, const struct caller *caller, const char *name)
{
    _cleanup_(batch_free) struct batch b = {0};
    batch_add_named(&b, KCM_OP_SET_DEFAULT_CACHE, name);
    return call(kcm, caller, &b);
}

int
kcm_move(struct kcm *kcm, const struct caller *caller, const char *from,
         const char *to)
{
    if (__atomic_load_n(&kcm->move, __ATOMIC_RELAXED) == SUPPORT_NO)
        return KCM_UNSUPPORTED;
    _cleanup_(batch_free) struct batch b = {0};
    batch_add_named(&b, KCM_OP_MOVE_CACHE, from);
    write_string(&b.out, to);
    int r = call(kcm, caller, &b);
    if (r == KCM_UNSUPPORTED)
        __atomic_store_n(&kcm->move, SUPPORT_NO, __ATOMIC_RELAXED);
    /* The content has moved; what was there before could not be destroyed
     * under its other name yet. */
    return r == KCM_BUSY ? kcm_destroy(kcm, caller, from) : r;
}

bool
kcm_moves_default(const struct kcm *kcm)
{
    return __atomic_load_n(&kcm->peer, __ATOMIC_RELAXED) == PEER_SSSD;
}

bool
kcm_default_may_dangle(const struct kcm *kcm)
{
    int peer = __atomic_load_n(&kcm->peer, __ATOMIC_RELAXED);
    return peer == PEER_HEIMDAL || peer == PEER_OTHER;
}

/* --- replace ----------------------------------------------------------- */

static int
replace_atomic(struct kcm *kcm, const struct caller *caller, const char *name,
               const struct kcm_content *content)
{
    int known = __atomic_load_n(&kcm->replace, __ATOMIC_RELAXED);
    size_t size = content->principal.len;
    if (known == SUPPORT_NO)
        return KCM_UNSUPPORTED;
    for (size_t i = 0; i < content->count; i++)
        size += content->creds[i].len + 4;
    if (!fits(kcm, name, size))
        return KCM_UNSUPPORTED;
    _cleanup_(batch_free) struct batch b = {0};
    batch_add_named(&b, KCM_OP_REPLACE, name);
    write_u32(&b.out, (uint32_t)content->kdc_offset);
    write_data(&b.out, content->principal);
    write_u32(&b.out, (uint32_t)content->count);
    for (size_t i = 0; i < content->count; i++)
        write_data32(&b.out, content->creds[i]);
    int r = call(kcm, caller, &b);
    if (r == 0)
        __atomic_store_n(&kcm->replace, SUPPORT_YES, __ATOMIC_RELAXED);
    /* After a success the same code means that the quota is reached. */
    if (r == KCM_UNSUPPORTED && known == SUPPORT_YES)
        return KCM_QUOTA;
    return r;
}

int
kcm_fill(struct kcm *kcm, const struct caller *caller, const char *name,
         const struct kcm_content *content)
{
    int r = kcm_initialize(kcm, caller, name, content->principal,
                           content->kdc_offset);
    if (r == 0)
        r = kcm_store(kcm, caller, name, content->creds, content->count, NULL);
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
        kcm_give_up(kcm, caller, work, NULL, NULL);
    return r;
}

int
kcm_content_of(const struct kcm_snapshot *s, struct kcm_content *content,
               struct data **creds)
{
    *creds = calloc(s->count + 1, sizeof(**creds));
    if (*creds == NULL)
        return -ENOMEM;
    *content = (struct kcm_content){
        .principal = {s->principal->bytes, s->principal->len},
        .kdc_offset = s->kdc_offset,
        .creds = *creds,
    };
    for (size_t i = 0; i < s->count; i++)
        if (s->creds[i].bytes != NULL && s->creds[i].bytes->len > 0)
            (*creds)[content->count++] = (struct data){
                s->creds[i].bytes->bytes, s->creds[i].bytes->len};
    return 0;
}

static int
replace_in_place(struct kcm *kcm, const struct caller *caller,
                 const char *name, const struct kcm_snapshot *old,
                 const struct kcm_content *content)
{
    _cleanup_(freep) struct data *creds = NULL;
    struct kcm_content before = {0};
    char work[KCM_WORK_NAME_MAX] = "";
    int r = 0;
    if (old != NULL)
        r = kcm_content_of(old, &before, &creds);
    if (r < 0)
        return r;
    if (before.count > 0) {
        kcm_work_name(kcm, caller->uid, work);
        r = kcm_work_save(kcm, caller, work, name, &before);
        if (r == KCM_QUOTA) {
            log_info("no room for a copy of %s while it is replaced", name);
            kcm_give_up(kcm, caller, work, NULL, NULL); /* what there is */
            work[0] = '\0';
        } else if (r != 0) {
            kcm_give_up(kcm, caller, work, NULL, NULL);
            return r;
        }
    }
    r = kcm_fill(kcm, caller, name, content);
    if (r != 0)
        kcm_give_up(kcm, caller, work, name, creds != NULL ? &before : NULL);
    else if (work[0] != '\0' && kcm_destroy(kcm, caller, work) != 0)
        kcm_give_up(kcm, caller, work, NULL, NULL);
    return r;
}

int
kcm_replace(struct kcm *kcm, const struct caller *caller, const char *name,
            const struct kcm_snapshot *old, const struct kcm_content *content)
{
    int r = tell_kcmd(kcm, caller, name);
    if (r < 0)
        return r;
    for (size_t i = 0; i < content->count; i++)
        if (!fits(kcm, name, content->creds[i].len))
            return -EFBIG;
    r = replace_atomic(kcm, caller, name, content);
    if (r != KCM_UNSUPPORTED)
        return r;
    if (kcm_can_move(kcm, caller, name))
        r = replace_by_move(kcm, caller, name, content);
    else
        r = replace_in_place(kcm, caller, name, old, content);
    if (r == 0)
        __atomic_store_n(&kcm->replace, SUPPORT_NO, __ATOMIC_RELAXED);
    return r;
}

bool
kcm_can_move(struct kcm *kcm, const struct caller *caller, const char *name)
{
    int move = __atomic_load_n(&kcm->move, __ATOMIC_RELAXED);
    if (move == SUPPORT_UNKNOWN) {
        /* A cache moved onto itself stays as it is; one that is not there
         * is not found: both tell. */
        _cleanup_(batch_free) struct batch b = {0};
        batch_add_named(&b, KCM_OP_MOVE_CACHE, name);
        write_string(&b.out, name);
        int r = call(kcm, caller, &b);
        if (r < 0)
            return false;
        move = r == KCM_UNSUPPORTED ? SUPPORT_NO : SUPPORT_YES;
        __atomic_store_n(&kcm->move, move, __ATOMIC_RELAXED);
    }
    return move == SUPPORT_YES;
}

/* --- edit -------------------------------------------------------------- */

/* REMOVE_CRED of what has c's client, server, key type, times and flags. */
static void
add_remove(struct batch *b, const char *name, const struct cred *c)
{
    uint32_t flags = KCM_TC_MATCH_KEYTYPE | KCM_TC_MATCH_TIMES_EXACT |
                     KCM_TC_MATCH_FLAGS_EXACT;
    uint32_t parts = KCM_MCRED_CLIENT | KCM_MCRED_SERVER;
    if (c->enctype == 0 && c->key.len == 0)
        flags &= ~KCM_TC_MATCH_KEYTYPE; /* configuration entries */
    else
        parts |= KCM_MCRED_SESSION_KEY;
    if (c->second_ticket.len > 0) {
        parts |= KCM_MCRED_SECOND;
        flags |= KCM_TC_MATCH_2ND_TKT;
    }
    batch_add_named(b, KCM_OP_REMOVE_CRED, name);
    write_u32(&b->out, flags);
    write_u32(&b->out, parts);
    write_data(&b->out, c->client.raw);
    write_data(&b->out, c->server.raw);
    if (parts & KCM_MCRED_SESSION_KEY) {
        write_u16(&b->out, c->enctype);
        write_data32(&b->out, c->key);
    }
    write_u32(&b->out, c->authtime);
    write_u32(&b->out, c->starttime);
    write_u32(&b->out, c->endtime);
    write_u32(&b->out, c->renew_till);
    write_u8(&b->out, c->is_skey);
    write_u32(&b->out, c->flags);
    if (c->second_ticket.len > 0)
        write_data32(&b->out, c->second_ticket);
}

/* Would the removal of a marked credential take a new one along?  Or does a
 * new configuration entry take the place of one (kcmd, sssd), so that the old
 * one would seem to have been removed by mistake? */
static bool
removes_new(const struct kcm_snapshot *old, const bool *remove,
            const struct data *creds, size_t count)
{
    for (size_t i = 0; i < old->count; i++) {
        struct cred a, b;
        struct blob *blob = old->creds[i].bytes;
        if (blob == NULL ||
            !cred_parse((struct data){blob->bytes, blob->len}, &a) ||
            (!remove[i] && !cred_is_config(&a)))
            continue;
        for (size_t k = 0; k < count; k++)
            if (cred_parse(creds[k], &b) && a.enctype == b.enctype &&
                a.authtime == b.authtime && a.starttime == b.starttime &&
                a.endtime == b.endtime && a.renew_till == b.renew_till &&
                a.flags == b.flags && principal_equal(&a.server, &b.server))
                return true;
    }
    return false;
}

static bool
lists(const struct data uuids, const uint8_t *uuid)
{
    for (size_t i = 0; i + KCM_UUID_LEN <= uuids.len; i += KCM_UUID_LEN)
        if (memcmp(uuids.p + i, uuid, KCM_UUID_LEN) == 0)
            return true;
    return false;
}

/*
 * What the daemon holds after removals, against what it should: count of
 * marked credentials still there; those that went with them by mistake are
 * stored again.
 */
static int
repair(struct kcm *kcm, const struct caller *caller, const char *name,
       const struct kcm_snapshot *old, const bool *remove, struct data uuids,
       size_t *left_out)
{
    size_t left = 0;
    _cleanup_(freep) struct data *lost = calloc(old->count + 1, sizeof(*lost));
    size_t lost_count = 0;
    if (lost == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < old->count; i++) {
        bool there = lists(uuids, old->creds[i].uuid);
        struct blob *b = old->creds[i].bytes;
        if (remove[i] && there)
            left++;
        else if (!remove[i] && !there && b != NULL && b->len > 0)
            lost[lost_count++] = (struct data){b->bytes, b->len};
    }
    *left_out = left;
    return kcm_store(kcm, caller, name, lost, lost_count, NULL);
}

/* Remove by REMOVE_CRED; KCM_UNSUPPORTED before anything was done. */
static int
remove_each(struct kcm *kcm, const struct caller *caller, const char *name,
            const struct kcm_snapshot *old, const bool *remove)
{
    if (__atomic_load_n(&kcm->remove, __ATOMIC_RELAXED) == SUPPORT_NO)
        return KCM_UNSUPPORTED;
    for (int tries = 0; tries < REMOVE_TRIES; tries++) {
        _cleanup_(batch_free) struct batch b = {0};
        for (size_t i = 0; i < old->count; i++) {
            struct cred c;
            struct blob *blob = old->creds[i].bytes;
            if (remove[i] && blob != NULL &&
                cred_parse((struct data){blob->bytes, blob->len}, &c))
                add_remove(&b, name, &c);
        }
        if (b.count == 0)
            return 0;
        batch_add_named(&b, KCM_OP_GET_CRED_UUID_LIST, name);
        int r = kcm_exchange(kcm, caller, &b);
        if (r < 0)
            return r;
        r = kcm_reply_status(&b, 0);
        if (r == KCM_UNSUPPORTED) {
            __atomic_store_n(&kcm->remove, SUPPORT_NO, __ATOMIC_RELAXED);
            return r;
        }
        if (r != 0 && r != KCM_NOT_FOUND)
            return r;
        r = kcm_reply_status(&b, b.count - 1);
        size_t left = 0;
        if (r == 0)
            r = repair(kcm, caller, name, old, remove,
                       batch_reply(&b, b.count - 1).body, &left);
        if (r != 0 || left == 0)
            return r;
    }
    return -EIO;
}

int
kcm_edit(struct kcm *kcm, const struct caller *caller, const char *name,
         const struct kcm_snapshot *old, const bool *remove,
         const struct data *creds, size_t count)
{
    bool any = false;
    for (size_t i = 0; i < old->count; i++)
        any |= remove[i];
    if (!any)
        return kcm_store(kcm, caller, name, creds, count, NULL);
    /* What is new comes first: if it is refused, nothing is lost. */
    bool supported =
        __atomic_load_n(&kcm->remove, __ATOMIC_RELAXED) != SUPPORT_NO &&
        !kcm_moves_default(kcm) && !removes_new(old, remove, creds, count);
    int r = KCM_UNSUPPORTED;
    if (supported && count > 0)
        r = kcm_store(kcm, caller, name, creds, count, NULL);
    if (supported && count > 0 && r != 0)
        return r;
    if (supported)
        r = remove_each(kcm, caller, name, old, remove);
    if (r != KCM_UNSUPPORTED)
        return r;

    _cleanup_(freep) struct data *all =
                  calloc(old->count + count + 1, sizeof(*all));
    if (all == NULL)
        return -ENOMEM;
    struct kcm_content content = {
        .principal = {old->principal->bytes, old->principal->len},
        .kdc_offset = old->kdc_offset,
        .creds = all,
    };
    for (size_t i = 0; i < old->count; i++) {
        struct blob *b = old->creds[i].bytes;
        if (!remove[i] && b != NULL && b->len > 0)
            all[content.count++] = (struct data){b->bytes, b->len};
    }
    for (size_t i = 0; i < count; i++)
        all[content.count++] = creds[i];
    return kcm_replace(kcm, caller, name, old, &content);
}
