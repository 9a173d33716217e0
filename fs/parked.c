/*
 * Opens for reading that come while another thread opens the same cache.
 *
 * Each needs a check that begins after it came, and one such check serves
 * all.  So they are parked and their threads go; the thread that is at it
 * checks once more for all of them, answers them, and does so until none is
 * parked.  A thread that waits, and is woken, would cost more than its open.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "fs/node.h"
#include "fs/ops.h"
#include "fs/told.h"
#include "kcm/log.h"

struct parked {
    struct parked *next; /* of the content, under fs->lock */
    struct content *content;
    struct request r;
    struct handle *h;
    struct fuse_file_info fi;
    uint64_t needed;  /* the number of the check that will do */
    bool waits;       /* it is in the list: fs->lock */
    bool interrupted; /* and so it must not be */
};

static void
park_locked(struct content *c, struct parked *p)
{
    p->needed = c->checks_begun + 1;
    p->waits = true;
    if (c->last_parked != NULL)
        c->last_parked->next = p;
    else
        c->parked = p;
    c->last_parked = p;
}

static void
unpark_locked(struct content *c, struct parked *p)
{
    struct parked **link = &c->parked, *previous = NULL;
    while (*link != p) {
        previous = *link;
        link = &previous->next;
    }
    *link = p->next;
    if (c->last_parked == p)
        c->last_parked = previous;
    p->waits = false;
}

/* libfuse holds the request's lock: no request_end() here. */
static void
interrupted(fuse_req_t req, void *arg)
{
    struct parked *p = arg;
    struct fs *fs = p->r.fs;
    pthread_mutex_lock(&fs->lock);
    bool waits = p->waits;
    if (waits)
        unpark_locked(p->content, p);
    p->interrupted = true;
    pthread_mutex_unlock(&fs->lock);
    if (!waits)
        return;
    told_forget(fs, p->r.caller.pid);
    handle_free(fs, p->h);
    request_give_up(&p->r);
    free(p);
    fuse_reply_err(req, EINTR);
}

/* c's first opener serves those that come meanwhile. */
static bool
is_first(struct content *c)
{
    struct fs *fs = c->user->fs;
    pthread_mutex_lock(&fs->lock);
    bool first = !c->serving;
    c->serving = true;
    pthread_mutex_unlock(&fs->lock);
    return first;
}

static bool
park(struct content *c, struct request *r, struct handle *h,
     const struct fuse_file_info *fi)
{
    struct fs *fs = r->fs;
    struct parked *p = malloc(sizeof(*p));
    if (p == NULL)
        return false;
    *p = (struct parked){.content = c, .r = *r, .h = h, .fi = *fi};
    fuse_req_interrupt_func(r->req, interrupted, p);
    pthread_mutex_lock(&fs->lock);
    bool parks = c->serving && !p->interrupted;
    if (parks)
        park_locked(c, p);
    pthread_mutex_unlock(&fs->lock);
    /* From now on p, r->req and h are the other thread's. */
    if (parks) {
        request_leave();
        return true;
    }
    request_resume(r);
    free(p);
    return false;
}

/* Others are opened in other ways. */
static bool
reads_cache(struct fs *fs, const struct handle *h)
{
    pthread_mutex_lock(&fs->lock);
    bool cache = h->node->kind == NODE_CACHE && h->node->draft == NULL;
    pthread_mutex_unlock(&fs->lock);
    return cache && !handle_is_writer(h);
}

bool
parked_open(struct request *r, struct handle *h,
            const struct fuse_file_info *fi, struct content **serves_out)
{
    struct fs *fs = r->fs;
    *serves_out = NULL;
    if (fs->config.single_threaded || !reads_cache(fs, h))
        return false;
    _cleanup_(content_unrefp) struct content *c = content_of(fs, h->node);
    if (is_first(c)) {
        *serves_out = take(c);
        return false;
    }
    return park(c, r, h, fi);
}

static void
answer(struct parked *p, int result)
{
    struct fs *fs = p->r.fs;
    enum open_outcome outcome = OPEN_KEEP;
    request_resume(&p->r);
    p->h->caller.wake = p->r.caller.wake;
    if (result == 0)
        result = content_open_after(p->content, p->h, p->needed, &outcome);
    result = open_opened(p->h, result, outcome, &p->fi);
    if (result != -ESTALE)
        told_forget(fs, p->r.caller.pid);
    open_answer(&p->r, p->h, &p->fi, result);
    free(p);
}

/* On behalf of the one that has been parked longest; *number_out: who came
 * before that check began. */
static int
check(struct content *c, const struct caller *caller, uint64_t *number_out)
{
    struct caller mine = *caller;
    mine.wake = wake_mine();
    log_context(mine.uid, "open");
    secret_defer();
    int r = content_fresh(c, &mine, number_out);
    if (r == 0)
        turn_give(&c->turn);
    request_leave();
    return r == TURN_PASSED ? 0 : r;
}

/* The first of those that the check of this number, made until deadline, was
 * for; they are in the order of their deadlines. */
static struct parked *
take_first(struct content *c, int result, uint64_t number, int64_t deadline)
{
    struct fs *fs = c->user->fs;
    pthread_mutex_lock(&fs->lock);
    struct parked *p = c->parked;
    bool early =
        p != NULL && result == -ETIMEDOUT && p->r.caller.deadline > deadline;
    if (p != NULL && (p->needed > number || early))
        p = NULL;
    if (p != NULL)
        unpark_locked(c, p);
    pthread_mutex_unlock(&fs->lock);
    return p;
}

void
parked_serve(struct content *c)
{
    struct fs *fs = c->user->fs;
    pthread_mutex_lock(&fs->lock);
    uint64_t number = c->check_finished;
    pthread_mutex_unlock(&fs->lock);
    struct caller caller = {0};
    for (int r = 0;; r = check(c, &caller, &number)) {
        struct parked *p;
        while ((p = take_first(c, r, number, caller.deadline)) != NULL)
            answer(p, r);
        pthread_mutex_lock(&fs->lock);
        c->serving = c->parked != NULL;
        if (c->serving)
            caller = c->parked->r.caller;
        bool more = c->serving;
        pthread_mutex_unlock(&fs->lock);
        if (!more)
            break;
    }
    content_unref(c);
}
