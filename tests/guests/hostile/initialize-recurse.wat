;; Overflows the stack in its `_initialize`.
(module
  (func $down (export "_initialize") (call $down))
  (func (export "f")))
