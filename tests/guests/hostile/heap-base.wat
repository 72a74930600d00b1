;; WasmEngine's convention with a `__heap_base` at the end of 4 GiB.
(module
  (memory (export "memory") 1)
  (global (export "__heap_base") i32 (i32.const -1))
  (func (export "f") (param i32 i32) (result i32 i32) (local.get 0) (local.get 1)))
