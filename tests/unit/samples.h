/*
 * Principals and credentials for unit tests, made with a struct writer.
 */
#ifndef TESTS_SAMPLES_H
#define TESTS_SAMPLES_H

#include <string.h>

#include "../../kcm/cred.h"

#define TEXT(s) data_of_string(s)

/* Principal text of the simplest kind: a/b@REALM, nothing quoted. */
static inline void
sample_principal(struct writer *w, const char *text)
{
    const char *at = strchr(text, '@'), *p = text;
    uint32_t count = 1;
    for (; p < at; p++)
        count += *p == '/';
    write_u32(w, 1);
    write_u32(w, count);
    write_data32(w, TEXT(at + 1));
    for (p = text; p <= at; p++) {
        const char *end = p;
        while (end < at && *end != '/')
            end++;
        write_data32(w, (struct data){(const uint8_t *)p, (size_t)(end - p)});
        p = end;
    }
}

struct sample {
    const char *client, *server;
    uint16_t enctype;
    uint32_t authtime, starttime, endtime, renew_till;
    uint8_t is_skey;
    uint32_t flags;
    const char *address;  /* NULL: none */
    const char *authdata; /* NULL: none */
    const char *ticket;
    const char *second;
};

static inline void
sample_list(struct writer *w, uint16_t type, const char *one)
{
    write_u32(w, one != NULL);
    if (one == NULL)
        return;
    write_u16(w, type);
    write_data32(w, TEXT(one));
}

static inline void
sample_cred(struct writer *w, const struct sample *s)
{
    sample_principal(w, s->client == NULL ? "alice@EX.ORG" : s->client);
    sample_principal(w, s->server == NULL ? "host/a@EX.ORG" : s->server);
    write_u16(w, s->enctype);
    write_data32(w, TEXT("0123456789abcdef"));
    write_u32(w, s->authtime);
    write_u32(w, s->starttime);
    write_u32(w, s->endtime);
    write_u32(w, s->renew_till);
    write_u8(w, s->is_skey);
    write_u32(w, s->flags);
    sample_list(w, 2, s->address);
    sample_list(w, 1, s->authdata);
    write_data32(w, TEXT(s->ticket == NULL ? "ticket" : s->ticket));
    write_data32(w, TEXT(s->second == NULL ? "" : s->second));
}

static inline int
nibble(char c)
{
    return c <= '9' ? c - '0' : (c | 32) - 'a' + 10;
}

/* Bytes from hexadecimal digits; blanks are skipped. */
static inline void
sample_hex(struct writer *w, const char *hex)
{
    for (; *hex != '\0'; hex++) {
        if (*hex == ' ')
            continue;
        write_u8(w, (uint8_t)(nibble(hex[0]) << 4 | nibble(hex[1])));
        hex++;
    }
}

#endif
