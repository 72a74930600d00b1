;; Never comes back: the loop is stopped at the call's timeout. `add` shows that the plugin is otherwise well.
(module
  (func (export "spin")
    (loop $forever (br $forever)))
  (func (export "add") (param i32 i32) (result i32)
    (i32.add (local.get 0) (local.get 1))))
