/*
 * Walk principals and credentials (FILE version 4 = KCM), and convert those
 * of older FILE versions.
 *
 *   principal = u32 type, u32 count, data realm, count x data
 *   cred      = principal client, principal server, u16 enctype, data key,
 *               4 x u32 time, u8 is_skey, u32 flags,
 *               addresses, authdata (each: u32 count, count x (u16, data)),
 *               data ticket, data second_ticket
 *   data      = u32 length, bytes
 *
 * Before version 4: version 1 has no type and counts the realm among the
 * components; versions 1 and 2 are in the byte order of the host that wrote
 * them; version 3 has the enctype twice.
 */
#include "cred.h"

#include <string.h>

#define CONFIG_REALM         "X-CACHECONF:"
#define REMOVED_CONFIG_REALM "X-RMED-CONF:"
#define CONFIG_NAME          "krb5_ccache_conf_data"

static struct data
span(const struct reader *r, const uint8_t *from)
{
    if (r->bad)
        return (struct data){NULL, 0};
    return (struct data){from, (size_t)(r->p - from)};
}

void
principal_read(struct reader *r, struct principal *out)
{
    const uint8_t *start = r->p;
    *out = (struct principal){0};
    out->type = read_u32(r);
    out->count = read_count(r, 4);
    out->realm = read_data32(r);
    const uint8_t *first = r->p;
    uint32_t i = 0;
    for (; i < out->count && !r->bad; i++)
        (void)read_data32(r);
    /* Those not come to, at least their lengths. */
    if (r->bad)
        r->lacks += (size_t)4 * (out->count - i);
    out->components = span(r, first);
    out->raw = span(r, start);
}

struct data
typed_list_read(struct reader *r)
{
    const uint8_t *start = r->p;
    uint32_t count = read_count(r, 6);
    for (uint32_t i = 0; i < count && !r->bad; i++) {
        (void)read_u16(r);
        (void)read_data32(r);
    }
    return span(r, start);
}

void
cred_read(struct reader *r, struct cred *out)
{
    const uint8_t *start = r->p;
    principal_read(r, &out->client);
    principal_read(r, &out->server);
    out->enctype = read_u16(r);
    out->key = read_data32(r);
    out->authtime = read_u32(r);
    out->starttime = read_u32(r);
    out->endtime = read_u32(r);
    out->renew_till = read_u32(r);
    out->is_skey = read_u8(r);
    out->flags = read_u32(r);
    out->addresses = typed_list_read(r);
    out->authdata = typed_list_read(r);
    out->ticket = read_data32(r);
    out->second_ticket = read_data32(r);
    out->raw = span(r, start);
}

bool
cred_parse(struct data d, struct cred *out)
{
    struct reader r;
    reader_init(&r, d.p, d.len);
    cred_read(&r, out);
    return reader_done(&r);
}

bool
principal_parse(struct data d, struct principal *out)
{
    struct reader r;
    reader_init(&r, d.p, d.len);
    principal_read(&r, out);
    return reader_done(&r);
}

struct data
principal_component(const struct principal *p, uint32_t n)
{
    struct reader r;
    reader_init(&r, p->components.p, p->components.len);
    struct data d = {NULL, 0};
    if (n >= p->count)
        return d;
    for (uint32_t i = 0; i <= n; i++)
        d = read_data32(&r);
    return d;
}

bool
principal_equal(const struct principal *a, const struct principal *b)
{
    return a->count == b->count && data_equal(a->realm, b->realm) &&
           data_equal(a->components, b->components);
}

static bool
is_config_of(const struct cred *c, const char *realm)
{
    return c->server.count >= 2 &&
           data_equal(c->server.realm, data_of_string(realm)) &&
           data_equal(principal_component(&c->server, 0),
                      data_of_string(CONFIG_NAME));
}

bool
cred_is_config(const struct cred *c)
{
    return is_config_of(c, CONFIG_REALM);
}

struct data
cred_config_key(const struct cred *c)
{
    return principal_component(&c->server, 1);
}

