/*
 * Which node a name is, what a directory lists, where a link leads.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fs/fs.h"
#include "kcm/describe.h"

#define FILE_NAME_MAX 255
/* libkrb5 reads the primary file's line into 64 bytes. */
#define COLLECTION_MAX 62

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

/* Add a name, which is taken over; false without memory. */
static bool
add(struct dir_list *l, char *name, mode_t type)
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
    return add(l, strdup(name), type);
}

/* --- collection names -------------------------------------------------- */

static bool
is_plain(const char *s)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyz"
                                "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    return s[strspn(s, plain)] == '\0';
}

char *
tree_collection_file(struct user *u, const char *cache)
{
    char prefix[24], *file;
    int n = snprintf(prefix, sizeof(prefix), "%u:tkt", u->uid);
    if (strncmp(cache, prefix, (size_t)n) == 0 && is_plain(cache + n) &&
        strlen(cache + n) + 3 <= COLLECTION_MAX)
        return strdup(cache + n - 3);
    _cleanup_(freep) char *form = name_escape(cache);
    uint8_t uuid[KCM_UUID_LEN];
    char text[37];
    if (form == NULL)
        return NULL;
    if (strlen(form) + 4 > COLLECTION_MAX &&
        user_uuid_of_name(u, cache, uuid)) {
        uuid_format_text(uuid, text);
        return asprintf(&file, "tkt=%s", text) < 0 ? NULL : file;
    }
    return asprintf(&file, "tkt=%s", form) < 0 ? NULL : file;
}

int
tree_collection_name(struct user *u, const struct caller *caller,
                     const char *file, char **name_out)
{
    uint8_t uuid[KCM_UUID_LEN];
    *name_out = NULL;
    if (strncmp(file, "tkt", 3) != 0)
        return KCM_NOT_FOUND;
    if (file[3] != '=') {
        if (!is_plain(file + 3))
            return KCM_NOT_FOUND;
        if (asprintf(name_out, "%u:%s", u->uid, file) < 0)
            return -ENOMEM;
        return 0;
    }
    if (uuid_parse_text(file + 4, uuid))
        return user_name_of_uuid(u, caller, uuid, name_out);
    *name_out = name_unescape(file + 4);
    if (*name_out != NULL && !kcm_is_own(*name_out, u->uid))
        free(take(*name_out));
    return *name_out != NULL ? 0 : KCM_NOT_FOUND;
}

/* --- by-principal ------------------------------------------------------ */

struct by_principal {
    struct kcm_listing *listing;
    char **file; /* of each cache; NULL: none, or another one's */
    char *primary;
};

static void
by_principal_free(struct by_principal *b)
{
    for (size_t i = 0; b->file != NULL && i < b->listing->count; i++)
        free(b->file[i]);
    free(b->file);
    free(b->primary);
    kcm_listing_free(b->listing);
}

/* When the newest TGT of the client's own realm in a cache ends. */
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
        struct data d = {s->creds[i].bytes->bytes, s->creds[i].bytes->len};
        if (cred_parse(d, &cred) && cred_is_local_tgt(&cred) &&
            cred.endtime > end)
            end = cred.endtime;
    }
    return end;
}

/* Of two caches with one principal: is b the one to show? */
static bool
prefers(struct user *u, const struct caller *caller,
        const struct by_principal *p, size_t a, size_t b)
{
    const char *name_a = p->listing->caches[a].name;
    const char *name_b = p->listing->caches[b].name;
    if (strcmp(name_a, p->primary) == 0)
        return false;
    if (strcmp(name_b, p->primary) == 0)
        return true;
    return tgt_end(u, caller, name_b) > tgt_end(u, caller, name_a);
}

static int
principal_files(struct user *u, const struct caller *caller,
                struct by_principal *p)
{
    size_t count = p->listing->count;
    _cleanup_(freep) const char **names = calloc(count + 1, sizeof(*names));
    _cleanup_(freep) struct blob **blobs = calloc(count + 1, sizeof(*blobs));
    p->file = calloc(count + 1, sizeof(*p->file));
    if (names == NULL || blobs == NULL || p->file == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++)
        names[i] = p->listing->caches[i].name;
    int r = kcm_get_principals(u->fs->kcm, caller, names, count, blobs);
    for (size_t i = 0; i < count; i++) {
        _cleanup_(blob_unrefp) struct blob *b = blobs[i];
        _cleanup_(freep) char *text = NULL;
        if (r == 0 && b != NULL &&
            describe_principal((struct data){b->bytes, b->len}, &text) == 0)
            p->file[i] = name_of_principal(text);
    }
    return r;
}

