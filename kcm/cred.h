/*
 * Principals and credentials in the encoding that FILE caches (version 4)
 * and KCM share.  A view points into the bytes that it was read from; the
 * bytes stay as they arrived, so comparing is memcmp and rendering is
 * concatenation.
 *
 * Format: MIT krb5 doc/formats/ccache_file_format.rst.
 */
#ifndef KCM_CRED_H
#define KCM_CRED_H

#include "bytes.h"

struct principal {
    uint32_t type;
    uint32_t count; /* of components */
    struct data realm;
    struct data components; /* count times a u32 length and its bytes */
    struct data raw;        /* the whole encoding */
};

struct cred {
    struct principal client;
    struct principal server;
    uint16_t enctype; /* of the session key */
    struct data key;
    uint32_t authtime, starttime, endtime, renew_till; /* seconds */
    uint8_t is_skey;
    uint32_t flags;
    struct data addresses; /* u32 count included */
    struct data authdata;  /* u32 count included */
    struct data ticket;
    struct data second_ticket;
    struct data raw; /* the whole encoding */
};

/* Read one; what does not fit sets r->bad. */
void principal_read(struct reader *r, struct principal *out);
void cred_read(struct reader *r, struct cred *out);
/* Addresses or authorization data: u32 count, count times a u16 type and a
 * u32 length with its bytes.  Gives all of it, the count included. */
struct data typed_list_read(struct reader *r);

/* Exactly one credential in d: false if it is none or bytes are left. */
bool cred_parse(struct data d, struct cred *out);
bool principal_parse(struct data d, struct principal *out);

/* The nth component; empty when there is none. */
struct data principal_component(const struct principal *p, uint32_t n);
/* The same realm and components; the type does not count (RFC 4120 6.2). */
bool principal_equal(const struct principal *a, const struct principal *b);

/* A configuration entry (server realm X-CACHECONF:). */
bool cred_is_config(const struct cred *c);
/* Key of a configuration entry and, where it has one, its principal text. */
struct data cred_config_key(const struct cred *c);
struct data cred_config_principal(const struct cred *c);

/*
 * An entry that a FILE client marked as removed: endtime 0 with an authtime
 * (MIT 1.20: all ones, later MIT and Heimdal: any but 0), or the realm
 * X-RMED-CONF: of a removed configuration entry.  Both times 0 is live: so
 * are configuration entries and gssproxy's.
 */
bool cred_is_removed(const struct cred *c);

/* krbtgt/REALM@REALM of the client's own realm. */
bool cred_is_local_tgt(const struct cred *c);

/* Same client, server, enctype, second ticket and authorization data: the
 * newer of two such credentials supersedes the older. */
bool cred_same_purpose(const struct cred *a, const struct cred *b);
/* starttime, or authtime where there is none. */
uint32_t cred_start(const struct cred *c);

/* Write raw with the marks of a removed entry, the same length (MIT's
 * form, which every reader that knows removed entries takes for one). */
void cred_write_removed(struct writer *w, const struct cred *c);

/*
 * Read a principal or credential of FILE version 1, 2 or 3 and write it as
 * version 4.  r->little tells the byte order of versions 1 and 2.
 */
void principal_convert(struct reader *r, int version, struct writer *w);
void cred_convert(struct reader *r, int version, struct writer *w);

/*
 * Make a configuration entry: client, key, for_principal (text or empty)
 * and value, as libkrb5's krb5_cc_set_config writes them.
 */
void cred_write_config(struct writer *w, struct data client, struct data key,
                       struct data for_principal, struct data value);

#endif
