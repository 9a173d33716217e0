/*
 * Requests that an input chooses, most of them well-formed, for the targets
 * that have a server.
 */
#ifndef TESTS_FUZZ_REQUESTS_H
#define TESTS_FUZZ_REQUESTS_H

#include "../../kcm/proto.h"
#include "fuzz.h"

/* UUIDs that the target has seen lately. */
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

static inline unsigned
some_opcode(struct reader *in)
{
    return opcodes[read_u8(in) % (sizeof(opcodes) / sizeof(opcodes[0]))];
}

static inline void
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
static inline void
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

static inline void
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

static inline void
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
static inline void
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

/* A whole request without its length. */
static inline void
some_request(struct reader *in, unsigned opcode, uint8_t how, struct writer *w)
{
    write_u16(w, 0x0200);
    write_u16(w, (uint16_t)opcode);
    some_arguments(in, opcode, w);
    damage(in, how, w);
}

#endif
