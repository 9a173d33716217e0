/*
 * kcmsocket: where the KCM clients of this host look for their daemon.
 *
 * Prints the path that krb5.conf (or KRB5_CONFIG) says, else the default;
 * exits with 1 where it says "-", none.  For scripts: run.sh uses it.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "kcm/conf.h"
#include "kcm/mem.h"

int
main(void)
{
    _cleanup_(freep) char *path = NULL;
    int r = kcm_conf_socket(&path);
    if (r == -EINVAL) /* it has said what is wrong */
        return 2;
    if (r < 0) {
        fprintf(stderr, "kcmsocket: %s\n", strerror(-r));
        return 2;
    }
    if (path == NULL) {
        fprintf(stderr, "kcmsocket: kcm_socket is \"-\": there is none\n");
        return 1;
    }
    puts(path);
    return 0;
}
