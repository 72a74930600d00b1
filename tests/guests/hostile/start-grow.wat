;; Grows its memory without end in its start function, and traps when that fails.
(module
  (memory 1)
  (func $start
    (loop $more (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable)) (br $more)))
  (start $start)
  (func (export "f")))
