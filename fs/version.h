/* The version that -V and .kcmfs/status show. */
#ifndef FS_VERSION_H
#define FS_VERSION_H
#define KCMFS_VERSION "0.1.0"
#endif
