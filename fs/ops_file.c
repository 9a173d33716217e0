/*
 * Requests about open files; ops_open.c opens them.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "fs/change.h"
#include "fs/content.h"
#include "fs/draft.h"
#include "fs/node.h"
#include "fs/ops.h"
#include "fs/user.h"

static void
reply_bytes(fuse_req_t req, struct data d, size_t size, off_t off)
{
    if (off < 0 || (size_t)off >= d.len)
        size = 0;
    else if (size > d.len - (size_t)off)
        size = d.len - (size_t)off;
    fuse_reply_buf(req, size > 0 ? (const char *)d.p + off : NULL, size);
}

static void
read_draft(fuse_req_t req, struct draft *d, size_t size, off_t off)
{
    pthread_mutex_lock(&d->lock);
    reply_bytes(req, writer_data(&d->bytes), size, off);
    pthread_mutex_unlock(&d->lock);
}

static bool
is_unchecked(struct fs *fs, struct handle *h)
{
    pthread_mutex_lock(&fs->lock);
    bool unchecked = h->unchecked;
    pthread_mutex_unlock(&fs->lock);
    return unchecked;
}

/* A handle that was opened unchecked reads its header, or is checked now;
 * false: an error was answered. */
static bool
check_before_read(fuse_req_t req, struct fuse_file_info *fi, off_t off,
                  size_t *size)
{
    struct fs *fs = fuse_req_userdata(req);
    struct handle *h = handle_of(fi);
    struct request r;
    pthread_mutex_lock(&fs->lock);
    struct image *image = h->node->image;
    size_t left = image != NULL && off >= 0 && (size_t)off < image->body
                      ? image->body - (size_t)off
                      : 0;
    pthread_mutex_unlock(&fs->lock);
    if (left > 0) {
        *size = *size < left ? *size : left;
        return true;
    }
    if (!request_begin_handle(&r, req, fi, "read"))
        return false;
    _cleanup_(content_unrefp) struct content *c = content_of(fs, h->node);
    int result = content_catch_up(c, h, &r.caller);
    if (result != 0) {
        answer_error(&r, result);
        return false;
    }
    request_end(&r);
    return true;
}

void
op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
        struct fuse_file_info *fi)
{
    struct fs *fs = fuse_req_userdata(req);
    struct handle *h = handle_of(fi);
    (void)ino;
    if (is_unchecked(fs, h) && !check_before_read(req, fi, off, &size))
        return;
    pthread_mutex_lock(&fs->lock);
    while (!h->cached && h->node->telling) /* fstat(2) may still be behind */
        pthread_cond_wait(&fs->told, &fs->lock);
    content_used_locked(h);
    if (h->cached)
        h->node->read_ms = now_ms();
    struct image *image = h->pinned != NULL ? h->pinned : h->node->image;
    size_t end = image != NULL ? image->len : 0;
    if (!h->cached && h->pinned == NULL && h->node->old_len > 0)
        end = h->node->old_len; /* as GETATTR has it */
    struct draft *draft = h->draft != NULL ? h->draft : h->node->draft;
    _cleanup_(image_unrefp) struct image *held =
        image != NULL ? image_ref(image) : NULL;
    _cleanup_(draft_unrefp) struct draft *held_draft =
        draft != NULL ? draft_ref(draft) : NULL;
    _cleanup_(blob_unrefp) struct blob *text =
        h->text != NULL ? blob_ref(h->text) : NULL;
    pthread_mutex_unlock(&fs->lock);
    /* Once this is answered h may be gone: the references last longer. */
    if (held_draft != NULL)
        read_draft(req, held_draft, size, off);
    else if (text != NULL)
        reply_bytes(req, blob_data(text), size, off);
    else if (held != NULL)
        reply_bytes(req, (struct data){image_bytes(held).p, end}, size, off);
    else
        fuse_reply_err(req, EIO);
}

/*
 * A change through h begins: who opened it acts, within this request's time.
 * Others that write through h wait until handle_end().
 */
