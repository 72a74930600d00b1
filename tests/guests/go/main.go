// A WASI preview 1 reactor as Go builds it: its runtime starts in `_initialize`, and each export is called after that.
package main

import (
	"os"
	"strings"
)

// main is never called in a reactor, but Go requires one.
func main() {}

//go:wasmexport add
func add(a, b int32) int32 { return a + b }

// allocate makes garbage and counts it, so that the garbage collector runs inside a call.
//
//go:wasmexport allocate
func allocate(rounds int32) int32 {
	var total int32
	for range rounds {
		total += int32(len(strings.Repeat("x", 1024)))
	}
	return total
}

// environment returns the number of variables that the guest sees.
//
//go:wasmexport environment
func environment() int32 { return int32(len(os.Environ())) }
