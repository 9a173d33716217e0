/*
 * What becomes of caches: replaced, extended, edited, moved, destroyed.
 *
 * Each change is: take the content's turn, bring what is known up to date
 * where the change needs it, have the daemon do it, and only then let the
 * node show it.  A change that fails leaves everything as it was.
 */
#include "fs/change.h"
#include "fs/content.h"
#include "fs/tree.h"
#include "fs/user.h"

#include <errno.h>
#include <string.h>

#include "kcm/describe.h"
#include "kcm/log.h"

static struct fs *
fs_of(const struct content *c)
{
    return c->user->fs;
}

bool
change_is_cred(const struct cred *c)
{
    return c->client.count > 0 && c->server.count > 0;
}

/* --- whole files ------------------------------------------------------- */

/* The live credentials of a parsed file as what a cache is to hold. */
static int
content_of_file(const struct image_file *f, struct kcm_content *content,
                struct data **creds)
{
    *creds = calloc(f->count + 1, sizeof(**creds));
    if (*creds == NULL)
        return -ENOMEM;
    *content = (struct kcm_content){
        .principal = f->principal,
        .kdc_offset = f->kdc_offset,
        .creds = *creds,
    };
    for (size_t i = 0; i < f->count; i++) {
        struct cred c;
        if (!cred_parse(f->creds[i], &c) || !change_is_cred(&c))
            return -EINVAL;
        if (!cred_is_removed(&c))
            (*creds)[content->count++] = f->creds[i];
    }
    return 0;
}

static int
replace_by_file(struct content *c, const struct caller *caller,
                const struct image_file *f, struct node *n)
{
    struct fs *fs = fs_of(c);
    struct kcm_content content;
    struct kcm_defaults defaults;
    _cleanup_(freep) struct data *creds = NULL;
    _cleanup_(image_unrefp) struct image *image = NULL;
    int r = content_of_file(f, &content, &creds);
    if (r == 0)
        r = image_of_file(f, &image);
    if (r == 0)
        r = content_ending(c, caller, !content_absent_lately(c));
    bool existed = content_exists(c);
    bool empty = !existed && content.count == 0;
    if (r == 0)
        r = user_guard_begin(c->user, caller, !empty, &defaults);
    if (r != 0)
        return r;
    int64_t begun = now_ms();
    if (empty)
        r = kcm_initialize(fs->kcm, caller, c->name, content.principal,
                           content.kdc_offset, &defaults);
    else
        r = kcm_replace(fs->kcm, caller, c->name,
                        existed ? c->known.snapshot : NULL, &content);
    user_guard_end(c->user, caller, &defaults, r == 0 ? c->name : NULL, NULL);
    if (r != 0)
        return r;
    content_adopt(c, n, image);
    content_changed_at(c, begun);
    return 0;
}

int
change_by_file(struct content *c, const struct caller *caller,
               const struct image_file *f, struct node *n)
{
    int r = replace_by_file(c, caller, f, n);
    content_ended(c);
    return r;
}

int
change_parse(struct data bytes, struct image_file *f)
{
    int r = image_parse(bytes, f);
    if (r == 0 && (!f->has_principal || f->whole < bytes.len)) {
        image_file_free(f);
        r = -EINVAL;
    }
    if (r == -EINVAL)
        log_info("%zu bytes written are no credential cache", bytes.len);
    return r;
}

int
change_replace_held(struct content *c, const struct caller *caller,
                    struct data bytes, struct node *n)
{
    _cleanup_(image_file_free) struct image_file f = {0};
    int r = change_parse(bytes, &f);
    return r == 0 ? change_by_file(c, caller, &f, n) : r;
}

int
change_replace(struct content *c, const struct caller *caller,
               struct data bytes, struct node *n)
{
    int r = turn_take(&c->turn, caller);
    if (r == 0) {
        r = change_replace_held(c, caller, bytes, n);
        turn_give(&c->turn);
    }
    return r;
}

/* --- removing and replacing entries ------------------------------------ */

bool
change_mark(const struct kcm_snapshot *s, struct data entry, bool *remove)
{
    struct cred c, other;
    bool found = false;
    if (!cred_parse(entry, &c))
        return false;
    for (size_t i = 0; i < s->count; i++)
        if (s->creds[i].bytes != NULL &&
            data_equal(blob_data(s->creds[i].bytes), entry))
            found = remove[i] = true;
    for (size_t i = 0; i < s->count && found; i++)
        if (s->creds[i].bytes != NULL &&
            cred_parse(blob_data(s->creds[i].bytes), &other) &&
            cred_same_purpose(&c, &other))
            remove[i] = true;
    return found;
}

