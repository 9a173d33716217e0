/*
 * Logging.  The level and the target are set once at start, before threads.
 */
#include "log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#define LINE_MAX_BYTES 1024

/* Set by log_open() before any thread starts, then read only. */
static const char *log_program = "kcmfs";
static enum log_level log_threshold = LOG_LEVEL_INFO;
static bool log_syslog;

static _Thread_local unsigned context_uid;
static _Thread_local const char *context_operation;

void
log_open(const char *program, enum log_level level, bool to_syslog)
{
    log_program = program;
    log_threshold = level;
    log_syslog = to_syslog;
    if (to_syslog)
        openlog(program, LOG_PID, LOG_DAEMON);
}

void
log_context(unsigned uid, const char *operation)
{
    context_uid = uid;
    context_operation = operation;
}

void
log_context_clear(void)
{
    context_operation = NULL;
}

/*
 * Copy text with control bytes and bytes above 126 written \xNN: a name from
 * outside must not be able to forge a line.
 */
static void
escape(char *out, size_t size, const char *text)
{
    size_t n = 0;
    for (; *text != '\0' && n + 5 < size; text++) {
        unsigned char c = (unsigned char)*text;
        if (c >= 0x20 && c < 0x7f)
            out[n++] = (char)c;
        else
            n += (size_t)snprintf(out + n, size - n, "\\x%02x", c);
    }
    out[n] = '\0';
}

static void
emit(enum log_level level, const char *line)
{
    static const int priority[] = {LOG_ERR, LOG_WARNING, LOG_INFO, LOG_DEBUG};
    static const char *const word[] = {"error", "warning", "info", "debug"};
    if (log_syslog) {
        syslog(priority[level], "%s", line);
        return;
    }
    char out[LINE_MAX_BYTES * 2];
    int n = snprintf(out, sizeof(out), "%s[%d]: %s: %s\n", log_program,
                     (int)getpid(), word[level], line);
    if (n > 0 && (size_t)n < sizeof(out))
        (void)!write(STDERR_FILENO, out, (size_t)n);
}

void
log_line(enum log_level level, const char *format, ...)
{
    if (level > log_threshold)
        return;
    char raw[LINE_MAX_BYTES], line[LINE_MAX_BYTES];
    size_t n = 0;
    if (context_operation != NULL) {
        n = (size_t)snprintf(raw, sizeof(raw), "uid %u %s: ", context_uid,
                             context_operation);
        if (n >= sizeof(raw))
            n = sizeof(raw) - 1;
    }
    va_list ap;
    va_start(ap, format);
    vsnprintf(raw + n, sizeof(raw) - n, format, ap);
    va_end(ap);
    escape(line, sizeof(line), raw);
    emit(level, line);
}
