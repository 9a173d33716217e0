/*
 * Logging: one call per line, where a thing is handled, once.
 *
 * Lines go to standard error or to syslog.  Every line carries the prefix
 * that log_context() set for this thread (operation and uid).  Strings from
 * outside go through %s and come out with control bytes escaped.  Key and
 * ticket bytes are never passed to a log call.
 */
#ifndef KCM_LOG_H
#define KCM_LOG_H

#include <stdbool.h>

enum log_level {
    LOG_LEVEL_ERROR,
    LOG_LEVEL_WARN,
    LOG_LEVEL_INFO,
    LOG_LEVEL_DEBUG,
};

/* Log as program, up to level; to syslog instead of stderr if asked. */
void log_open(const char *program, enum log_level level, bool to_syslog);

/*
 * Prefix the lines of this thread with "uid N OPERATION: " until
 * log_context_clear().  operation is kept by reference.
 */
void log_context(unsigned uid, const char *operation);
void log_context_clear(void);

void log_line(enum log_level level, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#define log_error(...) log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...)  log_line(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...)  log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
