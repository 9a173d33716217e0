/*
 * What a KCM daemon answers, from the connection up: the input is the bytes
 * that the daemon sends, whatever is asked.  Whatever comes, the call ends
 * with a result that its contract knows, and what it gives out is whole.
 *
 * input = u8 operation, u8 form, then segments, one for each connection:
 * u8 u8 length and bytes; in some forms the bytes are replies to be framed:
 * u8 code, u8 length, body
 */
#define KCM_INTERNAL
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../../kcm/kcm.h"
#include "../../kcm/log.h"
#include "fuzz.h"

#define CONNECTIONS 12

static struct reader input;
static uint8_t form;
static int peers[CONNECTIONS];
static unsigned connections;

/* A reply, or bytes as they are. */
static void
next_segment(struct writer *w)
{
    static const int32_t codes[] = {
        0,
        0,
        0,
        KCM_CODE_FCC_INTERNAL,
        KCM_CODE_FCC_NOFILE,
        KCM_CODE_CC_END,
        KCM_CODE_CC_IO,
        11,
    };
    struct data part = some_data(&input, read_u16(&input));
    struct reader r;
    if (form & 1) {
        write_data(w, part);
        return;
    }
    reader_init(&r, part.p, part.len);
    while (reader_left(&r) > 0) {
        uint8_t kind = read_u8(&r);
        struct data body = some_data(&r, read_u8(&r));
        int32_t code = codes[kind & 7];
        bool outer = code != 0 && kind & 8, inner = !outer || kind & 16;
        write_u32(w, (uint32_t)(inner ? 4 + body.len : 0));
        write_u32(w, outer ? (uint32_t)code : 0);
        if (inner)
            write_u32(w, (uint32_t)code);
        if (inner)
            write_data(w, body);
    }
}

int __wrap_conn_open(const char *path, uid_t uid, gid_t gid,
                     struct conn **conn_out);

int
__wrap_conn_open(const char *path, uid_t uid, gid_t gid,
                 struct conn **conn_out)
{
    int fds[2];
    struct writer w = {0};
    (void)path;
    *conn_out = NULL;
    if (connections == CONNECTIONS)
        return -ECONNREFUSED;
    assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds) == 0);
    next_segment(&w);
    if (w.len > 0)
        (void)!send(fds[1], w.p, w.len, MSG_NOSIGNAL);
    shutdown(fds[1], SHUT_WR);
    writer_free(&w);
    peers[connections++] = fds[1];
    struct conn *c = calloc(1, sizeof(*c));
    assert(c != NULL);
    *c = (struct conn){.fd = fds[0], .uid = uid, .gid = gid};
    *conn_out = c;
    return 0;
}

/* An abandoned connection is drained by a thread of its own, which may not
 * have begun: only what follows its close() needs no more memory. */
static void
wait_closed(int peer)
{
    struct pollfd p = {.fd = peer};
    int n;
    do
        n = poll(&p, 1, PATIENCE_MS);
    while (n < 0 && errno == EINTR); /* libFuzzer's own timer */
    assert(n == 1 && p.revents & POLLHUP);
    close(peer);
}

static void
check_snapshot(const struct kcm_snapshot *s)
{
    struct principal p;
    struct cred c;
    assert(s->refs == 1);
    assert(principal_parse(
        (struct data){s->principal->bytes, s->principal->len}, &p));
    for (size_t i = 0; i < s->count; i++) {
        struct blob *b = s->creds[i].bytes;
        assert(b != NULL);
        assert(b->len == 0 || cred_parse((struct data){b->bytes, b->len}, &c));
    }
}

