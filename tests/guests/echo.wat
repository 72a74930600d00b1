;; Buffer functions: `echo` returns its bytes, `nothing` returns none.
(module
  (memory (export "memory") 1)
  (global $top (mut i32) (i32.const 16))

  (func (export "alloc") (param $length i32) (result i32)
    (local $at i32)
    (local.set $at (global.get $top))
    (global.set $top (i32.add (global.get $top) (local.get $length)))
    ;; Grows by the missing pages; a refusal shows as an address past the memory's end.
    (if (i32.gt_u (global.get $top) (i32.shl (memory.size) (i32.const 16)))
      (then
        (drop (memory.grow
          (i32.sub
            (i32.shr_u (i32.add (global.get $top) (i32.const 0xffff)) (i32.const 16))
            (memory.size))))))
    (local.get $at))

  (func (export "echo") (param $at i32) (param $length i32) (result i64)
    (i64.or
      (i64.shl (i64.extend_i32_u (local.get $at)) (i64.const 32))
      (i64.extend_i32_u (local.get $length))))

  (func (export "nothing") (param i32 i32) (result i64)
    (i64.const 0)))
