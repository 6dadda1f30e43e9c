/* Elementwise arithmetic of merge methods in one pass over the inputs.
 *
 * What torch does to a piece in tens of passes is done here block by block, in the first level of the
 * processor's cache. Every operation is rounded as torch rounds it, in the same order, so that results are those
 * of the torch code bit for bit; a * b + c is contracted only where fmaf says so (-ffp-contract=off).
 */

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define KERNEL __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define KERNEL
#endif
#define INLINE static inline __attribute__((always_inline))
#define BLOCKS(first, count, size, block)                                                 \
  for (int64_t first = 0, count; count = (size) - first < (block) ? (size) - first : (block), first < (size); \
       first += (block))

enum {
  BLOCK = 2048,    /* elements of a vector on the stack */
  SCRATCH = 16384, /* of all task vectors together */
  STREAMS = 2,     /* counters of the random numbers at a time */
  LANES = 16,      /* independent minima, which become one at the end */
};

/* ---- Task vectors that are made sparse: TIES, DARE ---- */

/* One task. The layout is known to __init__.py. */
typedef struct {
  const float *model;
  /* Kept are magnitudes above `end` among the first `num_before` elements, and above `value` among the
   * others; everything where `value` is 0. */
  int64_t num_before;
  float end, value;
  /* Or kept is what draws less than `limit`; where nothing is drawn, `key` is NULL. */
  const uint64_t *key;
  int64_t place; /* number of the first element, on which its draw depends */
  int32_t limit;
  /* By both, one after the other, the rest is multiplied. */
  float scale, weight;
} Task;

INLINE uint64_t multiply(uint64_t a, uint64_t b, uint64_t *high) {
  unsigned __int128 product = (unsigned __int128)a * b;
  *high = (uint64_t)(product >> 64);
  return (uint64_t)product;
}

/* Philox 4x64-10 (Salmon et al., SC 2011) for STREAMS counters in a row, whose multiplications overlap. */
INLINE void philox(const uint64_t *key, uint64_t counter, uint64_t words[4 * STREAMS]) {
  uint64_t c0[STREAMS], c1[STREAMS] = {0}, c2[STREAMS] = {0}, c3[STREAMS] = {0}, k0 = key[0], k1 = key[1];
  for (int j = 0; j < STREAMS; ++j) c0[j] = counter + (uint64_t)j;
  for (int round = 0; round < 10; ++round) {
    for (int j = 0; j < STREAMS; ++j) {
      uint64_t high0, high1;
      uint64_t low0 = multiply(UINT64_C(0xD2E7470EE14C6C93), c0[j], &high0);
      uint64_t low1 = multiply(UINT64_C(0xCA5A826395121157), c2[j], &high1);
      c0[j] = high1 ^ c1[j] ^ k0, c1[j] = low1, c2[j] = high0 ^ c3[j] ^ k1, c3[j] = low0;
    }
    k0 += UINT64_C(0x9E3779B97F4A7C15), k1 += UINT64_C(0xBB67AE8584CAA73B);
  }
  for (int j = 0; j < STREAMS; ++j) {
    uint64_t *word = words + 4 * j;
    word[0] = c0[j], word[1] = c1[j], word[2] = c2[j], word[3] = c3[j];
  }
}

INLINE void drop(const Task *task, int64_t first, float *vector, int64_t count) {
  int32_t draws[BLOCK + 16 * STREAMS]; /* eight of a counter */
  int64_t place = task->place + first, skip = place % 8;
  for (int64_t i = 0; i < skip + count; i += 8 * STREAMS) {
    uint64_t words[4 * STREAMS];
    philox(task->key, (uint64_t)((place + i) / 8 + 1), words); /* NumPy counts on before it draws */
    memcpy(draws + i, words, sizeof words);
  }
  for (int64_t i = 0; i < count; ++i) vector[i] *= draws[skip + i] < task->limit ? 1.0f : 0.0f;
}

INLINE void shrink(float limit, float *vector, int64_t count) {
  for (int64_t i = 0; i < count; ++i) vector[i] = fabsf(vector[i]) <= limit ? 0.0f : vector[i];
}

/* Elements first .. first + count of the sparse, scaled and weighted task vector. */
INLINE void task_vector(const float *base, const Task *task, int64_t first, float *restrict vector, int64_t count) {
  const float *model = task->model + first;
  base += first;
  for (int64_t i = 0; i < count; ++i) vector[i] = model[i] - base[i];
  if (task->key) {
    drop(task, first, vector, count);
  } else if (task->value > 0) {
    int64_t before = task->num_before - first;
    before = before < 0 ? 0 : before > count ? count : before;
    shrink(task->end, vector, before);
    shrink(task->value, vector + before, count - before);
  }
  if (task->scale != 1)
    for (int64_t i = 0; i < count; ++i) vector[i] *= task->scale;
  if (task->weight != 1)
    for (int64_t i = 0; i < count; ++i) vector[i] *= task->weight;
}

