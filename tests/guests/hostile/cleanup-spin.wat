;; DataFlare's ABI with a valid answer, and a `plugin_cleanup` that never returns.
(module
  (memory (export "memory") 1)
  (func (export "plugin_init") (param i32 i32) (result i32) (i32.const 0))
  (func (export "process_data") (param i32 i32) (result i32) (i32.const 0))
  (func (export "plugin_cleanup") (result i32) (loop $forever (br $forever)) (i32.const 0)))
