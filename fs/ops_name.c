/*
 * Requests that change names: unlink, rename, directories, links.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fs/change.h"
#include "fs/content.h"
#include "fs/draft.h"
#include "fs/node.h"
#include "fs/ops.h"
#include "fs/tree.h"
#include "fs/user.h"
#include "kcm/log.h"

/* The directory of a cache that was unlinked outlives it this long. */
#define RESERVED_MS   (10 * 60 * 1000)
#define RESERVED_DIRS 64u
/* A file of so many bytes holds a header at most. */
#define HEADER_LEN 4

/* collection/primary was written: its first line names the default. */
int
name_primary(struct fs *fs, const struct caller *caller, struct data bytes)
{
    char line[PRIMARY_LINE_MAX];
    struct user *u = user_get(fs, caller->uid);
    _cleanup_(freep) char *cache = NULL;
    if (u == NULL)
        return -ENOMEM;
    int r = primary_parse(bytes, line);
    if (r != 0 || line[0] == '\0')
        return r;
    r = tree_collection_name(u, caller, line, &cache);
    if (r == KCM_NOT_FOUND)
        return -EINVAL;
    if (r != 0)
        return r;
    _cleanup_(content_unrefp) struct content *c = user_content(u, cache);
    r = c != NULL ? content_refresh(c, caller, 0) : -ENOMEM;
    if (r != 0)
        return r;
    pthread_mutex_lock(&fs->lock);
    bool known = c->exists || c->unborn != NULL;
    pthread_mutex_unlock(&fs->lock);
    /* A client that could not read primary writes "tkt": that must not
     * lose the default. */
    return known ? user_set_default(u, caller, cache) : 0;
}

static void
reserve(struct content *c, int64_t ms)
{
    struct fs *fs = c->user->fs;
    pthread_mutex_lock(&fs->lock);
    c->reserved_until = ms > 0 ? now_ms() + ms : 0;
    pthread_mutex_unlock(&fs->lock);
}

/* unlink() of a cache's file: the directory stays for a while, so that a
 * tool can create the file again. */
static int
unlink_cache(struct request *r, struct node *n)
{
    struct content *c = n->content;
    pthread_mutex_lock(&r->fs->lock);
    bool unborn = c->unborn == n;
    pthread_mutex_unlock(&r->fs->lock);
    if (unborn) {
        scratch_unborn_drop(c);
        return 0;
    }
    int result = change_destroy(c, &r->caller);
    if (result != 0)
        return result;
    status_audit_change(r->fs, &r->caller, "destroys", c);
    reserve(c, RESERVED_MS);
    return 0;
}

static int
unlink_ticket(struct request *r, struct node *n)
{
    int result = change_remove_ticket(n->content, &r->caller,
                                      n->kind == NODE_CONFIG_VALUE, n->name);
    if (result == 0)
        status_audit_change(r->fs, &r->caller, "removes an entry of",
                            n->content);
    return result;
}

static int
unlink_node(struct request *r, struct node *n)
{
    switch (n->kind) {
    case NODE_CACHE:
        return unlink_cache(r, n);
    case NODE_SCRATCH:
        scratch_unlink(r->fs, n);
        return 0;
    case NODE_TICKET:
    case NODE_CONFIG_VALUE:
        return unlink_ticket(r, n);
    case NODE_TEXT_PRINCIPAL:
    case NODE_TEXT_NAME:
    case NODE_TEXT_INFO:
    case NODE_TEXT_JSON:
        return 0; /* on the way of an rm -r: they go with the cache */
    default:
        return -EPERM;
    }
}

/* Find name in the directory of r, for a change. */
static int
find(struct request *r, const char *name, struct node **out)
{
    *out = NULL;
    if (r->fs->config.read_only)
        return -EROFS;
    return tree_lookup(r->fs, r->node, name, &r->caller, out);
}

void
op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct request r;
    struct node *n;
    if (!request_begin(&r, req, parent, "unlink"))
        return;
    int result = find(&r, name, &n);
    if (result == 0)
        result = unlink_node(&r, n);
    node_unref(r.fs, n);
    answer_error(&r, result);
}

