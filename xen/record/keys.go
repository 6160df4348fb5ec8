package record

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
)

// keyLog takes from the lines of a key log (RFC 9850) the two secrets that what
// follows the handshake is protected by.
type keyLog struct{ client, server []byte }

func (l *keyLog) Write(line []byte) (int, error) {
	words := bytes.Fields(line)
	if len(words) != 3 {
		return len(line), nil
	}
	secret, err := hex.AppendDecode(nil, words[2])
	if err != nil {
		return 0, err
	}
	switch string(words[0]) {
	case "CLIENT_TRAFFIC_SECRET_0":
		l.client = secret
	case "SERVER_TRAFFIC_SECRET_0":
		l.server = secret
	}
	return len(line), nil
}

// suite is a cipher suite of TLS 1.3, RFC 8446 appendix B.4.
type suite struct {
	hash func() hash.Hash
	key  int // its size
	aead func(key []byte) (protection, error)
}

func newSuite(id uint16) (suite, error) {
	switch id {
	case tls.TLS_AES_128_GCM_SHA256:
		return suite{sha256.New, 16, newAESGCM}, nil
	case tls.TLS_AES_256_GCM_SHA384:
		return suite{sha512.New384, 32, newAESGCM}, nil
	case tls.TLS_CHACHA20_POLY1305_SHA256:
		return suite{sha256.New, 32, newChaCha}, nil
	}
	return suite{}, fmt.Errorf("tls: cipher suite %s is not one of TLS 1.3", tls.CipherSuiteName(id))
}

// protection seals and opens records: an AEAD of RFC 5116 with a nonce of 12
// bytes and a tag of 16.
type protection interface {
	// seal appends content and typ to dst, encrypted, and the tag. dst has room
	// for them.
	seal(dst []byte, nonce *[12]byte, header, content []byte, typ byte) []byte
	// open decrypts sealed to dst, which is shorter by the tag and by one byte,
	// and returns that byte. dst may be the beginning of sealed, which is lost
	// in any case. What is in dst is good only if there is no error.
	open(dst []byte, nonce *[12]byte, header, sealed []byte) (last byte, err error)
}

// errTag: not what was sealed.
var errTag = fmt.Errorf("%w: what has come is not what was sent", ErrRecord)

// keys protect one direction of a connection.
type keys struct {
	suite
	secret []byte
	protection
	iv    [12]byte
	nonce [12]byte
	seq   uint64 // of the next record
}

func newKeys(s suite, secret []byte) (keys, error) {
	k := keys{suite: s, secret: secret}
	if len(secret) != s.hash().Size() {
		return k, errors.New("tls: the handshake has told no key")
	}
	return k, k.derive()
}

// derive makes the keys of the secret, RFC 8446 section 7.3.
func (k *keys) derive() error {
	key, err := k.expand("key", k.suite.key)
	if err != nil {
		return err
	}
	iv, err := k.expand("iv", len(k.iv))
	if err != nil {
		return err
	}
	copy(k.iv[:], iv)
	k.seq = 0
	k.protection, err = k.suite.aead(key)
	return err
}

// update makes the next secret and its keys, RFC 8446 section 7.2.
func (k *keys) update() error {
	next, err := k.expand("traffic upd", len(k.secret))
	if err != nil {
		return err
	}
	k.secret = next
	return k.derive()
}

// expand is HKDF-Expand-Label with an empty context, RFC 8446 section 7.1.
func (k *keys) expand(label string, n int) ([]byte, error) {
	label = "tls13 " + label
	info := binary.BigEndian.AppendUint16(nil, uint16(n))
	info = append(append(append(info, byte(len(label))), label...), 0)
	return hkdf.Expand(k.suite.hash, k.secret, string(info), n)
}

// next returns the nonce of the next record, RFC 8446 section 5.3.
func (k *keys) next() *[12]byte {
	k.nonce = k.iv
	tail := k.nonce[4:]
	binary.BigEndian.PutUint64(tail, binary.BigEndian.Uint64(tail)^k.seq)
	k.seq++
	return &k.nonce
}
