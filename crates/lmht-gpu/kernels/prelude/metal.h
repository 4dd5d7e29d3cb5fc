// Metal shading language 2.0 or newer. It has no double.
#include <metal_stdlib>
using namespace metal;
#pragma METAL fp contract(off)
#define KERNEL(name) kernel void name
#define FUNCTION static inline
#define IN(type, name, index) device const type *name [[buffer(index)]]
#define OUT(type, name, index) device type *name [[buffer(index)]]
#define VALUE(type, name, index) constant type &name [[buffer(index)]]
#define IDS \
    , uint metal_thread [[thread_position_in_threadgroup]], uint metal_block [[threadgroup_position_in_grid]], \
        uint metal_blocks [[threadgroups_per_grid]]
#define THREAD metal_thread
#define BLOCK metal_block
#define BLOCKS metal_blocks
#define SHARED(type, name, len) threadgroup type name[len]
#define SHARED_PTR threadgroup
#define GLOBAL device
#define PRIVATE thread
#define BARRIER() threadgroup_barrier(mem_flags::mem_threadgroup)
#define UNROLL _Pragma("clang loop unroll(full)")
FUNCTION float f16_load(ushort h) { return float(as_type<half>(h)); }
FUNCTION ushort f16_store(float f) { return as_type<ushort>(half(f)); }
FUNCTION float from_bits(uint u) { return as_type<float>(u); }
FUNCTION uint to_bits(float f) { return as_type<uint>(f); }
#define LOAD_VECTOR(type, p) (*(GLOBAL const type *)(p))
#define SAVE_VECTOR(type, p, v) *(GLOBAL type *)(p) = v
#define SQRT sqrt
#define EXP exp
#define LOG log
#define FLOOR floor
