/*
 * What the mount knows of one uid: its caches' names and UUIDs, its contents.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fs/tree.h"
#include "fs/user.h"
#include "kcm/log.h"

/* UUIDs remembered of caches that are gone or have another one now. */
#define OLD_UUIDS 256
/* Contents of caches that are gone may wait for being dropped, and be
 * reserved because they were unlinked, up to so many. */
#define GONE_CONTENTS     16
#define RESERVED_CONTENTS 256

struct user *
user_get(struct fs *fs, uid_t uid)
{
    pthread_mutex_lock(&fs->lock);
    struct user *u = fs->users;
    while (u != NULL && u->uid != uid)
        u = u->next;
    if (u == NULL && (u = calloc(1, sizeof(*u))) != NULL) {
        u->fs = fs;
        u->uid = uid;
        turn_init(&u->guard, 1);
        u->next = fs->users;
        fs->users = u;
    }
    pthread_mutex_unlock(&fs->lock);
    return u;
}

static void
free_content(struct content *c)
{
    tickets_unref(c->tickets);
    kcm_snapshot_unref(c->known.snapshot);
    kcm_snapshot_unref(c->shown);
    image_unref(c->image);
    turn_destroy(&c->turn);
    free(c->name);
    free(c);
}

void
users_free(struct fs *fs)
{
    while (fs->users != NULL) {
        struct user *u = fs->users;
        fs->users = u->next;
        while (u->contents != NULL) {
            struct content *c = u->contents;
            u->contents = c->next;
            free_content(c);
        }
        kcm_listing_free(u->known);
        user_default_free(u);
        free(u);
    }
}

struct content *
user_content(struct user *u, const char *name)
{
    pthread_mutex_lock(&u->fs->lock);
    struct content *c = u->contents;
    while (c != NULL && strcmp(c->name, name) != 0)
        c = c->next;
    if (c == NULL && (c = calloc(1, sizeof(*c))) != NULL) {
        c->name = strdup(name);
        if (c->name == NULL) {
            free(c);
            c = NULL;
        } else {
            c->user = u;
            turn_init(&c->turn, 1);
            c->next = u->contents;
            u->contents = c;
            u->content_count++;
        }
    }
    if (c != NULL)
        c->refs++;
    pthread_mutex_unlock(&u->fs->lock);
    return c;
}

void
content_unref_locked(struct content *c)
{
    if (--c->refs > 0 || c->exists || c->reserved_until > now_ms() ||
        c->reserved_by_mkdir)
        return;
    struct content **link = &c->user->contents;
    while (*link != c)
        link = &(*link)->next;
    *link = c->next;
    c->user->content_count--;
    free_content(c);
}

void
content_unref(struct content *c)
{
    if (c == NULL)
        return;
    struct fs *fs = c->user->fs;
    pthread_mutex_lock(&fs->lock);
    content_unref_locked(c);
    pthread_mutex_unlock(&fs->lock);
}

/* --- UUIDs and names --------------------------------------------------- */

static bool
has_uuid(const struct kcm_listing *l, size_t likely, const uint8_t *uuid)
{
    if (likely < l->count &&
        memcmp(l->caches[likely].uuid, uuid, KCM_UUID_LEN) == 0)
        return true;
    for (size_t i = 0; i < l->count; i++)
        if (memcmp(l->caches[i].uuid, uuid, KCM_UUID_LEN) == 0)
            return true;
    return false;
}

static bool
add_cache(struct kcm_listing *l, const struct kcm_cache *cache)
{
    char *name = strdup(cache->name);
    if (name == NULL)
        return false;
    struct kcm_cache *to = &l->caches[l->count++];
    memcpy(to->uuid, cache->uuid, KCM_UUID_LEN);
    to->name = name;
    return true;
}

/* What is listed now, then what was known before, at most so many: NULL
 * without memory. */
static struct kcm_listing *
combine(const struct kcm_listing *now, const struct kcm_listing *before,
        size_t most)
{
    size_t old = before != NULL ? before->count : 0;
    _cleanup_(kcm_listing_freep) struct kcm_listing *l = calloc(1, sizeof(*l));
    if (l == NULL)
        return NULL;
    l->caches = calloc(now->count + old + 1, sizeof(*l->caches));
    if (l->caches == NULL)
        return NULL;
    for (size_t i = 0; i < now->count; i++)
        if (!add_cache(l, &now->caches[i]))
            return NULL;
    for (size_t i = 0; i < old && l->count < most; i++)
        if (!has_uuid(now, i, before->caches[i].uuid) &&
            !add_cache(l, &before->caches[i]))
            return NULL;
    return take(l);
}

