/*
 * The default cache stays where it was put.
 *
 * The daemon says which one it is, but daemons move the default by themselves
 * at INITIALIZE and DESTROY.  So every change through the mount runs between
 * user_guard_begin() and user_guard_end(), which puts the default back by
 * SET_DEFAULT_CACHE.
 *
 * When the default's cache itself was destroyed, the default still names it,
 * as on disk.  Most daemons can be told so.  sssd would make an empty cache
 * of that name: there it is only kept in mind here, as long as the daemon
 * answers what it did after the destruction.
 *
 * The program that removed it is told that name also when somebody else
 * switches meanwhile: what tools do is to unlink default/cache and create it
 * again at once.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fs/user.h"
#include "kcm/log.h"

/* So soon a tool creates again what it has unlinked. */
#define AGAIN_MS (30 * 1000)
/* Changes may come faster than answers. */
#define DEFAULT_TRIES 20

void
user_default_free(struct user *u)
{
    free(u->last_default);
    free(u->kept_default);
    free(u->kept_answer);
    free(u->guarded);
    free(u->owed_default);
    free(u->removed_default);
    turn_destroy(&u->guard);
}

static void
forget_kept_locked(struct user *u)
{
    free(take(u->kept_default));
    free(take(u->kept_answer));
}

/* Does the first cache have a principal, and, if asked for, the second? */
static int
both_exist(struct user *u, const struct caller *caller, const char *const *two,
           bool second, bool *exist)
{
    struct blob *principals[2] = {NULL, NULL};
    int r = kcm_get_principals(u->fs->kcm, caller, two, second ? 2 : 1,
                               principals);
    for (size_t i = 0; i < 2; i++) {
        exist[i] = principals[i] != NULL;
        blob_unref(principals[i]);
    }
    return r;
}

static int
cache_exists(struct user *u, const struct caller *caller, const char *name,
             bool *exists_out)
{
    struct blob *principal = NULL;
    int r = kcm_get_principals(u->fs->kcm, caller, &name, 1, &principal);
    *exists_out = r == 0 && principal != NULL;
    blob_unref(principal);
    return r;
}

/* --- a default whose cache is not there ---------------------------------- */

/* Bear in mind that name is the default, whatever the daemon answers now:
 * answer, or NULL if it is still to be asked. */
static int
keep_in_mind(struct user *u, const struct caller *caller, const char *name,
             char **answer)
{
    bool exists = false;
    _cleanup_(freep) char *kept = strdup(name);
    int r = kept == NULL      ? -ENOMEM
            : *answer != NULL ? 0
                              : kcm_get_default(u->fs->kcm, caller, answer);
    bool differs = r == 0 && strcmp(name, *answer) != 0;
    if (differs)
        r = cache_exists(u, caller, *answer, &exists);
    if (r != 0)
        return r;
    pthread_mutex_lock(&u->fs->lock);
    forget_kept_locked(u);
    if (differs) {
        u->kept_default = take(kept);
        u->kept_answer = take(*answer);
        u->kept_answer_exists = exists;
    }
    pthread_mutex_unlock(&u->fs->lock);
    return 0;
}

/* With the guard: name, whose cache is not there, is to be the default.
 * *answer is what the daemon says now, or NULL if it is still to be asked. */
static int
keep(struct user *u, const struct caller *caller, const char *name,
     char **answer)
{
    if (kcm_default_may_dangle(u->fs->kcm)) {
        free(take(*answer));
        int r = kcm_set_default(u->fs->kcm, caller, name, answer);
        if (r < 0)
            return r;
    }
    return keep_in_mind(u, caller, name, answer);
}

/* Is what was kept in mind over?  *name is the daemon's answer, and becomes
 * what was kept if it is not.  With the guard. */
