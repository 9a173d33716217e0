/*
 * Secret memory: a slab allocator over locked pages.
 *
 * One page per credential would waste most of what RLIMIT_MEMLOCK grants, so
 * blocks of one size class share a slab of 64 KiB.  Slabs and large blocks
 * are aligned to 64 KiB: masking a block's address finds its header.
 */
#include "mem.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#define BLOB_LIMIT (SIZE_MAX / 4)

static atomic_size_t in_use;
static atomic_bool unlocked;

size_t
secret_in_use(void)
{
    return atomic_load(&in_use);
}

bool
secret_unlocked(void)
{
    return atomic_load(&unlocked);
}

#if defined(__SANITIZE_ADDRESS__)
#define PLAIN_MALLOC 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define PLAIN_MALLOC 1
#endif
#endif

#ifdef PLAIN_MALLOC
/* Under AddressSanitizer each block is its own, so that overruns show. */
void *
secret_alloc(size_t size)
{
    size_t *p = size > BLOB_LIMIT ? NULL : calloc(1, size + 16);
    if (p == NULL)
        return NULL;
    *p = size;
    atomic_fetch_add(&in_use, size);
    return (char *)p + 16;
}

void
secret_free(void *block)
{
    if (block == NULL)
        return;
    size_t *p = (size_t *)(void *)((char *)block - 16);
    atomic_fetch_sub(&in_use, *p);
    explicit_bzero(block, *p);
    free(p);
}

void
secret_free_now(void *block)
{
    secret_free(block);
}

void
secret_defer(void)
{
}

void
secret_settle(void)
{
}
#else
#define SLAB_SIZE  ((size_t)64 * 1024)
#define HEADER     ((size_t)64)
#define NUM_CLASS  25
#define LARGEST    16384
#define LOCK_PIECE ((size_t)512 * 1024)

/* Closest together where most tickets are. */
static const uint16_t class_size[NUM_CLASS] = {
    32,   48,   64,   96,   128,  192,   256,  384,  512,
    640,  768,  896,  1024, 1280, 1536,  1792, 2048, 2560,
    3072, 3584, 4096, 6144, 8192, 12288, 16384};

struct slab {
    struct slab *next, *prev; /* among the slabs with a free block */
    void *free;               /* list of freed blocks */
    size_t mapped;
    uint32_t block; /* 0: one large block */
    uint32_t fresh; /* offset of the first block never handed out */
    uint32_t used;  /* blocks handed out */
};

static pthread_mutex_t slab_lock = PTHREAD_MUTEX_INITIALIZER;
static struct slab *slabs[NUM_CLASS];

/* Large blocks that wait for secret_settle(), by slab->next. */
static _Thread_local bool deferring;
static _Thread_local struct slab *deferred;

/* In pieces: while the kernel brings pages in, no other thread can map
 * anything. */
static bool
lock_pages(char *p, size_t len)
{
    for (size_t done = 0; done < len; done += LOCK_PIECE) {
        size_t left = len - done;
        if (mlock(p + done, left < LOCK_PIECE ? left : LOCK_PIECE) != 0)
            return false;
    }
    return true;
}

