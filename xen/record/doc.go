// Package record protects what a TLS 1.3 connection carries (RFC 8446, sections
// 5 and 7) once crypto/tls has made the handshake. It is here because crypto/tls
// handles the contents of a connection record by record, of 16 KiB each, and
// copies each several times, while pages come and go by the MiB: Conn takes the
// pieces of a frame from where they are, and puts what it reads where it
// belongs. On the wire it is TLS 1.3, and the other end may be any that speaks it.
//
// The handshake, its certificates and its ciphers are those of crypto/tls, which
// tells the keys by tls.Config.KeyLogWriter. AES-GCM is done by Go's library or,
// with the build tag ipsecmb, by package ipsecmb.
package record
