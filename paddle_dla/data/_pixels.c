/* What is done to every pixel of every image: resize and crop, and normalisation.
 *
 * Resize and crop are byte for byte what Pillow gives, computed only where the crop looks. The definition is Pillow's (src/libImaging/Resample.c): a separable filter in two passes, the result of the first
 * rounded to 8 bits; weights in double, normalised, rounded to 22 fractional bits; sums in 32-bit integers. Which pass
 * comes first is the caller's to say, since it depends on the version. tests/test_crop.py holds this file against Pillow.
 *
 * The work is less: rows and columns that no pixel of the crop needs are skipped in both passes.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define CHANNELS 3
#define PRECISION_BITS 22
#define HALF (1 << (PRECISION_BITS - 1))

/* rows are summed in the widest registers that the machine has, chosen when the module is loaded */
#if defined(__GNUC__) && defined(__x86_64__) && defined(__linux__) && !defined(__clang__)
#define WIDEST __attribute__((target_clones("avx512f", "avx2", "default")))
#define WIDE_ROWS
#include <immintrin.h>
#else
#define WIDEST
#endif

typedef struct {
    double (*weight)(double);
    double support;
} Filter;

static double box(double x) { return x > -0.5 && x <= 0.5 ? 1.0 : 0.0; }

static double bilinear(double x) {
    x = fabs(x);
    return x < 1.0 ? 1.0 - x : 0.0;
}

static double bicubic(double x) {
    const double a = -0.5;
    x = fabs(x);
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
    return 0.0;
}

static const Filter FILTERS[] = {{box, 0.5}, {bilinear, 1.0}, {bicubic, 2.0}};

/* For `count` outputs from `first` on: which inputs each one sums (start, length) and their weights, `width` apart. */
typedef struct {
    int width;
    int *start, *length;
    int32_t *weights;
} Taps;

static void taps_free(Taps *taps) {
    free(taps->start);
    free(taps->weights);
}

static int taps_make(Taps *taps, const Filter *filter, int in_size, int out_size, int first, int count) {
    const double scale = (double)in_size / out_size, stretch = scale < 1.0 ? 1.0 : scale;
    const double support = filter->support * stretch, shrink = 1.0 / stretch;
    taps->width = (int)ceil(support) * 2 + 1;
    taps->start = malloc(2 * (size_t)count * sizeof(int));
    taps->weights = malloc((size_t)count * taps->width * sizeof(int32_t));
    double *real = malloc((size_t)taps->width * sizeof(double));
    if (!taps->start || !taps->weights || !real) {
        taps_free(taps);
        free(real);
        return -1;
    }
    taps->length = taps->start + count;
    for (int i = 0; i < count; i++) {
        const double center = (first + i + 0.5) * scale;
        int low = (int)(center - support + 0.5), high = (int)(center + support + 0.5);
        double sum = 0.0;
        if (low < 0) low = 0;
        if (high > in_size) high = in_size;
        for (int x = low; x < high; x++) sum += real[x - low] = filter->weight((x - center + 0.5) * shrink);
        for (int x = 0; x < high - low; x++) {
            const double w = (sum != 0.0 ? real[x] / sum : real[x]) * (1 << PRECISION_BITS);
            taps->weights[(size_t)i * taps->width + x] = (int32_t)(w < 0 ? w - 0.5 : w + 0.5);
        }
        taps->start[i] = low;
        taps->length[i] = high - low;
    }
    free(real);
    return 0;
}

static inline uint8_t clip8(int32_t value) {
    value >>= PRECISION_BITS;
    return value < 0 ? 0 : value > 255 ? 255 : (uint8_t)value;
}

/* One row of RGB pixels, the first of which is input `offset` of the taps -> `count` filtered ones. */
static void horizontal(const uint8_t *in, int offset, uint8_t *out, const Taps *taps, int count) {
    for (int i = 0; i < count; i++) {
        const int32_t *weights = taps->weights + (size_t)i * taps->width;
        const uint8_t *pixel = in + (size_t)(taps->start[i] - offset) * CHANNELS;
        int32_t r = HALF, g = HALF, b = HALF;
        for (int t = 0; t < taps->length[i]; t++, pixel += CHANNELS) {
            r += pixel[0] * weights[t];
            g += pixel[1] * weights[t];
            b += pixel[2] * weights[t];
        }
        *out++ = clip8(r);
        *out++ = clip8(g);
        *out++ = clip8(b);
    }
}

/* The same for four rows, `stride` apart, in AVX2: a register holds a pixel of two rows, and a fourth value of each that
 * is dropped. Reads one byte beyond each row. */
#ifdef WIDE_ROWS
#define ROWS 4

static inline int32_t four_bytes(const uint8_t *from) {
    int32_t value;
    memcpy(&value, from, sizeof value);
    return value;
}

