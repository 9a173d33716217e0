/*
 * Threads that were told that what they open is stale (ESTALE).  The kernel
 * looks the path up again, once: what it finds then must do.
 */
#ifndef FS_TOLD_H
#define FS_TOLD_H

#include "fs/fs.h"

enum told {
    TOLD_NOTHING,
    TOLD_SAME,   /* it comes by no path: a bind mount or /proc/self/fd */
    TOLD_LOOKED, /* it looked again, and the node that it has was right after
                  * it began to */
    TOLD_OTHER,  /* that is not known: the kernel let it have what another
                  * thread had looked up */
};

/* h's thread is told that its node is stale. */
void told_note_locked(struct fs *fs, const struct handle *h);
/* Was it told, and of which node? */
enum told told_before_locked(struct fs *fs, const struct handle *h);
/* The same for nodes that are not looked at closely: is it to be told now? */
bool told_now(struct fs *fs, const struct handle *h);
/* An open of that thread has ended, and was not answered ESTALE. */
void told_forget(struct fs *fs, pid_t pid);
/* A LOOKUP of that thread: does it look again, and did it truncate? */
bool told_look_locked(struct fs *fs, pid_t pid, bool *truncates_out);
/* What a LOOKUP of u's thread was answered, an error or 0.  When it is final
 * that the thread finds nothing, it opens nothing. */
void told_looked(struct fs *fs, struct user *u, pid_t pid, int result);

#endif
