"""Templates of the parts of a C file that are the same for every network."""

from __future__ import annotations

from string import Template


def softmax(name: str, log: bool) -> str:
    """Return a C function that computes the softmax of `n` numbers, or its logarithm."""
    finish = "y[k] = x[k] - top - logf(sum);" if log else "y[k] = y[k] / sum;"
    each = "" if log else "y[k] = "
    return (
        f"static void {name}(const float *x, float *y, unsigned n)\n{{\n"
        "    float top = x[0], sum = 0.0f;\n    unsigned k;\n"
        "    for (k = 1; k < n; k++) if (x[k] > top) top = x[k];\n"
        f"    for (k = 0; k < n; k++) sum += {each}expf(x[k] - top);\n"
        f"    for (k = 0; k < n; k++) {finish}\n}}\n"
    )


MACROS = Template("""\
/* Where constants are and how they are read: in program memory on AVR, plain elsewhere. Define
   ${up}_FLASH yourself to place them in a section of your own. */
#ifdef __AVR__
#include <avr/pgmspace.h>
#define ${up}_FLASH PROGMEM
#define ${up}_BYTE(p) pgm_read_byte(p)
#define ${up}_WORD(p) pgm_read_word(p)
#define ${up}_LONG(p) pgm_read_dword(p)
#define ${up}_FLOAT(p) pgm_read_float(p)
#else
#ifndef ${up}_FLASH
#define ${up}_FLASH
#endif
#define ${up}_BYTE(p) (*(p))
#define ${up}_WORD(p) (*(p))
#define ${up}_LONG(p) (*(p))
#define ${up}_FLOAT(p) (*(p))
#endif
""")

CLASSIFY = Template("""\
int ${prefix}_classify(const $act x[${up}_INPUTS])
{
    $out y[${up}_OUTPUTS];
    int k, best = 0;
    $compute(x, y);
    for (k = 1; k < ${up}_OUTPUTS; k++) if (y[k] > y[best]) best = k;
    return best;
}
""")

# A sum times a factor below 2^31, shifted right and rounded: 64 bits hold it. Compilers shift
# negative numbers arithmetically, on every processor that this code is for.
RESCALED = Template("""\
static int32_t ${prefix}_rescaled(int32_t sum, int32_t factor, unsigned shift, int32_t low,
    int32_t high)
{
    const int64_t half = (int64_t)1 << (shift - 1u);
    const int64_t steps = ((int64_t)sum * factor + half) >> shift;
    return steps < low ? low : steps > high ? high : (int32_t)steps;
}
""")

# A sum of products that stays below 2^31, shifted right and rounded.
SHIFTED = Template("""\
static int32_t ${prefix}_shifted(int32_t sum, unsigned shift, int32_t low, int32_t high)
{
    const int32_t steps = (sum + ((int32_t)1 << (shift - 1u))) >> shift;
    return steps < low ? low : steps > high ? high : steps;
}
""")

CURVE = Template("""\
static int32_t ${prefix}_curve(const $act *curve, int32_t v)
{
    const uint32_t at = (uint32_t)(v + 32768);
    const int32_t low = $low;
    const int32_t high = $high;
    return low + (((high - low) * (int32_t)(at & 255u) + 128) >> 8);
}
""")

# Kept steps move to the front of each channel, and new ones follow.
KEEP = Template("""\
static void ${prefix}_keep($act *kept, const $act *x, unsigned channels, unsigned steps,
    unsigned given)
{
    for (; channels; channels--) {
        unsigned k;
        for (k = 0; k < steps - given; k++) kept[k] = kept[k + given];
        for (k = 0; k < given; k++) kept[steps - given + k] = *x++;
        kept += steps;
    }
}
""")

RESET = Template("""\
void ${prefix}_reset(void)
{
    unsigned k;
    for (k = 0; k < ${count}u; k++) ${prefix}_kept[k] = 0;
}
""")

QUANTISED = Template("""\
static $act ${prefix}_quantised(float v)
{
    return ($act)(v <= -$top ? -$top : v >= $top ? $top : v < 0.0f ? v - 0.5f : v + 0.5f);
}
""")

SELF_TEST = Template("""\
#ifdef ${up}_SELF_TEST
#include <stdio.h>
$golden_x
$golden_y
$main
#endif
""")

SELF_TEST_MAIN = Template("""\
int main(void)
{
    static $act x[${up}_INPUTS];
    $out y[${up}_OUTPUTS];
    unsigned n, k, failed = 0;
    for (n = 0; n < $count; n++) {
        int good = 1;
        $feed
        for (k = 0; k < ${up}_OUTPUTS; k++) {
            const $out wanted = $wanted;
            if (!($same)) good = 0;
        }
        if (!good) failed++;
    }
    printf("${prefix}: %u of $count golden vectors passed\\n", $count - failed);
    return failed != 0;
}
""")
