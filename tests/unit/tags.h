/*
 * Tagged credentials (RETRIEVE, REMOVE_CRED) for unit tests.
 */
#ifndef TESTS_TAGS_H
#define TESTS_TAGS_H

#include <check.h>

#include "../../kcm/match.h"
#include "../../kcm/proto.h"
#include "samples.h"

#define CS (KCM_MCRED_CLIENT | KCM_MCRED_SERVER)

/* A tag with client and server, and what s says of the rest. */
static inline struct match
tag(struct writer *w, uint32_t flags, uint32_t present, const struct sample *s)
{
    struct match m;
    struct reader r;
    writer_reset(w);
    write_u32(w, flags);
    write_u32(w, present);
    if (present & KCM_MCRED_CLIENT)
        sample_principal(w, s->client == NULL ? "alice@EX.ORG" : s->client);
    if (present & KCM_MCRED_SERVER)
        sample_principal(w, s->server == NULL ? "host/a@EX.ORG" : s->server);
    if (present & KCM_MCRED_SESSION_KEY) {
        write_u16(w, s->enctype);
        write_data32(w, TEXT(""));
    }
    write_u32(w, s->authtime);
    write_u32(w, s->starttime);
    write_u32(w, s->endtime);
    write_u32(w, s->renew_till);
    write_u8(w, s->is_skey);
    write_u32(w, s->flags);
    if (present & KCM_MCRED_ADDRESSES)
        sample_list(w, 2, s->address);
    if (present & KCM_MCRED_AUTHDATA)
        sample_list(w, 1, s->authdata);
    if (present & KCM_MCRED_TICKET)
        write_data32(w, TEXT(s->ticket));
    if (present & KCM_MCRED_SECOND)
        write_data32(w, TEXT(s->second));
    reader_init(&r, w->p, w->len);
    match_read(&r, &m);
    ck_assert(reader_done(&r));
    return m;
}

#endif
