/*
 * info.json; the schema is in describe.h.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "describe_entry.h"

static void
put_string(FILE *f, struct data d)
{
    fputc('"', f);
    for (size_t i = 0; i < d.len;) {
        size_t n = utf8_len(d.p + i, d.len - i);
        uint8_t c = d.p[i];
        if (n == 0)
            fputs("\\ufffd", f);
        else if (c == '"' || c == '\\')
            fprintf(f, "\\%c", c);
        else if (c < 0x20 || c == 0x7f)
            fprintf(f, "\\u%04x", c);
        else
            fwrite(d.p + i, 1, n, f);
        i += n > 0 ? n : 1;
    }
    fputc('"', f);
}

static void
put_text(FILE *f, const char *text)
{
    if (text == NULL)
        fputs("null", f);
    else
        put_string(f, data_of_string(text));
}

static const char *
bool_text(bool b)
{
    return b ? "true" : "false";
}

static void
put_time(FILE *f, const char *name, uint32_t t)
{
    if (t == 0)
        fprintf(f, ", \"%s\": null", name);
    else
        fprintf(f, ", \"%s\": %" PRIu32, name, t);
}

static void
put_enctype(FILE *f, const char *name, bool known, int32_t enctype)
{
    if (!known) {
        fprintf(f, ", \"%s\": null", name);
        return;
    }
    char text[80];
    describe_enctype(enctype, text, sizeof(text));
    fprintf(f, ", \"%s\": {\"number\": %" PRId32 ", \"name\": ", name,
            enctype);
    put_text(f, text);
    fputc('}', f);
}

static void
put_flags(FILE *f, uint32_t flags)
{
    fputs(", \"flags\": \"", f);
    for (const struct flag_name *n = flag_names; n->value != 0; n++) {
        if ((flags & n->value) != 0 && n->letter != '\0')
            fputc(n->letter, f);
    }
    fputs("\", \"flag_names\": [", f);
    const char *comma = "";
    for (const struct flag_name *n = flag_names; n->value != 0; n++) {
        if ((flags & n->value) == 0)
            continue;
        fprintf(f, "%s\"%s\"", comma, n->name);
        comma = ", ";
    }
    fprintf(f, "], \"flags_value\": %" PRIu32, flags);
}

static void
put_ticket(FILE *f, const struct entry *e)
{
    const struct cred *c = &e->cred;
    fputs("{\"server\": ", f);
    put_text(f, e->server);
    fputs(", \"client\": ", f);
    put_text(f, e->client);
    put_time(f, "authtime", c->authtime);
    put_time(f, "starttime", c->starttime);
    put_time(f, "endtime", c->endtime);
    put_time(f, "renew_till", c->renew_till);
    fprintf(f,
            ", \"remaining\": %" PRId64 ", \"expired\": %s, "
            "\"superseded\": %s, \"user_to_user\": %s",
            e->expired ? 0 : e->remaining, bool_text(e->expired),
            bool_text(e->superseded), bool_text(c->is_skey != 0));
    put_flags(f, c->flags);
    put_enctype(f, "session_enctype", true, (int16_t)c->enctype);
    put_enctype(f, "ticket_enctype", e->has_ticket_enctype, e->ticket_enctype);
    fprintf(f, ", \"ticket_size\": %zu, \"size\": %zu}", c->ticket.len,
            c->raw.len);
}

static void
put_config(FILE *f, const struct entry *e)
{
    const struct cred *c = &e->cred;
    fputs("{\"key\": ", f);
    put_string(f, cred_config_key(c));
    fputs(", \"principal\": ", f);
    if (c->server.count > 2)
        put_string(f, cred_config_principal(c));
    else
        fputs("null", f);
    fputs(", \"value\": ", f);
    if (entry_value_shown(e))
        put_string(f, c->ticket);
    else
        fputs("null", f);
    fprintf(f, ", \"size\": %zu, \"superseded\": %s}", c->ticket.len,
            bool_text(e->superseded));
}

/* The entries of one kind, as an array. */
static int
put_entries(FILE *f, const struct describe_cache *cache, enum entry_kind kind)
{
    const char *separator = "\n    ";
    for (size_t i = 0; i < cache->count; i++) {
        struct entry e;
        int r = entry_read(cache, i, &e);
        if (r < 0)
            return r;
        if (e.kind == kind) {
            fputs(separator, f);
            if (kind == ENTRY_TICKET)
                put_ticket(f, &e);
            else
                put_config(f, &e);
            separator = ",\n    ";
        }
        entry_free(&e);
    }
    return 0;
}

static void
put_head(FILE *f, const struct describe_cache *cache, const char *principal)
{
    _cleanup_(freep) char *name = NULL;
    if (asprintf(&name, "KCM:%s", cache->name) < 0)
        name = NULL;
    fputs("{\n  \"version\": 1,\n  \"name\": ", f);
    put_text(f, name);
    fputs(",\n  \"uuid\": \"", f);
    describe_put_uuid(f, cache->uuid);
    fprintf(f, "\",\n  \"default\": %s,\n  \"principal\": ",
            bool_text(cache->is_default));
    put_text(f, principal);
    fprintf(f,
            ",\n  \"kdc_offset\": %" PRId32 ",\n  \"size\": %zu,\n"
            "  \"time\": %lld,\n",
            cache->kdc_offset, cache->file_size, (long long)cache->now);
}

static void
put_expiry(FILE *f, const struct describe_cache *cache)
{
    uint32_t end;
    bool known = entries_expire(cache, &end);
    bool expired = (int64_t)end <= (int64_t)cache->now + cache->kdc_offset;
    if (known)
        fprintf(f, "  \"expires\": %" PRIu32, end);
    else
        fputs("  \"expires\": null", f);
    fprintf(f, ",\n  \"expired\": %s,\n", bool_text(!known || expired));
}

static int
put_cache(FILE *f, const struct describe_cache *cache)
{
    _cleanup_(freep) char *principal = NULL;
    if (describe_principal(cache->principal, &principal) == -ENOMEM)
        return -ENOMEM;
    put_head(f, cache, principal);
    put_expiry(f, cache);
    fputs("  \"tickets\": [", f);
    int r = put_entries(f, cache, ENTRY_TICKET);
    fputs("],\n  \"config\": [", f);
    if (r == 0)
        r = put_entries(f, cache, ENTRY_CONFIG);
    size_t count[ENTRY_KINDS];
    entries_count(cache, count);
    fprintf(f, "],\n  \"unreadable\": %zu\n}\n", count[ENTRY_UNREADABLE]);
    return r;
}

int
describe_json(const struct describe_cache *cache, char **out)
{
    return describe_to_string(cache, put_cache, out);
}
