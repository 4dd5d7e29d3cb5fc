// How elements lie in memory: STORE there, REAL in arithmetic, converted once on the way in and once on the way out.
// WIDTH elements at a time: one, or as many as 16 or 8 bytes hold.
FUNCTION float bf16_load(ushort h) { return from_bits((uint)h << 16); }
FUNCTION ushort bf16_store(float f) {
    const uint u = to_bits(f);
    return (ushort)((u & 0x7fffffffu) > 0x7f800000u ? u >> 16 | 64u : (u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}
#if defined(DTYPE_F32)
#define REAL float
#define STORE float
#define WORDS WIDTH
#define LOAD(x) (x)
#define SAVE(x) (x)
#define FROM_WORDS(words, lane) from_bits((words)[lane])
#define INTO_WORDS(words, lane, x) (words)[lane] = to_bits(x)
#elif defined(DTYPE_F64)
#define REAL double
#define STORE double
#define WORDS (WIDTH * 2)
#define LOAD(x) (x)
#define SAVE(x) (x)
#define FROM_WORDS(words, lane) from_words((words)[2 * (lane)], (words)[2 * (lane) + 1])
#define INTO_WORDS(words, lane, x) (words)[2 * (lane)] = low_word(x), (words)[2 * (lane) + 1] = high_word(x)
#else
#if defined(DTYPE_F16)
#define LOAD(x) f16_load(x)
#define SAVE(x) f16_store(x)
#else
#define LOAD(x) bf16_load(x)
#define SAVE(x) bf16_store(x)
#endif
#define REAL float
#define STORE ushort
#define WORDS (WIDTH / 2)
#define FROM_WORDS(words, lane) LOAD((ushort)((words)[(lane) / 2] >> 16 * ((lane) % 2)))
#define INTO_WORDS(words, lane, x) \
    (words)[(lane) / 2] = (lane) % 2 ? (words)[(lane) / 2] | (uint)SAVE(x) << 16 : (uint)SAVE(x)
#endif
#define HALF ((REAL)1 / (REAL)2)

// Sets `out[lane * stride]` for every lane. `p` is a multiple of the bytes read where WIDTH > 1.
FUNCTION void read_lanes(GLOBAL const STORE *p, PRIVATE REAL *out, uint stride) {
#if WIDTH == 1
    out[0] = LOAD(p[0]);
#else
    uint words[4];
#if WORDS == 4
    const uint4 v = LOAD_VECTOR(uint4, p);
    words[2] = v.z, words[3] = v.w;
#else
    const uint2 v = LOAD_VECTOR(uint2, p);
#endif
    words[0] = v.x, words[1] = v.y;
    UNROLL for (uint lane = 0; lane < WIDTH; lane++) out[lane * stride] = FROM_WORDS(words, lane);
#endif
}
FUNCTION void write_lanes(GLOBAL STORE *p, PRIVATE const REAL *in, uint stride) {
#if WIDTH == 1
    p[0] = SAVE(in[0]);
#else
    uint words[4];
    UNROLL for (uint lane = 0; lane < WIDTH; lane++) INTO_WORDS(words, lane, in[lane * stride]);
#if WORDS == 4
    uint4 v;
    v.z = words[2], v.w = words[3];
    v.x = words[0], v.y = words[1];
    SAVE_VECTOR(uint4, p, v);
#else
    uint2 v;
    v.x = words[0], v.y = words[1];
    SAVE_VECTOR(uint2, p, v);
#endif
#endif
}

// A byte for each lane. The elements beside them are read at multiples of 8 or 16 bytes, so these lie at multiples of
// WIDTH.
FUNCTION void write_bytes(GLOBAL uchar *p, PRIVATE const uchar *in) {
#if WIDTH == 8
    uint2 v;
    v.x = in[0] | (uint)in[1] << 8 | (uint)in[2] << 16 | (uint)in[3] << 24;
    v.y = in[4] | (uint)in[5] << 8 | (uint)in[6] << 16 | (uint)in[7] << 24;
    SAVE_VECTOR(uint2, p, v);
#elif WIDTH == 4
    SAVE_VECTOR(uint, p, in[0] | (uint)in[1] << 8 | (uint)in[2] << 16 | (uint)in[3] << 24);
#else
    UNROLL for (uint lane = 0; lane < WIDTH; lane++) p[lane] = in[lane];
#endif
}
