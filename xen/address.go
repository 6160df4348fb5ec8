package xen

import (
	"fmt"
	"net"
	"slices"
	"strconv"
)

// addresses returns where the source can reach a port here, best first.
func addresses(opts DestinationOptions, port int) ([]string, error) {
	ips := opts.Listen
	if len(ips) == 0 {
		var err error
		if ips, err = interfaceIPs(); err != nil {
			return nil, fmt.Errorf("listing this host's addresses: %w", err)
		}
	}
	if i := slices.IndexFunc(ips, opts.Prefer.Equal); i > 0 {
		ips = slices.Insert(slices.Delete(ips, i, i+1), 0, opts.Prefer)
	}
	var out []string
	for _, ip := range ips {
		out = append(out, net.JoinHostPort(ip.String(), strconv.Itoa(port)))
	}
	return out, nil
}

// interfaceIPs returns the addresses of the interfaces that are up, loopback
// last: it is right only when a guest moves to the host that it is on.
func interfaceIPs() ([]net.IP, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var ips, loopback []net.IP
	for _, a := range all {
		network, ok := a.(*net.IPNet)
		switch {
		case !ok || network.IP.IsLinkLocalUnicast():
		case network.IP.IsLoopback():
			loopback = append(loopback, network.IP)
		default:
			ips = append(ips, network.IP)
		}
	}
	return append(ips, loopback...), nil
}
