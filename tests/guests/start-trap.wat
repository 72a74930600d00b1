;; Traps in its start function, so no instance starts.
(module
  (func $begin unreachable)
  (start $begin)
  (func (export "f")))
