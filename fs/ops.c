/*
 * Requests: who asks, about what, and the common answers; the table.
 */
#include "fs/ops.h"
#include "fs/node.h"
#include "fs/tree.h"
#include "fs/user.h"

#include <errno.h>
#include <string.h>

#include "kcm/log.h"

static void
interrupted(fuse_req_t req, void *wake)
{
    (void)req;
    wake_interrupt(wake);
}

static int64_t
now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* Requests of one uid at a time: of the threads that there can be (mount.c)
 * enough stay for the others while a daemon hangs for one.  What has a file
 * open may do more: a close that fails loses what was written. */
#define REQUESTS_PER_UID 256u
#define ON_OPEN_FILES    128u

/* Fill in the caller but for who it is. */
static bool
arm(struct request *r, const char *operation, unsigned limit)
{
    r->operation = operation;
    struct user *u = user_get(r->fs, r->caller.uid);
    if (u == NULL) {
        fuse_reply_err(r->req, ENOMEM);
        return false;
    }
    if (__atomic_fetch_add(&u->requests, 1, __ATOMIC_RELAXED) >= limit) {
        __atomic_fetch_sub(&u->requests, 1, __ATOMIC_RELAXED);
        fuse_reply_err(r->req, EAGAIN);
        return false;
    }
    r->user = u;
    r->begun_us = now_us();
    kcm_start(r->fs->kcm, &r->caller);
    r->caller.wake = wake_mine();
    int error = errno;
    log_context(r->caller.uid, operation);
    if (r->caller.wake == NULL) {
        __atomic_fetch_sub(&u->requests, 1, __ATOMIC_RELAXED);
        log_context_clear();
        fuse_reply_err(r->req, error);
        return false;
    }
    secret_defer();
    fuse_req_interrupt_func(r->req, interrupted, r->caller.wake);
    return true;
}

void
request_resume(struct request *r)
{
    log_context(r->caller.uid, r->operation);
    r->caller.wake = wake_mine();
    secret_defer();
    fuse_req_interrupt_func(r->req, interrupted, r->caller.wake);
}

static bool
is_open(struct fs *fs, const struct node *n)
{
    pthread_mutex_lock(&fs->lock);
    bool open = n->opens > 0;
    pthread_mutex_unlock(&fs->lock);
    return open;
}

static bool
begin(struct request *r, fuse_req_t req, fuse_ino_t ino, const char *operation,
      bool open_will_do)
{
    const struct fuse_ctx *ctx = fuse_req_ctx(req);
    *r = (struct request){
        .req = req,
        .fs = fuse_req_userdata(req),
        .caller = {.uid = ctx->uid, .gid = ctx->gid, .pid = ctx->pid},
    };
    if (!arm(r, operation, REQUESTS_PER_UID))
        return false;
    r->node = node_of(r->fs, ino);
    int error = 0;
    if (r->node == NULL)
        error = -ESTALE;
    else if (r->node->uid != EVERYBODY && r->node->uid != ctx->uid &&
             !(open_will_do && is_open(r->fs, r->node)))
        error = -EACCES; /* root passes the kernel's check of modes */
    if (error != 0)
        answer_error(r, error);
    return error == 0;
}

bool
request_begin(struct request *r, fuse_req_t req, fuse_ino_t ino,
              const char *operation)
{
    return begin(r, req, ino, operation, false);
}

bool
request_begin_attr(struct request *r, fuse_req_t req, fuse_ino_t ino)
{
    return begin(r, req, ino, "getattr", true);
}

bool
request_begin_handle(struct request *r, fuse_req_t req,
                     const struct fuse_file_info *fi, const char *operation)
{
    struct handle *h = handle_of(fi);
    *r = (struct request){
        .req = req,
        .fs = fuse_req_userdata(req),
        .caller = {.uid = h->caller.uid,
                   .gid = h->caller.gid,
                   .pid = h->caller.pid},
        .of_handle = h->node,
    };
    return arm(r, operation, REQUESTS_PER_UID + ON_OPEN_FILES);
}

/* What vector registers held of tickets gets on the stack where a library
 * binds a function late. */
static void __attribute__((noinline)) wipe_stack(void)
{
    char unused[24 * 1024];
    explicit_bzero(unused, sizeof(unused));
}

void
request_leave(void)
{
    wipe_stack();
    secret_settle();
    log_context_clear();
}

void
request_give_up(struct request *r)
{
    status_count(r->user, r->operation, (uint64_t)(now_us() - r->begun_us));
    __atomic_fetch_sub(&r->user->requests, 1, __ATOMIC_RELAXED);
}

void
request_end(struct request *r)
{
    fuse_req_interrupt_func(r->req, NULL, NULL);
    node_unref(r->fs, r->node);
    r->node = NULL;
    request_leave();
    request_give_up(r);
}

/* What the one who asked, or an administrator, may want to know of. */
static void
note_failure(const struct request *r, int error)
{
    const struct node *n = r->node != NULL ? r->node : r->of_handle;
    struct user *u = user_get(r->fs, r->caller.uid);
    if (u == NULL || error == ENOENT || error == ESTALE || error == EINTR)
        return;
    status_failed(u, r->operation,
                  n != NULL && n->content != NULL ? n->content->name : NULL,
                  error);
}

void
answer_error(struct request *r, int result)
{
    fuse_req_t req = r->req;
    int error = fs_errno(result);
    if (error != 0)
        note_failure(r, error);
    request_end(r);
    fuse_reply_err(req, error);
}

