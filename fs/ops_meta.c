/*
 * Requests about the file system as a whole, and extended attributes.
 *
 * A cache's file and directory have user.kcm.name, .uuid, .principal and
 * .expires, which are read only.  The kernel asks for other attributes by
 * itself (security.* by ls -l and before some changes): they are told from
 * ours by name, without a look at KCM.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>

#include "fs/content.h"
#include "fs/ops.h"
#include "fs/tree.h"
#include "fs/user.h"
#include "kcm/cred.h"
#include "kcm/describe.h"

#define PREFIX "user.kcm."

/* --- df ------------------------------------------------------------------ */

/* Who watches file systems must not wait long for a daemon that hangs. */
#define STATFS_MS 1000

/* Of a daemon that does not tell its limit. */
#define MANY_CACHES 1000000

/* df -i: the caller's caches as inodes. */
void
op_statfs(fuse_req_t req, fuse_ino_t ino)
{
    struct request r;
    _cleanup_(kcm_listing_freep) struct kcm_listing *l = NULL;
    struct statvfs st = {.f_bsize = 4096, .f_frsize = 4096, .f_namemax = 255};
    if (!request_begin(&r, req, ino, "statfs"))
        return;
    struct user *u = user_get(r.fs, r.caller.uid);
    if (r.caller.deadline > now_ms() + STATFS_MS)
        r.caller.deadline = now_ms() + STATFS_MS;
    size_t limit = status_cache_limit(r.fs);
    if (limit == 0)
        limit = MANY_CACHES;
    if (u != NULL && user_list(u, &r.caller, &l) == 0) {
        st.f_files = limit > l->count ? limit : l->count;
        st.f_ffree = st.f_favail = st.f_files - l->count;
    }
    request_end(&r);
    fuse_reply_statfs(req, &st);
}

/* --- extended attributes ---------------------------------------------------
 */

static bool
has_attributes(const struct node *n)
{
    return n->content != NULL &&
           (n->kind == NODE_CACHE || n->kind == NODE_CACHE_DIR);
}

/* The end of the last TGT of the client's realm; false: it has none. */
static bool
expires(const struct kcm_snapshot *s, uint32_t *end_out)
{
    bool found = false;
    *end_out = 0;
    for (size_t i = 0; i < s->count; i++) {
        struct cred c;
        struct blob *b = s->creds[i].bytes;
        if (b == NULL || !cred_parse((struct data){b->bytes, b->len}, &c) ||
            !cred_is_local_tgt(&c))
            continue;
        if (c.endtime > *end_out)
            *end_out = c.endtime;
        found = true;
    }
    return found;
}

static int
text_or_memory(int n)
{
    return n >= 0 ? 0 : -ENOMEM;
}

/* The value of an attribute of r's cache, whose content is s (NULL: it has
 * none), a new string.  -ENODATA: there is none. */
static int
value_of(const struct request *r, const struct kcm_snapshot *s,
         const char *name, char **out)
{
    struct content *c = r->node->content;
    uint8_t uuid[KCM_UUID_LEN];
    char text[37];
    uint32_t end;
    *out = NULL;
    if (strcmp(name, PREFIX "name") == 0)
        return text_or_memory(asprintf(out, "KCM:%s", c->name));
    if (s == NULL)
        return -ENODATA;
    if (strcmp(name, PREFIX "uuid") == 0 && text_uuid(c, &r->caller, uuid)) {
        uuid_format_text(uuid, text);
        return text_or_memory(asprintf(out, "%s", text));
    }
    if (strcmp(name, PREFIX "principal") == 0)
        return describe_principal(
            (struct data){s->principal->bytes, s->principal->len}, out);
    if (strcmp(name, PREFIX "expires") == 0 && expires(s, &end))
        return text_or_memory(asprintf(out, "%u", end));
    return -ENODATA;
}

/* The answer to both: how long it is, or the bytes where they fit. */
static void
answer_bytes(struct request *r, const void *bytes, size_t len, size_t size)
{
    fuse_req_t req = r->req;
    request_end(r);
    if (size == 0)
        fuse_reply_xattr(req, len);
    else if (len > size)
        fuse_reply_err(req, ERANGE);
    else
        fuse_reply_buf(req, bytes, len);
}

/* Bring r's cache up to date; *s_out NULL: there is none now. */
static int
snapshot_of(struct request *r, struct kcm_snapshot **s_out)
{
    struct content *c = r->node->content;
    int result = content_refresh(c, &r->caller, FRESH_MS);
    *s_out = result == 0 && content_exists(c) ? content_snapshot(c) : NULL;
    return result;
}

/* "No such attribute" is no failure. */
static void
answer_none(struct request *r)
{
    fuse_req_t req = r->req;
    request_end(r);
    fuse_reply_err(req, ENODATA);
}

void
op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
    struct request r;
    _cleanup_(kcm_snapshot_unrefp) struct kcm_snapshot *s = NULL;
    _cleanup_(freep) char *value = NULL;
    if (strncmp(name, PREFIX, strlen(PREFIX)) != 0) {
        fuse_reply_err(req, ENODATA);
        return;
    }
    if (!request_begin(&r, req, ino, "getxattr"))
        return;
    if (!has_attributes(r.node)) {
        answer_none(&r);
        return;
    }
    int result = snapshot_of(&r, &s);
    if (result == 0)
        result = value_of(&r, s, name, &value);
    if (result == -ENODATA)
        answer_none(&r);
    else if (result != 0)
        answer_error(&r, result);
    else
        answer_bytes(&r, value, strlen(value), size);
}

void
op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
    static const char *const names[] = {PREFIX "name", PREFIX "uuid",
                                        PREFIX "principal", PREFIX "expires"};
    struct request r;
    _cleanup_(kcm_snapshot_unrefp) struct kcm_snapshot *s = NULL;
    char list[256];
    size_t len = 0;
    if (!request_begin(&r, req, ino, "listxattr"))
        return;
    int result = has_attributes(r.node) ? snapshot_of(&r, &s) : 0;
    for (size_t i = 0; has_attributes(r.node) && result == 0 && i < 4; i++) {
        _cleanup_(freep) char *value = NULL;
        if (value_of(&r, s, names[i], &value) != 0)
            continue;
        memcpy(list + len, names[i], strlen(names[i]) + 1);
        len += strlen(names[i]) + 1;
    }
    if (result != 0)
        answer_error(&r, result);
    else
        answer_bytes(&r, list, len, size);
}
