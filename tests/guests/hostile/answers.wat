;; A Buffer module whose answers have a false address or length.
(module
  (memory (export "memory") 1)
  (func (export "alloc") (param i32) (result i32) (i32.const 0))
  (func (export "past-the-end") (param i32 i32) (result i64) (i64.const 0xffffff0000000010))
  (func (export "across-the-end") (param i32 i32) (result i64) (i64.const 0x0000fff800000010))
  (func (export "all-of-4-gib") (param i32 i32) (result i64) (i64.const 0x00000000ffffffff))
  (func (export "wrapping") (param i32 i32) (result i64) (i64.const 0xffffffffffffffff))
  (func (export "too-long") (param i32 i32) (result i64) (drop (memory.grow (i32.const 100))) (i64.const 0x0000000000600000)))
