/*
 * Which node a name is, what a directory lists, where a link leads.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fs/content.h"
#include "fs/draft.h"
#include "fs/node.h"
#include "fs/tree.h"
#include "fs/user.h"

/* --- a small list type ------------------------------------------------- */

void
dir_list_free(struct dir_list *l)
{
    if (l == NULL)
        return;
    for (size_t i = 0; i < l->count; i++)
        free(l->entries[i].name);
    free(l->entries);
    free(l);
}

bool
dir_list_add(struct dir_list *l, char *name, mode_t type)
{
    if (name == NULL)
        return false;
    if (l->count == l->room) {
        size_t room = l->room > 0 ? l->room * 2 : 16;
        struct dir_entry *entries =
            reallocarray(l->entries, room, sizeof(*entries));
        if (entries == NULL) {
            free(name);
            return false;
        }
        l->entries = entries;
        l->room = room;
    }
    l->entries[l->count++] = (struct dir_entry){name, type};
    return true;
}

static bool
add_fixed(struct dir_list *l, const char *name, mode_t type)
{
    return dir_list_add(l, strdup(name), type);
}

/* --- lookup ------------------------------------------------------------ */

static int
found(struct node *n, struct node **out)
{
    *out = n;
    return n != NULL ? 0 : -ENOMEM;
}

/* The cache was unlinked a moment ago, or is to be made: its directory is
 * there, whatever the daemon says. */
static bool
is_reserved(struct content *c)
{
    struct fs *fs = c->user->fs;
    pthread_mutex_lock(&fs->lock);
    bool reserved = c->reserved_by_mkdir || c->reserved_until > now_ms();
    pthread_mutex_unlock(&fs->lock);
    return reserved;
}

/* The directory of a cache, if there is one to be shown. */
static int
lookup_cache_dir(struct user *u, struct node *dir, const char *file,
                 const char *name, const struct caller *caller,
                 struct node **out)
{
    struct fs *fs = u->fs;
    if (!kcm_is_visible(name, u->uid))
        return KCM_NOT_FOUND;
    _cleanup_(content_unrefp) struct content *c = user_content(u, name);
    if (c == NULL)
        return -ENOMEM;
    bool there = is_reserved(c) && content_absent_lately(c);
    int r = there ? 0 : content_locate(c, caller);
    if (r != 0)
        return r;
    if (!there && !content_exists(c) && !is_reserved(c)) {
        /* default always leads somewhere. */
        _cleanup_(freep) char *primary = NULL;
        r = user_default(u, caller, &primary);
        if (r != 0)
            return r;
        if (strcmp(primary, name) != 0)
            return KCM_NOT_FOUND;
    }
    return found(node_get(fs, NODE_CACHE_DIR, u->uid, c, dir->ino, file), out);
}

static int
lookup_file(struct content *c, const struct caller *caller, struct node **out)
{
    int r = content_look_up(c, caller, out);
    if (r == KCM_NOT_FOUND)
        content_tell_absent(c, caller);
    return r;
}

/* The file of a cache, by the name of the cache. */
static int
lookup_cache(struct user *u, const char *name, const struct caller *caller,
             struct node **out)
{
    if (!kcm_is_visible(name, u->uid))
        return KCM_NOT_FOUND;
    _cleanup_(content_unrefp) struct content *c = user_content(u, name);
    return c != NULL ? lookup_file(c, caller, out) : -ENOMEM;
}

static bool
is_default_file(const char *name, uid_t uid)
{
    char own[32];
    snprintf(own, sizeof(own), "krb5cc_%u", uid);
    return strcmp(name, own) == 0;
}

static int
lookup_default_file(struct user *u, const struct caller *caller,
                    struct node **out)
{
    _cleanup_(freep) char *name = NULL;
    int r = user_default(u, caller, &name);
    return r != 0 ? r : lookup_cache(u, name, caller, out);
}

