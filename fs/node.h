/*
 * Nodes, which the kernel knows by number, and handles, which are nodes that
 * somebody has open.
 */
#ifndef FS_NODE_H
#define FS_NODE_H

#include "fs/fs.h"

/* --- node.c -------------------------------------------------------------- */

int nodes_init(struct fs *fs);
void nodes_free(struct fs *fs);
/*
 * The node of that identity, made if there is none, with one reference.
 * name may be NULL; content is referenced by a new node.  NULL: no memory.
 */
struct node *node_get(struct fs *fs, enum node_kind kind, uid_t uid,
                      struct content *content, uint64_t parent,
                      const char *name);
struct node *node_get_locked(struct fs *fs, enum node_kind kind, uid_t uid,
                             struct content *content, uint64_t parent,
                             const char *name);
/* A node that is there already, or NULL. */
struct node *node_find(struct fs *fs, enum node_kind kind, uid_t uid,
                       struct content *content, uint64_t parent,
                       const char *name);
/* Make a new node that node_find() does not find yet. */
struct node *node_new_locked(struct fs *fs, enum node_kind kind, uid_t uid,
                             struct content *content);
/* The node of an inode number of the kernel's, with one reference. */
struct node *node_of(struct fs *fs, uint64_t ino);
struct node *node_ref_locked(struct node *n);
void node_unref(struct fs *fs, struct node *n);
void node_unref_locked(struct fs *fs, struct node *n);
/* Take n out of the key table: its name is free. */
void node_unkey_locked(struct fs *fs, struct node *n);
void node_rekey_locked(struct fs *fs, struct node *n, uint64_t parent,
                       char *name);
/* It has lost its name; others may be about to take it away. */
bool node_is_unlinked(struct fs *fs, const struct node *n);
/* The kernel took, or gave back, references. */
void node_looked_up(struct fs *fs, struct node *n);
void node_forget(struct fs *fs, uint64_t ino, uint64_t count);

/* --- handle.c: open files and directories -------------------------------- */

/* Of one uid at a time: what a handle costs is locked memory. */
#define HANDLES_PER_UID 65536u

/* Takes over the reference to n.  -EMFILE: the uid has too many; -ENOMEM.
 * After an error the reference stays the caller's. */
int handle_new(struct fs *fs, struct node *n, const struct caller *caller,
               int flags, struct handle **out);
void handle_free(struct fs *fs, struct handle *h);
/* Its file is not open by it any more. */
void handle_close(struct fs *fs, struct handle *h);
bool handle_is_writer(const struct handle *h);
bool handle_truncates(const struct handle *h);
/* At the end: the kernel does not release what a mount that goes has open. */
void handles_free(struct fs *fs);

#endif
