/*
 * Bring what is known of a cache up to date with the daemon.
 *
 * Every daemon gives a stored credential a UUID of its own and never changes
 * one in place, so the list of credential UUIDs tells whether anything
 * changed; only credentials with a new UUID are fetched.  A fetch is whole
 * when the list after it equals the list before it.
 */
#define KCM_INTERNAL
#include <errno.h>
#include <string.h>

#include "cred.h"
#include "kcm.h"
#include "log.h"
#include "pool.h"
#include "snapshot.h"

/* On sssd a request costs 1 ms, so the principal and KDC offset of a cache
 * whose credentials did not change are asked again only this often. */
#define META_MS 1000
/* A list of all is cheaper than this many credentials one by one. */
#define MANY_MISSING 4u
/* A cache that changes during this many fetches is taken as it comes. */
#define FETCH_TRIES 10
/* No host's clock is off by more; Heimdal 7.8 answers uninitialised memory
 * for an offset that was never set. */
#define OFFSET_LIMIT (24 * 60 * 60)
/* The cache changed while it was read; no -errno and no enum kcm_status. */
#define CHANGED 100

/* An empty blob stands for a credential that cannot be parsed. */
static int
take_cred(const struct kcm *kcm, struct kcm_snap_cred *c, struct data bytes)
{
    struct cred parsed;
    struct reader r;
    reader_init(&r, bytes.p, bytes.len);
    cred_read(&r, &parsed);
    /* Heimdal and kcmd hold none that cannot be parsed: the reply is wrong. */
    if (r.bad &&
        __atomic_load_n(&kcm->peer, __ATOMIC_RELAXED) == PEER_HEIMDAL) {
        log_warn("the KCM daemon's credential of %zu bytes is none",
                 bytes.len);
        return -EIO;
    }
    if (r.bad) {
        log_warn("the KCM daemon holds a credential of %zu bytes that is "
                 "none: left out",
                 bytes.len);
        c->bytes = blob_new(NULL, 0);
    } else {
        c->bytes = blob_new(parsed.raw.p, parsed.raw.len);
    }
    return c->bytes != NULL ? 0 : -ENOMEM;
}

static int32_t
sane_offset(const struct kcm *kcm, const struct batch *b, unsigned n)
{
    struct reader r;
    struct data body = batch_reply(b, n).body;
    reader_init(&r, body.p, body.len);
    int32_t offset = (int32_t)read_u32(&r);
    if (kcm_reply_status(b, n) != 0 || r.bad || offset > OFFSET_LIMIT ||
        offset < -OFFSET_LIMIT)
        return 0;
    /* Below that limit, what Heimdal's freed memory most often holds is the
     * upper half of a pointer into the heap (0x55..) or a library (0x7f..). */
    int32_t high = offset / 256;
    bool pointer =
        high == 0x55 || high == 0x56 || high == 0x7f || high == 0x7e;
    bool heimdal =
        __atomic_load_n(&kcm->peer, __ATOMIC_RELAXED) == PEER_HEIMDAL &&
        __atomic_load_n(&kcm->cred_list, __ATOMIC_RELAXED) != SUPPORT_YES;
    return pointer && heimdal ? 0 : offset;
}

static void
add_meta(struct batch *b, const char *name)
{
    batch_add_named(b, KCM_OP_GET_PRINCIPAL, name);
    batch_add_named(b, KCM_OP_GET_KDC_OFFSET, name);
}

/* The replies to add_meta(), the nth of b and the next. */
static int
take_meta(const struct kcm *kcm, const struct batch *b, unsigned n,
          struct kcm_snapshot *s)
{
    int r = kcm_reply_status(b, n);
    if (r != 0)
        return r;
    struct data body = batch_reply(b, n).body;
    struct reader reader;
    struct principal p;
    if (body.len == 0)
        return KCM_NOT_FOUND; /* listed, but never initialised */
    reader_init(&reader, body.p, body.len);
    principal_read(&reader, &p);
    if (reader.bad) {
        log_warn("the KCM daemon holds a principal that is none");
        return -EIO;
    }
    s->kdc_offset = sane_offset(kcm, b, n + 1);
    blob_unref(s->principal);
    s->principal = blob_new(p.raw.p, p.raw.len);
    return s->principal != NULL ? 0 : -ENOMEM;
}

static void
set_meta(struct kcm_snapshot *s, const struct kcm_snapshot *from)
{
    s->kdc_offset = from->kdc_offset;
    s->principal = blob_ref(from->principal);
}

