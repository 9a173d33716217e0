// gocache PATH [SERVICE]: what gokrb5 sees in a FILE credential cache, and,
// with a service name, a ticket for it obtained with that cache's TGT.
package main

import (
	"fmt"
	"log"
	"os"

	"github.com/jcmturner/gokrb5/v8/client"
	"github.com/jcmturner/gokrb5/v8/config"
	"github.com/jcmturner/gokrb5/v8/credentials"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) < 2 {
		log.Fatal("usage: gocache PATH [SERVICE]")
	}
	cache, err := credentials.LoadCCache(os.Args[1])
	if err != nil {
		log.Fatal("load: ", err)
	}
	fmt.Printf("principal %s@%s\n",
		cache.GetClientPrincipalName().PrincipalNameString(),
		cache.GetClientRealm())
	for _, entry := range cache.GetEntries() {
		fmt.Printf("ticket %s@%s\n",
			entry.Server.PrincipalName.PrincipalNameString(),
			entry.Server.Realm)
	}
	if len(os.Args) == 2 {
		return
	}
	conf, err := config.Load(os.Getenv("KRB5_CONFIG"))
	if err != nil {
		log.Fatal("configuration: ", err)
	}
	session, err := client.NewFromCCache(cache, conf,
		client.DisablePAFXFAST(true))
	if err != nil {
		log.Fatal("client: ", err)
	}
	ticket, _, err := session.GetServiceTicket(os.Args[2])
	if err != nil {
		log.Fatal("service: ", err)
	}
	fmt.Println("service", ticket.SName.PrincipalNameString())
}
