/*
 * Connections kept per identity, and a cap on how many an identity has.
 */
#ifndef KCM_POOL_H
#define KCM_POOL_H

#include "rpc.h"

struct pool;

int pool_new(const char *socket_path, struct pool **pool_out);
void pool_free(struct pool *pool);

/*
 * A connection under the caller's uid and gid: one that is idle, else a new
 * one; waits while the caller has the most allowed.  *conn_out goes back by
 * pool_put() or, after an error on it, pool_drop().  -EAGAIN: the uid has
 * too many requests waiting.
 */
int pool_get(struct pool *pool, const struct caller *caller,
             struct conn **conn_out);
void pool_put(struct pool *pool, struct conn *conn);
/* Abandon conn and close the identity's idle connections: they go to the
 * same daemon, which may be gone. */
void pool_drop(struct pool *pool, struct conn *conn);
/* A reply made no sense: it may have been another request's.  What is kept
 * for the caller is closed. */
void pool_distrust(struct pool *pool, const struct caller *caller);

#endif
