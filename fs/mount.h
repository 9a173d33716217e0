/*
 * The FUSE session: made, mounted, answered, looped over, ended.
 */
#ifndef FS_MOUNT_H
#define FS_MOUNT_H

#include <stdbool.h>
#include <stdint.h>

struct fs;
struct fuse_session;
struct options;

/* The library's version, for --version. */
const char *mount_library_version(void);

/*
 * A session of fs, not mounted yet, with the options that go with being
 * root or not.  The library's messages go to the log.  NULL: it failed, and
 * why has been logged.
 */
struct fuse_session *mount_new(const struct options *o, struct fs *fs);

/* With these options, does the kernel let in nobody but who mounts? */
bool mount_is_private(const struct options *o);

/* Mount on absolute.  0, or -EIO: why has been logged. */
int mount_on(struct fuse_session *session, const char *absolute);

/*
 * Answer the kernel's first request, FUSE_INIT: after that the mount works.
 * -ENODEV: it was unmounted before.
 */
int mount_answer_init(struct fuse_session *session);

/*
 * Serve until the mount goes or a signal arrives: SIGTERM, SIGINT, SIGHUP,
 * which the caller has blocked until now.  0, or -errno.
 */
int mount_serve(struct fuse_session *session, bool single_threaded);

/* Have the kernel forget what it holds of the bytes of an inode's file. */
void mount_drop_pages(struct fs *fs, uint64_t ino);

/* End the connection to the kernel, which leaves a dead mount behind if it
 * still is mounted, and free the session.  NULL will do. */
void mount_end(struct fuse_session *session);

#endif
