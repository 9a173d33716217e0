/*
 * A KCM service: requests over pooled connections or, embedded, as calls;
 * what the daemon is; the operations that read names.
 */
#define KCM_INTERNAL
#include "kcm.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cred.h"
#include "log.h"
#include "pool.h"
#include "server.h"

/* Above this, a closed connection may be sssd's short read of a large
 * request, which a repeat mends; a request that is too large fails always. */
#define LARGE_REQUEST 30000u
#define LARGE_TRIES   5

int
kcm_new(const struct kcm_config *config, struct kcm **kcm_out)
{
    *kcm_out = NULL;
    struct kcm *kcm = calloc(1, sizeof(*kcm));
    if (kcm == NULL)
        return -ENOMEM;
    kcm->server = config->server;
    kcm->timeout_ms = config->timeout_ms;
    pthread_mutex_init(&kcm->lock, NULL);
    turn_init(&kcm->recovering, 1);
    kcm->started = time(NULL);
    int r = 0;
    if (config->socket_path != NULL)
        r = pool_new(config->socket_path, &kcm->pool);
    if (r < 0) {
        kcm_free(kcm);
        return r;
    }
    *kcm_out = kcm;
    return 0;
}

void
kcm_free(struct kcm *kcm)
{
    if (kcm == NULL)
        return;
    kcm_pending_free(kcm);
    pool_free(kcm->pool);
    turn_destroy(&kcm->recovering);
    pthread_mutex_destroy(&kcm->lock);
    free(kcm->checked);
    free(kcm);
}

void
kcm_start(const struct kcm *kcm, struct caller *caller)
{
    caller->deadline = now_ms() + kcm->timeout_ms;
}

/* A daemon that went away may come back as another one. */
static void
forget_peer(struct kcm *kcm)
{
    __atomic_store_n(&kcm->peer, PEER_UNKNOWN, __ATOMIC_RELAXED);
    __atomic_store_n(&kcm->cred_list, SUPPORT_UNKNOWN, __ATOMIC_RELAXED);
    __atomic_store_n(&kcm->replace, SUPPORT_UNKNOWN, __ATOMIC_RELAXED);
    __atomic_store_n(&kcm->remove, SUPPORT_UNKNOWN, __ATOMIC_RELAXED);
    __atomic_store_n(&kcm->move, SUPPORT_UNKNOWN, __ATOMIC_RELAXED);
}

static int
call_embedded(struct kcm *kcm, const struct caller *caller, struct batch *b)
{
    batch_finish(b);
    if (b->out.failed)
        return -ENOMEM;
    for (; b->answered < b->count; b->answered++) {
        b->at[2 * b->answered + 1] = (uint32_t)b->in.len;
        int r = kcm_server_handle(kcm->server, caller->uid, caller->gid,
                                  batch_request(b, b->answered), &b->in);
        if (r < 0)
            return r == -ENOMEM ? r : -EIO;
    }
    return 0;
}

static int
exchange_once(struct kcm *kcm, const struct caller *caller, struct batch *b,
              bool *kept_out)
{
    struct conn *c;
    *kept_out = false;
    int r = pool_get(kcm->pool, caller, &c);
    if (r < 0) {
        if (r == -ECONNREFUSED)
            forget_peer(kcm);
        return r;
    }
    *kept_out = c->used;
    r = conn_exchange(c, b, caller);
    if (r == 0)
        pool_put(kcm->pool, c);
    else
        pool_drop(kcm->pool, c);
    return r;
}

int
kcm_exchange(struct kcm *kcm, const struct caller *caller, struct batch *b)
{
    if (kcm->server != NULL)
        return call_embedded(kcm, caller, b);
    for (int fresh_tries = 0;;) {
        bool kept;
        unsigned before = b->answered;
        int r = exchange_once(kcm, caller, b, &kept);
        if (r == -EIO && b->answered < b->count)
            log_warn("the KCM daemon's reply to opcode %d is no KCM reply",
                     batch_opcode(b, b->answered));
        if (r != -EPIPE)
            return r;
        /* Closed before the reply: a kept connection may have been idle too
         * long or its daemon restarted; ask anew on a fresh one. */
        forget_peer(kcm);
        if (kept || b->answered > before)
            continue;
        fresh_tries++;
        bool large = batch_request(b, b->answered).len > LARGE_REQUEST;
        if (fresh_tries >= (large ? LARGE_TRIES : 2)) {
            log_warn("the KCM daemon closes the connection on opcode %d",
                     batch_opcode(b, b->answered));
            return large ? -EFBIG : -EIO;
        }
    }
}

