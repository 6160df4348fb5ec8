/*
 * What Go cannot say itself (libxenctrl's hypercall buffers are macros), and
 * all that differs between the releases of Xen which we build against.
 *
 * Between 4.17 and 4.20 the calls used here have one form. The two that do
 * not (xc_domain_getinfo, gone in 4.18, and its successor) are avoided:
 * xc_domain_getinfolist is in all of them.
 */
#ifndef XENFERRY_SHIM_H
#define XENFERRY_SHIM_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <xenctrl.h>
#include <xenforeignmemory.h>
#include <xenguest.h>
#include <xentoollog.h>
#include <xen/hvm/params.h>

#if XEN_DOMCTL_INTERFACE_VERSION < 0x15 || XEN_DOMCTL_INTERFACE_VERSION > 0x17
#error "xenferry builds against Xen 4.17 to 4.20: install the libxen-dev of one of them"
#endif

_Static_assert(sizeof(xen_cpuid_leaf_t) == 24, "CPUID leaf of the stream");
_Static_assert(sizeof(xen_msr_entry_t) == 16, "MSR entry of the stream");
_Static_assert(sizeof(xen_pfn_t) == sizeof(uint64_t), "pfns are u64");
_Static_assert(XC_PAGE_SIZE == 4096, "page size");

/* The logger: says nothing, as every error reaches the caller as an errno. */
xentoollog_logger *xf_quiet_logger(void);

/* A buffer for the log-dirty bitmap, fit for hypercalls. */
struct xf_bitmap {
	xc_hypercall_buffer_t desc;
	uint64_t *words;
	int nr_pages;
};

int xf_bitmap_alloc(xc_interface *xch, struct xf_bitmap *b, uint64_t bits);
void xf_bitmap_free(xc_interface *xch, struct xf_bitmap *b);

/* CLEAN or PEEK into b. Returns the number of pages covered, or -1. */
long long xf_logdirty(xc_interface *xch, uint32_t domid, unsigned op,
		      struct xf_bitmap *b, uint64_t pages, unsigned mode,
		      xc_shadow_op_stats_t *stats);

/* Stores the type nibble of each of n pfns, at most 1024. */
int xf_page_types(xc_interface *xch, uint32_t domid, uint32_t n,
		  const uint64_t *pfns, uint8_t *types);

#endif
