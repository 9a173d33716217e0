/*
 * Results to errno: the one table (the contract's section 6).
 */
#include <errno.h>

#include "fs/fs.h"

int
fs_errno(int result)
{
    if (result <= 0)
        return -result;
    switch ((enum kcm_status)result) {
    case KCM_NOT_FOUND:
        return ENOENT;
    case KCM_DENIED:
        return EACCES;
    case KCM_BAD_NAME:
    case KCM_INVALID:
        return EINVAL;
    case KCM_QUOTA:
        return EDQUOT;
    case KCM_BUSY:
        return EBUSY;
    case KCM_UNSUPPORTED:
        return EOPNOTSUPP;
    }
    return EIO;
}
