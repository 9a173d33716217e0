// What:  the client and the tickets of a cache, by gokrb5.
// Why:   Go programs read no KRB5CCNAME and no KCM: they want a bare path.
// How:   go run main.go [/run/kcmfs/default/cache]
package main

import (
	"fmt"
	"log"
	"os"

	"github.com/jcmturner/gokrb5/v8/credentials"
)

func main() {
	path := "/run/kcmfs/default/cache"
	if len(os.Args) > 1 {
		path = os.Args[1]
	}
	cache, err := credentials.LoadCCache(path)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s@%s\n", cache.GetClientPrincipalName().PrincipalNameString(),
		cache.GetClientRealm())
	for _, entry := range cache.GetEntries() {
		fmt.Println(" ", entry.Server.PrincipalName.PrincipalNameString())
	}
}
