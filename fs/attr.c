/*
 * What stat() says of a node.
 */
#include <string.h>

#include "fs/content.h"
#include "fs/draft.h"
#include "fs/tree.h"

static mode_t
mode_of(enum node_kind kind)
{
    switch (kind) {
    case NODE_ROOT:
    case NODE_BY_NAME:
    case NODE_BY_PRINCIPAL:
    case NODE_COLLECTION:
        return S_IFDIR | 01777;
    case NODE_META:
        return S_IFDIR | 0755;
    case NODE_DEFAULT:
    case NODE_PRINCIPAL_LINK:
        return S_IFLNK | 0777;
    case NODE_CACHE_DIR:
    case NODE_TICKETS:
    case NODE_CONFIG:
        return S_IFDIR | 0700;
    case NODE_CACHE:
    case NODE_CONFIG_VALUE:
    case NODE_PRIMARY:
    case NODE_SCRATCH:
        return S_IFREG | 0600;
    default:
        return S_IFREG | 0400;
    }
}

static struct timespec
ticket_mtime(struct content *c, const char *name)
{
    _cleanup_(tickets_unrefp) struct ticket_table *t = NULL;
    const struct ticket_name *found = NULL;
    if (tickets_of(c, &t) == 0)
        found = tickets_find(t->ticket, t->tickets, name);
    struct cred cred;
    struct blob *b =
        found != NULL ? t->snapshot->creds[found->index].bytes : NULL;
    if (b == NULL || !cred_parse((struct data){b->bytes, b->len}, &cred))
        return content_mtime(c);
    return (struct timespec){.tv_sec = cred_start(&cred)};
}

/* What a generated file holds now, or held when it was opened. */
static int
text_size(struct fs *fs, struct node *n, const struct caller *caller,
          off_t *size_out)
{
    pthread_mutex_lock(&fs->lock);
    bool open = n->opens > 0 && n->text != NULL;
    *size_out = open ? (off_t)n->text->len : 0;
    pthread_mutex_unlock(&fs->lock);
    if (open)
        return 0;
    _cleanup_(blob_unrefp) struct blob *text = NULL;
    int r = text_of(fs, n, caller, &text);
    if (r == 0)
        *size_out = (off_t)text->len;
    return r;
}

static int
cache_attr(struct fs *fs, struct node *n, const struct caller *caller,
           bool refresh, struct stat *st)
{
    pthread_mutex_lock(&fs->lock);
    bool open = n->opens > 0;
    pthread_mutex_unlock(&fs->lock);
    if (refresh && !open && !n->unlinked && n->draft == NULL) {
        int r = content_refresh(n->content, caller, FRESH_MS);
        if (r != 0)
            return r;
    }
    pthread_mutex_lock(&fs->lock);
    if (n->draft != NULL) {
        st->st_size = (off_t)draft_size(n->draft);
        st->st_mtim = n->mtime;
    } else {
        /* What an open would show: one that nobody has open may be out of
         * date, or dropped. */
        const struct image *i = n->image;
        if (n->opens == 0 && !n->unlinked && n->content->image != NULL)
            i = n->content->image;
        size_t len = i != NULL ? i->len : 0;
        if (n->old_len > 0)
            len = n->old_len;
        if (len > n->kernel_len)
            n->kernel_len = len;
        st->st_size = (off_t)len;
        st->st_mtim = n->content->mtime;
    }
    st->st_nlink = n->unlinked ? 0 : 1;
    pthread_mutex_unlock(&fs->lock);
    return 0;
}

static int
scratch_attr(struct fs *fs, struct node *n, struct stat *st)
{
    pthread_mutex_lock(&fs->lock);
    if (n->target != NULL) {
        st->st_mode = S_IFLNK | 0777;
        st->st_size = (off_t)strlen(n->target);
    } else {
        st->st_size = (off_t)draft_size(n->draft);
    }
    st->st_mtim = n->mtime;
    st->st_nlink = n->unlinked ? 0 : 1;
    pthread_mutex_unlock(&fs->lock);
    return 0;
}

static int
content_attr(struct fs *fs, struct node *n, const struct caller *caller,
             struct stat *st)
{
    struct timespec changed = content_mtime(n->content);
    if (changed.tv_sec != 0) /* else there was no cache yet */
        st->st_mtim = changed;
    if (n->kind == NODE_TICKET)
        st->st_mtim = ticket_mtime(n->content, n->name);
    if (S_ISDIR(st->st_mode))
        return 0;
    return text_size(fs, n, caller, &st->st_size);
}

int
tree_attr(struct fs *fs, struct node *n, const struct caller *caller,
          bool refresh, struct stat *st)
{
    int r = 0;
    *st = (struct stat){
        .st_ino = n->ino,
        .st_mode = mode_of(n->kind),
        .st_uid = n->uid == EVERYBODY ? fs->owner : n->uid,
        .st_gid = n->uid == EVERYBODY ? fs->group : caller->gid,
        .st_blksize = 4096,
        .st_mtim = {.tv_sec = fs->started},
    };
    st->st_nlink = S_ISDIR(st->st_mode) ? 2 : 1;
    if (n->kind == NODE_CACHE)
        r = cache_attr(fs, n, caller, refresh, st);
    else if (n->kind == NODE_SCRATCH)
        r = scratch_attr(fs, n, st);
    else if (n->content != NULL)
        r = content_attr(fs, n, caller, st);
    else if (n->kind == NODE_PRIMARY || n->kind == NODE_STATUS)
        r = text_size(fs, n, caller, &st->st_size);
    st->st_atim = st->st_ctim = st->st_mtim;
    st->st_blocks = (st->st_size + 511) / 512;
    return r;
}
