;; Two functions in the text format: no toolchain is needed to run them.
(module
  ;; Scalar: numbers in, a number out.
  (func (export "add") (param i32 i32) (result i32)
    (i32.add (local.get 0) (local.get 1)))

  ;; Buffer: the host asks `alloc` for room, writes the body there, and calls `greet` with its place and length.
  (memory (export "memory") 1)
  (data (i32.const 0) "Hello, ")
  (global $top (mut i32) (i32.const 1024))

  (func (export "alloc") (param $length i32) (result i32)
    (local $at i32)
    (local.set $at (global.get $top))
    (global.set $top (i32.add (global.get $top) (local.get $length)))
    ;; Grow where the body does not fit; a refusal leaves it to the host to say so.
    (if (i32.gt_u (global.get $top) (i32.mul (memory.size) (i32.const 65536)))
      (then (drop (memory.grow (i32.add (i32.const 1) (i32.div_u (local.get $length) (i32.const 65536)))))))
    (local.get $at))

  ;; The answer is `pointer << 32 | length`: the greeting is written right before the name.
  (func (export "greet") (param $name i32) (param $length i32) (result i64)
    (local $at i32)
    (local.set $at (i32.sub (local.get $name) (i32.const 7)))
    (memory.copy (local.get $at) (i32.const 0) (i32.const 7))
    (i64.or
      (i64.shl (i64.extend_i32_u (local.get $at)) (i64.const 32))
      (i64.extend_i32_u (i32.add (local.get $length) (i32.const 7))))))
