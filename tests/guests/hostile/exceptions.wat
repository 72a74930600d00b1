;; Throws: uncaught, without end, and from the deepest stack.
(module
  (tag $oops (param i32))
  (func (export "throw") (throw $oops (i32.const 1)))
  (func (export "throw-nothing") (throw_ref (ref.null exn)))
  (func (export "throw-and-catch-without-end")
    (loop $forever
      (block $caught (result i32)
        (try_table (result i32) (catch $oops $caught) (throw $oops (i32.const 1))))
      drop
      (br $forever)))
  (func (export "keep-every-exception") (local exnref)
    (loop $forever
      (block $caught (result i32 exnref)
        (try_table (result i32 exnref) (catch_ref $oops $caught) (throw $oops (i32.const 1))))
      (local.set 0)
      drop
      (br $forever)))
  (func $down (export "throw-from-the-depths") (param i32)
    (if (i32.eqz (local.get 0)) (then (throw $oops (i32.const 1))))
    (call $down (i32.sub (local.get 0) (i32.const 1)))))
