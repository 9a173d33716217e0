/*
 * Going to the background only when there is something to go for.
 */
#ifndef FS_BACKGROUND_H
#define FS_BACKGROUND_H

struct background {
    int fd; /* to the process that waits; -1: in the foreground */
    int null_fd;
};

/*
 * Fork.  The parent waits until the child is ready, or ends with the child's
 * exit status: for it this function does not return.  Called before there
 * are threads.  In the child 0; -errno in the parent if it cannot fork.
 */
int background_start(struct background *b);

/*
 * In the child: let the parent end with status 0, leave the terminal and
 * the directory.  Messages must go to syslog from here on.  Does nothing in
 * the foreground.
 */
void background_ready(struct background *b);

#endif
