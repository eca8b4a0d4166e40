/* Marks: what tells that an immutable object is another one than stood at its address before.
 * What tracer/heap/marking.py calls.
 *
 * A mark is 16 bits of SipHash-2-4 (Aumasson and Bernstein, 2012) of the address and the content
 * under a key that only the live process has. Without it a mark says nothing of the content, nor
 * whether two objects are equal. 0: none. Every read is checked against the image. */
#include <stdint.h>
#include <string.h>

#define API __attribute__((visibility("default")))

enum { MOST_BYTES = 1024 }; /* of the content that count */
enum kind { NONE, STR, INT_SIZE, INT_TAG, FLOAT, BYTES };

/* Offsets in CPython's structures (tracer/pymem/layouts), in the order of marking.py. */
struct places {
    uint64_t length, state, ascii, compact, size, tag, digits, value, bytes;
};

struct object {
    const uint8_t *at;
    uint64_t room; /* bytes up to the end of its segment */
    uint64_t address;
};

struct sip {
    uint64_t v0, v1, v2, v3;
};

static uint64_t turned(uint64_t word, int by)
{
    return word << by | word >> (64 - by);
}

static void sip_round(struct sip *sip)
{
    sip->v0 += sip->v1;
    sip->v2 += sip->v3;
    sip->v1 = turned(sip->v1, 13) ^ sip->v0;
    sip->v3 = turned(sip->v3, 16) ^ sip->v2;
    sip->v0 = turned(sip->v0, 32);
    sip->v2 += sip->v1;
    sip->v0 += sip->v3;
    sip->v1 = turned(sip->v1, 17) ^ sip->v2;
    sip->v3 = turned(sip->v3, 21) ^ sip->v0;
    sip->v2 = turned(sip->v2, 32);
}

static void sip_word(struct sip *sip, uint64_t word)
{
    sip->v3 ^= word;
    sip_round(sip);
    sip_round(sip);
    sip->v0 ^= word;
}

static uint16_t mark_of(const uint64_t *key, const struct object *object, uint64_t head,
                        uint64_t start, uint64_t size)
{
    if (size > MOST_BYTES)
        size = MOST_BYTES;
    if (start > object->room || size > object->room - start)
        return 0;
    struct sip sip = {key[0] ^ 0x736f6d6570736575, key[1] ^ 0x646f72616e646f6d,
                      key[0] ^ 0x6c7967656e657261, key[1] ^ 0x7465646279746573};
    sip_word(&sip, object->address);
    sip_word(&sip, head);
    for (uint64_t done = 0; done < size; done += 8) {
        uint64_t word = 0;
        memcpy(&word, object->at + start + done, size - done < 8 ? size - done : 8);
        sip_word(&sip, word);
    }
    sip_word(&sip, size);
    sip.v2 ^= 0xff;
    for (int round = 0; round < 4; round++)
        sip_round(&sip);
    uint16_t mark = (uint16_t)(sip.v0 ^ sip.v1 ^ sip.v2 ^ sip.v3);
    return mark ? mark : 1;
}

static int word_at(const struct object *object, uint64_t offset, uint64_t *word)
{
    if (object->room < 8 || offset > object->room - 8)
        return 0;
    memcpy(word, object->at + offset, 8);
    return 1;
}

static uint16_t mark_str(const uint64_t *key, const struct places *places,
                         const struct object *object)
{
    uint64_t length;
    if (!word_at(object, places->length, &length) || places->state >= object->room)
        return 0;
    /* state: interned 2 bits, kind 3, compact 1, ascii 1 (Include/cpython/unicodeobject.h) */
    uint8_t state = object->at[places->state], kind = state >> 2 & 7;
    if (!(state >> 5 & 1) || kind > 4 || length > UINT64_MAX / 8)
        return 0;
    uint64_t start = state >> 6 & 1 ? places->ascii : places->compact;
    return mark_of(key, object, length << 3 | kind, start, length * kind);
}

static uint16_t mark_int(const uint64_t *key, const struct places *places,
                         const struct object *object, enum kind kind)
{
    uint64_t head, digits;
    if (!word_at(object, kind == INT_SIZE ? places->size : places->tag, &head))
        return 0;
    if (kind == INT_SIZE) {
        digits = (int64_t)head < 0 ? -head : head;
    } else {
        head &= ~(uint64_t)4; /* whether it is immortal (3.14) */
        digits = head >> 3;
    }
    if (digits > UINT64_MAX / 8)
        return 0;
    return mark_of(key, object, head, places->digits, digits * 4);
}

static uint16_t mark_one(const uint64_t *key, const struct places *places,
                         const struct object *object, enum kind kind)
{
    uint64_t size;
    switch (kind) {
    case STR:
        return mark_str(key, places, object);
    case INT_SIZE:
    case INT_TAG:
        return mark_int(key, places, object, kind);
    case FLOAT:
        return mark_of(key, object, 0, places->value, 8);
    case BYTES:
        return word_at(object, places->size, &size)
                   ? mark_of(key, object, size, places->bytes, size)
                   : 0;
    default:
        return 0;
    }
}

/* Of `count` objects: their addresses, where they stand in the image of `size` bytes, how many
 * bytes from there on are theirs at the most, and of which kind they are. */
API void marks_of(const uint8_t *image, uint64_t size, const struct places *places,
                  const uint64_t *key, uint64_t count, const uint64_t *address,
                  const uint64_t *offset, const uint64_t *room, const uint8_t *kind,
                  uint16_t *mark)
{
    for (uint64_t at = 0; at < count; at++) {
        mark[at] = 0;
        if (offset[at] > size || room[at] > size - offset[at])
            continue;
        struct object object = {image + offset[at], room[at], address[at]};
        mark[at] = mark_one(key, places, &object, (enum kind)kind[at]);
    }
}
