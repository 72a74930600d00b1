;; A module of openEuler WasmEngine's first convention, as its guide builds them: JSON at `__heap_base`, pointer and length
;; of the answer as two results. `echo` answers its argument, `base` the argument's address, `lie` out of bounds.
(module
  (memory (export "memory") 1)
  (global (export "__heap_base") i32 (i32.const 65530))
  (global (export "__data_end") i32 (i32.const 65530))
  (func (export "echo") (param i32 i32) (result i32 i32) (local.get 0) (local.get 1))
  (func (export "base") (param i32 i32) (result i32 i32)
    (i32.store8 (i32.const 0) (i32.add (i32.const 48) (i32.eq (local.get 0) (i32.const 65530))))
    (i32.const 0)
    (i32.const 1))
  (func (export "lie") (param i32 i32) (result i32 i32) (i32.const -2) (i32.const 10)))
