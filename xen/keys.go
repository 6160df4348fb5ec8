package xen

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"net"
	"time"

	"github.com/xenferry/xenferry/xen/record"
)

// keyPair is the TLS identity of one end for one migration. The other end
// knows its fingerprint from the control connection: no certificate authority
// is involved, and none is asked.
type keyPair struct {
	cert        tls.Certificate
	fingerprint string // SHA-256 of the certificate, hex
}

// newKeyPair makes a fresh Ed25519 key and a certificate for it.
func newKeyPair() (*keyPair, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a key for this migration: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Unix(0, 0), // hosts' clocks may differ; the pin is what counts
		NotAfter:     time.Unix(1<<33, 0),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		return nil, fmt.Errorf("making a certificate for this migration: %w", err)
	}
	sum := sha256.Sum256(der)
	return &keyPair{
		cert:        tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private},
		fingerprint: hex.EncodeToString(sum[:]),
	}, nil
}

func (k *keyPair) config(peer string) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		Certificates:       []tls.Certificate{k.cert},
		ClientAuth:         tls.RequireAnyClientCert,
		InsecureSkipVerify: true, // replaced by the pin in VerifyConnection
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 {
				return errors.New("the other end showed no key")
			}
			sum := sha256.Sum256(s.PeerCertificates[0].Raw)
			if subtle.ConstantTimeCompare([]byte(hex.EncodeToString(sum[:])), []byte(peer)) != 1 {
				return errors.New("the other end has another key than the one named over the control connection")
			}
			return nil
		},
	}
}

func (k *keyPair) client(ctx context.Context, conn net.Conn, peer string) (net.Conn, error) {
	return netConn(record.Client(ctx, conn, k.config(peer)))
}

// server reads TLS in the way of a connReader, where conn is TCP.
func (k *keyPair) server(ctx context.Context, conn net.Conn, peer string) (net.Conn, error) {
	if c := newConnReader(conn); c != nil {
		conn = c
	}
	return netConn(record.Server(ctx, conn, k.config(peer)))
}

// netConn: a nil *record.Conn would be no nil net.Conn.
func netConn(c *record.Conn, err error) (net.Conn, error) {
	if err != nil {
		return nil, err
	}
	return c, nil
}

// newToken returns 256 random bits as text.
func newToken() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// newID returns the id of a migration: 128 random bits, hex.
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
