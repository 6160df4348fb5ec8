//go:build xen

#include "shim.h"

static void quiet_vmessage(xentoollog_logger *logger, xentoollog_level level,
			   int errnoval, const char *context,
			   const char *format, va_list al)
{
}

static void quiet_destroy(xentoollog_logger *logger)
{
}

xentoollog_logger *xf_quiet_logger(void)
{
	static xentoollog_logger quiet = {
		.vmessage = quiet_vmessage,
		.destroy = quiet_destroy,
	};

	return &quiet;
}

int xf_bitmap_alloc(xc_interface *xch, struct xf_bitmap *b, uint64_t bits)
{
	DECLARE_HYPERCALL_BUFFER(uint64_t, words);
	uint64_t bytes = (bits + 63) / 64 * 8;
	int nr_pages = (bytes + XC_PAGE_SIZE - 1) / XC_PAGE_SIZE;

	words = xc_hypercall_buffer_alloc_pages(xch, words, nr_pages);
	if (!words) {
		errno = ENOMEM;
		return -1;
	}
	b->desc = *HYPERCALL_BUFFER(words);
	b->words = words;
	b->nr_pages = nr_pages;
	return 0;
}

void xf_bitmap_free(xc_interface *xch, struct xf_bitmap *b)
{
	xc__hypercall_buffer_free_pages(xch, &b->desc, b->nr_pages);
	b->words = NULL;
}

long long xf_logdirty(xc_interface *xch, uint32_t domid, unsigned op,
		      struct xf_bitmap *b, uint64_t pages, unsigned mode,
		      xc_shadow_op_stats_t *stats)
{
	return xc_logdirty_control(xch, domid, op, b ? &b->desc : NULL, pages,
				   mode, stats);
}

int xf_page_types(xc_interface *xch, uint32_t domid, uint32_t n,
		  const uint64_t *pfns, uint8_t *types)
{
	DECLARE_HYPERCALL_BUFFER(xen_pfn_t, array);
	struct xen_domctl domctl = {
		.cmd = XEN_DOMCTL_getpageframeinfo3,
		.domain = domid,
	};
	int rc, saved;

	array = xc_hypercall_buffer_alloc(xch, array, n * sizeof(*array));
	if (!array) {
		errno = ENOMEM;
		return -1;
	}
	memcpy(array, pfns, n * sizeof(*array));

	domctl.u.getpageframeinfo3.num = n;
	set_xen_guest_handle(domctl.u.getpageframeinfo3.array, array);
	rc = xc_domctl(xch, &domctl);
	saved = errno;
	if (!rc)
		for (uint32_t i = 0; i < n; i++)
			types[i] = (uint32_t)array[i] >> XEN_DOMCTL_PFINFO_LTAB_SHIFT;

	xc_hypercall_buffer_free(xch, array);
	errno = saved;
	return rc;
}
