/*
 * info: a cache for people.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "describe_entry.h"

/* What a terminal might take for a command is written \xNN. */
static void
put_escaped(FILE *f, struct data d)
{
    for (size_t i = 0; i < d.len;) {
        const uint8_t *p = d.p + i;
        size_t n = utf8_len(p, d.len - i);
        bool control = n == 0 || p[0] < 0x20 || p[0] == 0x7f ||
                       (p[0] == 0xc2 && p[1] < 0xa0);
        if (!control)
            fwrite(p, 1, n, f);
        for (size_t k = 0; control && k < (n > 0 ? n : 1); k++)
            fprintf(f, "\\x%02x", p[k]);
        i += n > 0 ? n : 1;
    }
}

static void
put_name(FILE *f, const char *name)
{
    if (name == NULL)
        fputs("(unreadable)", f);
    else
        put_escaped(f, data_of_string(name));
}

static void
put_time(FILE *f, uint32_t seconds)
{
    time_t t = seconds;
    struct tm tm;
    char text[80];
    if (localtime_r(&t, &tm) != NULL &&
        strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S %Z", &tm) > 0)
        fputs(text, f);
    else
        fprintf(f, "%" PRIu32, seconds);
}

static void
put_number(FILE *f, int64_t n, const char *unit)
{
    fprintf(f, "%" PRId64 " %s%s", n, unit, n == 1 ? "" : "s");
}

/* The two largest units: "2 days 3 hours", "59 seconds". */
static void
put_duration(FILE *f, int64_t seconds)
{
    static const int64_t size[] = {86400, 3600, 60, 1};
    static const char *const unit[] = {"day", "hour", "minute", "second"};
    int i = 0;
    while (i < 3 && seconds < size[i])
        i++;
    put_number(f, seconds / size[i], unit[i]);
    seconds %= size[i];
    if (i == 3 || seconds < size[i + 1])
        return;
    fputc(' ', f);
    put_number(f, seconds / size[i + 1], unit[i + 1]);
}

/* "9 hours 59 minutes left" or "expired 3 days 1 hour ago". */
static void
put_remaining(FILE *f, int64_t seconds)
{
    if (seconds > 0) {
        put_duration(f, seconds);
        fputs(" left", f);
    } else {
        fputs("EXPIRED ", f);
        put_duration(f, -seconds);
        fputs(" ago", f);
    }
}

static void
put_flags(FILE *f, uint32_t flags)
{
    if (flags == 0) {
        fputs("  Flags:     none\n", f);
        return;
    }
    fputs("  Flags:     ", f);
    for (const struct flag_name *n = flag_names; n->value != 0; n++) {
        if ((flags & n->value) != 0 && n->letter != '\0')
            fputc(n->letter, f);
    }
    const char *separator = " (";
    for (const struct flag_name *n = flag_names; n->value != 0; n++) {
        if ((flags & n->value) == 0)
            continue;
        fprintf(f, "%s%s", separator, n->name);
        separator = ", ";
    }
    fputs(separator[0] == ',' ? ")\n" : "unknown\n", f);
}

static void
put_enctypes(FILE *f, const struct entry *e)
{
    char name[80];
    describe_enctype((int16_t)e->cred.enctype, name, sizeof(name));
    fprintf(f, "  Enctypes:  session key %s", name);
    if (e->has_ticket_enctype) {
        describe_enctype(e->ticket_enctype, name, sizeof(name));
        fprintf(f, ", ticket %s\n", name);
    } else {
        fputs(", ticket unreadable\n", f);
    }
}

static void
put_times(FILE *f, const struct describe_cache *cache, const struct entry *e)
{
    const struct cred *c = &e->cred;
    fputs("  Valid:     ", f);
    put_time(f, cred_start(c));
    fputs(" to ", f);
    put_time(f, c->endtime);
    fputs("\n             ", f);
    put_remaining(f, e->remaining);
    fputc('\n', f);
    if (c->renew_till == 0)
        return;
    fputs("  Renewable: until ", f);
    put_time(f, c->renew_till);
    fputs(", ", f);
    put_remaining(f, (int64_t)c->renew_till - cache->now - cache->kdc_offset);
    fputc('\n', f);
}

static void
put_ticket(FILE *f, const struct describe_cache *cache, const struct entry *e)
{
    const struct cred *c = &e->cred;
    fputs("\nTicket:      ", f);
    put_name(f, e->server);
    if (e->expired)
        fputs("  [expired]", f);
    if (e->superseded)
        fputs("  [superseded by a newer one]", f);
    if (cred_is_removed(c))
        fputs("  [removed]", f);
    fputc('\n', f);
    struct principal own;
    if (!principal_parse(cache->principal, &own) ||
        !principal_equal(&own, &c->client)) {
        fputs("  Client:    ", f);
        put_name(f, e->client);
        fputc('\n', f);
    }
    put_times(f, cache, e);
    put_flags(f, c->flags);
    put_enctypes(f, e);
    fprintf(f, "  Size:      %zu bytes, of which the ticket %zu%s\n",
            c->raw.len, c->ticket.len,
            c->is_skey != 0 ? "; for user-to-user authentication" : "");
}

static void
put_config(FILE *f, const struct entry *e)
{
    fputs("  ", f);
    put_escaped(f, cred_config_key(&e->cred));
    if (e->cred.server.count > 2) {
        fputs(" (", f);
        put_escaped(f, cred_config_principal(&e->cred));
        fputc(')', f);
    }
    fputs(": ", f);
    if (entry_value_shown(e))
        put_escaped(f, e->cred.ticket);
    else
        fprintf(f, "(%zu bytes, not shown)", e->cred.ticket.len);
    fputs(e->superseded ? "  [superseded]\n" : "\n", f);
}

/* The entries of one kind. */
static int
put_entries(FILE *f, const struct describe_cache *cache, enum entry_kind kind)
{
    for (size_t i = 0; i < cache->count; i++) {
        struct entry e;
        int r = entry_read(cache, i, &e);
        if (r < 0)
            return r;
        if (e.kind == kind && kind == ENTRY_TICKET)
            put_ticket(f, cache, &e);
        else if (e.kind == kind)
            put_config(f, &e);
        entry_free(&e);
    }
    return 0;
}

static void
put_state(FILE *f, const struct describe_cache *cache)
{
    uint32_t end;
    fputs("State:       ", f);
    if (!entries_expire(cache, &end))
        fputs("no ticket-granting ticket of its realm", f);
    else
        put_remaining(f, (int64_t)end - cache->now - cache->kdc_offset);
    fputc('\n', f);
}

static void
put_offset(FILE *f, int32_t offset)
{
    if (offset == 0)
        return;
    fputs("KDC offset:  ", f);
    put_duration(f, offset < 0 ? -(int64_t)offset : offset);
    fprintf(f, " (%+" PRId32 " s): the KDC's clock is %s\n", offset,
            offset > 0 ? "ahead" : "behind");
}

static void
put_head(FILE *f, const struct describe_cache *cache, const char *principal,
         const size_t count[])
{
    fputs("Cache:       KCM:", f);
    put_escaped(f, data_of_string(cache->name));
    fputs(cache->is_default ? " (the default)\n" : "\n", f);
    fputs("UUID:        ", f);
    describe_put_uuid(f, cache->uuid);
    fputs("\nPrincipal:   ", f);
    put_name(f, principal);
    fputc('\n', f);
    put_state(f, cache);
    put_offset(f, cache->kdc_offset);
    fprintf(f, "Size:        %zu bytes, %zu ticket%s, %zu configuration %s\n",
            cache->file_size, count[ENTRY_TICKET],
            count[ENTRY_TICKET] == 1 ? "" : "s", count[ENTRY_CONFIG],
            count[ENTRY_CONFIG] == 1 ? "entry" : "entries");
    if (count[ENTRY_UNREADABLE] > 0)
        fprintf(f, "Unreadable:  %zu (no credentials)\n",
                count[ENTRY_UNREADABLE]);
}

static int
put_cache(FILE *f, const struct describe_cache *cache)
{
    _cleanup_(freep) char *principal = NULL;
    if (describe_principal(cache->principal, &principal) == -ENOMEM)
        return -ENOMEM;
    size_t count[ENTRY_KINDS];
    entries_count(cache, count);
    put_head(f, cache, principal, count);
    int r = put_entries(f, cache, ENTRY_TICKET);
    if (r == 0 && count[ENTRY_CONFIG] > 0) {
        fputs("\nConfiguration:\n", f);
        r = put_entries(f, cache, ENTRY_CONFIG);
    }
    /* For who reads several of them: klist -A has a blank line, too. */
    fputc('\n', f);
    return r;
}

int
describe_info(const struct describe_cache *cache, char **out)
{
    return describe_to_string(cache, put_cache, out);
}
