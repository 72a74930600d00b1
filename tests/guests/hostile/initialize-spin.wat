;; Never returns from its `_initialize`.
(module
  (func (export "_initialize") (loop $forever (br $forever)))
  (func (export "f")))
