// loadbalancer is what a cloud would do for Services of type LoadBalancer in one cluster of the
// fleet: it chooses an address from the cluster's pool, puts it on the node's eth0 (the node then
// answers ARP for it and kube-proxy forwards it) and writes it to the Service's status.
//
// It follows the Services by a watch and runs inside the node, so it ends with the cluster.
//
// An address may be asked for with spec.loadBalancerIP, also later: the status follows. With the
// annotation kof.test/load-balancer-hostname the status carries that name and no address, as the
// load balancers of some clouds do; the address is then in kof.test/load-balancer-address.
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"
)

const (
	hostnameAnnotation = "kof.test/load-balancer-hostname"
	addressAnnotation  = "kof.test/load-balancer-address"
	firstAddress       = 100
	lastAddress        = 249
)

type ingress struct {
	IP       string `json:"ip,omitempty"`
	IPMode   string `json:"ipMode,omitempty"`
	Hostname string `json:"hostname,omitempty"`
}

type service struct {
	Metadata struct {
		Namespace       string            `json:"namespace"`
		Name            string            `json:"name"`
		ResourceVersion string            `json:"resourceVersion"`
		Annotations     map[string]string `json:"annotations"`
	} `json:"metadata"`
	Spec struct {
		Type           string `json:"type"`
		LoadBalancerIP string `json:"loadBalancerIP"`
	} `json:"spec"`
	Status struct {
		LoadBalancer struct {
			Ingress []ingress `json:"ingress"`
		} `json:"loadBalancer"`
	} `json:"status"`
}

func (s service) key() string { return s.Metadata.Namespace + "/" + s.Metadata.Name }

type balancer struct {
	server, prefix string
	client         *http.Client
	held           map[string]string // Service -> address on eth0
}

func main() {
	server := flag.String("server", "https://127.0.0.1:6443", "URL of the API server")
	ca := flag.String("ca", "", "file with the CA of the API server")
	cert := flag.String("cert", "", "file with the client certificate")
	key := flag.String("key", "", "file with the client key")
	prefix := flag.String("prefix", "", "first three bytes of the pool, such as 172.30.1.")
	flag.Parse()
	pem, err := os.ReadFile(*ca)
	if err != nil {
		log.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	pair, err := tls.LoadX509KeyPair(*cert, *key)
	if err != nil {
		log.Fatal(err)
	}
	b := &balancer{
		server: *server, prefix: *prefix, held: map[string]string{},
		client: &http.Client{Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}},
		}},
	}
	for {
		if err := b.follow(); err != nil {
			log.Printf("follow the Services again: %v", err)
		}
		time.Sleep(300 * time.Millisecond)
	}
}

// follow lists the Services once and then lives on the watch until it ends.
func (b *balancer) follow() error {
	var list struct {
		Metadata struct {
			ResourceVersion string `json:"resourceVersion"`
		} `json:"metadata"`
		Items []service `json:"items"`
	}
	body, err := b.call("GET", "/api/v1/services", "", nil, 10*time.Second)
	if err != nil {
		return err
	}
	err = json.NewDecoder(body).Decode(&list)
	body.Close()
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, s := range list.Items { // those that have an address keep it
		seen[s.key()] = true
		if len(s.Status.LoadBalancer.Ingress) > 0 {
			b.hold(s.key(), b.current(s))
		}
	}
	for key := range b.held {
		if !seen[key] {
			b.release(key)
		}
	}
	for _, s := range list.Items {
		b.serve(s)
	}
	body, err = b.call("GET", "/api/v1/services?watch=1&resourceVersion="+list.Metadata.ResourceVersion, "", nil, 0)
	if err != nil {
		return err
	}
	defer body.Close()
	for events := json.NewDecoder(body); ; {
		var e struct {
			Type   string  `json:"type"`
			Object service `json:"object"`
		}
		if err := events.Decode(&e); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		switch e.Type {
		case "ADDED", "MODIFIED":
			b.serve(e.Object)
		case "DELETED":
			b.release(e.Object.key())
		default:
			return fmt.Errorf("watch ended with %s", e.Type)
		}
	}
}

