/*
 * Requests about open files.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#include "fs/ops.h"

static void
handle_free(struct fs *fs, struct handle *h)
{
    if (h == NULL)
        return;
    if (h->text != NULL) {
        pthread_mutex_lock(&fs->lock);
        if (--h->node->opens == 0)
            blob_unref(take(h->node->text));
        pthread_mutex_unlock(&fs->lock);
        blob_unref(h->text);
    }
    node_unref(fs, h->node);
    free(h);
}

/* A generated file: its bytes are those of this moment. */
static int
open_text(struct fs *fs, struct handle *h, struct fuse_file_info *fi)
{
    struct node *n = h->node;
    int r = 0;
    if (n->content != NULL)
        r = content_refresh(n->content, &h->caller, 0);
    if (r == 0)
        r = text_of(fs, n, &h->caller, &h->text);
    if (r != 0)
        return r;
    pthread_mutex_lock(&fs->lock);
    blob_unref(n->text);
    n->text = blob_ref(h->text);
    n->opens++;
    pthread_mutex_unlock(&fs->lock);
    fi->direct_io = 1;
    return 0;
}

static int
open_cache(struct fs *fs, struct handle *h, struct fuse_file_info *fi)
{
    enum open_outcome outcome;
    int r = content_open(h->node->content, h, &outcome);
    if (r != 0)
        return r;
    switch (outcome) {
    case OPEN_STALE:
        return -ESTALE;
    case OPEN_KEEP:
        fi->keep_cache = 1;
        break;
    case OPEN_FRESH:
        /* Attributes only: with an offset it could wait for a READ. */
        fuse_lowlevel_notify_inval_inode(fs->session, h->node->ino, -1, 0);
        break;
    case OPEN_PINNED:
        fi->direct_io = 1;
        break;
    }
#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 11)
    fi->noflush = 1;
#endif
    return 0;
}

void
op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct request r;
    if (!request_begin(&r, req, ino, "open"))
        return;
    struct handle *h = calloc(1, sizeof(*h));
    if (h == NULL) {
        answer_error(&r, -ENOMEM);
        return;
    }
    h->caller = r.caller;
    h->flags = fi->flags;
    h->node = take(r.node);
    int result = (fi->flags & O_ACCMODE) != O_RDONLY ? -EROFS
                 : h->node->kind == NODE_CACHE       ? open_cache(r.fs, h, fi)
                                                     : open_text(r.fs, h, fi);
    if (result != 0) {
        handle_free(r.fs, h);
        answer_error(&r, result);
        return;
    }
    fi->fh = (uintptr_t)h;
    request_end(&r);
    if (fuse_reply_open(req, fi) == -ENOENT) {
        if (h->node->kind == NODE_CACHE)
            content_close(h->node->content, h);
        handle_free(r.fs, h);
    }
}

void
op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
        struct fuse_file_info *fi)
{
    struct fs *fs = fuse_req_userdata(req);
    struct handle *h = handle_of(fi);
    _cleanup_(image_unrefp) struct image *image = NULL;
    struct data d = {NULL, 0};
    (void)ino;
    if (h->text != NULL) {
        d = (struct data){h->text->bytes, h->text->len};
    } else {
        pthread_mutex_lock(&fs->lock);
        image = image_ref(h->pinned != NULL ? h->pinned : h->node->image);
        pthread_mutex_unlock(&fs->lock);
        d = image_bytes(image);
    }
    if (off < 0 || (size_t)off >= d.len)
        size = 0;
    else if (size > d.len - (size_t)off)
        size = d.len - (size_t)off;
    fuse_reply_buf(req, size > 0 ? (const char *)d.p + off : NULL, size);
}

void
op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct fs *fs = fuse_req_userdata(req);
    struct handle *h = handle_of(fi);
    (void)ino;
    if (h->node->kind == NODE_CACHE)
        content_close(h->node->content, h);
    handle_free(fs, h);
    fuse_reply_err(req, 0);
}
