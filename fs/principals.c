/*
 * by-principal/: one link for each principal that has caches.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fs/content.h"
#include "fs/tree.h"
#include "fs/user.h"
#include "kcm/describe.h"

/* A cache and its principal as text. */
struct owned {
    char *principal;
    const struct kcm_cache *cache;
};

struct principals {
    struct kcm_listing *listing;
    char *primary;
    struct owned *owned; /* sorted; later only the one that each shows */
    size_t count;
    struct ticket_name *link; /* names of links, by index in owned */
};

static void
principals_free(struct principals *p)
{
    for (size_t i = 0; i < p->count; i++) {
        free(p->owned[i].principal);
        if (p->link != NULL)
            free(p->link[i].name);
    }
    free(p->owned);
    free(p->link);
    free(p->primary);
    kcm_listing_free(p->listing);
}

static int
compare_owned(const void *x, const void *y)
{
    const struct owned *a = x, *b = y;
    int order = strcmp(a->principal, b->principal);
    return order != 0 ? order : strcmp(a->cache->name, b->cache->name);
}

/* Fill p->owned with the caches that have a principal. */
static int
find_owned(struct user *u, const struct caller *caller, struct principals *p)
{
    size_t count = p->listing->count;
    _cleanup_(freep) const char **names = calloc(count + 1, sizeof(*names));
    _cleanup_(freep) struct blob **blobs = calloc(count + 1, sizeof(*blobs));
    p->owned = calloc(count + 1, sizeof(*p->owned));
    if (names == NULL || blobs == NULL || p->owned == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++)
        names[i] = p->listing->caches[i].name;
    int r = kcm_get_principals(u->fs->kcm, caller, names, count, blobs);
    for (size_t i = 0; i < count; i++) {
        _cleanup_(blob_unrefp) struct blob *b = blobs[i];
        char *text;
        if (r != 0 || b == NULL)
            continue;
        int described =
            describe_principal((struct data){b->bytes, b->len}, &text);
        if (described == 0)
            p->owned[p->count++] =
                (struct owned){text, &p->listing->caches[i]};
        else if (described != -EINVAL)
            r = described; /* a list without it would say that it is gone */
    }
    qsort(p->owned, p->count, sizeof(*p->owned), compare_owned);
    return r;
}

/* When the TGT of the client's own realm in a cache ends: the last one. */
static uint32_t
tgt_end(struct user *u, const struct caller *caller, const char *name)
{
    _cleanup_(content_unrefp) struct content *c = user_content(u, name);
    _cleanup_(kcm_snapshot_unrefp) struct kcm_snapshot *s = NULL;
    uint32_t end = 0;
    if (c == NULL || content_refresh(c, caller, FRESH_MS) != 0)
        return 0;
    s = content_snapshot(c);
    for (size_t i = 0; s != NULL && i < s->count; i++) {
        struct cred cred;
        struct blob *b = s->creds[i].bytes;
        if (b != NULL && cred_parse((struct data){b->bytes, b->len}, &cred) &&
            cred_is_local_tgt(&cred) && cred.endtime > end)
            end = cred.endtime;
    }
    return end;
}

/* Of count caches of one principal the one to show: the default, else the
 * one whose TGT expires last. */
static size_t
choose(struct user *u, const struct caller *caller, const struct owned *owned,
       size_t count, const char *primary)
{
    size_t best = 0;
    uint32_t latest = 0;
    for (size_t i = 0; i < count; i++)
        if (strcmp(owned[i].cache->name, primary) == 0)
            return i;
    for (size_t i = 0; i < count && count > 1; i++) {
        uint32_t end = tgt_end(u, caller, owned[i].cache->name);
        if (end > latest) {
            latest = end;
            best = i;
        }
    }
    return best;
}

/* Keep one cache of each principal. */
static void
keep_chosen(struct user *u, const struct caller *caller, struct principals *p)
{
    size_t kept = 0, next;
    for (size_t i = 0; i < p->count; i = next) {
        next = i + 1;
        while (next < p->count &&
               strcmp(p->owned[i].principal, p->owned[next].principal) == 0)
            next++;
        size_t best =
            i + choose(u, caller, &p->owned[i], next - i, p->primary);
        struct owned shown = p->owned[best];
        for (size_t k = i; k < next; k++)
            if (k != best)
                free(p->owned[k].principal);
        p->owned[kept++] = shown;
    }
    p->count = kept;
}

static int
principals_of(struct user *u, const struct caller *caller,
              struct principals *p)
{
    int r = user_list(u, caller, &p->listing);
    if (r == 0)
        r = user_default(u, caller, &p->primary);
    if (r == 0)
        r = find_owned(u, caller, p);
    if (r != 0)
        return r;
    keep_chosen(u, caller, p);
    p->link = calloc(p->count + 1, sizeof(*p->link));
    for (size_t i = 0; p->link != NULL && i < p->count; i++) {
        p->link[i].index = i;
        p->link[i].name = name_of_principal(p->owned[i].principal);
        if (p->link[i].name == NULL)
            return -ENOMEM;
    }
    if (p->link == NULL || names_make_unique(p->link, p->count) != 0)
        return -ENOMEM;
    return 0;
}

int
principals_find(struct user *u, const struct caller *caller, const char *file,
                char **target_out)
{
    char uuid[37];
    _cleanup_(principals_free) struct principals p = {0};
    *target_out = NULL;
    int r = principals_of(u, caller, &p);
    if (r != 0)
        return r;
    const struct ticket_name *found = tickets_find(p.link, p.count, file);
    if (found == NULL)
        return KCM_NOT_FOUND;
    uuid_format_text(p.owned[found->index].cache->uuid, uuid);
    return asprintf(target_out, "../%s", uuid) < 0 ? -ENOMEM : 0;
}

int
principals_list(struct user *u, const struct caller *caller,
                struct dir_list *l)
{
    _cleanup_(principals_free) struct principals p = {0};
    int r = principals_of(u, caller, &p);
    for (size_t i = 0; r == 0 && i < p.count; i++)
        if (strlen(p.link[i].name) <= FILE_NAME_MAX &&
            !dir_list_add(l, strdup(p.link[i].name), S_IFLNK))
            r = -ENOMEM;
    return r;
}