static int
apply_kept(struct user *u, const struct caller *caller, char **name)
{
    bool exist[2];
    pthread_mutex_lock(&u->fs->lock);
    _cleanup_(freep) char *kept =
        u->kept_default != NULL ? strdup(u->kept_default) : NULL;
    bool none = u->kept_default == NULL;
    bool same = !none && strcmp(u->kept_answer, *name) == 0;
    bool answer_existed = u->kept_answer_exists;
    pthread_mutex_unlock(&u->fs->lock);
    if (none || kept == NULL)
        return none ? 0 : -ENOMEM;
    const char *two[2] = {kept, *name};
    int r = same ? both_exist(u, caller, two, !answer_existed, exist) : 0;
    if (r != 0)
        return r;
    /* A cache made since then under the name that the daemon answers is a
     * new default, as if it answered something else. */
    bool over = !same || exist[1];
    /* One made under the kept name is the default again: say so. */
    if (!over && exist[0])
        r = kcm_set_default(u->fs->kcm, caller, kept, NULL);
    if (over || exist[0]) {
        pthread_mutex_lock(&u->fs->lock);
        forget_kept_locked(u);
        pthread_mutex_unlock(&u->fs->lock);
    }
    if (!over) {
        free(*name);
        *name = take(kept);
    }
    return r < 0 ? r : 0;
}

/* --- a default that could not be put back -------------------------------- */

static void
owe(struct user *u, char *name, bool destroyed)
{
    pthread_mutex_lock(&u->fs->lock);
    free(u->owed_default);
    u->owed_default = name;
    u->owed_destroyed = destroyed;
    pthread_mutex_unlock(&u->fs->lock);
}

/* With the guard: the daemon did not answer in the middle of a change, or
 * the caller was interrupted.  Now that it answers, put the default back. */
static int
put_back_owed(struct user *u, const struct caller *caller)
{
    _cleanup_(kcm_listing_freep) struct kcm_listing *l = NULL;
    _cleanup_(freep) char *answer = NULL;
    pthread_mutex_lock(&u->fs->lock);
    _cleanup_(freep) char *name =
        u->owed_default != NULL ? strdup(u->owed_default) : NULL;
    bool destroyed = u->owed_destroyed, exists;
    pthread_mutex_unlock(&u->fs->lock);
    if (name == NULL)
        return 0;
    /* The list comes after what was left half done is put right. */
    int r = user_list(u, caller, &l);
    if (r == 0)
        r = cache_exists(u, caller, name, &exists);
    if (r == 0 && exists)
        r = kcm_set_default(u->fs->kcm, caller, name, NULL);
    else if (r == 0 && destroyed)
        r = keep(u, caller, name, &answer);
    if (r >= 0)
        owe(u, NULL, false);
    return r < 0 ? r : 0;
}

/* With the guard: the default, with all that is to be done about it done. */
static int
settled_default(struct user *u, const struct caller *caller, char **name_out)
{
    int r = put_back_owed(u, caller);
    if (r == 0)
        r = kcm_get_default(u->fs->kcm, caller, name_out);
    if (r == 0)
        r = apply_kept(u, caller, name_out);
    if (r != 0)
        free(take(*name_out));
    return r;
}

/* --- the default -------------------------------------------------------- */

/* What this very thread removed a moment ago is its default. */
static bool
removed_by(struct user *u, const struct caller *caller, char **name_out)
{
    pthread_mutex_lock(&u->fs->lock);
    bool its = u->removed_default != NULL && caller->pid != 0 &&
               u->removed_by == caller->pid && now_ms() < u->removed_until;
    *name_out = its ? strdup(u->removed_default) : NULL;
    pthread_mutex_unlock(&u->fs->lock);
    return *name_out != NULL;
}

static void
note_last(struct user *u, const char *name)
{
    pthread_mutex_lock(&u->fs->lock);
    if (u->last_default == NULL || strcmp(u->last_default, name) != 0) {
        free(u->last_default);
        u->last_default = strdup(name);
    }
    pthread_mutex_unlock(&u->fs->lock);
}

static bool
is_unsettled_locked(const struct user *u)
{
    return u->kept_default != NULL || u->owed_default != NULL;
}

