/*
 * Xen's own writer and reader of a libxc stream, with callbacks into Go. Each
 * has a connection to the hypervisor of its own, whose log is that of the one
 * stream.
 */
#ifndef XENFERRY_STREAM_H
#define XENFERRY_STREAM_H

#include "shim.h"

/* What Xen has told the loader (restore_results). */
struct xf_results {
	uint64_t store_gfn, console_gfn;
};

int xf_save_stream(uintptr_t calls, int fd, uint32_t domid, uint32_t flags);
int xf_load_stream(uintptr_t calls, int fd, uint32_t domid,
		   uint32_t store_port, uint32_t store_domid,
		   uint32_t console_port, uint32_t console_domid,
		   struct xf_results *results);

#endif
