/*
 * kcmd as a whole: a conversation of several users with one server.  Every
 * reply is well-formed, a call that fails has changed nothing, the lists
 * agree with each other, and nobody's calls change what others see.
 *
 * input = steps; step = u8 opcode, u8 uid, u8 damage, what the arguments take
 */
#include <errno.h>

#include "../../kcm/proto.h"
#include "../../kcm/server.h"
#include "fuzz.h"

#define STEPS 40

static struct kcm_server *server;
static uint8_t last_uuids[8][KCM_UUID_LEN];

static const uint16_t opcodes[] = {
    KCM_OP_INITIALIZE,
    KCM_OP_STORE,
    KCM_OP_STORE,
    KCM_OP_RETRIEVE,
    KCM_OP_REMOVE_CRED,
    KCM_OP_REPLACE,
    KCM_OP_MOVE_CACHE,
    KCM_OP_DESTROY,
    KCM_OP_SET_DEFAULT_CACHE,
    KCM_OP_SET_KDC_OFFSET,
    KCM_OP_GET_CRED_BY_UUID,
    KCM_OP_GET_CACHE_BY_UUID,
    KCM_OP_GEN_NEW,
    KCM_OP_NOOP,
    KCM_OP_GET_NAME,
    KCM_OP_RESOLVE,
    KCM_OP_GET_PRINCIPAL,
    KCM_OP_GET_CRED_UUID_LIST,
    KCM_OP_SET_FLAGS,
    KCM_OP_CHOWN,
    KCM_OP_CHMOD,
    KCM_OP_GET_CACHE_UUID_LIST,
    KCM_OP_GET_DEFAULT_CACHE,
    KCM_OP_GET_KDC_OFFSET,
    KCM_OP_GET_CRED_LIST,
    KCM_OP_GET_INITIAL_TICKET,
    KCM_OP_GET_TICKET,
    27,
    0xffff,
};

/* Send what is in request: the code, and what the reply holds; -EPROTO for
 * what ends a connection. */
static int32_t
ask(uid_t uid, struct data request, struct writer *reply, struct data *got)
{
    struct reader r;
    uint8_t *exact = exact_copy(request);
    writer_reset(reply);
    int result = kcm_server_handle(server, uid, uid,
                                   (struct data){exact, request.len}, reply);
    free(exact);
    *got = (struct data){NULL, 0};
    if (result != 0) {
        assert(result == -EPROTO && reply->len == 0);
        return result;
    }
    reader_init(&r, reply->p, reply->len);
    uint32_t len = read_u32(&r);
    assert(read_u32(&r) == 0 && reader_left(&r) == len);
    int32_t code = (int32_t)read_u32(&r);
    assert(!r.bad && code != -EPROTO && (code == 0 || len == 4));
    *got = read_data(&r, reader_left(&r));
    return code;
}

static int32_t
ask_named(uid_t uid, unsigned opcode, struct data name, struct data uuid,
          struct writer *reply, struct data *got)
{
    struct writer w = {0};
    write_u16(&w, 0x0200);
    write_u16(&w, (uint16_t)opcode);
    write_data(&w, name);
    write_data(&w, uuid);
    int32_t code = ask(uid, writer_data(&w), reply, got);
    writer_free(&w);
    return code;
}

#define NONE ((struct data){NULL, 0})

/* The credentials of a cache, by both routes, go to out. */
static void
dump_creds(uid_t uid, struct data name, struct writer *out)
{
    struct writer list = {0}, uuids = {0}, one = {0};
    struct data all, ids, cred;
    struct reader r;
    assert(ask_named(uid, KCM_OP_GET_CRED_LIST, name, NONE, &list, &all) == 0);
    assert(ask_named(uid, KCM_OP_GET_CRED_UUID_LIST, name, NONE, &uuids,
                     &ids) == 0);
    write_data32(out, all);
    write_data32(out, ids);
    reader_init(&r, all.p, all.len);
    uint32_t count = read_u32(&r);
    assert(ids.len == (size_t)count * KCM_UUID_LEN);
    for (uint32_t i = 0; i < count; i++) {
        struct data want = read_data32(&r);
        struct data id = {ids.p + i * KCM_UUID_LEN, KCM_UUID_LEN};
        assert(ask_named(uid, KCM_OP_GET_CRED_BY_UUID, name, id, &one,
                         &cred) == 0);
        assert(data_equal(cred, want));
        struct cred c;
        assert(cred_parse(cred, &c));
        memcpy(last_uuids[i % 4], id.p, KCM_UUID_LEN);
    }
    assert(reader_done(&r));
    writer_free(&one);
    writer_free(&uuids);
    writer_free(&list);
}

