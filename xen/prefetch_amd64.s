#include "textflag.h"

// func prefetch(page *byte)
TEXT ·prefetch(SB), NOSPLIT, $0-8
	MOVQ page+0(FP), AX
	MOVQ $16, CX
line:
	PREFETCHT0 (AX)
	PREFETCHT0 64(AX)
	PREFETCHT0 128(AX)
	PREFETCHT0 192(AX)
	ADDQ $256, AX
	DECQ CX
	JNZ  line
	RET
