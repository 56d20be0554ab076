// vmauth is a stand-in for the vmauth of a kof region (VictoriaMetrics' own, in a version that can
// drop path prefixes, is not to be had here). It serves the routes kof's VMUsers describe:
//
//	/vm/insert/0/...  and  /vm/select/0/...     the real VictoriaMetrics, prefix dropped
//	/vli /vlai /vls /vlas /vti /vts             the echo server, prefix kept: a stand-in for
//	                                            VictoriaLogs and VictoriaTraces
//	gRPC /opentelemetry.proto.collector...      the echo server
//
// Any other path is 400, as vmauth answers for a missing route. HTTP/1.1 and HTTP/2 without TLS.
package main

import (
	"flag"
	"fmt"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
)

type route struct {
	prefix, replace string
	to              *httputil.ReverseProxy
}

func proxy(target string, http2 bool) *httputil.ReverseProxy {
	u, err := url.Parse(target)
	if err != nil {
		log.Fatal(err)
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}
	if http2 {
		transport.Protocols = new(http.Protocols)
		transport.Protocols.SetUnencryptedHTTP2(true)
	}
	return &httputil.ReverseProxy{
		Transport:     transport,
		FlushInterval: -1, // long answers of logs and traces stream
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(u)
			r.Out.Header["X-Forwarded-For"] = r.In.Header["X-Forwarded-For"]
			r.SetXForwarded()
		},
	}
}

func main() {
	listen := flag.String("listen", ":8427", "address to serve on")
	metrics := flag.String("metrics", "http://victoria-metrics:8428", "URL of VictoriaMetrics")
	echo := flag.String("echo", "http://echo:8080", "URL of the echo server")
	flag.Parse()
	vm, web, grpc := proxy(*metrics, false), proxy(*echo, false), proxy(*echo, true)
	routes := []route{
		{"/vm/insert/0/", "/", vm}, {"/vm/select/0/", "/", vm},
		{"/vli/", "/vli/", web}, {"/vlai/", "/vlai/", web}, {"/vls/", "/vls/", web},
		{"/vlas/", "/vlas/", web}, {"/vti/", "/vti/", web}, {"/vts/", "/vts/", web},
		{"/opentelemetry.proto.collector.", "/opentelemetry.proto.collector.", grpc},
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/health" {
			fmt.Fprintln(w, "OK")
			return
		}
		for _, x := range routes {
			if rest, ok := strings.CutPrefix(r.URL.Path, x.prefix); ok {
				r.URL.Path, r.URL.RawPath = x.replace+rest, ""
				x.to.ServeHTTP(w, r)
				return
			}
		}
		http.Error(w, "missing route for "+r.URL.Path, http.StatusBadRequest)
	})
	server := http.Server{Addr: *listen, Handler: handler, Protocols: new(http.Protocols)}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	log.Fatal(server.ListenAndServe())
}