/* All that the uid can see. */
static void
dump(uid_t uid, struct writer *out)
{
    struct writer list = {0}, name = {0}, reply = {0};
    struct data got, ids;
    struct cred c;
    writer_reset(out);
    assert(ask_named(uid, KCM_OP_GET_DEFAULT_CACHE, NONE, NONE, &reply,
                     &got) == 0);
    write_data32(out, got);
    int32_t code =
        ask_named(uid, KCM_OP_GET_CACHE_UUID_LIST, NONE, NONE, &list, &ids);
    assert(code == 0 || ids.len == 0);
    assert(ids.len % KCM_UUID_LEN == 0 && ids.len / KCM_UUID_LEN <= 4);
    for (size_t at = 0; at < ids.len; at += KCM_UUID_LEN) {
        struct data id = {ids.p + at, KCM_UUID_LEN};
        write_data(out, id);
        memcpy(last_uuids[4 + at / KCM_UUID_LEN % 4], id.p, KCM_UUID_LEN);
        assert(ask_named(uid, KCM_OP_GET_CACHE_BY_UUID, NONE, id, &reply,
                         &got) == 0);
        assert(got.len > 0 && got.p[got.len - 1] == '\0');
        writer_reset(&name);
        write_data(&name, got);
        write_data32(out, got);
        assert(ask_named(uid, KCM_OP_GET_PRINCIPAL, writer_data(&name), NONE,
                         &reply, &got) == 0);
        assert(principal_parse(got, &c.client));
        write_data32(out, got);
        assert(ask_named(uid, KCM_OP_GET_KDC_OFFSET, writer_data(&name), NONE,
                         &reply, &got) == 0);
        assert(got.len == 4);
        write_data32(out, got);
        dump_creds(uid, writer_data(&name), out);
    }
    writer_free(&reply);
    writer_free(&name);
    writer_free(&list);
}

static const uid_t uids[] = {1001, 1002, 0};

static void
some_name(struct reader *in, struct writer *w)
{
    static const char *const names[] = {
        "1001",   "1001:a", "1001:b", "1002", "1002:a", "0",
        "0:root", "free",   "1001x",  "",     "1001:",  "10010",
    };
    uint8_t n = read_u8(in);
    if (n < 0xf0)
        write_string(w, names[n % (sizeof(names) / sizeof(names[0]))]);
    else
        write_data(w, some_data(in, n & 15)); /* with a NUL or without */
}

/* Flags and a tagged credential. */
static void
some_tag(struct reader *in, struct writer *w)
{
    struct writer bytes = {0};
    struct cred c;
    uint32_t flags = read_u8(in), parts = read_u8(in);
    some_cred(in, &bytes);
    assert(cred_parse(writer_data(&bytes), &c));
    write_u32(w, flags << 24 | (parts & 0x80 ? 0x00c00000 : 0));
    write_u32(w, parts & 0x7f);
    if (parts & KCM_MCRED_CLIENT)
        write_data(w, c.client.raw);
    if (parts & KCM_MCRED_SERVER)
        write_data(w, c.server.raw);
    if (parts & KCM_MCRED_SESSION_KEY) {
        write_u16(w, c.enctype);
        write_data32(w, c.key);
    }
    /* Times, is_skey and flags stand between key and addresses. */
    write_bytes(w, c.key.p + c.key.len, 21);
    if (parts & KCM_MCRED_ADDRESSES)
        write_data(w, c.addresses);
    if (parts & KCM_MCRED_AUTHDATA)
        write_data(w, c.authdata);
    if (parts & KCM_MCRED_TICKET)
        write_data32(w, c.ticket);
    if (parts & KCM_MCRED_SECOND)
        write_data32(w, c.second_ticket);
    writer_free(&bytes);
}

static void
some_replacement(struct reader *in, struct writer *w)
{
    struct writer cred = {0};
    write_u32(w, read_u8(in));
    sample_principal(w, some_principal(read_u8(in)));
    uint32_t count = read_u8(in) & 7;
    write_u32(w, count);
    for (uint32_t i = 0; i < count; i++) {
        writer_reset(&cred);
        some_cred(in, &cred);
        write_data32(w, writer_data(&cred));
    }
    writer_free(&cred);
}

