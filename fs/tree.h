/*
 * Names: which node a name is, what a directory lists, what is read there.
 */
#ifndef FS_TREE_H
#define FS_TREE_H

#include "fs/fs.h"

/* --- tree.c: lookup and list --------------------------------------------- */

#define FILE_NAME_MAX 255

/* The node of name in dir for the caller, with one reference. */
int tree_lookup(struct fs *fs, struct node *dir, const char *name,
                const struct caller *caller, struct node **out);

struct dir_entry {
    char *name;
    mode_t type; /* S_IF... */
};

struct dir_list {
    struct dir_entry *entries;
    size_t count, room;
};

int tree_list(struct fs *fs, struct node *dir, const struct caller *caller,
              struct dir_list **out);
void dir_list_free(struct dir_list *l);
DEFINE_CLEANUP(struct dir_list *, dir_list_free)
/* Add a name, which is taken over, freed on failure; false without memory. */
bool dir_list_add(struct dir_list *l, char *name, mode_t type);

/* --- collection.c: its names, and where files can be created ------------- */

/* The file name of a cache that libkrb5 takes from the file primary; NULL
 * for one that has none (it is tkt=UUID). 0 or -ENOMEM. */
int collection_form(uid_t uid, const char *cache, char **form_out);
/* The cache that a file name stands for: its name, or NULL and its UUID.
 * 0; KCM_NOT_FOUND: it can be none; -ENOMEM. */
int collection_parse(uid_t uid, const char *file, char **name_out,
                     uint8_t uuid[KCM_UUID_LEN]);
/* The first line of the file primary; "" for a file with nothing in it.
 * -EINVAL where there is no such line. */
#define PRIMARY_LINE_MAX 128
int primary_parse(struct data bytes, char line[PRIMARY_LINE_MAX]);

/* The name of the cache that file name stands for in collection/. */
int tree_collection_name(struct user *u, const struct caller *caller,
                         const char *file, char **name_out);
/* The file name in collection/ of a cache. */
char *tree_collection_file(struct user *u, const char *cache);
/* The same of the default cache, also when the daemon does not answer. */
int tree_primary(struct user *u, const struct caller *caller, char **file_out);

enum placing {
    PLACE_CREATED,
    PLACE_RENAMED, /* what temporary files become is none */
};

/*
 * What is a file of that name in dir, where it is to be created or renamed
 * to?  0: *out is the cache that it will be, with one reference, or NULL for
 * a scratch file.  -EACCES: it may not be there.
 */
int tree_place(struct fs *fs, struct node *dir, const char *name,
               enum placing placing, const struct caller *caller,
               struct content **out);

/* --- principals.c: by-principal/ ----------------------------------------- */

int principals_find(struct user *u, const struct caller *caller,
                    const char *file, char **target_out);
int principals_list(struct user *u, const struct caller *caller,
                    struct dir_list *l);

/* --- links.c ------------------------------------------------------------- */

/* The target of a symlink node. */
int tree_readlink(struct fs *fs, struct node *n, const struct caller *caller,
                  char **out);
/* The cache whose directory (or file in collection/) a path form names. */
int tree_cache_of_path(struct user *u, const struct caller *caller,
                       const char *path, char **name_out);

/* --- attr.c -------------------------------------------------------------- */

int tree_attr(struct fs *fs, struct node *n, const struct caller *caller,
              bool refresh, struct stat *st);

/* --- text.c: generated files --------------------------------------------- */

/* The bytes of a generated file; KCM_NOT_FOUND when it is gone. */
int text_of(struct fs *fs, struct node *n, const struct caller *caller,
            struct blob **out);
/* The UUID that c has now; false: it has none. */
bool text_uuid(struct content *c, const struct caller *caller,
               uint8_t uuid_out[KCM_UUID_LEN]);

/* --- ticket names, per snapshot (tickets.c) ------------------------------ */

struct ticket_name {
    char *name;
    size_t index; /* in the snapshot */
};

struct ticket_table {
    int refs; /* atomic */
    struct kcm_snapshot *snapshot;
    bool *superseded;
    size_t tickets, configs;
    struct ticket_name *ticket; /* sorted by name */
    struct ticket_name *config;
};

int tickets_of(struct content *c, struct ticket_table **out);
void tickets_unref(struct ticket_table *t);
DEFINE_CLEANUP(struct ticket_table *, tickets_unref)
const struct ticket_name *tickets_find(const struct ticket_name *names,
                                       size_t count, const char *name);

/* The file in config/ of a configuration entry: KEY or KEY@PRINCIPAL.  NULL
 * without memory. */
char *config_file(const struct cred *c);
/* The other way round: append the entry of client that file, holding value,
 * stands for. 0; -EINVAL: it can be none; -ENOMEM. */
int config_parse(const char *file, struct data client, struct data value,
                 struct writer *w);

/* --- names.c ------------------------------------------------------------- */

/* by-name form of a cache name; NULL without memory. */
char *name_escape(const char *cache_name);
/* The cache name of a by-name form; NULL with EINVAL if it is none, with
 * ENOMEM without memory. */
char *name_unescape(const char *file_name);
/* Text behind a config/ file name; NULL as above. */
char *name_unescape_text(const char *file_name);
/* File name of a principal: "." stays except a leading one. */
char *name_of_principal(const char *principal_text);
/* Append "#2", "#3"... to what stands before: names sorted or not. */
int names_make_unique(struct ticket_name *names, size_t count);
bool uuid_parse_text(const char *text, uint8_t uuid[KCM_UUID_LEN]);
void uuid_format_text(const uint8_t uuid[KCM_UUID_LEN], char text[37]);

#endif
