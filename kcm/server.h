/*
 * A KCM daemon: the store of caches behind the protocol.  Used by kcmd over
 * a Unix socket and by kcmfs --embedded as a call.
 */
#ifndef KCM_SERVER_H
#define KCM_SERVER_H

#include <sys/types.h>

#include "bytes.h"

/* The limits where none are given. */
#define KCM_SERVER_CACHES      1024u
#define KCM_SERVER_BYTES       (64u * 1024 * 1024)
#define KCM_SERVER_CONNECTIONS 256

struct fault;
struct kcm_server;

struct kcm_server_limits {
    unsigned caches_per_uid;
    size_t bytes_per_uid;         /* of caches and credentials, with a fixed
                                   * charge for each (store.h) */
    unsigned connections_per_uid; /* 0 in any field: the default */
    bool no_mit_extensions; /* answer GET_CRED_LIST and REPLACE as Heimdal
                             * does; for tests of the fall-backs */
    struct fault *fault;    /* for tests, kept by reference; or NULL */
};

/* A server with an empty store; limits may be NULL. 0 or -ENOMEM. */
int kcm_server_new(const struct kcm_server_limits *limits,
                   struct kcm_server **server_out);
void kcm_server_free(struct kcm_server *server);
DEFINE_CLEANUP(struct kcm_server *, kcm_server_free)

/*
 * Answer one request (what follows its length) of the peer uid, gid: the
 * whole reply, length and status included, is appended to reply.  Safe from
 * many threads at once.  -EPROTO: a request to which real daemons answer by
 * closing the connection; -ENOMEM: reply is not whole; -ECANCELED: never to
 * be answered (a fault on purpose).
 */
int kcm_server_handle(struct kcm_server *server, uid_t uid, gid_t gid,
                      struct data request, struct writer *reply);

/* What keep.h says, of its store. */
int kcm_server_save(struct kcm_server *server, int fd);
int kcm_server_load(struct kcm_server *server, int fd);

/* How many connections one uid may have. */
unsigned kcm_server_connections(const struct kcm_server *server);

/*
 * Bind and listen on a new Unix socket at path, mode 0666.  A socket file
 * that nobody listens on is replaced; -EADDRINUSE if somebody does, or if
 * the file is no socket.
 */
int kcm_server_listen(const char *path, int *fd_out);

/*
 * Serve listen_fd until stop_fd becomes readable. 0 or -errno.
 *
 * Uids take turns, so that one which keeps the server busy costs the others
 * no more than its own turn.  A peer that does not read its replies, or
 * stops in the middle of a request, delays nobody and is closed in time;
 * what is kept in memory for one uid's connections is bounded.
 */
int kcm_server_run(struct kcm_server *server, int listen_fd, int stop_fd);

#endif
