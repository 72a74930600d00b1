;; A Buffer module whose allocator traps.
(module
  (memory (export "memory") 1)
  (func (export "malloc") (param i32) (result i32) unreachable)
  (func (export "f") (param i32 i32) (result i64) (i64.const 0)))