static int
remove_cache_dir(struct request *r, struct node *n)
{
    struct content *c = n->content;
    int result = change_destroy(c, &r->caller);
    if (result == 0)
        status_audit_change(r->fs, &r->caller, "destroys", c);
    scratch_unborn_drop(c);
    pthread_mutex_lock(&r->fs->lock);
    bool reserved = c->reserved_by_mkdir || c->reserved_until > 0;
    if (c->reserved_by_mkdir)
        c->user->reserved--;
    c->reserved_by_mkdir = false;
    c->reserved_until = 0;
    pthread_mutex_unlock(&r->fs->lock);
    return result == KCM_NOT_FOUND && reserved ? 0 : result;
}

void
op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct request r;
    struct node *n;
    if (!request_begin(&r, req, parent, "rmdir"))
        return;
    int result = find(&r, name, &n);
    if (result == 0 && n->kind == NODE_CACHE_DIR)
        result = remove_cache_dir(&r, n);
    else if (result == 0 && n->kind != NODE_TICKETS && n->kind != NODE_CONFIG)
        result = -EPERM;
    /* What is looked up by that name from now on is another directory: the
     * kernel finds nothing in this one any more. */
    pthread_mutex_lock(&r.fs->lock);
    if (result == 0)
        node_unkey_locked(r.fs, n);
    pthread_mutex_unlock(&r.fs->lock);
    node_unref(r.fs, n);
    answer_error(&r, result);
}

static int
reserve_by_mkdir(struct request *r, const char *cache)
{
    struct user *u = user_get(r->fs, r->caller.uid);
    _cleanup_(content_unrefp) struct content *c =
        u != NULL ? user_content(u, cache) : NULL;
    int result = c != NULL ? content_refresh(c, &r->caller, 0) : -ENOMEM;
    if (result != 0)
        return result;
    pthread_mutex_lock(&r->fs->lock);
    if (c->exists || c->reserved_by_mkdir) {
        result = -EEXIST;
    } else if (u->reserved >= RESERVED_DIRS) {
        result = -EDQUOT;
    } else {
        c->reserved_by_mkdir = true;
        u->reserved++;
    }
    pthread_mutex_unlock(&r->fs->lock);
    return result;
}

void
op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
    struct request r;
    struct node *n = NULL;
    (void)mode;
    if (!request_begin(&r, req, parent, "mkdir"))
        return;
    _cleanup_(freep) char *cache = name_unescape(name);
    int result = cache != NULL ? 0 : -errno; /* EINVAL: it is none */
    if (r.fs->config.read_only)
        result = -EROFS;
    else if (r.node->kind != NODE_BY_NAME)
        result = -EACCES;
    else if (cache != NULL && !kcm_is_own(cache, r.caller.uid))
        result = -EACCES;
    if (result == 0)
        result = reserve_by_mkdir(&r, cache);
    if (result == 0)
        result = tree_lookup(r.fs, r.node, name, &r.caller, &n);
    if (result != 0)
        answer_error(&r, result);
    else
        answer_entry(&r, n);
}

void
op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent,
           const char *name)
{
    struct request r;
    struct node *n = NULL;
    if (!request_begin(&r, req, parent, "symlink"))
        return;
    int result = find(&r, name, &n);
    if (result == 0) {
        node_unref(r.fs, n);
        result = -EEXIST;
    } else if (result == KCM_NOT_FOUND) {
        /* A link beside default is one that is to be renamed over it. */
        result =
            r.node->kind == NODE_ROOT
                ? scratch_symlink(r.fs, r.node, r.caller.uid, name, target, &n)
                : -EACCES;
    }
    if (result != 0)
        answer_error(&r, result);
    else
        answer_entry(&r, n);
}

/* --- rename ------------------------------------------------------------ */

static int
switch_default(struct request *r, struct node *n)
{
    struct user *u = user_get(r->fs, r->caller.uid);
    _cleanup_(freep) char *cache = NULL;
    if (n->target == NULL)
        return -EACCES;
    if (u == NULL)
        return -ENOMEM;
    int result = tree_cache_of_path(u, &r->caller, n->target, &cache);
    if (result == 0)
        result = user_set_default(u, &r->caller, cache);
    if (result == 0)
        scratch_unlink(r->fs, n);
    return result;
}

/*
 * The scratch file or unborn cache n gets the place of the cache c.  One that
 * holds no principal yet may still become a cache, where there is none.
 */
