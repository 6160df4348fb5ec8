// Package faults is the fault suite: the real sender, receiver, guardian and
// recovery, in a world of simulated hosts, disks, links and time, in which
// anything may go wrong at any point.
//
// A point is each call of a program to its host, each write and each fsync of
// a journal, each message: before it, and after it. A fault is the death or
// the hanging of a program, the loss of a link or of the whole network, a host
// that loses its power, a disk that fails or is full, a call that fails or that
// says so though it had its effect, a damaged message.
//
// Each run has one or two faults. While it goes on, the guest must never run
// twice, nor at the source once it has run at the destination, and it must run
// with the memory that it was suspended with. At the end it runs exactly once,
// and nothing is left; a source may be in doubt only where the destination
// cannot tell. Time is simulated too (testing/synctest), so that waits cost
// nothing and their length is checked.
//
//	go test ./xen/faults                            a part of everything
//	go test ./xen/faults -all -seeds 10000          all single faults, 10,000 pairs
//	go test ./xen/faults -run Pairs -seed 4711      one pair again, with its trace
//	go test ./xen/faults -run Singles -only LABEL   one single fault again
//
// All of it is in files of tests.
package faults
