/*
 * The content of one cache as a file: content.c renders and shows it, grow.c
 * has it grow under who has it open, check.c sees that it is what the daemon
 * holds, open.c has it opened.
 */
#ifndef FS_CONTENT_H
#define FS_CONTENT_H

#include "fs/fs.h"

/* --- for all --------------------------------------------------------------
 */

/*
 * Bring c up to date.  max_age_ms 0: with a check that begins after this
 * call; else one that began at most so long ago will do.  0 also when the
 * cache is not there (c->exists).
 */
int content_refresh(struct content *c, const struct caller *caller,
                    int64_t max_age_ms);
/* The same for who asks for the file alone, not for what describes it. */
int content_locate(struct content *c, const struct caller *caller);
/*
 * The caller's LOOKUP found no cache.  Then the CREATE of the same open(2)
 * need not ask again, and a change soon after knows as much.
 */
void content_tell_absent(struct content *c, const struct caller *caller);
bool content_told_absent(struct content *c, const struct caller *caller);
bool content_absent_lately(struct content *c);
/* c is known to be as it is now since then: a change began. */
void content_changed_at(struct content *c, int64_t begun_ms);
/* The same without a look at ages, for who has the turn. */
int content_check(struct content *c, const struct caller *caller);
/* The cache is gone. With the turn. */
void content_vanish(struct content *c);

/*
 * The node that shows c, for a LOOKUP: with one reference.  Who looks again
 * because what it found was stale gets one that nobody else has open.
 */
int content_look_up(struct content *c, const struct caller *caller,
                    struct node **out);

/* What an open of a cache file gets. */
enum open_outcome {
    OPEN_KEEP,   /* the kernel's pages are right */
    OPEN_FRESH,  /* they are not */
    OPEN_DIRECT, /* past the kernel's pages, which may be too many */
    OPEN_PINNED, /* the same, but h->pinned */
    OPEN_STALE,  /* look the path up again */
};

/*
 * Check with the daemon and count h's node as open.  For writing the kernel
 * keeps no pages: OPEN_KEEP and OPEN_FRESH are the same.  KCM_NOT_FOUND when
 * there is no cache.
 */
int content_open(struct content *c, struct handle *h,
                 enum open_outcome *outcome);
/* The same for who waited for the check of that number or a newer one. */
int content_open_after(struct content *c, struct handle *h, uint64_t needed,
                       enum open_outcome *outcome);
/* h was read, or is being closed. */
void content_used_locked(struct handle *h);
/* Before h, opened unchecked to append, reads what is behind the header. */
int content_catch_up(struct content *c, struct handle *h,
                     const struct caller *caller);
/*
 * With the turn, around a change that ends the files of c: what was opened
 * unchecked is checked now (or all of c is), and no more is until the end.
 */
int content_ending(struct content *c, const struct caller *caller, bool all);
void content_ended(struct content *c);
/*
 * With the turn, after a check: n may show what c does, if that extends what
 * n shows, though others have it open: true if it does now.
 */
bool content_follow(struct content *c, struct node *n);
/* A handle on a cache file, scratch file or unborn cache comes and goes. */
void content_opened_locked(struct node *n);
void content_closed(struct fs *fs, struct node *n);
/*
 * The cache whose file n is, with a reference: a rename may change it.  Also
 * with its turn, so that it stays that.
 */
struct content *content_of(struct fs *fs, struct node *n);
int content_take(struct fs *fs, struct node *n, const struct caller *caller,
                 struct content **out);
/* The node that shows c now, with one reference.  KCM_NOT_FOUND: there is no
 * cache; -ENOMEM. */
int content_node_locked(struct content *c, struct node **out);
/* A snapshot of c as of the last refresh, or NULL. */
struct kcm_snapshot *content_snapshot(struct content *c);
struct timespec content_mtime(struct content *c);
bool content_exists(struct content *c);

/* n shows image, which a writer made of what it showed before, and so does
 * c if n is its node.  With the turn. */
void content_written(struct content *c, struct node *n, struct image *image);
/*
 * n becomes the cache's file, showing image; what was before keeps its
 * handles.  If n is the cache's file already and somebody else has it open,
 * n stays as it is for them, and the cache gets a new node.  With the turn.
 */
void content_adopt(struct content *c, struct node *n, struct image *image);
/* The file of from is that of to now, as in KCM.  With both turns. */
void content_moved(struct content *from, struct content *to);
/* The cache was destroyed through the mount: what is written to its open
 * files goes nowhere.  With the turn. */
void content_unlinked(struct content *c);

/* --- between them -------------------------------------------------------- */

/*
 * See that a check which began after this call has succeeded, and hold the
 * turn then: 0.  Or, if another that had the turn made it, TURN_PASSED: all
 * that wait for the same cache meanwhile share the next check.  Who needs the
 * turn all the same goes on with content_hold().
 */
int content_fresh(struct content *c, const struct caller *caller,
                  uint64_t *needed_out);
int content_hold(struct content *c, const struct caller *caller,
                 uint64_t needed);

/* The snapshot may have changed, or the last handle was closed: see that the
 * right image is shown.  With the turn. */
int content_update(struct content *c);

/*
 * May n, which nobody has open, show image?  Not if the kernel may take it to
 * be longer: it would show zeros at the end, until it asks.
 */
bool content_fits_locked(const struct node *n, const struct image *image);

/* n shows image, which extends what it showed.  With the turn. */
void content_grow(struct node *n, struct image *image);

/*
 * The kernel is to take n to be as long as it is, and as new.  What GETATTR
 * and LOOKUP say is not enough: it leaves the answer aside when it was told
 * meanwhile that attributes changed, and reads to the end that it knew.
 */
void content_tell(struct fs *fs, struct node *n);

#endif
