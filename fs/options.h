/*
 * The command line of kcmfs, also as mount(8) and mount.fuse(8) write it.
 * One table drives both the parser and --help.
 */
#ifndef FS_OPTIONS_H
#define FS_OPTIONS_H

#include <stdbool.h>
#include <stdio.h>

/* What kcmfs exits with. */
enum exit_code {
    EXIT_OK = 0,
    EXIT_RUN = 1,    /* failed before or while it served */
    EXIT_USAGE = 2,  /* the command line */
    EXIT_MOUNT = 32, /* could not mount; as mount(8) has it */
};

/* What to do where the KCM socket is "-", on the command line or in
 * krb5.conf. */
#define OPTIONS_NO_SOCKET                                                     \
    "kcm_socket: the KCM socket is set to \"-\", which means none: give one " \
    "with "                                                                   \
    "--kcm-socket=PATH, or keep the caches here with --embedded"

enum options_action {
    OPTIONS_MOUNT,
    OPTIONS_HELP,
    OPTIONS_VERSION,
    OPTIONS_FAKE, /* mount -f: all is well, mount nothing */
};

struct options {
    enum options_action action;
    char *mountpoint; /* as given */
    bool embedded;    /* serve the caches itself */
    char *socket;     /* embedded: listen there as well, if not NULL;
                       * else: of the daemon, NULL: as krb5.conf says */
    unsigned timeout; /* seconds that one KCM operation may take */
    unsigned idle;    /* seconds that unused tickets stay in memory */
    bool foreground;  /* implied by debug */
    bool debug;
    bool single_threaded;
    bool read_only;
    bool allow_other; /* asked for by name; root has it by default */
    bool allow_root;
    bool audit;
    char *mount_options; /* for libfuse and the kernel: "a,b=c" with commas
                          * in values escaped; NULL: none */
};

/*
 * Parse argv.  When argv[0] is mount.kcmfs (or any mount.*), the letters
 * have mount(8)'s meaning: -f fake, -s take unknown options, -n and -v
 * nothing.
 *
 * 0, or EXIT_USAGE with *error_out a text for the user; -ENOMEM.  o is
 * valid for options_free() in any case.
 */
int options_parse(int argc, char *const argv[], struct options *o,
                  char **error_out);
void options_free(struct options *o);

/* What --help prints. */
void options_help(FILE *f);

/*
 * The nth option as somebody would type it, for tests of the table: "-f",
 * "--kcm-socket=", "-o timeout="; *refused tells whether it is an error by
 * design.  False past the last one.
 */
bool options_nth(unsigned n, char *text, size_t size, bool *refused);

#endif
