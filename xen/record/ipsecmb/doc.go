// Package ipsecmb does AES-128-GCM by Intel's Multi-Buffer Crypto for IPsec Library
// (libipsec-mb), through cgo: it uses the processor's widest AES instructions,
// on AMD's processors too. Package record takes it in the place of Go's library
// where both the build tag ipsecmb and cgo are set. Without them nothing is in
// here.
//
// Its contents are one piece and a byte behind it, as those of a record of TLS
// 1.3 are, so that nobody has to copy the piece to where the byte can follow.
package ipsecmb
