;; Grows its memory page by page until that fails: `minds` then traps, `ignores` tries again forever, `pages` returns the number of pages.
(module
  (memory (export "memory") 1)
  (func (export "minds")
    (loop $more
      (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable))
      (br $more)))
  (func (export "ignores")
    (loop $more
      (drop (memory.grow (i32.const 1)))
      (br $more)))
  (func (export "pages") (result i32)
    (loop $more
      (br_if $more (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
    (memory.size)))
