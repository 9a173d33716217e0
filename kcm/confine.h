/*
 * What a program may still ask of the kernel once it is set up: system calls
 * by a seccomp filter, files by Landlock.
 *
 * What is not on the list answers EPERM; what only somebody who took the
 * process over would try (to run a program, to trace, to mount) ends it.
 */
#ifndef KCM_CONFINE_H
#define KCM_CONFINE_H

enum confine_program {
    CONFINE_KCMFS,
    CONFINE_KCMFS_AUDIT, /* the same, but /proc/PID/comm can be read */
    CONFINE_KCMD,
    CONFINE_UNMOUNTER, /* waits, looks for the mount, unmounts */
};

/*
 * Confine this process, which has no_new_privs set and no other thread, for
 * good.  The file socket_path (NULL: none) can still be removed; other files
 * can be neither made nor changed, and but for what tells the time none can
 * be read.  0 or -errno; a kernel that has neither is warned of once and is
 * no error.  Does nothing in a build for debuggers and sanitizers.
 */
int confine(enum confine_program program, const char *socket_path);

#endif
