/*
 * A KCM service as its users see it: caches, snapshots of their content, and
 * operations on them.  With log.h, mem.h, image.h and describe.h this is all
 * that fs/ knows of kcm/.
 *
 * Results: 0; < 0 -errno, it could not be done (-ECONNREFUSED no daemon,
 * -ETIMEDOUT, -EINTR, -EIO nonsense from the daemon, -ENOMEM, -EAGAIN too
 * many requests of one uid); > 0 an enum kcm_status that the daemon answered.
 */
#ifndef KCM_KCM_H
#define KCM_KCM_H

#include <time.h>

#include "bytes.h"
#include "proto.h"
#include "wait.h"

enum kcm_status {
    KCM_NOT_FOUND = 1, /* no such cache, credential or cache UUID */
    KCM_DENIED,
    KCM_BAD_NAME,
    KCM_QUOTA, /* sssd and kcmd answer it with a code that also means
                * "internal": told apart by the operation */
    KCM_UNSUPPORTED,
    KCM_BUSY,
    KCM_INVALID, /* the daemon found the arguments malformed */
};

struct kcm;
struct kcm_server;

struct kcm_config {
    const char *socket_path;   /* of a daemon; NULL: embedded */
    struct kcm_server *server; /* embedded, borrowed; else NULL */
    unsigned timeout_ms;       /* of one operation */
};

int kcm_new(const struct kcm_config *config, struct kcm **kcm_out);

/* Whether somebody listens on this socket: 0 or -errno. */
int kcm_listens(const char *path);
void kcm_free(struct kcm *kcm);

/* Set the deadline of caller to a full timeout from now. */
void kcm_start(const struct kcm *kcm, struct caller *caller);

/* What the daemon seems to be, for people; "unknown" before it answered. */
const char *kcm_daemon_text(const struct kcm *kcm);

/* --- caches ----------------------------------------------------------- */

struct kcm_cache {
    uint8_t uuid[KCM_UUID_LEN];
    char *name;
};

struct kcm_listing {
    struct kcm_cache *caches; /* in the daemon's order */
    size_t count;
};

void kcm_listing_free(struct kcm_listing *l);
DEFINE_CLEANUP(struct kcm_listing *, kcm_listing_free)

/* May that cache be the uid's?  A name that begins with a number belongs to
 * that uid (Heimdal shows root everybody's caches, and gives away those that
 * root makes under such a name). */
bool kcm_is_own(const char *name, uid_t uid);

/*
 * The caches of the caller.  Names of UUIDs in known (may be NULL) are not
 * asked again: a UUID keeps its name.  Other people's caches (Heimdal shows
 * root everybody's) and our own leftovers are left out.
 */
int kcm_list(struct kcm *kcm, const struct caller *caller,
             const struct kcm_listing *known, struct kcm_listing **out);

/* Is that cache one of the uid's, as far as the name tells, and not one that
 * kcm_replace() made? */
bool kcm_is_visible(const char *name, uid_t uid);

/* The name of the default cache; such a cache need not exist. */
int kcm_get_default(struct kcm *kcm, const struct caller *caller,
                    char **name_out);

/* The name of the cache uuid: KCM_NOT_FOUND if there is none. */
int kcm_find_uuid(struct kcm *kcm, const struct caller *caller,
                  const uint8_t uuid[KCM_UUID_LEN], char **name_out);

/*
 * The principals of count caches in one exchange: out[i] is a new blob, or
 * NULL for a cache that is gone or has none yet.  After an error, too, what is
 * in out is the caller's.
 */
int kcm_get_principals(struct kcm *kcm, const struct caller *caller,
                       const char *const *names, size_t count,
                       struct blob **out);

/* --- content ---------------------------------------------------------- */

struct kcm_snap_cred {
    uint8_t uuid[KCM_UUID_LEN];
    struct blob *bytes; /* one credential; NULL: the daemon holds garbage */
};

/* The content of a cache at one moment.  Immutable, counted. */
struct kcm_snapshot {
    int refs; /* atomic */
    int32_t kdc_offset;
    struct blob *principal;
    size_t count;
    struct kcm_snap_cred creds[]; /* in the daemon's order */
};

struct kcm_snapshot *kcm_snapshot_ref(struct kcm_snapshot *s);
void kcm_snapshot_unref(struct kcm_snapshot *s);
DEFINE_CLEANUP(struct kcm_snapshot *, kcm_snapshot_unref)

/* What somebody knows of a cache, to be brought up to date. */
struct kcm_known {
    struct kcm_snapshot *snapshot; /* NULL: nothing yet */
    int64_t meta_ms; /* when principal and offset were last asked */
};

/*
 * Bring known up to date with the cache name.  When nothing changed the
 * snapshot stays the same object.  An unchanged set of credential UUIDs is
 * unchanged content: no daemon changes a stored credential in place.
 * KCM_NOT_FOUND also for a cache that was never initialised.
 */
int kcm_fetch(struct kcm *kcm, const struct caller *caller, const char *name,
              struct kcm_known *known);

/* --- changes (commit.c) ------------------------------------------------ */

/* What a cache is to hold. The data belong to the caller. */
struct kcm_content {
    struct data principal;
    int32_t kdc_offset;
    const struct data *creds;
    size_t count;
};

/* The default cache right before and right after a change, which asks in the
 * same exchange.  Names for free(); NULL: not known. */
