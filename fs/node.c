/*
 * The node table: found by inode number for the kernel, by identity for us.
 * Inode numbers are random: a counter would tell one user how busy the
 * others are.
 */
#include <string.h>
#include <sys/random.h>

#include "fs/draft.h"
#include "fs/node.h"
#include "fs/user.h"
#include "kcm/log.h"

#define FIRST_BUCKETS 1024

static uint64_t
hash_key(enum node_kind kind, uid_t uid, const struct content *content,
         uint64_t parent, const char *name)
{
    uint64_t h = 1469598103934665603u;
    const uint64_t parts[] = {kind, uid, (uintptr_t)content, parent};
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
        h = (h ^ parts[i]) * 1099511628211u ^ (h >> 29);
    for (; name != NULL && *name != '\0'; name++)
        h = (h ^ (unsigned char)*name) * 1099511628211u;
    return h ^ (h >> 32);
}

static uint64_t
hash_of(const struct node *n)
{
    return hash_key(n->kind, n->uid, n->content, n->parent, n->name);
}

int
nodes_init(struct fs *fs)
{
    fs->buckets = FIRST_BUCKETS;
    fs->by_ino = calloc(fs->buckets, sizeof(*fs->by_ino));
    fs->by_key = calloc(fs->buckets, sizeof(*fs->by_key));
    return fs->by_ino != NULL && fs->by_key != NULL ? 0 : -1;
}

static bool
same_key(const struct node *n, enum node_kind kind, uid_t uid,
         const struct content *content, uint64_t parent, const char *name)
{
    if (n->kind != kind || n->uid != uid || n->content != content ||
        n->parent != parent)
        return false;
    if (n->name == NULL || name == NULL)
        return n->name == name;
    return strcmp(n->name, name) == 0;
}

static void
link_key_locked(struct fs *fs, struct node *n)
{
    struct node **head = &fs->by_key[hash_of(n) % fs->buckets];
    n->next_key = *head;
    *head = n;
    n->keyed = true;
}

void
node_unkey_locked(struct fs *fs, struct node *n)
{
    if (!n->keyed)
        return;
    struct node **link = &fs->by_key[hash_of(n) % fs->buckets];
    while (*link != n)
        link = &(*link)->next_key;
    *link = n->next_key;
    n->keyed = false;
}

void
node_rekey_locked(struct fs *fs, struct node *n, uint64_t parent, char *name)
{
    node_unkey_locked(fs, n);
    free(n->name);
    n->name = name;
    n->parent = parent;
    link_key_locked(fs, n);
}

/* Double the tables when chains get long; without memory they stay. */
static void
grow_locked(struct fs *fs)
{
    if (fs->node_count < fs->buckets)
        return;
    size_t buckets = fs->buckets * 2;
    struct node **ino = calloc(buckets, sizeof(*ino));
    struct node **key = calloc(buckets, sizeof(*key));
    if (ino == NULL || key == NULL) {
        free(ino);
        free(key);
        return;
    }
    for (size_t i = 0; i < fs->buckets; i++) {
        struct node *next;
        for (struct node *n = fs->by_ino[i]; n != NULL; n = next) {
            next = n->next_ino;
            n->next_ino = ino[n->ino % buckets];
            ino[n->ino % buckets] = n;
            if (n->keyed) {
                uint64_t h = hash_of(n) % buckets;
                n->next_key = key[h];
                key[h] = n;
            }
        }
    }
    free(fs->by_ino);
    free(fs->by_key);
    fs->by_ino = ino;
    fs->by_key = key;
    fs->buckets = buckets;
}

static struct node *
find_ino_locked(struct fs *fs, uint64_t ino)
{
    struct node *n = fs->by_ino[ino % fs->buckets];
    while (n != NULL && n->ino != ino)
        n = n->next_ino;
    return n;
}

static uint64_t
new_ino_locked(struct fs *fs)
{
    uint64_t ino = 0;
    do {
        if (getrandom(&ino, sizeof(ino), 0) != sizeof(ino))
            ino += 0x9e3779b97f4a7c15u;
        ino >>= 1; /* what a signed off_t or ino_t holds */
    } while (ino <= ROOT_INO || find_ino_locked(fs, ino) != NULL);
    return ino;
}

