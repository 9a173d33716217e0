/*
 * The KCM operations: one function each, a table of them at the end.
 *
 * Codes are Heimdal's where daemons differ, since every client knows them.
 * Arguments are read to their end, and nothing may be left over, before
 * anything is looked up: a request that is refused has changed nothing.
 */
#include "operations.h"

#include <errno.h>

#include "proto.h"

/* After the arguments: Heimdal's code for too few, EINVAL for too many. */
static int32_t
end_of_args(const struct call *c)
{
    if (c->args.bad)
        return KCM_CODE_HEIM_EOF;
    return reader_left(&c->args) > 0 ? EINVAL : 0;
}

/*
 * A full quota is KRB5_FCC_INTERNAL, as sssd answers it: clients know no
 * other code for it.
 */
static int32_t
code_of(int result)
{
    return result == -EDQUOT ? KCM_CODE_FCC_INTERNAL : -result;
}

/* End the arguments and find the cache that they name. */
static int32_t
find_cache(struct call *c, struct data name, struct store_cache **cache_out)
{
    *cache_out = NULL;
    int32_t code = end_of_args(c);
    if (code != 0)
        return code;
    *cache_out = store_find(c->user, name);
    return *cache_out == NULL ? KCM_CODE_FCC_NOFILE : 0;
}

/* The same where the name is all that there is. */
static int32_t
only_cache(struct call *c, struct store_cache **cache_out)
{
    struct data name = read_string(&c->args);
    return find_cache(c, name, cache_out);
}

static void
write_blob(struct writer *w, const struct blob *b)
{
    write_bytes(w, b->bytes, b->len);
}

/* RESOLVE is one too (Heimdal's table of operations). */
static int32_t
op_noop(struct call *c)
{
    (void)c;
    return 0;
}

static int32_t
op_get_name(struct call *c)
{
    struct store_cache *cache;
    int32_t code = only_cache(c, &cache);
    if (code == 0)
        write_blob(c->reply, cache->name);
    return code;
}

static int32_t
op_gen_new(struct call *c)
{
    char name[24];
    int32_t code = end_of_args(c);
    if (code != 0)
        return code;
    store_new_name(c->user, name);
    write_string(c->reply, name);
    return 0;
}

static int32_t
op_initialize(struct call *c)
{
    struct principal principal;
    struct data name = read_string(&c->args);
    principal_read(&c->args, &principal);
    int32_t code = end_of_args(c);
    if (code != 0)
        return code;
    if (!store_name_allowed(c->user->uid, name))
        return KCM_CODE_CC_BADNAME;
    return code_of(store_initialize(c->user, name, principal.raw));
}

static int32_t
op_destroy(struct call *c)
{
    struct store_cache *cache;
    int32_t code = only_cache(c, &cache);
    if (code == 0)
        store_destroy(c->user, cache);
    return code;
}

static int32_t
op_store(struct call *c)
{
    struct cred cred;
    struct store_cache *cache;
    struct data name = read_string(&c->args);
    cred_read(&c->args, &cred);
    int32_t code = find_cache(c, name, &cache);
    if (code != 0)
        return code;
    return code_of(store_add(c->user, cache, cred.raw));
}

/* There is no KDC behind a miss, whether or not KCM_GC_CACHED is set. */
static int32_t
op_retrieve(struct call *c)
{
    struct match match;
    struct store_cache *cache;
    struct data name = read_string(&c->args);
    match_read(&c->args, &match);
    int32_t code = find_cache(c, name, &cache);
    if (code != 0)
        return code;
    struct store_cred *cred = store_cred_match(cache, &match);
    if (cred == NULL)
        return KCM_CODE_CC_END;
    write_blob(c->reply, cred->blob);
    return 0;
}

static int32_t
op_get_principal(struct call *c)
{
    struct store_cache *cache;
    int32_t code = only_cache(c, &cache);
    if (code == 0)
        write_blob(c->reply, cache->principal);
    return code;
}

static int32_t
op_get_cred_uuid_list(struct call *c)
{
    struct store_cache *cache;
    int32_t code = only_cache(c, &cache);
    if (code != 0)
        return code;
    writer_reserve(c->reply, cache->creds.count * KCM_UUID_LEN);
    for (struct store_cred *e = cache->creds.first; e != NULL; e = e->next)
        write_bytes(c->reply, e->uuid, KCM_UUID_LEN);
    return 0;
}

