//go:build xen

#include "logger.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#define LINE_MAX_BYTES 512
/* The first messages tell the cause, the last one what became of it. */
#define KEEP_FIRST 5
#define KEEP (KEEP_FIRST + 1)

struct xf_logger {
    xentoollog_logger vtable; /* first: libxl hands back a pointer to it */
    xentoollog_level min_level;
    pid_t pid; /* of the process that made the logger */
    pthread_mutex_t lock;
    int kept;
    char lines[KEEP][LINE_MAX_BYTES];
};

static void to_stderr(const char *line, xentoollog_level level, const char *context)
{
    char out[LINE_MAX_BYTES + 64];
    int n = snprintf(out, sizeof(out), "%s: %s: %s\n", context ? context : "libxl",
                     xtl_level_to_string(level), line);

    if (n >= (int)sizeof(out)) {
        n = sizeof(out);
        out[n - 1] = '\n';
    }
    if (n > 0 && write(STDERR_FILENO, out, n) < 0)
        return; /* there is nobody to tell */
}

static void keep(struct xf_logger *lg, const char *line)
{
    int slot;

    pthread_mutex_lock(&lg->lock);
    slot = lg->kept < KEEP ? lg->kept++ : KEEP - 1;
    memcpy(lg->lines[slot], line, LINE_MAX_BYTES);
    pthread_mutex_unlock(&lg->lock);
}

static void vmessage(xentoollog_logger *vt, xentoollog_level level, int errnoval,
                     const char *context, const char *format, va_list al)
{
    struct xf_logger *lg = (struct xf_logger *)vt;
    char line[LINE_MAX_BYTES];
    size_t used;
    /* In a child that libxl forked the kept messages are a copy that nobody
     * reads, and the lock may be held by a thread that is not here. */
    int child = getpid() != lg->pid;
    int show = (lg->min_level != XTL_NONE && level >= lg->min_level) ||
               (child && level >= XTL_ERROR);

    if (!show && level < XTL_ERROR)
        return;
    memset(line, 0, sizeof(line));
    vsnprintf(line, sizeof(line), format, al);
    used = strlen(line);
    if (errnoval > 0)
        snprintf(line + used, sizeof(line) - used, ": %s", strerror(errnoval));
    for (char *p = line; *p; p++)
        if (*p == '\n')
            *p = ' ';
    if (show)
        to_stderr(line, level, context);
    if (!child && level >= XTL_ERROR)
        keep(lg, line);
}

static void destroy(xentoollog_logger *vt)
{
    struct xf_logger *lg = (struct xf_logger *)vt;

    pthread_mutex_destroy(&lg->lock);
    free(lg);
}

struct xf_logger *xf_logger_new(xentoollog_level min_level)
{
    struct xf_logger *lg = calloc(1, sizeof(*lg));

    if (!lg)
        return NULL;
    lg->vtable.vmessage = vmessage;
    lg->vtable.destroy = destroy;
    lg->min_level = min_level;
    lg->pid = getpid();
    pthread_mutex_init(&lg->lock, NULL);
    return lg;
}

void xf_logger_free(struct xf_logger *lg)
{
    if (lg)
        destroy(&lg->vtable);
}

xentoollog_logger *xf_logger_xtl(struct xf_logger *lg)
{
    return &lg->vtable;
}

size_t xf_logger_take(struct xf_logger *lg, char *buf, size_t size)
{
    size_t used = 0;

    buf[0] = 0;
    pthread_mutex_lock(&lg->lock);
    for (int i = 0; i < lg->kept; i++) {
        int n = snprintf(buf + used, size - used, "%s\n", lg->lines[i]);
        if (n < 0 || (size_t)n >= size - used)
            break;
        used += n;
    }
    lg->kept = 0;
    pthread_mutex_unlock(&lg->lock);
    return used;
}
