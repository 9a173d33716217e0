import java.security.PrivilegedExceptionAction;
import java.util.Base64;
import java.util.HashMap;
import java.util.Map;
import javax.security.auth.Subject;
import javax.security.auth.kerberos.KerberosPrincipal;
import javax.security.auth.kerberos.KerberosTicket;
import javax.security.auth.login.AppConfigurationEntry;
import javax.security.auth.login.AppConfigurationEntry.LoginModuleControlFlag;
import javax.security.auth.login.Configuration;
import javax.security.auth.login.LoginContext;
import org.ietf.jgss.GSSContext;
import org.ietf.jgss.GSSManager;
import org.ietf.jgss.GSSName;
import org.ietf.jgss.Oid;

/**
 * A Java login from a ticket cache, without any prompt.
 *
 * <p>TicketCache PATH|- [SERVICE@HOST]: `-` takes $KRB5CCNAME. Prints
 * `principal NAME` and, with a service, `token BASE64` (a JGSS initiator's).
 */
public final class TicketCache {
    private static final class FromCache extends Configuration {
        private final Map<String, String> options = new HashMap<>();

        FromCache(String path) {
            options.put("useTicketCache", "true");
            options.put("doNotPrompt", "true");
            if (!path.equals("-")) {
                options.put("ticketCache", path);
            }
        }

        @Override
        public AppConfigurationEntry[] getAppConfigurationEntry(String name) {
            return new AppConfigurationEntry[] {
                new AppConfigurationEntry(
                        "com.sun.security.auth.module.Krb5LoginModule",
                        LoginModuleControlFlag.REQUIRED, options)
            };
        }
    }

    private static byte[] firstToken(String service) throws Exception {
        GSSManager manager = GSSManager.getInstance();
        GSSName peer =
                manager.createName(service, GSSName.NT_HOSTBASED_SERVICE);
        GSSContext context = manager.createContext(peer,
                new Oid("1.2.840.113554.1.2.2"), null,
                GSSContext.DEFAULT_LIFETIME);
        context.requestMutualAuth(false);
        return context.initSecContext(new byte[0], 0, 0);
    }

    public static void main(String[] args) throws Exception {
        LoginContext login = new LoginContext("test", new Subject(), null,
                new FromCache(args[0]));
        login.login();
        Subject subject = login.getSubject();
        for (KerberosPrincipal p
                : subject.getPrincipals(KerberosPrincipal.class)) {
            System.out.println("principal " + p.getName());
        }
        for (KerberosTicket t
                : subject.getPrivateCredentials(KerberosTicket.class)) {
            System.out.println("ticket " + t.getServer().getName());
        }
        if (args.length > 1) {
            PrivilegedExceptionAction<byte[]> action =
                    () -> firstToken(args[1]);
            System.out.println("token " + Base64.getEncoder()
                    .encodeToString(Subject.doAs(subject, action)));
        }
    }
}