static int32_t
op_get_cred_by_uuid(struct call *c)
{
    struct store_cache *cache;
    struct data name = read_string(&c->args);
    if (!c->args.bad && reader_left(&c->args) < KCM_UUID_LEN)
        return KCM_CODE_CC_IO;
    struct data uuid = read_data(&c->args, KCM_UUID_LEN);
    int32_t code = find_cache(c, name, &cache);
    if (code != 0)
        return code;
    struct store_cred *cred = store_cred_find_uuid(cache, uuid.p);
    if (cred == NULL)
        return KCM_CODE_CC_END;
    write_blob(c->reply, cred->blob);
    return 0;
}

static int32_t
op_remove_cred(struct call *c)
{
    struct match match;
    struct store_cache *cache;
    struct data name = read_string(&c->args);
    match_read(&c->args, &match);
    int32_t code = find_cache(c, name, &cache);
    if (code != 0)
        return code;
    size_t removed = store_remove(c->user, cache, &match);
    return removed > 0 ? 0 : KCM_CODE_CC_NOTFOUND;
}

static int32_t
op_set_flags(struct call *c)
{
    struct store_cache *cache;
    struct data name = read_string(&c->args);
    (void)read_u32(&c->args);
    return find_cache(c, name, &cache);
}

/*
 * Caches belong to the uid whose name they bear.  Giving one away or
 * opening it to others is refused; what changes nothing is accepted.
 */
static int32_t
op_chown(struct call *c)
{
    struct store_cache *cache;
    struct data name = read_string(&c->args);
    uint32_t uid = read_u32(&c->args);
    (void)read_u32(&c->args); /* the group has no part in access */
    int32_t code = find_cache(c, name, &cache);
    if (code != 0)
        return code;
    return uid == c->user->uid ? 0 : KCM_CODE_FCC_PERM;
}

static int32_t
op_chmod(struct call *c)
{
    struct store_cache *cache;
    struct data name = read_string(&c->args);
    uint16_t mode = read_u16(&c->args);
    int32_t code = find_cache(c, name, &cache);
    if (code != 0)
        return code;
    bool private = (mode & 0677) == 0600;
    return private ? 0 : KCM_CODE_FCC_PERM;
}

static int32_t
op_move_cache(struct call *c)
{
    struct store_cache *cache;
    struct data from = read_string(&c->args);
    struct data to = read_string(&c->args);
    int32_t code = find_cache(c, from, &cache);
    if (code != 0)
        return code;
    if (!store_name_allowed(c->user->uid, to))
        return KCM_CODE_CC_BADNAME;
    return code_of(store_move(c->user, cache, to));
}

static int32_t
op_get_cache_uuid_list(struct call *c)
{
    int32_t code = end_of_args(c);
    if (code != 0)
        return code;
    if (c->user->first == NULL)
        return KCM_CODE_FCC_NOFILE;
    for (struct store_cache *p = c->user->first; p != NULL; p = p->next)
        write_bytes(c->reply, p->uuid, KCM_UUID_LEN);
    return 0;
}

static int32_t
op_get_cache_by_uuid(struct call *c)
{
    if (reader_left(&c->args) < KCM_UUID_LEN)
        return KCM_CODE_CC_IO;
    struct data uuid = read_data(&c->args, KCM_UUID_LEN);
    int32_t code = end_of_args(c);
    if (code != 0)
        return code;
    struct store_cache *cache = store_find_uuid(c->user, uuid.p);
    if (cache == NULL)
        return KCM_CODE_FCC_NOFILE;
    write_blob(c->reply, cache->name);
    return 0;
}

static int32_t
op_get_default_cache(struct call *c)
{
    char room[12];
    int32_t code = end_of_args(c);
    if (code != 0)
        return code;
    write_data(c->reply, store_default(c->user, room));
    write_u8(c->reply, 0);
    return 0;
}

/* Whether a cache of that name exists does not matter, as on Heimdal. */
static int32_t
op_set_default_cache(struct call *c)
{
    struct data name = read_string(&c->args);
    int32_t code = end_of_args(c);
    if (code != 0)
        return code;
    if (!store_name_allowed(c->user->uid, name))
        return KCM_CODE_CC_BADNAME;
    return code_of(store_set_default(c->user, name));
}

static int32_t
op_get_kdc_offset(struct call *c)
{
    struct store_cache *cache;
    int32_t code = only_cache(c, &cache);
    if (code == 0)
        write_u32(c->reply, (uint32_t)cache->kdc_offset);
    return code;
}

static int32_t
op_set_kdc_offset(struct call *c)
{
    struct store_cache *cache;
    struct data name = read_string(&c->args);
    uint32_t offset = read_u32(&c->args);
    int32_t code = find_cache(c, name, &cache);
    if (code == 0)
        cache->kdc_offset = (int32_t)offset;
    return code;
}

