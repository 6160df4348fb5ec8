package main

import (
	"bufio"
	"fmt"
	"io"
	"time"
)

// stampLines copies lines, each behind the time at which it came: ns since 1970.
func stampLines(in io.Reader, out io.Writer) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if _, err := fmt.Fprintf(out, "%d %s\n", time.Now().UnixNano(), lines.Bytes()); err != nil {
			return err
		}
	}
	return lines.Err()
}
