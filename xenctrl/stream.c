//go:build xen

#include "stream.h"

#include <stdarg.h>
#include <stdio.h>

#include "_cgo_export.h"

/* A logger that hands everything to Go, with the calls of its stream. */
struct stream_logger {
	xentoollog_logger vtable; /* first: Xen hands back a pointer to it */
	uintptr_t calls;
};

static void stream_vmessage(xentoollog_logger *logger, xentoollog_level level,
			    int errnoval, const char *context,
			    const char *format, va_list al)
{
	struct stream_logger *l = (struct stream_logger *)logger;
	char text[1024];
	int saved = errno;

	vsnprintf(text, sizeof(text), format, al);
	xfStreamLog(l->calls, level, errnoval, text);
	errno = saved;
}

static void stream_progress(xentoollog_logger *logger, const char *context,
			    const char *what, int percent, unsigned long done,
			    unsigned long total)
{
	struct stream_logger *l = (struct stream_logger *)logger;
	int saved = errno;

	xfStreamProgress(l->calls, (char *)what, done, total);
	errno = saved;
}

static void stream_destroy(xentoollog_logger *logger)
{
}

static void init_logger(struct stream_logger *l, uintptr_t calls)
{
	*l = (struct stream_logger){
		.vtable = {
			.vmessage = stream_vmessage,
			.progress = stream_progress,
			.destroy = stream_destroy,
		},
		.calls = calls,
	};
}

static int suspend(void *data)
{
	return xfStreamSuspend((uintptr_t)data);
}

static int static_data_done(unsigned int missing, void *data)
{
	return xfStreamStatic((uintptr_t)data, missing);
}

/* xc_domain_restore returns the pages as frames of the guest itself, too. */
static void restore_results(xen_pfn_t store_gfn, xen_pfn_t console_gfn, void *data)
{
}

int xf_save_stream(uintptr_t calls, int fd, uint32_t domid, uint32_t flags)
{
	struct stream_logger logger;
	struct save_callbacks callbacks = {
		.suspend = suspend,
		.data = (void *)calls,
	};
	xc_interface *xch;
	int rc, saved;

	init_logger(&logger, calls);
	xch = xc_interface_open(&logger.vtable, &logger.vtable, 0);
	if (!xch)
		return -1;
	rc = xc_domain_save(xch, fd, domid, flags, &callbacks, XC_STREAM_PLAIN, -1);
	saved = errno;
	xc_interface_close(xch);
	errno = saved;
	return rc;
}

int xf_load_stream(uintptr_t calls, int fd, uint32_t domid,
		   uint32_t store_port, uint32_t store_domid,
		   uint32_t console_port, uint32_t console_domid,
		   struct xf_results *results)
{
	struct stream_logger logger;
	struct restore_callbacks callbacks = {
		.static_data_done = static_data_done,
		.restore_results = restore_results,
		.data = (void *)calls,
	};
	unsigned long store = 0, console = 0;
	xc_interface *xch;
	int rc, saved;

	init_logger(&logger, calls);
	xch = xc_interface_open(&logger.vtable, &logger.vtable, 0);
	if (!xch)
		return -1;
	rc = xc_domain_restore(xch, fd, domid, store_port, &store, store_domid,
			       console_port, &console, console_domid,
			       XC_STREAM_PLAIN, &callbacks, -1);
	saved = errno;
	xc_interface_close(xch);
	results->store_gfn = store;
	results->console_gfn = console;
	errno = saved;
	return rc;
}