struct data
cred_config_principal(const struct cred *c)
{
    return principal_component(&c->server, 2);
}

bool
cred_is_removed(const struct cred *c)
{
    if (is_config_of(c, REMOVED_CONFIG_REALM))
        return true;
    return c->endtime == 0 && c->authtime != 0;
}

bool
cred_is_local_tgt(const struct cred *c)
{
    return c->server.count == 2 &&
           data_equal(c->server.realm, c->client.realm) &&
           data_equal(principal_component(&c->server, 0),
                      data_of_string("krbtgt")) &&
           data_equal(principal_component(&c->server, 1), c->client.realm);
}

bool
cred_same_purpose(const struct cred *a, const struct cred *b)
{
    return a->enctype == b->enctype &&
           principal_equal(&a->client, &b->client) &&
           principal_equal(&a->server, &b->server) &&
           data_equal(a->second_ticket, b->second_ticket) &&
           data_equal(a->authdata, b->authdata);
}

uint32_t
cred_start(const struct cred *c)
{
    return c->starttime != 0 ? c->starttime : c->authtime;
}

void
cred_write_removed(struct writer *w, const struct cred *c)
{
    size_t base = w->len;
    size_t times = (size_t)(c->key.p - c->raw.p) + c->key.len;
    write_data(w, c->raw);
    write_u32_at(w, base + times, UINT32_MAX); /* authtime */
    write_u32_at(w, base + times + 8, 0);      /* endtime */
    if (cred_is_config(c) && !w->failed)
        memcpy(w->p + base + (c->server.realm.p - c->raw.p),
               REMOVED_CONFIG_REALM, sizeof(REMOVED_CONFIG_REALM) - 1);
}

void
principal_convert(struct reader *r, int version, struct writer *w)
{
    uint32_t type = version >= 2 ? read_u32(r) : 0;
    uint32_t count = read_count(r, 4);
    if (version == 1) {
        if (count == 0) {
            reader_fail(r);
            return;
        }
        count--;
    }
    write_u32(w, type);
    write_u32(w, count);
    for (uint32_t i = 0; i <= count && !r->bad; i++)
        write_data32(w, read_data32(r)); /* the realm, then components */
}

static void
convert_typed_list(struct reader *r, struct writer *w)
{
    uint32_t count = read_count(r, 6);
    write_u32(w, count);
    for (uint32_t i = 0; i < count && !r->bad; i++) {
        write_u16(w, read_u16(r));
        write_data32(w, read_data32(r));
    }
}

void
cred_convert(struct reader *r, int version, struct writer *w)
{
    principal_convert(r, version, w);
    principal_convert(r, version, w);
    write_u16(w, read_u16(r));
    if (version == 3)
        (void)read_u16(r);
    write_data32(w, read_data32(r));
    for (int i = 0; i < 4; i++)
        write_u32(w, read_u32(r));
    write_u8(w, read_u8(r));
    write_u32(w, read_u32(r));
    convert_typed_list(r, w);
    convert_typed_list(r, w);
    write_data32(w, read_data32(r));
    write_data32(w, read_data32(r));
}

void
cred_write_config(struct writer *w, struct data client, struct data key,
                  struct data for_principal, struct data value)
{
    write_data(w, client);
    write_u32(w, 0);
    write_u32(w, for_principal.len > 0 ? 3 : 2);
    write_data32(w, data_of_string(CONFIG_REALM));
    write_data32(w, data_of_string(CONFIG_NAME));
    write_data32(w, key);
    if (for_principal.len > 0)
        write_data32(w, for_principal);
    write_u16(w, 0); /* enctype and an empty key */
    write_u32(w, 0);
    for (int i = 0; i < 4; i++)
        write_u32(w, 0); /* times */
    write_u8(w, 0);
    write_u32(w, 0); /* flags */
    write_u32(w, 0); /* addresses */
    write_u32(w, 0); /* authdata */
    write_data32(w, value);
    write_u32(w, 0); /* second ticket */
}
