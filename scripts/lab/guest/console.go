package main

import (
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/xenferry/xenferry/scripts/lab/xfg"
)

// console prints whole lines without ever making its caller wait: while the
// console's other end is away, lines queue up, and those that find the queue
// full are dropped and counted.
type console struct {
	lines   chan string
	dropped atomic.Uint64
}

func newConsole() *console { return &console{lines: make(chan string, 256)} }

// print queues one line.
func (c *console) print(line string) {
	select {
	case c.lines <- line:
	default:
		c.dropped.Add(1)
	}
}

// bad reports damage or a second copy.
func (c *console) bad(format string, args ...any) {
	c.print(xfg.BadWord + " " + fmt.Sprintf(format, args...))
}

// note reports something worth knowing.
func (c *console) note(format string, args ...any) {
	c.print(xfg.NoteWord + " " + fmt.Sprintf(format, args...))
}

// write writes the queued lines to a terminal, for ever.
func (c *console) write(name string) {
	var tty *os.File
	for line := range c.lines {
		for tty == nil {
			f, err := os.OpenFile(name, os.O_WRONLY, 0)
			if err != nil {
				time.Sleep(100 * time.Millisecond)
				continue
			}
			tty = f
		}
		// The newline before ends what the kernel may have begun.
		if _, err := tty.WriteString("\n" + line + "\n"); err != nil {
			c.dropped.Add(1)
			time.Sleep(100 * time.Millisecond)
		}
	}
}
