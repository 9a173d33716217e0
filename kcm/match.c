/*
 * Tagged credentials, and the comparison that their flags ask for.
 *
 *   match = u32 flags, u32 present, [client], [server], [key: u16, data],
 *           4 x u32 time, u8 is_skey, u32 ticket flags, [addresses],
 *           [authdata], [data ticket], [data second_ticket]
 *
 * Sources: MIT krb5 src/lib/krb5/ccache/ccmarshal.c, k5_marshal_mcred;
 * Heimdal lib/krb5/store.c, krb5_ret_creds_tag, and lib/krb5/creds.c.
 */
#include "match.h"

#include "proto.h"

void
match_read(struct reader *r, struct match *out)
{
    static const uint8_t zero[4];
    *out = (struct match){0};
    struct cred *want = &out->want;
    out->flags = read_u32(r);
    out->present = read_u32(r);
    if (out->present & KCM_MCRED_CLIENT)
        principal_read(r, &want->client);
    if (out->present & KCM_MCRED_SERVER)
        principal_read(r, &want->server);
    if (out->present & KCM_MCRED_SESSION_KEY) {
        want->enctype = read_u16(r);
        want->key = read_data32(r);
    }
    want->authtime = read_u32(r);
    want->starttime = read_u32(r);
    want->endtime = read_u32(r);
    want->renew_till = read_u32(r);
    want->is_skey = read_u8(r);
    want->flags = read_u32(r);
    /* An absent list is an empty one: a count of 0. */
    want->addresses = want->authdata = (struct data){zero, sizeof(zero)};
    if (out->present & KCM_MCRED_ADDRESSES)
        want->addresses = typed_list_read(r);
    if (out->present & KCM_MCRED_AUTHDATA)
        want->authdata = typed_list_read(r);
    if (out->present & KCM_MCRED_TICKET)
        want->ticket = read_data32(r);
    /* Heimdal writes a second ticket that is empty without marking it. */
    if (out->present & KCM_MCRED_SECOND || reader_left(r) == 4)
        want->second_ticket = read_data32(r);
}

static bool
same_name(const struct principal *a, const struct principal *b)
{
    return a->count == b->count && data_equal(a->components, b->components);
}

static bool
match_names(const struct match *m, const struct cred *c)
{
    const uint32_t any_server =
        KCM_TC_DONT_MATCH_REALM | KCM_TC_MATCH_SRV_NAMEONLY;
    const struct cred *want = &m->want;
    if (m->present & KCM_MCRED_SERVER) {
        if (!same_name(&want->server, &c->server))
            return false;
        if ((m->flags & any_server) == 0 &&
            !data_equal(want->server.realm, c->server.realm))
            return false;
    }
    if (m->present & KCM_MCRED_CLIENT) {
        if (!same_name(&want->client, &c->client))
            return false;
        if ((m->flags & KCM_TC_DONT_MATCH_REALM) == 0 &&
            !data_equal(want->client.realm, c->client.realm))
            return false;
    }
    return true;
}

/*
 * Times are compared as unsigned: after 2038 Heimdal 7.8 takes them for
 * negative, which no client can want.
 */
static bool
match_times(const struct match *m, const struct cred *c)
{
    const struct cred *want = &m->want;
    if ((m->flags & KCM_TC_MATCH_TIMES_EXACT) &&
        (want->authtime != c->authtime || want->starttime != c->starttime ||
         want->endtime != c->endtime || want->renew_till != c->renew_till))
        return false;
    return (m->flags & KCM_TC_MATCH_TIMES) == 0 ||
           (want->renew_till <= c->renew_till && want->endtime <= c->endtime);
}

bool
match_cred(const struct match *m, const struct cred *c)
{
    const struct cred *want = &m->want;
    const uint32_t flags = m->flags;
    if (!match_names(m, c) || !match_times(m, c))
        return false;
    if ((flags & KCM_TC_MATCH_KEYTYPE) && want->enctype != c->enctype)
        return false;
    if ((flags & KCM_TC_MATCH_FLAGS_EXACT) && want->flags != c->flags)
        return false;
    if ((flags & KCM_TC_MATCH_FLAGS) &&
        (want->flags & c->flags) != want->flags)
        return false;
    if ((flags & KCM_TC_MATCH_AUTHDATA) &&
        !data_equal(want->authdata, c->authdata))
        return false;
    if ((flags & KCM_TC_MATCH_2ND_TKT) &&
        !data_equal(want->second_ticket, c->second_ticket))
        return false;
    /* Heimdal's is_skey is "there is a second ticket", whatever was sent. */
    return (flags & KCM_TC_MATCH_IS_SKEY) == 0 ||
           (want->second_ticket.len == 0) == (c->second_ticket.len == 0);
}
