package sim

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xenferry/xenferry/savefmt"
	"github.com/xenferry/xenferry/xen"
)

// A frame is a u32, little-endian, with the length of the JSON value that
// follows, and up to maxFiles descriptors that travel with the u32.
const (
	maxFrame = 1 << 20
	maxFiles = 4

	// protocolVersion is of request and reply. A host refuses any other.
	protocolVersion = 1
)

// cancelByte follows a request that the client takes back.
const cancelByte = 'c'

// request is what a client asks of a host.
type request struct {
	Version int              `json:"version"`
	Op      string           `json:"op"`
	Domid   uint32           `json:"domid,omitempty"`
	Serial  uint64           `json:"serial,omitempty"` // of the domain, 0 for any
	Name    string           `json:"name,omitempty"`
	UUID    string           `json:"uuid,omitempty"`
	Guest   *GuestConfig     `json:"guest,omitempty"`
	Spec    *xen.Spec        `json:"spec,omitempty"`
	Records []savefmt.Record `json:"records,omitempty"`
}

// reply is the host's answer.
type reply struct {
	Failure *failure         `json:"failure,omitempty"`
	Host    *xen.HostInfo    `json:"host,omitempty"`
	Domains []xen.DomainInfo `json:"domains,omitempty"`
	Domain  *domainRef       `json:"domain,omitempty"`
	Config  *GuestConfig     `json:"config,omitempty"`
	Records []savefmt.Record `json:"records,omitempty"`
	Status  *GuestStatus     `json:"status,omitempty"`

	files []*os.File // that go with it
	done  func()     // called when it has been sent
}

// domainRef names a domain so that no later one of the same id is meant.
type domainRef struct {
	Domid  uint32 `json:"domid"`
	Serial uint64 `json:"serial"`
	Pages  uint64 `json:"pages"`
}

// failure carries an error over a connection.
type failure struct {
	Kind string `json:"kind,omitempty"` // of failureKinds
	Text string `json:"text"`
}

var failureKinds = map[string]error{
	"no-domain":       xen.ErrNoDomain,
	"name-taken":      xen.ErrNameTaken,
	"no-memory":       xen.ErrNoMemory,
	"suspend-refused": xen.ErrSuspendRefused,
	"has-run":         xen.ErrHasRun,
	"unsupported":     xen.ErrUnsupported,
}

func newFailure(err error) *failure {
	f := &failure{Text: err.Error()}
	for kind, sentinel := range failureKinds {
		if errors.Is(err, sentinel) {
			f.Kind = kind
		}
	}
	return f
}

// remoteError is a failure at the client: the host's text, and its kind.
type remoteError struct {
	text string
	kind error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.kind }

func (f *failure) err() error { return &remoteError{f.Text, failureKinds[f.Kind]} }

// sendFrame writes v, and files with it, within limit.
func sendFrame(c *net.UnixConn, v any, files []*os.File, limit time.Duration) error {
	frame, err := encodeFrame(v)
	if err != nil {
		return err
	}
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		rights = unix.UnixRights(fds...)
	}
	if err := c.SetWriteDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	n, _, err := c.WriteMsgUnix(frame, rights, nil)
	if err == nil && n < len(frame) {
		_, err = c.Write(frame[n:])
	}
	return err
}

func encodeFrame(v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	if len(body) > maxFrame {
		return nil, fmt.Errorf("message of %d bytes is longer than %d", len(body), maxFrame)
	}
	frame := binary.LittleEndian.AppendUint32(make([]byte, 0, 4+len(body)), uint32(len(body)))
	return append(frame, body...), nil
}

// receiveFrame reads a frame into v and returns the files that came with it,
// which are the caller's. The deadline is the connection's.
func receiveFrame(c *net.UnixConn, v any) (files []*os.File, err error) {
	defer func() {
		if err != nil {
			closeFiles(files)
			files = nil
		}
	}()
	var head [4]byte
	rights := make([]byte, unix.CmsgSpace(4*maxFiles))
	n, rightsLen, flags, _, err := c.ReadMsgUnix(head[:], rights)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, io.EOF
	}
	files, err = parseRights(rights[:rightsLen])
	if err != nil {
		return files, err
	}
	if flags&unix.MSG_CTRUNC != 0 {
		return files, fmt.Errorf("more than %d descriptors in a message", maxFiles)
	}
	if _, err := io.ReadFull(c, head[n:]); err != nil {
		return files, err
	}
	return files, readBody(c, binary.LittleEndian.Uint32(head[:]), v)
}

func readBody(r io.Reader, size uint32, v any) error {
	if size > maxFrame {
		return fmt.Errorf("message of %d bytes is longer than %d", size, maxFrame)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		return err
	}
	return json.Unmarshal(body, v)
}

// parseRights takes the descriptors out of a control message.
func parseRights(b []byte) (files []*os.File, err error) {
	messages, err := unix.ParseSocketControlMessage(b)
	if err != nil {
		return nil, err
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue // another kind of control message
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, nil
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