__attribute__((target("avx2"))) static void horizontal_rows(const uint8_t *in, size_t stride, int offset, uint8_t *out,
                                                            const Taps *taps, int count) {
    const size_t row = (size_t)count * CHANNELS;
    for (int i = 0; i < count; i++, out += CHANNELS) {
        const int32_t *weights = taps->weights + (size_t)i * taps->width;
        const uint8_t *pixel = in + (size_t)(taps->start[i] - offset) * CHANNELS;
        __m256i upper = _mm256_set1_epi32(HALF), lower = upper;
        for (int t = 0; t < taps->length[i]; t++, pixel += CHANNELS) {
            const __m256i weight = _mm256_set1_epi32(weights[t]);
            const __m128i pixels = _mm_set_epi32(four_bytes(pixel + 3 * stride), four_bytes(pixel + 2 * stride),
                                                 four_bytes(pixel + stride), four_bytes(pixel));
            const __m128i second = _mm_unpackhi_epi64(pixels, pixels);
            upper = _mm256_add_epi32(upper, _mm256_mullo_epi32(_mm256_cvtepu8_epi32(pixels), weight));
            lower = _mm256_add_epi32(lower, _mm256_mullo_epi32(_mm256_cvtepu8_epi32(second), weight));
        }
        /* both packings saturate, which clips to 0 and 255; they leave the rows in the order 0, 2, 1, 3 */
        const __m256i words = _mm256_packs_epi32(_mm256_srai_epi32(upper, PRECISION_BITS),
                                                 _mm256_srai_epi32(lower, PRECISION_BITS));
        const __m256i bytes = _mm256_packus_epi16(words, words);
        const int32_t found[ROWS] = {_mm256_extract_epi32(bytes, 0), _mm256_extract_epi32(bytes, 4),
                                     _mm256_extract_epi32(bytes, 1), _mm256_extract_epi32(bytes, 5)};
        for (int r = 0; r < ROWS; r++) memcpy(out + r * row, &found[r], CHANNELS);
    }
}
#endif

/* `length` rows of `bytes` values each, `stride` apart -> their weighted sum. */
WIDEST static void vertical(const uint8_t *rows, size_t stride, uint8_t *restrict out, const int32_t *weights,
                            int length, int bytes, int32_t *restrict sums) {
    for (int x = 0; x < bytes; x++) sums[x] = HALF;
    for (int t = 0; t < length; t++, rows += stride) {
        const int32_t weight = weights[t];
        for (int x = 0; x < bytes; x++) sums[x] += rows[x] * weight;
    }
    for (int x = 0; x < bytes; x++) out[x] = clip8(sums[x]);
}

/* The inputs that `count` outputs need: from taps_first to, not including, taps_last. */
static int taps_first(const Taps *taps) { return taps->start[0]; }
static int taps_last(const Taps *taps, int count) { return taps->start[count - 1] + taps->length[count - 1]; }

static void horizontal_pass(const uint8_t *in, size_t stride, uint8_t *out, int rows, const Taps *across, int offset,
                            int columns) {
    const size_t bytes = (size_t)columns * CHANNELS;
    int y = 0;
#ifdef WIDE_ROWS
    /* a row must follow, for what is read beyond the last of the four */
    if (__builtin_cpu_supports("avx2"))
        for (; y + ROWS < rows; y += ROWS)
            horizontal_rows(in + y * stride, stride, offset, out + y * bytes, across, columns);
#endif
    for (; y < rows; y++) horizontal(in + y * stride, offset, out + y * bytes, across, columns);
}

static void vertical_pass(const uint8_t *in, size_t stride, uint8_t *out, int rows, const Taps *down, int offset,
                          int bytes, int32_t *sums) {
    for (int y = 0; y < rows; y++, out += bytes)
        vertical(in + (size_t)(down->start[y] - offset) * stride, stride, out,
                 down->weights + (size_t)y * down->width, down->length[y], bytes, sums);
}

typedef struct {
    int h, w, new_h, new_w, top, left, crop_h, crop_w, vertical_first;
} Geometry;

/* `source`: first pixel of a region of h x w pixels whose rows are `stride` bytes apart. */
static int resize_crop(const uint8_t *source, size_t stride, const Geometry *g, const Filter *filter, uint8_t *out) {
    Taps across = {0}, down = {0};
    uint8_t *middle = NULL;
    int32_t *sums = NULL;
    int status = -1;
    if (taps_make(&across, filter, g->w, g->new_w, g->left, g->crop_w)) return -1;
    if (taps_make(&down, filter, g->h, g->new_h, g->top, g->crop_h)) goto done;
    const int first_row = taps_first(&down), rows = taps_last(&down, g->crop_h) - first_row;
    const int first_column = taps_first(&across), columns = taps_last(&across, g->crop_w) - first_column;
    const size_t wide = (size_t)columns * CHANNELS, narrow = (size_t)g->crop_w * CHANNELS;
    middle = malloc(g->vertical_first ? g->crop_h * wide : rows * narrow);
    sums = malloc((g->vertical_first ? wide : narrow) * sizeof(int32_t));
    if (!middle || !sums) goto done;
    if (g->vertical_first) {
        const uint8_t *corner = source + (size_t)first_column * CHANNELS;
        vertical_pass(corner, stride, middle, g->crop_h, &down, 0, (int)wide, sums);
        horizontal_pass(middle, wide, out, g->crop_h, &across, first_column, g->crop_w);
    } else {
        horizontal_pass(source + first_row * stride, stride, middle, rows, &across, 0, g->crop_w);
        vertical_pass(middle, narrow, out, g->crop_h, &down, first_row, (int)narrow, sums);
    }
    status = 0;
done:
    taps_free(&across);
    taps_free(&down);
    free(middle);
    free(sums);
    return status;
}