static int
lookup_root(struct user *u, struct node *dir, const char *name,
            const struct caller *caller, struct node **out)
{
    static const struct {
        const char *name;
        enum node_kind kind;
    } fixed[] = {
        {"by-name", NODE_BY_NAME},
        {"by-principal", NODE_BY_PRINCIPAL},
        {"collection", NODE_COLLECTION},
        {".kcmfs", NODE_META},
    };
    uint8_t uuid[KCM_UUID_LEN];
    _cleanup_(freep) char *cache = NULL;
    for (size_t i = 0; i < sizeof(fixed) / sizeof(fixed[0]); i++)
        if (strcmp(name, fixed[i].name) == 0)
            return found(
                node_get(u->fs, fixed[i].kind, EVERYBODY, NULL, 0, NULL), out);
    if (strcmp(name, "default") == 0)
        return found(node_get(u->fs, NODE_DEFAULT, u->uid, NULL, 0, NULL),
                     out);
    if (is_default_file(name, u->uid))
        return lookup_default_file(u, caller, out);
    if (!uuid_parse_text(name, uuid))
        return KCM_NOT_FOUND;
    int r = user_name_of_uuid(u, caller, uuid, &cache);
    return r != 0 ? r : lookup_cache_dir(u, dir, name, cache, caller, out);
}

/* It was unlinked: an rm -r may be on its way. */
static bool
is_unlinked(struct content *c)
{
    struct fs *fs = c->user->fs;
    pthread_mutex_lock(&fs->lock);
    bool unlinked = c->reserved_until > now_ms();
    pthread_mutex_unlock(&fs->lock);
    return unlinked;
}

static int
lookup_in_cache_dir(struct user *u, struct node *dir, const char *name,
                    const struct caller *caller, struct node **out)
{
    static const struct {
        const char *name;
        enum node_kind kind;
    } members[] = {
        {"cache", NODE_CACHE},         {"principal", NODE_TEXT_PRINCIPAL},
        {"name", NODE_TEXT_NAME},      {"info", NODE_TEXT_INFO},
        {"info.json", NODE_TEXT_JSON}, {"tickets", NODE_TICKETS},
        {"config", NODE_CONFIG},
    };
    for (size_t i = 0; i < sizeof(members) / sizeof(members[0]); i++) {
        enum node_kind kind = members[i].kind;
        if (strcmp(name, members[i].name) != 0)
            continue;
        if (kind == NODE_CACHE)
            return lookup_file(dir->content, caller, out);
        int r = content_refresh(dir->content, caller, FRESH_MS);
        if (r != 0)
            return r;
        bool is_dir = kind == NODE_TICKETS || kind == NODE_CONFIG;
        if (!content_exists(dir->content) && kind != NODE_TEXT_NAME &&
            !(is_dir && is_unlinked(dir->content)))
            return KCM_NOT_FOUND;
        return found(node_get(u->fs, kind, u->uid, dir->content,
                              is_dir ? dir->ino : 0, NULL),
                     out);
    }
    return KCM_NOT_FOUND;
}

/* Is name in tickets/ or config/ as far as is known within max_age_ms? */
static int
check_ticket(struct node *dir, const char *name, const struct caller *caller,
             int64_t max_age_ms)
{
    _cleanup_(tickets_unrefp) struct ticket_table *t = NULL;
    int r = content_refresh(dir->content, caller, max_age_ms);
    if (r == 0)
        r = tickets_of(dir->content, &t);
    if (r != 0)
        return r;
    const struct ticket_name *found =
        dir->kind == NODE_TICKETS ? tickets_find(t->ticket, t->tickets, name)
                                  : tickets_find(t->config, t->configs, name);
    return found != NULL ? 0 : KCM_NOT_FOUND;
}

static int
lookup_ticket(struct user *u, struct node *dir, const char *name,
              const struct caller *caller, struct node **out)
{
    int r = check_ticket(dir, name, caller, FRESH_MS);
    if (r == KCM_NOT_FOUND)
        r = check_ticket(dir, name, caller, 0);
    if (r != 0)
        return r;
    return found(
        node_get(u->fs,
                 dir->kind == NODE_TICKETS ? NODE_TICKET : NODE_CONFIG_VALUE,
                 u->uid, dir->content, 0, name),
        out);
}

static int
lookup_collection(struct user *u, struct node *dir, const char *name,
                  const struct caller *caller, struct node **out)
{
    _cleanup_(freep) char *cache = NULL;
    *out = scratch_find(u->fs, dir, u->uid, name);
    if (*out != NULL)
        return 0; /* before the daemon is asked for such a cache */
    if (strcmp(name, "primary") == 0)
        return found(node_get(u->fs, NODE_PRIMARY, u->uid, NULL, 0, NULL),
                     out);
    int r = tree_collection_name(u, caller, name, &cache);
    return r != 0 ? r : lookup_cache(u, cache, caller, out);
}

