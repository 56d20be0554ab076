package main

import (
	"crypto/x509"
	"time"
)

// Go's own word on a certificate: it parses, it is signed by what stands above it, and it is believed for both directions of TLS.
func certificate(m material, said *complaints) {
	own, err := x509.ParseCertificate(m.own)
	if err != nil {
		said.add("go", "parse: %v", err)
		return
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	var issuers []*x509.Certificate
	for _, pool := range []struct {
		ders [][]byte
		into *x509.CertPool
	}{{m.above, between}, {m.anchors, roots}} {
		for _, der := range pool.ders {
			above, err := x509.ParseCertificate(der)
			if err != nil {
				said.add("go", "parse what stands above: %v", err)
				continue
			}
			pool.into.AddCert(above)
			issuers = append(issuers, above)
		}
	}
	if err := signed(own, issuers); err != nil {
		said.add("go", "signature: %v", err)
	}
	for _, usage := range usages(m.role) {
		_, err := own.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{usage}})
		if err != nil {
			said.add("go", "verify for purpose %v: %v", usage, err)
		}
	}
	for _, host := range m.hosts {
		if err := own.VerifyHostname(host); err != nil {
			said.add("go", "%v", err)
		}
	}
	rules(m.role, own, issuers, said)
}

func usages(role string) []x509.ExtKeyUsage {
	switch role {
	case "leaf", "server":
		return []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	default:
		return []x509.ExtKeyUsage{x509.ExtKeyUsageAny}
	}
}

func signed(own *x509.Certificate, issuers []*x509.Certificate) error {
	err := x509.ErrUnsupportedAlgorithm
	for _, issuer := range issuers {
		if err = own.CheckSignatureFrom(issuer); err == nil {
			return nil
		}
	}
	return err
}

// Go's own word on a revocation list.
func list(m material, said *complaints) {
	own, err := x509.ParseRevocationList(m.own)
	if err != nil {
		said.add("go", "parse: %v", err)
		return
	}
	var issuer *x509.Certificate
	err = x509.ErrUnsupportedAlgorithm
	for _, der := range append(m.anchors, m.above...) {
		var above *x509.Certificate
		if above, err = x509.ParseCertificate(der); err != nil {
			continue
		}
		if err = own.CheckSignatureFrom(above); err == nil {
			issuer = above
			break
		}
	}
	if issuer == nil {
		said.add("go", "signature: %v", err)
	}
	now := time.Now()
	if own.ThisUpdate.After(now) || (!own.NextUpdate.IsZero() && own.NextUpdate.Before(now)) {
		said.add("go", "it is for %v to %v", own.ThisUpdate, own.NextUpdate)
	}
	listRules(own, issuer, said)
}
