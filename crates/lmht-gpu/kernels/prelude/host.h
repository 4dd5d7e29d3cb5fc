// The host's C++ compiler. The threads of a block are fibers on one CPU thread: each runs up to its next barrier, in an
// order that the caller chooses.
#ifdef __APPLE__
#define _XOPEN_SOURCE 700 // without it there is no ucontext.h
#define _DARWIN_C_SOURCE
#endif
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#define KERNEL(name) static void name
#define FUNCTION static inline
#define IN(type, name, index) const type *name
#define OUT(type, name, index) type *name
#define VALUE(type, name, index) type name
#define IDS
#define THREAD (emulator::thread)
#define BLOCK (emulator::block)
#define BLOCKS (emulator::blocks)
#define SHARED(type, name, len) static thread_local type name[len]; emulator::poison(name, sizeof name)
#define SHARED_PTR
#define GLOBAL
#define PRIVATE
#define BARRIER() emulator::barrier()
#define UNROLL
typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long long emulator_word;

namespace emulator {
enum Fault { none, diverged, misaligned };
static thread_local uint thread, block, blocks;
static thread_local int fault;
// No thread of this block has reached a barrier or its end yet: shared memory still holds rubbish.
static thread_local bool fresh;
static thread_local bool waits;
static thread_local ucontext_t scheduler;
static thread_local ucontext_t *fiber;
static thread_local void (*job)(void *);
static thread_local void *job_data;
static void poison(void *memory, size_t bytes) { if (fresh) memset(memory, 0xff, bytes); }
static void barrier() {
    fresh = false;
    waits = true;
    swapcontext(fiber, &scheduler);
}
static void enter() {
    job(job_data);
    fresh = false;
}
template <class... A> struct Call {
    void (*kernel)(A...);
    void **args;
    // Braces: the arguments are taken from left to right.
    struct Now { Now(void (*kernel)(A...), A... a) { kernel(a...); } };
    static void run(void *self) {
        Call *call = (Call *)self;
        size_t i = 0;
        Now{call->kernel, *(A *)call->args[i++]...};
    }
};
// order: 0 ascending, 1 descending, else the seed of a shuffle between any two barriers.
template <class... A>
static int launch(void (*kernel)(A...), void **args, uint grid, uint threads, emulator_word order) {
    const size_t stack = 128 << 10;
    Call<A...> call = {kernel, args};
    char *stacks = (char *)malloc(stack * threads);
    ucontext_t *fibers = (ucontext_t *)malloc(sizeof(ucontext_t) * threads);
    uint *sequence = (uint *)malloc(sizeof(uint) * threads);
    emulator_word random = order;
    job = Call<A...>::run;
    job_data = &call;
    blocks = grid;
    fault = none;
    for (block = 0; block < grid && !fault; block++) {
        for (uint i = 0; i < threads; i++) {
            getcontext(&fibers[i]);
            fibers[i].uc_stack.ss_sp = stacks + i * stack;
            fibers[i].uc_stack.ss_size = stack;
            fibers[i].uc_link = &scheduler;
            makecontext(&fibers[i], enter, 0);
            sequence[i] = order == 1 ? threads - 1 - i : i;
        }
        fresh = true;
        for (;;) {
            if (order > 1) for (uint i = threads - 1; i > 0; i--) {
                random = random * 6364136223846793005ull + 1442695040888963407ull;
                const uint j = (uint)((random >> 33) % (i + 1)), other = sequence[j];
                sequence[j] = sequence[i];
                sequence[i] = other;
            }
            uint waiting = 0;
            for (uint i = 0; i < threads; i++) {
                thread = sequence[i];
                fiber = &fibers[thread];
                waits = false;
                swapcontext(&scheduler, fiber);
                waiting += waits;
            }
            if (waiting == 0) break;
            if (waiting != threads) { fault = diverged; break; }
        }
    }
    free(sequence);
    free(fibers);
    free(stacks);
    return fault;
}
}
// One for each kernel, appended by the builder of the text.
#define EXPORT(kernel) \
    extern "C" int run_##kernel(void **args, uint grid, uint threads, emulator_word order) { \
        return emulator::launch(kernel, args, grid, threads, order); \
    }

FUNCTION float from_bits(uint u) { float f; memcpy(&f, &u, 4); return f; }
FUNCTION uint to_bits(float f) { uint u; memcpy(&u, &f, 4); return u; }
// By integers: not every host compiler has a type of 16 bits.
FUNCTION float f16_load(ushort h) {
    const uint sign = (uint)(h & 0x8000u) << 16, rest = h & 0x7fffu;
    if (rest >= 0x7c00u) return from_bits(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
    // A factor of 2^112 moves the exponent, subnormal numbers included.
    return from_bits(sign | to_bits(from_bits(rest << 13) * from_bits(0x77800000u)));
}
FUNCTION ushort f16_store(float f) {
    const uint u = to_bits(f), sign = u >> 16 & 0x8000u, rest = u & 0x7fffffffu;
    if (rest > 0x7f800000u) return (ushort)(sign | 0x7e00u);
    if (rest >= 0x477ff000u) return (ushort)(sign | 0x7c00u);
    // Below 2^-14 halves are multiples of 2^-24: adding 1/2 rounds to them.
    if (rest < 0x38800000u) return (ushort)(sign | (to_bits(from_bits(rest) + 0.5f) - 0x3f000000u));
    return (ushort)(sign | ((rest + 0xfffu + (rest >> 13 & 1u)) >> 13) - 0x1c000u);
}
FUNCTION double from_words(uint low, uint high) {
    const emulator_word w = (emulator_word)high << 32 | low;
    double d;
    memcpy(&d, &w, 8);
    return d;
}
FUNCTION uint low_word(double d) { emulator_word w; memcpy(&w, &d, 8); return (uint)w; }
FUNCTION uint high_word(double d) { emulator_word w; memcpy(&w, &d, 8); return (uint)(w >> 32); }
struct uint2 { uint x, y; };
struct uint4 { uint x, y, z, w; };
template <class V> FUNCTION V load_vector(const void *p) {
    if ((size_t)p % sizeof(V)) emulator::fault = emulator::misaligned;
    V v;
    memcpy(&v, p, sizeof v);
    return v;
}
template <class V> FUNCTION void save_vector(void *p, V v) {
    if ((size_t)p % sizeof v) emulator::fault = emulator::misaligned;
    memcpy(p, &v, sizeof v);
}
#define LOAD_VECTOR(type, p) load_vector<type>(p)
#define SAVE_VECTOR(type, p, v) save_vector<type>(p, v)
FUNCTION float SQRT(float x) { return __builtin_sqrtf(x); }
FUNCTION double SQRT(double x) { return __builtin_sqrt(x); }
FUNCTION float EXP(float x) { return __builtin_expf(x); }
FUNCTION double EXP(double x) { return __builtin_exp(x); }
FUNCTION float LOG(float x) { return __builtin_logf(x); }
FUNCTION double LOG(double x) { return __builtin_log(x); }
FUNCTION float FLOOR(float x) { return __builtin_floorf(x); }
FUNCTION double FLOOR(double x) { return __builtin_floor(x); }
