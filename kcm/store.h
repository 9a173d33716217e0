/*
 * The caches that kcmd holds: users, their caches, the credentials in them.
 *
 *   store   one per server: users by uid
 *   user    caches by name and by uuid, newest first; the default's name
 *   cache   a principal, an offset, a set of credentials
 *   creds   credentials as stored, oldest first, found by uuid, by bytes,
 *           and by client and server
 *
 * A user is worked on between store_user_lock() and store_user_unlock();
 * everything below a user belongs to its lock, and no call reaches another
 * user.  All lookups cost the same however much there is.
 *
 * Results: 0; -ENOMEM; -EDQUOT where the user's quota would be exceeded.
 * A call that fails has changed nothing.
 */
#ifndef KCM_STORE_H
#define KCM_STORE_H

#include <pthread.h>
#include <sys/types.h>

#include "match.h"
#include "proto.h"
#include "table.h"

/* What a credential and a cache are charged beyond their bytes, so that
 * many small ones fill a quota too. */
#define STORE_CRED_CHARGE  512
#define STORE_CACHE_CHARGE 1024

struct store;

struct store_cred {
    struct table_link by_uuid, by_bytes;
    struct store_cred *prev, *next;         /* in the cache, oldest first */
    struct store_cred *key_prev, *key_next; /* of one client and server */
    struct store_key *key;
    uint64_t server_hash;
    uint8_t uuid[KCM_UUID_LEN];
    struct blob *blob;
};

struct store_creds {
    struct table by_uuid, by_bytes, by_key;
    struct store_cred *first, *last;
    size_t count;
    size_t bytes;   /* of all encodings */
    size_t charged; /* bytes and STORE_CRED_CHARGE for each */
};

struct store_cache {
    struct table_link by_name, by_uuid;
    struct store_cache *prev, *next; /* of the user, newest first */
    uint8_t uuid[KCM_UUID_LEN];
    struct blob *name; /* with its NUL */
    struct blob *principal;
    int32_t kdc_offset;
    struct store_creds creds;
};

struct store_user {
    struct table_link link;
    struct store_user *next; /* of the store */
    pthread_mutex_t lock;
    const struct store *store;
    uid_t uid;
    struct table by_name, by_uuid;
    struct store_cache *first, *last;
    size_t count;
    size_t charged;
    struct blob *default_name; /* with its NUL; NULL: never set */
    uint32_t next_id;
};

/* A store that grants each user so much.  NULL without memory. */
struct store *store_new(size_t caches_per_uid, size_t bytes_per_uid);
void store_free(struct store *store);
DEFINE_CLEANUP(struct store *, store_free)
/* While it is lax the quotas do not count. */
void store_set_lax(struct store *store, bool lax);

/* The user's part, locked; NULL without memory. */
struct store_user *store_user_lock(struct store *store, uid_t uid);
void store_user_unlock(struct store_user *user);
/* All users by ->next; for when nobody else works on the store. */
struct store_user *store_first_user(struct store *store);

/*
 * A user may use the names UID and UID:anything; root also any name that is
 * no other user's.  At most 1,024 bytes.
 */
bool store_name_allowed(uid_t uid, struct data name);

/* NULL when there is none. */
struct store_cache *store_find(struct store_user *user, struct data name);
struct store_cache *store_find_uuid(struct store_user *user,
                                    const uint8_t *uuid);

/* The cache had this uuid in an earlier life. */
void store_set_uuid(struct store_user *user, struct store_cache *cache,
                    const uint8_t *uuid);

/* Make the cache, or empty the one there is: it keeps its uuid, its offset
 * becomes 0. */
int store_initialize(struct store_user *user, struct data name,
                     struct data principal);
/*
 * The same with content, at once: count credentials, each with its length,
 * read from creds, which must hold nothing else and parse.
 */
int store_replace(struct store_user *user, struct data name, int32_t offset,
                  struct data principal, uint32_t count, struct reader creds);
/* The default's name is forgotten if it was this one. */
void store_destroy(struct store_user *user, struct store_cache *cache);
/*
 * Give cache's content to the cache called name, which keeps its uuid, or
 * is made; cache is destroyed.  The default goes with the content.
 */
int store_move(struct store_user *user, struct store_cache *cache,
               struct data name);

/*
 * Add a credential at the end.  One of the same bytes is left as it is; a
 * configuration entry takes the place of that of the same client and
 * server, with a new uuid.
 */
int store_add(struct store_user *user, struct store_cache *cache,
              struct data cred);
struct store_cred *store_cred_find_uuid(const struct store_cache *cache,
                                        const uint8_t *uuid);
/*
 * The first that matches, or the newest that matches and supersedes it
 * (cred_same_purpose); NULL when none does.
 */
struct store_cred *store_cred_match(const struct store_cache *cache,
                                    const struct match *m);
/* Remove all that match; how many. */
size_t store_remove(struct store_user *user, struct store_cache *cache,
                    const struct match *m);

/*
 * The default cache's name (without NUL): the one that was set, else that
 * of the newest cache, else UID, written to room.
 */
struct data store_default(const struct store_user *user, char room[12]);
int store_set_default(struct store_user *user, struct data name);

/* A name UID:N that no cache has and that was not given before. */
void store_new_name(struct store_user *user, char room[24]);

#endif
