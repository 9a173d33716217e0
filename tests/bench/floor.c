/*
 * A file system of one directory that keeps files in memory and does nothing
 * else: what programs pay for FUSE by itself, on this machine, with libfuse's
 * loop of threads and one LOOKUP for each open, as kcmfs has them.
 *
 *   floor MOUNTPOINT        in the foreground
 */
#define FUSE_USE_VERSION 312
#include <errno.h>
#include <fuse_lowlevel.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define FOREVER 86400.0

struct file {
    struct file *next;
    char name[64]; /* "": unlinked */
    char *data;
    size_t len;
    uint64_t lookups;
    mode_t mode;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct file *files;

static struct file *
file_of(fuse_ino_t ino)
{
    return (struct file *)(uintptr_t)ino;
}

static struct file *
find(const char *name)
{
    struct file *f = files;
    while (f != NULL && strcmp(f->name, name) != 0)
        f = f->next;
    return f;
}

static struct stat
attr_of(fuse_ino_t ino)
{
    struct stat st = {.st_ino = ino, .st_nlink = 1, .st_mode = S_IFDIR | 0777};
    if (ino != FUSE_ROOT_ID) {
        st.st_mode = S_IFREG | file_of(ino)->mode;
        st.st_size = (off_t)file_of(ino)->len;
    }
    return st;
}

static struct fuse_entry_param
entry_of(struct file *f)
{
    f->lookups++;
    return (struct fuse_entry_param){
        .ino = (uintptr_t)f,
        .attr = attr_of((uintptr_t)f),
        .attr_timeout = FOREVER,
    };
}

static void
do_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct fuse_entry_param e;
    (void)parent;
    pthread_mutex_lock(&lock);
    struct file *f = find(name);
    if (f != NULL)
        e = entry_of(f);
    pthread_mutex_unlock(&lock);
    if (f != NULL)
        fuse_reply_entry(req, &e);
    else
        fuse_reply_err(req, ENOENT);
}

static void
do_forget(fuse_req_t req, fuse_ino_t ino, uint64_t count)
{
    pthread_mutex_lock(&lock);
    struct file *f = file_of(ino);
    f->lookups -= count;
    if (f->lookups == 0 && f->name[0] == '\0') {
        struct file **at = &files;
        while (*at != f)
            at = &(*at)->next;
        *at = f->next;
        free(f->data);
        free(f);
    }
    pthread_mutex_unlock(&lock);
    fuse_reply_none(req);
}

static void
do_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)fi;
    pthread_mutex_lock(&lock);
    struct stat st = attr_of(ino);
    pthread_mutex_unlock(&lock);
    fuse_reply_attr(req, &st, FOREVER);
}

static void
do_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *st, int set,
           struct fuse_file_info *fi)
{
    (void)fi;
    pthread_mutex_lock(&lock);
    if (set & FUSE_SET_ATTR_MODE)
        file_of(ino)->mode = st->st_mode & 0777;
    if (set & FUSE_SET_ATTR_SIZE)
        file_of(ino)->len = 0; /* all that is needed here */
    struct stat now = attr_of(ino);
    pthread_mutex_unlock(&lock);
    fuse_reply_attr(req, &now, FOREVER);
}

static void
do_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino;
    fi->keep_cache = 1;
    fi->noflush = (fi->flags & O_ACCMODE) == O_RDONLY;
    fuse_reply_open(req, fi);
}

static void
do_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
          struct fuse_file_info *fi)
{
    struct file *f = calloc(1, sizeof(*f));
    (void)parent;
    if (f == NULL || strlen(name) >= sizeof(f->name)) {
        free(f);
        fuse_reply_err(req, ENOMEM);
        return;
    }
    strcpy(f->name, name);
    f->mode = mode & 0777;
    pthread_mutex_lock(&lock);
    f->next = files;
    files = f;
    struct fuse_entry_param e = entry_of(f);
    pthread_mutex_unlock(&lock);
    fi->keep_cache = 1;
    fuse_reply_create(req, &e, fi);
}

static void
do_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    (void)parent;
    pthread_mutex_lock(&lock);
    struct file *f = find(name);
    if (f != NULL)
        f->name[0] = '\0';
    pthread_mutex_unlock(&lock);
    fuse_reply_err(req, f != NULL ? 0 : ENOENT);
}

static void
do_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
        struct fuse_file_info *fi)
{
    (void)fi;
    pthread_mutex_lock(&lock);
    const struct file *f = file_of(ino);
    size_t at = (size_t)off < f->len ? (size_t)off : f->len;
    fuse_reply_buf(req, f->data + at, size < f->len - at ? size : f->len - at);
    pthread_mutex_unlock(&lock);
}

static void
do_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size,
         off_t off, struct fuse_file_info *fi)
{
    (void)fi;
    pthread_mutex_lock(&lock);
    struct file *f = file_of(ino);
    size_t end = (size_t)off + size;
    char *data = end > f->len ? realloc(f->data, end) : f->data;
    if (data != NULL) {
        f->data = data;
        f->len = end > f->len ? end : f->len;
        memcpy(data + off, buf, size);
    }
    pthread_mutex_unlock(&lock);
    if (data != NULL)
        fuse_reply_write(req, size);
    else
        fuse_reply_err(req, ENOMEM);
}

static void
do_nothing(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino;
    (void)fi;
    fuse_reply_err(req, 0);
}

static const struct fuse_lowlevel_ops ops = {
    .lookup = do_lookup,
    .forget = do_forget,
    .getattr = do_getattr,
    .setattr = do_setattr,
    .open = do_open,
    .create = do_create,
    .unlink = do_unlink,
    .read = do_read,
    .write = do_write,
    .flush = do_nothing,
    .release = do_nothing,
};

int
main(int argc, char **argv)
{
    char *options[] = {argv[0], "-oallow_other", NULL};
    struct fuse_args args = FUSE_ARGS_INIT(2, options);
    struct fuse_session *s =
        argc == 2 ? fuse_session_new(&args, &ops, sizeof(ops), NULL) : NULL;
    if (s == NULL || fuse_session_mount(s, argv[1]) != 0)
        return 2;
    struct fuse_loop_config *config = fuse_loop_cfg_create();
    fuse_loop_cfg_set_max_threads(config, 64);
    int r = fuse_session_loop_mt(s, config);
    fuse_session_unmount(s);
    return r != 0;
}