/* The default in the middle of a change is what it was before, and will be
 * again; *changes_out counts them.  *wait_out: only who has the guard can
 * tell. */
static char *
guarded_default(struct user *u, unsigned *changes_out, bool *wait_out)
{
    pthread_mutex_lock(&u->fs->lock);
    char *name = u->guarded != NULL ? strdup(u->guarded) : NULL;
    *changes_out = u->changes;
    *wait_out = u->changing || is_unsettled_locked(u);
    pthread_mutex_unlock(&u->fs->lock);
    return name;
}

static int
default_with_guard(struct user *u, const struct caller *caller,
                   char **name_out)
{
    int r = turn_take(&u->guard, caller);
    if (r != 0)
        return r;
    r = settled_default(u, caller, name_out);
    turn_give(&u->guard);
    return r;
}

/* An answer from the middle of a change counts for nothing. */
static int
undisturbed_default(struct user *u, const struct caller *caller,
                    char **name_out)
{
    unsigned before, after;
    bool wait;
    *name_out = guarded_default(u, &before, &wait);
    for (int tries = 0; *name_out == NULL && !wait && tries < DEFAULT_TRIES;
         tries++) {
        int r = kcm_get_default(u->fs->kcm, caller, name_out);
        if (r != 0)
            return r;
        char *now = guarded_default(u, &after, &wait);
        if (now == NULL && after == before && !wait)
            return 0;
        free(*name_out);
        *name_out = now;
        before = after;
    }
    return *name_out != NULL ? 0 : default_with_guard(u, caller, name_out);
}

int
user_default(struct user *u, const struct caller *caller, char **name_out)
{
    char *removed;
    int r = undisturbed_default(u, caller, name_out);
    if (r != 0)
        return r;
    note_last(u, *name_out);
    if (removed_by(u, caller, &removed)) {
        free(*name_out);
        *name_out = removed;
    }
    return 0;
}

int
user_last_default(struct user *u, char **name_out)
{
    pthread_mutex_lock(&u->fs->lock);
    *name_out = u->last_default != NULL ? strdup(u->last_default) : NULL;
    bool known = u->last_default != NULL;
    pthread_mutex_unlock(&u->fs->lock);
    if (!known && asprintf(name_out, "%u", u->uid) < 0)
        *name_out = NULL;
    return *name_out != NULL ? 0 : -ENOMEM;
}

/* With the guard: the default is chosen anew by this caller. */
static void
chosen(struct user *u, const struct caller *caller, bool exists)
{
    pthread_mutex_lock(&u->fs->lock);
    if (exists)
        forget_kept_locked(u);
    free(take(u->owed_default));
    if (u->removed_by == caller->pid)
        free(take(u->removed_default));
    pthread_mutex_unlock(&u->fs->lock);
}

int
user_set_default(struct user *u, const struct caller *caller, const char *name)
{
    bool exists;
    _cleanup_(freep) char *answer = NULL;
    int r = turn_take(&u->guard, caller);
    if (r != 0)
        return r;
    r = cache_exists(u, caller, name, &exists);
    if (r == 0 && exists)
        r = kcm_set_default(u->fs->kcm, caller, name, NULL);
    else if (r == 0)
        r = keep(u, caller, name, &answer);
    if (r == 0) {
        chosen(u, caller, exists);
        const struct log_field cache = {"KCMFS_CACHE", name};
        log_event(LOG_LEVEL_INFO, &cache, 1, "default is %s", name);
    }
    turn_give(&u->guard);
    return r;
}

/* --- around changes ----------------------------------------------------- */

static void
set_changing(struct user *u, bool changing, char *guarded)
{
    pthread_mutex_lock(&u->fs->lock);
    free(u->guarded);
    u->guarded = guarded;
    u->changing = changing;
    u->changes++;
    pthread_mutex_unlock(&u->fs->lock);
}

/* Must the default be asked before a change, though the change can ask?
 * What is unsettled must be put right first; on sssd it saves a question;
 * and Heimdal may answer root somebody else's cache. */
