/*
 * The file system: names and nodes over a KCM service.
 *
 *   kernel request -> op_*() (ops_*.c) -> tree_*() (tree.c: which node)
 *     -> content_*() (check.c: brought up to date; content.c: its image)
 *     -> kcm_*() (the daemon)
 *
 * Who sees what: everything but the fixed directories belongs to one uid.
 * A node is never given to anybody else; every operation checks that.  The
 * kernel keeps entries that another uid could meet (entry timeout 0) not at
 * all, so each path walk asks for them again.
 *
 * Freshness: OPEN asks the daemon, always (for a writer that appends, the
 * first read behind the header does).  LOOKUP and GETATTR use what was
 * asked within FRESH_MS, so that a stat lags by less than a second.
 *
 * Images: a cache file's node shows one image.  While it is open, the image
 * only grows or has entries marked as removed by a writer of that node; any
 * other change gives the cache a new node (OPEN of the old one answers
 * ESTALE, which makes the kernel look up the path again).
 *
 * Locks: fs->lock is a leaf that guards the node table, the users, and the
 * image pointers and counters of nodes and contents.  It is never held
 * across I/O or a reply.  content->turn is held across the KCM operations on
 * one cache, waited for with the caller's deadline; two at once are taken in
 * the order of their addresses.
 */
#ifndef FS_FS_H
#define FS_FS_H

#include <pthread.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>

#include "kcm/digest.h"
#include "kcm/image.h"
#include "kcm/kcm.h"

/* What LOOKUP and GETATTR may still use, and what the kernel may keep. */
#define FRESH_MS      400
#define TIMEOUT_FILE  0.5
#define TIMEOUT_FIXED 3600.0

#define ROOT_INO  1
#define EVERYBODY ((uid_t)-1)

struct fs_config {
    bool read_only;
    bool single_threaded;
    bool embedded;           /* this and the socket: for .kcmfs/status */
    const char *socket_path; /* of the daemon, or served here; or NULL */
    bool audit;              /* log who opens which cache */
    bool one_user;           /* the kernel lets nobody else in */
};

enum node_kind {
    NODE_ROOT, /* the fixed directories, everybody's */
    NODE_BY_NAME,
    NODE_BY_PRINCIPAL,
    NODE_COLLECTION,
    NODE_META,
    NODE_STATUS,
    NODE_DEFAULT,        /* symlink default */
    NODE_PRINCIPAL_LINK, /* symlink in by-principal/ */
    NODE_CACHE_DIR,      /* <uuid>/ and by-name/<name>/ */
    NODE_TICKETS,
    NODE_CONFIG,
    NODE_CACHE, /* the cache file, wherever it shows */
    NODE_TEXT_PRINCIPAL,
    NODE_TEXT_NAME,
    NODE_TEXT_INFO,
    NODE_TEXT_JSON,
    NODE_TICKET,
    NODE_CONFIG_VALUE,
    NODE_PRIMARY,
    NODE_SCRATCH,
};

struct fs;
struct user;

/* One KCM cache of one user, by its name. */
struct content {
    struct content *next; /* of the user */
    struct user *user;
    char *name;
    int refs;         /* fs->lock */
    struct turn turn; /* below: with the turn, unless it says fs->lock */
    struct kcm_known known;
    struct ticket_table *tickets; /* names of tickets/, for one snapshot */
    struct kcm_snapshot *shown;   /* what image was made of */
    struct digest digest;         /* asleep: of the image it had */
    /* fs->lock: */
    bool exists;
    bool asleep;             /* it exists, but its image was dropped: idle.c */
    uint64_t checks_begun;   /* number of the newest check */
    uint64_t check_finished; /* number of the newest that succeeded */
    int64_t checked_ms;      /* when that one began, or a change */
    pid_t absent_pid;        /* a thread that was told that there is none */
    int64_t absent_ms;
    struct image *image; /* what the next open sees; NULL: no cache, or
                          * asleep */
    struct timespec mtime;
    struct node *node;          /* shows image; not counted */
    unsigned open_nodes;        /* of its nodes: those that are open */
    uint8_t uuid[KCM_UUID_LEN]; /* last seen; all zero: not yet */
    int64_t reserved_until;     /* the directory outlives its cache */
    bool reserved_by_mkdir;
    bool ending;         /* no file of it may be opened unchecked */
    struct node *unborn; /* created, not yet a cache; not counted */
    struct told_stale {
        pid_t pid; /* a thread that was answered ESTALE */
        bool truncates;
        uint64_t ino;
    } told_stale[32];
    unsigned told_next;
};

