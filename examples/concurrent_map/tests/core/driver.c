/* Without libFuzzer: inputs from files, or random ones.
 *
 *     driver FILE…            each once
 *     driver --random SEED HOW_MANY
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { LONGEST = 1 << 13 };

static uint8_t data[LONGEST];

static int from_file(const char *name)
{
    FILE *file = fopen(name, "rb");
    if (file == NULL) {
        perror(name);
        return 1;
    }
    size_t size = fread(data, 1, sizeof data, file);
    fclose(file);
    LLVMFuzzerTestOneInput(data, size);
    return 0;
}

static void at_random(uint64_t seed, unsigned long count)
{
    uint64_t state = seed * 2 + 1;
    for (unsigned long i = 0; i < count; i++) {
        size_t size = 0, wanted = 3;
        for (; size < wanted; size++) {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            uint64_t dice = state * UINT64_C(2685821657736338717);
            data[size] = (uint8_t)(dice >> 56);
            if (size == 0)
                wanted = 4 + (dice >> 16) % 3000;
        }
        LLVMFuzzerTestOneInput(data, size);
    }
}

int main(int count, char **words)
{
    if (count == 4 && strcmp(words[1], "--random") == 0) {
        at_random(strtoull(words[2], NULL, 10), strtoul(words[3], NULL, 10));
        return 0;
    }
    for (int i = 1; i < count; i++)
        if (from_file(words[i]) != 0)
            return 1;
    return 0;
}
