;; Grows to a number of pages and writes to all of them: `hoard` then answers, `hold` keeps them until its timeout.
(module
  (memory 1)
  (func $take (param $pages i32)
    (if (i32.eq (memory.grow (local.get $pages)) (i32.const -1)) (then unreachable))
    (memory.fill (i32.const 0) (i32.const 1) (i32.mul (memory.size) (i32.const 65536))))
  (func (export "hoard") (param i32) (result i32) (call $take (local.get 0)) memory.size)
  (func (export "hold") (param i32) (call $take (local.get 0)) (loop (br 0))))