int
change_edit(struct content *c, const struct caller *caller, const bool *remove,
            const struct data *creds, size_t count)
{
    struct kcm *kcm = fs_of(c)->kcm;
    struct kcm_defaults defaults;
    bool guarded = kcm_moves_default(kcm);
    int r = 0;
    if (guarded)
        r = user_guard_begin(c->user, caller, true, &defaults);
    if (r != 0)
        return r;
    r = kcm_edit(kcm, caller, c->name, c->known.snapshot, remove, creds,
                 count);
    if (guarded)
        user_guard_end(c->user, caller, &defaults, NULL, NULL);
    return r;
}

/* --- adding entries ---------------------------------------------------- */

/* A configuration entry takes the place of the one with its key. */
static int
store_config(struct content *c, const struct caller *caller,
             const struct cred *cred)
{
    int r = content_check(c, caller);
    if (r != 0)
        return r;
    struct kcm_snapshot *s = c->known.snapshot;
    if (s == NULL)
        return KCM_NOT_FOUND;
    _cleanup_(freep) bool *remove = calloc(s->count + 1, sizeof(*remove));
    if (remove == NULL)
        return -ENOMEM;
    bool there = false;
    for (size_t i = 0; i < s->count; i++) {
        struct cred old;
        if (s->creds[i].bytes == NULL ||
            !cred_parse(blob_data(s->creds[i].bytes), &old) ||
            !cred_is_config(&old) || !cred_same_purpose(&old, cred))
            continue;
        if (!there && data_equal(old.raw, cred->raw))
            there = true;
        else
            remove[i] = true;
    }
    return change_edit(c, caller, remove, &cred->raw, there ? 0 : 1);
}

/* How many of the credentials can be stored as they are. */
static size_t
count_plain(const struct data *creds, size_t count)
{
    size_t n = 0;
    struct cred c;
    while (n < count && cred_parse(creds[n], &c) && change_is_cred(&c) &&
           !cred_is_config(&c) && !cred_is_removed(&c))
        n++;
    return n;
}

int
change_store(struct content *c, const struct caller *caller,
             const struct data *creds, size_t count, size_t *done_out)
{
    int r = 0;
    size_t done = 0;
    while (r == 0 && done < count) {
        struct cred cred;
        size_t stored = 1;
        size_t plain = count_plain(creds + done, count - done);
        if (plain > 0)
            r = kcm_store(fs_of(c)->kcm, caller, c->name, creds + done, plain,
                          &stored);
        else if (!cred_parse(creds[done], &cred) || !change_is_cred(&cred))
            r = -EINVAL;
        else if (cred_is_config(&cred))
            r = store_config(c, caller, &cred);
        if (r == 0 || plain > 0)
            done += stored;
    }
    if (done_out != NULL)
        *done_out = done;
    return r;
}

int
change_store_file(struct content *c, const struct caller *caller,
                  struct data bytes)
{
    struct kcm_content content;
    _cleanup_(image_file_free) struct image_file f = {0};
    _cleanup_(freep) struct data *creds = NULL;
    int r = change_parse(bytes, &f);
    if (r == 0)
        r = content_of_file(&f, &content, &creds);
    if (r == 0)
        r = turn_take(&c->turn, caller);
    if (r != 0)
        return r;
    r = change_store(c, caller, creds, content.count, NULL);
    if (r == 0)
        r = content_check(c, caller);
    turn_give(&c->turn);
    return r;
}

/* --- destroying and moving --------------------------------------------- */

static int
destroy(struct content *c, const struct caller *caller)
{
    struct fs *fs = fs_of(c);
    struct kcm_defaults defaults;
    int r = content_ending(c, caller, false);
    if (r == 0)
        r = user_guard_begin(c->user, caller, false, &defaults);
    if (r != 0)
        return r;
    int64_t begun = now_ms();
    r = kcm_destroy(fs->kcm, caller, c->name, &defaults);
    user_guard_end(c->user, caller, &defaults, NULL, r == 0 ? c->name : NULL);
    if (r != 0 && r != KCM_NOT_FOUND)
        return r;
    content_unlinked(c);
    content_vanish(c);
    content_changed_at(c, begun);
    return r;
}

int
change_destroy_held(struct content *c, const struct caller *caller)
{
    int r = destroy(c, caller);
    content_ended(c);
    return r;
}

