/*
 * One entry of a cache, taken apart for a description.
 */
#include "describe_entry.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

/* RFC 4120 5.3, RFC 6806 and 8062, by the order of klist -f. */
const struct flag_name flag_names[] = {
    {0x40000000, 'F', "forwardable"},
    {0x20000000, 'f', "forwarded"},
    {0x10000000, 'P', "proxiable"},
    {0x08000000, 'p', "proxy"},
    {0x04000000, 'D', "may-postdate"},
    {0x02000000, 'd', "postdated"},
    {0x01000000, 'i', "invalid"},
    {0x00800000, 'R', "renewable"},
    {0x00400000, 'I', "initial"},
    {0x00100000, 'H', "hw-authent"},
    {0x00200000, 'A', "pre-authent"},
    {0x00080000, 'T', "transited-policy-checked"},
    {0x00040000, 'O', "ok-as-delegate"},
    {0x00008000, 'a', "anonymous"},
    {0x00010000, '\0', "enc-pa-rep"},
    {0, '\0', NULL},
};

/* The KDC's clock: by it tickets begin and end. */
static int64_t
kdc_time(const struct describe_cache *cache)
{
    return (int64_t)cache->now + cache->kdc_offset;
}

static int
name_of(const struct principal *p, char **out)
{
    int r = describe_principal(p->raw, out);
    return r == -ENOMEM ? r : 0;
}

int
entry_read(const struct describe_cache *cache, size_t n, struct entry *e)
{
    *e = (struct entry){.kind = ENTRY_UNREADABLE};
    e->superseded = cache->superseded != NULL && cache->superseded[n];
    if (!cred_parse(cache->creds[n], &e->cred))
        return 0;
    if (cred_is_config(&e->cred)) {
        e->kind = ENTRY_CONFIG;
        return 0;
    }
    e->kind = ENTRY_TICKET;
    e->remaining = (int64_t)e->cred.endtime - kdc_time(cache);
    e->expired = e->remaining <= 0;
    e->has_ticket_enctype =
        describe_ticket_enctype(e->cred.ticket, &e->ticket_enctype);
    int r = name_of(&e->cred.server, &e->server);
    if (r == 0)
        r = name_of(&e->cred.client, &e->client);
    if (r < 0)
        entry_free(e);
    return r;
}

void
entry_free(struct entry *e)
{
    free(take(e->server));
    free(take(e->client));
}

/* --- text --------------------------------------------------------------- */

size_t
utf8_len(const uint8_t *p, size_t left)
{
    size_t len = p[0] < 0x80                   ? 1
                 : p[0] >= 0xc2 && p[0] < 0xe0 ? 2
                 : (p[0] & 0xf0) == 0xe0       ? 3
                 : p[0] >= 0xf0 && p[0] < 0xf5 ? 4
                                               : 0;
    if (len > left)
        return 0;
    for (size_t i = 1; i < len; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    }
    /* Overlong forms, surrogates, and what lies above U+10FFFF. */
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
        (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
        return 0;
    return len;
}

static bool
is_printable(struct data d)
{
    for (size_t i = 0; i < d.len;) {
        size_t n = utf8_len(d.p + i, d.len - i);
        /* 0xc2 0x80 to 0xc2 0x9f are the control characters of ISO 6429. */
        if (n == 0 || d.p[i] < 0x20 || d.p[i] == 0x7f ||
            (d.p[i] == 0xc2 && d.p[i + 1] < 0xa0))
            return false;
        i += n;
    }
    return true;
}

/* Heimdal keeps a private key (kx509key) and NTLM keys as configuration. */
static bool
is_secret_key(struct data key)
{
    static const char *const words[] = {"key", "password", "secret"};
    for (size_t w = 0; w < sizeof(words) / sizeof(words[0]); w++) {
        size_t len = strlen(words[w]);
        for (size_t i = 0; i + len <= key.len; i++) {
            if (strncasecmp((const char *)key.p + i, words[w], len) == 0)
                return true;
        }
    }
    return false;
}

bool
entry_value_shown(const struct entry *e)
{
    return !is_secret_key(cred_config_key(&e->cred)) &&
           is_printable(e->cred.ticket);
}

/* --- the cache as a whole ------------------------------------------------ */

bool
entries_expire(const struct describe_cache *cache, uint32_t *end_out)
{
    bool found = false;
    *end_out = 0;
    for (size_t i = 0; i < cache->count; i++) {
        struct cred c;
        if (!cred_parse(cache->creds[i], &c) || !cred_is_local_tgt(&c))
            continue;
        if (c.endtime > *end_out)
            *end_out = c.endtime;
        found = true;
    }
    return found;
}

void
entries_count(const struct describe_cache *cache,
              size_t count_out[ENTRY_KINDS])
{
    for (int k = 0; k < ENTRY_KINDS; k++)
        count_out[k] = 0;
    for (size_t i = 0; i < cache->count; i++) {
        struct cred c;
        enum entry_kind kind = !cred_parse(cache->creds[i], &c)
                                   ? ENTRY_UNREADABLE
                               : cred_is_config(&c) ? ENTRY_CONFIG
                                                    : ENTRY_TICKET;
        count_out[kind]++;
    }
}

void
describe_put_uuid(FILE *f, const uint8_t uuid[16])
{
    for (int i = 0; i < 16; i++)
        fprintf(f, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "",
                uuid[i]);
}

int
describe_to_string(const struct describe_cache *cache,
                   int (*put)(FILE *f, const struct describe_cache *cache),
                   char **out)
{
    *out = NULL;
    char *text = NULL;
    size_t size;
    FILE *f = open_memstream(&text, &size);
    if (f == NULL)
        return -ENOMEM;
    int r = put(f, cache);
    if (fclose(f) != 0)
        r = -ENOMEM;
    if (r == 0)
        *out = take(text);
    free(text);
    return r;
}
