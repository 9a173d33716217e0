/*
 * Bytes that are no cache yet, and the names that they have.
 */
#ifndef FS_DRAFT_H
#define FS_DRAFT_H

#include "fs/fs.h"

/* --- draft.c: bytes that are no cache yet -------------------------------- */

/* Limits of scratch files, per uid. */
#define DRAFTS_PER_UID      256u
#define DRAFT_BYTES_PER_UID ((size_t)64 * 1024 * 1024)
#define DRAFT_BYTES         ((size_t)32 * 1024 * 1024)
#define COPIES_PER_UID      ((size_t)64 * 1024 * 1024)
#define DRAFT_AGE_S         (15 * 60)

struct draft {
    int refs; /* atomic */
    pthread_mutex_t lock;
    struct user *user; /* who is charged */
    struct writer bytes;
    size_t wants; /* no fewer bytes are worth a look at them; 0: not known */
};

int draft_new(struct user *u, struct draft **out); /* -EDQUOT */
struct draft *draft_ref(struct draft *d);
void draft_unref(struct draft *d);
DEFINE_CLEANUP(struct draft *, draft_unref)
/* 0, -EDQUOT or -EFBIG. */
int draft_write(struct draft *d, off_t off, struct data data);
int draft_truncate(struct draft *d, off_t size);
size_t draft_size(struct draft *d);
/* Who looked at it found that it takes so many bytes for what is missing;
 * that is forgotten when what was looked at changes. */
void draft_set_wants(struct draft *d, size_t size);
bool draft_falls_short(struct draft *d);
/* The draft of a node, with one reference, or NULL. */
struct draft *draft_of(struct fs *fs, struct node *n);
/* A copy of its bytes, while others may write to it: 0, or -EAGAIN where the
 * uid has too many under way. */
struct draft_copy {
    struct writer bytes;
    struct user *user;
};
int draft_copy(struct draft *d, struct draft_copy *out);
void draft_copy_free(struct draft_copy *copy);
/* The uid has so many bytes more, or less, in secret memory. */
int draft_charge(struct user *u, size_t bytes); /* -EDQUOT */
void draft_discharge(struct user *u, size_t bytes);

/* --- scratch.c: temporary files and links -------------------------------- */

/* The scratch node name in dir, with one reference, or NULL. */
struct node *scratch_find(struct fs *fs, struct node *dir, uid_t uid,
                          const char *name);
int scratch_create(struct fs *fs, struct node *dir, uid_t uid,
                   const char *name, struct node **out);
int scratch_symlink(struct fs *fs, struct node *dir, uid_t uid,
                    const char *name, const char *target, struct node **out);
/* It loses its name. */
void scratch_unlink(struct fs *fs, struct node *n);
void scratch_unlink_locked(struct fs *fs, struct node *n);
/* It gets another name; a scratch file there goes. */
int scratch_rename(struct fs *fs, struct node *n, struct node *dir,
                   const char *name);
/* A cache file that is created: plain bytes until its principal is whole. */
int scratch_unborn(struct content *c, struct node **out);
void scratch_unborn_drop(struct content *c);
/* n, which could not be opened, is to be no such file, if nobody else was
 * given it since. */
void scratch_unborn_undo(struct node *n);
/* The draft n becomes the file of c, which is no cache yet. */
void scratch_to_unborn(struct node *n, struct content *c);
/* Drop what nobody has touched for DRAFT_AGE_S, whoever's it is. */
void scratch_collect(struct fs *fs);

#endif
