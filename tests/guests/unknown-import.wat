;; Imports a function that no host has: it cannot be linked, and the refusal names `env::secret`.
(module
  (import "env" "secret" (func $secret (result i32)))
  (func (export "f") (result i32) (call $secret)))
