/*
 * Edits: some credentials of a cache go, others come.
 *
 * An edit that the daemon cannot do by REMOVE_CRED is a replacement
 * (replace.c).  One that only removes is safe at each step.  One that also
 * stores does that first; if the rest fails, what was before is put back.
 */
#define KCM_INTERNAL
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "commit.h"
#include "cred.h"
#include "log.h"

#define REMOVE_TRIES 8

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

/* Does REMOVE_CRED take one for the other?  It knows no ticket bytes. */
static bool
looks_like(const struct cred *a, const struct cred *b)
{
    return a->enctype == b->enctype && a->authtime == b->authtime &&
           a->starttime == b->starttime && a->endtime == b->endtime &&
           a->renew_till == b->renew_till && a->flags == b->flags &&
           principal_equal(&a->server, &b->server);
}

/*
 * Would the removal of a marked credential take another one along, an old
 * one or a new one?  Or does a new configuration entry take the place of an
 * old one (kcmd, sssd), which would then seem to have been removed by
 * mistake?
 */
static bool
removes_others(const struct kcm_snapshot *old, const bool *remove,
               const struct data *creds, size_t count)
{
    const size_t all = old->count + count;
    _cleanup_(freep) struct cred *list = calloc(all + 1, sizeof(*list));
    _cleanup_(freep) bool *none = calloc(all + 1, sizeof(*none));
    if (list == NULL || none == NULL)
        return true;
    for (size_t i = 0; i < all; i++) {
        struct data d = {NULL, 0};
        if (i >= old->count)
            d = creds[i - old->count];
        else if (old->creds[i].bytes != NULL)
            d = (struct data){old->creds[i].bytes->bytes,
                              old->creds[i].bytes->len};
        none[i] = !cred_parse(d, &list[i]);
    }
    for (size_t i = 0; i < old->count; i++) {
        if (none[i] || (!remove[i] && !cred_is_config(&list[i])))
            continue;
        for (size_t k = remove[i] ? 0 : old->count; k < all; k++)
            if (!none[k] && !(k < old->count && remove[k]) &&
                looks_like(&list[i], &list[k]))
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
        if (b.out.failed)
            return -ENOMEM; /* of the first there may be nothing at all */
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

/* The old content without what is marked, and creds. */
static int
edited_content(const struct kcm_snapshot *old, const bool *remove,
               const struct data *creds, size_t count,
               struct kcm_content *content, struct data **all_out)
{
    struct data *all = calloc(old->count + count + 1, sizeof(*all));
    *all_out = all;
    if (all == NULL)
        return -ENOMEM;
    *content = (struct kcm_content){
        .principal = {old->principal->bytes, old->principal->len},
        .kdc_offset = old->kdc_offset,
        .creds = all,
    };
    for (size_t i = 0; i < old->count; i++) {
        struct blob *b = old->creds[i].bytes;
        if (!remove[i] && b != NULL && b->len > 0)
            all[content->count++] = (struct data){b->bytes, b->len};
    }
    for (size_t i = 0; i < count; i++)
        all[content->count++] = creds[i];
    return 0;
}

/* Edit by STORE and REMOVE_CRED; KCM_UNSUPPORTED: nothing was done. */
static int
edit_each(struct kcm *kcm, const struct caller *caller, const char *name,
          const struct kcm_snapshot *old, const bool *remove,
          const struct data *creds, size_t count)
{
    struct kcm_content before;
    _cleanup_(freep) struct data *live = NULL;
    if (kcm_moves_default(kcm) ||
        __atomic_load_n(&kcm->remove, __ATOMIC_RELAXED) == SUPPORT_NO ||
        removes_others(old, remove, creds, count))
        return KCM_UNSUPPORTED;
    size_t stored = 0;
    int r = kcm_content_of(old, &before, &live);
    if (r != 0)
        return r;
    /* What is new comes first: if it is refused, nothing is lost. */
    r = kcm_store(kcm, caller, name, creds, count, &stored);
    if (r == 0)
        r = remove_each(kcm, caller, name, old, remove);
    if (r != 0 && (r != KCM_UNSUPPORTED || stored > 0))
        kcm_give_up(kcm, caller,
                    &(struct kcm_undo){.target = name,
                                       .before = &before,
                                       .only_if_gone = stored == 0});
    return r;
}

/* Store all or none. */
static int
add_all(struct kcm *kcm, const struct caller *caller, const char *name,
        const struct kcm_snapshot *old, const struct data *creds, size_t count)
{
    struct kcm_content before;
    _cleanup_(freep) struct data *live = NULL;
    size_t stored = 0;
    int r = kcm_content_of(old, &before, &live);
    if (r == 0)
        r = kcm_store(kcm, caller, name, creds, count, &stored);
    if (r != 0 && stored > 0)
        kcm_give_up(kcm, caller,
                    &(struct kcm_undo){.target = name, .before = &before});
    return r;
}

/* Does each marked credential have one among creds that takes its place by
 * being stored (sssd keeps one for each client and server)? */
static bool
replaces_each(const struct kcm_snapshot *old, const bool *remove,
              const struct data *creds, size_t count)
{
    for (size_t i = 0; i < old->count; i++) {
        struct cred c, other;
        struct blob *b = old->creds[i].bytes;
        bool found = !remove[i];
        if (!found &&
            (b == NULL || !cred_parse((struct data){b->bytes, b->len}, &c)))
            return false;
        for (size_t k = 0; k < count && !found; k++)
            found = cred_parse(creds[k], &other) &&
                    principal_equal(&c.client, &other.client) &&
                    principal_equal(&c.server, &other.server);
        if (!found)
            return false;
    }
    return true;
}

/*
 * Edit by STORE alone, where that replaces (sssd): nothing of the cache is
 * ever missing.  KCM_UNSUPPORTED: it did not, and *stored_out of creds are
 * there now; or it cannot be done so.
 */
static int
edit_by_store(struct kcm *kcm, const struct caller *caller, const char *name,
              const struct kcm_snapshot *old, const bool *remove,
              const struct data *creds, size_t count, size_t *stored_out)
{
    struct kcm_content before;
    _cleanup_(freep) struct data *live = NULL;
    *stored_out = 0;
    if (!kcm_moves_default(kcm) || !replaces_each(old, remove, creds, count))
        return KCM_UNSUPPORTED;
    size_t stored = 0;
    int r = kcm_content_of(old, &before, &live);
    if (r != 0)
        return r;
    r = kcm_store(kcm, caller, name, creds, count, &stored);
    *stored_out = stored;
    _cleanup_(batch_free) struct batch b = {0};
    batch_add_named(&b, KCM_OP_GET_CRED_UUID_LIST, name);
    if (r == 0)
        r = kcm_call(kcm, caller, &b);
    for (size_t i = 0; i < old->count && r == 0; i++)
        if (lists(batch_reply(&b, 0).body, old->creds[i].uuid) == remove[i])
            r = KCM_UNSUPPORTED;
    if (r != 0 && r != KCM_UNSUPPORTED)
        kcm_give_up(kcm, caller,
                    &(struct kcm_undo){.target = name,
                                       .before = &before,
                                       .only_if_gone = stored == 0});
    return r;
}

/* By replacing all; stored: of creds, so many are there already. */
static int
edit_by_replacing(struct kcm *kcm, const struct caller *caller,
                  const char *name, const struct kcm_snapshot *old,
                  const bool *remove, const struct data *creds, size_t count,
                  size_t stored)
{
    struct kcm_content content, before;
    _cleanup_(freep) struct data *all = NULL, *live = NULL;
    int r = edited_content(old, remove, creds, count, &content, &all);
    if (r == 0)
        r = kcm_content_of(old, &before, &live);
    if (r != 0)
        return r;
    r = kcm_replace_edited(kcm, caller, name, old, &content);
    if (r != 0 && stored > 0)
        kcm_give_up(kcm, caller,
                    &(struct kcm_undo){.target = name, .before = &before});
    return r;
}

int
kcm_edit(struct kcm *kcm, const struct caller *caller, const char *name,
         const struct kcm_snapshot *old, const bool *remove,
         const struct data *creds, size_t count)
{
    bool any = false;
    size_t stored;
    for (size_t i = 0; i < old->count; i++)
        any |= remove[i];
    if (!any)
        return add_all(kcm, caller, name, old, creds, count);
    int r =
        edit_by_store(kcm, caller, name, old, remove, creds, count, &stored);
    if (r == KCM_UNSUPPORTED)
        r = edit_each(kcm, caller, name, old, remove, creds, count);
    if (r == KCM_UNSUPPORTED)
        r = edit_by_replacing(kcm, caller, name, old, remove, creds, count,
                              stored);
    return r;
}