struct kcm_defaults {
    char *before, *after;
};

/*
 * Make the cache, or empty it, with that principal and KDC offset.  defaults
 * (else NULL) is for a cache that is not there yet: all is one exchange then;
 * its before is only asked for if it is NULL.
 */
int kcm_initialize(struct kcm *kcm, const struct caller *caller,
                   const char *name, struct data principal, int32_t kdc_offset,
                   struct kcm_defaults *defaults);
/* Add credentials, in order, up to the first that is refused.  *stored_out
 * (may be NULL) of them arrived. */
int kcm_store(struct kcm *kcm, const struct caller *caller, const char *name,
              const struct data *creds, size_t count, size_t *stored_out);

/*
 * Remove from the cache, whose content is old, the credentials whose index
 * in old is marked in remove, and store count others: at the end the cache
 * holds exactly that, or on failure what it held before.
 */
int kcm_edit(struct kcm *kcm, const struct caller *caller, const char *name,
             const struct kcm_snapshot *old, const bool *remove,
             const struct data *creds, size_t count);

/*
 * Replace the content, whatever it was (old: NULL if there was none).  On
 * failure the cache holds what it held before, as soon as the daemon
 * answers.
 */
int kcm_replace(struct kcm *kcm, const struct caller *caller, const char *name,
                const struct kcm_snapshot *old,
                const struct kcm_content *content);

/* from's content becomes to's, from is gone.  KCM_UNSUPPORTED: nothing was
 * done, use kcm_replace() and kcm_destroy(). */
int kcm_move(struct kcm *kcm, const struct caller *caller, const char *from,
             const char *to);
/* Does the daemon have that operation?  0 or KCM_UNSUPPORTED. */
int kcm_can_move(struct kcm *kcm, const struct caller *caller,
                 const char *name);
/* The live credentials of a snapshot as content; *creds is for free(). */
int kcm_content_of(const struct kcm_snapshot *s, struct kcm_content *content,
                   struct data **creds);
/* defaults as above, or NULL. */
int kcm_destroy(struct kcm *kcm, const struct caller *caller, const char *name,
                struct kcm_defaults *defaults);
/* *after_out (may be NULL) is the default then, for free(), or NULL. */
int kcm_set_default(struct kcm *kcm, const struct caller *caller,
                    const char *name, char **after_out);
/* The KDC offset of an existing cache. */
int kcm_set_offset(struct kcm *kcm, const struct caller *caller,
                   const char *name, int32_t kdc_offset);

/* Does INITIALIZE or DESTROY move the default by itself here (sssd)? */
bool kcm_moves_default(const struct kcm *kcm);
/* Does it take a default that is not there, without making one? */
bool kcm_default_may_dangle(const struct kcm *kcm);

/* The longest content that the daemon can take as one credential. */
size_t kcm_cred_max(const struct kcm *kcm);

/* --- for the rest of kcm/ alone ---------------------------------------- */
#ifdef KCM_INTERNAL
#include "rpc.h"

enum kcm_peer {
    PEER_UNKNOWN,
    PEER_HEIMDAL, /* answers NOOP */
    PEER_SSSD,    /* refuses NOOP in the outer status */
    PEER_OTHER,   /* refuses NOOP in the inner status: MIT's test server */
};

enum support {
    SUPPORT_UNKNOWN,
    SUPPORT_YES,
    SUPPORT_NO,
};

struct kcm {
    char *socket_path;
    struct kcm_server *server;
    unsigned timeout_ms;
    struct pool *pool;
    /* What the daemon answered so far; atomic, forgotten when it restarts. */
    int peer;
    int cred_list, replace, remove, move;
    /* recover.c: */
    pthread_mutex_t lock; /* of what follows; a leaf */
    time_t started;
    struct turn recovering;
    struct pending *pending;
    uid_t *checked; /* uids whose leftovers were looked for */
    size_t checked_count;
    unsigned works; /* atomic */
    unsigned retries;
    bool closing;
};

/* Put right what is pending for the caller's uid, before its caches are
 * looked at. */
int kcm_recover(struct kcm *kcm, const struct caller *caller);
void kcm_pending_free(struct kcm *kcm);
/* kcm_fetch() and kcm_list() without that; the list with work caches. */
int kcm_fetch_as_is(struct kcm *kcm, const struct caller *caller,
                    const char *name, struct kcm_known *known);
int kcm_list_all(struct kcm *kcm, const struct caller *caller,
                 const struct kcm_listing *known, struct kcm_listing **out);

/*
 * Have b answered, over a pooled connection of the caller's.  Repeats what
 * an idle connection that died meanwhile left unanswered.
 */
int kcm_exchange(struct kcm *kcm, const struct caller *caller,
                 struct batch *b);
/* The status of the nth reply of b: 0, -EIO or a status. */
int kcm_reply_status(const struct batch *b, unsigned n);
/* The nth reply of b, which answers GET_DEFAULT_CACHE, as a name of the uid's
 * for free(); NULL: it is none. */
char *kcm_reply_default(const struct batch *b, unsigned n, uid_t uid);
/* Learn what daemon it is, if that is not known yet. */
int kcm_know_peer(struct kcm *kcm, const struct caller *caller);
/* Names that kcm_replace() uses while it works begin so, behind "uid:". */
#define KCM_WORK_PREFIX ".kcmfs-"
#endif

#endif
