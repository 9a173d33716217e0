/*
 * The uids that have connections to the server, and whose turn it is.
 */
#ifndef KCM_PEERS_H
#define KCM_PEERS_H

#include <sys/types.h>

#include "table.h"

struct conn;

/* One uid with connections. */
struct peer {
    struct table_link link;
    uid_t uid;
    unsigned count;            /* of connections */
    size_t buffered;           /* bytes that they hold */
    bool warned;               /* that it reached a limit; once */
    struct conn *first, *last; /* those with something to do, in order */
    struct peer *ring_next;    /* while it is in the ring */
    bool in_ring;
};

struct peers {
    struct table by_uid;
    struct peer *first, *last; /* the ring: those with work, in order */
};

/* The peer of this uid, made if need be, with one connection more.  NULL
 * without memory. */
struct peer *peer_get(struct peers *peers, uid_t uid);
/* One connection less; the last takes the peer with it. */
void peer_put(struct peers *peers, struct peer *peer);

/* The uid's turn comes after those that wait already. */
void peers_push(struct peers *peers, struct peer *peer);
/* The next in turn, taken out; NULL when nobody waits. */
struct peer *peers_pop(struct peers *peers);

#endif
