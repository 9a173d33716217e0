/*
 * Work caches: what kcm_replace() keeps in the daemon while it works, and
 * what puts things right when it could not finish (recover.c).
 *
 * A work cache is named uid:.kcmfs-PID-N.  One that was saved from another
 * cache ends in a configuration entry that names that cache; without it the
 * work cache is incomplete, or new content that was to be moved, and is of
 * no use.
 */
#ifndef KCM_COMMIT_H
#define KCM_COMMIT_H

#include "kcm.h"

#define KCM_WORK_NAME_MAX 64

/* A name that no other work has; unique for this process. */
void kcm_work_name(struct kcm *kcm, uid_t uid, char name[KCM_WORK_NAME_MAX]);

/* Make the work cache a copy of content, for target. */
int kcm_work_save(struct kcm *kcm, const struct caller *caller,
                  const char *work, const char *target,
                  const struct kcm_content *content);

/*
 * A change failed: drop the work cache (unless work is empty) and, if target
 * is given, put before back into it (NULL: destroy it).  Tried at once, also
 * when the caller has no time left, and otherwise when the daemon answers
 * again; until then kcm_recover() fails for that uid.
 */
void kcm_give_up(struct kcm *kcm, const struct caller *caller,
                 const char *work, const char *target,
                 const struct kcm_content *before);

/* INITIALIZE, SET_KDC_OFFSET and STOREs. */
int kcm_fill(struct kcm *kcm, const struct caller *caller, const char *name,
             const struct kcm_content *content);

#endif