struct node *
node_new_locked(struct fs *fs, enum node_kind kind, uid_t uid,
                struct content *content)
{
    struct node *n = calloc(1, sizeof(*n));
    if (n == NULL)
        return NULL;
    n->kind = kind;
    n->uid = uid;
    n->refs = 1;
    n->ino = kind == NODE_ROOT ? ROOT_INO : new_ino_locked(fs);
    n->content = content;
    if (content != NULL)
        content->refs++;
    clock_gettime(CLOCK_REALTIME, &n->mtime);
    n->next_ino = fs->by_ino[n->ino % fs->buckets];
    fs->by_ino[n->ino % fs->buckets] = n;
    fs->node_count++;
    grow_locked(fs);
    return n;
}

struct node *
node_get_locked(struct fs *fs, enum node_kind kind, uid_t uid,
                struct content *content, uint64_t parent, const char *name)
{
    uint64_t h = hash_key(kind, uid, content, parent, name);
    for (struct node *n = fs->by_key[h % fs->buckets]; n != NULL;
         n = n->next_key)
        if (same_key(n, kind, uid, content, parent, name))
            return node_ref_locked(n);
    char *copy = name != NULL ? strdup(name) : NULL;
    if (name != NULL && copy == NULL)
        return NULL;
    struct node *n = node_new_locked(fs, kind, uid, content);
    if (n == NULL) {
        free(copy);
        return NULL;
    }
    n->name = copy;
    n->parent = parent;
    link_key_locked(fs, n);
    return n;
}

struct node *
node_get(struct fs *fs, enum node_kind kind, uid_t uid,
         struct content *content, uint64_t parent, const char *name)
{
    pthread_mutex_lock(&fs->lock);
    struct node *n = node_get_locked(fs, kind, uid, content, parent, name);
    pthread_mutex_unlock(&fs->lock);
    return n;
}

struct node *
node_find(struct fs *fs, enum node_kind kind, uid_t uid,
          struct content *content, uint64_t parent, const char *name)
{
    uint64_t h = hash_key(kind, uid, content, parent, name);
    pthread_mutex_lock(&fs->lock);
    struct node *n = fs->by_key[h % fs->buckets];
    while (n != NULL && !same_key(n, kind, uid, content, parent, name))
        n = n->next_key;
    if (n != NULL)
        n->refs++;
    pthread_mutex_unlock(&fs->lock);
    return n;
}

struct node *
node_of(struct fs *fs, uint64_t ino)
{
    pthread_mutex_lock(&fs->lock);
    struct node *n = find_ino_locked(fs, ino);
    if (n != NULL)
        n->refs++;
    pthread_mutex_unlock(&fs->lock);
    return n;
}

struct node *
node_ref_locked(struct node *n)
{
    n->refs++;
    return n;
}

static void
free_locked(struct fs *fs, struct node *n)
{
    node_unkey_locked(fs, n);
    struct node **link = &fs->by_ino[n->ino % fs->buckets];
    while (*link != n)
        link = &(*link)->next_ino;
    *link = n->next_ino;
    fs->node_count--;
    if (n->content != NULL) {
        if (n->content->node == n)
            n->content->node = NULL;
        content_unref_locked(n->content);
    }
    image_unref(n->image);
    blob_unref(n->text);
    draft_unref(n->draft);
    free(n->target);
    free(n->name);
    free(n);
}

void
node_unref_locked(struct fs *fs, struct node *n)
{
    n->refs--;
    if (n->refs == 0 && n->lookups == 0)
        free_locked(fs, n);
}

void
node_unref(struct fs *fs, struct node *n)
{
    if (n == NULL)
        return;
    pthread_mutex_lock(&fs->lock);
    node_unref_locked(fs, n);
    pthread_mutex_unlock(&fs->lock);
}

bool
node_is_unlinked(struct fs *fs, const struct node *n)
{
    pthread_mutex_lock(&fs->lock);
    bool unlinked = n->unlinked;
    pthread_mutex_unlock(&fs->lock);
    return unlinked;
}

void
node_looked_up(struct fs *fs, struct node *n)
{
    pthread_mutex_lock(&fs->lock);
    n->lookups++;
    pthread_mutex_unlock(&fs->lock);
}

void
node_forget(struct fs *fs, uint64_t ino, uint64_t count)
{
    pthread_mutex_lock(&fs->lock);
    struct node *n = find_ino_locked(fs, ino);
    if (n != NULL) {
        n->lookups -= count < n->lookups ? count : n->lookups;
        n->refs++;
        node_unref_locked(fs, n);
    }
    pthread_mutex_unlock(&fs->lock);
}

void
nodes_free(struct fs *fs)
{
    for (size_t i = 0; fs->by_ino != NULL && i < fs->buckets; i++) {
        while (fs->by_ino[i] != NULL)
            free_locked(fs, fs->by_ino[i]);
    }
    free(fs->by_ino);
    free(fs->by_key);
}
