;; DataFlare's ABI with an answer whose length is 4 GiB, at an unaligned address, and a cleanup that hangs.
(module
  (memory (export "memory") 1)
  (func (export "plugin_init") (param i32 i32) (result i32) (i32.const 0))
  (func (export "process_data") (param i32 i32) (result i32) (i32.store (i32.const 33) (i32.const -1)) (i32.const 33))
  (func (export "plugin_cleanup") (result i32) (loop $forever (br $forever)) (i32.const 0)))