struct node {
    struct node *next_ino, *next_key; /* hash chains */
    uint64_t ino;
    enum node_kind kind;
    uid_t uid; /* (uid_t)-1: everybody's */
    struct content *content;
    char *name;       /* ticket, config key, scratch or link name */
    uint64_t parent;  /* of a scratch file: ino of its directory */
    uint64_t lookups; /* the kernel's references */
    unsigned refs;    /* ours: requests under way, handles, lists */
    bool keyed;       /* in the key table: can be found by name */
    /* NODE_CACHE and NODE_SCRATCH, under fs->lock: */
    unsigned opens;      /* handles */
    unsigned truncating; /* of which so many were opened by O_TRUNC */
    bool reserved;       /* for one that will be */
    bool counted;        /* in content->open_nodes */
    struct image *image; /* what it shows; NULL: draft */
    struct blob *text;   /* generated text, while it is open */
    struct draft *draft; /* plain bytes: scratch, or a cache not yet made */
    bool linked;         /* a scratch file or link that has its name: one
                          * reference of ours */
    char *target;        /* of a symlink that is scratch */
    size_t old_len;      /* of an image that grew, until the kernel may know */
    size_t kernel_len;   /* what the kernel may take the length to be */
    size_t stored_len;   /* and what it takes it to be at least */
    uint64_t image_serial;  /* counts the images shown */
    uint64_t kernel_serial; /* the kernel has no pages of older ones */
    bool unlinked;
    bool moved; /* to another cache's name, for those who have it open */
    struct timespec mtime;
};

struct handle {
    struct handle *next, *prev; /* of all, under fs->lock */
    struct node *node;
    struct caller caller; /* who opened; deadline and wake are set anew */
    int flags;
    bool unchecked;        /* of what is behind the header; fs->lock */
    bool truncating;       /* counted so in its node; fs->lock */
    bool direct;           /* it is read past the kernel's pages */
    uint64_t image_serial; /* of the node when h was opened; fs->lock */
    struct image *pinned;  /* what it reads, if not its node's */
    struct blob *text;
    struct dir_list *list;
    pthread_mutex_t lock; /* of what a writer has not committed yet: */
    struct writer tail;   /* bytes that do not make a whole record */
    size_t charged;       /* of the uid's memory for drafts, for tail */
    off_t end;            /* of the file, as far as this writer knows */
    struct draft *draft;  /* what the file is to be, at flush or fsync; set
                           * and dropped under fs->lock, too */
    bool dirty;           /* draft was written to since the last commit */
};

/* --- fs.c: the whole --------------------------------------------------- */

struct fs {
    struct kcm *kcm;
    struct fs_config config;
    struct fuse_session *session;
    /* Have the kernel drop its pages of ino from there on; may wait for READs
     * that are being answered.  NULL: one thread would wait for itself. */
    void (*drop_pages)(struct fs *fs, uint64_t ino, off_t from);
    /* Have it take ino to end there, with that byte, if it took it to end
     * before; may wait for READs, too. */
    void (*store_end)(struct fs *fs, uint64_t ino, off_t end, uint8_t last);
    void (*ready)(void *arg); /* when the kernel's INIT was answered */
    void *ready_arg;
    pthread_mutex_t lock;
    struct node **by_ino, **by_key;
    size_t buckets, node_count;
    struct user *users;
    struct handle *handles; /* those that the kernel holds */
    struct node *root;
    bool leftovers; /* nodes that nobody has open show what is gone */
    time_t started;
    uid_t owner; /* of the fixed directories */
    gid_t group;
};

int fs_new(struct kcm *kcm, const struct fs_config *config,
           struct fs **fs_out);
void fs_free(struct fs *fs);
void fs_set_session(struct fs *fs, struct fuse_session *session);
void fs_on_ready(struct fs *fs, void (*ready)(void *arg), void *arg);

/* --- errno.c ----------------------------------------------------------- */

