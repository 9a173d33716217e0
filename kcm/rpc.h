/*
 * One connection to a KCM daemon, and batches of requests on it.
 *
 * Requests that do not depend on each other go out in one write and their
 * replies are read in order.  Rules that keep real daemons alive (measured;
 * sssd freezes for everybody, Heimdal's kcm spins, otherwise):
 *   - a request leaves in one piece, its length and body together;
 *   - every reply is read to its end, also after a timeout or an interrupt:
 *     such a connection is never used again, and drained before it closes;
 *   - the bytes that the reply's length announces are consumed whatever the
 *     outer status says.
 */
#ifndef KCM_RPC_H
#define KCM_RPC_H

#include "bytes.h"
#include "proto.h"
#include "wait.h"

struct reply {
    int32_t code;     /* 0, or the outer or inner status */
    bool outer;       /* code is the outer status, without a body */
    struct data body; /* after the inner status */
};

/*
 * A batch: requests are appended with batch_add() and the writers of
 * bytes.h on batch->out, answered together by kcm_exchange().
 */
struct batch {
    struct writer out;
    struct writer in;
    uint32_t *at; /* offset of each request in out, reply in in */
    unsigned count, room;
    unsigned answered;
};

void batch_free(struct batch *b);
/* Memory for so many requests and their replies, before it is too late to do
 * without; false: there is none. */
bool batch_reserve(struct batch *b, unsigned count, size_t out, size_t in);
/* Begin a request; its arguments follow on b->out. */
void batch_add(struct batch *b, enum kcm_opcode op);
/* Begin a request whose first argument is a cache name. */
void batch_add_named(struct batch *b, enum kcm_opcode op, const char *name);
/* Complete the last request.  conn_exchange() does it by itself. */
void batch_finish(struct batch *b);
/* The nth request behind its length. */
struct data batch_request(const struct batch *b, unsigned n);
/* The reply to the nth request, once answered. */
struct reply batch_reply(const struct batch *b, unsigned n);
enum kcm_opcode batch_opcode(const struct batch *b, unsigned n);
/* Forget the replies, keep the requests: for a repeat. */
void batch_rewind(struct batch *b);

/* A connection and what is under way on it. */
struct conn {
    struct conn *next;
    int fd;
    uid_t uid;
    gid_t gid;
    bool used;         /* it has answered something before */
    unsigned requests; /* sent in its life */
    size_t received;   /* bytes in its life */
    int64_t idle_since;
    struct data unsent; /* of the chunk under way */
    unsigned awaited;   /* replies of it to come */
    /* Of an abandoned conversation: */
    struct writer rest;  /* the unsent bytes */
    size_t skip;         /* bytes to come of the reply under way */
    struct writer piece; /* of what is dropped */
};

void conn_free(struct conn *c);

/*
 * Have the requests from b->answered on answered.  0; -EPIPE when the peer
 * closed before the next reply began (b->answered tells how many came);
 * -EIO for a reply that breaks the protocol; -ETIMEDOUT, -EINTR, -ENOMEM.
 * After an error the connection goes to conn_abandon().
 */
int conn_exchange(struct conn *c, struct batch *b,
                  const struct caller *caller);

/*
 * Connect to path as uid, gid: the kernel tells the daemon that identity as
 * its peer for the life of the socket.  0 or -errno (-EAGAIN: backlog full).
 */
int conn_open(const char *path, uid_t uid, gid_t gid, struct conn **conn_out);

/* Let go of a connection whose conversation may be incomplete: it is drained
 * by a thread of its own before it is closed.  b may be NULL. */
void conn_abandon(struct conn *c);

#endif
