/*
 * Users and their caches.
 */
#include "store.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "creds.h"

#define NAME_MAX_BYTES 1024

struct store {
    pthread_mutex_t lock; /* of users and first; held for a lookup only */
    struct table users;
    struct store_user *first;
    size_t caches_per_uid;
    size_t bytes_per_uid;
    bool lax; /* neither counts */
};

struct store *
store_new(size_t caches_per_uid, size_t bytes_per_uid)
{
    struct store *store = calloc(1, sizeof(*store));
    if (store == NULL)
        return NULL;
    pthread_mutex_init(&store->lock, NULL);
    store->caches_per_uid = caches_per_uid;
    store->bytes_per_uid = bytes_per_uid;
    return store;
}

static void
cache_free(struct store_cache *cache)
{
    if (cache == NULL)
        return;
    creds_clear(&cache->creds);
    blob_unref(cache->name);
    blob_unref(cache->principal);
    secret_free(cache);
}
DEFINE_CLEANUP(struct store_cache *, cache_free)

static void
user_free(struct store_user *user)
{
    while (user->first != NULL)
        store_destroy(user, user->first);
    table_free(&user->by_name);
    table_free(&user->by_uuid);
    blob_unref(user->default_name);
    pthread_mutex_destroy(&user->lock);
    secret_free(user);
}

void
store_free(struct store *store)
{
    if (store == NULL)
        return;
    while (store->first != NULL) {
        struct store_user *user = store->first;
        store->first = user->next;
        user_free(user);
    }
    table_free(&store->users);
    pthread_mutex_destroy(&store->lock);
    free(store);
}

void
store_set_lax(struct store *store, bool lax)
{
    store->lax = lax;
}

static uint64_t
uid_hash(uid_t uid)
{
    return hash_data((struct data){(const uint8_t *)&uid, sizeof(uid)});
}

static struct store_user *
user_get_locked(struct store *store, uid_t uid)
{
    uint64_t hash = uid_hash(uid);
    struct table_link *link = table_find(&store->users, hash);
    for (; link != NULL; link = table_next(link)) {
        struct store_user *user = container_of(link, struct store_user, link);
        if (user->uid == uid)
            return user;
    }
    struct store_user *user = secret_alloc(sizeof(*user));
    if (user == NULL)
        return NULL;
    pthread_mutex_init(&user->lock, NULL);
    user->store = store;
    user->uid = uid;
    user->next = store->first;
    store->first = user;
    table_insert(&store->users, &user->link, hash);
    return user;
}

struct store_user *
store_user_lock(struct store *store, uid_t uid)
{
    pthread_mutex_lock(&store->lock);
    struct store_user *user = user_get_locked(store, uid);
    pthread_mutex_unlock(&store->lock);
    if (user != NULL)
        pthread_mutex_lock(&user->lock);
    return user;
}

void
store_user_unlock(struct store_user *user)
{
    pthread_mutex_unlock(&user->lock);
}

struct store_user *
store_first_user(struct store *store)
{
    return store->first;
}

/* Length of the uid in front of UID or UID:anything; 0 if it is neither. */
static size_t
uid_prefix(struct data name)
{
    size_t n = 0;
    while (n < name.len && name.p[n] >= '0' && name.p[n] <= '9')
        n++;
    return n == name.len || name.p[n] == ':' ? n : 0;
}

bool
store_name_allowed(uid_t uid, struct data name)
{
    char text[12];
    int len = snprintf(text, sizeof(text), "%u", (unsigned)uid);
    struct data own = {(const uint8_t *)text, (size_t)len};
    size_t prefix = uid_prefix(name);
    if (name.len == 0 || name.len > NAME_MAX_BYTES)
        return false;
    if (prefix == 0)
        return uid == 0;
    return data_equal((struct data){name.p, prefix}, own);
}

/* The text of a blob that ends in a NUL, without it. */
static struct data
text_of(const struct blob *b)
{
    return (struct data){b->bytes, b->len - 1};
}

static struct blob *
text_blob(struct data text)
{
    struct blob *b = blob_new(NULL, text.len + 1);
    if (b != NULL && text.len > 0)
        memcpy(b->bytes, text.p, text.len);
    return b;
}