/* How long the kernel may keep what a node looks like. */
static double
attr_timeout(const struct node *n)
{
    switch (n->kind) {
    case NODE_ROOT:
    case NODE_BY_NAME:
    case NODE_BY_PRINCIPAL:
    case NODE_COLLECTION:
    case NODE_META:
        return TIMEOUT_FIXED;
    case NODE_CACHE_DIR:
    case NODE_TICKETS:
    case NODE_CONFIG:
    case NODE_CACHE:
        return TIMEOUT_FILE;
    default:
        return 0;
    }
}

/* How long it may keep a name in dir.  A directory that several users enter
 * gives each something else for a name: not at all. */
static double
entry_timeout(struct fs *fs, const struct node *dir, const struct node *n)
{
    if (n->uid == EVERYBODY)
        return TIMEOUT_FIXED;
    if (n->kind == NODE_CACHE) {
        pthread_mutex_lock(&fs->lock);
        bool own = n->content->node != n; /* content_look_up() */
        pthread_mutex_unlock(&fs->lock);
        if (own)
            return 0;
    }
    if (n->kind == NODE_SCRATCH)
        return 0; /* what is created in tickets/ is gone when it is stored */
    bool one_user = fs->config.one_user && n->kind == NODE_CACHE_DIR;
    return dir->uid == EVERYBODY && !one_user ? 0 : TIMEOUT_FILE;
}

int
describe_entry(struct request *r, struct node *n, struct fuse_entry_param *e)
{
    *e = (struct fuse_entry_param){
        .ino = n->ino,
        .generation = 1,
        .attr_timeout = attr_timeout(n),
        .entry_timeout = entry_timeout(r->fs, r->node, n),
    };
    return tree_attr(r->fs, n, &r->caller, false, &e->attr);
}

void
answer_entry(struct request *r, struct node *n)
{
    struct fuse_entry_param e;
    int result = describe_entry(r, n, &e);
    if (result != 0) {
        node_unref(r->fs, n);
        answer_error(r, result);
        return;
    }
    struct fs *fs = r->fs;
    fuse_req_t req = r->req;
    node_looked_up(fs, n);
    node_unref(fs, n);
    request_end(r);
    if (fuse_reply_entry(req, &e) == -ENOENT)
        node_forget(fs, e.ino, 1); /* the caller was interrupted */
}

void
answer_attr(struct request *r, struct node *n, bool refresh)
{
    struct stat st;
    double timeout = attr_timeout(n);
    int result = tree_attr(r->fs, n, &r->caller, refresh, &st);
    /* The kernel found it by a name it remembered: it looks again. */
    if (result == KCM_NOT_FOUND)
        result = -ESTALE;
    if (result != 0) {
        answer_error(r, result);
        return;
    }
    fuse_req_t req = r->req;
    request_end(r);
    fuse_reply_attr(req, &st, timeout);
}

static void
drop_pages(struct fs *fs, uint64_t ino, off_t from)
{
    (void)fuse_lowlevel_notify_inval_inode(fs->session, ino, from, 0);
}

/* With an offset it could wait for a READ. */
static void
drop_attr(struct fs *fs, uint64_t ino)
{
    (void)fuse_lowlevel_notify_inval_inode(fs->session, ino, -1, 0);
}

static void
store_end(struct fs *fs, uint64_t ino, off_t end, uint8_t last)
{
    struct fuse_bufvec v = FUSE_BUFVEC_INIT(1);
    v.buf[0].mem = &last;
    (void)fuse_lowlevel_notify_store(fs->session, ino, end - 1, &v, 0);
}

static void
op_init(void *userdata, struct fuse_conn_info *conn)
{
    struct fs *fs = userdata;
    /* What OPEN says about the kernel's pages is exact: no guesses by
     * mtime.  READDIRPLUS would look up all to list a few. */
    conn->want &= ~(unsigned)(FUSE_CAP_AUTO_INVAL_DATA | FUSE_CAP_READDIRPLUS |
                              FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE |
                              FUSE_CAP_SPLICE_MOVE);
    /* Else one user's hanging LOOKUP or READDIR would block all others in the
     * same directory; see also mount.c. */
    conn->want |= conn->capable & FUSE_CAP_PARALLEL_DIROPS;
    fs->drop_attr = drop_attr;
    if (!fs->config.single_threaded) {
        fs->drop_pages = drop_pages;
        fs->store_end = store_end;
    }
    if (fs->ready != NULL)
        fs->ready(fs->ready_arg);
}

const struct fuse_lowlevel_ops fs_ops = {
    .init = op_init,
    .lookup = op_lookup,
    .forget = op_forget,
    .forget_multi = op_forget_multi,
    .getattr = op_getattr,
    .readlink = op_readlink,
    .opendir = op_opendir,
    .readdir = op_readdir,
    .releasedir = op_releasedir,
    .statfs = op_statfs,
    .getxattr = op_getxattr,
    .listxattr = op_listxattr,
    .open = op_open,
    .create = op_create,
    .read = op_read,
    .write = op_write,
    .flush = op_flush,
    .fsync = op_fsync,
    .release = op_release,
    .setattr = op_setattr,
    .unlink = op_unlink,
    .rmdir = op_rmdir,
    .mkdir = op_mkdir,
    .symlink = op_symlink,
    .rename = op_rename,
};
