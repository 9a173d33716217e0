/*
 * Who was told that a file is stale: one place for each of some thread
 * numbers.  Two that share one at the same moment cost one of them an ESTALE.
 */
#include <errno.h>

#include "fs/node.h"
#include "fs/told.h"
#include "fs/user.h"

/* The kernel looks at what it remembers, and then once more, without. */
#define LOOKS 2

static struct told_stale *
place_of(struct fs *fs, pid_t pid)
{
    return &fs->told_stale[(unsigned)pid % TOLD_STALE];
}

static bool
is_told(const struct told_stale *t, pid_t pid)
{
    return t->ino != 0 && t->pid == pid;
}

void
told_note_locked(struct fs *fs, const struct handle *h)
{
    *place_of(fs, h->caller.pid) = (struct told_stale){
        .pid = h->caller.pid,
        .truncates = handle_truncates(h),
        .ino = h->node->ino,
        .told = fs->epoch,
        .epoch = fs->epoch,
    };
}

enum told
told_before_locked(struct fs *fs, const struct handle *h)
{
    const struct told_stale *t = place_of(fs, h->caller.pid);
    if (!is_told(t, h->caller.pid))
        return TOLD_NOTHING;
    if (t->ino == h->node->ino)
        return TOLD_SAME;
    /* A look that failed may have been the answer to others, too, who waited
     * for it in the kernel: they opened nothing, and this is a later open. */
    bool looked = t->looks > 0 && h->user->failed_look <= t->told;
    return looked && h->node->right > t->epoch ? TOLD_LOOKED : TOLD_OTHER;
}

bool
told_now(struct fs *fs, const struct handle *h)
{
    pthread_mutex_lock(&fs->lock);
    bool now = told_before_locked(fs, h) == TOLD_NOTHING;
    if (now)
        told_note_locked(fs, h);
    pthread_mutex_unlock(&fs->lock);
    return now;
}

void
told_forget(struct fs *fs, pid_t pid)
{
    pthread_mutex_lock(&fs->lock);
    struct told_stale *t = place_of(fs, pid);
    if (is_told(t, pid))
        t->ino = 0;
    pthread_mutex_unlock(&fs->lock);
}

bool
told_look_locked(struct fs *fs, pid_t pid, bool *truncates_out)
{
    struct told_stale *t = place_of(fs, pid);
    if (!is_told(t, pid))
        return false;
    t->looks++;
    t->epoch = fs->epoch;
    *truncates_out = t->truncates;
    return true;
}

void
told_looked(struct fs *fs, struct user *u, pid_t pid, int result)
{
    pthread_mutex_lock(&fs->lock);
    struct told_stale *t = place_of(fs, pid);
    if (result != 0)
        u->failed_look = fs->epoch + 1;
    t->failed = result != 0 ? t->failed + 1 : 0;
    bool last = t->failed >= LOOKS || result == -EINTR || result == -ENOMEM;
    if (is_told(t, pid) && last)
        t->ino = 0;
    pthread_mutex_unlock(&fs->lock);
}
