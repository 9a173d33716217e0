/*
 * kcmd's operations: a conversation of several users with one server.  Every
 * reply is well-formed, a call that fails has changed nothing, the lists
 * agree with each other, and nobody's calls change what others see.
 *
 * input = steps; step = u8 opcode, u8 uid, u8 damage, what the arguments take
 */
#include <errno.h>

#include "../../kcm/server.h"
#include "requests.h"

#define STEPS 40

static struct kcm_server *server;

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

/* One request; state is what each uid sees before it and after it. */
static void
step(struct reader *in, struct writer state[3])
{
    unsigned opcode = some_opcode(in);
    uid_t uid = uids[read_u8(in) % 3];
    uint8_t how = read_u8(in);
    struct writer request = {0}, reply = {0}, after = {0};
    struct data got;
    some_request(in, opcode, how, &request);
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
    memset(last_uuids, 0, sizeof(last_uuids));
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
