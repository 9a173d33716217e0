/*
 * The directory to mount on: what is mounted there already, dead mounts of
 * ours, and unmounting at the end.
 */
#ifndef FS_MOUNTPOINT_H
#define FS_MOUNTPOINT_H

#include <stdbool.h>
#include <sys/types.h>

/*
 * Make sure that kcmfs can be mounted on path: an existing directory on
 * which nothing is mounted.  What a crashed kcmfs left mounted there is
 * unmounted.  *absolute_out is the path without links, a new string.
 *
 * 0, or -errno; why has been logged.
 */
int mountpoint_prepare(const char *path, char **absolute_out);

/* The device number of the kcmfs mounted on absolute; false if the last
 * thing mounted there is none. */
bool mountpoint_device(const char *absolute, dev_t *device_out);

/*
 * A small process that keeps the right to unmount, so that the daemon need
 * not.  It holds no descriptor but its end of a socket, no memory of the
 * daemon's (it is forked before there are secrets), and of root's
 * capabilities CAP_SYS_ADMIN alone.  All that it can be told is to unmount
 * the one mount.  When the daemon dies without a word it ends and leaves the
 * mount, which then answers ENOTCONN: better than that tools write tickets
 * to the directory below.
 */
struct unmounter {
    pid_t pid; /* 0: none */
    int fd;
};

/* Start it.  There must be no other threads.  0 or -errno. */
int unmounter_start(struct unmounter *u, const char *absolute);

/*
 * Have the mount of that device number, which lost its daemon, unmounted if
 * it still is mounted, and end the process.  device 0: only end it.  0, or
 * -EIO: it failed.
 */
int unmounter_finish(struct unmounter *u, dev_t device);

#endif
