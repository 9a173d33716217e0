/*
 * Making a process that holds other people's tickets a poor target: nothing
 * of it reaches a core file or a debugger, and once it is set up it holds
 * the capabilities that it was told to keep and no others.
 */
#ifndef KCM_HARDEN_H
#define KCM_HARDEN_H

#include <stdint.h>

/* A set of capabilities: bit n is capability n of capabilities(7). */
#define HARDEN_CAP(n) (UINT64_C(1) << (n))

/*
 * Called first, on every start path: no core file, not dumpable (which also
 * keeps others of the same uid from ptrace and /proc/PID/mem), files made
 * with umask 077, limits on locked memory and descriptors raised as far as
 * they go.  Cannot fail in a way that matters: what the system refuses is
 * left as it is.
 */
void harden_start(void);

/*
 * Called after each change of an effective id, which makes the process what
 * the sysctl fs.suid_dumpable says: with 2, a core that is piped to a program
 * is taken in spite of the limit.
 */
void harden_switched(void);

/*
 * Keep all memory that is ever used from being swapped out, where the limit
 * allows any amount: also what libraries copy, stacks and buffers.  Needs
 * CAP_IPC_LOCK where there is no such limit.
 */
void harden_memory(void);

/*
 * Give up every capability but those in keep (and keep no more of them than
 * there are), empty the bounding, inheritable and ambient sets, and set
 * no_new_privs.  Capabilities belong to a thread: no other may run yet.
 * 0 or -errno; after a failure the process should not go on.
 */
int harden_drop(uint64_t keep);

/* The first half of harden_drop() alone, for a process that still has to
 * execute a setuid program (fusermount3): no_new_privs is not set. */
int harden_drop_capabilities(uint64_t keep);

/* Called last.  Lets LeakSanitizer look at the process in a build for that
 * (make V=asan), where also harden_start() leaves it dumpable.  Does nothing
 * in others. */
void harden_end(void);

#endif
