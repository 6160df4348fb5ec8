package xen

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// PipeOptions says how the pages travel.
type PipeOptions struct {
	// Connections is the number of data connections, 1 to MaxConnections; 0
	// is as many as help. DataControl has none.
	Connections int
	Compress    Compression // default: chosen by what is measured
	Skip        *SkipRule   // nil: DefaultSkip
	RateLimit   *RateLimit  // of the data connections together; nil is none
	Bind        net.IP      // local address of the data connections; nil: any
	Address     net.IP      // where they go; nil: to the addresses that the destination names
}

// The connections that are opened unless a number is asked for: half as many
// as this host has cores, so that its guests keep the others. Two at least, as
// one cannot fill a fast link; and no more than help any link.
const (
	autoConnectionsLeast = 2
	autoConnectionsMost  = 8
)

func (p *PipeOptions) connections() int {
	if p.Connections > 0 {
		return min(p.Connections, MaxConnections)
	}
	return min(max(runtime.NumCPU()/2, autoConnectionsLeast), autoConnectionsMost)
}

// targets returns where to connect to, given the destination's addresses. If
// one was asked for, it is the only one, with the port that the others have.
func (p *PipeOptions) targets(named []string) []string {
	if p.Address == nil {
		return named
	}
	var out []string
	for _, addr := range named {
		_, port, err := net.SplitHostPort(addr)
		target := net.JoinHostPort(p.Address.String(), port)
		if err == nil && !slices.Contains(out, target) {
			out = append(out, target)
		}
	}
	return out
}

// describeLink says where a data connection goes, and over which interface of
// this host: who sees the wrong one there can choose with Bind and Address.
func describeLink(conn net.Conn) string {
	text := conn.RemoteAddr().String()
	local, ok := conn.LocalAddr().(*net.TCPAddr)
	if !ok {
		return text
	}
	name := interfaceOf(local.IP)
	if name == "" {
		return text
	}
	if speed := interfaceSpeed(name); speed != "" {
		name += ", " + speed
	}
	return fmt.Sprintf("%s (%s)", text, name)
}

// interfaceOf returns the name of the interface that has the address, or "".
func interfaceOf(ip net.IP) string {
	interfaces, err := net.Interfaces()
	if err != nil {
		return ""
	}
	for _, i := range interfaces {
		addrs, err := i.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addrs {
			if network, ok := a.(*net.IPNet); ok && network.IP.Equal(ip) {
				return i.Name
			}
		}
	}
	return ""
}

// interfaceSpeed returns what the kernel says of the link, "" if it does not know.
func interfaceSpeed(name string) string {
	text, err := os.ReadFile(filepath.Join("/sys/class/net", name, "speed"))
	if err != nil {
		return ""
	}
	mbits, err := strconv.Atoi(strings.TrimSpace(string(text)))
	switch {
	case err != nil || mbits <= 0:
		return ""
	case mbits%1000 == 0:
		return fmt.Sprintf("%d Gbit/s", mbits/1000)
	}
	return fmt.Sprintf("%d Mbit/s", mbits)
}
