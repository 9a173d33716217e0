/*
 * Requests about names, attributes, directories and links.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fs/node.h"
#include "fs/ops.h"
#include "fs/told.h"
#include "fs/tree.h"

/* The kernel replaces it by what LOOKUP says; any non-zero number will do. */
#define UNKNOWN_INO 0xffffffffu

void
op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct request r;
    struct node *n = NULL;
    if (!request_begin(&r, req, parent, "lookup"))
        return;
    int result = tree_lookup(r.fs, r.node, name, &r.caller, &n);
    told_looked(r.fs, r.user, r.caller.pid, result);
    if (result != 0)
        answer_error(&r, result);
    else
        answer_entry(&r, n);
}

void
op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t count)
{
    secret_defer();
    node_forget(fuse_req_userdata(req), ino, count);
    secret_settle();
    fuse_reply_none(req);
}

void
op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
    struct fs *fs = fuse_req_userdata(req);
    secret_defer();
    for (size_t i = 0; i < count; i++)
        node_forget(fs, forgets[i].ino, forgets[i].nlookup);
    secret_settle();
    fuse_reply_none(req);
}

void
op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct request r;
    (void)fi;
    if (request_begin_attr(&r, req, ino))
        answer_attr(&r, r.node, true);
}

void
op_readlink(fuse_req_t req, fuse_ino_t ino)
{
    struct request r;
    _cleanup_(freep) char *target = NULL;
    if (!request_begin(&r, req, ino, "readlink"))
        return;
    int result = tree_readlink(r.fs, r.node, &r.caller, &target);
    if (result != 0) {
        answer_error(&r, result);
        return;
    }
    request_end(&r);
    fuse_reply_readlink(req, target);
}

void
op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct request r;
    if (!request_begin(&r, req, ino, "opendir"))
        return;
    struct handle *h;
    int result = handle_new(r.fs, r.node, &r.caller, fi->flags, &h);
    if (result != 0) {
        answer_error(&r, result);
        return;
    }
    r.node = NULL;
    fi->fh = (uintptr_t)h;
    request_end(&r);
    if (fuse_reply_open(req, fi) == -ENOENT)
        handle_free(r.fs, h);
}

static size_t
fill(fuse_req_t req, const struct dir_list *l, off_t off, char *buf,
     size_t size)
{
    size_t used = 0;
    for (size_t i = (size_t)off; i < l->count; i++) {
        struct stat st = {.st_ino = UNKNOWN_INO,
                          .st_mode = l->entries[i].type};
        size_t n = fuse_add_direntry(req, buf + used, size - used,
                                     l->entries[i].name, &st, (off_t)i + 1);
        if (n > size - used)
            break;
        used += n;
    }
    return used;
}

void
op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
           struct fuse_file_info *fi)
{
    struct request r;
    struct handle *h = handle_of(fi);
    (void)ino;
    if (!request_begin_handle(&r, req, fi, "readdir"))
        return;
    int result = 0;
    if (off == 0 || h->list == NULL) {
        dir_list_free(take(h->list));
        result = tree_list(r.fs, h->node, &r.caller, &h->list);
    }
    _cleanup_(freep) char *buf = result == 0 ? malloc(size) : NULL;
    if (result != 0 || buf == NULL || off < 0) {
        answer_error(&r, result != 0 ? result : -ENOMEM);
        return;
    }
    size_t used = fill(req, h->list, off, buf, size);
    request_end(&r);
    fuse_reply_buf(req, buf, used);
}

void
op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino;
    handle_free(fuse_req_userdata(req), handle_of(fi));
    fuse_reply_err(req, 0);
}
