// CUDA by NVRTC. No header: none is needed at run time.
#define KERNEL(name) extern "C" __global__ void __launch_bounds__(THREADS) name
#define FUNCTION static __device__ __forceinline__
#define IN(type, name, index) const type *__restrict__ name
#define OUT(type, name, index) type *__restrict__ name
#define VALUE(type, name, index) type name
#define IDS
#define THREAD threadIdx.x
#define BLOCK blockIdx.x
#define BLOCKS gridDim.x
#define SHARED(type, name, len) __shared__ type name[len]
#define SHARED_PTR
#define GLOBAL
#define PRIVATE
#define BARRIER() __syncthreads()
#define UNROLL _Pragma("unroll")
typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
FUNCTION float f16_load(ushort h) { float f; asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h)); return f; }
FUNCTION ushort f16_store(float f) { ushort h; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f)); return h; }
FUNCTION float from_bits(uint u) { return __uint_as_float(u); }
FUNCTION uint to_bits(float f) { return __float_as_uint(f); }
FUNCTION double from_words(uint low, uint high) { return __hiloint2double((int)high, (int)low); }
FUNCTION uint low_word(double d) { return (uint)__double2loint(d); }
FUNCTION uint high_word(double d) { return (uint)__double2hiint(d); }
#define LOAD_VECTOR(type, p) (*(GLOBAL const type *)(p))
#define SAVE_VECTOR(type, p, v) *(GLOBAL type *)(p) = v
#define SQRT sqrt
#define EXP exp
#define LOG log
#define FLOOR floor
