package main

import (
	"strings"

	"github.com/urfave/cli/v2"
)

// argsAndFlags returns the arguments, and sets the flags that stand behind
// them, where the command line package no longer looks.
func argsAndFlags(c *cli.Context) (args []string, err error) {
	rest := c.Args().Slice()
	for len(rest) > 0 {
		word := rest[0]
		rest = rest[1:]
		if word == "--" {
			return append(args, rest...), nil
		}
		if !strings.HasPrefix(word, "-") || word == "-" {
			args = append(args, word)
			continue
		}
		name, value, hasValue := strings.Cut(strings.TrimLeft(word, "-"), "=")
		flag := flagNamed(c.Command, name)
		_, isSwitch := flag.(*cli.BoolFlag)
		switch {
		case flag == nil:
			return nil, usagef("%s has no flag %s (see %[1]s --help)", c.Command.HelpName, word)
		case isSwitch && !hasValue:
			value = "true"
		case !hasValue && len(rest) == 0:
			return nil, usagef("flag %s needs a value", word)
		case !hasValue:
			value, rest = rest[0], rest[1:]
		}
		if err := c.Set(name, value); err != nil {
			return nil, usagef("flag %s: %v", word, err)
		}
	}
	return args, nil
}

func flagNamed(cmd *cli.Command, name string) cli.Flag {
	for _, f := range cmd.Flags {
		for _, n := range f.Names() {
			if n == name {
				return f
			}
		}
	}
	return nil
}