static struct kcm_listing *
copy_known(struct user *u)
{
    static const struct kcm_listing empty;
    pthread_mutex_lock(&u->fs->lock);
    struct kcm_listing *copy = combine(&empty, u->known, SIZE_MAX);
    pthread_mutex_unlock(&u->fs->lock);
    return copy;
}

static bool
is_prefix(const struct kcm_listing *now, const struct kcm_listing *known)
{
    if (known == NULL || now->count > known->count)
        return false;
    for (size_t i = 0; i < now->count; i++)
        if (memcmp(now->caches[i].uuid, known->caches[i].uuid, KCM_UUID_LEN) !=
            0)
            return false;
    return true;
}

/* Bear in mind what was listed; all: all that there is now. */
static void
remember(struct user *u, const struct kcm_listing *now, bool all)
{
    pthread_mutex_lock(&u->fs->lock);
    if (all)
        u->listed = now->count;
    if (!is_prefix(now, u->known)) {
        struct kcm_listing *l =
            combine(now, u->known, u->listed + now->count + OLD_UUIDS);
        if (l != NULL) {
            kcm_listing_free(u->known);
            u->known = l;
        }
    }
    pthread_mutex_unlock(&u->fs->lock);
}

static bool
is_listed(const struct kcm_listing *l, const char *name)
{
    for (size_t i = 0; i < l->count; i++)
        if (strcmp(l->caches[i].name, name) == 0)
            return true;
    return false;
}

/* Drop what nobody uses of caches that are gone. */
static void
drop_gone(struct user *u, const struct kcm_listing *now)
{
    pthread_mutex_lock(&u->fs->lock);
    struct content *next;
    bool many = u->content_count > now->count + GONE_CONTENTS;
    bool too_many = u->content_count > now->count + RESERVED_CONTENTS;
    for (struct content *c = u->contents; many && c != NULL; c = next) {
        next = c->next;
        if (c->refs > 0 || is_listed(now, c->name))
            continue;
        c->exists = false;
        if (too_many)
            c->reserved_until = 0;
        c->refs++;
        content_unref_locked(c); /* what is reserved stays */
    }
    pthread_mutex_unlock(&u->fs->lock);
}

int
user_list(struct user *u, const struct caller *caller,
          struct kcm_listing **out)
{
    _cleanup_(kcm_listing_freep) struct kcm_listing *known = copy_known(u);
    *out = NULL;
    if (known == NULL)
        return -ENOMEM;
    int r = kcm_list(u->fs->kcm, caller, known, out);
    if (r == 0) {
        remember(u, *out, true);
        drop_gone(u, *out);
    }
    return r;
}

int
user_name_of_uuid(struct user *u, const struct caller *caller,
                  const uint8_t uuid[KCM_UUID_LEN], char **name_out)
{
    *name_out = NULL;
    pthread_mutex_lock(&u->fs->lock);
    for (size_t i = 0; u->known != NULL && i < u->known->count; i++) {
        if (memcmp(u->known->caches[i].uuid, uuid, KCM_UUID_LEN) == 0) {
            *name_out = strdup(u->known->caches[i].name);
            break;
        }
    }
    pthread_mutex_unlock(&u->fs->lock);
    if (*name_out != NULL)
        return 0;
    int r = kcm_find_uuid(u->fs->kcm, caller, uuid, name_out);
    if (r != 0)
        return r;
    struct kcm_cache cache = {.name = *name_out};
    memcpy(cache.uuid, uuid, KCM_UUID_LEN);
    struct kcm_listing one = {&cache, 1};
    remember(u, &one, false);
    return 0;
}

bool
user_uuid_of_name(struct user *u, const char *name,
                  uint8_t uuid_out[KCM_UUID_LEN])
{
    bool found = false;
    pthread_mutex_lock(&u->fs->lock);
    for (size_t i = 0; u->known != NULL && i < u->known->count; i++) {
        if (strcmp(u->known->caches[i].name, name) == 0) {
            memcpy(uuid_out, u->known->caches[i].uuid, KCM_UUID_LEN);
            found = true;
            break;
        }
    }
    pthread_mutex_unlock(&u->fs->lock);
    return found;
}
