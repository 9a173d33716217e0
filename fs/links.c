/*
 * Where links lead, and which cache a path leads to.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fs/tree.h"
#include "fs/user.h"

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
        return principals_find(u, caller, n->name, out);
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
static int
last_parts(const char *path, char *parent, char *last, size_t size)
{
    _cleanup_(freep) char *copy = strdup(path);
    char *save = NULL;
    parent[0] = last[0] = '\0';
    if (copy == NULL)
        return -ENOMEM;
    for (char *p = strtok_r(copy, "/", &save); p != NULL;
         p = strtok_r(NULL, "/", &save)) {
        snprintf(parent, size, "%s", last);
        snprintf(last, size, "%s", p);
    }
    return 0;
}

int
tree_cache_of_path(struct user *u, const struct caller *caller,
                   const char *path, char **name_out)
{
    char parent[FILE_NAME_MAX + 1], last[FILE_NAME_MAX + 1];
    uint8_t uuid[KCM_UUID_LEN];
    *name_out = NULL;
    int r = last_parts(path, parent, last, sizeof(last));
    if (r != 0)
        return r;
    if (uuid_parse_text(last, uuid))
        return user_name_of_uuid(u, caller, uuid, name_out);
    if (strcmp(parent, "by-name") == 0) {
        *name_out = name_unescape(last);
        if (*name_out == NULL)
            return errno == ENOMEM ? -ENOMEM : KCM_NOT_FOUND;
        return 0;
    }
    if (strcmp(parent, "collection") == 0)
        return tree_collection_name(u, caller, last, name_out);
    if (strcmp(parent, "by-principal") == 0) {
        _cleanup_(freep) char *target = NULL;
        r = principals_find(u, caller, last, &target);
        return r != 0 ? r : tree_cache_of_path(u, caller, target, name_out);
    }
    if (strcmp(last, "default") == 0)
        return user_default(u, caller, name_out);
    return KCM_NOT_FOUND;
}
