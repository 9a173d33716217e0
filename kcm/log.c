/*
 * Logging.  The level and the target are set at start, before threads.
 */
#include "log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#define LINE_MAX_BYTES 1024
#define JOURNAL_SOCKET "/run/systemd/journal/socket"

/* Set by log_open() before any thread starts, then read only. */
static const char *log_program = "kcmfs";
static enum log_level log_threshold = LOG_LEVEL_INFO;
static bool log_syslog;
static int journal = -1; /* a connected socket, or -1 */

static _Thread_local unsigned context_uid;
static _Thread_local const char *context_operation;

/* Lines of each uid in the current minute: nobody may fill the log. */
#define LINES_PER_MINUTE 100u
static struct budget {
    time_t minute;
    unsigned lines;
} budgets[64];
static pthread_mutex_t budgets_lock = PTHREAD_MUTEX_INITIALIZER;

static const int priority[] = {LOG_ERR, LOG_WARNING, LOG_INFO, LOG_DEBUG};

/* --- the journal -------------------------------------------------------- */

/* systemd tells what it connected stderr to; see systemd.exec(5). */
static bool
stderr_is_journal(void)
{
    const char *text = getenv("JOURNAL_STREAM");
    unsigned long long device, inode;
    struct stat st;
    return text != NULL && sscanf(text, "%llu:%llu", &device, &inode) == 2 &&
           fstat(STDERR_FILENO, &st) == 0 && st.st_dev == device &&
           st.st_ino == inode;
}

static void
journal_open(void)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX,
                             .sun_path = JOURNAL_SOCKET};
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    if (connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0)
        journal = fd;
    else
        close(fd);
}

/* One field of a datagram; value has no line breaks. */
static size_t
put_field(char *out, size_t size, const char *name, const char *value)
{
    int n = snprintf(out, size, "%s=%s\n", name, value);
    return n > 0 && (size_t)n < size ? (size_t)n : 0;
}

static size_t
put_number(char *out, size_t size, const char *name, unsigned value)
{
    char text[16];
    snprintf(text, sizeof(text), "%u", value);
    return put_field(out, size, name, text);
}

/* False where the journal does not take it now: it must not hold us up. */
static bool
journal_send(const char *datagram, size_t len)
{
    return send(journal, datagram, len, MSG_DONTWAIT | MSG_NOSIGNAL) ==
           (ssize_t)len;
}

/* --- lines -------------------------------------------------------------- */

void
log_open(const char *program, enum log_level level, bool to_syslog)
{
    log_program = program;
    log_threshold = level;
    log_syslog = to_syslog;
    if (journal < 0 && (to_syslog || stderr_is_journal()))
        journal_open();
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

static bool
emit_journal(enum log_level level, const char *line,
             const struct log_field *fields, size_t count)
{
    char out[LINE_MAX_BYTES * 3], value[LINE_MAX_BYTES / 4];
    size_t room = sizeof(out);
    size_t n = put_field(out, room, "MESSAGE", line);
    n += put_number(out + n, room - n, "PRIORITY", (unsigned)priority[level]);
    n += put_number(out + n, room - n, "SYSLOG_FACILITY", LOG_DAEMON >> 3);
    n += put_field(out + n, room - n, "SYSLOG_IDENTIFIER", log_program);
    if (context_operation != NULL) {
        n += put_number(out + n, room - n, "KCMFS_UID", context_uid);
        n +=
            put_field(out + n, room - n, "KCMFS_OPERATION", context_operation);
    }
    for (size_t i = 0; i < count; i++) {
        escape(value, sizeof(value), fields[i].value);
        n += put_field(out + n, room - n, fields[i].name, value);
    }
    return journal_send(out, n);
}

static void
emit(enum log_level level, const char *line, const struct log_field *fields,
     size_t count)
{
    static const char *const word[] = {"error", "warning", "info", "debug"};
    if (journal >= 0 && emit_journal(level, line, fields, count))
        return;
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

static void __attribute__((format(printf, 4, 0)))
log_any(enum log_level level, const struct log_field *fields, size_t count,
        const char *format, va_list ap)
{
    char raw[LINE_MAX_BYTES], line[LINE_MAX_BYTES];
    size_t n = 0;
    if (context_operation != NULL) {
        n = (size_t)snprintf(raw, sizeof(raw), "uid %u %s: ", context_uid,
                             context_operation);
        if (n >= sizeof(raw))
            n = sizeof(raw) - 1;
    }
    vsnprintf(raw + n, sizeof(raw) - n, format, ap);
    escape(line, sizeof(line), raw);
    emit(level, line, fields, count);
}

/* Which one of its uid's this minute a line is; 0: it is nobody's, or for
 * whoever debugs. */
static unsigned
line_number(enum log_level level)
{
    if (context_operation == NULL || log_threshold == LOG_LEVEL_DEBUG ||
        level == LOG_LEVEL_ERROR)
        return 0;
    struct budget *b =
        &budgets[context_uid % (sizeof(budgets) / sizeof(budgets[0]))];
    time_t minute = time(NULL) / 60;
    pthread_mutex_lock(&budgets_lock);
    if (b->minute != minute)
        *b = (struct budget){.minute = minute};
    unsigned number = b->lines += b->lines <= LINES_PER_MINUTE;
    pthread_mutex_unlock(&budgets_lock);
    return number;
}

void
log_line(enum log_level level, const char *format, ...)
{
    if (level > log_threshold)
        return;
    unsigned number = line_number(level);
    if (number > LINES_PER_MINUTE)
        return;
    va_list ap;
    va_start(ap, format);
    log_any(level, NULL, 0, format, ap);
    va_end(ap);
    if (number == LINES_PER_MINUTE)
        emit(LOG_LEVEL_WARN, "too many lines: no more in this minute", NULL,
             0);
}

void
log_event(enum log_level level, const struct log_field *fields, size_t count,
          const char *format, ...)
{
    if (level > log_threshold)
        return;
    va_list ap;
    va_start(ap, format);
    log_any(level, fields, count, format, ap);
    va_end(ap);
}
