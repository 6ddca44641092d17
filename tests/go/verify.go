// Says whether Go's own verifier believes a certificate: `go run verify.go CHAIN ROOTS`, both
// in PEM, the chain with the leaf first.
package main

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log"
	"os"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: verify CHAIN ROOTS")
	}
	chain, err := os.ReadFile(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	roots, err := os.ReadFile(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	block, rest := pem.Decode(chain)
	if block == nil {
		log.Fatal("the chain is not PEM")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		log.Fatal(err)
	}
	options := x509.VerifyOptions{
		Roots:         x509.NewCertPool(),
		Intermediates: x509.NewCertPool(),
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if !options.Roots.AppendCertsFromPEM(roots) {
		log.Fatal("the roots are not PEM")
	}
	options.Intermediates.AppendCertsFromPEM(rest)
	if _, err := leaf.Verify(options); err != nil {
		fmt.Println("not believed")
		fmt.Fprintln(os.Stderr, err)
		return
	}
	fmt.Println("believed")
}
