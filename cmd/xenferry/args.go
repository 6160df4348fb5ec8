package main

import (
	"strings"

	"github.com/urfave/cli/v2"
)

// flagsFirst puts the flags of a command before its arguments, as the command
// line package looks for them only there, and those of xl may stand anywhere.
// What follows "--" is no flag.
func flagsFirst(app *cli.App, words []string) ([]string, error) {
	if len(words) == 0 {
		return nil, nil
	}
	out, rest := words[:1:1], words[1:]
	flags, commands := app.Flags, app.Commands
	for {
		front, args, err := splitFlags(flags, rest, len(commands) > 0)
		if err != nil {
			return nil, err
		}
		out = append(out, front...)
		cmd := commandNamed(commands, args)
		if cmd == nil {
			if len(commands) == 0 && len(args) > 0 {
				out = append(out, "--")
			}
			return append(out, args...), nil
		}
		out, rest = append(out, args[0]), args[1:]
		flags, commands = cmd.Flags, cmd.Subcommands
	}
}

// splitFlags divides words into flags, each with its value, and arguments. With
// leading, everything from the first argument on is one.
func splitFlags(known []cli.Flag, words []string, leading bool) (flags, args []string, err error) {
	for len(words) > 0 {
		word := words[0]
		switch {
		case word == "--":
			return flags, append(args, words[1:]...), nil
		case !strings.HasPrefix(word, "-") || word == "-":
			if leading {
				return flags, words, nil
			}
			args, words = append(args, word), words[1:]
			continue
		}
		word = codecWord(known, word)
		n := 1
		if takesNext(known, word) {
			n = 2
		}
		if n > len(words) {
			return nil, nil, usagef("flag %s needs a value", word)
		}
		flags, words = append(append(flags, word), words[1:n]...), words[n:]
	}
	return flags, args, nil
}

// codecWord turns -zzstd and -z=zstd, of a command that compresses, into what
// the command line package knows: there a switch has no value that may be left
// out. Letters that share a dash with z stay what they are.
func codecWord(known []cli.Flag, word string) string {
	name, ok := strings.CutPrefix(word, "-z")
	if !ok || name == "" || flagNamed(known, "codec") == nil {
		return word
	}
	name, named := strings.CutPrefix(name, "=")
	letter := func(r rune) bool { return flagNamed(known, string(r)) == nil }
	if !named && strings.IndexFunc(name, letter) < 0 {
		return word
	}
	return "--codec=" + name
}

// takesNext tells whether the value of a flag is the next word. Of letters that
// share a dash, as in -cD, the last one can have a value.
func takesNext(known []cli.Flag, word string) bool {
	name := strings.TrimLeft(word, "-")
	if strings.Contains(name, "=") {
		return false
	}
	flag := flagNamed(known, name)
	if flag == nil && !strings.HasPrefix(word, "--") && name != "" {
		flag = flagNamed(known, name[len(name)-1:])
	}
	_, isSwitch := flag.(*cli.BoolFlag)
	return flag != nil && !isSwitch
}

func flagNamed(known []cli.Flag, name string) cli.Flag {
	for _, f := range known {
		for _, n := range f.Names() {
			if n == name {
				return f
			}
		}
	}
	return nil
}

func commandNamed(commands []*cli.Command, args []string) *cli.Command {
	if len(args) == 0 {
		return nil
	}
	for _, c := range commands {
		if c.HasName(args[0]) {
			return c
		}
	}
	return nil
}
