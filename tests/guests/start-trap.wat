;; Traps in its start function: no instance of it can be made.
(module
  (func $begin unreachable)
  (start $begin)
  (func (export "f")))
