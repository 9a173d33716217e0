/*
 * Put right what a change could not finish: of this process, when the daemon
 * answers again; of one that died, when its uid is first served.
 */
#define KCM_INTERNAL
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "commit.h"
#include "cred.h"
#include "log.h"

#define TARGET_KEY "kcmfs-work-for"
/* How long the caller of a change that failed waits for the undoing. */
#define AT_ONCE_MS  1000
#define RETRY_MS    250
#define RETRY_COUNT (4 * 60 * 60 * 4)
/* DESTROY, and the default before and after.  Removals are more, but each is
 * done before what it removed is stored again, which comes behind it. */
#define SENT_AT_ONCE 3
/* No change takes as long. */
#define ABANDONED_S (30 * 60)

/* Something to put right.  Owned by kcm->pending until it is. */
struct pending {
    struct pending *next;
    struct caller caller;
    char work[KCM_WORK_NAME_MAX];
    char *target; /* NULL: only the work cache is to go */
    bool had_content;
    bool only_if_gone;
    struct blob *principal;
    int32_t kdc_offset;
    struct blob **creds;
    size_t count;
};

void
kcm_work_name(struct kcm *kcm, uid_t uid, char name[KCM_WORK_NAME_MAX])
{
    unsigned n = __atomic_add_fetch(&kcm->works, 1, __ATOMIC_RELAXED);
    snprintf(name, KCM_WORK_NAME_MAX, "%u:" KCM_WORK_PREFIX "%d-%lld-%u", uid,
             (int)getpid(), (long long)time(NULL), n);
}

int
kcm_work_save(struct kcm *kcm, const struct caller *caller, const char *work,
              const char *target, const struct kcm_content *content)
{
    _cleanup_(writer_free) struct writer mark = {0};
    cred_write_config(&mark, content->principal, data_of_string(TARGET_KEY),
                      (struct data){NULL, 0}, data_of_string(target));
    if (mark.failed)
        return -ENOMEM;
    struct data last = writer_data(&mark);
    int r = kcm_fill_work(kcm, caller, work, content);
    return r == 0 ? kcm_store(kcm, caller, work, &last, 1, NULL) : r;
}

static void
pending_free(struct pending *p)
{
    if (p == NULL)
        return;
    for (size_t i = 0; p->creds != NULL && i < p->count; i++)
        blob_unref(p->creds[i]);
    free(p->creds);
    blob_unref(p->principal);
    free(p->target);
    free(p);
}
DEFINE_CLEANUP(struct pending *, pending_free)

static struct pending *
pending_new(const struct caller *caller, const struct kcm_undo *undo)
{
    const struct kcm_content *before = undo->before;
    _cleanup_(pending_freep) struct pending *p = calloc(1, sizeof(*p));
    if (p == NULL)
        return NULL;
    p->caller = *caller;
    p->only_if_gone = undo->only_if_gone;
    snprintf(p->work, sizeof(p->work), "%s",
             undo->work != NULL ? undo->work : "");
    if (undo->target != NULL && (p->target = strdup(undo->target)) == NULL)
        return NULL;
    if (before == NULL)
        return take(p);
    p->had_content = true;
    p->kdc_offset = before->kdc_offset;
    p->principal = blob_new(before->principal.p, before->principal.len);
    p->creds = calloc(before->count + 1, sizeof(*p->creds));
    if (p->principal == NULL || p->creds == NULL)
        return NULL;
    for (; p->count < before->count; p->count++) {
        struct data d = before->creds[p->count];
        p->creds[p->count] = blob_new(d.p, d.len);
        if (p->creds[p->count] == NULL)
            return NULL;
    }
    return take(p);
}

/* 0: it is there; KCM_NOT_FOUND. */
static int
look_for(struct kcm *kcm, const struct caller *caller, const char *name)
{
    struct kcm_known known = {0};
    int r = kcm_fetch_as_is(kcm, caller, name, &known);
    kcm_snapshot_unref(known.snapshot);
    return r;
}

static int
put_back(struct kcm *kcm, const struct caller *caller, struct pending *p)
{
    if (p->target == NULL)
        return 0;
    if (p->only_if_gone) {
        int r = look_for(kcm, caller, p->target);
        if (r != KCM_NOT_FOUND)
            return r;
        p->only_if_gone = false; /* it may be there in part from now on */
    }
    if (!p->had_content) {
        int r = kcm_destroy(kcm, caller, p->target, NULL);
        return r == KCM_NOT_FOUND ? 0 : r;
    }
    _cleanup_(freep) struct data *creds = calloc(p->count + 1, sizeof(*creds));
    if (creds == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < p->count; i++)
        creds[i] = (struct data){p->creds[i]->bytes, p->creds[i]->len};
    struct kcm_content content = {
        .principal = {p->principal->bytes, p->principal->len},
        .kdc_offset = p->kdc_offset,
        .creds = creds,
        .count = p->count,
    };
    int r = kcm_fill(kcm, caller, p->target, &content);
    if (r == 0)
        log_info("cache %s is again as before the change that failed",
                 p->target);
    return r;
}

