/*
 * What krb5.conf says about KCM.
 */
#ifndef KCM_CONF_H
#define KCM_CONF_H

/*
 * The socket of the KCM daemon as libkrb5 finds it: kcm_socket of
 * [libdefaults], else KCM_DEFAULT_SOCKET.  *path_out is a new string, or NULL
 * where the configuration says "-": use no socket.
 *
 * Read through libkrb5, so KRB5_CONFIG, several files and includes count.
 * KRB5_CONFIG is believed also as root, as any daemon that an administrator
 * starts does; a setuid program must not call this.
 *
 * 0; -ENOMEM; -EINVAL: the configuration cannot be read, and what is wrong
 * with it has been logged.
 */
int kcm_conf_socket(char **path_out);

#endif
