/*
 * The credentials of one cache, in the order in which they were stored, and
 * three indexes.
 *
 * by_key groups those of one client and one server.  The key leaves the
 * realms out, so that one index serves every match flag; whoever walks a
 * group compares.  A match that names no client walks the whole set, but
 * looks only into entries whose server's hash fits.
 */
#include "creds.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

/* Those whose client and server hash alike, oldest first. */
struct store_key {
    struct table_link link;
    struct store_cred *first, *last;
};

void
uuid_make(uint8_t out[KCM_UUID_LEN])
{
    /* A system call for each would double what storing costs. */
    static _Thread_local uint8_t pool[16 * KCM_UUID_LEN];
    static _Thread_local size_t left;
    if (left == 0) {
        size_t got = 0;
        while (got < sizeof(pool)) {
            ssize_t n = getrandom(pool + got, sizeof(pool) - got, 0);
            got += n > 0 ? (size_t)n : 0;
        }
        left = sizeof(pool);
    }
    left -= KCM_UUID_LEN;
    memcpy(out, pool + left, KCM_UUID_LEN);
    out[6] = (out[6] & 0x0f) | 0x40;
    out[8] = (out[8] & 0x3f) | 0x80;
}

uint64_t
uuid_hash(const uint8_t *uuid)
{
    return hash_data((struct data){uuid, KCM_UUID_LEN});
}

static uint64_t
key_hash(uint64_t server_hash, const struct principal *client)
{
    return hash_more(server_hash, client->components);
}

/* A view of what is stored; it parsed when it came in. */
static struct cred
view(const struct store_cred *entry)
{
    struct cred c;
    (void)cred_parse((struct data){entry->blob->bytes, entry->blob->len}, &c);
    return c;
}

static struct store_key *
find_key(const struct store_creds *set, uint64_t hash)
{
    struct table_link *link = table_find(&set->by_key, hash);
    return link == NULL ? NULL : container_of(link, struct store_key, link);
}

static struct store_cred *
find_bytes(const struct store_creds *set, struct data cred, uint64_t hash)
{
    struct table_link *link = table_find(&set->by_bytes, hash);
    for (; link != NULL; link = table_next(link)) {
        struct store_cred *entry =
            container_of(link, struct store_cred, by_bytes);
        struct data bytes = {entry->blob->bytes, entry->blob->len};
        if (data_equal(bytes, cred))
            return entry;
    }
    return NULL;
}

/* The configuration entry that c replaces. */
static struct store_cred *
find_replaced(const struct store_key *key, const struct cred *c)
{
    if (key == NULL || !cred_is_config(c))
        return NULL;
    for (struct store_cred *e = key->first; e != NULL; e = e->key_next) {
        struct cred other = view(e);
        if (principal_equal(&c->server, &other.server) &&
            principal_equal(&c->client, &other.client))
            return e;
    }
    return NULL;
}

static void
link_key(struct store_cred *entry, struct store_key *key)
{
    entry->key = key;
    entry->key_prev = key->last;
    *(key->last == NULL ? &key->first : &key->last->key_next) = entry;
    key->last = entry;
}

static void
link_entry(struct store_creds *set, struct store_cred *entry)
{
    entry->prev = set->last;
    *(set->last == NULL ? &set->first : &set->last->next) = entry;
    set->last = entry;
    set->count++;
    set->bytes += entry->blob->len;
    set->charged += entry->blob->len + STORE_CRED_CHARGE;
}

/* Put bytes in place of what entry holds. */
static int
replace_bytes(struct store_creds *set, struct store_cred *entry,
              struct data cred, uint64_t hash)
{
    struct blob *blob = blob_new(cred.p, cred.len);
    if (blob == NULL)
        return -ENOMEM;
    set->bytes += cred.len - entry->blob->len;
    set->charged += cred.len - entry->blob->len;
    blob_unref(entry->blob);
    entry->blob = blob;
    table_remove(&set->by_bytes, &entry->by_bytes);
    table_insert(&set->by_bytes, &entry->by_bytes, hash);
    table_remove(&set->by_uuid, &entry->by_uuid);
    uuid_make(entry->uuid);
    table_insert(&set->by_uuid, &entry->by_uuid, uuid_hash(entry->uuid));
    return 0;
}

/* A new entry at the end, of the group key or a new one. */
static int
add_entry(struct store_creds *set, struct data cred, uint64_t bytes_hash,
          struct store_key *key, uint64_t hash, uint64_t server_hash)
{
    struct store_cred *entry = secret_alloc(sizeof(*entry));
    struct blob *blob = blob_new(cred.p, cred.len);
    struct store_key *group = key;
    if (group == NULL)
        group = secret_alloc(sizeof(*group));
    if (entry == NULL || blob == NULL || group == NULL) {
        secret_free(entry);
        blob_unref(blob);
        if (key == NULL)
            secret_free(group);
        return -ENOMEM;
    }
    if (key == NULL)
        table_insert(&set->by_key, &group->link, hash);
    entry->blob = blob;
    entry->server_hash = server_hash;
    uuid_make(entry->uuid);
    link_key(entry, group);
    link_entry(set, entry);
    table_insert(&set->by_uuid, &entry->by_uuid, uuid_hash(entry->uuid));
    table_insert(&set->by_bytes, &entry->by_bytes, bytes_hash);
    return 0;
}