/*
 * What failed may still be done, and what undoes it must come behind.  Daemons
 * take a request from each connection in turn: when as many are answered as
 * are ever sent at once to a cache that is somebody's, it has been done.
 */
static int
come_behind(struct kcm *kcm, const struct caller *caller)
{
    _cleanup_(batch_free) struct batch b = {0};
    for (int i = 0; i < SENT_AT_ONCE; i++)
        batch_add(&b, KCM_OP_GET_DEFAULT_CACHE);
    return kcm_exchange(kcm, caller, &b);
}

static int
settle(struct kcm *kcm, const struct caller *caller, struct pending *p)
{
    int r = come_behind(kcm, caller);
    if (r == 0)
        r = put_back(kcm, caller, p);
    if (r == 0 && p->work[0] != '\0') {
        r = kcm_destroy(kcm, caller, p->work, NULL);
        if (r == KCM_NOT_FOUND)
            r = 0;
    }
    return r;
}

/* Settle what is pending for the caller's uid; with kcm->recovering. */
static int
settle_all(struct kcm *kcm, const struct caller *caller)
{
    for (;;) {
        pthread_mutex_lock(&kcm->lock);
        struct pending *p = kcm->pending;
        while (p != NULL && p->caller.uid != caller->uid)
            p = p->next;
        pthread_mutex_unlock(&kcm->lock);
        if (p == NULL)
            return 0;
        int r = settle(kcm, caller, p);
        if (r < 0)
            return r;
        if (r > 0)
            log_warn("cache %s cannot be put back as it was: the KCM "
                     "daemon refuses (%d)",
                     p->target != NULL ? p->target : p->work, r);
        pthread_mutex_lock(&kcm->lock);
        struct pending **link = &kcm->pending;
        while (*link != p)
            link = &(*link)->next;
        *link = p->next;
        pthread_mutex_unlock(&kcm->lock);
        pending_free(p);
    }
}

struct retry {
    struct kcm *kcm;
    struct caller caller;
};

static int
try_settle(struct kcm *kcm, struct caller *caller, int ms)
{
    caller->deadline = now_ms() + ms;
    caller->wake = wake_mine();
    if (caller->wake == NULL)
        return -errno;
    int r = turn_take(&kcm->recovering, caller);
    if (r == 0) {
        r = settle_all(kcm, caller);
        turn_give(&kcm->recovering);
    }
    return r;
}

static void *
retry(void *arg)
{
    struct retry *t = arg;
    struct timespec nap = {.tv_nsec = RETRY_MS * 1000000};
    for (int i = 0; i < RETRY_COUNT; i++) {
        nanosleep(&nap, NULL);
        if (__atomic_load_n(&t->kcm->closing, __ATOMIC_RELAXED) ||
            try_settle(t->kcm, &t->caller, (int)t->kcm->timeout_ms) == 0)
            break;
    }
    __atomic_sub_fetch(&t->kcm->retries, 1, __ATOMIC_RELEASE);
    free(t);
    return NULL;
}

static void
retry_later(struct kcm *kcm, const struct caller *caller)
{
    pthread_t thread;
    struct retry *t = malloc(sizeof(*t));
    if (t == NULL)
        return; /* the uid's next operation tries again */
    *t = (struct retry){kcm, *caller};
    __atomic_add_fetch(&kcm->retries, 1, __ATOMIC_RELAXED);
    if (pthread_create(&thread, NULL, retry, t) == 0) {
        pthread_detach(thread);
        return;
    }
    __atomic_sub_fetch(&kcm->retries, 1, __ATOMIC_RELEASE);
    free(t);
}

void
kcm_give_up(struct kcm *kcm, const struct caller *caller,
            const struct kcm_undo *undo)
{
    struct caller patient = *caller;
    struct pending *p = pending_new(caller, undo);
    if (p == NULL) {
        log_error("no memory to put cache %s back as it was",
                  undo->target != NULL ? undo->target : undo->work);
        return;
    }
    pthread_mutex_lock(&kcm->lock);
    struct pending **end = &kcm->pending;
    bool waits = false;
    for (; *end != NULL; end = &(*end)->next)
        waits = waits || (*end)->caller.uid == caller->uid;
    *end = p;
    pthread_mutex_unlock(&kcm->lock);
    if (waits)
        return; /* for who tries to undo what is before it */
    /* Who was interrupted waits for nothing any more, not for what comes
     * after this either: a new wait would forget the interrupt. */
    if (wake_interrupted(caller->wake) ||
        try_settle(kcm, &patient, AT_ONCE_MS) != 0)
        retry_later(kcm, caller);
}

void
kcm_pending_free(struct kcm *kcm)
{
    struct timespec nap = {.tv_nsec = RETRY_MS * 1000000};
    __atomic_store_n(&kcm->closing, true, __ATOMIC_RELAXED);
    while (__atomic_load_n(&kcm->retries, __ATOMIC_ACQUIRE) > 0)
        nanosleep(&nap, NULL);
    while (kcm->pending != NULL) {
        struct pending *p = kcm->pending;
        kcm->pending = p->next;
        pending_free(p);
    }
}