static int
lookup_any(struct user *u, struct node *dir, const char *name,
           const struct caller *caller, struct node **out)
{
    struct fs *fs = u->fs;
    _cleanup_(freep) char *text = NULL;
    int r;
    switch (dir->kind) {
    case NODE_ROOT:
        return lookup_root(u, dir, name, caller, out);
    case NODE_BY_NAME:
        text = name_unescape(name);
        if (text == NULL)
            return errno == ENOMEM ? -ENOMEM : KCM_NOT_FOUND;
        return lookup_cache_dir(u, dir, name, text, caller, out);
    case NODE_BY_PRINCIPAL:
        r = principals_find(u, caller, name, &text);
        if (r != 0)
            return r;
        return found(node_get(fs, NODE_PRINCIPAL_LINK, u->uid, NULL, 0, name),
                     out);
    case NODE_COLLECTION:
        return lookup_collection(u, dir, name, caller, out);
    case NODE_META:
        if (strcmp(name, "status") != 0)
            return KCM_NOT_FOUND;
        return found(node_get(fs, NODE_STATUS, u->uid, NULL, 0, NULL), out);
    case NODE_CACHE_DIR:
        return lookup_in_cache_dir(u, dir, name, caller, out);
    case NODE_TICKETS:
    case NODE_CONFIG:
        return lookup_ticket(u, dir, name, caller, out);
    default:
        return -ENOTDIR;
    }
}

int
tree_lookup(struct fs *fs, struct node *dir, const char *name,
            const struct caller *caller, struct node **out)
{
    *out = NULL;
    struct user *u = user_get(fs, caller->uid);
    if (u == NULL)
        return -ENOMEM;
    if (strlen(name) > FILE_NAME_MAX)
        return -ENAMETOOLONG;
    int r = lookup_any(u, dir, name, caller, out);
    if (r != KCM_NOT_FOUND)
        return r;
    *out = scratch_find(fs, dir, u->uid, name);
    return *out != NULL ? 0 : KCM_NOT_FOUND;
}

/* --- listing ----------------------------------------------------------- */

/* Which of the caches have a principal: those are complete. */
static int
complete_caches(struct user *u, const struct caller *caller,
                const struct kcm_listing *l, bool *complete)
{
    _cleanup_(freep) const char **names = calloc(l->count + 1, sizeof(*names));
    _cleanup_(freep) struct blob **blobs =
        calloc(l->count + 1, sizeof(*blobs));
    if (names == NULL || blobs == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < l->count; i++)
        names[i] = l->caches[i].name;
    int r = kcm_get_principals(u->fs->kcm, caller, names, l->count, blobs);
    for (size_t i = 0; i < l->count; i++) {
        complete[i] = blobs[i] != NULL;
        blob_unref(blobs[i]);
    }
    return r;
}

static int
list_root(struct user *u, const struct caller *caller, struct dir_list *l)
{
    _cleanup_(kcm_listing_freep) struct kcm_listing *caches = NULL;
    _cleanup_(freep) char *primary = NULL;
    bool ok = add_fixed(l, "by-name", S_IFDIR) &&
              add_fixed(l, "by-principal", S_IFDIR) &&
              add_fixed(l, "collection", S_IFDIR) &&
              add_fixed(l, ".kcmfs", S_IFDIR) &&
              add_fixed(l, "default", S_IFLNK);
    int r = user_list(u, caller, &caches);
    if (r == 0)
        r = user_default(u, caller, &primary);
    if (r != 0)
        return r;
    for (size_t i = 0; i < caches->count && ok; i++) {
        char text[37], own[32];
        uuid_format_text(caches->caches[i].uuid, text);
        ok = add_fixed(l, text, S_IFDIR);
        if (ok && strcmp(caches->caches[i].name, primary) == 0) {
            struct blob *b = NULL;
            const char *name = primary;
            r = kcm_get_principals(u->fs->kcm, caller, &name, 1, &b);
            if (r != 0)
                return r;
            snprintf(own, sizeof(own), "krb5cc_%u", u->uid);
            ok = b == NULL || add_fixed(l, own, S_IFREG);
            blob_unref(b);
        }
    }
    return ok ? 0 : -ENOMEM;
}

