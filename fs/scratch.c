/*
 * Temporary files and links beside caches, and caches that are created but
 * hold no principal yet.  They are their uid's alone, live in memory, and go
 * when nobody has touched them for a while.
 */
#include <errno.h>
#include <string.h>

#include "fs/draft.h"
#include "fs/node.h"
#include "fs/user.h"

/* One name beside a cache, whichever way its directory was reached. */
static uint64_t
place(const struct node *dir)
{
    return dir->content != NULL ? (uint64_t)dir->kind : dir->ino;
}

struct node *
scratch_find(struct fs *fs, struct node *dir, uid_t uid, const char *name)
{
    return node_find(fs, NODE_SCRATCH, uid, dir->content, place(dir), name);
}

/* A node of that name with a reference for the name and one for the caller;
 * NULL without memory. */
static struct node *
make_locked(struct fs *fs, struct node *dir, uid_t uid, const char *name)
{
    struct node *n =
        node_get_locked(fs, NODE_SCRATCH, uid, dir->content, place(dir), name);
    if (n == NULL)
        return NULL;
    n->linked = true;
    n->refs++;
    return n;
}

int
scratch_create(struct fs *fs, struct node *dir, uid_t uid, const char *name,
               struct node **out)
{
    struct user *u = user_get(fs, uid);
    _cleanup_(draft_unrefp) struct draft *d = NULL;
    *out = NULL;
    if (u == NULL)
        return -ENOMEM;
    struct node *old = scratch_find(fs, dir, uid, name);
    if (old != NULL) {
        *out = old;
        return 0;
    }
    int r = draft_new(u, &d);
    if (r < 0)
        return r;
    pthread_mutex_lock(&fs->lock);
    struct node *n = make_locked(fs, dir, uid, name);
    if (n != NULL && n->draft == NULL)
        n->draft = take(d);
    pthread_mutex_unlock(&fs->lock);
    *out = n;
    return n != NULL ? 0 : -ENOMEM;
}

int
scratch_symlink(struct fs *fs, struct node *dir, uid_t uid, const char *name,
                const char *target, struct node **out)
{
    char *copy = strdup(target);
    if (copy == NULL)
        return -ENOMEM;
    int r = scratch_create(fs, dir, uid, name, out);
    if (r < 0) {
        free(copy);
        return r;
    }
    pthread_mutex_lock(&fs->lock);
    free((*out)->target);
    (*out)->target = copy;
    pthread_mutex_unlock(&fs->lock);
    return 0;
}

void
scratch_unlink_locked(struct fs *fs, struct node *n)
{
    if (!n->linked)
        return;
    n->linked = false;
    n->unlinked = true;
    node_unkey_locked(fs, n);
    node_unref_locked(fs, n);
}

void
scratch_unlink(struct fs *fs, struct node *n)
{
    pthread_mutex_lock(&fs->lock);
    scratch_unlink_locked(fs, n);
    pthread_mutex_unlock(&fs->lock);
}

int
scratch_rename(struct fs *fs, struct node *n, struct node *dir,
               const char *name)
{
    if (dir->content != n->content)
        return -EXDEV; /* no client moves scratch between caches */
    char *copy = strdup(name);
    if (copy == NULL)
        return -ENOMEM;
    struct node *old = scratch_find(fs, dir, n->uid, name);
    pthread_mutex_lock(&fs->lock);
    if (old != NULL && old != n)
        scratch_unlink_locked(fs, old);
    if (old != NULL)
        node_unref_locked(fs, old);
    node_rekey_locked(fs, n, place(dir), copy);
    pthread_mutex_unlock(&fs->lock);
    return 0;
}

int
scratch_unborn(struct content *c, struct node **out)
{
    struct fs *fs = c->user->fs;
    _cleanup_(draft_unrefp) struct draft *d = NULL;
    int r = draft_new(c->user, &d);
    if (r < 0)
        return r;
    pthread_mutex_lock(&fs->lock);
    struct node *n = c->unborn;
    if (n != NULL) {
        n->refs++;
    } else {
        n = node_new_locked(fs, NODE_CACHE, c->user->uid, c);
        if (n != NULL) {
            n->draft = take(d);
            n->linked = true;
            n->refs++;
            c->unborn = n;
        }
    }
    pthread_mutex_unlock(&fs->lock);
    *out = n;
    return n != NULL ? 0 : -ENOMEM;
}

static void
unborn_drop_locked(struct content *c)
{
    struct node *n = c->unborn;
    if (n == NULL)
        return;
    c->unborn = NULL;
    scratch_unlink_locked(c->user->fs, n);
}

void
scratch_unborn_drop(struct content *c)
{
    struct fs *fs = c->user->fs;
    pthread_mutex_lock(&fs->lock);
    unborn_drop_locked(c);
    pthread_mutex_unlock(&fs->lock);
}

void
scratch_unborn_undo(struct node *n)
{
    struct content *c = n->content;
    struct fs *fs = c->user->fs;
    pthread_mutex_lock(&fs->lock);
    /* The caller's reference, and its name's. */
    if (c->unborn == n && n->opens == 0 && n->refs == 2)
        unborn_drop_locked(c);
    pthread_mutex_unlock(&fs->lock);
}

void
scratch_to_unborn(struct node *n, struct content *c)
{
    struct fs *fs = c->user->fs;
    pthread_mutex_lock(&fs->lock);
    struct content *old = n->content;
    if (c->unborn != n)
        unborn_drop_locked(c);
    node_unkey_locked(fs, n);
    if (old != NULL && old->unborn == n)
        old->unborn = NULL;
    if (n->counted && old != NULL)
        old->open_nodes--;
    n->counted = n->opens > 0;
    c->open_nodes += n->counted;
    n->kind = NODE_CACHE;
    n->content = c;
    c->unborn = n;
    c->refs++;
    if (old != NULL)
        content_unref_locked(old);
    pthread_mutex_unlock(&fs->lock);
}

static bool
any_draft_locked(const struct fs *fs)
{
    for (const struct user *u = fs->users; u != NULL; u = u->next)
        if (__atomic_load_n(&u->scratch_count, __ATOMIC_RELAXED) > 0)
            return true;
    return false;
}

void
scratch_collect(struct fs *fs)
{
    time_t oldest = time(NULL) - DRAFT_AGE_S;
    pthread_mutex_lock(&fs->lock);
    bool any = any_draft_locked(fs);
    for (size_t i = 0; any && i < fs->buckets; i++) {
        struct node *next;
        for (struct node *n = fs->by_ino[i]; n != NULL; n = next) {
            next = n->next_ino;
            if (!n->linked || n->opens > 0 || n->mtime.tv_sec > oldest)
                continue;
            if (n->kind == NODE_CACHE)
                unborn_drop_locked(n->content);
            else
                scratch_unlink_locked(fs, n);
        }
    }
    pthread_mutex_unlock(&fs->lock);
}
