// A registry of OCI artifacts on loopback, which keeps what it is given in memory: for charts that are pushed and pulled.
package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
)

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	// who started it reads where it is
	fmt.Println(listener.Addr())
	server := http.Server{Handler: registry.New(), ReadHeaderTimeout: 10 * time.Second}
	fmt.Fprintln(os.Stderr, server.Serve(listener))
	os.Exit(1)
}
