;; Never returns from its start function.
(module
  (func $start (loop $forever (br $forever)))
  (start $start)
  (func (export "f")))
