/*
 * Logging: one call per line, where a thing is handled, once.
 *
 * Lines go to standard error, or to the journal with fields of their own
 * (journalctl KCMFS_UID=1000), or to syslog where there is no journal.
 * Every line carries the prefix that log_context() set for this thread
 * (operation and uid).  Strings from outside go through %s and come out with
 * control bytes escaped.  Key and ticket bytes are never passed to a log
 * call.
 */
#ifndef KCM_LOG_H
#define KCM_LOG_H

#include <stdbool.h>
#include <stddef.h>

enum log_level {
    LOG_LEVEL_ERROR,
    LOG_LEVEL_WARN,
    LOG_LEVEL_INFO,
    LOG_LEVEL_DEBUG,
};

/* Log as program, up to level; to the journal or syslog instead of stderr if
 * asked, and to the journal where that is what stderr is. */
void log_open(const char *program, enum log_level level, bool to_syslog);

/*
 * Prefix the lines of this thread with "uid N OPERATION: " until
 * log_context_clear(); in the journal they are KCMFS_UID and
 * KCMFS_OPERATION.  operation is kept by reference.
 */
void log_context(unsigned uid, const char *operation);
void log_context_clear(void);

/* Under a context, what is no error is left out beyond 100 lines a minute of a
 * uid. */
void log_line(enum log_level level, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* A field of a journal entry, "KCMFS_CACHE" for example. */
struct log_field {
    const char *name, *value;
};

/* The same as log_line(); the journal gets the fields as well. */
void log_event(enum log_level level, const struct log_field *fields,
               size_t count, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

#define log_error(...) log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...)  log_line(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...)  log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
