/* The offsets that the walker needs, by the names that the layout files give them.
 * The caller fills a row of i32 in this order (walk_offset_names); -1: not in this version.
 * Where a field changed its name, the names are tried from left to right. */
#ifndef PARKSCOPE_OFFSETS_H
#define PARKSCOPE_OFFSETS_H

#define OFFSETS(X)                                                                            \
    X(ob_type, "PyObject.ob_type")                                                            \
    X(ob_size, "PyVarObject.ob_size")                                                         \
    X(gc_next, "PyGC_Head._gc_next")                                                          \
    X(gc_prev, "PyGC_Head._gc_prev")                                                          \
    X(gc_head, "PyGC_Head.SIZE")                                                              \
    X(tp_name, "PyTypeObject.tp_name")                                                        \
    X(tp_basicsize, "PyTypeObject.tp_basicsize")                                              \
    X(tp_itemsize, "PyTypeObject.tp_itemsize")                                                \
    X(tp_flags, "PyTypeObject.tp_flags")                                                      \
    X(tp_members, "PyTypeObject.tp_members")                                                  \
    X(tp_base, "PyTypeObject.tp_base")                                                        \
    X(tp_dict, "PyTypeObject.tp_dict")                                                        \
    X(tp_dictoffset, "PyTypeObject.tp_dictoffset")                                            \
    X(tp_weaklistoffset, "PyTypeObject.tp_weaklistoffset")                                    \
    X(tp_bases, "PyTypeObject.tp_bases")                                                      \
    X(tp_mro, "PyTypeObject.tp_mro")                                                          \
    X(tp_cache, "PyTypeObject.tp_cache")                                                      \
    X(tp_subclasses, "PyTypeObject.tp_subclasses")                                            \
    X(type_size, "PyTypeObject.SIZE")                                                         \
    X(heap_type_size, "PyHeapTypeObject.SIZE")                                                \
    X(ht_name, "PyHeapTypeObject.ht_name")                                                    \
    X(ht_slots, "PyHeapTypeObject.ht_slots")                                                  \
    X(ht_qualname, "PyHeapTypeObject.ht_qualname")                                            \
    X(ht_cached_keys, "PyHeapTypeObject.ht_cached_keys")                                      \
    X(ht_module, "PyHeapTypeObject.ht_module")                                                \
    X(member_size, "PyMemberDef.SIZE")                                                        \
    X(member_name, "PyMemberDef.name")                                                        \
    X(member_type, "PyMemberDef.type")                                                        \
    X(member_offset, "PyMemberDef.offset")                                                    \
    X(dict_size, "PyDictObject.SIZE")                                                         \
    X(ma_used, "PyDictObject.ma_used")                                                        \
    X(ma_keys, "PyDictObject.ma_keys")                                                        \
    X(ma_values, "PyDictObject.ma_values")                                                    \
    X(dk_refcnt, "PyDictKeysObject.dk_refcnt")                                                \
    X(dk_log2_size, "PyDictKeysObject.dk_log2_size")                                          \
    X(dk_log2_index_bytes, "PyDictKeysObject.dk_log2_index_bytes")                            \
    X(dk_kind, "PyDictKeysObject.dk_kind")                                                    \
    X(dk_usable, "PyDictKeysObject.dk_usable")                                                \
    X(dk_nentries, "PyDictKeysObject.dk_nentries")                                            \
    X(dk_indices, "PyDictKeysObject.dk_indices")                                              \
    X(values_first, "PyDictValues.values")                                                    \
    X(values_capacity, "PyDictValues.capacity")                                               \
    X(values_embedded, "PyDictValues.embedded")                                               \
    X(values_valid, "PyDictValues.valid")                                                     \
    X(tuple_item, "PyTupleObject.ob_item")                                                    \
    X(list_item, "PyListObject.ob_item")                                                      \
    X(list_allocated, "PyListObject.allocated")                                               \
    X(set_mask, "PySetObject.mask")                                                           \
    X(set_table, "PySetObject.table")                                                         \
    X(set_smalltable, "PySetObject.smalltable")                                               \
    X(entry_size, "setentry.SIZE")                                                            \
    X(entry_key, "setentry.key")                                                              \
    X(entry_hash, "setentry.hash")                                                            \
    X(lv_tag, "PyLongObject.long_value.lv_tag")                                               \
    X(ob_digit, "PyLongObject.long_value.ob_digit|PyLongObject.ob_digit")                     \
    X(ascii_size, "PyASCIIObject.SIZE")                                                       \
    X(str_length, "PyASCIIObject.length")                                                     \
    X(str_state, "PyASCIIObject.state")                                                       \
    X(compact_size, "PyCompactUnicodeObject.SIZE")                                            \
    X(str_size, "PyUnicodeObject.SIZE")                                                       \
    X(str_data, "PyUnicodeObject.data")                                                       \
    X(utf8, "PyCompactUnicodeObject.utf8")                                                    \
    X(utf8_length, "PyCompactUnicodeObject.utf8_length")                                      \
    X(wstr, "PyASCIIObject.wstr")                                                             \
    X(wstr_length, "PyCompactUnicodeObject.wstr_length")                                      \
    X(bytearray_alloc, "PyByteArrayObject.ob_alloc")                                          \
    X(bytearray_object, "PyByteArrayObject.ob_bytes_object")                                  \
    X(bytes_first, "PyBytesObject.ob_sval")                                                   \
    X(md_def, "PyModuleObject.md_def")                                                        \
    X(md_state, "PyModuleObject.md_state")                                                    \
    X(md_state_size, "PyModuleObject.md_state_size")                                          \
    X(m_size, "PyModuleDef.m_size")                                                           \
    X(wr_object, "PyWeakReference.wr_object")                                                 \
    X(exception_size, "PyBaseExceptionObject.SIZE")                                           \
    X(exc_dict, "PyBaseExceptionObject.dict")                                                 \
    X(exc_args, "PyBaseExceptionObject.args")                                                 \
    X(exc_notes, "PyBaseExceptionObject.notes")                                               \
    X(exc_traceback, "PyBaseExceptionObject.traceback")                                       \
    X(exc_context, "PyBaseExceptionObject.context")                                           \
    X(exc_cause, "PyBaseExceptionObject.cause")                                               \
    X(has_tzinfo, "PyDateTime_DateTime.hastzinfo")                                            \
    X(frame_frame, "_frame.f_frame")                                                          \
    X(frame_data, "_frame._f_frame_data")                                                     \
    X(gi_code, "PyGenObject.gi_code")                                                         \
    X(gi_iframe, "PyGenObject.gi_iframe")                                                     \
    X(gi_frame_state, "PyGenObject.gi_frame_state")                                           \
    X(f_executable, "_PyInterpreterFrame.f_executable|_PyInterpreterFrame.f_code")            \
    X(f_function, "_PyInterpreterFrame.f_funcobj|_PyInterpreterFrame.f_func")                 \
    X(f_locals, "_PyInterpreterFrame.f_locals")                                               \
    X(f_frame_obj, "_PyInterpreterFrame.frame_obj")                                           \
    X(f_previous, "_PyInterpreterFrame.previous")                                             \
    X(f_instruction, "_PyInterpreterFrame.instr_ptr|_PyInterpreterFrame.prev_instr")          \
    X(f_stacktop, "_PyInterpreterFrame.stacktop")                                             \
    X(f_stackpointer, "_PyInterpreterFrame.stackpointer")                                     \
    X(f_owner, "_PyInterpreterFrame.owner")                                                   \
    X(f_localsplus, "_PyInterpreterFrame.localsplus")                                         \
    X(co_nlocalsplus, "PyCodeObject.co_nlocalsplus")                                          \
    X(co_stacksize, "PyCodeObject.co_stacksize")                                              \
    X(co_localsplusnames, "PyCodeObject.co_localsplusnames")                                  \
    X(co_code, "PyCodeObject.co_code_adaptive")                                               \
    X(co_cached, "PyCodeObject._co_cached")                                                   \
    X(cached_code, "_PyCoCached._co_code")                                                    \
    X(cached_varnames, "_PyCoCached._co_varnames")                                            \
    X(cached_cellvars, "_PyCoCached._co_cellvars")                                            \
    X(cached_freevars, "_PyCoCached._co_freevars")

struct offsets {
#define X(field, name) int field;
    OFFSETS(X)
#undef X
};

#endif
