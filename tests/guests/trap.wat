;; Traps two calls deep: with its names, the backtrace reads `inner`, `outer`, `fail`.
(module
  (func $inner (param $divisor i32) (result i32)
    (i32.div_u (i32.const 1) (local.get $divisor)))
  (func $outer (result i32)
    (i32.add (call $inner (i32.const 0)) (i32.const 1)))
  (func $fail (export "fail") (result i32)
    (call $outer)))
