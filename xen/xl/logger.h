#ifndef XENFERRY_LOGGER_H
#define XENFERRY_LOGGER_H

#include <stddef.h>
#include <xentoollog.h>

/*
 * A logger for libxl that keeps the text of errors, so that they can become
 * part of the error which our caller gets. Plain C: libxl also logs in the
 * children that it forks, where no Go code may run.
 */
struct xf_logger;

/* min_level: the least level that also goes to standard error; XTL_NONE (0)
 * for none. NULL if there is no memory. */
struct xf_logger *xf_logger_new(xentoollog_level min_level);
void xf_logger_free(struct xf_logger *lg);
xentoollog_logger *xf_logger_xtl(struct xf_logger *lg);

/* Copies the kept messages to buf, one a line, ended by a NUL, and forgets
 * them. Returns the length without the NUL. */
size_t xf_logger_take(struct xf_logger *lg, char *buf, size_t size);

#endif