struct store_cache *
store_find(struct store_user *user, struct data name)
{
    struct table_link *link = table_find(&user->by_name, hash_data(name));
    for (; link != NULL; link = table_next(link)) {
        struct store_cache *cache =
            container_of(link, struct store_cache, by_name);
        if (data_equal(text_of(cache->name), name))
            return cache;
    }
    return NULL;
}

struct store_cache *
store_find_uuid(struct store_user *user, const uint8_t *uuid)
{
    struct table_link *link = table_find(&user->by_uuid, uuid_hash(uuid));
    for (; link != NULL; link = table_next(link)) {
        struct store_cache *cache =
            container_of(link, struct store_cache, by_uuid);
        if (memcmp(cache->uuid, uuid, KCM_UUID_LEN) == 0)
            return cache;
    }
    return NULL;
}

/* What a cache is charged, its credentials included. */
static size_t
charge_of(const struct store_cache *cache)
{
    return STORE_CACHE_CHARGE + cache->name->len +
           (cache->principal == NULL ? 0 : cache->principal->len) +
           cache->creds.charged;
}

/* What the user may still add, given that some of what is charged goes. */
static size_t
room_of(const struct store_user *user, size_t going)
{
    size_t used = user->charged - going;
    size_t limit = user->store->lax ? SIZE_MAX : user->store->bytes_per_uid;
    return used < limit ? limit - used : 0;
}

static int
cache_new(struct data name, struct store_cache **cache_out)
{
    *cache_out = NULL;
    _cleanup_(cache_freep) struct store_cache *cache =
        secret_alloc(sizeof(*cache));
    if (cache == NULL)
        return -ENOMEM;
    uuid_make(cache->uuid);
    cache->name = text_blob(name);
    if (cache->name == NULL)
        return -ENOMEM;
    *cache_out = take(cache);
    return 0;
}

static void
cache_link(struct store_user *user, struct store_cache *cache)
{
    cache->next = user->first;
    *(user->first == NULL ? &user->last : &user->first->prev) = cache;
    user->first = cache;
    user->count++;
    user->charged += charge_of(cache);
    table_insert(&user->by_name, &cache->by_name,
                 hash_data(text_of(cache->name)));
    table_insert(&user->by_uuid, &cache->by_uuid, uuid_hash(cache->uuid));
}

static void
cache_unlink(struct store_user *user, struct store_cache *cache)
{
    *(cache->prev == NULL ? &user->first : &cache->prev->next) = cache->next;
    *(cache->next == NULL ? &user->last : &cache->next->prev) = cache->prev;
    user->count--;
    user->charged -= charge_of(cache);
    table_remove(&user->by_name, &cache->by_name);
    table_remove(&user->by_uuid, &cache->by_uuid);
}

void
store_set_uuid(struct store_user *user, struct store_cache *cache,
               const uint8_t *uuid)
{
    table_remove(&user->by_uuid, &cache->by_uuid);
    memcpy(cache->uuid, uuid, KCM_UUID_LEN);
    table_insert(&user->by_uuid, &cache->by_uuid, uuid_hash(cache->uuid));
}

/*
 * Give the cache called name, made if there is none, this content in place
 * of its own.  set is taken over, or left alone on failure.
 */
static int
put_content(struct store_user *user, struct data name, int32_t offset,
            struct data principal, struct store_creds *set)
{
    struct store_cache *cache = store_find(user, name);
    _cleanup_(cache_freep) struct store_cache *fresh = NULL;
    size_t going = cache == NULL ? 0 : charge_of(cache);
    size_t coming =
        STORE_CACHE_CHARGE + name.len + 1 + principal.len + set->charged;
    if (coming > going && coming - going > room_of(user, 0))
        return -EDQUOT;
    if (cache == NULL && !user->store->lax &&
        user->count >= user->store->caches_per_uid)
        return -EDQUOT;
    if (cache == NULL && cache_new(name, &fresh) != 0)
        return -ENOMEM;
    struct blob *blob = blob_new(principal.p, principal.len);
    if (blob == NULL)
        return -ENOMEM;
    if (cache == NULL) {
        cache = take(fresh);
        cache_link(user, cache);
    }
    user->charged -= charge_of(cache);
    blob_unref(cache->principal);
    creds_clear(&cache->creds);
    cache->principal = blob;
    cache->kdc_offset = offset;
    cache->creds = *set;
    *set = (struct store_creds){0};
    user->charged += charge_of(cache);
    return 0;
}

