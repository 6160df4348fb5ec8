// Package xen is the engine of xenferry: it moves a running guest from one
// host to another.
//
// The engine knows a host only through the interfaces [Host], [Domain] and
// [Incoming]. Package xen/xl implements them with libxenlight and libxenctrl
// on a real Xen host, package xen/sim with Linux processes. Both pass the
// suite in xen/conformance.
//
// A migration is two flat lists of phases, one an end: see source.go and
// destination.go. They speak over one control connection (link.go) and N data
// connections (stream.go); the bytes of both are frames of package savefmt.
// Pages go from sender.go through the lanes of lane.go to receiver.go;
// controller.go chooses how they are encoded.
// panel.go shows how far a migration is to other programs of this host, and
// tunable.go is what they may change.
// Which side may run the guest is decided by the transition tables of package
// fallback, nowhere else; what of it outlives this process is in protect.go,
// ask.go and recover.go.
package xen
