// Adds up an invoice: JSON on stdin, JSON on stdout.
package main

import (
	"encoding/json"
	"fmt"
	"os"
)

type item struct {
	Name  string `json:"name"`
	Cents int    `json:"cents"`
	Count int    `json:"count"`
}

func main() {
	var items []item
	if err := json.NewDecoder(os.Stdin).Decode(&items); err != nil {
		fmt.Fprintln(os.Stderr, "the body must be a JSON array of items:", err)
		os.Exit(1)
	}
	total := 0
	for _, item := range items {
		total += item.Cents * item.Count
	}
	json.NewEncoder(os.Stdout).Encode(map[string]int{"items": len(items), "cents": total})
}
