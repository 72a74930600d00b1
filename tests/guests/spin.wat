;; `spin` never returns: its loop ends at the call's timeout. `add` shows that the plugin otherwise works.
(module
  (func (export "spin")
    (loop $forever (br $forever)))
  (func (export "add") (param i32 i32) (result i32)
    (i32.add (local.get 0) (local.get 1))))