int
creds_add(struct store_creds *set, struct data cred, size_t room)
{
    uint64_t bytes_hash = hash_data(cred);
    if (find_bytes(set, cred, bytes_hash) != NULL)
        return 0;
    struct cred c;
    if (!cred_parse(cred, &c))
        return -EINVAL;
    uint64_t server_hash = hash_data(c.server.components);
    uint64_t hash = key_hash(server_hash, &c.client);
    struct store_key *key = find_key(set, hash);
    struct store_cred *old = find_replaced(key, &c);
    if (old != NULL) {
        if (cred.len > old->blob->len && cred.len - old->blob->len > room)
            return -EDQUOT;
        return replace_bytes(set, old, cred, bytes_hash);
    }
    if (cred.len + STORE_CRED_CHARGE > room)
        return -EDQUOT;
    return add_entry(set, cred, bytes_hash, key, hash, server_hash);
}

static void
unlink_key(struct store_creds *set, struct store_cred *entry)
{
    struct store_key *key = entry->key;
    *(entry->key_prev == NULL ? &key->first : &entry->key_prev->key_next) =
        entry->key_next;
    *(entry->key_next == NULL ? &key->last : &entry->key_next->key_prev) =
        entry->key_prev;
    if (key->first == NULL) {
        table_remove(&set->by_key, &key->link);
        secret_free(key);
    }
}

void
creds_remove(struct store_creds *set, struct store_cred *entry)
{
    unlink_key(set, entry);
    *(entry->prev == NULL ? &set->first : &entry->prev->next) = entry->next;
    *(entry->next == NULL ? &set->last : &entry->next->prev) = entry->prev;
    set->count--;
    set->bytes -= entry->blob->len;
    set->charged -= entry->blob->len + STORE_CRED_CHARGE;
    table_remove(&set->by_uuid, &entry->by_uuid);
    table_remove(&set->by_bytes, &entry->by_bytes);
    blob_unref(entry->blob);
    secret_free(entry);
}

void
creds_clear(struct store_creds *set)
{
    while (set->first != NULL)
        creds_remove(set, set->first);
    table_free(&set->by_uuid);
    table_free(&set->by_bytes);
    table_free(&set->by_key);
}

struct store_cred *
store_cred_find_uuid(const struct store_cache *cache, const uint8_t *uuid)
{
    struct table_link *link =
        table_find(&cache->creds.by_uuid, uuid_hash(uuid));
    for (; link != NULL; link = table_next(link)) {
        struct store_cred *entry =
            container_of(link, struct store_cred, by_uuid);
        if (memcmp(entry->uuid, uuid, KCM_UUID_LEN) == 0)
            return entry;
    }
    return NULL;
}

/* What can match: a group where client and server are given, else all. */
struct candidates {
    const struct match *m;
    bool grouped;
    uint64_t server_hash;
    struct store_cred *next;
};

static struct candidates
candidates(const struct store_creds *set, const struct match *m)
{
    const uint32_t both = KCM_MCRED_CLIENT | KCM_MCRED_SERVER;
    struct candidates list = {.m = m, .next = set->first};
    list.server_hash = hash_data(m->want.server.components);
    list.grouped = (m->present & both) == both;
    if (list.grouped) {
        struct store_key *key =
            find_key(set, key_hash(list.server_hash, &m->want.client));
        list.next = key == NULL ? NULL : key->first;
    }
    return list;
}

/* The next that matches, its view in c; NULL at the end. */
static struct store_cred *
next_match(struct candidates *list, struct cred *c)
{
    while (list->next != NULL) {
        struct store_cred *entry = list->next;
        list->next = list->grouped ? entry->key_next : entry->next;
        if ((list->m->present & KCM_MCRED_SERVER) &&
            entry->server_hash != list->server_hash)
            continue;
        *c = view(entry);
        if (match_cred(list->m, c))
            return entry;
    }
    return NULL;
}

/*
 * Heimdal answers the first match.  The same ticket bought again later is
 * the better answer, but never one for another purpose: a user-to-user
 * ticket stored after an ordinary one would be of no use to the asker.
 */
struct store_cred *
store_cred_match(const struct store_cache *cache, const struct match *m)
{
    struct candidates list = candidates(&cache->creds, m);
    struct cred c, newer;
    struct store_cred *found = next_match(&list, &c), *entry;
    if (found == NULL)
        return NULL;
    list.grouped = true;
    list.next = found->key_next;
    while ((entry = next_match(&list, &newer)) != NULL)
        if (cred_same_purpose(&c, &newer))
            found = entry;
    return found;
}

size_t
creds_remove_matching(struct store_creds *set, const struct match *m)
{
    struct candidates list = candidates(set, m);
    struct cred c;
    struct store_cred *entry;
    size_t removed = 0;
    for (; (entry = next_match(&list, &c)) != NULL; removed++)
        creds_remove(set, entry);
    return removed;
}
