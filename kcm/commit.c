/*
 * Changes to caches that are one operation of the daemon, and edits: some
 * credentials go, others come.
 *
 * An edit that the daemon cannot do by REMOVE_CRED is a replacement
 * (replace.c).  One that only removes is safe at each step.  One that also
 * stores does that first; if the rest fails, what was before is put back.
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

int
kcm_call(struct kcm *kcm, const struct caller *caller, struct batch *b)
{
    int r = kcm_exchange(kcm, caller, b);
    return r == 0 ? kcm_reply_status(b, 0) : r;
}

static void
add_offset(struct batch *b, const char *name, int32_t kdc_offset)
{
    batch_add_named(b, KCM_OP_SET_KDC_OFFSET, name);
    write_u32(&b->out, (uint32_t)kdc_offset);
}

int
kcm_set_offset(struct kcm *kcm, const struct caller *caller, const char *name,
               int32_t kdc_offset)
{
    _cleanup_(batch_free) struct batch b = {0};
    add_offset(&b, name, kdc_offset);
    return kcm_call(kcm, caller, &b);
}

/* Around a change, in the same batch: what the default is. */
static void
ask_before(struct batch *b, const struct kcm_defaults *d)
{
    if (d != NULL && d->before == NULL)
        batch_add(b, KCM_OP_GET_DEFAULT_CACHE);
}

/* b->answered may be less than was asked. */
static void
take_defaults(const struct batch *b, const struct caller *caller,
              struct kcm_defaults *d)
{
    if (d == NULL || b->answered == 0)
        return;
    if (d->before == NULL && batch_opcode(b, 0) == KCM_OP_GET_DEFAULT_CACHE)
        d->before = kcm_reply_default(b, 0, caller->uid);
    free(take(d->after));
    if (b->answered == b->count)
        d->after = kcm_reply_default(b, b->count - 1, caller->uid);
}

int
kcm_initialize(struct kcm *kcm, const struct caller *caller, const char *name,
               struct data principal, int32_t kdc_offset,
               struct kcm_defaults *defaults)
{
    int r = kcm_know_peer(kcm, caller);
    if (r < 0)
        return r;
    /* Heimdal keeps the old offset, or none that was ever set. */
    bool keeps = __atomic_load_n(&kcm->peer, __ATOMIC_RELAXED) == PEER_HEIMDAL;
    bool offset = kdc_offset != 0 || keeps;
    _cleanup_(batch_free) struct batch b = {0};
    ask_before(&b, defaults);
    unsigned n = b.count;
    batch_add_named(&b, KCM_OP_INITIALIZE, name);
    write_data(&b.out, principal);
    if (defaults != NULL) {
        if (offset)
            add_offset(&b, name, kdc_offset);
        batch_add(&b, KCM_OP_GET_DEFAULT_CACHE);
    }
    r = kcm_exchange(kcm, caller, &b);
    take_defaults(&b, caller, defaults);
    if (r == 0)
        r = kcm_reply_status(&b, n);
    /* sssd refuses such a name by the code of its quota. */
    if (r == KCM_QUOTA && kcm_moves_default(kcm) && strchr(name, '/') != NULL)
        r = KCM_BAD_NAME;
    if (r != 0 || !offset)
        return r;
    /* What exists keeps its offset if INITIALIZE is refused. */
    return defaults != NULL ? kcm_reply_status(&b, n + 1)
                            : kcm_set_offset(kcm, caller, name, kdc_offset);
}

bool
kcm_fits(struct kcm *kcm, const char *name, size_t len)
{
    bool heimdal =
        kcm->server == NULL &&
        __atomic_load_n(&kcm->peer, __ATOMIC_RELAXED) == PEER_HEIMDAL &&
        __atomic_load_n(&kcm->cred_list, __ATOMIC_RELAXED) != SUPPORT_YES;
    size_t most = heimdal ? KCM_REQUEST_MAX_HEIMDAL : KCM_MESSAGE_MAX;
    return len + strlen(name) + 16 <= most;
}

int
kcm_tell_kcmd(struct kcm *kcm, const struct caller *caller, const char *name)
{
    int r = kcm_know_peer(kcm, caller);
    if (r < 0 || kcm->server != NULL ||
        __atomic_load_n(&kcm->cred_list, __ATOMIC_RELAXED) != SUPPORT_UNKNOWN)
        return r;
    _cleanup_(batch_free) struct batch b = {0};
    batch_add_named(&b, KCM_OP_GET_CRED_LIST, name);
    r = kcm_call(kcm, caller, &b);
    if (r < 0)
        return r;
    int support = r == KCM_UNSUPPORTED ? SUPPORT_NO : SUPPORT_YES;
    __atomic_store_n(&kcm->cred_list, support, __ATOMIC_RELAXED);
    return 0;
}

/* All at once: when one is refused, those behind it may have arrived. */
static int
store_all(struct kcm *kcm, const struct caller *caller, const char *name,
          const struct data *creds, size_t count)
{
    _cleanup_(batch_free) struct batch b = {0};
    for (size_t i = 0; i < count; i++) {
        if (creds[i].len > KCM_REQUEST_MAX_HEIMDAL / 2) {
            int r = kcm_tell_kcmd(kcm, caller, name);
            if (r < 0)
                return r;
            if (!kcm_fits(kcm, name, creds[i].len))
                return -EFBIG;
        }
        batch_add_named(&b, KCM_OP_STORE, name);
        write_data(&b.out, creds[i]);
    }
    int r = count > 0 ? kcm_exchange(kcm, caller, &b) : 0;
    for (size_t i = 0; r == 0 && i < count; i++)
        r = kcm_reply_status(&b, i);
    return r;
}