/* The errno (positive) for a result of kcm/ or fs/. */
int fs_errno(int result);

/* --- node.c ------------------------------------------------------------ */

int nodes_init(struct fs *fs);
void nodes_free(struct fs *fs);
/*
 * The node of that identity, made if there is none, with one reference.
 * name may be NULL; content is referenced by a new node.  NULL: no memory.
 */
struct node *node_get(struct fs *fs, enum node_kind kind, uid_t uid,
                      struct content *content, uint64_t parent,
                      const char *name);
struct node *node_get_locked(struct fs *fs, enum node_kind kind, uid_t uid,
                             struct content *content, uint64_t parent,
                             const char *name);
/* A node that is there already, or NULL. */
struct node *node_find(struct fs *fs, enum node_kind kind, uid_t uid,
                       struct content *content, uint64_t parent,
                       const char *name);
/* Make a new node that node_find() does not find yet. */
struct node *node_new_locked(struct fs *fs, enum node_kind kind, uid_t uid,
                             struct content *content);
/* The node of an inode number of the kernel's, with one reference. */
struct node *node_of(struct fs *fs, uint64_t ino);
struct node *node_ref_locked(struct node *n);
void node_unref(struct fs *fs, struct node *n);
void node_unref_locked(struct fs *fs, struct node *n);
/* Take n out of the key table: its name is free. */
void node_unkey_locked(struct fs *fs, struct node *n);
void node_rekey_locked(struct fs *fs, struct node *n, uint64_t parent,
                       char *name);
/* The kernel took, or gave back, references. */
void node_looked_up(struct fs *fs, struct node *n);
void node_forget(struct fs *fs, uint64_t ino, uint64_t count);

/* --- status.c: how it is going, by uid ---------------------------------- */

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

/* --- handle.c: open files and directories -------------------------------- */

/* Takes over the reference to n; NULL without memory, and the reference stays
 * the caller's. */
struct handle *handle_new(struct fs *fs, struct node *n,
                          const struct caller *caller, int flags);
void handle_free(struct fs *fs, struct handle *h);
/* Its file is not open by it any more. */
void handle_close(struct fs *fs, struct handle *h);
bool handle_is_writer(const struct handle *h);
bool handle_truncates(const struct handle *h);
/* At the end: the kernel does not release what a mount that goes has open. */
void handles_free(struct fs *fs);

/* --- user.c: what is known of one uid ---------------------------------- */

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
    unsigned requests; /* under way; atomic */
    unsigned scratch_count;
    size_t scratch_bytes;
    size_t copied_bytes; /* of drafts, for commits under way */
    unsigned reserved;
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

/* --- content.c --------------------------------------------------------- */

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
/* A handle on a cache file, scratch file or unborn cache comes and goes. */
void content_opened_locked(struct node *n);
void content_closed(struct fs *fs, struct node *n);
/*
 * The kernel is to take n to be as long as it is.  What GETATTR and LOOKUP
 * say is not enough: it leaves the answer aside when it was told meanwhile
 * that attributes changed, and reads to the end that it knew.
 */
void content_tell_end(struct fs *fs, struct node *n);
/* The node that shows c now, with one reference; NULL: there is no cache. */
struct node *content_node(struct content *c);
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

/* --- draft.c: bytes that are no cache yet ------------------------------- */

/* Limits of scratch files, per uid. */
#define DRAFTS_PER_UID      256u
#define DRAFT_BYTES_PER_UID ((size_t)64 * 1024 * 1024)
#define DRAFT_BYTES         ((size_t)32 * 1024 * 1024)
#define COPIES_PER_UID      ((size_t)64 * 1024 * 1024)
#define DRAFT_AGE_S         (15 * 60)

struct draft {
    int refs; /* atomic */
    pthread_mutex_t lock;
    struct user *user; /* who is charged */
    struct writer bytes;
};

int draft_new(struct user *u, struct draft **out); /* -EDQUOT */
struct draft *draft_ref(struct draft *d);
void draft_unref(struct draft *d);
DEFINE_CLEANUP(struct draft *, draft_unref)
/* 0, -EDQUOT or -EFBIG. */
int draft_write(struct draft *d, off_t off, struct data data);
int draft_truncate(struct draft *d, off_t size);
size_t draft_size(struct draft *d);
/* The draft of a node, with one reference, or NULL. */
struct draft *draft_of(struct fs *fs, struct node *n);
/* A copy of its bytes, while others may write to it: 0, or -EAGAIN where the
 * uid has too many under way. */
