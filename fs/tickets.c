/*
 * The names in tickets/ and config/ of one snapshot.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fs/tree.h"
#include "fs/user.h"
#include "kcm/describe.h"

static void
free_names(struct ticket_name *names, size_t count)
{
    for (size_t i = 0; i < count; i++)
        free(names[i].name);
    free(names);
}

void
tickets_unref(struct ticket_table *t)
{
    if (t == NULL || __atomic_fetch_sub(&t->refs, 1, __ATOMIC_ACQ_REL) != 1)
        return;
    free_names(t->ticket, t->tickets);
    free_names(t->config, t->configs);
    free(t->superseded);
    kcm_snapshot_unref(t->snapshot);
    free(t);
}

static char *
ticket_file_name(const struct cred *c)
{
    _cleanup_(freep) char *text = NULL;
    int r = describe_principal(c->server.raw, &text);
    if (r == -EINVAL)
        return strdup("unnamed");
    return r == 0 ? name_of_principal(text) : NULL;
}

char *
config_file(const struct cred *c)
{
    struct data key = cred_config_key(c), of = cred_config_principal(c);
    _cleanup_(freep) char *text = NULL;
    int n = of.len > 0 ? asprintf(&text, "%.*s@%.*s", (int)key.len, key.p,
                                  (int)of.len, of.p)
                       : asprintf(&text, "%.*s", (int)key.len, key.p);
    if (n < 0)
        return NULL;
    return name_of_principal(text[0] != '\0' ? text : "unnamed");
}

int
config_parse(const char *file, struct data client, struct data value,
             struct writer *w)
{
    _cleanup_(freep) char *name = name_unescape_text(file);
    if (name == NULL)
        return -errno; /* EINVAL: it is none */
    if (name[0] == '\0' || name[0] == '@')
        return -EINVAL;
    /* No key in use holds an @. */
    char *of = strchr(name, '@');
    struct data principal = {NULL, 0};
    if (of != NULL) {
        *of = '\0';
        principal = data_of_string(of + 1);
        if (principal.len == 0)
            return -EINVAL;
    }
    cred_write_config(w, client, data_of_string(name), principal, value);
    return w->failed ? -ENOMEM : 0;
}

static int
fill(struct ticket_table *t)
{
    struct kcm_snapshot *s = t->snapshot;
    for (size_t i = 0; i < s->count; i++) {
        struct cred c;
        struct blob *b = s->creds[i].bytes;
        if (b == NULL || !cred_parse((struct data){b->bytes, b->len}, &c) ||
            cred_is_removed(&c))
            continue;
        bool config = cred_is_config(&c);
        if (config && t->superseded[i])
            continue; /* only the value that counts */
        char *name = config ? config_file(&c) : ticket_file_name(&c);
        if (name == NULL)
            return -ENOMEM;
        if (config)
            t->config[t->configs++] = (struct ticket_name){name, i};
        else
            t->ticket[t->tickets++] = (struct ticket_name){name, i};
    }
    if (names_make_unique(t->ticket, t->tickets) != 0 ||
        names_make_unique(t->config, t->configs) != 0)
        return -ENOMEM;
    return 0;
}

static int
make(struct kcm_snapshot *s, struct ticket_table **out)
{
    _cleanup_(tickets_unrefp) struct ticket_table *t = calloc(1, sizeof(*t));
    if (t == NULL)
        return -ENOMEM;
    t->refs = 1;
    t->snapshot = kcm_snapshot_ref(s);
    t->superseded = calloc(s->count + 1, sizeof(*t->superseded));
    t->ticket = calloc(s->count + 1, sizeof(*t->ticket));
    t->config = calloc(s->count + 1, sizeof(*t->config));
    if (t->superseded == NULL || t->ticket == NULL || t->config == NULL)
        return -ENOMEM;
    int r = image_superseded(s, t->superseded);
    if (r == 0)
        r = fill(t);
    if (r == 0)
        *out = take(t);
    return r;
}

int
tickets_of(struct content *c, struct ticket_table **out)
{
    struct fs *fs = c->user->fs;
    *out = NULL;
    pthread_mutex_lock(&fs->lock);
    struct kcm_snapshot *s =
        c->shown != NULL ? kcm_snapshot_ref(c->shown) : NULL;
    if (c->tickets != NULL && c->tickets->snapshot == s) {
        *out = c->tickets;
        __atomic_fetch_add(&(*out)->refs, 1, __ATOMIC_RELAXED);
    }
    pthread_mutex_unlock(&fs->lock);
    if (s == NULL)
        return KCM_NOT_FOUND;
    int r = *out == NULL ? make(s, out) : 0;
    if (r == 0) {
        pthread_mutex_lock(&fs->lock);
        if (c->shown == s && c->tickets == NULL) {
            c->tickets = *out;
            __atomic_fetch_add(&(*out)->refs, 1, __ATOMIC_RELAXED);
        }
        pthread_mutex_unlock(&fs->lock);
    }
    kcm_snapshot_unref(s);
    return r;
}

const struct ticket_name *
tickets_find(const struct ticket_name *names, size_t count, const char *name)
{
    size_t low = 0, high = count;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        int order = strcmp(name, names[mid].name);
        if (order == 0)
            return &names[mid];
        if (order < 0)
            high = mid;
        else
            low = mid + 1;
    }
    return NULL;
}
