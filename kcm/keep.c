/*
 * Writing and reading the memory file.  What is read is parsed like what a
 * client sends.
 */
#include "keep.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store.h"

#define MAGIC   0x6b636d64u /* "kcmd" */
#define VERSION 1u
#define SEALS   (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

int
keep_new(void)
{
    int fd = memfd_create("kcmd-caches", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    return fd < 0 ? -errno : fd;
}

/* --- writing ------------------------------------------------------------- */

static int
write_all(int fd, struct data d)
{
    while (d.len > 0) {
        ssize_t n = write(fd, d.p, d.len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        d.p += n;
        d.len -= (size_t)n;
    }
    return 0;
}

static void
put_blob(struct writer *w, const struct blob *b)
{
    write_data32(w, b == NULL ? (struct data){NULL, 0}
                              : (struct data){b->bytes, b->len});
}

/* Room for a length that is known when what it counts is written. */
static size_t
begin_part(struct writer *w)
{
    write_u32(w, 0);
    return w->len;
}

static void
end_part(struct writer *w, size_t start)
{
    if (!w->failed)
        write_u32_at(w, start - 4, (uint32_t)(w->len - start));
}

static void
put_cache(struct writer *w, const struct store_cache *c)
{
    write_bytes(w, c->uuid, KCM_UUID_LEN);
    put_blob(w, c->name);
    put_blob(w, c->principal);
    write_u32(w, (uint32_t)c->kdc_offset);
    write_u32(w, (uint32_t)c->creds.count);
    size_t start = begin_part(w);
    for (struct store_cred *e = c->creds.first; e != NULL; e = e->next)
        put_blob(w, e->blob);
    end_part(w, start);
}

static void
put_user(struct writer *w, const struct store_user *user)
{
    size_t start = begin_part(w);
    write_u32(w, (uint32_t)user->uid);
    write_u32(w, user->next_id);
    put_blob(w, user->default_name);
    for (struct store_cache *c = user->last; c != NULL; c = c->prev)
        if (c->principal != NULL)
            put_cache(w, c);
    end_part(w, start);
}

int
keep_save(struct store *store, int fd)
{
    _cleanup_(writer_free) struct writer w = {0};
    write_u32(&w, MAGIC);
    write_u32(&w, VERSION);
    int r = w.failed ? -ENOMEM : write_all(fd, writer_data(&w));
    struct store_user *user = store_first_user(store);
    for (; r == 0 && user != NULL; user = user->next) {
        writer_reset(&w);
        put_user(&w, user);
        r = w.failed ? -ENOMEM : write_all(fd, writer_data(&w));
    }
    if (r == 0 && fcntl(fd, F_ADD_SEALS, SEALS) != 0)
        r = -errno;
    return r;
}

/* --- reading ------------------------------------------------------------- */

static void
first_error(int *result, int error)
{
    if (*result == 0)
        *result = error;
}

/* A name with its NUL, and no other; empty and r->bad where it is none. */
static struct data
read_name(struct reader *r)
{
    struct data name = read_data32(r);
    const uint8_t *nul = name.len > 0 ? memchr(name.p, '\0', name.len) : NULL;
    if (name.len == 0)
        return name;
    if (nul != name.p + name.len - 1)
        reader_fail(r);
    name.len--;
    return name;
}

/* Are there count credentials in d, and nothing else? */
static bool
are_creds(struct data d, uint32_t count)
{
    struct reader r;
    struct cred cred;
    reader_init(&r, d.p, d.len);
    for (uint32_t i = 0; i < count && !r.bad; i++)
        if (!cred_parse(read_data32(&r), &cred))
            reader_fail(&r);
    return reader_done(&r);
}

static int
take_cache(struct store_user *user, struct reader *r)
{
    struct data uuid = read_data(r, KCM_UUID_LEN);
    struct data name = read_name(r);
    struct data principal = read_data32(r);
    int32_t offset = (int32_t)read_u32(r);
    uint32_t count = read_u32(r);
    struct data bytes = read_data32(r);
    struct principal p;
    struct reader creds;
    reader_init(&creds, bytes.p, bytes.len);
    if (r->bad || !store_name_allowed(user->uid, name) ||
        !principal_parse(principal, &p) || !are_creds(bytes, count))
        return -EIO;
    struct store_cache *other = store_find_uuid(user, uuid.p);
    if (other != NULL && other != store_find(user, name))
        return -EIO;
    int result = store_replace(user, name, offset, principal, count, creds);
    struct store_cache *cache = store_find(user, name);
    if (result == 0 && cache != NULL)
        store_set_uuid(user, cache, uuid.p);
    return result;
}

static int
take_user(struct store *store, struct data part)
{
    struct reader r;
    reader_init(&r, part.p, part.len);
    uid_t uid = read_u32(&r);
    uint32_t next_id = read_u32(&r);
    struct data name = read_name(&r);
    if (r.bad || (name.len > 0 && !store_name_allowed(uid, name)))
        return -EIO;
    struct store_user *user = store_user_lock(store, uid);
    if (user == NULL)
        return -ENOMEM;
    int result = 0;
    user->next_id = next_id;
    while (reader_left(&r) > 0)
        first_error(&result, take_cache(user, &r));
    if (name.len > 0)
        first_error(&result, store_set_default(user, name));
    store_user_unlock(user);
    return result;
}

/* Read exactly len bytes behind what w has. */
static int
read_exactly(int fd, struct writer *w, size_t len)
{
    writer_reset(w);
    if (!writer_reserve(w, len))
        return -ENOMEM;
    while (w->len < len) {
        ssize_t n = read(fd, w->p + w->len, len - w->len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        w->len += (size_t)n;
    }
    return 0;
}

static int
take_part(struct store *store, int fd, struct writer *w, size_t len)
{
    int result = read_exactly(fd, w, len);
    return result == 0 ? take_user(store, writer_data(w)) : result;
}

static int
load(struct store *store, int fd)
{
    _cleanup_(writer_free) struct writer w = {0};
    struct stat st;
    struct reader r;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) ||
        fcntl(fd, F_GET_SEALS) != SEALS || lseek(fd, 0, SEEK_SET) != 0)
        return -EIO;
    int result = read_exactly(fd, &w, 8);
    reader_init(&r, w.p, w.len);
    if (result == 0 && (read_u32(&r) != MAGIC || read_u32(&r) != VERSION))
        result = -EIO;
    off_t left = st.st_size - 8;
    int wrong = 0; /* with some user */
    while (result == 0 && left > 0) {
        result = read_exactly(fd, &w, 4);
        reader_init(&r, w.p, w.len);
        uint32_t len = read_u32(&r);
        left -= 4 + (off_t)len;
        if (result == 0 && left < 0)
            result = -EIO;
        if (result == 0)
            first_error(&wrong, take_part(store, fd, &w, len));
        if (result == 0 && lseek(fd, st.st_size - left, SEEK_SET) < 0)
            result = -errno;
    }
    return result != 0 ? result : wrong;
}

int
keep_load(struct store *store, int fd)
{
    store_set_lax(store, true);
    int result = load(store, fd);
    store_set_lax(store, false);
    close(fd);
    return result;
}
