/*
 * Uids with connections, and the ring of those with work.
 */
#include "peers.h"

static void
ring_remove(struct peers *peers, struct peer *peer)
{
    struct peer *before = NULL;
    for (struct peer *p = peers->first; p != peer; p = p->ring_next)
        before = p;
    *(before == NULL ? &peers->first : &before->ring_next) = peer->ring_next;
    if (peers->last == peer)
        peers->last = before;
    peer->in_ring = false;
}

struct peer *
peer_get(struct peers *peers, uid_t uid)
{
    struct data key = {(const uint8_t *)&uid, sizeof(uid)};
    uint64_t hash = hash_data(key);
    struct table_link *link = table_find(&peers->by_uid, hash);
    struct peer *peer = NULL;
    for (; link != NULL; link = table_next(link)) {
        peer = container_of(link, struct peer, link);
        if (peer->uid == uid) {
            peer->count++;
            return peer;
        }
    }
    peer = calloc(1, sizeof(*peer));
    if (peer == NULL)
        return NULL;
    peer->uid = uid;
    peer->count = 1;
    table_insert(&peers->by_uid, &peer->link, hash);
    return peer;
}

void
peer_put(struct peers *peers, struct peer *peer)
{
    if (--peer->count > 0)
        return;
    if (peer->in_ring)
        ring_remove(peers, peer);
    table_remove(&peers->by_uid, &peer->link);
    free(peer);
}

void
peers_push(struct peers *peers, struct peer *peer)
{
    if (peer->in_ring)
        return;
    peer->in_ring = true;
    peer->ring_next = NULL;
    *(peers->last == NULL ? &peers->first : &peers->last->ring_next) = peer;
    peers->last = peer;
}

struct peer *
peers_pop(struct peers *peers)
{
    struct peer *peer = peers->first;
    if (peer != NULL)
        ring_remove(peers, peer);
    return peer;
}
