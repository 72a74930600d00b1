;; A program of WASI preview 1. It writes its arguments, each on a line, and then its stdin to stdout. If stdin begins
;; with `!`, it writes stdin to stderr instead and exits with status 3; if it begins with `*`, it writes without end.
(module
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 2)
  (global $calls (mut i32) (i32.const 0))
  ;; The iovec is at 0, a count at 8, the arguments' pointers at 1024, their text at 4096, stdin at 65536.
  (func $put (param $stream i32) (param $at i32) (param $length i32)
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (local.get $length))
    (drop (call $write (local.get $stream) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func $end_lines (param $at i32) (param $end i32)
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
        (if (i32.eqz (i32.load8_u (local.get $at)))
          (then (i32.store8 (local.get $at) (i32.const 10))))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $next))))
  (func (export "_start") (local $length i32) (local $first i32)
    ;; Traps if the instance has run before.
    (if (global.get $calls) (then unreachable))
    (global.set $calls (i32.const 1))
    (drop (call $args_sizes (i32.const 12) (i32.const 16)))
    (drop (call $args (i32.const 1024) (i32.const 4096)))
    (local.set $length (i32.load (i32.const 16)))
    (call $end_lines (i32.const 4096) (i32.add (i32.const 4096) (local.get $length)))
    (call $put (i32.const 1) (i32.const 4096) (local.get $length))
    (i32.store (i32.const 0) (i32.const 65536))
    (i32.store (i32.const 4) (i32.const 65536))
    (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
    (local.set $length (i32.load (i32.const 8)))
    (local.set $first (i32.load8_u (i32.const 65536)))
    (if (i32.eq (local.get $first) (i32.const 33))
      (then
        (call $put (i32.const 2) (i32.const 65536) (local.get $length))
        (call $exit (i32.const 3))))
    (if (i32.eq (local.get $first) (i32.const 42))
      (then (loop $forever
        (call $put (i32.const 1) (i32.const 65536) (local.get $length))
        (br $forever))))
    (call $put (i32.const 1) (i32.const 65536) (local.get $length))))
