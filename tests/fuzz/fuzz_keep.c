/*
 * The memory file that one kcmd leaves to the next: whatever is in it, what
 * was taken over can be left again, and comes out the same from then on.
 */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "../../kcm/keep.h"
#include "../../kcm/store.h"
#include "fuzz.h"

#define SEALS (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

static int
file_of(struct data d)
{
    int fd = keep_new();
    assert(fd >= 0 && write(fd, d.p, d.len) == (ssize_t)d.len);
    assert(fcntl(fd, F_ADD_SEALS, SEALS) == 0);
    return fd;
}

static void
save(struct store *s, struct writer *out)
{
    int fd = keep_new();
    assert(fd >= 0 && keep_save(s, fd) == 0);
    off_t size = lseek(fd, 0, SEEK_END);
    assert(size >= 8 && writer_reserve(out, (size_t)size));
    assert(pread(fd, out->p, (size_t)size, 0) == (ssize_t)size);
    out->len = (size_t)size;
    close(fd);
}

/* Each user's own, and found. */
static void
check_store(struct store *s)
{
    for (struct store_user *u = store_first_user(s); u != NULL; u = u->next) {
        for (struct store_cache *c = u->first; c != NULL; c = c->next) {
            struct data name = {c->name->bytes, c->name->len - 1};
            assert(store_name_allowed(u->uid, name));
            assert(store_find(u, name) == c);
            assert(store_find_uuid(u, c->uuid) == c);
        }
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    struct writer saved[3] = {0};
    for (int i = 0; i < 3; i++) {
        struct store *s = store_new(4, 16 * 1024);
        assert(s != NULL);
        int r = keep_load(s, file_of(i == 0 ? (struct data){bytes, len}
                                            : writer_data(&saved[i - 1])));
        assert(r == 0 || (i == 0 && r == -EIO));
        check_store(s);
        save(s, &saved[i]);
        store_free(s);
    }
    /* Each time the users are written in the opposite order. */
    assert(data_equal(writer_data(&saved[0]), writer_data(&saved[2])));
    for (int i = 0; i < 3; i++)
        writer_free(&saved[i]);
    assert(secret_in_use() == 0);
    return 0;
}