static int
list_principals(struct user *u, const struct caller *caller,
                struct by_principal *p)
{
    int r = user_list(u, caller, &p->listing);
    if (r == 0)
        r = user_default(u, caller, &p->primary);
    if (r == 0)
        r = principal_files(u, caller, p);
    if (r != 0)
        return r;
    for (size_t i = 0; i < p->listing->count; i++) {
        for (size_t k = 0; k < i && p->file[i] != NULL; k++) {
            if (p->file[k] == NULL || strcmp(p->file[i], p->file[k]) != 0)
                continue;
            size_t loser = prefers(u, caller, p, k, i) ? k : i;
            free(take(p->file[loser]));
        }
    }
    return 0;
}

static int
find_principal(struct user *u, const struct caller *caller, const char *file,
               char **target_out)
{
    _cleanup_(by_principal_free) struct by_principal p = {0};
    int r = list_principals(u, caller, &p);
    for (size_t i = 0; r == 0 && i < p.listing->count; i++) {
        if (p.file[i] == NULL || strcmp(p.file[i], file) != 0)
            continue;
        char text[37];
        uuid_format_text(p.listing->caches[i].uuid, text);
        return asprintf(target_out, "../%s", text) < 0 ? -ENOMEM : 0;
    }
    return r != 0 ? r : KCM_NOT_FOUND;
}

/* --- lookup ------------------------------------------------------------ */

static int
found(struct node *n, struct node **out)
{
    *out = n;
    return n != NULL ? 0 : -ENOMEM;
}

