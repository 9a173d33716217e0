/*
 * Credentials: reading, comparing, removing, conversion from older versions,
 * tagged credentials; and libkrb5's opinion of the same bytes.
 */
#include <krb5.h>

#include "../../kcm/match.h"
#include "fuzz.h"

/* libkrb5 takes what we take, and its bytes are ours. */
static void
ask_libkrb5(const struct cred *c)
{
    static krb5_context k;
    krb5_creds *creds;
    krb5_data *back;
    krb5_data in = {.data = (char *)c->raw.p, .length = (unsigned)c->raw.len};
    if (k == NULL)
        assert(krb5_init_context(&k) == 0);
    /* It knows no principal of more components than bytes, nor is_skey
     * other than 0 and 1, and drops nothing but that. */
    if (c->is_skey > 1)
        return;
    if (krb5_unmarshal_credentials(k, &in, &creds) != 0)
        return;
    assert((uint32_t)creds->times.endtime == c->endtime);
    assert((uint32_t)creds->ticket_flags == c->flags);
    assert(creds->ticket.length == c->ticket.len);
    assert(creds->keyblock.length == c->key.len);
    assert(krb5_marshal_credentials(k, creds, &back) == 0);
    assert(back->length == c->raw.len);
    assert(memcmp(back->data, c->raw.p, c->raw.len) == 0);
    krb5_free_data(k, back);
    krb5_free_creds(k, creds);
}

static void
check_fields(struct data d, const struct cred *c)
{
    const struct data parts[] = {
        c->client.raw, c->server.raw, c->key,           c->addresses,
        c->authdata,   c->ticket,     c->second_ticket,
    };
    const uint8_t *at = d.p;
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        assert(parts[i].p >= at);
        at = parts[i].p + parts[i].len;
    }
    assert(at == c->raw.p + c->raw.len && at <= d.p + d.len);
    assert(c->raw.p == d.p);
    assert(cred_same_purpose(c, c));
    (void)cred_is_local_tgt(c);
    (void)cred_start(c);
    if (cred_is_config(c)) {
        assert(cred_config_key(c).p != NULL);
        (void)cred_config_principal(c);
    }
}

static void
check_removed(const struct cred *c)
{
    struct writer w = {0};
    struct cred gone;
    cred_write_removed(&w, c);
    assert(w.len == c->raw.len);
    assert(cred_parse(writer_data(&w), &gone));
    assert(cred_is_removed(&gone) && !cred_is_config(&gone));
    assert(data_equal(gone.ticket, c->ticket));
    assert(data_equal(gone.client.raw, c->client.raw));
    writer_free(&w);
}

static void
check_conversion(struct data d, int version, bool little)
{
    struct reader r;
    struct cred c;
    struct writer out = {0};
    reader_init(&r, d.p, d.len);
    r.little = little;
    cred_convert(&r, version, &out);
    assert(out.len <= 2 * d.len + 128);
    if (!r.bad) {
        size_t used = d.len - reader_left(&r);
        assert(cred_parse(writer_data(&out), &c));
        if (version == 4 && !little)
            assert(data_equal(c.raw, (struct data){d.p, used}));
    }
    writer_free(&out);
}

static void
check_match(struct data d, const struct cred *c)
{
    struct reader r;
    struct match m;
    reader_init(&r, d.p, d.len);
    match_read(&r, &m);
    if (!r.bad)
        (void)match_cred(&m, &m.want);
    if (!r.bad && c != NULL)
        (void)match_cred(&m, c);
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    struct data d = {bytes, len};
    struct reader r;
    struct cred c;
    if (len > 8192)
        return 0;
    reader_init(&r, bytes, len);
    cred_read(&r, &c);
    if (!r.bad) {
        check_fields(d, &c);
        check_removed(&c);
        ask_libkrb5(&c);
    }
    assert(cred_parse(d, &c) == reader_done(&r));
    check_match(d, r.bad ? NULL : &c);
    for (int version = 1; version <= 4; version++) {
        check_conversion(d, version, false);
        check_conversion(d, version, true);
    }
    return 0;
}
