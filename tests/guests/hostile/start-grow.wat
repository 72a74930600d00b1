;; Takes all the memory that there is in its start function, and minds when it is refused.
(module
  (memory 1)
  (func $start
    (loop $more (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable)) (br $more)))
  (start $start)
  (func (export "f")))