static bool
must_ask(struct user *u)
{
    pthread_mutex_lock(&u->fs->lock);
    bool unsettled = is_unsettled_locked(u);
    pthread_mutex_unlock(&u->fs->lock);
    return unsettled || u->uid == 0 || kcm_moves_default(u->fs->kcm);
}

int
user_guard_begin(struct user *u, const struct caller *caller, bool ask,
                 struct kcm_defaults *d)
{
    *d = (struct kcm_defaults){NULL, NULL};
    int r = turn_take(&u->guard, caller);
    if (r != 0)
        return r;
    if (ask || must_ask(u))
        r = settled_default(u, caller, &d->before);
    if (r != 0) {
        turn_give(&u->guard);
        return r;
    }
    set_changing(u, true, d->before != NULL ? strdup(d->before) : NULL);
    return 0;
}

static void
note_removed(struct user *u, const struct caller *caller, const char *name)
{
    pthread_mutex_lock(&u->fs->lock);
    free(u->removed_default);
    u->removed_default = strdup(name);
    u->removed_by = caller->pid;
    u->removed_until = now_ms() + AGAIN_MS;
    pthread_mutex_unlock(&u->fs->lock);
}

static bool
is_kept(struct user *u)
{
    pthread_mutex_lock(&u->fs->lock);
    bool kept = u->kept_default != NULL;
    pthread_mutex_unlock(&u->fs->lock);
    return kept;
}

/*
 * The default was name and is *answer after the change: put it back.  *answer
 * is NULL where it tells nothing: sssd may have lost the default, and answer
 * the same by accident.
 */
static int
put_back(struct user *u, const struct caller *caller, const char *name,
         char **answer, bool made, bool destroyed)
{
    bool same = *answer != NULL && strcmp(*answer, name) == 0, exists = made;
    _cleanup_(freep) char *now = NULL;
    int r = 0;
    if (destroyed && !made) {
        note_removed(u, caller, name);
        return same ? 0 : keep(u, caller, name, answer);
    }
    if (!same) {
        if (!made)
            r = cache_exists(u, caller, name, &exists);
        if (r == 0 && exists)
            r = kcm_set_default(u->fs->kcm, caller, name, NULL);
        else if (r == 0 && is_kept(u))
            r = keep_in_mind(u, caller, name, &now);
    }
    if (r == 0 && made)
        chosen(u, caller, true);
    return r;
}

/* See that name is the default after the change. */
static void
restore(struct user *u, const struct caller *caller, const char *name,
        struct kcm_defaults *d, const char *made, const char *destroyed)
{
    bool name_made = made != NULL && strcmp(made, name) == 0;
    bool name_gone = destroyed != NULL && strcmp(destroyed, name) == 0;
    bool telling =
        !kcm_moves_default(u->fs->kcm) || (made == NULL && destroyed != NULL);
    int r = 0;
    if (!telling)
        free(take(d->after));
    else if (d->after == NULL)
        r = kcm_get_default(u->fs->kcm, caller, &d->after);
    if (r == 0)
        r = put_back(u, caller, name, &d->after, name_made, name_gone);
    if (r < 0)
        owe(u, strdup(name), name_gone && !name_made);
    else if (r > 0)
        log_warn("the KCM daemon refuses %s as the default cache", name);
}

void
user_guard_end(struct user *u, const struct caller *caller,
               struct kcm_defaults *d, const char *made, const char *destroyed)
{
    _cleanup_(freep) char *removed = NULL;
    const char *name = d->before;
    if (made != NULL && removed_by(u, caller, &removed) &&
        strcmp(made, removed) == 0)
        name = removed; /* created again by who unlinked it */
    /* It is not known if the change never came so far. */
    if (name != NULL)
        restore(u, caller, name, d, made, destroyed);
    free(take(d->before));
    free(take(d->after));
    set_changing(u, false, NULL);
    turn_give(&u->guard);
}
