/*
 * What is written to a cache that is being made.
 *
 * Until its principal is there its bytes are a draft, which all that have it
 * open share.  Then it is made, and what follows is stored as to any cache.
 */
#include <errno.h>
#include <fcntl.h>

#include "fs/change.h"
#include "fs/content.h"
#include "fs/draft.h"
#include "fs/node.h"
#include "fs/user.h"

/* Version and header length. */
#define HEADER_START 4

static struct fs *
fs_of(const struct handle *h)
{
    return h->user->fs;
}

/* How does a file that is no cache yet end? */
enum ending {
    ENDS_EARLY, /* before the principal: it may stay so */
    ENDS_CUT,   /* in the principal */
    ENDS_WHOLE, /* it can become a cache */
};

static enum ending
ending_of(struct data bytes, const struct image_file *f)
{
    if (f->has_principal)
        return ENDS_WHOLE;
    struct reader r;
    reader_init(&r, bytes.p, bytes.len);
    (void)read_u16(&r);
    if (f->version == 4)
        (void)read_data(&r, read_u16(&r));
    if (r.bad)
        return bytes.len <= HEADER_START ? ENDS_EARLY : ENDS_CUT;
    return reader_left(&r) == 0 ? ENDS_EARLY : ENDS_CUT;
}

/*
 * With the turn: make the cache as soon as its principal is there.  What
 * follows it is stored record by record; but other versions have records of
 * other lengths than what is shown, so such a file is made at flush.
 */
static int
give_birth(struct handle *h, struct draft *d, bool at_flush)
{
    _cleanup_(image_file_free) struct image_file f = {0};
    _cleanup_(draft_copy_free) struct draft_copy copy = {0};
    int r = draft_copy(d, &copy);
    struct data bytes = writer_data(&copy.bytes);
    bool old = bytes.len >= 2 && bytes.p[1] != 4;
    if (r != 0)
        return r;
    if (old && !at_flush) {
        draft_set_wants(d, SIZE_MAX);
        return bytes.p[0] == 5 && bytes.p[1] >= 1 && bytes.p[1] <= 3 ? 0
                                                                     : -EINVAL;
    }
    r = image_parse(bytes, &f);
    if (r != 0)
        return r;
    enum ending ending = ending_of(bytes, &f);
    if (at_flush &&
        (ending == ENDS_CUT || (ending == ENDS_WHOLE && f.whole < bytes.len)))
        return -EINVAL;
    if (ending != ENDS_WHOLE) {
        draft_set_wants(d, f.wants);
        return f.wants > RECORD_MAX ? -EINVAL : 0;
    }
    _cleanup_(writer_free) struct writer rest = {0};
    write_bytes(&rest, bytes.p + f.whole, bytes.len - f.whole);
    if (rest.failed)
        return -ENOMEM;
    r = change_by_file(h->node->content, &h->caller, &f, h->node);
    if (r != 0)
        return r;
    return change_set_tail(h, &rest);
}

int
change_write_unborn(struct handle *h, struct draft *d, off_t off,
                    struct data data)
{
    size_t before = draft_size(d);
    if (h->flags & O_APPEND)
        off = (off_t)before;
    int r = draft_write(d, off, data);
    /* Not at each byte: a principal may come in many. */
    if (r == 0 && !draft_falls_short(d))
        r = give_birth(h, d, false);
    if (r == 0)
        h->end = off + (off_t)data.len;
    else
        (void)draft_truncate(d, (off_t)before);
    return r;
}

int
change_flush_unborn(struct handle *h)
{
    _cleanup_(content_unrefp) struct content *c = NULL;
    int r = content_take(fs_of(h), h->node, &h->caller, &c);
    if (r != 0)
        return r;
    _cleanup_(draft_unrefp) struct draft *d = draft_of(fs_of(h), h->node);
    if (d != NULL)
        r = give_birth(h, d, true);
    turn_give(&c->turn);
    return r;
}
