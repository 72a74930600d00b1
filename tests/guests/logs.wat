;; Logs the number of lines in its argument.
(module
  (import "env" "log" (func $log (param i32 i32 i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "a line of a guest")
  (func (export "logs") (param $lines i32)
    (loop
      (call $log (i32.const 3) (i32.const 0) (i32.const 17))
      (br_if 0 (local.tee $lines (i32.sub (local.get $lines) (i32.const 1)))))))
