;; Computes for many milliseconds in its start function, so that the time of a call shows if its instance was warm.
(module
  (global $sum (mut i64) (i64.const 0))
  (func $warm-up
    (local $left i32)
    (local.set $left (i32.const 20000000))
    (loop $more
      (global.set $sum
        (i64.add (i64.mul (global.get $sum) (i64.const 6364136223846793005)) (i64.extend_i32_u (local.get $left))))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (br_if $more (local.get $left))))
  (start $warm-up)
  (func (export "sum") (result i64) (global.get $sum)))