int
change_destroy(struct content *c, const struct caller *caller)
{
    int r = turn_take(&c->turn, caller);
    if (r != 0)
        return r;
    r = change_destroy_held(c, caller);
    turn_give(&c->turn);
    return r;
}

/* Have the daemon move the content, in whatever way it can. */
static int
move_in_kcm(struct content *from, struct content *to,
            const struct caller *caller)
{
    struct kcm *kcm = fs_of(from)->kcm;
    int r = kcm_can_move(kcm, caller, from->name);
    if (r == 0)
        r = kcm_move(kcm, caller, from->name, to->name);
    if (r != KCM_UNSUPPORTED)
        return r;
    struct kcm_content content;
    _cleanup_(freep) struct data *creds = NULL;
    r = kcm_content_of(from->known.snapshot, &content, &creds);
    if (r == 0)
        r = kcm_replace(kcm, caller, to->name, to->known.snapshot, &content);
    return r == 0 ? kcm_destroy(kcm, caller, from->name, NULL) : r;
}

/* With both turns. */
static int
move(struct content *from, struct content *to, const struct caller *caller)
{
    int r = content_check(from, caller);
    if (r == 0)
        r = content_ending(to, caller, true);
    if (r != 0)
        return r;
    if (from->known.snapshot == NULL)
        return KCM_NOT_FOUND;
    struct kcm_defaults defaults;
    r = user_guard_begin(from->user, caller, true, &defaults);
    if (r != 0)
        return r;
    r = move_in_kcm(from, to, caller);
    user_guard_end(from->user, caller, &defaults, r == 0 ? to->name : NULL,
                   r == 0 ? from->name : NULL);
    if (r != 0)
        return r;
    content_moved(from, to);
    return content_check(to, caller);
}

int
change_move(struct content *from, struct content *to,
            const struct caller *caller)
{
    struct content *first = from < to ? from : to;
    struct content *second = from < to ? to : from;
    if (from == to)
        return 0;
    int r = turn_take(&first->turn, caller);
    if (r != 0)
        return r;
    r = turn_take(&second->turn, caller);
    if (r == 0) {
        r = move(from, to, caller);
        content_ended(to);
        turn_give(&second->turn);
    }
    turn_give(&first->turn);
    return r;
}

/* --- tickets/ and config/ ---------------------------------------------- */

/* With the turn: remove what name in tickets/ or config/ stands for. */
static int
remove_named(struct content *c, const struct caller *caller, bool config,
             const char *name)
{
    _cleanup_(tickets_unrefp) struct ticket_table *t = NULL;
    int r = content_check(c, caller);
    if (r == 0)
        r = tickets_of(c, &t);
    if (r != 0)
        return r;
    struct kcm_snapshot *s = c->known.snapshot;
    const struct ticket_name *found =
        config ? tickets_find(t->config, t->configs, name)
               : tickets_find(t->ticket, t->tickets, name);
    if (found == NULL)
        return KCM_NOT_FOUND;
    _cleanup_(freep) bool *remove = calloc(s->count + 1, sizeof(*remove));
    if (remove == NULL)
        return -ENOMEM;
    if (config)
        (void)change_mark(s, blob_data(s->creds[found->index].bytes), remove);
    else
        remove[found->index] = true;
    r = change_edit(c, caller, remove, NULL, 0);
    return r == 0 ? content_check(c, caller) : r;
}

int
change_remove_ticket(struct content *c, const struct caller *caller,
                     bool config, const char *name)
{
    int r = turn_take(&c->turn, caller);
    if (r != 0)
        return r;
    r = remove_named(c, caller, config, name);
    turn_give(&c->turn);
    return r;
}

int
change_set_config(struct content *c, const struct caller *caller,
                  const char *file, struct data value)
{
    _cleanup_(writer_free) struct writer entry = {0};
    int r = turn_take(&c->turn, caller);
    if (r != 0)
        return r;
    r = content_check(c, caller);
    _cleanup_(kcm_snapshot_unrefp) struct kcm_snapshot *s =
        content_snapshot(c);
    if (r == 0)
        r = s != NULL
                ? config_parse(file, blob_data(s->principal), value, &entry)
                : KCM_NOT_FOUND;
    struct data stored = writer_data(&entry);
    if (r == 0)
        r = change_store(c, caller, &stored, 1, NULL);
    if (r == 0)
        r = content_check(c, caller);
    turn_give(&c->turn);
    return r;
}
