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
/* Its open has ended, and was not answered ESTALE. */
void told_forget(struct fs *fs, const struct handle *h);
/* A LOOKUP of that thread: does it look again, and did it truncate? */
bool told_look_locked(struct fs *fs, pid_t pid, bool *truncates_out);
/* It found nothing.  When that is final the thread opens nothing. */
void told_absent_locked(struct fs *fs, pid_t pid);

#endif
