;; A plugin as in DataFlare's guide, without an allocator: `plugin_init` stores its config, `process_data` answers
;; `<config>|<data>` after four bytes of length. A config that begins with `!` is refused; data that begins with `!`
;; fails, with `0` has an empty answer, and with `?` is logged, after a read of the clock and a random number.
(module
  (import "env" "log" (func $log (param i32 i32 i32)))
  (import "env" "get_time" (func $time (result i64)))
  (import "env" "random" (func $random (param i64) (result i64)))
  (memory (export "memory") 1)
  (global $at (mut i32) (i32.const 0))
  (global $length (mut i32) (i32.const 0))
  (func (export "plugin_init") (param i32 i32) (result i32)
    (global.set $at (local.get 0))
    (global.set $length (local.get 1))
    (i32.eq (i32.load8_u (local.get 0)) (i32.const 33)))
  (func (export "process_data") (param $data i32) (param $length i32) (result i32) (local $first i32)
    (local.set $first (i32.load8_u (local.get $data)))
    (if (i32.eq (local.get $first) (i32.const 33)) (then (return (i32.const -7))))
    (if (i32.eq (local.get $first) (i32.const 48)) (then (return (i32.const 0))))
    (if (i32.eq (local.get $first) (i32.const 63))
      (then
        (call $log (i32.const 3) (local.get $data) (local.get $length))
        (if (i64.lt_u (call $time) (i64.const 1500000000000)) (then unreachable))
        (if (i64.ge_u (call $random (i64.const 3)) (i64.const 3)) (then unreachable))))
    (memory.copy (i32.const 1028) (global.get $at) (global.get $length))
    (i32.store8 (i32.add (i32.const 1028) (global.get $length)) (i32.const 124))
    (memory.copy (i32.add (i32.const 1029) (global.get $length)) (local.get $data) (local.get $length))
    (i32.store (i32.const 1024) (i32.add (i32.const 1) (i32.add (global.get $length) (local.get $length))))
    (i32.const 1024))
  (func (export "plugin_cleanup") (result i32) (i32.const 0)))
