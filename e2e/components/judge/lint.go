package main

import (
	zx509 "github.com/zmap/zcrypto/x509"
	"github.com/zmap/zlint/v3"
	"github.com/zmap/zlint/v3/lint"
)

// What the RFCs say, and what the linter's community learnt. The rules of browsers and of the public web's CAs do not apply to a mesh.
var sources = lint.SourceList{lint.RFC3279, lint.RFC5280, lint.RFC5480, lint.RFC8813, lint.Community}

// Findings that are wrong or do not apply, each with the reason.
var excused = map[string]string{}

func registry() lint.Registry {
	chosen, err := lint.GlobalRegistry().Filter(lint.FilterOptions{IncludeSources: sources})
	if err != nil {
		fail("failed to choose lints: %v", err)
	}
	return chosen
}

func lintCertificate(der []byte, said *complaints) {
	parsed, err := zx509.ParseCertificate(der)
	if err != nil {
		said.add("zlint", "parse: %v", err)
		return
	}
	report(zlint.LintCertificateEx(parsed, registry()), said)
}

func lintList(der []byte, said *complaints) {
	parsed, err := zx509.ParseRevocationList(der)
	if err != nil {
		said.add("zlint", "parse: %v", err)
		return
	}
	report(zlint.LintRevocationListEx(parsed, registry()), said)
}

func report(results *zlint.ResultSet, said *complaints) {
	ran := 0
	for name, result := range results.Results {
		if result.Status >= lint.Pass {
			ran++
		}
		if _, ok := excused[name]; !ok && result.Status >= lint.Notice {
			said.add("zlint", "%s", name)
		}
	}
	if ran == 0 {
		fail("zlint ran no lint")
	}
}
