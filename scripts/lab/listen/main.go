// Command listen runs in a lab host's dom0 and hears the packets of the lab's
// guests wherever they run: so it sees, with one clock, how long a guest was
// away, which packets were lost, and whether two copies of it are sending.
//
//	listen serve              hears, until it is told to quit
//	listen state              prints what was heard so far, as JSON (State)
//	listen mark               the same, and begins to count anew
//	listen sweep ID           makes that guest verify all its memory at once
//	listen quit               ends the one that hears
//	listen stamp              copies its input, each line behind its time in ns
//	listen clock HOST [set]   prints how far HOST's clock is ahead of ours in
//	                          ns, and with "set" sets ours to it
package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// socketPath is where the one that hears is asked.
const socketPath = "/run/xfg-listen.sock"

// askTimeout bounds each question.
const askTimeout = 10 * time.Second

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "listen:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 1 && args[0] == "serve":
		return serve()
	case len(args) == 1 && (args[0] == "state" || args[0] == "mark" || args[0] == "quit"):
		return ask(args[0])
	case len(args) == 1 && args[0] == "stamp":
		return stampLines(os.Stdin, os.Stdout)
	case len(args) == 2 && args[0] == "sweep":
		return ask(args[0] + " " + args[1])
	case len(args) == 2 && args[0] == "clock":
		return compareClock(args[1], false)
	case len(args) == 3 && args[0] == "clock" && args[2] == "set":
		return compareClock(args[1], true)
	}
	return errors.New("usage: listen serve | state | mark | sweep ID | quit | stamp | clock HOST [set]")
}

// ask sends one question to the one that hears, and prints its answer.
func ask(question string) error {
	conn, err := net.DialTimeout("unix", socketPath, askTimeout)
	if err != nil {
		return fmt.Errorf("nobody hears: start 'listen serve': %w", err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(askTimeout)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, question+"\n"); err != nil {
		return err
	}
	_, err = io.Copy(os.Stdout, conn)
	return err
}