static int
rename_over_cache(struct request *r, struct node *n, struct content *c,
                  struct data bytes)
{
    int result = content_refresh(c, &r->caller, 0);
    if (result != 0)
        return result;
    if (!content_exists(c) && bytes.len <= HEADER_LEN) {
        scratch_to_unborn(n, c);
        return 0;
    }
    result = change_replace(c, &r->caller, bytes, n);
    if (result != 0)
        return result;
    status_audit_change(r->fs, &r->caller, "replaces", c);
    scratch_unborn_drop(c);
    return 0;
}

static int
rename_over_primary(struct request *r, struct node *n, struct data bytes)
{
    int result = name_primary(r->fs, &r->caller, bytes);
    if (result == 0)
        scratch_unlink(r->fs, n);
    return result;
}

/* What is no cache yet, a scratch file or an unborn cache, gets a name. */
static int
rename_draft(struct request *r, struct node *n, struct node *dir,
             const char *name)
{
    _cleanup_(draft_copy_free) struct draft_copy copy = {0};
    _cleanup_(content_unrefp) struct content *c = NULL;
    pthread_mutex_lock(&r->fs->lock);
    _cleanup_(draft_unrefp) struct draft *d =
        n->draft != NULL ? draft_ref(n->draft) : NULL;
    pthread_mutex_unlock(&r->fs->lock);
    if (n->kind == NODE_SCRATCH && dir->kind == NODE_ROOT &&
        strcmp(name, "default") == 0)
        return switch_default(r, n);
    int result = d != NULL ? draft_copy(d, &copy) : -EACCES;
    struct data bytes = writer_data(&copy.bytes);
    if (result == 0 && dir->kind == NODE_COLLECTION &&
        strcmp(name, "primary") == 0)
        return rename_over_primary(r, n, bytes);
    if (result == 0)
        result = tree_place(r->fs, dir, name, PLACE_RENAMED, &r->caller, &c);
    if (result != 0)
        return result;
    if (c != NULL)
        return rename_over_cache(r, n, c, bytes);
    return n->kind == NODE_SCRATCH ? scratch_rename(r->fs, n, dir, name)
                                   : -EACCES;
}

static int
rename_cache(struct request *r, struct node *n, struct node *dir,
             const char *name)
{
    _cleanup_(content_unrefp) struct content *to = NULL;
    _cleanup_(content_unrefp) struct content *from =
        user_content(n->content->user, n->content->name);
    if (from == NULL)
        return -ENOMEM;
    int result = tree_place(r->fs, dir, name, PLACE_RENAMED, &r->caller, &to);
    if (result != 0)
        return result;
    if (to == NULL)
        return -EACCES; /* a cache is no scratch file */
    result = change_move(from, to, &r->caller);
    if (result == 0 && to != from) {
        status_audit_change(r->fs, &r->caller, "moves", from);
        status_audit_change(r->fs, &r->caller, "replaces", to);
        scratch_unborn_drop(to);
        reserve(from, RESERVED_MS);
    }
    return result;
}

static int
rename_any(struct request *r, const char *name, fuse_ino_t newparent,
           const char *newname)
{
    struct node *n = NULL, *dir = node_of(r->fs, newparent);
    int result = dir == NULL ? -ESTALE : find(r, name, &n);
    if (result == 0 && dir->uid != EVERYBODY && dir->uid != r->caller.uid)
        result = -EACCES;
    if (result == 0 && n->kind == NODE_CACHE && n->image != NULL)
        result = rename_cache(r, n, dir, newname);
    else if (result == 0 && (n->kind == NODE_SCRATCH || n->kind == NODE_CACHE))
        result = rename_draft(r, n, dir, newname);
    else if (result == 0)
        result = -EACCES;
    node_unref(r->fs, n);
    node_unref(r->fs, dir);
    return result;
}

void
op_rename(fuse_req_t req, fuse_ino_t parent, const char *name,
          fuse_ino_t newparent, const char *newname, unsigned int flags)
{
    struct request r;
    if (!request_begin(&r, req, parent, "rename"))
        return;
    int result =
        flags != 0 ? -EINVAL : rename_any(&r, name, newparent, newname);
    answer_error(&r, result);
}
