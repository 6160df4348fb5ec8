package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/xenferry/xenferry/scripts/lab/xfg"
)

// maxFlows bounds what is kept: a lab never runs so many guests.
const maxFlows = 1000

// echoEvery is of how many packets one is answered.
const echoEvery = 10

// server hears packets and keeps what it heard.
type server struct {
	conn *net.UDPConn
	mu   sync.Mutex
	st   xfg.State
}

func serve() error {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{Port: xfg.ListenPort})
	if err != nil {
		return err
	}
	if err := stampPackets(conn); err != nil {
		return err
	}
	if err := os.Remove(socketPath); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	questions, err := net.Listen("unix", socketPath)
	if err != nil {
		return err
	}
	s := &server{conn: conn, st: xfg.State{SinceMs: time.Now().UnixMilli()}}
	ended := make(chan error, 2)
	go func() { ended <- s.hear() }()
	go func() { ended <- s.answer(questions) }()
	return <-ended
}

// stampPackets makes the kernel note when each packet came, so that it does
// not matter when this program gets to run.
func stampPackets(conn *net.UDPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
		// Room for a few seconds of many guests; less is harmless.
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 1<<20)
	})
	return errors.Join(err, failed)
}

// hear counts packets until the socket fails.
func (s *server) hear() error {
	buf, control := make([]byte, 2*xfg.PacketSize), make([]byte, 256)
	for {
		n, c, _, from, err := s.conn.ReadMsgUDPAddrPort(buf, control)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		p, err := xfg.ParsePacket(buf[:n])
		if err != nil {
			continue // anyone may send anything
		}
		at := stamp(control[:c])
		switch p.Kind {
		case xfg.KindBeat:
			s.add(&p, from.Addr().Unmap().String(), at)
			if p.N%echoEvery == 0 {
				s.send(xfg.Packet{Kind: xfg.KindEcho, ID: p.ID, N: p.N}, netip.AddrPortFrom(from.Addr(), xfg.GuestPort))
			}
		case xfg.KindClock:
			s.send(xfg.Packet{Kind: xfg.KindClocks, ID: p.ID, N: p.N, Clock: at.UnixNano()}, from)
		}
	}
}

// send sends a packet. One that is lost here is as one lost under way.
func (s *server) send(p xfg.Packet, to netip.AddrPort) {
	_, _ = s.conn.WriteToUDPAddrPort(p.Append(nil), to)
}

func (s *server) add(p *xfg.Packet, from string, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.st.Flow(xfg.FormatID(p.ID))
	if f == nil {
		if len(s.st.Flows) == maxFlows {
			return
		}
		f = &xfg.Flow{}
		s.st.Flows = append(s.st.Flows, f)
	}
	f.Add(p, from, at)
}

// stamp returns when the kernel got a packet, from its control message.
func stamp(control []byte) time.Time {
	messages, err := unix.ParseSocketControlMessage(control)
	if err == nil {
		for _, m := range messages {
			if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= int(unsafe.Sizeof(syscall.Timespec{})) {
				ts := (*syscall.Timespec)(unsafe.Pointer(&m.Data[0]))
				return time.Unix(ts.Sec, ts.Nsec)
			}
		}
	}
	return time.Now()
}

// answer answers questions on the unix socket until it is told to quit.
func (s *server) answer(l net.Listener) error {
	defer l.Close()
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		quit, err := s.answerOne(conn)
		if err != nil {
			fmt.Fprintln(os.Stderr, "listen: a question:", err)
		}
		if quit {
			return nil
		}
	}
}

func (s *server) answerOne(conn net.Conn) (quit bool, err error) {
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(askTimeout)); err != nil {
		return false, err
	}
	question, err := bufio.NewReaderSize(conn, 64).ReadString('\n')
	if err != nil {
		return false, err
	}
	word, id, _ := strings.Cut(strings.TrimSpace(question), " ")
	switch word {
	case "sweep":
		return false, s.sweep(id)
	case "quit":
		return true, s.conn.Close() // first, so that the port is free when the asker goes on
	}
	s.mu.Lock()
	s.st.NowMs = time.Now().UnixMilli()
	out, err := json.Marshal(&s.st)
	if word == "mark" {
		s.mark()
	}
	s.mu.Unlock()
	if err != nil {
		return false, err
	}
	_, err = conn.Write(append(out, '\n'))
	return false, err
}

// mark begins to count anew.
func (s *server) mark() {
	s.st.SinceMs = s.st.NowMs
	for i, f := range s.st.Flows {
		s.st.Flows[i] = f.Next()
	}
}

// sweep asks a guest to verify its memory. It may ask in vain: packets get lost.
func (s *server) sweep(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.st.Flow(id)
	if f == nil {
		return fmt.Errorf("no guest %.32q was heard", id)
	}
	to, err := netip.ParseAddr(f.From)
	if err != nil {
		return err
	}
	number, err := strconv.ParseUint(f.ID, 16, 64)
	if err != nil {
		return err
	}
	s.send(xfg.Packet{Kind: xfg.KindSweep, ID: number}, netip.AddrPortFrom(to, xfg.GuestPort))
	return nil
}