/* One that is known before, with two credentials. */
static struct kcm_snapshot *
known_before(void)
{
    struct writer w = {0};
    struct kcm_snapshot *s = calloc(1, sizeof(*s) + 2 * sizeof(s->creds[0]));
    assert(s != NULL);
    s->refs = 1;
    sample_principal(&w, "a@E");
    s->principal = blob_new(w.p, w.len);
    for (; s->count < 2; s->count++) {
        writer_reset(&w);
        sample_cred(&w, &(struct sample){.flags = (uint32_t)s->count});
        memset(s->creds[s->count].uuid, 'A' + (int)s->count, KCM_UUID_LEN);
        s->creds[s->count].bytes = blob_new(w.p, w.len);
    }
    writer_free(&w);
    return s;
}

static int
fetch(struct kcm *kcm, const struct caller *caller, bool before)
{
    struct kcm_known known = {0};
    if (before)
        known.snapshot = known_before();
    struct kcm_snapshot *old = known.snapshot;
    int r = kcm_fetch_as_is(kcm, caller, "1:a", &known);
    assert(r == 0 || known.snapshot == old);
    if (known.snapshot != NULL)
        check_snapshot(known.snapshot);
    kcm_snapshot_unref(known.snapshot);
    return r;
}

static int
list(struct kcm *kcm, const struct caller *caller)
{
    struct kcm_listing *l;
    int r = kcm_list(kcm, caller, NULL, &l);
    assert((r == 0) == (l != NULL));
    for (size_t i = 0; l != NULL && i < l->count; i++)
        assert(l->caches[i].name != NULL && l->caches[i].name[0] != '\0');
    kcm_listing_free(l);
    return r;
}

static int
principals(struct kcm *kcm, const struct caller *caller)
{
    const char *const names[3] = {"1:a", "1:b", "1:c"};
    struct blob *out[3];
    struct principal p;
    int r = kcm_get_principals(kcm, caller, names, 3, out);
    for (int i = 0; i < 3; i++) {
        assert(out[i] == NULL ||
               principal_parse((struct data){out[i]->bytes, out[i]->len}, &p));
        blob_unref(out[i]);
    }
    return r;
}

static int
run(struct kcm *kcm, const struct caller *caller, uint8_t operation)
{
    char *name = NULL;
    int r;
    switch (operation % 8) {
    case 0:
        return fetch(kcm, caller, false);
    case 1:
        return fetch(kcm, caller, true);
    case 2:
        return list(kcm, caller);
    case 3:
        return principals(kcm, caller);
    case 4:
        r = kcm_get_default(kcm, caller, &name);
        assert((r == 0) == (name != NULL));
        break;
    case 5:
        r = kcm_find_uuid(kcm, caller, (const uint8_t *)"0123456789abcdef",
                          &name);
        assert((r == 0) == (name != NULL));
        break;
    case 6:
        return kcm_destroy(kcm, caller, "1:a", NULL);
    default:
        return kcm_store(kcm, caller, "1:a",
                         &(struct data){(const uint8_t *)"x", 1}, 1, NULL);
    }
    free(name);
    return r;
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    struct kcm_config config = {.socket_path = "/", .timeout_ms = PATIENCE_MS};
    struct caller caller = {.uid = 1, .gid = 1, .wake = wake_mine()};
    struct kcm *kcm;
    log_open("fuzz", LOG_LEVEL_ERROR, false);
    reader_init(&input, bytes, len);
    connections = 0;
    assert(kcm_new(&config, &kcm) == 0);
    uint8_t operation = read_u8(&input);
    form = read_u8(&input);
    kcm->peer = form >> 4 & 3;
    kcm_start(kcm, &caller);
    int r = run(kcm, &caller, operation);
    assert(r <= KCM_INVALID);
    assert(r >= 0 || r == -EIO || r == -EPIPE || r == -ECONNREFUSED ||
           r == -EAGAIN);
    assert(now_ms() < caller.deadline);
    kcm_free(kcm);
    while (connections > 0)
        wait_closed(peers[--connections]);
    for (int i = 0; i < 1000 && secret_in_use() > 0; i++)
        usleep(1000);
    assert(secret_in_use() == 0);
    return 0;
}
