/*
 * From a request's bytes to a reply's.
 *
 * An error goes into the inner status alone, as Heimdal 7.8 does it: a
 * client that stops reading at a non-zero outer status (MIT's) and one that
 * takes an outer status for the code (Heimdal's) both understand it.
 */
#include "server.h"

#include <errno.h>

#include "fault.h"
#include "keep.h"
#include "log.h"
#include "operations.h"
#include "proto.h"

struct kcm_server {
    struct store *store;
    struct kcm_server_limits limits;
};

static int32_t
run_operation(struct kcm_server *server, uid_t uid, unsigned opcode,
              struct reader args, struct writer *reply)
{
    const struct operation *op =
        operation_find(opcode, !server->limits.no_mit_extensions);
    if (op == NULL)
        return KCM_CODE_FCC_INTERNAL;
    struct call c = {.args = args, .reply = reply};
    c.user = store_user_lock(server->store, uid);
    if (c.user == NULL)
        return ENOMEM;
    int32_t code = op->run(&c);
    store_user_unlock(c.user);
    /* An embedded one works for a request that has its own log context. */
    log_debug("uid %u %s: code %d", (unsigned)uid, op->name, (int)code);
    return code;
}

int
kcm_server_handle(struct kcm_server *server, uid_t uid, gid_t gid,
                  struct data request, struct writer *reply)
{
    (void)gid; /* Heimdal's caches have a group; these do not */
    struct reader args;
    reader_init(&args, request.p, request.len);
    unsigned major = read_u8(&args), minor = read_u8(&args);
    unsigned opcode = read_u16(&args);
    if (args.bad || major != KCM_PROTOCOL_MAJOR ||
        minor != KCM_PROTOCOL_MINOR || request.len > KCM_MESSAGE_MAX)
        return -EPROTO;
    enum fault_kind fault = FAULT_NONE;
    if (server->limits.fault != NULL)
        fault = fault_next(server->limits.fault, opcode);
    if (fault == FAULT_HANG)
        return -ECANCELED;

    size_t start = reply->len, inner = start + 8;
    for (int i = 0; i < 3; i++)
        write_u32(reply, 0); /* length, outer and inner status */
    int32_t code = KCM_CODE_FCC_INTERNAL;
    if (fault != FAULT_REFUSE)
        code = run_operation(server, uid, opcode, args, reply);
    if (fault == FAULT_DIE_AFTER)
        fault_die();
    if (reply->failed) {
        /* What there is of it would say that all is well. */
        reply->len = start;
        return -ENOMEM;
    }
    write_u32_at(reply, inner, (uint32_t)code);
    write_u32_at(reply, start, (uint32_t)(reply->len - inner));
    return 0;
}

int
kcm_server_new(const struct kcm_server_limits *limits,
               struct kcm_server **server_out)
{
    *server_out = NULL;
    struct kcm_server *server = calloc(1, sizeof(*server));
    if (server == NULL)
        return -ENOMEM;
    if (limits != NULL)
        server->limits = *limits;
    struct kcm_server_limits *l = &server->limits;
    if (l->caches_per_uid == 0)
        l->caches_per_uid = KCM_SERVER_CACHES;
    if (l->bytes_per_uid == 0)
        l->bytes_per_uid = KCM_SERVER_BYTES;
    if (l->connections_per_uid == 0)
        l->connections_per_uid = KCM_SERVER_CONNECTIONS;
    server->store = store_new(l->caches_per_uid, l->bytes_per_uid);
    if (server->store == NULL) {
        free(server);
        return -ENOMEM;
    }
    *server_out = server;
    return 0;
}

void
kcm_server_free(struct kcm_server *server)
{
    if (server == NULL)
        return;
    store_free(server->store);
    free(server);
}

int
kcm_server_save(struct kcm_server *server, int fd)
{
    return keep_save(server->store, fd);
}

int
kcm_server_load(struct kcm_server *server, int fd)
{
    return keep_load(server->store, fd);
}

unsigned
kcm_server_connections(const struct kcm_server *server)
{
    return server->limits.connections_per_uid;
}
