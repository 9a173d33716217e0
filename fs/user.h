/*
 * What the mount knows of one uid: its caches, its default, how it is going.
 */
#ifndef FS_USER_H
#define FS_USER_H

#include "fs/fs.h"

/* --- status.c: how it is going, by uid ----------------------------------- */

#define OPERATIONS_COUNTED 32

/* Of requests that the kernel sent. */
struct user_counts {
    struct operation_count {
        const char *operation; /* NULL: not used yet */
        uint64_t count, total_us, max_us;
    } of[OPERATIONS_COUNTED];
    uint64_t failures;
    char last_error[160];
    time_t last_error_time;
    time_t minute; /* of failures that were logged: since when, how many */
    unsigned logged;
};

struct user;

/* One operation ended, after so long.  operation is kept by reference. */
void status_count(struct user *u, const char *operation, uint64_t us);
/* It failed: the error (positive), and the cache it was about, or NULL. */
void status_failed(struct user *u, const char *operation, const char *cache,
                   int error);
/* .kcmfs/status for the caller. */
int status_text(struct fs *fs, const struct caller *caller, struct blob **out);
/* How many caches a uid may have; 0: not known. */
size_t status_cache_limit(const struct fs *fs);
/* With -o audit: who opened h. */
void status_audit(const struct fs *fs, const struct handle *h);
/* With -o audit: who changed c without opening it ("destroys"). */
void status_audit_change(const struct fs *fs, const struct caller *caller,
                         const char *does, const struct content *c);

/* --- user.c: what is known of one uid ------------------------------------ */

struct user {
    struct user *next;
    struct fs *fs;
    uid_t uid;
    /* fs->lock: */
    struct content *contents;
    unsigned content_count;
    struct kcm_listing *known; /* UUIDs and names seen, newest first */
    size_t listed;             /* of which so many were there at last */
    /* default.c: */
    struct turn guard; /* of what moves the default */
    bool changing;     /* the guard is taken for a change */
    char *guarded;     /* what the default was then; NULL: not known yet */
    unsigned changes;  /* times that it was taken or given */
    char *last_default;
    char *kept_default;      /* of a cache that is not there, but kept */
    char *kept_answer;       /* what the daemon answered since */
    bool kept_answer_exists; /* and if that was there */
    char *owed_default;      /* to be put back when the daemon answers */
    bool owed_destroyed;
    char *removed_default; /* by whom it may be created again */
    pid_t removed_by;
    int64_t removed_until;
    unsigned handles;  /* open files and directories; fs->lock */
    unsigned requests; /* under way; atomic */
    unsigned scratch_count;
    size_t scratch_bytes;
    size_t copied_bytes; /* of drafts, for commits under way */
    unsigned reserved;
    uint64_t failed_look; /* fs->epoch behind the last LOOKUP that failed */
    struct user_counts counts; /* for .kcmfs/status */
};

/* The state of a uid, kept until the end; NULL without memory. */
struct user *user_get(struct fs *fs, uid_t uid);
void users_free(struct fs *fs);
/* The content of a cache name, with one reference. */
struct content *user_content(struct user *u, const char *name);
void content_unref(struct content *c);
void content_unref_locked(struct content *c);
DEFINE_CLEANUP(struct content *, content_unref)

/* The caller's caches now. */
int user_list(struct user *u, const struct caller *caller,
              struct kcm_listing **out);
/* The name of a UUID, also of one that the cache had before. */
int user_name_of_uuid(struct user *u, const struct caller *caller,
                      const uint8_t uuid[KCM_UUID_LEN], char **name_out);
/* The UUID that name has now, or had last; false if none was ever seen. */
bool user_uuid_of_name(struct user *u, const char *name,
                       uint8_t uuid_out[KCM_UUID_LEN]);

/* --- default.c: the default cache ---------------------------------------- */

/* The default cache's name as this mount sees it. */
int user_default(struct user *u, const struct caller *caller, char **name_out);
/* What user_default() said last, without asking the daemon. */
int user_last_default(struct user *u, char **name_out);
/* Make name the default; one that is not there yet is only kept in mind. */
int user_set_default(struct user *u, const struct caller *caller,
                     const char *name);
/*
 * Around a change to caches: daemons move the default by themselves at
 * INITIALIZE and DESTROY; put it back where it was.  A change that asks for
 * the default itself (kcm_initialize(), kcm_destroy()) begins without ask.
 * end frees what is in d; made and destroyed (may be NULL) name the caches
 * that the change made or destroyed.
 */
int user_guard_begin(struct user *u, const struct caller *caller, bool ask,
                     struct kcm_defaults *d);
void user_guard_end(struct user *u, const struct caller *caller,
                    struct kcm_defaults *d, const char *made,
                    const char *destroyed);
void user_default_free(struct user *u);

#endif
