;; A Buffer module whose allocator returns an address out of bounds.
(module
  (memory (export "memory") 1)
  (func (export "alloc") (param i32) (result i32) (i32.const 0xfffffff0))
  (func (export "f") (param i32 i32) (result i64) (i64.const 0)))
