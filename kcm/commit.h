/*
 * What the parts of changes (commit.c, replace.c, recover.c) share: work
 * caches, which kcm_replace() keeps in the daemon while it works, and putting
 * things right when a change could not be finished.
 *
 * A work cache is named uid:.kcmfs-PID-TIME-N.  One that was saved from
 * another cache ends in a configuration entry that names that cache; without
 * it the work cache is incomplete, or new content that was to be moved, and
 * is of no use.
 */
#ifndef KCM_COMMIT_H
#define KCM_COMMIT_H

#include "kcm.h"

#define KCM_WORK_NAME_MAX 80

/* A name that no other work has; unique for this process. */
void kcm_work_name(struct kcm *kcm, uid_t uid, char name[KCM_WORK_NAME_MAX]);

/* Make the work cache a copy of content, for target. */
int kcm_work_save(struct kcm *kcm, const struct caller *caller,
                  const char *work, const char *target,
                  const struct kcm_content *content);

struct kcm_undo {
    const char *work;                 /* to be dropped; NULL or "": none */
    const char *target;               /* to hold before again; NULL: none */
    const struct kcm_content *before; /* NULL: target is to be destroyed */
    bool only_if_gone; /* as long as there is a target, it is right */
};

/*
 * A change failed: undo it.  Tried at once, also when the caller has no time
 * left, and otherwise when the daemon answers again; until then
 * kcm_recover() fails for that uid.
 */
void kcm_give_up(struct kcm *kcm, const struct caller *caller,
                 const struct kcm_undo *undo);

/* INITIALIZE, SET_KDC_OFFSET and STOREs, each when the one before is done: of
 * what is abandoned half-way, one at most is still to be. */
int kcm_fill(struct kcm *kcm, const struct caller *caller, const char *name,
             const struct kcm_content *content);
/* A work cache, which is nobody's yet: the STOREs at once. */
int kcm_fill_work(struct kcm *kcm, const struct caller *caller,
                  const char *work, const struct kcm_content *content);

#ifdef KCM_INTERNAL
/* kcm_replace() of content that was made of old: what others store until
 * the daemon begins with it is kept as well as can be. */
int kcm_replace_edited(struct kcm *kcm, const struct caller *caller,
                       const char *name, const struct kcm_snapshot *old,
                       const struct kcm_content *content);
/* One request without a result. */
int kcm_call(struct kcm *kcm, const struct caller *caller, struct batch *b);
/* Does the daemon take a request for name with len more bytes?  Heimdal
 * closes the connection on a longer one: know before. */
bool kcm_fits(struct kcm *kcm, const char *name, size_t len);
/* Find out whether this is Heimdal's kcm, or kcmd, which answers as much. */
int kcm_tell_kcmd(struct kcm *kcm, const struct caller *caller,
                  const char *name);
#endif

#endif
