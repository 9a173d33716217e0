/*
 * Changes to caches that are one operation of the daemon each; edit.c and
 * replace.c make larger ones of them.
 */
#define KCM_INTERNAL
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "commit.h"
#include "cred.h"
#include "log.h"

#define DESTROY_TRIES 4

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
    unsigned last = b->count - 1;
    if (b->answered > last &&
        batch_opcode(b, last) == KCM_OP_GET_DEFAULT_CACHE)
        d->after = kcm_reply_default(b, last, caller->uid);
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
    if (defaults != NULL && offset)
        add_offset(&b, name, kdc_offset);
    if (defaults != NULL && !kcm_moves_default(kcm)) /* see restore() */
        batch_add(&b, KCM_OP_GET_DEFAULT_CACHE);
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
        r = kcm_store(kcm, caller, name, content->creds, content->count, NULL);
    return r;
}

int
kcm_fill_work(struct kcm *kcm, const struct caller *caller, const char *work,
              const struct kcm_content *content)
{
    int r = kcm_initialize(kcm, caller, work, content->principal,
                           content->kdc_offset, NULL);
    if (r == 0)
        r = store_all(kcm, caller, work, content->creds, content->count);
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
