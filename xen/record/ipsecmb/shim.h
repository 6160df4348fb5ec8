/* What the library does through pointers and macros, as functions for cgo. */
#include <stdlib.h>
#include <string.h>
#include <intel-ipsec-mb.h>

struct gcm {
	struct gcm_key_data key; /* the library wants it aligned */
	struct gcm_context_data ctx;
	IMB_MGR *mgr;
};

static IMB_MGR *gcm_library(void)
{
	IMB_MGR *mgr = alloc_mb_mgr(0);
	IMB_ARCH arch = IMB_ARCH_NONE;

	if (mgr == NULL)
		return NULL;
	init_mb_mgr_auto(mgr, &arch);
	if (arch < IMB_ARCH_SSE || imb_get_errno(mgr) != 0) { /* below, AES is done without its instructions */
		free_mb_mgr(mgr);
		return NULL;
	}
	return mgr;
}

static struct gcm *gcm_new(IMB_MGR *mgr, const void *key)
{
	struct gcm *g = NULL;

	if (posix_memalign((void **)&g, 64, sizeof(*g)) != 0)
		return NULL;
	memset(g, 0, sizeof(*g));
	g->mgr = mgr;
	IMB_AES128_GCM_PRE(mgr, key, &g->key);
	return g;
}

static void gcm_free(struct gcm *g)
{
	imb_clear_mem(g, sizeof(*g));
	free(g);
}

static void gcm_seal(struct gcm *g, uint8_t *out, const uint8_t *in, uint64_t n, uint8_t last,
		     const uint8_t *nonce, const uint8_t *aad, uint64_t aad_len)
{
	IMB_MGR *m = g->mgr;

	IMB_AES128_GCM_INIT(m, &g->key, &g->ctx, nonce, aad, aad_len);
	IMB_AES128_GCM_ENC_UPDATE(m, &g->key, &g->ctx, out, in, n);
	IMB_AES128_GCM_ENC_UPDATE(m, &g->key, &g->ctx, out + n, &last, 1);
	IMB_AES128_GCM_ENC_FINALIZE(m, &g->key, &g->ctx, out + n + 1, 16);
}

/* Returns the last byte, or -1 where the tag is not that of the contents. */
static int gcm_open(struct gcm *g, uint8_t *out, const uint8_t *in, uint64_t n,
		    const uint8_t *nonce, const uint8_t *aad, uint64_t aad_len)
{
	IMB_MGR *m = g->mgr;
	uint8_t last, tag[16], differ = 0;
	int i;

	IMB_AES128_GCM_INIT(m, &g->key, &g->ctx, nonce, aad, aad_len);
	IMB_AES128_GCM_DEC_UPDATE(m, &g->key, &g->ctx, out, in, n);
	IMB_AES128_GCM_DEC_UPDATE(m, &g->key, &g->ctx, &last, in + n, 1);
	IMB_AES128_GCM_DEC_FINALIZE(m, &g->key, &g->ctx, tag, 16);
	for (i = 0; i < 16; i++) /* all of it, whatever the first difference */
		differ |= tag[i] ^ in[n + 1 + i];
	return differ ? -1 : last;
}
