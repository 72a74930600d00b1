;; Suspends itself: the proposal is not enabled, so the module is refused.
(module
  (type $f (func))
  (type $c (cont $f))
  (tag $yield)
  (func $g (suspend $yield))
  (elem declare func $g)
  (func (export "run") (resume $c (cont.new $c (ref.func $g)))))
