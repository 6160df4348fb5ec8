package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/xenferry/xenferry/savefmt"
)

// TestNameText: a name that could be taken for more than a name is quoted.
func TestNameText(t *testing.T) {
	for name, want := range map[string]string{
		"db1": "db1", "büro 1": "büro 1", "": "", "a\nguest": `"a\nguest"`, "\x1b[2J": `"\x1b[2J"`, "\xff": `"\xff"`, "a\u202eb": `"a\u202eb"`,
	} {
		if got := nameText(name); got != want {
			t.Errorf("%q: %s, want %s", name, got, want)
		}
	}
}

func TestErrorText(t *testing.T) {
	var number struct{ A uint64 }
	again := errors.New("no such domain")
	for want, err := range map[string]error{
		"one":                       errors.New("one"),
		"save: one; no such domain": fmt.Errorf("save: %w", errors.Join(errors.New("one"), again, again)),
		"xl: line 1; line 2 x":      errors.New("xl: line 1\r\n\nline 2\tx\n"),
		`guest \x1b[2J`:             errors.New("guest \x1b[2J"),
		"A, at byte 7 of the JSON, is of the wrong kind: array in place of a whole number within its bounds": json.Unmarshal([]byte(`{"a": []}`), &number),
	} {
		if got := errorText(err); got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
	}
}

// TestVerifyHidesNothing: the name in a file adds no lines to what verify says.
func TestVerifyHidesNothing(t *testing.T) {
	var out bytes.Buffer
	if err := printSummary(&out, "x", &savefmt.Summary{Name: "a\nguest\tb", UUID: "\x1b[1m"}); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), "\nguest\tb") || strings.Contains(out.String(), "\x1b") || strings.Count(out.String(), "\n") != 7 {
		t.Error(out.String())
	}
}

// TestHelpSim: whichever way one asks for it, the subcommands are listed.
func TestHelpSim(t *testing.T) {
	for _, args := range [][]string{{"help", "sim"}, {"sim", "help"}, {"sim", "--help"}} {
		var out bytes.Buffer
		app := newApp()
		app.Writer = &out
		if err := app.Run(append([]string{"xenferry"}, args...)); err != nil {
			t.Fatal(err)
		}
		for _, cmd := range simCommand().Subcommands {
			if strings.Count(out.String(), "\n   "+cmd.Name+" ") != 1 || !strings.Contains(out.String(), cmd.Usage) {
				t.Errorf("%v: no %s in\n%s", args, cmd.Name, out.String())
			}
		}
	}
}