static int
status_of_internal(enum kcm_opcode op)
{
    switch (op) {
    case KCM_OP_INITIALIZE:
    case KCM_OP_STORE:
    case KCM_OP_SET_KDC_OFFSET:
    case KCM_OP_SET_DEFAULT_CACHE:
        return KCM_QUOTA;
    default:
        return KCM_UNSUPPORTED;
    }
}

int
kcm_reply_status(const struct batch *b, unsigned n)
{
    enum kcm_opcode op = batch_opcode(b, n);
    int32_t code = batch_reply(b, n).code;
    switch (code) {
    case 0:
        return 0;
    case KCM_CODE_FCC_NOFILE:
    case KCM_CODE_CC_NOTFOUND:
    case KCM_CODE_CC_END:
        return KCM_NOT_FOUND;
    case KCM_CODE_FCC_PERM:
        return KCM_DENIED;
    case KCM_CODE_CC_BADNAME:
        return KCM_BAD_NAME;
    case KCM_CODE_CC_NOSUPP:
        return KCM_UNSUPPORTED;
    case KCM_CODE_FCC_INTERNAL:
        return status_of_internal(op);
    case KCM_CODE_CC_IO:
        /* sssd: a listed cache without a principal. */
        return op == KCM_OP_GET_PRINCIPAL ? KCM_NOT_FOUND : KCM_UNSUPPORTED;
    case EAGAIN:
        return KCM_BUSY;
    case EINVAL:
    case KCM_CODE_HEIM_EOF:
        return KCM_INVALID;
    default:
        log_warn("the KCM daemon answers opcode %d with code %d", op, code);
        return -EIO;
    }
}

int
kcm_know_peer(struct kcm *kcm, const struct caller *caller)
{
    if (__atomic_load_n(&kcm->peer, __ATOMIC_RELAXED) != PEER_UNKNOWN)
        return 0;
    _cleanup_(batch_free) struct batch b = {0};
    batch_add(&b, KCM_OP_NOOP);
    int r = kcm_exchange(kcm, caller, &b);
    if (r < 0)
        return r;
    struct reply reply = batch_reply(&b, 0);
    int peer = reply.code == 0 ? PEER_HEIMDAL
               : reply.outer   ? PEER_SSSD
                               : PEER_OTHER;
    __atomic_store_n(&kcm->peer, peer, __ATOMIC_RELAXED);
    return 0;
}

const char *
kcm_daemon_text(const struct kcm *kcm)
{
    if (kcm->server != NULL)
        return "embedded";
    switch (__atomic_load_n(&kcm->peer, __ATOMIC_RELAXED)) {
    case PEER_HEIMDAL:
        switch (__atomic_load_n(&kcm->cred_list, __ATOMIC_RELAXED)) {
        case SUPPORT_YES:
            return "kcmd";
        case SUPPORT_NO:
            return "Heimdal kcm";
        default:
            return "Heimdal kcm or kcmd";
        }
    case PEER_SSSD:
        return "sssd-kcm";
    case PEER_OTHER:
        return "other";
    default:
        return "unknown";
    }
}

/* --- names ------------------------------------------------------------- */

void
kcm_listing_free(struct kcm_listing *l)
{
    if (l == NULL)
        return;
    for (size_t i = 0; i < l->count; i++)
        free(l->caches[i].name);
    free(l->caches);
    free(l);
}

bool
kcm_is_own(const char *name, uid_t uid)
{
    if (name[0] >= '0' && name[0] <= '9')
        return strtoul(name, NULL, 10) == uid;
    return name[0] != '\0';
}

/* What kcm_replace() makes while it works is nobody's to see. */
bool
kcm_is_visible(const char *name, uid_t uid)
{
    const char *suffix = strchr(name, ':');
    return kcm_is_own(name, uid) &&
           (suffix == NULL || strncmp(suffix + 1, KCM_WORK_PREFIX,
                                      strlen(KCM_WORK_PREFIX)) != 0);
}

