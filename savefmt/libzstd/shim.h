/* Calls of libzstd with plain arguments: cgo may pass Go memory to C by an
 * argument, but not inside a structure, where ZSTD_inBuffer would have it. */
#include <zstd.h>

/* What became of one step. */
struct step {
    size_t used; /* bytes of the input */
    size_t made; /* bytes of the output */
    size_t code; /* what libzstd returned */
};

/* Each part becomes a block of the frame, or several. With end the frame ends, and has begun here as well. */
static struct step compress_parts(ZSTD_CCtx *ctx, void *dst, size_t room, const void *src, size_t len, size_t part, int end)
{
    ZSTD_outBuffer out = {dst, room, 0};
    ZSTD_inBuffer in = {src, 0, 0};
    size_t code = end ? ZSTD_CCtx_setPledgedSrcSize(ctx, len) : 0;

    while (code == 0 && in.pos < len) {
        in.size = len - in.pos > part ? in.pos + part : len;
        do
            code = ZSTD_compressStream2(ctx, &out, &in, end && in.size == len ? ZSTD_e_end : ZSTD_e_flush);
        while (!ZSTD_isError(code) && code != 0 && out.pos < out.size);
    }
    return (struct step){in.pos, out.pos, code};
}

static struct step compress_whole(ZSTD_CCtx *ctx, void *dst, size_t room, const void *src, size_t len)
{
    size_t code = ZSTD_compress2(ctx, dst, room, src, len);

    return ZSTD_isError(code) ? (struct step){0, 0, code} : (struct step){len, code, 0};
}

/* Ends early where the output is full, the input is used up, or the frame ends. */
static struct step decompress_some(ZSTD_DCtx *ctx, void *dst, size_t room, const void *src, size_t len)
{
    ZSTD_outBuffer out = {dst, room, 0};
    ZSTD_inBuffer in = {src, len, 0};
    size_t code, used, made;

    do {
        used = in.pos;
        made = out.pos;
        code = ZSTD_decompressStream(ctx, &out, &in);
    } while (!ZSTD_isError(code) && code != 0 && out.pos < out.size && (in.pos > used || out.pos > made));
    return (struct step){in.pos, out.pos, code};
}
