/*
 * Names in collection/, and where files can be created at all.
 *
 * A cache <uid>:tktX is the file tktX, any other tkt= and its by-name form.
 * Names that libkrb5 would not take from the file primary, into 64 bytes of
 * which it reads a line without "\" and "/", are tkt=<uuid>.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fs/content.h"
#include "fs/tree.h"
#include "fs/user.h"

#define COLLECTION_MAX 62

int
collection_form(uid_t uid, const char *cache, char **form_out)
{
    char own[24];
    int n = snprintf(own, sizeof(own), "%u:", uid);
    bool short_form = strncmp(cache, own, (size_t)n) == 0 &&
                      strncmp(cache + n, "tkt", 3) == 0 && cache[n + 3] != '=';
    _cleanup_(freep) char *form = name_escape(short_form ? cache + n : cache);
    _cleanup_(freep) char *file = NULL;
    *form_out = NULL;
    if (form == NULL ||
        asprintf(&file, "%s%s", short_form ? "" : "tkt=", form) < 0)
        return -ENOMEM;
    if (strlen(file) <= COLLECTION_MAX && strchr(file, '\\') == NULL)
        *form_out = take(file);
    return 0;
}

char *
tree_collection_file(struct user *u, const char *cache)
{
    char *file = NULL;
    uint8_t uuid[KCM_UUID_LEN];
    char text[37];
    if (collection_form(u->uid, cache, &file) != 0 || file != NULL)
        return file;
    if (!user_uuid_of_name(u, cache, uuid))
        return strdup("tkt"); /* it was never there */
    uuid_format_text(uuid, text);
    return asprintf(&file, "tkt=%s", text) < 0 ? NULL : file;
}

int
tree_primary(struct user *u, const struct caller *caller, char **file_out)
{
    _cleanup_(freep) char *cache = NULL;
    _cleanup_(kcm_listing_freep) struct kcm_listing *now = NULL;
    /* libkrb5 overwrites a primary file that it cannot read: while the
     * daemon does not answer, it says what it said last. */
    int r = user_default(u, caller, &cache);
    if (r != 0)
        r = user_last_default(u, &cache);
    if (r == 0)
        r = collection_form(u->uid, cache, file_out);
    if (r != 0 || *file_out != NULL)
        return r;
    (void)user_list(u, caller, &now); /* for the UUID that it has now */
    *file_out = tree_collection_file(u, cache);
    return *file_out != NULL ? 0 : -ENOMEM;
}

int
collection_parse(uid_t uid, const char *file, char **name_out,
                 uint8_t uuid[KCM_UUID_LEN])
{
    *name_out = NULL;
    if (strncmp(file, "tkt", 3) != 0)
        return KCM_NOT_FOUND;
    if (file[3] == '=' && uuid_parse_text(file + 4, uuid))
        return 0;
    _cleanup_(freep) char *name =
        name_unescape(file[3] == '=' ? file + 4 : file);
    if (name == NULL)
        return errno == ENOMEM ? -ENOMEM : KCM_NOT_FOUND;
    if (file[3] == '=')
        *name_out = take(name);
    else if (asprintf(name_out, "%u:%s", uid, name) < 0)
        return -ENOMEM;
    return 0;
}

int
primary_parse(struct data bytes, char line[PRIMARY_LINE_MAX])
{
    size_t most = bytes.len < PRIMARY_LINE_MAX ? bytes.len : PRIMARY_LINE_MAX;
    const char *text = (const char *)bytes.p;
    line[0] = '\0';
    if (most == 0 || text[0] == '\0')
        return 0;
    const char *end = memchr(text, '\n', most);
    size_t len = end != NULL ? (size_t)(end - text) : 0;
    if (end == NULL || memchr(text, '\0', len) != NULL)
        return -EINVAL;
    memcpy(line, text, len);
    line[len] = '\0';
    return len > 0 ? 0 : -EINVAL;
}

int
tree_collection_name(struct user *u, const struct caller *caller,
                     const char *file, char **name_out)
{
    uint8_t uuid[KCM_UUID_LEN];
    int r = collection_parse(u->uid, file, name_out, uuid);
    return r == 0 && *name_out == NULL
               ? user_name_of_uuid(u, caller, uuid, name_out)
               : r;
}

/* --- where a file can be created ---------------------------------------- */

/* Is name stem and what tools append for a temporary file? */
static bool
is_beside(const char *name, const char *stem)
{
    size_t n = strlen(stem);
    return strncmp(name, stem, n) == 0 && name[n] != '\0' &&
           strchr("._-", name[n]) != NULL;
}

