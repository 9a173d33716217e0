/*
 * The table of every option of kcmfs: what options.c parses by and --help
 * prints.  For options.c alone.
 */
#ifndef FS_OPTION_TABLE_H
#define FS_OPTION_TABLE_H

#include <stddef.h>

#define TIMEOUT_DEFAULT 10
#define TIMEOUT_MAX     3600
#define IDLE_DEFAULT    30

enum option_id {
    FOREGROUND,
    DEBUG,
    SINGLE,
    HELP,
    VERSION,
    EMBEDDED,
    SOCKET,
    TIMEOUT,
    IDLE,
    READ_ONLY,
    READ_WRITE,
    ALLOW_OTHER,
    ALLOW_ROOT,
    AUDIT,
    OPTION_LIST, /* -o */
    FIXED,       /* right with the value kcmfs alone */
    PASS,        /* to libfuse and the kernel */
    IGNORE,      /* meant for others, or what is done anyway */
    REFUSE,      /* cannot be right here: text says why */
};

/*
 * letter: -x; name: --name; option: -o option, several with blanks between.
 * A trailing '=' takes a value, a trailing '*' stands for anything.
 */
struct option_row {
    enum option_id id;
    char letter;
    const char *name;
    const char *option;
    const char *value; /* what the value is, for help */
    const char *text;  /* help, or why it is refused */
};

/* The nth row; NULL past the last one. */
const struct option_row *option_row(size_t n);

/* The row with that letter, or NULL. */
const struct option_row *option_by_letter(char letter);

/*
 * The row that has text, "name" or "name=value", among its -o options, or
 * NULL.  *value_out is what the '=' leads to, NULL if it takes no value.
 */
const struct option_row *option_by_mount_option(const char *text,
                                                const char **value_out);

#endif