static int fits(const Geometry *g, int height, int width, int y, int x) {
    return height > 0 && width > 0 && g->h > 0 && g->w > 0 && y >= 0 && x >= 0 && g->h <= height - y &&
           g->w <= width - x && g->crop_h > 0 && g->crop_w > 0 && g->top >= 0 && g->left >= 0 &&
           g->crop_h <= g->new_h - g->top && g->crop_w <= g->new_w - g->left;
}

static PyObject *py_resize_crop(PyObject *module, PyObject *args) {
    Py_buffer in, out;
    Geometry g;
    int height, width, x, y, kind, status = 0;
    if (!PyArg_ParseTuple(args, "y*(ii)(iiii)(ii)(iiii)ipw*", &in, &height, &width, &y, &x, &g.h, &g.w, &g.new_h,
                          &g.new_w, &g.top, &g.left, &g.crop_h, &g.crop_w, &kind, &g.vertical_first, &out))
        return NULL;
    const int inside = fits(&g, height, width, y, x) && kind >= 0 &&
                       kind < (int)(sizeof FILTERS / sizeof *FILTERS) &&
                       in.len == (Py_ssize_t)height * width * CHANNELS &&
                       out.len == (Py_ssize_t)g.crop_h * g.crop_w * CHANNELS;
    if (inside) {
        const size_t stride = (size_t)width * CHANNELS;
        const uint8_t *corner = (const uint8_t *)in.buf + y * stride + (size_t)x * CHANNELS;
        Py_BEGIN_ALLOW_THREADS
        status = resize_crop(corner, stride, &g, &FILTERS[kind], out.buf);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&in);
    PyBuffer_Release(&out);
    if (!inside) {
        PyErr_SetString(PyExc_ValueError, "sizes, boxes and buffers do not fit each other");
        return NULL;
    }
    if (status) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyObject *py_normalise(PyObject *module, PyObject *args) {
    Py_buffer in, table, out;
    int channels;
    if (!PyArg_ParseTuple(args, "y*iy*w*", &in, &channels, &table, &out)) return NULL;
    const int fits = channels > 0 && in.len % channels == 0 && out.len == in.len * (Py_ssize_t)sizeof(float) &&
                     table.len == (Py_ssize_t)(256 * channels * sizeof(float));
    if (fits) {
        const Py_ssize_t pixels = in.len / channels;
        Py_BEGIN_ALLOW_THREADS
        for (int c = 0; c < channels; c++) {
            const uint8_t *value = (const uint8_t *)in.buf + c;
            const float *levels = (const float *)table.buf + 256 * c;
            float *plane = (float *)out.buf + pixels * c;
            for (Py_ssize_t i = 0; i < pixels; i++) plane[i] = levels[value[i * channels]];
        }
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&in);
    PyBuffer_Release(&table);
    PyBuffer_Release(&out);
    if (!fits) {
        PyErr_SetString(PyExc_ValueError, "image, table and output do not fit each other");
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyMethodDef METHODS[] = {
    {"resize_crop", py_resize_crop, METH_VARARGS,
     "resize_crop(image, (H, W), (y, x, h, w), (new_h, new_w), (top, left, crop_h, crop_w), filter, vertical_first,\n"
     "out)\n\n"
     "Resizes the region (y, x, h, w) of an (H, W, 3) uint8 image to new_h x new_w and writes the given crop of the\n"
     "result to out, (crop_h, crop_w, 3) uint8. filter: 0 box, 1 bilinear, 2 bicubic."},
    {"normalise", py_normalise, METH_VARARGS,
     "normalise(image, channels, table, out)\n\n"
     "Looks each value of an (H, W, channels) uint8 image up in its channel's row of table, (channels, 256) float32, and\n"
     "writes it to out, (channels, H, W) float32."},
    {NULL, NULL, 0, NULL}};

static PyModuleDef MODULE = {.m_base = PyModuleDef_HEAD_INIT, .m_name = "_pixels", .m_methods = METHODS};

PyMODINIT_FUNC PyInit__pixels(void) { return PyModule_Create(&MODULE); }