/* Is name what mkstemp() makes of another: a dot, dash or underscore and six
 * characters behind it?  Then the length of the other one, or 0. */
static size_t
mkstemp_stem(const char *name)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyz"
                                "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    size_t len = strlen(name);
    if (len < 3 + 7 || strchr("._-", name[len - 7]) == NULL ||
        strspn(name + len - 6, plain) != 6)
        return 0;
    return len - 7;
}

/* Is the cache there, or being made, or the default? */
static int
is_known(struct user *u, const struct caller *caller, const char *cache,
         bool *known_out)
{
    struct fs *fs = u->fs;
    _cleanup_(freep) char *primary = NULL;
    _cleanup_(content_unrefp) struct content *c = user_content(u, cache);
    int r = c != NULL ? content_refresh(c, caller, FRESH_MS) : -ENOMEM;
    if (r == 0)
        r = user_default(u, caller, &primary);
    if (r != 0)
        return r;
    pthread_mutex_lock(&fs->lock);
    *known_out = c->exists || c->unborn != NULL || strcmp(primary, cache) == 0;
    pthread_mutex_unlock(&fs->lock);
    return 0;
}

/*
 * Is name, which is to be created, a temporary file for a cache?  A dot
 * behind a name that holds a ":" already tells: libkrb5 makes such files for
 * caches that are not there yet, too.  Else the cache must be known:
 * tkt=1000.AbCdEf could be the cache 1000:AbCdEf.
 */
static int
is_temporary(struct user *u, const struct caller *caller, const char *name,
             bool *temporary_out)
{
    size_t len = mkstemp_stem(name);
    _cleanup_(freep) char *stem = NULL;
    _cleanup_(freep) char *cache = NULL;
    *temporary_out = false;
    if (len == 0)
        return 0;
    stem = strndup(name, len);
    if (stem == NULL)
        return -ENOMEM;
    int r = tree_collection_name(u, caller, stem, &cache);
    if (r == KCM_NOT_FOUND)
        return 0;
    if (r != 0)
        return r;
    if (name[len] != '.' || strchr(cache, ':') == NULL)
        return is_known(u, caller, cache, temporary_out);
    *temporary_out = true;
    return 0;
}

static int
place_cache(struct user *u, const char *cache, struct content **out)
{
    if (!kcm_is_visible(cache, u->uid))
        return -EACCES;
    *out = user_content(u, cache);
    return *out != NULL ? 0 : -ENOMEM;
}

/* A scratch file in the collection, or the cache that name is to be. */
static int
place_in_collection(struct user *u, const char *name, enum placing placing,
                    const struct caller *caller, struct content **out)
{
    _cleanup_(freep) char *cache = NULL;
    bool temporary = false;
    int r = 0;
    if (is_beside(name, "primary"))
        return 0;
    if (placing == PLACE_CREATED)
        r = is_temporary(u, caller, name, &temporary);
    if (r != 0 || temporary)
        return r;
    r = tree_collection_name(u, caller, name, &cache);
    if (r != 0)
        return r == KCM_NOT_FOUND ? -EACCES : r;
    return place_cache(u, cache, out);
}

static int
place_in_root(struct user *u, const char *name, const struct caller *caller,
              struct content **out)
{
    char own[32];
    _cleanup_(freep) char *cache = NULL;
    snprintf(own, sizeof(own), "krb5cc_%u", u->uid);
    if (is_beside(name, own))
        return 0;
    if (strcmp(name, own) != 0)
        return -EACCES;
    int r = user_default(u, caller, &cache);
    return r != 0 ? r : place_cache(u, cache, out);
}

int
tree_place(struct fs *fs, struct node *dir, const char *name,
           enum placing placing, const struct caller *caller,
           struct content **out)
{
    *out = NULL;
    struct user *u = user_get(fs, caller->uid);
    if (u == NULL)
        return -ENOMEM;
    if (strlen(name) > FILE_NAME_MAX)
        return -ENAMETOOLONG;
    switch (dir->kind) {
    case NODE_ROOT:
        return place_in_root(u, name, caller, out);
    case NODE_COLLECTION:
        return place_in_collection(u, name, placing, caller, out);
    case NODE_CACHE_DIR:
        if (strcmp(name, "cache") != 0)
            return 0;
        return place_cache(u, dir->content->name, out);
    case NODE_TICKETS:
    case NODE_CONFIG:
        return 0;
    default:
        return -EACCES;
    }
}