/* The directory of a cache, if there is one to be shown. */
static int
lookup_cache_dir(struct user *u, struct node *dir, const char *file,
                 const char *name, const struct caller *caller,
                 struct node **out)
{
    struct fs *fs = u->fs;
    _cleanup_(content_unrefp) struct content *c = user_content(u, name);
    if (c == NULL)
        return -ENOMEM;
    int r = content_refresh(c, caller, FRESH_MS);
    if (r != 0)
        return r;
    pthread_mutex_lock(&fs->lock);
    bool there =
        c->exists || c->reserved_by_mkdir || c->reserved_until > now_ms();
    pthread_mutex_unlock(&fs->lock);
    if (!there) {
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

/* The file of a cache, by the name of the cache. */
static int
lookup_cache(struct user *u, const char *name, const struct caller *caller,
             struct node **out)
{
    _cleanup_(content_unrefp) struct content *c = user_content(u, name);
    if (c == NULL)
        return -ENOMEM;
    int r = content_refresh(c, caller, FRESH_MS);
    if (r != 0)
        return r;
    *out = content_node(c);
    return *out != NULL ? 0 : KCM_NOT_FOUND;
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
        int r = content_refresh(dir->content, caller, FRESH_MS);
        if (r != 0)
            return r;
        if (kind == NODE_CACHE) {
            *out = content_node(dir->content);
            return *out != NULL ? 0 : KCM_NOT_FOUND;
        }
        if (!content_exists(dir->content) && kind != NODE_TEXT_NAME)
            return KCM_NOT_FOUND;
        bool is_dir = kind == NODE_TICKETS || kind == NODE_CONFIG;
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
    return found(node_get(u->fs,
                          dir->kind == NODE_TICKETS ? NODE_TICKET
                                                    : NODE_CONFIG_VALUE,
                          u->uid, dir->content, 0, name),
                 out);
}

static int
lookup_collection(struct user *u, const char *name,
                  const struct caller *caller, struct node **out)
{
    _cleanup_(freep) char *cache = NULL;
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
            return KCM_NOT_FOUND;
        return lookup_cache_dir(u, dir, name, text, caller, out);
    case NODE_BY_PRINCIPAL:
        r = find_principal(u, caller, name, &text);
        if (r != 0)
            return r;
        return found(node_get(fs, NODE_PRINCIPAL_LINK, u->uid, NULL, 0, name),
                     out);
    case NODE_COLLECTION:
        return lookup_collection(u, name, caller, out);
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
    int r = lookup_any(u, dir, name, caller, out);
    if (r != KCM_NOT_FOUND)
        return r;
    *out = scratch_find(fs, dir, u->uid, name);
    return *out != NULL ? 0 : KCM_NOT_FOUND;
}

/* --- where a file can be created ---------------------------------------- */

/* Is name what mkstemp() makes of an existing one: a dot, dash or underscore
 * and six characters behind it?  *stem_out: the existing name. */
static bool
is_temporary(const char *name, char **stem_out)
{
    size_t len = strlen(name);
    *stem_out = NULL;
    if (len < 8 || strchr("._-", name[len - 7]) == NULL ||
        !is_plain(name + len - 6))
        return false;
    *stem_out = strndup(name, len - 7);
    return *stem_out != NULL;
}

/* A scratch file in the collection, or the cache that name is to be. */
static int
place_in_collection(struct user *u, const char *name,
                    const struct caller *caller, struct content **out)
{
    _cleanup_(freep) char *stem = NULL;
    _cleanup_(freep) char *cache = NULL;
    _cleanup_(freep) char *primary = NULL;
    if (strncmp(name, "primary", 7) == 0 && name[7] != '\0' &&
        strchr("._-", name[7]) != NULL)
        return 0;
    if (is_temporary(name, &stem)) {
        struct node *n = NULL;
        int r = user_default(u, caller, &primary);
        if (r != 0)
            return r;
        _cleanup_(freep) char *file = tree_collection_file(u, primary);
        if (file != NULL && strcmp(file, stem) == 0)
            return 0;
        r = lookup_collection(u, stem, caller, &n);
        node_unref(u->fs, n);
        if (r != KCM_NOT_FOUND)
            return r;
    }
    int r = tree_collection_name(u, caller, name, &cache);
    if (r == KCM_NOT_FOUND)
        return -EACCES;
    if (r == 0 && (*out = user_content(u, cache)) == NULL)
        r = -ENOMEM;
    return r;
}

static int
place_in_root(struct user *u, const char *name, const struct caller *caller,
              struct content **out)
{
    char own[32];
    int n = snprintf(own, sizeof(own), "krb5cc_%u", u->uid);
    if (strncmp(name, own, (size_t)n) != 0)
        return -EACCES;
    if (name[n] != '\0')
        return strchr("._-", name[n]) != NULL ? 0 : -EACCES;
    _cleanup_(freep) char *cache = NULL;
    int r = user_default(u, caller, &cache);
    if (r == 0 && (*out = user_content(u, cache)) == NULL)
        r = -ENOMEM;
    return r;
}

int
tree_place(struct fs *fs, struct node *dir, const char *name,
           const struct caller *caller, struct content **out)
{
    *out = NULL;
    struct user *u = user_get(fs, caller->uid);
    if (u == NULL)
        return -ENOMEM;
    switch (dir->kind) {
    case NODE_ROOT:
        return place_in_root(u, name, caller, out);
    case NODE_COLLECTION:
        return place_in_collection(u, name, caller, out);
    case NODE_CACHE_DIR:
        if (strcmp(name, "cache") != 0)
            return 0;
        *out = user_content(u, dir->content->name);
        return *out != NULL ? 0 : -ENOMEM;
    case NODE_TICKETS:
    case NODE_CONFIG:
        return 0;
    default:
        return -EACCES;
    }
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
        else if (!add(l, form, S_IFDIR))
            r = -ENOMEM;
    }
    pthread_mutex_lock(&u->fs->lock);
    for (struct content *c = u->contents; r == 0 && c != NULL; c = c->next)
        if (c->reserved_by_mkdir && !c->exists &&
            !add(l, name_escape(c->name), S_IFDIR))
            r = -ENOMEM;
    pthread_mutex_unlock(&u->fs->lock);
    return r;
}

static int
list_by_principal(struct user *u, const struct caller *caller,
                  struct dir_list *l)
{
    _cleanup_(by_principal_free) struct by_principal p = {0};
    int r = list_principals(u, caller, &p);
    for (size_t i = 0; r == 0 && i < p.listing->count; i++)
        if (p.file[i] != NULL && strlen(p.file[i]) <= FILE_NAME_MAX &&
            !add_fixed(l, p.file[i], S_IFLNK))
            r = -ENOMEM;
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
            !add(l, tree_collection_file(u, caches->caches[i].name), S_IFREG))
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
    bool ok = add_fixed(l, "name", S_IFREG);
    if (content_exists(dir->content))
        ok = ok && add_fixed(l, "cache", S_IFREG) &&
             add_fixed(l, "principal", S_IFREG) &&
             add_fixed(l, "info", S_IFREG) &&
             add_fixed(l, "info.json", S_IFREG) &&
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
        return r;
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
        return list_by_principal(u, caller, l);
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

/* --- links ------------------------------------------------------------- */

int
tree_readlink(struct fs *fs, struct node *n, const struct caller *caller,
              char **out)
{
    *out = NULL;
    struct user *u = user_get(fs, caller->uid);
    _cleanup_(freep) char *name = NULL;
    _cleanup_(freep) char *form = NULL;
    if (u == NULL)
        return -ENOMEM;
    if (n->kind == NODE_PRINCIPAL_LINK)
        return find_principal(u, caller, n->name, out);
    if (n->kind == NODE_SCRATCH && n->target != NULL) {
        *out = strdup(n->target);
        return *out != NULL ? 0 : -ENOMEM;
    }
    if (n->kind != NODE_DEFAULT)
        return -EINVAL;
    int r = user_default(u, caller, &name);
    if (r != 0)
        return r;
    form = name_escape(name);
    if (form == NULL || asprintf(out, "by-name/%s", form) < 0)
        return -ENOMEM;
    return 0;
}

/* The last two parts of a path: "a/b/c" gives "b" and "c". */
static void
last_parts(const char *path, char *parent, char *last, size_t size)
{
    _cleanup_(freep) char *copy = strdup(path);
    char *save = NULL;
    parent[0] = last[0] = '\0';
    for (char *p = copy != NULL ? strtok_r(copy, "/", &save) : NULL; p != NULL;
         p = strtok_r(NULL, "/", &save)) {
        snprintf(parent, size, "%s", last);
        snprintf(last, size, "%s", p);
    }
}

int
tree_cache_of_path(struct user *u, const struct caller *caller,
                   const char *path, char **name_out)
{
    char parent[FILE_NAME_MAX + 1], last[FILE_NAME_MAX + 1];
    uint8_t uuid[KCM_UUID_LEN];
    *name_out = NULL;
    last_parts(path, parent, last, sizeof(last));
    if (uuid_parse_text(last, uuid))
        return user_name_of_uuid(u, caller, uuid, name_out);
    if (strcmp(parent, "by-name") == 0) {
        *name_out = name_unescape(last);
        return *name_out != NULL ? 0 : KCM_NOT_FOUND;
    }
    if (strcmp(parent, "collection") == 0)
        return tree_collection_name(u, caller, last, name_out);
    if (strcmp(parent, "by-principal") == 0) {
        _cleanup_(freep) char *target = NULL;
        int r = find_principal(u, caller, last, &target);
        return r != 0 ? r : tree_cache_of_path(u, caller, target, name_out);
    }
    if (strcmp(last, "default") == 0)
        return user_default(u, caller, name_out);
    return KCM_NOT_FOUND;
}

/* --- attributes -------------------------------------------------------- */

static mode_t
mode_of(enum node_kind kind)
{
    switch (kind) {
    case NODE_ROOT:
    case NODE_BY_NAME:
    case NODE_BY_PRINCIPAL:
    case NODE_COLLECTION:
        return S_IFDIR | 01777;
    case NODE_META:
        return S_IFDIR | 0755;
    case NODE_DEFAULT:
    case NODE_PRINCIPAL_LINK:
        return S_IFLNK | 0777;
    case NODE_CACHE_DIR:
    case NODE_TICKETS:
    case NODE_CONFIG:
        return S_IFDIR | 0700;
    case NODE_CACHE:
    case NODE_CONFIG_VALUE:
    case NODE_PRIMARY:
    case NODE_SCRATCH:
        return S_IFREG | 0600;
    default:
        return S_IFREG | 0400;
    }
}

static struct timespec
ticket_mtime(struct content *c, const char *name)
{
    _cleanup_(tickets_unrefp) struct ticket_table *t = NULL;
    const struct ticket_name *found = NULL;
    if (tickets_of(c, &t) == 0)
        found = tickets_find(t->ticket, t->tickets, name);
    struct cred cred;
    struct blob *b =
        found != NULL ? t->snapshot->creds[found->index].bytes : NULL;
    if (b == NULL || !cred_parse((struct data){b->bytes, b->len}, &cred))
        return content_mtime(c);
    return (struct timespec){.tv_sec = cred_start(&cred)};
}

/* What a generated file holds now, or held when it was opened. */
static int
text_size(struct fs *fs, struct node *n, const struct caller *caller,
          off_t *size_out)
{
    pthread_mutex_lock(&fs->lock);
    bool open = n->opens > 0 && n->text != NULL;
    *size_out = open ? (off_t)n->text->len : 0;
    pthread_mutex_unlock(&fs->lock);
    if (open)
        return 0;
    _cleanup_(blob_unrefp) struct blob *text = NULL;
    int r = text_of(fs, n, caller, &text);
    if (r == 0)
        *size_out = (off_t)text->len;
    return r;
}

static int
cache_attr(struct fs *fs, struct node *n, const struct caller *caller,
           bool refresh, struct stat *st)
{
    pthread_mutex_lock(&fs->lock);
    bool open = n->opens > 0;
    pthread_mutex_unlock(&fs->lock);
    if (refresh && !open && !n->unlinked && n->draft == NULL) {
        int r = content_refresh(n->content, caller, FRESH_MS);
        if (r != 0)
            return r;
    }
    pthread_mutex_lock(&fs->lock);
    if (n->draft != NULL) {
        st->st_size = (off_t)draft_size(n->draft);
        st->st_mtim = n->mtime;
    } else {
        st->st_size = n->image != NULL ? (off_t)n->image->len : 0;
        st->st_mtim = n->content->mtime;
    }
    st->st_nlink = n->unlinked ? 0 : 1;
    pthread_mutex_unlock(&fs->lock);
    return 0;
}

static int
scratch_attr(struct fs *fs, struct node *n, struct stat *st)
{
    pthread_mutex_lock(&fs->lock);
    if (n->target != NULL) {
        st->st_mode = S_IFLNK | 0777;
        st->st_size = (off_t)strlen(n->target);
    } else {
        st->st_size = (off_t)draft_size(n->draft);
    }
    st->st_mtim = n->mtime;
    st->st_nlink = n->unlinked ? 0 : 1;
    pthread_mutex_unlock(&fs->lock);
    return 0;
}

static int
content_attr(struct fs *fs, struct node *n, const struct caller *caller,
             struct stat *st)
{
    st->st_mtim = content_mtime(n->content);
    if (n->kind == NODE_TICKET)
        st->st_mtim = ticket_mtime(n->content, n->name);
    if (S_ISDIR(st->st_mode))
        return 0;
    return text_size(fs, n, caller, &st->st_size);
}

int
tree_attr(struct fs *fs, struct node *n, const struct caller *caller,
          bool refresh, struct stat *st)
{
    int r = 0;
    *st = (struct stat){
        .st_ino = n->ino,
        .st_mode = mode_of(n->kind),
        .st_uid = n->uid == EVERYBODY ? fs->owner : n->uid,
        .st_gid = n->uid == EVERYBODY ? fs->group : caller->gid,
        .st_blksize = 4096,
        .st_mtim = {.tv_sec = fs->started},
    };
    st->st_nlink = S_ISDIR(st->st_mode) ? 2 : 1;
    if (n->kind == NODE_CACHE)
        r = cache_attr(fs, n, caller, refresh, st);
    else if (n->kind == NODE_SCRATCH)
        r = scratch_attr(fs, n, st);
    else if (n->content != NULL)
        r = content_attr(fs, n, caller, st);
    else if (n->kind == NODE_PRIMARY || n->kind == NODE_STATUS)
        r = text_size(fs, n, caller, &st->st_size);
    st->st_atim = st->st_ctim = st->st_mtim;
    st->st_blocks = (st->st_size + 511) / 512;
    return r;
}