/* A list that no client would read is refused, as by sssd; clients then
 * ask for one credential after the other. */
static int32_t
op_get_cred_list(struct call *c)
{
    struct store_cache *cache;
    int32_t code = only_cache(c, &cache);
    if (code != 0)
        return code;
    size_t size = 4 + cache->creds.bytes + 4 * cache->creds.count;
    if (size + 4 > KCM_MESSAGE_MAX)
        return KCM_CODE_FCC_INTERNAL;
    writer_reserve(c->reply, size);
    write_u32(c->reply, (uint32_t)cache->creds.count);
    for (struct store_cred *e = cache->creds.first; e != NULL; e = e->next) {
        write_u32(c->reply, (uint32_t)e->blob->len);
        write_blob(c->reply, e->blob);
    }
    return 0;
}

static int32_t
op_replace(struct call *c)
{
    struct principal principal;
    struct cred cred;
    struct data name = read_string(&c->args);
    uint32_t offset = read_u32(&c->args);
    principal_read(&c->args, &principal);
    uint32_t count = read_count(&c->args, 4);
    struct reader creds = c->args;
    for (uint32_t i = 0; i < count && !c->args.bad; i++) {
        struct data bytes = read_data32(&c->args);
        if (!cred_parse(bytes, &cred))
            reader_fail(&c->args);
    }
    int32_t code = end_of_args(c);
    if (code != 0)
        return code;
    if (!store_name_allowed(c->user->uid, name))
        return KCM_CODE_CC_BADNAME;
    return code_of(store_replace(c->user, name, (int32_t)offset, principal.raw,
                                 count, creds));
}

static const struct operation operations[] = {
    [KCM_OP_NOOP] = {"NOOP", op_noop},
    [KCM_OP_GET_NAME] = {"GET_NAME", op_get_name},
    [KCM_OP_RESOLVE] = {"RESOLVE", op_noop},
    [KCM_OP_GEN_NEW] = {"GEN_NEW", op_gen_new},
    [KCM_OP_INITIALIZE] = {"INITIALIZE", op_initialize},
    [KCM_OP_DESTROY] = {"DESTROY", op_destroy},
    [KCM_OP_STORE] = {"STORE", op_store},
    [KCM_OP_RETRIEVE] = {"RETRIEVE", op_retrieve},
    [KCM_OP_GET_PRINCIPAL] = {"GET_PRINCIPAL", op_get_principal},
    [KCM_OP_GET_CRED_UUID_LIST] = {"GET_CRED_UUID_LIST",
                                   op_get_cred_uuid_list},
    [KCM_OP_GET_CRED_BY_UUID] = {"GET_CRED_BY_UUID", op_get_cred_by_uuid},
    [KCM_OP_REMOVE_CRED] = {"REMOVE_CRED", op_remove_cred},
    [KCM_OP_SET_FLAGS] = {"SET_FLAGS", op_set_flags},
    [KCM_OP_CHOWN] = {"CHOWN", op_chown},
    [KCM_OP_CHMOD] = {"CHMOD", op_chmod},
    [KCM_OP_MOVE_CACHE] = {"MOVE_CACHE", op_move_cache},
    [KCM_OP_GET_CACHE_UUID_LIST] = {"GET_CACHE_UUID_LIST",
                                    op_get_cache_uuid_list},
    [KCM_OP_GET_CACHE_BY_UUID] = {"GET_CACHE_BY_UUID", op_get_cache_by_uuid},
    [KCM_OP_GET_DEFAULT_CACHE] = {"GET_DEFAULT_CACHE", op_get_default_cache},
    [KCM_OP_SET_DEFAULT_CACHE] = {"SET_DEFAULT_CACHE", op_set_default_cache},
    [KCM_OP_GET_KDC_OFFSET] = {"GET_KDC_OFFSET", op_get_kdc_offset},
    [KCM_OP_SET_KDC_OFFSET] = {"SET_KDC_OFFSET", op_set_kdc_offset},
};

const struct operation *
operation_find(unsigned opcode, bool mit_extensions)
{
    static const struct operation get_cred_list = {"GET_CRED_LIST",
                                                   op_get_cred_list};
    static const struct operation replace = {"REPLACE", op_replace};
    if (opcode < sizeof(operations) / sizeof(operations[0]))
        return operations[opcode].run == NULL ? NULL : &operations[opcode];
    if (!mit_extensions)
        return NULL;
    if (opcode == KCM_OP_GET_CRED_LIST)
        return &get_cred_list;
    return opcode == KCM_OP_REPLACE ? &replace : NULL;
}
