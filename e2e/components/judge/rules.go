package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"math/big"
	"strings"
)

var (
	oidSki   = asn1.ObjectIdentifier{2, 5, 29, 14}
	oidUsage = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidSan   = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidBasic = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidAki   = asn1.ObjectIdentifier{2, 5, 29, 35}
	oidEku   = asn1.ObjectIdentifier{2, 5, 29, 37}
)

// The rules of docs/certificates.md, asked of what Go's parser read.
func rules(role string, own *x509.Certificate, issuers []*x509.Certificate, said *complaints) {
	want := func(kept bool, rule string) {
		if !kept {
			said.add("rules", "%s", rule)
		}
	}
	want(own.Version == 3, "version 3")
	want(own.SerialNumber.Sign() > 0, "the serial number is positive")
	want(own.SerialNumber.BitLen() >= 64 && own.SerialNumber.BitLen() < 160, "the serial number has 64 to 159 bits")
	want(len(own.Issuer.Names) > 0, "the issuer has a name")
	for _, name := range append(own.Subject.Names, own.Issuer.Names...) {
		value, ok := name.Value.(string)
		want(ok && value != "", "no part of a name is empty")
	}
	allowed := []asn1.ObjectIdentifier{oidSki, oidUsage, oidBasic}
	switch role {
	case "root":
		authority(own, want)
		want(own.MaxPathLen == -1, "a root has no path length")
		want(bytes.Equal(own.RawIssuer, own.RawSubject), "a root is self-signed")
		want(own.CheckSignature(own.SignatureAlgorithm, own.RawTBSCertificate, own.Signature) == nil, "a root signs itself")
	case "intermediate":
		authority(own, want)
		want(own.MaxPathLen == 0 && own.MaxPathLenZero, "an intermediate has path length 0")
		allowed = append(allowed, oidAki)
	default:
		allowed = append(allowed, oidAki, oidSan, oidEku)
		endEntity(role, own, want)
	}
	if role != "root" {
		pointer(own, issuers, want)
	}
	for _, extension := range own.Extensions {
		known := false
		for _, id := range allowed {
			known = known || extension.Id.Equal(id)
		}
		want(known, "no extension beyond those of its kind ("+extension.Id.String()+")")
	}
	for _, id := range allowed {
		_, found := critical(own, id)
		want(found, "the extension "+id.String()+" is there")
	}
	isCritical, _ := critical(own, oidUsage)
	want(isCritical, "the key usage is critical")
	isCritical, _ = critical(own, oidSki)
	want(!isCritical && len(own.SubjectKeyId) > 0, "there is a subject key identifier, and it is not critical")
}

func authority(own *x509.Certificate, want func(bool, string)) {
	isCritical, _ := critical(own, oidBasic)
	want(own.IsCA && isCritical, "a CA says so, critically")
	want(own.KeyUsage == x509.KeyUsageCertSign|x509.KeyUsageCRLSign, "a CA signs certificates and revocation lists and nothing else")
	want(len(own.Subject.Names) > 0, "a CA has a name")
}

func endEntity(role string, own *x509.Certificate, want func(bool, string)) {
	want(own.BasicConstraintsValid && !own.IsCA, "an end entity says that it is no CA")
	_, isEc := own.PublicKey.(*ecdsa.PublicKey)
	_, isRsa := own.PublicKey.(*rsa.PublicKey)
	want(isEc || isRsa, "the key is ECDSA or RSA")
	usage := x509.KeyUsageDigitalSignature
	if isRsa {
		usage |= x509.KeyUsageKeyEncipherment
	}
	want(own.KeyUsage == usage, "the key usage is digitalSignature, for RSA with keyEncipherment")
	isCritical, _ := critical(own, oidEku)
	want(!isCritical, "the extended key usage is not critical")
	isCritical, _ = critical(own, oidSan)
	want(isCritical == (len(own.Subject.Names) == 0), "the alternative name is critical when there is no subject, and only then")
	want(len(own.EmailAddresses) == 0, "no mail address among the names")
	want(len(own.Subject.Names) == 0, "an end entity has no subject")
	want(len(own.URIs) == 1 && len(own.IPAddresses) == 0, "there is one SPIFFE ID among the names")
	for _, uri := range own.URIs {
		parts := strings.Split(uri.Path, "/")
		want(uri.Scheme == "spiffe" && len(parts) == 5 && parts[1] == "ns" && parts[3] == "sa", "a SPIFFE ID is spiffe://<domain>/ns/<ns>/sa/<sa>")
	}
	want((len(own.DNSNames) > 0) == (role == "server"), "a server has DNS names, a workload has none")
	want(purposes(own, x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth), "the purposes are TLS server and client, and nothing else")
}

