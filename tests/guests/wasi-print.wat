;; WASI preview 1: `print` writes a line to stdout, `complain` one to stderr, and each returns the errno of its `fd_write`.
(module
  (import "wasi_snapshot_preview1" "fd_write"
    (func $fd_write (param $fd i32) (param $vectors i32) (param $count i32) (param $written i32) (result i32)))
  (memory (export "memory") 1)
  ;; One iovec each: the address of its bytes, and their number.
  (data (i32.const 0) "\20\00\00\00\12\00\00\00")
  (data (i32.const 8) "\40\00\00\00\12\00\00\00")
  (data (i32.const 0x20) "hello from stdout\n")
  (data (i32.const 0x40) "hello from stderr\n")
  (func (export "print") (result i32)
    (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))
  (func (export "complain") (result i32)
    (call $fd_write (i32.const 2) (i32.const 8) (i32.const 1) (i32.const 16))))
