/*
 * Requests that open files.
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
#include "fs/told.h"
#include "fs/tree.h"
#include "fs/user.h"

/* A generated file: its bytes are those of this moment. */
static int
open_text(struct fs *fs, struct handle *h, struct fuse_file_info *fi)
{
    struct node *n = h->node;
    bool writable = n->kind == NODE_PRIMARY || n->kind == NODE_CONFIG_VALUE;
    int r = 0;
    if (handle_is_writer(h) && !writable)
        return -EACCES;
    if (n->content != NULL)
        r = content_refresh(n->content, &h->caller, 0);
    if (r == 0)
        r = text_of(fs, n, &h->caller, &h->text);
    if (r == 0 && handle_is_writer(h)) {
        r = draft_new(user_get(fs, h->caller.uid), &h->draft);
        if (r == 0 && (h->flags & O_TRUNC) == 0)
            r = draft_write(h->draft, 0, blob_data(h->text));
    }
    /* The kernel found it by a name it remembered: it looks again, and may
     * create it. */
    if (r == KCM_NOT_FOUND && told_now(fs, h))
        return -ESTALE;
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
open_draft(struct fs *fs, struct handle *h, struct draft *d,
           struct fuse_file_info *fi)
{
    if (handle_is_writer(h) && (h->flags & O_TRUNC))
        (void)draft_truncate(d, 0);
    pthread_mutex_lock(&fs->lock);
    content_opened_locked(h->node);
    if (handle_is_writer(h))
        clock_gettime(CLOCK_REALTIME, &h->node->mtime);
    pthread_mutex_unlock(&fs->lock);
    fi->direct_io = 1;
    return 0;
}

int
open_opened(struct handle *h, int result, enum open_outcome outcome,
            struct fuse_file_info *fi)
{
    if (result != 0)
        return result;
    if (outcome == OPEN_STALE)
        return -ESTALE;
    fi->keep_cache = outcome == OPEN_KEEP;
    fi->direct_io = !h->cached;
#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 11)
    fi->noflush = !handle_is_writer(h);
#endif
    int r = handle_is_writer(h) ? change_opened(h) : 0;
    if (r != 0)
        handle_close(h->user->fs, h);
    return r;
}

static int
open_cache(struct fs *fs, struct handle *h, struct fuse_file_info *fi)
{
    enum open_outcome outcome;
    _cleanup_(content_unrefp) struct content *c = content_of(fs, h->node);
    int r = content_open(c, h, &outcome);
    return open_opened(h, r, outcome, fi);
}

static int
open_by_kind(struct fs *fs, struct handle *h, struct fuse_file_info *fi)
{
    struct node *n = h->node;
    if (handle_is_writer(h) && fs->config.read_only)
        return -EROFS;
    _cleanup_(draft_unrefp) struct draft *draft = draft_of(fs, n);
    /* The kernel may remember its name for longer than it has it. */
    if (draft != NULL && n->kind == NODE_CACHE && node_is_unlinked(fs, n) &&
        told_now(fs, h))
        return -ESTALE;
    if (draft != NULL)
        return open_draft(fs, h, draft, fi);
    if (n->kind == NODE_CACHE)
        return open_cache(fs, h, fi);
    if (n->kind == NODE_SCRATCH)
        return -ELOOP; /* a link */
    return open_text(fs, h, fi);
}

static int
open_any(struct fs *fs, struct handle *h, struct fuse_file_info *fi)
{
    int r = open_by_kind(fs, h, fi);
    if (r != -ESTALE)
        told_forget(fs, h->caller.pid);
    return r;
}

void
open_answer(struct request *r, struct handle *h, struct fuse_file_info *fi,
            int result)
{
    struct fs *fs = r->fs;
    fuse_req_t req = r->req;
    if (result != 0) {
        handle_free(fs, h);
        answer_error(r, result);
        return;
    }
    fi->fh = (uintptr_t)h;
    status_audit(fs, h);
    request_end(r);
    if (fuse_reply_open(req, fi) == -ENOENT) {
        handle_close(fs, h);
        handle_free(fs, h);
    }
}

void
op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct request r;
    struct content *serves;
    if (!request_begin(&r, req, ino, "open"))
        return;
    struct handle *h;
    int result = handle_new(r.fs, r.node, &r.caller, fi->flags, &h);
    if (result != 0) {
        told_forget(r.fs, r.caller.pid);
        answer_error(&r, result);
        return;
    }
    r.node = NULL;
    if (parked_open(&r, h, fi, &serves))
        return;
    open_answer(&r, h, fi, open_any(r.fs, h, fi));
    if (serves != NULL)
        parked_serve(serves);
}

/* *made_out: the name is new. */
static int
create_node(struct request *r, const char *name, int flags, struct node **out,
            bool *made_out)
{
    _cleanup_(content_unrefp) struct content *c = NULL;
    int result =
        tree_place(r->fs, r->node, name, PLACE_CREATED, &r->caller, &c);
    *made_out = false;
    if (result == 0 && c != NULL && content_told_absent(c, &r->caller)) {
        pthread_mutex_lock(&r->fs->lock);
        *made_out = c->unborn == NULL;
        pthread_mutex_unlock(&r->fs->lock);
        return scratch_unborn(c, out);
    }
    int found = tree_lookup(r->fs, r->node, name, &r->caller, out);
    if (found == 0 && (flags & O_EXCL)) {
        node_unref(r->fs, take(*out));
        return -EEXIST; /* somebody was faster */
    }
    if (found != KCM_NOT_FOUND)
        return found;
    *made_out = true;
    if (result == 0 && c != NULL)
        result = scratch_unborn(c, out);
    else if (result == 0)
        result = scratch_create(r->fs, r->node, r->caller.uid, name, out);
    return result;
}

/* A name whose file could not be opened is not left behind: O_EXCL would
 * find it. */
static void
uncreate(struct fs *fs, struct node *n)
{
    pthread_mutex_lock(&fs->lock);
    bool open = n->opens > 0;
    pthread_mutex_unlock(&fs->lock);
    if (n->kind != NODE_SCRATCH)
        scratch_unborn_undo(n);
    else if (!open)
        scratch_unlink(fs, n);
}

void
op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
          struct fuse_file_info *fi)
{
    struct request r;
    struct node *n = NULL;
    struct fuse_entry_param e;
    (void)mode;
    if (!request_begin(&r, req, parent, "create"))
        return;
    bool made = false;
    int result = r.fs->config.read_only
                     ? -EROFS
                     : create_node(&r, name, fi->flags, &n, &made);
    if (result != 0) {
        answer_error(&r, result);
        return;
    }
    struct fs *fs = r.fs;
    struct handle *h;
    result = handle_new(fs, n, &r.caller, fi->flags, &h);
    if (result != 0) {
        told_forget(fs, r.caller.pid);
        if (made)
            uncreate(fs, n);
        node_unref(fs, n);
        answer_error(&r, result);
        return;
    }
    result = open_any(fs, h, fi);
    if (result == 0) {
        result = describe_entry(&r, n, &e);
        if (result != 0)
            handle_close(fs, h);
    }
    if (result != 0) {
        if (made)
            uncreate(fs, n);
        handle_free(fs, h);
        answer_error(&r, result);
        return;
    }
    fi->fh = (uintptr_t)h;
    node_looked_up(fs, n);
    status_audit(fs, h);
    request_end(&r);
    if (fuse_reply_create(req, &e, fi) == -ENOENT) {
        node_forget(fs, e.ino, 1);
        handle_close(fs, h);
        handle_free(fs, h);
    }
}