static int
list_by_name(struct user *u, const struct caller *caller, struct dir_list *l)
{
    _cleanup_(kcm_listing_freep) struct kcm_listing *caches = NULL;
    int r = user_list(u, caller, &caches);
    for (size_t i = 0; r == 0 && i < caches->count; i++) {
        char *form = name_escape(caches->caches[i].name);
        if (form != NULL && strlen(form) > FILE_NAME_MAX)
            free(form); /* reached by its UUID alone */
        else if (!dir_list_add(l, form, S_IFDIR))
            r = -ENOMEM;
    }
    pthread_mutex_lock(&u->fs->lock);
    for (struct content *c = u->contents; r == 0 && c != NULL; c = c->next)
        if (c->reserved_by_mkdir && !c->exists &&
            !dir_list_add(l, name_escape(c->name), S_IFDIR))
            r = -ENOMEM;
    pthread_mutex_unlock(&u->fs->lock);
    return r;
}

static int
list_collection(struct user *u, const struct caller *caller,
                struct dir_list *l)
{
    _cleanup_(kcm_listing_freep) struct kcm_listing *caches = NULL;
    _cleanup_(freep) bool *complete = NULL;
    int r = user_list(u, caller, &caches);
    if (r != 0)
        return r;
    complete = calloc(caches->count + 1, sizeof(*complete));
    if (complete == NULL || !add_fixed(l, "primary", S_IFREG))
        return -ENOMEM;
    r = complete_caches(u, caller, caches, complete);
    for (size_t i = 0; r == 0 && i < caches->count; i++)
        if (complete[i] &&
            !dir_list_add(l, tree_collection_file(u, caches->caches[i].name),
                          S_IFREG))
            r = -ENOMEM;
    return r;
}

static int
list_cache_dir(struct node *dir, const struct caller *caller,
               struct dir_list *l)
{
    int r = content_refresh(dir->content, caller, 0);
    if (r != 0)
        return r;
    /* In the order of an rm -r: with cache all goes, with each ticket that
     * one; what comes behind cache is empty then. */
    bool ok = add_fixed(l, "name", S_IFREG);
    if (content_exists(dir->content))
        ok = ok && add_fixed(l, "principal", S_IFREG) &&
             add_fixed(l, "info", S_IFREG) &&
             add_fixed(l, "info.json", S_IFREG) &&
             add_fixed(l, "cache", S_IFREG) &&
             add_fixed(l, "tickets", S_IFDIR) &&
             add_fixed(l, "config", S_IFDIR);
    return ok ? 0 : -ENOMEM;
}

static int
list_tickets(struct node *dir, const struct caller *caller, struct dir_list *l)
{
    _cleanup_(tickets_unrefp) struct ticket_table *t = NULL;
    int r = content_refresh(dir->content, caller, 0);
    if (r == 0)
        r = tickets_of(dir->content, &t);
    if (r != 0)
        return r == KCM_NOT_FOUND ? 0 : r;
    bool ticket = dir->kind == NODE_TICKETS;
    size_t count = ticket ? t->tickets : t->configs;
    for (size_t i = 0; i < count; i++) {
        const char *name = (ticket ? t->ticket : t->config)[i].name;
        if (strlen(name) <= FILE_NAME_MAX && !add_fixed(l, name, S_IFREG))
            return -ENOMEM;
    }
    return 0;
}

static int
list_any(struct user *u, struct node *dir, const struct caller *caller,
         struct dir_list *l)
{
    switch (dir->kind) {
    case NODE_ROOT:
        return list_root(u, caller, l);
    case NODE_BY_NAME:
        return list_by_name(u, caller, l);
    case NODE_BY_PRINCIPAL:
        return principals_list(u, caller, l);
    case NODE_COLLECTION:
        return list_collection(u, caller, l);
    case NODE_META:
        return add_fixed(l, "status", S_IFREG) ? 0 : -ENOMEM;
    case NODE_CACHE_DIR:
        return list_cache_dir(dir, caller, l);
    case NODE_TICKETS:
    case NODE_CONFIG:
        return list_tickets(dir, caller, l);
    default:
        return -ENOTDIR;
    }
}

int
tree_list(struct fs *fs, struct node *dir, const struct caller *caller,
          struct dir_list **out)
{
    *out = NULL;
    struct user *u = user_get(fs, caller->uid);
    _cleanup_(dir_list_freep) struct dir_list *l = calloc(1, sizeof(*l));
    if (u == NULL || l == NULL || !add_fixed(l, ".", S_IFDIR) ||
        !add_fixed(l, "..", S_IFDIR))
        return -ENOMEM;
    int r = list_any(u, dir, caller, l);
    if (r == 0)
        *out = take(l);
    return r;
}