/* base + scaling * the sum, or the mean, of the task vectors that have the sign of their sum. */
KERNEL void merge_agreeing(const float *base, const Task *tasks, int64_t num_tasks, int is_mean, float balanced,
                           float scaling, float *out, int64_t size) {
  const int64_t block = SCRATCH / num_tasks < BLOCK ? SCRATCH / num_tasks : BLOCK;
  float vectors[SCRATCH], sign[BLOCK], merged[BLOCK], divisor[BLOCK];
  BLOCKS(first, count, size, block) {
    for (int64_t t = 0; t < num_tasks; ++t) {
      float *vector = vectors + t * block;
      task_vector(base, &tasks[t], first, vector, count);
      for (int64_t i = 0; i < count; ++i) sign[i] = t ? sign[i] + vector[i] : vector[i];
    }
    for (int64_t i = 0; i < count; ++i) {
      sign[i] = sign[i] > 0 ? 1.0f : sign[i] == 0 ? balanced : -1.0f;
      merged[i] = divisor[i] = 0;
    }
    for (int64_t t = 0; t < num_tasks; ++t) {
      const float *vector = vectors + t * block, weight = tasks[t].weight;
      for (int64_t i = 0; i < count; ++i) {
        float agreeing = vector[i] * sign[i];
        merged[i] += agreeing <= 0 ? 0.0f : agreeing; /* NaN shows in the result */
        divisor[i] += agreeing > 0 ? weight : 0.0f;
      }
    }
    for (int64_t i = 0; i < count; ++i) {
      float mean = merged[i] / (is_mean && divisor[i] != 0 ? divisor[i] : 1.0f);
      out[first + i] = mean * sign[i] * scaling + base[first + i];
    }
  }
}

/* How many more elements have a positive sum of task vectors than a negative one. */
KERNEL int64_t balance(const float *base, const Task *tasks, int64_t num_tasks, int64_t size) {
  float vector[BLOCK], sum[BLOCK];
  int64_t total = 0;
  BLOCKS(first, count, size, BLOCK) {
    for (int64_t t = 0; t < num_tasks; ++t) {
      task_vector(base, &tasks[t], first, vector, count);
      for (int64_t i = 0; i < count; ++i) sum[i] = t ? sum[i] + vector[i] : vector[i];
    }
    int32_t found = 0;
    for (int64_t i = 0; i < count; ++i) found += (sum[i] > 0) - (sum[i] < 0);
    total += found;
  }
  return total;
}

/* Compare the magnitudes of a task vector with a bracket: counts of those above it, at its upper and at its lower
 * end (once where they are the same), and what is between. Returns how many are between; `between` has room for
 * all. */
KERNEL int64_t compare(const float *restrict base, const float *restrict model, int64_t size, float low, float high,
                       int64_t counts[3], float *restrict between) {
  int64_t found = 0;
  counts[0] = counts[1] = counts[2] = 0;
  BLOCKS(first, count, size, 64) {
    float magnitude[64];
    int32_t above = 0, at_high = 0, at_low = 0;
    for (int64_t i = 0; i < count; ++i) {
      magnitude[i] = fabsf(model[first + i] - base[first + i]);
      above += magnitude[i] > high;
      at_high += magnitude[i] == high;
      at_low += magnitude[i] <= low; /* and below */
    }
    counts[0] += above;
    counts[1] += at_high;
    if (above + at_high + at_low < count)
      for (int64_t i = 0; i < count; ++i) {
        between[found] = magnitude[i];
        found += magnitude[i] > low && magnitude[i] < high;
      }
    if (at_low)
      for (int64_t i = 0; i < count; ++i) counts[2] += magnitude[i] == low;
  }
  if (low == high) counts[2] = 0;
  return found;
}

/* ---- Gradient matching with diagonal Hessians ---- */

/* One task. The layout is known to __init__.py. */
typedef struct {
  const float *model, *hessian;
  float alpha;
  float low, high; /* smallest and largest weight of the task vector, without alpha; widened */
} Curved;

/* base + sum_t alpha_t (anchor + H_t / H_bar) (model_t - base), H_bar = prior + sum_t alpha_t H_t, at least
 * kappa * prior; prior = H_0 + delta, anchor = prior / H_bar or 0. */
KERNEL void match_gradients(const float *base, const float *base_hessian, Curved *tasks, int64_t num_tasks,
                            float delta, float kappa, int is_anchored, float *out, int64_t size) {
  float prior[BLOCK], precision[BLOCK], pull[BLOCK], merged[BLOCK];
  BLOCKS(first, count, size, BLOCK) {
    for (int64_t i = 0; i < count; ++i) {
      precision[i] = prior[i] = base_hessian[first + i] + delta;
      merged[i] = base[first + i];
    }
    for (int64_t t = 0; t < num_tasks; ++t) {
      const float *hessian = tasks[t].hessian + first, alpha = tasks[t].alpha;
      for (int64_t i = 0; i < count; ++i) precision[i] = fmaf(hessian[i], alpha, precision[i]);
    }
    for (int64_t i = 0; i < count; ++i) {
      float least = kappa * prior[i];
      precision[i] = precision[i] < least ? least : precision[i];
      prior[i] = is_anchored ? prior[i] / precision[i] : 0.0f;
    }
    for (int64_t t = 0; t < num_tasks; ++t) {
      Curved *task = &tasks[t];
      const float *model = task->model + first, *hessian = task->hessian + first;
      for (int64_t i = 0; i < count; ++i) {
        pull[i] = prior[i] + hessian[i] / precision[i];
        merged[i] = fmaf(task->alpha * pull[i], model[i] - base[first + i], merged[i]);
      }
      float low[LANES], high[LANES];
      for (int j = 0; j < LANES; ++j) low[j] = task->low, high[j] = task->high;
      int64_t whole = count / LANES * LANES;
      for (int64_t i = 0; i < whole; i += LANES)
        for (int j = 0; j < LANES; ++j) {
          low[j] = pull[i + j] < low[j] ? pull[i + j] : low[j];
          high[j] = pull[i + j] > high[j] ? pull[i + j] : high[j];
        }
      for (int64_t i = whole; i < count; ++i) {
        low[0] = pull[i] < low[0] ? pull[i] : low[0];
        high[0] = pull[i] > high[0] ? pull[i] : high[0];
      }
      for (int j = 0; j < LANES; ++j) {
        task->low = low[j] < task->low ? low[j] : task->low;
        task->high = high[j] > task->high ? high[j] : task->high;
      }
    }
    memcpy(out + first, merged, (size_t)count * sizeof(float));
  }
}
