// echo answers every request with what it received. It is also a stand-in for servers that cannot
// be had here (VictoriaLogs, VictoriaTraces, an OTLP receiver): any path is 200, any gRPC call is
// answered with one empty message and status 0. HTTP/1.1 and HTTP/2 without TLS on one port.
//
//	echo [-listen :8080]               serve
//	echo get [-d BODY] [-H 'K: V'] URL be a client: print status, headers and body
//	echo grpc URL                      call a unary method with an empty message
//
// (`fetch` in the shell image is this program too.)
//
//	/_echo/healthz                     200
//	/_echo/seen                        the last requests, newest last, as JSON lines
//	?_stream=N                         N lines, one every 100 ms: a long select
//	?_status=N                         answer with status N
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

type seen struct {
	Time    time.Time           `json:"time"`
	Pod     string              `json:"pod"`
	Cluster string              `json:"cluster,omitempty"`
	Remote  string              `json:"remote"`
	Proto   string              `json:"proto"`
	Method  string              `json:"method"`
	Host    string              `json:"host"`
	Path    string              `json:"path"`
	Query   string              `json:"query,omitempty"`
	Headers map[string][]string `json:"headers"`
	Body    int64               `json:"body_bytes"`
}

type history struct {
	sync.Mutex
	last []seen
}

func (h *history) add(s seen) {
	h.Lock()
	defer h.Unlock()
	if h.last = append(h.last, s); len(h.last) > 512 {
		h.last = h.last[len(h.last)-512:]
	}
}

func (h *history) print(w io.Writer) {
	h.Lock()
	defer h.Unlock()
	e := json.NewEncoder(w)
	for _, s := range h.last {
		if e.Encode(s) != nil {
			return
		}
	}
}

func both() *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(true)
	p.SetUnencryptedHTTP2(true)
	return p
}

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "get":
			get(os.Args[2:])
			return
		case "many":
			many(os.Args[2:])
			return
		case "grpc":
			grpc(os.Args[2:])
			return
		}
	}
	listen := flag.String("listen", ":8080", "address to serve on")
	flag.Parse()
	pod, _ := os.Hostname()
	var h history
	mux := http.NewServeMux()
	mux.HandleFunc("/_echo/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("/_echo/seen", func(w http.ResponseWriter, _ *http.Request) { h.print(w) })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		s := seen{time.Now(), pod, os.Getenv("CLUSTER"), r.RemoteAddr, r.Proto, r.Method, r.Host,
			r.URL.Path, r.URL.RawQuery, r.Header, n}
		h.add(s)
		if strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
			w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
			w.Header().Set("Trailer", "Grpc-Status")
			w.Write(make([]byte, 5)) // not compressed, length 0
			w.Header().Set("Grpc-Status", "0")
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if code, err := strconv.Atoi(r.URL.Query().Get("_status")); err == nil {
			w.WriteHeader(code)
		}
		if lines, err := strconv.Atoi(r.URL.Query().Get("_stream")); err == nil {
			for i := range lines {
				if _, err := fmt.Fprintf(w, "{\"line\":%d}\n", i); err != nil {
					return
				}
				w.(http.Flusher).Flush()
				time.Sleep(100 * time.Millisecond)
			}
			return
		}
		json.NewEncoder(w).Encode(s)
	})
	server := http.Server{Addr: *listen, Handler: mux, Protocols: both()}
	log.Fatal(server.ListenAndServe())
}

type headers []string

func (h *headers) String() string     { return strings.Join(*h, ", ") }
func (h *headers) Set(s string) error { *h = append(*h, s); return nil }

func get(args []string) {
	f := flag.NewFlagSet("get", flag.ExitOnError)
	body := f.String("d", "", "body; makes it a POST")
	timeout := f.Duration("t", 5*time.Second, "time for the whole answer")
	quiet := f.Bool("q", false, "print the body only")
	var extra headers
	f.Var(&extra, "H", "header")
	f.Parse(args)
	method := "GET"
	if *body != "" {
		method = "POST"
	}
	q, err := http.NewRequest(method, f.Arg(0), strings.NewReader(*body))
	fail(err)
	for _, h := range extra {
		k, v, _ := strings.Cut(h, ":")
		q.Header.Set(k, strings.TrimSpace(v))
	}
	r, err := (&http.Client{Timeout: *timeout}).Do(q)
	fail(err)
	if !*quiet {
		fmt.Println(r.Proto, r.Status)
		r.Header.Write(os.Stdout)
		fmt.Println()
	}
	_, err = io.Copy(os.Stdout, r.Body)
	fail(err)
	if r.StatusCode/100 != 2 {
		os.Exit(22)
	}
}

// many asks a URL N times, each time over a new connection, and tells how many were not answered 200.
func many(args []string) {
	f := flag.NewFlagSet("many", flag.ExitOnError)
	n := f.Int("n", 100, "requests")
	f.Parse(args)
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	failed, last := 0, ""
	for range *n {
		r, err := client.Get(f.Arg(0))
		if err != nil {
			failed, last = failed+1, err.Error()
			continue
		}
		io.Copy(io.Discard, r.Body)
		r.Body.Close()
		if r.StatusCode != 200 {
			failed, last = failed+1, fmt.Sprint(r.Status, " ", r.Header)
		}
	}
	fmt.Printf("asked=%d failed=%d last=%q\n", *n, failed, last)
}

func grpc(args []string) {
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, "POST", args[0], bytes.NewReader(make([]byte, 5)))
	fail(err)
	q.Header.Set("Content-Type", "application/grpc")
	q.Header.Set("Te", "trailers")
	r, err := (&http.Client{Transport: transport}).Do(q)
	fail(err)
	n, err := io.Copy(io.Discard, r.Body)
	fail(err)
	status := r.Trailer.Get("Grpc-Status")
	if status == "" {
		status = r.Header.Get("Grpc-Status")
	}
	fmt.Printf("%s %s grpc-status=%s grpc-message=%q body_bytes=%d\n", r.Proto, r.Status, status, r.Header.Get("Grpc-Message"), n)
	if status != "0" {
		os.Exit(22)
	}
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "failed:", err)
		os.Exit(1)
	}
}
