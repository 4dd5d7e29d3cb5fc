// Maps [rows, channels], channels last, walked so that a thread stays with its WIDTH channels: it keeps what belongs to
// them in registers and adds up over rows. A block takes a tile of COLUMNS groups of channels, a power of two, and
// every CHUNKS-th bundle of THREADS / COLUMNS rows; `tiles` of them lie side by side.
#define ROW_LANES (THREADS / COLUMNS)
#define CHANNEL (((BLOCK % tiles) * COLUMNS + THREAD % COLUMNS) * WIDTH)
#define CHUNK (BLOCK / tiles)
#define CHUNKS (BLOCKS / tiles)
// `rows` where the thread has no channels, so that it still takes part in barriers.
#define FIRST_ROW (channel < channels ? CHUNK * ROW_LANES + THREAD / COLUMNS : rows)
#define NEXT_ROW (CHUNKS * ROW_LANES)
// Whether the thread is the one that writes a sum over the block's rows.
#define WRITES (THREAD < COLUMNS && channel < channels)
// The rows of norm [4, channels]: mean, 1 / sqrt(variance + eps), weight of that, bias.
#define MEAN 0
#define INVERSE 1
#define SCALE 2
#define BIAS 3
