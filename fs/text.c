/*
 * Generated files: principal, name, info, info.json, tickets/X, config/X,
 * collection/primary.  (.kcmfs/status: status.c.)
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "fs/content.h"
#include "fs/tree.h"
#include "fs/user.h"
#include "kcm/describe.h"

/* A blob of a malloc'ed string, which is freed. */
static int
blob_of_text(char *text, struct blob **out)
{
    if (text == NULL)
        return -ENOMEM;
    *out = blob_new(text, strlen(text));
    free(text);
    return *out != NULL ? 0 : -ENOMEM;
}

static char *__attribute__((format(printf, 1, 2))) format(const char *f, ...)
{
    char *text;
    va_list ap;
    va_start(ap, f);
    int n = vasprintf(&text, f, ap);
    va_end(ap);
    return n < 0 ? NULL : text;
}

static int
principal_text(struct content *c, struct blob **out)
{
    _cleanup_(kcm_snapshot_unrefp) struct kcm_snapshot *s =
        content_snapshot(c);
    _cleanup_(freep) char *text = NULL;
    if (s == NULL)
        return KCM_NOT_FOUND;
    int r = describe_principal(blob_data(s->principal), &text);
    return r != 0 ? r : blob_of_text(format("%s\n", text), out);
}

bool
text_uuid(struct content *c, const struct caller *caller,
          uint8_t uuid_out[KCM_UUID_LEN])
{
    _cleanup_(kcm_listing_freep) struct kcm_listing *l = NULL;
    /* It may have got another one since it was seen (sssd, at kinit). */
    (void)user_list(c->user, caller, &l);
    return user_uuid_of_name(c->user, c->name, uuid_out);
}

static int
info_text(struct fs *fs, struct content *c, const struct caller *caller,
          bool json, struct blob **out)
{
    _cleanup_(tickets_unrefp) struct ticket_table *t = NULL;
    _cleanup_(freep) char *primary = NULL;
    _cleanup_(freep) struct data *creds = NULL;
    int r = tickets_of(c, &t);
    if (r == 0)
        r = user_default(c->user, caller, &primary);
    if (r != 0)
        return r;
    struct kcm_snapshot *s = t->snapshot;
    creds = calloc(s->count + 1, sizeof(*creds));
    if (creds == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < s->count; i++)
        creds[i] = blob_data(s->creds[i].bytes);
    struct describe_cache cache = {
        .name = c->name,
        .is_default = strcmp(c->name, primary) == 0,
        .kdc_offset = s->kdc_offset,
        .principal = blob_data(s->principal),
        .creds = creds,
        .superseded = t->superseded,
        .count = s->count,
        .now = time(NULL),
    };
    (void)text_uuid(c, caller, cache.uuid);
    pthread_mutex_lock(&fs->lock);
    cache.file_size = c->image != NULL ? c->image->len : 0;
    pthread_mutex_unlock(&fs->lock);
    char *text = NULL;
    r = json ? describe_json(&cache, &text) : describe_info(&cache, &text);
    return r != 0 ? r : blob_of_text(text, out);
}

/* One ticket as a cache of its own. */
static int
ticket_file(struct content *c, const char *name, struct blob **out)
{
    _cleanup_(tickets_unrefp) struct ticket_table *t = NULL;
    int r = tickets_of(c, &t);
    if (r != 0)
        return r;
    const struct ticket_name *found =
        tickets_find(t->ticket, t->tickets, name);
    if (found == NULL)
        return KCM_NOT_FOUND;
    _cleanup_(writer_free) struct writer w = {0};
    image_write_header(&w, t->snapshot);
    write_data(&w, blob_data(t->snapshot->creds[found->index].bytes));
    *out = w.failed ? NULL : blob_new(w.p, w.len);
    return *out != NULL ? 0 : -ENOMEM;
}

static int
config_value(struct content *c, const char *name, struct blob **out)
{
    _cleanup_(tickets_unrefp) struct ticket_table *t = NULL;
    int r = tickets_of(c, &t);
    if (r != 0)
        return r;
    const struct ticket_name *found =
        tickets_find(t->config, t->configs, name);
    struct cred cred;
    if (found == NULL ||
        !cred_parse(blob_data(t->snapshot->creds[found->index].bytes), &cred))
        return KCM_NOT_FOUND;
    *out = blob_new(cred.ticket.p, cred.ticket.len);
    return *out != NULL ? 0 : -ENOMEM;
}

static int
primary_text(struct fs *fs, const struct caller *caller, struct blob **out)
{
    struct user *u = user_get(fs, caller->uid);
    _cleanup_(freep) char *file = NULL;
    if (u == NULL)
        return -ENOMEM;
    int r = tree_primary(u, caller, &file);
    if (r != 0)
        return r;
    return blob_of_text(format("%s\n", file), out);
}

int
text_of(struct fs *fs, struct node *n, const struct caller *caller,
        struct blob **out)
{
    *out = NULL;
    switch (n->kind) {
    case NODE_TEXT_PRINCIPAL:
        return principal_text(n->content, out);
    case NODE_TEXT_NAME:
        return blob_of_text(format("KCM:%s\n", n->content->name), out);
    case NODE_TEXT_INFO:
        return info_text(fs, n->content, caller, false, out);
    case NODE_TEXT_JSON:
        return info_text(fs, n->content, caller, true, out);
    case NODE_TICKET:
        return ticket_file(n->content, n->name, out);
    case NODE_CONFIG_VALUE:
        return config_value(n->content, n->name, out);
    case NODE_PRIMARY:
        return primary_text(fs, caller, out);
    case NODE_STATUS:
        return status_text(fs, caller, out);
    default:
        return -EIO;
    }
}