/* A copy of the string of a reply that holds one name; NULL on failure. */
static int
name_of_reply(struct reply reply, char **name_out)
{
    struct reader r;
    reader_init(&r, reply.body.p, reply.body.len);
    struct data d = read_string(&r);
    *name_out = r.bad ? NULL : strndup((const char *)d.p, d.len);
    return r.bad ? -EIO : *name_out == NULL ? -ENOMEM : 0;
}

char *
kcm_reply_default(const struct batch *b, unsigned n, uid_t uid)
{
    char *name = NULL;
    if (kcm_reply_status(b, n) == 0)
        (void)name_of_reply(batch_reply(b, n), &name);
    if (name != NULL && !kcm_is_visible(name, uid))
        free(take(name));
    return name;
}

/* Lists keep their order: the one behind that found last is looked at first.
 */
static const char *
find_known(const struct kcm_listing *known, size_t *next, const uint8_t *uuid)
{
    size_t count = known != NULL ? known->count : 0;
    for (size_t n = 0; n < count; n++) {
        const struct kcm_cache *cache = &known->caches[(*next + n) % count];
        if (memcmp(cache->uuid, uuid, KCM_UUID_LEN) == 0) {
            *next += n + 1;
            return cache->name;
        }
    }
    return NULL;
}

/* Fill the names of l that known does not have; drop what has none. */
static int
complete_names(struct kcm *kcm, const struct caller *caller,
               const struct kcm_listing *known, struct kcm_listing *l)
{
    _cleanup_(batch_free) struct batch b = {0};
    size_t next = 0;
    for (size_t i = 0; i < l->count; i++) {
        const char *name = find_known(known, &next, l->caches[i].uuid);
        if (name != NULL) {
            l->caches[i].name = strdup(name);
            if (l->caches[i].name == NULL)
                return -ENOMEM;
            continue;
        }
        batch_add(&b, KCM_OP_GET_CACHE_BY_UUID);
        write_bytes(&b.out, l->caches[i].uuid, KCM_UUID_LEN);
    }
    int r = b.out.failed  ? -ENOMEM
            : b.count > 0 ? kcm_exchange(kcm, caller, &b)
                          : 0;
    if (r < 0)
        return r;
    size_t kept = 0;
    unsigned n = 0;
    for (size_t i = 0; i < l->count; i++) {
        struct kcm_cache cache = l->caches[i];
        l->caches[i].name = NULL;
        if (cache.name == NULL) {
            int status = kcm_reply_status(&b, n);
            if (status == 0)
                status = name_of_reply(batch_reply(&b, n), &cache.name);
            if (status < 0)
                return status;
            n++; /* without a name: gone since it was listed */
        }
        if (cache.name != NULL && kcm_is_own(cache.name, caller->uid))
            l->caches[kept++] = cache;
        else
            free(cache.name);
    }
    l->count = kept;
    return 0;
}

static int
listing_of_reply(struct reply reply, struct kcm_listing **out)
{
    if (reply.body.len % KCM_UUID_LEN != 0)
        return -EIO;
    _cleanup_(kcm_listing_freep) struct kcm_listing *l = calloc(1, sizeof(*l));
    if (l == NULL)
        return -ENOMEM;
    size_t count = reply.body.len / KCM_UUID_LEN;
    l->caches = calloc(count + 1, sizeof(*l->caches));
    if (l->caches == NULL)
        return -ENOMEM;
    for (; l->count < count; l->count++)
        memcpy(l->caches[l->count].uuid,
               reply.body.p + l->count * KCM_UUID_LEN, KCM_UUID_LEN);
    *out = take(l);
    return 0;
}

int
kcm_list_all(struct kcm *kcm, const struct caller *caller,
             const struct kcm_listing *known, struct kcm_listing **out)
{
    *out = NULL;
    int r = kcm_know_peer(kcm, caller);
    if (r < 0)
        return r;
    _cleanup_(batch_free) struct batch b = {0};
    batch_add(&b, KCM_OP_GET_CACHE_UUID_LIST);
    r = kcm_exchange(kcm, caller, &b);
    if (r < 0)
        return r;
    struct reply reply = batch_reply(&b, 0);
    r = kcm_reply_status(&b, 0);
    if (r == KCM_NOT_FOUND)
        reply.body.len = 0; /* the daemon holds no cache at all */
    else if (r != 0)
        return r;
    _cleanup_(kcm_listing_freep) struct kcm_listing *l = NULL;
    r = listing_of_reply(reply, &l);
    if (r == 0)
        r = complete_names(kcm, caller, known, l);
    if (r == 0)
        *out = take(l);
    return r;
}