/* The reply to a GET_CRED_UUID_LIST. */
static int
take_uuids(const struct batch *b, unsigned n, struct data *uuids_out)
{
    int r = kcm_reply_status(b, n);
    *uuids_out = batch_reply(b, n).body;
    if (r == 0 && uuids_out->len % KCM_UUID_LEN != 0) {
        log_warn("the KCM daemon lists credentials in %zu bytes",
                 uuids_out->len);
        return -EIO;
    }
    return r;
}

static bool
use_cred_list(const struct kcm *kcm, size_t missing)
{
    if (__atomic_load_n(&kcm->cred_list, __ATOMIC_RELAXED) == SUPPORT_NO)
        return false;
    int peer = __atomic_load_n(&kcm->peer, __ATOMIC_RELAXED);
    return missing >= (peer == PEER_SSSD ? 2 : MANY_MISSING);
}

/* Which credentials s misses; NULL without memory. */
static bool *
mark_missing(const struct kcm_snapshot *s)
{
    bool *missing = calloc(s->count + 1, sizeof(*missing));
    for (size_t i = 0; missing != NULL && i < s->count; i++)
        missing[i] = snap_cred_is_missing(&s->creds[i]);
    return missing;
}

/* Forget what a list said of them: they may have been others by then. */
static void
forget(struct kcm_snapshot *s, const bool *missing)
{
    for (size_t i = 0; i < s->count; i++)
        if (missing[i])
            blob_unref(take(s->creds[i].bytes));
}

/* Fill s from a GET_CRED_LIST reply, in the order of its UUIDs.  CHANGED:
 * the list does not fit s. */
static int
take_list(const struct kcm *kcm, struct kcm_snapshot *s, struct data body)
{
    struct reader r;
    reader_init(&r, body.p, body.len);
    uint32_t count = read_count(&r, 4);
    if (r.bad)
        return -EIO;
    if (count != s->count)
        return CHANGED;
    for (uint32_t i = 0; i < count; i++) {
        struct data bytes = read_data32(&r);
        if (r.bad)
            return -EIO;
        if (!snap_cred_is_missing(&s->creds[i]))
            continue;
        int result = take_cred(kcm, &s->creds[i], bytes);
        if (result < 0)
            return result;
    }
    return 0;
}

/* The same from one GET_CRED_BY_UUID reply for each missing credential. */
static int
take_each(const struct kcm *kcm, struct kcm_snapshot *s, const struct batch *b,
          unsigned first)
{
    bool sssd = __atomic_load_n(&kcm->peer, __ATOMIC_RELAXED) == PEER_SSSD;
    for (size_t i = 0; i < s->count; i++) {
        if (!snap_cred_is_missing(&s->creds[i]))
            continue;
        unsigned n = first++;
        int r = kcm_reply_status(b, n);
        if (r == KCM_NOT_FOUND)
            return CHANGED; /* went away meanwhile */
        struct data body = batch_reply(b, n).body;
        /* sssd cannot read a credential that is empty; any other refusal
         * must not pass for one, or a replacement would lose it. */
        if (r != 0 && !(sssd && batch_reply(b, n).code == KCM_CODE_CC_IO))
            return r < 0 ? r : -EIO;
        if (r != 0)
            body.len = 0;
        r = take_cred(kcm, &s->creds[i], body);
        if (r < 0)
            return r;
    }
    return 0;
}

/* One request for each credential that s misses. */
static void
add_each(struct batch *b, const char *name, const struct kcm_snapshot *s)
{
    for (size_t i = 0; i < s->count; i++) {
        if (!snap_cred_is_missing(&s->creds[i]))
            continue;
        batch_add_named(b, KCM_OP_GET_CRED_BY_UUID, name);
        write_bytes(&b->out, s->creds[i].uuid, KCM_UUID_LEN);
    }
}

/* GET_CRED_LIST was answered: learn from it, take it.  CHANGED: try again. */
static int
take_list_reply(struct kcm *kcm, struct kcm_snapshot *s, const struct batch *b,
                unsigned n)
{
    int r = kcm_reply_status(b, n);
    if (r < 0)
        return r;
    bool sssd = __atomic_load_n(&kcm->peer, __ATOMIC_RELAXED) == PEER_SSSD;
    if (r == 0)
        __atomic_store_n(&kcm->cred_list, SUPPORT_YES, __ATOMIC_RELAXED);
    else if (r == KCM_UNSUPPORTED && !sssd)
        __atomic_store_n(&kcm->cred_list, SUPPORT_NO, __ATOMIC_RELAXED);
    return r == 0 ? take_list(kcm, s, batch_reply(b, n).body) : CHANGED;
}

