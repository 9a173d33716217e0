/*
 * Handles: what the kernel holds for each open file and directory.
 */
#include <errno.h>
#include <fcntl.h>

#include "fs/content.h"
#include "fs/draft.h"
#include "fs/node.h"
#include "fs/tree.h"
#include "fs/user.h"
#include "kcm/log.h"

int
handle_new(struct fs *fs, struct node *n, const struct caller *caller,
           int flags, struct handle **out)
{
    *out = NULL;
    struct user *u = user_get(fs, caller->uid);
    struct handle *h = u != NULL ? calloc(1, sizeof(*h)) : NULL;
    if (h == NULL)
        return -ENOMEM;
    h->user = u;
    h->caller = *caller;
    h->flags = flags;
    h->node = n;
    pthread_mutex_init(&h->lock, NULL);
    pthread_mutex_lock(&fs->lock);
    bool fits = u->handles < HANDLES_PER_UID;
    if (fits) {
        u->handles++;
        h->next = fs->handles;
        if (h->next != NULL)
            h->next->prev = h;
        fs->handles = h;
    }
    pthread_mutex_unlock(&fs->lock);
    if (!fits) {
        pthread_mutex_destroy(&h->lock);
        free(h);
        return -EMFILE;
    }
    *out = h;
    return 0;
}

/* What was written and is not in the daemon goes: say so. */
static void
log_dropped(struct fs *fs, const struct handle *h)
{
    bool tail = h->tail.len > 0 && !node_is_unlinked(fs, h->node);
    if (!tail && !h->dirty)
        return;
    log_context(h->caller.uid, "release");
    if (tail)
        log_info("%zu bytes behind the last whole entry of cache %s are "
                 "dropped",
                 h->tail.len, h->node->content->name);
    if (h->dirty)
        log_info("a file that is no cache is dropped");
    log_context_clear();
}

void
handle_free(struct fs *fs, struct handle *h)
{
    log_dropped(fs, h);
    pthread_mutex_lock(&fs->lock);
    *(h->prev != NULL ? &h->prev->next : &fs->handles) = h->next;
    if (h->next != NULL)
        h->next->prev = h->prev;
    h->user->handles--;
    pthread_mutex_unlock(&fs->lock);
    blob_unref(h->text);
    image_unref(h->pinned);
    dir_list_free(h->list);
    if (h->charged > 0)
        draft_discharge(h->user, h->charged);
    writer_free(&h->tail);
    draft_unref(h->draft);
    pthread_mutex_destroy(&h->lock);
    node_unref(fs, h->node);
    free(h);
}

void
handles_free(struct fs *fs)
{
    while (fs->handles != NULL)
        handle_free(fs, fs->handles);
}

/* A file whose bytes are a draft or an image, not generated. */
static bool
is_plain_file(const struct node *n)
{
    return n->kind == NODE_CACHE || n->kind == NODE_SCRATCH;
}

void
handle_close(struct fs *fs, struct handle *h)
{
    if (is_plain_file(h->node)) {
        pthread_mutex_lock(&fs->lock);
        if (h->truncating)
            h->node->truncating--;
        if (h->cached)
            h->node->cached--;
        h->truncating = h->cached = false;
        pthread_mutex_unlock(&fs->lock);
        content_closed(fs, h->node);
    } else {
        pthread_mutex_lock(&fs->lock);
        if (--h->node->opens == 0)
            blob_unref(take(h->node->text));
        pthread_mutex_unlock(&fs->lock);
    }
}

bool
handle_is_writer(const struct handle *h)
{
    return (h->flags & O_ACCMODE) != O_RDONLY;
}

bool
handle_truncates(const struct handle *h)
{
    return handle_is_writer(h) && (h->flags & O_TRUNC) != 0;
}
