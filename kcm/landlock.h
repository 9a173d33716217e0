/*
 * Landlock: no files but these (landlock(7)).
 */
#ifndef KCM_LANDLOCK_H
#define KCM_LANDLOCK_H

#include <stdbool.h>

/*
 * Shut this process out of the file system, but for reading what localtime()
 * needs and removing files in the directory of socket_path (NULL: none).
 * With proc, what /proc shows to everybody can be read; Landlock keeps the
 * memory and environment of other processes out of that.
 * *active_out is false where the kernel has no Landlock.  0 or -errno.
 */
int landlock_confine(const char *socket_path, bool proc, bool *active_out);

#endif