/*
 * Complete s, whose principal is not known yet if it is NULL, by the UUIDs it
 * misses.  A credential that is there after the principal was read tells that
 * both are of one cache: an INITIALIZE between would have ended it.  CHANGED:
 * one has gone since it was listed.
 */
static int
complete_by_uuid(struct kcm *kcm, const struct caller *caller,
                 const char *name, struct kcm_snapshot *s)
{
    _cleanup_(batch_free) struct batch b = {0};
    unsigned first = 0;
    if (s->principal == NULL) {
        add_meta(&b, name);
        first = b.count;
    }
    add_each(&b, name, s);
    int r = kcm_exchange(kcm, caller, &b);
    if (r == 0 && s->principal == NULL)
        r = take_meta(kcm, &b, 0, s);
    return r == 0 ? take_each(kcm, s, &b, first) : r;
}

/* Is a credential of s in the list of UUIDs?  Then s was not initialised
 * anew between the two. */
static bool
shares_one(const struct kcm_snapshot *s, struct data uuids)
{
    for (size_t i = 0; i < s->count; i++)
        for (size_t at = 0; at < uuids.len; at += KCM_UUID_LEN)
            if (memcmp(s->creds[i].uuid, uuids.p + at, KCM_UUID_LEN) == 0)
                return true;
    return false;
}

/*
 * The same by a list of all, or of a cache of which nothing is missing: 0
 * when the list of UUIDs was the same before and after, or when each
 * credential of the list before was had by its UUID: s is what the cache was
 * then, also if others add to it all the time.  CHANGED: *list_out is the
 * list now.
 */
static int
complete_checked(struct kcm *kcm, const struct caller *caller,
                 const char *name, struct kcm_snapshot *s, size_t missing,
                 struct blob **list_out)
{
    enum {
        PRINCIPAL,
        OFFSET,
        CREDS
    };
    _cleanup_(batch_free) struct batch b = {0};
    _cleanup_(freep) bool *asked = mark_missing(s);
    bool list = missing > 0 && use_cred_list(kcm, missing);
    if (asked == NULL)
        return -ENOMEM;
    add_meta(&b, name);
    if (list)
        batch_add_named(&b, KCM_OP_GET_CRED_LIST, name);
    else
        add_each(&b, name, s);
    batch_add_named(&b, KCM_OP_GET_CRED_UUID_LIST, name);
    int r = kcm_exchange(kcm, caller, &b);
    struct data after;
    if (r == 0)
        r = take_uuids(&b, b.count - 1, &after);
    if (r == 0)
        r = take_meta(kcm, &b, PRINCIPAL, s);
    if (r != 0)
        return r;
    *list_out = blob_new(after.p, after.len);
    if (*list_out == NULL)
        return -ENOMEM;
    if (list)
        r = take_list_reply(kcm, s, &b, CREDS);
    else
        r = take_each(kcm, s, &b, CREDS);
    if (r == 0 && !snapshot_has_uuids(s, after) &&
        (list || !shares_one(s, after)))
        r = CHANGED;
    if (r == CHANGED && list)
        forget(s, asked);
    return r;
}

/*
 * The cache changed: uuids is its list now.  A new snapshot of it.  meta has
 * the principal and offset as read after that list; NULL: not asked.
 */