int
store_initialize(struct store_user *user, struct data name,
                 struct data principal)
{
    struct store_creds none = {0};
    return put_content(user, name, 0, principal, &none);
}

int
store_replace(struct store_user *user, struct data name, int32_t offset,
              struct data principal, uint32_t count, struct reader creds)
{
    struct store_cache *cache = store_find(user, name);
    size_t going = cache == NULL ? 0 : charge_of(cache);
    struct store_creds set = {0};
    int result = 0;
    for (uint32_t i = 0; i < count && result == 0; i++)
        result = creds_add(&set, read_data32(&creds),
                           room_of(user, going) - set.charged);
    if (result == 0)
        result = put_content(user, name, offset, principal, &set);
    creds_clear(&set);
    return result;
}

void
store_destroy(struct store_user *user, struct store_cache *cache)
{
    struct blob *name = user->default_name;
    if (name != NULL && data_equal(text_of(name), text_of(cache->name))) {
        user->default_name = NULL;
        blob_unref(name);
    }
    cache_unlink(user, cache);
    cache_free(cache);
}

int
store_move(struct store_user *user, struct store_cache *cache,
           struct data name)
{
    struct store_cache *target = store_find(user, name);
    if (target == cache)
        return 0;
    _cleanup_(blob_unrefp) struct blob *fresh = NULL;
    bool was_default =
        user->default_name != NULL &&
        data_equal(text_of(user->default_name), text_of(cache->name));
    if (was_default && (fresh = text_blob(name)) == NULL)
        return -ENOMEM;
    /* The count stays or falls, so only a longer name could need room, and
     * so little of it that it is not worth refusing. */
    if (target == NULL) {
        int result = cache_new(name, &target);
        if (result != 0)
            return result;
        cache_link(user, target);
    }
    user->charged -= charge_of(target) + charge_of(cache);
    creds_clear(&target->creds);
    blob_unref(target->principal);
    target->creds = cache->creds;
    target->principal = take(cache->principal);
    target->kdc_offset = cache->kdc_offset;
    cache->creds = (struct store_creds){0};
    user->charged += charge_of(target) + charge_of(cache);
    store_destroy(user, cache);
    if (was_default)
        user->default_name = take(fresh);
    return 0;
}

int
store_add(struct store_user *user, struct store_cache *cache, struct data cred)
{
    size_t before = cache->creds.charged;
    int result = creds_add(&cache->creds, cred, room_of(user, 0));
    user->charged += cache->creds.charged - before;
    return result;
}

size_t
store_remove(struct store_user *user, struct store_cache *cache,
             const struct match *m)
{
    size_t before = cache->creds.charged;
    size_t removed = creds_remove_matching(&cache->creds, m);
    user->charged -= before - cache->creds.charged;
    return removed;
}

struct data
store_default(const struct store_user *user, char room[12])
{
    if (user->default_name != NULL)
        return text_of(user->default_name);
    if (user->first != NULL)
        return text_of(user->first->name);
    int len = snprintf(room, 12, "%u", (unsigned)user->uid);
    return (struct data){(const uint8_t *)room, (size_t)len};
}

int
store_set_default(struct store_user *user, struct data name)
{
    struct blob *b = text_blob(name);
    if (b == NULL)
        return -ENOMEM;
    blob_unref(user->default_name);
    user->default_name = b;
    return 0;
}

void
store_new_name(struct store_user *user, char room[24])
{
    do
        snprintf(room, 24, "%u:%" PRIu32, (unsigned)user->uid,
                 ++user->next_id);
    while (store_find(user, data_of_string(room)) != NULL);
}
