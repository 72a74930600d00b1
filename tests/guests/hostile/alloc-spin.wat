;; A Buffer module whose allocator never returns.
(module
  (memory (export "memory") 1)
  (func (export "alloc") (param i32) (result i32) (loop $forever (br $forever)) (i32.const 0))
  (func (export "f") (param i32 i32) (result i64) (i64.const 0)))
