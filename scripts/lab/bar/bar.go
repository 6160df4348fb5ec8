// Package bar is what a measurement is held to.
package bar

import (
	"fmt"
	"io"
)

// Bar is one promise: a figure is at most so much.
type Bar struct {
	Name   string  `json:"name"`
	Figure float64 `json:"figure"`
	Most   float64 `json:"most"`
	Unit   string  `json:"unit,omitempty"`
	Few    bool    `json:"few,omitempty"` // too few measurements to tell
}

// Missed tells whether the bar is not held.
func (b Bar) Missed() bool { return b.Few || b.Figure > b.Most }

// String says how it stands.
func (b Bar) String() string {
	word := "held"
	switch {
	case b.Few:
		word = "MISSED: too few measurements"
	case b.Missed():
		word = "MISSED"
	}
	return fmt.Sprintf("%s: %.3g%s, at most %.3g%s: %s", b.Name, b.Figure, b.Unit, b.Most, b.Unit, word)
}

// Print writes how each bar stands, and returns how many are missed.
func Print(out io.Writer, bars []Bar) (missed int) {
	for _, b := range bars {
		if b.Missed() {
			missed++
		}
		fmt.Fprintln(out, b)
	}
	return missed
}