/* Each waits for the one before: where that is refused (for a quota, which a
 * smaller one would not reach), no other may be there either. */
int
kcm_store(struct kcm *kcm, const struct caller *caller, const char *name,
          const struct data *creds, size_t count, size_t *stored_out)
{
    size_t stored = 0;
    int r = 0;
    while (r == 0 && stored < count) {
        r = store_all(kcm, caller, name, creds + stored, 1);
        stored += r == 0;
    }
    if (stored_out != NULL)
        *stored_out = stored;
    return r;
}

int
kcm_destroy(struct kcm *kcm, const struct caller *caller, const char *name,
            struct kcm_defaults *defaults)
{
    int r = KCM_BUSY;
    /* Heimdal refuses while a renewal is queued; asking again helps. */
    for (int i = 0; i < DESTROY_TRIES && r == KCM_BUSY; i++) {
        _cleanup_(batch_free) struct batch b = {0};
        ask_before(&b, defaults);
        unsigned n = b.count;
        batch_add_named(&b, KCM_OP_DESTROY, name);
        if (defaults != NULL)
            batch_add(&b, KCM_OP_GET_DEFAULT_CACHE);
        r = kcm_exchange(kcm, caller, &b);
        take_defaults(&b, caller, defaults);
        if (r == 0)
            r = kcm_reply_status(&b, n);
    }
    return r;
}

int
kcm_set_default(struct kcm *kcm, const struct caller *caller, const char *name,
                char **after_out)
{
    struct kcm_defaults defaults = {NULL, NULL};
    _cleanup_(batch_free) struct batch b = {0};
    batch_add_named(&b, KCM_OP_SET_DEFAULT_CACHE, name);
    if (after_out != NULL)
        batch_add(&b, KCM_OP_GET_DEFAULT_CACHE);
    int r = kcm_call(kcm, caller, &b);
    if (after_out != NULL) {
        take_defaults(&b, caller, &defaults);
        *after_out = defaults.after;
    }
    return r;
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
    int r = kcm_call(kcm, caller, &b);
    if (r == KCM_UNSUPPORTED)
        __atomic_store_n(&kcm->move, SUPPORT_NO, __ATOMIC_RELAXED);
    /* The content has moved; what was there before could not be destroyed
     * under its other name yet. */
    return r == KCM_BUSY ? kcm_destroy(kcm, caller, from, NULL) : r;
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

int
kcm_can_move(struct kcm *kcm, const struct caller *caller, const char *name)
{
    int move = __atomic_load_n(&kcm->move, __ATOMIC_RELAXED);
    if (move == SUPPORT_UNKNOWN) {
        /* A cache moved onto itself stays as it is; one that is not there
         * is not found: both tell. */
        _cleanup_(batch_free) struct batch b = {0};
        batch_add_named(&b, KCM_OP_MOVE_CACHE, name);
        write_string(&b.out, name);
        int r = kcm_call(kcm, caller, &b);
        if (r < 0)
            return r;
        move = r == KCM_UNSUPPORTED ? SUPPORT_NO : SUPPORT_YES;
        __atomic_store_n(&kcm->move, move, __ATOMIC_RELAXED);
    }
    return move == SUPPORT_YES ? 0 : KCM_UNSUPPORTED;
}

int
kcm_fill(struct kcm *kcm, const struct caller *caller, const char *name,
         const struct kcm_content *content)
{
    int r = kcm_initialize(kcm, caller, name, content->principal,
                           content->kdc_offset, NULL);
    if (r == 0)
        r = store_all(kcm, caller, name, content->creds, content->count);
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
 * ever missing.  KCM_UNSUPPORTED: it did not, or it cannot be done so.
 */
static int
edit_by_store(struct kcm *kcm, const struct caller *caller, const char *name,
              const struct kcm_snapshot *old, const bool *remove,
              const struct data *creds, size_t count)
{
    struct kcm_content before;
    _cleanup_(freep) struct data *live = NULL;
    if (!kcm_moves_default(kcm) || !replaces_each(old, remove, creds, count))
        return KCM_UNSUPPORTED;
    size_t stored = 0;
    int r = kcm_content_of(old, &before, &live);
    if (r != 0)
        return r;
    r = kcm_store(kcm, caller, name, creds, count, &stored);
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

int
kcm_edit(struct kcm *kcm, const struct caller *caller, const char *name,
         const struct kcm_snapshot *old, const bool *remove,
         const struct data *creds, size_t count)
{
    struct kcm_content content;
    _cleanup_(freep) struct data *all = NULL;
    bool any = false;
    for (size_t i = 0; i < old->count; i++)
        any |= remove[i];
    if (!any)
        return add_all(kcm, caller, name, old, creds, count);
    int r = edit_by_store(kcm, caller, name, old, remove, creds, count);
    if (r == KCM_UNSUPPORTED)
        r = edit_each(kcm, caller, name, old, remove, creds, count);
    if (r != KCM_UNSUPPORTED)
        return r;
    r = edited_content(old, remove, creds, count, &content, &all);
    return r == 0 ? kcm_replace_edited(kcm, caller, name, old, &content) : r;
}