static int
fetch_changed(struct kcm *kcm, const struct caller *caller, const char *name,
              struct data uuids, const struct kcm_snapshot *old,
              const struct kcm_snapshot *meta, struct kcm_snapshot **out)
{
    _cleanup_(kcm_snapshot_unrefp) struct kcm_snapshot *have = NULL;
    _cleanup_(blob_unrefp) struct blob *list = NULL;
    for (int tries = 0; tries < FETCH_TRIES; tries++) {
        _cleanup_(kcm_snapshot_unrefp) struct kcm_snapshot *s =
            snapshot_new(uuids);
        _cleanup_(blob_unrefp) struct blob *after = NULL;
        size_t missing;
        if (s == NULL)
            return -ENOMEM;
        int r = snapshot_inherit(s, have != NULL ? have : old, &missing);
        /* What is left of the old credentials has the old principal. */
        if (tries == 0 && meta == NULL && missing < s->count)
            meta = old;
        if (tries == 0 && meta != NULL)
            set_meta(s, meta);
        if (r == 0 && tries == 0 && missing > 0 &&
            !use_cred_list(kcm, missing))
            r = complete_by_uuid(kcm, caller, name, s);
        else if (r == 0)
            r = complete_checked(kcm, caller, name, s, tries > 2 ? 1 : missing,
                                 &after);
        if (r == 0)
            *out = take(s);
        if (r != CHANGED)
            return r;
        kcm_snapshot_unref(have);
        have = take(s); /* what arrived need not be asked for again */
        if (after == NULL)
            continue;
        blob_unref(list);
        list = take(after);
        uuids = (struct data){list->bytes, list->len};
    }
    log_warn("cache %s changes faster than it can be read", name);
    return -EAGAIN;
}

static bool
same_meta(const struct kcm_snapshot *a, const struct kcm_snapshot *b)
{
    return a->kdc_offset == b->kdc_offset &&
           a->principal->len == b->principal->len &&
           memcmp(a->principal->bytes, b->principal->bytes,
                  a->principal->len) == 0;
}

static bool
is_sssd(const struct kcm *kcm)
{
    return __atomic_load_n(&kcm->peer, __ATOMIC_RELAXED) == PEER_SSSD;
}

/* Is the list of UUIDs enough to ask for now?  On sssd, where each request
 * costs: of what is not known, or was asked for in full a moment ago. */
static bool
is_list_enough(const struct kcm *kcm, const struct kcm_known *known)
{
    const struct kcm_snapshot *old = known->snapshot;
    if (!is_sssd(kcm))
        return false;
    return old == NULL ||
           (old->count > 0 && now_ms() - known->meta_ms < META_MS);
}

int
kcm_fetch_as_is(struct kcm *kcm, const struct caller *caller, const char *name,
                struct kcm_known *known)
{
    int r = kcm_know_peer(kcm, caller);
    if (r < 0)
        return r;
    struct kcm_snapshot *old = known->snapshot;
    _cleanup_(kcm_snapshot_unrefp) struct kcm_snapshot *fresh = NULL;
    _cleanup_(kcm_snapshot_unrefp) struct kcm_snapshot *meta = NULL;
    _cleanup_(batch_free) struct batch b = {0};
    batch_add_named(&b, KCM_OP_GET_CRED_UUID_LIST, name);
    if (!is_list_enough(kcm, known)) {
        meta = snapshot_new((struct data){NULL, 0});
        if (meta == NULL)
            return -ENOMEM;
        add_meta(&b, name);
        if ((old == NULL || old->count == 0) && !is_sssd(kcm))
            batch_add_named(&b, KCM_OP_GET_CRED_UUID_LIST, name);
    }
    r = kcm_exchange(kcm, caller, &b);
    struct data uuids, again = {NULL, 1};
    if (r == 0)
        r = take_uuids(&b, 0, &uuids);
    if (r == 0 && meta != NULL)
        r = take_meta(kcm, &b, 1, meta);
    if (r == 0 && b.count > 3)
        r = take_uuids(&b, 3, &again);
    if (r != 0)
        return r;
    bool unchanged = old != NULL && snapshot_has_uuids(old, uuids) &&
                     (meta == NULL || same_meta(meta, old));
    bool has_meta = meta != NULL;
    if (!unchanged && uuids.len == 0 && again.len == 0)
        fresh = take(meta); /* empty before and after that was read */
    else if (!unchanged)
        r = fetch_changed(kcm, caller, name, uuids, old, meta, &fresh);
    if (r != 0)
        return r;
    if (has_meta || old == NULL)
        known->meta_ms = now_ms();
    if (fresh != NULL) {
        kcm_snapshot_unref(old);
        known->snapshot = take(fresh);
    }
    return 0;
}

int
kcm_fetch(struct kcm *kcm, const struct caller *caller, const char *name,
          struct kcm_known *known)
{
    if (!kcm_is_own(name, caller->uid))
        return KCM_NOT_FOUND;
    int r = kcm_recover(kcm, caller);
    if (r == 0)
        r = kcm_fetch_as_is(kcm, caller, name, known);
    if (r == -EIO && kcm->pool != NULL)
        pool_distrust(kcm->pool, caller);
    return r;
}
