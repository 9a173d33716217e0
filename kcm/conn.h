/*
 * One connection to the server: bytes in, requests answered, bytes out.
 */
#ifndef KCM_CONN_H
#define KCM_CONN_H

#include "peers.h"
#include "server.h"

/* What the turns of all connections share, so that a connection at rest
 * holds no buffer. */
struct conn_work {
    struct kcm_server *server;
    uint8_t *scratch; /* CONN_SCRATCH bytes of secret memory */
    struct writer replies;
};

#define CONN_SCRATCH ((size_t)64 * 1024)

struct conn {
    int fd;
    uid_t uid;
    gid_t gid;
    bool hung;         /* never to be answered again (a fault on purpose) */
    struct writer in;  /* what did not fit into the scratch, or is left */
    size_t in_done;    /* of it, answered */
    struct writer out; /* replies that the peer has not taken yet */
    size_t out_done;   /* of them, sent */
    int64_t since;     /* now_us() when a request or reply began to be
                        * stuck half way; 0: none is */

    /* The server loop's. */
    struct peer *peer;
    struct conn *prev, *next; /* of all */
    struct conn *turn_next;   /* while it is queued */
    bool queued;
    uint32_t events; /* that epoll waits for */
    size_t charged;  /* to the peer */
};

enum conn_state {
    CONN_IDLE,    /* wait for input */
    CONN_MORE,    /* requests are left: another turn */
    CONN_BLOCKED, /* wait until the peer reads */
    CONN_HUNG,    /* wait for nothing but the end */
    CONN_CLOSE,   /* over */
};

/* Microseconds of CLOCK_MONOTONIC. */
int64_t now_us(void);

/*
 * Do what there is to do without blocking: send what is left over, receive
 * once, answer the whole requests for about CONN_TURN_US, send the replies
 * together.
 */
enum conn_state conn_turn(struct conn *conn, struct conn_work *work);

#define CONN_TURN_US 1000

/* Free the buffers; the descriptor is the caller's. */
void conn_clear(struct conn *conn);

#endif
