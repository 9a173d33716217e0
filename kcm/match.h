/*
 * Which credentials a RETRIEVE or REMOVE_CRED means.
 */
#ifndef KCM_MATCH_H
#define KCM_MATCH_H

#include "cred.h"

struct match {
    uint32_t flags;   /* KCM_TC_* */
    uint32_t present; /* KCM_MCRED_* */
    struct cred want; /* what is not present is empty; raw is not set */
};

/* Read flags and a tagged credential; what does not fit sets r->bad. */
void match_read(struct reader *r, struct match *out);

/*
 * True when c is one of those meant, as Heimdal's krb5_compare_creds()
 * decides: client and server where present, then what the flags ask for.
 * Addresses, the ticket and the bytes of the key are not compared.
 */
bool match_cred(const struct match *m, const struct cred *c);

#endif