static void
handle_begin(struct handle *h, const struct request *r)
{
    pthread_mutex_lock(&h->lock);
    h->caller.deadline = r->caller.deadline;
    h->caller.wake = r->caller.wake;
}

static void
handle_end(struct handle *h)
{
    pthread_mutex_unlock(&h->lock);
}

/* What is written to a file that is no cache: its own draft, or all's. */
static struct draft *
draft_to_write(struct fs *fs, struct handle *h)
{
    return h->draft != NULL ? draft_ref(h->draft) : draft_of(fs, h->node);
}

static int
write_any(struct fs *fs, struct handle *h, off_t off, struct data data)
{
    struct node *n = h->node;
    if (n->kind == NODE_CACHE)
        return change_write(h, off, data);
    _cleanup_(draft_unrefp) struct draft *d = draft_to_write(fs, h);
    if (d == NULL)
        return -EBADF;
    if (h->flags & O_APPEND)
        off = (off_t)draft_size(d);
    int r = draft_write(d, off, data);
    if (r == 0)
        h->dirty = true;
    pthread_mutex_lock(&fs->lock);
    clock_gettime(CLOCK_REALTIME, &n->mtime);
    pthread_mutex_unlock(&fs->lock);
    return r;
}

/* The kernel will take the file to be as long as it thinks it wrote. */
static void
note_write(struct fs *fs, struct node *n, size_t end)
{
    pthread_mutex_lock(&fs->lock);
    if (end > n->kernel_len)
        n->kernel_len = end;
    pthread_mutex_unlock(&fs->lock);
}

void
op_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size,
         off_t off, struct fuse_file_info *fi)
{
    struct request r;
    struct handle *h = handle_of(fi);
    (void)ino;
    if (!request_begin_handle(&r, req, fi, "write"))
        return;
    struct data data = {(const uint8_t *)buf, size};
    handle_begin(h, &r);
    note_write(r.fs, h->node, (size_t)off + size);
    int result = size > 0 ? write_any(r.fs, h, off, data) : 0;
    handle_end(h);
    /* libfuse keeps its buffer for the next request. */
    explicit_bzero((void *)(uintptr_t)buf, size);
    if (result != 0) {
        answer_error(&r, result);
        return;
    }
    request_end(&r);
    fuse_reply_write(req, size);
}

static int
flush_config(struct fs *fs, struct node *n, const struct caller *caller,
             struct data bytes)
{
    int r = change_set_config(n->content, caller, n->name, bytes);
    if (r == 0)
        status_audit_change(fs, caller, "sets an entry of", n->content);
    return r;
}

static int
flush_tickets(struct fs *fs, struct node *n, const struct caller *caller,
              struct data bytes)
{
    int r = change_store_file(n->content, caller, bytes);
    if (r == 0)
        status_audit_change(fs, caller, "adds entries to", n->content);
    return r;
}

/* Files created in tickets/ and config/ become entries of the cache. */
static int
flush_scratch(struct fs *fs, struct node *n, const struct caller *caller,
              struct data bytes)
{
    int r = n->parent == NODE_TICKETS ? flush_tickets(fs, n, caller, bytes)
                                      : flush_config(fs, n, caller, bytes);
    if (r == 0)
        scratch_unlink(fs, n);
    return r;
}

/* What is written to it stays there. */
static bool
is_mere_scratch_locked(const struct node *n)
{
    return n->kind == NODE_SCRATCH &&
           (n->unlinked || n->content == NULL ||
            (n->parent != NODE_TICKETS && n->parent != NODE_CONFIG));
}

