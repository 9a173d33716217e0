/*
 * Telling systemd how the daemon fares (Type=notify), without libsystemd.
 */
#ifndef KCM_NOTIFY_H
#define KCM_NOTIFY_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Send state, as "READY=1" or "STOPPING=1", to the socket that systemd
 * named in NOTIFY_SOCKET.  Without one nothing happens; a failure is not
 * worth more than a debug line.  Protocol: sd_notify(3).
 */
void notify_systemd(const char *state);
/* The same with a descriptor, as for "FDSTORE=1"; true if it was sent. */
bool notify_systemd_fd(const char *state, int fd);

/* How often, in ms, systemd wants to hear "WATCHDOG=1"; 0: not at all. */
int64_t notify_watchdog_ms(void);

#endif