static void
some_arguments(struct reader *in, unsigned opcode, struct writer *w)
{
    switch (opcode) {
    case KCM_OP_NOOP:
    case KCM_OP_GEN_NEW:
    case KCM_OP_GET_CACHE_UUID_LIST:
    case KCM_OP_GET_DEFAULT_CACHE:
        return;
    case KCM_OP_GET_CACHE_BY_UUID:
        write_bytes(w, last_uuids[read_u8(in) & 7], KCM_UUID_LEN);
        return;
    default:
        some_name(in, w);
    }
    if (opcode == KCM_OP_INITIALIZE)
        sample_principal(w, some_principal(read_u8(in)));
    else if (opcode == KCM_OP_STORE)
        some_cred(in, w);
    else if (opcode == KCM_OP_RETRIEVE || opcode == KCM_OP_REMOVE_CRED)
        some_tag(in, w);
    else if (opcode == KCM_OP_GET_CRED_BY_UUID)
        write_bytes(w, last_uuids[read_u8(in) & 7], KCM_UUID_LEN);
    else if (opcode == KCM_OP_MOVE_CACHE)
        some_name(in, w);
    else if (opcode == KCM_OP_REPLACE)
        some_replacement(in, w);
    else if (opcode == KCM_OP_SET_KDC_OFFSET || opcode == KCM_OP_SET_FLAGS)
        write_u32(w, read_u8(in));
}

/* Make what is in w wrong: cut, longer, or other bytes. */
static void
damage(struct reader *in, uint8_t how, struct writer *w)
{
    if (how < 0xc0)
        return;
    if (how < 0xd0) {
        size_t less = (size_t)(how & 15) * 2 + 1;
        w->len -= less < w->len ? less : w->len;
    } else if (how < 0xe0) {
        write_data(w, some_data(in, how & 15));
    } else if (how < 0xf0) {
        for (int i = 0; i < (how & 3) + 1; i++) {
            size_t at = read_u16(in);
            uint8_t byte = read_u8(in);
            if (w->len > 0)
                w->p[at % w->len] ^= byte;
        }
    } else {
        w->len = 0;
        write_data(w, some_data(in, 64));
    }
}

/* One request; state is what each uid sees before it and after it. */
static void
step(struct reader *in, struct writer state[3])
{
    unsigned opcode =
        opcodes[read_u8(in) % (sizeof(opcodes) / sizeof(opcodes[0]))];
    uid_t uid = uids[read_u8(in) % 3];
    uint8_t how = read_u8(in);
    struct writer request = {0}, reply = {0}, after = {0};
    struct data got;
    write_u16(&request, 0x0200);
    write_u16(&request, (uint16_t)opcode);
    some_arguments(in, opcode, &request);
    damage(in, how, &request);
    int32_t code = ask(uid, writer_data(&request), &reply, &got);
    struct cred c;
    if (code == 0 && request.len >= 4 && request.p[2] == 0 &&
        request.p[3] == KCM_OP_RETRIEVE)
        assert(cred_parse(got, &c));
    for (int i = 0; i < 3; i++) {
        dump(uids[i], &after);
        if (code != 0 || uids[i] != uid)
            assert(data_equal(writer_data(&after), writer_data(&state[i])));
        writer_free(&state[i]);
        state[i] = after;
        after = (struct writer){0};
    }
    writer_free(&reply);
    writer_free(&request);
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    struct kcm_server_limits limits = {.caches_per_uid = 4,
                                       .bytes_per_uid = 16 * 1024};
    struct reader in;
    reader_init(&in, bytes, len);
    if (len > 0 && bytes[0] & 0x80)
        limits.bytes_per_uid = 4 * 1024;
    assert(kcm_server_new(&limits, &server) == 0);
    struct writer state[3] = {0};
    for (int i = 0; i < 3; i++)
        dump(uids[i], &state[i]);
    for (int i = 0; i < STEPS && reader_left(&in) > 0; i++)
        step(&in, state);
    for (int i = 0; i < 3; i++)
        writer_free(&state[i]);
    kcm_server_free(server);
    assert(secret_in_use() == 0);
    return 0;
}
