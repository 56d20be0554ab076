// Judges a certificate or a revocation list, for the conformance tests of mesh-ca, with three voices that share no code with it:
// Go's crypto/x509, the linter zlint, and the project's own rules as read by Go's parser.
//
// One complaint a line, `<voice>: <complaint>`; nothing printed means that there is nothing to complain about.
package main

import (
	"encoding/pem"
	"flag"
	"fmt"
	"os"
)

// What is judged, and beside what.
type material struct {
	role    string
	own     []byte
	above   [][]byte
	anchors [][]byte
	lists   [][]byte
	hosts   []string
}

type complaints []string

func (c *complaints) add(voice, format string, args ...any) {
	*c = append(*c, voice+": "+fmt.Sprintf(format, args...))
}

func main() {
	role := flag.String("role", "", "root, intermediate, leaf, server, crl or siblings")
	own := flag.String("own", "", "file with what is judged; several certificates only for siblings")
	above := flag.String("above", "", "file with the certificates between it and an anchor")
	anchors := flag.String("anchors", "", "file with the anchors")
	lists := flag.String("crls", "", "file with the revocation lists")
	flag.Parse()
	all := blocks(*own)
	if len(all) == 0 {
		fail("there is nothing to judge in %q", *own)
	}
	m := material{
		role: *role, own: all[0], above: blocks(*above), anchors: blocks(*anchors), lists: blocks(*lists), hosts: flag.Args(),
	}
	var said complaints
	switch m.role {
	case "siblings":
		siblings(all, &said)
	case "crl":
		list(m, &said)
		lintList(m.own, &said)
	case "root", "intermediate", "leaf", "server":
		certificate(m, &said)
		lintCertificate(m.own, &said)
	default:
		fail("there is no role %q", m.role)
	}
	for _, line := range said {
		fmt.Println(line)
	}
}

func blocks(path string) [][]byte {
	if path == "" {
		return nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		fail("%v", err)
	}
	var found [][]byte
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return found
		}
		found = append(found, block.Bytes)
	}
}

func fail(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	os.Exit(2)
}