struct draft_copy {
    struct writer bytes;
    struct user *user;
};
int draft_copy(struct draft *d, struct draft_copy *out);
void draft_copy_free(struct draft_copy *copy);
/* The uid has so many bytes more, or less, in secret memory. */
int draft_charge(struct user *u, size_t bytes); /* -EDQUOT */
void draft_discharge(struct user *u, size_t bytes);

/* --- scratch.c: temporary files and links ------------------------------- */

/* The scratch node name in dir, with one reference, or NULL. */
struct node *scratch_find(struct fs *fs, struct node *dir, uid_t uid,
                          const char *name);
int scratch_create(struct fs *fs, struct node *dir, uid_t uid,
                   const char *name, struct node **out);
int scratch_symlink(struct fs *fs, struct node *dir, uid_t uid,
                    const char *name, const char *target, struct node **out);
/* It loses its name. */
void scratch_unlink(struct fs *fs, struct node *n);
void scratch_unlink_locked(struct fs *fs, struct node *n);
/* It gets another name; a scratch file there goes. */
int scratch_rename(struct fs *fs, struct node *n, struct node *dir,
                   const char *name);
/* A cache file that is created: plain bytes until its principal is whole. */
int scratch_unborn(struct content *c, struct node **out);
void scratch_unborn_drop(struct content *c);
/* The draft n becomes the file of c, which is no cache yet. */
void scratch_to_unborn(struct node *n, struct content *c);
/* Drop what nobody has touched for DRAFT_AGE_S, whoever's it is. */
void scratch_collect(struct fs *fs);

/* --- write.c: open files ------------------------------------------------ */

/* These with h->lock, as h->caller. */
/* A cache that exists was opened for writing. */
int change_opened(struct handle *h);
/* Bytes written at off (O_APPEND: at the end): 0 or an error. */
int change_write(struct handle *h, off_t off, struct data data);
/* Commit what is complete; -EINVAL for what cannot be a cache. */
int change_flush(struct handle *h);
/* ftruncate() on an open file. */
int change_truncate(struct handle *h, off_t size);

/* --- change.c: what becomes of caches ------------------------------------ */

/* Replace c's content by the file in bytes; n becomes its node. */
int change_replace(struct content *c, const struct caller *caller,
                   struct data bytes, struct node *n);
int change_destroy(struct content *c, const struct caller *caller);
int change_move(struct content *from, struct content *to,
                const struct caller *caller);
int change_remove_ticket(struct content *c, const struct caller *caller,
                         bool config, const char *name);
/* Store the tickets of a FILE cache into c. */
int change_store_file(struct content *c, const struct caller *caller,
                      struct data bytes);
int change_set_config(struct content *c, const struct caller *caller,
                      const char *file, struct data value);

/* --- ticket names, per snapshot (tickets.c) ----------------------------- */

struct ticket_name {
    char *name;
    size_t index; /* in the snapshot */
};

struct ticket_table {
    int refs; /* atomic */
    struct kcm_snapshot *snapshot;
    bool *superseded;
    size_t tickets, configs;
    struct ticket_name *ticket; /* sorted by name */
    struct ticket_name *config;
};

int tickets_of(struct content *c, struct ticket_table **out);
void tickets_unref(struct ticket_table *t);
DEFINE_CLEANUP(struct ticket_table *, tickets_unref)
const struct ticket_name *tickets_find(const struct ticket_name *names,
                                       size_t count, const char *name);

/* The file in config/ of a configuration entry: KEY or KEY@PRINCIPAL.  NULL
 * without memory. */
char *config_file(const struct cred *c);
/* The other way round: append the entry of client that file, holding value,
 * stands for. 0; -EINVAL: it can be none; -ENOMEM. */
int config_parse(const char *file, struct data client, struct data value,
                 struct writer *w);

/* --- text.c: generated files -------------------------------------------- */

/* The bytes of a generated file; KCM_NOT_FOUND when it is gone. */
int text_of(struct fs *fs, struct node *n, const struct caller *caller,
            struct blob **out);
