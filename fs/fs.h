/*
 * The file system: names and nodes over a KCM service.
 *
 *   kernel request -> op_*() (ops_*.c) -> tree_*() (tree.c: which node)
 *     -> content_*() (open.c: opened; check.c: brought up to date; content.c:
 *        its image)
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
struct parked;

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
    bool provisional;        /* image is a whole file as a writer wrote it: a
                              * check gives it another order, and maybe
                              * another node, which stat() must tell of */
    bool written;            /* image is not made of shown: a writer's */
    bool asleep;             /* it exists, but its image was dropped: idle.c */
    uint64_t checks_begun;   /* number of the newest check */
    uint64_t check_finished; /* number of the newest that succeeded */
    uint64_t checked;        /* its number among all, fs->epoch */
    int64_t checked_ms;      /* when it began, or a change */
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
    bool updating;       /* nor without the turn: offsets may be new */
    struct node *unborn; /* created, not yet a cache; not counted */
    bool serving;        /* a thread opens it, and will what is parked */
    struct parked *parked, *last_parked;
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
    unsigned cached;     /* and so many read through the kernel's pages */
    int64_t read_ms;     /* when such a one asked for a page last */
    bool reserved;       /* for one that will be */
    bool counted;        /* in content->open_nodes */
    struct image *image; /* what it shows; NULL: draft */
    struct blob *text;   /* generated text, while it is open */
    struct draft *draft; /* plain bytes: scratch, or a cache not yet made */
    bool linked;         /* a scratch file or link that has its name: one
                          * reference of ours */
    char *target;        /* of a symlink that is scratch */
    size_t old_len;      /* of an image that grew, until the kernel may know */
    bool telling;        /* and from then until it does: fs->told */
    size_t kernel_len;   /* what the kernel may take the length to be */
    uint64_t image_serial;  /* counts the images shown */
    uint64_t kernel_serial; /* the kernel has no pages of older ones */
    uint64_t right;         /* the check (content->checked) that found it so
                             * last, if it is not content->node */
    bool unlinked;
    bool links_told; /* to the kernel, which may have known it by a name that
                      * was not the one unlinked */
    bool moved;      /* to another cache's name, for those who have it open */
    struct timespec mtime;
};

struct handle {
    struct handle *next, *prev; /* of all, under fs->lock */
    struct user *user;          /* who opened; counts it */
    struct node *node;
    struct caller caller; /* who opened; deadline and wake are set anew */
    int flags;
    bool unchecked;        /* of what is behind the header; fs->lock */
    bool truncating;       /* counted so in its node; fs->lock */
    bool cached;           /* likewise */
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

#define TOLD_STALE 1024

/* --- fs.c: the whole ----------------------------------------------------- */

struct fs {
    struct kcm *kcm;
    struct fs_config config;
    struct fuse_session *session;
    /* Have the kernel ask anew for the attributes of ino; NULL in unit tests.
     */
    void (*drop_attr)(struct fs *fs, uint64_t ino);
    /* Have it drop its pages of ino from there on, or take ino to end there,
     * with that byte, if it took it to end before.  They may wait for READs
     * that are being answered: NULL if one thread would wait for itself. */
    void (*drop_pages)(struct fs *fs, uint64_t ino, off_t from);
    void (*store_end)(struct fs *fs, uint64_t ino, off_t end, uint8_t last);
    void (*ready)(void *arg); /* when the kernel's INIT was answered */
    void *ready_arg;
    pthread_mutex_t lock;
    struct node **by_ino, **by_key;
    size_t buckets, node_count;
    struct user *users;
    struct handle *handles; /* those that the kernel holds */
    pthread_cond_t told;    /* a node's telling ended */
    uint64_t epoch;         /* counts all checks that began */
    struct told_stale {
        pid_t pid; /* a thread that was answered ESTALE */
        bool truncates;
        unsigned looks;  /* LOOKUPs since */
        unsigned failed; /* in a row that found nothing */
        uint64_t told;   /* fs->epoch when it was told */
        uint64_t epoch;  /* and when it was told, or looked last */
        uint64_t ino;    /* 0: none */
    } told_stale[TOLD_STALE];
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

/* --- errno.c ------------------------------------------------------------- */

/* The errno (positive) for a result of kcm/ or fs/. */
int fs_errno(int result);

#endif
