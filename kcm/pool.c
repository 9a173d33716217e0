/*
 * The pool of connections.  pool->lock is a leaf: never held across I/O.
 */
#include "pool.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "mem.h"

/* sssd gets slow with many connections; Heimdal is one thread anyway. */
#define CONNECTIONS_PER_ID 4u
/* Requests of one identity that may wait for a connection: a uid that hangs
 * on a daemon must not take all threads. */
#define WAITING_PER_ID 128u
#define IDLE_TOTAL     256u
/* sssd leaks per reply until the connection closes: start anew in time. */
#define CONNECTION_REQUESTS 20000u
#define CONNECTION_BYTES    ((size_t)16 * 1024 * 1024)
#define BACKLOG_RETRY_MS    5

struct identity {
    struct identity *next;
    uid_t uid;
    gid_t gid;
    unsigned users; /* requests that hold or wait for a connection */
    struct turn turn;
    struct conn *idle;
};

struct pool {
    pthread_mutex_t lock;
    char *path;
    struct identity *identities;
    unsigned idle_total;
};

int
pool_new(const char *socket_path, struct pool **pool_out)
{
    *pool_out = NULL;
    struct pool *pool = calloc(1, sizeof(*pool));
    if (pool == NULL)
        return -ENOMEM;
    pool->path = strdup(socket_path);
    if (pool->path == NULL) {
        free(pool);
        return -ENOMEM;
    }
    pthread_mutex_init(&pool->lock, NULL);
    *pool_out = pool;
    return 0;
}

static void
free_list(struct conn *c)
{
    while (c != NULL) {
        struct conn *next = c->next;
        conn_free(c);
        c = next;
    }
}

void
pool_free(struct pool *pool)
{
    if (pool == NULL)
        return;
    while (pool->identities != NULL) {
        struct identity *id = pool->identities;
        pool->identities = id->next;
        free_list(id->idle);
        turn_destroy(&id->turn);
        free(id);
    }
    pthread_mutex_destroy(&pool->lock);
    free(pool->path);
    free(pool);
}

static struct identity *
find_locked(struct pool *pool, uid_t uid, gid_t gid)
{
    struct identity *id = pool->identities;
    while (id != NULL && (id->uid != uid || id->gid != gid))
        id = id->next;
    return id;
}

static struct identity *
find_or_add_locked(struct pool *pool, uid_t uid, gid_t gid)
{
    struct identity *id = find_locked(pool, uid, gid);
    if (id != NULL)
        return id;
    id = calloc(1, sizeof(*id));
    if (id == NULL)
        return NULL;
    id->uid = uid;
    id->gid = gid;
    turn_init(&id->turn, CONNECTIONS_PER_ID);
    id->next = pool->identities;
    pool->identities = id;
    return id;
}

/* Take identities that hold nothing out of the list. */
static void
sweep_locked(struct pool *pool)
{
    struct identity **link = &pool->identities;
    while (*link != NULL) {
        struct identity *id = *link;
        if (id->users > 0 || id->idle != NULL) {
            link = &id->next;
            continue;
        }
        *link = id->next;
        turn_destroy(&id->turn);
        free(id);
    }
}

/* A caller's use of an identity ends; the turn must have been given back. */
static void
leave(struct pool *pool, struct identity *id)
{
    pthread_mutex_lock(&pool->lock);
    id->users--;
    if (id->users == 0 && id->idle == NULL)
        sweep_locked(pool);
    pthread_mutex_unlock(&pool->lock);
}

static int
open_new(struct pool *pool, const struct caller *caller,
         struct conn **conn_out)
{
    for (;;) {
        int r = conn_open(pool->path, caller->uid, caller->gid, conn_out);
        if (r != -EAGAIN)
            return r;
        /* The daemon's backlog is full: poll(2) cannot wait for that. */
        struct caller nap = *caller;
        nap.deadline = now_ms() + BACKLOG_RETRY_MS;
        if (nap.deadline > caller->deadline)
            return -ETIMEDOUT;
        r = wait_fd(-1, 0, &nap);
        if (r == -EINTR)
            return r;
    }
}

int
pool_get(struct pool *pool, const struct caller *caller,
         struct conn **conn_out)
{
    *conn_out = NULL;
    pthread_mutex_lock(&pool->lock);
    struct identity *id = find_or_add_locked(pool, caller->uid, caller->gid);
    int r = id == NULL ? -ENOMEM : 0;
    if (id != NULL && id->users >= WAITING_PER_ID)
        r = -EAGAIN;
    if (r == 0)
        id->users++;
    pthread_mutex_unlock(&pool->lock);
    if (r < 0)
        return r;

    r = turn_take(&id->turn, caller);
    if (r < 0) {
        leave(pool, id);
        return r;
    }
    pthread_mutex_lock(&pool->lock);
    struct conn *c = id->idle;
    if (c != NULL) {
        id->idle = c->next;
        pool->idle_total--;
    }
    pthread_mutex_unlock(&pool->lock);
    if (c == NULL)
        r = open_new(pool, caller, &c);
    if (r < 0) {
        turn_give(&id->turn);
        leave(pool, id);
        return r;
    }
    *conn_out = c;
    return 0;
}

/* The idle connection that was used longest ago, taken out. */
static struct conn *
take_oldest_locked(struct pool *pool)
{
    struct conn **oldest = NULL;
    for (struct identity *id = pool->identities; id != NULL; id = id->next)
        for (struct conn **l = &id->idle; *l != NULL; l = &(*l)->next)
            if (oldest == NULL || (*l)->idle_since < (*oldest)->idle_since)
                oldest = l;
    if (oldest == NULL)
        return NULL;
    struct conn *c = *oldest;
    *oldest = c->next;
    pool->idle_total--;
    return c;
}

void
pool_put(struct pool *pool, struct conn *c)
{
    struct conn *victim = NULL;
    pthread_mutex_lock(&pool->lock);
    struct identity *id = find_locked(pool, c->uid, c->gid);
    if (c->requests > CONNECTION_REQUESTS || c->received > CONNECTION_BYTES) {
        victim = c;
    } else {
        if (pool->idle_total >= IDLE_TOTAL)
            victim = take_oldest_locked(pool);
        c->idle_since = now_ms();
        c->next = id->idle;
        id->idle = c;
        pool->idle_total++;
    }
    pthread_mutex_unlock(&pool->lock);
    turn_give(&id->turn);
    leave(pool, id);
    if (victim != NULL)
        conn_free(victim);
}

/* The idle connections of id, taken out. */
static struct conn *
take_idle_locked(struct pool *pool, struct identity *id)
{
    struct conn *idle = take(id->idle);
    for (struct conn *c = idle; c != NULL; c = c->next)
        pool->idle_total--;
    return idle;
}

void
pool_distrust(struct pool *pool, const struct caller *caller)
{
    pthread_mutex_lock(&pool->lock);
    struct identity *id = find_locked(pool, caller->uid, caller->gid);
    struct conn *idle = id != NULL ? take_idle_locked(pool, id) : NULL;
    pthread_mutex_unlock(&pool->lock);
    free_list(idle);
}

void
pool_drop(struct pool *pool, struct conn *c)
{
    pthread_mutex_lock(&pool->lock);
    struct identity *id = find_locked(pool, c->uid, c->gid);
    struct conn *idle = take_idle_locked(pool, id);
    pthread_mutex_unlock(&pool->lock);
    conn_abandon(c);
    free_list(idle);
    turn_give(&id->turn);
    leave(pool, id);
}
