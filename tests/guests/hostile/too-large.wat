;; Wants more memory than its limit from the start.
(module (memory 1000) (func (export "f")))