/* Map len bytes (a multiple of the page size) aligned to SLAB_SIZE. */
static void *
map_aligned(size_t len)
{
    char *p = mmap(NULL, len + SLAB_SIZE, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    size_t lead = -(uintptr_t)p & (SLAB_SIZE - 1);
    if (lead > 0)
        munmap(p, lead);
    munmap(p + lead + len, SLAB_SIZE - lead);
    p += lead;
    madvise(p, len, MADV_DONTDUMP);
    if (!lock_pages(p, len))
        atomic_store(&unlocked, true);
    return p;
}

static struct slab *
slab_of(void *block)
{
    return (struct slab *)((uintptr_t)block & ~(SLAB_SIZE - 1));
}

static void
list_push(struct slab **head, struct slab *s)
{
    s->prev = NULL;
    s->next = *head;
    if (s->next != NULL)
        s->next->prev = s;
    *head = s;
}

static void
list_remove(struct slab **head, struct slab *s)
{
    if (s->next != NULL)
        s->next->prev = s->prev;
    if (s->prev != NULL)
        s->prev->next = s->next;
    else
        *head = s->next;
}

static bool
slab_is_full(const struct slab *s)
{
    return s->free == NULL && s->fresh + s->block > SLAB_SIZE;
}

static void *
alloc_large(size_t size)
{
    if (size > BLOB_LIMIT)
        return NULL;
    size_t len = (size + HEADER + 4095) & ~(size_t)4095;
    struct slab *s = map_aligned(len);
    if (s == NULL)
        return NULL;
    s->mapped = len;
    atomic_fetch_add(&in_use, len - HEADER);
    return (char *)s + HEADER;
}

/* Without slab_lock: the kernel may have other things to do first. */
static struct slab *
slab_new(int class)
{
    struct slab *s = map_aligned(SLAB_SIZE);
    if (s == NULL)
        return NULL;
    s->mapped = SLAB_SIZE;
    s->block = class_size[class];
    s->fresh = HEADER;
    return s;
}

static void *
alloc_small_locked(int class)
{
    struct slab *s = slabs[class];
    if (s == NULL)
        return NULL;
    void *block = s->free;
    if (block != NULL) {
        memcpy(&s->free, block, sizeof(s->free));
        memset(block, 0, sizeof(s->free));
    } else {
        block = (char *)s + s->fresh;
        s->fresh += s->block;
    }
    s->used++;
    if (slab_is_full(s))
        list_remove(&slabs[class], s);
    return block;
}

static int
class_of(size_t size)
{
    int class = 0;
    while (class_size[class] < size)
        class ++;
    return class;
}

void *
secret_alloc(size_t size)
{
    static_assert(sizeof(struct slab) <= HEADER, "slab header");
    if (size > LARGEST)
        return alloc_large(size);
    int class = class_of(size);
    pthread_mutex_lock(&slab_lock);
    void *block = alloc_small_locked(class);
    pthread_mutex_unlock(&slab_lock);
    struct slab *s = block == NULL ? slab_new(class) : NULL;
    if (s != NULL) {
        pthread_mutex_lock(&slab_lock);
        list_push(&slabs[class], s);
        block = alloc_small_locked(class);
        pthread_mutex_unlock(&slab_lock);
    }
    if (block != NULL)
        atomic_fetch_add(&in_use, class_size[class]);
    return block;
}

/* Give a block back; returns the slab when it should be unmapped. */
static struct slab *
free_small_locked(struct slab *s, void *block)
{
    int class = class_of(s->block);
    if (slab_is_full(s))
        list_push(&slabs[class], s);
    memcpy(block, &s->free, sizeof(s->free));
    s->free = block;
    s->used--;
    bool alone = s->next == NULL && s->prev == NULL;
    if (s->used > 0 || alone)
        return NULL;
    list_remove(&slabs[class], s);
    return s;
}

static void
free_large(struct slab *s)
{
    size_t len = s->mapped;
    atomic_fetch_sub(&in_use, len - HEADER);
    explicit_bzero(s, len);
    munmap(s, len);
}

void
secret_defer(void)
{
    deferring = true;
}

void
secret_settle(void)
{
    deferring = false;
    while (deferred != NULL) {
        struct slab *s = deferred;
        deferred = s->next;
        free_large(s);
    }
}

void
secret_free_now(void *block)
{
    bool before = deferring;
    deferring = false;
    secret_free(block);
    deferring = before;
}

void
secret_free(void *block)
{
    if (block == NULL)
        return;
    struct slab *s = slab_of(block);
    if (s->block == 0 && deferring) {
        s->next = deferred;
        deferred = s;
        return;
    }
    if (s->block == 0) {
        free_large(s);
        return;
    }
    explicit_bzero(block, s->block);
    atomic_fetch_sub(&in_use, s->block);
    pthread_mutex_lock(&slab_lock);
    s = free_small_locked(s, block);
    pthread_mutex_unlock(&slab_lock);
    if (s != NULL)
        munmap(s, SLAB_SIZE);
}
#endif

struct blob *
blob_new(const void *bytes, size_t len)
{
    if (len > BLOB_LIMIT)
        return NULL;
    struct blob *b = secret_alloc(sizeof(*b) + len);
    if (b == NULL)
        return NULL;
    b->refs = 1;
    b->len = len;
    b->bytes = (uint8_t *)(b + 1);
    b->owner = NULL;
    if (bytes != NULL && len > 0)
        memcpy(b->bytes, bytes, len);
    return b;
}

struct blob *
blob_slice(struct blob *owner, uint8_t *bytes, size_t len)
{
    struct blob *b = secret_alloc(sizeof(*b));
    if (b != NULL)
        *b = (struct blob){
            .refs = 1, .len = len, .bytes = bytes, .owner = blob_ref(owner)};
    return b;
}

struct blob *
blob_ref(struct blob *b)
{
    __atomic_fetch_add(&b->refs, 1, __ATOMIC_RELAXED);
    return b;
}

void
blob_unref(struct blob *b)
{
    if (b == NULL || __atomic_fetch_sub(&b->refs, 1, __ATOMIC_ACQ_REL) != 1)
        return;
    struct blob *owner = b->owner;
    secret_free(b);
    blob_unref(owner);
}
