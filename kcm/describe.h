/*
 * Credentials as text, through libkrb5: principals, encryption types, and
 * the description of a whole cache for people and for programs.
 *
 * Every function may be called from many threads: each has a libkrb5 context
 * of its own, which does not depend on krb5.conf.  The bytes may be anything;
 * what cannot be read is said to be unreadable.  No key and no ticket bytes
 * get into any text.
 */
#ifndef KCM_DESCRIBE_H
#define KCM_DESCRIBE_H

#include <time.h>

#include "bytes.h"

/*
 * The principal (FILE version 4 encoding) as krb5_unparse_name() quotes it,
 * a new string.  0; -EINVAL: it is no principal; -ENOMEM.
 */
int describe_principal(struct data principal, char **out);

/*
 * The reverse: append the encoding of the principal that text names, which
 * must include the realm.  0; -EINVAL; -ENOMEM.
 */
int describe_parse_principal(const char *text, struct writer *w);

/* The name of an encryption type, else "etype N", in at most size bytes. */
void describe_enctype(int32_t enctype, char *out, size_t size);

/* The encryption type of an encoded ticket's own part (that of the service's
 * key); false if ticket is none. */
bool describe_ticket_enctype(struct data ticket, int32_t *enctype_out);

/* A cache to be described. */
struct describe_cache {
    const char *name; /* KCM name, without KCM: */
    uint8_t uuid[16];
    bool is_default;
    int32_t kdc_offset; /* seconds that the KDC's clock is ahead */
    struct data principal;
    const struct data *creds; /* count of them; may be empty: unreadable */
    const bool *superseded;   /* count of them, or NULL: none is */
    size_t count;
    time_t now;
    size_t file_size;
};

/*
 * For people: what `klist -ef` and `klist -A` show, and the cache's UUID and
 * place, which entries are superseded or expired, and lifetimes in words.
 * Times are in the local time zone.  Whether something has expired is
 * reckoned by the KDC's clock.  *out is a new string.  0 or -ENOMEM.
 */
int describe_info(const struct describe_cache *cache, char **out);

/*
 * The same for programs, one JSON object and a newline, as
 * examples/info.schema.json has it:
 *
 *   version       1; another number when a member changes its meaning
 *   name          string, usable as KRB5CCNAME
 *   uuid          string
 *   default       bool
 *   principal     string; null if unreadable
 *   kdc_offset    number, seconds
 *   size          number, bytes of the file `cache`
 *   time          number, when this was made (all times: seconds since 1970)
 *   expires       number, the end of the last ticket-granting ticket of the
 *                 client's own realm; null if there is none
 *   expired       bool, true also where there is none
 *   tickets       array of
 *     server, client     string
 *     authtime, starttime, endtime, renew_till
 *                        number; null where 0
 *     remaining          number, seconds; 0 if expired
 *     expired, superseded, user_to_user
 *                        bool
 *     flags              string, the letters of klist -f
 *     flag_names         array of string
 *     flags_value        number
 *     session_enctype, ticket_enctype
 *                        {"number": number, "name": string}; null if the
 *                        ticket cannot be decoded
 *     ticket_size        number, bytes
 *     size               number, bytes of the whole entry
 *   config        array of
 *     key                string
 *     principal          string; null where it is for the whole cache
 *     value              string; null if it is not printable, or secret
 *     size               number, bytes of the value
 *     superseded         bool
 *   unreadable    number of entries that are no credentials
 *
 * Members are never left out.  Bytes that are no UTF-8 become U+FFFD.
 */
int describe_json(const struct describe_cache *cache, char **out);

#endif
