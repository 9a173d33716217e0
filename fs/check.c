/*
 * Whether what is shown of a cache is what the daemon holds.
 */
#include "fs/content.h"
#include "fs/user.h"

static struct fs *
fs_of(const struct content *c)
{
    return c->user->fs;
}

int
content_check(struct content *c, const struct caller *caller)
{
    struct fs *fs = fs_of(c);
    pthread_mutex_lock(&fs->lock);
    uint64_t number = ++c->checks_begun, epoch = ++fs->epoch;
    int64_t begun = now_ms();
    pthread_mutex_unlock(&fs->lock);

    int r = kcm_fetch(fs->kcm, caller, c->name, &c->known);
    if (r == KCM_NOT_FOUND)
        content_vanish(c);
    else if (r == 0)
        r = content_update(c);
    if (r != 0 && r != KCM_NOT_FOUND)
        return r;

    pthread_mutex_lock(&fs->lock);
    c->check_finished = number;
    c->checked = epoch;
    c->checked_ms = begun;
    pthread_mutex_unlock(&fs->lock);
    return 0;
}

/* With the turn, which ends if this fails. */
static int
check_unless_done(struct content *c, const struct caller *caller,
                  uint64_t needed)
{
    struct fs *fs = fs_of(c);
    pthread_mutex_lock(&fs->lock);
    bool done = c->check_finished >= needed;
    pthread_mutex_unlock(&fs->lock);
    int r = done ? 0 : content_check(c, caller);
    if (r != 0)
        turn_give(&c->turn);
    else if (!done)
        turn_pass(&c->turn, c->check_finished);
    return r;
}

int
content_fresh(struct content *c, const struct caller *caller,
              uint64_t *needed_out)
{
    struct fs *fs = fs_of(c);
    pthread_mutex_lock(&fs->lock);
    uint64_t needed = c->checks_begun + 1;
    pthread_mutex_unlock(&fs->lock);
    *needed_out = needed;
    int r = turn_take_until(&c->turn, needed, caller);
    return r == 0 ? check_unless_done(c, caller, needed) : r;
}

int
content_hold(struct content *c, const struct caller *caller, uint64_t needed)
{
    int r = turn_take(&c->turn, caller);
    return r == 0 ? check_unless_done(c, caller, needed) : r;
}

static bool
is_recent_locked(const struct content *c, int64_t max_age_ms)
{
    return max_age_ms > 0 && now_ms() - c->checked_ms <= max_age_ms;
}

static int
refresh_unless(struct content *c, const struct caller *caller, bool recent)
{
    if (recent)
        return 0;
    uint64_t needed;
    int r = content_fresh(c, caller, &needed);
    if (r == 0)
        turn_give(&c->turn);
    return r == TURN_PASSED ? 0 : r;
}

int
content_refresh(struct content *c, const struct caller *caller,
                int64_t max_age_ms)
{
    struct fs *fs = fs_of(c);
    pthread_mutex_lock(&fs->lock);
    /* "There is none" is what an open is told without an OPEN: never old.
     * Without a snapshot only a writer's bytes are known: a cache that was
     * just made through the mount. */
    bool recent =
        c->exists && c->shown != NULL && is_recent_locked(c, max_age_ms);
    pthread_mutex_unlock(&fs->lock);
    return refresh_unless(c, caller, recent);
}

int
content_locate(struct content *c, const struct caller *caller)
{
    struct fs *fs = fs_of(c);
    pthread_mutex_lock(&fs->lock);
    bool recent = c->exists && c->image != NULL && !c->provisional &&
                  is_recent_locked(c, FRESH_MS);
    pthread_mutex_unlock(&fs->lock);
    return refresh_unless(c, caller, recent);
}

/* --- no cache ---------------------------------------------------------- */

void
content_tell_absent(struct content *c, const struct caller *caller)
{
    struct fs *fs = fs_of(c);
    pthread_mutex_lock(&fs->lock);
    c->absent_pid = caller->pid;
    c->absent_ms = now_ms();
    pthread_mutex_unlock(&fs->lock);
}

bool
content_told_absent(struct content *c, const struct caller *caller)
{
    struct fs *fs = fs_of(c);
    pthread_mutex_lock(&fs->lock);
    bool told = !c->exists && caller->pid != 0 &&
                c->absent_pid == caller->pid &&
                now_ms() - c->absent_ms <= FRESH_MS;
    pthread_mutex_unlock(&fs->lock);
    return told;
}

bool
content_absent_lately(struct content *c)
{
    struct fs *fs = fs_of(c);
    pthread_mutex_lock(&fs->lock);
    bool absent = !c->exists && is_recent_locked(c, FRESH_MS);
    pthread_mutex_unlock(&fs->lock);
    return absent;
}

void
content_changed_at(struct content *c, int64_t begun_ms)
{
    struct fs *fs = fs_of(c);
    pthread_mutex_lock(&fs->lock);
    c->checked_ms = begun_ms;
    pthread_mutex_unlock(&fs->lock);
}
