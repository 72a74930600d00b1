;; Fills the garbage collector's heap: with objects that it keeps, with garbage, and with one that is too large.
(module
  (type $node (struct (field (ref null $node)) (field i64 i64 i64 i64)))
  (type $bytes (array (mut i8)))
  (type $all (array (mut (ref null $bytes))))
  (func (export "keep") (local (ref null $node))
    (loop $forever
      (local.set 0 (struct.new $node (local.get 0) (i64.const 1) (i64.const 2) (i64.const 3) (i64.const 4)))
      (br $forever)))
  (func (export "litter")
    (loop $forever (drop (array.new $bytes (i32.const 1) (i32.const 10000))) (br $forever)))
  (func (export "take-one-huge-thing") (result i32) (array.len (array.new $bytes (i32.const 1) (i32.const -1))))
  (func (export "fill-past-the-end") (array.fill $bytes (array.new $bytes (i32.const 1) (i32.const 10)) (i32.const 5) (i32.const 1) (i32.const -1)))
  (func (export "follow-null") (drop (struct.get $node 0 (ref.null $node))))
  (func (export "cast-what-it-is-not") (drop (ref.cast (ref $node) (array.new $bytes (i32.const 1) (i32.const 1))))))
