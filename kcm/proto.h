/*
 * The KCM protocol, as MIT krb5's src/include/kcm.h and Heimdal's kcm
 * document it and real daemons speak it.
 *
 * Request:  u32 length | u8 2 | u8 0 | u16 opcode | arguments
 * Reply:    u32 length | i32 outer status | length bytes
 * where length counts what follows it (in replies: what follows the outer
 * status) and the bytes of a successful reply are i32 inner status | result.
 * Integers are big-endian.  name is a NUL-terminated string, principal and
 * cred are the FILE version 4 encodings, uuid is 16 bytes.
 */
#ifndef KCM_PROTO_H
#define KCM_PROTO_H

#include <stdint.h>

#define KCM_PROTOCOL_MAJOR 2
#define KCM_PROTOCOL_MINOR 0
#define KCM_UUID_LEN       16

/* Heimdal closes the connection on a longer request. */
#define KCM_REQUEST_MAX_HEIMDAL 131072
/* What MIT clients and sssd take for a request or a reply. */
#define KCM_MESSAGE_MAX (10u * 1024 * 1024)

#define KCM_DEFAULT_SOCKET "/var/run/.heim_org.h5l.kcm-socket"

enum kcm_opcode {
    KCM_OP_NOOP = 0,                 /*                      () -> ()   */
    KCM_OP_GET_NAME = 1,             /*                  (name) -> (name) */
    KCM_OP_RESOLVE = 2,              /*                  (name) -> ()   */
    KCM_OP_GEN_NEW = 3,              /*                      () -> (name) */
    KCM_OP_INITIALIZE = 4,           /*       (name, principal) -> ()   */
    KCM_OP_DESTROY = 5,              /*                  (name) -> ()   */
    KCM_OP_STORE = 6,                /*            (name, cred) -> ()   */
    KCM_OP_RETRIEVE = 7,             /*  (name, flags, mcred) -> (cred) */
    KCM_OP_GET_PRINCIPAL = 8,        /*             (name) -> (principal) */
    KCM_OP_GET_CRED_UUID_LIST = 9,   /*               (name) -> (uuid...) */
    KCM_OP_GET_CRED_BY_UUID = 10,    /*            (name, uuid) -> (cred) */
    KCM_OP_REMOVE_CRED = 11,         /*    (name, flags, mcred) -> ()   */
    KCM_OP_SET_FLAGS = 12,           /*           (name, flags) -> ()   */
    KCM_OP_CHOWN = 13,               /*        (name, uid, gid) -> ()   */
    KCM_OP_CHMOD = 14,               /*            (name, mode) -> ()   */
    KCM_OP_GET_INITIAL_TICKET = 15,  /* crashes Heimdal: never sent     */
    KCM_OP_GET_TICKET = 16,          /* talks to the KDC: never sent    */
    KCM_OP_MOVE_CACHE = 17,          /*            (from, to) -> ()     */
    KCM_OP_GET_CACHE_UUID_LIST = 18, /*                  () -> (uuid...) */
    KCM_OP_GET_CACHE_BY_UUID = 19,   /*                (uuid) -> (name) */
    KCM_OP_GET_DEFAULT_CACHE = 20,   /*                    () -> (name) */
    KCM_OP_SET_DEFAULT_CACHE = 21,   /*                (name) -> ()     */
    KCM_OP_GET_KDC_OFFSET = 22,      /*              (name) -> (i32)    */
    KCM_OP_SET_KDC_OFFSET = 23,      /*         (name, i32) -> ()       */
    KCM_OP_LAST_HEIMDAL = 29,
    KCM_OP_GET_CRED_LIST = 13001, /* (name) -> (u32 n, n (u32, cred)) */
    KCM_OP_REPLACE = 13002,       /* (name, offset, principal,
                                      u32 n, n (u32, cred)) -> ()    */
};

/* RETRIEVE: look only in the cache.  Without it Heimdal asks the KDC. */
#define KCM_GC_CACHED 0x00000001u

/* Match flags of RETRIEVE and REMOVE_CRED (Heimdal's krb5_cc_retrieve). */
#define KCM_TC_DONT_MATCH_REALM   0x80000000u
#define KCM_TC_MATCH_KEYTYPE      0x40000000u
#define KCM_TC_MATCH_SRV_NAMEONLY 0x20000000u
#define KCM_TC_MATCH_FLAGS_EXACT  0x10000000u
#define KCM_TC_MATCH_FLAGS        0x08000000u
#define KCM_TC_MATCH_TIMES_EXACT  0x04000000u
#define KCM_TC_MATCH_TIMES        0x02000000u
#define KCM_TC_MATCH_AUTHDATA     0x01000000u
#define KCM_TC_MATCH_2ND_TKT      0x00800000u
#define KCM_TC_MATCH_IS_SKEY      0x00400000u

/* Status codes on the wire (com_err tables krb5 and heim). */
#define KCM_CODE_CC_BADNAME   (-1765328245) /* KRB5_CC_BADNAME */
#define KCM_CODE_CC_NOTFOUND  (-1765328243) /* KRB5_CC_NOTFOUND */
#define KCM_CODE_CC_END       (-1765328242) /* KRB5_CC_END */
#define KCM_CODE_CC_IO        (-1765328191) /* KRB5_CC_IO */
#define KCM_CODE_FCC_PERM     (-1765328190) /* KRB5_FCC_PERM */
#define KCM_CODE_FCC_NOFILE   (-1765328189) /* KRB5_FCC_NOFILE */
#define KCM_CODE_FCC_INTERNAL (-1765328188) /* KRB5_FCC_INTERNAL */
#define KCM_CODE_CC_NOSUPP    (-1765328137) /* KRB5_CC_NOSUPP */
#define KCM_CODE_HEIM_EOF     (-1980176635) /* HEIM_ERR_EOF */

/* The mcred of RETRIEVE and REMOVE_CRED: a cred whose absent parts are
 * marked in a leading u32 (Heimdal's krb5_store_creds_tag; MIT sends the
 * same). */
#define KCM_MCRED_CLIENT      0x0001u
#define KCM_MCRED_SERVER      0x0002u
#define KCM_MCRED_SESSION_KEY 0x0004u
#define KCM_MCRED_TICKET      0x0008u
#define KCM_MCRED_SECOND      0x0010u
#define KCM_MCRED_AUTHDATA    0x0020u
#define KCM_MCRED_ADDRESSES   0x0040u

#endif
