;; Its initial memory exceeds its limit.
(module (memory 1000) (func (export "f")))
