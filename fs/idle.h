/*
 * Keeping house: tickets that nobody uses leave the memory, and systemd is
 * told that kcmfs is alive.
 */
#ifndef FS_IDLE_H
#define FS_IDLE_H

#include <stdint.h>

struct fs;
struct housekeeper;

/*
 * Start the thread.  What was not looked at for idle_s seconds, and is not
 * open, is dropped: the daemon has it.  drop_pages has the kernel forget
 * what it holds of an inode's file.  0 or -errno.
 */
int housekeeper_start(struct fs *fs, unsigned idle_s,
                      void (*drop_pages)(struct fs *fs, uint64_t ino),
                      struct housekeeper **out);
/* End it; NULL will do. */
void housekeeper_end(struct housekeeper *h);

#endif