/* --- leftovers of a process that died ---------------------------------- */

/* Is it the work cache of a process that is no more?  One of our own number
 * may be of the last boot, or the last start of our container. */
static bool
is_leftover(const struct kcm *kcm, const char *name, uid_t uid)
{
    char prefix[32], proc[32];
    int pid = 0;
    long long made = 0;
    struct stat st;
    int n = snprintf(prefix, sizeof(prefix), "%u:" KCM_WORK_PREFIX, uid);
    if (strncmp(name, prefix, (size_t)n) != 0 ||
        sscanf(name + n, "%d-%lld-", &pid, &made) != 2)
        return false;
    if (pid == getpid())
        return made < kcm->started;
    snprintf(proc, sizeof(proc), "/proc/%d", pid);
    return made + ABANDONED_S < time(NULL) ||
           (stat(proc, &st) != 0 && errno == ENOENT);
}

/* The cache that a work cache was saved from, and without its mark. */
static struct blob *
target_of(const struct kcm_snapshot *s, struct kcm_content *content)
{
    struct blob *target = NULL;
    size_t kept = 0;
    struct data *creds = (struct data *)content->creds;
    (void)s;
    for (size_t i = 0; i < content->count; i++) {
        struct cred c;
        if (cred_parse(creds[i], &c) && cred_is_config(&c) &&
            data_equal(cred_config_key(&c), data_of_string(TARGET_KEY))) {
            blob_unref(target);
            target = blob_new(NULL, c.ticket.len + 1);
            if (target != NULL)
                memcpy(target->bytes, c.ticket.p, c.ticket.len);
        } else {
            creds[kept++] = creds[i];
        }
    }
    content->count = kept;
    return target;
}

static int
recover_leftover(struct kcm *kcm, const struct caller *caller,
                 const char *work)
{
    struct kcm_known known = {0};
    _cleanup_(freep) struct data *creds = NULL;
    _cleanup_(blob_unrefp) struct blob *target = NULL;
    struct kcm_content content;
    int r = kcm_fetch_as_is(kcm, caller, work, &known);
    _cleanup_(kcm_snapshot_unrefp) struct kcm_snapshot *s = known.snapshot;
    if (r == 0)
        r = kcm_content_of(s, &content, &creds);
    if (r == 0)
        target = target_of(s, &content);
    if (r == 0 && target != NULL) {
        log_warn("cache %s is put back as it was before a kcmfs that died "
                 "changed it",
                 (const char *)target->bytes);
        r = kcm_fill(kcm, caller, (const char *)target->bytes, &content);
    }
    if (r < 0)
        return r;
    if (r == 0 || r == KCM_NOT_FOUND)
        r = kcm_destroy(kcm, caller, work, NULL);
    return r < 0 ? r : 0;
}

static bool
was_checked(struct kcm *kcm, uid_t uid)
{
    pthread_mutex_lock(&kcm->lock);
    size_t i = 0;
    while (i < kcm->checked_count && kcm->checked[i] != uid)
        i++;
    bool was = i < kcm->checked_count;
    pthread_mutex_unlock(&kcm->lock);
    return was;
}

static void
note_checked(struct kcm *kcm, uid_t uid)
{
    pthread_mutex_lock(&kcm->lock);
    uid_t *more =
        reallocarray(kcm->checked, kcm->checked_count + 1, sizeof(*more));
    if (more != NULL) {
        more[kcm->checked_count++] = uid;
        kcm->checked = more;
    }
    pthread_mutex_unlock(&kcm->lock);
}

static int
check_leftovers(struct kcm *kcm, const struct caller *caller)
{
    _cleanup_(kcm_listing_freep) struct kcm_listing *l = NULL;
    int r = kcm_list_all(kcm, caller, NULL, &l);
    for (size_t i = 0; r == 0 && i < l->count; i++)
        if (is_leftover(kcm, l->caches[i].name, caller->uid))
            r = recover_leftover(kcm, caller, l->caches[i].name);
    return r;
}

int
kcm_recover(struct kcm *kcm, const struct caller *caller)
{
    bool checked = was_checked(kcm, caller->uid);
    pthread_mutex_lock(&kcm->lock);
    struct pending *p = kcm->pending;
    while (p != NULL && p->caller.uid != caller->uid)
        p = p->next;
    pthread_mutex_unlock(&kcm->lock);
    if (checked && p == NULL)
        return 0;
    int r = turn_take(&kcm->recovering, caller);
    if (r < 0)
        return r;
    r = settle_all(kcm, caller);
    if (r == 0 && !was_checked(kcm, caller->uid)) {
        r = check_leftovers(kcm, caller);
        if (r >= 0)
            note_checked(kcm, caller->uid);
        r = r < 0 ? r : 0;
    }
    turn_give(&kcm->recovering);
    return r;
}
