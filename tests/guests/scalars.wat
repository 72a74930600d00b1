;; Scalar functions over every number type: one parameter each, all of them, two results, none.
(module
  (func (export "echo-i32") (param i32) (result i32) (local.get 0))
  (func (export "echo-i64") (param i64) (result i64) (local.get 0))
  (func (export "echo-f32") (param f32) (result f32) (local.get 0))
  (func (export "echo-f64") (param f64) (result f64) (local.get 0))
  (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
  (func (export "sum") (param i32 i64 f32 f64) (result f64)
    (f64.add
      (f64.add (f64.convert_i32_s (local.get 0)) (f64.convert_i64_s (local.get 1)))
      (f64.add (f64.promote_f32 (local.get 2)) (local.get 3))))
  ;; Quotient and remainder; a divisor of 0 traps.
  (func (export "divide") (param i64 i64) (result i64 i64)
    (i64.div_s (local.get 0) (local.get 1))
    (i64.rem_s (local.get 0) (local.get 1)))
  ;; 0 divided by 0 is NaN; any other number divided by 0 is infinite.
  (func (export "ratio") (param f64 f64) (result f64) (f64.div (local.get 0) (local.get 1)))
  (func (export "nothing"))
  ;; A vector is not a Scalar type: listed as not callable.
  (func (export "vector") (result v128) (v128.const i64x2 1 2)))
