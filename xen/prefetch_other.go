//go:build !amd64

package xen

func prefetch(*byte) {}