static int
flush_any(struct fs *fs, struct handle *h)
{
    struct node *n = h->node;
    _cleanup_(draft_copy_free) struct draft_copy copy = {0};
    /* A rename makes a cache of it, an unlink nobody's. */
    pthread_mutex_lock(&fs->lock);
    enum node_kind kind = n->kind;
    bool mere = is_mere_scratch_locked(n);
    pthread_mutex_unlock(&fs->lock);
    if (kind == NODE_CACHE)
        return change_flush(h);
    if (mere)
        h->dirty = false;
    if (!h->dirty)
        return 0;
    _cleanup_(draft_unrefp) struct draft *d = draft_to_write(fs, h);
    int r = d != NULL ? draft_copy(d, &copy) : -EBADF;
    struct data bytes = writer_data(&copy.bytes);
    if (r == 0 && kind == NODE_SCRATCH)
        r = flush_scratch(fs, n, &h->caller, bytes);
    else if (r == 0 && kind == NODE_PRIMARY)
        r = name_primary(fs, &h->caller, bytes);
    else if (r == 0 && kind == NODE_CONFIG_VALUE)
        r = flush_config(fs, n, &h->caller, bytes);
    if (r == 0)
        h->dirty = false;
    return r;
}

static int
flush(const struct request *r, struct handle *h)
{
    if (!handle_is_writer(h))
        return 0;
    handle_begin(h, r);
    int result = flush_any(r->fs, h);
    handle_end(h);
    return result;
}

void
op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct request r;
    (void)ino;
    if (request_begin_handle(&r, req, fi, "flush"))
        answer_error(&r, flush(&r, handle_of(fi)));
}

void
op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync,
         struct fuse_file_info *fi)
{
    struct request r;
    (void)ino;
    (void)datasync;
    if (request_begin_handle(&r, req, fi, "fsync"))
        answer_error(&r, flush(&r, handle_of(fi)));
}

void
op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct fs *fs = fuse_req_userdata(req);
    struct handle *h = handle_of(fi);
    (void)ino;
    secret_defer();
    pthread_mutex_lock(&fs->lock);
    content_used_locked(h);
    pthread_mutex_unlock(&fs->lock);
    handle_close(fs, h);
    handle_free(fs, h);
    secret_settle();
    fuse_reply_err(req, 0);
}

/* truncate(2) by path has no handle: only what changes nothing, or empties
 * a file that is no cache yet. */
static int
truncate_node(struct fs *fs, struct node *n, off_t size)
{
    _cleanup_(draft_unrefp) struct draft *d = draft_of(fs, n);
    pthread_mutex_lock(&fs->lock);
    bool same = n->image != NULL && n->image->len == (size_t)size;
    pthread_mutex_unlock(&fs->lock);
    if (d == NULL)
        return same ? 0 : -EOPNOTSUPP;
    return draft_truncate(d, size);
}

static int
set_size(struct request *r, struct node *n, off_t size,
         struct fuse_file_info *fi)
{
    struct handle *h = fi != NULL ? handle_of(fi) : NULL;
    if (h == NULL)
        return truncate_node(r->fs, n, size);
    struct request as_opener = *r;
    as_opener.caller.uid = h->caller.uid;
    as_opener.caller.gid = h->caller.gid;
    handle_begin(h, &as_opener);
    int result = -EINVAL;
    _cleanup_(draft_unrefp) struct draft *d = draft_to_write(r->fs, h);
    if (n->kind == NODE_CACHE)
        result = change_truncate(h, size);
    else if (d != NULL)
        result = draft_truncate(d, size);
    handle_end(h);
    return result;
}

void
op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int set,
           struct fuse_file_info *fi)
{
    struct request r;
    int result = 0;
    if (!request_begin(&r, req, ino, "setattr"))
        return;
    struct node *n = r.node;
    if (r.fs->config.read_only)
        result = -EROFS;
    else if (n->uid == EVERYBODY)
        result = -EPERM;
    else if ((set & FUSE_SET_ATTR_UID) && attr->st_uid != n->uid)
        result = -EPERM; /* it is that uid's in KCM */
    else if (set & FUSE_SET_ATTR_SIZE)
        result = set_size(&r, n, attr->st_size, fi);
    /* Modes and times are what they are: accepted, without effect. */
    if (result != 0)
        answer_error(&r, result);
    else
        answer_attr(&r, n, false);
}