/* The UUID that c has now; false: it has none. */
bool text_uuid(struct content *c, const struct caller *caller,
               uint8_t uuid_out[KCM_UUID_LEN]);

/* --- tree.c: lookup and list --------------------------------------------- */

#define FILE_NAME_MAX 255

/* The node of name in dir for the caller, with one reference. */
int tree_lookup(struct fs *fs, struct node *dir, const char *name,
                const struct caller *caller, struct node **out);

struct dir_entry {
    char *name;
    mode_t type; /* S_IF... */
};

struct dir_list {
    struct dir_entry *entries;
    size_t count, room;
};

int tree_list(struct fs *fs, struct node *dir, const struct caller *caller,
              struct dir_list **out);
void dir_list_free(struct dir_list *l);
DEFINE_CLEANUP(struct dir_list *, dir_list_free)
/* Add a name, which is taken over, freed on failure; false without memory. */
bool dir_list_add(struct dir_list *l, char *name, mode_t type);

/* --- collection.c: its names, and where files can be created ------------ */

/* The file name of a cache that libkrb5 takes from the file primary; NULL
 * for one that has none (it is tkt=UUID). 0 or -ENOMEM. */
int collection_form(uid_t uid, const char *cache, char **form_out);
/* The cache that a file name stands for: its name, or NULL and its UUID.
 * 0; KCM_NOT_FOUND: it can be none; -ENOMEM. */
int collection_parse(uid_t uid, const char *file, char **name_out,
                     uint8_t uuid[KCM_UUID_LEN]);
/* The first line of the file primary; "" for a file with nothing in it.
 * -EINVAL where there is no such line. */
#define PRIMARY_LINE_MAX 128
int primary_parse(struct data bytes, char line[PRIMARY_LINE_MAX]);

/* The name of the cache that file name stands for in collection/. */
int tree_collection_name(struct user *u, const struct caller *caller,
                         const char *file, char **name_out);
/* The file name in collection/ of a cache. */
char *tree_collection_file(struct user *u, const char *cache);
/* The same of the default cache, also when the daemon does not answer. */
int tree_primary(struct user *u, const struct caller *caller, char **file_out);

enum placing {
    PLACE_CREATED,
    PLACE_RENAMED, /* what temporary files become is none */
};

/*
 * What is a file of that name in dir, where it is to be created or renamed
 * to?  0: *out is the cache that it will be, with one reference, or NULL for
 * a scratch file.  -EACCES: it may not be there.
 */
int tree_place(struct fs *fs, struct node *dir, const char *name,
               enum placing placing, const struct caller *caller,
               struct content **out);

/* --- principals.c: by-principal/ ---------------------------------------- */

int principals_find(struct user *u, const struct caller *caller,
                    const char *file, char **target_out);
int principals_list(struct user *u, const struct caller *caller,
                    struct dir_list *l);

/* --- links.c ------------------------------------------------------------ */

/* The target of a symlink node. */
int tree_readlink(struct fs *fs, struct node *n, const struct caller *caller,
                  char **out);
/* The cache whose directory (or file in collection/) a path form names. */
int tree_cache_of_path(struct user *u, const struct caller *caller,
                       const char *path, char **name_out);

/* --- attr.c ------------------------------------------------------------- */

int tree_attr(struct fs *fs, struct node *n, const struct caller *caller,
              bool refresh, struct stat *st);

/* --- names.c ------------------------------------------------------------ */

/* by-name form of a cache name; NULL without memory. */
char *name_escape(const char *cache_name);
/* The cache name of a by-name form; NULL if it is none. */
char *name_unescape(const char *file_name);
/* Text behind a config/ file name; NULL if it is none. */
char *name_unescape_text(const char *file_name);
/* File name of a principal: "." stays except a leading one. */
char *name_of_principal(const char *principal_text);
/* Append "#2", "#3"... to what stands before: names sorted or not. */
int names_make_unique(struct ticket_name *names, size_t count);
bool uuid_parse_text(const char *text, uint8_t uuid[KCM_UUID_LEN]);
void uuid_format_text(const uint8_t uuid[KCM_UUID_LEN], char text[37]);

#endif
