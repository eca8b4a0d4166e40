/* What the Python side calls (tracer/heap/walker.py): a handle, what to start from, the
 * run, and the columns. Every function may be called with a handle only; none of them
 * reads the process's own state, and none keeps a pointer that it was given but `base`. */
#ifndef PARKSCOPE_API_H
#define PARKSCOPE_API_H

#include "walk.h"

#define API __attribute__((visibility("default")))

API const char *walk_offset_names(void);
API const char *walk_kind_names(void);
API struct walk *walk_new(const u64 (*segments)[3], u32 count, const u8 *base, u64 size,
                          const i32 *offsets, const u32 *constants);
API void walk_free(struct walk *walk);
API int walk_know(struct walk *walk, u64 address, const char *name, u32 kind, u32 scan_from,
                  const u32 *fields, u32 count);
API int walk_static_type(struct walk *walk, u64 type, u64 dict, u64 subclasses);
API u64 walk_find_list_heads(struct walk *walk, u64 from, u64 size, u64 *heads, u64 room);
API int walk_list(struct walk *walk, u64 head);
API int walk_root(struct walk *walk, u64 target, u32 kind, u32 name, u32 counted);
API int walk_interned(struct walk *walk, u64 dict);
API int walk_running(struct walk *walk, u64 frame);
API int walk_thread(struct walk *walk, u32 thread, u64 frame);
API int walk_mark(struct walk *walk);
API int walk_emit(struct walk *walk, u32 threads);
API const char *walk_field_names(void);
API u64 walk_progress(const struct walk *walk);
API void walk_totals(const struct walk *walk, u64 *totals);
API const void *walk_rows(const struct walk *walk, u32 which);
API void walk_flag_targets(const struct walk *walk, const u8 *labels, u8 *nodes);
API void walk_flag_keys(const struct walk *walk, u8 dicts, u8 keys, u8 *nodes);
API void walk_type_rows(const struct walk *walk, u64 *rows);

#endif