int
kcm_list(struct kcm *kcm, const struct caller *caller,
         const struct kcm_listing *known, struct kcm_listing **out)
{
    *out = NULL;
    int r = kcm_recover(kcm, caller);
    if (r == 0)
        r = kcm_list_all(kcm, caller, known, out);
    if (r != 0)
        return r;
    struct kcm_listing *l = *out;
    size_t kept = 0;
    for (size_t i = 0; i < l->count; i++) {
        if (kcm_is_visible(l->caches[i].name, caller->uid))
            l->caches[kept++] = l->caches[i];
        else
            free(l->caches[i].name);
    }
    l->count = kept;
    return 0;
}

static int
ask_name(struct kcm *kcm, const struct caller *caller, struct batch *b,
         char **name_out)
{
    int r = kcm_exchange(kcm, caller, b);
    if (r == 0)
        r = kcm_reply_status(b, 0);
    if (r != 0)
        return r;
    return name_of_reply(batch_reply(b, 0), name_out);
}

/* The first cache listed, or the name of one that is not there. */
static int
first_visible(struct kcm *kcm, const struct caller *caller, char **name_out)
{
    _cleanup_(kcm_listing_freep) struct kcm_listing *l = NULL;
    int r = kcm_list_all(kcm, caller, NULL, &l);
    if (r != 0)
        return r;
    for (size_t i = 0; i < l->count && *name_out == NULL; i++)
        if (kcm_is_visible(l->caches[i].name, caller->uid))
            *name_out = take(l->caches[i].name);
    if (*name_out == NULL && asprintf(name_out, "%u", caller->uid) < 0)
        *name_out = NULL;
    return *name_out != NULL ? 0 : -ENOMEM;
}

int
kcm_get_default(struct kcm *kcm, const struct caller *caller, char **name_out)
{
    *name_out = NULL;
    _cleanup_(batch_free) struct batch b = {0};
    batch_add(&b, KCM_OP_GET_DEFAULT_CACHE);
    int r = ask_name(kcm, caller, &b, name_out);
    if (r != 0 || kcm_is_visible(*name_out, caller->uid))
        return r;
    /* Where none was set, Heimdal answers the first that it lists: to root
     * anybody's, to others perhaps a work cache. */
    free(take(*name_out));
    return first_visible(kcm, caller, name_out);
}

int
kcm_find_uuid(struct kcm *kcm, const struct caller *caller,
              const uint8_t uuid[KCM_UUID_LEN], char **name_out)
{
    *name_out = NULL;
    _cleanup_(batch_free) struct batch b = {0};
    batch_add(&b, KCM_OP_GET_CACHE_BY_UUID);
    write_bytes(&b.out, uuid, KCM_UUID_LEN);
    int r = ask_name(kcm, caller, &b, name_out);
    if (r != 0 || kcm_is_visible(*name_out, caller->uid))
        return r;
    free(take(*name_out));
    return KCM_NOT_FOUND;
}

int
kcm_get_principals(struct kcm *kcm, const struct caller *caller,
                   const char *const *names, size_t count, struct blob **out)
{
    _cleanup_(batch_free) struct batch b = {0};
    for (size_t i = 0; i < count; i++) {
        out[i] = NULL;
        batch_add_named(&b, KCM_OP_GET_PRINCIPAL, names[i]);
    }
    int r = count > 0 ? kcm_exchange(kcm, caller, &b) : 0;
    for (unsigned i = 0; r == 0 && i < count; i++) {
        struct data body = batch_reply(&b, i).body;
        struct reader reader;
        struct principal p;
        reader_init(&reader, body.p, body.len);
        principal_read(&reader, &p);
        if (kcm_reply_status(&b, i) != 0 || reader.bad)
            continue;
        out[i] = blob_new(p.raw.p, p.raw.len);
        if (out[i] == NULL)
            r = -ENOMEM;
    }
    return r;
}
