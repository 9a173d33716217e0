// What:  logs in through JAAS with the tickets that kcmfs shows.
// Why:   Java reads FILE caches alone and ignores default_ccache_name.
// How:   java -Djava.security.auth.login.config=jaas.conf WhoAmI.java
import javax.security.auth.login.LoginContext;

public class WhoAmI {
    public static void main(String[] args) throws Exception {
        LoginContext login = new LoginContext("kcmfs");
        login.login();
        System.out.println(
            login.getSubject().getPrincipals().iterator().next());
    }
}
