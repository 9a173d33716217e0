/*
 * What the ops_*.c share: a FUSE request being answered.  These files are
 * thin: resolve, call, map, reply.
 */
#ifndef FS_OPS_H
#define FS_OPS_H

#ifndef FUSE_USE_VERSION
#define FUSE_USE_VERSION 310
#endif
#include <fuse_lowlevel.h>

#include "fs/content.h"
#include "fs/user.h"

struct request {
    fuse_req_t req;
    struct fs *fs;
    struct caller caller;
    struct user *user; /* of the caller's uid */
    struct node *node; /* referenced; NULL for one on an open file */
    const struct node *of_handle; /* of that open file; else NULL */
    const char *operation;        /* for the log and .kcmfs/status */
    int64_t begun_us;
};

/*
 * Begin to answer: find the node and who asks.  False when the request was
 * answered with an error already.  Each request that began ends with
 * request_end() or one of the answers below.
 */
bool request_begin(struct request *r, fuse_req_t req, fuse_ino_t ino,
                   const char *operation);
/* For GETATTR, which does not say by which descriptor: on an open file it is
 * for whoever may hold one.  The answer needs nothing from KCM then. */
bool request_begin_attr(struct request *r, fuse_req_t req, fuse_ino_t ino);
/* The same for an operation on an open file: as who opened it. */
bool request_begin_handle(struct request *r, fuse_req_t req,
                          const struct fuse_file_info *fi,
                          const char *operation);
/* Last thing before the reply: no interrupt reaches us from here on. */
void request_end(struct request *r);
/* It is left unanswered, for another thread that goes on with it. */
void request_leave(void);
void request_resume(struct request *r);
/* What request_end() does where the interrupt has come. */
void request_give_up(struct request *r);

/* n as an entry of r->node, for a reply. */
int describe_entry(struct request *r, struct node *n,
                   struct fuse_entry_param *e);
void answer_error(struct request *r, int result); /* 0 too */
/* Answer with n as the new or found entry; takes over the reference. */
void answer_entry(struct request *r, struct node *n);
void answer_attr(struct request *r, struct node *n, bool refresh);

static inline struct handle *
handle_of(const struct fuse_file_info *fi)
{
    return (struct handle *)(uintptr_t)fi->fh;
}

/* parked.c: opens that share a check */
/*
 * Leave the OPEN of h to the thread that is opening the same cache: true.  If
 * false, go on; and if *serves_out is set, call parked_serve() with it as soon
 * as it is answered.
 */
bool parked_open(struct request *r, struct handle *h,
                 const struct fuse_file_info *fi, struct content **serves_out);
void parked_serve(struct content *c);
/* ops_open.c: content_open() of h gave result and outcome */
int open_opened(struct handle *h, int result, enum open_outcome outcome,
                struct fuse_file_info *fi);
/* Answer the OPEN of h. */
void open_answer(struct request *r, struct handle *h,
                 struct fuse_file_info *fi, int result);

/* ops_dir.c */
void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name);
void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t count);
void op_forget_multi(fuse_req_t req, size_t count,
                     struct fuse_forget_data *forgets);
void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_readlink(fuse_req_t req, fuse_ino_t ino);
void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
                struct fuse_file_info *fi);
void op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
/* ops_meta.c */
void op_statfs(fuse_req_t req, fuse_ino_t ino);
void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name,
                 size_t size);
void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size);
/* ops_file.c */
void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
             struct fuse_file_info *fi);
void op_create(fuse_req_t req, fuse_ino_t parent, const char *name,
               mode_t mode, struct fuse_file_info *fi);
void op_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size,
              off_t off, struct fuse_file_info *fi);
void op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync,
              struct fuse_file_info *fi);
void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int set,
                struct fuse_file_info *fi);
/* ops_name.c */
int name_primary(struct fs *fs, const struct caller *caller,
                 struct data bytes);
void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name);
void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name);
void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name,
              mode_t mode);
void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent,
                const char *name);
void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name,
               fuse_ino_t newparent, const char *newname, unsigned int flags);

extern const struct fuse_lowlevel_ops fs_ops;

#endif
