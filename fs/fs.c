/*
 * The file system as a whole: made before the mount, freed after it.
 */
#include "fs/node.h"
#include "fs/user.h"

#include <errno.h>
#include <unistd.h>

int
fs_new(struct kcm *kcm, const struct fs_config *config, struct fs **fs_out)
{
    *fs_out = NULL;
    struct fs *fs = calloc(1, sizeof(*fs));
    if (fs == NULL)
        return -ENOMEM;
    fs->kcm = kcm;
    fs->config = *config;
    fs->started = time(NULL);
    fs->owner = geteuid();
    fs->group = getegid();
    pthread_mutex_init(&fs->lock, NULL);
    pthread_cond_init(&fs->told, NULL);
    if (nodes_init(fs) == 0)
        fs->root = node_get(fs, NODE_ROOT, EVERYBODY, NULL, 0, NULL);
    if (fs->root == NULL) {
        fs_free(fs);
        return -ENOMEM;
    }
    *fs_out = fs;
    return 0;
}

void
fs_free(struct fs *fs)
{
    if (fs == NULL)
        return;
    handles_free(fs);
    nodes_free(fs);
    users_free(fs);
    pthread_cond_destroy(&fs->told);
    pthread_mutex_destroy(&fs->lock);
    free(fs);
}

void
fs_set_session(struct fs *fs, struct fuse_session *session)
{
    fs->session = session;
}

void
fs_on_ready(struct fs *fs, void (*ready)(void *arg), void *arg)
{
    fs->ready = ready;
    fs->ready_arg = arg;
}
