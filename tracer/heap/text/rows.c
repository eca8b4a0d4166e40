/* Rows of numbers and texts as text: what an export writes. See tracer/heap/text_rows.py.
 *
 * A row is its columns one after another: each the bytes that stand before it, then its
 * value, a decimal number or a text out of a table. Every number that names a text is checked. */
#include <stdint.h>
#include <string.h>

#define API __attribute__((visibility("default")))

enum { DIGITS = 20 };

struct column {
    const char *before; /* bytes before the value */
    uint64_t before_size;
    const void *values; /* NULL: only what stands before */
    uint64_t width;     /* bytes of a value: 1, 2, 4, 8; all unsigned */
    const uint64_t *starts; /* texts + 1 places in `text`; NULL: the value itself is written */
    const char *text;
    uint64_t texts;
    uint64_t longest; /* of the texts, bytes */
    const char *none; /* written for the greatest number of this width; NULL: as it is */
    uint64_t none_size;
};

static uint64_t value_at(const struct column *column, uint64_t row)
{
    switch (column->width) {
    case 1:
        return ((const uint8_t *)column->values)[row];
    case 2:
        return ((const uint16_t *)column->values)[row];
    case 4:
        return ((const uint32_t *)column->values)[row];
    default:
        return ((const uint64_t *)column->values)[row];
    }
}

static int is_none(const struct column *column, uint64_t value)
{
    return column->none && value == UINT64_MAX >> (64 - 8 * column->width);
}

static const char PAIRS[] = "00010203040506070809101112131415161718192021222324252627282930313233343536"
                            "37383940414243444546474849505152535455565758596061626364656667686970717273"
                            "7475767778798081828384858687888990919293949596979899";

static char *decimal(char *out, uint64_t value)
{
    char digits[DIGITS];
    char *first = digits + DIGITS;
    while (value >= 100) {
        first -= 2;
        memcpy(first, PAIRS + 2 * (value % 100), 2);
        value /= 100;
    }
    if (value >= 10) {
        first -= 2;
        memcpy(first, PAIRS + 2 * value, 2);
    } else {
        *--first = (char)('0' + value);
    }
    size_t size = (size_t)(digits + DIGITS - first);
    memcpy(out, first, size);
    return out + size;
}

/* The most bytes that one row can take. */
static uint64_t widest(const struct column *columns, uint64_t count)
{
    uint64_t most = 0;
    for (uint64_t at = 0; at < count; at++) {
        const struct column *column = columns + at;
        most += column->before_size;
        if (column->values)
            most += (column->starts ? column->longest : DIGITS) + column->none_size;
    }
    return most;
}

/* Writes rows from *row on, as many as surely fit into `room`, and moves *row past them.
 * The bytes written; -1 when a value names no text. */
API int64_t rows_format(const struct column *columns, uint64_t count, uint64_t rows, uint64_t *row,
                        char *out, uint64_t room)
{
    const uint64_t most = widest(columns, count);
    char *const start = out;
    for (; *row < rows && (uint64_t)(out - start) + most <= room; ++*row) {
        for (const struct column *column = columns; column < columns + count; column++) {
            memcpy(out, column->before, column->before_size);
            out += column->before_size;
            if (!column->values)
                continue;
            uint64_t value = value_at(column, *row);
            if (is_none(column, value)) {
                memcpy(out, column->none, column->none_size);
                out += column->none_size;
                continue;
            }
            if (!column->starts) {
                out = decimal(out, value);
                continue;
            }
            if (value >= column->texts)
                return -1;
            uint64_t from = column->starts[value], size = column->starts[value + 1] - from;
            if (size > column->longest)
                return -1;
            memcpy(out, column->text + from, size);
            out += size;
        }
    }
    return out - start;
}