func (b *balancer) serve(s service) {
	if s.Spec.Type != "LoadBalancer" {
		b.release(s.key())
		return
	}
	address := s.Spec.LoadBalancerIP
	if address == "" {
		address = b.held[s.key()]
	}
	if address == "" {
		address = b.free()
	}
	if address == "" {
		log.Printf("%s: the pool is empty", s.key())
		return
	}
	b.hold(s.key(), address)
	wanted := ingress{IP: address, IPMode: "VIP"}
	if name := s.Metadata.Annotations[hostnameAnnotation]; name != "" {
		wanted = ingress{Hostname: name}
		if s.Metadata.Annotations[addressAnnotation] != address {
			b.patch(s, "", map[string]any{"metadata": map[string]any{"annotations": map[string]string{addressAnnotation: address}}})
		}
	}
	if have := s.Status.LoadBalancer.Ingress; len(have) == 1 && have[0] == wanted {
		return
	}
	b.patch(s, "/status", map[string]any{"status": map[string]any{"loadBalancer": map[string]any{"ingress": []ingress{wanted}}}})
}

func (b *balancer) current(s service) string {
	if ip := s.Status.LoadBalancer.Ingress[0].IP; ip != "" {
		return ip
	}
	return s.Metadata.Annotations[addressAnnotation]
}

func (b *balancer) hold(key, address string) {
	if address == "" || b.held[key] == address {
		return
	}
	b.release(key)
	b.held[key] = address
	if out, err := exec.Command("ip", "addr", "add", address+"/32", "dev", "eth0").CombinedOutput(); err != nil && !strings.Contains(string(out), "exists") {
		log.Printf("%s: failed to put %s on eth0: %s", key, address, out)
	}
	log.Printf("%s: %s", key, address)
}

func (b *balancer) release(key string) {
	address, ok := b.held[key]
	if !ok {
		return
	}
	delete(b.held, key)
	if out, err := exec.Command("ip", "addr", "del", address+"/32", "dev", "eth0").CombinedOutput(); err != nil {
		log.Printf("%s: failed to take %s from eth0: %s", key, address, out)
	}
}

func (b *balancer) free() string {
	used := map[string]bool{}
	for _, a := range b.held {
		used[a] = true
	}
	for i := firstAddress; i <= lastAddress; i++ {
		if a := fmt.Sprint(b.prefix, i); !used[a] {
			return a
		}
	}
	return ""
}

func (b *balancer) patch(s service, sub string, change any) {
	data, err := json.Marshal(change)
	if err != nil {
		log.Print(err)
		return
	}
	path := "/api/v1/namespaces/" + s.Metadata.Namespace + "/services/" + s.Metadata.Name + sub
	body, err := b.call("PATCH", path, "application/merge-patch+json", data, 10*time.Second)
	if err != nil {
		log.Printf("%s: %v", s.key(), err)
		return
	}
	body.Close()
}

// call returns the body of a successful answer; a timeout of zero waits for ever.
func (b *balancer) call(method, path, kind string, data []byte, timeout time.Duration) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancel(context.Background())
	if timeout > 0 {
		ctx, cancel = context.WithTimeout(context.Background(), timeout)
	}
	q, err := http.NewRequestWithContext(ctx, method, b.server+path, bytes.NewReader(data))
	if err != nil {
		cancel()
		return nil, err
	}
	if kind != "" {
		q.Header.Set("Content-Type", kind)
	}
	r, err := b.client.Do(q)
	if err != nil {
		cancel()
		return nil, err
	}
	if r.StatusCode/100 != 2 {
		text, _ := io.ReadAll(io.LimitReader(r.Body, 512))
		r.Body.Close()
		cancel()
		return nil, fmt.Errorf("%s %s: %s: %s", method, path, r.Status, text)
	}
	return closer{r.Body, cancel}, nil
}

type closer struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (c closer) Close() error {
	defer c.cancel()
	return c.ReadCloser.Close()
}