func purposes(own *x509.Certificate, wanted ...x509.ExtKeyUsage) bool {
	found := map[x509.ExtKeyUsage]bool{}
	for _, usage := range own.ExtKeyUsage {
		found[usage] = true
	}
	same := len(own.UnknownExtKeyUsage) == 0 && len(found) == len(wanted)
	for _, usage := range wanted {
		same = same && found[usage]
	}
	return same
}

func pointer(own *x509.Certificate, issuers []*x509.Certificate, want func(bool, string)) {
	isCritical, found := critical(own, oidAki)
	want(found && !isCritical && len(own.AuthorityKeyId) > 0, "there is an authority key identifier, and it is not critical")
	pointed := false
	for _, issuer := range issuers {
		if own.CheckSignatureFrom(issuer) == nil {
			// a CA that others made may have no identifier to point at
			same := len(issuer.SubjectKeyId) == 0 || bytes.Equal(own.AuthorityKeyId, issuer.SubjectKeyId)
			pointed = pointed || (same && bytes.Equal(own.RawIssuer, issuer.RawSubject))
		}
	}
	want(pointed, "it names its issuer and points at its key identifier")
}

func critical(own *x509.Certificate, id asn1.ObjectIdentifier) (isCritical, found bool) {
	for _, extension := range own.Extensions {
		if extension.Id.Equal(id) {
			return extension.Critical, true
		}
	}
	return false, false
}

func listRules(own *x509.RevocationList, issuer *x509.Certificate, said *complaints) {
	want := func(kept bool, rule string) {
		if !kept {
			said.add("rules", "%s", rule)
		}
	}
	want(own.Number != nil && own.Number.Sign() >= 0 && own.Number.BitLen() < 160, "a list has a number of at most 20 octets")
	want(!own.NextUpdate.IsZero(), "a list says when the next one comes")
	want(len(own.AuthorityKeyId) > 0, "a list has an authority key identifier")
	if issuer != nil && len(issuer.SubjectKeyId) > 0 {
		want(bytes.Equal(own.AuthorityKeyId, issuer.SubjectKeyId), "a list points at the key of its issuer")
	}
	for _, extension := range own.Extensions {
		want(!extension.Critical, "no extension of a list is critical: it is complete, not a part")
	}
	seen := map[string]bool{}
	for _, entry := range own.RevokedCertificateEntries {
		serial := entry.SerialNumber.String()
		want(!seen[serial], "a serial number stands in a list once")
		seen[serial] = true
		want(!entry.RevocationTime.After(own.ThisUpdate), "nothing is revoked in the future")
	}
}

// Certificates of one issuer: no serial number is given twice.
func siblings(ders [][]byte, said *complaints) {
	seen := map[string]*big.Int{}
	for _, der := range ders {
		own, err := x509.ParseCertificate(der)
		if err != nil {
			said.add("go", "parse: %v", err)
			continue
		}
		key := string(own.RawIssuer) + own.SerialNumber.String()
		if _, twice := seen[key]; twice {
			said.add("rules", "a serial number is given once (%x)", own.SerialNumber)
		}
		seen[key] = own.SerialNumber
	}
}
